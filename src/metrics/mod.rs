//! What is counted. Each worker counts into [`ServiceStats`] of its own; a scrape sums them. Nothing on the hot path is shared:
//! each counter has one writing thread, so adding is a plain load and store, and readers on other threads see it soon.

pub mod export;
mod family;
mod histogram;
mod hooks;
pub mod names;
pub mod process;

pub use family::Family;
pub use histogram::{BOUNDS, Histogram};
pub use hooks::{HookCounts, HookStats, NamedStats};

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::resp::COMMAND_COUNT;

/// A count with one writing thread.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call it: load and store, no read-modify-write.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes `n` away (for gauges). Only the owning thread may call it.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// It is this now (for gauges that are looked up rather than kept). Only the owning thread may call it.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value, from any thread.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Why a client connection ended; label `reason`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum CloseReason {
    /// The client closed or reset it, or said QUIT.
    Client,
    /// The same before it had sent anything.
    NoData,
    /// The PROXY header that was expected did not come, or one that was not.
    ProxyHeader,
    /// The TLS handshake came to nothing.
    TlsHandshake,
    /// It may not connect: its address is not allowed, or has too many connections.
    Rejected,
    /// Malformed RESP from the client.
    ProtocolError,
    /// The client did not take its replies.
    OutputLimit,
    /// A write was written to a backend that was lost before it answered.
    UnknownOutcome,
    /// Connection state (a pinned connection) was lost with its backend.
    StateLost,
    /// pointsman is draining.
    Drain,
    /// Another client closed it (`CLIENT KILL`).
    Killed,
    /// It was silent for longer than `client_idle_timeout`.
    Idle,
    /// A bug was caught; the connection is dropped rather than shifted by one reply.
    Internal,
}

/// Label values of [`CloseReason`], in its order.
pub const CLOSE_REASONS: [&str; 13] = [
    "client",
    "no_data",
    "proxy_header",
    "tls_handshake",
    "rejected",
    "protocol_error",
    "output_limit",
    "unknown_outcome",
    "state_lost",
    "drain",
    "killed",
    "idle",
    "internal",
];

/// A limit that a client can reach; label `limit`. Those of the configuration have the names of their keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Limit {
    /// A client was refused.
    MaxClients,
    /// The same for the number of clients with one address.
    MaxClientsPerAddress,
    /// Clients had to wait before they were accepted.
    AcceptRate,
    /// What a client has to send before its first command did not come in time.
    HandshakeTimeout,
    /// A client was read no further until replies came: bytes.
    OutstandingBytes,
    /// The same: 1024 commands.
    OutstandingCommands,
    /// Replies that a client did not take, or that could not be handed to it yet, held up others.
    OutputBytes,
    /// A command waited for a connection of its own.
    Pinned,
    /// It waited in vain.
    PinTimeout,
    /// A client announced a larger string.
    BulkBytes,
    /// A command that has to be kept whole was larger.
    CommandBytes,
}

/// Label values of [`Limit`], in its order.
pub const LIMITS: [&str; 11] = [
    "max_clients",
    "max_clients_per_address",
    "accept_rate",
    "handshake_timeout",
    "outstanding_bytes",
    "outstanding_commands",
    "output_bytes",
    "pinned",
    "pin_timeout",
    "bulk_bytes",
    "command_bytes",
];

/// Why a client was not let in; label `reason`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Rejection {
    /// There were `max_clients`.
    MaxClients,
    /// There were `max_clients_per_address` of its address.
    PerAddress,
    /// Its address is in none of the networks of `allow`.
    NotAllowed,
}

/// Label values of [`Rejection`], in its order.
pub const REJECTIONS: [&str; 3] = ["max_clients", "max_clients_per_address", "allow"];

/// What became of a PROXY header; label `outcome`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum ProxyHeader {
    /// It named a client.
    Client,
    /// It named none: the balancer's own connection.
    Local,
    /// Something else came from where one was expected.
    Missing,
    /// It was malformed, or ended before its end.
    Malformed,
    /// It did not come in time.
    Timeout,
    /// It came from where none is believed.
    Untrusted,
}

/// Label values of [`ProxyHeader`], in its order.
pub const PROXY_HEADERS: [&str; 6] = ["client", "local", "missing", "malformed", "timeout", "untrusted"];

/// How a client's TLS handshake ended; label `outcome`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum TlsHandshake {
    /// The client is served.
    Done,
    /// What came is not TLS.
    Plain,
    /// The client showed no certificate where one is demanded.
    NoCertificate,
    /// The client's certificate is not good, or ours is not to the client.
    Certificate,
    /// Another fault of TLS: nothing in common, above all.
    Failed,
    /// The client went away.
    Closed,
    /// It took too long.
    Timeout,
    /// It began at a listener that does not speak TLS.
    Unexpected,
}

/// Label values of [`TlsHandshake`], in its order.
pub const TLS_HANDSHAKES: [&str; 8] =
    ["done", "plain", "no_certificate", "certificate", "failed", "closed", "timeout", "unexpected"];

/// Class of a command for latency; label `class`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum LatencyClass {
    /// Commands flagged `readonly`, on a shared connection.
    Read,
    /// All others on a shared connection.
    Write,
    /// On a pinned connection: transactions, blocking, pub/sub and the like.
    Pinned,
}

/// Label values of [`LatencyClass`], in its order.
pub const LATENCY_CLASSES: [&str; 3] = ["read", "write", "pinned"];

/// Where a slow command spent most of its time; label `stage`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Stage {
    /// It waited for a master that might be given it, or its reply for the news that what it tells survives.
    Hold,
    /// It waited for a connection, or on one for its turn.
    Queue,
    /// The server had it, and had answered everything before it on that connection.
    Backend,
}

/// Label values of [`Stage`], in its order.
pub const STAGES: [&str; 3] = ["hold", "queue", "backend"];

/// One worker's counts for one service, aligned so that two workers never write to one cache line.
#[derive(Debug)]
#[repr(align(128))]
pub struct ServiceStats {
    /// Clients connected now.
    pub clients: Counter,
    /// Clients accepted.
    pub clients_accepted: Counter,
    /// Clients refused, by [`Rejection`].
    pub clients_rejected: [Counter; REJECTIONS.len()],
    /// Clients gone, by [`CloseReason`].
    pub clients_closed: [Counter; CLOSE_REASONS.len()],
    /// Times that a [`Limit`] was reached.
    pub limits_reached: [Counter; LIMITS.len()],
    /// PROXY headers, by [`ProxyHeader`].
    pub proxy_headers: [Counter; PROXY_HEADERS.len()],
    /// Clients' TLS handshakes, by [`TlsHandshake`].
    pub tls_handshakes: [Counter; TLS_HANDSHAKES.len()],
    /// Bytes read from clients.
    pub client_received_bytes: Counter,
    /// Bytes written to clients.
    pub client_sent_bytes: Counter,
    /// Commands received, by index in the command table.
    pub commands: Box<[Counter; COMMAND_COUNT]>,
    /// Commands received that are waiting because their kind does not flow.
    pub commands_waiting: Counter,
    /// Commands that had to wait because their kind did not flow.
    pub commands_held: Counter,
    /// Replies to writes that were parked.
    pub replies_parked: Counter,
    /// Commands sent again after a lost connection or a refusal.
    pub commands_resent: Counter,
    /// Commands answered with an error of pointsman's because waiting took too long.
    pub commands_refused: Counter,
    /// Writes whose outcome is unknown; their clients were closed.
    pub commands_unknown: Counter,
    /// Scripts loaded into a server that did not have them.
    pub scripts_loaded: Counter,
    /// Scripts forgotten to make room for others.
    pub scripts_forgotten: Counter,
    /// Seconds that traffic waited, summed over the holds that sessions saw, in milliseconds.
    pub hold_wait_ms: Counter,
    /// Commands slower than `slowlog_slower_than`, by [`Stage`].
    pub slow_commands: [Counter; STAGES.len()],
    /// From "queued to a backend" to "reply handed to the client's socket", by [`LatencyClass`].
    pub latency: [Histogram; LATENCY_CLASSES.len()],
    /// Shared backend connections open now to the node that writes go to.
    pub backend_shared_master: Counter,
    /// Shared backend connections open now to another node.
    pub backend_shared_replica: Counter,
    /// Pinned (and idle, once pinned) backend connections open now.
    pub backend_pinned: Counter,
    /// Of `backend_pinned`, those that no client has; as of the worker's last tick, like the two that follow.
    pub backend_free: Counter,
    /// Backend connections that are being dialled.
    pub backend_dialing: Counter,
    /// Clients that wait for a backend connection of their own.
    pub backend_queued: Counter,
    /// Backend connections open now on which backends judge clients.
    pub backend_judges: Counter,
    /// Backend connects that succeeded (handshake included).
    pub backend_connects: Counter,
    /// Backend connects that failed.
    pub backend_connect_failures: Counter,
    /// Backend connections lost or closed.
    pub backend_disconnects: Counter,
    /// Backend connections closed because of malformed RESP.
    pub backend_protocol_errors: Counter,
    /// Bytes read from backends.
    pub backend_received_bytes: Counter,
    /// Bytes written to backends.
    pub backend_sent_bytes: Counter,
}

impl Default for ServiceStats {
    fn default() -> Self {
        Self {
            clients: Counter::default(),
            clients_accepted: Counter::default(),
            clients_rejected: Default::default(),
            clients_closed: Default::default(),
            limits_reached: Default::default(),
            proxy_headers: Default::default(),
            tls_handshakes: Default::default(),
            client_received_bytes: Counter::default(),
            client_sent_bytes: Counter::default(),
            commands: Box::new(std::array::from_fn(|_| Counter::default())),
            commands_waiting: Counter::default(),
            commands_held: Counter::default(),
            replies_parked: Counter::default(),
            commands_resent: Counter::default(),
            commands_refused: Counter::default(),
            commands_unknown: Counter::default(),
            scripts_loaded: Counter::default(),
            scripts_forgotten: Counter::default(),
            hold_wait_ms: Counter::default(),
            slow_commands: Default::default(),
            latency: Default::default(),
            backend_shared_master: Counter::default(),
            backend_shared_replica: Counter::default(),
            backend_pinned: Counter::default(),
            backend_free: Counter::default(),
            backend_dialing: Counter::default(),
            backend_queued: Counter::default(),
            backend_judges: Counter::default(),
            backend_connects: Counter::default(),
            backend_connect_failures: Counter::default(),
            backend_disconnects: Counter::default(),
            backend_protocol_errors: Counter::default(),
            backend_received_bytes: Counter::default(),
            backend_sent_bytes: Counter::default(),
        }
    }
}

impl ServiceStats {
    /// Counts that a limit was reached.
    pub fn reached(&self, limit: Limit) {
        self.limits_reached[limit as usize].add(1);
    }

    /// Counts a client that was not let in.
    pub fn rejected(&self, why: Rejection) {
        self.clients_rejected[why as usize].add(1);
        match why {
            Rejection::MaxClients => self.reached(Limit::MaxClients),
            Rejection::PerAddress => self.reached(Limit::MaxClientsPerAddress),
            Rejection::NotAllowed => {}
        }
    }

    /// Counts a PROXY header.
    pub fn proxied(&self, outcome: ProxyHeader) {
        self.proxy_headers[outcome as usize].add(1);
    }

    /// Counts a client's TLS handshake.
    pub fn shaken(&self, outcome: TlsHandshake) {
        self.tls_handshakes[outcome as usize].add(1);
    }
}

/// The counts of one service, by worker.
#[derive(Clone, Debug)]
pub struct ByWorker(Arc<[Arc<ServiceStats>]>);

impl ByWorker {
    /// Zeroes for so many workers.
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Arc::default()).collect())
    }

    /// One counter over all workers.
    pub fn sum(&self, counter: impl Fn(&ServiceStats) -> &Counter) -> u64 {
        self.0.iter().map(|stats| counter(stats).value()).sum()
    }
}

impl Deref for ByWorker {
    type Target = [Arc<ServiceStats>];
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
