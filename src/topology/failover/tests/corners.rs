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
    for _ in 0..40 {
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
