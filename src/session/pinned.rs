//! Commands that need a connection of their own: how it is had, kept, given back, and replaced when it is lost.

use std::rc::Rc;

use bytes::Bytes;
use tokio::time::Instant;

use super::executed::{Executed, is_heeded};
use super::telling::{Besides, besides, for_server};
use super::words::{pause, with_time_left};
use super::{Command, Session, Step, Wait};
use crate::backend::{Again, Answer, Audience, Connection, Effect, Entry, Heed, Key, Lost};
use crate::metrics::{CloseReason, LatencyClass, Limit};
use crate::pool::Checkout;
use crate::resp::{Kind, OwnError, encode_command};
use crate::router::{self, Pinned, Replies};
use crate::topology::Pass;

impl Session {
    /// Sends the command at the front on the session's own connection.
    pub(super) fn pin_and_send(&mut self, command: Command, way: Pinned) -> Step {
        // The last command on the pin has not been answered: whether the pin goes on is not known.
        if self.unpin || self.judging || self.becoming.is_some() || self.transaction.opening {
            return Step::Wait(Wait::REPLIES);
        }
        // Whether the server pauses: another reply would be taken for its answer.
        if self.pausing.is_some() && !self.state.multi {
            return Step::Wait(Wait::REPLIES);
        }
        if way.step == router::Step::Exec
            && let Some(step) = self.exec_without_running(command)
        {
            return step;
        }
        // Its time may be up: what is said then stands behind the replies to what came before. Nor does one that stands
        // behind another begin with the other's time.
        if matches!(way.step, router::Step::Block(_)) && self.blocked_since.is_some() && self.down.owed() > 0 {
            return Step::Wait(Wait::REPLIES);
        }
        let node = match self.pass(way.effect) {
            Pass::To(node) => node,
            pass => return self.hold(command, pass),
        };
        let conn = match &self.pin {
            Some((conn, _)) if conn.node == node && conn.is_usable() => Rc::clone(conn),
            // It is being lost: nothing is owed soon, and then another takes its place.
            Some(_) if self.down.owed() > 0 => return Step::Wait(Wait::REPLIES),
            // Traffic goes elsewhere for now (reads after a crash, before the commit).
            Some(_) => return self.hold(command, Pass::Wait),
            None if self.down.owed() > 0 => return Step::Wait(Wait::REPLIES),
            None => match self.acquire(command, node) {
                Ok(conn) => conn,
                Err(step) => return step,
            },
        };
        // From then on no reply is told from another.
        if matches!(way.step, router::Step::Monitor | router::Step::Sync) && self.down.owed() > 0 {
            return Step::Wait(Wait::REPLIES);
        }
        // Not before it is known that the replay went as the first time.
        if way.step == router::Step::Exec && self.transaction.replayed {
            return Step::Wait(Wait::REPLIES);
        }
        if way.step == router::Step::Wait
            && let Some(step) = self.mark(command, &conn)
        {
            return step;
        }
        let bytes = match self.for_server(command, node) {
            Ok(bytes) => bytes,
            Err(step) => return step,
        };
        self.send_pinned(&conn, command, way, bytes);
        Step::Done
    }

    /// The command at the front as the server is to have it.
    fn for_server(&mut self, command: Command, node: std::net::SocketAddr) -> Result<Option<Bytes>, Step> {
        let kind = command.id.info().kind;
        if !matches!(kind, Kind::Client | Kind::Hello) {
            return Ok(None);
        }
        let frame = Bytes::copy_from_slice(&self.buf[..command.len]);
        if let Some(instead) = for_server(&frame) {
            return Ok(Some(instead));
        }
        self.redirected(&frame, node).map(Some).map_err(|checkout| self.no_checkout(command, checkout))
    }

    fn acquire(&mut self, command: Command, node: std::net::SocketAddr) -> Result<Rc<Connection>, Step> {
        let key = self.state.key.clone();
        match self.pool.pinned(node, &key, &self.down.wake) {
            Checkout::Ready(conn) => {
                self.own(Rc::clone(&conn), key);
                self.replay(&conn);
                Ok(conn)
            }
            other => Err(self.no_checkout(command, other)),
        }
    }

    /// A connection of its own cannot be had, or not yet.
    fn no_checkout(&mut self, command: Command, checkout: Checkout) -> Step {
        match checkout {
            Checkout::Ready(_) => Step::Done,
            Checkout::Pending => self.await_connection(command),
            Checkout::Failed(error, retry_at) => self.no_connection(command, &error, retry_at),
            Checkout::Full => {
                let limits = self.terms.limits;
                let since = *self.waiting_since.get_or_insert_with(|| {
                    self.pool.context.stats.commands_waiting.add(1);
                    self.presence.client.set_waiting(true);
                    self.pool.context.stats.reached(Limit::Pinned);
                    Instant::now()
                });
                // While traffic is held nobody gives one back.
                let since = since.max(*self.permitted_since.get_or_insert_with(Instant::now));
                if since.elapsed() < limits.pin_timeout {
                    return Step::Wait(Wait::until(since + limits.pin_timeout));
                }
                self.pool.context.stats.reached(Limit::PinTimeout);
                // Or the next connection that is given back would be offered to one who does not want it any more.
                self.pool.forget(&self.down.wake);
                let line = OwnError::PinLimit.line(&format!(
                    "all {} pinned backend connections of this worker are in use (limits.pinned)",
                    limits.pinned
                ));
                self.refuse_waiting(command, line)
            }
        }
    }

    /// The connection is the session's own from now on.
    pub(super) fn own(&mut self, conn: Rc<Connection>, key: Key) {
        conn.assign(&self.down);
        self.presence.client.pin(conn.node, conn.hello.id);
        self.pin = Some((conn, key));
    }

    /// It is no more.
    pub(super) fn disown(&mut self) -> Option<(Rc<Connection>, Key)> {
        // Somebody has named it to the server, and means this client.
        if !self.presence.client.unpin()
            && let Some((conn, _)) = &self.pin
        {
            conn.close(Lost::Dropped);
        }
        self.pin.take()
    }

    /// Brings an open transaction over to a new connection. The replies were given already: these are swallowed.
    pub(super) fn replay(&mut self, conn: &Connection) {
        // An error of before says nothing about what is replayed now.
        self.down.take_silent_error();
        for command in self.transaction.replay() {
            conn.queue(self.entry(command.clone(), Effect::Deferred, Answer::Replies, Audience::Ours));
        }
        self.transaction.replayed |= !self.transaction.replay().is_empty();
    }

    /// Who is told the reply to the command that is sent now.
    pub(super) fn next_audience(&mut self) -> Audience {
        let audience = if self.state.replies == Replies::On { Audience::Client } else { Audience::Nobody };
        if self.state.replies == Replies::Skip {
            self.state.replies = Replies::On;
        }
        audience
    }

    pub(super) fn entry(
        &self,
        bytes: Bytes,
        effect: Effect,
        answer: Answer,
        audience: Audience,
    ) -> Entry<Rc<crate::backend::Downstream>> {
        Entry {
            to: Rc::clone(&self.down),
            bytes,
            said: None,
            commands: 1,
            answered: 0,
            effect,
            answer,
            audience,
            retry: false,
            partial: false,
            heed: Heed::Nothing,
            class: LatencyClass::Pinned,
            queued_at: Instant::now(),
            waited: None,
        }
    }

    /// `for_server`: if it is not to have the command as it is.
    fn send_pinned(&mut self, conn: &Rc<Connection>, command: Command, way: Pinned, for_server: Option<Bytes>) {
        let mut heed = self.heed(command, &self.buf[..command.len]);
        let said = self.take(command);
        self.show(&said, 1);
        let waited = self.take_waited();
        let heeded = is_heeded(&said).then(|| said.clone());
        let mut comes_back = for_server.is_some().then(|| said.clone());
        let mut bytes = for_server.unwrap_or_else(|| said.clone());
        if command.id.info().kind == Kind::Client {
            self.pausing = pause(&bytes).or(self.pausing);
        }
        let executed = (way.step == router::Step::Exec).then(|| self.executed(conn)).flatten();
        // Its reply says itself what the client hears of it.
        let audience = if executed.is_some() { Audience::Client } else { self.next_audience() };
        let mut effect = way.effect;
        let mut retry = false;
        if effect == Effect::Write && way.step != router::Step::Wait {
            self.note_write();
        }
        match way.step {
            router::Step::Once => {}
            router::Step::Block(again) => {
                retry = true;
                if again && self.terms.reissue_pops {
                    effect = Effect::Deferred;
                }
                let now = Instant::now();
                let since = *self.blocked_since.get_or_insert(now);
                if since != now {
                    match with_time_left(&bytes, now.saturating_duration_since(since)) {
                        // What comes back is what was said: its time counts from the first time that it was sent.
                        Some(rewritten) => {
                            comes_back.get_or_insert_with(|| bytes.clone());
                            bytes = rewritten;
                        }
                        None => {
                            // Its time was up while the master changed.
                            self.unpin = true;
                            if audience == Audience::Client {
                                self.down.push(Bytes::from_static(self.null()));
                                self.flush();
                            }
                            return;
                        }
                    }
                }
            }
            // It changes nothing; where the master changes meanwhile it is refused instead of being sent again.
            router::Step::Wait => effect = Effect::Deferred,
            router::Step::Multi => {
                self.transaction.opening |= !self.state.multi;
                self.transaction.log(bytes.clone(), None);
            }
            router::Step::Queue => self.transaction.log(bytes.clone(), heeded),
            router::Step::Exec | router::Step::Discard => {
                if let Some(executed) = executed {
                    self.executed = Some(Rc::clone(&executed));
                    heed = Heed::Translate(executed);
                }
                if way.step == router::Step::Discard {
                    self.pausing = None;
                }
                self.transaction.end(self.state.watching);
            }
            router::Step::Unwatch => self.transaction.watch_lost = false,
            router::Step::Monitor | router::Step::Sync => {
                conn.set_raw();
                self.presence.client.set_deaf(true);
                self.tunnel = way.step == router::Step::Sync;
            }
            router::Step::Track => self.tracking.ask(said),
            router::Step::Keep | router::Step::Hello => {
                if self.state.multi {
                    self.transaction.log(bytes.clone(), heeded);
                }
                self.judging = !self.state.kept && !self.state.multi;
            }
            router::Step::Select(database) => {
                self.selecting = Some(database);
                self.judging = true;
            }
            router::Step::Caching | router::Step::Watch | router::Step::Subscribe => {}
        }
        self.unpin = self.state.sent(way.step);
        if way.step == router::Step::Subscribe {
            self.describe();
        }
        if self.state.tracking {
            self.tracking.send(way.step == router::Step::Caching);
        }
        self.ends_state = !matches!(way.step, router::Step::Once | router::Step::Block(_) | router::Step::Wait);
        conn.queue(Entry { retry, heed, said: comes_back, waited, ..self.entry(bytes, effect, way.answer, audience) });
    }

    /// What is to be heeded in the reply to the `EXEC` that is sent now, behind what the server is asked besides.
    fn executed(&self, conn: &Connection) -> Option<Rc<Executed>> {
        const MORE_THAN_ANSWERED: usize = usize::MAX;
        // Where they are too many the reply is of another length, and what has run cannot be told.
        let (queued, heeded) = self.transaction.queued().unwrap_or((MORE_THAN_ANSWERED, Vec::new()));
        // A subscriber may be told what the transaction publishes in the middle of its reply.
        if heeded.is_empty() && queued != MORE_THAN_ANSWERED && !self.state.subscribed {
            return None;
        }
        let clients = &self.presence.clients;
        let besides = |(place, said): &(usize, Bytes)| Some((*place, besides(said, clients, conn.node)?));
        let besides: Vec<_> = heeded.iter().filter_map(besides).collect();
        for (_, Besides { command, .. }) in &besides {
            conn.queue(self.entry(command.clone(), Effect::Deferred, Answer::Replies, Audience::Ours));
        }
        Some(Rc::new(Executed::new(queued, heeded, besides, self.teller(), self.state.replies)))
    }

    /// `EXEC` of a transaction that must not run: because a command was not queued, or what was watched is unknown.
    fn exec_without_running(&mut self, command: Command) -> Option<Step> {
        if self.transaction.replayed {
            if self.down.owed() > 0 {
                return Some(Step::Wait(Wait::REPLIES));
            }
            self.transaction.replayed = false;
            if self.down.take_silent_error() {
                let why = "the new master did not queue the transaction as the old one had";
                self.transaction.spoil_with(OwnError::TransactionLost.line(why));
            }
        }
        let refusal = self.transaction.refusal(self.null())?;
        if self.down.owed() > 0 {
            return Some(Step::Wait(Wait::REPLIES));
        }
        if let Some((conn, _)) = self.pin.as_ref().filter(|(conn, _)| conn.lost().is_none()) {
            conn.queue(self.entry(encode_command(&["DISCARD"]), Effect::Deferred, Answer::Replies, Audience::Ours));
            self.unpin = true;
        } else {
            self.transaction.clear();
        }
        self.leave_transaction();
        Some(self.say(command, refusal))
    }

    /// `EXEC` or `DISCARD` was refused by pointsman: the transaction is over for the client, and so it must be here.
    pub(super) fn abandon_transaction(&mut self) {
        self.leave_transaction();
        self.transaction.clear();
        if self.state.is_pinned()
            && let Some((conn, _)) = self.pin.as_ref().filter(|(conn, _)| conn.is_usable())
        {
            conn.queue(self.entry(encode_command(&["DISCARD"]), Effect::Deferred, Answer::Replies, Audience::Ours));
        } else if let Some((conn, key)) = self.disown() {
            self.pool.release(conn, &key, false);
        }
    }

    /// What was queued will not run.
    fn leave_transaction(&mut self) {
        (self.state.multi, self.state.watching) = (false, false);
        self.transaction.watch_lost = false;
        self.pausing = None;
    }

    /// Nothing is owed: a pause that was asked for has begun, unless it was refused (anybody can ask for it), or the
    /// transaction that it is part of is still open, also because its `EXEC` came back, or did not run.
    pub(super) fn finish_pausing(&mut self, answered: bool) {
        let reopens = !answered && self.transaction.is_ending() && !self.state.kept;
        if !self.state.multi
            && !reopens
            && let Some(time) = self.pausing.take()
            && answered
            && self.pin.as_ref().is_some_and(|(conn, _)| conn.lost().is_none() && conn.has_run())
        {
            self.pool.context.pause(time);
        }
    }

    /// Nothing is owed on a pin that may have served. `answered`: no command came back.
    pub(super) fn finish_pin(&mut self, answered: bool) {
        self.unpin = false;
        if answered {
            self.blocked_since = None;
            self.down.settle_doubt();
            if !self.state.multi {
                self.transaction.clear();
                self.end_queued_relays(true);
            }
        }
        let tracked = self.state.tracking;
        self.conclude_tracking(answered);
        if let Some((conn, _)) = &self.pin {
            let subscribed = !conn.subscriptions.borrow().is_empty();
            if self.state.subscribed != subscribed {
                self.state.subscribed = subscribed;
                self.describe();
            }
        }
        if !self.state.is_pinned()
            && let Some((conn, key)) = self.disown()
        {
            // What came back was refused: the node is not what it was.
            let clean = answered && !tracked && !(self.ends_state && conn.is_refused());
            self.pool.release(conn, &key, clean);
        }
    }

    /// Nothing is owed: what a `CLIENT TRACKING` has led to.
    fn conclude_tracking(&mut self, answered: bool) {
        let accepted = answered && self.pin.as_ref().is_some_and(|(conn, _)| !conn.is_refused());
        if let Some(asked) = self.tracking.asked().cloned() {
            self.conclude_redirection(&asked, accepted);
        }
        self.state.kept |= !self.tracking.conclude(accepted);
        self.state.tracking = self.tracking.is_on();
    }

    /// Nothing is owed for a `MULTI`. Refused (by an ACL, say) it has opened nothing, and what follows runs at once; nor
    /// has one that came back (not `answered`).
    pub(super) fn finish_opening(&mut self, answered: bool) {
        if !answered || self.pin.as_ref().is_some_and(|(conn, _)| conn.is_refused()) {
            self.transaction.clear();
            self.state.multi = false;
            self.unpin = !self.state.is_pinned();
        }
    }

    /// Nothing is owed for a command that may have changed the connection, in a way that is followed (`SELECT`) or not.
    /// Clients try subcommands of `CLIENT` that their server does not have; what is refused has changed nothing, nor has
    /// what came back (not `answered`).
    pub(super) fn finish_judging(&mut self, answered: bool) {
        let selected = self.selecting.take();
        if !answered || self.pin.as_ref().is_some_and(|(conn, _)| conn.is_refused()) {
            self.state.unchanged();
            self.ends_state = false;
            self.unpin = !self.state.is_pinned();
        } else if let (Some(database), Some((conn, key))) = (selected, &mut self.pin) {
            conn.database.set(database);
            self.state.key.database = database;
            key.database = database;
            self.presence.client.select(database);
            self.route = None;
        }
    }

    /// The pin was lost with its backend; `again` came back.
    pub(super) fn lose_pin(&mut self, again: &[Again]) -> Step {
        self.conclude_tracking(again.is_empty());
        let Some((conn, _)) = self.disown() else { return Step::Done };
        self.unpin = false;
        self.marked = false;
        if self.state.kept || self.tracking.is_caching() {
            return Step::Close(CloseReason::StateLost);
        }
        if again.is_empty() {
            self.blocked_since = None;
            self.down.settle_doubt();
        }
        let mut queued = again.len();
        if self.transaction.is_ending() && queued > 0 {
            // The last that came back is the EXEC or DISCARD itself.
            queued -= 1;
            self.state.multi = true;
            self.state.watching = self.transaction.reopen();
        }
        if self.state.multi {
            if !self.transaction.unlog(queued) {
                // No command is there that an error could answer.
                return Step::Close(CloseReason::StateLost);
            }
            self.state.multi = !self.transaction.is_unopened();
        } else if again.is_empty() {
            self.transaction.clear();
        }
        if self.state.watching {
            self.state.watching = false;
            self.transaction.watch_lost = true;
        }
        self.begin_renewal(&conn);
        Step::Done
    }

    /// The null that answers an `EXEC` or a pop whose time is up (Redis `addReplyNullArray`).
    pub(super) fn null(&self) -> &'static [u8] {
        if self.state.key.resp3 { b"_\r\n" } else { b"*-1\r\n" }
    }
}
