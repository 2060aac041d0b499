//! One Redis and pointsman before it, for tests of what clients see while nothing fails.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code)] // a helper of several tests, each of which uses some of it

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use pointsman::demo::cluster::{Cluster, Member, free_port};
use pointsman::demo::process::Process;
use pointsman::demo::proxy::fetch;
use pointsman::demo::settings::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// Longest wait for anything that should come at once. Generous: the machines are small and busy.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A Redis, and pointsman in front of it as a static service.
pub struct Front {
    pub cluster: Cluster,
    pub redis: SocketAddr,
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
    pub process: Process,
}

impl Front {
    /// Starts both; `settings` are the Redis', `flags` pointsman's.
    pub async fn start(settings: Settings, flags: &[&str]) -> Self {
        let cluster = Cluster::start(settings).await.unwrap();
        let redis = cluster.addr(Member::Node(0));
        Self::serve(cluster, redis, |listen, admin| by_flags(redis, listen, admin, flags)).await
    }

    /// The same before another "Redis" than the one started.
    pub async fn before(settings: Settings, redis: SocketAddr, flags: &[&str]) -> Self {
        let cluster = Cluster::start(settings).await.unwrap();
        Self::serve(cluster, redis, |listen, admin| by_flags(redis, listen, admin, flags)).await
    }

    /// One Redis, and one worker with more keys for its service.
    pub async fn configured(keys: &str) -> Self {
        Self::listening("", keys).await
    }

    /// The same with more keys for its listener.
    pub async fn listening(listener: &str, keys: &str) -> Self {
        Self::with_head("", listener, keys).await
    }

    /// The same with more keys for the process.
    pub async fn with_head(head: &str, listener: &str, keys: &str) -> Self {
        let cluster = Cluster::start(Settings::single()).await.unwrap();
        let (redis, path) = (cluster.addr(Member::Node(0)), cluster.dir().join("pointsman.toml"));
        let by_file = |listen: SocketAddr, admin: SocketAddr| {
            let listen = format!("[{{ address = \"{listen}\", {listener} }}]");
            let service = format!("[[service]]\nname = \"test\"\nmaster = \"{redis}\"\nlisten = {listen}\n{keys}\n");
            std::fs::write(&path, format!("workers = 1\nadmin = \"{admin}\"\n{head}\n{service}")).unwrap();
            ["run", "--config", path.to_str().unwrap()].map(str::to_owned).to_vec()
        };
        Self::serve(cluster, redis, by_file).await
    }

    async fn serve(
        cluster: Cluster,
        redis: SocketAddr,
        args: impl FnOnce(SocketAddr, SocketAddr) -> Vec<String>,
    ) -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (proxy, admin) = (local(free_port().unwrap()), local(free_port().unwrap()));
        let args = args(proxy, admin);
        let log = std::fs::File::create(cluster.dir().join("pointsman.log")).unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_pointsman"));
        let process = cluster.supervisor().spawn(binary, args, Some(log)).unwrap();
        let front = Self { cluster, redis, proxy, admin, process };
        front.until_phase(true).await;
        front
    }

    /// Until all is well, or is not.
    pub async fn until_phase(&self, stable: bool) {
        let end = Instant::now() + PATIENCE;
        let is_stable = |status: String| status.replace(' ', "").contains("\"phase\":\"stable\"");
        while !fetch(self.admin, "/status").await.is_ok_and(|status| is_stable(status) == stable) {
            assert!(Instant::now() < end, "never so: {}", self.log());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// What pointsman has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.cluster.dir().join("pointsman.log")).unwrap_or_default()
    }

    /// Resident memory of pointsman in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")).unwrap();
        line.parse::<u64>().unwrap() * 1024
    }

    /// The sum of the series of one metric that have this in their labels; empty: of all.
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        let page = fetch(self.admin, "/metrics").await.unwrap();
        let of_it = |l: &&str| l.strip_prefix(name).is_some_and(|r| r.starts_with(['{', ' ']) && l.contains(label));
        let values: Vec<f64> =
            page.lines().filter(of_it).map(|l| l.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert!(!values.is_empty(), "no {name} with {label}");
        values.iter().sum()
    }
}

fn by_flags(redis: SocketAddr, listen: SocketAddr, admin: SocketAddr, flags: &[&str]) -> Vec<String> {
    let [redis, listen, admin] = [redis, listen, admin].map(|a| a.to_string());
    let usual = ["run", "--master", &redis, "--service", "test", "--listen", &listen, "--admin", &admin];
    usual.iter().chain(flags).map(|s| (*s).to_owned()).collect()
}

/// A client that sends bytes and looks at bytes.
pub struct Raw {
    pub stream: TcpStream,
    pub received: Vec<u8>,
}

impl Raw {
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, received: Vec::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// All that comes up to and including the last byte of `mark`.
    pub async fn until(&mut self, mark: &[u8]) -> Vec<u8> {
        let read = async {
            loop {
                if let Some(at) = self.received.windows(mark.len()).position(|w| w == mark) {
                    return self.received.drain(..at + mark.len()).collect();
                }
                let n = self.stream.read_buf(&mut self.received).await.unwrap();
                assert!(n > 0, "closed before {:?}: {:?}", text(mark), text(&self.received));
            }
        };
        let read = timeout(PATIENCE, read).await;
        read.unwrap_or_else(|_| panic!("no {:?}: {:?}", text(mark), text(&self.received)))
    }

    /// The next line; none if the connection is closed before its end.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.received.windows(2).position(|w| w == b"\r\n") {
                return Some(text(&self.received.drain(..at + 2).collect::<Vec<u8>>()));
            }
            if !self.stream.read_buf(&mut self.received).await.is_ok_and(|n| n > 0) {
                return None;
            }
        }
    }

    /// All that comes until the connection is closed.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.received);
        // A reset ends it as well.
        let _ = timeout(PATIENCE, self.stream.read_to_end(&mut all)).await.expect("not closed");
        all
    }

    /// Sends a command and returns what comes up to the reply to a marker sent behind it.
    pub async fn ask(&mut self, words: &[&str]) -> String {
        const MARK: &str = "8c0d-end-of-answer";
        let mut bytes = command(words);
        bytes.extend(command(&["ECHO", MARK]));
        self.send(&bytes).await;
        let mark = format!("${}\r\n{MARK}\r\n", MARK.len());
        let mut answer = self.until(mark.as_bytes()).await;
        answer.truncate(answer.len() - mark.len());
        text(&answer)
    }
}

/// A command as RESP.
pub fn command(words: &[&str]) -> Vec<u8> {
    pointsman::resp::encode_command(words).to_vec()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
