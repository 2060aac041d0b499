//! Commands without connection state, on a connection shared with other sessions.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::telling::for_server;
use super::{Command, MAX_OWED, Session, Step, Wait};
use crate::backend::{Answer, Audience, Connection, DialError, Effect, Entry, Heed, Use};
use crate::metrics::{CloseReason, LatencyClass};
use crate::pool::Checkout;
use crate::resp::{Kind, RequestScanner, Scan, args, lookup, split};
use crate::router::Replies;
use crate::topology::Pass;

/// Bytes of commands in one entry: what is sent again after a refusal, and what keeps a read buffer alive.
const MAX_BATCH: usize = 64 * 1024;

/// How long the rest of a transaction, of which something has come, is waited for before its `MULTI` is sent by itself.
const REST_PATIENCE: Duration = Duration::from_millis(10);

/// What the buffer has of a transaction.
enum Whole {
    /// All of it, of nothing but plain commands.
    Found { len: usize, commands: u32, effect: Effect, used: Use },
    /// The beginning of one.
    Cut,
    /// Something in it needs a connection of its own, or it is too long to be kept.
    Never,
}

impl Session {
    /// Sends the command at the front, and with it all that follow it the same way.
    pub(super) fn share(&mut self, first: Command) -> Step {
        let effect = effect_of(first);
        let node = match self.pass(effect) {
            Pass::To(node) => node,
            pass => return self.hold(first, pass),
        };
        let used = self.used_for(first.id.info().kind, &self.buf[..first.len]);
        let conn = match self.shared_connection(first, node, used) {
            Ok(conn) => conn,
            Err(step) => return step,
        };
        self.forget_wait();
        self.count(first.id.index());
        let (mut len, mut commands, mut batch_effect) = (first.len, 1, effect);
        // The permission of the other kind, asked for once in a batch.
        let mut other: Option<bool> = None;
        let kind = first.id.info().kind;
        // Only of these the name alone decides the route: behind `SELECT x`, which changes nothing, comes `SELECT 1`.
        let alone = self.state.replies == Replies::Skip || !matches!(kind, Kind::Plain | Kind::Script);
        let most = if alone { 1 } else { MAX_OWED - self.commands_outstanding().min(MAX_OWED - 1) };
        while len < MAX_BATCH && commands < most && len < self.buf.len() {
            let (next, name, argc) = match self.scanner.scan(&self.buf[len..]) {
                Ok(Scan::Command { len, name, argc }) => (len, name, argc),
                Ok(_) => break,
                Err(_) => {
                    // Scanned afresh, and answered, once it stands at the front.
                    self.renew_scanner();
                    break;
                }
            };
            let id = lookup(&self.buf[len + name.0..len + name.1]);
            let command = Command { len: next, argc, id };
            if id.info().kind != kind || self.terms.refused.mentions(id) {
                break;
            }
            if self.used_for(kind, &self.buf[len..len + next]) != used {
                break;
            }
            let its = effect_of(command);
            if its == Effect::Write && self.pool.context.is_paused() {
                break;
            }
            if its != effect && !*other.get_or_insert_with(|| self.pass(its) == Pass::To(node)) {
                break;
            }
            if its == Effect::Write {
                batch_effect = Effect::Write;
            }
            self.count(id.index());
            len += next;
            commands += 1;
        }
        if batch_effect == Effect::Write {
            self.note_write();
        }
        let heed = self.heed(first, &self.buf[..len]);
        self.show(&self.buf[..len], commands);
        let mut bytes = self.buf.split_to(len).freeze();
        let instead = if kind == Kind::Client { for_server(&bytes) } else { None };
        let said = instead.map(|instead| std::mem::replace(&mut bytes, instead));
        self.outstanding += len;
        let (audience, waited) = (self.next_audience(), self.take_waited());
        conn.queue(Entry {
            to: Rc::clone(&self.down),
            bytes,
            said,
            commands,
            answered: 0,
            effect: batch_effect,
            answer: Answer::Replies,
            audience,
            retry: true,
            partial: false,
            heed,
            class: if batch_effect == Effect::Read { LatencyClass::Read } else { LatencyClass::Write },
            queued_at: Instant::now(),
            waited,
        });
        // As a rule that was all the client has sent: what else there may be to do from now on, the session is woken for.
        let busy = self.eof || self.left || self.renewal.is_some() || !self.relays.is_empty();
        if self.buf.is_empty() && !busy && self.limit_of_outstanding().is_none() {
            return Step::Wait(Wait::INPUT);
        }
        Step::Done
    }

    /// Sends the transaction that begins with the `MULTI` at the front, if all of it is there and it leaves no state behind: on
    /// one connection it stays together by itself. None if it needs a connection of its own.
    pub(super) fn share_transaction(&mut self, multi: Command) -> Option<Step> {
        let is_plain = !self.state.is_pinned() && !self.unpin && self.state.replies == Replies::On;
        // What was watched when its connection was lost is to be answered with null.
        if !is_plain || self.transaction.watch_lost || self.down.is_suspect() {
            return None;
        }
        if self.pool.context.keeps_transactions_open.get() {
            return None;
        }
        let cut_at = std::mem::take(&mut self.cut_at);
        let (len, commands, effect, used) = match self.whole_transaction(multi) {
            Whole::Found { len, commands, effect, used } => (len, commands, effect, used),
            // Each look begins at its `MULTI`: where it comes byte by byte, that is not for every byte. What is unread may be a
            // TLS record of no content.
            Whole::Cut if self.buf.len() >= 2 * cut_at && self.read.has_unread() => {
                self.cut_at = self.buf.len();
                let at = Some(Instant::now() + REST_PATIENCE);
                return Some(Step::Wait(Wait { until: at, ..Wait::INPUT }));
            }
            Whole::Cut | Whole::Never => return None,
        };
        if effect == Effect::Write && self.pool.context.is_paused() {
            return None;
        }
        let node = match self.pass(effect) {
            Pass::To(node) => node,
            pass => return Some(self.hold(multi, pass)),
        };
        if self.down.owed() > 0 && self.commands_outstanding() + commands > MAX_OWED {
            return Some(Step::Wait(Wait::REPLIES));
        }
        let conn = match self.shared_connection(multi, node, used) {
            Ok(conn) => conn,
            Err(step) => return Some(step),
        };
        self.forget_wait();
        if effect == Effect::Write {
            self.note_write();
        }
        let bytes = self.buf.split_to(len).freeze();
        for name in split(&bytes).filter_map(|command| args(command).next()) {
            self.count(lookup(name).index());
        }
        self.show(&bytes, commands);
        self.outstanding += len;
        self.beyond_owed += commands - 1;
        let waited = self.take_waited();
        let class = if effect == Effect::Read { LatencyClass::Read } else { LatencyClass::Write };
        let entry = self.entry(bytes, effect, Answer::Transaction(commands), Audience::Client);
        conn.queue(Entry { retry: true, class, waited, ..entry });
        Some(Step::Done)
    }

    /// What there is of the transaction that begins with the `MULTI` at the front.
    fn whole_transaction(&self, multi: Command) -> Whole {
        let is_refused = |id| self.terms.refused.mentions(id);
        if multi.argc != 1 || is_refused(multi.id) {
            return Whole::Never;
        }
        // Not the session's, which would keep its place in a command that is not at the front.
        let mut scanner = RequestScanner::new(self.terms.limits.bulk_bytes);
        let (mut len, mut commands, mut effect, mut used) = (multi.len, 1, Effect::Read, Use::Shared);
        while len < MAX_BATCH && commands < MAX_OWED {
            let (next, name, argc) = match scanner.scan(&self.buf[len..]) {
                Ok(Scan::Command { len, name, argc }) => (len, name, argc),
                Ok(Scan::Incomplete) if self.buf.len() < MAX_BATCH => return Whole::Cut,
                Ok(_) | Err(_) => return Whole::Never,
            };
            let id = lookup(&self.buf[len + name.0..len + name.1]);
            if self.used_for(id.info().kind, &self.buf[len..len + next]) == Use::Large {
                used = Use::Large;
            }
            len += next;
            commands += 1;
            match id.info().kind {
                _ if is_refused(id) => return Whole::Never,
                Kind::Exec if argc == 1 => return Whole::Found { len, commands, effect, used },
                Kind::Plain if id.info().readonly => {}
                Kind::Plain => effect = Effect::Write,
                _ => return Whole::Never,
            }
        }
        Whole::Never
    }

    /// With whom a command shares a connection.
    fn used_for(&self, kind: Kind, command: &[u8]) -> Use {
        if kind == Kind::Script {
            Use::Scripts
        } else if self.pool.context.large.expects(command) {
            Use::Large
        } else {
            Use::Shared
        }
    }

    /// The connection to share with others: the one in use if it still serves, or the pool's.
    fn shared_connection(&mut self, command: Command, node: SocketAddr, used: Use) -> Result<Rc<Connection>, Step> {
        if let Some(conn) = self.route.as_ref().filter(|c| c.used == used && c.is_free() && c.node == node) {
            return Ok(Rc::clone(conn));
        }
        if self.down.owed() > 0 {
            return Err(Step::Wait(Wait::REPLIES));
        }
        match self.pool.shared(node, &self.state.key, used, &self.down.wake) {
            Checkout::Ready(conn) => {
                self.presence.client.share(conn.hello.id);
                self.route = Some(Rc::clone(&conn));
                Ok(conn)
            }
            Checkout::Pending | Checkout::Full => Err(self.await_connection(command)),
            Checkout::Failed(error, retry_at) => Err(self.no_connection(command, &error, retry_at)),
        }
    }

    /// What is remembered of a batch that begins with `first`, which stands at the front.
    pub(super) fn heed(&self, first: Command, batch: &[u8]) -> Heed {
        match first.id.info().kind {
            Kind::Scan => Heed::Cursor(self.scanned(first)),
            // In a transaction it is only queued.
            Kind::Client | Kind::Hello if !self.state.multi => self.heed_told(batch),
            Kind::Script | Kind::ScriptControl if self.pool.context.has_news_of_scripts(batch) => Heed::Scripts,
            _ => Heed::Nothing,
        }
    }

    /// A connection cannot be had.
    pub(super) fn no_connection(&mut self, command: Command, error: &DialError, retry_at: Instant) -> Step {
        match error {
            // The user or database that the session has is not this master's: as if it had disconnected the client.
            DialError::Auth(line) | DialError::Select(line) => {
                self.down.push(line.clone());
                Step::Close(CloseReason::StateLost)
            }
            // The one who is to stop the script may wait for this very answer.
            DialError::Busy(line) => {
                let line = line.clone();
                self.refuse_waiting(command, line)
            }
            _ => match self.await_connection(command) {
                Step::Wait(wait) => Step::Wait(Wait { until: wait.until.map(|u| u.min(retry_at)), ..wait }),
                step => step,
            },
        }
    }
}

fn effect_of(command: Command) -> Effect {
    if command.id.info().readonly { Effect::Read } else { Effect::Write }
}
