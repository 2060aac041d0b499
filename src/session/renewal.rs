//! What a session had on a lost connection and gets on another one: its subscriptions, its tracking.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Session, Step, Wait};
use crate::backend::{Answer, Audience, Connection, Effect};
use crate::clock::Moment;
use crate::metrics::CloseReason;
use crate::pool::Checkout;
use crate::topology::Pass;

/// How often at most it is looked whether a pause goes on.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Commands on their way to another connection.
#[derive(Debug)]
pub(super) struct Renewal {
    commands: Vec<(Bytes, Answer)>,
    /// As the server is to have them, so far as they are ready for it.
    ready: Vec<Bytes>,
    /// They were sent, and are kept until all are confirmed: their connection may be lost too.
    sent: bool,
    since: Instant,
}

impl Renewal {
    /// A connection that it needs was lost.
    pub(super) fn begin_again(&mut self) {
        self.ready.clear();
        self.sent = false;
    }
}

impl Session {
    /// The session's connection is lost.
    pub(super) fn begin_renewal(&mut self, lost: &Connection) {
        self.invalidate_all();
        if let Some(renewal) = &mut self.renewal {
            // Lost before all was confirmed.
            renewal.begin_again();
        } else {
            let mut commands: Vec<(Bytes, Answer)> =
                self.tracking.renewal().iter().map(|command| (command.clone(), Answer::Replies)).collect();
            // The connection knows: the answer to an EXEC may have come with its end, before anybody has looked at it.
            let subscriptions = lost.subscriptions.borrow().renewal();
            self.state.subscribed = !subscriptions.is_empty();
            self.describe();
            commands.extend(subscriptions.into_iter().map(|(command, n)| (command, Answer::Confirmations(n))));
            let since = Instant::now();
            self.renewal =
                (!commands.is_empty()).then(|| Box::new(Renewal { commands, ready: Vec::new(), sent: false, since }));
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
            if let Some(last) = self.tracking.renewal().last().cloned() {
                self.conclude_redirection(&last, true);
            }
            // Redis would have closed a client that may not listen any more.
            if self.down.take_silent_error() {
                return Some(Step::Close(CloseReason::StateLost));
            }
            let (conn, _) = self.pin.as_ref()?;
            self.replay(&Rc::clone(conn));
            return None;
        }
        // A pause has no end of its own.
        let (access, now) = (&self.pool.context.access, Instant::now());
        let (is_paused, limit) = (access.is_paused(), self.terms.hold_timeout.max(LOOK_AGAIN));
        let end = if is_paused { now + limit } else { access.counts_from(renewal.since) + self.terms.hold_timeout };
        if self.eof {
            return Some(Step::Close(CloseReason::Client));
        }
        // A subscriber cannot be told that it hears nothing.
        if now >= end {
            return Some(Step::Close(CloseReason::StateLost));
        }
        // Where reads go: writes wait until subscriptions are there. Also in a pause, or they would miss what is published
        // first behind it.
        let Pass::To(node) = self.pool.context.access.reads(Moment::now()) else {
            self.pool.wait_for_permission(&self.down.wake);
            return Some(Step::Wait(Wait::until(end)));
        };
        self.renew_at(node).unwrap_or_else(|checkout| match checkout {
            Checkout::Failed(_, retry_at) => Some(Step::Wait(Wait::until(retry_at.min(end)))),
            _ => Some(Step::Wait(Wait::until(end))),
        })
    }

    fn renew_at(&mut self, node: SocketAddr) -> Result<Option<Step>, Checkout> {
        let Some(mut renewal) = self.renewal.take() else { return Ok(None) };
        let sent = self.send_renewal(&mut renewal, node);
        self.renewal = Some(renewal);
        sent.map(|()| Some(Step::Done))
    }

    fn send_renewal(&mut self, renewal: &mut Renewal, node: SocketAddr) -> Result<(), Checkout> {
        for (command, _) in &renewal.commands[renewal.ready.len()..] {
            renewal.ready.push(self.redirected(command, node)?);
        }
        let key = self.state.key.clone();
        let conn = match self.pool.pinned(node, &key, &self.down.wake) {
            Checkout::Ready(conn) => conn,
            other => return Err(other),
        };
        self.own(Rc::clone(&conn), key);
        self.down.take_silent_error();
        renewal.sent = true;
        for (command, (_, answer)) in renewal.ready.drain(..).zip(&renewal.commands) {
            conn.queue(self.entry(command, Effect::Deferred, *answer, Audience::Ours));
        }
        Ok(())
    }
}
