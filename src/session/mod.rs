//! One client: read, scan, route, hand to a backend connection; replies come back through its [`Downstream`].
//!
//! The session is a machine that advances as far as it can without waiting ([`Session::advance`]) and then says what
//! it waits for ([`Wait`]); only [`Session::run`] awaits. So nothing is ever cancelled half-way.

mod answers;
mod becoming;
mod client_filter;
mod clients;
mod executed;
mod front;
mod learning;
mod leaving;
mod library;
mod local;
mod pinned;
mod redirection;
mod renewal;
mod replicas;
mod scans;
mod shared;
mod spent;
mod stream;
mod telling;
mod tracking;
mod transaction;
mod wait;
mod words;

pub use leaving::Leave;

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::backend::{Connection, Downstream, Effect, Key, Lost, Terms};
use crate::clients::Presence;
use crate::clock::Moment;
use crate::insight::Waited;
use crate::metrics::{CloseReason, Limit};
use crate::net::{Outbox, ReadHalf, Stream};
use crate::pool::Pool;
use crate::resp::RequestScanner;
use crate::router::State;
use crate::topology::Pass;
use becoming::Becoming;
use executed::Executed;
use local::Judgement;
use redirection::Relay;
use renewal::Renewal;
use stream::Streaming;
use tracking::Tracking;
use transaction::Transaction;

/// First size of a client's read buffer: a small command or three. Most clients of a thousand are idle at any time, and
/// each has one.
const READ_MIN: usize = 128;
/// Largest size it grows to by itself; a larger command's buffer grows to the command's size.
const READ_MAX: usize = 64 * 1024;
/// How much is read ahead of what is being worked on. Past it the kernel's buffers fill and the client waits.
const READ_AHEAD: usize = 64 * 1024;
/// Bytes read in a row after which others are let run, as with backends.
const READ_BURST: usize = 512 * 1024;
/// Reply bytes waiting for a client from which on its next commands wait too.
const OUTBOX_HIGH: usize = 256 * 1024;
/// Commands of one session on a shared connection at a time: a long pipeline delays its neighbours by no more than these.
const MAX_OWED: u32 = 1024;
/// Pause before commands that a node refused are sent again, unless the topology changes sooner.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// What the session waits for. Its signal, and an outbox that is blocked, end every wait.
#[derive(Debug, Default)]
struct Wait {
    /// Bytes from the client, however many there are already.
    input: bool,
    /// Replies owed.
    replies: bool,
    /// A point in time.
    until: Option<Instant>,
}

impl Wait {
    const INPUT: Self = Self { input: true, replies: false, until: None };
    const REPLIES: Self = Self { input: false, replies: true, until: None };
    const SIGNAL: Self = Self { input: false, replies: false, until: None };

    fn until(at: Instant) -> Self {
        Self { until: Some(at), ..Self::default() }
    }
}

/// What ended a wait.
enum Came {
    /// Something other than the client's doing; it is to be looked what.
    Signal,
    /// As many bytes from the client: none at the end.
    Bytes(io::Result<usize>),
    /// The end of what it sends, behind what was not read yet.
    End,
}

/// What one step of [`Session::advance`] led to.
enum Step {
    /// Something was done; go on.
    Done,
    /// Nothing can be done before this.
    Wait(Wait),
    /// The client is to be closed.
    Close(CloseReason),
}

/// One command at the front of the read buffer.
#[derive(Clone, Copy)]
struct Command {
    len: usize,
    argc: u32,
    id: crate::resp::CommandId,
}

/// See the module.
pub struct Session {
    /// What it goes by until it looks again: at the next command for which nothing is owed.
    terms: Rc<Terms>,
    pool: Rc<Pool>,
    down: Rc<Downstream>,
    leaving: Rc<Cell<Leave>>,
    read: ReadHalf,
    /// Bytes from the client, beginning with the first command that was not handed on.
    buf: BytesMut,
    read_size: usize,
    /// There is, or will be, more room in the buffer than for a read of any size: for a large command.
    roomy: bool,
    /// Bytes read since others were last let run for their sake.
    burst: usize,
    scanner: RequestScanner,
    state: State,
    /// Itself among the other clients.
    presence: Presence,
    /// The shared connection its last commands went to.
    route: Option<Rc<Connection>>,
    /// Bytes handed to `route` since nothing was owed.
    outstanding: usize,
    /// Commands of transactions among them, of which each is owed as one.
    beyond_owed: u32,
    /// How much was there of the transaction at the front, and not its end, when the rest was last waited for.
    cut_at: usize,
    /// What it has been counted for since it last sent something.
    at_limit: Option<Limit>,
    /// Its own connection, and the key that it was dialled with.
    pin: Option<(Rc<Connection>, Key)>,
    /// The pin is given back once nothing is owed.
    unpin: bool,
    /// A command that may have changed the pin in a way that is not followed has not been answered: refused it has not.
    judging: bool,
    /// That one is a `SELECT` of this database.
    selecting: Option<u32>,
    /// Its own connection is being made what `AUTH` or `HELLO` has made the session.
    becoming: Option<Rc<Becoming>>,
    /// What was sent on the pin is to pause the server's clients for so long.
    pausing: Option<Duration>,
    /// The last command on the pin was to end some state of it, and has not if it was answered with an error.
    ends_state: bool,
    transaction: Transaction,
    /// Its `EXEC` was sent, and what ran is heeded.
    executed: Option<Rc<Executed>>,
    tracking: Tracking,
    /// What has its invalidations come to another client, the newest last: others are of before a command that is not
    /// answered.
    relays: Vec<Relay>,
    /// What went with a lost connection and has to be renewed.
    renewal: Option<Box<Renewal>>,
    judgement: Option<Box<Judgement>>,
    /// The server lets its user turn replies off and on.
    may_turn_replies: bool,
    /// The server could not say what the command at the front is.
    in_doubt: bool,
    /// A large command that leaves while it comes in.
    streaming: Option<Box<Streaming>>,
    /// The pin is a replica's connection: what the client sends goes there unread.
    tunnel: bool,
    /// Since when the command at the front has waited for a master, or for a connection.
    waiting_since: Option<Instant>,
    /// Since when it has waited for a connection alone: it may go to the master.
    permitted_since: Option<Instant>,
    /// What it waited for, once it does not any more.
    waited: Option<Box<Waited>>,
    /// When what came back and stands at the front was first sent.
    returned: Option<Instant>,
    /// The generation of the master that was given its last write.
    wrote: Option<u64>,
    /// Its connection was brought to where `WAIT`, which stands at the front, speaks of that write too.
    marked: bool,
    /// A blocking command's first issue: what it is issued again with is the time left.
    blocked_since: Option<Instant>,
    /// Commands at the front that were counted when they came the first time.
    counted: u32,
    /// Do not send before this: the node refused what it was sent.
    not_before: Option<Instant>,
    /// The client has sent something.
    heard: bool,
    /// Everything that the client sent has been read.
    eof: bool,
    /// The client sends nothing more; what it has sent may not all have been read.
    left: bool,
    /// Closed once everything owed is delivered: `QUIT`.
    quitting: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.presence.client.id)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session for a client that has just connected.
    pub fn new(pool: Rc<Pool>, stream: Stream, presence: Presence, leaving: Rc<Cell<Leave>>) -> Self {
        let name = stream.subject().and_then(|subject| common_name(&subject));
        let (read, write) = stream.into_split();
        let terms = pool.context.terms();
        let user = terms.first_user();
        let session = Self {
            down: Rc::new(Downstream::new(Arc::clone(&presence.client), Outbox::new(write))),
            leaving,
            read,
            buf: BytesMut::new(),
            read_size: READ_MIN,
            roomy: false,
            burst: 0,
            scanner: RequestScanner::new(terms.limits.bulk_bytes),
            state: State::new(Key { database: 0, resp3: false, user }),
            presence,
            route: None,
            outstanding: 0,
            beyond_owed: 0,
            cut_at: 0,
            at_limit: None,
            pin: None,
            unpin: false,
            judging: false,
            selecting: None,
            becoming: None,
            pausing: None,
            ends_state: false,
            transaction: Transaction::default(),
            executed: None,
            tracking: Tracking::default(),
            relays: Vec::new(),
            renewal: None,
            judgement: None,
            may_turn_replies: false,
            in_doubt: false,
            streaming: None,
            tunnel: false,
            waiting_since: None,
            permitted_since: None,
            waited: None,
            returned: None,
            wrote: None,
            marked: false,
            blocked_since: None,
            counted: 0,
            not_before: None,
            heard: false,
            eof: false,
            left: false,
            quitting: false,
            terms,
            pool,
        };
        if let Some(name) = name {
            session.presence.client.set_name(&name);
        }
        session
    }

    /// What the worker wakes the session by, and where its replies go.
    pub fn downstream(&self) -> Rc<Downstream> {
        Rc::clone(&self.down)
    }

    /// Serves the client until it leaves or has to.
    #[expect(clippy::manual_async_fn, reason = "an async function keeps its arguments twice")]
    pub fn run(&mut self) -> impl Future<Output = CloseReason> {
        async move {
            let reason = loop {
                match self.advance() {
                    Step::Done => {}
                    Step::Close(reason) => break reason,
                    Step::Wait(wait) => {
                        self.count_sent();
                        let came = self.pause(wait).await;
                        if self.take_note(came) {
                            tokio::task::yield_now().await;
                        }
                    }
                }
            };
            // One that did not take its replies would not take these either.
            if reason != CloseReason::OutputLimit {
                self.down.outbox.flush();
                if self.down.outbox.is_blocked() {
                    // In a box, for each client's future has room for all that is in it.
                    Box::pin(self.last_words()).await;
                }
            }
            if reason == CloseReason::Drain && self.down.fault().is_none() {
                Box::pin(self.linger()).await;
            }
            self.count_sent();
            if reason == CloseReason::Client && !self.heard { CloseReason::NoData } else { reason }
        }
    }

    /// Does the next thing that can be done.
    fn advance(&mut self) -> Step {
        let silent = self.down.take_silence();
        if let Some(reason) = self.down.fault() {
            return Step::Close(reason);
        }
        if self.down.outbox.is_broken() {
            return Step::Close(CloseReason::Client);
        }
        if (self.down.is_told() || !self.relays.is_empty())
            && let Some(step) = self.hear()
        {
            return step;
        }
        if self.judgement.is_some() {
            return self.finish_judgement();
        }
        if self.streaming.is_some() {
            let step = self.stream_on();
            let waits_for_client = matches!(step, Step::Wait(Wait { input: true, .. }));
            let idle = waits_for_client && silent && !self.read.has_unread();
            return if idle { Step::Close(CloseReason::Idle) } else { step };
        }
        if self.tunnel {
            return self.tunnel_on();
        }
        let owed = self.down.owed();
        if owed == 0 {
            (self.outstanding, self.beyond_owed) = (0, 0);
            if let Some(step) = self.settle() {
                return step;
            }
        } else if self.down.has_again() {
            // The rest of what was sent has to be settled first, or order would be lost.
            return Step::Wait(Wait::REPLIES);
        }
        // On a connection of its own Redis too drops a client that closes its side; a pop must not be left behind.
        let blocked = || self.pin.as_ref().is_some_and(|(conn, _)| conn.is_blocked_in_command());
        if owed > 0 && (self.eof && self.pin.is_some() || self.left && blocked()) {
            return Step::Close(CloseReason::Client);
        }
        // What comes next would be mixed up with what is being renewed.
        if self.renewal.is_some() && owed > 0 {
            return Step::Wait(Wait::REPLIES);
        }
        if self.quitting {
            return if owed == 0 { Step::Close(CloseReason::Client) } else { Step::Wait(Wait::REPLIES) };
        }
        if owed == 0 && self.may_leave() {
            return Step::Close(CloseReason::Drain);
        }
        if owed == 0 && self.pool.context.has_other_terms(&self.terms) {
            self.renew_terms();
        }
        if self.down.outbox.queued() > OUTBOX_HIGH {
            return Step::Wait(Wait::SIGNAL);
        }
        if let Some(limit) = self.limit_of_outstanding() {
            if self.at_limit.replace(limit).is_none() {
                self.pool.context.stats.reached(limit);
            }
            return Step::Wait(Wait::REPLIES);
        }
        self.at_limit = None;
        if let Some(at) = self.not_before.take().filter(|at| *at > Instant::now()) {
            self.not_before = Some(at);
            return Step::Wait(Wait::until(at));
        }
        let step = self.next_command();
        let waits_for_client = matches!(step, Step::Wait(Wait { input: true, replies: false, until: None }));
        // It may have spoken while this thread, or the machine, stood still.
        if waits_for_client && owed == 0 && silent && !self.read.has_unread() {
            return Step::Close(CloseReason::Idle);
        }
        step
    }

    /// The configuration has changed, and nothing is owed. Whoever was given pointsman's own user is given the new one;
    /// what is pinned keeps the one that its connection was opened for.
    fn renew_terms(&mut self) {
        if self.pin.is_some() {
            return;
        }
        let before = std::mem::replace(&mut self.terms, self.pool.context.terms());
        if let (Some(user), Some(own), Some(new)) = (&self.state.key.user, &before.own_user, &self.terms.own_user)
            && Rc::ptr_eq(user, own)
        {
            self.state.key.user = Some(Rc::clone(new));
            self.route = None;
            self.describe();
        }
        self.renew_scanner();
    }

    /// Commands sent and not answered.
    fn commands_outstanding(&self) -> u32 {
        self.down.owed() + self.beyond_owed
    }

    /// The limit at which no more is sent before replies come.
    fn limit_of_outstanding(&self) -> Option<Limit> {
        if self.commands_outstanding() >= MAX_OWED {
            Some(Limit::OutstandingCommands)
        } else if self.outstanding > self.terms.limits.outstanding_bytes {
            Some(Limit::OutstandingBytes)
        } else {
            None
        }
    }

    /// Nothing is owed: takes back what came back, and gives up the pin if it has served.
    fn settle(&mut self) -> Option<Step> {
        if self.down.take_undone()
            && let Some((conn, _)) = &self.pin
        {
            conn.close(Lost::Dropped);
        }
        let lost = self.pin.as_ref().is_some_and(|(conn, _)| conn.lost().is_some());
        let again = self.down.take_again();
        let refused = self.down.refused_since().is_some() && !again.is_empty();
        if refused {
            self.not_before = Some(Instant::now() + REFUSED_PAUSE);
        }
        let answered = again.is_empty();
        if answered {
            self.tracking.answered(self.state.multi);
        } else {
            self.reclaim(&again);
        }
        self.finish_pausing(answered);
        // What was answered holds, and what came back has changed nothing, also where the connection is lost by now.
        if std::mem::take(&mut self.transaction.opening) {
            self.finish_opening(answered);
        }
        if std::mem::take(&mut self.judging) {
            self.finish_judging(answered);
        }
        let mut asked_besides = false;
        if let Some(executed) = self.executed.take() {
            asked_besides = executed.asks_besides();
            if answered {
                self.finish_executing(&executed);
            }
        }
        if let Some(becoming) = self.becoming.take()
            && let Some(step) = self.finish_becoming(&becoming)
        {
            return Some(step);
        }
        if lost {
            return Some(self.lose_pin(&again));
        }
        let in_transaction = self.state.multi || self.transaction.is_ending();
        if in_transaction
            // One that is kept goes on, unless it has in its transaction by now what is not the client's.
            && (!self.state.kept || asked_besides)
            && !answered
            && let Some((conn, _)) = &self.pin
        {
            // Taken back by a hold. What the connection has of the transaction ends here; it is replayed elsewhere.
            conn.close(Lost::Dropped);
            return Some(self.lose_pin(&again));
        }
        if self.unpin {
            self.finish_pin(answered);
            return Some(Step::Done);
        }
        if self.renewal.is_some()
            && let Some(step) = self.renew()
        {
            return Some(step);
        }
        (!answered).then_some(Step::Done)
    }

    fn flush(&self) {
        self.down.outbox.flush();
        self.down.after_flush();
    }

    fn count_sent(&self) {
        let sent = self.down.outbox.take_sent();
        if sent > 0 {
            self.pool.context.stats.client_sent_bytes.add(sent);
        }
    }

    /// Tells the other clients who this one is.
    fn describe(&self) {
        let user = self.state.key.user.as_ref().and_then(|c| c.user.as_deref()).unwrap_or(b"default");
        self.presence.client.describe(user, self.state.subscribed);
        self.presence.client.select(self.state.key.database);
    }

    /// What commands of this effect may do now.
    fn pass(&self, effect: Effect) -> Pass {
        let now = Moment::now();
        self.presence.client.active(now);
        self.pool.context.access.admits(effect == Effect::Read, now)
    }
}

/// What a client is called by its certificate until it gives itself a name, if Redis would take it for one.
fn common_name(subject: &str) -> Option<Bytes> {
    let name = subject.split(',').find_map(|part| part.strip_prefix("CN="))?;
    let is_plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    is_plain.then(|| Bytes::copy_from_slice(name.as_bytes()))
}

/// Lets go of everything, also when the session's task panicked.
impl Drop for Session {
    fn drop(&mut self) {
        self.forget_wait();
        // Where the client may still send, the end of our direction is said before the socket is closed.
        let closing = self.eof && Rc::strong_count(&self.down) == 1;
        self.down.leave(closing);
        if let Some((conn, key)) = self.disown() {
            self.pool.release(conn, &key, false);
        }
        self.pool.forget(&self.down.wake);
    }
}
