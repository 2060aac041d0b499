//! Waiting: for a master, for bytes from the client, for room in its socket; and how long at most.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, sleep_until};
use tokio_util::io::poll_read_buf;

use super::{Came, Command, Leave, OUTBOX_HIGH, READ_AHEAD, READ_BURST, READ_MAX, READ_MIN, Session, Step, Wait};
use crate::clock::Moment;
use crate::metrics::CloseReason;
use crate::resp::{Kind, OwnError};
use crate::topology::Pass;

impl Session {
    /// The command at the front may not go now: it waits, until `hold_timeout`.
    pub(super) fn hold(&mut self, command: Command, pass: Pass) -> Step {
        self.permitted_since = None;
        self.wait_or_refuse(command, pass)
    }

    /// A connection is being dialled: the command at the front waits like a held one, but not for permission.
    pub(super) fn await_connection(&mut self, command: Command) -> Step {
        self.permitted_since.get_or_insert_with(Instant::now);
        self.wait_or_refuse(command, Pass::Wait)
    }

    fn wait_or_refuse(&mut self, command: Command, pass: Pass) -> Step {
        if let Some(wait) = self.wait_for_master(pass) {
            return Step::Wait(wait);
        }
        if self.down.owed() > 0 {
            return Step::Wait(Wait::REPLIES);
        }
        let line = self.no_master();
        self.refuse_waiting(command, line)
    }

    /// How long the front waits; none once it has waited for `hold_timeout` or is refused.
    pub(super) fn wait_for_master(&mut self, pass: Pass) -> Option<Wait> {
        let limit = self.terms.hold_timeout;
        let now = Instant::now();
        let since = self.begin_wait(now);
        let access = &self.pool.context.access;
        if access.is_paused() {
            // For as long as the operator likes: no limit, and none of the time counts afterwards.
            self.pool.wait_for_permission(&self.down.wake);
            return Some(Wait { replies: self.down.owed() > 0, ..Wait::SIGNAL });
        }
        let since = access.counts_from(since);
        if pass == Pass::Refuse || now.saturating_duration_since(since) >= limit {
            return None;
        }
        self.pool.wait_for_permission(&self.down.wake);
        Some(Wait { replies: self.down.owed() > 0, until: Some(since + limit), input: false })
    }

    /// The front has waited since then, or for longer.
    pub(super) fn begin_wait(&mut self, since: Instant) -> Instant {
        *self.waiting_since.get_or_insert_with(|| {
            let stats = &self.pool.context.stats;
            stats.commands_held.add(1);
            stats.commands_waiting.add(1);
            self.presence.client.set_waiting(true);
            since
        })
    }

    /// What is said where there is no master.
    pub(super) fn no_master(&self) -> Bytes {
        let name = &self.terms.name;
        let why = self.pool.context.access.topology().why.clone();
        let why: &str = if why.is_empty() { "it does not answer" } else { &why };
        OwnError::NoMaster.line(&format!("no master for '{name}': {why}"))
    }

    /// The command at the front has waited for too long. Nothing is owed.
    pub(super) fn refuse_waiting(&mut self, command: Command, line: Bytes) -> Step {
        // The line says that it was not executed.
        if self.down.is_in_doubt() && command.id.info().kind == Kind::Blocking {
            self.pool.context.stats.commands_unknown.add(1);
            return Step::Close(CloseReason::UnknownOutcome);
        }
        self.pool.context.stats.commands_refused.add(1);
        self.note_refused(command, &line);
        // The next blocking command has all its time.
        self.blocked_since = None;
        // What the command had of what it needs was to serve it alone.
        self.unpin |= self.pin.is_some() && !self.state.is_pinned();
        if self.state.multi && matches!(command.id.info().kind, Kind::Exec | Kind::Discard) {
            self.abandon_transaction();
        } else {
            self.transaction.spoil(self.state.multi);
        }
        // What was sent behind a MULTI that is refused was meant to run together or not at all.
        self.quitting |= command.id.info().kind == Kind::Multi && self.buf.len() > command.len;
        self.say(command, line)
    }

    /// The front waits no more.
    pub(super) fn forget_wait(&mut self) {
        if let Some(since) = self.waiting_since.take() {
            self.presence.client.set_waiting(false);
            let stats = &self.pool.context.stats;
            stats.commands_waiting.sub(1);
            let now = Instant::now();
            stats.hold_wait_ms.add(now.saturating_duration_since(since).as_millis() as u64);
            self.note_wait(since, now);
        }
    }

    /// Waits as `wait` says; reads what the client sends meanwhile, up to a bound, so that its leaving is noticed.
    ///
    /// Each client has this future: it holds nothing twice, as that of an async function would.
    pub(super) fn pause(&mut self, wait: Wait) -> impl Future<Output = Came> {
        // A pin that has served is given back with its last reply, not with the client's next command.
        // So does a client that is to leave go with its last reply.
        let leaves = self.leaving.get() != Leave::Nobody;
        let awaited = wait.replies || self.unpin || self.judging || self.becoming.is_some() || leaves;
        self.down.set_waiting(awaited);
        let may_read = !self.eof && (wait.input || self.buf.len() < READ_AHEAD);
        // What a large command needed is kept neither for small ones nor while the client rests.
        if self.roomy && self.buf.is_empty() && self.streaming.is_none() {
            (self.buf, self.roomy) = (BytesMut::new(), false);
        }
        let room = self.room();
        self.roomy |= may_read && room.wanted > READ_MAX;
        let down = &*self.down;
        // Hardly any wait is for these: in boxes.
        let mut writable = down.outbox.is_blocked().then(|| Box::pin(down.outbox.writable()));
        let mut timer = wait.until.map(|at| Box::pin(sleep_until(at)));
        // The client's leaving is seen in what is read, or, where nothing more is read for now, by itself.
        let (mut reading, mut ended) = (None, None);
        if may_read {
            reading = Some((&mut self.read, &mut self.buf, room));
        } else if !self.left {
            ended = Some(Box::pin(self.read.ended()));
        }
        poll_fn(move |cx| {
            if down.wake.poll(cx).is_ready() {
                return Poll::Ready(Came::Signal);
            }
            if let Some(ready) = &mut writable
                && ready.as_mut().poll(cx).is_ready()
            {
                // Also on an error, which means that the runtime ends.
                down.outbox.resume();
                if down.outbox.queued() <= OUTBOX_HIGH {
                    down.resume_reader();
                }
                return Poll::Ready(Came::Signal);
            }
            // Room is made once there is something to be read: by then what was sent has been answered as a rule, so that
            // nobody has a part of the buffer any more, and it is the same one from its beginning.
            if let Some((read, buf, room)) = &mut reading
                && read.poll_ready(cx).is_ready()
            {
                room.make(buf);
                if let Poll::Ready(read) = poll_read_buf(Pin::new(&mut **read), cx, *buf) {
                    return Poll::Ready(Came::Bytes(read));
                }
            }
            if let Some(end) = &mut ended
                && let Poll::Ready(end) = end.as_mut().poll(cx)
            {
                if end.is_ok() {
                    return Poll::Ready(Came::End);
                }
                ended = None;
            }
            match &mut timer {
                Some(timer) => timer.as_mut().poll(cx).map(|()| Came::Signal),
                None => Poll::Pending,
            }
        })
    }

    /// Returns whether so much has been read in a row that others are to be let run.
    pub(super) fn take_note(&mut self, came: Came) -> bool {
        match came {
            Came::Signal => {}
            Came::End => self.left = true,
            Came::Bytes(Ok(0)) => (self.eof, self.left) = (true, true),
            Came::Bytes(Ok(n)) => {
                self.heard = true;
                self.pool.context.stats.client_received_bytes.add(n as u64);
                if !self.terms.client_idle_timeout.is_zero() {
                    self.presence.client.active(Moment::now());
                    self.down.take_silence();
                }
                self.burst += n;
                if n >= self.read_size {
                    self.read_size = (self.read_size * 2).min(READ_MAX);
                } else if n < self.read_size / 8 {
                    self.read_size = (self.read_size / 2).max(READ_MIN);
                }
            }
            // Reset by the client: nobody is there to be answered.
            Came::Bytes(Err(_)) => self.down.close(CloseReason::Client),
        }
        let lets_run = self.burst >= READ_BURST;
        if lets_run {
            self.burst = 0;
        }
        lets_run
    }

    /// Hands the client what is still to be said, for a short time, and lets go of everything.
    pub(super) async fn last_words(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let drain = async {
            while self.down.outbox.is_blocked() && !self.down.outbox.is_broken() {
                if self.down.outbox.writable().await.is_err() {
                    return;
                }
                self.down.outbox.resume();
            }
        };
        // A client that does not read holds up nobody but itself, but not for ever.
        let _ = tokio::time::timeout(PATIENCE, drain).await;
    }

    /// Room for the next read: the size that reads have lately had, or what is missing of a large command.
    fn room(&self) -> Room {
        let missing = self.scanner.pending().map_or(0, |p| p.missing).min(1 << 20);
        // With less than half of that, a command might come in two reads.
        Room { least: (self.read_size / 2).max(missing), wanted: self.read_size.max(missing) }
    }
}

/// How much room a buffer is to have for a read.
#[derive(Clone, Copy)]
struct Room {
    least: usize,
    wanted: usize,
}

impl Room {
    fn make(self, buf: &mut BytesMut) {
        if buf.capacity() - buf.len() < self.least {
            buf.reserve(self.wanted);
        }
    }
}
