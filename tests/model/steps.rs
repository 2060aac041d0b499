//! What can happen next in a world, and what comes of it.

use std::fmt;

use crate::rules::Rules;
use crate::sentinels::Deed;
use crate::world::{NODES, Node, SENTINELS, STEPS_OF_TIME, State, World, name};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Step {
    /// The worker hands a write to the kernel.
    Send(usize),
    /// A node takes the next write that it was sent.
    Run(usize, Node),
    /// A reply reaches the worker.
    Reply(usize),
    /// A replica takes over one write more, or all.
    Replicate(Node),
    Sentinel(usize, Deed),
    /// pointsman hears what a Sentinel has published.
    Hear(usize),
    /// The worker carries out what control has published.
    Apply,
    /// Time passes: the steps of time, by their index.
    Pass(usize),
    CrashNode(Node),
    RestartNode(Node),
    CrashSentinel(usize),
    RestartProxy,
    /// The connection to a Sentinel is lost, and made again.
    Cut(usize),
    Rejoin(usize),
    /// What a Sentinel publishes is late from here, until it arrives.
    Stall(usize),
    Arrive(usize),
    /// A Sentinel's answer to a poll is late, until it arrives.
    LateView(usize),
    ArriveView(usize),
    /// A node's answer is late, until it arrives.
    LateRole(Node),
    ArriveRole(Node),
    /// The worker does not run, until it does.
    Sleep,
    Wake,
}

impl World {
    /// All that can happen next.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let p = &self.proxy;
        if let (Some(_), Some(i)) = (p.sends_to(), self.writes.iter().position(|w| w.state == State::Waiting)) {
            steps.push(Step::Send(i));
        }
        for node in 0..NODES {
            steps.extend(self.runnable(node).map(|i| Step::Run(i, node)));
            if self.can_replicate(node) {
                steps.push(Step::Replicate(node));
            }
            if !self.nodes[node].alive {
                steps.push(Step::RestartNode(node));
            }
        }
        for (i, write) in self.writes.iter().enumerate() {
            if matches!(write.state, State::Replied(_)) {
                steps.push(Step::Reply(i));
            }
        }
        for i in 0..SENTINELS {
            steps.extend(self.deeds(i).into_iter().map(|deed| Step::Sentinel(i, deed)));
            let ear = &p.ears[i];
            if !ear.queue.is_empty() && !ear.stalled {
                steps.push(Step::Hear(i));
            }
            if ear.stalled {
                steps.push(Step::Arrive(i));
            }
            if ear.late.is_some() {
                steps.push(Step::ArriveView(i));
            }
            if !ear.up && self.sentinels[i].alive {
                steps.push(Step::Rejoin(i));
            }
        }
        if p.asleep {
            steps.push(Step::Wake);
        } else if p.is_behind() {
            steps.push(Step::Apply);
        }
        for node in 0..NODES {
            if p.late[node].is_some() {
                steps.push(Step::ArriveRole(node));
            }
        }
        if self.left.crashes > 0 {
            steps.extend((0..NODES).filter(|n| self.nodes[*n].alive).map(Step::CrashNode));
            let crash = |i: &usize| self.sentinels[*i].alive && self.first_of_alike(*i);
            steps.extend((0..SENTINELS).filter(crash).map(Step::CrashSentinel));
            steps.push(Step::RestartProxy);
        }
        if self.left.faults > 0 {
            for i in (0..SENTINELS).filter(|i| p.ears[*i].up && self.first_of_alike(*i)) {
                steps.push(Step::Cut(i));
                if !p.ears[i].stalled {
                    steps.push(Step::Stall(i));
                }
                if p.ears[i].late.is_none() {
                    steps.push(Step::LateView(i));
                }
            }
            steps.extend((0..NODES).filter(|n| p.late[*n].is_none()).map(Step::LateRole));
            if !p.asleep {
                steps.push(Step::Sleep);
            }
        }
        // Before anything has happened, time makes no difference.
        if p.is_quiet() && self.begun {
            let left = self.left.time.iter().enumerate();
            steps.extend(left.filter(|(_, left)| **left > 0).map(|(i, _)| Step::Pass(i)));
        }
        steps
    }

    pub(crate) fn take(&mut self, step: Step, rules: Rules) {
        let left = self.left;
        match step {
            Step::Send(i) => {
                if let Some(node) = self.proxy.sends_to() {
                    let alive = self.nodes[node].alive;
                    self.writes[i].state = if alive { State::Sent(node) } else { State::Waiting };
                }
            }
            Step::Run(i, node) => self.carry_out(i, node),
            Step::Reply(i) => self.receive(i, rules),
            Step::Replicate(node) => self.replicate(node),
            Step::Sentinel(i, deed) => self.act(i, deed),
            Step::Hear(i) => self.hear(i, rules),
            Step::Apply => self.apply(rules),
            Step::Pass(i) => {
                self.left.time[i] -= 1;
                self.pass(STEPS_OF_TIME[i], rules);
            }
            Step::CrashNode(node) => {
                self.left.crashes -= 1;
                self.crash_node(node);
            }
            Step::RestartNode(node) => self.restart_node(node),
            Step::CrashSentinel(i) => {
                self.left.crashes -= 1;
                (self.sentinels[i].alive, self.sentinels[i].attempt) = (false, None);
                self.cut(i, rules);
            }
            Step::RestartProxy => {
                self.left.crashes -= 1;
                self.restart_proxy(rules);
            }
            Step::Cut(i) => {
                self.left.faults -= 1;
                self.cut(i, rules);
            }
            Step::Rejoin(i) => self.hear_again(i, rules),
            Step::Stall(i) => {
                self.left.faults -= 1;
                self.proxy.ears[i].stalled = true;
            }
            Step::Arrive(i) => self.proxy.ears[i].stalled = false,
            Step::LateView(i) => {
                self.left.faults -= 1;
                self.proxy.ears[i].late = Some(self.view(i));
            }
            Step::ArriveView(i) => {
                if let Some(view) = self.proxy.ears[i].late.take() {
                    self.show(i, view, rules);
                }
            }
            Step::LateRole(node) => {
                self.left.faults -= 1;
                self.proxy.late[node] = Some((self.now, self.role(node)));
            }
            Step::ArriveRole(node) => {
                if let Some((asked, answer)) = self.proxy.late[node].take() {
                    self.answer(node, asked, answer, rules);
                }
            }
            Step::Sleep => {
                self.left.faults -= 1;
                self.proxy.asleep = true;
            }
            Step::Wake => self.proxy.asleep = false,
        }
        self.begun |= self.left != left;
        self.deaf |= self.left.faults != left.faults || step == Step::RestartProxy;
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(i) => write!(f, "pointsman sends w{i}"),
            Self::Run(i, n) => write!(f, "{} takes w{i}", name(*n)),
            Self::Reply(i) => write!(f, "the reply to w{i} arrives"),
            Self::Replicate(n) => write!(f, "{} replicates", name(*n)),
            Self::Sentinel(i, Deed::Tell(j)) => write!(f, "S{i} tells S{j}"),
            Self::Sentinel(i, Deed::Demote(n)) => write!(f, "S{i} makes {} a replica", name(*n)),
            Self::Sentinel(i, deed) => write!(f, "S{i}: {}", format!("{deed:?}").to_lowercase()),
            Self::Hear(i) => write!(f, "pointsman hears S{i}"),
            Self::Apply => write!(f, "the worker carries out the topology"),
            Self::Pass(i) => write!(f, "{} ms pass", STEPS_OF_TIME[*i]),
            Self::CrashNode(n) => write!(f, "{} crashes", name(*n)),
            Self::RestartNode(n) => write!(f, "{} restarts", name(*n)),
            Self::CrashSentinel(i) => write!(f, "S{i} crashes"),
            Self::RestartProxy => write!(f, "pointsman is killed and restarts"),
            Self::Cut(i) => write!(f, "the connection to S{i} is lost"),
            Self::Rejoin(i) => write!(f, "S{i} is in hearing again"),
            Self::Stall(i) => write!(f, "what S{i} publishes is late"),
            Self::Arrive(i) => write!(f, "what S{i} published arrives"),
            Self::LateView(i) => write!(f, "an answer of S{i} is late"),
            Self::ArriveView(i) => write!(f, "the late answer of S{i} arrives"),
            Self::LateRole(n) => write!(f, "an answer of {} is late", name(*n)),
            Self::ArriveRole(n) => write!(f, "the late answer of {} arrives", name(*n)),
            Self::Sleep => write!(f, "the worker is not run"),
            Self::Wake => write!(f, "the worker runs again"),
        }
    }
}
