//! Whom to ask how often, and when the machine must look at the clock again.

use super::*;

fn pace(scene: &Scene) -> Pace {
    scene.probing().expect("somebody is asked").1
}

#[test]
fn a_hold_is_watched_closely_for_five_seconds() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.hint(A, HintKind::Refused);
    scene.pass(4999);
    assert_eq!((pace(&scene), scene.polling()), (Pace::Fast, Some(Pace::Fast)));
    scene.pass(1);
    assert_eq!((pace(&scene), scene.polling()), (Pace::Watch, Some(Pace::Watch)), "a longer outage");
    scene.say(1, Message::TryFailover);
    assert_eq!(pace(&scene), Pace::Fast, "a sign of a failover");
}

#[test]
fn a_sign_that_may_be_about_another_service_is_watched_for_two_seconds() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.pass(1000);
    scene.role(B, replica(A, 100));
    scene.role(C, replica(A, 100));
    scene.say(1, Message::NewEpoch(7));
    assert_eq!((pace(&scene), scene.polling()), (Pace::Fast, Some(Pace::Fast)));
    scene.pass(1999);
    assert_eq!(pace(&scene), Pace::Fast);
    scene.pass(1);
    assert_eq!((pace(&scene), scene.polling()), (Pace::Slow, Some(Pace::Slow)));
    scene.pass(10_000);
    let polls = scene.actions.iter().filter(|a| matches!(a, Action::Poll(_))).count();
    assert_eq!(polls, 2, "told once each time");
}

#[test]
fn sentinels_are_asked_more_often_until_they_have_confirmed_a_commit() {
    let mut scene = selected(Commit::Eager);
    scene.role(B, master(100));
    scene.pass(5);
    scene.role(B, master(100));
    scene.role(A, RoleAnswer::Refused);
    scene.role(C, replica(B, 100));
    scene.pass(3000);
    assert_eq!((pace(&scene), scene.polling()), (Pace::Slow, Some(Pace::Watch)));
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    assert_eq!(scene.polling(), Some(Pace::Slow));
}

#[test]
fn without_sentinels_nobody_is_told_to_poll_them() {
    let mut scene = Scene::new(Settings { managed: false, ..settings(Commit::Confirmed) }, 0);
    scene.event(Event::StaticMaster(node(A)));
    scene.pass(5);
    scene.role(A, master(1));
    scene.hint(A, HintKind::Refused);
    assert_eq!((pace(&scene), scene.polling()), (Pace::Fast, None));
}

/// Control drops the question with the node; its answer may still be on its way when the node is asked again.
#[test]
fn an_answer_from_before_a_node_was_given_up_counts_no_more() {
    const D: u16 = 4;
    let mut scene = Scene::stable(Commit::Confirmed);
    let with_d = || {
        let mut with_d = view(A, 1, false);
        with_d.replicas.push(ReplicaView { node: node(D), ..with_d.replicas[0].clone() });
        Event::View(SentinelId(0), with_d)
    };
    scene.event(with_d());
    scene.pass(1);
    let asked = scene.now;
    scene.pass(1);
    scene.view(0, A, 1);
    assert!(!scene.probing().unwrap().0.contains(&node(D)), "nobody lists it");
    scene.pass(1);
    scene.event(with_d());
    let since = scene.now;
    let knows = |scene: &Scene| scene.machine.known.nodes[&node(D)].last.is_some();
    scene.role_asked(D, asked, replica(A, 100));
    assert!(!knows(&scene), "asked before");
    scene.pass(1);
    scene.role_asked(D, Moment(since.0 - 1), replica(A, 100));
    assert!(!knows(&scene), "still before");
    scene.role_asked(D, since, replica(A, 100));
    assert!(knows(&scene), "asked since");
}

/// The moments, in ms from now, at which the machine wants to be called if nothing happens.
fn calls(scene: &Scene) -> Vec<u128> {
    let (mut at, mut calls) = (scene.now, Vec::new());
    while let Some(next) = scene.machine.deadline(at) {
        calls.push(next.since(scene.now).as_millis());
        at = next;
    }
    calls
}

#[test]
fn it_is_called_again_when_something_may_have_changed_by_time_alone() {
    let mut stable = Scene::stable(Commit::Confirmed);
    stable.pass(10_000);
    assert_eq!(calls(&stable), [0; 0], "nothing is waited for");
    stable.hint(A, HintKind::Silent);
    assert_eq!(calls(&stable), [1000], "a suspicion");

    // Sentinels were heard 3 ms before the hold; B is named, with an epoch that is not higher, from 7 ms into it.
    let mut held = Scene::stable(Commit::Confirmed);
    held.pass(10_000);
    (0..3).for_each(|id| held.view(id, A, 1));
    held.pass(3);
    held.acknowledging = false;
    held.hint(A, HintKind::Refused);
    held.pass(7);
    held.view(0, B, 1);
    let expected = [
        13,     // stragglers among the workers
        990,    // Sentinels' answers
        993,    // the nodes' answers
        1000,   // the answer of Sentinel 0
        1993,   // Sentinels' connections
        2993,   // a leader that is out of hearing
        4993,   // the end of haste; hearsay is refuted
        5000,   // B is named by one Sentinel for `confirm_timeout`
        14_993, // refusal
    ];
    assert_eq!(calls(&held), expected);

    // An announcement, at once: 500 ms. Then an answer of the master: links have 2 s from there.
    let mut announced = Scene::stable(Commit::Confirmed);
    announced.pass(10_000);
    announced.say(0, Message::TryFailover);
    assert!(calls(&announced).contains(&500));
    announced.pass(11);
    assert!(!calls(&announced).contains(&2000));
    announced.role(A, master(100));
    assert!(calls(&announced).contains(&2000));

    // At the start: the others' voices, and a failover in progress, from when the first was heard.
    let mut fresh = Scene::new(settings(Commit::Confirmed), 3);
    fresh.event(Event::SentinelUp(SentinelId(0)));
    fresh.pass(30);
    fresh.view(0, A, 1);
    let from_there = calls(&fresh);
    assert!([1000, 2000].iter().all(|ms| from_there.contains(ms)), "{from_there:?}");
    let mut later = Scene::stable(Commit::Confirmed);
    later.pass(500);
    later.hint(A, HintKind::Refused);
    assert!(!calls(&later).contains(&495), "behind the start that is no matter: {:?}", calls(&later));

    // An eager commit: A has been named by somebody for 1111 ms; B is to be confirmed; and there they agree on A.
    let mut eager = selected(Commit::Eager);
    eager.role(B, master(100));
    assert_eq!(calls(&eager), [3889, 5000, 10_000]);

    // The fence, and an agreement on a lower epoch.
    let mut fenced = Scene::stable_with(Settings { fence_without_quorum: true, ..settings(Commit::Confirmed) }, 3);
    fenced.pass(10_000);
    (0..2).for_each(|id| fenced.event(Event::SentinelDown(SentinelId(id))));
    assert_eq!(calls(&fenced), [500]);
    let mut agreed = Scene::stable(Commit::Confirmed);
    agreed.pass(10_000);
    (0..3).for_each(|id| agreed.view(id, B, 0));
    assert_eq!(calls(&agreed), [10_000]);
}
