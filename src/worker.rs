//! One worker thread: its own runtime, its own sessions, backend connections and counters; nothing shared but the
//! leases.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::backend::{Context, Downstream, Scripts};
use crate::clients::{Client, Clients};
use crate::clock::Moment;
use crate::complaints::Complaints;
use crate::config::{ListenerConfig, ServiceConfig};
use crate::greeting::{self, Newcomer, Reception};
use crate::insight::Observed;
use crate::metrics::{CloseReason, Counter, Rejection, ServiceStats};
use crate::net::{Accepted, ClientSocket, Handshakes, Resolver, Stream, Timer};
use crate::pool::Pool;
use crate::resp::OwnError;
use crate::session::{Leave, Session};
use crate::topology::{Access, Hint, Link, Topology};

/// Pause between two looks at what time alone changes; shorter while sessions wait, for whom a lease may come back.
const TICK: Duration = Duration::from_millis(100);
const TICK_HELD: Duration = Duration::from_millis(10);
/// Without clients, of whom the first ends it: these looks would be most of what a process at rest does.
const TICK_IDLE: Duration = Duration::from_secs(1);

/// While writes are held and some are unanswered, how often it is looked whether the last one is by now: a switchover
/// waits for that, and the clients with it.
const QUIET_CHECK: Duration = Duration::from_millis(2);

/// How often it is looked who has been silent for too long.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// Tasks that run before the sockets are looked at again: as many as one look tells of. After the runtime's 61 there would hardly
/// be anything new. A task that goes on and on yields, which has the sockets looked at.
const TASKS_BY_TURN: u32 = 1024;

/// Clients handed over and not yet taken; accepting waits when it is full.
pub const INBOX: usize = 1024;

/// One service as a worker is given it.
#[derive(Debug)]
pub struct WorkerService {
    /// Unique among the services of this process, also of those that are gone.
    pub id: u64,
    /// What is configured.
    pub config: watch::Receiver<Arc<ServiceConfig>>,
    /// Where the names of its servers are known.
    pub names: Resolver,
    /// Where the worker counts.
    pub stats: Arc<ServiceStats>,
    /// What it has seen of single commands.
    pub observed: Arc<Observed>,
    /// Its clients on all workers.
    pub clients: Arc<Clients>,
    /// The scripts that they have the servers keep.
    pub scripts: Arc<Scripts>,
    /// What this worker shares with control.
    pub link: Arc<Link>,
    /// What control publishes.
    pub topology: watch::Receiver<Arc<Topology>>,
    /// What the worker tells control.
    pub hints: mpsc::Sender<Hint>,
    /// When it ends here.
    pub end: ServiceEnd,
}

/// How a service ends while the process goes on.
#[derive(Clone, Debug)]
pub struct ServiceEnd {
    /// Its clients leave at their next command boundary.
    pub drain: CancellationToken,
    /// Those still there are closed.
    pub close: CancellationToken,
    /// Held by each worker that has it, until its last client there has left.
    pub served: TaskTracker,
}

/// How busy a worker is, for whoever hands out clients.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Load {
    /// Clients it has.
    pub clients: Counter,
    /// Clients it has taken.
    pub accepted: Counter,
    /// Told of a client that comes where there was none.
    first: Notify,
}

/// An accepted client on its way to a worker.
#[derive(Debug)]
pub struct NewClient {
    /// Its socket, not registered with any runtime, and its addresses.
    pub accepted: Accepted,
    /// What is said of the listening socket that it came to.
    pub listener: Arc<ListenerConfig>,
    /// Id of the service.
    pub service: u64,
    /// Unique among the clients of this process.
    pub id: u64,
}

/// What a worker's thread does that has nothing to do with its own clients.
pub type Errand = Pin<Box<dyn Future<Output = ()> + Send>>;

/// All that a worker is made of.
#[derive(Debug)]
pub struct Worker {
    /// Its number.
    pub number: usize,
    /// How many clients it has.
    pub load: Arc<Load>,
    /// The time of its last tick, as [`Moment`]; [`Moment::MAX`] once it has ended.
    pub heartbeats: Arc<Vec<AtomicU64>>,
    /// Clients; the worker drains when it is closed, and ends when its last client has left.
    pub inbox: mpsc::Receiver<NewClient>,
    /// Services, each before its first client.
    pub services: mpsc::Receiver<WorkerService>,
    /// What else there is to do.
    pub errands: mpsc::Receiver<Errand>,
    /// Where its clients shake hands by TLS.
    pub handshakes: Handshakes,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The kernel's.
    pub fn spawn(self) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name(format!("worker-{}", self.number)).spawn(move || {
            let mut runtime = Builder::new_current_thread();
            let runtime = runtime.enable_all().event_interval(TASKS_BY_TURN).build_local(LocalOptions::default());
            let ended = runtime.and_then(|runtime| {
                runtime.block_on(async {
                    self.run(Timer::new()?).await;
                    Ok(())
                })
            });
            if let Err(error) = ended {
                tracing::error!(%error, "a worker cannot start");
            }
        })
    }

    async fn run(mut self, timer: Timer) {
        let services = Services::default();
        // Without one of these tasks the worker would go on as if nothing had changed: clients that wait for ever are
        // worse off than those that are closed.
        let mut essential = JoinSet::new();
        essential.spawn_local(tick(
            timer,
            Rc::clone(&services),
            Arc::clone(&self.load),
            Arc::clone(&self.heartbeats),
            self.number,
        ));
        loop {
            tokio::select! {
                Some(service) = self.services.recv() => self.add(service, &services, &mut essential),
                Some(errand) = self.errands.recv() => drop(tokio::task::spawn_local(errand)),
                client = self.inbox.recv() => match client {
                    Some(client) => {
                        // Its service is there already, though perhaps not taken.
                        while let Ok(service) = self.services.try_recv() {
                            self.add(service, &services, &mut essential);
                        }
                        let service = services.borrow().get(&client.service).cloned();
                        // One that is gone: so is its client, then.
                        match service {
                            Some(service) => service.admit(self.number, client),
                            None => self.load.accepted.add(1),
                        }
                    }
                    None => break,
                },
                failure = failure(&mut essential) => self.give_up(failure),
            }
        }
        let drain = async {
            let all: Vec<Rc<Serving>> = services.borrow().values().cloned().collect();
            all.iter().for_each(|service| service.ask_to_leave());
            let mut drains: JoinSet<()> = JoinSet::new();
            for service in all {
                drains.spawn_local(async move { service.drained(&CancellationToken::new()).await });
            }
            while drains.join_next().await.is_some() {}
        };
        tokio::select! {
            // In a drain others may have clients for longer.
            () = drain => self.heartbeats[self.number].store(Moment::MAX.0, Ordering::Relaxed),
            failure = failure(&mut essential) => self.give_up(failure),
        }
    }

    fn give_up(&self, failure: JoinError) -> ! {
        tracing::error!(worker = self.number, "a task of a worker has failed: its clients are closed");
        std::panic::resume_unwind(failure.into_panic());
    }

    /// Serves another service, until it ends.
    fn add(&self, service: WorkerService, services: &Services, essential: &mut JoinSet<()>) {
        let WorkerService { id, mut config, names, stats, observed, clients, scripts, link, topology, hints, end } =
            service;
        let current = Arc::clone(&config.borrow_and_update());
        let context = Context::new(current, names, Access::new(link), stats, observed, hints, scripts);
        let serving = Rc::new(Serving {
            pool: Rc::new(Pool::new(Rc::new(context))),
            clients,
            load: Arc::clone(&self.load),
            handshakes: self.handshakes.clone(),
            open: Rc::default(),
            greeting: Rc::default(),
            leaving: Rc::default(),
            looked_for_idle: Cell::new(Moment::now()),
            unwatched: Complaints::default(),
            _served: end.served.token(),
        });
        services.borrow_mut().insert(id, Rc::clone(&serving));
        let (services, worker) = (Rc::clone(services), self.number);
        essential.spawn_local(async move {
            let drain = async {
                end.drain.cancelled().await;
                serving.ask_to_leave();
                serving.drained(&end.close).await;
            };
            tokio::select! {
                () = follow(&serving.pool, topology) => {}
                () = obey(&serving.pool, config) => {}
                () = serving.run_errands(worker) => {}
                () = drain => {}
            }
            services.borrow_mut().remove(&id);
            serving.pool.close();
        });
    }
}

/// Carries out what control publishes, until control is gone.
async fn follow(pool: &Pool, mut topology: watch::Receiver<Arc<Topology>>) {
    loop {
        let current = Arc::clone(&topology.borrow_and_update());
        pool.apply(current);
        let changed = loop {
            let told = pool.note_quiet();
            tokio::select! {
                changed = topology.changed() => break changed,
                () = tokio::time::sleep(QUIET_CHECK), if !told => {}
            }
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Goes by each new configuration.
async fn obey(pool: &Pool, mut config: watch::Receiver<Arc<ServiceConfig>>) {
    while config.changed().await.is_ok() {
        let current = Arc::clone(&config.borrow_and_update());
        pool.context.configure(current);
    }
    // That the configuration changes no more does not end the service.
    std::future::pending().await
}

/// The first panic among the tasks. One that ends otherwise has nothing more to do: control has ended.
async fn failure(tasks: &mut JoinSet<()>) -> JoinError {
    loop {
        match tasks.join_next().await {
            Some(Err(error)) if error.is_panic() => return error,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

fn register(socket: ClientSocket) -> io::Result<Stream> {
    match socket {
        ClientSocket::Tcp(s) => TcpStream::from_std(s).map(Stream::Tcp),
        ClientSocket::Unix(s) => UnixStream::from_std(s).map(Stream::Unix),
    }
}

async fn tick(timer: Timer, services: Services, load: Arc<Load>, heartbeats: Arc<Vec<AtomicU64>>, number: usize) {
    loop {
        let held = services.borrow().values().any(|s| s.pool.has_held());
        let slept = if held || load.clients.value() > 0 {
            timer.sleep(if held { TICK_HELD } else { TICK }).await
        } else {
            tokio::select! {
                slept = timer.sleep(TICK_IDLE) => slept,
                () = load.first.notified() => Ok(()),
            }
        };
        // As a panic it is noticed, and told with the reason.
        slept.expect("a timer that is set goes off");
        let now = Moment::now();
        for service in services.borrow().values() {
            service.pool.tick();
            service.close_idle(now);
        }
        heartbeats[number].store(now.0, Ordering::Relaxed);
    }
}

/// The services of one worker, by id.
type Services = Rc<RefCell<HashMap<u64, Rc<Serving>>>>;

/// One service on one worker: its backend connections and its sessions.
struct Serving {
    pool: Rc<Pool>,
    clients: Arc<Clients>,
    load: Arc<Load>,
    handshakes: Handshakes,
    open: Open,
    /// Clients that are still to send what comes before their first command.
    greeting: Rc<Cell<usize>>,
    leaving: Rc<Cell<Leave>>,
    looked_for_idle: Cell<Moment>,
    /// Clients whose sockets cannot be waited for.
    unwatched: Complaints,
    _served: TaskTrackerToken,
}

/// The open sessions, by client.
type Open = Rc<RefCell<HashMap<u64, Opened>>>;

/// A session as its worker reaches it.
struct Opened {
    downstream: Rc<Downstream>,
    client: Arc<Client>,
    /// When it had last done something, as it was seen then; and since when it has done nothing.
    silent: Cell<(Moment, Moment)>,
}

impl Opened {
    fn new(downstream: Rc<Downstream>, client: Arc<Client>) -> Self {
        let silent = Cell::new((client.last().1, Moment::now()));
        Self { downstream, client, silent }
    }

    /// For how long it has sent nothing and waited for nothing, as Redis has it for its `timeout`.
    fn silence(&self, now: Moment) -> Duration {
        let (before, since) = self.silent.get();
        let last = self.client.last().1;
        let waits = self.downstream.owed() > 0 || self.client.is_subscribed() || self.client.is_deaf();
        if waits || last != before {
            self.silent.set((last, now));
            return Duration::ZERO;
        }
        now.since(since)
    }
}

impl Serving {
    /// Serves a client, once it has sent what its listener demands.
    fn admit(self: &Rc<Self>, worker: usize, client: NewClient) {
        let NewClient { accepted: Accepted { socket, addr, laddr }, listener, id, .. } = client;
        let newcomer = match register(socket) {
            Ok(stream) => Newcomer::new(stream, addr, laddr),
            // The kernel has no room for another that is waited for.
            Err(error) => {
                self.load.accepted.add(1);
                if let Some(unsaid) = self.unwatched.due() {
                    tracing::warn!(from = %addr, unsaid, %error, "a client is closed: its socket cannot be waited for");
                }
                return;
            }
        };
        let left = Left::new(self, id);
        if !greeting::is_due(&newcomer, &listener) {
            if let Some(served) = self.enter(worker, newcomer, &listener, left) {
                tokio::task::spawn_local(serve(served));
            }
            return;
        }
        let (serving, greeting) = (Rc::clone(self), Greeting::begin(&self.greeting));
        tokio::task::spawn_local(async move {
            let context = &serving.pool.context;
            let reception = Reception {
                listener: &listener,
                limit: context.terms().limits.handshake_timeout,
                stats: &context.stats,
                handshakes: &serving.handshakes,
                of_headers: &context.missing_headers,
                of_handshakes: &context.failed_handshakes,
            };
            match reception.receive(newcomer).await {
                Ok(newcomer) => {
                    let served = serving.enter(worker, newcomer, &listener, left);
                    drop(greeting);
                    if let Some(served) = served {
                        tokio::task::spawn_local(serve(served));
                    }
                }
                Err(reason) => left.reason.set(reason),
            }
        });
    }

    /// Makes a client one of the service's, if it may come in.
    fn enter(&self, worker: usize, newcomer: Newcomer, listener: &ListenerConfig, left: Left) -> Option<Box<Served>> {
        let per_address = self.pool.context.terms().limits.max_clients_per_address;
        let ip = |newcomer: &Newcomer| newcomer.addr.ip().map_or_else(String::new, |ip| ip.to_string());
        if !newcomer.is_allowed(listener) {
            let detail = format!("{} is not among the networks that may connect (listen.allow)", ip(&newcomer));
            self.reject(newcomer, listener, Rejection::NotAllowed, OwnError::Denied, &detail);
            left.reason.set(CloseReason::Rejected);
            return None;
        }
        let addresses = [newcomer.addr.clone(), newcomer.laddr.clone()];
        let Some(presence) = self.clients.join(left.id, worker, addresses, per_address) else {
            let limit = per_address.unwrap_or_default();
            let detail = format!("{limit} clients of {} are connected (limits.max_clients_per_address)", ip(&newcomer));
            self.reject(newcomer, listener, Rejection::PerAddress, OwnError::TooManyClients, &detail);
            left.reason.set(CloseReason::Rejected);
            return None;
        };
        let leaving = Rc::clone(&self.leaving);
        let client = Arc::clone(&presence.client);
        let session = Session::new(Rc::clone(&self.pool), newcomer.stream, presence, leaving);
        self.open.borrow_mut().insert(left.id, Opened::new(session.downstream(), client));
        Some(Box::new(Served { left, session }))
    }

    fn reject(&self, newcomer: Newcomer, listener: &ListenerConfig, why: Rejection, error: OwnError, detail: &str) {
        let context = &self.pool.context;
        context.stats.rejected(why);
        if let Some(unsaid) = context.rejections.due() {
            let (terms, listener, from) = (context.terms(), &listener.address, &newcomer.addr);
            tracing::warn!(service = %terms.name, %listener, %from, unsaid, "client refused: {detail}");
        }
        newcomer.turn_away(&error.line(detail));
    }

    /// Does to clients what others have asked for: closes those that they have killed, tells what is redirected to them.
    async fn run_errands(&self, worker: usize) {
        loop {
            let errands = self.clients.errands(worker).await;
            let open = self.open.borrow();
            for (id, keys) in errands.told {
                if let Some(session) = open.get(&id) {
                    session.downstream.tell(keys);
                }
            }
            for id in errands.killed {
                if let Some(session) = open.get(&id) {
                    session.downstream.close(CloseReason::Killed);
                }
            }
            for id in errands.flooded {
                if let Some(session) = open.get(&id) {
                    session.downstream.close(CloseReason::OutputLimit);
                }
            }
        }
    }

    /// Closes clients that have been silent for too long.
    fn close_idle(&self, now: Moment) {
        let limit = self.pool.context.terms().client_idle_timeout;
        if limit.is_zero() || now.since(self.looked_for_idle.get()) < IDLE_CHECK {
            return;
        }
        self.looked_for_idle.set(now);
        for session in self.open.borrow().values() {
            if session.silence(now) > limit {
                session.downstream.tell_silence();
            }
        }
    }

    /// Asks every session to leave at its next command boundary.
    fn ask_to_leave(&self) {
        self.leaving.set(Leave::Free(Moment::now()));
    }

    /// Waits until all have left; from `close` on they are closed wherever they are. Subscribers, who miss what is
    /// published until they are back, are asked when nobody else is left.
    async fn drained(&self, close: &CancellationToken) {
        while self.greeting.get() > 0 || !self.open.borrow().is_empty() {
            if let Leave::Free(since) = self.leaving.get()
                && self.greeting.get() == 0
                && self.open.borrow().values().all(|session| session.client.is_subscribed())
            {
                self.leaving.set(Leave::Subscribed(since));
            }
            for session in self.open.borrow().values() {
                if close.is_cancelled() {
                    session.downstream.close(CloseReason::Drain);
                } else {
                    session.downstream.wake.raise();
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A session that is being served. In a box: a future may keep what it is given several times, and the memory that a task
/// takes is a multiple of 128 bytes.
struct Served {
    /// Dropped before the session, which is then the last to have its [`Downstream`].
    left: Left,
    session: Session,
}

#[expect(clippy::manual_async_fn, reason = "an async function keeps its arguments twice")]
fn serve(mut served: Box<Served>) -> impl Future<Output = ()> {
    async move {
        let reason = served.session.run().await;
        served.left.reason.set(reason);
    }
}

/// Counts a client that is still to send what comes before its first command.
struct Greeting(Rc<Cell<usize>>);

impl Greeting {
    fn begin(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Greeting {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Counts a client in, and out when it is dropped, also because its task panicked.
struct Left {
    pool: Rc<Pool>,
    load: Arc<Load>,
    open: Open,
    id: u64,
    reason: Cell<CloseReason>,
}

impl Left {
    fn new(serving: &Serving, id: u64) -> Self {
        let (pool, load) = (Rc::clone(&serving.pool), Arc::clone(&serving.load));
        pool.context.stats.clients_accepted.add(1);
        pool.context.stats.clients.add(1);
        load.accepted.add(1);
        if load.clients.value() == 0 {
            load.first.notify_one();
        }
        load.clients.add(1);
        Self { pool, load, open: Rc::clone(&serving.open), id, reason: Cell::new(CloseReason::Internal) }
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        let stats = &self.pool.context.stats;
        stats.clients.sub(1);
        stats.clients_closed[self.reason.get() as usize].add(1);
        self.load.clients.sub(1);
        self.open.borrow_mut().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "local")]
    async fn a_panic_in_one_of_the_tasks_is_noticed() {
        let mut tasks = JoinSet::new();
        tasks.spawn_local(async {});
        tasks.spawn_local(std::future::pending());
        tasks.spawn_local(async {
            tokio::task::yield_now().await;
            panic!("on purpose");
        });
        let failure = failure(&mut tasks).await.into_panic();
        assert_eq!(failure.downcast_ref(), Some(&"on purpose"));
    }
}
