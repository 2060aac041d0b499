//! Clients that leave in the middle of something are seen to leave.

use std::time::Duration;

use pointsman::demo::cluster::Member;
use pointsman::demo::wire::{info_field, text as reply_text};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};

use crate::support::{Front, PATIENCE, Raw, command};

impl Front {
    async fn blocked(&self) -> String {
        let info = self.cluster.ask(Member::Node(0), &["INFO", "clients"]).await.unwrap();
        info_field(&info, "blocked_clients").unwrap()
    }

    async fn wait_for_blocked(&self, n: &str) {
        let end = Instant::now() + PATIENCE;
        while self.blocked().await != n {
            assert!(Instant::now() < end, "not {n} clients are blocked\n{}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Behind more input than is read ahead there is the end of it: a pop must not take an element to nobody.
#[tokio::test]
async fn a_client_that_leaves_a_pop_with_much_behind_it_is_seen_to_leave() {
    let front = Front::configured("").await;
    // The last is more than is read ahead, and fits into the kernel's buffer with the end behind it.
    for unread in [0, 100, 100_000] {
        let mut client = Raw::connect(front.proxy).await;
        client.send(&command(&["BLPOP", "list", "0"])).await;
        front.wait_for_blocked("1").await;
        client.send(&command(&["PING"]).repeat(unread / 14)).await;
        client.stream.shutdown().await.unwrap();
        front.wait_for_blocked("0").await;
        assert_eq!(reply_text(&front.cluster.ask(Member::Node(0), &["RPUSH", "list", "x"]).await.unwrap()), "1");
        let mut other = Raw::connect(front.proxy).await;
        assert_eq!(other.ask(&["LPOP", "list"]).await, "$1\r\nx\r\n", "behind {unread} bytes");
    }
}

/// What it sent before it ended its direction runs all the same, and is answered, where nothing blocks.
#[tokio::test]
async fn a_half_closed_client_gets_all_its_replies() {
    const COMMANDS: usize = 200_000;
    let front = Front::configured("").await;
    let client = Raw::connect(front.proxy).await;
    let (read, mut write) = client.stream.into_split();
    let send = async move {
        write.write_all(&command(&["INCR", "n"]).repeat(COMMANDS)).await.unwrap();
        write.shutdown().await.unwrap();
        write
    };
    let receive = async move {
        let mut all = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut { read }, &mut all).await.unwrap();
        all
    };
    let (_write, all) = tokio::time::timeout(3 * PATIENCE, async { tokio::join!(send, receive) }).await.unwrap();
    assert_eq!(all.iter().filter(|b| **b == b'\n').count(), COMMANDS);
    assert!(all.ends_with(format!(":{COMMANDS}\r\n").as_bytes()));
}

/// As with Redis' own `timeout`, those who wait for something are not silent.
#[tokio::test]
async fn who_is_silent_for_too_long_is_closed_and_who_waits_is_not() {
    let front = Front::configured("client_idle_timeout = \"300ms\"").await;
    let client = async |words: &[&str], told: &str| {
        let mut client = Raw::connect(front.proxy).await;
        client.send(&command(words)).await;
        client.until(told.as_bytes()).await;
        client
    };
    let mut subscriber = client(&["SUBSCRIBE", "news"], ":1\r\n").await;
    let mut monitor = client(&["MONITOR"], "+OK\r\n").await;
    let mut blocked = Raw::connect(front.proxy).await;
    blocked.send(&command(&["BLPOP", "queue", "0"])).await;
    let mut busy = client(&["PING"], "+PONG\r\n").await;
    for silent in
        [Raw::connect(front.proxy).await, client(&["PING"], "+PONG\r\n").await, client(&["MULTI"], "+OK\r\n").await]
    {
        let mut silent = silent;
        let goes_on = async {
            loop {
                busy.send(&command(&["PING"])).await;
                busy.until(b"+PONG\r\n").await;
                sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            rest = silent.rest() => assert_eq!(rest, b""),
            () = goes_on => {}
        }
    }
    assert_eq!(front.metric("pointsman_clients_closed_total", "reason=\"idle\"").await, 3.0);
    // The answer comes after longer than the limit, and that is no silence of the client's.
    busy.send(&[command(&["RPUSH", "queue", "x"]), command(&["PUBLISH", "news", "y"])].concat()).await;
    busy.until(b":1\r\n:1\r\n").await;
    blocked.until(b"$1\r\nx\r\n").await;
    assert_eq!(blocked.ask(&["PING"]).await, "+PONG\r\n");
    subscriber.until(b"y\r\n").await;
    monitor.until(b"\"PUBLISH\"").await;
}

/// Who waits for the end of a pause waits for us.
#[tokio::test]
async fn who_is_held_is_not_silent() {
    let front = Front::configured("client_idle_timeout = \"200ms\"").await;
    let order = async |what: &'static str| {
        let mut pointsman = tokio::process::Command::new(env!("CARGO_BIN_EXE_pointsman"));
        let ended = pointsman.args([what, "test", "--admin", &front.admin.to_string()]).output().await.unwrap();
        assert!(ended.status.success(), "{what}: {ended:?}");
    };
    order("pause").await;
    let (mut held, mut silent) = (Raw::connect(front.proxy).await, Raw::connect(front.proxy).await);
    held.send(&command(&["INCR", "n"])).await;
    // It is looked once a second: the second look finds everybody who did nothing since the first.
    assert_eq!(silent.rest().await, b"", "closed in a pause as at any time");
    sleep(Duration::from_secs(1)).await;
    order("resume").await;
    held.until(b":1\r\n").await;
    assert_eq!(held.ask(&["INCR", "n"]).await, ":2\r\n", "nor for what it was before");
    assert_eq!(front.metric("pointsman_clients_closed_total", "reason=\"idle\"").await, 1.0);
}
