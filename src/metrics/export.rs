//! What the workers count, as metric families: summed over the workers at scrape time.

use super::names::{self, Metric};
use super::{
    ByWorker, CLOSE_REASONS, Counter, Family, LATENCY_CLASSES, LIMITS, PROXY_HEADERS, REJECTIONS, STAGES, ServiceStats,
    TLS_HANDSHAKES,
};
use crate::resp::CommandId;

/// Finds a counter in the counts of a service.
type Select = fn(&ServiceStats) -> &Counter;

/// The metrics that are one [`Counter`] per worker and service.
const PLAIN: &[(&Metric, Select)] = &[
    (names::CLIENTS, |s| &s.clients),
    (names::CLIENTS_ACCEPTED, |s| &s.clients_accepted),
    (names::CLIENT_RECEIVED_BYTES, |s| &s.client_received_bytes),
    (names::CLIENT_SENT_BYTES, |s| &s.client_sent_bytes),
    (names::COMMANDS_WAITING, |s| &s.commands_waiting),
    (names::COMMANDS_HELD, |s| &s.commands_held),
    (names::REPLIES_PARKED, |s| &s.replies_parked),
    (names::COMMANDS_RESENT, |s| &s.commands_resent),
    (names::COMMANDS_REFUSED, |s| &s.commands_refused),
    (names::COMMANDS_UNKNOWN, |s| &s.commands_unknown),
    (names::SCRIPTS_LOADED, |s| &s.scripts_loaded),
    (names::SCRIPTS_FORGOTTEN, |s| &s.scripts_forgotten),
    (names::BACKEND_CONNECTS, |s| &s.backend_connects),
    (names::BACKEND_CONNECT_FAILURES, |s| &s.backend_connect_failures),
    (names::BACKEND_DISCONNECTS, |s| &s.backend_disconnects),
    (names::BACKEND_PROTOCOL_ERRORS, |s| &s.backend_protocol_errors),
    (names::BACKEND_RECEIVED_BYTES, |s| &s.backend_received_bytes),
    (names::BACKEND_SENT_BYTES, |s| &s.backend_sent_bytes),
];

/// Label `role` of [`names::BACKEND_CONNECTIONS`].
const BACKEND_ROLES: [(&str, Select); 4] = [
    ("master", |s| &s.backend_shared_master),
    ("replica", |s| &s.backend_shared_replica),
    ("pinned", |s| &s.backend_pinned),
    ("judge", |s| &s.backend_judges),
];

/// All families that come from the workers, of these services. Every series of every service is there from the start,
/// but for the names of commands, which appear with the first command of that name.
pub fn worker_families<'a>(services: impl Iterator<Item = (&'a str, &'a ByWorker)>) -> Vec<Family> {
    let mut families: Vec<Family> = PLAIN.iter().map(|(metric, _)| Family::new(metric)).collect();
    let mut closed = Family::new(names::CLIENTS_CLOSED);
    let mut limits = Family::new(names::LIMIT_REACHED);
    let mut rejected = Family::new(names::CLIENTS_REJECTED);
    let mut handshakes = Family::new(names::TLS_HANDSHAKES);
    let mut headers = Family::new(names::PROXY_HEADERS);
    let mut backends = Family::new(names::BACKEND_CONNECTIONS);
    let mut hold_wait = Family::new(names::HOLD_WAIT_SECONDS);
    let mut commands = Family::new(names::COMMANDS);
    let mut durations = Family::new(names::COMMAND_DURATION);
    let mut slow = Family::new(names::SLOW_COMMANDS);

    for (name, stats) in services {
        for (family, (_, counter)) in families.iter_mut().zip(PLAIN) {
            family.add(&[name], stats.sum(counter) as f64);
        }
        for (i, reason) in CLOSE_REASONS.iter().enumerate() {
            closed.add(&[name, reason], stats.sum(|s| &s.clients_closed[i]) as f64);
        }
        for (i, limit) in LIMITS.iter().enumerate() {
            limits.add(&[name, limit], stats.sum(|s| &s.limits_reached[i]) as f64);
        }
        for (i, reason) in REJECTIONS.iter().enumerate() {
            rejected.add(&[name, reason], stats.sum(|s| &s.clients_rejected[i]) as f64);
        }
        for (i, outcome) in PROXY_HEADERS.iter().enumerate() {
            headers.add(&[name, outcome], stats.sum(|s| &s.proxy_headers[i]) as f64);
        }
        for (i, outcome) in TLS_HANDSHAKES.iter().enumerate() {
            handshakes.add(&[name, outcome], stats.sum(|s| &s.tls_handshakes[i]) as f64);
        }
        for (role, counter) in &BACKEND_ROLES {
            backends.add(&[name, role], stats.sum(counter) as f64);
        }
        hold_wait.add(&[name], stats.sum(|s| &s.hold_wait_ms) as f64 / 1e3);
        for id in CommandId::all() {
            let n = stats.sum(|s| &s.commands[id.index()]);
            if n > 0 || id == CommandId::OTHER {
                commands.add(&[name, id.info().name], n as f64);
            }
        }
        for (i, class) in LATENCY_CLASSES.iter().enumerate() {
            durations.add_histogram(&[name, class], stats.iter().map(|s| &s.latency[i]));
        }
        for (i, stage) in STAGES.iter().enumerate() {
            slow.add(&[name, stage], stats.sum(|s| &s.slow_commands[i]) as f64);
        }
    }
    families.extend([closed, rejected, limits, handshakes, headers, backends, hold_wait, commands, durations, slow]);
    families
}
