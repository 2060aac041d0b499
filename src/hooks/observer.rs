//! What happened, from one status of a service to the next. Pure: it is shown each status with the time.
//!
//! Whole states are compared, so that nothing depends on seeing each of them: what began and ended in between is in the
//! records.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::config::HookEvent;
use crate::topology::record::{FailoverKind, FailoverRecord, OffsetLost};
use crate::topology::status::{Phase, ServiceStatus};

/// How long a majority of the Sentinels must be out of hearing. A connection that is lost is back within a second.
const QUORUM_GRACE: Duration = Duration::from_secs(5);
/// How long after its decision a failover is finished at the earliest: workers' counts come a second after it.
const FINISHED_AFTER: Duration = Duration::from_secs(3);

/// One thing to tell.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Notice {
    pub(super) event: HookEvent,
    /// In one sentence.
    pub(super) text: String,
    /// The failover that it is about.
    pub(super) record: Option<Arc<FailoverRecord>>,
    /// Whether that is settled.
    pub(super) settled: bool,
}

impl Notice {
    pub(super) fn new(event: HookEvent, text: String) -> Self {
        Self { event, text, record: None, settled: false }
    }

    fn of(event: HookEvent, record: &Arc<FailoverRecord>, text: String) -> Self {
        Self { record: Some(Arc::clone(record)), ..Self::new(event, text) }
    }
}

/// What is told of what has happened to a service before it is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Past {
    /// Everything: it has only begun.
    All,
    /// Who is master, and the end of a failover that has not come to it: another process has told the rest.
    Rest,
    /// Nothing: it has been running, and nobody was to be told.
    Nothing,
}

/// What has been told of one service.
#[derive(Debug, Default)]
pub(super) struct Observer {
    /// Number of the last record whose beginning was told.
    begun: u64,
    /// Number of the last record whose decision was told.
    decided: u64,
    /// The last change of master, until it is told that it is finished: the number of its record, and when it was seen.
    changed: Option<(u64, Moment)>,
    /// What was told to be lost, by record.
    losses: BTreeMap<u64, OffsetLost>,
    found: bool,
    refused: bool,
    restarts: u64,
    /// Since when no majority of the Sentinels is in hearing.
    quorum_missing: Option<Moment>,
    quorum_lost: bool,
}

impl Observer {
    /// Of a service that is so now.
    pub(super) fn new(past: Past, status: &ServiceStatus) -> Self {
        let mut observer = Self::default();
        if past == Past::All {
            return observer;
        }
        // A moment long ago: Sentinels that are out of hearing now have been so, as far as anybody knows.
        drop(observer.look(Moment(0), status));
        if past == Past::Rest {
            observer.found = false;
        }
        if past == Past::Nothing || status.settled {
            observer.changed = None;
        }
        if !has_quorum(status) {
            observer.quorum_lost = true;
        }
        observer
    }

    /// What happened since the last look, in the order in which it did.
    pub(super) fn look(&mut self, now: Moment, status: &ServiceStatus) -> Vec<Notice> {
        let mut notices = Vec::new();
        let service = &status.service;
        if !self.found
            && let Some(master) = status.master
        {
            self.found = true;
            // One that a failover brought is told of as such.
            if status.records.iter().all(|record| record.number <= self.begun) {
                notices.push(Notice::new(HookEvent::MasterFound, format!("{service}: {master} is master")));
            }
        }
        for record in &status.records {
            self.look_at(now, service, record, status, &mut notices);
        }
        self.losses.retain(|number, _| status.records.iter().any(|r| r.number == *number));
        let refused = status.phase == Phase::Unavailable;
        if refused != std::mem::replace(&mut self.refused, refused) {
            notices.push(if refused {
                Notice::new(HookEvent::HoldTooLong, format!("{service}: commands are refused: {}", status.why))
            } else {
                Notice::new(HookEvent::HoldEnded, format!("{service}: commands are not refused any more"))
            });
        }
        if status.run_id_changes_total > self.restarts {
            self.restarts = status.run_id_changes_total;
            let text =
                format!("{service}: the master {} is another process now: its data may be gone", node(status.master));
            notices.push(Notice::new(HookEvent::MasterRestarted, text));
        }
        let finished = self
            .changed
            .filter(|(_, seen)| status.settled && status.phase == Phase::Stable && now.since(*seen) >= FINISHED_AFTER);
        if let Some((number, _)) = finished {
            self.finish(number, true, status, &mut notices);
        }
        self.look_at_sentinels(now, status, &mut notices);
        notices
    }

    fn look_at(
        &mut self,
        now: Moment,
        service: &str,
        record: &Arc<FailoverRecord>,
        status: &ServiceStatus,
        notices: &mut Vec<Notice>,
    ) {
        if record.number > self.begun {
            if let Some((number, _)) = self.changed {
                self.finish(number, false, status, notices);
            }
            self.begun = record.number;
            // As it was then, also where more is known by now.
            let begun = FailoverRecord { lasted_ms: None, to: None, outcome: String::new(), ..(**record).clone() };
            let text = format!("{service}: writes are held: {}", record.cause);
            notices.push(Notice::of(HookEvent::FailoverBegun, &Arc::new(begun), text));
        }
        if record.lasted_ms.is_none() {
            return;
        }
        if record.number > self.decided {
            self.decided = record.number;
            let (from, to, kind) = (node(record.from), node(record.to), record.kind);
            let (event, text) = if kind == FailoverKind::Rollback {
                let text = format!("{service}: {to} is master again: the promotion of {from} was undone");
                (HookEvent::FailoverRolledBack, text)
            } else if record.to != record.from {
                let waited = record.writes_held_ms;
                let text = format!("{service}: {to} is master in place of {from} ({kind}); writes waited {waited} ms");
                (HookEvent::FailoverCommitted, text)
            } else {
                let text = format!("{service}: {to} stays master ({kind}): {}", record.outcome);
                (HookEvent::FailoverAborted, text)
            };
            notices.push(Notice::of(event, record, text));
            if record.to != record.from {
                self.changed = Some((record.number, now));
            }
        }
        // What an eager commit lacked is on the node that it left, and is not lost if it is undone.
        let is_open = status.provisional && status.generation == record.generation;
        let is_undone = status.records.iter().any(|r| {
            r.number > record.number && r.kind == FailoverKind::Rollback && (r.from, r.to) == (record.to, record.from)
        });
        if record.offset_lost.is_certain()
            && !is_open
            && !is_undone
            && self.losses.insert(record.number, record.offset_lost) != Some(record.offset_lost)
        {
            let text = format!("{service}: {} in failover {}", record.offset_lost, record.number);
            notices.push(Notice::of(HookEvent::LossKnown, record, text));
        }
    }

    fn finish(&mut self, number: u64, settled: bool, status: &ServiceStatus, notices: &mut Vec<Notice>) {
        self.changed = None;
        let Some(record) = status.records.iter().find(|r| r.number == number) else { return };
        let (service, to, counts) = (&status.service, node(record.to), record.counts);
        let text = if settled {
            format!(
                "{service}: every node follows {to}; {} commands waited, {} were refused, {} are of unknown outcome",
                counts.held, counts.refused, counts.unknown
            )
        } else {
            format!("{service}: writes are held again before every node followed {to}")
        };
        notices.push(Notice { settled, ..Notice::of(HookEvent::FailoverFinished, record, text) });
    }

    fn look_at_sentinels(&mut self, now: Moment, status: &ServiceStatus, notices: &mut Vec<Notice>) {
        let (up, all) = (status.sentinels.iter().filter(|s| s.up).count(), status.sentinels.len());
        let text = || format!("{}: {up} of {all} Sentinels are in hearing", status.service);
        if has_quorum(status) {
            self.quorum_missing = None;
            if std::mem::take(&mut self.quorum_lost) {
                notices.push(Notice::new(HookEvent::SentinelQuorumRegained, text()));
            }
        } else {
            let since = *self.quorum_missing.get_or_insert(now);
            if !self.quorum_lost && now.since(since) >= QUORUM_GRACE {
                self.quorum_lost = true;
                notices.push(Notice::new(HookEvent::SentinelQuorumLost, text()));
            }
        }
    }
}

/// Whether more than half of the Sentinels are in hearing. A service without any needs none.
fn has_quorum(status: &ServiceStatus) -> bool {
    let up = status.sentinels.iter().filter(|s| s.up).count();
    status.sentinels.is_empty() || up * 2 > status.sentinels.len()
}

fn node(node: Option<SocketAddr>) -> String {
    node.map_or_else(|| "nobody".to_owned(), |node| node.to_string())
}

#[cfg(test)]
#[path = "observer_tests.rs"]
mod tests;
