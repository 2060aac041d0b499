//! `/status`: everything about every service, as JSON for people and scripts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{AdminState, Watched};
use crate::clock::Moment;
use crate::metrics::ByWorker;
use crate::topology::record::RecordCounts;
use crate::topology::status::ServiceStatus;

/// The document. What was added to it since it was first published has a default, so that a newer `pointsman status`
/// understands an older pointsman.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the pointsman that runs.
    pub version: String,
    /// Suspension included.
    pub uptime_seconds: f64,
    /// Worker threads.
    pub workers: usize,
    /// Whether it takes no new clients and lets those it has finish.
    pub draining: bool,
    /// What is logged, if that was set while it runs.
    #[serde(default)]
    pub log_level: Option<String>,
    /// In the order of the configuration.
    pub services: Vec<Service>,
}

/// One service: what control says of it, and what the workers count.
#[derive(Debug, Serialize, Deserialize)]
pub struct Service {
    /// Clients connected now.
    pub clients: u64,
    /// Commands waiting now because their kind of traffic does not flow.
    #[serde(default)]
    pub commands_waiting: u64,
    /// What holds did to commands since the start.
    #[serde(default)]
    pub counts: RecordCounts,
    /// Backend connections open now.
    #[serde(default)]
    pub backend_connections: BackendConnections,
    /// What control says.
    #[serde(flatten)]
    pub status: ServiceStatus,
}

/// Backend connections of one service, over all workers.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct BackendConnections {
    /// To the node that writes go to, shared by clients.
    pub master: u64,
    /// To another node, shared by clients.
    pub replica: u64,
    /// Each for one client.
    pub pinned: u64,
}

/// What holds did to commands of a service since the start, over all workers.
pub fn record_counts(stats: &ByWorker) -> RecordCounts {
    RecordCounts {
        held: stats.sum(|s| &s.commands_held),
        parked: stats.sum(|s| &s.replies_parked),
        resent: stats.sum(|s| &s.commands_resent),
        refused: stats.sum(|s| &s.commands_refused),
        unknown: stats.sum(|s| &s.commands_unknown),
    }
}

/// The document.
pub(super) fn document(state: &AdminState) -> Status {
    let uptime: Duration = Moment::now().since(state.started);
    let services = state.services().into_iter().map(|Watched { stats, status, .. }| Service {
        clients: stats.sum(|s| &s.clients),
        commands_waiting: stats.sum(|s| &s.commands_waiting),
        counts: record_counts(&stats),
        backend_connections: BackendConnections {
            master: stats.sum(|s| &s.backend_shared_master),
            replica: stats.sum(|s| &s.backend_shared_replica),
            pinned: stats.sum(|s| &s.backend_pinned),
        },
        status: status.borrow().as_ref().clone(),
    });
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: uptime.as_secs_f64(),
        workers: state.workers(),
        draining: state.is_draining(),
        log_level: state.log_level(),
        services: services.collect(),
    }
}

/// The document as text, ending in a newline.
pub(super) fn json(state: &AdminState) -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_string_pretty(&document(state))?;
    text.push('\n');
    Ok(text)
}
