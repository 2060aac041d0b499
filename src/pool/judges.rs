//! The connections on which backends judge (see [`Judge`]): how many, whose turn it is, and how long they are kept.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout};

use super::dials::Setback;
use super::{IDLE, Pool};
use crate::backend::{DialError, Judge, Key, Verdict};
use crate::clock::Moment;

/// Judgements under way at once, and so the connections that are kept for them, by worker and service. One takes two round
/// trips: the question, and the cleaning behind the answer.
const JUDGES: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Judges {
    /// Whoever wants a judgement takes one, in the order in which they came.
    turns: Semaphore,
    /// Connections that nobody is judged on.
    kept: RefCell<Vec<Judge>>,
    /// Connects that failed since the points were last turned.
    setbacks: RefCell<HashMap<SocketAddr, Setback>>,
    /// The points may have been turned.
    turned: Notify,
}

impl Default for Judges {
    fn default() -> Self {
        Self {
            turns: Semaphore::new(JUDGES),
            kept: RefCell::default(),
            setbacks: RefCell::default(),
            turned: Notify::new(),
        }
    }
}

impl Judges {
    /// One that leads to `node`: the one used last, so that what is not needed grows old.
    fn take(&self, node: SocketAddr) -> Option<Judge> {
        let mut kept = self.kept.borrow_mut();
        let at = kept.iter().rposition(|judge| judge.node == node)?;
        Some(kept.remove(at))
    }

    /// Why the last connect failed, while it is too early for another.
    fn failed(&self, node: SocketAddr) -> Option<DialError> {
        self.setbacks.borrow().get(&node)?.last(Instant::now()).map(|(error, _)| error)
    }

    fn note(&self, node: SocketAddr, failure: Option<&DialError>) {
        let mut setbacks = self.setbacks.borrow_mut();
        let now = Instant::now();
        match failure {
            None => drop(setbacks.remove(&node)),
            // Those that were under way at once fail at once: that is one failure.
            Some(error) => {
                let setback = setbacks.entry(node).or_default();
                if setback.last(now).is_none() {
                    setback.add(error.clone(), now);
                }
            }
        }
    }

    /// Closes those that lead where no traffic goes, and has the judgements that are under way look for themselves.
    pub(super) fn keep_where(&self, serves: impl Fn(SocketAddr) -> bool) {
        self.kept.borrow_mut().retain(|judge| serves(judge.node));
        self.setbacks.borrow_mut().clear();
        self.turned.notify_waiters();
    }

    /// Closes those that nobody has needed for long.
    pub(super) fn give_up_idle(&self, now: Instant) {
        self.kept.borrow_mut().retain(|judge| now.saturating_duration_since(judge.idle_since) <= IDLE);
    }
}

impl Pool {
    /// Puts commands to the master at `node`, in the state of `key` (see [`Judge::ask`]), and tells its verdict, or why it
    /// cannot be had within `connect_timeout`. When all clients come back at once, and each has to be judged, they take
    /// turns.
    pub async fn judge(
        &self,
        node: SocketAddr,
        key: &Key,
        commands: &[Bytes],
        tell: impl FnOnce(Result<Verdict, DialError>),
    ) {
        let config = self.context.terms();
        // Each turn before this one takes a bounded time; together they must not take longer than a client may wait.
        let patience = config.hold_timeout.max(config.connect_timeout);
        let Ok(Ok(_turn)) = timeout(patience, self.judges.turns.acquire()).await else {
            return tell(Err(DialError::Unreachable("as many clients as may be are asking to be judged".to_owned())));
        };
        let asked = Cell::new(false);
        let (judge, verdict) = tokio::select! {
            biased;
            () = self.until_left(node) => (None, Err(DialError::Unreachable("traffic goes elsewhere".to_owned()))),
            judged = self.put(node, key, commands, &asked) => judged,
        };
        let unknown = verdict.is_err() && asked.get() && Judge::acts(commands);
        tell(if unknown { Err(DialError::Unanswered) } else { verdict });
        // The turn is kept till then: the connection is not there for anybody else.
        let Some(judge) = judge else { return };
        if let Ok(Some(clean)) = timeout(config.connect_timeout, judge.clean()).await
            && self.serves(clean.node)
        {
            self.judges.kept.borrow_mut().push(clean);
        }
    }

    /// Until no traffic may go to `node`.
    async fn until_left(&self, node: SocketAddr) {
        loop {
            // Registered before the look: what changes behind that is not missed.
            let turned = self.judges.turned.notified();
            if !self.serves(node) {
                return;
            }
            turned.await;
        }
    }

    /// The verdict, and the connection if it is still good.
    async fn put(
        &self,
        node: SocketAddr,
        key: &Key,
        commands: &[Bytes],
        asked: &Cell<bool>,
    ) -> (Option<Judge>, Result<Verdict, DialError>) {
        let now = Moment::now();
        if !self.context.access.may_read(node, now) && !self.context.access.may_write(node, now) {
            return (None, Err(DialError::Unreachable("traffic is held".to_owned())));
        }
        let limit = self.context.terms().connect_timeout;
        let ask = async {
            loop {
                // One that was kept may be closed by now: what acts is not tried on it.
                let kept = if Judge::acts(commands) { None } else { self.judges.take(node) };
                let (mut judge, kept) = match kept {
                    Some(judge) => (judge, true),
                    None => {
                        let permit = self.permits.acquire().await;
                        if let Some(error) = self.judges.failed(node) {
                            return (None, Err(error));
                        }
                        let judge = Judge::dial(&self.context, node).await;
                        drop(permit);
                        self.judges.note(node, judge.as_ref().err());
                        match judge {
                            Ok(judge) => (judge, false),
                            Err(error) => {
                                self.note_failure(node, &error);
                                return (None, Err(error));
                            }
                        }
                    }
                };
                match judge.ask(key, commands, asked).await {
                    // Closed since it was last used (by `timeout`, by `CLIENT KILL`): that says nothing about this question.
                    Err(DialError::Unreachable(_)) if kept => {}
                    Err(error @ DialError::Auth(_)) => return (Some(judge), Err(error)),
                    Err(error) => return (None, Err(error)),
                    Ok(verdict) => return (Some(judge), Ok(verdict)),
                }
            }
        };
        let late = || DialError::Unreachable(format!("no answer within {} ms", limit.as_millis()));
        timeout(limit, ask).await.unwrap_or_else(|_| (None, Err(late())))
    }
}
