//! The typed configuration: every value that exists is valid.
//!
//! The way to it: flags or a TOML file become [`Settings`] (what was given, and where), and [`Settings::resolve`] adds
//! the environment and the defaults, checks what is only wrong in combination, and gives a [`Config`].

mod admin;
mod credentials;
mod difference;
mod error;
mod file;
mod hook;
mod keys;
mod listener;
mod resolve;
mod settings;
mod tls;
mod values;

pub use admin::{AdminAccess, token_of};
pub use credentials::Environment;
pub use error::{Place, Problem, Problems};
pub use file::load;
pub use hook::{HOOK_EVENTS, HookAction, HookConfig, HookEvent, Program, Webhook, WebhookUrl};
pub use keys::{KEYS, Key, Table};
pub use listener::{FileAccess, ListenerConfig};
pub(crate) use resolve::FAILOVER_AFTER_DETECTION;
pub use resolve::{Resolved, overlap};
pub use settings::{
    Given, GivenAdmin, GivenCredentials, GivenHook, GivenLimits, GivenListener, GivenService, GivenTls, Settings,
};
pub use values::{
    AUTO_WORKERS, CLIENT_AUTH, CLIENT_CERT, COMMIT, LOG_FORMAT, VERIFY, duration, endpoint, listen_addr, log_level,
    workers,
};

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::addr::{AddressMap, Endpoint};
use crate::tls::Outgoing;

/// Everything pointsman was told, by file, flags and environment.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Worker threads.
    pub workers: usize,
    /// The admin HTTP server.
    pub admin: AdminConfig,
    /// How log lines look.
    pub log: LogConfig,
    /// How long a drain may take before what is left is closed.
    pub drain_timeout: Duration,
    /// How long of that the clients go on as before, while nobody new can connect.
    pub drain_grace: Duration,
    /// Unix socket at which a successor is given the listening sockets; none: it is not.
    pub takeover: Option<PathBuf>,
    /// Whom the process runs as, if root starts it; none: whoever starts it.
    pub user: Option<Account>,
    /// Name servers to ask; none: those of the system.
    pub resolvers: Vec<SocketAddr>,
    /// The services, at least one, names unique.
    pub services: Vec<ServiceConfig>,
    /// Who is told of failovers, names unique.
    pub hooks: Vec<HookConfig>,
}

/// A user of this machine that is not root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// Its name, by which its groups are found.
    pub name: String,
    /// Its number.
    pub user: u32,
    /// That of its own group.
    pub group: u32,
}

/// The admin HTTP server: where it is, and who may use it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct AdminConfig {
    /// Where it listens; nowhere: it is not served.
    pub listen: Vec<ListenerConfig>,
    /// What whoever changes something has to show; none: that has to come from this machine.
    pub token: Option<Secret>,
    /// Whether whoever only reads has to show it too.
    pub token_for_reads: bool,
}

impl AdminConfig {
    /// Whether sockets opened as this says are as `other` wants them.
    pub fn is_opened_like(&self, other: &Self) -> bool {
        let pairs = self.listen.iter().zip(&other.listen);
        self.listen.len() == other.listen.len() && pairs.into_iter().all(|(one, other)| one.is_opened_like(other))
    }
}

/// How log lines look.
#[derive(Clone, PartialEq, Debug)]
pub struct LogConfig {
    /// Levels, for all and by module path: `info`, or `pointsman::sentinel=debug,info`.
    pub level: String,
    /// Layout of a line.
    pub format: LogFormat,
}

/// Layout of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people: coloured on a terminal, without timestamps where journald adds its own.
    Text,
    /// One JSON object a line.
    Json,
}

/// One service: what Sentinel monitors under one master name, and the addresses clients reach it at.
#[derive(Clone, PartialEq, Debug)]
pub struct ServiceConfig {
    /// The master name as the Sentinels know it; for a static service any name.
    pub name: String,
    /// Where clients connect.
    pub listen: Vec<ListenerConfig>,
    /// Who connects there.
    pub shape: Shape,
    /// How the master is found.
    pub source: Source,
    /// pointsman's own user at the backends: role probes, and with [`ClientAuth::Inject`] the clients' commands.
    pub backend: Option<Credentials>,
    /// Whose identity a client has before it says AUTH.
    pub client_auth: ClientAuth,
    /// When a promotion counts.
    pub commit: Commit,
    /// Longest wait of a held command; 0 refuses at once.
    pub hold_timeout: Duration,
    /// Longest wait for a second Sentinel in a confirmed commit, and for the confirmation of an eager one.
    pub confirm_timeout: Duration,
    /// Oldest command in flight for longer than this, and an unanswered PING: the master is silent.
    pub silence_threshold: Duration,
    /// Longest time for connect and handshake with a backend or Sentinel.
    pub connect_timeout: Duration,
    /// A client that is silent for longer than this, and waits for nothing, is closed; 0: none is.
    pub client_idle_timeout: Duration,
    /// Where servers are dialled that cannot be reached as they are announced.
    pub address_map: AddressMap,
    /// TLS towards the Redis servers; none: plain TCP.
    pub backend_tls: Option<Arc<Outgoing>>,
    /// TLS towards the Sentinels; none: plain TCP.
    pub sentinel_tls: Option<Arc<Outgoing>>,
    /// Whether BLPOP, BRPOP, BZPOP* and XREAD are issued again after a failover without proof that nothing was popped.
    pub reissue_pops: bool,
    /// Whether writes are refused while no majority of the Sentinels is in hearing.
    pub fence_without_quorum: bool,
    /// Whether the old master is made a replica as soon as another one is confirmed.
    pub fence_old_master: bool,
    /// Where the confirmed master is remembered for a start without Sentinels; none: it is not.
    pub state_file: Option<PathBuf>,
    /// Which commands are noted as slow.
    pub slowlog: SlowLogConfig,
    /// Commands that are not forwarded, each with or without a subcommand, in upper case: `DEBUG`, `CLIENT PAUSE`.
    pub refuse: Vec<String>,
    /// Limits.
    pub limits: Limits,
}

/// Which commands are noted as slow, and what of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlowLogConfig {
    /// Those that take longer, waiting included; none: nothing is noted.
    pub slower_than: Option<Duration>,
    /// How many are kept of each kind.
    pub max_len: usize,
    /// Bytes of a command's key that are kept.
    pub key_bytes: usize,
}

impl Default for SlowLogConfig {
    fn default() -> Self {
        Self { slower_than: Some(Duration::from_millis(100)), max_len: 128, key_bytes: 32 }
    }
}

/// Bounds, each with a clear outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Clients of this service over all workers; one more is told so and closed.
    pub max_clients: usize,
    /// The same for one client address; none: no limit but that.
    pub max_clients_per_address: Option<usize>,
    /// Connections accepted in a second; more wait in the kernel. None: no limit.
    pub accept_rate: Option<u32>,
    /// Longest time for what a client has to send before its first command, such as a PROXY header.
    pub handshake_timeout: Duration,
    /// Bytes of commands one client may have outstanding on a shared connection before pointsman stops reading from it.
    pub outstanding_bytes: usize,
    /// Bytes of replies that may wait for a client; beyond, one that holds up others is closed.
    pub output_bytes: usize,
    /// Pinned backend connections of one worker; at the limit a command waits `pin_timeout`, then gets `-TRYAGAIN`.
    pub pinned: usize,
    /// Longest wait for a pinned connection.
    pub pin_timeout: Duration,
    /// Largest bulk string accepted from a client, as Redis' `proto-max-bulk-len`.
    pub bulk_bytes: usize,
    /// Largest command of those that are kept whole, since they are not passed on while they come in; larger ones are
    /// refused.
    pub command_bytes: usize,
}

/// Refused by default: what moves the master behind Sentinel's back, stops or stalls the server for everybody, loads
/// code into it, or turns the connection into a replica's or a debugger's.
const REFUSE: &[&str] = &[
    "CLIENT PAUSE",
    "CLIENT UNPAUSE",
    "DEBUG",
    "FAILOVER",
    "MODULE",
    "PSYNC",
    "REPLCONF",
    "REPLICAOF",
    "SCRIPT DEBUG",
    "SHUTDOWN",
    "SLAVEOF",
    "SYNC",
];

impl ServiceConfig {
    /// A service with every other key at its default.
    pub fn new(name: impl Into<String>, listen: Vec<ListenerConfig>, source: Source) -> Self {
        Self {
            name: name.into(),
            listen,
            shape: Shape::Sidecar,
            source,
            backend: None,
            client_auth: ClientAuth::Passthrough,
            commit: Commit::Confirmed,
            hold_timeout: Duration::from_secs(15),
            confirm_timeout: Duration::from_secs(5),
            silence_threshold: Duration::from_millis(300),
            connect_timeout: Duration::from_secs(2),
            client_idle_timeout: Duration::ZERO,
            address_map: AddressMap::default(),
            backend_tls: None,
            sentinel_tls: None,
            reissue_pops: true,
            fence_without_quorum: false,
            fence_old_master: false,
            state_file: None,
            slowlog: SlowLogConfig::default(),
            refuse: REFUSE.iter().map(|c| (*c).to_owned()).collect(),
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_clients: 10_000,
            max_clients_per_address: None,
            accept_rate: None,
            handshake_timeout: Duration::from_secs(3),
            outstanding_bytes: 1 << 20,
            output_bytes: 64 << 20,
            pinned: 2_000,
            pin_timeout: Duration::from_secs(5),
            bulk_bytes: 512 << 20,
            command_bytes: 16 << 20,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

/// How a service's master is found.
#[derive(Clone, PartialEq, Debug)]
pub enum Source {
    /// Ask the Sentinels.
    Sentinels {
        /// The configured ones; others are learned from them.
        endpoints: Vec<Endpoint>,
        /// User and password at the Sentinels.
        credentials: Option<Credentials>,
    },
    /// One fixed master and no failover.
    Static(Endpoint),
}

/// A user and its password.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Credentials {
    /// ACL user; none: the `default` user (AUTH with one argument). That of a client may be any bytes.
    pub user: Option<Vec<u8>>,
    /// The password.
    pub password: Secret,
}

/// A secret, never printed. Those of clients may be any bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Wraps a secret.
    pub fn new(s: impl Into<Vec<u8>>) -> Self {
        Self(s.into())
    }

    /// The secret itself, for the wire.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Whose identity a client has before it says AUTH.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAuth {
    /// Its own: none until it authenticates; the backend judges.
    Passthrough,
    /// pointsman's backend user.
    Inject,
}

/// Who connects, and so what it means that a port is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Programs on this machine, who are better off waiting than refused.
    Sidecar,
    /// A balancer, which sends clients elsewhere when it is refused.
    Central,
}

/// When a promotion counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Commit {
    /// When two Sentinels (or the only one there is) name the new master and its ROLE agrees.
    Confirmed,
    /// When the candidate selected in this failover says that it is master.
    Eager,
}

/// Path of the configuration file, kept for reload and messages.
#[derive(Clone, Debug)]
pub struct ConfigPath(pub PathBuf);
