//! Pauses that an operator orders, alone and with failovers.

use super::*;
use crate::topology::pause::Pause;
use crate::topology::status::{FlowWord, Phase, ServiceStatus};

fn status(scene: &Scene) -> ServiceStatus {
    scene.machine.status(scene.now, "main", |_| None)
}

#[test]
fn a_pause_is_published_and_touches_nothing_else() {
    let mut scene = Scene::stable(Commit::Confirmed);
    let before = scene.topology().clone();
    scene.event(Event::Paused(Pause::Begin(None)));
    let paused = Topology { seq: before.seq + 1, paused: true, ..before.clone() };
    assert_eq!(*scene.topology(), paused, "what was handed on goes its way");
    let told = status(&scene);
    assert_eq!((told.reads.flow, told.writes.flow, told.phase), (FlowWord::Held, FlowWord::Held, Phase::Stable));
    assert_eq!((told.paused.map(|p| p.until), told.settled), (Some(None), true));

    scene.pass(86_400_000);
    assert_eq!(*scene.topology(), paused, "for as long as the operator likes");
    assert_eq!(status(&scene).writes_held_ms_total, 0, "that is no outage");
    scene.event(Event::Paused(Pause::End));
    assert_eq!(*scene.topology(), Topology { seq: before.seq + 2, ..before });
    assert!(status(&scene).paused.is_none());
    assert!(scene.machine.recorder().records(scene.now).is_empty(), "nor a failover");
    let actions = scene.actions.len();
    scene.event(Event::Paused(Pause::End));
    assert_eq!(scene.actions.len(), actions, "there is nothing to end");
}

#[test]
fn a_pause_for_a_time_ends_by_itself() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.event(Event::Paused(Pause::Begin(Some(Duration::from_secs(2)))));
    scene.pass(1000);
    let paused = status(&scene).paused.unwrap();
    assert_eq!(paused.until.unwrap().0 - paused.since.0, 2000);
    // Another order counts from then on.
    scene.event(Event::Paused(Pause::Begin(Some(Duration::from_secs(3)))));
    scene.pass(2999);
    assert!(scene.topology().paused);
    scene.pass(1);
    assert!(!scene.topology().paused);
    scene.assert_flows_to(A, "its time has passed");
}

#[test]
fn a_pause_is_said_and_of_a_failover_it_is_a_part_of_the_story() {
    let mut scene = Scene::stable(Commit::Confirmed);
    let pause = |time| Event::Paused(Pause::Begin(time));
    scene.event(pause(Some(Duration::from_secs(2))));
    scene.pass(2000);
    scene.say(0, Message::TryFailover);
    scene.event(pause(None));
    scene.event(Event::Paused(Pause::End));
    let begun = "paused by an operator, until it is resumed";
    let story = ["paused by an operator, for 2s at most", "resumed: the time of the pause has passed", begun];
    let story: Vec<&str> = story.into_iter().chain(["resumed by an operator"]).collect();
    let said = scene.actions.iter().filter_map(|action| match action {
        Action::Say(_, text) => Some(text.as_str()).filter(|text| story.contains(text)),
        _ => None,
    });
    assert_eq!(said.collect::<Vec<_>>(), story);
    let record = scene.last_record();
    let noted = record.events.iter().filter(|event| event.source == "pointsman" && story.contains(&&*event.text));
    assert_eq!(noted.map(|event| &*event.text).collect::<Vec<_>>(), story[2..], "the others were before it");
}

/// What the pause is for: everything is done to the servers while clients wait.
#[test]
fn a_failover_goes_its_way_in_a_pause() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.event(Event::Paused(Pause::Begin(None)));
    scene.say(0, Message::TryFailover);
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.assert_held("a failover holds what a pause lets go its way");
    scene.pass(1000);
    for id in 0..2 {
        scene.view(id, B, 2);
    }
    scene.role(B, master_as(200, "run-2"));
    scene.assert_flows_to(B, "two Sentinels and its own word");
    assert!(scene.topology().paused && scene.topology().generation == 2);
    assert_eq!(status(&scene).writes.flow, FlowWord::Held);
    let record = scene.last_record();
    assert_eq!(record.writes_held_ms, 1000, "of the pause it knows nothing");
    scene.event(Event::Paused(Pause::End));
    assert!(!scene.topology().paused);
    scene.assert_flows_to(B, "behind it traffic goes to the new master");
}

/// No master for longer than `hold_timeout`: in a pause that is refused to nobody.
#[test]
fn an_outage_in_a_pause_shows_behind_it() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.event(Event::Paused(Pause::Begin(None)));
    scene.hint(A, HintKind::Refused);
    scene.pass(1);
    scene.role(A, RoleAnswer::Refused);
    scene.pass(20_000);
    assert_eq!(scene.writes().1, Flow::Refused);
    assert_eq!(status(&scene).writes.flow, FlowWord::Held, "to clients it is a pause");
    scene.event(Event::Paused(Pause::End));
    assert_eq!(status(&scene).writes.flow, FlowWord::Refused);
}
