//! Real redis-servers and redis-sentinels on the loopback interface, for the demo and the tests.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

pub use super::place::Place;
use super::process::{Supervisor, TempDir};
pub use super::server::{ClusterError, free_port};
use super::server::{START_LIMIT, Server};
pub use super::settings::Settings;
use super::wire::{Connection, Reply, elements, text};

/// Pause between two rounds of questions.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// One server of the cluster, by its place in the order of start.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Member {
    /// A redis-server; 0 is the first master.
    Node(usize),
    /// A redis-sentinel.
    Sentinel(usize),
}

/// A running cluster. Dropping it kills every server and removes its files, on a panic too; if this process is killed,
/// the servers die with it.
#[derive(Debug)]
pub struct Cluster {
    // Fields drop in this order: servers first, the directory they write to last.
    nodes: Vec<Server>,
    sentinels: Vec<Server>,
    supervisor: Supervisor,
    dir: TempDir,
    settings: Settings,
}

impl Cluster {
    /// Starts everything and waits until the replicas are connected and every Sentinel knows all others and all
    /// replicas.
    pub async fn start(settings: Settings) -> Result<Self, ClusterError> {
        let mut cluster = Self {
            nodes: Vec::new(),
            sentinels: Vec::new(),
            supervisor: Supervisor::new()?,
            dir: TempDir::new()?,
            settings,
        };
        for i in 0..=cluster.settings.replicas {
            let master = cluster.nodes.first().map(|n| n.addr);
            let place = Settings::place(&cluster.settings.nodes_at, i);
            let node = cluster.start_new("redis-server", place, &cluster.settings.node_config(master)).await?;
            cluster.nodes.push(node);
        }
        for i in 0..cluster.settings.sentinels {
            let place = Settings::place(&cluster.settings.sentinels_at, i);
            let config = cluster.settings.sentinel_config(cluster.nodes[0].addr);
            let sentinel = cluster.start_new("redis-sentinel", place, &config).await?;
            cluster.sentinels.push(sentinel);
        }
        cluster.wait_settled(START_LIMIT).await?;
        Ok(cluster)
    }

    /// The master name.
    pub fn service(&self) -> &str {
        &self.settings.service
    }

    /// Addresses of all nodes, running or not.
    pub fn nodes(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|s| s.addr).collect()
    }

    /// Addresses of all Sentinels, running or not.
    pub fn sentinels(&self) -> Vec<SocketAddr> {
        self.sentinels.iter().map(|s| s.addr).collect()
    }

    /// A member's address.
    pub fn addr(&self, member: Member) -> SocketAddr {
        self.server(member).addr
    }

    /// Where a member of a cluster with TLS listens without it too.
    pub fn plain_addr(&self, member: Member) -> SocketAddr {
        self.server(member).ask_at
    }

    /// The password that a member asks for.
    pub fn password(&self, member: Member) -> Option<&str> {
        self.server(member).password.as_deref()
    }

    /// The cluster's directory; what others put there goes with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// For other programs that should die with the cluster.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// A new connection to a member, authenticated.
    pub async fn connect(&self, member: Member) -> Result<Connection, ClusterError> {
        Ok(self.server(member).connect().await?)
    }

    /// Asks a member one thing, on a connection of its own.
    pub async fn ask(&self, member: Member, command: &[&str]) -> Result<Reply, ClusterError> {
        Ok(self.server(member).ask(command).await?)
    }

    /// Whether a member is neither killed nor paused.
    pub fn is_running(&self, member: Member) -> bool {
        self.server(member).is_running()
    }

    /// `kill -9`.
    pub fn kill(&mut self, member: Member) -> Result<(), ClusterError> {
        let server = self.server_mut(member);
        server.paused = false;
        if let Some(mut process) = server.process.take() {
            process.kill()?;
        }
        Ok(())
    }

    /// SIGSTOP: the server hangs, its connections stay open.
    pub fn pause(&mut self, member: Member) -> Result<(), ClusterError> {
        self.signal(member, Signal::STOP, true)
    }

    /// SIGCONT.
    pub fn resume(&mut self, member: Member) -> Result<(), ClusterError> {
        self.signal(member, Signal::CONT, false)
    }

    /// Starts a killed member again, on its address and with the configuration file as Sentinel left it; waits until it
    /// answers.
    pub async fn restart(&mut self, member: Member) -> Result<(), ClusterError> {
        self.kill(member)?;
        let server = self.server(member);
        let process = server.launch(&self.supervisor).await?;
        self.server_mut(member).process = Some(process);
        Ok(())
    }

    /// Index of the node that more than half of the running Sentinels name; without Sentinels, of the one that says
    /// that it is master.
    pub async fn master(&self) -> Result<usize, ClusterError> {
        let mut votes = vec![0; self.nodes.len()];
        let mut voters = 0;
        if self.sentinels.is_empty() {
            voters = 1;
            for (i, node) in self.nodes.iter().enumerate().filter(|(_, n)| n.is_running()) {
                votes[i] = usize::from(node.ask(&["ROLE"]).await.is_ok_and(|r| is_master(&r)));
            }
        }
        for sentinel in self.sentinels.iter().filter(|s| s.is_running()) {
            voters += 1;
            let Ok(named) = sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service()]).await else {
                continue;
            };
            if let Some(i) = self.node_at(elements(&named)) {
                votes[i] += 1;
            }
        }
        votes
            .iter()
            .position(|n| n * 2 > voters)
            .ok_or_else(|| ClusterError::Refused("the Sentinels do not agree on a master".into()))
    }

    /// `SENTINEL FAILOVER` at one Sentinel, which then leads it.
    pub async fn failover(&self, sentinel: usize) -> Result<(), ClusterError> {
        match self.ask(Member::Sentinel(sentinel), &["SENTINEL", "FAILOVER", self.service()]).await? {
            Reply::Error(message) => Err(ClusterError::Refused(message)),
            _ => Ok(()),
        }
    }

    /// Waits until the cluster is settled: every running Sentinel names the same master and is in no failover, that node
    /// says master, every other running node says connected replica of it, and every running Sentinel has noticed all
    /// that and knows the other Sentinels. Returns the master's index.
    ///
    /// After a planned failover this takes 11 to 22 s: Sentinel waits for two INFO periods of 10 s before it demotes the
    /// old master, and the Sentinels that did not do it notice with their next INFO. Until then a failover back to that
    /// node fails: a Sentinel that still has it down as a master gone astray demotes it again (seen: `+convert-to-slave`
    /// one second after the promotion, `-failover-abort-slave-timeout` after `failover-timeout`).
    pub async fn wait_settled(&self, within: Duration) -> Result<usize, ClusterError> {
        let end = Instant::now() + within;
        loop {
            let obstacle = match self.master().await {
                Ok(master) => match self.obstacle(master).await {
                    None => return Ok(master),
                    Some(obstacle) => obstacle,
                },
                Err(e) => e.to_string(),
            };
            if Instant::now() >= end {
                return Err(ClusterError::TimedOut { within, obstacle });
            }
            sleep(ASK_EVERY).await;
        }
    }

    /// Waits until more than half of the running Sentinels name another node than `old`; returns it.
    pub async fn wait_master_other_than(&self, old: usize, within: Duration) -> Result<usize, ClusterError> {
        let end = Instant::now() + within;
        loop {
            match self.master().await {
                Ok(master) if master != old => return Ok(master),
                _ if Instant::now() >= end => {
                    return Err(ClusterError::TimedOut { within, obstacle: "no other master is named".into() });
                }
                _ => sleep(ASK_EVERY).await,
            }
        }
    }

    /// The first thing that keeps the cluster from being settled under this master.
    async fn obstacle(&self, master: usize) -> Option<String> {
        let master_addr = self.nodes[master].addr;
        for (i, node) in self.nodes.iter().enumerate().filter(|(_, n)| n.is_running()) {
            let Ok(role) = node.ask(&["ROLE"]).await else {
                return Some(format!("node {} does not answer", node.addr));
            };
            let role: Vec<String> = elements(&role).iter().map(text).collect();
            let right = match role.first().map(String::as_str) {
                Some("master") => i == master,
                Some("slave") => i != master && is_at(&role[1], &role[2], master_addr) && role[3] == "connected",
                _ => false,
            };
            if !right {
                return Some(format!("node {} says {role:?} under master {master_addr}", node.addr));
            }
        }
        let replicas =
            self.nodes.iter().filter(|n| n.is_running()).count() - usize::from(self.nodes[master].is_running());
        let others = self.sentinels.iter().filter(|s| s.is_running()).count().saturating_sub(1);
        for sentinel in self.sentinels.iter().filter(|s| s.is_running()) {
            let view = match sentinel.view(self.service()).await {
                Ok(view) => view,
                Err(e) => return Some(format!("Sentinel {}: {e}", sentinel.addr)),
            };
            let right = view.master == Some(master_addr)
                && view.flags == "master"
                && view.good_replicas >= replicas
                && view.good_sentinels >= others;
            if !right {
                return Some(format!(
                    "Sentinel {} sees {view:?}, {replicas} replicas and {others} others run",
                    sentinel.addr
                ));
            }
        }
        None
    }

    fn node_at(&self, host_and_port: &[Reply]) -> Option<usize> {
        let [host, port] = host_and_port else { return None };
        let (host, port) = (text(host), text(port));
        self.nodes.iter().position(|n| is_at(&host, &port, n.addr))
    }

    fn signal(&mut self, member: Member, signal: Signal, paused: bool) -> Result<(), ClusterError> {
        let server = self.server_mut(member);
        let process = server.process.as_ref().ok_or_else(|| ClusterError::Refused("it is not running".into()))?;
        process.signal(signal)?;
        server.paused = paused;
        Ok(())
    }

    fn server(&self, member: Member) -> &Server {
        match member {
            Member::Node(i) => &self.nodes[i],
            Member::Sentinel(i) => &self.sentinels[i],
        }
    }

    fn server_mut(&mut self, member: Member) -> &mut Server {
        match member {
            Member::Node(i) => &mut self.nodes[i],
            Member::Sentinel(i) => &mut self.sentinels[i],
        }
    }

    /// Starts one more server on a free port.
    async fn start_new(&self, program: &'static str, place: Place, config: &str) -> Result<Server, ClusterError> {
        let password =
            if program == "redis-server" { &self.settings.password } else { &self.settings.sentinel_password };
        let mut attempts = 5;
        loop {
            let port = free_port()?;
            let dir = self.dir.path().join(format!("{program}-{port}"));
            fs::create_dir(&dir)?;
            let ask_at = SocketAddr::from((place.ip, port));
            let mut common =
                format!("port {port}\nbind {}\nprotected-mode no\ndaemonize no\ndir \"{}\"\n", place.ip, dir.display());
            let mut addr = ask_at;
            if let Some(tls) = &self.settings.tls {
                addr.set_port(free_port()?);
                common += &tls.config(addr.port());
            }
            fs::write(dir.join("redis.conf"), common + config)?;
            let (password, place) = (password.clone(), place.clone());
            let mut server = Server { program, place, addr, ask_at, dir, password, process: None, paused: false };
            attempts -= 1;
            match server.launch(&self.supervisor).await {
                Ok(process) => {
                    server.process = Some(process);
                    return Ok(server);
                }
                // Somebody else took the port between our look and the server's bind.
                Err(ClusterError::NotStarted { log, .. }) if attempts > 0 && log.contains("in use") => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Whether a server speaks of this address.
fn is_at(host: &str, port: &str, addr: SocketAddr) -> bool {
    addr.ip().to_string() == host && addr.port().to_string() == port
}

fn is_master(role: &Reply) -> bool {
    elements(role).first().is_some_and(|r| text(r) == "master")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn value(cluster: &Cluster, node: usize, key: &str) -> String {
        text(&cluster.ask(Member::Node(node), &["GET", key]).await.unwrap())
    }

    #[tokio::test]
    async fn fails_over_follows_and_leaves_nothing_behind() {
        let settings = Settings {
            password: Some("secret".into()),
            sentinel_password: Some("watch".into()),
            redis_lines: vec!["user app on >app ~* &* +@all".into()],
            ..Settings::default()
        };
        let mut cluster = Cluster::start(settings).await.unwrap();
        assert_eq!(cluster.master().await.unwrap(), 0);
        let mut client = cluster.connect(Member::Node(0)).await.unwrap();
        let limit = Duration::from_secs(10);
        client.call(&["SET", "k", "v"], limit).await.unwrap();
        assert_eq!(client.call(&["WAIT", "2", "5000"], limit).await.unwrap(), Reply::Integer(2));

        cluster.kill(Member::Node(0)).unwrap();
        cluster.wait_master_other_than(0, Duration::from_secs(20)).await.unwrap();
        // On a machine that is busy enough Sentinel may fail over once more meanwhile.
        let master = cluster.wait_settled(Duration::from_secs(40)).await.unwrap();
        assert_ne!(master, 0);
        assert_eq!(value(&cluster, master, "k").await, "v");

        cluster.restart(Member::Node(0)).await.unwrap();
        cluster.wait_settled(Duration::from_secs(40)).await.unwrap();
        assert_eq!(value(&cluster, 0, "k").await, "v");

        let (dir, addrs) = (cluster.dir().to_owned(), [cluster.nodes(), cluster.sentinels()].concat());
        drop(cluster);
        assert!(!dir.exists());
        for addr in addrs {
            assert!(Connection::open(addr, Duration::from_secs(1)).await.is_err(), "{addr} still listens");
        }
    }

    #[tokio::test]
    async fn a_paused_node_hangs_and_comes_back() {
        let mut cluster = Cluster::start(Settings::single()).await.unwrap();
        assert_eq!(cluster.master().await.unwrap(), 0);
        cluster.pause(Member::Node(0)).unwrap();
        let mut connection = Connection::open(cluster.addr(Member::Node(0)), Duration::from_secs(1)).await.unwrap();
        connection.send(&["PING"]).await.unwrap();
        let silent = tokio::time::timeout(Duration::from_millis(200), connection.receive()).await;
        assert!(silent.is_err(), "a paused server answered {silent:?}");
        cluster.resume(Member::Node(0)).unwrap();
        assert_eq!(text(&connection.receive().await.unwrap()), "PONG");
    }
}
