//! The hold of a switchover, whose word ends it, and what keeps a service from being settled.

use super::*;
use crate::topology::record::{FailoverKind, OffsetLost};
use crate::topology::{ReplicaView, SwitchoverEvent};

fn hold(nodes: &[u16]) -> Event {
    Event::Switchover(SwitchoverEvent::Hold(nodes.iter().map(|n| node(*n)).collect()))
}

const ORDERED: Event = Event::Switchover(SwitchoverEvent::Ordered);
const RELEASED: Event = Event::Switchover(SwitchoverEvent::Released);

/// Writes are held for a switchover to B or C, who follow.
fn holding() -> Scene {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.event(hold(&[B, C]));
    scene.assert_held("a switchover was asked for");
    assert_eq!(scene.reads(), (Some(node(A)), Flow::Flowing), "reads go on");
    scene.all_is_well();
    scene
}

#[test]
fn it_holds_for_as_long_as_the_switchover_is_on() {
    let mut scene = holding();
    scene.pass(2000);
    scene.all_is_well();
    scene.assert_held("only the switchover ends it");
    scene.event(RELEASED);
    scene.assert_flows_to(A, "it was given up, and all is well");
    let record = scene.last_record();
    assert_eq!((record.kind, record.offset_lost), (FailoverKind::Aborted, OffsetLost::Exact(0)));
}

#[test]
fn an_expected_node_counts_by_its_own_word_once_it_was_ordered() {
    for promoted in [B, C] {
        let mut scene = holding();
        scene.pass(5);
        scene.role(promoted, master(100));
        scene.assert_held("nobody was told to promote it");
        scene.event(ORDERED);
        scene.assert_held("what it said was said before");
        scene.pass(5);
        scene.role(promoted, master(100));
        scene.assert_flows_to(promoted, "whatever `commit` says");
        assert_eq!(scene.last_record().kind, FailoverKind::Switchover);
        assert!(!scene.machine.is_settled(), "Sentinels have yet to confirm it");
        assert_eq!(scene.machine.master.as_ref().map(|m| m.epoch), Some(2), "counts as one more than before");
        for id in 0..2 {
            scene.view(id, promoted, 2);
        }
        assert!(scene.machine.survey(0).confirmed);
    }
}

#[test]
fn nobody_else_counts_by_its_own_word() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.event(hold(&[B]));
    scene.all_is_well();
    scene.event(ORDERED);
    scene.pass(5);
    scene.role(C, master(100));
    scene.assert_held("C was not expected");
    scene.view(0, C, 2);
    scene.view(1, C, 2);
    scene.assert_flows_to(C, "but two Sentinels say so");
}

#[test]
fn two_that_say_master_leave_it_to_sentinels() {
    let mut scene = holding();
    scene.event(ORDERED);
    scene.pass(5);
    scene.acknowledging = false;
    let published = scene.topology().generation;
    // Both answers are in before the machine can conclude from one.
    scene.machine.known.nodes.get_mut(&node(C)).unwrap().last =
        Some(super::super::knowledge::Heard { asked: scene.now, answer: master(100) });
    scene.role(B, master(100));
    assert_eq!(scene.topology().generation, published);
}

#[test]
fn an_order_from_before_a_gap_counts_no_more() {
    let mut scene = holding();
    scene.event(ORDERED);
    scene.event(Event::Gap);
    scene.pass(5);
    scene.role(B, master(100));
    scene.assert_held("its word may have become an old one meanwhile");
}

#[test]
fn a_switchover_begins_no_hold_in_a_hold() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.say(0, Message::TryFailover);
    scene.event(hold(&[B]));
    assert!(!scene.machine.survey(0).held);
    scene.event(ORDERED);
    scene.pass(5);
    scene.role(B, master(100));
    scene.assert_held("that failover is not the switchover's");
}

#[test]
fn replies_that_all_candidates_have_are_safe() {
    let mut scene = holding();
    let before = scene.topology().parked_safe_before;
    scene.pass(5);
    scene.role(A, master(200));
    let asked = scene.now;
    scene.pass(1);
    scene.role(B, replica(A, 200));
    assert!(scene.topology().parked_safe_before < asked, "C may be the one");
    scene.role(C, replica(A, 200));
    assert_eq!(scene.topology().parked_safe_before, asked);
    assert!(before < asked);
}

#[test]
fn it_is_quiet_when_every_worker_owes_no_write() {
    let scene = holding();
    let seq = scene.topology().seq;
    assert!(scene.machine.survey(seq).quiet);
    let held = scene.machine.round.as_ref().unwrap().held_seq;
    assert!(!scene.machine.survey(held - 1).quiet);
    let mut unheard = Scene::stable(Commit::Confirmed);
    unheard.acknowledging = false;
    unheard.event(hold(&[B]));
    assert!(!unheard.machine.survey(u64::MAX).quiet, "nor before all have acknowledged");
}

#[test]
fn the_survey_tells_who_is_where_and_what_is_the_matter() {
    let mut scene = Scene::stable(Commit::Confirmed);
    assert!(scene.machine.survey(0).flowing);
    let offsets = |scene: &Scene| {
        let survey = scene.machine.survey(0);
        [A, B, C].map(|n| survey.nodes[&node(n)].offset)
    };
    scene.pass(5);
    scene.role(A, master(300));
    scene.role(B, replica(A, 200));
    scene.role(C, replica(A, 100));
    assert_eq!(offsets(&scene), [Some(300), Some(200), Some(100)]);
    scene.pass(5);
    scene.role(B, master(200));
    scene.role(C, replica(B, 100));
    assert_eq!(offsets(&scene), [Some(300), None, None], "of other streams");
    scene.pass(5);
    scene.role(C, cut_off(A, 100));
    assert_eq!(offsets(&scene), [Some(300), None, None], "not connected");

    let trouble = |happen: fn(&mut Scene)| {
        let mut scene = holding();
        assert!(!scene.machine.survey(0).flowing);
        assert_eq!(scene.machine.survey(0).trouble, None);
        scene.pass(5);
        happen(&mut scene);
        scene.machine.survey(0).trouble.unwrap_or_default()
    };
    assert_eq!(trouble(|s| s.role(A, RoleAnswer::Refused)), "the master failed meanwhile (refuses connections)");
    assert_eq!(trouble(|s| s.role(A, master_as(1, "run-2"))), "the master failed meanwhile (says master)");
    assert_eq!(trouble(|s| s.event(Event::Gap)), "the master failed meanwhile (was not heard since)");
}

#[test]
fn of_two_that_sentinels_selected_neither_is_known_to_be_the_one() {
    let mut scene = holding();
    let set = |scene: &Scene| scene.machine.round.as_ref().unwrap().candidate_set();
    assert_eq!(set(&scene), BTreeSet::from([node(B), node(C)]));
    scene.say(0, Message::SelectedSlave(node(B)));
    assert_eq!(set(&scene), BTreeSet::from([node(B)]));
    scene.say(1, Message::SelectedSlave(node(C)));
    assert_eq!(set(&scene), BTreeSet::new());
}

/// Seen: `+convert-to-slave` 0.8 s after a promotion, by a Sentinel whose last INFO of that node said master.
#[test]
fn settled_needs_every_sentinel_to_have_noticed() {
    let mut scene = Scene::stable(Commit::Confirmed);
    assert!(scene.machine.is_settled());
    let unnoticed = |n: u16| View {
        replicas: vec![ReplicaView { reported_replica: false, ..view(A, 1, false).replicas[n as usize].clone() }],
        ..view(A, 1, false)
    };
    for id in 0..3 {
        scene.event(Event::View(SentinelId(id), unnoticed(1)));
        assert!(scene.machine.unsettled().unwrap().contains("has not noticed yet"), "{id}");
        scene.view(id, A, 1);
        assert!(scene.machine.is_settled());
    }
    scene.event(Event::View(SentinelId(0), View { reported_master: false, ..view(A, 1, false) }));
    assert!(!scene.machine.is_settled());
    // One that is down will not be demoted by anybody, nor promoted.
    let mut dead = unnoticed(1);
    dead.replicas[0].reachable = false;
    scene.event(Event::View(SentinelId(0), dead));
    assert!(scene.machine.is_settled());
}
