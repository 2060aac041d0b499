//! pointsman and a service manager of the test's own, which listens as systemd does.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use pointsman::demo::cluster::{Cluster, Member, free_port};
use pointsman::demo::process::Process;
use pointsman::demo::settings::Settings;
use rustix::process::Signal;
use tokio::time::{Instant, timeout};

use crate::support::{PATIENCE, Raw, command};
use crate::threads::stop_thread;

struct Manager {
    socket: tokio::net::UnixDatagram,
    process: Process,
    listen: SocketAddr,
    cluster: Cluster,
}

impl Manager {
    /// Starts pointsman as a `Type=notify` service before one Redis.
    async fn start(watchdog: Duration) -> Self {
        let cluster = Cluster::start(Settings::single()).await.unwrap();
        let path = cluster.dir().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UnixDatagram::from_std(socket).unwrap();
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
        let redis = cluster.addr(Member::Node(0));
        let args = [
            format!("NOTIFY_SOCKET={}", path.display()),
            format!("WATCHDOG_USEC={}", watchdog.as_micros()),
            env!("CARGO_BIN_EXE_pointsman").to_owned(),
            "run".to_owned(),
            format!("--master={redis}"),
            "--service=main".to_owned(),
            format!("--listen={listen}"),
            "--workers=2".to_owned(),
            "--drain-timeout=20s".to_owned(),
        ];
        let process = cluster.supervisor().spawn(Path::new("env"), args, None).unwrap();
        Self { socket, process, listen, cluster }
    }

    /// The next message, if one comes within this time.
    async fn hears(&self, limit: Duration) -> Option<String> {
        let mut message = vec![0; 4096];
        let length = timeout(limit, self.socket.recv(&mut message)).await.ok()?.unwrap();
        message.truncate(length);
        Some(String::from_utf8(message).unwrap())
    }

    /// The next message that has this in it.
    async fn until(&self, words: &str) -> String {
        let end = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        while let Some(message) = self.hears(end - Instant::now()).await {
            if message.contains(words) {
                return message;
            }
            heard.push(message);
        }
        panic!("never heard {words:?}, but {heard:#?}");
    }
}

/// Memory of a process in bytes.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")).unwrap();
    line.parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn the_service_manager_hears_of_the_start_of_what_changes_and_of_the_end() {
    let manager = Manager::start(Duration::from_secs(60)).await;
    let first = manager.hears(PATIENCE).await.unwrap();
    assert_eq!(first, format!("FDSTORE=1\nFDNAME=listen-127.0.0.1%3a{}", manager.listen.port()));
    let first = manager.hears(PATIENCE).await.unwrap();
    assert!(first.starts_with("READY=1\nSTATUS=0 clients; main: no master; reads held"), "{first}");
    // What is said is true at once.
    let mut client = Raw::connect(manager.listen).await;
    client.send(&command(&["PING"])).await;
    client.until(b"+PONG\r\n").await;

    let redis = manager.cluster.addr(Member::Node(0));
    let served = format!("STATUS=1 client; main: master {redis}, generation 1; reads flowing, writes flowing");
    assert_eq!(manager.until("writes flowing").await, served);
    assert!(resident(manager.process.id()) < 12 << 20, "a sidecar is small");
    drop(client);
    manager.until("STATUS=0 clients; main: master").await;

    manager.process.signal(Signal::HUP).unwrap();
    assert!(manager.until("RELOADING").await.starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert!(manager.until("READY").await.starts_with("READY=1\nSTATUS=0 clients; main: master"));

    // A blocked client stays for as long as it may.
    let mut blocked = Raw::connect(manager.listen).await;
    blocked.send(&command(&["BLPOP", "queue", "0"])).await;
    manager.until("STATUS=1 client;").await;
    manager.process.signal(Signal::TERM).unwrap();
    assert_eq!(manager.until("STOPPING").await, "STOPPING=1\nEXTEND_TIMEOUT_USEC=30000000");
    let draining = manager.until("STATUS=").await;
    assert!(draining.starts_with("STATUS=draining, 1 client; main: master"), "{draining}");
    // The worker that has nobody left is done, not dead.
    let mut manager = manager;
    manager.process.signal(Signal::TERM).unwrap();
    let end = Instant::now() + PATIENCE;
    while manager.process.ended().unwrap().is_none() {
        assert!(Instant::now() < end, "a second signal ends it");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Half of the watchdog's time is 1 s, so a thread that is stuck shows within seconds of its last heartbeat's age.
#[tokio::test]
async fn the_watchdog_is_fed_only_while_every_thread_does_its_rounds() {
    let limit = Duration::from_millis(2000);
    let manager = Manager::start(limit).await;
    manager.until("master").await;
    for _ in 0..3 {
        assert!(manager.hears(limit / 2 + Duration::from_millis(900)).await.is_some(), "fed in time");
    }
    let stuck = tokio::spawn(stop_thread(manager.process.id(), "worker-1", Duration::from_secs(8)));
    let silent = async { while manager.hears(limit).await.is_some() {} };
    timeout(Duration::from_secs(8), silent).await.expect("systemd would have ended it");
    stuck.await.unwrap();
    assert_eq!(manager.until("WATCHDOG").await, "WATCHDOG=1", "and it would have been well again");
}
