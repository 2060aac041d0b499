//! What is on the new master before held writes get there: the scripts that clients use and their subscriptions; and
//! what becomes of scripts that a server has lost.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::support::{Front, PATIENCE, Raw, command, text};
use pointsman::config::Commit;
use pointsman::demo::cluster::{Cluster, Member};
use pointsman::demo::proxy::{Proxy, ProxySettings};
use pointsman::demo::settings::Settings;
use pointsman::demo::wire;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const SETTLE_LIMIT: Duration = Duration::from_secs(40);
/// Failovers until one in which the workers prepared the new master in time: a busy machine may be too slow.
const ATTEMPTS: usize = 3;
const SUBSCRIBERS: u64 = 20;
const COUNT: &str = "return redis.call('incr', KEYS[1])";
const ADD: &str = "return redis.call('incrby', KEYS[1], ARGV[1])";

fn digest(script: &str) -> String {
    sha1_smol::Sha1::from(script).digest().to_string()
}

/// Sends one command again and again and looks at what comes; connects anew where it is closed.
struct Loop {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Loop {
    fn start(proxy: std::net::SocketAddr, words: &[&str], is_right: fn(&str) -> bool) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let command = command(words);
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&answered));
        let task = tokio::spawn(async move {
            let mut client = Raw::connect(proxy).await;
            while !stopped.load(Ordering::Relaxed) {
                client.send(&command).await;
                match client.line().await {
                    Some(line) => {
                        assert!(is_right(&line), "{line:?}");
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    // A write of unknown outcome.
                    None => client = Raw::connect(proxy).await,
                }
                // Not as fast as can be: the servers have other things to do.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Self { stop, answered, task }
    }

    /// Waits for so many answers more.
    async fn more(&self, n: u64) {
        let aim = self.answered.load(Ordering::Relaxed) + n;
        let end = Instant::now() + PATIENCE;
        while self.answered.load(Ordering::Relaxed) < aim && !self.task.is_finished() {
            assert!(Instant::now() < end, "it stands still");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

async fn subscribe(proxy: std::net::SocketAddr, i: u64) -> Raw {
    let mut client = Raw::connect(proxy).await;
    if i.is_multiple_of(2) {
        client.send(&command(&["HELLO", "3"])).await;
        client.until(b"modules\r\n*0\r\n").await;
    }
    client.send(&command(if i.is_multiple_of(3) { &["PSUBSCRIBE", "n*"] } else { &["SUBSCRIBE", "news"] })).await;
    client.until(b":1\r\n").await;
    client
}

/// Clients of both workers publish and call scripts all the time, through failovers. Returns whether the workers were
/// in time.
async fn prepared(kill: bool) {
    let mut cluster = Cluster::start(Settings::default()).await.unwrap();
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_pointsman"));
    let settings = ProxySettings { binary, commit: Commit::Confirmed, workers: 2, extra: Vec::new() };
    let proxy = Proxy::start(&cluster, &settings).await.unwrap();

    let mut client = Raw::connect(proxy.listen()).await;
    let loaded = client.ask(&["SCRIPT", "LOAD", COUNT]).await;
    assert_eq!(loaded, format!("$40\r\n{}\r\n", digest(COUNT)));
    assert_eq!(client.ask(&["EVAL", ADD, "1", "sum", "0"]).await, ":0\r\n");
    for replica in 1..3 {
        let there =
            cluster.ask(Member::Node(replica), &["SCRIPT", "EXISTS", &digest(COUNT), &digest(ADD)]).await.unwrap();
        let there: Vec<String> = wire::elements(&there).iter().map(wire::text).collect();
        assert_eq!(there, ["0", "0"], "scripts are not replicated: that is why all this is needed");
    }
    let mut subscribers = Vec::new();
    for i in 0..SUBSCRIBERS {
        subscribers.push(subscribe(proxy.listen(), i).await);
    }
    let mut queueing = Raw::connect(proxy.listen()).await;

    for attempt in 1..=ATTEMPTS {
        let old = cluster.master().await.unwrap();
        queueing.send(&[command(&["MULTI"]), command(&["EVALSHA", &digest(ADD), "1", "tx", "1"])].concat()).await;
        assert_eq!(text(&queueing.until(b"+QUEUED\r\n").await), "+OK\r\n+QUEUED\r\n");
        let mut loops = Vec::new();
        for _ in 0..4 {
            loops.push(Loop::start(proxy.listen(), &["PUBLISH", "news", "flash"], |l| l == ":20\r\n"));
            loops.push(Loop::start(proxy.listen(), &["EVALSHA", &digest(COUNT), "1", "n"], |l| l.starts_with(':')));
            loops.push(Loop::start(proxy.listen(), &["EVALSHA_RO", &digest("return 'x'"), "0"], |l| {
                l == "-NOSCRIPT No matching script. Please use EVAL.\r\n"
            }));
        }
        for l in &loops {
            l.more(10).await;
        }
        if kill {
            cluster.kill(Member::Node(old)).unwrap();
            cluster.wait_master_other_than(old, SETTLE_LIMIT).await.unwrap();
        } else {
            cluster.failover(0).await.unwrap();
        }
        cluster.wait_settled(SETTLE_LIMIT).await.unwrap();
        for l in &loops {
            l.more(10).await;
        }
        let in_time = !proxy.log_tail().contains("before scripts and subscriptions");
        for l in loops {
            if in_time {
                l.end().await;
            } else {
                l.task.abort();
            }
        }
        if in_time {
            queueing.send(&command(&["EXEC"])).await;
            assert!(text(&queueing.until(b"\r\n:").await).ends_with("*1\r\n:"), "{}", proxy.log_tail());
            for s in &mut subscribers {
                s.until(b"flash\r\n").await;
            }
            assert!(proxy.metric("pointsman_scripts_loaded_total", "").await.unwrap() >= 2.0);
            return;
        }
        assert!(attempt < ATTEMPTS && !kill, "the new master was never prepared in time\n{}", proxy.log_tail());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_and_subscriptions_are_back_before_writes_in_a_planned_failover() {
    prepared(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_and_subscriptions_are_back_before_writes_when_the_master_died() {
    prepared(true).await;
}

/// What a restart does to scripts, without what it does to everything else: they are flushed behind pointsman's back.
#[tokio::test]
async fn a_server_that_has_lost_its_scripts_is_given_them_again() {
    let front = Front::start(Settings::single(), &["--workers", "2"]).await;
    let node = Member::Node(0);
    let mut one = Raw::connect(front.proxy).await;
    let mut two = Raw::connect(front.proxy).await;
    one.ask(&["SCRIPT", "LOAD", COUNT]).await;
    one.ask(&["EVAL", ADD, "1", "k", "5"]).await;
    front.cluster.ask(node, &["SCRIPT", "FLUSH"]).await.unwrap();
    // A client of the other worker; what stands behind the command runs behind it.
    let pipeline =
        [command(&["EVALSHA", &digest(ADD), "1", "k", "1"]), command(&["GET", "k"]), command(&["INCR", "k"])].concat();
    two.send(&pipeline).await;
    assert_eq!(text(&two.until(b":7\r\n").await), ":6\r\n$1\r\n6\r\n:7\r\n", "{}", front.log());
    assert_eq!(one.ask(&["EVALSHA", &digest(COUNT), "1", "k"]).await, ":8\r\n");
    assert_eq!(front.metric("pointsman_scripts_loaded_total", "").await, 2.0);

    front.cluster.ask(node, &["SCRIPT", "FLUSH"]).await.unwrap();
    // What ran behind it cannot run again: then the refusal is the truth.
    let pipeline = [command(&["EVALSHA", &digest(COUNT), "1", "k"]), command(&["EVAL", ADD, "1", "k", "1"])].concat();
    two.send(&pipeline).await;
    assert_eq!(text(&two.until(b":9\r\n").await), "-NOSCRIPT No matching script. Please use EVAL.\r\n:9\r\n");

    // Flushed by a client, they are gone for all.
    assert_eq!(one.ask(&["SCRIPT", "FLUSH"]).await, "+OK\r\n");
    for client in [&mut one, &mut two] {
        for script in [COUNT, ADD] {
            let answer = client.ask(&["EVALSHA", &digest(script), "1", "k", "1"]).await;
            assert_eq!(answer, "-NOSCRIPT No matching script. Please use EVAL.\r\n");
        }
    }
}

/// One who may only call scripts that others have loaded gets none loaded by way of pointsman.
#[tokio::test]
async fn a_script_that_the_server_did_not_accept_is_not_remembered() {
    let front = Front::start(Settings::single(), &[]).await;
    let node = Member::Node(0);
    front.cluster.ask(node, &["ACL", "SETUSER", "low", "on", ">pw", "~*", "+evalsha", "+incr", "+echo"]).await.unwrap();
    let mut low = Raw::connect(front.proxy).await;
    assert_eq!(low.ask(&["AUTH", "low", "pw"]).await, "+OK\r\n");
    assert!(low.ask(&["EVAL", COUNT, "1", "k"]).await.starts_with("-NOPERM"));
    assert!(low.ask(&["SCRIPT", "LOAD", COUNT]).await.starts_with("-NOPERM"));
    let answer = low.ask(&["EVALSHA", &digest(COUNT), "1", "k"]).await;
    assert_eq!(answer, "-NOSCRIPT No matching script. Please use EVAL.\r\n");
    // The same where another client has had it accepted, and the server lost it.
    Raw::connect(front.proxy).await.ask(&["EVAL", COUNT, "1", "k"]).await;
    front.cluster.ask(node, &["SCRIPT", "FLUSH"]).await.unwrap();
    assert_eq!(low.ask(&["EVALSHA", &digest(COUNT), "1", "k"]).await, ":2\r\n");
}

/// A script can answer in the server's words, when it has run.
#[tokio::test]
async fn a_script_that_only_says_that_it_is_not_there_runs_once() {
    let front = Front::start(Settings::single(), &[]).await;
    let mut client = Raw::connect(front.proxy).await;
    let literal =
        "redis.call('incr', KEYS[1]) return redis.error_reply('NOSCRIPT No matching script. Please use EVAL.')";
    let given = "redis.call('incr', KEYS[1]) return redis.error_reply(ARGV[1])";
    for (n, script) in [literal, given].into_iter().enumerate() {
        client.ask(&["SCRIPT", "LOAD", script]).await;
        let call = ["EVALSHA", &digest(script), "1", "k", "NOSCRIPT No matching script. Please use EVAL."];
        assert!(client.ask(&call).await.starts_with("-NOSCRIPT"));
        assert_eq!(client.ask(&["GET", "k"]).await, format!("$1\r\n{}\r\n", n + 1));
    }
}
