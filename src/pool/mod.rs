//! Backend connections of one service on one worker: the shared ones by key, the pinned ones that are free, and the
//! sessions that wait until traffic may flow.

mod dials;
mod halted;
mod judges;
mod waiters;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::backend::{self, Connection, Context, DialError, Key, Lost, Use};
use crate::clock::Moment;
use crate::net::Signal;
use crate::topology::{Flow, HintKind, Pass, Topology};
use dials::Dials;
use halted::Halted;
use judges::Judges;
use waiters::Waiters;

/// Connects under way at once, by worker and service: after a switch thousands of clients want a few connections back,
/// and the new master's backlog is shared with everybody.
const CONCURRENT_DIALS: usize = 16;

/// A pinned connection that nobody has used for this long is closed, and a shared one where there is another.
const IDLE: Duration = Duration::from_secs(20);

/// The same for the last shared connection of a key: the users that clients authenticate as are any number.
const IDLE_LAST: Duration = Duration::from_secs(300);

/// How long a session that waits for writes may go unasked while only reads flow.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The answer to asking for a connection.
#[derive(Debug)]
pub enum Checkout {
    /// Here it is.
    Ready(Rc<Connection>),
    /// The signal is raised when it is worth asking again.
    Pending,
    /// It cannot be had; worth asking again from the moment on.
    Failed(DialError, Instant),
    /// As many pinned connections are open as may be; the signal is raised when one comes free.
    Full,
}

type Place = (SocketAddr, Key);
type Connections = Vec<Rc<Connection>>;

/// See the module.
#[derive(Debug)]
pub struct Pool {
    /// What the connections have in common.
    pub context: Rc<Context>,
    shared: RefCell<HashMap<(Place, Use), Connections>>,
    /// Pinned connections that no session has.
    free: RefCell<HashMap<Place, Vec<Rc<Connection>>>>,
    /// Every open connection.
    all: RefCell<Vec<Rc<Connection>>>,
    dials: RefCell<HashMap<(Place, Use), Dials>>,
    permits: Rc<Semaphore>,
    judges: Judges,
    halted: Halted,
    /// Sessions that wait for permission, in the order in which they began to.
    held: RefCell<Waiters>,
    /// What reads and writes could do when those in `held` were last woken by a tick, and when that was.
    woken: Cell<((bool, bool), Instant)>,
}

impl Pool {
    /// An empty pool.
    pub fn new(context: Rc<Context>) -> Self {
        Self {
            context,
            shared: RefCell::default(),
            free: RefCell::default(),
            all: RefCell::default(),
            dials: RefCell::default(),
            permits: Rc::new(Semaphore::new(CONCURRENT_DIALS)),
            judges: Judges::default(),
            halted: Halted::default(),
            held: RefCell::default(),
            woken: Cell::new(((false, false), Instant::now())),
        }
    }

    /// A connection to pipeline on, in the state of `key`; `used` says with whom.
    pub fn shared(self: &Rc<Self>, node: SocketAddr, key: &Key, used: Use, waiter: &Rc<Signal>) -> Checkout {
        let place = ((node, key.clone()), used);
        if let Some(conn) = self.shared.borrow().get(&place).and_then(|c| c.iter().find(|c| c.is_free())) {
            return Checkout::Ready(Rc::clone(conn));
        }
        self.dial(place.0, used, waiter)
    }

    /// A connection for one session.
    pub fn pinned(self: &Rc<Self>, node: SocketAddr, key: &Key, waiter: &Rc<Signal>) -> Checkout {
        let place = (node, key.clone());
        if let Some(free) = self.free.borrow_mut().get_mut(&place) {
            while let Some(conn) = free.pop() {
                if conn.is_usable() {
                    // Else its place in the queue would be woken in somebody else's stead.
                    if let Some(d) = self.dials.borrow_mut().get_mut(&(place, Use::Pinned)) {
                        d.forget(waiter);
                    }
                    return Checkout::Ready(conn);
                }
            }
        }
        let limit = self.context.terms().limits.pinned as u64;
        let dialing: usize =
            self.dials.borrow().iter().filter(|((_, u), _)| *u == Use::Pinned).map(|(_, d)| d.running).sum();
        if self.context.stats.backend_pinned.value() + dialing as u64 >= limit && !self.evict_free() {
            self.dials.borrow_mut().entry((place, Use::Pinned)).or_default().wait(waiter);
            return Checkout::Full;
        }
        self.dial(place, Use::Pinned, waiter)
    }

    /// Makes room at the limit: closes a free pinned connection of another key.
    fn evict_free(&self) -> bool {
        let victim = self.free.borrow_mut().values_mut().find_map(Vec::pop);
        victim.inspect(|conn| conn.close(Lost::Dropped)).is_some()
    }

    /// A session is done with a pinned connection. `clean`: it left no state behind.
    pub fn release(&self, conn: Rc<Connection>, key: &Key, clean: bool) {
        conn.release();
        if !(clean && conn.is_usable() && conn.is_idle()) {
            conn.close(Lost::Dropped);
        }
        let place = (conn.node, key.clone());
        let mut dials = self.dials.borrow_mut();
        if conn.is_usable() {
            self.free.borrow_mut().entry(place.clone()).or_default().push(conn);
            if let Some(d) = dials.get_mut(&(place, Use::Pinned)).filter(|d| d.waiting() > 0) {
                return d.wake_one();
            }
        }
        // One fewer counts against the limit, or can be made to: whoever waits may dial.
        if let Some(d) =
            dials.iter_mut().find_map(|((_, u), d)| (*u == Use::Pinned && d.idle_waiters() > 0).then_some(d))
        {
            d.wake_one();
        }
    }

    fn dial(self: &Rc<Self>, place: Place, used: Use, waiter: &Rc<Signal>) -> Checkout {
        let now = Instant::now();
        let mut dials = self.dials.borrow_mut();
        let d = dials.entry((place.clone(), used)).or_default();
        if let Some((error, retry_at)) = d.failed(now) {
            return Checkout::Failed(error, retry_at);
        }
        d.wait(waiter);
        if d.wants_another(used) {
            d.running += 1;
            tokio::task::spawn_local(Rc::clone(self).run_dial(place, used));
        }
        Checkout::Pending
    }

    async fn run_dial(self: Rc<Self>, place: Place, used: Use) {
        let permits = Rc::clone(&self.permits);
        let permit = permits.acquire().await;
        let result = backend::connect(&self.context, place.0, &place.1, used).await;
        drop(permit);
        let mut dials = self.dials.borrow_mut();
        let d = dials.entry((place.clone(), used)).or_default();
        d.running -= 1;
        match result {
            // The points were turned while it was dialled: nobody may use it.
            Ok(conn) if !self.serves(conn.node) => {
                conn.close(Lost::Dropped);
                d.wake_all();
            }
            Ok(conn) => {
                self.all.borrow_mut().push(Rc::clone(&conn));
                match used {
                    Use::Shared | Use::Scripts | Use::Large => {
                        self.shared.borrow_mut().entry((place, used)).or_default().push(conn);
                        d.succeeded();
                        d.wake_all();
                    }
                    Use::Pinned => {
                        self.free.borrow_mut().entry(place).or_default().push(conn);
                        d.succeeded();
                        d.wake_one();
                    }
                }
            }
            Err(error) => {
                self.note_failure(place.0, &error);
                d.fail(error, Instant::now());
                d.wake_all();
            }
        }
    }

    /// A connect has failed: counts it, and tells control what that may mean.
    fn note_failure(&self, node: SocketAddr, error: &DialError) {
        tracing::debug!(service = %self.context.terms().name, %node, %error, "cannot connect to backend");
        self.context.stats.backend_connect_failures.add(1);
        let kind = match error {
            DialError::Refused => HintKind::Refused,
            DialError::Unreachable(_) => HintKind::Unreachable,
            DialError::NotMaster(_) => HintKind::NotMaster,
            DialError::Answered(e) if e.starts_with("LOADING") => HintKind::Loading,
            _ => return,
        };
        self.context.hint(node, kind);
    }

    /// Whether traffic goes to this node.
    fn serves(&self, node: SocketAddr) -> bool {
        let t = self.context.access.topology();
        t.reads.node == Some(node) || t.writes.node == Some(node)
    }

    /// Raises the signal when permission may have come.
    pub fn wait_for_permission(&self, waiter: &Rc<Signal>) {
        self.held.borrow_mut().add(waiter);
    }

    /// Counts what is looked up rather than kept account of.
    fn take_stock(&self) {
        let stats = &self.context.stats;
        let dials = self.dials.borrow();
        let queued =
            dials.iter().filter(|((_, used), _)| *used == Use::Pinned).map(|(_, d)| d.waiting()).sum::<usize>();
        stats.backend_free.set(self.free.borrow().values().map(Vec::len).sum::<usize>() as u64);
        stats.backend_dialing.set(dials.values().map(|d| d.running).sum::<usize>() as u64);
        stats.backend_queued.set(queued as u64);
    }

    /// A session has ended: its signal is wanted no more.
    pub fn forget(&self, waiter: &Rc<Signal>) {
        if Rc::strong_count(waiter) > 1 {
            self.held.borrow_mut().forget(waiter);
            self.dials.borrow_mut().values_mut().for_each(|d| d.forget(waiter));
        }
    }

    /// Carries out what control has published.
    pub fn apply(&self, topology: Arc<Topology>) {
        let context = &self.context;
        let before = context.access.update(Arc::clone(&topology));
        self.halted.note(topology.reads.flow == Flow::Flowing, topology.writes.flow == Flow::Flowing, Instant::now());
        context.unpark(topology.parked_safe_before);
        // Kept until the sessions whose connections are closed below have been counted.
        let mut preparing = None;
        if topology.generation != before.generation {
            preparing = Some(context.preparation.begin(topology.generation));
            // The first master is none that replicas have yet to come to, nor one that has to be given scripts.
            if before.generation > 0 {
                context.note_switch();
                if let Some(node) = topology.writes.node.filter(|_| context.scripts.claim(topology.generation)) {
                    backend::bring_scripts(context, node, Some(context.preparation.expect()));
                }
            }
        } else if topology.writes.flow == Flow::Flowing {
            context.unpark_all();
        }
        // The master does not answer, and who is promoted does (rule 4).
        let reads_elsewhere = topology.reads.flow == Flow::Flowing && topology.reads.node != topology.writes.node;
        let all: Vec<Rc<Connection>> = self.all.borrow().clone();
        for conn in all {
            if self.serves(conn.node) {
                conn.take_back();
            } else {
                conn.sever();
            }
            if reads_elsewhere && topology.reads.node != Some(conn.node) {
                conn.forget_reads();
            }
        }
        // Behind those: what was answered stands before what was not.
        if topology.generation != before.generation {
            context.give_up_parked(true);
        } else if reads_elsewhere {
            context.give_up_parked(false);
        }
        self.judges.keep_where(|node| self.serves(node));
        // A pause begins when nothing is under way any more, and what blocks might be for ever.
        let paused = topology.paused && !before.paused;
        if paused || before.writes.flow == Flow::Flowing && topology.writes.flow != Flow::Flowing {
            self.withdraw_blocked();
        }
        self.dials.borrow_mut().values_mut().for_each(Dials::forgive);
        self.sweep();
        context.access.link().acknowledge(topology.seq);
        drop(preparing);
        // Else thousands of writers would ask in vain while the new master is being prepared. What has changed without this
        // (the lease) the next tick sees.
        let flows = |t: &Topology| (t.reads.flow, t.writes.flow, t.paused);
        if flows(&topology) != flows(&before) {
            self.wake_held();
        }
    }

    /// Tells control that no write is under way, if writes are held or paused and that is so. Returns whether there is nothing
    /// left to tell.
    pub fn note_quiet(&self) -> bool {
        let topology = self.context.access.topology();
        if topology.writes.flow == Flow::Flowing && !topology.paused {
            return true;
        }
        // A switchover need not wait for pops that cannot be withdrawn; a pause promises that nothing changes meanwhile.
        let owes = |c: &Connection| c.owes_write() || topology.paused && c.owes_pop();
        let quiet = !self.all.borrow().iter().any(|c| c.lost().is_none() && owes(c));
        if quiet {
            self.context.access.link().note_quiet(topology.seq);
        }
        quiet
    }

    /// Writes are held: takes blocking commands back from the master, so that they can be issued again elsewhere
    /// without a doubt whether they popped something here.
    fn withdraw_blocked(&self) {
        let blocked: Vec<Rc<Connection>> =
            self.all.borrow().iter().filter(|c| c.is_blocked_in_command()).cloned().collect();
        let Some(node) = blocked.first().map(|c| c.node) else { return };
        let user = self.context.terms().own_user.clone();
        let key = Key { database: 0, resp3: false, user };
        tokio::task::spawn_local(backend::withdraw(Rc::clone(&self.context), node, key, blocked));
    }

    /// From time to time: what an expired lease held back flows again, silence is told, what is idle is closed.
    pub fn tick(&self) {
        let now = Moment::now();
        let access = &self.context.access;
        let flows = (matches!(access.reads(now), Pass::To(_)), matches!(access.writes(now), Pass::To(_)));
        self.halted.note(flows.0, flows.1, Instant::now());
        if self.context.has_parked() {
            if flows.1 {
                self.context.unpark_all();
            } else {
                self.context.unpark(Moment(0));
            }
        }
        self.give_up_overdue(Instant::now());
        // Who waits in a pause need not ask before its end.
        let passes = if access.is_paused() { (false, false) } else { flows };
        let (before, at) = self.woken.get();
        // While writes are held and reads flow, those who wait need not ask at every tick; a lease that came back between
        // two ticks is why they ask at all.
        if passes != before || passes == (true, true) || passes.0 && at.elapsed() >= ASK_AGAIN {
            self.woken.set((passes, Instant::now()));
            self.wake_held();
        }
        self.wake_for_room();
        let now = Instant::now();
        for conn in self.all.borrow().iter() {
            conn.check_silence(now);
        }
        for conn in self.free.borrow().values().flatten() {
            if now.saturating_duration_since(conn.idle_since.get()) > IDLE {
                conn.close(Lost::Dropped);
            }
        }
        self.take_stock();
        self.judges.give_up_idle(now);
        for conns in self.shared.borrow().values() {
            for (i, conn) in conns.iter().enumerate() {
                let limit = if i == 0 { IDLE_LAST } else { IDLE };
                if conn.is_idle() && now.saturating_duration_since(conn.idle_since.get()) > limit {
                    conn.close(Lost::Dropped);
                }
            }
        }
        self.sweep();
    }

    /// Connections that were lost rather than given back made room that nobody was told of, and one that lies free under
    /// another key can make room.
    fn wake_for_room(&self) {
        let open = self.context.stats.backend_pinned.value() as usize;
        let free: usize = self.free.borrow().values().map(Vec::len).sum();
        let mut room = (self.context.terms().limits.pinned + free).saturating_sub(open);
        for ((_, used), d) in self.dials.borrow_mut().iter_mut() {
            if *used == Use::Pinned {
                let n = d.idle_waiters().min(room);
                (0..n).for_each(|_| d.wake_one());
                room -= n;
            }
        }
    }

    /// Closes every connection: nobody is left to use one.
    pub fn close(&self) {
        self.all.borrow().iter().for_each(|conn| conn.close(Lost::Dropped));
        self.judges.keep_where(|_| false);
        self.sweep();
    }

    /// Whether sessions wait for permission, or for replies that may be told once there is one.
    pub fn has_held(&self) -> bool {
        !self.held.borrow().is_empty() || self.context.has_parked()
    }

    fn wake_held(&self) {
        self.held.borrow_mut().wake_all();
    }

    fn sweep(&self) {
        self.all.borrow_mut().retain(|c| c.lost().is_none());
        let some_open = |conns: &mut Vec<Rc<Connection>>| {
            conns.retain(|c| c.lost().is_none());
            !conns.is_empty()
        };
        self.shared.borrow_mut().retain(|_, conns| some_open(conns));
        self.free.borrow_mut().retain(|_, conns| some_open(conns));
        self.dials.borrow_mut().retain(|_, d| !d.is_done());
    }
}
