//! Tests of the machine. This file: a service of nodes A, B, C and Sentinels that the tests speak for.

mod beginnings;
mod commits;
mod corners;
mod endings;
mod epochs;
mod fence;
mod outages;
mod paces;
mod pauses;
mod records;
mod remembered;
mod start;
mod status;
mod switchovers;
mod timelines;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Action, Failover, Pace, Settings};
use crate::clock::Moment;
use crate::config::Commit;
use crate::topology::record::FailoverRecord;
use crate::topology::{
    Event, Flow, Hint, HintKind, History, Message, ReplicaView, RoleAnswer, SentinelId, Topology, View,
};

pub(super) const A: u16 = 1;
pub(super) const B: u16 = 2;
pub(super) const C: u16 = 3;

pub(super) fn node(n: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + n))
}

pub(super) fn settings(commit: Commit) -> Settings {
    Settings {
        commit,
        hold_timeout: Duration::from_secs(15),
        confirm_timeout: Duration::from_secs(5),
        silence_threshold: Duration::from_millis(300),
        fence_without_quorum: false,
        fence_old_master: false,
        managed: true,
    }
}

pub(super) fn view(master: u16, epoch: u64, in_progress: bool) -> View {
    let replica = |n| ReplicaView::healthy(node(n));
    View {
        master: node(master),
        epoch,
        failover_in_progress: in_progress,
        master_down: false,
        reported_master: true,
        replicas: [A, B, C].into_iter().filter(|n| *n != master).map(replica).collect(),
        quorum: 2,
        down_after: Duration::from_secs(1),
    }
}

pub(super) fn master(offset: u64) -> RoleAnswer {
    master_as(offset, "run-1")
}

pub(super) fn master_as(offset: u64, run_id: &str) -> RoleAnswer {
    let replicas = vec![(node(B), offset), (node(C), offset)];
    RoleAnswer::Master { offset, replicas, run_id: Some(run_id.into()), history: None }
}

/// A master that tells its history: the name of its stream, and which one it followed how far.
pub(super) fn master_with(offset: u64, id: &str, followed: Option<(&str, u64)>) -> RoleAnswer {
    let followed = followed.map(|(id, end)| (id.to_owned(), end));
    let history = Some(Arc::new(History { id: id.to_owned(), followed }));
    RoleAnswer::Master { offset, replicas: Vec::new(), run_id: Some("run-1".into()), history }
}

pub(super) fn replica(of: u16, offset: u64) -> RoleAnswer {
    RoleAnswer::Replica { of: node(of), connected: true, offset }
}

pub(super) fn cut_off(of: u16, offset: u64) -> RoleAnswer {
    RoleAnswer::Replica { of: node(of), connected: false, offset }
}

pub(super) const SILENT: RoleAnswer = RoleAnswer::Silent { closed: false };
pub(super) const CLOSED: RoleAnswer = RoleAnswer::Silent { closed: true };

/// The machine, a clock, and everything it asked for.
pub(super) struct Scene {
    pub(super) machine: Failover,
    pub(super) now: Moment,
    pub(super) actions: Vec<Action>,
    /// Whether the workers acknowledge by themselves.
    pub(super) acknowledging: bool,
    /// Whether they prepare a new master by themselves.
    pub(super) preparing: bool,
}

impl Scene {
    pub(super) fn new(settings: Settings, sentinels: u16) -> Self {
        let now = Moment(1_000_000);
        let machine = Failover::new(settings, now);
        let mut scene = Self { machine, now, actions: Vec::new(), acknowledging: true, preparing: true };
        for id in 0..sentinels {
            scene.event(Event::SentinelKnown(SentinelId(id), node(100 + id).into()));
        }
        scene
    }

    /// Three Sentinels in hearing name A with epoch 1; B and C follow it; traffic flows.
    pub(super) fn stable(commit: Commit) -> Self {
        Self::stable_with(settings(commit), 3)
    }

    pub(super) fn stable_with(settings: Settings, sentinels: u16) -> Self {
        let mut scene = Self::new(settings, sentinels);
        for id in 0..sentinels {
            scene.event(Event::SentinelUp(SentinelId(id)));
            scene.view(id, A, 1);
        }
        scene.pass(1);
        scene.role(A, master(100));
        assert_eq!(scene.writes(), (Some(node(A)), Flow::Flowing), "a stable start");
        scene.pass(1000);
        scene.all_is_well();
        scene.actions.clear();
        scene
    }

    /// Every node and Sentinel says, twice, that all is as at the start.
    pub(super) fn all_is_well(&mut self) {
        let ids: Vec<u16> = self.machine.known.sentinels.keys().map(|id| id.0).collect();
        for _ in 0..2 {
            self.pass(5);
            self.role(A, master(100));
            self.role(B, replica(A, 100));
            self.role(C, replica(A, 100));
            for id in &ids {
                if self.machine.known.sentinels[&SentinelId(*id)].up {
                    self.view(*id, A, 1);
                }
            }
        }
    }

    /// Every node says that all is as at the start.
    pub(super) fn all_but_views(&mut self) {
        self.pass(5);
        self.role(A, master(100));
        self.role(B, replica(A, 100));
        self.role(C, replica(A, 100));
    }

    pub(super) fn event(&mut self, event: Event) {
        let from = self.actions.len();
        self.machine.handle(self.now, event, &mut self.actions);
        self.answer_actions(from);
    }

    /// Lets time pass, ticking at each deadline on the way.
    pub(super) fn pass(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while let Some(at) = self.machine.deadline(self.now).filter(|at| *at <= end) {
            self.now = at;
            self.tick();
        }
        self.now = end;
        self.tick();
    }

    pub(super) fn tick(&mut self) {
        let from = self.actions.len();
        self.machine.tick(self.now, &mut self.actions);
        self.answer_actions(from);
    }

    /// What control does: workers acknowledge what was published; stragglers are severed.
    fn answer_actions(&mut self, from: usize) {
        let acknowledged = self.actions[from..].iter().rev().find_map(|a| match a {
            Action::Publish(t) if self.acknowledging => Some(t.seq),
            Action::Sever { seq, .. } => Some(*seq),
            _ => None,
        });
        if let Some(seq) = acknowledged {
            self.event(Event::Acknowledged(seq));
        }
        if self.preparing && self.topology().why.contains("is given scripts") {
            self.event(Event::Prepared(self.topology().generation));
        }
    }

    pub(super) fn view(&mut self, id: u16, master: u16, epoch: u64) {
        self.event(Event::View(SentinelId(id), view(master, epoch, false)));
    }

    pub(super) fn view_in_progress(&mut self, id: u16, master: u16, epoch: u64) {
        self.event(Event::View(SentinelId(id), view(master, epoch, true)));
    }

    pub(super) fn say(&mut self, id: u16, message: Message) {
        self.event(Event::Published(SentinelId(id), message));
    }

    /// An answer to a question asked now.
    pub(super) fn role(&mut self, n: u16, answer: RoleAnswer) {
        self.role_asked(n, self.now, answer);
    }

    pub(super) fn role_asked(&mut self, n: u16, asked: Moment, answer: RoleAnswer) {
        self.event(Event::Role { node: node(n), asked, answer });
    }

    /// Sentinel 0 has promoted B, which says so itself, and A is gone. No Sentinel has named B yet.
    pub(super) fn elect_b(&mut self) {
        self.say(0, Message::TryFailover);
        self.say(0, Message::SelectedSlave(node(B)));
        self.pass(5);
        self.role(B, master(100));
        self.role(A, RoleAnswer::Refused);
    }

    pub(super) fn hint(&mut self, n: u16, kind: HintKind) {
        self.event(Event::Hint(Hint { node: node(n), kind }));
    }

    pub(super) fn topology(&self) -> &Topology {
        self.machine.topology()
    }

    pub(super) fn writes(&self) -> (Option<SocketAddr>, Flow) {
        (self.topology().writes.node, self.topology().writes.flow)
    }

    pub(super) fn reads(&self) -> (Option<SocketAddr>, Flow) {
        (self.topology().reads.node, self.topology().reads.flow)
    }

    #[track_caller]
    pub(super) fn assert_flows_to(&self, n: u16, why: &str) {
        assert_eq!(self.writes(), (Some(node(n)), Flow::Flowing), "writes: {why}; obstacle: {:?}", self.obstacle());
        assert_eq!(self.reads(), (Some(node(n)), Flow::Flowing), "reads: {why}");
    }

    #[track_caller]
    pub(super) fn assert_held(&self, why: &str) {
        assert_eq!(self.writes().1, Flow::Held, "{why}");
    }

    pub(super) fn obstacle(&self) -> Option<String> {
        self.machine.obstacle(self.now)
    }

    /// Whether a line of the log had these words.
    pub(super) fn said(&self, words: &str) -> bool {
        self.actions.iter().any(|a| matches!(a, Action::Say(_, text) if text.contains(words)))
    }

    pub(super) fn polling(&self) -> Option<Pace> {
        self.actions.iter().rev().find_map(|a| match a {
            Action::Poll(pace) => Some(*pace),
            _ => None,
        })
    }

    pub(super) fn probing(&self) -> Option<(BTreeSet<SocketAddr>, Pace)> {
        self.actions.iter().rev().find_map(|a| match a {
            Action::Probe { nodes, pace } => Some((nodes.clone(), *pace)),
            _ => None,
        })
    }

    pub(super) fn last_record(&self) -> FailoverRecord {
        let records = self.machine.recorder().records(self.now);
        records.last().expect("a record").as_ref().clone()
    }
}

/// Held by the announcement of Sentinel 0, which selected B.
pub(super) fn selected(commit: Commit) -> Scene {
    let mut scene = Scene::stable(commit);
    scene.say(0, Message::TryFailover);
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(100);
    scene
}
