//! Listening sockets that the service manager keeps over a restart (`FDSTORE`): a manager of the test's own takes the
//! descriptors as systemd does, and starts the next process with them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pointsman::demo::cluster::{Cluster, Member, free_port};
use pointsman::demo::settings::Settings;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{PATIENCE, Raw, command};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pointsman");

struct Manager {
    cluster: Cluster,
    socket: UnixDatagram,
    listen: SocketAddr,
    path: PathBuf,
    /// What is kept, by name.
    store: BTreeMap<String, OwnedFd>,
    process: Option<Child>,
}

impl Manager {
    async fn new() -> Self {
        let cluster = Cluster::start(Settings::single()).await.unwrap();
        let socket = UnixDatagram::bind(cluster.dir().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
        let path = cluster.dir().join("redis.sock");
        Self { cluster, socket, listen, path, store: BTreeMap::new(), process: None }
    }

    fn both(&self) -> [String; 2] {
        [self.listen.to_string(), format!("unix:{}", self.path.display())]
    }

    fn configure(&self, listen: &[String], keys: &str) {
        self.configure_listen(&format!("{listen:?}\n{keys}"));
    }

    /// What stands behind `listen = `.
    fn configure_listen(&self, listen: &str) {
        let redis = self.cluster.addr(Member::Node(0));
        let text = format!("[[service]]\nname = \"main\"\nmaster = \"{redis}\"\nlisten = {listen}\n");
        fs::write(self.cluster.dir().join("pointsman.toml"), text).unwrap();
    }

    /// Starts pointsman with what is kept, as descriptors from 3 on, and waits until it is ready.
    async fn start(&mut self) {
        // Two at most, by way of what every program is given, so that no other child of this process has them too.
        let mut sockets = self.store.values().map(|socket| Stdio::from(socket.try_clone().unwrap()));
        let names: Vec<&str> = self.store.keys().map(String::as_str).collect();
        let script =
            "exec 3<&0 4<&1 </dev/null >&2; [ $LISTEN_FDS -gt 1 ] || exec 4<&-; [ $LISTEN_FDS -gt 0 ] || exec 3<&-
            LISTEN_PID=$$ exec \"$0\" run --config \"$1\"";
        let log = File::options().create(true).append(true).open(self.cluster.dir().join("log")).unwrap();
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "sh", "-c", script, PROGRAM])
            .arg(self.cluster.dir().join("pointsman.toml"))
            .env("NOTIFY_SOCKET", self.cluster.dir().join("notify"))
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .stdin(sockets.next().unwrap_or_else(Stdio::null))
            .stdout(sockets.next().unwrap_or_else(Stdio::null))
            .stderr(log)
            .spawn();
        assert!(sockets.next().is_none());
        drop(sockets);
        self.process = Some(process.unwrap());
        self.until("READY=1").await;
    }

    /// Takes what it is told until this is among it.
    async fn until(&mut self, words: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.hear().is_some_and(|said| said.contains(words)) {
            assert!(Instant::now() < end, "never heard {words}: {}", self.log());
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// The next message, if there is one; what it asks to be kept, or not any more, is dealt with.
    fn hear(&mut self) -> Option<String> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut words = [0; 4096];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut words)], &mut control, flags).ok()?;
        let said = String::from_utf8(words[..received.bytes].to_vec()).unwrap();
        let name = said.lines().find_map(|line| line.strip_prefix("FDNAME=")).map(str::to_owned);
        for message in control.drain() {
            let RecvAncillaryMessage::ScmRights(sockets) = message else { continue };
            for socket in sockets {
                assert!(said.starts_with("FDSTORE=1\n"), "{said}");
                let name = name.clone().unwrap();
                assert!(name.bytes().all(|b| b.is_ascii_graphic() && b != b':'), "systemd would not take {name}");
                // As systemd: what it has already it keeps once.
                self.store.entry(name).or_insert(socket);
            }
        }
        if said.starts_with("FDSTOREREMOVE=1\n") {
            self.store.remove(&name.unwrap());
        }
        Some(said)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.process.as_ref().unwrap()), signal).unwrap();
    }

    async fn ends(&mut self) {
        let end = Instant::now() + PATIENCE;
        while self.process.as_mut().unwrap().try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "it does not end: {}", self.log());
            self.hear();
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.cluster.dir().join("log")).unwrap()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// How many may wait at a listening socket.
fn backlog(address: &str) -> u32 {
    let output = Command::new("ss").args(["-Hltx"]).output().expect("ss is installed (Debian package iproute2)");
    let lines = String::from_utf8(output.stdout).unwrap();
    // Netid, state, waiting, at most, address …
    let of_it = lines.lines().find(|line| line.split_whitespace().nth(4) == Some(address));
    let of_it = of_it.unwrap_or_else(|| panic!("nobody listens at {address}: {lines}"));
    of_it.split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[tokio::test]
async fn who_connects_while_a_sidecar_is_started_anew_waits_and_is_served() {
    let mut manager = Manager::new().await;
    manager.configure(&manager.both(), "");
    manager.start().await;
    assert_eq!(manager.store.len(), 2, "{:?}", manager.store.keys());
    // Stopped, and killed.
    for signal in [Signal::TERM, Signal::KILL] {
        let mut there = Raw::connect(manager.listen).await;
        assert_eq!(there.ask(&["PING"]).await, "+PONG\r\n");
        manager.signal(signal);
        manager.ends().await;
        assert_eq!(there.line().await, None);
        let mut by_port = Raw::connect(manager.listen).await;
        let mut by_path = UnixStream::connect(&manager.path).await.expect("the file is still there");
        by_port.send(&command(&["SET", "a", "1"])).await;
        by_path.write_all(b"PING\r\n").await.unwrap();
        manager.start().await;
        by_port.until(b"+OK\r\n").await;
        let mut answer = [0; 7];
        timeout(PATIENCE, by_path.read_exact(&mut answer)).await.expect("served").unwrap();
        assert_eq!(manager.store.len(), 2);
    }

    // It goes by what is configured at the next start.
    let (listen, path) = (manager.listen, manager.path.clone());
    manager.configure_listen(&format!(
        "[{{ address = \"{listen}\", backlog = 7 }}, {{ address = \"unix:{}\", backlog = 9, mode = \"0604\" }}]",
        path.display()
    ));
    manager.signal(Signal::TERM);
    manager.ends().await;
    let is_kept = fs::metadata(&path).unwrap();
    manager.start().await;
    assert_eq!(fs::metadata(&path).unwrap().ino(), is_kept.ino(), "the same socket");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o604);
    assert_eq!((backlog(&listen.to_string()), backlog(path.to_str().unwrap())), (7, 9));

    // What is not wanted any more is not kept either: neither by a reload ...
    let only = [manager.listen.to_string()];
    manager.configure(&only, "");
    manager.signal(Signal::HUP);
    manager.until("FDSTOREREMOVE").await;
    assert_eq!(manager.store.len(), 1);
    manager.until("READY=1").await;
    let refused = || async { UnixStream::connect(&manager.path).await.is_err() };
    let end = Instant::now() + PATIENCE;
    while !refused().await {
        assert!(Instant::now() < end, "it still listens");
        sleep(Duration::from_millis(10)).await;
    }
    // ... nor by a restart, and then its address is free.
    manager.configure(&manager.both()[1..], "");
    manager.signal(Signal::TERM);
    manager.ends().await;
    manager.start().await;
    assert!(manager.store.keys().all(|name| name.contains("unix")), "{:?}", manager.store.keys());
    assert!(TcpStream::connect(manager.listen).await.is_err());
}

#[tokio::test]
async fn a_port_whose_balancer_looks_whether_it_is_open_is_not_kept() {
    let mut manager = Manager::new().await;
    manager.configure(&manager.both(), "");
    manager.start().await;
    manager.signal(Signal::TERM);
    manager.ends().await;
    assert_eq!(manager.store.len(), 2);
    // From now on the balancer's: what is kept is given up, and opened anew.
    manager.configure(&manager.both(), "shape = \"central\"");
    manager.start().await;
    assert_eq!(manager.store.len(), 0, "{:?}", manager.store.keys());
    assert_eq!(Raw::connect(manager.listen).await.ask(&["PING"]).await, "+PONG\r\n");
    UnixStream::connect(&manager.path).await.unwrap();
    manager.signal(Signal::TERM);
    manager.ends().await;
    assert!(TcpStream::connect(manager.listen).await.is_err());
    assert!(!manager.path.exists());
}
