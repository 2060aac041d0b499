use super::*;
use crate::topology::record::RecordCounts;
use crate::topology::status::{SentinelStatus, WallTime};

const A: &str = "10.0.0.1:6379";
const B: &str = "10.0.0.2:6379";

/// A service whose master is A, and three Sentinels.
fn stable() -> ServiceStatus {
    let sentinel = SentinelStatus {
        endpoint: "10.0.0.9:26379".parse().unwrap(),
        learned: false,
        up: true,
        master: None,
        epoch: None,
        master_down: false,
        failing_over: false,
        tilt: false,
        heard: None,
        error: None,
    };
    ServiceStatus {
        phase: Phase::Stable,
        master: Some(A.parse().unwrap()),
        generation: 1,
        settled: true,
        sentinels: vec![sentinel; 3],
        ..ServiceStatus::unknown("main")
    }
}

/// One that was decided so; none of it, while it lasts.
fn record(number: u64, decided: Option<(FailoverKind, &str, &str)>) -> FailoverRecord {
    let (kind, from, to) = decided.unwrap_or((FailoverKind::Interruption, A, ""));
    FailoverRecord {
        number,
        began: WallTime(1000),
        lasted_ms: decided.map(|_| 900),
        kind,
        from: from.parse().ok(),
        to: to.parse().ok(),
        generation: 2,
        cause: "a Sentinel has begun a failover".to_owned(),
        outcome: if decided.is_some() { "so it is" } else { "" }.to_owned(),
        writes_held_ms: 880,
        reads_held_ms: 0,
        counts: RecordCounts::default(),
        offset_lost: OffsetLost::Unknown,
        events: Vec::new(),
        events_dropped: 0,
    }
}

fn with(records: &[FailoverRecord]) -> ServiceStatus {
    ServiceStatus { records: records.iter().cloned().map(Arc::new).collect(), ..stable() }
}

/// Shows statuses, each so many ms after the start, and says what was told of each.
fn told(observer: &mut Observer, shown: &[(u64, ServiceStatus)]) -> Vec<Vec<&'static str>> {
    let look = |(ms, status): &(u64, ServiceStatus)| observer.look(Moment(1_000_000 + ms), status);
    shown.iter().map(look).map(|notices| notices.iter().map(|n| n.event.word()).collect()).collect()
}

/// An observer that has seen a stable service.
fn seen() -> Observer {
    let mut observer = Observer::default();
    assert_eq!(
        told(&mut observer, &[(0, ServiceStatus::unknown("main")), (1, stable())]),
        [vec![], vec!["master_found"]]
    );
    observer
}

#[test]
fn a_failover_is_begun_committed_and_finished_once_each() {
    let changed = record(1, Some((FailoverKind::Planned, A, B)));
    let unsettled = ServiceStatus { settled: false, ..with(std::slice::from_ref(&changed)) };
    let shown = [
        (10, with(&[record(1, None)])),
        (20, with(&[record(1, None)])),
        (900, unsettled.clone()),
        (1900, unsettled),
        // Settled at once, as after a crash: the counts come first.
        (3899, with(std::slice::from_ref(&changed))),
        (3900, with(std::slice::from_ref(&changed))),
        (4900, with(&[changed])),
    ];
    let expected =
        [vec!["failover_begun"], vec![], vec!["failover_committed"], vec![], vec![], vec!["failover_finished"], vec![]];
    assert_eq!(told(&mut seen(), &shown), expected);
}

#[test]
fn what_began_and_ended_between_two_looks_is_told_in_order() {
    let kinds = [
        (FailoverKind::Crash, A, B, "failover_committed"),
        (FailoverKind::Switchover, B, A, "failover_committed"),
        (FailoverKind::Rollback, A, B, "failover_rolled_back"),
        (FailoverKind::Aborted, B, B, "failover_aborted"),
        (FailoverKind::Interruption, B, B, "failover_aborted"),
    ];
    let records: Vec<_> =
        (1..).zip(kinds).map(|(number, (kind, from, to, _))| record(number, Some((kind, from, to)))).collect();
    let mut observer = seen();
    let notices = observer.look(Moment(2_000_000), &with(&records));
    let words: Vec<&str> = notices.iter().map(|n| n.event.word()).collect();
    let expected = [
        "failover_begun",
        "failover_committed",
        "failover_finished",
        "failover_begun",
        "failover_committed",
        "failover_finished",
        "failover_begun",
        "failover_rolled_back",
        "failover_finished",
        "failover_begun",
        "failover_aborted",
        "failover_begun",
        "failover_aborted",
    ];
    assert_eq!(words, expected);
    assert!(notices.iter().all(|n| !n.settled), "another one began before that");
    assert_eq!(notices[0].record.as_ref().map(|r| (r.lasted_ms, r.to)), Some((None, None)), "as it was then");
    assert_eq!(notices[1].text, format!("main: {B} is master in place of {A} (crash); writes waited 880 ms"));
}

#[test]
fn a_loss_is_told_when_it_is_certain_and_when_it_is_known_better() {
    let lost = |offset_lost| with(&[FailoverRecord { offset_lost, ..record(1, Some((FailoverKind::Crash, A, B))) }]);
    let shown = [
        (10, lost(OffsetLost::AtMost(9))),
        (20, lost(OffsetLost::AtLeast(5))),
        (30, lost(OffsetLost::AtLeast(5))),
        (40, lost(OffsetLost::Between { at_least: 5, at_most: 9 })),
        (50, lost(OffsetLost::Between { at_least: 5, at_most: 9 })),
    ];
    let expected =
        [vec!["failover_begun", "failover_committed"], vec!["loss_known"], vec![], vec!["loss_known"], vec![]];
    assert_eq!(told(&mut seen(), &shown), expected);
}

/// What the promoted one lacked is on the master that an eager commit has left: lost once that is confirmed, and not if it
/// is undone.
#[test]
fn what_an_eager_commit_lacked_is_told_once_it_is_confirmed() {
    let lacking =
        FailoverRecord { offset_lost: OffsetLost::Exact(10), ..record(1, Some((FailoverKind::Planned, A, B))) };
    let eager = ServiceStatus { provisional: true, generation: 2, ..with(std::slice::from_ref(&lacking)) };
    let confirmed = ServiceStatus { provisional: false, ..eager.clone() };
    let back = FailoverRecord { generation: 3, ..record(2, Some((FailoverKind::Rollback, B, A))) };
    let undone = ServiceStatus { generation: 3, ..with(&[lacking, back]) };
    let begun = ["failover_begun", "failover_committed"].to_vec();
    assert_eq!(told(&mut seen(), &[(10, eager.clone()), (20, confirmed)]), [begun.clone(), vec!["loss_known"]]);
    let told = told(&mut seen(), &[(10, eager), (20, undone)]);
    assert_eq!(told[0], begun);
    assert!(!told[1].contains(&"loss_known"), "{told:?}");
}

#[test]
fn refusals_are_told_with_their_end() {
    let refused = ServiceStatus { phase: Phase::Unavailable, ..with(&[record(1, None)]) };
    let shown = [
        (10, with(&[record(1, None)])),
        (15_010, refused.clone()),
        (16_000, refused),
        (20_000, with(&[record(1, Some((FailoverKind::Crash, A, B)))])),
    ];
    let expected = [vec!["failover_begun"], vec!["hold_too_long"], vec![], vec!["failover_committed", "hold_ended"]];
    assert_eq!(told(&mut seen(), &shown), expected);
}

#[test]
fn sentinels_are_given_a_moment() {
    let heard = |up: usize| {
        let mut status = stable();
        status.sentinels.iter_mut().skip(up).for_each(|s| s.up = false);
        status
    };
    let shown = [
        (1000, heard(1)),
        (2000, heard(2)),
        (3000, heard(0)),
        (7999, heard(1)),
        (8000, heard(1)),
        (9000, heard(0)),
        (9500, heard(2)),
    ];
    let expected =
        [vec![], vec![], vec![], vec![], vec!["sentinel_quorum_lost"], vec![], vec!["sentinel_quorum_regained"]];
    assert_eq!(told(&mut seen(), &shown), expected);
    let fixed = ServiceStatus { sentinels: Vec::new(), ..stable() };
    assert_eq!(told(&mut seen(), &[(0, fixed.clone()), (60_000, fixed)]), [vec![], vec![] as Vec<&str>]);
}

#[test]
fn a_master_that_restarted_in_place_is_told_of() {
    let restarted = ServiceStatus { run_id_changes_total: 1, ..stable() };
    assert_eq!(told(&mut seen(), &[(1, restarted.clone()), (2, restarted)]), [vec!["master_restarted"], vec![]]);
}

#[test]
fn the_past_of_a_service_that_has_been_running_is_not_told() {
    let mut past = with(&[record(1, Some((FailoverKind::Crash, A, B))), record(2, None)]);
    past.run_id_changes_total = 3;
    past.sentinels.iter_mut().for_each(|s| s.up = false);
    let mut observer = Observer::new(Past::Nothing, &past);
    let decided = ServiceStatus { settled: false, ..with(&[record(2, Some((FailoverKind::Planned, B, A)))]) };
    let decided = ServiceStatus { run_id_changes_total: 3, ..decided };
    let expected = [vec![], vec!["failover_committed", "sentinel_quorum_regained"]];
    assert_eq!(told(&mut observer, &[(0, past), (9000, decided)]), expected);
}

#[test]
fn what_a_predecessor_has_told_is_not_told_again() {
    let changed = record(1, Some((FailoverKind::Crash, A, B)));
    let unsettled = ServiceStatus { settled: false, ..with(std::slice::from_ref(&changed)) };
    let settled = with(std::slice::from_ref(&changed));
    let begun = with(&[changed.clone(), record(2, None)]);
    // Its end has not come yet; it has; or another one is on.
    let mut observer = Observer::new(Past::Rest, &unsettled);
    let expected = [vec!["master_found"], vec!["failover_finished"], vec!["failover_begun"]];
    assert_eq!(told(&mut observer, &[(0, unsettled), (9000, settled.clone()), (9001, begun.clone())]), expected);
    let mut observer = Observer::new(Past::Rest, &settled);
    assert_eq!(told(&mut observer, &[(0, settled.clone()), (9000, settled)]), [vec!["master_found"], vec![]]);
    let decided = with(&[changed, record(2, Some((FailoverKind::Planned, B, A)))]);
    let mut observer = Observer::new(Past::Rest, &begun);
    let expected = [vec!["master_found"], vec!["failover_committed"], vec!["failover_finished"]];
    assert_eq!(told(&mut observer, &[(0, begun), (10, decided.clone()), (9000, decided)]), expected);
}
