//! Backends that fail, refuse or lie, and clients that misbehave: nobody else may notice.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::{Front, PATIENCE, Raw, command, text};
use pointsman::demo::cluster::Member;
use pointsman::demo::settings::Settings;
use pointsman::demo::wire::{Reply, text as reply_text};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

async fn front() -> Front {
    Front::start(Settings::single(), &["--workers", "1"]).await
}

impl Front {
    /// Asks the Redis behind it.
    async fn direct(&self, words: &[&str]) -> Reply {
        self.cluster.ask(Member::Node(0), words).await.unwrap()
    }

    async fn pinned(&self) -> f64 {
        self.metric("pointsman_backend_connections", "role=\"pinned\"").await
    }
}

#[tokio::test]
async fn an_open_transaction_is_never_given_to_another_client() {
    let front = front().await;
    let mut a = Raw::connect(front.proxy).await;
    for end in ["DISCARD", "UNWATCH", "EXEC"] {
        a.send(&command(&["MULTI"])).await;
        a.until(b"+OK\r\n").await;
        a.send(&command(&[end, "x"])).await;
        a.until(b"\r\n").await;
        // Whatever is free now is what the next client gets.
        let mut b = Raw::connect(front.proxy).await;
        assert_eq!(b.ask(&["BLPOP", "nothing", "0.01"]).await, "*-1\r\n", "behind {end} x");
        a.send(&command(&["RESET"])).await;
        a.until(b"+RESET\r\n").await;
    }
    // The transaction itself is still what it is with Redis.
    a.send(&[command(&["MULTI"]), command(&["DISCARD", "x"]), command(&["EXEC"])].concat()).await;
    a.until(b"+OK\r\n").await;
    a.until(b"-EXECABORT").await;
    a.until(b"\r\n").await;
    assert_eq!(a.ask(&["MULTI", "x"]).await, "-ERR wrong number of arguments for 'multi' command\r\n");
    assert_eq!(a.ask(&["SET", "k", "v"]).await, "+OK\r\n");
}

#[tokio::test]
async fn nothing_changes_a_connection_that_others_share() {
    let front = front().await;
    let mut a = Raw::connect(front.proxy).await;
    let answer = a.ask(&["SCRIPT", "DEBUG", "YES"]).await;
    assert!(answer.starts_with("-NOPERM "), "{answer}");
    // The server's connections have ids too, but a client speaks of clients.
    for connection in 1..10 {
        assert_eq!(a.ask(&["CLIENT", "UNBLOCK", &connection.to_string()]).await, ":0\r\n");
    }
    let mut b = Raw::connect(front.proxy).await;
    assert_eq!(b.ask(&["EVAL", "return 7", "0"]).await, ":7\r\n");
}

#[tokio::test]
async fn a_large_message_reaches_its_subscriber() {
    let front = front().await;
    let mut subscriber = Raw::connect(front.proxy).await;
    subscriber.send(&command(&["SUBSCRIBE", "c"])).await;
    subscriber.until(b":1\r\n").await;
    let large = "m".repeat(3 << 20);
    assert_eq!(reply_text(&front.direct(&["PUBLISH", "c", &large]).await), "1");
    front.direct(&["PUBLISH", "c", "after"]).await;
    let heard = subscriber.until(b"after\r\n").await;
    let expected = format!("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n${}\r\n{large}\r\n", large.len());
    assert!(heard.starts_with(expected.as_bytes()), "{:.100}", text(&heard));
    assert_eq!(front.metric("pointsman_backend_protocol_errors_total", "").await, 0.0);
}

#[tokio::test]
async fn a_list_that_looks_like_a_message_is_answered_to_a_resp3_subscriber() {
    let front = front().await;
    front.direct(&["RPUSH", "l", "message", "c", "x"]).await;
    let mut a = Raw::connect(front.proxy).await;
    a.send(&[command(&["HELLO", "3"]), command(&["SUBSCRIBE", "c"])].concat()).await;
    a.until(b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n").await;
    assert_eq!(a.ask(&["LRANGE", "l", "0", "-1"]).await, "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n");
    assert_eq!(a.ask(&["UNSUBSCRIBE"]).await, ">3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n");
}

/// Idle clients that once had a connection of their own do not keep it.
#[tokio::test]
async fn a_pin_is_given_back_with_its_last_reply() {
    let front = front().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Raw::connect(front.proxy).await;
        client.send(&[command(&["MULTI"]), command(&["DISCARD"])].concat()).await;
        client.until(b"+OK\r\n+OK\r\n").await;
        clients.push(client);
    }
    let pinned = front.pinned().await;
    assert!((1.0..=2.0).contains(&pinned), "{pinned} connections for clients that came one after the other");
}

/// The client asks for far more than its output limit and reads nothing, while others keep queueing behind it.
#[tokio::test]
async fn a_client_that_does_not_read_holds_up_the_others_for_a_moment_only() {
    // Replies so small that they are not streamed: the connection stays open to others.
    const VALUE: usize = 50_000;
    let front = Front::configured("limits.output_bytes = \"4MiB\"").await;
    front.direct(&["SET", "large", &"x".repeat(VALUE)]).await;
    let mut greedy = Raw::connect(front.proxy).await;
    greedy.send(&command(&["GET", "large"]).repeat(1000)).await;
    let mut others = JoinSet::new();
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        // All the time somebody new comes, whose command wakes the connection that waits for the greedy one.
        let mut client = Raw::connect(front.proxy).await;
        others.spawn(async move {
            let start = Instant::now();
            client.ask(&["GET", "small"]).await;
            start.elapsed()
        });
        sleep(Duration::from_millis(20)).await;
    }
    let longest = others.join_all().await.into_iter().max().unwrap();
    assert!(longest < Duration::from_secs(4), "a neighbour waited {longest:?}");
    assert_eq!(front.metric("pointsman_clients_closed_total", "output_limit").await, 1.0);
    drop(greedy);
}

/// Shared connections are cut by the server, again and again: what was written and not answered closes its client, and
/// nothing else does.
#[tokio::test]
async fn connections_killed_at_the_backend_cost_only_writes_in_flight() {
    let front = front().await;
    let end = Instant::now() + Duration::from_secs(5);
    let mut writers = JoinSet::new();
    for id in 0..20 {
        let proxy = front.proxy;
        writers.spawn(async move {
            let key = format!("count:{id}");
            let (mut acknowledged, mut unknown) = (0u64, 0u64);
            let mut client = Raw::connect(proxy).await;
            while Instant::now() < end {
                client.send(&command(&["INCR", &key])).await;
                match timeout(PATIENCE, client.line()).await.expect("an answer or an end") {
                    Some(line) => {
                        assert!(line.starts_with(':'), "{line}");
                        acknowledged += 1;
                    }
                    None => {
                        unknown += 1;
                        client = Raw::connect(proxy).await;
                    }
                }
            }
            (key, acknowledged, unknown)
        });
    }
    let mut readers = JoinSet::new();
    for id in 0..10 {
        let mut client = Raw::connect(front.proxy).await;
        readers.spawn(async move {
            let mut longest = Duration::ZERO;
            while Instant::now() < end {
                let start = Instant::now();
                client.send(&command(&["PING", &id.to_string()])).await;
                let expected = format!("${}\r\n{id}\r\n", id.to_string().len());
                let answer = client.until(expected.as_bytes()).await;
                assert_eq!(text(&answer), expected);
                longest = longest.max(start.elapsed());
            }
            longest
        });
    }
    while Instant::now() < end {
        front.direct(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        sleep(Duration::from_millis(100)).await;
    }
    let longest = readers.join_all().await.into_iter().max().unwrap();
    assert!(longest < Duration::from_secs(1), "a reader waited {longest:?}");
    let mut closed = 0;
    for (key, acknowledged, unknown) in writers.join_all().await {
        let found: u64 = reply_text(&front.direct(&["GET", &key]).await).parse().unwrap();
        assert!((acknowledged..=acknowledged + unknown).contains(&found), "{key}: {found}, {acknowledged}+{unknown}");
        assert!(acknowledged > 100, "{key} stood still: {acknowledged}");
        closed += unknown;
    }
    assert!(closed > 0, "no connection was cut with a write in flight");
    assert_eq!(front.metric("pointsman_commands_unknown_outcome_total", "").await, closed as f64);
}

#[tokio::test]
async fn a_backend_that_sleeps_makes_everybody_wait_and_nobody_err() {
    let front = front().await;
    let mut clients = JoinSet::new();
    for id in 0..10 {
        let mut client = Raw::connect(front.proxy).await;
        clients.spawn(async move {
            for n in 0..20 {
                let value = format!("{id}:{n}");
                assert_eq!(client.ask(&["SET", &format!("k{id}"), &value]).await, "+OK\r\n");
                let answer = client.ask(&["GET", &format!("k{id}")]).await;
                assert_eq!(answer, format!("${}\r\n{value}\r\n", value.len()));
                sleep(Duration::from_millis(50)).await;
            }
        });
    }
    for _ in 0..2 {
        front.direct(&["DEBUG", "SLEEP", "0.7"]).await;
    }
    clients.join_all().await;
}

/// The backend takes no more connections: who needs one of its own is told so in time, the rest goes on.
#[tokio::test]
async fn a_backend_without_room_serves_those_who_share() {
    let front = Front::start(Settings::single(), &["--workers", "1", "--hold-timeout", "1s"]).await;
    let mut a = Raw::connect(front.proxy).await;
    assert_eq!(a.ask(&["SET", "k", "v"]).await, "+OK\r\n");
    let mut admin = front.cluster.connect(Member::Node(0)).await.unwrap();
    let connected = admin.call(&["INFO", "clients"], PATIENCE).await.unwrap();
    let connected: u32 = pointsman::demo::wire::info_field(&connected, "connected_clients").unwrap().parse().unwrap();
    admin.call(&["CONFIG", "SET", "maxclients", &connected.to_string()], PATIENCE).await.unwrap();
    let mut b = Raw::connect(front.proxy).await;
    let refused = b.ask(&["BLPOP", "l", "0.01"]).await;
    assert!(refused.starts_with("-MASTERDOWN "), "there was no room: {refused}");
    assert_eq!(a.ask(&["GET", "k"]).await, "$1\r\nv\r\n");
    admin.call(&["CONFIG", "SET", "maxclients", "1000"], PATIENCE).await.unwrap();
    assert_eq!(b.ask(&["BLPOP", "l", "0.01"]).await, "*-1\r\n");
}

/// A "master" that answers as its keys say.
async fn liar() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(lie(stream));
        }
    });
    addr
}

async fn lie(mut stream: tokio::net::TcpStream) -> std::io::Result<()> {
    use pointsman::resp::{RequestScanner, Scan, args};
    use tokio::io::AsyncReadExt;
    let mut buf = bytes::BytesMut::new();
    let mut scanner = RequestScanner::new(1 << 20);
    loop {
        while let Ok(Scan::Command { len, .. }) = scanner.scan(&buf) {
            let frame = buf.split_to(len);
            let words: Vec<String> = args(&frame).map(text).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let bulk = |s: &str| format!("${}\r\n{s}\r\n", s.len());
            match words[..] {
                ["HELLO", ..] => {
                    let hello = format!(
                        "*6\r\n{}{}{}{}{}:5\r\n",
                        bulk("role"),
                        bulk("master"),
                        bulk("proto"),
                        ":2\r\n",
                        bulk("id")
                    );
                    stream.write_all(hello.as_bytes()).await?;
                }
                ["ROLE"] => stream.write_all(b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n").await?,
                ["INFO", ..] => stream.write_all(bulk("run_id:0123456789").as_bytes()).await?,
                ["PING"] => stream.write_all(b"+PONG\r\n").await?,
                ["GET", "garbage"] | ["SET", "garbage", _] => {
                    stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await?
                }
                ["GET", "many"] => stream.write_all(b"+1\r\n+2\r\n+3\r\n").await?,
                ["GET", "none"] => return Ok(()),
                ["GET", key] => {
                    for byte in bulk(&format!("value of {key}")).bytes() {
                        stream.write_all(&[byte]).await?;
                        tokio::task::yield_now().await;
                    }
                }
                _ => stream.write_all(b"+OK\r\n").await?,
            }
        }
        if stream.read_buf(&mut buf).await? == 0 {
            return Ok(());
        }
    }
}

/// Only the client whose command the backend answers with nonsense notices; and its command is not sent for ever.
#[tokio::test]
async fn nonsense_from_a_backend_reaches_nobody() {
    let front = Front::before(Settings::single(), liar().await, &["--workers", "1"]).await;
    let end = Instant::now() + Duration::from_secs(4);
    let mut honest = JoinSet::new();
    for id in 0..10 {
        let mut client = Raw::connect(front.proxy).await;
        honest.spawn(async move {
            let (key, mut n) = (format!("key{id}"), 0);
            let expected = format!("${}\r\nvalue of {key}\r\n", key.len() + 9);
            while Instant::now() < end {
                client.send(&command(&["GET", &key])).await;
                let answer = client.until(b"\r\n").await;
                let rest = client.until(b"\r\n").await;
                assert_eq!(text(&[answer, rest].concat()), expected);
                n += 1;
            }
            n
        });
    }
    for key in ["garbage", "none"] {
        let mut poison = Raw::connect(front.proxy).await;
        poison.send(&command(&["GET", key])).await;
        assert_eq!(text(&poison.rest().await), "", "GET {key}");
        sleep(Duration::from_millis(100)).await;
    }
    let mut writer = Raw::connect(front.proxy).await;
    writer.send(&command(&["SET", "garbage", "1"])).await;
    assert_eq!(text(&writer.rest().await), "");
    for n in honest.join_all().await {
        assert!(n > 10, "an honest client had {n} answers");
    }
    assert!(front.metric("pointsman_backend_protocol_errors_total", "").await >= 2.0);

    // With nothing else in flight, replies that nobody asked for are found out.
    let mut alone = Raw::connect(front.proxy).await;
    alone.send(&command(&["GET", "many"])).await;
    assert_eq!(text(&alone.until(b"\r\n").await), "+1\r\n");
    alone.send(&command(&["GET", "a"])).await;
    assert_eq!(text(&alone.until(b"value of a\r\n").await), "$10\r\nvalue of a\r\n");
}

async fn idle_clients(front: &Front, n: usize) -> Vec<Raw> {
    let mut clients = Vec::new();
    for _ in 0..n {
        let mut client = Raw::connect(front.proxy).await;
        client.send(&command(&["PING"])).await;
        client.until(b"+PONG\r\n").await;
        clients.push(client);
    }
    clients
}

#[tokio::test]
async fn idle_clients_cost_little_and_leave_nothing_behind() {
    const IDLE: usize = 3000;
    const CYCLES: usize = 10_000;
    let front = front().await;
    // What the first clients touch stays.
    drop(idle_clients(&front, 100).await);
    let before = front.resident();
    let clients = idle_clients(&front, IDLE).await;
    let with = front.resident();
    let each = with.saturating_sub(before) as f64 / 1024.0 / IDLE as f64;
    eprintln!("{each:.2} KiB for each of {IDLE} idle clients");
    assert!(each < 8.0, "{each} KiB for an idle client");
    drop(clients);

    for _ in 0..CYCLES / 10 / 100 {
        drop(idle_clients(&front, 100).await);
    }
    let early = front.resident();
    for _ in 0..CYCLES / 100 {
        drop(idle_clients(&front, 100).await);
    }
    let late = front.resident();
    eprintln!("{early} bytes became {late} in {CYCLES} connects and disconnects");
    assert!(late <= early + (2 << 20), "{early} bytes became {late}");
}

/// A large value that was sent once is not kept for as long as its client stays.
#[tokio::test]
async fn a_large_value_is_not_kept_by_an_idle_client() {
    let front = front().await;
    let value = "x".repeat(200_000);
    let before = front.resident();
    let mut clients = idle_clients(&front, 300).await;
    for client in &mut clients {
        assert_eq!(client.ask(&["SET", "large", &value]).await, "+OK\r\n");
    }
    let grown = front.resident().saturating_sub(before) / 1024 / clients.len() as u64;
    eprintln!("{grown} KiB for each client that sent a large value once");
    assert!(grown < 100, "{grown} KiB for each client");
}
