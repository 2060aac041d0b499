//! Which event leads from which situation to which: what the sequences have reached.

use std::collections::BTreeMap;
use std::fmt;

use pointsman::topology::failover::Failover;
use pointsman::topology::{Event, Flow, HintKind, Message, RoleAnswer, SwitchoverEvent, Topology};

/// What the machine is in, as far as it shows from outside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Situation {
    /// No master was confirmed yet.
    Starting,
    Flowing,
    /// The same, and no Sentinel has confirmed the master yet.
    Provisional,
    /// Another master is confirmed, and given what sessions need there.
    Preparing,
    /// Writes wait; why.
    Held(&'static str),
    /// The same for too long.
    Refused,
}

/// The beginnings of the reasons for a hold, and what they are called here.
const CAUSES: [(&str, &str); 14] = [
    ("announced a failover", "announced"),
    ("a Sentinel names", "named"),
    ("the master refuses connections", "refused"),
    ("the master does not answer", "silent"),
    ("the master closes connections", "closed"),
    ("the master Sentinel names is a replica", "demoted"),
    ("the master is loading", "loading"),
    ("the master answers MASTERDOWN", "masterdown"),
    ("says it is master", "claim"),
    ("lost its link", "left"),
    ("no Sentinel confirmed", "unconfirmed"),
    ("the service was moved", "moved"),
    ("pointsman was suspended", "gap"),
    ("a switchover was asked for", "switchover"),
];

impl Situation {
    pub(crate) fn of(machine: &Failover, managed: bool) -> Self {
        let topology = machine.topology();
        match topology.writes.flow {
            Flow::Flowing if managed && machine.worth_remembering().is_none() => Self::Provisional,
            Flow::Flowing => Self::Flowing,
            Flow::Held | Flow::Refused if topology.generation == 0 => Self::Starting,
            Flow::Refused => Self::Refused,
            Flow::Held if topology.why.contains("is given scripts") => Self::Preparing,
            Flow::Held => {
                let cause = topology.why.split(';').next().unwrap_or_default();
                let known = CAUSES.iter().find(|(words, _)| cause.contains(words));
                Self::Held(known.unwrap_or_else(|| panic!("an unknown cause: {cause}")).1)
            }
        }
    }
}

impl fmt::Display for Situation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(cause) => write!(f, "held/{cause}"),
            other => f.write_str(&format!("{other:?}").to_lowercase()),
        }
    }
}

/// Which kind of event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Time,
    Other(&'static str),
    /// An answer, or a hint, about the master; or about another node.
    About(&'static str, bool),
}

impl Kind {
    /// `topology`: as it was before.
    pub(crate) fn of(event: &Event, topology: &Topology) -> Self {
        let master = topology.writes.node;
        let kind = match event {
            Event::SentinelKnown(..) => "known",
            Event::SentinelUp(_) => "up",
            Event::SentinelDown(_) => "down",
            Event::SentinelForgotten(_) => "forgotten",
            Event::UnknownName(_) => "unknown-name",
            Event::View(_, v) => {
                let kind = match (v.failover_in_progress, v.master_down) {
                    (false, false) => "names",
                    (true, false) => "names,leading",
                    (false, true) => "names,down",
                    (true, true) => "names,leading,down",
                };
                return Self::About(kind, Some(v.master) == master);
            }
            Event::Published(_, message) => return Self::of_message(message, topology),
            Event::Role { node, answer, .. } => {
                let kind = match answer {
                    RoleAnswer::Master { .. } => "is master",
                    RoleAnswer::Replica { connected: true, .. } => "is replica",
                    RoleAnswer::Replica { .. } => "is replica, cut off",
                    RoleAnswer::Refused => "refuses",
                    RoleAnswer::Silent { closed: true } => "closes",
                    RoleAnswer::Silent { .. } => "is silent",
                    RoleAnswer::Error(e) if e == "LOADING" => "LOADING",
                    RoleAnswer::Error(e) if e == "MASTERDOWN" => "MASTERDOWN",
                    RoleAnswer::Error(_) => "NOAUTH",
                };
                return Self::About(kind, Some(*node) == master);
            }
            Event::Hint(hint) => {
                let kind = match hint.kind {
                    HintKind::ReadOnly => "hint -READONLY",
                    HintKind::NotMaster => "hint not master",
                    HintKind::Loading => "hint -LOADING",
                    HintKind::MasterDown => "hint -MASTERDOWN",
                    HintKind::Refused => "hint refused",
                    HintKind::Unreachable => "hint unreachable",
                    HintKind::Silent => "hint silent",
                    HintKind::Reset => "hint reset",
                };
                return Self::About(kind, Some(hint.node) == master);
            }
            Event::Remembered(_) => "remembered",
            Event::StaticMaster(node) => return Self::About("static", Some(*node) == master),
            Event::Acknowledged(seq) if *seq < topology.seq => "acknowledged, old",
            Event::Acknowledged(_) => "acknowledged",
            Event::Prepared(_) => "prepared",
            Event::Switchover(SwitchoverEvent::Begin) => "switchover begin",
            Event::Switchover(SwitchoverEvent::Hold(_)) => "switchover hold",
            Event::Switchover(SwitchoverEvent::Ordered) => "switchover ordered",
            Event::Switchover(SwitchoverEvent::Released) => "switchover released",
            Event::Paused(_) => "paused",
            Event::Gap => "gap",
        };
        Self::Other(kind)
    }

    fn of_message(message: &Message, topology: &Topology) -> Self {
        let about = |kind, node| Self::About(kind, Some(node) == topology.writes.node);
        match *message {
            Message::TryFailover => Self::Other("+try-failover"),
            Message::ElectedLeader => Self::Other("+elected-leader"),
            Message::SelectedSlave(node) => about("+selected-slave", node),
            Message::WaitPromotion(node) => about("+wait-promotion", node),
            Message::PromotedSlave(node) => about("+promoted-slave", node),
            Message::FailoverAborted => Self::Other("-abort"),
            Message::NoGoodReplica => Self::Other("-no-good-slave"),
            Message::FailoverAbortedSlaveTimeout => Self::Other("-slave-timeout"),
            Message::FailoverEnd => Self::Other("+failover-end"),
            Message::SwitchMaster { new, .. } => about("+switch-master", new),
            Message::NewEpoch(_) => Self::Other("+new-epoch"),
            Message::MasterDown => Self::Other("+sdown"),
            Message::MasterUp => Self::Other("-sdown"),
            Message::MasterObjectivelyDown => Self::Other("+odown"),
            Message::MasterRebooted => Self::Other("+reboot"),
            Message::RoleChange(node) => about("role-change", node),
            Message::ConvertToSlave(node) => about("+convert-to-slave", node),
            Message::ConfigChanged => Self::Other("config"),
            Message::Tilt(_) => Self::Other("tilt"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time => f.write_str("time"),
            Self::Other(kind) => f.write_str(kind),
            Self::About(kind, true) => write!(f, "{kind} (master)"),
            Self::About(kind, false) => write!(f, "{kind} (other)"),
        }
    }
}

/// How often each kind of event led from which situation to which.
#[derive(Clone, Debug, Default)]
pub(crate) struct Coverage(BTreeMap<(Situation, Kind, Situation), u64>);

impl Coverage {
    pub(crate) fn note(&mut self, before: Situation, kind: Kind, after: Situation) {
        *self.0.entry((before, kind, after)).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: Self) {
        for (transition, times) in other.0 {
            *self.0.entry(transition).or_default() += times;
        }
    }

    pub(crate) fn times(&self) -> u64 {
        self.0.values().sum()
    }

    pub(crate) fn transitions(&self) -> usize {
        self.0.len()
    }

    /// One line for each change of situation: what led to it. Then, for each situation, what left it as it was. Only
    /// what came about so many times.
    pub(crate) fn table(&self, at_least: u64) -> BTreeMap<String, Vec<String>> {
        let mut table: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for ((before, kind, after), _) in self.0.iter().filter(|(_, times)| **times >= at_least) {
            let row = if before == after { format!("{before} stays") } else { format!("{before} -> {after}") };
            table.entry(row).or_default().push(kind.to_string());
        }
        table
    }
}
