//! What one process remembers for the next, and what that makes of it while no Sentinel is in hearing (rule 9).

use super::*;
use crate::topology::Remembered;

fn remembered() -> Remembered {
    Remembered { master: node(A), epoch: 7, run_id: "run-1".into() }
}

/// Started with three Sentinels of which none is in hearing, and with what the last process knew.
fn restarted() -> Scene {
    let mut scene = Scene::new(settings(Commit::Confirmed), 3);
    scene.event(Event::Remembered(remembered()));
    assert_eq!(scene.probing().map(|(nodes, _)| nodes), Some(BTreeSet::from([node(A)])), "it is asked who it is");
    scene
}

#[test]
fn the_same_process_goes_on_as_master() {
    let mut scene = restarted();
    scene.pass(1999);
    scene.role(A, master(100));
    assert_eq!((scene.reads(), scene.writes()), ((None, Flow::Held), (None, Flow::Held)), "Sentinels may answer yet");
    scene.pass(1);
    scene.assert_flows_to(A, "they do not, and it is what it was");
    assert_eq!(scene.machine.worth_remembering(), Some(remembered()));
    // Whoever is heard with an older epoch is behind.
    scene.event(Event::SentinelUp(SentinelId(0)));
    scene.view(0, B, 6);
    scene.assert_flows_to(A, "an epoch below that which is remembered");
    scene.view(0, B, 8);
    scene.assert_held("a higher one");
}

#[test]
fn another_process_is_read_and_not_written_to() {
    for answer in
        [master_as(100, "run-2"), RoleAnswer::Master { offset: 100, replicas: Vec::new(), run_id: None, history: None }]
    {
        let mut scene = restarted();
        scene.pass(2000);
        scene.role(A, answer);
        assert_eq!(scene.reads(), (Some(node(A)), Flow::Flowing));
        assert_eq!(scene.writes(), (None, Flow::Held), "its data may be old");
        scene.pass(13_000);
        assert_eq!(scene.writes(), (None, Flow::Refused));
        assert_eq!(scene.reads(), (Some(node(A)), Flow::Flowing));
        assert_eq!(scene.topology().generation, 0);
    }
}

#[test]
fn one_that_is_no_master_is_neither_read_nor_written_to() {
    for answer in [replica(B, 100), RoleAnswer::Refused, SILENT, RoleAnswer::Error("LOADING".into())] {
        let mut scene = restarted();
        scene.pass(2000);
        scene.role(A, answer.clone());
        scene.pass(5);
        assert_eq!((scene.reads().1, scene.writes().1), (Flow::Held, Flow::Held), "{answer:?}");
    }
}

#[test]
fn what_is_remembered_counts_no_more_once_a_sentinel_has_spoken() {
    let mut scene = restarted();
    scene.event(Event::SentinelUp(SentinelId(0)));
    scene.view(0, B, 8);
    scene.pass(2000);
    scene.role(A, master(100));
    assert_eq!((scene.reads().1, scene.writes().1), (Flow::Held, Flow::Held), "it names another one");
    scene.role(B, master(100));
    scene.assert_flows_to(B, "its word counts");

    // Nor behind the first commit, in a hold.
    let mut scene = restarted();
    scene.event(Event::SentinelUp(SentinelId(0)));
    scene.view(0, B, 8);
    scene.pass(2000);
    scene.role(B, master(100));
    scene.event(Event::SentinelDown(SentinelId(0)));
    scene.hint(B, HintKind::Refused);
    scene.pass(3000);
    scene.role(A, master(100));
    assert_eq!(scene.reads(), (Some(node(B)), Flow::Held));
}

#[test]
fn only_what_cannot_be_undone_is_worth_remembering() {
    let mut scene = selected(Commit::Eager);
    scene.role(B, master(100));
    scene.assert_flows_to(B, "committed");
    assert_eq!(scene.machine.worth_remembering(), None, "it may be undone");
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    assert_eq!(scene.machine.worth_remembering().map(|r| (r.master, r.epoch)), Some((node(B), 2)));

    let mut fixed = Scene::new(Settings { managed: false, ..settings(Commit::Confirmed) }, 0);
    fixed.event(Event::StaticMaster(node(A)));
    fixed.pass(5);
    fixed.role(A, master(1));
    fixed.assert_flows_to(A, "a static master");
    assert_eq!(fixed.machine.worth_remembering(), None, "the configuration says who it is");
}
