//! What must be done before the end, tried until it works: undoing what was done, or finishing what was begun.

use std::time::Duration;

use super::Action;
use super::survey::{Answer, Request, Server};
use crate::clock::Moment;

/// Pause before it is tried again.
const RETRY: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Duty {
    server: Server,
    request: Request,
    due: Moment,
    /// Its number while it is out.
    asked: Option<u32>,
    fault: String,
}

/// The list; of one server one after the other.
#[derive(Debug, Default)]
pub(super) struct Duties(Vec<Duty>);

/// What an answer to a duty means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// It is not one of these.
    NotOurs,
    /// It is done.
    Done(Request),
    /// It is tried again.
    Again,
}

impl Duties {
    pub(super) fn add(&mut self, now: Moment, server: Server, request: Request) {
        self.0.push(Duty { server, request, due: now, asked: None, fault: "no answer".to_owned() });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the old master is still to become a replica.
    pub(super) fn has_follow(&self) -> bool {
        self.0.iter().any(|d| matches!(d.request, Request::Follow(_)))
    }

    /// It must not become one any more.
    pub(super) fn forget_follow(&mut self) {
        self.0.retain(|d| !matches!(d.request, Request::Follow(_)));
    }

    /// When those that are not out are due.
    pub(super) fn due(&self) -> impl Iterator<Item = Moment> {
        self.0.iter().filter(|d| d.asked.is_none()).map(|d| d.due)
    }

    /// Asks for what is due.
    pub(super) fn ask(&mut self, now: Moment, next_id: &mut u32, out: &mut Vec<Action>) {
        for i in 0..self.0.len() {
            let (earlier, rest) = self.0.split_at_mut(i);
            let duty = &mut rest[0];
            if duty.asked.is_none() && now >= duty.due && !earlier.iter().any(|e| e.server == duty.server) {
                duty.asked = Some(*next_id);
                out.push(Action::Ask(*next_id, duty.server, duty.request));
                *next_id += 1;
            }
        }
    }

    pub(super) fn answered(&mut self, now: Moment, id: u32, answer: &Answer) -> Progress {
        let Some(at) = self.0.iter().position(|d| d.asked == Some(id)) else { return Progress::NotOurs };
        let duty = &mut self.0[at];
        // A server that was started without a file has nothing to rewrite.
        let needless = duty.request == Request::Persist && matches!(answer, Answer::Refused(_));
        match answer.fault().filter(|_| !needless) {
            None => Progress::Done(self.0.remove(at).request),
            Some(why) => {
                (duty.asked, duty.due, duty.fault) = (None, now + RETRY, why.to_owned());
                Progress::Again
            }
        }
    }

    /// Gives up: what is left to people.
    pub(super) fn give_up(&mut self) -> Vec<String> {
        let left = std::mem::take(&mut self.0).into_iter().filter_map(|duty| {
            let Server::Node(node) = duty.server else { return None };
            let left = match duty.request {
                Request::Follow(_) => format!("{node} could not be made a replica, which Sentinel does when it can"),
                Request::SetPriority(n) => format!("the replica-priority of {node} must be set back to {n}"),
                Request::Unpause => format!("the pause of writes at {node} could not be lifted, and ends by itself"),
                _ => return None,
            };
            Some(format!("{left} ({})", duty.fault))
        });
        left.collect()
    }
}
