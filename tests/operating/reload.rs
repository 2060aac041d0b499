//! The configuration read again while pointsman runs: what changes, what goes on, and what becomes of the clients.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{PATIENCE, Raw, command};
use crate::threads::stop;
use pointsman::demo::cluster::{Cluster, Member, free_port};
use pointsman::demo::ledger::{Ledger, LedgerSettings};
use pointsman::demo::process::Process;
use pointsman::demo::proxy::{fetch, fetch_status};
use pointsman::demo::settings::Settings;
use pointsman::worker::INBOX;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

const PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// pointsman with a file that the test rewrites.
struct Stage {
    process: Process,
    file: PathBuf,
    log: PathBuf,
    admin: SocketAddr,
    head: &'static str,
}

fn local() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()))
}

/// A service with a fixed master.
fn fixed(name: &str, listen: SocketAddr, master: SocketAddr, keys: &str) -> String {
    format!("[[service]]\nname = \"{name}\"\nlisten = [\"{listen}\"]\nmaster = \"{master}\"\n{keys}\n")
}

impl Stage {
    async fn start(dir: &Cluster, text: &str) -> Self {
        Self::start_with(dir, HEAD, text).await
    }

    /// With these keys of the process.
    async fn start_with(dir: &Cluster, head: &'static str, text: &str) -> Self {
        let (file, log) = (dir.dir().join("pointsman.toml"), dir.dir().join("pointsman.log"));
        let admin = local();
        let output = std::fs::File::create(&log).unwrap();
        write(&file, admin, &format!("{head}{text}"));
        let args = ["run".to_owned(), "--config".to_owned(), file.display().to_string()];
        let process = dir.supervisor().spawn(Path::new(env!("CARGO_BIN_EXE_pointsman")), args, Some(output)).unwrap();
        let stage = Self { process, file, log, admin, head };
        stage.until(|status| status["services"].as_array().unwrap().iter().all(|s| s["phase"] == "stable")).await;
        stage
    }

    fn write(&self, text: &str) {
        write(&self.file, self.admin, &format!("{}{text}", self.head));
    }

    /// `pointsman reload`: exit code, stdout, stderr.
    fn reload(&self) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
        let output = command.args(["reload", "--admin", &self.admin.to_string()]).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// What a reload that succeeds says changed.
    fn reloaded(&self) -> String {
        let (code, out, err) = self.reload();
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        out
    }

    async fn until(&self, is_so: impl Fn(&serde_json::Value) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !fetch_status(self.admin).await.is_ok_and(|status| is_so(&status)) {
            assert!(Instant::now() < end, "never so: {}", self.log());
            sleep(PAUSE).await;
        }
    }

    async fn until_logged(&self, words: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.log().contains(words) {
            assert!(Instant::now() < end, "{words} was never said: {}", self.log());
            sleep(PAUSE).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    async fn metric(&self, name: &str) -> f64 {
        let page = fetch(self.admin, "/metrics").await.unwrap();
        let line = page.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    }
}

fn write(file: &Path, admin: SocketAddr, text: &str) {
    std::fs::write(file, format!("admin = \"{admin}\"\n{text}")).unwrap();
}

const HEAD: &str = "workers = 2\ndrain_timeout = \"10s\"\n";

async fn single() -> (Cluster, SocketAddr) {
    let cluster = Cluster::start(Settings::single()).await.unwrap();
    let addr = cluster.addr(Member::Node(0));
    (cluster, addr)
}

/// Which server answers here.
async fn port(client: &mut Raw) -> u16 {
    let answer = client.ask(&["CONFIG", "GET", "port"]).await;
    answer.lines().last().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_come_change_and_go_and_no_client_is_dropped_that_need_not_be() {
    let ((first, one), (_second, two)) = (single().await, single().await);
    let (a, b, c) = (local(), local(), local());
    let stage = Stage::start(&first, &(fixed("a", a, one, "") + &fixed("b", b, two, ""))).await;
    let mut of_a = Raw::connect(a).await;
    let id = of_a.ask(&["CLIENT", "ID"]).await;
    let mut subscribed = Raw::connect(a).await;
    subscribed.send(&command(&["SUBSCRIBE", "news"])).await;
    subscribed.until(b":1\r\n").await;
    let mut idle_of_b = Raw::connect(b).await;
    assert_eq!(port(&mut idle_of_b).await, two.port());
    let mut queueing = Raw::connect(b).await;
    queueing.send(&command(&["MULTI"])).await;
    queueing.until(b"+OK\r\n").await;

    // `a` takes over the address of `b`, which ends; its own goes to `c`.
    stage.write(&(fixed("c", a, two, "") + &fixed("a", b, one, "limits = { max_clients = 3 }")));
    let said = "service c begins\nservice a changed: listen, limits.max_clients\nservice b ends: its clients leave\n";
    assert_eq!(stage.reloaded(), said);
    let names = |status: &serde_json::Value| -> Vec<String> {
        status["services"].as_array().unwrap().iter().map(|s| s["service"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&fetch_status(stage.admin).await.unwrap()), ["c", "a"]);
    assert_eq!(of_a.ask(&["CLIENT", "ID"]).await, id, "the same client as before");
    assert_eq!(of_a.ask(&["PUBLISH", "news", "flash"]).await, ":1\r\n");
    subscribed.until(b"flash\r\n").await;
    assert_eq!(timeout(PATIENCE, idle_of_b.line()).await.unwrap(), None, "it had nothing to wait for");
    let (mut to_a, mut to_c) = (Raw::connect(b).await, Raw::connect(a).await);
    assert_eq!((port(&mut to_a).await, port(&mut to_c).await), (one.port(), two.port()));
    let refused = Raw::connect(b).await.rest().await;
    assert!(refused.starts_with(b"-TRYAGAIN ") && refused.ends_with(b"(limits.max_clients)\r\n"), "{refused:?}");
    // What was begun is finished, on the server where it was begun.
    queueing.send(&[command(&["SET", "late", "1"]), command(&["EXEC"])].concat()).await;
    queueing.until(b"*1\r\n+OK\r\n").await;
    assert_eq!(timeout(PATIENCE, queueing.line()).await.unwrap(), None);
    assert_eq!(to_c.ask(&["GET", "late"]).await, "$1\r\n1\r\n");
    stage.until_logged("the service has ended").await;

    // A listener more, and one less.
    stage.write(&(fixed("c", c, two, "") + &fixed("a", b, one, "limits = { max_clients = 3 }")));
    assert_eq!(stage.reloaded(), "service c changed: listen\n");
    assert_eq!(port(&mut Raw::connect(c).await).await, two.port());
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(a).await.is_ok() {
        assert!(Instant::now() < end, "still listening");
        sleep(PAUSE).await;
    }
    assert_eq!(port(&mut to_c).await, two.port(), "who was there stays");
    assert_eq!(stage.reloaded(), "nothing has changed\n");
    assert_eq!(stage.metric("pointsman_config_reloads_total{result=\"success\"}").await, 3.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_changes_nothing_and_says_why() {
    let (mut first, one) = single().await;
    let listen = local();
    let stage = Stage::start(&first, &fixed("a", listen, one, "")).await;
    let mut client = Raw::connect(listen).await;
    assert_eq!(port(&mut client).await, one.port());

    stage.write(&(fixed("a", listen, one, "hold_timout = \"1s\"") + "[log]\nlevel = \"debug\"\n"));
    let (code, out, err) = stage.reload();
    assert_eq!((code, out.as_str()), (78, ""), "{err}");
    assert!(err.contains("pointsman.toml:8:1: unknown key `hold_timout`"), "{err}");
    assert!(err.ends_with("pointsman: not reloaded, nothing has changed\n"), "{err}");

    // Of two new addresses one is taken: neither is listened on.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (free, taken_at) = (local(), taken.local_addr().unwrap());
    stage.write(&(fixed("b", free, one, "") + &fixed("a", taken_at, one, "")));
    stage.process.signal(Signal::HUP).unwrap();
    let why = format!("not reloaded: cannot listen on {taken_at}: the address is in use by another process");
    stage.until_logged(&why).await;
    assert!(TcpStream::connect(free).await.is_err());
    assert_eq!(port(&mut client).await, one.port());
    assert_eq!(port(&mut Raw::connect(listen).await).await, one.port());
    assert_eq!(stage.metric("pointsman_config_last_reload_successful").await, 0.0);
    assert_eq!(stage.metric("pointsman_config_reloads_total{result=\"failure\"}").await, 2.0);

    // It may be ourselves who is in the way.
    let wider = SocketAddr::from((Ipv4Addr::UNSPECIFIED, listen.port()));
    stage.write(&fixed("a", wider, one, ""));
    let (code, _, err) = stage.reload();
    let why = format!(
        "cannot listen on {wider}: it overlaps with {listen}, where we listen until then: this takes a restart"
    );
    assert!(code == 78 && err.contains(&why), "{code} {err}");
    assert_eq!(port(&mut Raw::connect(listen).await).await, one.port());
    assert_eq!(stage.metric("pointsman_config_reloads_total{result=\"failure\"}").await, 3.0);

    // What can only be set at the start is named, every time, and the rest is in force.
    let text = fixed("a", listen, one, "") + "[log]\nlevel = \"pointsman=debug\"\nformat = \"json\"\n";
    stage.write(&text);
    let said = stage.reloaded();
    assert_eq!(said, "changed: log.level\nneeds a restart, unchanged till then: log.format\n");
    assert_eq!(stage.reloaded(), "needs a restart, unchanged till then: log.format\n");
    let (code, _, err) = stage.reload();
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(stage.metric("pointsman_config_last_reload_successful").await, 1.0);
    first.kill(Member::Node(0)).unwrap();
    client.send(&command(&["PING"])).await;
    stage.until_logged("DEBUG").await;

    let (code, _, err) = {
        let nobody = local();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
        let output = command.args(["reload", "--admin", &nobody.to_string()]).output().unwrap();
        (output.status.code().unwrap(), output.stdout, String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(code, 69, "{err}");
}

/// Where more clients wait for a worker than it has room for, nobody else waits for it: neither who reloads, nor who ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_stuck_keeps_nobody_from_reloading_and_ending() {
    const CLIENTS: usize = 2 * INBOX + 100;
    // Every second client is the other worker's, and one more is in the hands of the one that accepts.
    stuck("worker-1", CLIENTS, CLIENTS - 2 * INBOX - 1).await;
    // The one that accepts.
    stuck("worker-0", 1, 1).await;
}

/// So many clients come, and no more than so many of them are not accepted.
async fn stuck(worker: &str, clients: usize, unaccepted: usize) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let (first, one) = single().await;
    let (a, b) = (local(), local());
    let head = "workers = 2\ndrain_timeout = \"500ms\"\n";
    let mut stage = Stage::start_with(&first, head, &fixed("a", a, one, "")).await;
    let stopped = stop(stage.process.id(), worker).await;
    let mut open = Vec::new();
    for _ in 0..clients {
        open.push(TcpStream::connect(a).await.unwrap());
    }
    let end = Instant::now() + PATIENCE;
    while waiting(a) > unaccepted {
        assert!(Instant::now() < end, "{} wait: {}", waiting(a), stage.log());
        sleep(PAUSE).await;
    }
    stage.write(&(fixed("a", a, one, "") + &fixed("b", b, one, "")));
    assert_eq!(stage.reloaded(), "service b begins\n");
    TcpStream::connect(b).await.unwrap();
    stage.process.signal(Signal::TERM).unwrap();
    stage.until_logged("drain_timeout has passed; closing what is left").await;
    // Nobody ends while a debugger has one of his threads.
    drop(stopped);
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = stage.process.ended().unwrap() {
            break assert!(status.success(), "{status}");
        }
        assert!(Instant::now() < end, "it does not end: {}", stage.log());
        sleep(PAUSE).await;
    }
}

/// How many the kernel has completed that are not accepted.
fn waiting(listen: SocketAddr) -> usize {
    let output = Command::new("ss").args(["-Hlnt", "src", &listen.to_string()]).output();
    let line = String::from_utf8(output.expect("ss is installed (Debian package iproute2)").stdout).unwrap();
    line.split_whitespace().nth(1).unwrap_or_else(|| panic!("nobody listens there: {line}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_changed_under_clients_that_know_none() {
    let settings = Settings { redis_lines: vec!["user app on >old ~* &* +@all".to_owned()], ..Settings::single() };
    let cluster = Cluster::start(settings).await.unwrap();
    let redis = cluster.addr(Member::Node(0));
    let (listen, secret) = (local(), cluster.dir().join("secret"));
    std::fs::write(&secret, "old\n").unwrap();
    let keys = format!("client_auth = \"inject\"\nbackend_user = \"app\"\nbackend_password_file = {secret:?}");
    let stage = Stage::start(&cluster, &fixed("a", listen, redis, &keys)).await;
    let mut before = Raw::connect(listen).await;
    assert_eq!(before.ask(&["ACL", "WHOAMI"]).await, "$3\r\napp\r\n");

    // As operators do it: both are valid, then everybody is told, then the old one goes.
    cluster.ask(Member::Node(0), &["ACL", "SETUSER", "app", ">new"]).await.unwrap();
    std::fs::write(&secret, "new\n").unwrap();
    assert_eq!(stage.reloaded(), "service a changed: backend user or password\n");
    cluster.ask(Member::Node(0), &["ACL", "SETUSER", "app", "<old"]).await.unwrap();
    // The connections that were opened with the old one go; who was there dials with the new one.
    cluster.ask(Member::Node(0), &["CLIENT", "KILL", "USER", "app"]).await.unwrap();
    assert_eq!(before.ask(&["ACL", "WHOAMI"]).await, "$3\r\napp\r\n");
    assert_eq!(Raw::connect(listen).await.ask(&["SET", "k", "1"]).await, "+OK\r\n");
    stage.until(|status| status["services"][0]["phase"] == "stable").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_and_a_failover_under_load_lose_nothing() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let listen = local();
    let sentinels: Vec<String> = cluster.sentinels().iter().map(SocketAddr::to_string).collect();
    let text = |sentinels: &[String], keys: &str| {
        let name = cluster.service();
        format!("[[service]]\nname = \"{name}\"\nlisten = [\"{listen}\"]\nsentinels = {sentinels:?}\n{keys}\n")
    };
    let stage = Stage::start(&cluster, &text(&sentinels[..1], "")).await;
    let ledger = Ledger::start(LedgerSettings::new(listen));
    for (i, sentinels) in [&sentinels[1..], &sentinels[..2], &sentinels[2..]].into_iter().enumerate() {
        stage.write(&text(sentinels, &format!("hold_timeout = \"1{i}s\"\nconnect_timeout = \"{}s\"", i + 1)));
        assert!(stage.reloaded().contains("hold_timeout"));
        let heard = |s: &serde_json::Value| s["up"] == true && s["error"].is_null();
        stage
            .until(|status| {
                status["services"][0]["sentinels"].as_array().unwrap().iter().filter(|s| heard(s)).count() == 3
            })
            .await;
    }
    let old = cluster.master().await.unwrap();
    cluster.failover(0).await.unwrap();
    // In the middle of it, with nothing that concerns the Sentinels.
    stage.write(&text(&sentinels[2..], "hold_timeout = \"14s\"\nconnect_timeout = \"3s\""));
    assert!(stage.reloaded().contains("hold_timeout"));
    let new = cluster.wait_master_other_than(old, PATIENCE).await.unwrap();
    let new_addr = cluster.addr(Member::Node(new)).to_string();
    stage
        .until(|status| {
            status["services"][0]["phase"] == "stable" && status["services"][0]["master"] == new_addr.as_str()
        })
        .await;
    let mut master = cluster.connect(Member::Node(new)).await.unwrap();
    let tally = ledger.audit(&mut master).await.unwrap();
    assert_eq!((tally.errors, tally.dropped(), tally.lost), (0, 0, 0), "{tally:?}: {}", stage.log());
}
