//! The services that run: each is made of a part on every worker, one in control, and what the admin server sees.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Watched};
use crate::backend::Scripts;
use crate::clients::Clients;
use crate::config::ServiceConfig;
use crate::hooks;
use crate::insight::Insight;
use crate::listener::{Destination, Gate, Targets};
use crate::metrics::ByWorker;
use crate::net::Resolver;
use crate::sentinel::ServiceControl;
use crate::topology::status::{FlowWord, ServiceStatus};
use crate::topology::{Link, Topology};
use crate::worker::{ServiceEnd, WorkerService};

/// Services on their way to each worker and to control: more than a file of 1 MiB has. A thread that has not taken so many
/// is as good as gone.
pub(super) const SERVICES: usize = 1 << 14;

/// Hints on their way to control; more than these say nothing that it does not know.
const HINTS: usize = 256;

/// Orders of each kind on their way to control, which does or refuses them at once.
const ORDERS: usize = 4;

fn flows(status: &ServiceStatus) -> bool {
    status.writes.flow == FlowWord::Flowing
}

/// One service that runs.
#[derive(Debug)]
pub(super) struct Running {
    id: u64,
    /// Read by its workers and by control, which ends when this is gone.
    config: watch::Sender<Arc<ServiceConfig>>,
    watched: Watched,
    gate: Arc<Gate>,
    end: ServiceEnd,
}

impl Running {
    /// Starts a service on all workers and in control. None if a thread is gone.
    pub(super) fn start(
        id: u64,
        config: ServiceConfig,
        workers: &Targets,
        control: &mpsc::Sender<ServiceControl>,
        names: &Resolver,
    ) -> Option<Self> {
        let count = workers.count();
        let name = config.name.clone();
        let (config, configured) = watch::channel(Arc::new(config));
        let (stats, insight) = (ByWorker::new(count), Insight::new(count));
        let clients = Arc::new(Clients::new(count));
        let scripts: Arc<Scripts> = Arc::default();
        let links: Vec<Arc<Link>> = (0..count).map(|_| Arc::default()).collect();
        let (topology, topologies) = watch::channel(Arc::new(Topology::unknown()));
        let (status, status_reader) = watch::channel(Arc::new(ServiceStatus::unknown(&name)));
        let (hints, hint_reader) = mpsc::channel(HINTS);
        let (order_taker, orders) = mpsc::channel(ORDERS);
        let (pause_taker, pauses) = mpsc::channel(ORDERS);
        let end =
            ServiceEnd { drain: CancellationToken::new(), close: CancellationToken::new(), served: TaskTracker::new() };
        let parts = links.iter().zip(stats.iter()).zip(insight.workers());
        let for_workers = parts.map(|((link, stats), observed)| WorkerService {
            id,
            config: configured.clone(),
            names: names.clone(),
            stats: Arc::clone(stats),
            observed: Arc::clone(observed),
            clients: Arc::clone(&clients),
            scripts: Arc::clone(&scripts),
            link: Arc::clone(link),
            topology: topologies.clone(),
            hints: hints.clone(),
            end: end.clone(),
        });
        let for_workers = for_workers.collect();
        let counted = stats.clone();
        let service = ServiceControl {
            config: configured,
            links,
            hints: hint_reader,
            orders,
            pauses,
            topology,
            status,
            stats: Arc::new(move || admin::record_counts(&counted)),
        };
        control.try_send(service).ok()?;
        if !workers.serve_also(for_workers) {
            return None;
        }
        let watched = Watched {
            name: name.into(),
            config: config.subscribe(),
            stats,
            insight,
            status: status_reader,
            orders: order_taker,
            pauses: pause_taker,
            clients,
        };
        Some(Self { id, config, watched, gate: Arc::default(), end })
    }

    /// What is configured.
    pub(super) fn config(&self) -> Arc<ServiceConfig> {
        Arc::clone(&self.config.borrow())
    }

    /// Goes by another configuration of the same name from now on.
    pub(super) fn configure(&self, mut config: ServiceConfig) {
        config.succeed(&self.config());
        self.config.send_replace(Arc::new(config));
    }

    /// Where the clients of each of its listeners belong.
    pub(super) fn destinations(&self) -> impl Iterator<Item = Destination> + '_ {
        let listeners = self.config().listen.clone();
        listeners.into_iter().map(|listener| Destination {
            listener: Arc::new(listener),
            service: self.id,
            config: self.config.subscribe(),
            stats: self.watched.stats.clone(),
            gate: Arc::clone(&self.gate),
        })
    }

    /// Whether its writes go to a master.
    pub(super) fn flows(&self) -> bool {
        flows(&self.watched.status.borrow())
    }

    /// Why they, or reads, do not.
    pub(super) fn why(&self) -> String {
        self.watched.status.borrow().why.clone()
    }

    /// Waits until they do; for ever if they never do.
    pub(super) async fn until_flows(&self) {
        // Control is gone if it says nothing more; whoever waits for it finds that by himself.
        if self.watched.status.clone().wait_for(|status| flows(status)).await.is_err() {
            pending().await
        }
    }

    /// As the admin server sees it.
    pub(super) fn watched(&self) -> Watched {
        self.watched.clone()
    }

    /// What control says of it, from now on.
    pub(super) fn status(&self) -> hooks::Status {
        self.watched.status.clone()
    }

    /// Ends it: its clients leave at a command boundary, after `patience` wherever they are. It is watched till then:
    /// without control what they have begun could not be answered.
    pub(super) async fn end(self, patience: Duration) {
        self.end.drain.cancel();
        self.end.served.close();
        if tokio::time::timeout(patience, self.end.served.wait()).await.is_err() {
            self.end.close.cancel();
            self.end.served.wait().await;
        }
        tracing::info!(service = %self.watched.name, "the service has ended");
    }
}
