//! Random sequences of what can happen to the machine, likely or not, from a seed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use pointsman::topology::{
    Event, Hint, HintKind, History, Message, ReplicaView, RoleAnswer, SentinelId, SwitchoverEvent, View,
};

/// Steps of a sequence, at least and at most.
pub(crate) const STEPS: std::ops::RangeInclusive<usize> = 50..=60;
pub(crate) const NODES: u16 = 3;
pub(crate) const SENTINELS: u16 = 3;

/// A step: time passes, then something happens (or nothing).
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) pause: u64,
    pub(crate) event: Option<Happening>,
}

/// An event, with the age of the question it answers.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    Plain(Event),
    Role {
        node: SocketAddr,
        age: u64,
        answer: RoleAnswer,
    },
    /// The workers acknowledge what was published last.
    Acknowledge,
    AcknowledgeOld,
    /// The workers have prepared the master that was published last.
    Prepare,
}

pub(crate) fn node(n: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + n))
}

pub(crate) fn known(id: u16) -> Event {
    Event::SentinelKnown(SentinelId(id), node(100 + id).into())
}

pub(crate) fn view(master: u16, epoch: u64, in_progress: bool, down: bool) -> View {
    let replica = |n| ReplicaView::healthy(node(n));
    View {
        master: node(master),
        epoch,
        failover_in_progress: in_progress,
        master_down: down,
        reported_master: true,
        replicas: (1..=NODES).filter(|n| *n != master).map(replica).collect(),
        quorum: 2,
        down_after: Duration::from_secs(1),
    }
}

pub(crate) fn master(offset: u64, run: &str) -> RoleAnswer {
    let replicas = (2..=NODES).map(|n| (node(n), offset)).collect();
    // Whoever is master has followed whoever was it before: what tells of a loss, and whom a fence may demote.
    let history = History { id: "stream".into(), followed: Some(("stream".into(), 150)) };
    RoleAnswer::Master { offset, replicas, run_id: Some(run.into()), history: Some(Arc::new(history)) }
}

pub(crate) fn replica(of: u16, offset: u64) -> RoleAnswer {
    RoleAnswer::Replica { of: node(of), connected: true, offset }
}

/// The sequence of a seed.
pub(crate) fn sequence(rng: &mut Rng) -> Vec<Step> {
    let (steps, mut sequence) = (rng.usize(STEPS), Vec::new());
    while sequence.len() < steps {
        // Chance alone would hardly ever have all of them agree.
        if rng.u8(0..24) == 0 {
            agree(rng, &mut sequence);
        } else {
            sequence.push(step(rng));
        }
    }
    sequence
}

/// Everybody names one node, and the nodes say the same; or but for one word.
fn agree(rng: &mut Rng, sequence: &mut Vec<Step>) {
    let (n, epoch, down) = (rng.u16(1..=NODES), rng.u64(0..4), rng.u8(0..8) == 0);
    let from = sequence.len();
    let mut then = |pause, event| sequence.push(Step { pause, event: Some(event) });
    then(1, Happening::Acknowledge);
    for _ in 0..2 {
        for other in 1..=NODES {
            let answer = if other == n { master(300, "run-1") } else { replica(n, 300) };
            then(2, Happening::Role { node: node(other), age: 0, answer });
        }
        for id in 0..SENTINELS {
            then(1, Happening::Plain(Event::View(SentinelId(id), view(n, epoch, false, down))));
        }
    }
    if rng.bool() {
        then(1, Happening::Prepare);
    }
    if rng.bool() {
        sequence.remove(rng.usize(from..sequence.len()));
    }
}

fn step(rng: &mut Rng) -> Step {
    let pause = match rng.u8(0..10) {
        0..6 => rng.u64(0..30),
        6..9 => rng.u64(0..1000),
        _ => rng.u64(0..60_000),
    };
    Step { pause, event: (rng.u8(0..10) > 0).then(|| happening(rng)) }
}

fn happening(rng: &mut Rng) -> Happening {
    match rng.u8(0..18) {
        0..6 => Happening::Plain(event(rng)),
        6..12 => {
            let age = if rng.u8(0..10) < 8 { rng.u64(0..5) } else { rng.u64(0..30_000) };
            Happening::Role { node: any_node(rng), age, answer: answer(rng) }
        }
        12..15 => Happening::Acknowledge,
        15 => Happening::AcknowledgeOld,
        _ => Happening::Prepare,
    }
}

fn any_node(rng: &mut Rng) -> SocketAddr {
    node(rng.u16(1..=NODES))
}

fn event(rng: &mut Rng) -> Event {
    let id = rng.u16(0..SENTINELS);
    match rng.u8(0..28) {
        0..2 => Event::SentinelUp(SentinelId(id)),
        2 => Event::SentinelDown(SentinelId(id)),
        3..11 => Event::View(SentinelId(id), view(rng.u16(1..=NODES), rng.u64(0..4), rng.bool(), rng.bool())),
        11 => Event::UnknownName(SentinelId(id)),
        12 => Event::SentinelForgotten(SentinelId(id)),
        13..15 => known(id),
        15..21 => Event::Published(SentinelId(id), message(rng)),
        21..24 => Event::Hint(Hint { node: any_node(rng), kind: hint(rng) }),
        24..27 => Event::Switchover(switchover(rng)),
        _ => Event::Gap,
    }
}

fn message(rng: &mut Rng) -> Message {
    match rng.u8(0..22) {
        0..3 => Message::TryFailover,
        3 => Message::ElectedLeader,
        4..7 => Message::SelectedSlave(any_node(rng)),
        7 => Message::WaitPromotion(any_node(rng)),
        8 => Message::PromotedSlave(any_node(rng)),
        9 => Message::FailoverAborted,
        10 => Message::NoGoodReplica,
        11 => Message::FailoverAbortedSlaveTimeout,
        12 => Message::FailoverEnd,
        13 => Message::SwitchMaster { old: any_node(rng), new: any_node(rng) },
        14 => Message::NewEpoch(rng.u64(0..9)),
        15 => [Message::MasterDown, Message::MasterUp, Message::MasterObjectivelyDown][rng.usize(0..3)].clone(),
        16 => Message::MasterRebooted,
        17 => Message::RoleChange(any_node(rng)),
        18 => Message::ConvertToSlave(any_node(rng)),
        19 => Message::ConfigChanged,
        _ => Message::Tilt(rng.bool()),
    }
}

fn answer(rng: &mut Rng) -> RoleAnswer {
    match rng.u8(0..20) {
        0..8 => master(rng.u64(0..300), if rng.u8(0..10) == 0 { "run-2" } else { "run-1" }),
        8..14 => RoleAnswer::Replica { of: any_node(rng), connected: rng.bool(), offset: rng.u64(0..300) },
        14..16 => RoleAnswer::Refused,
        16..18 => RoleAnswer::Silent { closed: rng.bool() },
        18 => RoleAnswer::Error(if rng.bool() { "LOADING" } else { "MASTERDOWN" }.into()),
        _ => RoleAnswer::Error("NOAUTH".into()),
    }
}

fn hint(rng: &mut Rng) -> HintKind {
    const KINDS: [HintKind; 8] = [
        HintKind::ReadOnly,
        HintKind::Loading,
        HintKind::MasterDown,
        HintKind::NotMaster,
        HintKind::Refused,
        HintKind::Unreachable,
        HintKind::Reset,
        HintKind::Silent,
    ];
    KINDS[rng.usize(0..KINDS.len())]
}

fn switchover(rng: &mut Rng) -> SwitchoverEvent {
    match rng.u8(0..4) {
        0 => SwitchoverEvent::Begin,
        1 => SwitchoverEvent::Hold((0..2).map(|_| any_node(rng)).collect::<BTreeSet<_>>()),
        2 => SwitchoverEvent::Ordered,
        _ => SwitchoverEvent::Released,
    }
}
