//! `/livez` and `/readyz`: whether to restart this process, and whether to send it clients.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{AdminState, words};
use crate::clock::Moment;
use crate::topology::status::{FlowStatus, FlowWord, Phase, SentinelStatus, ServiceStatus, WallTime};

/// What a health check says, and why, for people.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) well: bool,
    pub(super) body: String,
}

/// A thread that has not done its rounds for this long is stuck. They beat once a second; the rest is for a machine
/// that is short of CPU. (One that was suspended finds every heartbeat stale when it wakes, until the first beats: the
/// checker's own threshold is for that.)
const HEARTBEAT_STALE: Duration = Duration::from_secs(5);

/// How long no Sentinel and no master may be in reach before that is taken for a fault of this host: longer than the
/// first connects after a start take, and than a network that flaps.
const CUT_OFF_GRACE: Duration = Duration::from_secs(10);

/// Whether every thread does its rounds. Knows nothing of Redis: a restart would mend nothing there.
pub(super) fn live(state: &AdminState) -> Verdict {
    let now = Moment::now();
    let mut stale = String::new();
    for (i, heartbeat) in state.heartbeats.iter().enumerate() {
        let last = Moment(heartbeat.load(Ordering::Relaxed)).max(state.started);
        let age = now.since(last);
        if age > HEARTBEAT_STALE {
            let thread = if i < state.workers() { format!("worker {i}") } else { "control".to_owned() };
            stale += &format!("{thread}: no heartbeat for {:.1} s\n", age.as_secs_f64());
        }
    }
    if stale.is_empty() {
        Verdict { well: true, body: "live\n".to_owned() }
    } else {
        Verdict { well: false, body: format!("not live\n{stale}") }
    }
}

/// Whether this instance is worth sending clients to: it listens, is not draining and is not cut off.
///
/// That there is no master does not make it unready, since every other instance has the same fault: taking them all
/// away would turn a short wait into refused connections.
pub(super) fn ready(state: &AdminState) -> Verdict {
    let statuses: Vec<_> = state.services().into_iter().map(|s| (s.name, s.status.borrow().clone())).collect();
    let cut_off = is_cut_off(statuses.iter().map(|(_, status)| status.as_ref()), WallTime::now());
    let (well, mut body) = if state.is_draining() {
        (false, "not ready: draining\n".to_owned())
    } else if cut_off {
        (false, "not ready: cut off, neither a Sentinel nor a master is in reach\n".to_owned())
    } else {
        (true, "ready\n".to_owned())
    };
    for (name, status) in &statuses {
        describe(&mut body, name, status);
    }
    Verdict { well, body }
}

/// Whether this host reaches nothing at all: of no service does any traffic flow or any Sentinel answer, and not just
/// since a moment ago.
///
/// A static service has no Sentinels, so that its dead master looks the same from every host: alone it is no proof.
fn is_cut_off<'a>(services: impl Iterator<Item = &'a ServiceStatus>, now: WallTime) -> bool {
    let mut silent_sentinels = 0;
    for status in services {
        // In a pause nothing flows, and nobody can tell by that.
        let in_reach = status.paused.is_some()
            || flows(&status.reads)
            || flows(&status.writes)
            || status.sentinels.iter().any(|s| s.up);
        // `Unavailable` comes after `hold_timeout`, which was grace enough, and starts `since` anew.
        let lately = status.phase != Phase::Unavailable
            && u128::from(now.0.saturating_sub(status.since.0)) < CUT_OFF_GRACE.as_millis();
        if in_reach || lately {
            return false;
        }
        silent_sentinels += status.sentinels.len();
    }
    silent_sentinels > 0
}

fn flows(traffic: &FlowStatus) -> bool {
    traffic.flow == FlowWord::Flowing
}

/// How many clients there are, and of each service what the first line of [`describe`] says.
pub(super) fn summary(state: &AdminState) -> String {
    let services = state.services();
    let clients: u64 = services.iter().map(|service| service.stats.sum(|s| &s.clients)).sum();
    let draining = if state.is_draining() { "draining, " } else { "" };
    let mut summary = format!("{draining}{clients} client{}", if clients == 1 { "" } else { "s" });
    for service in &services {
        summary += "; ";
        summary += &traffic(&service.name, &service.status.borrow());
    }
    summary
}

fn describe(body: &mut String, name: &str, status: &ServiceStatus) {
    // Writing to a String cannot fail.
    let _ = writeln!(body, "{}", traffic(name, status));
    for sentinel in &status.sentinels {
        let _ = writeln!(body, "  sentinel {}: {}", sentinel.endpoint, said(sentinel));
    }
}

fn traffic(name: &str, status: &ServiceStatus) -> String {
    let master = match status.master {
        Some(master) => format!("master {master}, generation {}", status.generation),
        None => "no master".to_owned(),
    };
    let (reads, writes) = (word(&status.reads), word(&status.writes));
    let why = words::why(status).map(|why| format!(": {why}")).unwrap_or_default();
    format!("{name}: {master}; reads {reads}, writes {writes}{why}")
}

fn word(traffic: &FlowStatus) -> &'static str {
    match traffic.flow {
        FlowWord::Flowing => "flowing",
        FlowWord::Held => "held",
        FlowWord::Refused => "refused",
    }
}

fn said(sentinel: &SentinelStatus) -> String {
    let mut said = if sentinel.up { "up" } else { "down" }.to_owned();
    if let Some(master) = sentinel.master {
        said += &format!(", names {master}");
    }
    if let Some(epoch) = sentinel.epoch {
        said += &format!(", epoch {epoch}");
    }
    if let Some(error) = &sentinel.error {
        said += &format!(": {error}");
    }
    said
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use tokio::sync::{mpsc, watch};

    use super::*;

    #[test]
    fn a_thread_that_stops_is_named() {
        let heartbeats: Arc<Vec<AtomicU64>> = Arc::new((0..3).map(|_| AtomicU64::new(0)).collect());
        let mut state =
            AdminState::new(watch::channel(Vec::new()).1, heartbeats.clone(), mpsc::channel(1).0, Default::default());
        assert!(live(&state).well, "nobody has written anything yet");

        let now = Moment::now();
        let beat = |ages_ms: [u64; 3]| {
            for (heartbeat, age) in heartbeats.iter().zip(ages_ms) {
                heartbeat.store(now.0.saturating_sub(age), Ordering::Relaxed);
            }
        };
        state.started = Moment(0);
        beat([0, 4_000, 1_000]);
        assert!(live(&state).well);
        beat([0, 6_000, 0]);
        let verdict = live(&state);
        assert!(!verdict.well && verdict.body.starts_with("not live\nworker 1: no heartbeat for 6."), "{verdict:?}");
        beat([0, 0, 6_000]);
        heartbeats[0].store(Moment::MAX.0, Ordering::Relaxed);
        let verdict = live(&state);
        assert!(!verdict.well && verdict.body.starts_with("not live\ncontrol: "), "{verdict:?}");
    }

    fn sentinel(up: bool) -> SentinelStatus {
        SentinelStatus {
            endpoint: "10.0.0.1:26379".parse().unwrap(),
            learned: false,
            up,
            master: None,
            epoch: None,
            master_down: false,
            failing_over: false,
            tilt: false,
            heard: None,
            error: None,
        }
    }

    fn out_of_reach(phase: Phase, since: u64) -> ServiceStatus {
        ServiceStatus {
            phase,
            since: WallTime(since),
            sentinels: vec![sentinel(false), sentinel(false)],
            ..ServiceStatus::unknown("s")
        }
    }

    fn cut_off(services: &[ServiceStatus]) -> bool {
        is_cut_off(services.iter(), WallTime(100_000))
    }

    #[test]
    fn cut_off_means_that_nothing_is_in_reach_for_a_while() {
        assert!(cut_off(&[out_of_reach(Phase::Held, 90_000), out_of_reach(Phase::Starting, 0)]));
        assert!(!cut_off(&[out_of_reach(Phase::Held, 90_001)]), "within the grace");
        assert!(cut_off(&[out_of_reach(Phase::Unavailable, 99_999)]), "the hold was the grace");
    }

    #[test]
    fn one_sentinel_or_one_flowing_service_is_enough() {
        let mut heard = out_of_reach(Phase::Unavailable, 0);
        heard.sentinels[1].up = true;
        assert!(!cut_off(&[out_of_reach(Phase::Unavailable, 0), heard]));
        let mut reading = out_of_reach(Phase::Held, 0);
        reading.reads.flow = FlowWord::Flowing;
        assert!(!cut_off(&[out_of_reach(Phase::Unavailable, 0), reading]));
    }

    #[test]
    fn a_static_master_that_is_down_is_down_for_everybody() {
        let mut fixed = out_of_reach(Phase::Unavailable, 0);
        fixed.sentinels.clear();
        assert!(!cut_off(&[fixed.clone()]));
        assert!(cut_off(&[fixed, out_of_reach(Phase::Unavailable, 0)]));
        assert!(!cut_off(&[]));
    }
}
