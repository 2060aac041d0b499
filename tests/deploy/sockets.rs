//! Socket activation: systemd's own tool listens, and starts pointsman when somebody connects.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pointsman::demo::cluster::{Cluster, Member, free_port};
use pointsman::demo::process::Process;
use pointsman::demo::settings::Settings;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{PATIENCE, Raw, command};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pointsman");

struct Activated {
    cluster: Cluster,
    listen: SocketAddr,
    socket: PathBuf,
}

impl Activated {
    async fn new() -> Self {
        let cluster = Cluster::start(Settings::single()).await.unwrap();
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
        let socket = cluster.dir().join("redis.sock");
        Self { cluster, listen, socket }
    }

    /// A configuration with these keys; `listen` is among them.
    fn config(&self, keys: &str) -> String {
        let file = self.cluster.dir().join("pointsman.toml");
        let redis = self.cluster.addr(Member::Node(0));
        fs::write(&file, format!("[[service]]\nname = \"main\"\nmaster = \"{redis}\"\n{keys}\n")).unwrap();
        file.to_str().unwrap().to_owned()
    }

    fn both(&self) -> String {
        format!("listen = [\"{}\", \"unix:{}\"]", self.listen, self.socket.display())
    }

    /// Has both addresses opened, and this program started with the first client.
    async fn activate(&self, what: &str, config: &str) -> Process {
        let (listen, socket) = (self.listen.to_string(), self.socket.to_str().unwrap());
        let arguments = ["-l", &listen, "-l", socket, "--fdname=tcp:unix", PROGRAM, what, "--config", config];
        let log = fs::File::create(self.cluster.dir().join("activated.log")).unwrap();
        let process = self.cluster.supervisor().spawn(Path::new("systemd-socket-activate"), arguments, Some(log));
        let end = Instant::now() + PATIENCE;
        while !self.log().contains(socket) {
            assert!(Instant::now() < end, "nobody listens: {}", self.log());
            sleep(Duration::from_millis(10)).await;
        }
        process.unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.cluster.dir().join("activated.log")).unwrap_or_default()
    }

    /// How `check` with this configuration ends when it is given both sockets.
    async fn checked(&self, config: &str) -> (Option<i32>, String) {
        let mut process = self.activate("check", config).await;
        let _client = StdUnixStream::connect(&self.socket).unwrap();
        let code = ended(&mut process).await;
        fs::remove_file(&self.socket).unwrap();
        (code, self.log())
    }
}

async fn ended(process: &mut Process) -> Option<i32> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = process.ended().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < end, "it does not end");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn who_connects_before_pointsman_runs_waits_and_is_served() {
    let activated = Activated::new().await;
    let config = activated.config(&activated.both());
    let mut process = activated.activate("run", &config).await;
    let mut by_path = UnixStream::connect(&activated.socket).await.unwrap();
    by_path.write_all(&command(&["SET", "a", "1"])).await.unwrap();
    let mut answer = [0; 5];
    timeout(PATIENCE, by_path.read_exact(&mut answer)).await.expect("served").unwrap();
    assert_eq!(&answer, b"+OK\r\n");
    let mut by_port = Raw::connect(activated.listen).await;
    by_port.send(&command(&["GET", "a"])).await;
    by_port.until(b"$1\r\n1\r\n").await;
    by_port.send(&command(&["CLIENT", "INFO"])).await;
    by_port.until(format!("laddr={} ", activated.listen).as_bytes()).await;
    drop((by_path, by_port));

    process.signal(Signal::TERM).unwrap();
    assert_eq!(ended(&mut process).await, Some(0));
    assert!(activated.socket.exists(), "the file is whose socket it is");
}

#[tokio::test]
async fn a_socket_that_nobody_wants_or_that_would_hide_a_dead_instance_is_refused() {
    let activated = Activated::new().await;
    let (well, said) = activated.checked(&activated.config(&activated.both())).await;
    assert_eq!(well, Some(0), "{said}");
    assert!(!said.contains("in use"), "{said}");

    let config = activated.config(&format!("listen = [\"{}\"]", activated.listen));
    let (code, said) = activated.checked(&config).await;
    assert_eq!(code, Some(78), "{said}");
    let path = activated.socket.display();
    let expected = format!("descriptor 4, unix: unix:{path} was opened for us, and is in no `listen`");
    assert!(said.contains(&expected), "{said}");

    let config = activated.config(&format!("shape = \"central\"\n{}", activated.both()));
    let (code, said) = activated.checked(&config).await;
    assert_eq!(code, Some(78), "{said}");
    let expected = format!("descriptor 3, tcp: {} was opened for us, but service `main` has shape", activated.listen);
    assert!(said.contains(&expected), "{said}");
}

#[tokio::test]
async fn a_descriptor_that_is_no_listening_socket_is_refused() {
    let activated = Activated::new().await;
    let config = activated.config(&activated.both());
    let script = "exec 3</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" run --config \"$1\"";
    let refused = move || Command::new("sh").args(["-c", script, PROGRAM, &config]).output().unwrap();
    let refused = tokio::task::spawn_blocking(refused).await.unwrap();
    assert_eq!(refused.status.code(), Some(78));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.starts_with("descriptor 3: expected a listening TCP or Unix stream socket: "), "{said}");
}
