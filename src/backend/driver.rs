//! The task of a backend connection: reads replies and hands them out, flushes what sessions have queued.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use super::connection::{Connection, Lost, Use};
use super::inflight::{Answer, Audience, Effect, Entry, Heed};
use super::large::LARGE;
use super::salvage::Outcome;
use super::subscriptions::Frame;
use super::{Downstream, bring_scripts};
use crate::clock::Moment;
use crate::metrics::{CloseReason, Limit};
use crate::net::ReadHalf;
use crate::resp::{Refusal, ReplyScanner, classify};
use crate::topology::HintKind;

/// Smallest read buffer; a turn's replies to small commands fit.
const READ_MIN: usize = 16 * 1024;
/// Largest read buffer: larger replies pass through in pieces of this size.
const READ_MAX: usize = 256 * 1024;
/// From this size on the part of a reply that is there is handed on before the rest has come.
const STREAM_AT: usize = 64 * 1024;
/// Outboxes flushed before the task lets others run: a thousand clients' system calls in a row would stall the rest.
const FLUSH_BATCH: usize = 128;
/// Replies waiting for a client behind which nobody waits, from which on its connection is read no further: enough to
/// keep both sockets busy. The rest stays with the backend, as it would if the client were connected to it.
const OUTPUT_ALONE: usize = 1 << 20;
/// Bytes read in a row after which the task lets others run: a large reply that comes as fast as it is read would keep the
/// worker for tens of milliseconds.
const READ_BURST: usize = 512 * 1024;
/// How long a client that is over its output limit may hold up the sessions behind it, in all, before it is closed.
const STALL_GRACE: Duration = Duration::from_secs(1);

/// The backend sent what is not RESP, or answered what it was not asked: nothing on this connection can be trusted.
struct Malformed;

struct Receiver {
    scanner: ReplyScanner,
    /// Bytes at the front of the buffer that belong to a reply not yet complete and have been scanned.
    partial: usize,
    /// The front of the buffer continues a reply whose beginning was handed on already.
    streamed: bool,
    /// Bytes of it.
    streamed_bytes: usize,
    /// Sessions whose outboxes have something new.
    touched: Vec<Rc<Downstream>>,
    size: usize,
    /// The session that has held up others by being over its output limit, and how long it may go on with that.
    stalling: Option<(Rc<Downstream>, Duration)>,
}

/// Closes the connection and with it its sessions if its task ends in any other way than by its loss, a panic above
/// all: better dropped than shifted by one reply.
struct Guard(Rc<Connection>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.close(Lost::Dropped);
    }
}

/// Runs the connection until it is lost. `buf` holds what the handshake read too much.
pub(super) async fn drive(conn: Rc<Connection>, mut read: ReadHalf, mut buf: BytesMut) {
    let _guard = Guard(Rc::clone(&conn));
    let mut rx = Receiver {
        scanner: ReplyScanner::new(),
        partial: 0,
        streamed: false,
        streamed_bytes: 0,
        touched: Vec::new(),
        size: READ_MIN,
        stalling: None,
    };
    let mut burst = 0;
    while conn.lost().is_none() {
        conn.flush();
        if conn.is_retired() {
            conn.close(Lost::Dropped);
            break;
        }
        if let Some((stalled, others)) = over_limit(&conn) {
            rx.wait_for_client(&conn, &stalled, others).await;
            continue;
        }
        match next(&conn, &mut read, &mut buf, rx.size).await {
            Turn::Flush => {}
            Turn::Writable => conn.unblock(),
            Turn::Read(0) => conn.close(Lost::Closed),
            Turn::Read(n) => {
                conn.context.stats.backend_received_bytes.add(n as u64);
                rx.adapt(n);
                if conn.raw.get() {
                    rx.pass_on(&conn, &mut buf);
                } else if rx.receive(&conn, &mut buf).is_err() {
                    conn.close(Lost::Protocol);
                }
                rx.flush_touched().await;
                burst += n;
                if burst >= READ_BURST {
                    burst = 0;
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    rx.flush_touched().await;
}

enum Turn {
    Flush,
    Writable,
    Read(usize),
}

async fn next(conn: &Connection, read: &mut ReadHalf, buf: &mut BytesMut, size: usize) -> Turn {
    let mut writable = pin!(async {
        if conn.is_blocked() {
            // An error means that the runtime ends; the read says so too.
            let _ = conn.writable().await;
        } else {
            std::future::pending::<()>().await;
        }
    });
    poll_fn(|cx| {
        if conn.wake.poll(cx).is_ready() {
            return Poll::Ready(Turn::Flush);
        }
        if writable.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Turn::Writable);
        }
        if buf.capacity() - buf.len() < size / 4 {
            buf.reserve(size);
        }
        match poll_read_buf(Pin::new(&mut *read), cx, buf) {
            Poll::Ready(Ok(n)) => Poll::Ready(Turn::Read(n)),
            Poll::Ready(Err(_)) => Poll::Ready(Turn::Read(0)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// The client at whose replies the connection is, if it has more waiting than it may; and whether others wait behind it.
fn over_limit(conn: &Connection) -> Option<(Rc<Downstream>, bool)> {
    let inflight = conn.inflight.borrow();
    let owner = conn.owner.borrow();
    let to = owner.as_ref().or_else(|| inflight.oldest_written().map(|e| &e.to)).filter(|to| !to.is_gone())?;
    let limit = conn.context.terms().limits.output_bytes;
    let queued = to.outbox.queued();
    if queued <= OUTPUT_ALONE.min(limit) {
        return None;
    }
    let others = inflight.waits_behind(|e| !Rc::ptr_eq(&e.to, to) && !e.to.is_gone());
    (!others || queued > limit).then(|| (Rc::clone(to), others))
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
    to.cursors.borrow_mut().note(what, reply, server);
}

/// The reply to `CLIENT GETREDIR` or `CLIENT TRACKINGINFO` with the client's id in place of its connection's.
fn redirects_to(reply: BytesMut, id: u64) -> BytesMut {
    const FIELD: &[u8] = b"$8\r\nredirect\r\n";
    let start = memchr::memmem::find(&reply, FIELD).map_or(0, |at| at + FIELD.len());
    let Some(end) = memchr::memchr(b'\r', &reply[start..]).map(|at| start + at) else { return reply };
    // 0 and -1 say that there is none.
    let names_one = reply[start] == b':' && reply[start + 1..end].iter().any(|b| (b'1'..=b'9').contains(b));
    if !names_one || reply[start + 1] == b'-' {
        return reply;
    }
    [&reply[..=start], id.to_string().as_bytes(), &reply[end..]].concat().as_slice().into()
}

impl Receiver {
    /// Stops reading until the client has taken some of its replies, or, if `others` wait behind it, for as long as it
    /// may keep them waiting.
    ///
    /// That time is neither begun anew when the connection is woken for another reason, nor by a client that takes a few
    /// bytes now and then.
    async fn wait_for_client(&mut self, conn: &Rc<Connection>, to: &Rc<Downstream>, others: bool) {
        to.pause_reader(Rc::clone(&conn.wake));
        // Whoever comes now goes to another connection.
        conn.streaming.set(true);
        if !others {
            conn.wake.wait().await;
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
        if tokio::time::timeout(left, conn.wake.wait()).await.is_err() {
            to.close(CloseReason::OutputLimit);
        }
        self.stalling = Some((Rc::clone(to), left.saturating_sub(since.elapsed())));
    }

    /// Buffers grow with what arrives, and go back when little does.
    fn adapt(&mut self, n: usize) {
        if n >= self.size {
            self.size = (self.size * 2).min(READ_MAX);
        } else if n < self.size / 8 {
            self.size = (self.size / 2).max(READ_MIN);
        }
    }

    /// Hands everything to the owner as it is: what comes answers nothing by itself, and need not be RESP (the stream of
    /// a `SYNC` is not).
    fn pass_on(&mut self, conn: &Connection, buf: &mut BytesMut) {
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
    fn receive(&mut self, conn: &Rc<Connection>, buf: &mut BytesMut) -> Result<(), Malformed> {
        let now = Instant::now();
        // Asked once a turn: a reply that was in the socket before the hold began may be parked needlessly, never the
        // other way round.
        let parking = !conn.context.access.may_write(conn.node, Moment::now());
        let (mut end, mut run, mut scanned) = (0, 0, self.partial);
        loop {
            let progress = self.scanner.scan(&buf[scanned..]).map_err(|_| Malformed)?;
            scanned += progress.consumed;
            if !progress.complete {
                break;
            }
            let frame = &buf[end..scanned];
            let special = !self.streamed && (frame[0] == b'-' || conn.used == Use::Pinned);
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
            let complete = conn.inflight.borrow_mut().front().is_none_or(|e| e.answered + run >= e.commands);
            if complete || self.streamed {
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
        parking: bool,
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
        match entry.heed {
            Heed::Scripts if streamed || replies.first() != Some(&b'-') => conn.context.note_scripts(entry, n),
            Heed::Cursor(what) if !streamed => note_cursor(conn, &to, what, &replies),
            Heed::Redirect(id) if !streamed => replies = redirects_to(replies, id),
            _ => {}
        }
        let commands = if to.is_salvaging() { entry.next_commands(n) } else { Vec::new() };
        entry.answered += n;
        conn.context.stats.latency[entry.class as usize]
            .observe(now.saturating_duration_since(entry.queued_at), n.into());
        if entry.answered >= entry.commands {
            inflight.pop().ok_or(Malformed)?;
        }
        drop(inflight);
        // Somebody else has been served: whoever is slow next has all its time.
        self.stalling.take_if(|(who, _)| !Rc::ptr_eq(who, &to));
        if to.is_gone() {
            return Ok(());
        }
        self.touch(&to);
        if silent {
            to.swallow(n, false);
        } else if streamed {
            to.deliver_part(replies.freeze(), true);
        } else if to.is_direct() && !(parking && effect == Effect::Write) {
            to.deliver(replies.freeze(), n);
        } else if to.is_salvaging() {
            self.salvage(conn, &to, replies, commands, effect, parking);
        } else {
            conn.context.stats.replies_parked.add(n.into());
            to.park(Moment::now(), replies.freeze(), n);
            conn.context.remember_parked(&to);
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
        parking: bool,
    ) {
        let mut scanner = ReplyScanner::new();
        for (command, its_effect) in commands {
            let Ok(progress) = scanner.scan(&replies) else { return };
            // Copied for the same reason as what is parked.
            let reply = Bytes::copy_from_slice(&replies.split_to(progress.consumed));
            let is_read = effect == Effect::Read || its_effect == Effect::Read;
            if is_read {
                to.outcome(Outcome::Read(command, reply));
            } else if parking {
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
        parking: bool,
        now: Instant,
    ) -> Result<(), Malformed> {
        if conn.used == Use::Pinned {
            let owner = conn.owner.borrow().clone();
            let expected = |e: &mut Entry<_>| matches!(e.answer, Answer::Confirmations(_));
            let expected = conn.inflight.borrow_mut().front().is_some_and(expected);
            let kind = conn.subscriptions.borrow_mut().note(&frame, expected);
            if kind != Frame::Reply {
                return self.unasked(conn, owner, frame, kind);
            }
        }
        // Another client may unblock this one, or its stream may be gone: then it is the answer. It is none where the
        // node was demoted, or where pointsman asked for the command to come back.
        let withdrawn = conn.withdrawn.take() > 0;
        let is_answer = |r: &Refusal| {
            let says = |text: &str| memchr::memmem::find(&frame, text.as_bytes()).is_some();
            let ours = says("instance state changed") || withdrawn && says("CLIENT UNBLOCK");
            *r == Refusal::Unblocked && !ours
        };
        let refusal = classify(&frame).filter(|r| !is_answer(r));
        let mut inflight = conn.inflight.borrow_mut();
        let entry = inflight.front().ok_or(Malformed)?;
        conn.refused.set(frame[0] == b'-' && !frame.starts_with(b"-EXECABORT"));
        conn.stalled.set(false);
        let to = Rc::clone(&entry.to);
        if frame[0] == b'-' && entry.audience != Audience::Client {
            entry.answered += 1;
            if entry.answered >= entry.commands {
                inflight.pop().ok_or(Malformed)?;
            }
            to.swallow(1, true);
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
            // An UNSUBSCRIBE that names nothing (`u32::MAX`) confirms every channel there is, or none with a null.
            *left = if *left == u32::MAX {
                if conn.subscriptions.borrow().is_empty_of(of) { 0 } else { u32::MAX }
            } else {
                left.saturating_sub(1)
            };
            // Redis too tells subscriptions to a client that has turned replies off.
            silent = entry.audience == Audience::Ours;
            if *left == 0 {
                let to = Rc::clone(&entry.to);
                inflight.pop().ok_or(Malformed)?;
                to.swallow(1, false);
            }
        }
        drop(inflight);
        if let Some(owner) = owner.filter(|_| !silent) {
            owner.push(frame.freeze());
            self.touch(&owner);
        }
        Ok(())
    }

    /// Hands on what there is of a large reply.
    fn stream_partial(&mut self, conn: &Rc<Connection>, buf: &mut BytesMut, parking: bool) -> Result<(), Malformed> {
        if self.partial < STREAM_AT {
            return Ok(());
        }
        if !self.streamed && may_be_unasked(conn, buf) {
            if let Some(owner) = conn.owner.borrow().as_ref() {
                bound_withheld(conn, owner, self.partial);
            }
            return Ok(());
        }
        let mut inflight = conn.inflight.borrow_mut();
        let Some(entry) = inflight.front() else { return Err(Malformed) };
        let (to, audience, effect) = (Rc::clone(&entry.to), entry.audience, entry.effect);
        if let Heed::Cursor(what) = entry.heed
            && !self.streamed
        {
            note_cursor(conn, &to, what, buf);
        }
        drop(inflight);
        // One that has begun to go out goes on.
        let held = !self.streamed && (!to.is_direct() || (parking && effect == Effect::Write));
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
        let part = buf.split_to(std::mem::take(&mut self.partial));
        let before = self.streamed_bytes;
        self.streamed_bytes += part.len();
        if conn.used == Use::Shared
            && (before..self.streamed_bytes).contains(&LARGE)
            && let Some(entry) = conn.inflight.borrow_mut().front()
        {
            entry.next_commands(1).iter().for_each(|(command, _)| conn.context.large.remember(command));
        }
        self.streamed = true;
        conn.streaming.set(true);
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

    async fn flush_touched(&mut self) {
        for (i, to) in self.touched.drain(..).enumerate() {
            to.outbox.flush();
            to.after_flush();
            if i % FLUSH_BATCH == FLUSH_BATCH - 1 {
                tokio::task::yield_now().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_told_invalidations_is_named_by_its_own_id() {
        let told = |reply: &str| String::from_utf8(redirects_to(reply.as_bytes().into(), 7).to_vec()).unwrap();
        assert_eq!(told(":123\r\n"), ":7\r\n");
        for as_it_is in [":-1\r\n", ":0\r\n", "+OK\r\n", "-ERR it\r\n", "*2\r\n$5\r\nflags\r\n*0\r\n"] {
            assert_eq!(told(as_it_is), as_it_is);
        }
        let info = |id| format!("*6\r\n$5\r\nflags\r\n*0\r\n$8\r\nredirect\r\n:{id}\r\n$8\r\nprefixes\r\n*0\r\n");
        assert_eq!(told(&info(123)), info(7));
        assert_eq!(told(&info(0)), info(0));
    }
}
