//! What a session had on a lost connection and gets on another one: its subscriptions, its tracking.

use std::rc::Rc;

use bytes::Bytes;
use tokio::time::Instant;

use super::tracking::EVERYTHING;
use super::{Session, Step, Wait};
use crate::backend::{Answer, Audience, Connection, Effect};
use crate::metrics::CloseReason;
use crate::pool::Checkout;
use crate::topology::Pass;

/// Commands on their way to another connection.
#[derive(Debug)]
pub(super) struct Renewal {
    commands: Vec<(Bytes, Answer)>,
    /// They were sent, and are kept until all are confirmed: their connection may be lost too.
    sent: bool,
    since: Instant,
}

impl Session {
    /// The session's connection is lost.
    pub(super) fn begin_renewal(&mut self, lost: &Connection) {
        if let Some(renewal) = &mut self.renewal {
            // Lost before all was confirmed: from the beginning.
            renewal.sent = false;
        } else {
            let mut commands: Vec<(Bytes, Answer)> =
                self.tracking.renewal().iter().map(|command| (command.clone(), Answer::Replies)).collect();
            // In RESP2 it is told nothing, by Redis neither.
            if self.state.tracking && self.state.key.resp3 {
                // At once: until then the client believes what may be wrong. What it reads next it is told about again.
                self.down.push(Bytes::from_static(EVERYTHING));
                self.flush();
            }
            if self.state.subscribed {
                let subscriptions = lost.subscriptions.borrow().renewal();
                self.state.subscribed = !subscriptions.is_empty();
                commands.extend(subscriptions.into_iter().map(|(command, n)| (command, Answer::Confirmations(n))));
            }
            let since = Instant::now();
            self.renewal = (!commands.is_empty()).then(|| Box::new(Renewal { commands, sent: false, since }));
        }
        if self.renewal.is_none() {
            self.down.has_subscriptions_again();
        }
    }

    /// Sends them on a new connection; what answers them is swallowed, the client had it. Nothing is owed.
    pub(super) fn renew(&mut self) -> Option<Step> {
        let renewal = self.renewal.as_ref()?;
        if renewal.sent {
            self.renewal = None;
            self.down.has_subscriptions_again();
            // Redis would have closed a client that may not listen any more.
            if self.down.take_silent_error() {
                return Some(Step::Close(CloseReason::StateLost));
            }
            let (conn, _) = self.pin.as_ref()?;
            self.replay(&Rc::clone(conn));
            return None;
        }
        let end = renewal.since + self.terms.hold_timeout;
        if self.eof {
            return Some(Step::Close(CloseReason::Client));
        }
        // A subscriber cannot be told that it hears nothing.
        if Instant::now() >= end {
            return Some(Step::Close(CloseReason::StateLost));
        }
        // Where reads go: writes wait until subscriptions are there.
        let Pass::To(node) = self.pass(Effect::Read) else {
            self.pool.wait_for_permission(&self.down.wake);
            return Some(Step::Wait(Wait::until(end)));
        };
        let key = self.state.key.clone();
        match self.pool.pinned(node, &key, &self.down.wake) {
            Checkout::Ready(conn) => {
                self.own(Rc::clone(&conn), key);
                self.down.take_silent_error();
                let commands = self.renewal.as_mut().map(|r| {
                    r.sent = true;
                    r.commands.clone()
                });
                for (command, answer) in commands.unwrap_or_default() {
                    conn.queue(self.entry(command, Effect::Deferred, answer, Audience::Ours));
                }
                Some(Step::Done)
            }
            Checkout::Pending | Checkout::Full => Some(Step::Wait(Wait::until(end))),
            Checkout::Failed(_, retry_at) => Some(Step::Wait(Wait::until(retry_at.min(end)))),
        }
    }
}
