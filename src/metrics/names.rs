//! Every metric that pointsman exports, declared once: the code, `docs/metrics.md` and the tests all go by this table.

/// What a metric is to Prometheus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only ever goes up; ends in `_total` (`process_cpu_seconds_total` included).
    Counter,
    /// Goes up and down, or is 1 and carries strings in its labels (`_info`).
    Gauge,
    /// Buckets by [`super::BOUNDS`], sum and count.
    Histogram,
}

impl Kind {
    /// The word of the `# TYPE` line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The declaration of one metric.
#[derive(PartialEq, Eq, Debug)]
pub struct Metric {
    /// Full name, unit and `_total` included.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Names of its labels, in the order in which their values are given.
    pub labels: &'static [&'static str],
    /// The `# HELP` line: one sentence.
    pub help: &'static str,
}

/// Declares each metric as a constant of its own and all of them as [`ALL`], so that none can be forgotten there.
macro_rules! metrics {
    ($($id:ident = $kind:ident $name:literal [$($label:literal)*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $id: &Metric =
                &Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )*

        /// All metrics, in the order in which a scrape lists them.
        pub const ALL: &[&Metric] = &[$($id),*];
    };
}

metrics! {
    BUILD_INFO = Gauge "pointsman_build_info" ["version"]
        "Always 1; the label says which version runs.";
    DRAINING = Gauge "pointsman_draining" []
        "1 while pointsman takes no new clients and lets those it has finish, else 0.";

    RELOADS = Counter "pointsman_config_reloads_total" ["result"]
        "Times that the configuration was read again while running; a failure changed nothing.";
    LAST_RELOAD_SUCCESSFUL = Gauge "pointsman_config_last_reload_successful" []
        "1 if the configuration was in order when it was read last, else 0.";
    LAST_RELOAD_SUCCESS_TIMESTAMP = Gauge "pointsman_config_last_reload_success_timestamp_seconds" []
        "Unix time at which the configuration in force was read.";

    ADMIN_REFUSED = Counter "pointsman_admin_requests_refused_total" ["reason"]
        "Requests to the admin server, or connections for them, that were turned away.";

    CLIENTS = Gauge "pointsman_clients" ["service"]
        "Clients connected now.";
    CLIENTS_MAX = Gauge "pointsman_clients_max" ["service"]
        "Clients that may be connected (limits.max_clients).";
    CLIENTS_ACCEPTED = Counter "pointsman_clients_accepted_total" ["service"]
        "Client connections accepted.";
    CLIENTS_REJECTED = Counter "pointsman_clients_rejected_total" ["service" "reason"]
        "Client connections that were not let in, by why.";
    CLIENTS_CLOSED = Counter "pointsman_clients_closed_total" ["service" "reason"]
        "Client connections that ended, by why.";
    LIMIT_REACHED = Counter "pointsman_limit_reached_total" ["service" "limit"]
        "Times that a client reached a limit, by which.";
    TLS_HANDSHAKES = Counter "pointsman_tls_handshakes_total" ["service" "outcome"]
        "TLS handshakes of clients, by what became of them.";
    TLS_CERTIFICATE_EXPIRY = Gauge "pointsman_tls_certificate_expiry_timestamp_seconds" ["service" "leg" "file" "subject"]
        "When a certificate in use expires, in seconds since the Unix epoch.";
    PROXY_HEADERS = Counter "pointsman_proxy_headers_total" ["service" "outcome"]
        "PROXY headers that came or should have come, by what became of them.";
    CLIENT_RECEIVED_BYTES = Counter "pointsman_client_received_bytes_total" ["service"]
        "Bytes read from clients.";
    CLIENT_SENT_BYTES = Counter "pointsman_client_sent_bytes_total" ["service"]
        "Bytes written to clients.";

    COMMANDS = Counter "pointsman_commands_total" ["service" "command"]
        "Commands received, by name; those not in the command table count as other.";
    COMMAND_DURATION = Histogram "pointsman_command_duration_seconds" ["service" "class"]
        "Time from queueing a command for a backend to handing its reply to the client's socket.";
    SLOW_COMMANDS = Counter "pointsman_slow_commands_total" ["service" "stage"]
        "Commands that took longer than slowlog_slower_than, by where they spent most of that time.";
    COMMANDS_WAITING = Gauge "pointsman_commands_waiting" ["service"]
        "Commands waiting now because their kind of traffic does not flow.";
    COMMANDS_HELD = Counter "pointsman_commands_held_total" ["service"]
        "Commands that had to wait because their kind of traffic did not flow.";
    HOLD_WAIT_SECONDS = Counter "pointsman_hold_wait_seconds_total" ["service"]
        "Time that commands waited in holds, summed over the clients that waited.";
    REPLIES_PARKED = Counter "pointsman_replies_parked_total" ["service"]
        "Replies kept back until it was known that what they tell survives the failover.";
    COMMANDS_RESENT = Counter "pointsman_commands_resent_total" ["service"]
        "Commands sent again after a lost connection or a refusal, none of which can have run twice.";
    COMMANDS_REFUSED = Counter "pointsman_commands_refused_total" ["service"]
        "Commands answered with an error because waiting took too long, or writes are fenced; none of them ran.";
    COMMANDS_UNKNOWN = Counter "pointsman_commands_unknown_outcome_total" ["service"]
        "Writes sent to a backend that was lost before it answered; their clients were closed.";
    SCRIPTS_LOADED = Counter "pointsman_scripts_loaded_total" ["service"]
        "Scripts of clients loaded into a server that did not have them: a new master, or one that restarted.";
    SCRIPTS_FORGOTTEN = Counter "pointsman_scripts_forgotten_total" ["service"]
        "Scripts of clients forgotten because more were seen than are remembered.";

    BACKEND_CONNECTIONS = Gauge "pointsman_backend_connections" ["service" "role"]
        "Backend connections open now: shared to the master, shared to a replica, pinned, or for judgements.";
    BACKEND_PINNED_MAX = Gauge "pointsman_backend_pinned_max" ["service"]
        "Backend connections that may belong to single clients (limits.pinned of every worker).";
    BACKEND_CONNECTS = Counter "pointsman_backend_connects_total" ["service"]
        "Backend connections opened, handshake included.";
    BACKEND_CONNECT_FAILURES = Counter "pointsman_backend_connect_failures_total" ["service"]
        "Attempts to open a backend connection that failed.";
    BACKEND_DISCONNECTS = Counter "pointsman_backend_disconnects_total" ["service"]
        "Backend connections lost or closed.";
    BACKEND_PROTOCOL_ERRORS = Counter "pointsman_backend_protocol_errors_total" ["service"]
        "Backend connections closed because what arrived on them was not RESP.";
    BACKEND_RECEIVED_BYTES = Counter "pointsman_backend_received_bytes_total" ["service"]
        "Bytes read from backends.";
    BACKEND_SENT_BYTES = Counter "pointsman_backend_sent_bytes_total" ["service"]
        "Bytes written to backends.";

    MASTER_INFO = Gauge "pointsman_master_info" ["service" "address"]
        "Always 1; the label is the confirmed master. Absent while none was ever confirmed.";
    GENERATION = Gauge "pointsman_generation" ["service"]
        "How many times the confirmed master has changed since the start; 0 before the first.";
    CONFIG_EPOCH = Gauge "pointsman_config_epoch" ["service"]
        "Sentinel's own number of the configuration in which the master was confirmed.";
    FLOWING = Gauge "pointsman_flowing" ["service" "traffic"]
        "1 while this kind of traffic flows to a node, 0 while it is held, refused or paused.";
    PAUSED = Gauge "pointsman_paused" ["service"]
        "1 while an operator has the service's commands wait (`pointsman pause`), else 0.";
    SETTLED = Gauge "pointsman_settled" ["service"]
        "1 while every reachable node says that it is a replica of the master and every Sentinel in hearing has noticed, else 0.";
    SENTINEL_UP = Gauge "pointsman_sentinel_up" ["service" "sentinel"]
        "1 while this Sentinel is subscribed to and answers, else 0.";
    FAILOVERS = Counter "pointsman_failovers_total" ["service" "kind"]
        "Failovers, and holds that ended without one, by kind.";
    LOST_BYTES = Counter "pointsman_failover_lost_bytes_total" ["service"]
        "Bytes of the replication stream that failovers are known to have lost.";
    LAST_LOST_BYTES = Gauge "pointsman_last_failover_lost_bytes" ["service" "bound"]
        "Bytes of the replication stream that the last failover lost, at_least and at_most; +Inf where nobody can tell.";
    MASTER_RESTARTS = Counter "pointsman_master_restarts_total" ["service"]
        "Times the master came back under the same address as a new process: its data may be gone.";
    HOLD_SECONDS = Counter "pointsman_hold_seconds_total" ["service" "traffic"]
        "Time during which this kind of traffic did not flow, counted from the first confirmed master on.";

    HOOK_DELIVERIES = Counter "pointsman_hook_deliveries_total" ["hook" "result"]
        "Events that a hook was told, could not be told, or was not told since too many waited.";
    HOOK_RETRIES = Counter "pointsman_hook_retries_total" ["hook"]
        "Times that a hook was told anew what it could not be told before.";
    HOOK_EVENTS_WAITING = Gauge "pointsman_hook_events_waiting" ["hook"]
        "Events that a hook is still to be told, the one that is under way included.";

    PROCESS_CPU_SECONDS = Counter "process_cpu_seconds_total" []
        "Total user and system CPU time spent in seconds.";
    PROCESS_OPEN_FDS = Gauge "process_open_fds" []
        "Number of open file descriptors.";
    PROCESS_MAX_FDS = Gauge "process_max_fds" []
        "Maximum number of open file descriptors.";
    PROCESS_VIRTUAL_MEMORY_BYTES = Gauge "process_virtual_memory_bytes" []
        "Virtual memory size in bytes.";
    PROCESS_RESIDENT_MEMORY_BYTES = Gauge "process_resident_memory_bytes" []
        "Resident memory size in bytes.";
    PROCESS_START_TIME_SECONDS = Gauge "process_start_time_seconds" []
        "Start time of the process since unix epoch in seconds.";
    PROCESS_THREADS = Gauge "process_threads" []
        "Number of OS threads in the process.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        let mut seen = HashSet::new();
        for m in ALL {
            assert!(seen.insert(m.name), "{} is declared twice", m.name);
            assert!(m.name.starts_with("pointsman_") || m.name.starts_with("process_"), "{}", m.name);
            assert_eq!(m.name.ends_with("_total"), m.kind == Kind::Counter, "{}", m.name);
            assert!(m.help.ends_with('.'), "{}", m.name);
        }
    }
}
