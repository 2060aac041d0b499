//! What comes back from a connection: what must not be written any more, and what becomes of commands when it is lost.

use std::rc::Rc;

use bytes::Bytes;

use super::connection::{Connection, Lost, Use};
use super::inflight::{Audience, Effect, Entry, Fate};
use super::salvage::Outcome;
use super::{Again, Downstream};
use crate::clock::Moment;
use crate::metrics::CloseReason;
use crate::resp::OwnError;

impl Connection {
    pub(super) fn resolve(&self, entry: &Entry<Rc<Downstream>>, fates: Vec<(Bytes, Fate)>) {
        let to = &entry.to;
        if entry.audience == Audience::Forgotten {
            return;
        }
        if entry.audience == Audience::Ours {
            to.swallow(fates.len() as u32, true);
            return;
        }
        let silent = entry.audience == Audience::Nobody;
        for (command, fate) in fates {
            if to.is_gone() {
                return;
            }
            if to.is_mid_reply() {
                to.close(CloseReason::UnknownOutcome);
            } else if entry.partial {
                self.resolve_partial(entry, fate, silent);
            } else if fate == Fate::Written(Effect::Write) {
                self.context.stats.commands_unknown.add(1);
                self.note_unknown(entry, &command);
                if to.is_salvaging() {
                    to.outcome(Outcome::Unknown);
                } else {
                    to.close(CloseReason::UnknownOutcome);
                }
            } else if silent && fate == Fate::Written(Effect::Read) {
                to.swallow(1, false);
            } else {
                if fate == Fate::Written(Effect::Deferred) && entry.acknowledges() {
                    to.doubt();
                }
                self.note_return(entry);
                to.take_back(command, 1, silent);
            }
        }
    }

    /// A large command whose beginning is gone: if the backend never had its end, it did not run.
    fn resolve_partial(&self, entry: &Entry<Rc<Downstream>>, fate: Fate, silent: bool) {
        let to = &entry.to;
        if fate == Fate::NeverWritten && silent {
            to.swallow(1, false);
        } else if fate == Fate::NeverWritten {
            to.deliver(half_streamed(&self.context.terms().name), 1);
            to.outbox.flush();
            to.after_flush();
        } else {
            self.context.stats.commands_unknown.add(1);
            self.note_unknown(entry, &entry.bytes);
            to.close(CloseReason::UnknownOutcome);
        }
    }

    /// Takes back what may not be written now, as the access says. To be called whenever permission may have gone.
    pub fn take_back(&self) {
        let now = Moment::now();
        let access = &self.context.access;
        let (reads, writes) = (access.may_read(self.node, now), access.may_write(self.node, now));
        // Nor may one begin to block in a pause, which would have to wait for its end.
        let blocks = writes && !access.is_paused();
        if reads && blocks {
            return;
        }
        // The rest of half a command cannot wait elsewhere; without it the backend never runs it.
        if self.mid_command.get() && !writes {
            self.close(Lost::Dropped);
            return;
        }
        let permitted = |e: &Entry<Rc<Downstream>>| match e.effect {
            // It may pop at once; and if it blocks here, nobody will withdraw it.
            _ if self.used == Use::Pinned && e.retry => blocks,
            Effect::Read => reads,
            Effect::Write => writes,
            // It does not run before a later command that is looked at itself.
            Effect::Deferred => reads || writes,
        };
        let mut inflight = self.inflight.borrow_mut();
        if inflight.unwritten().all(permitted) {
            return;
        }
        let (taken, stuck) = inflight.take_back(permitted, self.writer.is_committed());
        drop(inflight);
        if stuck {
            self.retire();
        }
        // The connection is not in the state that its session takes it to be in.
        let is_broken = taken.iter().any(|t| t.audience == Audience::Ours);
        let later = set_aside(taken.iter().map(|t| &t.to));
        for t in taken {
            match t.audience {
                Audience::Ours => t.to.swallow(t.commands, true),
                audience => {
                    t.to.note_return(t.queued_at);
                    t.to.take_back(t.bytes, t.commands, audience == Audience::Nobody);
                }
            }
        }
        put_behind(later);
        if is_broken {
            self.close(Lost::Dropped);
        }
    }

    /// Reads flow elsewhere now, while it is not known what became of the writes here: the reads are sent again there,
    /// as far as their sessions have nothing else here, and keep their order.
    pub fn forget_reads(&self) {
        if self.used == Use::Pinned {
            return;
        }
        let may_go = |e: &Entry<Rc<Downstream>>| !e.to.is_gone() && !e.to.is_mid_reply() && !e.to.is_salvaging();
        let taken = self.inflight.borrow_mut().forget_reads(Rc::as_ptr, may_go);
        let later = set_aside(taken.iter().map(|t| &t.to));
        for t in taken {
            t.to.note_return(t.queued_at);
            t.to.take_back(t.bytes, t.commands, false);
        }
        put_behind(later);
    }
}

/// What is about to come back to these sessions was sent before all that came back to them already. Returns the latter,
/// for [`put_behind`].
pub(super) fn set_aside<'a>(sessions: impl Iterator<Item = &'a Rc<Downstream>>) -> Vec<(Rc<Downstream>, Vec<Again>)> {
    sessions.filter(|s| s.has_again()).map(|s| (Rc::clone(s), s.set_aside())).collect()
}

pub(super) fn put_behind(later: Vec<(Rc<Downstream>, Vec<Again>)>) {
    for (session, later) in later {
        session.put_behind(later);
    }
}

/// What a client is told whose large command was under way when traffic was held.
pub fn half_streamed(service: &str) -> Bytes {
    OwnError::NoMaster.line(&format!("the master of '{service}' was lost while a large command was on its way to it"))
}
