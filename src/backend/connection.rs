//! One connection to one backend: what is queued on it, what may be written now, and what becomes of it all when it is lost.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::time::Instant;

use super::context::Context;
use super::inflight::{Audience, Effect, Entry, Fate, InFlight};
use super::returns::{put_behind, set_aside};
use super::subscriptions::Subscriptions;
use super::{Downstream, Hello};
use crate::metrics::CloseReason;
use crate::net::{Signal, WriteHalf};
use crate::topology::{FAST_PATIENCE, HintKind};

/// Slices in one vectored write.
const MAX_SLICES: usize = 64;

/// Bytes that one session has queued in a row after which all are written without waiting for the turn to end: what
/// others queue behind a long pipeline is to find the backend at work on it.
const FLUSH_ONES: usize = 128 * 1024;
/// The same of all sessions together. Each write wakes the backend: large values of many leave in one.
const FLUSH_ALL: usize = 1024 * 1024;

/// A shared connection whose oldest command is older takes nothing new. Behind a script that runs for too long everybody
/// else would wait for its end, where Redis tells them `-BUSY`.
const STALLED: Duration = Duration::from_millis(50);

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Use {
    /// Many sessions pipeline on it.
    Shared,
    /// As `Shared`, for scripts.
    Scripts,
    /// As `Shared`, for commands whose replies are large.
    Large,
    /// One session at a time has it to itself.
    Pinned,
}

/// What a reply says of the command that it answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Last {
    /// Neither of the others.
    Ran,
    /// `-EXECABORT` or a null: what an `EXEC` answers that has ended its transaction and not run it.
    Ended,
    /// Any other error.
    Refused,
}

impl Last {
    pub(super) fn of(reply: &[u8]) -> Self {
        match reply {
            reply if reply.starts_with(b"-EXECABORT") => Self::Ended,
            [b'-', ..] => Self::Refused,
            b"*-1\r\n" | b"_\r\n" => Self::Ended,
            _ => Self::Ran,
        }
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// The backend closed or reset it.
    Closed,
    /// The backend sent something that is not RESP, or answered more than it was asked.
    Protocol,
    /// We closed it: its node is no longer where traffic goes, or its state cannot be used again.
    Dropped,
}

/// Who takes what comes on a connection that no command is sent on.
pub trait Listener: std::fmt::Debug {
    /// A frame that answers nothing.
    fn hear(&self, frame: Bytes);
    /// None will come any more.
    fn lose(&self);
}

/// A backend connection. Its tasks (`super::driver`) read and flush; sessions queue on it.
#[derive(Debug)]
pub struct Connection {
    /// Unique to the worker and service.
    pub id: u64,
    /// The node at the other end.
    pub node: SocketAddr,
    /// Shared or pinned.
    pub used: Use,
    /// What the node said of itself in the handshake.
    pub hello: Hello,
    pub(super) context: Rc<Context>,
    pub(super) writer: WriteHalf,
    pub(super) inflight: RefCell<InFlight<Rc<Downstream>>>,
    /// Wakes the task that writes: something is queued, or it is to end.
    pub(super) wake: Signal,
    /// Wakes the task that reads: a client has taken of its replies, or it is to end.
    pub(super) reader: Rc<Signal>,
    lost: Cell<Option<Lost>>,
    /// The kernel took less than there was.
    blocked: Cell<bool>,
    /// Nothing may be written any more; closed when all that was written is answered.
    retiring: Cell<bool>,
    /// A large reply is on its way: nothing new is queued on a shared connection, it would wait behind it.
    pub(super) streaming: Cell<bool>,
    /// Its oldest command has been unanswered for [`STALLED`], a long script perhaps: nothing new is queued behind it.
    pub(super) stalled: Cell<bool>,
    /// Parts of a large command that leave before anything in `inflight`; the command's end will be an entry there.
    ahead: RefCell<VecDeque<Bytes>>,
    /// The beginning of a command was streamed, and its end was not written.
    pub(super) mid_command: Cell<bool>,
    /// Bytes queued since the last flush; and of these what one session has queued last, with no other in between.
    fresh: Cell<(usize, usize)>,
    /// Who has a pinned connection now: receives what answers no command.
    pub(super) owner: RefCell<Option<Rc<Downstream>>>,
    /// Who has it if no command is sent on it.
    pub(super) listener: RefCell<Option<Rc<dyn Listener>>>,
    /// The database that is selected on it.
    pub database: Cell<u32>,
    /// What a pinned connection is subscribed to.
    pub subscriptions: RefCell<Subscriptions>,
    /// Every byte is the owner's, whatever it means (`MONITOR`, `SYNC`).
    pub(super) raw: Cell<bool>,
    /// Its blocking command was asked to come back, and has not been answered: `-UNBLOCKED` is the answer to that, and
    /// proves that nothing was popped.
    /// Who asked; nobody: 0.
    pub(super) withdrawn: Cell<u64>,
    /// What the last reply on a pinned connection was.
    pub(super) last: Cell<Last>,
    /// When the session gave it back, or, of a shared one, when something was last queued on it.
    pub idle_since: Cell<Instant>,
    /// When control was last told that the backend is silent.
    told_silent: Cell<Option<Instant>>,
}

impl Connection {
    pub(super) fn new(context: Rc<Context>, node: SocketAddr, used: Use, hello: Hello, writer: WriteHalf) -> Self {
        let stats = &context.stats;
        stats.backend_connects.add(1);
        open_count(&context, used).add(1);
        Self {
            id: context.next_id(),
            node,
            used,
            hello,
            writer,
            inflight: RefCell::default(),
            wake: Signal::default(),
            reader: Rc::default(),
            lost: Cell::new(None),
            blocked: Cell::new(false),
            retiring: Cell::new(false),
            streaming: Cell::new(false),
            stalled: Cell::new(false),
            ahead: RefCell::default(),
            mid_command: Cell::new(false),
            fresh: Cell::default(),
            owner: RefCell::default(),
            listener: RefCell::default(),
            database: Cell::new(0),
            subscriptions: RefCell::default(),
            raw: Cell::new(false),
            withdrawn: Cell::new(0),
            last: Cell::new(Last::Ran),
            idle_since: Cell::new(Instant::now()),
            told_silent: Cell::new(None),
            context,
        }
    }

    /// Whether commands may be queued on it.
    pub fn is_usable(&self) -> bool {
        self.lost.get().is_none() && !self.retiring.get()
    }

    /// Whether a shared connection takes new sessions' commands.
    pub fn is_free(&self) -> bool {
        self.is_usable() && !self.streaming.get() && !self.stalled.get()
    }

    /// Whether nothing is queued or owed on it.
    pub fn is_idle(&self) -> bool {
        self.inflight.borrow().is_empty()
    }

    /// Why it ended, if it has.
    pub fn lost(&self) -> Option<Lost> {
        self.lost.get()
    }

    /// Queues commands. They leave when the sessions that are ready in this turn have queued theirs.
    pub fn queue(&self, entry: Entry<Rc<Downstream>>) {
        let mut inflight = self.inflight.borrow_mut();
        let (all, ones) = self.fresh.get();
        let goes_on = inflight.newest().is_some_and(|newest| Rc::ptr_eq(&newest.to, &entry.to));
        let ones = if goes_on { ones } else { 0 } + entry.bytes.len();
        let all = all + entry.bytes.len();
        self.fresh.set((all, ones));
        self.idle_since.set(entry.queued_at);
        entry.to.owe(entry.commands);
        inflight.push(entry);
        drop(inflight);
        if (ones >= FLUSH_ONES || all >= FLUSH_ALL) && !self.blocked.get() {
            self.flush();
        } else {
            self.wake.raise();
        }
    }

    /// Sends a part of a large command that is still coming in. The connection is the session's own and owes nothing;
    /// the owner is woken when the kernel has taken it.
    pub fn stream(&self, part: Bytes) {
        self.mid_command.set(true);
        self.ahead.borrow_mut().push_back(part);
        self.wake.raise();
    }

    /// Whether streamed parts wait for the kernel.
    pub fn is_congested(&self) -> bool {
        !self.ahead.borrow().is_empty()
    }

    /// Gives a pinned connection to a session.
    pub fn assign(&self, owner: &Rc<Downstream>) {
        *self.owner.borrow_mut() = Some(Rc::clone(owner));
    }

    /// Gives a pinned connection to one who sends nothing on it, and keeps it until it is lost.
    pub fn listen(&self, listener: Rc<dyn Listener>) {
        *self.listener.borrow_mut() = Some(listener);
    }

    /// Whether a blocking command waits on it.
    pub fn is_blocked_in_command(&self) -> bool {
        self.used == Use::Pinned && self.inflight.borrow().oldest_written().is_some_and(|e| e.retry)
    }

    /// Whether a write, or the beginning of a large command, is unanswered; also one that is yet to go out, as it does in a
    /// pause.
    pub fn owes_write(&self) -> bool {
        self.mid_command.get() && !self.raw.get() || self.inflight.borrow().holds(|e| e.effect == Effect::Write)
    }

    /// Whether a pop that may be issued again is unanswered.
    pub fn owes_pop(&self) -> bool {
        self.inflight.borrow().holds(|e| e.effect == Effect::Deferred && e.acknowledges())
    }

    /// Whether the backend has been given a read, or something that is none, at `before` or earlier, and has not answered.
    pub fn owes(&self, a_read: bool, before: Instant) -> bool {
        self.inflight.borrow().owes(|e| (e.effect == Effect::Read) == a_read && e.queued_at <= before)
    }

    /// Whether the last command on a pinned connection was refused. If it was to end a transaction or a watch, the
    /// connection is still in it.
    pub fn is_refused(&self) -> bool {
        self.last.get() == Last::Refused
    }

    /// Whether the last command on a pinned connection ran; if it was `EXEC`, with all that was queued.
    pub fn has_run(&self) -> bool {
        self.last.get() == Last::Ran
    }

    /// The session is done with it and left no state behind.
    pub fn release(&self) {
        self.owner.take();
        self.withdrawn.set(0);
        self.idle_since.set(Instant::now());
        // Nobody else is to wait until the one who had it takes its replies.
        if self.streaming.take() {
            self.reader.raise();
        }
    }

    /// From now on every byte is the owner's. Nothing is owed on the connection.
    pub fn set_raw(&self) {
        self.raw.set(true);
    }

    /// Ends the connection to a node that is no longer where traffic goes. What has not reached it yet never will: a write
    /// whose client is told that its outcome is unknown need not be executed when a partition heals.
    pub fn sever(&self) {
        self.writer.abort();
        self.close(Lost::Dropped);
    }

    /// Ends the connection: what was on it is dealt with as [`Fate`] says, and its task ends.
    pub fn close(&self, why: Lost) {
        if self.lost.get().is_some() {
            return;
        }
        self.lost.set(Some(why));
        self.writer.shutdown();
        self.context.access.link().unregister(self.id);
        let stats = &self.context.stats;
        stats.backend_disconnects.add(1);
        open_count(&self.context, self.used).sub(1);
        match why {
            Lost::Closed => self.context.hint(self.node, HintKind::Reset),
            Lost::Protocol => stats.backend_protocol_errors.add(1),
            Lost::Dropped => {}
        }
        let abandoned = self.inflight.borrow_mut().abandon();
        let later = set_aside(abandoned.iter().map(|(entry, _)| &entry.to));
        for (i, (entry, fates)) in abandoned.into_iter().enumerate() {
            // The command whose turn it was may be what the backend fails at, and every other one after it.
            let in_turn = i == 0
                && why != Lost::Dropped
                && entry.audience != Audience::Forgotten
                && matches!(fates.first(), Some((_, Fate::Written(_))));
            if in_turn && entry.to.suspect() {
                entry.to.close(CloseReason::UnknownOutcome);
            }
            self.resolve(&entry, fates);
        }
        put_behind(later);
        if let Some(listener) = self.listener.take() {
            listener.lose();
        }
        if let Some(owner) = self.owner.borrow().as_ref() {
            if !self.subscriptions.borrow().is_empty() {
                owner.miss_subscriptions(&self.context.preparation);
            }
            owner.wake.raise();
        }
        self.wake.raise();
        self.reader.raise();
    }

    /// Lets what was written be answered, then closes.
    pub fn retire(&self) {
        self.retiring.set(true);
        self.wake.raise();
    }

    /// Whether it is to be closed now that nothing is owed on it.
    pub(super) fn is_retired(&self) -> bool {
        self.retiring.get() && self.is_idle()
    }

    /// Whether the kernel's buffer was full at the last flush.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Ready when the kernel takes bytes again.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.writer.writable().await
    }

    /// The kernel takes bytes again.
    pub(super) fn unblock(&self) {
        self.blocked.set(false);
    }

    /// Hands to the kernel what may go now. The lease is looked at here, immediately before the write.
    pub(super) fn flush(&self) {
        self.fresh.set((0, 0));
        if self.lost.get().is_some() || self.retiring.get() || self.blocked.get() {
            return;
        }
        while self.has_unwritten() {
            self.take_back();
            if self.lost.get().is_some() || !self.write_ahead() {
                return;
            }
            let mut inflight = self.inflight.borrow_mut();
            if !inflight.has_unwritten() || self.retiring.get() {
                return;
            }
            match write_next(&self.writer, &inflight) {
                Ok(n) => {
                    self.context.stats.backend_sent_bytes.add(n as u64);
                    inflight.wrote(n);
                    self.mid_command.set(self.mid_command.get() && inflight.has_unwritten());
                }
                Err(e) => {
                    drop(inflight);
                    if self.cannot_write(&e) {
                        return;
                    }
                }
            }
        }
    }

    fn has_unwritten(&self) -> bool {
        self.is_congested() || self.inflight.borrow().has_unwritten()
    }

    /// Hands streamed parts to the kernel; returns whether all have gone.
    fn write_ahead(&self) -> bool {
        loop {
            let mut ahead = self.ahead.borrow_mut();
            let Some(part) = ahead.front_mut() else { return true };
            match self.writer.try_write_vectored(&[IoSlice::new(part)]) {
                Ok(n) => {
                    self.context.stats.backend_sent_bytes.add(n as u64);
                    part.advance(n);
                    if part.is_empty() {
                        ahead.pop_front();
                    }
                    if ahead.is_empty()
                        && let Some(owner) = self.owner.borrow().as_ref()
                    {
                        owner.wake.raise();
                    }
                }
                Err(e) => {
                    drop(ahead);
                    if self.cannot_write(&e) {
                        return false;
                    }
                }
            }
        }
    }

    /// Whether the writing has to stop: because the kernel takes no more now, or because the connection is gone.
    fn cannot_write(&self, e: &io::Error) -> bool {
        match e.kind() {
            io::ErrorKind::WouldBlock => {
                self.blocked.set(true);
                self.wake.raise();
            }
            io::ErrorKind::Interrupted => return false,
            _ if self.is_idle() => self.close(Lost::Closed),
            // What the backend answered before it went may still be there to be read; the reader finds the end.
            _ => self.retire(),
        }
        true
    }

    /// Notes whether the oldest command has been unanswered for too long to queue behind it; and tells control when it has
    /// been for so long that the probe which that begins ends at the threshold. Again and again while it lasts: the backend
    /// may have answered the probe, and hang since then.
    pub fn check_silence(&self, now: Instant) {
        let inflight = self.inflight.borrow();
        // A blocking command is silent by intent.
        let oldest = inflight.oldest_written().filter(|_| self.used != Use::Pinned).map(|e| e.queued_at);
        self.stalled.set(oldest.is_some_and(|since| now.saturating_duration_since(since) > STALLED));
        let threshold = self.context.terms().silence_threshold;
        let suspicious = threshold.saturating_sub(FAST_PATIENCE).max(threshold / 3);
        let long_ago = |then: Instant, time| now.saturating_duration_since(then) > time;
        if oldest.is_some_and(|since| long_ago(since, suspicious))
            && self.told_silent.get().is_none_or(|told| long_ago(told, threshold))
        {
            self.told_silent.set(Some(now));
            self.context.hint(self.node, HintKind::Silent);
        }
    }
}

/// Gives the kernel what is to be written next.
fn write_next<T>(writer: &WriteHalf, inflight: &InFlight<T>) -> io::Result<usize> {
    if inflight.unwritten().nth(1).is_none() {
        let mut one = [IoSlice::new(&[])];
        let n = inflight.gather(&mut one);
        return writer.try_write_vectored(&one[..n]);
    }
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    let n = inflight.gather(&mut slices);
    writer.try_write_vectored(&slices[..n])
}

fn open_count(context: &Context, used: Use) -> &crate::metrics::Counter {
    match used {
        Use::Shared | Use::Scripts | Use::Large => &context.stats.backend_shared_master,
        Use::Pinned => &context.stats.backend_pinned,
    }
}
