//! `AUTH`, `HELLO` and `SELECT` of a session that has a connection of its own: the one becomes what the other is.

use std::cell::Cell;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::executed::{Executed, Outcome};
use super::telling::kind;
use super::words::without_name;
use super::{Command, Session, Step};
use crate::backend::{Answer, Effect, Entry, Heed, Translate};
use crate::metrics::CloseReason;
use crate::resp::{Kind, args};
use crate::router::selected;

/// An `AUTH` or `HELLO` that a backend has accepted and the session's own connection has not answered.
#[derive(Debug)]
pub(super) struct Becoming {
    /// What was said where it was judged.
    reply: Bytes,
    accepted: Cell<Option<bool>>,
}

/// The client is told what was said where it was judged, at the place where its own connection changes: what comes there
/// before is in the old version of RESP, and what comes behind it in the new one.
impl Translate for Becoming {
    fn translate(&self, reply: BytesMut) -> BytesMut {
        self.accepted.set(Some(reply.first() != Some(&b'-')));
        self.reply.as_ref().into()
    }
}

impl Session {
    /// A backend has accepted the `AUTH` or `HELLO` at the front, in these words: the session's own connection is to be
    /// what the session now is. Nothing is owed. If there is none, the words are still to be said.
    pub(super) fn become_alike(&mut self, command: Command, reply: Bytes) -> Option<Bytes> {
        // One that is being lost is replaced by what the session is.
        let Some(conn) = self.pin.as_ref().map(|(conn, _)| Rc::clone(conn)).filter(|conn| conn.is_usable()) else {
            return Some(reply);
        };
        let said = self.take(command);
        let frame = without_name(&said);
        let becoming = Rc::new(Becoming { reply, accepted: Cell::new(None) });
        let audience = self.next_audience();
        let heed = Heed::Translate(Rc::clone(&becoming) as Rc<dyn Translate>);
        let waited = self.take_waited();
        let entry = self.entry(frame, Effect::Deferred, Answer::Replies, audience);
        conn.queue(Entry { heed, said: Some(said), waited, ..entry });
        if !self.state.key.resp3 {
            conn.subscriptions.borrow_mut().expect_arrays();
        }
        self.becoming = Some(becoming);
        None
    }

    /// It has answered that, or the command came back to be judged again.
    pub(super) fn finish_becoming(&mut self, becoming: &Becoming) -> Option<Step> {
        match (becoming.accepted.get(), &mut self.pin) {
            // It is another's then, or would be.
            (Some(false), _) => return Some(Step::Close(CloseReason::StateLost)),
            (Some(true), Some((_, key))) => *key = self.state.key.clone(),
            _ => {}
        }
        None
    }

    /// `EXEC` was answered: the session is what its connection now is.
    pub(super) fn finish_executing(&mut self, executed: &Executed) {
        let Some(Outcome { accepted, replies, left }) = executed.outcome() else { return };
        self.state.replies = replies;
        self.quitting |= left;
        // What such a connection is like only the server knows.
        let kept = self.state.kept;
        let Some(accepted) = accepted else {
            self.end_queued_relays(false);
            (self.state.kept, self.state.rephrased) = (true, true);
            return;
        };
        // Of several the last says where invalidations go now.
        if let Some(last) = accepted.iter().rev().find(|command| is_tracking(command)) {
            self.redirect_as_executed(last);
        }
        for command in accepted {
            match kind(&command) {
                Kind::Select if !kept => match selected(&command) {
                    Some(database) => self.state.key.database = database,
                    None => self.state.kept = true,
                },
                Kind::Auth | Kind::Hello if !kept => self.adopt(&command),
                Kind::Client if !kept && is_tracking(&command) => self.track_as_executed(command),
                _ => {}
            }
        }
        if kept {
            return;
        }
        self.route = None;
        self.presence.client.select(self.state.key.database);
        if let Some((conn, key)) = &mut self.pin {
            *key = self.state.key.clone();
            conn.database.set(key.database);
            if !key.resp3 {
                conn.subscriptions.borrow_mut().expect_arrays();
            }
        }
    }

    /// The transaction has run this `CLIENT TRACKING`.
    fn track_as_executed(&mut self, command: Bytes) {
        self.tracking.ask(command);
        self.state.kept |= !self.tracking.conclude(true);
        // Turned off or not: that the connection was told of keys is looked at when it is given back.
        self.state.tracking = true;
    }
}

fn is_tracking(command: &[u8]) -> bool {
    kind(command) == Kind::Client && args(command).nth(1).is_some_and(|sub| sub.eq_ignore_ascii_case(b"TRACKING"))
}
