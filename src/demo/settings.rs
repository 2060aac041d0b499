//! What a cluster is made of, and the configuration files that follow from it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::place::Place;

/// What to start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The master name.
    pub service: String,
    /// Replicas beside the one master.
    pub replicas: usize,
    /// Sentinels; with none there is no failover.
    pub sentinels: usize,
    /// Sentinels that must agree that the master is down.
    pub quorum: usize,
    /// `down-after-milliseconds`.
    pub down_after: Duration,
    /// `failover-timeout`.
    pub failover_timeout: Duration,
    /// `requirepass` and `masterauth` of every node; the Sentinels use it too.
    pub password: Option<String>,
    /// `requirepass` of every Sentinel.
    pub sentinel_password: Option<String>,
    /// TLS between all servers: their announced ports speak nothing else.
    pub tls: Option<TlsFiles>,
    /// More lines for every node's configuration, such as `user app on >secret ~* +@all`.
    pub redis_lines: Vec<String>,
    /// More lines for every Sentinel's configuration.
    pub sentinel_lines: Vec<String>,
    /// Where the nodes run, by turns where there are more nodes than places; none: all on the loopback interface.
    pub nodes_at: Vec<Place>,
    /// The same of the Sentinels.
    pub sentinels_at: Vec<Place>,
}

/// What servers with TLS have: each shows this certificate, and demands one of the same authority.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The authority.
    pub ca: PathBuf,
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// Configuration of a server, Redis or Sentinel, that listens at this port.
    pub(super) fn config(&self, port: u16) -> String {
        format!(
            "tls-port {port}\ntls-replication yes\ntls-ca-cert-file \"{}\"\ntls-cert-file \"{}\"\ntls-key-file \"{}\"\n",
            self.ca.display(),
            self.cert.display(),
            self.key.display(),
        )
    }
}

impl Default for Settings {
    /// Three nodes and three Sentinels, the smallest set-up that Sentinel's documentation calls robust.
    fn default() -> Self {
        Self {
            service: "mymaster".into(),
            replicas: 2,
            sentinels: 3,
            quorum: 2,
            down_after: Duration::from_secs(1),
            failover_timeout: Duration::from_secs(10),
            password: None,
            sentinel_password: None,
            tls: None,
            redis_lines: Vec::new(),
            sentinel_lines: Vec::new(),
            nodes_at: Vec::new(),
            sentinels_at: Vec::new(),
        }
    }
}

impl Settings {
    /// One Redis and no Sentinel.
    pub fn single() -> Self {
        Self { replicas: 0, sentinels: 0, ..Self::default() }
    }

    /// The place of the server with this index.
    pub(super) fn place(places: &[Place], i: usize) -> Place {
        places.get(i % places.len().max(1)).cloned().unwrap_or_default()
    }

    /// Configuration of a node: a replica of `master`, or without one a master.
    pub(super) fn node_config(&self, master: Option<SocketAddr>) -> String {
        // Without the delay that gathers several replicas into one full resync, a node follows at once.
        let mut config = String::from("save \"\"\nappendonly no\nrepl-diskless-sync yes\nrepl-diskless-sync-delay 0\n");
        if let Some(password) = &self.password {
            let _ = write!(config, "requirepass {password}\nmasterauth {password}\n");
        }
        if let Some(master) = master {
            let _ = writeln!(config, "replicaof {} {}", master.ip(), master.port());
        }
        config + &self.redis_lines.join("\n") + "\n"
    }

    /// Configuration of a Sentinel that begins with this master.
    pub(super) fn sentinel_config(&self, master: SocketAddr) -> String {
        let Settings { service, quorum, down_after, failover_timeout, .. } = self;
        let mut config = format!(
            "sentinel monitor {service} {} {} {quorum}\n\
             sentinel down-after-milliseconds {service} {}\n\
             sentinel failover-timeout {service} {}\n\
             sentinel parallel-syncs {service} 1\n",
            master.ip(),
            master.port(),
            down_after.as_millis(),
            failover_timeout.as_millis(),
        );
        if let Some(password) = &self.password {
            let _ = writeln!(config, "sentinel auth-pass {service} {password}");
        }
        if let Some(password) = &self.sentinel_password {
            let _ = write!(config, "requirepass {password}\nsentinel sentinel-pass {password}\n");
        }
        config + &self.sentinel_lines.join("\n") + "\n"
    }
}
