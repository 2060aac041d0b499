//! What a hook is told: JSON, and for programs the most important of it in their environment too.

use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::observer::Notice;
use crate::config::HookEvent;
use crate::topology::record::{FailoverKind, FailoverRecord, RecordCounts};
use crate::topology::status::{ServiceStatus, WallTime};

/// Of the shape of [`Notification`]. What is added to it leaves the number as it is.
pub const VERSION: u32 = 1;

/// The JSON document.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notification {
    /// [`VERSION`].
    pub version: u32,
    /// Told apart from all others; the same when it is sent again.
    pub id: String,
    /// What happened.
    pub event: HookEvent,
    /// To which service.
    pub service: String,
    /// Host name of the machine that this pointsman runs on: each of several tells for itself.
    pub instance: String,
    /// When it was noticed.
    pub time: WallTime,
    /// One sentence for people.
    pub text: String,
    /// The master last confirmed.
    pub master: Option<SocketAddr>,
    /// How often the confirmed master has changed since this pointsman began.
    pub generation: u64,
    /// Sentinel's number of the configuration in which it was confirmed: the same at every instance.
    pub config_epoch: Option<u64>,
    /// Sentinels known.
    pub sentinels: usize,
    /// Those of them that are in hearing.
    pub sentinels_up: usize,
    /// The failover that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<Failover>,
}

/// A failover as far as it has gone.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failover {
    /// Its number in the record, for `pointsman status --failover`.
    pub number: u64,
    /// What it was; not known before it is decided.
    pub kind: Option<FailoverKind>,
    /// When writes were held.
    pub began: WallTime,
    /// Milliseconds from there until it was decided.
    pub lasted_ms: Option<u64>,
    /// The master before.
    pub from: Option<SocketAddr>,
    /// The master after.
    pub to: Option<SocketAddr>,
    /// Why it began.
    pub cause: String,
    /// What decided it.
    pub outcome: String,
    /// Whether the Sentinels have yet to confirm it (`commit = "eager"`, switchovers).
    pub provisional: bool,
    /// Whether every node within reach follows the new master.
    pub settled: bool,
    /// How long writes have been held.
    pub writes_held_ms: u64,
    /// How long reads have been held.
    pub reads_held_ms: u64,
    /// What became of commands; complete a second after it was decided.
    pub commands: RecordCounts,
    /// What is lost of the replication stream; none before it is decided.
    pub lost_bytes: Option<LostBytes>,
}

/// Bounds of a loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LostBytes {
    /// So many for certain.
    pub at_least: u64,
    /// No more than these; none: nobody can tell.
    pub at_most: Option<u64>,
}

impl Failover {
    fn of(record: &FailoverRecord, status: &ServiceStatus, settled: bool) -> Self {
        let decided = record.lasted_ms.is_some();
        let (at_least, at_most) = record.offset_lost.bounds();
        Self {
            number: record.number,
            kind: decided.then_some(record.kind),
            began: record.began,
            lasted_ms: record.lasted_ms,
            from: record.from,
            to: record.to,
            cause: record.cause.clone(),
            outcome: record.outcome.clone(),
            provisional: decided && status.provisional && status.generation == record.generation,
            settled,
            writes_held_ms: record.writes_held_ms,
            reads_held_ms: record.reads_held_ms,
            commands: record.counts,
            lost_bytes: decided.then_some(LostBytes { at_least, at_most }),
        }
    }
}

/// Who tells.
#[derive(Debug)]
pub(super) struct Sender {
    instance: String,
    /// Of this process and no other.
    prefix: String,
    told: u64,
}

impl Sender {
    pub(super) fn of_process() -> Self {
        let instance = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { instance, prefix: format!("{:x}-{:08x}", WallTime::now().0, fastrand::u32(..)), told: 0 }
    }
}

/// What a hook is told, ready to be handed over.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) event: HookEvent,
    pub(super) service: String,
    pub(super) text: String,
    pub(super) master: Option<SocketAddr>,
    pub(super) json: Bytes,
}

impl Message {
    pub(super) fn new(notice: &Notice, status: &ServiceStatus, sender: &mut Sender) -> Self {
        sender.told += 1;
        let notification = Notification {
            version: VERSION,
            id: format!("{}-{}", sender.prefix, sender.told),
            event: notice.event,
            service: status.service.clone(),
            instance: sender.instance.clone(),
            time: WallTime::now(),
            text: notice.text.clone(),
            master: status.master,
            generation: status.generation,
            config_epoch: status.config_epoch,
            sentinels: status.sentinels.len(),
            sentinels_up: status.sentinels.iter().filter(|s| s.up).count(),
            failover: notice.record.as_deref().map(|record| Failover::of(record, status, notice.settled)),
        };
        let mut json = serde_json::to_vec(&notification).expect("strings and numbers can be written as JSON");
        json.push(b'\n');
        Self {
            event: notice.event,
            service: notification.service,
            text: notification.text,
            master: notification.master,
            json: json.into(),
        }
    }
}
