//! Sentinels and masters by names whose addresses change while pointsman runs; the name server is dnsmasq.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use pointsman::demo::cluster::{Cluster, Member, Place, Settings, free_port};
use pointsman::demo::ledger::{Ledger, LedgerSettings};
use pointsman::demo::process::{Process, Supervisor, TempDir};
use pointsman::demo::proxy::{fetch_status, reports_loss};
use pointsman::demo::wire::{Connection, elements, fields, text};
use rustix::process::Signal;
use serde_json::Value;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep};

use crate::outcome::{CRASH, in_flight, tell};
use crate::rig::{PATIENCE, READERS, WRITERS};

/// A name server for names below `test`, all with TTL 0.
struct Names {
    address: SocketAddr,
    hosts: PathBuf,
    process: Process,
}

impl Names {
    async fn start(supervisor: &Supervisor, dir: &Path) -> Self {
        // Not one of those that the kernel gives to whoever asks for any: our own questions come from such a port.
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
        let hosts = dir.join("names");
        fs::write(&hosts, "127.0.0.1 is.there.test\n").unwrap();
        let args = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--local=/test/",
            "--local-ttl=0",
            "--pid-file",
            "--user=root",
            "--bind-interfaces",
            "--listen-address=127.0.0.1",
            &format!("--port={}", address.port()),
            &format!("--addn-hosts={}", hosts.display()),
        ];
        let args = args.map(str::to_owned).to_vec();
        let process = supervisor.spawn(Path::new("/usr/sbin/dnsmasq"), args, None).unwrap();
        let names = Self { address, hosts, process };
        names.until("is.there.test", Ipv4Addr::LOCALHOST).await;
        names
    }

    /// The names are these from now on; returns once `name`, one of them, is answered so.
    async fn set(&self, hosts: &str, name: &str, ip: Ipv4Addr) {
        fs::write(&self.hosts, hosts).unwrap();
        self.process.signal(Signal::HUP).unwrap();
        self.until(name, ip).await;
    }

    /// Where programs find these names by the C library as well, and no others; none without the right to arrange it.
    fn place(&self) -> Option<Place> {
        let probe = Command::new("unshare").args(["--mount", "--", "true"]).stderr(Stdio::null()).status();
        probe.ok().filter(ExitStatus::success)?;
        let script = format!("mount --bind {} /etc/hosts && exec \"$@\"", self.hosts.display());
        let enter = ["unshare", "--mount", "--", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
        Some(Place { enter, ..Place::default() })
    }

    /// Waits until the server gives this address for a name.
    async fn until(&self, name: &str, ip: Ipv4Addr) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        // RFC 1035: one question for an A record of class IN.
        let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        let end = Instant::now() + PATIENCE;
        let mut answer = [0; 512];
        loop {
            // A server that does not listen yet makes the send or the receive fail.
            let asked = socket.send_to(&query, self.address).await.is_ok();
            let received = tokio::time::timeout(Duration::from_millis(100), socket.recv(&mut answer)).await;
            if let (true, Ok(Ok(n))) = (asked, received)
                && answer[..n].windows(4).any(|bytes| bytes == ip.octets())
            {
                return;
            }
            assert!(Instant::now() < end, "{name} is never {ip}");
        }
    }
}

/// pointsman with this source of the master, and that name server.
struct Front {
    listen: SocketAddr,
    admin: SocketAddr,
    log: PathBuf,
    _process: Process,
}

impl Front {
    fn start(cluster: &Cluster, names: &Names, source: &str) -> Self {
        let local = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
        let (listen, admin, resolver) = (local(), local(), names.address);
        let (path, log) = (cluster.dir().join("pointsman.toml"), cluster.dir().join("pointsman.log"));
        let config = format!(
            "admin = \"{admin}\"\nresolvers = [\"{resolver}\"]\n[[service]]\nname = \"mymaster\"\nlisten = [\"{listen}\"]\n\
             {source}\n"
        );
        fs::write(&path, config).unwrap();
        let args = ["run".to_owned(), "--config".to_owned(), path.display().to_string()];
        let output = fs::File::create(&log).unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_pointsman"));
        let process = cluster.supervisor().spawn(binary, args.to_vec(), Some(output)).unwrap();
        Self { listen, admin, log, _process: process }
    }

    async fn service(&self) -> Value {
        fetch_status(self.admin).await.map(|s| s["services"][0].clone()).unwrap_or_default()
    }

    async fn until(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let service = self.service().await;
            if fits(&service) {
                return service;
            }
            let log = || fs::read_to_string(&self.log).unwrap_or_default();
            assert!(Instant::now() < end, "never {what}: {service:#}\n{}", log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn set(&self, value: &str) {
        let mut client = Connection::open(self.listen, PATIENCE).await.unwrap();
        assert_eq!(text(&client.call(&["SET", "k", value], PATIENCE).await.unwrap()), "OK");
    }
}

fn all_up(service: &Value, up: bool) -> bool {
    service["sentinels"].as_array().is_some_and(|s| s.len() >= 3 && s.iter().take(3).all(|s| s["up"] == up))
}

/// The names of the Sentinels do not exist when pointsman starts; then one of them has two addresses, the first of them
/// dead; then the name server dies, and the connections to the Sentinels are lost.
#[tokio::test]
async fn sentinels_by_names_that_come_and_a_name_server_that_goes() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let mut names = Names::start(cluster.supervisor(), cluster.dir()).await;
    let sentinels: Vec<String> =
        cluster.sentinels().iter().enumerate().map(|(i, s)| format!("s{i}.test:{}", s.port())).collect();
    let front = Front::start(&cluster, &names, &format!("sentinels = {sentinels:?}"));
    let service = front
        .until("told that there are no such names", |s| {
            s["sentinels"].as_array().is_some_and(|s| s.len() == 3 && s.iter().all(|s| !s["error"].is_null()))
        })
        .await;
    assert!(service["sentinels"][0]["error"].as_str().unwrap().contains("cannot resolve `s0.test`"), "{service:#}");
    assert_eq!(service["phase"], "starting");

    let hosts = "127.0.0.9 s0.test\n127.0.0.1 s0.test\n127.0.0.1 s1.test\n127.0.0.1 s2.test\n";
    names.set(hosts, "s2.test", Ipv4Addr::LOCALHOST).await;
    front.until("in hearing", |s| all_up(s, true) && s["writes"]["flow"] == "flowing").await;
    front.set("by names").await;

    names.process.kill().unwrap();
    for sentinel in 0..3 {
        cluster.ask(Member::Sentinel(sentinel), &["CLIENT", "KILL", "TYPE", "normal"]).await.unwrap();
        cluster.ask(Member::Sentinel(sentinel), &["CLIENT", "KILL", "TYPE", "pubsub"]).await.unwrap();
    }
    // They may be back before anybody looks: the failover is heard only over new connections.
    front.until("in hearing again", |s| all_up(s, true)).await;
    cluster.failover(0).await.unwrap();
    front.until("failed over", |s| s["generation"] == 2 && s["writes"]["flow"] == "flowing").await;
    front.set("without names").await;
}

/// The name of a fixed master moves to another address, where the same server is; the old address is dead.
#[tokio::test]
async fn a_master_whose_name_moves_is_followed() {
    let settings = Settings { redis_lines: vec!["bind 127.0.0.1 127.0.0.2".into()], ..Settings::single() };
    let cluster = Cluster::start(settings).await.unwrap();
    let names = Names::start(cluster.supervisor(), cluster.dir()).await;
    names.set("127.0.0.1 m.test\n", "m.test", Ipv4Addr::LOCALHOST).await;
    let node = Member::Node(0);
    let port = cluster.addr(node).port();
    let front = Front::start(&cluster, &names, &format!("master = \"m.test:{port}\""));
    front.until("flowing", |s| s["writes"]["flow"] == "flowing").await;
    front.set("here").await;

    let moved = Ipv4Addr::new(127, 0, 0, 2);
    names.set("127.0.0.2 m.test\n", "m.test", moved).await;
    cluster.ask(node, &["CONFIG", "SET", "bind", "127.0.0.2"]).await.unwrap();
    let address = SocketAddr::from((moved, port)).to_string();
    front.until("moved", |s| s["master"] == address && s["writes"]["flow"] == "flowing").await;
    front.set("there").await;
}

/// Has every server of the cluster announce itself by name: nodes `r0.test` and on, Sentinels `s0.test` and on; until these
/// know each other again.
async fn announce_names(cluster: &Cluster) {
    let tell = async |member, words: &[&str]| {
        let said = cluster.ask(member, words).await.unwrap();
        assert_eq!(text(&said), "OK", "{words:?}");
    };
    for i in 0..3 {
        tell(Member::Node(i), &["CONFIG", "SET", "replica-announce-ip", &format!("r{i}.test")]).await;
        // It is to be called so behind a restart as well.
        tell(Member::Node(i), &["CONFIG", "REWRITE"]).await;
        let sentinel = Member::Sentinel(i);
        tell(sentinel, &["SENTINEL", "REMOVE", "mymaster"]).await;
        for (key, value) in [("resolve-hostnames", "yes"), ("announce-hostnames", "yes")] {
            tell(sentinel, &["SENTINEL", "CONFIG", "SET", key, value]).await;
        }
        tell(sentinel, &["SENTINEL", "CONFIG", "SET", "announce-ip", &format!("s{i}.test")]).await;
    }
    // What they are called they say when they come.
    cluster.ask(Member::Node(0), &["CLIENT", "KILL", "TYPE", "replica"]).await.unwrap();
    let port = cluster.addr(Member::Node(0)).port().to_string();
    for i in 0..3 {
        let sentinel = Member::Sentinel(i);
        tell(sentinel, &["SENTINEL", "MONITOR", "mymaster", "r0.test", &port, "2"]).await;
        // Asked once a second: with less, one answer that a busy machine delays is a death.
        for (key, value) in [("down-after-milliseconds", "2000"), ("failover-timeout", "10000")] {
            tell(sentinel, &["SENTINEL", "SET", "mymaster", key, value]).await;
        }
    }
    // They meet at the master: were it killed before, they would never agree that it is down.
    let end = Instant::now() + PATIENCE;
    for i in 0..3 {
        let others = async || {
            let said = cluster.ask(Member::Sentinel(i), &["SENTINEL", "MASTER", "mymaster"]).await.unwrap();
            fields(&said)["num-other-sentinels"].clone()
        };
        while others().await != "2" {
            assert!(Instant::now() < end, "Sentinel {i} does not know the others");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Servers that know each other, and are known, by names alone, as in Kubernetes. One is killed and comes back under its
/// name with another address; so does a Sentinel; then the one that moved is made master.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn servers_known_by_names_that_come_back_with_other_addresses() {
    let (here, moved) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2));
    let hosts = |r0: Ipv4Addr, s0: Ipv4Addr| {
        format!("{r0} r0.test\n{s0} s0.test\n127.0.0.1 r1.test r2.test s1.test s2.test\n127.0.0.1 localhost\n")
    };
    let supervisor = Supervisor::new().unwrap();
    let dir = TempDir::new().unwrap();
    let names = Names::start(&supervisor, dir.path()).await;
    names.set(&hosts(here, here), "r0.test", here).await;
    let Some(place) = names.place() else {
        let _ = writeln!(std::io::stderr(), "NOT TESTED, it needs root for a hosts file of its own: names");
        return;
    };
    let both = vec!["bind 127.0.0.1 127.0.0.2".to_owned()];
    let settings = Settings {
        nodes_at: vec![place.clone()],
        sentinels_at: vec![place],
        redis_lines: both.clone(),
        sentinel_lines: both,
        ..Settings::default()
    };
    let mut cluster = Cluster::start(settings).await.unwrap();
    announce_names(&cluster).await;
    let sentinels: Vec<String> =
        cluster.sentinels().iter().enumerate().map(|(i, s)| format!("s{i}.test:{}", s.port())).collect();
    let front = Front::start(&cluster, &names, &format!("sentinels = {sentinels:?}"));
    let connected = |s: &Value| {
        s["replicas"].as_array().is_some_and(|r| r.iter().filter(|r| r["link"] == "connected").count() == 2)
    };
    front.until("at work", |s| all_up(s, true) && s["settled"] == true && connected(s)).await;
    let load = LedgerSettings {
        writers: WRITERS,
        readers: READERS,
        pause: Duration::from_millis(5),
        ..LedgerSettings::new(front.listen)
    };
    let ledger = Ledger::start(load);

    let (old, port) = (Member::Node(0), cluster.addr(Member::Node(0)).port());
    cluster.kill(old).unwrap();
    cluster.kill(Member::Sentinel(0)).unwrap();
    names.set(&hosts(moved, moved), "r0.test", moved).await;
    front.until("failed over", |s| s["generation"] == 2 && s["writes"]["flow"] == "flowing").await;
    cluster.restart(old).await.unwrap();
    cluster.ask(old, &["CONFIG", "SET", "bind", "127.0.0.2"]).await.unwrap();
    cluster.restart(Member::Sentinel(0)).await.unwrap();

    let settled = front.until("settled again", |s| all_up(s, true) && s["settled"] == true && connected(s)).await;
    let clients = text(&cluster.ask(Member::Sentinel(0), &["CLIENT", "LIST"]).await.unwrap());
    assert!(clients.lines().any(|c| c.contains(" laddr=127.0.0.2:") && !c.contains("name=sentinel-")), "{clients}");
    let address = SocketAddr::from((moved, port));
    let master = address.to_string();
    // Nobody but the one that moved is to be chosen. Not before: it came back with nothing, and where the machine is busy
    // Sentinels fail over by themselves.
    let other = (1..3).find(|i| settled["master"] != cluster.addr(Member::Node(*i)).to_string()).unwrap();
    let said = cluster.ask(Member::Node(other), &["CONFIG", "SET", "replica-priority", "0"]).await.unwrap();
    assert_eq!(text(&said), "OK");
    let end = Instant::now() + PATIENCE;
    // Where the machine is busy, Sentinels may have made it master by themselves, or are about to.
    while front.service().await["master"] != master {
        let replicas = cluster.ask(Member::Sentinel(1), &["SENTINEL", "REPLICAS", "mymaster"]).await.unwrap();
        let replicas: Vec<_> = elements(&replicas).iter().map(fields).collect();
        let of = |name: &str| replicas.iter().find(|r| r["ip"] == name).map(|r| r["slave-priority"].clone());
        if of("r0.test").is_some() && of(&format!("r{other}.test")).as_deref() == Some("0") {
            let said = text(&cluster.ask(Member::Sentinel(1), &["SENTINEL", "FAILOVER", "mymaster"]).await.unwrap());
            if said == "OK" {
                break;
            }
            assert!(said.starts_with("INPROG"), "{said}");
        }
        assert!(Instant::now() < end, "{replicas:?}");
        sleep(Duration::from_millis(100)).await;
    }
    front.until("there", |s| s["master"] == master && s["writes"]["flow"] == "flowing").await;
    front.set("there").await;
    let tally = ledger.audit(&mut Connection::open(address, PATIENCE).await.unwrap()).await.unwrap();
    tell("N", "servers by names: one dies and comes back elsewhere, and is made master", &tally);
    let broken = in_flight(CRASH).broken(&tally, reports_loss(&front.service().await));
    assert!(broken.is_empty(), "{broken:?}\n{}", fs::read_to_string(&front.log).unwrap());
}
