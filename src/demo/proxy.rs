//! pointsman as a process of its own before a cluster, started by flags alone as a user would.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::{Cluster, ClusterError, free_port};
use super::place::Place;
use super::process::Process;
use crate::config::Commit;

/// Longest wait until pointsman serves and hears every Sentinel.
const READY_LIMIT: Duration = Duration::from_secs(15);
/// Longest wait for an answer of its admin server.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How to start pointsman.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// The program.
    pub binary: PathBuf,
    /// `--commit`.
    pub commit: Commit,
    /// `--workers`.
    pub workers: usize,
    /// More arguments of `run`.
    pub extra: Vec<String>,
}

/// A running pointsman; killed on drop.
#[derive(Debug)]
pub struct Proxy {
    process: Process,
    listen: SocketAddr,
    admin: SocketAddr,
    log: PathBuf,
}

/// Whether a flight record of a service, as `/status` shows it, says that the promoted node lacked data, or that this
/// could not be known. Any of them, and not the last alone: a Sentinel that is late may fail over once more.
pub fn reports_loss(service: &Value) -> bool {
    let records = service["records"].as_array().map_or(&[][..], Vec::as_slice);
    records.iter().any(|record| record["offset_lost"] != json!({ "known": "exact", "bytes": 0 }))
}

impl Proxy {
    /// Starts it before the cluster's service and waits until traffic flows and every Sentinel is heard. Its log is in
    /// the cluster's directory.
    pub async fn start(cluster: &Cluster, settings: &ProxySettings) -> Result<Self, ClusterError> {
        Self::start_at(&Place::default(), cluster, settings).await
    }

    /// The same in a place of its own.
    pub async fn start_at(place: &Place, cluster: &Cluster, settings: &ProxySettings) -> Result<Self, ClusterError> {
        let local = |port| SocketAddr::from((place.ip, port));
        let (listen, admin) = (local(free_port()?), local(free_port()?));
        let sentinels: Vec<String> = cluster.sentinels().iter().map(SocketAddr::to_string).collect();
        let commit = match settings.commit {
            Commit::Confirmed => "confirmed",
            Commit::Eager => "eager",
        };
        let mut args: Vec<String> = ["run", "--sentinel", &sentinels.join(","), "--service", cluster.service()]
            .into_iter()
            .chain(["--listen", &listen.to_string(), "--admin", &admin.to_string()])
            .chain(["--commit", commit, "--workers", &settings.workers.to_string()])
            .map(str::to_owned)
            .collect();
        args.extend_from_slice(&settings.extra);
        Self::spawn(place, cluster, &settings.binary, args, [listen, admin]).await
    }

    /// The same by a configuration file, with more keys of the service.
    pub async fn start_configured(cluster: &Cluster, binary: &Path, keys: &str) -> Result<Self, ClusterError> {
        let local = |port| SocketAddr::from((Place::default().ip, port));
        let (listen, admin) = (local(free_port()?), local(free_port()?));
        let sentinels: Vec<String> = cluster.sentinels().iter().map(SocketAddr::to_string).collect();
        let (name, path) = (cluster.service(), cluster.dir().join(format!("pointsman-{}.toml", listen.port())));
        let text = format!(
            "workers = 2\nadmin = \"{admin}\"\n[[service]]\nname = \"{name}\"\nlisten = [\"{listen}\"]\n\
             sentinels = {sentinels:?}\n{keys}\n"
        );
        fs::write(&path, text)?;
        let args = ["run".to_owned(), "--config".to_owned(), path.display().to_string()];
        Self::spawn(&Place::default(), cluster, binary, args.to_vec(), [listen, admin]).await
    }

    async fn spawn(
        place: &Place,
        cluster: &Cluster,
        binary: &Path,
        args: Vec<String>,
        [listen, admin]: [SocketAddr; 2],
    ) -> Result<Self, ClusterError> {
        let log = cluster.dir().join(format!("pointsman-{}.log", listen.port()));
        let output = fs::File::options().create(true).append(true).open(&log)?;
        let (program, args) = place.command(binary, args.into_iter().map(Into::into).collect());
        let process = cluster.supervisor().spawn(&program, args, Some(output))?;
        let mut proxy = Self { process, listen, admin, log };
        proxy.wait_ready().await?;
        Ok(proxy)
    }

    /// Where clients connect.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where its admin server listens.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.process.signal(signal)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.process.ended(), Ok(None))
    }

    /// Where its log is.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// `/status`.
    pub async fn status(&self) -> io::Result<Value> {
        fetch_status(self.admin).await
    }

    /// Whether it [reports a loss](reports_loss).
    pub async fn reported_loss(&self) -> io::Result<bool> {
        Ok(reports_loss(&self.status().await?["services"][0]))
    }

    /// The sum of all series of one metric whose labels contain `label` (such as `role="master"`; empty: all).
    pub async fn metric(&self, name: &str, label: &str) -> io::Result<f64> {
        let text = fetch(self.admin, "/metrics").await?;
        let series = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
        });
        Ok(series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> io::Result<u64> {
        let status = fs::read_to_string(Path::new("/proc").join(self.id().to_string()).join("status"))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        kib.and_then(|n| n.parse::<u64>().ok())
            .map(|n| n * 1024)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no VmRSS in /proc"))
    }

    async fn wait_ready(&mut self) -> Result<(), ClusterError> {
        let end = Instant::now() + READY_LIMIT;
        loop {
            let obstacle = match self.status().await {
                Ok(status) => {
                    let service = &status["services"][0];
                    let sentinels = service["sentinels"].as_array().map_or(&[][..], Vec::as_slice);
                    let deaf = sentinels.iter().find(|s| s["up"] != true);
                    match deaf {
                        None if service["phase"] == "stable" => return Ok(()),
                        None => service["why"].to_string(),
                        Some(sentinel) => format!("{sentinel}"),
                    }
                }
                Err(e) => format!("its admin server: {e}"),
            };
            if !self.is_running() {
                return Err(ClusterError::NotStarted { program: "pointsman", log: self.log_tail() });
            }
            if Instant::now() >= end {
                let obstacle = format!("pointsman is not ready: {obstacle}\n{}", self.log_tail());
                return Err(ClusterError::TimedOut { within: READY_LIMIT, obstacle });
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// `/status` of an admin server.
pub async fn fetch_status(admin: SocketAddr) -> io::Result<Value> {
    Ok(serde_json::from_str(&fetch(admin, "/status").await?)?)
}

/// The body of a page of an admin server. HTTP/1.0, so that the body ends with the connection.
pub async fn fetch(admin: SocketAddr, path: &str) -> io::Result<String> {
    let answer = timeout(ANSWER_LIMIT, async {
        let mut stream = TcpStream::connect(admin).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {admin}\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        io::Result::Ok(answer)
    })
    .await
    .map_err(|_| io::ErrorKind::TimedOut)??;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    if head.split(' ').nth(1) != Some("200") {
        return Err(io::Error::other(format!("GET {path}: {}", head.lines().next().unwrap_or_default())));
    }
    Ok(body.to_owned())
}
