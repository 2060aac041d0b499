//! The composition root: builds every part from the configuration, runs them, and ends them in order.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addr::ListenAddr;
use crate::admin::{self, AdminState};
use crate::backend::Scripts;
use crate::clients::Clients;
use crate::clock::Moment;
use crate::config::{Config, ListenerConfig};
use crate::listener::{self, Target, Targets};
use crate::metrics::WorkerStats;
use crate::net::{self, BindError, Listener};
use crate::sentinel::{self, ServiceControl};
use crate::shutdown::Signals;
use crate::topology::status::ServiceStatus;
use crate::topology::{Link, Topology};
use crate::worker::{INBOX, Worker, WorkerService};

/// Hints on their way to control; more than these say nothing that it does not know.
const HINTS: usize = 256;

/// Orders for switchovers on their way to control, which refuses a second one at once.
const ORDERS: usize = 4;

/// Why pointsman could not run, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address could not be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The operating system refused something else.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A thread ended that must not.
    #[error("a thread has failed, see the log: traffic cannot go on")]
    Failed,
}

impl Error {
    /// EX_OSERR of `sysexits.h`, or EX_SOFTWARE for a failure of our own: a supervisor starts us again after either.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Bind(_) | Self::System { .. } => 71,
            Self::Failed => 70,
        }
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// Runs until a signal ends it.
///
/// # Errors
/// [`Error`], before anything was served or when a thread has failed.
pub fn run(config: Config) -> Result<(), Error> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("cannot start the runtime"))?;
    runtime.block_on(async {
        let app = App::build(config)?;
        app.serve().await
    })
}

/// Every client is a descriptor, and every backend connection two; the soft limit of 1024 that most systems give is
/// kept low only for programs that use `select`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, "cannot raise the limit of open descriptors");
    }
}

struct App {
    config: Config,
    listeners: Vec<(usize, Arc<ListenerConfig>, Listener)>,
    admin: Option<tokio::net::TcpListener>,
    admin_state: Arc<AdminState>,
    targets: Vec<Target>,
    draining: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    control: JoinHandle<()>,
    /// Ends control; or says that it, or a worker, has ended by itself.
    control_stop: CancellationToken,
    signals: Signals,
}

impl App {
    /// Binds every socket first, so that nothing is served, and no thread started, if one cannot be had.
    fn build(config: Config) -> Result<Self, Error> {
        let signals = Signals::new().map_err(system("cannot handle signals"))?;
        let mut listeners = Vec::new();
        for (number, service) in config.services.iter().enumerate() {
            for listen in &service.listen {
                listeners.push((number, Arc::new(listen.clone()), net::bind(listen)?));
            }
        }
        let admin = config.admin.map(bind_admin).transpose()?;

        let names = config.services.len();
        let stats: Vec<Arc<WorkerStats>> = (0..config.workers).map(|_| Arc::new(WorkerStats::new(names))).collect();
        let heartbeats: Arc<Vec<AtomicU64>> = Arc::new((0..=config.workers).map(|_| AtomicU64::new(0)).collect());

        let mut for_workers: Vec<Vec<WorkerService>> = (0..config.workers).map(|_| Vec::new()).collect();
        let mut controls = Vec::new();
        let mut statuses = Vec::new();
        let mut order_takers = Vec::new();
        for (number, service) in config.services.iter().enumerate() {
            let shared = Arc::new(service.clone());
            let clients = Arc::new(Clients::new(config.workers));
            let scripts: Arc<Scripts> = Arc::default();
            let links: Vec<Arc<Link>> = (0..config.workers).map(|_| Arc::default()).collect();
            let (topology, topologies) = watch::channel(Arc::new(Topology::unknown()));
            let (status, status_reader) = watch::channel(Arc::new(ServiceStatus::unknown(&service.name)));
            let (hints, hint_reader) = mpsc::channel(HINTS);
            let (order_taker, orders) = mpsc::channel(ORDERS);
            for (services, link) in for_workers.iter_mut().zip(&links) {
                services.push(WorkerService {
                    config: Arc::clone(&shared),
                    clients: Arc::clone(&clients),
                    scripts: Arc::clone(&scripts),
                    link: Arc::clone(link),
                    topology: topologies.clone(),
                    hints: hints.clone(),
                });
            }
            let counted = stats.clone();
            controls.push(ServiceControl {
                config: service.clone(),
                links,
                hints: hint_reader,
                orders,
                topology,
                status,
                stats: Arc::new(move || admin::record_counts(&counted, number)),
            });
            statuses.push((service.name.clone(), status_reader));
            order_takers.push(order_taker);
        }

        let draining = Arc::new(AtomicBool::new(false));
        let admin_state = AdminState::new(stats.clone(), statuses, Arc::clone(&draining), Arc::clone(&heartbeats));
        let admin_state = Arc::new(admin_state.taking_orders(order_takers));
        let mut workers = Vec::new();
        let mut targets = Vec::new();
        for (number, services) in for_workers.into_iter().enumerate() {
            let (inbox, new_clients) = mpsc::channel(INBOX);
            let stats = Arc::clone(&stats[number]);
            targets.push(Target { inbox, stats: Arc::clone(&stats) });
            let worker = Worker { number, services, stats, heartbeats: Arc::clone(&heartbeats), inbox: new_clients };
            workers.push(worker.spawn().map_err(system("cannot start a worker thread"))?);
        }
        let control_stop = CancellationToken::new();
        let resolver = net::Resolver::new(config.resolvers.clone());
        let beats = Arc::clone(&heartbeats);
        let beat = move || beats[beats.len() - 1].store(Moment::now().0, Ordering::Relaxed);
        let control = sentinel::spawn(controls, resolver, beat, control_stop.clone())
            .map_err(system("cannot start the control thread"))?;
        Ok(Self { config, listeners, admin, admin_state, targets, draining, workers, control, control_stop, signals })
    }

    /// Serves until the first signal, then drains: no new clients; those there leave at a command boundary; what is
    /// left after `drain_timeout`, or at a second signal, is closed.
    async fn serve(mut self) -> Result<(), Error> {
        let stop_accepting = CancellationToken::new();
        let stop_admin = CancellationToken::new();
        let tasks = TaskTracker::new();
        let targets = Arc::new(Targets::new(std::mem::take(&mut self.targets)));
        for (service, settings, listener) in self.listeners.drain(..) {
            let config = &self.config.services[service];
            tracing::info!(service = %config.name, address = %listener.local_addr(), "listening");
            let serve = listener::serve(
                listener,
                settings,
                service,
                config.limits.max_clients,
                Arc::clone(&targets),
                stop_accepting.clone(),
                self.control_stop.clone(),
            );
            tasks.spawn(serve);
        }
        // Only the listeners' tasks hold the workers' inboxes now: the inboxes close when they have ended.
        drop(targets);
        let admin = self.admin.take().map(|listener| {
            if let Ok(address) = listener.local_addr() {
                tracing::info!(%address, "admin listening");
            }
            tokio::spawn(admin::serve(listener, Arc::clone(&self.admin_state), stop_admin.clone()))
        });

        let signal = tokio::select! {
            signal = self.signals.next() => signal,
            // Without control every lease runs out, without a worker its clients hang: better to be started again.
            () = self.control_stop.cancelled() => return Err(Error::Failed),
        };
        tracing::info!(signal, "draining");
        self.draining.store(true, Ordering::Relaxed);
        stop_accepting.cancel();
        tasks.close();
        tasks.wait().await;
        let workers = std::mem::take(&mut self.workers);
        let drained = tokio::task::spawn_blocking(move || workers.into_iter().for_each(|w| drop(w.join())));
        tokio::select! {
            _ = drained => tracing::info!("drained"),
            signal = self.signals.next() => tracing::info!(signal, "ending at once"),
            () = tokio::time::sleep(self.config.drain_timeout) => tracing::info!("drain_timeout has passed; closing what is left"),
        }
        self.control_stop.cancel();
        stop_admin.cancel();
        if let Some(admin) = admin {
            let _ = tokio::time::timeout(Duration::from_secs(1), admin).await;
        }
        // Threads that are still at work end with the process; waiting for them is what the time-out was for.
        drop(self.control);
        Ok(())
    }
}

fn bind_admin(addr: std::net::SocketAddr) -> Result<tokio::net::TcpListener, Error> {
    match net::bind(&ListenerConfig::new(ListenAddr::Tcp(addr)))? {
        Listener::Tcp(listener, _) => Ok(listener),
        Listener::Unix(..) => unreachable!("a TCP address was bound"),
    }
}
