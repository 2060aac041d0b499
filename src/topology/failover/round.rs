//! One round: from the moment writes stop flowing until they flow again, to the same master or to another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::knowledge::Knowledge;
use super::{FAST_FOR, Settings};
use crate::clock::Moment;
use crate::topology::SentinelId;

/// Why writes stopped flowing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Cause {
    /// Nobody was confirmed yet.
    Start,
    /// This Sentinel announced a failover.
    Announced(SentinelId),
    /// A Sentinel names this node.
    Named(SocketAddr),
    /// The master refuses connections.
    Refused,
    /// The master does not answer.
    Silent,
    /// The master closes connections without answering.
    Closed,
    /// The master is a replica, or refused a write as one.
    Demoted,
    /// The master is loading its data.
    Loading,
    /// The master answers `-MASTERDOWN`.
    MasterDown,
    /// This replica says master, and a Sentinel that may lead a failover is out of hearing.
    Claim(SocketAddr),
    /// This replica lost its link to the master, and a Sentinel that may lead a failover is out of hearing.
    LeftList(SocketAddr),
    /// The provisional master was not confirmed.
    Unconfirmed,
    /// All Sentinels have named this node for long, with an epoch that is not higher; or the name of a static master
    /// has moved there.
    Reconfigured(SocketAddr),
    /// Control did not run for a while.
    Gap,
    /// A switchover was asked for.
    Switchover,
}

impl Cause {
    /// Whether reads may go on to the master until a probe fails.
    fn leaves_reads(self) -> bool {
        !matches!(
            self,
            Self::Start | Self::Refused | Self::Silent | Self::Closed | Self::Loading | Self::MasterDown | Self::Gap
        )
    }

    /// Whether somebody other than Sentinel's own announcement or the master itself raised it; such a hold may turn
    /// out to be about nothing.
    pub(super) fn is_hearsay(self) -> bool {
        matches!(self, Self::Claim(_) | Self::LeftList(_) | Self::Named(_))
    }
}

impl Cause {
    /// The reason as a sentence.
    pub(super) fn words(self, known: &Knowledge) -> String {
        match self {
            Self::Start => "no master is confirmed yet".to_owned(),
            Self::Announced(id) => format!("{} announced a failover", known.name(id)),
            Self::Named(node) => format!("a Sentinel names {node} as master"),
            Self::Refused => "the master refuses connections".to_owned(),
            Self::Silent => "the master does not answer".to_owned(),
            Self::Closed => "the master closes connections".to_owned(),
            Self::Demoted => "the master Sentinel names is a replica".to_owned(),
            Self::Loading => "the master is loading its data".to_owned(),
            Self::MasterDown => "the master answers MASTERDOWN".to_owned(),
            Self::Claim(node) => format!("replica {node} says it is master"),
            Self::LeftList(node) => format!("replica {node} lost its link to the master"),
            Self::Unconfirmed => "no Sentinel confirmed the new master".to_owned(),
            Self::Reconfigured(node) => format!("the service was moved to {node}"),
            Self::Gap => "pointsman was suspended and asks again who is master".to_owned(),
            Self::Switchover => "a switchover was asked for".to_owned(),
        }
    }
}

/// The master before a provisional commit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Previous {
    pub(super) node: SocketAddr,
    pub(super) epoch: u64,
}

/// What a switchover is to lead to.
#[derive(Clone, Hash, Debug)]
pub(super) struct Expected {
    /// One of these is to be master.
    pub(super) nodes: BTreeSet<SocketAddr>,
    /// Since when that one of them says master is what was asked for.
    pub(super) ordered: Option<Moment>,
}

/// The state of a round.
#[derive(Clone, Hash, Debug)]
pub(super) struct Round {
    pub(super) began: Moment,
    pub(super) cause: Cause,
    /// From here on commands are refused.
    pub(super) deadline: Moment,
    /// The publication that held writes.
    pub(super) held_seq: u64,
    /// When every worker had carried it out.
    pub(super) acknowledged: Option<Moment>,
    /// Stragglers were already dealt with.
    pub(super) severed: bool,
    /// An announcement that nothing has followed is forgotten at this moment.
    pub(super) expires: Option<Moment>,
    /// Sentinels that announced a failover and have not said that it is over.
    pub(super) announcers: BTreeSet<SentinelId>,
    /// Whether there ever was one in this round.
    pub(super) announced: bool,
    /// Nodes selected for promotion in this round, and by whom.
    pub(super) candidates: BTreeMap<SocketAddr, SentinelId>,
    /// The switchover that is on: it ends the hold, by a commit or when it is given up.
    pub(super) switchover: Option<Expected>,
    /// A candidate was seen to be master.
    pub(super) promoted: bool,
    /// Since when the candidate, once promoted, has followed the master again: another Sentinel took it for astray and
    /// demoted it.
    pub(super) demoted_since: Option<Moment>,
    /// The Sentinel that last tried and found no replica to promote.
    pub(super) no_candidate: Option<SentinelId>,
    /// When a Sentinel last said something of a failover.
    pub(super) last_sign: Moment,
    /// A probe of the master failed in this round, or it began because it does not answer.
    pub(super) master_failed: bool,
    /// The master answers now, and reads may flow to it.
    pub(super) reads_flow: bool,
    /// Control did not run for a while since it began, or that is why it began: a master's own word is not enough then.
    pub(super) after_gap: bool,
    /// The master's process was replaced in this round: its data may be gone.
    pub(super) restarted: bool,
    /// ROLE cannot show a master that is loading: the hold lasts at least until here.
    pub(super) not_before: Moment,
    /// Since when the master has said master without a failure in between.
    pub(super) answering_since: Option<Moment>,
    /// After `-failover-abort-slave-timeout` these may be promoted: they must say replica when asked after this moment.
    pub(super) must_follow: BTreeMap<SocketAddr, Moment>,
    /// The commit that is being undone.
    pub(super) undone: Option<Previous>,
    /// Until when everybody is asked as often as possible.
    pub(super) fast_until: Moment,
    /// What the master said in this round: when asked, offset. One entry per offset, with the latest moment.
    pub(super) samples: Vec<(Moment, u64)>,
    /// The first offset that the master told after every worker held writes: all of ours are below it.
    pub(super) final_offset: Option<u64>,
}

impl Round {
    pub(super) fn new(now: Moment, cause: Cause, settings: &Settings) -> Self {
        Self {
            began: now,
            cause,
            deadline: now + settings.hold_timeout,
            held_seq: 0,
            acknowledged: None,
            severed: false,
            expires: None,
            announcers: BTreeSet::new(),
            announced: false,
            candidates: BTreeMap::new(),
            switchover: None,
            promoted: false,
            demoted_since: None,
            no_candidate: None,
            last_sign: now,
            master_failed: matches!(cause, Cause::Refused | Cause::Silent | Cause::Closed),
            reads_flow: cause.leaves_reads(),
            after_gap: cause == Cause::Gap,
            restarted: false,
            not_before: now,
            answering_since: None,
            must_follow: BTreeMap::new(),
            undone: None,
            fast_until: now + FAST_FOR,
            samples: Vec::new(),
            final_offset: None,
        }
    }

    /// The one candidate; none while there are none or two Sentinels selected different ones.
    pub(super) fn candidate(&self) -> Option<SocketAddr> {
        match (self.candidates.len(), self.cause) {
            (1, _) => self.candidates.keys().next().copied(),
            (0, Cause::Claim(node)) => Some(node),
            _ => None,
        }
    }

    /// Those of which one will be master: the candidate, or, while none is selected, those that a switchover expects.
    /// Empty while nobody knows.
    pub(super) fn candidate_set(&self) -> BTreeSet<SocketAddr> {
        match (self.candidate(), &self.switchover) {
            (Some(node), _) => BTreeSet::from([node]),
            (None, Some(expected)) if self.candidates.is_empty() => expected.nodes.clone(),
            _ => BTreeSet::new(),
        }
    }

    /// Whether a Sentinel has announced a failover in this round, whatever came of it.
    pub(super) fn was_announced(&self) -> bool {
        self.announced
    }

    /// Whether it began because control did not run.
    pub(super) fn is_gap(&self) -> bool {
        self.cause == Cause::Gap
    }

    /// How long it has lasted.
    pub(super) fn age(&self, now: Moment) -> Duration {
        now.since(self.began)
    }
}
