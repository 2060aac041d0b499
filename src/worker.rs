//! One worker thread: its own runtime, its own sessions, backend connections and counters; nothing shared but the
//! leases.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use crate::backend::{Context, Downstream, Scripts, Stats};
use crate::clients::{Clients, Presence};
use crate::clock::Moment;
use crate::config::{ListenerConfig, ServiceConfig};
use crate::metrics::{CloseReason, WorkerStats};
use crate::net::{Accepted, ClientSocket, Stream};
use crate::pool::Pool;
use crate::session::Session;
use crate::topology::{Access, Hint, Link, Topology};

/// Pause between two looks at what time alone changes; shorter while sessions wait, for whom a lease may come back.
const TICK: Duration = Duration::from_millis(100);
const TICK_HELD: Duration = Duration::from_millis(10);

/// While writes are held and some are unanswered, how often it is looked whether the last one is by now: a switchover
/// waits for that, and the clients with it.
const QUIET_CHECK: Duration = Duration::from_millis(2);

/// Clients handed over and not yet taken; accepting waits when it is full.
pub const INBOX: usize = 1024;

/// One service as a worker is given it.
#[derive(Debug)]
pub struct WorkerService {
    /// What was configured.
    pub config: Arc<ServiceConfig>,
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
}

/// An accepted client on its way to a worker.
#[derive(Debug)]
pub struct NewClient {
    /// Its socket, not registered with any runtime, and its addresses.
    pub accepted: Accepted,
    /// What is said of the listening socket that it came to.
    pub listener: Arc<ListenerConfig>,
    /// Number of the service.
    pub service: usize,
    /// Unique among the clients of this process.
    pub id: u64,
}

/// All that a worker is made of.
#[derive(Debug)]
pub struct Worker {
    /// Its number.
    pub number: usize,
    /// The services, in the order of the configuration.
    pub services: Vec<WorkerService>,
    /// Where it counts.
    pub stats: Arc<WorkerStats>,
    /// The time of its last tick, as [`Moment`].
    pub heartbeats: Arc<Vec<AtomicU64>>,
    /// New clients; the worker drains when it is closed, and ends when its last client has left.
    pub inbox: mpsc::Receiver<NewClient>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The kernel's.
    pub fn spawn(self) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name(format!("worker-{}", self.number)).spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => runtime.block_on(self.run()),
                Err(error) => tracing::error!(%error, "a worker's runtime cannot be built"),
            }
        })
    }

    async fn run(mut self) {
        // Without one of these tasks the worker would go on as if nothing had changed: clients that wait for ever are
        // worse off than those that are closed.
        let mut essential = JoinSet::new();
        let services = std::mem::take(&mut self.services);
        let clients: Vec<Arc<Clients>> = services.iter().map(|s| Arc::clone(&s.clients)).collect();
        let pools: Vec<Rc<Pool>> =
            services.into_iter().enumerate().map(|(number, s)| self.pool(number, s, &mut essential)).collect();
        essential.spawn_local(tick(pools.clone(), Arc::clone(&self.heartbeats), self.number));
        let sessions = Sessions::default();
        for clients in &clients {
            essential.spawn_local(close_killed(Arc::clone(clients), self.number, Rc::clone(&sessions.open)));
        }
        let serve = async {
            while let Some(client) = self.inbox.recv().await {
                let pool = Rc::clone(&pools[client.service]);
                let Accepted { socket, addr, laddr } = client.accepted;
                match register(socket) {
                    Ok(stream) => {
                        let presence = clients[client.service].join(client.id, self.number, addr, laddr);
                        sessions.start(pool, stream, presence);
                    }
                    // Gone before it was looked at.
                    Err(error) => tracing::debug!(%error, "a client left before it was served"),
                }
            }
            sessions.drain().await;
        };
        tokio::select! {
            () = serve => {}
            failure = failure(&mut essential) => {
                tracing::error!(worker = self.number, "a task of a worker has failed: its clients are closed");
                std::panic::resume_unwind(failure.into_panic());
            }
        }
    }

    fn pool(&self, number: usize, service: WorkerService, essential: &mut JoinSet<()>) -> Rc<Pool> {
        let WorkerService { config, scripts, link, mut topology, hints, .. } = service;
        let stats = Stats::new(Arc::clone(&self.stats), number);
        let context = Context::new(config, Access::new(link), stats, hints, scripts);
        let pool = Rc::new(Pool::new(Rc::new(context)));
        let follower = Rc::clone(&pool);
        essential.spawn_local(async move {
            loop {
                let current = Arc::clone(&topology.borrow_and_update());
                follower.apply(current);
                let changed = loop {
                    let told = follower.note_quiet();
                    tokio::select! {
                        changed = topology.changed() => break changed,
                        () = tokio::time::sleep(QUIET_CHECK), if !told => {}
                    }
                };
                if changed.is_err() {
                    return;
                }
            }
        });
        pool
    }
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

/// Closes the clients that others have killed.
async fn close_killed(clients: Arc<Clients>, number: usize, open: Rc<RefCell<HashMap<u64, Rc<Downstream>>>>) {
    loop {
        for id in clients.killed(number).await {
            if let Some(downstream) = open.borrow().get(&id) {
                downstream.close(CloseReason::Killed);
            }
        }
    }
}

async fn tick(pools: Vec<Rc<Pool>>, heartbeats: Arc<Vec<AtomicU64>>, number: usize) {
    loop {
        let held = pools.iter().any(|p| p.has_held());
        tokio::time::sleep(if held { TICK_HELD } else { TICK }).await;
        for pool in &pools {
            pool.tick();
        }
        heartbeats[number].store(Moment::now().0, Ordering::Relaxed);
    }
}

/// The sessions of one worker.
#[derive(Default)]
struct Sessions {
    open: Rc<RefCell<HashMap<u64, Rc<Downstream>>>>,
    draining: Rc<Cell<bool>>,
}

impl Sessions {
    fn start(&self, pool: Rc<Pool>, stream: Stream, presence: Presence) {
        let id = presence.client.id;
        // A future keeps what it is given beside what it makes of it: in a box the session is there once.
        let mut session = Box::new(Session::new(Rc::clone(&pool), stream, presence, Rc::clone(&self.draining)));
        self.open.borrow_mut().insert(id, session.downstream());
        let open = Rc::clone(&self.open);
        pool.context.stats.clients_accepted.add(1);
        pool.context.stats.clients.add(1);
        tokio::task::spawn_local(async move {
            let left = Left { pool, open, id, reason: Cell::new(CloseReason::Internal) };
            left.reason.set(session.run().await);
        });
    }

    /// Asks every session to leave at its next command boundary, and waits until all have.
    async fn drain(&self) {
        self.draining.set(true);
        while !self.open.borrow().is_empty() {
            for downstream in self.open.borrow().values() {
                downstream.wake.raise();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Counts a session out, also when its task panicked.
struct Left {
    pool: Rc<Pool>,
    open: Rc<RefCell<HashMap<u64, Rc<Downstream>>>>,
    id: u64,
    reason: Cell<CloseReason>,
}

impl Drop for Left {
    fn drop(&mut self) {
        let stats = &self.pool.context.stats;
        stats.clients.sub(1);
        stats.clients_closed[self.reason.get() as usize].add(1);
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
