//! The planned switchover as a procedure: checks, steps, the point of no return, and at each place the way back.
//!
//! A pure machine like the failover machine beside it: (state, event, now) → actions, looking at a [`Survey`] of the
//! service. It decides in which order things happen; who is master and what flows stays with the failover machine, which
//! it asks to hold, to let one replica's word count and to let go.
//!
//! Before the point of no return (a replica says master) any step that fails or is late undoes everything: the pause is
//! lifted, the priority restored, the hold released. After it faults are finished forward.

mod checks;
mod duties;
mod fence;
mod report;
mod steps;
mod survey;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

pub use checks::CHOSEN;
pub use report::{Order, Outcome, REPORTS, Report};
pub use survey::{Answer, NodeSurvey, Request, Right, SentinelSurvey, Server, Survey};

use super::SwitchoverEvent;
use crate::clock::Moment;
use checks::Plan;
use duties::{Duties, Progress};
use fence::Fence;

/// How long the checks may take.
const CHECK_PATIENCE: Duration = Duration::from_secs(3);
/// How long Sentinel may take to notice a changed priority: it asks for it every 10 s. Nothing is held meanwhile.
const ARRANGE_PATIENCE: Duration = Duration::from_secs(15);
/// How long commands that are under way when writes are held may take. One that takes longer is a long script or a
/// blocking command that could not be taken back; it would be cut off by the switch.
const QUIET_PATIENCE: Duration = Duration::from_millis(300);
/// How long the candidates may take to receive what the master had when its writers were stopped.
const CATCH_UP_PATIENCE: Duration = Duration::from_millis(500);
/// How long what is to be undone or finished is tried.
const DUTY_PATIENCE: Duration = Duration::from_secs(10);

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The replica that is to be master; none: whichever Sentinel chooses.
    pub to: Option<SocketAddr>,
    /// Only the checks.
    pub dry_run: bool,
}

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// What came of the request of this number.
    Answered(u32, Answer),
    /// Nobody wants it any more.
    Abandoned,
    /// Time passed, or the service changed.
    Look,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Ask a server; the number comes back with the answer.
    Ask(u32, Server, Request),
    /// Tell the failover machine.
    Tell(SwitchoverEvent),
    /// Tell whoever asked for it.
    Report(Report),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    /// Questions are out.
    Checking,
    /// The priority was changed; Sentinel has to notice.
    Arranging {
        since: Moment,
    },
    /// Writes are held; those under way have to be answered.
    Holding {
        since: Moment,
    },
    /// Other writers are being stopped.
    Fencing,
    /// Nobody writes; the candidates have to receive all. `goal`: the master's offset.
    CatchingUp {
        since: Moment,
        goal: Option<u64>,
    },
    /// Sentinel is told to fail over.
    Ordered,
    /// The point of no return: this node is master.
    Finishing {
        since: Moment,
        node: SocketAddr,
    },
    /// Given up.
    Undoing {
        since: Moment,
        why: String,
    },
    Ended,
}

/// One switchover.
#[derive(Debug)]
pub struct Switchover {
    ask: Ask,
    began: Moment,
    generation: u64,
    state: State,
    /// Requests that are out. Those of duties are not among them.
    waiting: Vec<(u32, Server, Request)>,
    answers: Vec<(Server, Request, Answer)>,
    next_id: u32,
    plan: Option<Plan>,
    /// Whose priority may have been changed, and what it was.
    arranged: Option<(SocketAddr, u32)>,
    fence: Option<Fence>,
    /// Sentinel was told to fail over, and may do it late.
    ordered: bool,
    /// Somebody else's failover is on: a pause that is in force may be theirs.
    leave_fence: bool,
    duties: Duties,
    /// What is left to do, or went wrong after the point of no return.
    warnings: Vec<String>,
    held_at: Option<Moment>,
    flowed_at: Option<Moment>,
}

impl Switchover {
    /// Begins with the checks.
    pub fn new(ask: Ask, now: Moment, survey: &Survey, out: &mut Vec<Action>) -> Self {
        let mut switchover = Self {
            ask,
            began: now,
            generation: survey.generation,
            state: State::Checking,
            waiting: Vec::new(),
            answers: Vec::new(),
            next_id: 0,
            plan: None,
            arranged: None,
            fence: None,
            ordered: false,
            leave_fence: false,
            duties: Duties::default(),
            warnings: Vec::new(),
            held_at: None,
            flowed_at: None,
        };
        out.push(Action::Tell(SwitchoverEvent::Begin));
        for (server, request) in checks::questions(survey, ask.to) {
            switchover.send(server, request, out);
        }
        switchover
    }

    /// Takes in one event and goes as far as it can.
    pub fn handle(&mut self, now: Moment, event: Event, survey: &Survey, out: &mut Vec<Action>) {
        match event {
            Event::Answered(id, answer) => self.answered(now, id, answer, out),
            Event::Abandoned if self.is_revocable() => self.undo(now, "nobody waits for it any more", out),
            Event::Abandoned | Event::Look => {}
        }
        if self.held_at.is_some() && self.flowed_at.is_none() && survey.flowing {
            self.flowed_at = Some(now);
        }
        // What the failover machine is told shows in the next survey; until then this one says nothing about it.
        while !out.iter().any(|a| matches!(a, Action::Tell(_))) && self.advance(now, survey, out) {}
        self.renew_fence(now, out);
        self.duties.ask(now, &mut self.next_id, out);
    }

    /// Whether it is over.
    pub fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// When it must look again at the latest, if nothing happens.
    pub fn deadline(&self, now: Moment) -> Option<Moment> {
        let state = match &self.state {
            State::Checking => Some(self.began + CHECK_PATIENCE),
            State::Arranging { since } => Some(*since + ARRANGE_PATIENCE),
            State::Holding { since } => Some(*since + QUIET_PATIENCE),
            State::CatchingUp { since, .. } => Some(*since + CATCH_UP_PATIENCE),
            State::Finishing { since, .. } | State::Undoing { since, .. } => Some(*since + DUTY_PATIENCE),
            State::Fencing | State::Ordered | State::Ended => None,
        };
        let fence = self.fence.as_ref().filter(|_| self.is_fencing());
        let fence = fence.into_iter().flat_map(|f| [Some(f.limit()), f.due()]).flatten();
        state.into_iter().chain(fence).chain(self.duties.due()).filter(|at| *at > now).min()
    }

    /// Before Sentinel is told, nobody but us does anything.
    fn is_revocable(&self) -> bool {
        !matches!(self.state, State::Ordered | State::Finishing { .. } | State::Undoing { .. } | State::Ended)
    }

    /// One step; whether there was one to take.
    fn advance(&mut self, now: Moment, survey: &Survey, out: &mut Vec<Action>) -> bool {
        let before = self.state.clone();
        match self.state.clone() {
            State::Checking => self.check(now, survey, out),
            State::Arranging { since } => self.arrange(now, since, survey, out),
            State::Holding { since } => self.hold(now, since, survey, out),
            State::Fencing => self.fence(now, survey, out),
            State::CatchingUp { since, goal } => self.catch_up(now, since, goal, survey, out),
            State::Ordered => self.await_promotion(now, survey, out),
            State::Finishing { since, node } => self.finish(now, since, node, survey, out),
            State::Undoing { since, why } => self.finish_undoing(now, since, &why, survey, out),
            State::Ended => {}
        }
        self.state != before
    }

    fn warn_unfenced(&mut self) {
        self.warnings.push(
            "clients that write to the old master directly were not kept away until the end, and may have lost writes"
                .to_owned(),
        );
    }

    /// Turns back.
    fn undo(&mut self, now: Moment, why: &str, out: &mut Vec<Action>) {
        self.waiting.clear();
        self.report(now, false, format!("{why}; everything is undone"), out);
        if let (Some(plan), Some(_)) = (&self.plan, self.fence.as_ref().filter(|_| !self.leave_fence)) {
            self.duties.add(now, Server::Node(plan.master), Request::Unpause);
        }
        if let Some((node, before)) = self.arranged {
            self.duties.add(now, Server::Node(node), Request::SetPriority(before));
        }
        if self.held_at.is_some() {
            out.push(Action::Tell(SwitchoverEvent::Released));
        }
        self.state = State::Undoing { since: now, why: why.to_owned() };
    }

    fn answered(&mut self, now: Moment, id: u32, answer: Answer, out: &mut Vec<Action>) {
        match self.duties.answered(now, id, &answer) {
            Progress::NotOurs => {}
            Progress::Done(done) => return self.note_done(now, done, out),
            Progress::Again => return,
        }
        let Some(at) = self.waiting.iter().position(|(i, ..)| *i == id) else { return };
        let (_, server, request) = self.waiting.remove(at);
        match (request, answer) {
            (Request::Pause(_), Answer::Done(_)) => {
                if let Some(fence) = &mut self.fence {
                    fence.answered(now);
                }
            }
            (Request::Pause(_), answer) => {
                if let Some(fence) = &mut self.fence {
                    fence.failed();
                }
                if self.is_revocable() {
                    self.undo(now, &format!("the master did not stop its writers: {}", fault(&answer)), out);
                }
            }
            (Request::Prefer(_), Answer::Done(_)) => {}
            (Request::Prefer(_), answer) => {
                self.undo(now, &format!("the replica-priority could not be set: {}", fault(&answer)), out);
            }
            (Request::FailOver, Answer::Done(_)) => {
                self.report(now, true, "Sentinel fails over".to_owned(), out);
            }
            (Request::FailOver, Answer::Refused(why)) => {
                self.leave_fence = why.starts_with("INPROG");
                self.undo(now, &format!("Sentinel refuses: {why}"), out);
            }
            // It may have heard; what it does will show.
            (Request::FailOver, Answer::Lost(why)) => {
                self.report(now, false, format!("Sentinel did not answer whether it fails over: {why}"), out);
            }
            (_, answer) => self.answers.push((server, request, answer)),
        }
    }

    /// A duty is done.
    fn note_done(&mut self, now: Moment, done: Request, out: &mut Vec<Action>) {
        match done {
            Request::Follow(_) => {
                let Some(plan) = &self.plan else { return };
                self.report(now, true, format!("{} is its replica", plan.master), out);
                if self.fence.as_ref().is_some_and(|f| !f.holds(now)) && self.warnings.is_empty() {
                    self.warn_unfenced();
                }
            }
            Request::SetPriority(n) => self.report(now, true, format!("replica-priority is {n} again"), out),
            _ => {}
        }
    }

    /// Whether other writers are to be kept away.
    fn is_fencing(&self) -> bool {
        match self.state {
            State::Fencing | State::CatchingUp { .. } | State::Ordered => true,
            State::Finishing { .. } => self.duties.has_follow(),
            _ => false,
        }
    }

    fn renew_fence(&mut self, now: Moment, out: &mut Vec<Action>) {
        let is_fencing = self.is_fencing();
        let (Some(plan), Some(fence)) = (&self.plan, &mut self.fence) else { return };
        if is_fencing && fence.is_due(now) {
            fence.sent(now);
            let (server, request) = (Server::Node(plan.master), Request::Pause(fence.slice));
            self.send(server, request, out);
        }
    }

    fn send(&mut self, server: Server, request: Request, out: &mut Vec<Action>) {
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.push((id, server, request));
        out.push(Action::Ask(id, server, request));
    }

    fn report(&self, now: Moment, ok: bool, text: String, out: &mut Vec<Action>) {
        out.push(Action::Report(Report::Step { ms: ms(now.since(self.began)), ok, text }));
    }

    fn end(&mut self, now: Moment, outcome: Outcome, why: String, out: &mut Vec<Action>) {
        let stall = self.held_at.map_or(Duration::ZERO, |held| self.flowed_at.unwrap_or(now).since(held));
        self.state = State::Ended;
        out.push(Action::Report(Report::End { ms: ms(now.since(self.began)), outcome, why, stall_ms: ms(stall) }));
    }
}

fn fault(answer: &Answer) -> &str {
    answer.fault().unwrap_or_default()
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
