//! What the procedure looks at, what it asks for and what it is answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::Moment;
use crate::topology::{SentinelId, View};

/// The service as the failover machine knows it at one moment.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Generation of the confirmed master.
    pub generation: u64,
    /// The confirmed master.
    pub master: Option<SocketAddr>,
    /// Whether Sentinels have confirmed it; otherwise its own word was enough.
    pub confirmed: bool,
    /// Whether writes flow.
    pub flowing: bool,
    /// Whether the hold that a switchover asked for is on.
    pub held: bool,
    /// Whether in it every worker has acknowledged and every write that was under way is answered.
    pub quiet: bool,
    /// In a hold: what is the matter with the master.
    pub trouble: Option<String>,
    /// What keeps the service from being settled.
    pub unsettled: Option<String>,
    /// How long commands may wait.
    pub hold_timeout: Duration,
    /// The nodes, the master among them.
    pub nodes: BTreeMap<SocketAddr, NodeSurvey>,
    /// The Sentinels.
    pub sentinels: Vec<SentinelSurvey>,
}

impl Survey {
    /// What this Sentinel says, if it is in hearing.
    pub(super) fn view(&self, id: SentinelId) -> Option<&View> {
        self.sentinels.iter().find(|s| s.id == id)?.view.as_ref()
    }

    /// The replication offset of a node that is the master or is connected to it, if asked after `after`.
    pub(super) fn offset(&self, node: SocketAddr, after: Moment) -> Option<u64> {
        self.nodes.get(&node).filter(|n| n.asked > after)?.offset
    }
}

/// A node as it answered last.
#[derive(Clone, Debug)]
pub struct NodeSurvey {
    /// When it was asked.
    pub asked: Moment,
    /// Its replication offset, if it is the master or connected to it.
    pub offset: Option<u64>,
    /// Its answer in words.
    pub says: String,
}

/// A Sentinel as it answered last.
#[derive(Clone, Debug)]
pub struct SentinelSurvey {
    /// Its number.
    pub id: SentinelId,
    /// What people call it.
    pub name: String,
    /// Whether it is in TILT.
    pub tilt: bool,
    /// What it says; none while it is out of hearing.
    pub view: Option<View>,
}

/// A server that is asked for something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Server {
    /// A node, as pointsman's own user.
    Node(SocketAddr),
    /// A Sentinel.
    Sentinel(SentinelId),
}

/// Something that a command may need a permission for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    /// `CLIENT PAUSE`.
    Pause,
    /// `REPLICAOF`.
    Follow,
    /// `CONFIG SET replica-priority`.
    SetPriority,
    /// `SENTINEL FAILOVER`.
    FailOver,
}

impl Right {
    /// The command that it permits.
    pub fn command(self) -> &'static str {
        match self {
            Self::Pause => "CLIENT PAUSE … WRITE",
            Self::Follow => "REPLICAOF",
            Self::SetPriority => "CONFIG SET replica-priority",
            Self::FailOver => "SENTINEL FAILOVER",
        }
    }
}

/// What a server is asked for. All but `FailOver` may be asked twice with the effect of once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Whether a command is permitted, found out with arguments that the server refuses.
    May(Right),
    /// `SENTINEL CKQUORUM`.
    Quorum,
    /// `replica-priority`, answered as a number.
    Priority,
    /// `CONFIG SET replica-priority` to [`CHOSEN`](super::CHOSEN), where it was this: remembered first, so that another
    /// process can set it back.
    Prefer(u32),
    /// `CONFIG SET replica-priority`.
    SetPriority(u32),
    /// `CONFIG REWRITE`: what was set is to outlive a restart.
    Persist,
    /// `CLIENT PAUSE … WRITE`: no write of any client runs for so long.
    Pause(Duration),
    /// `CLIENT UNPAUSE`.
    Unpause,
    /// `SENTINEL FAILOVER`.
    FailOver,
    /// `REPLICAOF` this node.
    Follow(SocketAddr),
}

/// What came of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Done; what it said.
    Done(String),
    /// Refused with this error: not carried out.
    Refused(String),
    /// No answer, and why: it may have been carried out.
    Lost(String),
}

impl Answer {
    /// Why it is not known to be done.
    pub(super) fn fault(&self) -> Option<&str> {
        match self {
            Self::Done(_) => None,
            Self::Refused(why) | Self::Lost(why) => Some(why),
        }
    }
}
