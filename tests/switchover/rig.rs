//! A cluster, pointsman before it, clients of both, and `pointsman switchover` as an operator runs it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use pointsman::config::Commit;
use pointsman::demo::cluster::{Cluster, Member, Settings};
use pointsman::demo::ledger::{Ledger, LedgerSettings};
use pointsman::demo::observer::{Observer, Sight};
use pointsman::demo::proxy::{Proxy, ProxySettings};
use pointsman::demo::tally::Tally;
use pointsman::demo::wire::{Connection, Reply, elements, info_field, text};
use pointsman::demo::{PLANNED, Promise};
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Longest wait for anything that must happen; Sentinel notices some things after 10 s, and may take twice that.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const BINARY: &str = env!("CARGO_BIN_EXE_pointsman");
/// Acknowledged writes before and after, so that the figures mean something.
const ENOUGH: u64 = 500;

/// These tests measure time, and a switchover gives up where the machine is too busy for it: one cluster at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Fields drop in this order.
pub(crate) struct Rig {
    pub(crate) ledger: Option<Ledger>,
    pub(crate) observer: Observer,
    pub(crate) proxy: Proxy,
    pub(crate) cluster: Cluster,
    _alone: MutexGuard<'static, ()>,
}

/// What `pointsman switchover` said.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) text: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = [output.stdout, output.stderr].concat();
        Self { code: output.status.code(), text: String::from_utf8_lossy(&text).into_owned() }
    }
}

impl Rig {
    pub(crate) async fn start(settings: Settings) -> Self {
        Self::start_with(settings, |_| Vec::new()).await
    }

    /// `flags`: more of pointsman's, for a cluster that runs.
    pub(crate) async fn start_with(settings: Settings, flags: impl FnOnce(&Cluster) -> Vec<String>) -> Self {
        let alone = ALONE.lock().await;
        let cluster = Cluster::start(settings).await.unwrap();
        let flags = flags(&cluster);
        let proxy = start_proxy(&cluster, flags).await;
        let observer = Observer::start(&cluster, None);
        let rig = Self { ledger: None, observer, proxy, cluster, _alone: alone };
        rig.until_settled().await;
        rig
    }

    /// Starts the clients of pointsman and lets them get warm.
    pub(crate) async fn load(&mut self) {
        self.ledger = Some(Ledger::start(LedgerSettings::new(self.proxy.listen())));
        self.write_on().await;
        // Connecting is not what is measured.
        self.audit(PLANNED).await;
    }

    /// Waits until more writes are acknowledged.
    pub(crate) async fn write_on(&self) {
        let ledger = self.ledger.as_ref().unwrap();
        let (aim, end) = (ledger.tally().acknowledged + ENOUGH, Instant::now() + PATIENCE);
        while ledger.tally().acknowledged < aim {
            assert!(Instant::now() < end, "the clients stand still: {:?}\n{}", ledger.tally(), self.proxy.log_tail());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the clients were promised is true of what the master holds.
    pub(crate) async fn audit(&self, promise: Promise) -> Tally {
        self.write_on().await;
        let ledger = self.ledger.as_ref().unwrap();
        let master = Member::Node(self.cluster.master().await.unwrap());
        let mut direct = self.cluster.connect(master).await.unwrap();
        let tally = ledger.audit(&mut direct).await.unwrap();
        let broken = promise.broken(&tally, 20, false);
        assert!(broken.is_empty(), "{broken:?}\n{tally:?}\n{}", self.proxy.log_tail());
        ledger.go_on();
        tally
    }

    /// Runs `pointsman switchover` to its end.
    pub(crate) async fn switchover(&self, more: &[&str]) -> Said {
        self.begin_switchover(more).await.unwrap()
    }

    /// Runs `pointsman switchover` beside the test.
    pub(crate) fn begin_switchover(&self, more: &[&str]) -> JoinHandle<Said> {
        let args = [&["switchover", "mymaster"], more].concat();
        command(&self.proxy.admin().to_string(), &args)
    }

    /// Runs a subcommand that talks to this pointsman.
    pub(crate) async fn run(&self, args: &[&str]) -> Said {
        self.run_at(&self.proxy.admin().to_string(), args).await
    }

    /// The same for another address.
    pub(crate) async fn run_at(&self, admin: &str, args: &[&str]) -> Said {
        command(admin, args).await.unwrap()
    }

    pub(crate) async fn service(&self) -> Value {
        self.proxy.status().await.unwrap()["services"][0].clone()
    }

    pub(crate) async fn until(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let service = self.service().await;
            if fits(&service) {
                return service;
            }
            assert!(Instant::now() < end, "never {what}: {service:#}\n{}", self.proxy.log_tail());
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn until_settled(&self) {
        self.until("settled", |s| s["settled"] == true).await;
    }

    pub(crate) fn addr(&self, node: usize) -> SocketAddr {
        self.cluster.addr(Member::Node(node))
    }

    pub(crate) async fn ask(&self, node: usize, command: &[&str]) -> Reply {
        self.cluster.ask(Member::Node(node), command).await.unwrap()
    }

    pub(crate) async fn role(&self, node: usize) -> String {
        elements(&self.ask(node, &["ROLE"]).await).first().map(text).unwrap_or_default()
    }

    pub(crate) async fn priority(&self, node: usize) -> String {
        text(&elements(&self.ask(node, &["CONFIG", "GET", "replica-priority"]).await)[1])
    }

    /// When another node than `old` said that it is master: what the commit waits for is Sentinel's affair.
    pub(crate) fn promoted(&self, since: Instant, old: usize) -> Instant {
        let is_promotion = |s: &Sight| matches!(s, Sight::Role(i, Some(role)) if *i != old && role == "master");
        self.observer.first(since, is_promotion).expect("the switchover is done, so this was seen")
    }

    /// Waits until a replica is about where the master is.
    pub(crate) async fn until_caught_up(&self, node: usize) {
        let end = Instant::now() + PATIENCE;
        let mut lag = i64::MAX;
        while lag > 100_000 {
            assert!(Instant::now() < end, "node {node} is {lag} bytes behind\n{}", self.proxy.log_tail());
            sleep(Duration::from_millis(20)).await;
            lag = self.offset(0).await - self.offset(node).await;
        }
    }

    async fn offset(&self, node: usize) -> i64 {
        let info = self.ask(node, &["INFO", "replication"]).await;
        info_field(&info, "master_repl_offset").and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// A node's configuration file.
    pub(crate) fn config(&self, node: usize) -> PathBuf {
        let port = self.addr(node).port();
        self.cluster.dir().join(format!("redis-server-{port}")).join("redis.conf")
    }

    /// Nothing is left of a switchover that was given up: no pause, no hold, no priority.
    pub(crate) async fn is_as_before(&self, said: &Said) {
        let service = self.until("flowing", |s| s["writes"]["flow"] == "flowing").await;
        assert_eq!(service["generation"], 1, "{}\n{}", said.text, self.proxy.log_tail());
        for node in (0..3).filter(|n| self.cluster.is_running(Member::Node(*n))) {
            assert_eq!(self.priority(node).await, "100", "node {node}\n{}", said.text);
        }
        let begun = Instant::now();
        assert_eq!(text(&self.ask(0, &["SET", "still", "here"]).await), "OK", "{}", said.text);
        // A pause that was left to expire would take longer.
        assert!(begun.elapsed() < Duration::from_millis(250) + 2 * self.observer.noise(), "{}", said.text);
    }
}

fn command(admin: &str, args: &[&str]) -> JoinHandle<Said> {
    let mut command = Command::new(BINARY);
    command.args(args).args(["--admin", admin]);
    tokio::task::spawn_blocking(move || command.output().unwrap().into())
}

pub(crate) async fn start_proxy(cluster: &Cluster, extra: Vec<String>) -> Proxy {
    let settings = ProxySettings { binary: PathBuf::from(BINARY), commit: Commit::Confirmed, workers: 2, extra };
    Proxy::start(cluster, &settings).await.unwrap()
}

/// A client that writes to the master itself, past pointsman, until it is told that this is no master.
pub(crate) struct Direct {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<(u64, String)>>,
}

impl Direct {
    pub(crate) fn start(addr: SocketAddr, writers: usize) -> Self {
        let (stop, stopping) = watch::channel(false);
        let write = |i: usize| {
            let stopping = stopping.clone();
            async move {
                let mut connection = Connection::open(addr, PATIENCE).await.unwrap();
                let (key, mut acknowledged) = (format!("direct:{i}"), 0);
                while !*stopping.borrow() {
                    match connection.call(&["INCR", &key], PATIENCE).await {
                        Ok(Reply::Integer(_)) => acknowledged += 1,
                        other => return (acknowledged, format!("{other:?}")),
                    }
                }
                (acknowledged, "stopped".to_owned())
            }
        };
        Self { tasks: (0..writers).map(|i| tokio::spawn(write(i))).collect(), stop }
    }

    /// Ends it without an account.
    pub(crate) fn abandon(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    /// Ends it: what was acknowledged is there. Returns how much that was, and how the first one ended.
    pub(crate) async fn settle_accounts(self, rig: &Rig, master: usize) -> (u64, String) {
        self.stop.send_replace(true);
        let (mut total, mut end) = (0, String::new());
        for (i, task) in self.tasks.into_iter().enumerate() {
            let (acknowledged, how) = task.await.unwrap();
            let held = rig.ask(master, &["GET", &format!("direct:{i}")]).await;
            let held: u64 = text(&held).parse().unwrap();
            // Of one that lost its connection the last write may have run.
            let last = u64::from(how.contains("Err"));
            assert!(
                (acknowledged..=acknowledged + last).contains(&held),
                "direct writer {i}: {acknowledged} acknowledged, {held} there, ended by {how}\n{}",
                rig.proxy.log_tail()
            );
            total += acknowledged;
            end = how;
        }
        (total, end)
    }
}
