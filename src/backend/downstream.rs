//! The client side as a backend connection sees it: where a session's replies go, and what comes back to the session.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::cursors::{Cursors, Server};
use super::parked::{GivenUp, Parked};
use super::preparation::{Outstanding, Preparation};
use super::salvage::{self, Outcome};
use crate::clients::Client;
use crate::clock::Moment;
use crate::insight::SlowCommand;
use crate::metrics::CloseReason;
use crate::net::{Outbox, Signal};

/// Connections that may be lost in a row with a session's command in turn before its commands go on a connection of their
/// own, and before the client is closed. One is its share of any failover; many are a command that the backend dies of.
const SUSPECTED: u8 = 2;
const CONVICTED: u8 = 4;

/// What a session shares with the backend connections it has commands on.
///
/// A session has commands outstanding on one route at a time, so replies arrive in its order. The connection's
/// reading task pushes them into the outbox; the session's task is woken only when it waits for something here.
#[derive(Debug)]
pub struct Downstream {
    /// Who the client is.
    pub client: Arc<Client>,
    /// The client's replies.
    pub outbox: Outbox,
    /// Wakes the session's task.
    pub wake: Rc<Signal>,
    /// Commands sent whose replies were neither delivered nor dropped.
    owed: Cell<u32>,
    /// The session wants to be woken when `owed` goes down.
    waiting: Cell<bool>,
    /// The session must close its client, and why. The first reason stays.
    fault: Cell<Option<CloseReason>>,
    /// The session has ended: what arrives is parsed and dropped.
    gone: Cell<bool>,
    /// The last bytes pushed are the beginning of a reply whose rest is still to come.
    mid_reply: Cell<bool>,
    /// Its client has been silent for too long.
    silent: Cell<bool>,
    /// A reply that pointsman swallowed was an error.
    silent_error: Cell<bool>,
    /// Bytes of what is in `parked`, `salvage` and `told`.
    withheld: Cell<usize>,
    /// What came back has run where it was sent.
    undone: Cell<bool>,
    /// A pop that came back may have run.
    doubtful: Cell<bool>,
    /// How often in a row a connection was lost while its command was the one to be answered.
    suspected: Cell<u8>,
    seldom: OnceCell<Box<Seldom>>,
}

/// What most sessions never have. In a box, since each session would have room for it; made at the first need.
#[derive(Debug, Default)]
struct Seldom {
    /// Commands to be sent again, in order, before anything newer.
    again: RefCell<Vec<Again>>,
    /// Since when the oldest of those had been under way.
    returned: Cell<Option<Instant>>,
    /// Replies that arrived while such commands were held, and what came behind them.
    parked: RefCell<Vec<Parked>>,
    /// What came since a command was refused with proof that it did not run.
    salvage: RefCell<Option<Vec<Outcome>>>,
    /// Since when its commands have been refused without one being answered.
    refused_since: Cell<Option<Instant>>,
    /// Its subscriptions went with their connection and are not back yet.
    missing: RefCell<Option<Outstanding>>,
    /// Cursors that its replies have brought.
    cursors: RefCell<Cursors>,
    /// Keys that another client's connection was told are invalid, for this client (`CLIENT TRACKING … REDIRECT`).
    told: RefCell<Vec<Bytes>>,
    /// A connection stopped reading until the outbox has drained.
    reader: RefCell<Option<Rc<Signal>>>,
}

/// Commands that came back to be sent again.
#[derive(Debug)]
pub struct Again {
    /// One command or several.
    pub bytes: Bytes,
    /// The client does not want their replies (`CLIENT REPLY`).
    pub silent: bool,
}

impl Downstream {
    /// The shared part of a new session.
    pub fn new(client: Arc<Client>, outbox: Outbox) -> Self {
        Self {
            client,
            outbox,
            wake: Rc::default(),
            owed: Cell::new(0),
            waiting: Cell::new(false),
            fault: Cell::new(None),
            gone: Cell::new(false),
            mid_reply: Cell::new(false),
            silent: Cell::new(false),
            silent_error: Cell::new(false),
            withheld: Cell::new(0),
            undone: Cell::new(false),
            doubtful: Cell::new(false),
            suspected: Cell::new(0),
            seldom: OnceCell::new(),
        }
    }

    /// What it has of that, if anything.
    fn had(&self) -> Option<&Seldom> {
        self.seldom.get().map(|seldom| &**seldom)
    }

    fn seldom(&self) -> &Seldom {
        self.seldom.get_or_init(Box::default)
    }

    // === The session's side ===

    /// Replies owed by the session's present route.
    pub fn owed(&self) -> u32 {
        self.owed.get()
    }

    /// The session has queued so many commands that will be answered.
    pub fn owe(&self, commands: u32) {
        self.owed.set(self.owed.get() + commands);
    }

    /// From now on (or not) the session is woken when replies come in.
    pub fn set_waiting(&self, waiting: bool) {
        self.waiting.set(waiting);
    }

    /// Why the session must close its client, if it must.
    pub fn fault(&self) -> Option<CloseReason> {
        self.fault.get()
    }

    /// Whether the client was found to have been silent for too long since the last look. If it still is, it will be found
    /// so again.
    pub fn take_silence(&self) -> bool {
        self.silent.take()
    }

    /// Commands that came back to be sent again, once nothing is owed.
    pub fn take_again(&self) -> Vec<Again> {
        if self.owed.get() > 0 { Vec::new() } else { self.set_aside() }
    }

    /// Whether commands came back.
    pub fn has_again(&self) -> bool {
        self.had().is_some_and(|had| !had.again.borrow().is_empty())
    }

    /// Since when the oldest of them had been under way.
    pub fn take_returned(&self) -> Option<Instant> {
        self.had()?.returned.take()
    }

    /// Whether an error was among the swallowed replies since the last call.
    pub fn take_silent_error(&self) -> bool {
        self.silent_error.replace(false)
    }

    /// Its subscriptions are back, or will never be.
    pub fn has_subscriptions_again(&self) {
        if let Some(had) = self.had() {
            had.missing.take();
        }
    }

    /// Whether its replies brought this cursor, and from another server than `now`.
    pub fn is_foreign(&self, what: u64, cursor: u64, now: Server) -> bool {
        self.had().is_some_and(|had| had.cursors.borrow().is_foreign(what, cursor, now))
    }

    /// It is told that keys are invalid.
    pub fn tell(&self, keys: Bytes) {
        if !self.is_gone() {
            self.withheld.set(self.withheld.get() + keys.len());
            self.seldom().told.borrow_mut().push(keys);
            self.wake.raise();
        }
    }

    /// Whether it was told something that has not been passed on.
    pub fn is_told(&self) -> bool {
        self.had().is_some_and(|had| !had.told.borrow().is_empty())
    }

    /// What it was told and may now be passed on: nothing in the middle of a reply.
    pub fn take_told(&self) -> Vec<Bytes> {
        let Some(had) = self.had().filter(|_| !self.is_mid_reply()) else { return Vec::new() };
        let told = had.told.take();
        let bytes: usize = told.iter().map(Bytes::len).sum();
        self.withheld.set(self.withheld.get().saturating_sub(bytes));
        told
    }

    /// The session has ended. `closing`: its socket is closed with the session.
    pub fn leave(&self, closing: bool) {
        self.gone.set(true);
        if let Some(had) = self.had() {
            had.missing.take();
            had.parked.take();
            had.told.take();
        }
        if closing {
            self.outbox.part();
        } else {
            // Replies still owed keep this alive; the client's socket and what it did not read must not wait for them.
            self.outbox.close();
        }
        self.resume_reader();
    }

    /// The outbox has drained: a connection that waits for that reads on.
    pub fn resume_reader(&self) {
        if let Some(reader) = self.had().and_then(|had| had.reader.take()) {
            reader.raise();
        }
    }

    // === The connection's side ===

    /// Whether the session has ended or is about to.
    pub fn is_gone(&self) -> bool {
        self.gone.get() || self.fault.get().is_some()
    }

    /// The connection with its subscriptions is lost.
    pub fn miss_subscriptions(&self, preparation: &Rc<Preparation>) {
        if !self.gone.get() {
            self.seldom().missing.borrow_mut().get_or_insert_with(|| preparation.expect());
        }
    }

    /// The client is to be closed.
    pub fn close(&self, reason: CloseReason) {
        if self.fault.get().is_none() {
            self.fault.set(Some(reason));
            if let Some(had) = self.had() {
                had.parked.take();
                had.again.take();
                had.told.take();
                if let Some(outcomes) = had.salvage.borrow_mut().as_mut() {
                    outcomes.clear();
                }
            }
            self.withheld.set(0);
        }
        self.wake.raise();
    }

    /// The client has been silent for too long: it is closed unless it waits for something.
    pub fn tell_silence(&self) {
        self.silent.set(true);
        self.wake.raise();
    }

    /// Whether replies pass straight to the outbox: none is parked or collected before them.
    pub fn is_direct(&self) -> bool {
        self.had().is_none_or(|had| had.parked.borrow().is_empty() && had.salvage.borrow().is_none())
    }

    /// Whether a refusal has started the collecting of outcomes.
    pub fn is_salvaging(&self) -> bool {
        self.had().is_some_and(|had| had.salvage.borrow().is_some())
    }

    /// Whether a reply has begun to go out and is not complete.
    pub fn is_mid_reply(&self) -> bool {
        self.mid_reply.get()
    }

    /// Hands over a part of a reply, or the rest of one.
    pub fn deliver_part(&self, bytes: Bytes, complete: bool) {
        self.mid_reply.set(!complete);
        self.push(bytes);
        if complete {
            self.suspected.set(0);
            self.settle(1);
            if self.is_told() {
                self.wake.raise();
            }
        }
    }

    /// Hands over whole replies.
    pub fn deliver(&self, bytes: Bytes, replies: u32) {
        self.accepted();
        self.suspected.set(0);
        self.push(bytes);
        self.settle(replies);
    }

    /// A frame that answers no command: a message, an invalidation.
    pub fn push(&self, bytes: Bytes) {
        if !self.is_gone() {
            self.outbox.push(bytes);
        }
    }

    /// Replies that were swallowed; `error` if one of them was an error.
    pub fn swallow(&self, replies: u32, error: bool) {
        if error {
            self.silent_error.set(true);
        }
        self.settle(replies);
    }

    /// A reply, or its beginning, brings a cursor.
    pub(super) fn note_cursor(&self, what: u64, reply: &[u8], from: Server) {
        self.seldom().cursors.borrow_mut().note(what, reply, from);
    }

    /// Keeps replies until it is known whether what they tell survives.
    pub(super) fn park(&self, parked: Parked) {
        self.withheld.set(self.withheld.get() + parked.size());
        self.seldom().parked.borrow_mut().push(parked);
    }

    /// Delivers what was parked, up to the first that is not safe; returns whether something stays parked. `told` is shown
    /// what is known of those that are delivered.
    pub(super) fn unpark(
        &self,
        is_safe: impl Fn(&Parked) -> bool,
        told: impl Fn(Option<Box<SlowCommand>>, Moment),
    ) -> bool {
        let mut parked = self.seldom().parked.borrow_mut();
        let n = parked.iter().take_while(|p| is_safe(p)).count();
        let due: Vec<Parked> = parked.drain(..n).collect();
        let rest = !parked.is_empty();
        drop(parked);
        for p in due {
            self.withheld.set(self.withheld.get().saturating_sub(p.size()));
            told(p.slow, p.at);
            self.deliver(p.bytes, p.replies);
        }
        self.outbox.flush();
        self.after_flush();
        rest
    }

    /// Drops what was parked: its commands are sent again, or, where one of them must not be, the client is closed.
    /// Unless `writes`, only what has nothing but reads is dropped.
    pub(super) fn give_up_parked(&self, writes: bool) -> GivenUp {
        let had = self.seldom();
        let parked = had.parked.borrow();
        if !writes && parked.iter().any(|p| !p.reads) {
            return GivenUp::NotYet;
        }
        if parked.iter().any(|p| p.again.is_none()) {
            drop(parked);
            let parked = had.parked.take();
            self.close(CloseReason::UnknownOutcome);
            return GivenUp::Unknown(parked);
        }
        let replies = parked.iter().map(|p| p.replies).sum();
        drop(parked);
        if self.owed.get() > replies {
            return GivenUp::NotYet;
        }
        let parked = had.parked.take();
        if parked.iter().any(|p| !p.reads) {
            self.undone.set(true);
            self.doubt();
        }
        let sizes: usize = parked.iter().map(Parked::size).sum();
        self.withheld.set(self.withheld.get().saturating_sub(sizes));
        parked.iter().for_each(|p| self.note_return(p.queued_at));
        // They stand before whatever came back or was collected meanwhile.
        let commands = parked.into_iter().flat_map(|p| p.again.unwrap_or_default());
        if let Some(outcomes) = had.salvage.borrow_mut().as_mut() {
            outcomes.splice(0..0, commands.map(Outcome::NotRun));
        } else {
            had.again.borrow_mut().splice(0..0, commands.map(|bytes| Again { bytes, silent: false }));
        }
        self.settle(replies);
        self.wake.raise();
        GivenUp::Again
    }

    /// Whether what came back, other than reads, has run since this was last asked: the connection that it ran on is not what
    /// it is taken for.
    pub fn take_undone(&self) -> bool {
        self.undone.take()
    }

    /// A pop comes back, to be issued again (`reissue_pops`), that may have run.
    pub(super) fn doubt(&self) {
        self.doubtful.set(true);
    }

    /// Whether one came back since [`Downstream::settle_doubt`]: nobody can say that it was not executed.
    pub fn is_in_doubt(&self) -> bool {
        self.doubtful.get()
    }

    /// It has been answered.
    pub fn settle_doubt(&self) {
        self.doubtful.set(false);
    }

    /// The server had taken a command and kept it until it was told to give it back: no refusal in a row of them.
    pub fn accepted(&self) {
        if let Some(had) = self.had() {
            had.refused_since.set(None);
        }
    }

    /// Bytes that are kept back: of replies that are parked, or collected behind a refusal; of what waits for the end of one.
    pub fn withheld(&self) -> usize {
        self.withheld.get()
    }

    /// Something other than a reply came of a command: from now on outcomes are collected until nothing is owed.
    pub(super) fn outcome(&self, outcome: Outcome) {
        if !self.is_gone() {
            self.withheld.set(self.withheld.get() + outcome.reply().map_or(0, Bytes::len));
        }
        self.seldom().salvage.borrow_mut().get_or_insert_default().push(outcome);
        self.settle(1);
    }

    /// A command was refused with proof that it did not run.
    pub fn refuse(&self, command: Bytes, reply: Bytes, now: Instant) {
        let since = &self.seldom().refused_since;
        if since.get().is_none() {
            since.set(Some(now));
        }
        self.outcome(Outcome::Refused(command, reply));
    }

    /// A connection was lost while it was the turn of this session's command. Returns whether that has happened so often
    /// in a row that the command must not be sent again: whatever answers it fails.
    pub fn suspect(&self) -> bool {
        self.suspected.set(self.suspected.get() + 1);
        self.suspected.get() >= CONVICTED
    }

    /// Whether its commands have to go by themselves until one is answered: then those who are not to blame get their
    /// answer, though they stood before the one who is.
    pub fn is_suspect(&self) -> bool {
        self.suspected.get() >= SUSPECTED
    }

    /// Since when its commands have been refused without one being answered.
    pub fn refused_since(&self) -> Option<Instant> {
        self.had()?.refused_since.get()
    }

    /// What comes back had been under way since then.
    pub(super) fn note_return(&self, queued_at: Instant) {
        let returned = &self.seldom().returned;
        returned.set(Some(returned.get().map_or(queued_at, |first| first.min(queued_at))));
    }

    /// Commands that did not run, or are reads, come back: behind what came back since [`Downstream::set_aside`], and
    /// behind what was collected since a refusal.
    pub(super) fn take_back(&self, bytes: Bytes, commands: u32, silent: bool) {
        self.seldom().again.borrow_mut().push(Again { bytes, silent });
        self.settle(commands);
        self.wake.raise();
    }

    /// Sets aside what came back already: until that is sent again the session queues nothing, so that whatever comes back
    /// after it was sent before it.
    pub(super) fn set_aside(&self) -> Vec<Again> {
        self.had().map(|had| had.again.take()).unwrap_or_default()
    }

    /// Puts it behind what came back meanwhile.
    pub(super) fn put_behind(&self, mut later: Vec<Again>) {
        if !later.is_empty() && !self.is_gone() {
            self.seldom().again.borrow_mut().append(&mut later);
        }
    }

    /// To be called after a flush: wakes the session if the socket took less than there was, or is gone.
    pub fn after_flush(&self) {
        if self.outbox.is_blocked() || self.outbox.is_broken() {
            self.wake.raise();
        }
    }

    /// A connection has stopped reading for this client's sake and is to be woken when the outbox has drained.
    pub fn pause_reader(&self, reader: Rc<Signal>) {
        *self.seldom().reader.borrow_mut() = Some(reader);
    }

    fn settle(&self, replies: u32) {
        let owed = self.owed.get().saturating_sub(replies);
        self.owed.set(owed);
        if owed == 0
            && let Some(had) = self.had()
            && let Some(outcomes) = had.salvage.take()
        {
            let kept: usize = outcomes.iter().filter_map(Outcome::reply).map(Bytes::len).sum();
            self.withheld.set(self.withheld.get().saturating_sub(kept));
            let settled = salvage::settle(outcomes);
            for reply in settled.deliver {
                self.push(reply);
            }
            self.outbox.flush();
            let again = settled.again.into_iter().map(|bytes| Again { bytes, silent: false });
            had.again.borrow_mut().splice(0..0, again);
            if !self.has_again() {
                had.returned.set(None);
            }
            if settled.close {
                self.close(CloseReason::UnknownOutcome);
            }
            self.wake.raise();
        } else if self.waiting.get() {
            self.wake.raise();
        }
    }
}

/// Two are equal if they are the same session's.
impl PartialEq for Downstream {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}
