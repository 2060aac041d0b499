//! Who is master of a service, and what traffic may do there: the only words that pass between control and workers.
//!
//! Downwards goes a [`Topology`] (a whole state on a `watch` channel, so that a slow worker may skip some) and, beside
//! it, one [`Lease`] word per worker and service that takes effect at once. Upwards come [`Hint`]s and, through the
//! [`Link`], the acknowledgement that a worker has carried out a topology.

mod access;
mod event;
pub mod failover;
mod lease;
mod loss;
pub mod pause;
pub mod record;
pub mod status;
pub mod switchover;

pub use access::{Access, Pass};
pub use event::{Event, History, Message, Remembered, ReplicaView, RoleAnswer, SentinelId, SwitchoverEvent, View};
pub use lease::{Flow, Grant, Lease, Link};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;

/// After so long without an answer control takes a node for silent (and again each time as much has passed), when it asks
/// at a fast pace. Redis answers ROLE within a millisecond unless a command occupies it.
pub const FAST_PATIENCE: Duration = Duration::from_millis(250);

/// Where one kind of traffic goes, and whether it may.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Permission {
    /// The node; none until a master was ever confirmed.
    pub node: Option<SocketAddr>,
    /// Whether commands of this kind may be written to it.
    pub flow: Flow,
}

/// The state of one service as control last published it.
///
/// A whole state, never a difference: a worker that misses intermediate values loses nothing.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Topology {
    /// +1 with every publication of this service.
    pub seq: u64,
    /// +1 each time the confirmed master changes; 0 before the first.
    pub generation: u64,
    /// Where commands flagged `readonly` go.
    pub reads: Permission,
    /// Where all other commands go.
    pub writes: Permission,
    /// Replies to writes that were parked (arrived while writes were held) *before* this moment are known to have
    /// reached the candidate and may be delivered. Never goes back.
    ///
    /// For the parked ones that it does not cover: when `writes` flows again in the same generation they are
    /// delivered (there was no promotion), when the generation has changed their clients are closed (unknown outcome).
    pub parked_safe_before: Moment,
    /// An operator has paused the service: no session hands on another command, whatever flows. What was handed on goes its
    /// way and is answered: to a pause the master is as good as ever.
    pub paused: bool,
    /// One sentence for clients that are refused and for the log: why traffic does not flow. Empty when it does.
    pub why: Arc<str>,
}

impl Topology {
    /// Before anything is known: all traffic held.
    pub fn unknown() -> Self {
        let held = Permission { node: None, flow: Flow::Held };
        Self {
            seq: 0,
            generation: 0,
            reads: held,
            writes: held,
            parked_safe_before: Moment(0),
            paused: false,
            why: "no master is known yet".into(),
        }
    }
}

/// What a worker saw on a backend connection that control should know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hint {
    /// The node it is about.
    pub node: SocketAddr,
    /// What was seen.
    pub kind: HintKind,
}

/// The kinds of [`Hint`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum HintKind {
    /// A write was answered `-READONLY`.
    ReadOnly,
    /// `-LOADING`.
    Loading,
    /// `-MASTERDOWN`.
    MasterDown,
    /// The handshake of a new connection said a role other than master.
    NotMaster,
    /// A connect was refused.
    Refused,
    /// A connect found no answer in time, or no route.
    Unreachable,
    /// An established connection was closed or reset by the other side.
    Reset,
    /// The oldest command in flight has been unanswered for so long that a probe which begins now has waited in vain by the
    /// end of `silence_threshold`, or for a third of that.
    Silent,
}
