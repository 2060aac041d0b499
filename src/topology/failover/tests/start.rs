//! The first master, static services, and the record (rules 9 and 10).

use super::*;
use crate::topology::record::{EVENTS, FailoverKind, RECORDS};

fn fresh() -> Scene {
    let mut scene = Scene::new(settings(Commit::Confirmed), 3);
    for id in 0..3 {
        scene.event(Event::SentinelUp(SentinelId(id)));
    }
    scene
}

#[test]
fn the_first_master_needs_a_majority_and_its_own_word() {
    let mut scene = fresh();
    scene.view(0, A, 1);
    scene.pass(5);
    scene.role(A, master(100));
    scene.assert_held("one of three Sentinels");
    scene.view(1, A, 1);
    scene.assert_flows_to(A, "two of three");
    assert_eq!(scene.topology().generation, 1);

    for answer in [replica(B, 1), RoleAnswer::Refused, SILENT, RoleAnswer::Error("NOAUTH".into())] {
        let mut scene = fresh();
        scene.view(0, A, 1);
        scene.view(1, A, 1);
        scene.pass(5);
        scene.role(A, answer.clone());
        scene.pass(5000);
        scene.assert_held(&format!("{answer:?}"));
        assert!(scene.topology().why.contains("7001 is named as master and"), "{}", scene.topology().why);
    }
}

/// A failover may begin in the first second; who followed the master before it is known by then.
#[test]
fn everybody_is_asked_as_often_as_possible_until_each_has_answered() {
    let mut scene = fresh();
    scene.view(0, A, 1);
    scene.view(1, A, 1);
    scene.pass(5);
    scene.role(B, replica(A, 1));
    scene.role(A, master(100));
    scene.assert_flows_to(A, "two of three");
    let pace = |scene: &Scene| scene.probing().expect("somebody is asked").1;
    assert_eq!(pace(&scene), Pace::Fast, "B answered before A was confirmed");
    scene.pass(5);
    scene.role(A, master(100));
    scene.role(B, replica(A, 100));
    assert_eq!(pace(&scene), Pace::Fast, "C has not answered");
    scene.role(C, SILENT);
    scene.view(2, A, 1);
    scene.pass(6000);
    assert_eq!(pace(&scene), Pace::Slow, "nor will it soon");
}

#[test]
fn the_highest_epoch_wins_even_against_a_majority() {
    let mut scene = fresh();
    scene.view(0, B, 2);
    scene.view(1, A, 1);
    scene.view(2, A, 1);
    scene.pass(5);
    scene.role(A, master(100));
    scene.role(B, master(100));
    scene.assert_held("the others are given a moment");
    scene.pass(1000);
    scene.assert_flows_to(B, "a minority can hold an older state, never a newer one");
}

#[test]
fn one_sentinel_in_hearing_is_enough_after_a_moment() {
    let mut scene = Scene::new(settings(Commit::Confirmed), 3);
    scene.event(Event::SentinelUp(SentinelId(0)));
    scene.view(0, A, 1);
    scene.pass(999);
    scene.role(A, master(100));
    scene.assert_held("the others may answer yet");
    scene.pass(1);
    scene.assert_flows_to(A, "they do not");
}

#[test]
fn a_start_in_the_middle_of_a_failover_waits() {
    let mut scene = fresh();
    scene.view_in_progress(0, A, 1);
    scene.view(1, A, 1);
    scene.pass(5);
    scene.role(A, master(100));
    scene.pass(1000);
    scene.role(A, master(100));
    scene.assert_held("somebody may be promoted any moment");
    scene.role(B, master(100));
    scene.pass(5000);
    scene.role(A, master(100));
    scene.assert_held("and was");
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    scene.assert_flows_to(B, "advertised");

    let mut scene = fresh();
    for id in 0..3 {
        scene.view_in_progress(id, A, 1);
    }
    scene.pass(5);
    scene.role(A, master(100));
    scene.pass(2000);
    scene.assert_flows_to(A, "a failover that promotes nobody, or has done so long ago");
}

#[test]
fn a_start_without_a_master_is_refused_in_the_end_and_says_why() {
    let mut scene = Scene::new(settings(Commit::Confirmed), 2);
    scene.pass(14_999);
    assert_eq!(scene.writes(), (None, Flow::Held));
    scene.pass(1);
    assert_eq!(scene.writes(), (None, Flow::Refused));
    assert_eq!(scene.reads(), (None, Flow::Refused));
    assert_eq!(&*scene.topology().why, "no Sentinel has named a master yet");
    for id in 0..2 {
        scene.event(Event::SentinelUp(SentinelId(id)));
        scene.event(Event::UnknownName(SentinelId(id)));
    }
    assert_eq!(&*scene.topology().why, "no Sentinel knows this service name");
    scene.view(0, A, 1);
    scene.view(1, A, 1);
    scene.pass(5);
    scene.role(A, master(1));
    scene.assert_flows_to(A, "and recovers");
}

#[test]
fn a_static_master_goes_and_comes_back() {
    let mut scene = Scene::new(Settings { managed: false, ..settings(Commit::Confirmed) }, 0);
    scene.event(Event::StaticMaster(node(A)));
    assert_eq!(scene.probing().unwrap().0, BTreeSet::from([node(A)]));
    scene.pass(5);
    scene.role(A, master(1));
    scene.assert_flows_to(A, "it says master");
    scene.hint(A, HintKind::Refused);
    scene.assert_held("refused");
    scene.pass(15_000);
    assert_eq!(scene.writes().1, Flow::Refused);
    scene.role(A, replica(B, 1));
    assert_eq!(scene.writes().1, Flow::Refused, "a replica is no master");
    scene.role(A, master_as(1, "run-2"));
    scene.assert_flows_to(A, "back");
    assert_eq!(scene.topology().generation, 1);
}

#[test]
fn a_static_master_whose_name_moves_is_followed() {
    let mut scene = Scene::new(Settings { managed: false, ..settings(Commit::Confirmed) }, 0);
    scene.event(Event::StaticMaster(node(A)));
    scene.pass(5);
    scene.role(A, master(1));
    scene.event(Event::StaticMaster(node(B)));
    scene.pass(5);
    scene.role(A, master(1));
    scene.assert_flows_to(A, "the new one has not answered");
    scene.role(B, master(1));
    scene.pass(5);
    scene.role(B, master(1));
    scene.assert_flows_to(B, "it has");
    assert_eq!(scene.topology().generation, 2);
}

#[test]
fn the_record_tells_the_story_and_is_bounded() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.machine.set_wall_clock(crate::topology::status::WallTime(1_700_000_000_000));
    scene.say(0, Message::TryFailover);
    scene.pass(100);
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(100);
    scene.role(B, master(100));
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    let record = scene.last_record();
    let told: Vec<(u64, &str, &str)> = record.events.iter().map(|e| (e.ms, &*e.source, &*e.text)).collect();
    assert_eq!(
        told,
        [
            (0, "Sentinel 127.0.0.1:7100", "writes held: Sentinel 127.0.0.1:7100 announced a failover"),
            (100, "Sentinel 127.0.0.1:7100", "+selected-slave 127.0.0.1:7002"),
            (200, "127.0.0.1:7002", "says master"),
            (200, "Sentinel 127.0.0.1:7100", "names 127.0.0.1:7002 with epoch 2"),
            (200, "Sentinel 127.0.0.1:7101", "names 127.0.0.1:7002 with epoch 2"),
            (200, "pointsman", "127.0.0.1:7002 is master, confirmed by 2 of 3 Sentinels"),
            (200, "pointsman", "reads flow to 127.0.0.1:7002"),
            (200, "pointsman", "writes flow to 127.0.0.1:7002"),
        ]
    );
    assert_eq!((record.lasted_ms, record.writes_held_ms, record.reads_held_ms), (Some(200), 200, 0));
    assert_eq!(
        record.to_string(),
        "failover 1 (planned): 127.0.0.1:7001 -> 127.0.0.1:7002 because Sentinel 127.0.0.1:7100 announced a failover; \
         127.0.0.1:7002 is master, confirmed by 2 of 3 Sentinels; writes waited 200 ms, reads 0 ms; commands held 0, \
         parked 0, sent again 0, refused 0, of unknown outcome 0; loss unknown"
    );

    let mut scene = Scene::stable(Commit::Confirmed);
    for _ in 0..RECORDS + 3 {
        scene.pass(20_000);
        scene.hint(A, HintKind::Refused);
        for epoch in 0..EVENTS as u64 + 5 {
            scene.say(0, Message::NewEpoch(epoch));
        }
        scene.all_is_well();
        scene.assert_flows_to(A, "an interruption");
    }
    let records = scene.machine.recorder().records(scene.now);
    assert_eq!((records.len(), records[0].number), (RECORDS, 4));
    for record in &records {
        assert!(record.events.len() == EVENTS && record.events_dropped > 5, "{}", record.events_dropped);
        let (first, last) = (&record.events[0].text, &record.events[EVENTS - 1].text);
        assert!(first.starts_with("writes held: ") && last.starts_with("writes flow to "), "{first} … {last}");
    }
    let interruptions = (FailoverKind::Interruption, RECORDS as u64 + 3);
    assert!(scene.machine.recorder().totals().contains(&interruptions));
}

/// Behind the switch writes wait for scripts and subscriptions: for clients that is one wait.
#[test]
fn the_record_counts_the_wait_until_writes_flow() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.preparing = false;
    scene.say(0, Message::TryFailover);
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(200);
    scene.role(B, master(100));
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    scene.pass(100);
    assert_eq!((scene.last_record().lasted_ms, scene.last_record().writes_held_ms), (Some(200), 300), "still");
    scene.event(Event::Prepared(2));
    scene.pass(100);
    let record = scene.last_record();
    assert_eq!((record.lasted_ms, record.writes_held_ms, record.reads_held_ms), (Some(200), 300, 0));
    let last = record.events.last().expect("events");
    assert_eq!((last.ms, &*last.text), (300, "writes flow to 127.0.0.1:7002"));
}

#[test]
fn the_status_says_who_says_what() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.event(Event::SentinelDown(SentinelId(2)));
    scene.hint(A, HintKind::Refused);
    scene.pass(20_000);
    let facts = |id: SentinelId| {
        Some(super::super::SentinelFacts {
            endpoint: node(100 + id.0).into(),
            learned: false,
            error: (id.0 == 2).then(|| "connection refused".to_owned()),
        })
    };
    let status = scene.machine.status(scene.now, "main", facts);
    assert_eq!(status.phase, crate::topology::status::Phase::Unavailable);
    let said: Vec<_> = status.sentinels.iter().map(|s| (s.up, s.master, s.error.as_deref())).collect();
    assert_eq!(
        said,
        [(true, Some(node(A)), None), (true, Some(node(A)), None), (false, None, Some("connection refused"))]
    );
    assert_eq!((status.writes_held_ms_total, status.reads_held_ms_total), (20_000, 20_000));
    assert!(status.why.starts_with("the master refuses connections"), "{}", status.why);
    assert_eq!(status.records.len(), 1);
    let record = &status.records[0];
    assert_eq!((record.lasted_ms, record.writes_held_ms, record.reads_held_ms), (None, 20_000, 20_000), "it lasts");
    assert_eq!(
        status.replicas.iter().map(|r| (r.node, &*r.link)).collect::<Vec<_>>(),
        [(node(B), "connected"), (node(C), "connected")]
    );
}
