//! `WAIT` and `WAITAOF`: how many replicas have the client's writes, which Redis knows of each connection by itself. The
//! writes of a session went over connections that it shares.

use super::{Command, Session, Step, Wait};
use crate::backend::{Answer, Audience, Connection, Effect};
use crate::resp::{OwnError, encode_command};
use crate::topology::Pass;

impl Session {
    /// A write is on its way to the present master.
    pub(super) fn note_write(&mut self) {
        self.wrote = Some(self.pool.context.access.topology().generation);
    }

    /// `WAIT` of a client whose last write another master was given: whether this one has it is not known, nor therefore
    /// what its replicas have.
    pub(super) fn refuse_wait(&mut self, command: Command) -> Option<Step> {
        let wrote = self.wrote?;
        if let pass @ (Pass::Wait | Pass::Refuse) = self.pass(Effect::Write) {
            return Some(self.hold(command, pass));
        }
        if self.is_unmarkable() {
            return Some(self.cannot_tell(command, "in a transaction this server speaks of one connection alone"));
        }
        if wrote == self.pool.context.access.topology().generation {
            return None;
        }
        Some(self.cannot_tell(command, "the master has changed since the last write of this connection"))
    }

    /// `WAIT` in a transaction, before which nothing can be sent any more, to a server that speaks there of what came on
    /// the connection itself.
    fn is_unmarkable(&self) -> bool {
        self.state.multi && self.pin.as_ref().is_some_and(|(conn, _)| conn.hello.marks_by_writes)
    }

    /// Has the session's own connection speak of all that the session has written, wherever that went: `WAIT` behind it
    /// may count fewer replicas than on a connection that nobody shares, since others write too, and never more. None:
    /// `WAIT` may be sent.
    ///
    /// Redis up to 7.4 remembers at each command how far the stream is, and a `PING` does (`processCommand`: `c->woff`).
    /// Later servers, and Valkey from 8 on, do so only at a command that they hand on to replicas: `SWAPDB 0 0` is one that
    /// changes nothing.
    pub(super) fn mark(&mut self, command: Command, conn: &Connection) -> Option<Step> {
        // The server has the words for it.
        if conn.hello.unauthenticated {
            return None;
        }
        if self.down.owed() > 0 {
            return Some(Step::Wait(Wait::REPLIES));
        }
        let (words, effect) = if conn.hello.marks_by_writes && self.wrote.is_some() {
            (&["SWAPDB", "0", "0"][..], Effect::Write)
        } else {
            (&["PING"][..], Effect::Deferred)
        };
        let refused = self.down.take_silent_error();
        if !self.marked {
            conn.queue(self.entry(encode_command(words), effect, Answer::Replies, Audience::Ours));
            self.marked = true;
            return Some(Step::Wait(Wait::REPLIES));
        }
        let why = || format!("it takes a {}, which the server refused", words[0]);
        refused.then(|| self.cannot_tell(command, &why()))
    }

    fn cannot_tell(&mut self, command: Command, why: &str) -> Step {
        if self.down.owed() > 0 {
            return Step::Wait(Wait::REPLIES);
        }
        self.transaction.spoil(self.state.multi);
        let line = OwnError::WaitUnknown.line(&format!("what replicas have is not known: {why}"));
        self.say(command, line)
    }

    /// The command at the front is done with, `WAIT` or not; the connection that was marked for it is needed no more.
    pub(super) fn unmark(&mut self) {
        if std::mem::take(&mut self.marked) {
            self.unpin |= self.pin.is_some() && !self.state.is_pinned();
        }
    }
}
