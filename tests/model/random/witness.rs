//! What must hold in every sequence, kept beside the machine and derived only from what goes in and out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use pointsman::clock::Moment;
use pointsman::topology::failover::{Action, Failover, PREPARATION_LIMIT, Settings};
use pointsman::topology::{Event, Flow, RoleAnswer, SentinelId, Topology};

use super::coverage::{Coverage, Kind, Situation};
use super::steps::{Happening, SENTINELS, Step, known};

/// Fails the sequence with these words.
macro_rules! ensure {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}

pub(crate) struct Witness {
    pub(crate) machine: Failover,
    pub(crate) now: Moment,
    actions: Vec<Action>,
    /// Everything the machine wanted, if that is asked for.
    pub(crate) log: Option<Vec<Action>>,
    before: Topology,
    /// When the present state of affairs began: the last time that writes stopped or went on, or a gap.
    turned: Moment,
    /// Each node's latest answer: when it was asked, and whether it was "master".
    said: BTreeMap<SocketAddr, (Moment, bool)>,
    held_seq: u64,
    acknowledged: u64,
    prepared: u64,
    /// When the generation last changed.
    committed: Moment,
    /// The moment by which what is held must flow or be refused.
    deadline: Option<Moment>,
    hold_timeout: Duration,
    managed: bool,
    /// When what it refuses began to be held cannot be seen: that is compared with a machine without a fence.
    fenced: bool,
    situation: Situation,
    pub(crate) coverage: Coverage,
}

impl Witness {
    pub(crate) fn new(settings: Settings) -> Self {
        let now = Moment(1_000_000);
        let mut witness = Self {
            machine: Failover::new(settings, now),
            now,
            actions: Vec::new(),
            log: None,
            before: Topology::unknown(),
            turned: now,
            said: BTreeMap::new(),
            held_seq: 0,
            acknowledged: 0,
            prepared: 0,
            committed: now,
            deadline: Some(now + settings.hold_timeout),
            hold_timeout: settings.hold_timeout,
            managed: settings.managed,
            fenced: settings.fence_without_quorum,
            situation: Situation::Starting,
            coverage: Coverage::default(),
        };
        for id in 0..SENTINELS {
            witness.machine.handle(now, known(id), &mut witness.actions);
            witness.machine.handle(now, Event::SentinelUp(SentinelId(id)), &mut witness.actions);
        }
        witness
    }

    pub(crate) fn step(&mut self, step: &Step) -> Result<(), String> {
        let end = self.now + Duration::from_millis(step.pause);
        while let Some(at) = self.machine.deadline(self.now).filter(|at| *at <= end) {
            ensure!(at > self.now, "a deadline that does not lie ahead would spin");
            self.now = at;
            self.machine.tick(at, &mut self.actions);
            self.check(Kind::Time)?;
        }
        self.now = end;
        self.machine.tick(end, &mut self.actions);
        self.check(Kind::Time)?;
        let event = match step.event.clone() {
            None => return Ok(()),
            Some(Happening::Plain(event)) => event,
            Some(Happening::Acknowledge) => Event::Acknowledged(self.machine.topology().seq),
            Some(Happening::Prepare) => Event::Prepared(self.machine.topology().generation),
            Some(Happening::AcknowledgeOld) => Event::Acknowledged(self.machine.topology().seq.saturating_sub(2)),
            Some(Happening::Role { node, age, answer }) => {
                Event::Role { node, asked: Moment(end.0.saturating_sub(age)), answer }
            }
        };
        self.event(event)
    }

    pub(crate) fn event(&mut self, event: Event) -> Result<(), String> {
        match &event {
            Event::Role { node, asked, answer } => {
                let is_master = matches!(answer, RoleAnswer::Master { .. });
                if self.said.get(node).is_none_or(|(last, _)| last <= asked) {
                    self.said.insert(*node, (*asked, is_master));
                }
            }
            Event::Acknowledged(seq) => self.acknowledged = self.acknowledged.max(*seq),
            Event::Gap => self.turned = self.now,
            Event::Prepared(generation) => self.prepared = *generation,
            _ => {}
        }
        let kind = Kind::of(&event, &self.before);
        self.machine.handle(self.now, event, &mut self.actions);
        self.check(kind)
    }

    fn check(&mut self, kind: Kind) -> Result<(), String> {
        let now = self.now;
        let actions = std::mem::take(&mut self.actions);
        for action in &actions {
            if let Action::Sever { seq, node } = action {
                // A later one, if trouble came while a new master was being prepared.
                let holds = self.held_seq..=self.before.seq;
                ensure!(holds.contains(seq), "only what holds writes is enforced: {seq}, not {holds:?}");
                ensure!(Some(*node) == self.before.writes.node, "sockets shut down that are not the old master's");
            }
        }
        for action in &actions {
            if let Action::Publish(next) = action {
                self.check_publication(now, next)?;
                self.before = next.clone();
            }
        }
        if let Some(log) = &mut self.log {
            log.extend_from_slice(&actions);
        }
        ensure!(&self.before == self.machine.topology(), "what was published is not what is");
        if let Some(deadline) = self.deadline.filter(|d| now >= *d && !self.fenced) {
            ensure!(self.before.writes.flow != Flow::Held, "held beyond {deadline:?}");
            ensure!(self.before.reads.flow != Flow::Held, "reads held beyond {deadline:?}");
        }
        // Without an action it cannot have become another.
        let after = if actions.is_empty() { self.situation } else { Situation::of(&self.machine, self.managed) };
        self.coverage.note(self.situation, kind, after);
        self.situation = after;
        self.actions = actions;
        self.actions.clear();
        Ok(())
    }

    fn check_publication(&mut self, now: Moment, next: &Topology) -> Result<(), String> {
        let before = &self.before;
        ensure!(next.seq == before.seq + 1, "{} was published behind {}", next.seq, before.seq);
        let switched = next.generation > before.generation;
        ensure!(next.generation - before.generation <= 1, "a generation was left out, or went back");
        ensure!(next.parked_safe_before >= before.parked_safe_before, "what was safe does not stay safe");
        ensure!(next.parked_safe_before <= now, "what is to come is called safe");
        let flowing = next.writes.flow == Flow::Flowing;
        if switched {
            ensure!(before.writes.flow != Flow::Flowing, "a commit without a hold before it");
            let node = next.writes.node.ok_or("a commit without a master")?;
            let said_master = self.said.get(&node).is_some_and(|(asked, is_master)| *is_master && *asked > self.turned);
            ensure!(said_master, "a commit of one that did not say master, asked since writes were held");
            let acknowledged = before.generation == 0 || self.acknowledged >= self.held_seq;
            ensure!(acknowledged, "a commit without the acknowledgement of its hold");
            self.committed = now;
        } else {
            ensure!(next.writes.node == before.writes.node, "writes changed their node without the generation");
        }
        if flowing {
            let node = next.writes.node.ok_or("writes flow to nobody")?;
            let limit = PREPARATION_LIMIT.min(self.hold_timeout);
            let ready = next.generation == 1 || self.prepared == next.generation || now.since(self.committed) >= limit;
            ensure!(ready, "writes flow before the new master is prepared, or has had its time");
            ensure!(next.reads.node == Some(node), "writes flow, and reads do not flow to the same node");
            ensure!(next.reads.flow == Flow::Flowing, "writes flow and reads do not");
            ensure!(next.why.is_empty(), "all flows, and there is a reason why not");
        } else {
            ensure!(!next.why.is_empty(), "a hold without a reason");
        }
        // A commit may be followed at once by reason for another hold.
        let new_hold = before.writes.flow == Flow::Flowing || switched;
        match (new_hold, flowing) {
            (true, false) => {
                self.held_seq = next.seq;
                self.turned = now;
                self.deadline = Some(now + self.hold_timeout);
            }
            (_, true) => {
                self.turned = now;
                self.deadline = None;
            }
            (false, false) => {}
        }
        Ok(())
    }
}
