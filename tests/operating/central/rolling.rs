//! Two instances behind HAProxy as `deploy/haproxy` sets it up, restarted one behind the other under load: as
//! `docs/operations.md` tells it, and otherwise.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pointsman::demo::cluster::{Cluster, Member, free_port};
use pointsman::demo::process::Process;
use pointsman::demo::proxy::fetch;
use pointsman::demo::settings::Settings;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{PATIENCE, Raw, command, text};

const CLIENTS: usize = 40;
/// Where Debian has it, which is not in everybody's PATH.
const HAPROXY: &str = "/usr/sbin/haproxy";
const NODES: [&str; 2] = ["pointsman-1", "pointsman-2"];

fn local() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()))
}

/// One instance, which is always the same to the balancer.
struct Instance {
    listen: SocketAddr,
    admin: SocketAddr,
    config: PathBuf,
    process: Process,
}

impl Instance {
    async fn start(cluster: &Cluster, head: &str) -> Self {
        let (listen, admin) = (local(), local());
        let config = cluster.dir().join(format!("pointsman-{}.toml", listen.port()));
        let sentinels: Vec<String> = cluster.sentinels().iter().map(SocketAddr::to_string).collect();
        let text = format!(
            "workers = 2\nadmin = \"{admin}\"\n{head}\n[[service]]\nname = \"{}\"\nsentinels = {sentinels:?}\n\
             listen = [{{ address = \"{listen}\", proxy_protocol = [\"127.0.0.1\"] }}]\n",
            cluster.service()
        );
        std::fs::write(&config, text).unwrap();
        let process = Self::run(cluster, &config, listen);
        let instance = Self { listen, admin, config, process };
        instance.until_ready().await;
        instance
    }

    fn run(cluster: &Cluster, config: &Path, listen: SocketAddr) -> Process {
        let log = cluster.dir().join(format!("pointsman-{}.log", listen.port()));
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let (binary, args) =
            (Path::new(env!("CARGO_BIN_EXE_pointsman")), ["run", "--config", config.to_str().unwrap()]);
        cluster.supervisor().spawn(binary, args, Some(log)).unwrap()
    }

    async fn until_ready(&self) {
        let end = Instant::now() + PATIENCE;
        let stable = |status: String| status.replace(' ', "").contains("\"phase\":\"stable\"");
        while !fetch(self.admin, "/status").await.is_ok_and(stable) {
            assert!(Instant::now() < end, "not ready");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends it and waits until it has.
    async fn end(&mut self) {
        self.process.signal(Signal::TERM).unwrap();
        let end = Instant::now() + PATIENCE;
        while self.process.ended().unwrap().is_none() {
            assert!(Instant::now() < end, "it does not end");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The new version, for instance.
    async fn start_again(&mut self, cluster: &Cluster) {
        self.process = Self::run(cluster, &self.config, self.listen);
        self.until_ready().await;
    }
}

/// HAProxy, and the socket for its administrator.
struct Balancer {
    listen: SocketAddr,
    admin: PathBuf,
    _process: Process,
}

impl Balancer {
    fn start(cluster: &Cluster, instances: &[Instance; 2]) -> Self {
        let (listen, admin, config) = (local(), cluster.dir().join("admin.sock"), cluster.dir().join("haproxy.cfg"));
        let shipped = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/haproxy/haproxy.cfg"));
        // As it is, but for the pace of the checks.
        let quicker = shipped.unwrap().replace("inter 2s", "inter 100ms");
        std::fs::write(&config, quicker).unwrap();
        let environment = [
            format!("REDIS_LISTEN={listen}"),
            format!("POINTSMAN_1={}", instances[0].listen),
            format!("POINTSMAN_2={}", instances[1].listen),
            format!("HAPROXY_ADMIN={}", admin.display()),
        ];
        let args = environment.into_iter().chain([HAPROXY, "-db", "-f", config.to_str().unwrap()].map(str::to_owned));
        let log = std::fs::File::create(cluster.dir().join("haproxy.log")).unwrap();
        let process = cluster.supervisor().spawn(Path::new("env"), args, Some(log)).unwrap();
        Self { listen, admin, _process: process }
    }

    async fn tell(&self, line: &str) -> String {
        let mut socket = UnixStream::connect(&self.admin).await.unwrap();
        socket.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// The numbers of one server, by their names in `show stat`.
    async fn numbers(&self, node: &str) -> HashMap<String, String> {
        let page = self.tell("show stat").await;
        let mut lines = page.lines();
        let names = lines.next().unwrap().trim_start_matches("# ").split(',');
        let line = lines.find(|line| line.starts_with(&format!("redis,{node},"))).unwrap();
        names.zip(line.split(',')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Connects that an instance refused.
    async fn refused(&self) -> u64 {
        let mut sum = 0;
        for node in NODES {
            sum += self.numbers(node).await["econ"].parse::<u64>().unwrap();
        }
        sum
    }

    async fn until_status(&self, node: &str, status: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = self.numbers(node).await.remove("status").unwrap();
            if found == status {
                return;
            }
            assert!(Instant::now() < end, "{node} is {found}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Clients that each count for themselves, and connect again when their connection has ended.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Noticed>>,
}

#[derive(Default, Debug)]
struct Noticed {
    answered: u64,
    /// Ends of a connection that had served.
    ended: u64,
    errors: Vec<String>,
}

impl Load {
    fn start(to: SocketAddr) -> Self {
        let (stop, answered): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let clients = (0..CLIENTS).map(|i| tokio::spawn(count(i, to, Arc::clone(&stop), Arc::clone(&answered))));
        Self { stop: Arc::clone(&stop), answered: Arc::clone(&answered), clients: clients.collect() }
    }

    async fn until_answered(&self, more: u64) {
        let (end, from) = (Instant::now() + PATIENCE, self.answered.load(Ordering::Relaxed));
        while self.answered.load(Ordering::Relaxed) < from + more {
            assert!(Instant::now() < end, "the clients are not served");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stops them: what all together noticed. What was answered ran once, and nothing else ran.
    async fn end(self, cluster: &Cluster) -> Noticed {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Noticed::default();
        for (i, client) in self.clients.into_iter().enumerate() {
            let noticed = timeout(PATIENCE, client).await.unwrap().unwrap();
            let ran = cluster.ask(Member::Node(0), &["GET", &format!("n{i}")]).await.unwrap();
            assert_eq!(pointsman::demo::wire::text(&ran), noticed.answered.to_string(), "client {i}");
            cluster.ask(Member::Node(0), &["DEL", &format!("n{i}")]).await.unwrap();
            all.answered += noticed.answered;
            all.ended += noticed.ended;
            all.errors.extend(noticed.errors);
        }
        all
    }
}

async fn count(i: usize, to: SocketAddr, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> Noticed {
    let (incr, mut noticed) = (command(&["INCR", &format!("n{i}")]), Noticed::default());
    while !stop.load(Ordering::Relaxed) {
        let mut client = match TcpStream::connect(to).await {
            Ok(stream) => Raw { stream, received: Vec::new() },
            Err(e) => {
                noticed.errors.push(format!("connect: {e}"));
                continue;
            }
        };
        client.stream.set_nodelay(true).unwrap();
        let mut served = false;
        while !stop.load(Ordering::Relaxed) {
            let line = match client.stream.write_all(&incr).await {
                Ok(()) => reply(&mut client).await,
                // It has ended, and this side was told so before it wrote.
                Err(e) if e.kind() == ErrorKind::BrokenPipe => None,
                Err(e) => Some(e.to_string()),
            };
            match line {
                Some(line) if line == format!(":{}\r\n", noticed.answered + 1) => noticed.answered += 1,
                None if served => {
                    noticed.ended += 1;
                    break;
                }
                other => {
                    noticed.errors.push(other.unwrap_or("refused: the end came before any reply".to_owned()));
                    sleep(Duration::from_millis(10)).await;
                    break;
                }
            }
            answered.fetch_add(1, Ordering::Relaxed);
            served = true;
            sleep(Duration::from_millis(1)).await;
        }
    }
    noticed
}

/// The next line, or what went wrong; none at the end of the connection.
async fn reply(client: &mut Raw) -> Option<String> {
    while !client.received.ends_with(b"\r\n") {
        match client.stream.read_buf(&mut client.received).await {
            Ok(0) if client.received.is_empty() => return None,
            Ok(0) => return Some(format!("cut off: {:?}", text(&client.received))),
            Ok(_) => {}
            Err(e) => return Some(e.to_string()),
        }
    }
    Some(text(&std::mem::take(&mut client.received)))
}

struct Rig {
    cluster: Cluster,
    instances: [Instance; 2],
    balancer: Balancer,
}

impl Rig {
    async fn start(head: &str) -> Self {
        let cluster = Cluster::start(Settings::default()).await.unwrap();
        let instances = [Instance::start(&cluster, head).await, Instance::start(&cluster, head).await];
        let balancer = Balancer::start(&cluster, &instances);
        let end = Instant::now() + PATIENCE;
        // It listens at one after the other.
        while TcpStream::connect(balancer.listen).await.is_err() || UnixStream::connect(&balancer.admin).await.is_err()
        {
            let log = || std::fs::read_to_string(cluster.dir().join("haproxy.log")).unwrap_or_default();
            assert!(Instant::now() < end, "HAProxy does not start: {}", log());
            sleep(Duration::from_millis(10)).await;
        }
        for node in NODES {
            balancer.until_status(node, "UP").await;
        }
        Self { cluster, instances, balancer }
    }
}

#[test]
fn the_balancers_configuration_is_one_that_haproxy_takes() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/haproxy/haproxy.cfg");
    let mut check = std::process::Command::new(HAPROXY);
    // Warnings are errors.
    check.args(["-c", "-dW", "-f"]).arg(config).env("HAPROXY_ADMIN", "/run/haproxy/admin.sock");
    for (name, port) in ["REDIS_LISTEN", "POINTSMAN_1", "POINTSMAN_2"].into_iter().zip(6379..) {
        check.env(name, format!("127.0.0.1:{port}"));
    }
    let output = check.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn in_the_order_of_the_runbook_nobody_notices_more_than_an_end() {
    let mut rig = Rig::start("").await;
    let load = Load::start(rig.balancer.listen);
    load.until_answered(1000).await;
    for (node, instance) in NODES.into_iter().zip(&mut rig.instances) {
        rig.balancer.tell(&format!("set server redis/{node} state drain")).await;
        rig.balancer.until_status(node, "DRAIN").await;
        instance.end().await;
        load.until_answered(500).await;
        instance.start_again(&rig.cluster).await;
        rig.balancer.tell(&format!("set server redis/{node} state ready")).await;
        rig.balancer.until_status(node, "UP").await;
        load.until_answered(500).await;
    }
    let noticed = load.end(&rig.cluster).await;
    assert_eq!(noticed.errors, [""; 0], "{noticed:?}");
    assert!(noticed.ended >= CLIENTS as u64, "each was on an instance that ended: {noticed:?}");
    assert_eq!(rig.balancer.refused().await, 0);
    // The check is a connect, and every client had a header.
    for instance in &rig.instances {
        let page = fetch(instance.admin, "/metrics").await.unwrap();
        let missing = page.lines().find(|l| l.starts_with("pointsman_proxy_headers_total") && l.contains("missing"));
        assert!(missing.unwrap().ends_with(" 0"), "{missing:?}");
    }
}

#[tokio::test]
async fn without_its_first_step_connects_are_refused_unless_there_is_a_grace() {
    for grace in [false, true] {
        // Checks come every 100 ms, and two have to fail.
        let mut rig = Rig::start(if grace { "drain_grace = \"1s\"" } else { "" }).await;
        let load = Load::start(rig.balancer.listen);
        load.until_answered(1000).await;
        rig.instances[0].end().await;
        load.until_answered(500).await;
        let noticed = load.end(&rig.cluster).await;
        let refused = rig.balancer.refused().await;
        eprintln!(
            "drain_grace {grace}: {refused} connects refused, {} ends, {} errors",
            noticed.ended,
            noticed.errors.len()
        );
        if grace {
            assert_eq!((refused, noticed.errors.len()), (0, 0), "{noticed:?}");
        } else {
            assert!(refused > 0 && !noticed.errors.is_empty(), "this would show that the first step is not needed");
        }
    }
}
