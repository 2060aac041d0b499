//! One pointsman takes the place of another at the same addresses, under load; and those that do not come to it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream as StdUnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pointsman::demo::cluster::{Cluster, Member, free_port};
use pointsman::demo::process::Process;
use pointsman::demo::proxy::{fetch, fetch_status};
use pointsman::demo::settings::Settings;
use rustix::process::{Pid, Signal};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixDatagram, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{PATIENCE, Raw, command};

const PAUSE: Duration = Duration::from_millis(10);

/// A Redis, the addresses at which one pointsman after the other serves it, and their logs by number, from 1.
pub(crate) struct Stage {
    cluster: Cluster,
    pub(crate) listen: SocketAddr,
    admin: SocketAddr,
    /// Keys of the service that the next one is given beside its listeners.
    keys: String,
    started: usize,
}

/// A service that is served without Sentinel.
fn fixed(master: SocketAddr) -> String {
    format!("name = \"s\"\nmaster = \"{master}\"\n")
}

fn local() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()))
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let cluster = Cluster::start(Settings::single()).await.unwrap();
        let keys = fixed(cluster.addr(Member::Node(0)));
        Self { cluster, listen: local(), admin: local(), keys, started: 0 }
    }

    /// One with a Sentinel and a replica. With a quorum of more than 1 the Sentinel fails over when it is told to.
    async fn watched(quorum: usize) -> Self {
        let settings = Settings { replicas: 1, sentinels: 1, quorum, ..Settings::default() };
        let cluster = Cluster::start(settings).await.unwrap();
        let sentinel = cluster.addr(Member::Sentinel(0)).to_string();
        let keys = format!("name = \"{}\"\nsentinels = [\"{sentinel}\"]\n", cluster.service());
        Self { cluster, listen: local(), admin: local(), keys, started: 0 }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.cluster.dir().join(name).display().to_string()
    }

    /// The configuration of the next one, with more listeners.
    pub(crate) fn configure(&self, more: &[String]) -> String {
        let mut listen = vec![self.listen.to_string(), format!("unix:{}", self.path("client.sock"))];
        listen.extend_from_slice(more);
        let admin = [self.admin.to_string(), format!("unix:{}", self.path("admin.sock"))];
        let (takeover, keys) = (self.path("takeover.sock"), &self.keys);
        let text = format!(
            "workers = 2\nadmin = {admin:?}\ntakeover = \"{takeover}\"\n[[service]]\nlisten = {listen:?}\n{keys}"
        );
        let file = self.path("pointsman.toml");
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Starts the next one, by way of `env` with these variables.
    fn start_with(&mut self, variables: &[String], more: &[String]) -> Process {
        self.started += 1;
        let file = self.configure(more);
        let log = std::fs::File::create(self.path(&format!("{}.log", self.started))).unwrap();
        let run = [env!("CARGO_BIN_EXE_pointsman"), "run", "--config", &file].map(str::to_owned);
        let args = variables.iter().cloned().chain(run);
        self.cluster.supervisor().spawn(Path::new("env"), args, Some(log)).unwrap()
    }

    fn start(&mut self, more: &[String]) -> Process {
        self.start_with(&[], more)
    }

    fn log(&self, n: usize) -> String {
        std::fs::read_to_string(self.path(&format!("{n}.log"))).unwrap()
    }

    async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so().await {
            assert!(Instant::now() < end, "{what}: {} {}", self.log(1), self.log(self.started));
            sleep(PAUSE).await;
        }
    }

    async fn logged(&self, n: usize, words: &str) {
        self.until(words, async || self.log(n).contains(words)).await;
    }

    /// Until the last one that was started has the addresses.
    async fn until_serving(&self) {
        self.logged(self.started, "admin listening").await;
        let is_stable = async || fetch_status(self.admin).await.is_ok_and(|s| s["services"][0]["phase"] == "stable");
        self.until("serving", is_stable).await;
    }

    /// Every address is that of a pointsman that serves.
    async fn is_served(&self) {
        assert_eq!(Raw::connect(self.listen).await.ask(&["PING"]).await, "+PONG\r\n");
        let mut by_path = UnixStream::connect(self.path("client.sock")).await.unwrap();
        by_path.write_all(b"PING\r\n").await.unwrap();
        let mut answer = [0; 7];
        timeout(PATIENCE, by_path.read_exact(&mut answer)).await.expect("served").unwrap();
        fetch(self.admin, "/readyz").await.unwrap();
        let mut admin = UnixStream::connect(self.path("admin.sock")).await.unwrap();
        admin.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, admin.read_to_string(&mut answer)).await.expect("served").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    /// Has a hook write what it is told into a file; says which events these have been so far.
    fn tell(&mut self) -> impl Fn() -> Vec<String> + use<> {
        let told = self.path("told");
        self.keys += &format!(
            "[[hook]]\nname = \"file\"\nexec = [\"/bin/sh\", \"-c\", \"cat >> $0\", \"{told}\"]\ntimeout = \"60s\"\n"
        );
        move || {
            let lines = std::fs::read_to_string(&told).unwrap_or_default();
            let event =
                |line| Some(serde_json::from_str::<serde_json::Value>(line).ok()?["event"].as_str()?.to_owned());
            lines.lines().filter_map(event).collect()
        }
    }

    /// Asks for the sockets, and is given them.
    fn offered(&self) -> StdUnixStream {
        let asking = self.ask();
        assert_eq!(word(&asking), "pointsman takeover 1");
        while word(&asking) != "end" {}
        asking
    }

    /// Asks for the sockets, as a successor does.
    fn ask(&self) -> StdUnixStream {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        socket.connect(&SockAddr::unix(self.path("takeover.sock")).unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        OwnedFd::from(socket).into()
    }
}

/// What each of them logged, where a test fails.
impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (1..=self.started).for_each(|n| eprintln!("--- {n}.log\n{}", self.log(n)));
        }
    }
}

async fn until_ended(process: &mut Process) -> Option<i32> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = process.ended().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < end, "it does not end");
        sleep(PAUSE).await;
    }
}

/// Clients that connect, ask and leave, again and again, as php-fpm has them.
pub(crate) struct Crowd {
    clients: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
}

impl Crowd {
    pub(crate) fn of(stage: &Stage) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let one = |by_unix: bool| {
            let (tcp, unix) = (stage.listen, stage.path("client.sock"));
            let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let mut answer = Vec::new();
                    if by_unix {
                        let mut client = UnixStream::connect(&unix).await.expect("never refused");
                        client.write_all(b"PING\r\nQUIT\r\n").await.unwrap();
                        client.read_to_end(&mut answer).await.expect("served, whoever serves");
                    } else {
                        let mut client = TcpStream::connect(tcp).await.expect("never refused");
                        client.write_all(b"PING\r\nQUIT\r\n").await.unwrap();
                        client.read_to_end(&mut answer).await.expect("served, whoever serves");
                    }
                    // One that said nothing for long, on a busy machine, may have been asked to come again.
                    if answer.is_empty() {
                        continue;
                    }
                    assert_eq!(answer, b"+PONG\r\n+OK\r\n");
                    asked.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(1)).await;
                }
            })
        };
        Self { clients: (0..8).map(|i| one(i % 2 == 0)).collect(), stop, asked }
    }

    /// Some more have been served.
    pub(crate) async fn goes_on(&self) {
        let (until, end) = (self.asked.load(Ordering::Relaxed) + 100, Instant::now() + PATIENCE);
        while self.asked.load(Ordering::Relaxed) < until {
            assert!(Instant::now() < end, "nobody is served");
            sleep(PAUSE).await;
        }
    }

    pub(crate) async fn leave(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_after_the_other_takes_the_addresses_and_no_connect_is_refused() {
    let mut stage = Stage::new().await;
    let former = [local().to_string(), format!("unix:{}", stage.path("former.sock"))];
    let mut process = stage.start(&former);
    stage.until_serving().await;
    let mode = std::fs::metadata(stage.path("takeover.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let crowd = Crowd::of(&stage);
    for turn in 0..3 {
        let mut idle = Raw::connect(stage.listen).await;
        assert_eq!(idle.ask(&["PING"]).await, "+PONG\r\n");
        let mut queueing = Raw::connect(stage.listen).await;
        queueing.send(&command(&["MULTI"])).await;
        queueing.until(b"+OK\r\n").await;

        // What it has besides it opens itself, and what it does not have any more is closed.
        let more = local();
        let successor = stage.start(&[more.to_string()]);
        stage.until_serving().await;
        assert_eq!(timeout(PATIENCE, idle.line()).await.unwrap(), None, "the old one drains");
        crowd.goes_on().await;
        assert_eq!(process.ended().unwrap(), None, "not before its clients have left");
        queueing.send(&[command(&["INCR", "n"]), command(&["EXEC"])].concat()).await;
        queueing.until(format!("+QUEUED\r\n*1\r\n:{}\r\n", turn + 1).as_bytes()).await;
        assert_eq!(until_ended(&mut process).await, Some(0));
        assert_eq!(Raw::connect(more).await.ask(&["PING"]).await, "+PONG\r\n");
        // No file went with it that is the other's by now.
        stage.is_served().await;
        process = successor;
    }
    crowd.leave().await;
    assert!(TcpStream::connect(&former[0]).await.is_err());
    assert!(!Path::new(&stage.path("former.sock")).exists());
    process.signal(Signal::TERM).unwrap();
    assert_eq!(until_ended(&mut process).await, Some(0));
    for socket in ["client.sock", "takeover.sock", "admin.sock"] {
        assert!(!Path::new(&stage.path(socket)).exists(), "{socket} goes with the last one");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_cannot_serve_changes_nothing() {
    let mut stage = Stage::new().await;
    let mut process = stage.start(&[]);
    stage.until_serving().await;
    let mut client = Raw::connect(stage.listen).await;
    assert_eq!(client.ask(&["PING"]).await, "+PONG\r\n");

    // One of its addresses is another's.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut successor = stage.start(&[taken.local_addr().unwrap().to_string()]);
    assert_eq!(until_ended(&mut successor).await, Some(71));
    assert!(stage.log(2).contains("the address is in use by another process"), "{}", stage.log(2));
    stage.logged(1, "takeover: we go on: it ended before it could serve").await;
    stage.is_served().await;

    // It finds no master where the other has one: told to end, and killed, while it waits.
    let keys = std::mem::replace(&mut stage.keys, fixed(local()));
    for (n, signal, code) in [(3, Signal::TERM, Some(0)), (4, Signal::KILL, None)] {
        let mut successor = stage.start(&[]);
        stage.logged(n, "taking over from the pointsman that runs").await;
        // It listens where the next one would ask, but nobody asks there yet.
        let beside = stage.path(&format!("takeover.sock.{}", successor.id()));
        stage.until("waits", async || Path::new(&beside).exists()).await;
        let mut another = stage.start_with(&["ANOTHER=1".to_owned()], &[]);
        stage.started -= 1;
        assert_eq!(until_ended(&mut another).await, Some(71));
        let refusal = "cannot take over from the pointsman that runs: another one is about to take over";
        assert!(stage.log(n + 1).contains(refusal), "{}", stage.log(n + 1));
        successor.signal(signal).unwrap();
        assert_eq!(until_ended(&mut successor).await, code);
        let goes_on = async || stage.log(1).matches("it ended before it could serve").count() == n - 1;
        stage.until("goes on", goes_on).await;
        stage.is_served().await;
    }
    assert!(stage.log(3).contains("ending; the pointsman that runs goes on"), "{}", stage.log(3));
    assert_eq!(client.ask(&["PING"]).await, "+PONG\r\n", "who is connected has noticed nothing");
    stage.keys = keys;

    let mut successor = stage.start(&[]);
    stage.until_serving().await;
    assert_eq!(until_ended(&mut process).await, Some(0));
    // What a killed one leaves behind is in nobody's way.
    successor.kill().unwrap();
    let _last = stage.start(&[]);
    stage.until_serving().await;
    stage.is_served().await;
}

/// Both see what happens while the one drains. The other tells of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_are_told_by_one_of_two() {
    let mut stage = Stage::new().await;
    let events = stage.tell();
    let mut process = stage.start(&[]);
    stage.until_serving().await;
    stage.until("told", async || events() == ["master_found"]).await;
    let mut staying = Raw::connect(stage.listen).await;
    staying.send(&command(&["MULTI"])).await;
    staying.until(b"+OK\r\n").await;
    let _successor = stage.start(&[]);
    stage.until_serving().await;
    stage.until("told", async || events() == ["master_found"; 2]).await;

    stage.cluster.pause(Member::Node(0)).unwrap();
    for n in [1, 2] {
        stage.logged(n, "writes held: ").await;
    }
    stage.cluster.resume(Member::Node(0)).unwrap();
    for n in [1, 2] {
        stage.logged(n, "(interruption)").await;
    }
    drop(staying);
    assert_eq!(until_ended(&mut process).await, Some(0));
    let all = ["master_found", "master_found", "failover_begun", "failover_aborted"];
    stage.until("told", async || events().len() >= all.len()).await;
    assert_eq!(events(), all, "{} {}", stage.log(1), stage.log(2));
}

/// What an operator has told one, the next would not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_paused_keeps_the_place() {
    let mut stage = Stage::new().await;
    let mut process = stage.start(&[]);
    stage.until_serving().await;
    let file = stage.configure(&[]);
    crate::runs(&["pause", "s", "--config", &file]).await.unwrap();
    let mut successor = stage.start(&[]);
    assert_eq!(until_ended(&mut successor).await, Some(71));
    assert!(stage.log(2).contains("service `s` is paused: resume it first"), "{}", stage.log(2));
    crate::runs(&["resume", "s", "--config", &file]).await.unwrap();
    stage.is_served().await;
    let _successor = stage.start(&[]);
    stage.until_serving().await;
    assert_eq!(until_ended(&mut process).await, Some(0));
}

/// The next word at a socket of [`Stage::ask`].
fn word(asking: &StdUnixStream) -> String {
    let mut record = vec![0; 4096];
    let length = rustix::net::recv(asking, &mut record, rustix::net::RecvFlags::empty()).unwrap().1;
    String::from_utf8(record[..length].to_vec()).unwrap()
}

fn say(asking: &StdUnixStream, what: &str) {
    rustix::net::send(asking, what.as_bytes(), rustix::net::SendFlags::empty()).unwrap();
}

/// Whoever took the place of one that is paused would not know it, and one that is switching over would be cut short: also
/// if that begins when everything has been handed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_paused_or_switching_over_keeps_its_place() {
    let mut stage = Stage::watched(1).await;
    let mut process = stage.start(&[]);
    stage.until_serving().await;
    let admin = stage.admin.to_string();
    let order = async |words: &[&str]| crate::runs(&[words, &["--admin", &admin]].concat()).await.unwrap();
    let is_paused = "no service `mymaster` is paused: resume it first";
    let asking = stage.offered();
    order(&["pause", "mymaster"]).await;
    say(&asking, "ready");
    assert_eq!(word(&asking), is_paused);
    assert_eq!(word(&stage.ask()), is_paused);
    order(&["resume", "mymaster"]).await;

    let asking = stage.offered();
    // A Sentinel that does not answer is waited for.
    stage.cluster.pause(Member::Sentinel(0)).unwrap();
    let wanted = "{\"service\": \"mymaster\"}";
    let request = format!(
        "POST /switchover HTTP/1.1\r\nHost: {admin}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{wanted}",
        wanted.len()
    );
    let mut switchover = Raw::connect(stage.admin).await;
    switchover.send(request.as_bytes()).await;
    assert!(switchover.until(b"\r\n\r\n").await.starts_with(b"HTTP/1.1 200 "));
    say(&asking, "ready");
    assert_eq!(word(&asking), "no a switchover is under way");
    stage.cluster.resume(Member::Sentinel(0)).unwrap();
    stage.logged(1, "takeover: we go on: a switchover is under way").await;
    assert_eq!(process.ended().unwrap(), None);
    stage.is_served().await;
}

/// What it holds is served by it, and what it has begun to tell it tells to the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_in_a_failover_keeps_its_place_until_that_is_over() {
    let mut stage = Stage::watched(2).await;
    let events = stage.tell();
    let mut process = stage.start(&[]);
    stage.until_serving().await;
    let mut client = Raw::connect(stage.listen).await;
    assert_eq!(client.ask(&["PING"]).await, "+PONG\r\n");

    // Also where the failover begins when everything has been handed over.
    let asking = stage.offered();
    stage.cluster.kill(Member::Node(0)).unwrap();
    stage.logged(1, "writes held: ").await;
    client.send(&command(&["INCR", "n"])).await;
    say(&asking, "ready");
    let is_held = |word: &str| word.contains("writes of `mymaster` are held (") && word.contains("try again when");
    let refused = word(&asking);
    assert!(is_held(&refused) && refused.starts_with("no "), "{refused}");
    let mut successor = stage.start(&[]);
    assert_eq!(until_ended(&mut successor).await, Some(71));
    assert!(is_held(&stage.log(2)), "{}", stage.log(2));
    stage.logged(1, "takeover: refused: writes of `mymaster` are held").await;

    stage.cluster.failover(0).await.unwrap();
    client.until(b":1\r\n").await;
    let committed = Instant::now();
    let next = word(&stage.ask());
    // As long as its counts may take to be there.
    let is_soon = committed.elapsed() < Duration::from_secs(4);
    assert!(next.starts_with("no failover 1 of `mymaster` is not over (") || !is_soon, "{next}");
    stage.until("over", async || word(&stage.ask()) == "pointsman takeover 1").await;
    // (Whoever asked there has hung up.)
    stage.logged(1, "it ended before it could serve").await;
    let _successor = stage.start(&[]);
    stage.until_serving().await;
    assert_eq!(timeout(PATIENCE, client.line()).await.unwrap(), None, "the old one drains");
    assert_eq!(Raw::connect(stage.listen).await.ask(&["INCR", "n"]).await, ":2\r\n");
    assert_eq!(until_ended(&mut process).await, Some(0));
    let all = ["master_found", "failover_begun", "failover_committed", "failover_finished", "master_found"];
    stage.until("told", async || events().len() >= all.len()).await;
    assert_eq!(events(), all, "{} {}", stage.log(1), stage.log(3));
}

/// Where there is no master for long, another process may be what helps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_refuses_commands_gives_its_place() {
    let mut stage = Stage::watched(2).await;
    stage.keys += "hold_timeout = \"100ms\"\n";
    let mut process = stage.start(&[]);
    stage.until_serving().await;
    stage.cluster.kill(Member::Node(0)).unwrap();
    stage.logged(1, "commands are refused: ").await;
    let _successor = stage.start(&[]);
    stage.logged(2, "admin listening").await;
    assert_eq!(until_ended(&mut process).await, Some(0));
    stage.cluster.failover(0).await.unwrap();
    stage.until_serving().await;
    stage.is_served().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_at_either_end_is_told_and_changes_nothing() {
    let mut stage = Stage::new().await;
    let _process = stage.start(&[]);
    stage.until_serving().await;
    let hangs_up = stage.ask();
    drop(hangs_up);
    stage.logged(1, "we go on: it ended before it could serve").await;
    let babbles = stage.ask();
    rustix::net::send(&babbles, b"PING", rustix::net::SendFlags::empty()).unwrap();
    stage.logged(1, "we go on: it said another word than `ready`").await;
    stage.is_served().await;

    // A pointsman that does it in another way than this one.
    let path = stage.path("other.sock");
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(1).unwrap();
    let other = UnixListener::from(OwnedFd::from(socket));
    let text = std::fs::read_to_string(stage.configure(&[])).unwrap();
    let file = stage.path("other.toml");
    std::fs::write(&file, text.replace("takeover.sock", "other.sock")).unwrap();
    let greets = tokio::task::spawn_blocking(move || {
        let (asked, _) = other.accept().unwrap();
        rustix::net::send(&asked, b"pointsman takeover 2", rustix::net::SendFlags::empty()).unwrap();
        let mut end = [0; 8];
        rustix::net::recv(&asked, &mut end, rustix::net::RecvFlags::empty()).unwrap().1
    });
    let refused = crate::runs(&["run", "--config", &file]).await.unwrap_err();
    assert!(refused.contains("exit status: 71"), "{refused}");
    assert!(
        refused.contains("it said `pointsman takeover 2`, which a pointsman of this version does not"),
        "{refused}"
    );
    assert_eq!(greets.await.unwrap(), 0, "it hangs up");
    stage.is_served().await;
}

/// Kills a process that is nobody's child, at the end of the test.
struct Orphan(Pid);

impl Drop for Orphan {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, Signal::KILL);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_a_service_starts_its_successor_and_the_manager_hears_who_it_is() {
    let mut stage = Stage::new().await;
    let notify = stage.path("notify");
    let manager = UnixDatagram::bind(&notify).unwrap();
    let hears = async || {
        let mut message = vec![0; 4096];
        let length = timeout(PATIENCE, manager.recv(&mut message)).await.expect("hears").unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let until = async |words: &str| {
        loop {
            let message = hears().await;
            if message.starts_with(words) {
                return message;
            }
            assert!(!message.starts_with("STOPPING"), "{message}");
        }
    };
    let variables = [format!("NOTIFY_SOCKET={notify}"), format!("WATCHDOG_USEC={}", 2_000_000)];
    let former = local();
    let mut process = stage.start_with(&variables, &[former.to_string()]);
    let kept = |address: SocketAddr| format!("FDNAME=listen-127.0.0.1%3a{}", address.port());
    for address in [stage.listen, former] {
        // (In between it has that of the Unix socket kept.)
        while !until("FDSTORE=1\n").await.ends_with(&kept(address)) {}
    }
    let first = until("READY=1").await;
    assert!(first.contains("STATUS="), "{first}");
    stage.until_serving().await;
    let crowd = Crowd::of(&stage);

    // One address less: it is not kept any more, by whomever that was had.
    stage.configure(&[]);
    process.signal(Signal::USR2).unwrap();
    let main = async || {
        let said = until("MAINPID=").await;
        Orphan(Pid::from_raw(said.strip_prefix("MAINPID=").unwrap().parse().unwrap()).unwrap())
    };
    let successor = main().await;
    assert_ne!(successor.0.as_raw_nonzero().get(), i32::try_from(process.id()).unwrap());
    assert_eq!(until("FDSTOREREMOVE=1\n").await, format!("FDSTOREREMOVE=1\n{}", kept(former)));
    until("READY=1").await;
    until("WATCHDOG=1").await;
    assert_eq!(until_ended(&mut process).await, Some(0));
    crowd.goes_on().await;
    until("WATCHDOG=1").await;
    crowd.leave().await;
    assert!(stage.log(1).contains("a successor was started"), "{}", stage.log(1));

    // From the next one on a balancer looks at it: nothing is kept.
    stage.keys += "shape = \"central\"\n";
    stage.configure(&[]);
    rustix::process::kill_process(successor.0, Signal::USR2).unwrap();
    let last = main().await;
    let mut forgotten = Vec::new();
    for _ in 0..2 {
        forgotten.push(until("FDSTOREREMOVE=1\n").await);
    }
    assert!(forgotten[0].ends_with(&kept(stage.listen)) && forgotten[1].ends_with("client.sock"), "{forgotten:?}");
    until("READY=1").await;

    rustix::process::kill_process(last.0, Signal::TERM).unwrap();
    timeout(PATIENCE, async { while !hears().await.starts_with("STOPPING") {} }).await.unwrap();
    stage.until("ended", async || TcpStream::connect(stage.listen).await.is_err()).await;
    stage.until("removed", async || !Path::new(&stage.path("client.sock")).exists()).await;
}
