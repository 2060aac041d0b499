//! Whether a switchover can work: everything that can be known before anything is touched.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::fence;
use super::survey::{Answer, Request, Right, Server, Survey};
use crate::clock::Moment;
use crate::topology::{ReplicaView, SentinelId, View};

/// A `replica-priority` that makes Sentinel choose a replica: the lowest but 0, which means never.
pub const CHOSEN: u32 = 1;
/// Bytes of the replication stream that a replica may lack at the start. It must have all of them before it is promoted,
/// within [`super::CATCH_UP_PATIENCE`]; who lacks more than this, when asked every few milliseconds, would not.
const LAG_MAX: u64 = 1 << 20;
/// A promotion takes 0.15 to 0.3 s on an idle machine.
const FENCE_MIN: Duration = Duration::from_millis(500);

/// What is going to be done.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) master: SocketAddr,
    /// The one that is told to fail over.
    pub(super) sentinel: SentinelId,
    /// One of these will be master.
    pub(super) candidates: BTreeSet<SocketAddr>,
    /// The shortest of all Sentinels.
    pub(super) down_after: Duration,
    /// Whose `replica-priority` is to be [`CHOSEN`] for the while, and what it is.
    pub(super) arrange: Option<(SocketAddr, u32)>,
}

/// The Sentinel to ask: the first that names the master and is busy with nothing.
pub(super) fn leader(survey: &Survey) -> Option<SentinelId> {
    let fits = |view: &View| Some(view.master) == survey.master && !view.failover_in_progress;
    survey.sentinels.iter().find(|s| !s.tilt && s.view.as_ref().is_some_and(fits)).map(|s| s.id)
}

/// What must be asked before it can be judged.
pub(super) fn questions(survey: &Survey, to: Option<SocketAddr>) -> Vec<(Server, Request)> {
    let mut questions = Vec::new();
    if let Some(master) = survey.master {
        questions.extend([Right::Pause, Right::Follow].map(|right| (Server::Node(master), Request::May(right))));
    }
    if let Some(sentinel) = leader(survey) {
        let asked = [Request::Quorum, Request::May(Right::FailOver)];
        questions.extend(asked.map(|request| (Server::Sentinel(sentinel), request)));
    }
    if let Some(to) = to.filter(|to| survey.nodes.contains_key(to)) {
        let asked = [Request::Priority, Request::May(Right::SetPriority)];
        questions.extend(asked.map(|request| (Server::Node(to), request)));
    }
    questions
}

/// The checks: what passed and what did not, each as a sentence.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) checks: Vec<(bool, String)>,
    /// Present if all passed.
    pub(super) plan: Option<Plan>,
}

impl Verdict {
    fn note(&mut self, ok: bool, text: impl Into<String>) {
        self.checks.push((ok, text.into()));
    }

    /// The first thing that speaks against it.
    pub(super) fn first_fault(&self) -> Option<&str> {
        self.checks.iter().find(|(ok, _)| !ok).map(|(_, text)| text.as_str())
    }
}

/// Judges. `began`: answers to earlier questions do not count.
pub(super) fn judge(
    survey: &Survey,
    to: Option<SocketAddr>,
    answers: &[(Server, Request, Answer)],
    began: Moment,
) -> Verdict {
    let mut verdict = Verdict::default();
    let Some(master) = survey.master else {
        verdict.note(false, "no master is confirmed");
        return verdict;
    };
    match &survey.unsettled {
        None => verdict.note(true, format!("{master} is master, everybody follows it and every Sentinel has noticed")),
        Some(why) => verdict.note(false, format!("the last failover is not settled: {why}")),
    }
    let Some((sentinel, view)) = leader(survey).and_then(|id| Some((id, survey.view(id)?))) else {
        verdict.note(false, format!("no Sentinel names {master} and is free to fail over"));
        return verdict;
    };
    judge_sentinels(&mut verdict, survey);
    let arrange = match to {
        Some(to) => judge_target(&mut verdict, survey, view, to, answers),
        None => None,
    };
    let candidates = match to {
        Some(to) => BTreeSet::from([to]),
        None => electable(view),
    };
    judge_candidates(&mut verdict, survey, master, &candidates, began);
    for (server, request, answer) in answers {
        match (request, answer.fault()) {
            // Who may already be chosen needs no arranging, and so no right to do it.
            (Request::May(Right::SetPriority), _) if arrange.is_none() => {}
            (Request::May(right), None) => {
                verdict.note(true, format!("{} permits {}", name(survey, *server), right.command()))
            }
            (Request::May(right), Some(why)) => {
                verdict.note(false, format!("{} does not permit {}: {why}", name(survey, *server), right.command()));
            }
            (Request::Quorum, None) => verdict.note(true, format!("{} has a quorum", name(survey, *server))),
            (Request::Quorum, Some(why)) => verdict.note(false, format!("{}: {why}", name(survey, *server))),
            _ => {}
        }
    }
    if verdict.first_fault().is_none() {
        let down_after = survey.sentinels.iter().filter_map(|s| s.view.as_ref()).map(|v| v.down_after).min();
        let down_after = down_after.unwrap_or_default();
        verdict.plan = Some(Plan { master, sentinel, candidates, down_after, arrange });
    }
    verdict
}

fn judge_sentinels(verdict: &mut Verdict, survey: &Survey) {
    let deaf = survey.sentinels.iter().find(|s| s.view.is_none() || s.tilt);
    match deaf {
        None => verdict.note(true, format!("all {} Sentinels are in hearing", survey.sentinels.len())),
        Some(s) if s.tilt => verdict.note(false, format!("{} is in TILT mode", s.name)),
        Some(s) => verdict.note(false, format!("{} is out of hearing", s.name)),
    }
    let views = survey.sentinels.iter().filter_map(|s| s.view.as_ref());
    let limit = fence::limit(views.map(|v| v.down_after).min().unwrap_or_default(), survey.hold_timeout);
    if limit < FENCE_MIN {
        verdict.note(
            false,
            format!(
                "down-after-milliseconds or hold_timeout is too short: writes could wait {} ms at most, and a promotion \
                 takes up to {} ms",
                limit.as_millis(),
                FENCE_MIN.as_millis()
            ),
        );
    }
}

/// Whether Sentinel can be made to choose this one; returns whose priority is to be changed for that.
fn judge_target(
    verdict: &mut Verdict,
    survey: &Survey,
    view: &View,
    to: SocketAddr,
    answers: &[(Server, Request, Answer)],
) -> Option<(SocketAddr, u32)> {
    if survey.master == Some(to) {
        verdict.note(false, format!("{to} is the master already"));
        return None;
    }
    let Some(shown) = view.replicas.iter().find(|r| r.node == to) else {
        verdict.note(false, format!("{to} is no replica that Sentinel knows"));
        return None;
    };
    // One that it has just heard of it may not have asked yet (`sentinelSelectSlave`).
    if !(shown.reachable && shown.link_up) {
        verdict
            .note(false, format!("Sentinel would not promote {to}: it does not reach it, or has not seen it follow"));
        return None;
    }
    let found = answers.iter().find(|(_, request, _)| *request == Request::Priority).map(|(_, _, answer)| answer);
    let before = match found {
        Some(Answer::Done(number)) => number.parse::<u32>().ok(),
        _ => None,
    };
    let Some(before) = before else {
        let why = found.and_then(Answer::fault).unwrap_or("no answer");
        verdict.note(false, format!("the replica-priority of {to} cannot be read: {why}"));
        return None;
    };
    if before == 0 {
        verdict.note(false, format!("{to} has replica-priority 0: it is never to be master"));
        return None;
    }
    let others = view.replicas.iter().filter(|r| r.node != to && is_electable(r)).map(|r| r.priority).min();
    let shown = shown.priority;
    match others {
        Some(lowest) if lowest <= CHOSEN => {
            verdict
                .note(false, format!("another replica has replica-priority {lowest}: Sentinel may prefer it to {to}"));
            None
        }
        Some(lowest) if shown >= lowest || before >= lowest => {
            verdict.note(true, format!("replica-priority of {to} is {before}; it will be {CHOSEN} for the while"));
            Some((to, before))
        }
        _ => {
            verdict.note(true, format!("{to} is the one that Sentinel prefers"));
            None
        }
    }
}

fn judge_candidates(
    verdict: &mut Verdict,
    survey: &Survey,
    master: SocketAddr,
    candidates: &BTreeSet<SocketAddr>,
    began: Moment,
) {
    if candidates.is_empty() {
        verdict.note(false, "there is no replica that Sentinel could promote");
    }
    let lead = survey.offset(master, began);
    if lead.is_none() {
        verdict.note(false, format!("{master} was not heard since the beginning"));
    }
    for node in candidates {
        let says = survey.nodes.get(node).map_or("is not known", |n| n.says.as_str());
        match (lead, survey.offset(*node, began)) {
            (Some(lead), Some(offset)) => {
                let lag = lead.saturating_sub(offset);
                verdict.note(lag <= LAG_MAX, format!("{node} follows {master}, {lag} bytes behind"));
            }
            (_, None) => {
                verdict.note(false, format!("Sentinel may choose {node}, which cannot be promoted: it {says}"))
            }
            (None, _) => {}
        }
    }
}

/// Those that Sentinel chooses among: of the lowest priority. (Among them it prefers the highest offset and then the
/// lowest run id, as its last INFO gave them.)
fn electable(view: &View) -> BTreeSet<SocketAddr> {
    let electable = || view.replicas.iter().filter(|r| is_electable(r));
    let lowest = electable().map(|r| r.priority).min();
    electable().filter(|r| Some(r.priority) == lowest).map(|r| r.node).collect()
}

fn is_electable(replica: &ReplicaView) -> bool {
    replica.reachable && replica.link_up && replica.priority > 0
}

/// What people call a server.
pub(super) fn name(survey: &Survey, server: Server) -> String {
    match server {
        Server::Node(node) => node.to_string(),
        Server::Sentinel(id) => {
            survey.sentinels.iter().find(|s| s.id == id).map_or_else(|| "a Sentinel".to_owned(), |s| s.name.clone())
        }
    }
}
