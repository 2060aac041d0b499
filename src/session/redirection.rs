//! `CLIENT TRACKING … REDIRECT`: one client's invalidations go to another, whatever connections that one has.
//!
//! The server redirects to a connection. The client that is meant may have none of its own, or another one after its next
//! command; so the server is named a connection made for this, and what comes there is passed on to the client.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::client_filter::{NOBODY, number};
use super::{Session, Step, Wait};
use crate::backend::{Connection, Context, Downstream, Key, Listener, Lost};
use crate::clients::{Client, Clients, Hearing};
use crate::metrics::{CloseReason, Limit};
use crate::pool::Checkout;
use crate::resp::{EVERYTHING_INVALID, args, encode_command, invalidated, invalidation, redirection_broken};

/// A connection that invalidations come on which are another client's.
#[derive(Debug)]
pub(super) struct Relay {
    conn: Rc<Connection>,
    passing: Rc<Passing>,
    /// It was asked for in a transaction that has not ended.
    queued: bool,
}

/// How they are passed on.
#[derive(Debug)]
struct Passing {
    context: Rc<Context>,
    clients: Arc<Clients>,
    target: Arc<Client>,
    /// The session whose invalidations they are.
    from: Rc<Downstream>,
    /// How many could not be passed on, as far as its client has not been told.
    failed: Cell<u32>,
    /// Whether there was one.
    broken: Cell<bool>,
    lost: Cell<bool>,
}

impl Listener for Passing {
    fn hear(&self, frame: Bytes) {
        let Some(keys) = invalidated(&frame) else { return };
        // Copied: it may wait for the end of a reply, and is a part of a read buffer many times its size.
        match self.clients.tell(&self.target, Bytes::copy_from_slice(keys)) {
            Hearing::Told => {}
            Hearing::Flooded => self.context.stats.reached(Limit::OutputBytes),
            Hearing::Deaf => {
                self.failed.set(self.failed.get() + 1);
                self.broken.set(true);
                self.from.wake.raise();
            }
        }
    }

    fn lose(&self) {
        self.lost.set(true);
        self.from.wake.raise();
    }
}

/// Who stands behind a connection that the server redirects to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Redirection {
    /// The server's id of that connection.
    pub(super) backend: i64,
    /// The client that is told.
    pub(super) id: u64,
    /// It cannot be told any more.
    pub(super) broken: bool,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.conn.close(Lost::Dropped);
    }
}

impl Relay {
    fn new(conn: Rc<Connection>, session: &Session, target: Arc<Client>) -> Self {
        let passing = Rc::new(Passing {
            context: Rc::clone(&session.pool.context),
            clients: Arc::clone(&session.presence.clients),
            target,
            from: Rc::clone(&session.down),
            failed: Cell::new(0),
            broken: Cell::new(false),
            lost: Cell::new(false),
        });
        conn.listen(Rc::clone(&passing) as Rc<dyn Listener>);
        Self { conn, passing, queued: session.state.multi }
    }
}

impl Session {
    /// The command as the server is to have it, with what it takes for that in `relays`, behind all others: a
    /// `CLIENT TRACKING … REDIRECT` names a connection of its own.
    pub(super) fn redirected(&mut self, frame: &Bytes, node: SocketAddr) -> Result<Bytes, Checkout> {
        let Some((at, id)) = redirection(frame) else { return Ok(frame.clone()) };
        // The server has the words for one that does not exist.
        let mut backend = NOBODY.to_owned();
        if let Some(target) = self.presence.clients.get(id) {
            let key = Key { database: 0, resp3: true, user: self.state.key.user.clone() };
            match self.pool.pinned(node, &key, &self.down.wake) {
                Checkout::Ready(conn) => {
                    backend = conn.hello.id.to_string();
                    self.relays.push(Relay::new(conn, self, target));
                }
                other => return Err(other),
            }
        }
        let mut words: Vec<&[u8]> = args(frame).collect();
        words[at] = backend.as_bytes();
        Ok(encode_command(&words))
    }

    /// The server has answered a `CLIENT TRACKING`: only the relay that it may have named is of use any more, or, if it was
    /// refused, those of before.
    pub(super) fn conclude_redirection(&mut self, command: &Bytes, accepted: bool) {
        let names_last = redirection(command).is_some_and(|(_, id)| self.redirects_to() == Some(id));
        match (accepted, names_last) {
            (true, true) => drop(self.relays.drain(..self.relays.len() - 1)),
            (true, false) => self.relays.clear(),
            (false, true) => drop(self.relays.pop()),
            (false, false) => {}
        }
        // Had anew in the middle of a transaction it is none of that.
        self.relays.iter_mut().for_each(|relay| relay.queued &= !accepted);
        self.presence.client.redirect_to(self.redirects_to().unwrap_or(0));
    }

    fn redirects_to(&self) -> Option<u64> {
        self.relays.last().map(|relay| relay.passing.target.id)
    }

    /// A transaction has run this `CLIENT TRACKING`.
    pub(super) fn redirect_as_executed(&mut self, command: &Bytes) {
        let named = redirection(command).map(|(_, id)| id);
        self.relays.retain(|relay| Some(relay.passing.target.id) == named);
        self.relays.iter_mut().for_each(|relay| relay.queued = false);
        self.presence.client.redirect_to(self.redirects_to().unwrap_or(0));
    }

    /// A transaction has ended. What it was to redirect through, and was not run, is of no use; if it is not known what
    /// has run (not `told`), all of it stays.
    pub(super) fn end_queued_relays(&mut self, told: bool) {
        if told {
            self.relays.retain(|relay| !relay.queued);
        } else {
            self.relays.iter_mut().for_each(|relay| relay.queued = false);
        }
    }

    /// What has become of the client's redirections: of the one that there is, and of those of before or from within a
    /// transaction.
    pub(super) fn redirections(&self) -> Vec<Redirection> {
        let named = |Relay { conn, passing, .. }: &Relay| Redirection {
            backend: conn.hello.id,
            id: passing.target.id,
            broken: passing.broken.get(),
        };
        self.relays.iter().map(named).collect()
    }

    /// Its connection is lost: which keys its client, or the one that is told for it, holds on to wrongly is not known.
    pub(super) fn invalidate_all(&mut self) {
        if let Some(Relay { passing, .. }) = self.relays.last() {
            let null: &'static [u8] = if self.state.key.resp3 { b"_\r\n" } else { b"$-1\r\n" };
            passing.clients.tell(&passing.target, Bytes::from_static(null));
        } else if self.state.tracking && self.state.key.resp3 {
            // In RESP2 it is told nothing, by Redis neither.
            self.down.push(Bytes::from_static(EVERYTHING_INVALID));
            self.flush();
        }
        self.relays.clear();
    }

    /// Passes on to the client what others' connections were told for it, and what could not be passed on for it.
    pub(super) fn hear(&mut self) -> Option<Step> {
        let limit = self.pool.context.terms().limits.output_bytes;
        let told = self.down.take_told();
        let push = self.state.key.resp3;
        let before = self.down.outbox.queued();
        // A RESP2 client hears it as a subscriber, of whatever, or not at all.
        if push || self.state.subscribed {
            told.iter().for_each(|keys| self.down.push(invalidation(keys, push)));
        }
        if !self.down.is_mid_reply() {
            for Relay { passing, .. } in &self.relays {
                let failed = passing.failed.take();
                (0..failed).filter(|_| push).for_each(|_| self.down.push(redirection_broken(passing.target.id)));
            }
        }
        // A flush that is in vain wakes the session.
        if self.down.outbox.queued() > before {
            self.flush();
        }
        if self.down.outbox.queued().max(self.down.withheld()) > limit {
            self.pool.context.stats.reached(Limit::OutputBytes);
            return Some(Step::Close(CloseReason::OutputLimit));
        }
        if !self.relays.iter().any(|r| r.passing.lost.get()) {
            return None;
        }
        match &self.pin {
            // With the connection goes what the server believes of it; then both are had anew.
            Some((conn, _)) if self.down.owed() == 0 || conn.is_blocked_in_command() => conn.close(Lost::Dropped),
            Some(_) => return Some(Step::Wait(Wait::REPLIES)),
            None => {
                self.invalidate_all();
                if let Some(renewal) = &mut self.renewal {
                    renewal.begin_again();
                }
            }
        }
        None
    }
}

/// The client that a `CLIENT TRACKING` redirects to, and which of its words says so.
fn redirection(frame: &[u8]) -> Option<(usize, u64)> {
    let mut words = args(frame);
    words.next().filter(|w| w.eq_ignore_ascii_case(b"CLIENT"))?;
    words.next().filter(|w| w.eq_ignore_ascii_case(b"TRACKING"))?;
    // The mode, or another option, stands before it.
    let before = words.by_ref().take_while(|w| !w.eq_ignore_ascii_case(b"REDIRECT")).count();
    Some((before + 3, number(words.next()?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_redirected_to_stands_behind_the_word() {
        let to = |words: &str| redirection(&encode_command(&words.split(' ').collect::<Vec<_>>()));
        assert_eq!(to("client tracking on redirect 5"), Some((4, 5)));
        assert_eq!(to("CLIENT TRACKING ON BCAST PREFIX p REDIRECT 12 NOLOOP"), Some((7, 12)));
        for none in ["CLIENT TRACKING ON", "CLIENT TRACKING ON REDIRECT x", "SUBSCRIBE TRACKING REDIRECT 5"] {
            assert_eq!(to(none), None, "{none}");
        }
    }
}
