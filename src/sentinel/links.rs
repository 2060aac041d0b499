//! Control's side of the links to the workers: leases out, acknowledgements in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::clock::Moment;
use crate::topology::{Grant, Link, Topology};

/// How often leases are renewed: several times within their validity, so that one late renewal expires nothing.
pub const RENEWAL_INTERVAL: Duration = Duration::from_millis(100);
/// How long a lease permits anything. It bounds for how long workers can go on writing to a master when control is
/// stopped or starved, and how long control may be late before traffic stops for nothing.
pub const LEASE_VALIDITY: Duration = Duration::from_millis(500);

/// The links of one service, one for each worker.
#[derive(Debug)]
pub(super) struct Links {
    links: Vec<Arc<Link>>,
    /// Wakes the watcher when any worker has acknowledged or prepared something.
    progress: Arc<Notify>,
    /// Passes the wake-ups of each link on to `progress`; ended when dropped.
    _forwarders: JoinSet<()>,
}

impl Links {
    pub(super) fn new(links: Vec<Arc<Link>>) -> Self {
        let progress = Arc::new(Notify::new());
        let mut forwarders = JoinSet::new();
        for link in &links {
            let (link, progress) = (link.clone(), progress.clone());
            forwarders.spawn(async move {
                loop {
                    link.progress.notified().await;
                    progress.notify_one();
                }
            });
        }
        Self { links, progress, _forwarders: forwarders }
    }

    /// Gives every worker the permissions of `topology` until `now` + [`LEASE_VALIDITY`]. Takes effect at once.
    pub(super) fn grant(&self, topology: &Topology, now: Moment) {
        let grant = Grant {
            generation: topology.generation as u32, // the lease keeps the low bits only
            reads: topology.reads.flow,
            writes: topology.writes.flow,
            valid_until: now + LEASE_VALIDITY,
        };
        for link in &self.links {
            link.lease.store(grant);
        }
    }

    /// The highest sequence number that every worker has acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.links.iter().map(|l| l.acknowledged()).min().unwrap_or(u64::MAX)
    }

    /// The generation whose master every worker has prepared.
    pub(super) fn prepared(&self) -> u64 {
        self.links.iter().map(|l| l.prepared()).min().unwrap_or(u64::MAX)
    }

    /// The highest sequence number under which no worker has a write under way.
    pub(super) fn quiet(&self) -> u64 {
        self.links.iter().map(|l| l.quiet()).min().unwrap_or(u64::MAX)
    }

    /// Waits until a worker has acknowledged, prepared or finished something. Cancel safe: a wake-up that is not received is kept.
    pub(super) async fn progress(&self) {
        self.progress.notified().await;
    }

    /// Shuts down the sockets to `node` of the workers that have not acknowledged `seq`. Returns how many workers
    /// that were, and how many sockets.
    pub(super) fn sever(&self, seq: u64, node: SocketAddr) -> (usize, usize) {
        let stragglers = self.links.iter().filter(|l| l.acknowledged() < seq);
        stragglers.fold((0, 0), |(workers, sockets), link| (workers + 1, sockets + link.sever(node)))
    }
}
