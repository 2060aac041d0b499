//! `pointsman slowlog` and `pointsman hotkeys`, on a real Redis: what was slow and where it waited, and which keys are hot.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{Front, PATIENCE, Raw, command};
use pointsman::admin::SlowLogs;
use pointsman::demo::cluster::{Cluster, Member};
use pointsman::demo::proxy::{Proxy, fetch};
use pointsman::demo::settings::Settings;
use pointsman::insight::{HotKeys, Outcome, SlowCommand};
use pointsman::metrics::Stage;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// Keeps the server busy for so many microseconds.
const BUSY: &str = "local function now() local t = redis.call('TIME') return t[1] * 1000000 + t[2] end \
                    local start = now() while now() - start < tonumber(ARGV[1]) do end return 1";

/// The program's output, if it ends with 0.
async fn pointsman(arguments: &[&str]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    program.args(arguments);
    let output = tokio::task::spawn_blocking(move || program.output());
    let output = timeout(PATIENCE, output).await.expect("it ends").unwrap().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    out
}

/// What `slowlog --json` says of the only service.
async fn slow(admin: SocketAddr) -> Vec<SlowCommand> {
    let text = pointsman(&["slowlog", "--json", "--admin", &admin.to_string()]).await;
    let mut logs: SlowLogs = serde_json::from_str(&text).unwrap();
    assert_eq!(logs.services.len(), 1);
    logs.services.remove(0).commands.into_iter().map(|command| SlowCommand::clone(&command)).collect()
}

fn ms(us: u64) -> u64 {
    us / 1000
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_slow_at_the_backend_is_told_from_what_stands_behind_it() {
    let front = Front::configured("slowlog_key_bytes = 9\nsilence_threshold = \"5s\"").await;
    let mut web = Raw::connect(front.proxy).await;
    for (words, reply) in [(&["CLIENT", "SETNAME", "web-1"][..], "+OK\r\n"), (&["SELECT", "3"], "+OK\r\n")] {
        assert_eq!(web.ask(words).await, reply);
    }
    // The connection that both share is there, and the server knows the script.
    let mut other = Raw::connect(front.proxy).await;
    for client in [&mut web, &mut other] {
        assert_eq!(client.ask(&["EVAL", BUSY, "1", "session:secret", "0"]).await, ":1\r\n");
    }
    assert_eq!(other.ask(&["SELECT", "3"]).await, "+OK\r\n");
    assert!(slow(front.admin).await.is_empty());

    let mut direct = Raw::connect(front.redis).await;
    web.send(&command(&["EVAL", BUSY, "1", "session:secret", "1000000"])).await;
    let is_busy = async {
        loop {
            direct.send(&command(&["PING"])).await;
            if timeout(Duration::from_millis(100), direct.line()).await.is_err() {
                return;
            }
        }
    };
    timeout(PATIENCE, is_busy).await.expect("the script runs");
    // Whether behind it on its connection, or while another one is dialled to a server that does not answer. It takes long
    // enough for the first reply to be read apart from its own: what is read at once cannot be told apart.
    other.send(&command(&["EVAL", BUSY, "1", "b", "150000"])).await;
    for client in [&mut web, &mut other] {
        assert_eq!(client.line().await.unwrap(), ":1\r\n");
    }
    let all = slow(front.admin).await;
    let of = |name: &str| all.iter().find(|c| c.client_name == name).unwrap_or_else(|| panic!("{all:#?}"));
    let (culprit, victim) = (of("web-1"), of(""));
    assert_eq!(all.len(), 2, "{all:#?}");
    assert_eq!((&*culprit.command, culprit.key.as_deref(), culprit.database), ("eval", Some("session:s…"), 3));
    assert_eq!((culprit.outcome, culprit.node, culprit.stage()), (Outcome::Ok, Some(front.redis), Stage::Backend));
    assert_eq!((culprit.commands, culprit.together, culprit.hold_us), (1, 1, 0), "{culprit:#?}");
    assert!((1000..5000).contains(&ms(culprit.backend_us)) && ms(culprit.queue_us) < 100, "{culprit:#?}");
    assert!(culprit.address.starts_with("127.0.0.1:") && culprit.client != victim.client, "{culprit:#?}");
    assert_eq!(victim.stage(), Stage::Queue, "{victim:#?}");
    assert!(ms(victim.queue_us) > 300 && victim.queue_us > victim.backend_us, "{victim:#?}");
    for (stage, count) in [("backend", 1.0), ("queue", 1.0), ("hold", 0.0)] {
        assert_eq!(
            front.metric("pointsman_slow_commands_total", &format!("stage=\"{stage}\"")).await,
            count,
            "{stage}"
        );
    }

    // An error is told by its word, a pipeline as one, and a wait by intent not at all.
    let wrong = format!("redis.call('PING') {BUSY}").replace("return 1", "return redis.error_reply('MINE is it')");
    assert_eq!(web.ask(&["EVAL", &wrong, "0", "150000"]).await, "-MINE is it\r\n");
    assert_eq!(web.ask(&["BLPOP", "nothing", "0.3"]).await, "*-1\r\n");
    let told = pointsman(&["slowlog", "test", "--stage", "backend", "--admin", &front.admin.to_string()]).await;
    assert_eq!(told.lines().filter(|line| line.contains(" eval ")).count(), 2, "{told}");
    assert!(told.contains("error MINE") && told.contains("session:s…") && !told.contains("blpop"), "{told}");
    assert!(!told.contains("secret"), "{told}");

    let admin = front.admin.to_string();
    assert_eq!(pointsman(&["slowlog", "--reset", "--admin", &admin]).await, "3 slow commands forgotten\n");
    assert!(slow(front.admin).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failover_costs_is_told_as_its_hold() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_pointsman"));
    let proxy = Proxy::start_configured(&cluster, &binary, "").await.unwrap();
    let mut client = Raw::connect(proxy.listen()).await;
    cluster.failover(0).await.unwrap();
    // A planned failover that waits for a second Sentinel takes about a second from here on.
    let longest = async {
        loop {
            let began = Instant::now();
            assert_eq!(client.ask(&["SET", "held", "1"]).await, "+OK\r\n");
            if began.elapsed() > Duration::from_millis(300) {
                return began.elapsed();
            }
        }
    };
    let longest = timeout(PATIENCE, longest).await.expect("a command is held");
    let all = slow(proxy.admin()).await;
    let held = all.iter().max_by_key(|c| c.hold_us).unwrap_or_else(|| panic!("nothing was slow"));
    assert_eq!((&*held.command, held.key.as_deref(), held.stage()), ("set", Some("held"), Stage::Hold), "{held:#?}");
    assert_eq!(held.outcome, Outcome::Ok);
    assert_ne!(held.node, Some(cluster.addr(Member::Node(0))), "the new master has answered");
    assert!((300..=longest.as_millis() as u64).contains(&ms(held.hold_us)), "{held:#?} of {longest:?}");
    assert!(held.queue_us + held.backend_us < held.hold_us / 2, "{held:#?}");

    // With nobody left, what is refused at last is told too, and that pointsman did so.
    let mut front = Front::configured("hold_timeout = \"200ms\"").await;
    let mut client = Raw::connect(front.proxy).await;
    assert_eq!(client.ask(&["GET", "a"]).await, "$-1\r\n");
    front.cluster.kill(Member::Node(0)).unwrap();
    front.until_phase(false).await;
    client.send(&command(&["GET", "refused"])).await;
    let line = client.line().await.unwrap();
    assert!(line.starts_with("-MASTERDOWN"), "{line}");
    let all = slow(front.admin).await;
    let last = all.first().expect("it was slow");
    assert_eq!((last.outcome, last.error.as_deref()), (Outcome::Refused, Some("MASTERDOWN")), "{last:#?}");
    assert_eq!((&*last.command, last.node, last.stage()), ("get", None, Stage::Hold), "{last:#?}");
}

/// Asks for a sample in the way the console does.
async fn sample(admin: SocketAddr, order: serde_json::Value) -> (u16, String) {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    stream.write_all(&request(&order)).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn request(order: &serde_json::Value) -> Vec<u8> {
    let body = order.to_string();
    let length = body.len();
    let head = format!(
        "POST /hotkeys HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    (head + &body).into_bytes()
}

/// Commands on keys whose shares fall as 1/n: key `k1` has a fifth of them all. Every fourth writes.
fn load(random: &mut fastrand::Rng) -> Vec<u8> {
    const KEYS: usize = 100;
    let total: f64 = (1..=KEYS).map(|n| 1.0 / n as f64).sum();
    let mut batch = Vec::new();
    for i in 0..64 {
        let mut at = random.f64() * total;
        let n = (1..=KEYS).find(|n| {
            at -= 1.0 / *n as f64;
            at <= 0.0
        });
        let key = format!("k{}", n.unwrap_or(KEYS));
        batch.extend(if i % 4 == 0 { command(&["SET", &key, "v"]) } else { command(&["EXISTS", &key]) });
    }
    batch
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hot_keys_are_those_of_the_load() {
    let front = Front::start(Settings::single(), &["--workers", "2"]).await;
    let clients: Vec<_> = (0..4)
        .map(|seed| {
            let proxy = front.proxy;
            tokio::spawn(async move {
                let mut client = Raw::connect(proxy).await;
                let mut random = fastrand::Rng::with_seed(seed);
                loop {
                    client.send(&load(&mut random)).await;
                    for _ in 0..64 {
                        client.line().await.unwrap();
                    }
                }
            })
        })
        .collect();
    let admin = front.admin.to_string();
    let hot = pointsman(&["hotkeys", "test", "--for", "1s", "--top", "5", "--json", "--admin", &admin]).await;
    let hot: HotKeys = serde_json::from_str(&hot).unwrap();
    let page = pointsman(&["hotkeys", "test", "--for", "200ms", "--admin", &admin]).await;
    clients.iter().for_each(tokio::task::JoinHandle::abort);

    assert!(hot.looked_at > 1000 && hot.commands > 9 * hot.looked_at && hot.commands < 11 * hot.looked_at, "{hot:#?}");
    assert_eq!((hot.keys.len(), hot.keyless, hot.unseen), (5, 0, 0));
    // The harmonic number of 100 is 5.187. Neighbours may be told in the other order, the first is clear.
    let expected = |n: f64| 1.0 / (n * 5.187);
    for key in &hot.keys {
        let n: f64 = key.key.strip_prefix('k').unwrap().parse().unwrap();
        assert!(n <= 8.0, "{key:?}");
        // Five times the error of chance.
        let error = 5.0 * (expected(n) / hot.looked_at as f64).sqrt();
        assert!((key.share - expected(n)).abs() < error, "{key:?}, expected {}", expected(n));
        assert!((key.reads - 0.75).abs() < 0.1, "{key:?}");
        assert!(key.share_at_least < key.share && key.share < key.share_at_most);
        assert!((key.per_second - key.share * hot.commands as f64 / hot.seconds).abs() < 1.0);
    }
    assert_eq!(hot.keys[0].key, "k1");
    assert!(page.starts_with("test: ") && page.contains("  k1\n"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sample_ends_with_whoever_asked_and_there_is_one_at_a_time() {
    let front = Front::start(Settings::single(), &[]).await;
    let probe = async || sample(front.admin, json!({ "service": "test", "for_ms": 10 })).await;
    // Once whoever took a sample has left, another one can be taken.
    let until_over = async || {
        let end = Instant::now() + PATIENCE;
        while probe().await.0 != 200 {
            assert!(Instant::now() < end, "it does not end");
            sleep(Duration::from_millis(20)).await;
        }
    };

    let long = request(&json!({ "service": "test", "for_ms": 30_000 }));
    let stream = loop {
        let mut stream = TcpStream::connect(front.admin).await.unwrap();
        stream.write_all(&long).await.unwrap();
        let (status, words) = probe().await;
        if status == 409 {
            assert!(words.contains("is being taken for somebody else"), "{words}");
            break stream;
        }
        // The probe came first: then the other one was refused.
    };
    drop(stream);
    until_over().await;

    let end = Instant::now() + PATIENCE;
    let start = || {
        let mut program = Command::new(env!("CARGO_BIN_EXE_pointsman"));
        program.args(["hotkeys", "test", "--for", "30s", "--admin", &front.admin.to_string()]);
        program.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut console = start();
    while probe().await.0 != 409 {
        assert!(Instant::now() < end, "no sample is taken for the console");
        // It came while a probe was under way, and was refused.
        if console.try_wait().unwrap().is_some() {
            console = start();
        }
        sleep(Duration::from_millis(50)).await;
    }
    // As Ctrl-C does, which whoever runs the tests may have had ignored.
    console.kill().unwrap();
    console.wait().unwrap();
    until_over().await;
    let page = fetch(front.admin, "/slowlog").await.unwrap();
    assert!(page.contains("\"service\": \"test\""), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_sets_what_is_slow() {
    let front = Front::configured("slowlog_slower_than = \"off\"").await;
    let mut client = Raw::connect(front.proxy).await;
    assert_eq!(client.ask(&["EVAL", BUSY, "0", "150000"]).await, ":1\r\n");
    assert!(slow(front.admin).await.is_empty());
    let told = pointsman(&["slowlog", "--admin", &front.admin.to_string()]).await;
    assert_eq!(told, "test: 0 slow commands kept, nothing is noted (slowlog_slower_than is \"off\")\n");

    let file = front.cluster.dir().join("pointsman.toml");
    let change = |from: &str, to: &str| {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from));
        std::fs::write(&file, text.replace(from, to)).unwrap();
    };
    let reload = async || pointsman(&["reload", "--config", Path::new(&file).to_str().unwrap()]).await;
    change("\"off\"", "\"0s\"\nslowlog_max_len = 3\nslowlog_key_bytes = 0");
    let told = reload().await;
    assert_eq!(told, "service test changed: slowlog_slower_than, slowlog_max_len, slowlog_key_bytes\n");
    for _ in 0..5 {
        assert_eq!(client.ask(&["GET", "secret"]).await, "$-1\r\n");
    }
    let all = slow(front.admin).await;
    let of = |stage| all.iter().filter(|c| c.stage() == stage).count();
    assert!(!all.is_empty() && of(Stage::Backend) <= 3 && of(Stage::Queue) <= 3, "{all:#?}");
    assert!(all.iter().all(|c| c.key.is_none() && c.database == 0), "{all:#?}");
    // Sent with a marker behind it, which was answered with it.
    assert!(all.iter().any(|c| c.commands == 2 && c.command == "get" && c.also == ["echo"]), "{all:#?}");
}
