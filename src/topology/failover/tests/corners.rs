//! Corners of the rules that planted faults showed to be untested. Each test is what one of them would have broken.

use super::*;

/// Every Sentinel names this node twice, with an epoch.
fn all_name(scene: &mut Scene, n: u16, epoch: u64) {
    for _ in 0..2 {
        (0..3).for_each(|id| scene.view(id, n, epoch));
    }
}

#[test]
fn of_two_nodes_with_one_epoch_the_word_of_one_sentinel_confirms_neither() {
    let mut scene = selected(Commit::Confirmed);
    scene.event(Event::SentinelDown(SentinelId(2)));
    scene.view(0, B, 2);
    scene.view(1, C, 2);
    for _ in 0..60 {
        scene.pass(100);
        scene.role(A, RoleAnswer::Refused);
        scene.role(B, master(100));
        // Nobody contradicts: what Sentinel 1 names is no master.
        scene.role(C, replica(A, 100));
        scene.view(0, B, 2);
        scene.view(1, C, 2);
    }
    scene.assert_held("one voice for each, long after confirm_timeout");
    scene.view(1, B, 2);
    scene.assert_flows_to(B, "two");
}

#[test]
fn a_commit_is_undone_for_the_master_before_it_and_for_no_other() {
    let mut scene = selected(Commit::Eager);
    scene.pass(1);
    scene.role(B, master(100));
    scene.assert_flows_to(B, "eager");
    all_name(&mut scene, C, 1);
    let says = |scene: &mut Scene| {
        scene.pass(5);
        scene.role(A, master(100));
        scene.role(B, replica(A, 100));
        scene.role(C, master(100));
    };
    says(&mut scene);
    says(&mut scene);
    scene.assert_held("C was not master before");
    all_name(&mut scene, A, 1);
    scene.assert_flows_to(A, "A was");
}

#[test]
fn a_commit_notes_what_the_new_master_and_the_sentinels_said() {
    let mut scene = selected(Commit::Confirmed);
    scene.role(B, master_as(100, "run-b"));
    scene.view(0, B, 2);
    scene.event(Event::View(SentinelId(1), view(A, 1, true)));
    scene.event(Event::View(SentinelId(2), view(B, 2, true)));
    scene.assert_flows_to(B, "committed");
    let remembered = scene.machine.worth_remembering().map(|r| (r.master, r.epoch, r.run_id));
    assert_eq!(remembered, Some((node(B), 2, "run-b".into())), "known before it is asked again");
    let reconfiguring: Vec<bool> = scene.machine.known.sentinels.values().map(|s| s.reconfiguring).collect();
    assert_eq!(reconfiguring, [false, false, true], "one that leads, and names the new master");
}

#[test]
fn the_confirmation_of_an_eager_commit_takes_over_the_epoch() {
    let mut scene = selected(Commit::Eager);
    scene.pass(1);
    scene.role(B, master(100));
    scene.view(0, B, 5);
    scene.view(1, B, 5);
    assert_eq!(scene.machine.worth_remembering().map(|r| (r.master, r.epoch)), Some((node(B), 5)));
}

#[test]
fn a_node_that_is_to_be_master_is_waited_for_as_long_as_it_may_be_one() {
    const D: u16 = 4;
    let moved = || {
        let mut scene = Scene::stable(Commit::Confirmed);
        let names_d = |scene: &mut Scene| {
            scene.pass(1000);
            scene.role(A, master(100));
            scene.role(B, replica(A, 100));
            scene.role(C, replica(A, 100));
            all_name(scene, D, 1);
        };
        (0..12).for_each(|_| names_d(&mut scene));
        scene.assert_flows_to(A, "D does not answer");
        scene.hint(A, HintKind::ReadOnly);
        scene.all_but_views();
        all_name(&mut scene, D, 1);
        scene.assert_held("D was not asked since");
        scene
    };
    let mut scene = moved();
    scene.role(D, replica(A, 100));
    scene.assert_flows_to(A, "it is no master");
    let mut scene = moved();
    scene.pass(900);
    scene.assert_held("it has its time");
    scene.pass(200);
    scene.role(A, master(100));
    scene.assert_flows_to(A, "it does not answer");
    let mut scene = moved();
    scene.role(D, master(100));
    assert_eq!(scene.writes().0, Some(node(D)), "it is");
}

#[test]
fn a_replica_that_was_given_to_another_master_keeps_a_hold_alive() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.hint(A, HintKind::ReadOnly);
    for _ in 0..80 {
        scene.pass(100);
        scene.role(A, master(100));
        scene.role(B, replica(A, 100));
        scene.role(C, cut_off(B, 100));
        (0..3).for_each(|id| scene.view(id, A, 1));
    }
    scene.assert_held("C follows B, if it can");
    scene.role(C, cut_off(A, 100));
    scene.assert_flows_to(A, "it only waits for its link");
}

#[test]
fn what_a_sentinel_says_that_is_not_known_is_not_heard() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.say(9, Message::TryFailover);
    scene.assert_flows_to(A, "nobody said anything");
}

#[test]
fn a_leader_that_was_out_of_hearing_goes_on_re_pointing_replicas() {
    let mut scene = selected(Commit::Confirmed);
    scene.role(B, master(100));
    scene.view(1, B, 2);
    scene.view_in_progress(0, B, 2);
    scene.assert_flows_to(B, "committed");
    for event in [Event::SentinelDown(SentinelId(0)), Event::SentinelUp(SentinelId(0))] {
        scene.event(event);
    }
    scene.view_in_progress(0, B, 2);
    assert!(!scene.machine.known.sentinels[&SentinelId(0)].is_leading(), "its failover is the one that is over");
}

#[test]
fn a_role_that_changed_is_a_doubt_about_the_master_only() {
    for (n, held) in [(B, false), (A, true)] {
        for message in [Message::RoleChange(node(n)), Message::ConvertToSlave(node(n))] {
            let mut scene = Scene::stable(Commit::Confirmed);
            scene.say(0, message);
            scene.pass(1500);
            assert_eq!(scene.writes().1 == Flow::Held, held, "no probe was answered");
        }
    }
}

#[test]
fn who_gives_up_takes_back_its_own_candidate_and_no_other() {
    let mut scene = selected(Commit::Confirmed);
    scene.say(1, Message::SelectedSlave(node(C)));
    scene.say(0, Message::FailoverAbortedSlaveTimeout);
    let round = scene.machine.round.as_ref().unwrap();
    assert_eq!(round.candidates.keys().copied().collect::<Vec<_>>(), [node(C)]);
    assert_eq!(round.must_follow.keys().copied().collect::<Vec<_>>(), [node(B)]);
}

#[test]
fn what_is_configured_anew_counts_from_the_next_hold_on() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.machine.configure(Settings { hold_timeout: Duration::from_secs(1), ..settings(Commit::Confirmed) });
    scene.hint(A, HintKind::Refused);
    scene.pass(999);
    scene.assert_held("not yet");
    scene.pass(1);
    assert_eq!(scene.writes().1, Flow::Refused);
}

/// An announcement during a provisional commit comes to nothing at the moment at which that has to be confirmed.
#[test]
fn a_hold_that_follows_another_at_once_is_one_wait_for_clients() {
    let mut scene = Scene::stable_with(Settings { hold_timeout: Duration::from_secs(2), ..settings(Commit::Eager) }, 3);
    scene.say(0, Message::TryFailover);
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(100);
    scene.role(B, master(100));
    scene.assert_flows_to(B, "committed, for the while");
    scene.pass(4600);
    scene.view_in_progress(1, A, 1);
    scene.say(1, Message::TryFailover);
    scene.assert_held("announced");
    for _ in 0..50 {
        scene.pass(10);
        scene.role(B, master(100));
        scene.view_in_progress(1, A, 1);
        scene.assert_held("nothing flows in between");
    }
    let flowed = scene.actions.iter().rev().take_while(|a| !matches!(a, Action::RecordOpened(_)));
    assert!(!flowed.into_iter().any(|a| matches!(a, Action::Publish(t) if t.writes.flow == Flow::Flowing)));
    assert_eq!(scene.last_record().cause, "no Sentinel confirmed the new master");
    scene.pass(1499);
    scene.assert_held("two seconds since the first of the two");
    scene.pass(1);
    assert_eq!(scene.writes().1, Flow::Refused);
}

#[test]
fn a_hold_behind_a_commit_has_all_its_time() {
    let settings = Settings { hold_timeout: Duration::from_secs(2), ..settings(Commit::Eager) };
    let mut scene = Scene::stable_with(settings, 3);
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.view(1, C, 9);
    scene.pass(1000);
    scene.role(B, master(100));
    assert_eq!(scene.topology().generation, 2);
    scene.assert_held("another one is named with a higher epoch");
    scene.pass(1999);
    scene.assert_held("of B, for the first time");
    scene.pass(1);
    assert_eq!(scene.writes().1, Flow::Refused);
}

#[test]
fn hearsay_is_not_refuted_while_the_master_says_nothing() {
    let mut scene = Scene::stable(Commit::Confirmed);
    for _ in 0..100 {
        scene.view(0, B, 9);
        (1..3).for_each(|id| scene.view(id, A, 1));
        scene.role(A, RoleAnswer::Error("NOAUTH".into()));
        scene.role(B, replica(A, 100));
        scene.role(C, replica(A, 100));
        scene.pass(100);
    }
    scene.assert_held("two of three vouch for it, and it does not");
}

/// A Sentinel is out of hearing, and B says master for reasons of its own.
#[test]
fn a_claim_that_was_refuted_holds_nothing_again_and_that_of_another_does() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.event(Event::SentinelDown(SentinelId(2)));
    let tell = |scene: &mut Scene, c: RoleAnswer| {
        scene.pass(100);
        scene.role(A, master(100));
        scene.role(B, master(100));
        scene.role(C, c);
        (0..2).for_each(|id| scene.view(id, A, 1));
    };
    tell(&mut scene, replica(A, 100));
    scene.assert_held("it may have been promoted");
    (0..52).for_each(|_| tell(&mut scene, replica(A, 100)));
    scene.assert_flows_to(A, "most Sentinels have gone on naming A");
    (0..20).for_each(|_| tell(&mut scene, replica(A, 100)));
    scene.assert_flows_to(A, "that of B is known");
    tell(&mut scene, master(100));
    scene.assert_held("that of C is news");
}

#[test]
fn a_second_doubt_gives_the_first_no_more_time() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.hint(A, HintKind::Silent);
    scene.pass(900);
    scene.hint(A, HintKind::Silent);
    scene.pass(99);
    scene.assert_flows_to(A, "it has a second");
    scene.pass(1);
    scene.assert_held("no answer of any kind");
}

#[test]
fn reads_do_not_wait_behind_a_gap_for_a_sentinel_that_is_down() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.event(Event::SentinelDown(SentinelId(2)));
    scene.event(Event::Gap);
    scene.pass(2);
    scene.role(A, master(100));
    for id in 0..2 {
        assert_eq!(scene.reads().1, Flow::Held, "{id} was not asked yet");
        (0..2).for_each(|_| scene.view(id, A, 1));
    }
    assert_eq!(scene.reads(), (Some(node(A)), Flow::Flowing));
}

/// An offset that was told in the same millisecond may be from before.
#[test]
fn the_masters_last_word_is_what_it_is_asked_behind_the_acknowledgement() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.acknowledging = false;
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(5);
    scene.event(Event::Acknowledged(scene.topology().seq));
    let last = |scene: &Scene| scene.machine.round.as_ref().unwrap().final_offset;
    scene.role(A, master(200));
    assert_eq!(last(&scene), None);
    scene.pass(1);
    scene.role(A, master(210));
    scene.pass(1);
    scene.role(A, master(220));
    assert_eq!(last(&scene), Some(210), "all of ours are below the first");
}

/// It died on its way to be master, and Sentinel gave up. A healthy master must not wait for a host that may never be back.
#[test]
fn a_candidate_that_no_majority_reaches_is_not_waited_for() {
    let mut scene = selected(Commit::Confirmed);
    scene.say(0, Message::FailoverAbortedSlaveTimeout);
    scene.pass(5);
    scene.role(A, master(100));
    scene.role(B, RoleAnswer::Refused);
    scene.role(C, replica(A, 100));
    for id in 0..3 {
        scene.view(id, A, 1);
        scene.view(id, A, 1);
    }
    scene.pass(5000);
    let mut without = view(A, 1, false);
    without.replicas.iter_mut().filter(|r| r.node == node(B)).for_each(|r| r.reachable = false);
    for id in 0..2 {
        scene.role(A, master(100));
        scene.role(B, RoleAnswer::Refused);
        scene.assert_held("two of three reach it, as far as they know");
        scene.event(Event::View(SentinelId(id), without.clone()));
    }
    scene.role(B, RoleAnswer::Refused);
    scene.assert_flows_to(A, "nobody can promote it");
}
