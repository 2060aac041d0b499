//! What can happen to a service, as the failover machine is told: all addresses resolved, all texts parsed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Hint;
use super::pause::Pause;
use crate::addr::Endpoint;
use crate::clock::Moment;

/// A Sentinel, by the number control gave it when it first heard of it. Stable while the process runs; what is said by one that is not
/// known (any more) is not heard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SentinelId(pub u16);

/// One thing that happened.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A Sentinel became known (configured, or learned through `SENTINEL SENTINELS`). It is out of hearing until `SentinelUp`.
    SentinelKnown(SentinelId, Endpoint),
    /// Its subscription is confirmed and it has answered a poll since.
    SentinelUp(SentinelId),
    /// Subscription or poll link lost, or silent for longer than the read timeout.
    SentinelDown(SentinelId),
    /// It answered a poll: `GET-MASTER-ADDR-BY-NAME` and `SENTINEL MASTER` in one pipeline.
    View(SentinelId, View),
    /// It answered that it does not know a master of this name.
    UnknownName(SentinelId),
    /// It published something about this service (or about no service in particular).
    Published(SentinelId, Message),
    /// A node was asked for its role at `asked` and answered, or did not.
    Role {
        /// The node.
        node: SocketAddr,
        /// When the question was handed to the kernel; what the answer says held at some time after it.
        asked: Moment,
        /// The answer.
        answer: RoleAnswer,
    },
    /// What the last process knew when it ended; only at the start.
    Remembered(Remembered),
    /// A worker saw something on a backend connection.
    Hint(Hint),
    /// A learned Sentinel is gone for good: no other one lists it as reachable, and it does not answer.
    SentinelForgotten(SentinelId),
    /// A static service's configured master resolves to this address from now on.
    StaticMaster(SocketAddr),
    /// Every worker has carried out the topology of this sequence number and all before it, or has had its sockets to
    /// the old master shut down.
    Acknowledged(u64),
    /// Every worker has on the master of this generation what its sessions had on the one before.
    Prepared(u64),
    /// What a switchover wants of the machine.
    Switchover(SwitchoverEvent),
    /// An operator pauses the service, or ends the pause.
    Paused(Pause),
    /// Control was not run for longer than a lease lasts (machine suspended or starved): what it knows is old.
    Gap,
}

/// What a switchover wants of the failover machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SwitchoverEvent {
    /// Everybody is to be asked more often from now on.
    Begin,
    /// Hold writes. One of these nodes is to be master. Has no effect while writes do not flow.
    Hold(BTreeSet<SocketAddr>),
    /// A Sentinel is being told to fail over, and all of these nodes have all that the master had acknowledged: from
    /// now on it counts when one of them says master.
    Ordered,
    /// It was given up: writes flow again as soon as nothing speaks against it.
    Released,
}

/// What one Sentinel says of the service when polled.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct View {
    /// `GET-MASTER-ADDR-BY-NAME`, resolved and mapped. (Not the `ip` of `SENTINEL MASTER`: in `reconf_slaves` that is
    /// still the old address with the new epoch.)
    pub master: SocketAddr,
    /// `config-epoch` of `SENTINEL MASTER`, read in the same pipeline.
    pub epoch: u64,
    /// Whether its `flags` carry `failover_in_progress`.
    pub failover_in_progress: bool,
    /// Whether its `flags` carry `s_down` or `o_down`: this Sentinel cannot reach the master.
    pub master_down: bool,
    /// Whether its last INFO of the master said master (`role-reported`). It asks every 10 s, and acts on what it knows.
    pub reported_master: bool,
    /// The replicas it knows, resolved and mapped.
    pub replicas: Vec<ReplicaView>,
    /// `quorum`.
    pub quorum: u32,
    /// `down-after-milliseconds`.
    pub down_after: Duration,
}

/// A replica as one Sentinel lists it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReplicaView {
    /// Its address, resolved and mapped.
    pub node: SocketAddr,
    /// Neither `s_down` nor `disconnected`.
    pub reachable: bool,
    /// `master-link-status:ok`.
    pub link_up: bool,
    /// `slave-priority`; 0 is never promoted.
    pub priority: u32,
    /// `slave-repl-offset`.
    pub offset: u64,
    /// Whether its last INFO of it said replica (`role-reported`). One that still has it down as a master demotes it
    /// again when it is promoted.
    pub reported_replica: bool,
}

impl ReplicaView {
    /// One that nothing speaks against, for views that no Sentinel has given: those of tests and models.
    pub fn healthy(node: SocketAddr) -> Self {
        Self { node, reachable: true, link_up: true, priority: 100, offset: 0, reported_replica: true }
    }
}

/// What a Sentinel published, for messages that concern the machine (Sentinel `sentinelEvent`; see Redis' Sentinel
/// documentation, "Pub/Sub messages").
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Message {
    /// `+try-failover`.
    TryFailover,
    /// `+elected-leader`.
    ElectedLeader,
    /// `+selected-slave`: the candidate.
    SelectedSlave(SocketAddr),
    /// `+failover-state-wait-promotion`: SLAVEOF NO ONE was sent to the candidate.
    WaitPromotion(SocketAddr),
    /// `+promoted-slave`: the leader advertises the new address from now on.
    PromotedSlave(SocketAddr),
    /// `-failover-abort-not-elected`.
    FailoverAborted,
    /// `-failover-abort-no-good-slave`: it leads, and finds no replica that it could promote.
    NoGoodReplica,
    /// `-failover-abort-slave-timeout`: the candidate may be promoted already.
    FailoverAbortedSlaveTimeout,
    /// `+failover-end`, `+failover-end-for-timeout`.
    FailoverEnd,
    /// `+switch-master` old → new.
    SwitchMaster {
        /// The address before.
        old: SocketAddr,
        /// The address from now on.
        new: SocketAddr,
    },
    /// `+new-epoch` or `+vote-for-leader`: some service's failover may be under way.
    NewEpoch(u64),
    /// `+sdown` of the master.
    MasterDown,
    /// `-sdown` of the master.
    MasterUp,
    /// `+odown` of the master.
    MasterObjectivelyDown,
    /// `+reboot` of the master: its run id changed under the same address.
    MasterRebooted,
    /// `-role-change`/`+role-change`: this node reported another role than the configuration says.
    RoleChange(SocketAddr),
    /// `+convert-to-slave` or `+fix-slave-config`.
    ConvertToSlave(SocketAddr),
    /// `+reset-master`, `+monitor`, `-monitor`, `+set`, `+slave`, `+sentinel`, …: ask this Sentinel again.
    ConfigChanged,
    /// `+tilt` / `-tilt`.
    Tilt(bool),
}

/// What a node answered to `ROLE` (with `INFO server`'s run id where it was asked).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum RoleAnswer {
    /// It says master.
    Master {
        /// Its replication offset.
        offset: u64,
        /// Replicas connected to it: address, last acknowledged offset.
        replicas: Vec<(SocketAddr, u64)>,
        /// `run_id`, which changes when the process restarts.
        run_id: Option<String>,
        /// Where its data comes from; none if it may not be asked.
        history: Option<Arc<History>>,
    },
    /// It says replica.
    Replica {
        /// Of whom.
        of: SocketAddr,
        /// Whether its link says `connected`.
        connected: bool,
        /// Its replication offset.
        offset: u64,
    },
    /// Connect refused.
    Refused,
    /// No answer in time, unreachable, or the connection broke; `true` if the connection was reset or closed.
    Silent {
        /// Closed rather than silent.
        closed: bool,
    },
    /// It answered an error: `-LOADING`, `-NOAUTH`, `-WRONGPASS`, `-NOPERM` … (first word kept).
    Error(String),
}

/// A master's replication history (`INFO replication`). Offsets count the bytes of one stream, and compare only between
/// nodes that are known to have shared it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct History {
    /// `master_replid`: names its stream. A promotion begins a new one, and so does a restart.
    pub id: String,
    /// The stream that it followed until it was promoted, and the last offset that it had of that
    /// (`master_replid2`, `second_repl_offset` - 1).
    pub followed: Option<(String, u64)>,
}

/// A confirmed master as it was remembered over a restart of pointsman.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Remembered {
    /// The node.
    pub master: SocketAddr,
    /// The config epoch it was confirmed with.
    pub epoch: u64,
    /// Its `run_id`: another one means that its process was restarted, and its data may be old.
    pub run_id: String,
}
