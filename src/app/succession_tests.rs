use serde_json::json;

use super::*;

const CHANGED: u64 = 10_000_000;

fn status(phase: Phase) -> ServiceStatus {
    ServiceStatus { phase, why: "the master refuses connections".to_owned(), ..ServiceStatus::unknown("main") }
}

/// One whose master changed at [`CHANGED`], or that kept it then.
fn behind_a_failover(phase: Phase, changed: bool, unsettled: Option<&str>) -> ServiceStatus {
    let record = json!({
        "number": 3, "began": WallTime(CHANGED - 900), "lasted_ms": 900, "kind": "crash", "from": "10.0.0.1:6379",
        "to": if changed { "10.0.0.2:6379" } else { "10.0.0.1:6379" }, "generation": 2, "cause": "", "outcome": "",
        "writes_held_ms": 900, "reads_held_ms": 0,
        "counts": {"held": 0, "parked": 0, "resent": 0, "refused": 0, "unknown": 0},
        "offset_lost": {"known": "unknown"}, "events": [], "events_dropped": 0,
    });
    let records = vec![serde_json::from_value(record).unwrap()];
    ServiceStatus { records, settled: unsettled.is_none(), unsettled: unsettled.map(str::to_owned), ..status(phase) }
}

fn so_long_after(status: &ServiceStatus, ms: u64) -> Option<String> {
    unfinished(status, WallTime(CHANGED + ms))
}

#[test]
fn who_waits_for_a_master_keeps_its_place_until_it_refuses() {
    let held = "writes of `main` are held (the master refuses connections): try again when they flow";
    assert_eq!(so_long_after(&status(Phase::Held), 0).as_deref(), Some(held));
    for phase in [Phase::Starting, Phase::Stable, Phase::Unavailable, Phase::Fenced] {
        assert_eq!(so_long_after(&status(phase), 0), None, "{phase:?}");
    }
    // Another process may be what helps.
    assert_eq!(so_long_after(&behind_a_failover(Phase::Unavailable, true, Some("no master")), 1), None);
}

#[test]
fn a_failover_is_over_when_all_is_known_of_it() {
    for phase in [Phase::Stable, Phase::Fenced] {
        let settled = behind_a_failover(phase, true, None);
        let incomplete = "failover 3 of `main` is not over (its record is not complete): try again in 1 s";
        assert_eq!(so_long_after(&settled, 4999).as_deref(), Some(incomplete));
        assert_eq!(so_long_after(&settled, 5000), None);
    }
    let mut unsettled = behind_a_failover(Phase::Stable, true, Some("10.0.0.1:6379 says master"));
    let stray = "failover 3 of `main` is not over (10.0.0.1:6379 says master): try again in 21 s";
    assert_eq!(so_long_after(&unsettled, 10_000).as_deref(), Some(stray));
    assert!(so_long_after(&unsettled, 29_999).is_some());
    assert_eq!(so_long_after(&unsettled, 30_000), None);
    // Whoever came now might take the node that it left for the master.
    unsettled.provisional = true;
    assert!(so_long_after(&unsettled, 60_000).unwrap().ends_with("try again in 1 s"));
}

#[test]
fn a_master_that_stayed_and_a_clock_that_was_set_back_keep_nobody() {
    assert_eq!(so_long_after(&behind_a_failover(Phase::Stable, false, None), 0), None);
    let changed = behind_a_failover(Phase::Stable, true, None);
    assert_eq!(unfinished(&changed, WallTime(CHANGED - 3_600_000)), None);
}
