//! One server process of a cluster: its start, its connections, what it says of the others.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{fs, io};

use tokio::time::{Instant, sleep};

use super::place::Place;
use super::process::{Process, Supervisor, find_program};
use super::wire::{Connection, Reply, elements, fields, info_field};

/// Longest wait for a server to answer after its start, and for a cluster to have found itself.
pub(super) const START_LIMIT: Duration = Duration::from_secs(30);
/// Longest wait for one answer: a paused server must not stop those who ask the others.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Ports to choose from: below Linux' ephemeral range (32768 and up), so that no outgoing connection can take the port
/// of a server that is down for a restart.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// Why the cluster is not as asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A program is missing.
    #[error("{0} is not installed")]
    NotInstalled(&'static str),
    /// A server ended or did not answer; the last lines of its log.
    #[error("{program} did not start:\n{log}")]
    NotStarted {
        /// Which.
        program: &'static str,
        /// The end of its log.
        log: String,
    },
    /// What was waited for did not come; the last thing in its way.
    #[error("not reached within {within:?}: {obstacle}")]
    TimedOut {
        /// The limit.
        within: Duration,
        /// What was still missing.
        obstacle: String,
    },
    /// A Sentinel or node refused.
    #[error("{0}")]
    Refused(String),
    /// The operating system refused, or a server did not answer.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) program: &'static str,
    pub(super) place: Place,
    /// Where the others find it.
    pub(super) addr: SocketAddr,
    /// Where it is asked: without TLS.
    pub(super) ask_at: SocketAddr,
    pub(super) dir: PathBuf,
    pub(super) password: Option<String>,
    pub(super) process: Option<Process>,
    pub(super) paused: bool,
}

/// What a Sentinel says of the service.
#[derive(Debug)]
pub(super) struct SentinelView {
    pub(super) master: Option<SocketAddr>,
    pub(super) flags: String,
    pub(super) good_replicas: usize,
    pub(super) good_sentinels: usize,
}

impl Server {
    pub(super) fn is_running(&self) -> bool {
        self.process.is_some() && !self.paused
    }

    pub(super) async fn connect(&self) -> io::Result<Connection> {
        Connection::open_with(self.ask_at, self.password.as_deref(), ANSWER_LIMIT).await
    }

    pub(super) async fn ask(&self, command: &[&str]) -> io::Result<Reply> {
        self.connect().await?.call(command, ANSWER_LIMIT).await
    }

    /// Starts the process and waits until *it* answers at its address (not a stranger who has the port).
    pub(super) async fn launch(&self, supervisor: &Supervisor) -> Result<Process, ClusterError> {
        if find_program(Path::new(self.program)).is_none() {
            return Err(ClusterError::NotInstalled(self.program));
        }
        let log = self.dir.join("log");
        let output = fs::File::options().create(true).append(true).open(&log)?;
        let (program, args) = self.place.command(Path::new(self.program), vec![self.dir.join("redis.conf").into()]);
        let mut process = supervisor.spawn(&program, args, Some(output))?;
        let end = Instant::now() + START_LIMIT;
        loop {
            let answer = self.ask(&["INFO", "server"]).await;
            if answer.is_ok_and(|info| info_field(&info, "process_id") == Some(process.id().to_string())) {
                return Ok(process);
            }
            if process.ended()?.is_some() || Instant::now() >= end {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let last: Vec<&str> = text.lines().rev().take(5).collect();
                return Err(ClusterError::NotStarted {
                    program: self.program,
                    log: last.into_iter().rev().collect::<Vec<_>>().join("\n"),
                });
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn view(&self, service: &str) -> io::Result<SentinelView> {
        let mut connection = self.connect().await?;
        let master = fields(&connection.call(&["SENTINEL", "MASTER", service], ANSWER_LIMIT).await?);
        let replicas = connection.call(&["SENTINEL", "REPLICAS", service], ANSWER_LIMIT).await?;
        let sentinels = connection.call(&["SENTINEL", "SENTINELS", service], ANSWER_LIMIT).await?;
        let is_good = |reply: &&Reply, flags: &str| {
            let entry = fields(reply);
            let says = |key: &str, value: &str| entry.get(key).is_none_or(|v| v == value);
            // Only replicas have the last two.
            says("flags", flags) && says("master-link-status", "ok") && says("role-reported", flags)
        };
        Ok(SentinelView {
            master: master
                .get("ip")
                .zip(master.get("port"))
                .and_then(|(ip, port)| Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))),
            flags: master.get("flags").cloned().unwrap_or_default(),
            good_replicas: elements(&replicas).iter().filter(|r| is_good(r, "slave")).count(),
            good_sentinels: elements(&sentinels).iter().filter(|r| is_good(r, "sentinel")).count(),
        })
    }
}

/// A loopback TCP port that nobody listens on right now, and that was not given out before: who asks for several, or at the
/// same time as others, would be given one twice before anybody listens on it.
pub fn free_port() -> io::Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    (0..1000)
        .map(|_| fastrand::u16(PORTS))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok() && given.insert(*port))
        .ok_or_else(|| io::Error::new(io::ErrorKind::AddrInUse, "no free port on the loopback interface"))
}
