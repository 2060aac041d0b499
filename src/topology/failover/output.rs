//! What follows from the state: topologies for workers, whom to ask how often, when to look at the clock again, and
//! the status for people.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::knowledge::{Node, Sentinel};
use super::round::{Cause, Round};
use super::{
    ANSWER_PATIENCE, Action, FENCE_PATIENCE, Failover, LINK_PATIENCE, LOST_LEADER_PATIENCE, LOWER_EPOCH_PATIENCE,
    Level, Pace, RECONNECT_PATIENCE, START_FAILOVER_PATIENCE, START_PATIENCE, STRAGGLER_PATIENCE, SUSPECT_PATIENCE,
};
use crate::addr::Endpoint;
use crate::clock::Moment;
use crate::topology::status::{FlowStatus, Phase, ReplicaStatus, SentinelStatus, ServiceStatus};
use crate::topology::{Flow, Permission, RoleAnswer, SentinelId, Topology, View};

/// Nodes probed at once, at most: Sentinel remembers dead replicas for ever, and may be told nonsense.
const PROBED: usize = 32;

/// What control knows about a Sentinel and the machine does not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SentinelFacts {
    /// Where it is asked.
    pub endpoint: Endpoint,
    /// Whether another Sentinel told of it.
    pub learned: bool,
    /// What is wrong with it.
    pub error: Option<String>,
}

impl Failover {
    /// Publishes the topology if it changed.
    pub(super) fn publish(&mut self, now: Moment, out: &mut Vec<Action>) {
        let fence = self.fenced(now);
        let (reads, mut writes) = self.permissions(now);
        if fence.is_some() {
            writes.flow = Flow::Refused;
        }
        let next = Topology {
            seq: self.published.seq,
            generation: self.generation,
            reads,
            writes,
            parked_safe_before: self.safe_before(),
            paused: self.paused.is_some(),
            why: fence.clone().unwrap_or_else(|| self.why(reads, writes, now)).into(),
        };
        if next == self.published {
            return;
        }
        if next.writes.flow == Flow::Refused && self.published.writes.flow != Flow::Refused {
            out.push(Action::Say(Level::Warn, format!("commands are refused: {}", next.why)));
            self.recorder.event(now, "pointsman", format!("commands refused: {}", next.why));
        }
        for (what, before, after) in
            [("reads", self.published.reads, next.reads), ("writes", self.published.writes, next.writes)]
        {
            // The fence has nothing to do with the failover that is on record.
            let fenced = fence.is_some() || self.published_fenced;
            if let Some(text) = flow_in_words(what, before, after).filter(|_| !fenced) {
                self.recorder.note(now, "pointsman", &text);
            }
        }
        self.published = next;
        self.published_fenced = fence.is_some();
        self.publish_anew(out);
    }

    /// Publishes the topology as it stands under a number of its own, for workers to acknowledge.
    pub(super) fn publish_anew(&mut self, out: &mut Vec<Action>) {
        self.published.seq += 1;
        out.push(Action::Publish(self.published.clone()));
    }

    fn permissions(&self, now: Moment) -> (Permission, Permission) {
        let node = self.master.as_ref().map(|m| m.node);
        let flowing = |node| Permission { node, flow: Flow::Flowing };
        let Some(round) = &self.round else {
            let flow = if self.preparing.is_some() { Flow::Held } else { Flow::Flowing };
            return (flowing(node), Permission { node, flow });
        };
        let waiting = Permission { node, flow: if now >= round.deadline { Flow::Refused } else { Flow::Held } };
        let goes_on = |node| {
            round.reads_flow
                && (!round.after_gap || self.is_current_after_gap())
                && (!round.master_failed || self.is_followed_again(node, round))
        };
        let reads = if node.is_some_and(goes_on) {
            flowing(node)
        } else if let Some(promoted) = self.promoted_reader(round) {
            flowing(Some(promoted))
        } else if let Some(remembered) = self.remembered_reader(now) {
            flowing(Some(remembered))
        } else {
            waiting
        };
        (reads, waiting)
    }

    /// Whether the replicas are where they were, asked after a master that had gone away answered again. Without that
    /// somebody may have been promoted meanwhile: what it was sent before and carries out now is gone with it then, and
    /// reads would show it.
    fn is_followed_again(&self, master: SocketAddr, round: &Round) -> bool {
        let Some(since) = round.answering_since else { return false };
        self.known.followers(self.generation).all(|(_, node)| match node.answer(since) {
            Some(RoleAnswer::Replica { of, connected, .. }) => *connected && *of == master,
            // Out of reach: nothing can be expected of it, here as where the hold ends (`fault`).
            Some(RoleAnswer::Refused | RoleAnswer::Silent { .. } | RoleAnswer::Error(_)) => true,
            Some(RoleAnswer::Master { .. }) | None => false,
        })
    }

    /// After a gap: whether the Sentinels in hearing were asked afresh and none names another master. A node that was
    /// replaced meanwhile goes on saying master for some ten seconds.
    fn is_current_after_gap(&self) -> bool {
        let mut heard = self.known.sentinels.values().filter(|s| s.up && !s.unknown_name).peekable();
        !self.settings.managed
            || heard.peek().is_some()
                && heard.all(|s| s.views >= 2)
                && !self.known.voices().any(|(_, v)| self.is_news(v))
    }

    /// Rule 4: where the old master gives no answers, reads may flow to the promoted node before the commit. It must have
    /// followed the master.
    fn promoted_reader(&self, round: &Round) -> Option<SocketAddr> {
        let named = || self.known.voices().find(|(_, v)| self.is_news(v)).map(|(_, v)| v.master);
        let node = round.candidate().or_else(named)?;
        let followed = self.known.nodes.get(&node)?.following.is_some_and(|f| f.generation == self.generation);
        (followed && self.known.says_master(node, self.turned)).then_some(node)
    }

    fn why(&self, reads: Permission, writes: Permission, now: Moment) -> String {
        let Some(round) = &self.round else {
            let preparing = self.preparing.map(|_| "the new master is given scripts and subscriptions".to_owned());
            return preparing.unwrap_or_default();
        };
        if self.master.is_none() {
            return self.why_no_master();
        }
        let cause = round.cause.words(&self.known);
        if let Some(id) = round.no_candidate {
            return format!("{cause}; {} finds no replica that it could promote", self.known.name(id));
        }
        if writes.flow != Flow::Refused && reads.flow != Flow::Refused {
            return cause;
        }
        match self.obstacle(now) {
            Some(obstacle) => format!("{cause}; {obstacle}"),
            None => cause,
        }
    }

    /// Why there is no master at the start.
    fn why_no_master(&self) -> String {
        let named = if self.settings.managed {
            let known = self.known.sentinels.len();
            if known > 0 && self.known.sentinels.values().all(|s| s.unknown_name) {
                return "no Sentinel knows this service name".to_owned();
            }
            match self.known.voices().max_by_key(|(_, v)| v.epoch) {
                Some((_, view)) => view.master,
                None => return "no Sentinel has named a master yet".to_owned(),
            }
        } else {
            match self.static_master {
                Some(node) => node,
                None => return "the master's address is not resolved yet".to_owned(),
            }
        };
        match self.known.answer(named, self.turned) {
            Some(RoleAnswer::Master { .. }) => format!("{named} is not confirmed yet"),
            Some(answer) => format!("{named} is named as master and {}", super::roles::state(answer)),
            None => format!("{named} is named as master and has not answered yet"),
        }
    }

    /// Keeps account of how long traffic does not flow. The time before the first master is not an interruption.
    pub(super) fn track(&mut self, now: Moment) {
        let (reads, writes) = if self.master.is_some() {
            (self.published.reads.flow == Flow::Flowing, self.published.writes.flow == Flow::Flowing)
        } else {
            (true, true)
        };
        self.recorder.track(now, reads, writes);
        if self.round.is_none() && self.published_fenced {
            self.recorder.end_wait();
        }
    }

    /// Says whom to ask how often, if that changed.
    pub(super) fn plan(&mut self, now: Moment, out: &mut Vec<Action>) {
        let urgent = match &self.round {
            Some(round) if now < round.fast_until => Pace::Fast,
            Some(_) => Pace::Watch,
            None if now < self.alert_until || self.suspicion.is_some() => Pace::Fast,
            None => Pace::Slow,
        };
        // Rule 1: a failover whose leader is out of hearing shows only in the roles.
        let unseen = !self.known.hears_all() || self.known.sentinels.values().any(Sentinel::is_leading);
        let unconfirmed = self.master.as_ref().is_some_and(|m| m.provisional.is_some());
        let polling = if urgent == Pace::Slow && unconfirmed { Pace::Watch } else { urgent };

        let remembered = self.remembered.as_ref().filter(|_| self.master.is_none()).map(|r| r.master);
        let first = self.master.as_ref().map(|m| m.node).into_iter().chain(self.static_master).chain(remembered);
        let round = self.round.iter().flat_map(|r| r.candidates.keys().chain(r.must_follow.keys()).copied());
        let mut nodes: BTreeSet<SocketAddr> = first.chain(round).collect();
        let others = self.known.followers(self.generation).map(|(a, _)| a);
        for node in others.chain(self.known.mentioned()) {
            if nodes.len() >= PROBED {
                break;
            }
            nodes.insert(node);
        }
        // Who follows a new master must be known before the next failover: without it there is no eager commit, and what
        // was lost cannot be told. A node that does not answer is soon noted as silent.
        let unheard = nodes.iter().any(|n| self.known.answer(*n, self.turned).is_none());
        let probing = match urgent {
            Pace::Slow if unheard => Pace::Fast,
            Pace::Slow if unseen => Pace::Watch,
            _ => urgent,
        };
        if self.planned.as_ref().is_none_or(|(n, p)| *n != nodes || *p != probing) {
            // What is no longer asked is no longer known.
            self.known.nodes.retain(|node, _| nodes.contains(node));
            for node in &nodes {
                self.known.nodes.entry(*node).or_insert_with(|| Node { since: now, ..Node::default() });
            }
            self.planned = Some((nodes.clone(), probing));
            out.push(Action::Probe { nodes, pace: probing });
        }
        if self.settings.managed && self.polled != Some(polling) {
            self.polled = Some(polling);
            out.push(Action::Poll(polling));
        }
    }

    /// When [`Self::tick`] must be called at the latest, if nothing else happens.
    pub fn deadline(&self, now: Moment) -> Option<Moment> {
        let mut times = vec![self.alert_until];
        times.extend(self.agreement.map(|(_, since)| since + LOWER_EPOCH_PATIENCE));
        times.extend(self.lower_since.map(|since| since + LOWER_EPOCH_PATIENCE));
        times.extend(self.suspicion.map(|s| s.since + SUSPECT_PATIENCE));
        times.extend(self.preparing);
        times.extend(self.pause_ends());
        times.extend(self.minority_since.map(|since| since + FENCE_PATIENCE));
        let confirm = self.settings.confirm_timeout;
        times.extend(self.master.iter().filter_map(|m| m.provisional.as_ref()).map(|(since, _)| *since + confirm));
        if self.round.is_some() || self.master.as_ref().is_some_and(|m| m.provisional.is_some()) {
            times.extend(self.known.named.values().map(|since| *since + confirm));
        }
        if let Some(round) = &self.round {
            times.extend([
                round.deadline,
                round.fast_until,
                round.not_before,
                round.began + STRAGGLER_PATIENCE,
                self.turned + ANSWER_PATIENCE,
                self.turned + RECONNECT_PATIENCE,
                round.began + self.hearsay_patience(),
                round.last_sign + ANSWER_PATIENCE,
                round.last_sign + LOST_LEADER_PATIENCE,
            ]);
            times.extend(self.known.sentinels.values().filter_map(|s| s.heard).map(|heard| heard + ANSWER_PATIENCE));
            times.extend(round.expires);
            times.extend(round.demoted_since.map(|since| since + LINK_PATIENCE));
            times.extend(round.answering_since.map(|since| since + LINK_PATIENCE));
            if round.cause == Cause::Start {
                times.extend(self.first_voice.iter().flat_map(|v| [*v + START_PATIENCE, *v + START_FAILOVER_PATIENCE]));
            }
        }
        times.into_iter().filter(|t| *t > now).min()
    }

    /// The state for people. `facts` tells what control knows of a Sentinel.
    pub fn status(
        &self,
        now: Moment,
        service: &str,
        facts: impl Fn(SentinelId) -> Option<SentinelFacts>,
    ) -> ServiceStatus {
        // To clients a pause is a hold, whatever flows beneath it.
        let paused = self.pause_status();
        let flow = |p: Permission| {
            let flow = if paused.is_some() { Flow::Held } else { p.flow };
            FlowStatus { node: p.node, flow: flow.into() }
        };
        let phase = match (&self.round, &self.master) {
            (None, _) if self.published_fenced => Phase::Fenced,
            (None, _) if self.preparing.is_none() => Phase::Stable,
            (None, _) => Phase::Held,
            (Some(round), _) if now >= round.deadline => Phase::Unavailable,
            (Some(_), None) => Phase::Starting,
            (Some(_), Some(_)) => Phase::Held,
        };
        let since = match &self.round {
            Some(round) if phase == Phase::Unavailable => round.deadline,
            _ if phase == Phase::Fenced => self.minority_since.map_or(self.turned, |since| since + FENCE_PATIENCE),
            _ => self.turned,
        };
        let master = self.master.as_ref();
        ServiceStatus {
            service: service.to_owned(),
            phase,
            master: master.map(|m| m.node),
            run_id: master.and_then(|m| m.run_id.clone()),
            offset: self.master_offset(),
            generation: self.generation,
            config_epoch: master.filter(|_| self.settings.managed).map(|m| m.epoch),
            provisional: master.is_some_and(|m| m.provisional.is_some()),
            reads: flow(self.published.reads),
            writes: flow(self.published.writes),
            why: self.published.why.to_string(),
            since: self.recorder.wall(since),
            paused,
            settled: self.is_settled(),
            unsettled: self.unsettled().filter(|_| master.is_some()),
            replicas: self.replicas(),
            sentinels: self.sentinels(facts),
            failovers_total: self.recorder.totals(),
            writes_held_ms_total: self.recorder.writes_held_ms(),
            reads_held_ms_total: self.recorder.reads_held_ms(),
            run_id_changes_total: self.run_id_changes,
            lost_bytes_total: self.recorder.lost_bytes(),
            last_loss: self.recorder.last_loss(),
            records: self.recorder.records(now),
        }
    }

    /// Whether every node that can be reached says replica of the master, and every Sentinel in hearing has noticed.
    /// Until then Sentinel may promote a node that never followed the master, or demote one that was just promoted.
    pub fn is_settled(&self) -> bool {
        self.unsettled().is_none()
    }

    /// What keeps the service from being settled.
    pub(super) fn unsettled(&self) -> Option<String> {
        let Some(master) = self.master.as_ref().filter(|_| self.round.is_none()) else {
            return Some(self.published.why.to_string());
        };
        if master.provisional.is_some() {
            return Some(format!("no Sentinel has confirmed {} yet", master.node));
        }
        let stray = self.known.nodes.iter().find_map(|(address, node)| {
            let (is_master, answer) = (*address == master.node, node.answer(self.turned));
            let right = match answer {
                Some(RoleAnswer::Master { .. }) => is_master,
                Some(RoleAnswer::Replica { of, .. }) => !is_master && *of == master.node,
                Some(RoleAnswer::Refused | RoleAnswer::Silent { .. }) => !is_master,
                Some(RoleAnswer::Error(_)) | None => false,
            };
            let says = answer.map_or_else(|| "was not heard since".to_owned(), super::roles::state);
            (!right).then(|| format!("{address} {says}"))
        });
        stray.or_else(|| {
            self.known.voices().find_map(|(id, view)| {
                let fault = outdated(view, master.node)?;
                Some(format!("{} {fault}", self.known.name(id)))
            })
        })
    }

    /// What the master last said.
    fn master_offset(&self) -> Option<u64> {
        match &self.known.nodes.get(&self.master.as_ref()?.node)?.last.as_ref()?.answer {
            RoleAnswer::Master { offset, .. } => Some(*offset),
            _ => None,
        }
    }

    fn replicas(&self) -> Vec<ReplicaStatus> {
        let master = self.master.as_ref().map(|m| m.node);
        let link = |answer: Option<&RoleAnswer>| match answer {
            None => "not asked yet".to_owned(),
            Some(RoleAnswer::Replica { of, connected, .. }) if Some(*of) == master => {
                if *connected { "connected" } else { "not connected" }.to_owned()
            }
            Some(answer) => super::roles::state(answer),
        };
        let offset = |answer: Option<&RoleAnswer>| match answer {
            Some(RoleAnswer::Replica { offset, .. } | RoleAnswer::Master { offset, .. }) => Some(*offset),
            _ => None,
        };
        let behind = |answer: Option<&RoleAnswer>| match answer {
            Some(RoleAnswer::Replica { of, connected: true, offset }) if Some(*of) == master => {
                Some(self.master_offset()?.saturating_sub(*offset))
            }
            _ => None,
        };
        let planned = self.planned.iter().flat_map(|(nodes, _)| nodes).filter(|n| Some(**n) != master);
        planned
            .map(|node| {
                let answer = self.known.nodes.get(node).and_then(|n| n.last.as_ref()).map(|h| &h.answer);
                ReplicaStatus { node: *node, offset: offset(answer), behind: behind(answer), link: link(answer) }
            })
            .collect()
    }

    fn sentinels(&self, facts: impl Fn(SentinelId) -> Option<SentinelFacts>) -> Vec<SentinelStatus> {
        let known = self.known.sentinels.iter();
        known
            .filter_map(|(id, sentinel)| {
                let SentinelFacts { endpoint, learned, error } = facts(*id)?;
                let unknown = sentinel.unknown_name.then(|| "does not know this service name".to_owned());
                Some(SentinelStatus {
                    endpoint,
                    learned,
                    up: sentinel.up,
                    master: sentinel.voice().map(|v| v.master),
                    epoch: sentinel.voice().map(|v| v.epoch),
                    master_down: sentinel.voice().is_some_and(|v| v.master_down),
                    failing_over: sentinel.voice().is_some_and(|v| v.failover_in_progress),
                    tilt: sentinel.tilt,
                    heard: sentinel.heard.map(|heard| self.recorder.wall(heard)),
                    error: error.or(unknown),
                })
            })
            .collect()
    }
}

/// What changed for one kind of traffic, for the record. That writes are held or refused is told with the reason.
fn flow_in_words(what: &str, before: Permission, after: Permission) -> Option<String> {
    match (after.flow, after.node) {
        _ if before == after => None,
        (Flow::Flowing, Some(node)) => Some(format!("{what} flow to {node}")),
        (Flow::Held, _) if what == "reads" && before.flow != Flow::Held => Some("reads held".to_owned()),
        _ => None,
    }
}

/// What a Sentinel that names this master has not noticed yet. It asks each node every ten seconds only; a replica that
/// it still takes for a master it demotes as soon as that is promoted.
fn outdated(view: &View, master: SocketAddr) -> Option<String> {
    if view.master != master {
        return Some(format!("names {}", view.master));
    }
    if !view.reported_master {
        return Some(format!("has not noticed yet that {master} is master"));
    }
    let stale = view.replicas.iter().find(|r| r.reachable && !r.reported_replica)?;
    Some(format!("has not noticed yet that {} is a replica", stale.node))
}
