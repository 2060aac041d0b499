//! The recorder by itself: what it counts while traffic waits, what it keeps, and what it is told later.

use super::node;
use crate::clock::Moment;
use crate::topology::record::{
    EVENTS, FAILOVER_KINDS, FailoverKind, FailoverRecord, OffsetLost, RECORDS, RecordCounts, Recorder,
};
use crate::topology::status::WallTime;

/// Ends the open record with this one as master.
fn close(recorder: &mut Recorder, now: u64, kind: FailoverKind, to: u16, lost: OffsetLost) -> u64 {
    recorder.close(Moment(now), kind, node(to), 2, "so it is".to_owned(), lost)
}

fn open(recorder: &mut Recorder, now: u64) -> u64 {
    recorder.open(Moment(now), Some(node(1)), "a reason".to_owned())
}

fn last(recorder: &Recorder, now: u64) -> FailoverRecord {
    recorder.records(Moment(now)).last().unwrap().as_ref().clone()
}

/// How long writes and reads waited, by this record.
fn waited(recorder: &Recorder, now: u64) -> (u64, u64) {
    let record = last(recorder, now);
    (record.writes_held_ms, record.reads_held_ms)
}

#[test]
fn kinds_are_called_the_same_everywhere() {
    for kind in FAILOVER_KINDS {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.label());
        assert_eq!(kind.to_string(), kind.label());
    }
}

#[test]
fn of_counts_the_difference_is_taken_one_by_one() {
    let before = RecordCounts { held: 1, parked: 2, resent: 3, refused: 4, unknown: 5 };
    let after = RecordCounts { held: 11, parked: 22, resent: 33, refused: 44, unknown: 55 };
    let between = RecordCounts { held: 10, parked: 20, resent: 30, refused: 40, unknown: 50 };
    assert_eq!(after.since(before), between);
    assert_eq!(before.since(after), RecordCounts::default(), "never less than nothing");
}

#[test]
fn only_the_time_for_which_something_waits_is_counted() {
    let mut recorder = Recorder::new(Moment(1000));
    recorder.set_wall_clock(WallTime(5_000_000));
    recorder.track(Moment(1100), true, false);
    recorder.track(Moment(1130), false, false);
    recorder.track(Moment(1150), true, true);
    assert_eq!((recorder.writes_held_ms(), recorder.reads_held_ms()), (50, 20));

    assert_eq!(open(&mut recorder, 2000), 1);
    recorder.track(Moment(2000), true, false);
    recorder.track(Moment(2100), false, false);
    recorder.track(Moment(2300), true, false);
    let running = last(&recorder, 2300);
    assert_eq!((running.number, running.began, running.lasted_ms, running.to), (1, WallTime(5_002_000), None, None));
    assert_eq!(waited(&recorder, 2300), (300, 200), "not what was before it");
    recorder.event(Moment(2300), "somebody", "something");
    assert_eq!(close(&mut recorder, 2400, FailoverKind::Planned, 2, OffsetLost::Exact(0)), 1);
    let closed = last(&recorder, 9000);
    assert_eq!((closed.lasted_ms, closed.to, closed.generation), (Some(400), Some(node(2)), 2));
    let events: Vec<(u64, &str, &str)> =
        closed.events.iter().map(|e| (e.ms, e.source.as_str(), e.text.as_str())).collect();
    assert_eq!(events, [(300, "somebody", "something"), (400, "pointsman", "so it is")]);
    assert_eq!(waited(&recorder, 2400), (400, 200));

    // Writes wait for what sessions need, and then do no more.
    recorder.track(Moment(2450), true, false);
    assert_eq!(waited(&recorder, 2450), (450, 200), "behind the switch too");
    recorder.track(Moment(2500), true, true);
    recorder.track(Moment(2600), false, false);
    recorder.track(Moment(2700), true, true);
    assert_eq!(waited(&recorder, 2700), (500, 200), "until everything flows");
    assert_eq!((recorder.writes_held_ms(), recorder.reads_held_ms()), (650, 320));
    assert_eq!(close(&mut recorder, 2800, FailoverKind::Planned, 2, OffsetLost::Exact(0)), 0, "none is open");
    assert_eq!(recorder.records(Moment(2800)).len(), 1);
}

#[test]
fn what_waits_for_another_reason_or_in_another_record_is_not_added() {
    let held = || {
        let mut recorder = Recorder::new(Moment(0));
        open(&mut recorder, 0);
        recorder.track(Moment(0), false, false);
        close(&mut recorder, 100, FailoverKind::Crash, 2, OffsetLost::Unknown);
        assert_eq!(waited(&recorder, 100), (100, 100));
        recorder
    };
    let mut fenced = held();
    fenced.end_wait();
    fenced.track(Moment(300), false, false);
    assert_eq!(waited(&fenced, 300), (100, 100));
    let mut again = held();
    open(&mut again, 300);
    again.track(Moment(400), false, false);
    let records = again.records(Moment(400));
    assert_eq!((records[0].writes_held_ms, records[0].reads_held_ms), (300, 300), "up to there it was its own");
    assert_eq!((records[1].writes_held_ms, records[1].reads_held_ms), (100, 100));
    // What flows again ends it for one of the two only when both do.
    let mut reads_first = held();
    reads_first.track(Moment(150), true, false);
    reads_first.track(Moment(200), true, true);
    assert_eq!(waited(&reads_first, 200), (200, 150));
}

#[test]
fn an_event_goes_to_the_record_that_it_belongs_to() {
    let mut recorder = Recorder::new(Moment(0));
    recorder.event(Moment(1), "nobody", "before anything");
    recorder.note(Moment(1), "nobody", "before anything");
    assert!(recorder.records(Moment(1)).is_empty());
    let first = open(&mut recorder, 10);
    recorder.note(Moment(15), "a", "while it is open");
    close(&mut recorder, 20, FailoverKind::Aborted, 1, OffsetLost::Exact(0));
    recorder.event(Moment(25), "b", "between two");
    recorder.late_event(Moment(30), "c", "late");
    recorder.note(Moment(40), "d", "later");
    let texts = |record: &FailoverRecord| -> Vec<(u64, String)> {
        record.events.iter().map(|e| (e.ms, e.text.clone())).collect()
    };
    let expected = [(5, "while it is open"), (10, "so it is"), (20, "late"), (30, "later")];
    assert_eq!(texts(&last(&recorder, 50)), expected.map(|(ms, text)| (ms, text.to_owned())));
    let second = open(&mut recorder, 100);
    recorder.note(Moment(101), "e", "the next one's");
    assert_eq!((first, second), (1, 2));
    assert_eq!(texts(&last(&recorder, 110)), [(1, "the next one's".to_owned())]);
    assert_eq!(recorder.closed(first).unwrap().events.len(), expected.len());
    assert!(recorder.closed(second).is_none(), "it is open");

    let counts = RecordCounts { held: 7, ..RecordCounts::default() };
    recorder.set_counts(first, counts);
    recorder.set_counts(second, RecordCounts { held: 8, ..RecordCounts::default() });
    assert_eq!(recorder.closed(first).unwrap().counts, counts);
}

#[test]
fn the_last_records_are_kept_and_of_each_the_ends() {
    let mut recorder = Recorder::new(Moment(0));
    for n in 0..RECORDS as u64 + 2 {
        open(&mut recorder, n * 10);
        close(&mut recorder, n * 10 + 5, FailoverKind::Interruption, 1, OffsetLost::Exact(0));
    }
    let numbers: Vec<u64> = recorder.records(Moment(10_000)).iter().map(|r| r.number).collect();
    assert_eq!(numbers, (3..=RECORDS as u64 + 2).collect::<Vec<_>>());
    let total = |kind| recorder.totals().iter().find(|(k, _)| *k == kind).unwrap().1;
    assert_eq!((total(FailoverKind::Interruption), total(FailoverKind::Crash)), (RECORDS as u64 + 2, 0));

    open(&mut recorder, 20_000);
    for n in 0..EVENTS as u64 + 2 {
        recorder.event(Moment(20_000 + n), "s", n.to_string());
    }
    let record = last(&recorder, 30_000);
    let kept: Vec<u64> = record.events.iter().map(|e| e.ms).collect();
    let half = EVENTS as u64 / 2;
    assert_eq!(kept, (0..half).chain(half + 2..EVENTS as u64 + 2).collect::<Vec<_>>());
    assert_eq!(record.events_dropped, 2);
}

#[test]
fn a_loss_counts_once_it_is_final_and_may_only_grow() {
    let mut recorder = Recorder::new(Moment(0));
    assert_eq!((recorder.lost_bytes(), recorder.last_loss()), (0, None));
    open(&mut recorder, 10);
    close(&mut recorder, 20, FailoverKind::Aborted, 1, OffsetLost::Exact(0));
    recorder.confirm_loss();
    assert_eq!((recorder.lost_bytes(), recorder.last_loss()), (0, None), "the master stayed and lost nothing");
    open(&mut recorder, 30);
    close(&mut recorder, 40, FailoverKind::Interruption, 1, OffsetLost::Unknown);
    assert_eq!(recorder.last_loss(), Some(OffsetLost::Unknown), "it stayed, and may have lost something");

    open(&mut recorder, 50);
    let changed = close(&mut recorder, 60, FailoverKind::Crash, 2, OffsetLost::AtLeast(10));
    assert_eq!((recorder.lost_bytes(), recorder.last_loss()), (0, Some(OffsetLost::AtLeast(10))), "it may be undone");
    recorder.amend_loss(Moment(61), changed, "s", "more", OffsetLost::AtLeast(12));
    assert_eq!(recorder.lost_bytes(), 0);
    recorder.confirm_loss();
    recorder.confirm_loss();
    assert_eq!(recorder.lost_bytes(), 12, "once");
    recorder.amend_loss(Moment(70), changed, "s", "better", OffsetLost::Between { at_least: 15, at_most: 20 });
    assert_eq!((recorder.lost_bytes(), recorder.last_loss().unwrap().bounds()), (15, (15, Some(20))));
    let record = last(&recorder, 80);
    assert_eq!(record.offset_lost, OffsetLost::Between { at_least: 15, at_most: 20 });
    let told = record.events.last().unwrap();
    assert_eq!((told.ms, told.source.as_str(), told.text.as_str()), (20, "s", "better"));

    // A word on an older one changes nothing about the last.
    open(&mut recorder, 90);
    let next = close(&mut recorder, 100, FailoverKind::Planned, 3, OffsetLost::Exact(0));
    recorder.amend_loss(Moment(110), changed, "s", "all", OffsetLost::Exact(20));
    assert_eq!((recorder.lost_bytes(), recorder.last_loss()), (20, Some(OffsetLost::Exact(0))));
    recorder.amend_loss(Moment(120), next + 1, "s", "of nothing", OffsetLost::Exact(99));
    assert_eq!(recorder.lost_bytes(), 20);
    assert!(OffsetLost::Exact(1).is_certain() && !OffsetLost::AtMost(1).is_certain());
}
