//! The flight recorder: what happened in the last failovers, for people and for counters.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use super::loss::OffsetLost;
use super::status::WallTime;
use crate::clock::Moment;

/// Records kept; the oldest goes first. Enough for a night of trouble, small enough for one `/status` answer.
pub const RECORDS: usize = 32;

/// Events kept of one record: as many of the first as of the last, since a long outage repeats itself in the middle. A
/// failover has 15 to 40. What is not kept is counted.
pub const EVENTS: usize = 128;

/// What sort of interruption it was; label `kind` of the counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailoverKind {
    /// The master changed after a Sentinel had announced it while the old master still answered.
    Planned,
    /// The master was changed by a switchover of this pointsman.
    Switchover,
    /// The master changed after the old one had stopped answering.
    Crash,
    /// The master changed and nobody had announced it: a Sentinel that is out of hearing led, or the Sentinels were
    /// told to monitor another node.
    Unannounced,
    /// A provisional commit was undone and an earlier master confirmed again.
    Rollback,
    /// A failover was announced, or a switchover begun, and the master stayed.
    Aborted,
    /// The master did not answer, or not as master, and then did again; nobody was promoted.
    Interruption,
}

/// All kinds, in the order of the label values.
pub const FAILOVER_KINDS: [FailoverKind; 7] = [
    FailoverKind::Planned,
    FailoverKind::Switchover,
    FailoverKind::Crash,
    FailoverKind::Unannounced,
    FailoverKind::Rollback,
    FailoverKind::Aborted,
    FailoverKind::Interruption,
];

impl FailoverKind {
    /// The label value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Switchover => "switchover",
            Self::Crash => "crash",
            Self::Unannounced => "unannounced",
            Self::Rollback => "rollback",
            Self::Aborted => "aborted",
            Self::Interruption => "interruption",
        }
    }
}

impl fmt::Display for FailoverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What workers did to commands because of holds: totals since start, or the share of one record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RecordCounts {
    /// Commands that had to wait.
    pub held: u64,
    /// Replies that were parked.
    pub parked: u64,
    /// Commands sent again.
    pub resent: u64,
    /// Commands answered with an error because waiting took too long.
    pub refused: u64,
    /// Writes whose outcome is unknown; their clients were closed.
    pub unknown: u64,
}

impl RecordCounts {
    /// What was added since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            held: self.held.saturating_sub(earlier.held),
            parked: self.parked.saturating_sub(earlier.parked),
            resent: self.resent.saturating_sub(earlier.resent),
            refused: self.refused.saturating_sub(earlier.refused),
            unknown: self.unknown.saturating_sub(earlier.unknown),
        }
    }
}

/// One thing that happened in the course of a record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecordEvent {
    /// Milliseconds since the record began.
    pub ms: u64,
    /// Who said it: `Sentinel ADDR`, the address of a node, `worker`, `pointsman`.
    pub source: String,
    /// What, in the words of the source.
    pub text: String,
}

/// One failover, or one hold that ended without one.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FailoverRecord {
    /// Counts from 1 while the process runs.
    pub number: u64,
    /// When writes were held.
    pub began: WallTime,
    /// Milliseconds from there to the end; none while it lasts.
    pub lasted_ms: Option<u64>,
    /// What it turned out to be; while it lasts, what it looks like.
    pub kind: FailoverKind,
    /// The master before.
    pub from: Option<SocketAddr>,
    /// The master after; none while it lasts.
    pub to: Option<SocketAddr>,
    /// The generation after.
    pub generation: u64,
    /// Why it began.
    pub cause: String,
    /// What ended it: who confirmed the new master, or why the old one goes on.
    pub outcome: String,
    /// How long writes did not flow.
    pub writes_held_ms: u64,
    /// How long reads did not flow.
    pub reads_held_ms: u64,
    /// What was done to commands meanwhile.
    pub counts: RecordCounts,
    /// What the promoted node lacked.
    pub offset_lost: OffsetLost,
    /// What happened, in order.
    pub events: Vec<RecordEvent>,
    /// Events in the middle that were not kept, since there were more than [`EVENTS`].
    pub events_dropped: u32,
}

impl fmt::Display for FailoverRecord {
    /// One line for the log that tells the whole story.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = |n: Option<SocketAddr>| n.map_or_else(|| "nobody".to_owned(), |n| n.to_string());
        let c = self.counts;
        write!(
            f,
            "failover {} ({}): {} -> {} because {}; {}; writes waited {} ms, reads {} ms; commands held {}, \
             parked {}, sent again {}, refused {}, of unknown outcome {}; {}",
            self.number,
            self.kind,
            node(self.from),
            node(self.to),
            self.cause,
            self.outcome,
            self.writes_held_ms,
            self.reads_held_ms,
            c.held,
            c.parked,
            c.resent,
            c.refused,
            c.unknown,
            self.offset_lost
        )
    }
}

/// The last records and the totals. For people: nothing is decided by them.
#[derive(Clone, Debug)]
pub struct Recorder {
    wall_at_zero: WallTime,
    opened: u64,
    /// The one that is open, and when it began.
    open: Option<(Moment, FailoverRecord)>,
    /// The others, and when each began.
    closed: VecDeque<(Moment, Arc<FailoverRecord>)>,
    /// What `writes_held_ms` and `reads_held_ms` were when the record that was closed last began, until traffic flows again:
    /// behind the switch writes still wait for what sessions need.
    last_held: Option<(u64, u64)>,
    totals: [u64; FAILOVER_KINDS.len()],
    /// Bytes that are lost for certain, over all records.
    lost_bytes: u64,
    /// The record of the last change of the master while that may be undone: what it lost may be found again.
    unconfirmed: Option<u64>,
    /// Of the last record in which the master changed or may have lost something: its number, its loss.
    last_loss: Option<(u64, OffsetLost)>,
    tracked: Moment,
    reads_flow: bool,
    writes_flow: bool,
    reads_held_ms: u64,
    writes_held_ms: u64,
}

/// Nothing: whoever holds records is not another for it.
impl Hash for Recorder {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl Recorder {
    /// An empty one.
    pub fn new(now: Moment) -> Self {
        Self {
            wall_at_zero: WallTime(0),
            opened: 0,
            open: None,
            closed: VecDeque::with_capacity(RECORDS),
            last_held: None,
            totals: [0; FAILOVER_KINDS.len()],
            lost_bytes: 0,
            unconfirmed: None,
            last_loss: None,
            tracked: now,
            reads_flow: true,
            writes_flow: true,
            reads_held_ms: 0,
            writes_held_ms: 0,
        }
    }

    pub(super) fn set_wall_clock(&mut self, at_zero: WallTime) {
        self.wall_at_zero = at_zero;
    }

    pub(super) fn wall(&self, moment: Moment) -> WallTime {
        WallTime(self.wall_at_zero.0.saturating_add(moment.0))
    }

    /// What flows from `now` on; the time until `now` is counted by what flowed before.
    pub(super) fn track(&mut self, now: Moment, reads_flow: bool, writes_flow: bool) {
        let ms = u64::try_from(now.since(self.tracked).as_millis()).unwrap_or(u64::MAX);
        if !self.reads_flow {
            self.reads_held_ms += ms;
        }
        if !self.writes_flow {
            self.writes_held_ms += ms;
        }
        (self.tracked, self.reads_flow, self.writes_flow) = (now, reads_flow, writes_flow);
        if let (Some((writes_before, reads_before)), Some((_, record))) = (self.last_held, self.closed.back_mut()) {
            let (writes, reads) = (self.writes_held_ms - writes_before, self.reads_held_ms - reads_before);
            if (record.writes_held_ms, record.reads_held_ms) != (writes, reads) {
                let record = Arc::make_mut(record);
                (record.writes_held_ms, record.reads_held_ms) = (writes, reads);
            }
            if reads_flow && writes_flow {
                self.last_held = None;
            }
        }
    }

    /// What does not flow from now on is no matter of the record that was closed last.
    pub(super) fn end_wait(&mut self) {
        self.last_held = None;
    }

    pub(super) fn open(&mut self, now: Moment, from: Option<SocketAddr>, cause: String) -> u64 {
        self.track(now, self.reads_flow, self.writes_flow);
        self.last_held = None;
        self.opened += 1;
        let record = FailoverRecord {
            number: self.opened,
            began: self.wall(now),
            lasted_ms: None,
            kind: FailoverKind::Interruption,
            from,
            to: None,
            generation: 0,
            cause,
            outcome: String::new(),
            // Counted from here; the difference is taken when the record is read or closed.
            writes_held_ms: self.writes_held_ms,
            reads_held_ms: self.reads_held_ms,
            counts: RecordCounts::default(),
            offset_lost: OffsetLost::Unknown,
            events: Vec::new(),
            events_dropped: 0,
        };
        self.open = Some((now, record));
        self.opened
    }

    /// Adds to the open record; without one, nothing is recorded.
    pub(super) fn event(&mut self, now: Moment, source: &str, text: impl Into<String>) {
        if let Some((began, record)) = &mut self.open {
            record.add(now.since(*began), source, text.into());
        }
    }

    /// Adds to the record that was closed last.
    pub(super) fn late_event(&mut self, now: Moment, source: &str, text: &str) {
        if let Some((began, record)) = self.closed.back_mut() {
            Arc::make_mut(record).add(now.since(*began), source, text.to_owned());
        }
    }

    /// Adds to the open record, or to the one that was closed last.
    pub fn note(&mut self, now: Moment, source: &str, text: &str) {
        if self.open.is_some() {
            self.event(now, source, text);
        } else {
            self.late_event(now, source, text);
        }
    }

    pub(super) fn close(
        &mut self,
        now: Moment,
        kind: FailoverKind,
        to: SocketAddr,
        generation: u64,
        outcome: String,
        offset_lost: OffsetLost,
    ) -> u64 {
        self.track(now, self.reads_flow, self.writes_flow);
        self.event(now, "pointsman", outcome.clone());
        let Some((began, record)) = self.open.take() else { return 0 };
        self.last_held = Some((record.writes_held_ms, record.reads_held_ms));
        let record =
            FailoverRecord { kind, to: Some(to), generation, outcome, offset_lost, ..self.running(now, began, record) };
        let number = record.number;
        self.totals[kind as usize] += 1;
        if record.from != record.to || offset_lost != OffsetLost::Exact(0) {
            self.last_loss = Some((number, offset_lost));
        }
        if record.from != record.to {
            self.unconfirmed = Some(number);
        }
        if self.closed.len() == RECORDS {
            self.closed.pop_front();
        }
        self.closed.push_back((began, Arc::new(record)));
        number
    }

    /// The last change of the master is final, and so is what it lost.
    pub(super) fn confirm_loss(&mut self) {
        let record = self.unconfirmed.take().and_then(|number| self.closed(number));
        self.lost_bytes += record.map_or(0, |r| r.offset_lost.bounds().0);
    }

    /// The open record with its durations as they are now.
    fn running(&self, now: Moment, began: Moment, record: FailoverRecord) -> FailoverRecord {
        FailoverRecord {
            lasted_ms: Some(u64::try_from(now.since(began).as_millis()).unwrap_or(u64::MAX)),
            writes_held_ms: self.writes_held_ms - record.writes_held_ms,
            reads_held_ms: self.reads_held_ms - record.reads_held_ms,
            ..record
        }
    }

    /// What is known of a loss is known better, since a node told more.
    pub(super) fn amend_loss(&mut self, now: Moment, number: u64, source: &str, text: &str, loss: OffsetLost) {
        let Some((began, record)) = self.closed.iter_mut().find(|(_, r)| r.number == number) else { return };
        let record = Arc::make_mut(record);
        record.add(now.since(*began), source, text.to_owned());
        // A lower bound only ever rises, and so does the total.
        if self.unconfirmed != Some(number) {
            self.lost_bytes += loss.bounds().0.saturating_sub(record.offset_lost.bounds().0);
        }
        record.offset_lost = loss;
        if let Some((_, last)) = self.last_loss.as_mut().filter(|(last, _)| *last == number) {
            *last = loss;
        }
    }

    /// Gives a closed record its share of the workers' counts.
    pub fn set_counts(&mut self, number: u64, counts: RecordCounts) {
        if let Some((_, record)) = self.closed.iter_mut().find(|(_, r)| r.number == number) {
            Arc::make_mut(record).counts = counts;
        }
    }

    /// A closed record.
    pub fn closed(&self, number: u64) -> Option<&Arc<FailoverRecord>> {
        self.closed.iter().map(|(_, record)| record).find(|r| r.number == number)
    }

    pub(super) fn records(&self, now: Moment) -> Vec<Arc<FailoverRecord>> {
        let open = self.open.as_ref().map(|(began, record)| {
            Arc::new(FailoverRecord { lasted_ms: None, ..self.running(now, *began, record.clone()) })
        });
        self.closed.iter().map(|(_, record)| record).cloned().chain(open).collect()
    }

    pub(super) fn totals(&self) -> Vec<(FailoverKind, u64)> {
        FAILOVER_KINDS.iter().map(|k| (*k, self.totals[*k as usize])).collect()
    }

    pub(super) fn lost_bytes(&self) -> u64 {
        self.lost_bytes
    }

    pub(super) fn last_loss(&self) -> Option<OffsetLost> {
        self.last_loss.map(|(_, loss)| loss)
    }

    pub(super) fn writes_held_ms(&self) -> u64 {
        self.writes_held_ms
    }

    pub(super) fn reads_held_ms(&self) -> u64 {
        self.reads_held_ms
    }
}

impl FailoverRecord {
    fn add(&mut self, since: Duration, source: &str, text: String) {
        if self.events.len() == EVENTS {
            self.events_dropped += 1;
            self.events.remove(EVENTS / 2);
        }
        let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.events.push(RecordEvent { ms, source: source.to_owned(), text });
    }
}
