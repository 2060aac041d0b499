//! The planned switchover as a procedure: checks, steps, the point of no return, and at each place the way back.
//!
//! A pure machine like the failover machine beside it: (state, event, now) → actions, looking at a [`Survey`] of the
//! service. It decides in which order things happen; who is master and what flows stays with the failover machine, which
//! it asks to hold, to let one replica's word count and to let go.
//!
//! Before the point of no return (a replica says master) any step that fails or is late undoes everything: the pause is
//! lifted, the priority restored, the hold released. After it faults are finished forward.

mod checks;
mod fence;
mod report;
mod survey;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

pub use report::{Order, Outcome, REPORTS, Report};
pub use survey::{Answer, NodeSurvey, Request, Right, SentinelSurvey, Server, Survey};

use super::SwitchoverEvent;
use crate::clock::Moment;
use checks::{CHOSEN, Plan};
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
/// Pause before it is tried again.
const RETRY: Duration = Duration::from_millis(100);

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

/// Something that must be done before the end, tried until it works.
#[derive(Debug)]
struct Duty {
    server: Server,
    request: Request,
    due: Moment,
    /// Its number while it is out.
    asked: Option<u32>,
    fault: String,
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
    /// Somebody else's failover is on: a pause that is in force may be theirs.
    leave_fence: bool,
    duties: Vec<Duty>,
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
            leave_fence: false,
            duties: Vec::new(),
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
        self.do_duties(now, out);
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
        let duties = self.duties.iter().filter(|d| d.asked.is_none()).map(|d| d.due);
        state.into_iter().chain(fence).chain(duties).filter(|at| *at > now).min()
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

    fn check(&mut self, now: Moment, survey: &Survey, out: &mut Vec<Action>) {
        let heard = survey.nodes.values().all(|n| n.asked > self.began);
        if !(self.waiting.is_empty() && heard) && now.since(self.began) < CHECK_PATIENCE {
            return;
        }
        for (_, server, request) in std::mem::take(&mut self.waiting) {
            self.answers.push((server, request, Answer::Lost("no answer in time".to_owned())));
        }
        let verdict = checks::judge(survey, self.ask.to, &self.answers, self.began);
        for (ok, text) in &verdict.checks {
            self.report(now, *ok, text.clone(), out);
        }
        let Some(plan) = verdict.plan else {
            let why = verdict.first_fault().unwrap_or_default().to_owned();
            self.end(now, Outcome::Refused, why, out);
            return;
        };
        if self.ask.dry_run {
            self.end(now, Outcome::Possible, String::new(), out);
            return;
        }
        match plan.arrange {
            Some((node, before)) => {
                // From here on it may be changed, whatever is answered.
                self.arranged = Some((node, before));
                self.send(Server::Node(node), Request::SetPriority(CHOSEN), out);
                self.state = State::Arranging { since: now };
            }
            None => self.begin_hold(now, &plan, out),
        }
        self.plan = Some(plan);
    }

    fn arrange(&mut self, now: Moment, since: Moment, survey: &Survey, out: &mut Vec<Action>) {
        let (Some(plan), Some((node, _))) = (self.plan.clone(), self.arranged) else { return };
        if let Some(why) = self.disturbed(survey, true) {
            self.undo(now, &why, out);
        } else if now.since(since) >= ARRANGE_PATIENCE {
            self.undo(now, &format!("Sentinel did not notice the replica-priority of {node} in time"), out);
        } else if self.waiting.is_empty() && shows(survey, &plan, node, CHOSEN) {
            self.report(now, true, format!("Sentinel has noticed that {node} comes first"), out);
            self.begin_hold(now, &plan, out);
        }
    }

    fn begin_hold(&mut self, now: Moment, plan: &Plan, out: &mut Vec<Action>) {
        self.held_at = Some(now);
        self.state = State::Holding { since: now };
        out.push(Action::Tell(SwitchoverEvent::Hold(plan.candidates.clone())));
    }

    fn hold(&mut self, now: Moment, since: Moment, survey: &Survey, out: &mut Vec<Action>) {
        if let Some(why) = self.disturbed(survey, false) {
            self.undo(now, &why, out);
        } else if survey.quiet {
            self.report(now, true, "writes are held, and those under way are answered".to_owned(), out);
            let Some(plan) = &self.plan else { return };
            self.fence = Some(Fence::new(now, plan.down_after, survey.hold_timeout));
            self.state = State::Fencing;
        } else if now.since(since) >= QUIET_PATIENCE {
            let why = "a command that was under way takes long, and would be cut off; try again when it is done";
            self.undo(now, why, out);
        }
    }

    fn fence(&mut self, now: Moment, survey: &Survey, out: &mut Vec<Action>) {
        if let Some(why) = self.disturbed(survey, false).or_else(|| self.fence_fault(now)) {
            self.undo(now, &why, out);
        } else if self.fence.as_ref().is_some_and(Fence::is_up) {
            self.report(now, true, "no other client writes to the master".to_owned(), out);
            self.state = State::CatchingUp { since: now, goal: None };
        }
    }

    fn catch_up(&mut self, now: Moment, since: Moment, goal: Option<u64>, survey: &Survey, out: &mut Vec<Action>) {
        let Some(plan) = self.plan.clone() else { return };
        let goal = goal.or_else(|| survey.offset(plan.master, since));
        self.state = State::CatchingUp { since, goal };
        let missing = |node: &&SocketAddr| goal.is_none_or(|goal| survey.offset(**node, Moment(0)) < Some(goal));
        if let Some(why) = self.disturbed(survey, false).or_else(|| self.fence_fault(now)) {
            self.undo(now, &why, out);
            return;
        }
        match (plan.candidates.iter().find(missing), goal) {
            (None, Some(goal)) => {
                self.report(now, true, format!("the replica has all that the master has (offset {goal})"), out);
                out.push(Action::Tell(SwitchoverEvent::Ordered));
                self.send(Server::Sentinel(plan.sentinel), Request::FailOver, out);
                self.state = State::Ordered;
            }
            (late, _) if now.since(since) >= CATCH_UP_PATIENCE => {
                let late = *late.unwrap_or(&plan.master);
                let has = match (survey.offset(late, Moment(0)), survey.nodes.get(&late)) {
                    (Some(offset), _) => format!("is at offset {offset}"),
                    (None, Some(node)) => node.says.clone(),
                    (None, None) => "is not known any more".to_owned(),
                };
                let goal = goal.map_or_else(|| "and was to be asked".to_owned(), |g| format!("and was to be at {g}"));
                self.undo(now, &format!("{late} lags: it {has} {goal}"), out);
            }
            _ => {}
        }
    }

    fn await_promotion(&mut self, now: Moment, survey: &Survey, out: &mut Vec<Action>) {
        let (Some(plan), Some(fence)) = (self.plan.clone(), &self.fence) else { return };
        if survey.generation > self.generation
            && let Some(node) = survey.master
        {
            self.report(now, true, format!("{node} is master: the point of no return; writes go there"), out);
            if !fence.holds(now) {
                self.warn_unfenced();
            }
            let old = Server::Node(plan.master);
            self.duty(now, old, Request::Follow(node));
            self.duty(now, old, Request::Unpause);
            if let Some((arranged, before)) = self.arranged {
                self.duty(now, Server::Node(arranged), Request::SetPriority(before));
                self.duty(now, Server::Node(arranged), Request::Persist);
            }
            self.state = State::Finishing { since: now, node };
        } else if now >= fence.limit() {
            let why = format!(
                "no replica was promoted within {} ms; Sentinel may still do it, and until that is clear writes may wait",
                now.since(self.held_at.unwrap_or(now)).as_millis()
            );
            self.undo(now, &why, out);
        }
    }

    fn finish(&mut self, now: Moment, since: Moment, node: SocketAddr, survey: &Survey, out: &mut Vec<Action>) {
        let confirmed = survey.master == Some(node) && survey.confirmed && survey.flowing;
        let late = now.since(since) >= DUTY_PATIENCE;
        if !(self.duties.is_empty() && confirmed || late) {
            return;
        }
        self.warn_of_duties();
        if confirmed {
            self.report(now, true, "Sentinels have confirmed it".to_owned(), out);
        } else {
            self.warnings.push(format!("no Sentinel has confirmed {node} yet, see `why` in /status"));
        }
        let outcome = if self.warnings.is_empty() { Outcome::Done } else { Outcome::Unfinished };
        let why = self.warnings.join("; ");
        self.end(now, outcome, why, out);
    }

    fn finish_undoing(&mut self, now: Moment, since: Moment, why: &str, survey: &Survey, out: &mut Vec<Action>) {
        let flowing = survey.flowing || self.held_at.is_none();
        if !(self.duties.is_empty() && flowing || now.since(since) >= DUTY_PATIENCE) {
            return;
        }
        self.warn_of_duties();
        if !flowing {
            self.warnings.push("writes are held still, see `why` in /status".to_owned());
        }
        let why = std::iter::once(why).chain(self.warnings.iter().map(String::as_str)).collect::<Vec<_>>().join("; ");
        self.end(now, Outcome::Undone, why, out);
    }

    /// Something that makes going on pointless. Before the hold writes must flow, in it the hold must be ours.
    fn disturbed(&self, survey: &Survey, flowing: bool) -> Option<String> {
        let plan = self.plan.as_ref()?;
        if survey.generation != self.generation {
            return Some("the master has changed meanwhile".to_owned());
        }
        if survey.flowing != flowing || survey.held == flowing {
            return Some("a failover has begun meanwhile".to_owned());
        }
        let gone = survey.view(plan.sentinel).is_none();
        let gone = gone.then(|| format!("{} is out of hearing", checks::name(survey, Server::Sentinel(plan.sentinel))));
        survey.trouble.clone().or(gone)
    }

    fn fence_fault(&self, now: Moment) -> Option<String> {
        let fence = self.fence.as_ref()?;
        if fence.is_up() && !fence.holds(now) {
            return Some("other writers were not kept away all the time".to_owned());
        }
        (now >= fence.limit()).then(|| "the master did not stop its writers in time".to_owned())
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
            self.duty(now, Server::Node(plan.master), Request::Unpause);
        }
        if let Some((node, before)) = self.arranged {
            self.duty(now, Server::Node(node), Request::SetPriority(before));
        }
        if self.held_at.is_some() {
            out.push(Action::Tell(SwitchoverEvent::Released));
        }
        self.state = State::Undoing { since: now, why: why.to_owned() };
    }

    fn answered(&mut self, now: Moment, id: u32, answer: Answer, out: &mut Vec<Action>) {
        if let Some(at) = self.duties.iter().position(|d| d.asked == Some(id)) {
            self.duty_answered(now, at, &answer, out);
            return;
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
            (Request::SetPriority(_), Answer::Done(_)) => {}
            (Request::SetPriority(_), answer) => {
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

    /// Whether other writers are to be kept away.
    fn is_fencing(&self) -> bool {
        match self.state {
            State::Fencing | State::CatchingUp { .. } | State::Ordered => true,
            State::Finishing { .. } => self.duties.iter().any(|d| matches!(d.request, Request::Follow(_))),
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

    fn duty(&mut self, now: Moment, server: Server, request: Request) {
        self.duties.push(Duty { server, request, due: now, asked: None, fault: "no answer".to_owned() });
    }

    /// Does what is due; of one server one after the other.
    fn do_duties(&mut self, now: Moment, out: &mut Vec<Action>) {
        for i in 0..self.duties.len() {
            let (earlier, rest) = self.duties.split_at_mut(i);
            let duty = &mut rest[0];
            if duty.asked.is_none() && now >= duty.due && !earlier.iter().any(|e| e.server == duty.server) {
                let id = self.next_id;
                self.next_id += 1;
                duty.asked = Some(id);
                out.push(Action::Ask(id, duty.server, duty.request));
            }
        }
    }

    fn duty_answered(&mut self, now: Moment, at: usize, answer: &Answer, out: &mut Vec<Action>) {
        let Some(why) = answer.fault() else {
            let done = self.duties.remove(at);
            match done.request {
                Request::Follow(_) => {
                    if let (Some(plan), Some(fence)) = (&self.plan, &self.fence) {
                        let (old, fenced) = (plan.master, fence.holds(now) || !self.warnings.is_empty());
                        self.report(now, true, format!("{old} is its replica"), out);
                        if !fenced {
                            self.warn_unfenced();
                        }
                    }
                }
                Request::SetPriority(n) => self.report(now, true, format!("replica-priority is {n} again"), out),
                _ => {}
            }
            return;
        };
        // A server that was started without a file has nothing to rewrite.
        if self.duties[at].request == Request::Persist && matches!(answer, Answer::Refused(_)) {
            self.duties.remove(at);
            return;
        }
        let duty = &mut self.duties[at];
        (duty.asked, duty.due, duty.fault) = (None, now + RETRY, why.to_owned());
    }

    /// What could not be done in time is left to people.
    fn warn_of_duties(&mut self) {
        for duty in std::mem::take(&mut self.duties) {
            let Server::Node(node) = duty.server else { continue };
            let left = match duty.request {
                Request::Follow(_) => format!("{node} could not be made a replica, which Sentinel does when it can"),
                Request::SetPriority(n) => format!("the replica-priority of {node} must be set back to {n}"),
                Request::Unpause => format!("the pause of writes at {node} could not be lifted, and ends by itself"),
                _ => continue,
            };
            self.warnings.push(format!("{left} ({})", duty.fault));
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

/// Whether the Sentinel that will be told shows this priority.
fn shows(survey: &Survey, plan: &Plan, node: SocketAddr, priority: u32) -> bool {
    survey.view(plan.sentinel).is_some_and(|v| v.replicas.iter().any(|r| r.node == node && r.priority == priority))
}

fn fault(answer: &Answer) -> &str {
    answer.fault().unwrap_or_default()
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
