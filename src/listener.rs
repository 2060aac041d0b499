//! Accepting clients and handing each to the worker that has the fewest.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::complaints::Complaints;
use crate::config::{ListenerConfig, ServiceConfig};
use crate::metrics::{ByWorker, Limit, Rejection};
use crate::net::{Accepted, Accepting, ClientSocket, Listener, Rate};
use crate::resp::OwnError;
use crate::worker::{Errand, Load, NewClient, WorkerService};

/// Pause after the kernel could not accept (no descriptors, no memory): trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Clients accepted before those that the thread has already are served again.
const ACCEPT_BATCH: usize = 16;
/// How often accepting may fail once nobody else may come: what it lacks is given back by those who are to leave next.
const CLOSING_TRIES: usize = 10;

/// A worker as the listeners see it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where new clients go.
    pub inbox: mpsc::Sender<NewClient>,
    /// Where new services go.
    pub services: mpsc::Sender<WorkerService>,
    /// What else it is to do beside its clients.
    pub errands: mpsc::Sender<Errand>,
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
    /// What all listeners of the service go by.
    pub gate: Arc<Gate>,
}

/// What the listeners of one service have in common.
#[derive(Debug, Default)]
pub struct Gate {
    rate: Mutex<Rate>,
    rejections: Complaints,
    delays: Complaints,
}

impl Destination {
    /// Name of the service.
    pub fn name(&self) -> String {
        self.config.borrow().name.clone()
    }

    /// How long to wait before another client is accepted.
    fn pause(&self) -> Duration {
        let config = self.config.borrow();
        let Some(per_second) = config.limits.accept_rate else { return Duration::ZERO };
        let mut rate = self.gate.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = rate.pause(per_second, Instant::now());
        if !pause.is_zero() {
            self.stats[0].reached(Limit::AcceptRate);
            if let Some(unsaid) = self.gate.delays.due() {
                tracing::warn!(service = %config.name, unsaid, "clients wait to be accepted (limits.accept_rate)");
            }
        }
        pause
    }

    /// Turns away one client more than there may be.
    fn refuse(&self, accepted: Accepted) {
        // The first worker accepts: these counters are its own.
        self.stats[0].rejected(Rejection::MaxClients);
        let detail = format!("{} clients are connected (limits.max_clients)", self.max_clients());
        if let Some(unsaid) = self.gate.rejections.due() {
            let (service, listener, from) = (self.name(), &self.listener.address, &accepted.addr);
            tracing::warn!(%service, %listener, %from, unsaid, "client refused: {detail}");
        }
        // By TLS nothing can be said before hands are shaken, which is what there is no room for.
        if self.listener.tls.is_some() {
            return;
        }
        let line = OwnError::TooManyClients.line(&detail);
        // A fresh socket's buffer takes one line; a client that is gone already does not need it.
        let _ = match accepted.socket {
            ClientSocket::Tcp(mut s) => s.write_all(&line),
            ClientSocket::Unix(s) => (&s as &UnixStream).write_all(&line),
        };
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

    /// How many clients each worker has.
    pub fn loads(&self) -> Vec<Arc<Load>> {
        self.workers.iter().map(|worker| Arc::clone(&worker.load)).collect()
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

    /// Has the first worker accept, as [`serve`] does: that spares a thread between the kernel and a client that comes, asks
    /// and leaves. What cannot be given to it is dropped, and tells so.
    pub fn accept(&self, accepting: impl Future<Output = ()> + Send + 'static) {
        let _ = self.workers[0].errands.try_send(Box::pin(accepting));
    }

    /// Hands a client to a worker, or turns it away.
    async fn take(&self, accepted: Accepted, destination: &Destination) -> Result<(), Gone> {
        if destination.is_full() {
            destination.refuse(accepted);
            return Ok(());
        }
        let worker = self.choose();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.handed[worker].fetch_add(1, Ordering::Relaxed);
        let listener = Arc::clone(&destination.listener);
        let client = NewClient { accepted, listener, service: destination.service, id };
        self.workers[worker].inbox.send(client).await.map_err(|_| Gone)
    }

    /// Tells every worker of another service, before any client of it comes; whoever does waits for none that is stuck, or no
    /// signal would be heeded. Returns whether all are there.
    pub fn serve_also(&self, services: Vec<WorkerService>) -> bool {
        self.workers.iter().zip(services).all(|(worker, service)| worker.services.try_send(service).is_ok())
    }
}

/// How accepting ends.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Nobody else may come: those that the kernel has completed already are still accepted.
    pub close: CancellationToken,
    /// Others have the socket too, and go on with whoever has not been accepted.
    pub leave: CancellationToken,
}

/// Accepts the clients of one listener until `stop`, each for where `aim` says by then; the listening socket is closed at the
/// end. `failed` is for saying that a worker is gone, be it the one that this runs on: it is told also if the future is
/// dropped before its end.
pub fn serve(
    listener: Arc<Listener>,
    aim: watch::Receiver<Arc<Destination>>,
    targets: Arc<Targets>,
    stop: Stop,
    failed: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let failed = failed.drop_guard();
    async move {
        if accept_until(&stop, listener, &aim, &targets).await.is_ok() {
            failed.disarm();
        }
    }
}

/// A worker is gone.
struct Gone;

async fn accept_until(
    stop: &Stop,
    listener: Arc<Listener>,
    aim: &watch::Receiver<Arc<Destination>>,
    targets: &Targets,
) -> Result<(), Gone> {
    let mut batch = 0;
    let begun = tokio::select! {
        biased;
        () = stop.leave.cancelled() => return Ok(()),
        () = stop.close.cancelled() => None,
        begun = Accepting::begin(Arc::clone(&listener)) => Some(begun),
    };
    while let Some(accepting) = &begun {
        let accepted = tokio::select! {
            biased;
            () = stop.leave.cancelled() => return Ok(()),
            () = stop.close.cancelled() => break,
            accepted = accepting.accept() => accepted,
        };
        let destination = Arc::clone(&aim.borrow());
        match accepted {
            Ok(Some(accepted)) => targets.take(accepted, &destination).await?,
            // As a successor does with what it does not want.
            Ok(None) => {
                tracing::info!(listener = %listener.local_addr(), "listening no more: another process has shut the socket down");
                return Ok(());
            }
            Err(e) if is_the_clients(&e) => {}
            Err(error) => {
                tracing::warn!(listener = %listener.local_addr(), %error, "cannot accept; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        let pause = destination.pause();
        if !pause.is_zero() {
            tokio::select! {
                () = stop.leave.cancelled() => {}
                () = stop.close.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        let_others(&mut batch).await;
    }
    // Nobody else may come. As many as can be there, whether or not the runtime has heard of them: more would come as fast
    // as they are taken.
    let (mut left, mut tries) = (usize::from(aim.borrow().listener.backlog) + 1, CLOSING_TRIES);
    while left > 0 && tries > 0 && !stop.leave.is_cancelled() {
        match listener.accept() {
            Ok(accepted) => {
                left -= 1;
                let destination = Arc::clone(&aim.borrow());
                targets.take(accepted, &destination).await?;
                let_others(&mut batch).await;
            }
            // The second of one by TCP that was shut down.
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::InvalidInput) => break,
            Err(e) if is_the_clients(&e) => left -= 1,
            Err(_) => {
                tries -= 1;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    Ok(())
}

/// After some clients those that the thread has already are served again.
async fn let_others(batch: &mut usize) {
    *batch = (*batch + 1) % ACCEPT_BATCH;
    if *batch == 0 {
        tokio::task::yield_now().await;
    }
}

/// Errors of a connection that was gone before it was accepted.
fn is_the_clients(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted)
}
