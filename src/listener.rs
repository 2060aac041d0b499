//! Accepting clients and handing each to the worker that has the fewest.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::ListenerConfig;
use crate::metrics::{Limit, WorkerStats};
use crate::net::{ClientSocket, Listener};
use crate::resp::OwnError;
use crate::worker::NewClient;

/// Pause after the kernel could not accept (no descriptors, no memory): trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A worker as the listeners see it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where new clients go.
    pub inbox: mpsc::Sender<NewClient>,
    /// How many it has is read here.
    pub stats: Arc<WorkerStats>,
}

impl Target {
    fn clients(&self) -> u64 {
        self.stats.services.iter().map(|s| s.clients.value()).sum()
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

    /// The worker with the fewest clients, those on their way included.
    fn choose(&self) -> usize {
        let load = |i: usize| {
            let worker = &self.workers[i];
            let accepted: u64 = worker.stats.services.iter().map(|s| s.clients_accepted.value()).sum();
            worker.clients() + self.handed[i].load(Ordering::Relaxed).saturating_sub(accepted)
        };
        (0..self.workers.len()).min_by_key(|i| load(*i)).unwrap_or(0)
    }

    fn clients_of(&self, service: usize) -> u64 {
        self.workers.iter().map(|w| w.stats.services[service].clients.value()).sum()
    }
}

/// Accepts the clients of one listener until `stop`; the listening socket is closed on return. `failed` is for saying
/// that a worker is gone.
pub async fn serve(
    listener: Listener,
    settings: Arc<ListenerConfig>,
    service: usize,
    max_clients: usize,
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
        match accepted {
            Ok(accepted) if targets.clients_of(service) >= max_clients as u64 => {
                // The accepting thread is the only one that writes these counters, whichever worker's they are.
                let stats = &targets.workers[0].stats.services[service];
                stats.clients_rejected.add(1);
                stats.reached(Limit::MaxClients);
                refuse(accepted.socket, max_clients);
            }
            Ok(accepted) => {
                let worker = targets.choose();
                let id = targets.next_id.fetch_add(1, Ordering::Relaxed);
                targets.handed[worker].fetch_add(1, Ordering::Relaxed);
                let client = NewClient { accepted, listener: Arc::clone(&settings), service, id };
                if targets.workers[worker].inbox.send(client).await.is_err() {
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
