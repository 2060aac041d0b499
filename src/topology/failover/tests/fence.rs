//! The fences: which Sentinels must be in hearing for writes to flow (`fence_without_quorum`), and when the old master is
//! made a replica (`fence_old_master`).

use super::*;
use crate::topology::failover::{Demotion, FENCE_PATIENCE};
use crate::topology::record::OffsetLost;
use crate::topology::status::Phase;

fn fenced() -> Scene {
    Scene::stable_with(Settings { fence_without_quorum: true, ..settings(Commit::Confirmed) }, 3)
}

fn phase(scene: &Scene) -> Phase {
    scene.machine.status(scene.now, "main", |_| None).phase
}

fn assert_fenced(scene: &Scene) {
    assert_eq!(scene.writes(), (Some(node(A)), Flow::Refused), "{}", scene.topology().why);
    assert_eq!(scene.reads(), (Some(node(A)), Flow::Flowing), "reads have nothing to lose");
    assert_eq!(phase(scene), Phase::Fenced);
}

#[test]
fn without_a_majority_writes_are_refused_and_reads_flow() {
    let mut scene = fenced();
    scene.event(Event::SentinelDown(SentinelId(1)));
    scene.pass(10_000);
    scene.assert_flows_to(A, "two of three are a majority");
    scene.event(Event::SentinelDown(SentinelId(2)));
    scene.pass(499);
    scene.assert_flows_to(A, "they may be back at once");
    scene.pass(1);
    assert_fenced(&scene);
    assert_eq!(&*scene.topology().why, "only 1 of 3 Sentinels are in hearing, and fence_without_quorum is on");
    assert!(scene.said("commands are refused: only 1 of 3"));

    scene.event(Event::SentinelUp(SentinelId(1)));
    scene.pass(10_000);
    assert_fenced(&scene);
    scene.view(1, A, 1);
    scene.assert_flows_to(A, "it has said who is master");
    assert_eq!(phase(&scene), Phase::Stable);
    assert!(scene.said("the fence is down"));
    assert!(scene.machine.recorder().records(scene.now).is_empty(), "that was no failover");
}

#[test]
fn a_fence_that_never_was_up_does_not_come_down() {
    let mut scene = fenced();
    (1..3).for_each(|id| scene.event(Event::SentinelDown(SentinelId(id))));
    scene.pass(100);
    scene.event(Event::SentinelUp(SentinelId(1)));
    scene.view(1, A, 1);
    scene.pass(5000);
    scene.assert_flows_to(A, "they were back in time");
    assert!(!scene.said("the fence is down"));
}

#[test]
fn half_of_the_sentinels_are_no_majority() {
    let mut scene = Scene::stable_with(Settings { fence_without_quorum: true, ..settings(Commit::Confirmed) }, 4);
    scene.event(Event::SentinelDown(SentinelId(0)));
    scene.pass(5000);
    scene.assert_flows_to(A, "three of four");
    scene.event(Event::SentinelDown(SentinelId(1)));
    scene.pass(500);
    assert_fenced(&scene);
}

/// The record of the failover before is no diary of the fence.
#[test]
fn what_the_fence_does_is_on_no_record() {
    let mut scene = fenced();
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(5);
    scene.role(B, master(100));
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    scene.view(2, B, 2);
    scene.assert_flows_to(B, "committed");
    scene.pass(5000);
    let before = scene.last_record().events;
    (1..3).for_each(|id| scene.event(Event::SentinelDown(SentinelId(id))));
    scene.pass(500);
    assert_eq!(scene.writes().1, Flow::Refused);
    let refusal = "commands refused: only 1 of 3";
    assert!(scene.said("commands are refused: only 1 of 3") && !before.iter().any(|e| e.text.contains(refusal)));
    scene.event(Event::SentinelUp(SentinelId(1)));
    scene.view(1, B, 2);
    scene.assert_flows_to(B, "the fence is down");
    assert_eq!(scene.last_record().events, before);
}

#[test]
fn one_that_does_not_know_the_name_has_no_voice() {
    let mut scene = fenced();
    scene.event(Event::UnknownName(SentinelId(0)));
    scene.event(Event::UnknownName(SentinelId(1)));
    scene.pass(500);
    assert_fenced(&scene);
}

/// Three of five answer, but one of them knows no master of this name: without the other two there are two voices of five,
/// and were these forgotten, two of three.
#[test]
fn without_a_majority_no_sentinel_is_forgotten() {
    let option = |on| Settings { fence_without_quorum: on, ..settings(Commit::Confirmed) };
    let mut scene = Scene::stable_with(option(true), 5);
    assert!(scene.machine.may_forget_sentinels());
    scene.event(Event::UnknownName(SentinelId(2)));
    assert!(scene.machine.may_forget_sentinels(), "four of five");
    scene.event(Event::SentinelDown(SentinelId(3)));
    scene.event(Event::SentinelDown(SentinelId(4)));
    assert!(!scene.machine.may_forget_sentinels());
    scene.pass(500);
    assert_fenced(&scene);
    scene.view(2, A, 1);
    assert!(scene.machine.may_forget_sentinels(), "three of five");
    assert!(Scene::new(option(false), 5).machine.may_forget_sentinels(), "nothing depends on it");
}

#[test]
fn without_the_option_writes_go_on_and_so_they_do_without_sentinels() {
    let mut scene = Scene::stable(Commit::Confirmed);
    for id in 0..3 {
        scene.event(Event::SentinelDown(SentinelId(id)));
    }
    scene.pass(60_000);
    scene.assert_flows_to(A, "the last confirmed master");
    let option = Settings { fence_without_quorum: true, managed: false, ..settings(Commit::Confirmed) };
    let mut fixed = Scene::new(option, 0);
    fixed.event(Event::StaticMaster(node(A)));
    fixed.pass(5);
    fixed.role(A, master(1));
    fixed.pass(60_000);
    fixed.assert_flows_to(A, "there is no Sentinel to hear");
}

/// The network is whole again, and the Sentinels that come back name the master of the other side: not one write goes to
/// the old one in between, and clients wait for the switch rather than being refused.
#[test]
fn after_a_partition_writes_go_to_the_new_master_only() {
    let mut scene = fenced();
    scene.event(Event::SentinelDown(SentinelId(1)));
    scene.event(Event::SentinelDown(SentinelId(2)));
    scene.pass(60_000);
    assert_fenced(&scene);
    let published = |scene: &Scene| -> Vec<(Option<SocketAddr>, Flow)> {
        let topologies = scene.actions.iter().filter_map(|a| match a {
            Action::Publish(t) => Some((t.writes.node, t.writes.flow)),
            _ => None,
        });
        topologies.collect()
    };
    scene.actions.clear();
    scene.event(Event::SentinelUp(SentinelId(1)));
    scene.view(1, B, 2);
    assert_eq!(scene.writes(), (Some(node(A)), Flow::Held), "refused no more: {}", scene.topology().why);
    scene.event(Event::SentinelUp(SentinelId(2)));
    scene.view(2, B, 2);
    scene.pass(5);
    scene.role(A, master(900));
    scene.role(B, master(200));
    scene.assert_flows_to(B, "committed");
    assert!(!published(&scene).contains(&(Some(node(A)), Flow::Flowing)), "{:?}", published(&scene));
}

#[test]
fn a_hold_behind_the_fence_is_refused_until_the_majority_is_back() {
    let mut scene = fenced();
    scene.event(Event::SentinelDown(SentinelId(1)));
    scene.event(Event::SentinelDown(SentinelId(2)));
    scene.hint(A, HintKind::Refused);
    scene.assert_held("a hold as any other");
    scene.pass(u64::try_from(FENCE_PATIENCE.as_millis()).expect("short"));
    assert_eq!(scene.writes().1, Flow::Refused, "nobody could confirm another master");
    scene.event(Event::SentinelUp(SentinelId(1)));
    scene.view(1, A, 1);
    scene.assert_held("somebody could");
}

/// Two of five Sentinels are in hearing, and fail over to B.
fn committed_behind_the_fence() -> Scene {
    let mut scene = Scene::stable_with(Settings { fence_without_quorum: true, ..settings(Commit::Confirmed) }, 5);
    (2..5).for_each(|id| scene.event(Event::SentinelDown(SentinelId(id))));
    scene.pass(500);
    assert_fenced(&scene);
    scene.say(0, Message::TryFailover);
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(5);
    scene.role(A, master_with(100, "a", None));
    scene.pass(5);
    scene.role(B, master_with(109, "b", Some(("a", 100))));
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    assert_eq!((scene.topology().generation, scene.writes()), (2, (Some(node(B)), Flow::Refused)));
    scene
}

/// Writes have stopped there already; what workers owe a round they owe it all the same.
#[test]
fn a_round_that_begins_behind_the_fence_is_acknowledged_as_any_other() {
    let scene = committed_behind_the_fence();
    assert!(!scene.actions.iter().any(|a| matches!(a, Action::Sever { .. })), "{:?}", scene.actions);
    assert_eq!(scene.last_record().offset_lost, OffsetLost::Exact(0), "what A said in the round was its last word");
}

#[test]
fn the_fence_is_no_wait_of_the_failover_behind_it() {
    let mut scene = committed_behind_the_fence();
    let waited = scene.last_record().writes_held_ms;
    scene.pass(3_600_000);
    assert_eq!(scene.last_record().writes_held_ms, waited);
    let total = scene.machine.status(scene.now, "main", |_| None).writes_held_ms_total;
    assert!(total >= 3_600_000, "{total}: but nothing is written all the time");
}

/// Held by an announcement; A told its history, and B, selected, says master with this one.
fn promoted(commit: Commit, followed: Option<(&str, u64)>) -> Scene {
    let mut scene = Scene::stable_with(Settings { fence_old_master: true, ..settings(commit) }, 3);
    scene.role(A, master_with(100, "a", None));
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(5);
    scene.role(A, master_with(100, "a", None));
    scene.role(B, replica(A, 100));
    scene.pass(5);
    scene.role(B, master_with(109, "b", followed));
    scene
}

fn demotions(scene: &Scene) -> Vec<Demotion> {
    let demotion = |action: &Action| match action {
        Action::Demote(demotion) => Some(demotion.clone()),
        _ => None,
    };
    scene.actions.iter().filter_map(demotion).collect()
}

fn a_follows_b() -> Demotion {
    Demotion { old: node(A), new: node(B), run_id: "run-1".into(), stream: "a".into() }
}

#[test]
fn a_confirmed_failover_demotes_the_old_master_once() {
    let mut scene = promoted(Commit::Confirmed, Some(("a", 100)));
    scene.view(0, B, 2);
    assert_eq!(demotions(&scene), [], "one Sentinel's word is not enough");
    scene.view(1, B, 2);
    scene.assert_flows_to(B, "committed");
    scene.view(2, B, 2);
    scene.pass(20_000);
    assert_eq!(demotions(&scene), [a_follows_b()]);
}

#[test]
fn an_eager_commit_demotes_when_it_is_confirmed() {
    let mut scene = promoted(Commit::Eager, Some(("a", 100)));
    scene.assert_flows_to(B, "committed eagerly");
    scene.view(0, B, 2);
    assert_eq!(demotions(&scene), [], "it may be undone yet");
    scene.view(1, B, 2);
    assert_eq!(demotions(&scene), [a_follows_b()]);
}

#[test]
fn one_sentinel_of_several_does_not_suffice_to_demote() {
    let mut scene = promoted(Commit::Confirmed, Some(("a", 100)));
    scene.event(Event::SentinelDown(SentinelId(1)));
    scene.event(Event::SentinelDown(SentinelId(2)));
    scene.view(0, B, 2);
    scene.role(A, CLOSED);
    scene.role(A, RoleAnswer::Refused);
    scene.pass(5000);
    scene.role(B, master_with(109, "b", Some(("a", 100))));
    scene.assert_flows_to(B, "one suffices for traffic after confirm_timeout");
    assert_eq!(demotions(&scene), []);
}

/// `SENTINEL MONITOR` of other servers: these have nothing to do with each other's data.
#[test]
fn a_service_that_was_moved_demotes_nobody() {
    for stranger in [None, Some(("z", 100))] {
        let mut scene = promoted(Commit::Confirmed, stranger);
        scene.view(0, B, 2);
        scene.view(1, B, 2);
        scene.assert_flows_to(B, "committed");
        assert_eq!(demotions(&scene), [], "{stranger:?}");
    }
}

#[test]
fn a_failover_that_is_undone_or_aborted_demotes_nobody() {
    let mut scene = promoted(Commit::Eager, Some(("a", 100)));
    scene.assert_flows_to(B, "committed eagerly");
    scene.pass(5);
    scene.role(B, replica(A, 100));
    scene.pass(5);
    scene.role(B, replica(A, 100));
    scene.role(A, master_with(120, "a", None));
    for id in 0..3 {
        scene.view(id, A, 1);
        scene.view(id, A, 1);
    }
    scene.role(A, master_with(120, "a", None));
    scene.assert_flows_to(A, "undone");
    scene.pass(20_000);
    assert_eq!(demotions(&scene), []);
}

/// Sentinels were told to monitor B, with an epoch that is not higher: whatever that means, it was no failover.
#[test]
fn an_epoch_that_is_not_higher_demotes_nobody() {
    for epoch in [0, 1] {
        let mut scene = Scene::stable_with(Settings { fence_old_master: true, ..settings(Commit::Confirmed) }, 3);
        for _ in 0..12 {
            scene.pass(1000);
            scene.role(A, master_with(100, "a", None));
            scene.role(B, master_with(109, "b", Some(("a", 100))));
            (0..3).for_each(|id| scene.view(id, B, epoch));
        }
        scene.assert_flows_to(B, "all have agreed for long");
        assert_eq!(demotions(&scene), [], "epoch {epoch}");
    }
}

#[test]
fn without_the_option_nobody_is_demoted() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.role(A, master_with(100, "a", None));
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(5);
    scene.role(A, master_with(100, "a", None));
    scene.role(B, master_with(109, "b", Some(("a", 100))));
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    scene.assert_flows_to(B, "committed");
    assert_eq!(demotions(&scene), []);
}

#[test]
fn who_turns_the_option_off_takes_the_fence_down() {
    let mut scene = fenced();
    (1..3).for_each(|id| scene.event(Event::SentinelDown(SentinelId(id))));
    scene.pass(500);
    assert_fenced(&scene);
    scene.machine.configure(settings(Commit::Confirmed));
    scene.tick();
    scene.assert_flows_to(A, "nobody wants it any more");
}
