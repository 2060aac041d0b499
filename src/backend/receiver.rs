//! What comes on a backend connection: replies are told from messages, and handed to whom they belong.

use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::connection::{Connection, Last, Lost, Use};
use super::inflight::{Answer, Audience, Effect, Entry, Heed};
use super::large::LARGE;
use super::parked::{Parked, Parking};
use super::salvage::Outcome;
use super::slow::Turn;
use super::subscriptions::Frame;
use super::transaction::{has_ended, suspect, why_discarded};
use super::{Downstream, bring_scripts};
use crate::metrics::{CloseReason, Limit};
use crate::resp::{Refusal, ReplyScanner, classify, says_redirection_broken};
use crate::topology::HintKind;

/// From this size on the part of a reply that is there is handed on before the rest has come.
const STREAM_AT: usize = 64 * 1024;
/// Outboxes flushed before the task lets others run: a thousand clients' system calls in a row would stall the rest.
const FLUSH_BATCH: usize = 128;
/// How long a client that is over its output limit may hold up the sessions behind it, in all, before it is closed.
const STALL_GRACE: Duration = Duration::from_secs(1);

/// The backend sent what is not RESP, or answered what it was not asked: nothing on this connection can be trusted.
pub(super) struct Malformed;

/// See the module.
#[derive(Default)]
pub(super) struct Receiver {
    scanner: ReplyScanner,
    /// Bytes at the front of the buffer that belong to a reply not yet complete and have been scanned.
    partial: usize,
    /// The front of the buffer continues a reply whose beginning was handed on already.
    streamed: bool,
    /// Bytes of it.
    streamed_bytes: usize,
    /// What has come in this turn was slow.
    turn: Turn,
    /// Sessions whose outboxes have something new.
    touched: Vec<Rc<Downstream>>,
    /// The beginning of an answer that is made of several frames.
    begun: BytesMut,
    /// The session that has held up others by being over its output limit, and how long it may go on with that.
    stalling: Option<(Rc<Downstream>, Duration)>,
}

/// Closes a client for which more is kept back than its outbox may hold: parked, collected behind a refusal, or `partial`
/// bytes of a reply that cannot be handed on before its end.
fn bound_withheld(conn: &Connection, to: &Downstream, partial: usize) {
    if to.withheld() + partial > conn.context.terms().limits.output_bytes && !to.is_gone() {
        conn.context.stats.reached(Limit::OutputBytes);
        to.close(CloseReason::OutputLimit);
    }
}

/// Whether the frame at the front of `buf` may be one that answers nothing. What it is can be told at its end only: it
/// is kept whole.
fn may_be_unasked(conn: &Connection, buf: &[u8]) -> bool {
    let subscribing = || {
        let is_subscribe = |e: &mut Entry<_>| matches!(e.answer, Answer::Confirmations(_));
        conn.inflight.borrow_mut().front().is_some_and(is_subscribe)
    };
    let may_be_array = || conn.subscriptions.borrow().may_be_array() || subscribing();
    conn.used == Use::Pinned && (buf[0] == b'>' || buf[0] == b'*' && may_be_array())
}

fn note_cursor(conn: &Connection, to: &Downstream, what: u64, reply: &[u8]) {
    // Of a generation's master: connections to others are closed when it changes.
    let server = (conn.context.access.topology().generation, conn.node);
    to.note_cursor(what, reply, server);
}

impl Receiver {
    /// Stops reading until the client has taken some of its replies, or, if `others` wait behind it, for as long as it
    /// may keep them waiting.
    ///
    /// That time is neither begun anew when the connection is woken for another reason, nor by a client that takes a few
    /// bytes now and then.
    pub(super) async fn wait_for_client(&mut self, conn: &Rc<Connection>, to: &Rc<Downstream>, others: bool) {
        to.pause_reader(Rc::clone(&conn.reader));
        // Whoever comes now goes to another connection.
        conn.streaming.set(true);
        if !others {
            conn.reader.wait().await;
            return;
        }
        let left = match self.stalling.take() {
            Some((who, left)) if Rc::ptr_eq(&who, to) => left,
            _ => {
                conn.context.stats.reached(Limit::OutputBytes);
                STALL_GRACE
            }
        };
        let since = Instant::now();
        if tokio::time::timeout(left, conn.reader.wait()).await.is_err() {
            to.close(CloseReason::OutputLimit);
        }
        self.stalling = Some((Rc::clone(to), left.saturating_sub(since.elapsed())));
    }

    /// Hands everything to the owner as it is: what comes answers nothing by itself, and need not be RESP (the stream of
    /// a `SYNC` is not).
    pub(super) fn pass_on(&mut self, conn: &Connection, buf: &mut BytesMut) {
        let mut inflight = conn.inflight.borrow_mut();
        while let Some(entry) = inflight.pop() {
            entry.to.swallow(entry.commands, false);
        }
        drop(inflight);
        if let Some(owner) = conn.owner.borrow().as_ref() {
            owner.push(buf.split().freeze());
            self.touch(owner);
        }
    }

    /// Hands out the replies in `buf`. Consecutive replies for one entry leave as one slice.
    pub(super) fn receive(&mut self, conn: &Rc<Connection>, buf: &mut BytesMut) -> Result<(), Malformed> {
        let now = Instant::now();
        self.turn.begin();
        // Asked once a turn: a reply that was in the socket before the hold began may be parked needlessly, never the
        // other way round.
        let parking = Parking::of(&conn.context, conn.node);
        let pinned = conn.used == Use::Pinned;
        // Replies that the oldest entry still waits for, as of the beginning of the run; and whether they are a transaction's.
        let (mut expected, mut transaction) = (0, false);
        let (mut end, mut run, mut scanned) = (0, 0, self.partial);
        loop {
            let progress = self.scanner.scan(&buf[scanned..]).map_err(|_| Malformed)?;
            scanned += progress.consumed;
            if !progress.complete {
                break;
            }
            let frame = &buf[end..scanned];
            if run == 0 {
                let front = |e: &mut Entry<_>| (e.commands - e.answered, e.is_transaction());
                (expected, transaction) = conn.inflight.borrow_mut().front().map_or((0, false), front);
                // Of a transaction whose end was taken back before it was written the beginning is answered.
                if expected == 0 && conn.is_retired() {
                    return Ok(());
                }
            }
            let special = !self.streamed && (frame[0] == b'-' || pinned || transaction);
            if special {
                if run > 0 {
                    let replies = buf.split_to(end);
                    scanned -= end;
                    self.hand_out(conn, replies, run, parking, now)?;
                    (end, run) = (0, 0);
                }
                let frame = buf.split_to(scanned);
                scanned = 0;
                self.special(conn, frame, parking, now)?;
                continue;
            }
            end = scanned;
            run += 1;
            if run >= expected || self.streamed {
                let replies = buf.split_to(end);
                (end, scanned) = (0, 0);
                self.hand_out(conn, replies, std::mem::take(&mut run), parking, now)?;
            }
        }
        if run > 0 {
            let replies = buf.split_to(end);
            scanned -= end;
            self.hand_out(conn, replies, run, parking, now)?;
        }
        self.partial = scanned;
        self.stream_partial(conn, buf, parking)
    }

    /// Whole replies for the oldest entry (the first of them may be the rest of one that was begun).
    fn hand_out(
        &mut self,
        conn: &Rc<Connection>,
        mut replies: BytesMut,
        n: u32,
        parking: Parking,
        now: Instant,
    ) -> Result<(), Malformed> {
        let streamed = std::mem::take(&mut self.streamed);
        self.streamed_bytes = 0;
        conn.streaming.set(false);
        conn.stalled.set(false);
        let mut inflight = conn.inflight.borrow_mut();
        let entry = inflight.front().ok_or(Malformed)?;
        let to = Rc::clone(&entry.to);
        let (silent, effect) = (entry.audience != Audience::Client, entry.effect);
        let forgotten = entry.audience == Audience::Forgotten;
        match &entry.heed {
            Heed::Scripts if streamed || replies.first() != Some(&b'-') => conn.context.note_scripts(entry, n),
            Heed::Cursor(what) if !streamed => note_cursor(conn, &to, *what, &replies),
            Heed::Translate(into) if !streamed => replies = into.translate(replies),
            _ => {}
        }
        let commands = if to.is_salvaging() { entry.next_commands(n) } else { Vec::new() };
        let direct = to.is_direct() && !parking.is_for(entry);
        let wanted = !silent && !streamed && !direct && !to.is_gone() && !to.is_salvaging();
        let mut parked = wanted.then(|| Parked::new(entry, conn.node, &replies, n));
        let spent = now.saturating_duration_since(entry.queued_at);
        conn.context.stats.latency[entry.class as usize].observe(spent, n.into());
        if spent >= conn.context.slow_from() || entry.waited.is_some() || parked.is_some() {
            let slow = self.turn.draft(conn, entry, &replies, n, now, parked.is_some());
            match (&mut parked, slow) {
                (Some(parked), slow) => parked.slow = slow.map(Box::new),
                (None, slow) => slow.into_iter().for_each(|slow| self.turn.note(slow)),
            }
        }
        self.turn.answered(n, now);
        entry.answered += n;
        if entry.answered >= entry.commands {
            inflight.pop().ok_or(Malformed)?;
        }
        drop(inflight);
        // Somebody else has been served: whoever is slow next has all its time.
        self.stalling.take_if(|(who, _)| !Rc::ptr_eq(who, &to));
        if to.is_gone() || forgotten {
            return Ok(());
        }
        self.touch(&to);
        if silent {
            to.swallow(n, false);
        } else if streamed {
            to.deliver_part(replies.freeze(), true);
        } else if let Some(parked) = parked {
            conn.context.stats.replies_parked.add(n.into());
            to.park(parked);
            conn.context.remember_parked(&to);
        } else if direct {
            to.deliver(replies.freeze(), n);
        } else {
            self.salvage(conn, &to, replies, commands, effect, parking);
        }
        bound_withheld(conn, &to, 0);
        Ok(())
    }

    /// Replies behind a refusal: each is kept with its command until it is known what ran.
    fn salvage(
        &mut self,
        conn: &Connection,
        to: &Rc<Downstream>,
        mut replies: BytesMut,
        commands: Vec<(Bytes, Effect)>,
        effect: Effect,
        parking: Parking,
    ) {
        let mut scanner = ReplyScanner::new();
        // The answer to a transaction is many.
        let is_one = commands.len() == 1;
        for (command, its_effect) in commands {
            let Ok(progress) = scanner.scan(&replies) else { return };
            let len = if is_one { replies.len() } else { progress.consumed };
            // Copied for the same reason as what is parked.
            let reply = Bytes::copy_from_slice(&replies.split_to(len));
            let is_read = effect == Effect::Read || its_effect == Effect::Read;
            if is_read {
                to.outcome(Outcome::Read(command, reply));
            } else if parking.writes {
                // It acknowledges a write that may not survive, behind a command that was refused: not worth its own queue.
                conn.context.stats.commands_unknown.add(1);
                to.close(CloseReason::UnknownOutcome);
                return;
            } else {
                to.outcome(Outcome::Ran(reply));
            }
        }
    }

    /// One frame that is an error, or came on a pinned connection: it may answer nothing, or refuse.
    fn special(
        &mut self,
        conn: &Rc<Connection>,
        frame: BytesMut,
        parking: Parking,
        now: Instant,
    ) -> Result<(), Malformed> {
        if conn.used == Use::Pinned && self.begun.is_empty() {
            let owner = conn.owner.borrow().clone();
            let expected = |e: &mut Entry<_>| matches!(e.answer, Answer::Confirmations(_));
            let expected = conn.inflight.borrow_mut().front().is_some_and(expected);
            let owed = conn.inflight.borrow_mut().front().is_some();
            let kind = conn.subscriptions.borrow_mut().note(&frame, expected, owed);
            if kind != Frame::Reply {
                return self.unasked(conn, owner, frame, kind);
            }
        }
        let Some(frame) = self.whole_answer(conn, frame)? else { return Ok(()) };
        // Another client may unblock this one, or its stream may be gone: then it is the answer. It is none where the
        // node was demoted, or where pointsman asked for the command to come back. A script may say the same words: what
        // blocks has a connection of its own.
        let withdrawn = conn.withdrawn.take() > 0;
        let is_answer = |r: &Refusal| {
            let says = |text: &str| memchr::memmem::find(&frame, text.as_bytes()).is_some();
            let ours = says("instance state changed") || withdrawn && says("CLIENT UNBLOCK");
            *r == Refusal::Unblocked && !(ours && conn.used == Use::Pinned)
        };
        let mut inflight = conn.inflight.borrow_mut();
        let entry = inflight.front().ok_or(Malformed)?;
        let refusal = if entry.is_transaction() { why_discarded(&frame) } else { classify(&frame) };
        let refusal = refusal.filter(|r| !is_answer(r));
        conn.last.set(Last::of(&frame));
        conn.stalled.set(false);
        let to = Rc::clone(&entry.to);
        if refusal == Some(Refusal::Unblocked) {
            to.accepted();
        }
        if frame[0] == b'-' && entry.audience != Audience::Client {
            let forgotten = entry.audience == Audience::Forgotten;
            entry.answered += 1;
            if let Heed::Translate(into) = &entry.heed {
                into.translate(frame);
            }
            if entry.answered >= entry.commands {
                inflight.pop().ok_or(Malformed)?;
            }
            if !forgotten {
                to.swallow(1, true);
            }
            return Ok(());
        }
        let can_run = |r: &Refusal, entry: &Entry<_>| {
            let called = || entry.next_commands(1).pop();
            *r != Refusal::NoScript
                || called().is_some_and(|(command, _)| conn.context.scripts.can_bring_called(&command, entry.queued_at))
        };
        let refused = refusal.filter(|r| entry.retry && conn.context.may_retry(*r, &to, now) && can_run(r, entry));
        let Some(refusal) = refused else {
            drop(inflight);
            return self.hand_out(conn, frame, 1, parking, now);
        };
        let (command, _) = entry.next_commands(1).pop().ok_or(Malformed)?;
        conn.note_return(entry);
        entry.answered += 1;
        if entry.answered >= entry.commands {
            inflight.pop().ok_or(Malformed)?;
        }
        drop(inflight);
        match refusal {
            Refusal::ReadOnly => conn.context.hint(conn.node, HintKind::ReadOnly),
            Refusal::Loading => conn.context.hint(conn.node, HintKind::Loading),
            Refusal::MasterDown => conn.context.hint(conn.node, HintKind::MasterDown),
            Refusal::NoScript if !conn.context.scripts.is_loading() => bring_scripts(&conn.context, conn.node, None),
            Refusal::NoReplicas | Refusal::Unblocked | Refusal::NoScript => {}
        }
        if !to.is_gone() {
            self.touch(&to);
            to.refuse(command, frame.freeze(), now);
        }
        Ok(())
    }

    /// The answer that ends with this frame; none if more of it is to come.
    fn whole_answer(&mut self, conn: &Connection, frame: BytesMut) -> Result<Option<BytesMut>, Malformed> {
        let mut inflight = conn.inflight.borrow_mut();
        let Some(Entry { heed, answer, to, commands, retry, audience, .. }) = inflight.front() else {
            return Ok(Some(frame));
        };
        if let Answer::Transaction(replies) = *answer
            && self.begun.is_empty()
            && frame[0] == b'-'
        {
            // `MULTI` was refused, and what is behind it runs by itself.
            if *audience != Audience::Forgotten {
                to.owe(replies - 1);
            }
            (*answer, *commands, *retry) = (Answer::Replies, replies, false);
            return Ok(Some(frame));
        }
        let is_whole = match (answer, heed) {
            (Answer::Transaction(left), _) => {
                *left -= 1;
                if *left == 0 && !has_ended(&frame) {
                    // Open still, it would queue what others have sent behind it.
                    conn.context.keeps_transactions_open.set(true);
                    return Err(Malformed);
                }
                *left == 0
            }
            (_, Heed::Translate(into)) => into.hear(&frame, &mut conn.subscriptions.borrow_mut()),
            _ => return Ok(Some(frame)),
        };
        if is_whole && self.begun.is_empty() {
            return Ok(Some(frame));
        }
        self.begun.extend_from_slice(&frame);
        bound_withheld(conn, to, self.begun.len());
        Ok(is_whole.then(|| std::mem::take(&mut self.begun)))
    }

    /// A frame that is not the answer to a command by itself.
    fn unasked(
        &mut self,
        conn: &Rc<Connection>,
        owner: Option<Rc<Downstream>>,
        frame: BytesMut,
        kind: Frame,
    ) -> Result<(), Malformed> {
        let mut inflight = conn.inflight.borrow_mut();
        let mut silent = false;
        if let Frame::Confirmation(of) = kind
            && let Some(entry) = inflight.front()
            && let Answer::Confirmations(left) = &mut entry.answer
        {
            *left = conn.subscriptions.borrow().left_to_confirm(*left, of);
            // Redis too tells subscriptions to a client that has turned replies off.
            silent = entry.audience == Audience::Ours;
            if *left == 0 {
                let to = Rc::clone(&entry.to);
                inflight.pop().ok_or(Malformed)?;
                to.swallow(1, false);
            }
        }
        drop(inflight);
        if let Some(listener) = conn.listener.borrow().as_ref() {
            listener.hear(frame.freeze());
            return Ok(());
        }
        // The connection that its session has invalidations come on is being lost. It will see that too, and have another.
        if says_redirection_broken(&frame) {
            return Ok(());
        }
        if let Some(owner) = owner.filter(|_| !silent) {
            owner.push(frame.freeze());
            self.touch(&owner);
        }
        Ok(())
    }

    /// Hands on what there is of a large reply.
    fn stream_partial(&mut self, conn: &Rc<Connection>, buf: &mut BytesMut, parking: Parking) -> Result<(), Malformed> {
        if self.partial < STREAM_AT {
            return Ok(());
        }
        if !self.streamed && may_be_unasked(conn, buf) {
            if let Some(owner) = conn.owner.borrow().as_ref() {
                bound_withheld(conn, owner, self.partial);
            } else if self.partial > conn.context.terms().limits.output_bytes {
                // What is passed on to other clients. Whoever listens here begins anew, and has them told that it did.
                conn.context.stats.reached(Limit::OutputBytes);
                conn.close(Lost::Dropped);
            }
            return Ok(());
        }
        let mut inflight = conn.inflight.borrow_mut();
        let Some(entry) = inflight.front() else { return Err(Malformed) };
        // What one that ran has come to begins to go out with what was said of its commands, which is short.
        if let Answer::Transaction(left) = entry.answer
            && !self.streamed
            && (left > 1 || buf[0] != b'*')
        {
            return Err(Malformed);
        }
        let (to, audience, parks) = (Rc::clone(&entry.to), entry.audience, parking.is_for(entry));
        let whole = match entry.heed {
            Heed::Translate(_) => true,
            Heed::Cursor(what) if !self.streamed => {
                note_cursor(conn, &to, what, buf);
                false
            }
            _ => false,
        };
        drop(inflight);
        if whole && !to.is_gone() {
            bound_withheld(conn, &to, self.partial);
            return Ok(());
        }
        // One that has begun to go out goes on.
        let held = !self.streamed && (!to.is_direct() || parks);
        if held {
            bound_withheld(conn, &to, self.partial);
        }
        let wanted = audience == Audience::Client && !to.is_gone();
        if wanted && held {
            return Ok(());
        }
        // Nobody wants it, and nobody waits behind it: not worth reading.
        let others = |e: &Entry<Rc<Downstream>>| !e.to.is_gone();
        if to.is_gone() && !conn.inflight.borrow().waits_behind(others) {
            conn.close(Lost::Dropped);
            return Ok(());
        }
        // What nobody wants is not kept.
        let mut part = buf.split_to(std::mem::take(&mut self.partial));
        if !self.begun.is_empty() {
            self.begun.unsplit(part);
            part = std::mem::take(&mut self.begun);
        }
        let before = self.streamed_bytes;
        self.streamed_bytes += part.len();
        if conn.used == Use::Shared
            && (before..self.streamed_bytes).contains(&LARGE)
            && let Some(entry) = conn.inflight.borrow_mut().front()
        {
            suspect(entry).iter().for_each(|command| conn.context.large.remember(command));
        }
        self.streamed = true;
        conn.streaming.set(true);
        // No error is that long.
        conn.last.set(Last::Ran);
        if wanted {
            to.deliver_part(part.freeze(), false);
            self.touch(&to);
        }
        Ok(())
    }

    fn touch(&mut self, to: &Rc<Downstream>) {
        if !self.touched.last().is_some_and(|t| Rc::ptr_eq(t, to)) {
            self.touched.push(Rc::clone(to));
        }
    }

    /// All that has come is handed out.
    pub(super) fn end_turn(&mut self, conn: &Connection) {
        self.turn.end(&conn.context);
    }

    pub(super) async fn flush_touched(&mut self) {
        for (i, to) in self.touched.drain(..).enumerate() {
            to.outbox.flush();
            to.after_flush();
            if i % FLUSH_BATCH == FLUSH_BATCH - 1 {
                tokio::task::yield_now().await;
            }
        }
    }
}
