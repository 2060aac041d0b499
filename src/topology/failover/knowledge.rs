//! What was heard, by whom it was said: Sentinels and nodes, before any conclusion is drawn.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::addr::Endpoint;
use crate::clock::Moment;
use crate::topology::{History, RoleAnswer, SentinelId, View};

/// One Sentinel.
#[derive(Clone, Hash, Debug)]
pub(super) struct Sentinel {
    /// What people call it.
    pub(super) endpoint: Endpoint,
    pub(super) up: bool,
    pub(super) view: Option<View>,
    /// Views since the hold began or since a Sentinel last said something of a failover. The first may answer a question
    /// asked before; from the second on they are fresh, since a poll has one question outstanding.
    pub(super) views: u32,
    /// When it last answered a poll, or came into hearing.
    pub(super) heard: Option<Moment>,
    pub(super) unknown_name: bool,
    /// In TILT it takes no notice of what is down.
    pub(super) tilt: bool,
    /// Its failover has promoted the current master and now re-points the other replicas, which may take as long as
    /// `failover-timeout`: its "in progress" announces nothing.
    pub(super) reconfiguring: bool,
}

impl Sentinel {
    /// One of which nothing but its existence is known.
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            up: false,
            view: None,
            views: 0,
            heard: None,
            unknown_name: false,
            tilt: false,
            reconfiguring: false,
        }
    }

    /// What it says now; nothing while it is out of hearing.
    pub(super) fn voice(&self) -> Option<&View> {
        if self.up { self.view.as_ref() } else { None }
    }

    /// Whether it is leading a failover that has not promoted anybody yet, as far as is known.
    pub(super) fn is_leading(&self) -> bool {
        self.voice().is_some_and(|v| v.failover_in_progress) && !self.reconfiguring
    }
}

/// An answer to ROLE.
#[derive(Clone, Hash, Debug)]
pub(super) struct Heard {
    pub(super) asked: Moment,
    pub(super) answer: RoleAnswer,
}

/// A node as replica of the current master.
#[derive(Clone, Copy, Hash, Debug)]
pub(super) struct Following {
    /// The generation of that master.
    pub(super) generation: u64,
    /// Its offset when it was last seen connected; without a link ROLE does not tell it.
    pub(super) offset: u64,
}

/// One node that is asked for its role.
#[derive(Clone, Hash, Debug, Default)]
pub(super) struct Node {
    /// Since when it is asked. An earlier question was asked before it was given up, and may be answered out of turn.
    pub(super) since: Moment,
    pub(super) last: Option<Heard>,
    /// Set when it was seen as *connected* replica of the master of that generation. Only such a node is expected to
    /// go on saying so, and only such a node saying master is news: an old master that returns says it too.
    pub(super) following: Option<Following>,
    /// Its last answer as master: when asked, at which offset.
    pub(super) led: Option<(Moment, u64)>,
    /// The replication history that it told with that.
    pub(super) history: Option<Arc<History>>,
    /// Connections in a row that were closed without an answer.
    pub(super) closes: u32,
    /// When the first of the questions in a row was asked that found no answer.
    pub(super) silent_since: Option<Moment>,
    /// Whether the master's last answer listed it.
    pub(super) listed: bool,
    /// When it disappeared from that list.
    pub(super) left_list: Option<Moment>,
    /// Until here that is no reason to hold: it was about nothing before.
    pub(super) link_exonerated_until: Moment,
}

impl Node {
    /// Its last answer, if it was asked after `after`.
    pub(super) fn answer(&self, after: Moment) -> Option<&RoleAnswer> {
        self.last.as_ref().filter(|h| h.asked > after).map(|h| &h.answer)
    }
}

/// All of it.
#[derive(Clone, Hash, Debug, Default)]
pub(super) struct Knowledge {
    pub(super) sentinels: BTreeMap<SentinelId, Sentinel>,
    /// Those that are asked for their role, and no others.
    pub(super) nodes: BTreeMap<SocketAddr, Node>,
    /// Since when, without interruption, an address has been named by at least one Sentinel that is not behind.
    pub(super) named: BTreeMap<SocketAddr, Moment>,
}

impl Knowledge {
    /// How a Sentinel is called in records and reasons.
    pub(super) fn name(&self, id: SentinelId) -> String {
        match self.sentinels.get(&id) {
            Some(sentinel) => format!("Sentinel {}", sentinel.endpoint),
            None => "a Sentinel that is gone".to_owned(),
        }
    }

    /// What each Sentinel in hearing says.
    pub(super) fn voices(&self) -> impl Iterator<Item = (SentinelId, &View)> {
        self.sentinels.iter().filter_map(|(id, s)| Some((*id, s.voice()?)))
    }

    /// Whether every known Sentinel is in hearing, so that a failover cannot begin unheard.
    pub(super) fn hears_all(&self) -> bool {
        self.sentinels.values().all(|s| s.up)
    }

    /// Whether so many are more than half of the known Sentinels.
    pub(super) fn is_majority(&self, count: usize) -> bool {
        count * 2 > self.sentinels.len()
    }

    /// A node's last answer, if asked after `after`.
    pub(super) fn answer(&self, node: SocketAddr, after: Moment) -> Option<&RoleAnswer> {
        self.nodes.get(&node)?.answer(after)
    }

    /// Whether a node, last asked after `after`, says master.
    pub(super) fn says_master(&self, node: SocketAddr, after: Moment) -> bool {
        matches!(self.answer(node, after), Some(RoleAnswer::Master { .. }))
    }

    /// Nodes seen as connected replicas of the master of this generation.
    pub(super) fn followers(&self, generation: u64) -> impl Iterator<Item = (SocketAddr, &Node)> {
        self.nodes
            .iter()
            .filter(move |(_, n)| n.following.is_some_and(|f| f.generation == generation))
            .map(|(a, n)| (*a, n))
    }

    /// Every address that a Sentinel in hearing has mentioned.
    pub(super) fn mentioned(&self) -> BTreeSet<SocketAddr> {
        self.voices().flat_map(|(_, v)| v.replicas.iter().map(|r| r.node).chain([v.master])).collect()
    }

    /// Brings `named` up to date, by those who know what was at this epoch. What one has said from before then says nothing
    /// of a master that is elected later, though it may be the same.
    pub(super) fn note_names(&mut self, now: Moment, epoch: u64) {
        let spoken: BTreeSet<SocketAddr> =
            self.voices().filter(|(_, v)| v.epoch >= epoch).map(|(_, v)| v.master).collect();
        self.named.retain(|node, _| spoken.contains(node));
        for node in spoken {
            self.named.entry(node).or_insert(now);
        }
    }
}
