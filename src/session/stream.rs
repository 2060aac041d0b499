//! Commands too large to be kept: they leave, on a connection of the session's own, while they still come in.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Session, Step, Wait};
use crate::backend::{Answer, Audience, Connection, Effect, Entry, Heed, half_streamed};
use crate::insight::{Outcome, Waited};
use crate::metrics::{CloseReason, LatencyClass, Limit};
use crate::pool::Checkout;
use crate::resp::{CommandId, Kind, OwnError, Scan};
use crate::topology::Pass;

/// A command that will have at least so many bytes is streamed. Below, keeping it costs less than a connection of its
/// own, and it can be sent again.
const STREAM_AT: usize = 256 * 1024;

/// A command on its way.
#[derive(Debug)]
pub(super) struct Streaming {
    /// Where it goes; none: it is read and dropped.
    conn: Option<Rc<Connection>>,
    effect: Effect,
    /// All of it has come: so many bytes of it are at the front of the buffer.
    last: Option<usize>,
    /// What is answered in the end if it is dropped.
    refusal: Bytes,
    /// What it had waited for before it began to leave, and what it is.
    waited: Option<Box<Waited>>,
}

impl Session {
    /// The command at the front is incomplete: if it is a large one, begins to send it. None: it is waited for.
    pub(super) fn begin_streaming(&mut self) -> Option<Step> {
        let context = &self.pool.context;
        let pending = self.scanner.pending();
        let len = self.buf.len() + pending.map_or(0, |p| p.missing);
        if len < STREAM_AT {
            return None;
        }
        let id = pending.map_or(CommandId::OTHER, |p| self.identify(&self.buf[p.name.0..p.name.1], &self.buf));
        let info = id.info();
        // What the others do, or whether they are on the list, is seen in their arguments.
        let streams = pending.is_some()
            && matches!(info.kind, Kind::Plain | Kind::Scan | Kind::Script | Kind::Other)
            && !self.terms.refused.mentions(id);
        let most = self.terms.limits.command_bytes;
        if !streams && len <= most {
            return None;
        }
        if self.down.owed() > 0 {
            return Some(Step::Wait(Wait::REPLIES));
        }
        if self.unpin {
            return Some(Step::Done);
        }
        if !streams {
            context.stats.reached(Limit::CommandBytes);
            let why = format!("the command has more than {most} bytes, and is not one that passes while it comes in");
            let refusal = OwnError::Refused.line(&(why + " (limits.command_bytes)"));
            self.count(id.index());
            let (conn, effect, waited) = (None, Effect::Read, None);
            self.streaming = Some(Box::new(Streaming { conn, effect, last: None, refusal, waited }));
            return Some(Step::Done);
        }
        let effect = match (self.state.multi, info.readonly) {
            (true, _) => Effect::Deferred,
            (false, true) => Effect::Read,
            (false, false) => Effect::Write,
        };
        let conn = match self.connection_for_streaming() {
            Ok(conn) => conn,
            Err(step) => return Some(step),
        };
        self.forget_wait();
        if conn.is_some() && !info.readonly {
            self.note_write();
        }
        self.count(id.index());
        self.show(&self.buf, 1);
        let waited = self.take_waited();
        let waited = (self.pool.context.slow_from() < Duration::MAX).then(|| {
            let described = Some(self.pool.context.describe(&self.buf));
            Box::new(Waited { described, ..waited.map_or_else(Waited::default, |waited| *waited) })
        });
        if self.state.multi {
            self.transaction.log_streamed();
        }
        // It may change the connection in a way that is not followed.
        self.state.kept |= conn.is_some() && info.kind == Kind::Other;
        let refusal = match conn {
            Some(_) => half_streamed(&self.terms.name),
            None => {
                self.pool.context.stats.commands_refused.add(1);
                self.no_master()
            }
        };
        self.streaming = Some(Box::new(Streaming { conn, effect, last: None, refusal, waited }));
        Some(Step::Done)
    }

    /// The session's own connection, or a new one; `Ok(None)` if the wait for one has taken too long.
    fn connection_for_streaming(&mut self) -> Result<Option<Rc<Connection>>, Step> {
        // Large commands are writes as a rule, and the few reads can wait as well.
        let pass = self.pass(Effect::Write);
        let Pass::To(node) = pass else {
            self.permitted_since = None;
            return self.wait_for_master(pass).map_or(Ok(None), |wait| Err(Step::Wait(wait)));
        };
        if let Some((conn, _)) = &self.pin {
            return if conn.is_usable() && conn.node == node {
                Ok(Some(Rc::clone(conn)))
            } else {
                self.wait_for_master(Pass::Wait).map_or(Ok(None), |wait| Err(Step::Wait(wait)))
            };
        }
        let key = self.state.key.clone();
        let retry_at = match self.pool.pinned(node, &key, &self.down.wake) {
            Checkout::Ready(conn) => {
                self.own(Rc::clone(&conn), key);
                self.replay(&conn);
                // Streamed parts overtake what is queued: the replay has to be answered first.
                return if self.down.owed() > 0 { Err(Step::Wait(Wait::REPLIES)) } else { Ok(Some(conn)) };
            }
            Checkout::Pending | Checkout::Full => None,
            Checkout::Failed(_, retry_at) => Some(retry_at),
        };
        self.permitted_since.get_or_insert_with(Instant::now);
        match self.wait_for_master(Pass::Wait) {
            None => Ok(None),
            Some(wait) => Err(Step::Wait(Wait { until: retry_at.or(wait.until).min(wait.until), ..wait })),
        }
    }

    /// Passes on what has come, or drops it.
    pub(super) fn stream_on(&mut self) -> Step {
        let Some(mut streaming) = self.streaming.take() else { return Step::Done };
        if streaming.conn.as_ref().is_some_and(|c| c.lost().is_some()) {
            streaming.conn = None;
        }
        if streaming.last.is_none() {
            match self.scanner.scan(&self.buf) {
                Ok(Scan::Command { len, .. }) => streaming.last = Some(len),
                Ok(_) => {}
                Err(e) => return self.malformed(&e),
            }
        }
        match (streaming.last, &streaming.conn) {
            (_, Some(conn)) if conn.is_congested() => {
                self.streaming = Some(streaming);
                Step::Wait(Wait::SIGNAL)
            }
            (None, _) if self.scanner.scanned() == 0 => {
                self.streaming = Some(streaming);
                if self.eof { Step::Close(CloseReason::Client) } else { Step::Wait(Wait::INPUT) }
            }
            (None, conn) => {
                let n = self.scanner.scanned();
                let part = self.buf.split_to(n).freeze();
                self.scanner.advance(n);
                if let Some(conn) = conn {
                    conn.stream(part);
                }
                self.streaming = Some(streaming);
                Step::Done
            }
            (Some(len), conn) => {
                let end = self.buf.split_to(len).freeze();
                let audience = self.next_audience();
                match conn {
                    Some(conn) => self.end_streaming(conn, end, streaming.effect, audience, streaming.waited),
                    None => {
                        if let Some(waited) = &streaming.waited {
                            self.note_answered(&[], waited, &streaming.refusal, Some(Outcome::Refused));
                        }
                        self.transaction.spoil(self.state.multi);
                        if audience == Audience::Client {
                            self.down.push(streaming.refusal);
                            self.flush();
                        }
                    }
                }
                Step::Done
            }
        }
    }

    /// Passes on what the client of a replica's connection says, as it is.
    pub(super) fn tunnel_on(&mut self) -> Step {
        let Some((conn, _)) = self.pin.as_ref().filter(|(conn, _)| conn.lost().is_none()) else {
            return Step::Close(CloseReason::StateLost);
        };
        if self.eof && self.buf.is_empty() {
            return Step::Close(CloseReason::Client);
        }
        // Streamed parts overtake what is queued: the SYNC itself has to have gone.
        if self.down.owed() > 0 {
            return Step::Wait(Wait::REPLIES);
        }
        if conn.is_congested() {
            return Step::Wait(Wait::SIGNAL);
        }
        if self.buf.is_empty() {
            return Step::Wait(Wait::INPUT);
        }
        conn.stream(self.buf.split().freeze());
        Step::Done
    }

    fn end_streaming(
        &mut self,
        conn: &Connection,
        end: Bytes,
        effect: Effect,
        audience: Audience,
        waited: Option<Box<Waited>>,
    ) {
        self.unpin = !self.state.is_pinned();
        conn.queue(Entry {
            to: Rc::clone(&self.down),
            bytes: end,
            said: None,
            commands: 1,
            answered: 0,
            effect,
            answer: Answer::Replies,
            audience,
            retry: false,
            partial: true,
            heed: Heed::Nothing,
            class: LatencyClass::Pinned,
            queued_at: Instant::now(),
            waited,
        });
    }
}
