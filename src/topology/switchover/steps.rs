//! The steps: what each state waits for, what follows, and when it is given up.

use std::net::SocketAddr;

use super::checks::{self, CHOSEN, Plan};
use super::fence::Fence;
use super::survey::{Answer, Request, Server, Survey};
use super::{
    ARRANGE_PATIENCE, Action, CATCH_UP_PATIENCE, CHECK_PATIENCE, DUTY_PATIENCE, Outcome, QUIET_PATIENCE, State,
    Switchover,
};
use crate::clock::Moment;
use crate::topology::SwitchoverEvent;

impl Switchover {
    pub(super) fn check(&mut self, now: Moment, survey: &Survey, out: &mut Vec<Action>) {
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
                self.send(Server::Node(node), Request::Prefer(before), out);
                self.state = State::Arranging { since: now };
            }
            None => self.begin_hold(now, &plan, out),
        }
        self.plan = Some(plan);
    }

    pub(super) fn arrange(&mut self, now: Moment, since: Moment, survey: &Survey, out: &mut Vec<Action>) {
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

    pub(super) fn hold(&mut self, now: Moment, since: Moment, survey: &Survey, out: &mut Vec<Action>) {
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

    pub(super) fn fence(&mut self, now: Moment, survey: &Survey, out: &mut Vec<Action>) {
        if let Some(why) = self.disturbed(survey, false).or_else(|| self.fence_fault(now)) {
            self.undo(now, &why, out);
        } else if self.fence.as_ref().is_some_and(Fence::is_up) {
            self.report(now, true, "no other client writes to the master".to_owned(), out);
            self.state = State::CatchingUp { since: now, goal: None };
        }
    }

    pub(super) fn catch_up(
        &mut self,
        now: Moment,
        since: Moment,
        goal: Option<u64>,
        survey: &Survey,
        out: &mut Vec<Action>,
    ) {
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
                self.ordered = true;
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

    pub(super) fn await_promotion(&mut self, now: Moment, survey: &Survey, out: &mut Vec<Action>) {
        let (Some(plan), Some(fence)) = (self.plan.clone(), &self.fence) else { return };
        if survey.generation > self.generation
            && let Some(node) = survey.master
        {
            self.report(now, true, format!("{node} is master: the point of no return; writes go there"), out);
            if !fence.holds(now) {
                self.warn_unfenced();
            }
            let old = Server::Node(plan.master);
            self.duties.add(now, old, Request::Follow(node));
            self.duties.add(now, old, Request::Unpause);
            // Sentinel has its way already, so that it would not write it to the file; a restart would bring up a master.
            self.duties.add(now, old, Request::Persist);
            if let Some((arranged, before)) = self.arranged {
                self.duties.add(now, Server::Node(arranged), Request::SetPriority(before));
                self.duties.add(now, Server::Node(arranged), Request::Persist);
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

    pub(super) fn finish(
        &mut self,
        now: Moment,
        since: Moment,
        node: SocketAddr,
        survey: &Survey,
        out: &mut Vec<Action>,
    ) {
        // The old master may be the one that was elected.
        if survey.master.is_some_and(|master| master != node) && self.duties.has_follow() {
            self.duties.forget_follow();
            self.warnings.push("the master has changed again".to_owned());
        }
        let confirmed = survey.master == Some(node) && survey.confirmed && survey.flowing;
        let late = now.since(since) >= DUTY_PATIENCE;
        if !(self.duties.is_empty() && confirmed || late) {
            return;
        }
        self.warnings.extend(self.duties.give_up());
        if confirmed {
            self.report(now, true, "Sentinels have confirmed it".to_owned(), out);
        } else {
            self.warnings.push(format!("no Sentinel has confirmed {node} yet, see `why` in /status"));
        }
        let outcome = if self.warnings.is_empty() { Outcome::Done } else { Outcome::Unfinished };
        let why = self.warnings.join("; ");
        self.end(now, outcome, why, out);
    }

    pub(super) fn finish_undoing(
        &mut self,
        now: Moment,
        since: Moment,
        why: &str,
        survey: &Survey,
        out: &mut Vec<Action>,
    ) {
        let flowing = survey.flowing || self.held_at.is_none();
        if !(self.duties.is_empty() && flowing || now.since(since) >= DUTY_PATIENCE) {
            return;
        }
        self.warnings.extend(self.duties.give_up());
        if !flowing {
            self.warnings.push("writes are held still, see `why` in /status".to_owned());
        }
        let late = survey.master.filter(|_| self.ordered && survey.generation > self.generation);
        if let Some(node) = late {
            self.warnings.push(format!("{node} was promoted all the same, and is master"));
            self.warn_unfenced();
        }
        let outcome = if late.is_some() { Outcome::Unfinished } else { Outcome::Undone };
        let why = std::iter::once(why).chain(self.warnings.iter().map(String::as_str)).collect::<Vec<_>>().join("; ");
        self.end(now, outcome, why, out);
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
}

/// Whether the Sentinel that will be told shows this priority.
fn shows(survey: &Survey, plan: &Plan, node: SocketAddr, priority: u32) -> bool {
    survey.view(plan.sentinel).is_some_and(|v| v.replicas.iter().any(|r| r.node == node && r.priority == priority))
}
