//! What a session has set up is carried over a failover, on a service whose Redis and Sentinels want passwords.

use std::path::PathBuf;
use std::time::Duration;

use crate::support::{PATIENCE, Raw, command, text};
use pointsman::config::Commit;
use pointsman::demo::cluster::{Cluster, Member};
use pointsman::demo::proxy::{Proxy, ProxySettings};
use pointsman::demo::settings::Settings;

const SETTLE_LIMIT: Duration = Duration::from_secs(40);

struct Rig {
    cluster: Cluster,
    proxy: Proxy,
}

impl Rig {
    async fn start() -> Self {
        let cluster = Cluster::start(Settings {
            password: Some("redispw".into()),
            sentinel_password: Some("sentinelpw".into()),
            ..Settings::default()
        })
        .await
        .unwrap();
        let secret = |name: &str, text: &str| {
            let path = cluster.dir().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let extra = vec![
            "--backend-password-file".into(),
            secret("backend.pw", "redispw\n"),
            "--sentinel-password-file".into(),
            secret("sentinel.pw", "sentinelpw\n"),
        ];
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_pointsman"));
        let settings = ProxySettings { binary, commit: Commit::Confirmed, workers: 1, extra };
        let proxy = Proxy::start(&cluster, &settings).await.unwrap();
        Self { cluster, proxy }
    }

    async fn client(&self) -> Raw {
        let mut client = Raw::connect(self.proxy.listen()).await;
        client.send(&command(&["AUTH", "redispw"])).await;
        client.until(b"+OK\r\n").await;
        client
    }

    /// Until so many clients are blocked on the master that is known now.
    async fn wait_blocked(&self, n: usize) {
        let master = Member::Node(self.cluster.master().await.unwrap());
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let info = format!("{:?}", self.cluster.ask(master, &["INFO", "clients"]).await.unwrap());
            let debug = info_text(&info);
            if debug.contains(&format!("blocked_clients:{n}")) {
                return;
            }
            assert!(tokio::time::Instant::now() < end, "{debug}");
        }
    }
}

/// The text of a reply's debug form, where it is a list of bytes.
fn info_text(debug: &str) -> String {
    let numbers = debug.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u8>().ok());
    String::from_utf8_lossy(&numbers.collect::<Vec<u8>>()).into_owned()
}

/// The cursor in a reply of the `SCAN` family that is not the last.
fn cursor(reply: &str) -> String {
    let cursor = reply.split("\r\n").nth(2).unwrap().to_owned();
    assert!(cursor != "0" && cursor.parse::<u64>().is_ok(), "{reply}");
    cursor
}

async fn carried(kill: bool) {
    let mut rig = Rig::start().await;
    let old = rig.cluster.master().await.unwrap();

    let mut subscriber = rig.client().await;
    let subscribe = [&["MULTI"][..], &["PSUBSCRIBE", "x*", "n*"], &["EXEC"], &["SUBSCRIBE", "news"]];
    subscriber.send(&subscribe.map(command).concat()).await;
    subscriber.until(b"$4\r\nnews\r\n:3\r\n").await;
    let mut queueing = rig.client().await;
    queueing.send(&[command(&["SELECT", "3"]), command(&["MULTI"]), command(&["SET", "tx", "1"])].concat()).await;
    queueing.until(b"+QUEUED\r\n").await;
    queueing.send(&[&["CLIENT", "SETNAME", "carried"][..], &["CLIENT", "REPLY", "SKIP"]].map(command).concat()).await;
    queueing.until(b"+QUEUED\r\n+QUEUED\r\n").await;
    let mut unblocked = rig.client().await;
    let of_unblocked = unblocked.ask(&["CLIENT", "ID"]).await.trim_start_matches(':').trim_end().to_owned();
    unblocked.send(&command(&["BLPOP", "nothing", "0"])).await;
    queueing.send(&command(&["CLIENT", "UNBLOCK", &of_unblocked])).await;
    queueing.until(b"+QUEUED\r\n").await;
    let mut watching = rig.client().await;
    watching.send(&[command(&["WATCH", "w"]), command(&["GET", "w"])].concat()).await;
    watching.until(b"$-1\r\n").await;
    let mut popping = rig.client().await;
    popping.send(&command(&["BLPOP", "list", "0"])).await;
    let mut moving = rig.client().await;
    moving.send(&command(&["BLMOVE", "source", "target", "LEFT", "RIGHT", "0"])).await;
    let mut third = Raw::connect(rig.proxy.listen()).await;
    third.send(&command(&["HELLO", "3", "AUTH", "default", "redispw", "SETNAME", "third"])).await;
    third.until(b"modules\r\n*0\r\n").await;
    third.send(&[&["MULTI"][..], &["SELECT", "5"], &["EXEC"]].map(command).concat()).await;
    third.until(b"*1\r\n+OK\r\n").await;
    assert_eq!(third.ask(&["SET", "k", "five"]).await, "+OK\r\n");
    let mut sharded = rig.client().await;
    sharded.send(&[command(&["HELLO", "3"]), command(&["SSUBSCRIBE", "shard"])].concat()).await;
    sharded.until(b"$10\r\nssubscribe\r\n$5\r\nshard\r\n:1\r\n").await;
    // Two that are told invalidations, one of them in the middle of a transaction.
    let mut tracking = rig.client().await;
    let on = [&["HELLO", "3"][..], &["MULTI"], &["CLIENT", "TRACKING", "ON"], &["EXEC"]];
    tracking.send(&on.map(command).concat()).await;
    tracking.until(b"*1\r\n+OK\r\n").await;
    assert_eq!(tracking.ask(&["GET", "cached"]).await, "_\r\n");
    let mut prefixed = rig.client().await;
    let on = ["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "a:", "PREFIX", "b:", "NOLOOP"];
    let begin = [command(&["HELLO", "3"]), command(&on), command(&["MULTI"]), command(&["INCR", "a:own"])];
    prefixed.send(&begin.concat()).await;
    prefixed.until(b"+OK\r\n+OK\r\n+QUEUED\r\n").await;
    // One has another told.
    let mut told = rig.client().await;
    told.ask(&["HELLO", "3"]).await;
    let of_told = told.ask(&["CLIENT", "ID"]).await.trim_start_matches(':').trim_end().to_owned();
    let mut redirecting = rig.client().await;
    assert_eq!(redirecting.ask(&["CLIENT", "TRACKING", "ON", "REDIRECT", &of_told]).await, "+OK\r\n");
    assert_eq!(redirecting.ask(&["GET", "elsewhere"]).await, "$-1\r\n");
    // Nothing can be told to it, and must not be.
    let mut second = rig.client().await;
    assert_eq!(second.ask(&["CLIENT", "TRACKING", "ON"]).await, "+OK\r\n");
    let mut scanning = rig.client().await;
    // So many that it is no list.
    let many: Vec<String> = (0..200).map(|i| format!("member:{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    scanning.ask(&[&["SADD", "set"], &many[..]].concat()).await;
    scanning.ask(&[&["MSET"], &many[..]].concat()).await;
    let keys = cursor(&scanning.ask(&["SCAN", "0", "COUNT", "1"]).await);
    let members = cursor(&scanning.ask(&["SSCAN", "set", "0", "COUNT", "1"]).await);
    let mut pooled = rig.client().await;
    assert!(pooled.ask(&["SCAN", "0", "COUNT", "1000"]).await.starts_with("*2\r\n$1\r\n0\r\n"));
    let mut scripted = rig.client().await;
    let loaded = scripted.ask(&["SCRIPT", "LOAD", "return 'loaded'"]).await;
    let sha = loaded.lines().nth(1).unwrap().to_owned();
    // What replicas have of its write, another master's cannot tell.
    let mut waiting = rig.client().await;
    assert_eq!(waiting.ask(&["SET", "waited", "1"]).await, "+OK\r\n");
    let mut blocked = rig.client().await;
    assert_eq!(blocked.ask(&["SET", "blocked", "1"]).await, "+OK\r\n");
    blocked.send(&command(&["WAIT", "9", "0"])).await;
    // A user that one server knows only.
    let rules = ["ACL", "SETUSER", "local", "on", ">localpw", "~*", "+@all"];
    rig.cluster.ask(Member::Node(old), &rules).await.unwrap();
    let mut local = Raw::connect(rig.proxy.listen()).await;
    local.send(&command(&["AUTH", "local", "localpw"])).await;
    local.until(b"+OK\r\n").await;
    assert_eq!(local.ask(&["GET", "k"]).await, "$-1\r\n");
    let mut monitoring = rig.client().await;
    monitoring.send(&command(&["MONITOR"])).await;
    monitoring.until(b"+OK\r\n").await;
    assert_eq!(pooled.ask(&["ECHO", "seen by who looks on"]).await, "$20\r\nseen by who looks on\r\n");
    monitoring.until(b"\"seen by who looks on\"\r\n").await;
    rig.wait_blocked(4).await;

    if kill {
        rig.cluster.kill(Member::Node(old)).unwrap();
        rig.cluster.wait_master_other_than(old, SETTLE_LIMIT).await.unwrap();
    } else {
        rig.cluster.failover(0).await.unwrap();
    }
    rig.cluster.wait_settled(SETTLE_LIMIT).await.unwrap();
    let new = rig.cluster.master().await.unwrap();
    assert_ne!(new, old);

    let log = rig.proxy.log_tail();
    // What it would miss nobody could tell it.
    monitoring.rest().await;
    let mut other = rig.client().await;
    assert_eq!(third.ask(&["GET", "k"]).await, "$4\r\nfive\r\n", "{log}");
    assert_eq!(third.ask(&["CLIENT", "GETNAME"]).await, "$5\r\nthird\r\n");
    assert_eq!(third.ask(&["GET", "nothing"]).await, "_\r\n", "still RESP3");

    rig.wait_blocked(if kill { 2 } else { 3 }).await;
    let end = [&["INCR", "tx"][..], &["CLIENT", "GETNAME"], &["EXEC"], &["GET", "unheard"], &["CLIENT", "GETNAME"]];
    queueing.send(&end.map(command).concat()).await;
    let heard = text(&queueing.until(b"carried\r\n$7\r\ncarried\r\n").await);
    let expected = "+QUEUED\r\n+QUEUED\r\n*6\r\n+OK\r\n+OK\r\n:1\r\n:2\r\n$7\r\ncarried\r\n$7\r\ncarried\r\n";
    assert_eq!(heard, expected, "{log}");
    assert_eq!(unblocked.line().await.unwrap(), "*-1\r\n", "{log}");
    watching.send(&[command(&["MULTI"]), command(&["SET", "w", "1"]), command(&["EXEC"])].concat()).await;
    assert_eq!(text(&watching.until(b"*-1\r\n").await), "+OK\r\n+QUEUED\r\n*-1\r\n", "{log}");
    assert_eq!(other.ask(&["EXISTS", "w"]).await, ":0\r\n");

    assert_eq!(other.ask(&["RPUSH", "list", "element"]).await, ":1\r\n");
    assert_eq!(text(&popping.until(b"element\r\n").await), "*2\r\n$4\r\nlist\r\n$7\r\nelement\r\n", "{log}");
    if kill {
        // The dead master cannot say that it moved nothing.
        assert_eq!(text(&moving.rest().await), "");
    } else {
        assert_eq!(other.ask(&["RPUSH", "source", "thing"]).await, ":1\r\n");
        assert_eq!(text(&moving.until(b"thing\r\n").await), "$5\r\nthing\r\n", "{log}");
        assert_eq!(other.ask(&["LRANGE", "target", "0", "-1"]).await, "*1\r\n$5\r\nthing\r\n");
    }

    for command in [&["SCAN", &keys][..], &["SSCAN", "set", &members]] {
        let answer = scanning.ask(command).await;
        assert!(answer.starts_with("-STALECURSOR pointsman: "), "{command:?}: {answer}");
    }
    let again = cursor(&scanning.ask(&["SCAN", "0", "COUNT", "1"]).await);
    let answer = pooled.ask(&["SCAN", &again, "COUNT", "1000"]).await;
    assert!(answer.starts_with("*2\r\n$1\r\n0\r\n"), "one client's connections share a cursor: {answer}");
    assert!(scanning.ask(&["SCAN", &again, "COUNT", "1000"]).await.starts_with("*2\r\n$1\r\n0\r\n"));
    assert!(
        scanning.ask(&["SSCAN", "set", &members]).await.starts_with("-STALECURSOR"),
        "that one was not begun again"
    );

    assert_eq!(scripted.ask(&["EVALSHA", &sha, "0"]).await, "$6\r\nloaded\r\n", "replicas do not have it");
    let line = blocked.line().await.unwrap();
    assert!(line.starts_with("-WAITUNKNOWN pointsman: "), "{line}");
    let unknown = waiting.ask(&["WAIT", "0", "10"]).await;
    assert!(unknown.starts_with("-WAITUNKNOWN pointsman: "), "{unknown}");
    assert_eq!(waiting.ask(&["SET", "waited", "2"]).await, "+OK\r\n");
    assert!(waiting.ask(&["WAIT", "0", "10"]).await.starts_with(':'), "of this one it can");
    assert!(pooled.ask(&["WAIT", "0", "10"]).await.starts_with(':'), "it has written nothing");
    local.send(&command(&["GET", "k"])).await;
    assert!(text(&local.rest().await).starts_with("-WRONGPASS"), "nobody knows it here");
    assert_eq!(second.ask(&["EXISTS", "cached"]).await, ":0\r\n", "{log}");
    // Once for each switch: a busy Sentinel may take the new master for dead at once, and fail over again.
    const ALL: &str = ">2\r\n$10\r\ninvalidate\r\n_\r\n";
    let without_all = |text: &str| {
        assert!(text.starts_with(ALL), "{text}\n{log}");
        text.replace(ALL, "")
    };
    assert_eq!(without_all(&tracking.ask(&["GET", "cached"]).await), "_\r\n", "{log}");
    assert_eq!(other.ask(&["SET", "cached", "new"]).await, "+OK\r\n");
    assert_eq!(text(&tracking.until(b"cached\r\n").await), ">2\r\n$10\r\ninvalidate\r\n*1\r\n$6\r\ncached\r\n");
    assert_eq!(redirecting.ask(&["GET", "elsewhere"]).await, "$-1\r\n", "{log}");
    assert_eq!(other.ask(&["SET", "elsewhere", "new"]).await, "+OK\r\n");
    let all = ">2\r\n$10\r\ninvalidate\r\n$-1\r\n";
    let heard = text(&told.until(b"elsewhere\r\n").await);
    assert!(heard.starts_with(all), "{heard}\n{log}");
    assert_eq!(heard.replace(all, ""), ">2\r\n$10\r\ninvalidate\r\n*1\r\n$9\r\nelsewhere\r\n", "{log}");
    prefixed.send(&command(&["EXEC"])).await;
    assert_eq!(without_all(&text(&prefixed.until(b"*1\r\n:1\r\n").await)), "*1\r\n:1\r\n", "{log}");
    assert_eq!(other.ask(&["SET", "b:other", "new"]).await, "+OK\r\n");
    let told = ">2\r\n$10\r\ninvalidate\r\n*1\r\n$7\r\nb:other\r\n";
    assert!(text(&prefixed.until(b"b:other\r\n").await).ends_with(told), "its own change is not told");
    assert_eq!(prefixed.ask(&["CLIENT", "TRACKING", "OFF"]).await, "+OK\r\n");
    assert_eq!(other.ask(&["SPUBLISH", "shard", "flash"]).await, ":1\r\n", "{log}");
    assert_eq!(text(&sharded.until(b"flash\r\n").await), ">3\r\n$8\r\nsmessage\r\n$5\r\nshard\r\n$5\r\nflash\r\n");
    // No second confirmation: the message is the next thing that is heard.
    assert_eq!(other.ask(&["PUBLISH", "news", "flash"]).await, ":2\r\n", "{log}");
    let heard = text(&subscriber.until(b"$4\r\nnews\r\n$5\r\nflash\r\n*").await);
    assert_eq!(heard, "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nflash\r\n*", "{log}");
    subscriber.until(b"pmessage\r\n$2\r\nn*\r\n$4\r\nnews\r\n$5\r\nflash\r\n").await;
    assert!(!rig.proxy.log_tail().contains("redispw"));
}

#[tokio::test]
async fn sessions_are_carried_over_a_planned_failover() {
    carried(false).await;
}

#[tokio::test]
async fn sessions_are_carried_over_the_death_of_the_master() {
    carried(true).await;
}
