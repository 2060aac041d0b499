//! `/metrics`: the workers' counters, what control says of each service, and the process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use std::time::UNIX_EPOCH;

use prometheus::TextEncoder;

use super::{AdminState, Reloads, Watched};
use crate::config::AdminConfig;
use crate::metrics::export::worker_families;
use crate::metrics::{Family, names, process};
use crate::topology::record::OffsetLost;
use crate::topology::status::FlowWord;

/// Exactly what Prometheus 3 wants to see; it refuses a scrape whose type it does not know.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything in the Prometheus text format 0.0.4.
pub(super) fn scrape(state: &AdminState) -> Result<String, prometheus::Error> {
    let services = state.services();
    let mut build = Family::new(names::BUILD_INFO);
    build.add(&[env!("CARGO_PKG_VERSION")], 1.0);

    let mut families = vec![build, Family::single(names::DRAINING, flag(state.is_draining()))];
    families.extend(reload_families(&state.reloads));
    families.push(refused_family(state));
    families.extend(worker_families(services.iter().map(|s| (&*s.name, &s.stats))));
    families.extend(limit_families(&services));
    families.extend(status_families(&services));
    families.push(certificate_family(&services, &state.config()));
    families.extend(state.hooks.families());
    families.extend(process::families(state.started_at));
    let families: Vec<_> = families.into_iter().filter_map(Family::build).collect();
    TextEncoder::new().encode_to_string(&families)
}

/// Until when certificates are valid. Of several in one file for the same subject, as in a change of authority, the last.
fn certificate_family(services: &[Watched], admin: &AdminConfig) -> Family {
    let mut family = Family::new(names::TLS_CERTIFICATE_EXPIRY);
    let mut ends = BTreeMap::new();
    let of_services =
        services.iter().map(|service| (Arc::clone(&service.name), service.config.borrow().certificates()));
    for (service, certificates) in of_services.chain([("".into(), admin.certificates())]) {
        for (leg, validity) in certificates {
            let key = (Arc::clone(&service), leg, validity.path.display().to_string(), validity.subject);
            let end = validity.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
            let last = ends.entry(key).or_insert(end);
            *last = end.max(*last);
        }
    }
    for ((service, leg, file, subject), end) in ends {
        family.add(&[&service, leg, &file, &subject], end.as_secs_f64());
    }
    family
}

/// How the configuration was read again.
fn reload_families(reloads: &Reloads) -> Vec<Family> {
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed) as f64;
    let mut total = Family::new(names::RELOADS);
    total.add(&["success"], count(&reloads.succeeded));
    total.add(&["failure"], count(&reloads.failed));
    let successful = flag(!reloads.last_failed.load(Ordering::Relaxed));
    vec![
        total,
        Family::single(names::LAST_RELOAD_SUCCESSFUL, successful),
        Family::single(names::LAST_RELOAD_SUCCESS_TIMESTAMP, count(&reloads.last_success) / 1e3),
    ]
}

/// Requests to this server that were turned away.
fn refused_family(state: &AdminState) -> Family {
    let mut family = Family::new(names::ADMIN_REFUSED);
    for (reason, count) in state.refused.counts() {
        family.add(&[reason], count as f64);
    }
    family
}

/// How much is allowed of what is counted elsewhere.
fn limit_families(services: &[Watched]) -> Vec<Family> {
    let mut clients = Family::new(names::CLIENTS_MAX);
    let mut pinned = Family::new(names::BACKEND_PINNED_MAX);
    for Watched { name, config, stats, .. } in services {
        let limits = config.borrow().limits;
        clients.add(&[name], limits.max_clients as f64);
        pinned.add(&[name], (limits.pinned * stats.len()) as f64);
    }
    vec![clients, pinned]
}

/// What control says of each service.
fn status_families(services: &[Watched]) -> Vec<Family> {
    let mut master = Family::new(names::MASTER_INFO);
    let mut generation = Family::new(names::GENERATION);
    let mut epoch = Family::new(names::CONFIG_EPOCH);
    let mut flowing = Family::new(names::FLOWING);
    let mut paused = Family::new(names::PAUSED);
    let mut settled = Family::new(names::SETTLED);
    let mut sentinels = Family::new(names::SENTINEL_UP);
    let mut failovers = Family::new(names::FAILOVERS);
    let mut lost = Family::new(names::LOST_BYTES);
    let mut last_lost = Family::new(names::LAST_LOST_BYTES);
    let mut restarts = Family::new(names::MASTER_RESTARTS);
    let mut holds = Family::new(names::HOLD_SECONDS);
    for service in services {
        let (name, status) = (&*service.name, service.status.borrow().clone());
        if let Some(address) = status.master {
            master.add(&[name, &address.to_string()], 1.0);
        }
        generation.add(&[name], status.generation as f64);
        epoch.add(&[name], status.config_epoch.unwrap_or(0) as f64);
        paused.add(&[name], flag(status.paused.is_some()));
        settled.add(&[name], flag(status.settled));
        restarts.add(&[name], status.run_id_changes_total as f64);
        for (traffic, flow, held_ms) in [
            ("reads", status.reads.flow, status.reads_held_ms_total),
            ("writes", status.writes.flow, status.writes_held_ms_total),
        ] {
            flowing.add(&[name, traffic], flag(flow == FlowWord::Flowing));
            holds.add(&[name, traffic], held_ms as f64 / 1e3);
        }
        // By address, for a series that appears twice makes Prometheus throw the whole scrape away.
        let mut up_by_sentinel = BTreeMap::new();
        for sentinel in &status.sentinels {
            *up_by_sentinel.entry(&sentinel.endpoint).or_insert(false) |= sentinel.up;
        }
        for (endpoint, up) in up_by_sentinel {
            sentinels.add(&[name, &endpoint.to_string()], flag(up));
        }
        lost.add(&[name], status.lost_bytes_total as f64);
        let (least, most) = status.last_loss.unwrap_or(OffsetLost::Exact(0)).bounds();
        last_lost.add(&[name, "at_least"], least as f64);
        last_lost.add(&[name, "at_most"], most.map_or(f64::INFINITY, |most| most as f64));
        for (kind, total) in &status.failovers_total {
            failovers.add(&[name, kind.label()], *total as f64);
        }
    }
    vec![master, generation, epoch, flowing, paused, settled, sentinels, failovers, lost, last_lost, restarts, holds]
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}
