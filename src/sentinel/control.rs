//! The control thread: the watchers of all services on a runtime of their own, where nothing else can be in the way.

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::watcher::{self, Stats};
use crate::config::ServiceConfig;
use crate::net::Resolver;
use crate::topology::pause::PauseOrder;
use crate::topology::status::ServiceStatus;
use crate::topology::switchover::Order;
use crate::topology::{Hint, Link, Topology};

/// How often the thread says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What control needs to watch one service.
pub struct ServiceControl {
    /// The service. It is watched until the sender is gone.
    pub config: watch::Receiver<Arc<ServiceConfig>>,
    /// One for each worker.
    pub links: Vec<Arc<Link>>,
    /// What the workers see.
    pub hints: mpsc::Receiver<Hint>,
    /// Switchovers that are asked for.
    pub orders: mpsc::Receiver<Order>,
    /// Pauses, and their ends.
    pub pauses: mpsc::Receiver<PauseOrder>,
    /// Where traffic goes; its receivers are the workers'.
    pub topology: watch::Sender<Arc<Topology>>,
    /// For the admin server.
    pub status: watch::Sender<Arc<ServiceStatus>>,
    /// The workers' counts as they stand, summed; called when a record begins and after it ends.
    pub stats: Stats,
}

impl fmt::Debug for ServiceControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceControl").field("service", &self.config.borrow().name).finish_non_exhaustive()
    }
}

/// Starts the control thread, which watches every service that comes and alone uses `resolver`. It ends after `shutdown`;
/// `heartbeat` is called once a second while it lives.
///
/// Should a watcher panic, the thread panics too, after it has cancelled `shutdown`: its leases run out, and a process
/// that lets nothing through any more is better restarted.
pub fn spawn(
    mut services: mpsc::Receiver<ServiceControl>,
    resolver: Resolver,
    heartbeat: impl Fn() + Send + 'static,
    shutdown: CancellationToken,
) -> std::io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("control".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let mut watchers = JoinSet::new();
            let mut beat = tokio::time::interval(HEARTBEAT);
            loop {
                tokio::select! {
                    () = shutdown.cancelled(), if watchers.is_empty() => return,
                    _ = beat.tick() => heartbeat(),
                    Some(service) = services.recv() => {
                        watchers.spawn(watcher::run(service, resolver.clone(), shutdown.clone()));
                    }
                    Some(ended) = watchers.join_next() => if let Err(error) = ended {
                        tracing::error!("a watcher failed: {error}");
                        shutdown.cancel();
                        std::panic::resume_unwind(Box::new(error.to_string()));
                    }
                }
            }
        });
    })
}
