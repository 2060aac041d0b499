//! `/pools`: what each worker has open and is counting, for `pointsman pools` and `pointsman top`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{AdminState, Watched};
use crate::clock::Moment;
use crate::metrics::{BOUNDS, LatencyClass, ServiceStats};
use crate::resp::CommandId;

pub(super) const PATH: &str = "/pools";
pub(super) const ABOUT: &str = "connections, limits and counts of every worker, as JSON";

/// The document. Counts are since the start: whoever wants rates takes two.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pools {
    /// Milliseconds since the start, suspension included.
    pub uptime_ms: u64,
    /// In the order of the configuration.
    pub services: Vec<ServicePools>,
}

/// One service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServicePools {
    /// Its name.
    pub service: String,
    /// Where reads go.
    pub reads: Option<SocketAddr>,
    /// Where writes go.
    pub writes: Option<SocketAddr>,
    /// `limits.max_clients`.
    pub max_clients: usize,
    /// `limits.pinned`, of each worker.
    pub max_pinned: usize,
    /// In their order.
    pub workers: Vec<WorkerPool>,
    /// Commands received, by name.
    pub commands: BTreeMap<String, u64>,
    /// Upper bounds of the buckets of `latency` in seconds; there is one more bucket.
    pub latency_bounds: Vec<f64>,
    /// Replies by the time from "queued to a server" to "handed to the client", those on connections of a client's own not
    /// among them.
    pub latency: Vec<u64>,
    /// Bytes read from clients.
    pub received_bytes: u64,
    /// Bytes written to clients.
    pub sent_bytes: u64,
    /// What holds did to commands.
    pub counts: crate::topology::record::RecordCounts,
}

/// What one worker has of a service. The last three are a tenth of a second old at most, or a second without clients.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct WorkerPool {
    /// Clients.
    pub clients: u64,
    /// Commands that wait.
    pub waiting: u64,
    /// Connections to the node that writes go to, shared by clients.
    pub master: u64,
    /// The same to another node.
    pub replica: u64,
    /// Each for one client, those that are free among them.
    pub pinned: u64,
    /// On which servers judge clients.
    pub judges: u64,
    /// Of `pinned`, those that no client has.
    pub free: u64,
    /// Being dialled.
    pub dialing: u64,
    /// Clients that wait for a connection of their own.
    pub queued: u64,
}

impl WorkerPool {
    fn of(stats: &ServiceStats) -> Self {
        Self {
            clients: stats.clients.value(),
            waiting: stats.commands_waiting.value(),
            master: stats.backend_shared_master.value(),
            replica: stats.backend_shared_replica.value(),
            pinned: stats.backend_pinned.value(),
            judges: stats.backend_judges.value(),
            free: stats.backend_free.value(),
            dialing: stats.backend_dialing.value(),
            queued: stats.backend_queued.value(),
        }
    }
}

/// The document.
pub(super) fn document(state: &AdminState) -> Pools {
    let uptime = Moment::now().since(state.started);
    let services = state.services().iter().map(service).collect();
    Pools { uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX), services }
}

fn service(service: &Watched) -> ServicePools {
    let Watched { name, config, stats, status, .. } = service;
    let (limits, status) = (config.borrow().limits, status.borrow().clone());
    let commands = CommandId::all().map(|id| (id.info().name.to_owned(), stats.sum(|s| &s.commands[id.index()])));
    let mut latency = vec![0; BOUNDS.len() + 1];
    for class in [LatencyClass::Read, LatencyClass::Write] {
        for stats in stats.iter() {
            let buckets = stats.latency[class as usize].buckets();
            latency.iter_mut().zip(buckets).for_each(|(sum, n)| *sum += n);
        }
    }
    ServicePools {
        service: name.to_string(),
        reads: status.reads.node,
        writes: status.writes.node,
        max_clients: limits.max_clients,
        max_pinned: limits.pinned,
        workers: stats.iter().map(|stats| WorkerPool::of(stats)).collect(),
        commands: commands.filter(|(_, count)| *count > 0).collect(),
        latency_bounds: BOUNDS.to_vec(),
        latency,
        received_bytes: stats.sum(|s| &s.client_received_bytes),
        sent_bytes: stats.sum(|s| &s.client_sent_bytes),
        counts: super::record_counts(stats),
    }
}
