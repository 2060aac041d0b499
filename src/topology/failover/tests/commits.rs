//! When another master counts (rules 3 and 4). Every test fails if its rule is taken out.

use super::super::PREPARATION_LIMIT;
use super::*;

// === Confirmed ===

#[test]
fn the_leaders_word_alone_is_not_enough() {
    let mut scene = selected(Commit::Confirmed);
    scene.view(0, B, 2);
    scene.role(B, master(100));
    scene.assert_held("said by the leader before anybody else has heard it");
    scene.view(1, B, 2);
    scene.assert_flows_to(B, "a second one says so");
    let record = scene.last_record();
    assert!(record.outcome.contains("2 of 3 Sentinels"), "{}", record.outcome);
    assert_eq!((record.from, record.to, record.generation), (Some(node(A)), Some(node(B)), 2));
}

#[test]
fn two_sentinels_are_not_enough_without_the_nodes_own_word() {
    for answer in [replica(A, 100), RoleAnswer::Refused, SILENT, RoleAnswer::Error("LOADING".into())] {
        let mut scene = selected(Commit::Confirmed);
        scene.view(0, B, 2);
        scene.view(1, B, 2);
        scene.role(B, answer.clone());
        scene.assert_held(&format!("{answer:?}"));
        scene.pass(1);
        scene.role(B, master(100));
        scene.assert_flows_to(B, "now it says master");
    }
}

#[test]
fn a_role_asked_before_the_hold_commits_nothing() {
    let mut scene = Scene::stable(Commit::Confirmed);
    let before = scene.now;
    scene.pass(10);
    scene.say(0, Message::TryFailover);
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    scene.role_asked(B, before, master(100));
    scene.assert_held("late");
    scene.role_asked(B, before + Duration::from_millis(11), master(100));
    scene.assert_flows_to(B, "asked since");
}

#[test]
fn the_only_sentinel_there_is_suffices() {
    let mut scene = Scene::stable_with(settings(Commit::Confirmed), 1);
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(5);
    scene.view(0, B, 2);
    scene.role(B, master(100));
    scene.assert_flows_to(B, "there is no second one");
}

#[test]
fn one_suffices_in_the_end_where_no_second_one_can_be_reached() {
    let mut scene = selected(Commit::Confirmed);
    scene.event(Event::SentinelDown(SentinelId(1)));
    scene.event(Event::SentinelDown(SentinelId(2)));
    scene.view(0, B, 2);
    scene.role(B, master(100));
    scene.pass(4999);
    scene.assert_held("a second one is waited for");
    scene.pass(1);
    scene.assert_flows_to(B, "confirm_timeout");
    assert!(scene.last_record().outcome.contains("no second one"), "the record says so");
}

#[test]
fn one_does_not_suffice_against_another_that_reaches_a_working_master() {
    let mut scene = selected(Commit::Confirmed);
    scene.view(0, B, 2);
    scene.view(1, A, 1);
    scene.role(B, master(100));
    scene.role(A, master(100));
    scene.pass(10_000);
    scene.assert_held("Sentinel 1 says A, and A says master");
    // The stale one of redis/redis#13335: it names for ever a node that is dead.
    scene.role(A, RoleAnswer::Refused);
    scene.assert_flows_to(B, "nobody credible contradicts");
}

#[test]
fn a_commit_waits_for_every_workers_acknowledgement() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.acknowledging = false;
    scene.say(0, Message::SelectedSlave(node(B)));
    let held = scene.topology().seq;
    scene.pass(1);
    scene.role(B, master(100));
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    scene.assert_held("a worker may be writing still");
    scene.event(Event::Acknowledged(held - 1));
    scene.assert_held("that was an earlier publication");
    scene.event(Event::Acknowledged(held));
    scene.assert_flows_to(B, "acknowledged");
    assert!(!scene.actions.iter().any(|a| matches!(a, Action::Sever { .. })));
}

#[test]
fn stragglers_lose_their_sockets_to_the_old_master_and_delay_nothing_else() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.acknowledging = false;
    scene.say(0, Message::SelectedSlave(node(B)));
    let held = scene.topology().seq;
    scene.pass(1);
    scene.role(B, master(100));
    scene.view(0, B, 2);
    scene.pass(500);
    assert!(!scene.actions.iter().any(|a| matches!(a, Action::Sever { .. })), "no commit is waiting yet");
    scene.view(1, B, 2);
    let sever = Action::Sever { seq: held, node: node(A) };
    assert_eq!(scene.actions.iter().filter(|a| **a == sever).count(), 1);
    scene.assert_flows_to(B, "control has seen to it");

    let mut scene = Scene::stable(Commit::Confirmed);
    scene.acknowledging = false;
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(1);
    scene.role(B, master(100));
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    scene.pass(18);
    scene.assert_held("20 ms are given");
    scene.pass(1);
    scene.assert_flows_to(B, "and no more");
}

// === Eager ===

#[test]
fn the_selected_candidates_own_word_is_enough_in_eager_mode() {
    let mut scene = selected(Commit::Eager);
    scene.role(C, master(100));
    scene.assert_held("a node that merely claims to be master");
    scene.role(B, master(100));
    scene.assert_flows_to(B, "selected, followed, and says master");
    let master = scene.machine.master.clone().unwrap();
    assert_eq!(master.epoch, 2, "counts as one more than before");
    assert!(master.provisional.is_some());
    scene.view(0, A, 1);
    scene.view(1, A, 1);
    scene.assert_flows_to(B, "what Sentinels said before is no news");
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    assert_eq!(scene.machine.master.as_ref().unwrap().provisional, None, "confirmed");
    scene.pass(60_000);
    scene.assert_flows_to(B, "for good");
}

#[test]
fn in_confirmed_mode_it_is_not() {
    let mut scene = selected(Commit::Confirmed);
    scene.role(B, master(100));
    scene.assert_held("no Sentinel names it");
}

#[test]
fn a_candidate_that_never_followed_is_not_taken_at_its_word() {
    let mut scene = Scene::stable(Commit::Eager);
    scene.machine.known.nodes.get_mut(&node(B)).unwrap().following = None;
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(5);
    scene.role(B, master(100));
    scene.assert_held("an old master that came back says so too");
}

#[test]
fn two_candidates_are_none() {
    let mut scene = selected(Commit::Eager);
    scene.say(1, Message::SelectedSlave(node(C)));
    scene.role(B, master(100));
    scene.role(C, master(100));
    scene.assert_held("two Sentinels were told to fail over at once");
    scene.view(0, C, 2);
    scene.view(1, C, 2);
    scene.assert_flows_to(C, "Sentinels decide");
}

#[test]
fn an_eager_commit_that_is_not_confirmed_in_time_is_held_again() {
    let mut scene = selected(Commit::Eager);
    scene.role(B, master(100));
    scene.pass(4999);
    scene.assert_flows_to(B, "provisional");
    scene.pass(1);
    scene.assert_held("confirm_timeout");
    scene.pass(5);
    scene.role(B, master(100));
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    scene.view(2, A, 1);
    scene.view(2, A, 1);
    scene.assert_flows_to(B, "confirmed late");
    assert_eq!(scene.topology().generation, 2);
    scene.pass(60_000);
    scene.assert_flows_to(B, "and for good");
}

#[test]
fn an_eager_commit_is_undone_by_an_abort_or_by_the_node_itself() {
    let undoings: [fn(&mut Scene); 4] = [
        |s| s.say(0, Message::FailoverAborted),
        |s| s.say(0, Message::FailoverAbortedSlaveTimeout),
        |s| s.pass(5000),
        |s| {
            s.pass(5);
            s.role(B, replica(A, 100));
        },
    ];
    for undo in undoings {
        let mut scene = selected(Commit::Eager);
        scene.role(B, master(100));
        undo(&mut scene);
        scene.assert_held("undone");
        scene.pass(5);
        scene.role(A, master(100));
        scene.role(B, master(100));
        for id in 0..3 {
            scene.view(id, A, 1);
            scene.view(id, A, 1);
        }
        scene.assert_held("the node is master still");
        scene.role(B, replica(A, 100));
        scene.assert_flows_to(A, "it says replica, and Sentinels name the old master");
        assert_eq!(scene.topology().generation, 3);
        assert_eq!(scene.last_record().kind.label(), "rollback");
    }
}

#[test]
fn an_abort_undoes_an_eager_commit_also_while_another_failover_is_announced() {
    let mut scene = selected(Commit::Eager);
    scene.role(B, master(100));
    scene.say(1, Message::TryFailover);
    scene.say(0, Message::FailoverAborted);
    scene.pass(5);
    scene.role(B, replica(A, 100));
    scene.role(A, master(100));
    for id in 0..3 {
        scene.view(id, A, 1);
    }
    scene.assert_flows_to(A, "undone");
}

// === Reads (rule 4) ===

#[test]
fn after_a_crash_reads_flow_to_the_promoted_node_before_the_commit() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.role(A, RoleAnswer::Refused);
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(5);
    scene.role(C, master(100));
    assert_eq!(scene.reads(), (Some(node(A)), Flow::Held), "C was not selected");
    scene.role(B, master(100));
    assert_eq!(scene.reads(), (Some(node(B)), Flow::Flowing));
    assert_eq!(scene.writes(), (Some(node(A)), Flow::Held));
    assert_eq!(scene.topology().generation, 1);
}

#[test]
fn reads_flow_to_no_node_that_never_followed() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.machine.known.nodes.get_mut(&node(B)).unwrap().following = None;
    scene.role(A, RoleAnswer::Refused);
    scene.view(0, B, 2);
    scene.pass(5);
    scene.role(B, master(100));
    assert_eq!(scene.reads(), (Some(node(A)), Flow::Held), "it may be an old master that came back");
}

#[test]
fn in_a_planned_failover_reads_stay_with_the_old_master_until_the_commit() {
    let mut scene = selected(Commit::Confirmed);
    scene.role(A, master(100));
    scene.role(B, master(100));
    scene.view(0, B, 2);
    assert_eq!(scene.reads(), (Some(node(A)), Flow::Flowing));
    scene.role(A, RoleAnswer::Refused);
    assert_eq!(scene.reads(), (Some(node(B)), Flow::Flowing), "unless it dies meanwhile");
}

/// What it was sent before it hung it carries out when it wakes; who was promoted meanwhile does not have that.
#[test]
fn a_master_that_answers_again_is_read_from_once_its_replicas_say_that_they_follow() {
    let woken = |b: &[RoleAnswer]| {
        let mut scene = Scene::stable(Commit::Confirmed);
        scene.say(0, Message::SelectedSlave(node(B)));
        scene.pass(5);
        scene.role(A, RoleAnswer::Silent { closed: false });
        scene.role(B, replica(A, 100));
        scene.role(C, replica(A, 100));
        scene.pass(5);
        scene.role(A, master(100));
        assert_eq!(scene.reads(), (Some(node(A)), Flow::Held), "they were asked before");
        scene.pass(5);
        scene.role(C, replica(A, 100));
        b.iter().for_each(|answer| scene.role(B, answer.clone()));
        scene.assert_held("the failover is on");
        scene.reads()
    };
    assert_eq!(woken(&[]), (Some(node(A)), Flow::Held));
    assert_eq!(woken(&[cut_off(A, 100)]), (Some(node(A)), Flow::Held));
    assert_eq!(woken(&[master(100)]), (Some(node(B)), Flow::Flowing), "it was promoted");
    assert_eq!(woken(&[replica(A, 100)]), (Some(node(A)), Flow::Flowing));
    for away in [RoleAnswer::Refused, RoleAnswer::Error("LOADING".into())] {
        assert_eq!(woken(&[away]), (Some(node(A)), Flow::Flowing), "nothing can be expected of it");
    }
}

/// An eager commit that the workers have not prepared yet.
fn committed() -> Scene {
    let mut scene = selected(Commit::Eager);
    scene.event(Event::Acknowledged(scene.topology().seq));
    scene.preparing = false;
    scene.role(B, master(100));
    assert_eq!((scene.topology().generation, scene.writes()), (2, (Some(node(B)), Flow::Held)));
    scene
}

/// All is well with B.
fn end_hold(scene: &mut Scene) {
    for _ in 0..2 {
        scene.pass(5);
        scene.role(B, master(100));
        scene.role(A, replica(B, 100));
        scene.role(C, replica(B, 100));
        (0..3).for_each(|id| scene.view(id, B, 2));
    }
    assert_eq!(scene.obstacle(), Some("no master is confirmed yet".to_owned()), "the hold is over");
}

#[test]
fn writes_wait_until_every_worker_has_prepared_the_new_master() {
    let mut scene = committed();
    assert_eq!(scene.reads(), (Some(node(B)), Flow::Flowing), "what prepares it flows");
    scene.event(Event::Prepared(1));
    scene.assert_held("that was another master");
    scene.event(Event::Prepared(2));
    scene.assert_flows_to(B, "prepared");
}

#[test]
fn a_worker_that_cannot_prepare_does_not_hold_writes_for_ever() {
    let mut scene = committed();
    scene.pass(PREPARATION_LIMIT.as_millis() as u64 - 1);
    scene.assert_held("it has its time");
    assert!(!scene.said("before scripts and subscriptions are all back"));
    scene.pass(1);
    scene.assert_flows_to(B, "and no more");
    assert!(scene.said("before scripts and subscriptions are all back"));
}

#[test]
fn where_nothing_is_held_nothing_is_prepared() {
    let mut scene = Scene::stable_with(Settings { hold_timeout: Duration::ZERO, ..settings(Commit::Eager) }, 3);
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(1);
    scene.preparing = false;
    scene.role(B, master(100));
    scene.assert_flows_to(B, "at once");
    assert!(!scene.said("before scripts and subscriptions are all back"), "that is what was asked for");
}

#[test]
fn trouble_while_the_new_master_is_prepared_is_a_hold_with_all_its_time() {
    let mut scene = committed();
    scene.pass(100);
    scene.role(B, replica(A, 100));
    scene.event(Event::Prepared(2));
    scene.assert_held("it is no master any more");
    scene.pass(14_000);
    scene.assert_held("the deadline of the round before means nothing");
}

#[test]
fn a_hold_in_between_does_not_make_the_new_master_prepared() {
    let mut scene = committed();
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    scene.pass(1);
    scene.role(B, replica(A, 100));
    end_hold(&mut scene);
    assert_eq!(scene.writes(), (Some(node(B)), Flow::Held), "and the new master still not prepared");
    scene.event(Event::Prepared(2));
    scene.assert_flows_to(B, "prepared");
}

#[test]
fn the_time_for_preparing_does_not_run_out_during_a_hold() {
    let mut scene = committed();
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    scene.pass(50);
    scene.role(B, CLOSED);
    scene.role(B, RoleAnswer::Refused);
    scene.pass(PREPARATION_LIMIT.as_millis() as u64 + 300);
    end_hold(&mut scene);
    scene.assert_held("nobody had its scripts and subscriptions taken there meanwhile");
    scene.pass(PREPARATION_LIMIT.as_millis() as u64);
    scene.assert_flows_to(B, "but not for ever");
}

/// It has named that node for long, of a failover before.
#[test]
fn a_sentinel_that_is_behind_has_not_waited_for_a_second_one() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.view(2, B, 0);
    scene.pass(60_000);
    scene.all_but_views();
    scene.assert_flows_to(A, "that is old");
    scene.elect_b();
    scene.view(0, B, 2);
    scene.pass(4_990);
    scene.role(B, master(100));
    scene.assert_held("nobody but the leader says so");
    scene.pass(10);
    scene.role(B, master(100));
    scene.assert_flows_to(B, "it has for confirm_timeout");
}
