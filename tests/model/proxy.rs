//! pointsman: the real failover machine, with what is around it. Sentinels and nodes are asked at the paces that the
//! machine wants, and one worker carries out what it publishes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use pointsman::clock::Moment;
use pointsman::config::Commit;
use pointsman::topology::failover::{Action, Failover, Pace, Settings};
use pointsman::topology::{
    Event, Flow, Hint, HintKind, Message, Remembered, ReplicaView, RoleAnswer, SentinelId, Topology, View,
};

use crate::rules::Rules;
use crate::world::{NODES, Node, Role, SENTINELS, State, Time, World};

pub(crate) fn address(node: Node) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + node as u16))
}

pub(crate) fn place(address: SocketAddr) -> Node {
    usize::from(address.port() - 7000)
}

#[derive(Clone, Hash)]
pub(crate) struct Proxy {
    pub(crate) machine: Failover,
    /// The topology that the worker has carried out.
    applied: Topology,
    /// Its connections to the old master were shut down for it, until it carries out the next one.
    severed: bool,
    /// The worker does not run.
    pub(crate) asleep: bool,
    pub(crate) ears: [Ear; SENTINELS],
    /// An answer of each node that is late. Nothing else is heard of the node until it comes.
    pub(crate) late: [Option<(Time, RoleAnswer)>; NODES],
    probed: Vec<Node>,
    probing: Pace,
    polling: Pace,
    asked: [Time; 2],
    remembered: Option<Remembered>,
    /// Writes flowed when a node was promoted.
    pub(crate) surprised: bool,
}

/// What pointsman hears of one Sentinel.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Ear {
    pub(crate) up: bool,
    /// Published and not heard yet.
    pub(crate) queue: VecDeque<Message>,
    /// What is published comes late.
    pub(crate) stalled: bool,
    /// An answer to a poll that is late. No other comes before it.
    pub(crate) late: Option<View>,
}

impl Proxy {
    pub(crate) fn new(now: Time) -> Self {
        let settings = Settings {
            commit: Commit::Confirmed,
            hold_timeout: Duration::from_secs(15),
            confirm_timeout: Duration::from_secs(5),
            silence_threshold: Duration::from_millis(300),
            fence_without_quorum: false,
            fence_old_master: false,
            managed: true,
        };
        let ear = Ear { up: false, queue: VecDeque::new(), stalled: false, late: None };
        Self {
            machine: Failover::new(settings, Moment(now)),
            applied: Topology::unknown(),
            severed: false,
            asleep: false,
            ears: [ear.clone(), ear.clone(), ear],
            late: [const { None }; NODES],
            probed: Vec::new(),
            probing: Pace::Slow,
            polling: Pace::Slow,
            asked: [0; 2],
            remembered: None,
            surprised: false,
        }
    }

    pub(crate) fn hears_alike(&self, i: usize, j: usize) -> bool {
        self.ears[i] == self.ears[j]
    }

    /// Whether control lets writes flow.
    pub(crate) fn is_flowing(&self) -> bool {
        self.machine.topology().writes.flow == Flow::Flowing
    }

    /// Where the worker sends a write now. What it looked up before control held may still go out until it has said
    /// that it knows; so the lease is not asked here.
    pub(crate) fn sends_to(&self) -> Option<Node> {
        let writes = self.applied.writes;
        let flows = writes.flow == Flow::Flowing && !self.severed;
        writes.node.filter(|_| flows).map(place)
    }

    /// Whether the worker has something to carry out.
    pub(crate) fn is_behind(&self) -> bool {
        self.machine.topology().seq > self.applied.seq
    }

    /// Whether all that is on its way, and not late, has arrived: else no time passes.
    pub(crate) fn is_quiet(&self) -> bool {
        (self.asleep || !self.is_behind()) && self.ears.iter().all(|e| e.stalled || e.queue.is_empty())
    }
}

/// How often to ask, at a pace.
fn interval(pace: Pace) -> Time {
    match pace {
        Pace::Slow => 1000,
        Pace::Watch => 100,
        Pace::Fast => 5,
    }
}

impl World {
    /// pointsman hears everybody, and writes flow to A.
    pub(crate) fn warm_up(&mut self) {
        let rules = Rules::ALL;
        self.start_proxy(rules);
        for _ in 0..4 {
            self.now += 1000;
            self.ask_everybody(rules);
            while self.proxy.is_behind() {
                self.apply(rules);
            }
        }
        assert_eq!(self.proxy.sends_to(), Some(0), "a stable start");
    }

    fn start_proxy(&mut self, rules: Rules) {
        for i in 0..SENTINELS {
            self.tell_machine(Event::SentinelKnown(id(i), address(100 + i).into()), rules);
            if self.sentinels[i].alive {
                self.hear_again(i, rules);
            }
        }
    }

    /// The process is killed, and started again with what it had written down.
    pub(crate) fn restart_proxy(&mut self, rules: Rules) {
        let remembered = self.proxy.machine.worth_remembering().or(self.proxy.remembered.take());
        self.proxy = Proxy { remembered: remembered.clone(), surprised: self.proxy.surprised, ..Proxy::new(self.now) };
        for write in &mut self.writes {
            write.state = match write.state {
                State::Sent(node) => State::Unknown(Some(node)),
                State::Replied(_) | State::Parked(..) => State::Unknown(None),
                state => state,
            };
        }
        if let Some(remembered) = remembered {
            self.tell_machine(Event::Remembered(remembered), rules);
        }
        self.start_proxy(rules);
    }

    /// Shows the machine an event and carries out what it wants.
    fn tell_machine(&mut self, event: Event, rules: Rules) {
        let mut actions = Vec::new();
        self.proxy.machine.handle(Moment(self.now), event, &mut actions);
        self.carry_out_actions(actions, rules);
    }

    fn carry_out_actions(&mut self, actions: Vec<Action>, rules: Rules) {
        for action in actions {
            match action {
                Action::Probe { nodes, pace } => {
                    self.proxy.probed = nodes.into_iter().map(place).collect();
                    self.proxy.probing = pace;
                }
                Action::Poll(pace) => self.proxy.polling = pace,
                Action::Sever { seq, node } => {
                    self.proxy.severed = true;
                    self.disconnect(|at| at == place(node));
                    self.tell_machine(Event::Acknowledged(seq), rules);
                }
                Action::Publish(_)
                | Action::RecordOpened(_)
                | Action::RecordClosed(_)
                | Action::Demote(_)
                | Action::Say(..) => {}
            }
        }
        if let Some(remembered) = self.proxy.machine.worth_remembering() {
            self.proxy.remembered = Some(remembered);
        }
    }

    /// pointsman closes its connections to these nodes. What is in the kernel may still be carried out.
    fn disconnect(&mut self, which: impl Fn(Node) -> bool) {
        for write in &mut self.writes {
            write.state = match write.state {
                State::Sent(at) if which(at) => State::Unknown(Some(at)),
                State::Replied(at) if which(at) => State::Unknown(None),
                state => state,
            };
        }
    }

    /// The worker carries out the last topology (`Pool::apply`).
    pub(crate) fn apply(&mut self, rules: Rules) {
        let topology = self.proxy.machine.topology().clone();
        let before = std::mem::replace(&mut self.proxy.applied, topology.clone());
        self.proxy.severed = false;
        let now = self.now;
        self.unpark(topology.parked_safe_before, true);
        if topology.generation != before.generation {
            for write in &mut self.writes {
                if matches!(write.state, State::Parked(..)) {
                    write.state = State::Unknown(None);
                }
            }
        } else if topology.writes.flow == Flow::Flowing {
            self.unpark(Moment(now + 1), false);
        }
        let serves = [topology.reads.node, topology.writes.node].map(|n| n.map(place));
        self.disconnect(|at| !serves.contains(&Some(at)));
        self.tell_machine(Event::Acknowledged(topology.seq), rules);
        if topology.generation != before.generation {
            self.tell_machine(Event::Prepared(topology.generation), rules);
        }
    }

    /// Delivers the replies that were parked before this moment.
    fn unpark(&mut self, safe: Moment, held: bool) {
        for write in &mut self.writes {
            if let State::Parked(_, at) = write.state
                && Moment(at) < safe
            {
                write.state = State::Acknowledged { held };
            }
        }
    }

    /// A reply reaches the worker, which looks at the lease.
    pub(crate) fn receive(&mut self, i: usize, rules: Rules) {
        let State::Replied(node) = self.writes[i].state else { return };
        let lease = self.proxy.machine.topology();
        let current = lease.generation == self.proxy.applied.generation;
        let flowing = lease.writes.flow == Flow::Flowing && current;
        let write = &mut self.writes[i];
        write.state = match (flowing, rules.parking) {
            (true, _) => State::Acknowledged { held: false },
            (false, false) => State::Acknowledged { held: true },
            (false, true) => State::Parked(node, self.now),
        };
    }

    pub(crate) fn hint_read_only(&mut self, node: Node) {
        self.tell_machine(Event::Hint(Hint { node: address(node), kind: HintKind::ReadOnly }), Rules::ALL);
    }

    /// A Sentinel publishes something.
    pub(crate) fn publish(&mut self, i: usize, message: Message) {
        let ear = &mut self.proxy.ears[i];
        if ear.up {
            ear.queue.push_back(message);
        }
    }

    /// pointsman hears the next of what a Sentinel has published.
    pub(crate) fn hear(&mut self, i: usize, rules: Rules) {
        let Some(message) = self.proxy.ears[i].queue.pop_front() else { return };
        let warning = matches!(
            message,
            Message::TryFailover | Message::SelectedSlave(_) | Message::WaitPromotion(_) | Message::PromotedSlave(_)
        );
        if rules.warnings || !warning {
            self.tell_machine(Event::Published(id(i), message), rules);
        }
    }

    /// The connection to a Sentinel is lost, with all that is on it.
    pub(crate) fn cut(&mut self, i: usize, rules: Rules) {
        let ear = &mut self.proxy.ears[i];
        *ear = Ear { up: false, queue: VecDeque::new(), stalled: false, late: None };
        self.tell_machine(Event::SentinelDown(id(i)), rules);
    }

    /// It is there again; the first answer to a poll comes with it.
    pub(crate) fn hear_again(&mut self, i: usize, rules: Rules) {
        self.proxy.ears[i].up = true;
        self.tell_machine(Event::SentinelUp(id(i)), rules);
        self.poll(i, rules);
    }

    /// What a Sentinel answers.
    pub(crate) fn view(&self, i: usize) -> View {
        let sentinel = &self.sentinels[i];
        let down = |node: Node| !self.nodes[node].alive && self.now - self.nodes[node].since >= 1000;
        let replica = |node: Node| ReplicaView {
            reachable: !down(node),
            link_up: self.nodes[node].linked,
            reported_replica: self.nodes[node].role != Role::Master,
            ..ReplicaView::healthy(address(node))
        };
        View {
            master: address(sentinel.named()),
            epoch: sentinel.config_epoch,
            failover_in_progress: sentinel.attempt.is_some(),
            master_down: down(sentinel.master),
            reported_master: self.nodes[sentinel.named()].role == Role::Master,
            replicas: vec![replica(Self::other(sentinel.named()))],
            quorum: 2,
            down_after: Duration::from_secs(1),
        }
    }

    fn poll(&mut self, i: usize, rules: Rules) {
        let view = self.view(i);
        self.show(i, view, rules);
    }

    /// The machine is shown a Sentinel's view.
    pub(crate) fn show(&mut self, i: usize, view: View, rules: Rules) {
        self.tell_machine(Event::View(id(i), view.clone()), rules);
        if !rules.second_voice && self.proxy.machine.topology().writes.node != Some(view.master) {
            let others: Vec<usize> = (0..SENTINELS).filter(|j| *j != i && self.proxy.ears[*j].up).collect();
            for j in others {
                self.tell_machine(Event::View(id(j), view.clone()), rules);
            }
        }
    }

    /// What a node answers when asked for its role.
    pub(crate) fn role(&self, node: Node) -> RoleAnswer {
        let redis = &self.nodes[node];
        if !redis.alive {
            return RoleAnswer::Refused;
        }
        // Other traffic keeps the offsets apart from 0, and the start of a process from its last one's.
        let offset = |node: Node| 100 + self.nodes[node].log.len() as u64;
        match redis.role {
            Role::Master => {
                let other = Self::other(node);
                let replicas = self.nodes[other].linked.then(|| (address(other), offset(other)));
                let run_id = Some(format!("{}{}", node, redis.run));
                RoleAnswer::Master {
                    offset: offset(node),
                    replicas: replicas.into_iter().collect(),
                    run_id,
                    history: None,
                }
            }
            Role::ReplicaOf(master) => {
                RoleAnswer::Replica { of: address(master), connected: redis.linked, offset: offset(node) }
            }
        }
    }

    /// The machine is shown a node's answer to a question of this moment.
    pub(crate) fn answer(&mut self, node: Node, asked: Time, answer: RoleAnswer, rules: Rules) {
        self.tell_machine(Event::Role { node: address(node), asked: Moment(asked), answer }, rules);
    }

    /// Asks whoever is due.
    fn ask_everybody(&mut self, rules: Rules) {
        if self.now - self.proxy.asked[0] >= interval(self.proxy.probing) {
            self.proxy.asked[0] = self.now;
            for node in self.proxy.probed.clone() {
                if self.proxy.late[node].is_none() {
                    let answer = self.role(node);
                    self.answer(node, self.now, answer, rules);
                }
            }
        }
        if self.now - self.proxy.asked[1] >= interval(self.proxy.polling) {
            self.proxy.asked[1] = self.now;
            for i in 0..SENTINELS {
                if self.proxy.ears[i].up && self.proxy.ears[i].late.is_none() && self.sentinels[i].alive {
                    self.poll(i, rules);
                }
            }
        }
    }

    /// Time passes, and nothing happens in it but that pointsman asks and is answered.
    pub(crate) fn pass(&mut self, step: Time, rules: Rules) {
        /// Less than what makes a Sentinel count as silent.
        const GRAIN: Time = 200;
        let end = self.now + step;
        while self.now < end {
            let next = (self.now + GRAIN).min(end);
            while let Some(due) = self.proxy.machine.deadline(Moment(self.now)).filter(|due| due.0 <= next) {
                self.now = due.0;
                let mut actions = Vec::new();
                self.proxy.machine.tick(due, &mut actions);
                self.carry_out_actions(actions, rules);
            }
            self.now = next;
            self.ask_everybody(rules);
            let awake = !self.proxy.asleep;
            while awake && self.now < end && self.proxy.is_behind() {
                self.apply(rules);
            }
        }
    }
}

fn id(i: usize) -> SentinelId {
    SentinelId(i as u16)
}
