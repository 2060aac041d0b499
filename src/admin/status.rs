//! `/status`: everything about every service, as JSON for people and scripts.

use std::time::Duration;

use serde::Serialize;

use super::AdminState;
use crate::clock::Moment;
use crate::topology::status::ServiceStatus;

#[derive(Serialize)]
struct Status<'a> {
    version: &'static str,
    /// Suspension included.
    uptime_seconds: f64,
    workers: usize,
    draining: bool,
    services: Vec<Service<'a>>,
}

#[derive(Serialize)]
struct Service<'a> {
    /// Clients connected now.
    clients: u64,
    #[serde(flatten)]
    status: &'a ServiceStatus,
}

/// The document, ending in a newline.
pub(super) fn json(state: &AdminState) -> Result<String, serde_json::Error> {
    let statuses: Vec<_> = state.statuses().collect();
    let uptime: Duration = Moment::now().since(state.started);
    let services = statuses.iter().enumerate().map(|(i, (_, status))| Service {
        clients: state.stats.iter().map(|worker| worker.services[i].clients.value()).sum(),
        status,
    });
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: uptime.as_secs_f64(),
        workers: state.stats.len(),
        draining: state.is_draining(),
        services: services.collect(),
    };
    let mut text = serde_json::to_string_pretty(&status)?;
    text.push('\n');
    Ok(text)
}
