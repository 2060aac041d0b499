//! Accepting clients and handing each to the worker that has the fewest.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::{ListenerConfig, ServiceConfig};
use crate::metrics::{ByWorker, Limit};
use crate::net::{ClientSocket, Listener};
use crate::resp::OwnError;
use crate::worker::{Load, Message, NewClient, WorkerService};

/// Pause after the kernel could not accept (no descriptors, no memory): trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A worker as the listeners see it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where new clients go.
    pub inbox: mpsc::Sender<Message>,
    /// How many it has.
    pub load: Arc<Load>,
}

/// Where the clients of a listener belong.
#[derive(Clone, Debug)]
pub struct Destination {
    /// What is said of the listening socket.
    pub listener: Arc<ListenerConfig>,
    /// Id of the service.
    pub service: u64,
    /// What is configured for it.
    pub config: watch::Receiver<Arc<ServiceConfig>>,
    /// What is counted.
    pub stats: ByWorker,
}

impl Destination {
    /// Name of the service.
    pub fn name(&self) -> String {
        self.config.borrow().name.clone()
    }

    fn max_clients(&self) -> usize {
        self.config.borrow().limits.max_clients
    }

    fn is_full(&self) -> bool {
        self.stats.sum(|s| &s.clients) >= self.max_clients() as u64
    }
}

/// What all listeners of the process share.
#[derive(Debug)]
pub struct Targets {
    workers: Vec<Target>,
    next_id: AtomicU64,
    /// Clients handed over, by worker: the workers' own counts lag behind a burst of connects.
    handed: Vec<AtomicU64>,
}

impl Targets {
    /// The workers to choose from.
    pub fn new(workers: Vec<Target>) -> Self {
        let handed = workers.iter().map(|_| AtomicU64::new(0)).collect();
        Self { workers, next_id: AtomicU64::new(1), handed }
    }

    /// How many workers there are.
    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// The worker with the fewest clients, those on their way included.
    fn choose(&self) -> usize {
        let load = |i: usize| {
            let load = &self.workers[i].load;
            load.clients.value() + self.handed[i].load(Ordering::Relaxed).saturating_sub(load.accepted.value())
        };
        (0..self.workers.len()).min_by_key(|i| load(*i)).unwrap_or(0)
    }

    /// Tells every worker of another service, before any client of it comes. Returns whether all are there.
    pub async fn serve_also(&self, services: Vec<WorkerService>) -> bool {
        for (worker, service) in self.workers.iter().zip(services) {
            if worker.inbox.send(Message::Service(Box::new(service))).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// Accepts the clients of one listener until `stop`, each for where `aim` says by then; the listening socket is closed on
/// return. `failed` is for saying that a worker is gone.
pub async fn serve(
    listener: Listener,
    aim: watch::Receiver<Arc<Destination>>,
    targets: Arc<Targets>,
    stop: CancellationToken,
    failed: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let destination = Arc::clone(&aim.borrow());
        match accepted {
            Ok(accepted) if destination.is_full() => {
                // The accepting thread is the only one that writes these counters, whichever worker's they are.
                let stats = &destination.stats[0];
                stats.clients_rejected.add(1);
                stats.reached(Limit::MaxClients);
                refuse(accepted.socket, destination.max_clients());
            }
            Ok(accepted) => {
                let worker = targets.choose();
                let id = targets.next_id.fetch_add(1, Ordering::Relaxed);
                targets.handed[worker].fetch_add(1, Ordering::Relaxed);
                let listener = Arc::clone(&destination.listener);
                let client = NewClient { accepted, listener, service: destination.service, id };
                if targets.workers[worker].inbox.send(Message::Client(client)).await.is_err() {
                    failed.cancel();
                    return;
                }
            }
            Err(e) if is_the_clients(&e) => {}
            Err(error) => {
                tracing::warn!(listener = %listener.local_addr(), %error, "cannot accept; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Errors of a connection that was gone before it was accepted.
fn is_the_clients(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted)
}

fn refuse(socket: ClientSocket, max_clients: usize) {
    let line = OwnError::TooManyClients.line(&format!("{max_clients} clients are connected (limits.max_clients)"));
    // A fresh socket's buffer takes one line; a client that is gone already does not need it.
    let _ = match socket {
        ClientSocket::Tcp(mut s) => s.write_all(&line),
        ClientSocket::Unix(s) => (&s as &UnixStream).write_all(&line),
    };
}
