//! Replies that are kept back while it is not known whether what they tell survives.
//!
//! A reply to a write acknowledges it, and one to a read may show what other clients have written: what a master that
//! hung carries out when it wakes may be gone a moment later.

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use tokio::time::Instant;

use super::inflight::{Effect, Entry};
use super::{Context, Downstream};
use crate::clock::Moment;
use crate::insight::{self, SlowCommand};

/// Consecutive replies of a session that were parked at once.
#[derive(Debug)]
pub(super) struct Parked {
    /// When they came.
    pub(super) at: Moment,
    /// Whose they are.
    node: SocketAddr,
    /// The replies.
    pub(super) bytes: Bytes,
    /// How many.
    pub(super) replies: u32,
    /// All are to reads.
    pub(super) reads: bool,
    /// The commands, if they can be sent again: reads, and pops that may be issued again (`reissue_pops`).
    pub(super) again: Option<Vec<Bytes>>,
    /// When the commands were queued.
    pub(super) queued_at: Instant,
    /// What is noted if they were slow, by the time that is yet to pass.
    pub(super) slow: Option<Box<SlowCommand>>,
}

impl Parked {
    /// The replies to the next `replies` commands of an entry, which came from `node` now.
    pub(super) fn new(entry: &Entry<impl Sized>, node: SocketAddr, bytes: &[u8], replies: u32) -> Self {
        // All of it may stay for long, and is a part of a read buffer many times its size.
        let copied = |(command, _): (Bytes, Effect)| Bytes::copy_from_slice(&command);
        let again = (entry.effect != Effect::Write && !entry.partial)
            .then(|| entry.next_commands(replies).into_iter().map(copied).collect());
        let reads = entry.effect == Effect::Read;
        let (bytes, queued_at) = (Bytes::copy_from_slice(bytes), entry.queued_at);
        Self { at: Moment::now(), node, bytes, replies, reads, again, queued_at, slow: None }
    }

    /// What it takes of the memory.
    pub(super) fn size(&self) -> usize {
        let again: usize = self.again.iter().flatten().map(Bytes::len).sum();
        self.bytes.len() + again + self.slow.as_ref().map_or(0, |_| size_of::<SlowCommand>())
    }
}

/// Which replies are parked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parking {
    /// Those to reads: the node must not be read from.
    pub(super) reads: bool,
    /// Those that acknowledge something: it must not be written to.
    pub(super) writes: bool,
}

impl Parking {
    /// What comes from `node` now.
    pub(super) fn of(context: &Context, node: SocketAddr) -> Self {
        let (now, access) = (Moment::now(), &context.access);
        Self { reads: !access.may_read(node, now), writes: !access.may_write(node, now) }
    }

    /// Whether the replies to this entry are.
    pub(super) fn is_for(self, entry: &Entry<impl Sized>) -> bool {
        match entry.effect {
            _ if entry.acknowledges() => self.writes,
            Effect::Read => self.reads,
            // Its connection only keeps it.
            Effect::Write | Effect::Deferred => false,
        }
    }
}

/// What became of a session whose parked replies were given up.
#[derive(Debug)]
pub(super) enum GivenUp {
    /// Its commands are sent again.
    Again,
    /// Among them is a write: nobody can say what became of it. What was parked.
    Unknown(Vec<Parked>),
    /// A later command of it may still be answered, before them.
    NotYet,
}

impl Context {
    /// Remembers that replies of this session are parked.
    pub(super) fn remember_parked(&self, downstream: &Rc<Downstream>) {
        let mut parked = self.parked.borrow_mut();
        if !parked.iter().any(|d| Rc::ptr_eq(d, downstream)) {
            parked.push(Rc::clone(downstream));
        }
    }

    /// Whether replies are parked.
    pub fn has_parked(&self) -> bool {
        !self.parked.borrow().is_empty()
    }

    /// Delivers the replies that were parked before `safe`, and those to reads from a node that may be read from now.
    pub fn unpark(&self, safe: Moment) {
        let now = Moment::now();
        self.unpark_where(|p| p.at < safe || p.reads && self.access.may_read(p.node, now));
    }

    /// Delivers all of them: the master goes on.
    pub fn unpark_all(&self) {
        self.unpark_where(|_| true);
    }

    fn unpark_where(&self, is_safe: impl Fn(&Parked) -> bool) {
        // Taken out while sessions are dealt with: delivering may park again.
        let mut sessions = self.parked.take();
        sessions.retain(|d| d.unpark(&is_safe, |slow, since| self.note_kept(slow, since, None)));
        self.parked.borrow_mut().append(&mut sessions);
    }

    /// The replies will not be delivered: the master has changed and they were not seen to have reached the new one, or
    /// nobody could tell for too long, or reads flow elsewhere. Reads are sent again; of writes nobody can say what became.
    /// `writes`: those too.
    pub fn give_up_parked(&self, writes: bool) {
        let mut sessions = self.parked.take();
        sessions.retain(|d| match d.give_up_parked(writes) {
            GivenUp::Again => false,
            GivenUp::Unknown(parked) => {
                self.stats.commands_unknown.add(1);
                let unknown = Some(insight::Outcome::Unknown);
                parked.into_iter().for_each(|p| self.note_kept(p.slow, p.at, unknown));
                false
            }
            GivenUp::NotYet => true,
        });
        self.parked.borrow_mut().append(&mut sessions);
    }
}
