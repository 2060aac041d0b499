//! SIGTERM: nobody new, everybody to the end of what he was doing, and an end that is clean.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pointsman::demo::cluster::Member;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Front, PATIENCE, Raw, command, text};

impl Front {
    fn terminate(&self) {
        self.process.signal(Signal::TERM).unwrap();
    }

    /// Until nobody can connect.
    async fn until_closed(&self) {
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(self.proxy).await.is_ok() {
            assert!(Instant::now() < end, "it still listens\n{}", self.log());
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Until the process has ended, and whether it did so as it should.
    async fn until_ended(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.ended().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            assert!(Instant::now() < end, "it does not end\n{}", self.log());
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// One that is idle: it sees the end, within the grace or behind it, and nothing else.
async fn until_end(mut client: Raw) {
    let end = timeout(PATIENCE, client.stream.read(&mut [0; 16])).await.expect("not closed");
    assert_eq!(end.expect("an end, not a reset"), 0);
}

#[tokio::test]
async fn everybody_leaves_when_he_is_done_and_subscribers_last() {
    let mut front = Front::configured("").await;
    let connect = || Raw::connect(front.proxy);
    let (idle, mut transaction, mut blocked, mut subscriber) =
        (connect().await, connect().await, connect().await, connect().await);
    transaction.ask(&["SET", "k", "1"]).await;
    transaction.send(&command(&["MULTI"])).await;
    transaction.until(b"+OK\r\n").await;
    subscriber.send(&command(&["SUBSCRIBE", "news"])).await;
    subscriber.until(b":1\r\n").await;
    blocked.send(&command(&["BLPOP", "list", "0"])).await;
    front.until_metric("pointsman_backend_connections", "pinned", 3.0).await;

    front.terminate();
    front.until_closed().await;
    let ready = pointsman::demo::proxy::fetch(front.admin, "/readyz").await.unwrap_err().to_string();
    assert!(ready.contains(" 503 "), "{ready}");
    until_end(idle).await;
    // The others go on.
    let ask = |words: &'static [&'static str]| front.cluster.ask(Member::Node(0), words);
    ask(&["PUBLISH", "news", "one"]).await.unwrap();
    subscriber.until(b"one\r\n").await;
    transaction.send(&[command(&["INCR", "k"]), command(&["EXEC"])].concat()).await;
    assert_eq!(text(&transaction.rest().await), "+QUEUED\r\n*1\r\n:2\r\n");
    ask(&["PUBLISH", "news", "two"]).await.unwrap();
    subscriber.until(b"two\r\n").await;
    ask(&["RPUSH", "list", "x"]).await.unwrap();
    assert_eq!(text(&blocked.rest().await), "*2\r\n$4\r\nlist\r\n$1\r\nx\r\n");
    until_end(subscriber).await;
    front.until_ended().await;
    assert!(front.log().contains("drained"), "{}", front.log());
}

/// Each counts for itself and sends its next command behind each reply: what was answered ran once, and what was not
/// answered did not run, since the end came in its place.
#[tokio::test]
async fn no_command_of_a_busy_client_gets_lost_in_the_end() {
    const CLIENTS: usize = 50;
    let mut front = Front::configured("").await;
    let started = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|i| {
            let (to, started): (SocketAddr, _) = (front.proxy, Arc::clone(&started));
            tokio::spawn(async move {
                let (mut client, incr) = (Raw::connect(to).await, command(&["INCR", &format!("n{i}")]));
                let mut answered = 0;
                loop {
                    // What crosses the end is refused by the socket or gets no reply.
                    if client.stream.write_all(&incr).await.is_err() {
                        return answered;
                    }
                    let Some(line) = client.line().await else { return answered };
                    answered += 1;
                    assert_eq!(line, format!(":{answered}\r\n"));
                    started.fetch_or(answered > 20, Ordering::Relaxed);
                }
            })
        })
        .collect();
    while !started.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(1)).await;
    }
    front.terminate();
    for (i, client) in clients.into_iter().enumerate() {
        let answered = client.await.unwrap();
        let ran = front.cluster.ask(Member::Node(0), &["GET", &format!("n{i}")]).await.unwrap();
        assert_eq!(pointsman::demo::wire::text(&ran), answered.to_string(), "client {i}");
    }
    front.until_ended().await;
}

/// The end comes behind the last byte, however long a client takes for it.
#[tokio::test]
async fn a_client_that_is_slow_to_read_gets_all_of_its_reply() {
    const SIZE: usize = 900_000;
    // Of a Unix socket the kernel keeps a fifth of a megabyte: the rest waits in pointsman.
    let path = std::env::temp_dir().join(format!("pointsman-drain-{}.sock", std::process::id()));
    let mut front = Front::listening(&format!("}}, {{ address = \"unix:{}\"", path.display()), "").await;
    front.cluster.ask(Member::Node(0), &["SETRANGE", "large", &(SIZE - 1).to_string(), "x"]).await.unwrap();
    let mut client = UnixStream::connect(&path).await.unwrap();
    client.write_all(&command(&["GET", "large"])).await.unwrap();
    let end = Instant::now() + PATIENCE;
    while front.metric("pointsman_backend_received_bytes_total", "").await < SIZE as f64 {
        assert!(Instant::now() < end, "no reply");
        sleep(Duration::from_millis(5)).await;
    }
    front.terminate();
    front.until_closed().await;
    // Longer than any patience at the end of a connection.
    sleep(Duration::from_millis(1500)).await;
    assert!(front.process.ended().unwrap().is_none(), "its client is not served yet");
    let mut all = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut all)).await.unwrap().unwrap();
    assert!(all.len() > SIZE && all.ends_with(b"x\r\n"), "{} bytes came", all.len());
    front.until_ended().await;
}

/// A command that crosses the end of the connection gets no reply, and no reset either.
#[tokio::test]
async fn what_crosses_the_end_is_taken_and_not_run() {
    let mut front = Front::configured("").await;
    let mut client = Raw::connect(front.proxy).await;
    client.ask(&["PING"]).await;
    front.terminate();
    assert_eq!(client.stream.read(&mut [0; 16]).await.unwrap(), 0);
    for _ in 0..3 {
        // Behind a reset the second would fail.
        client.stream.write_all(&command(&["SET", "k", "v"])).await.unwrap();
        sleep(Duration::from_millis(50)).await;
    }
    drop(client);
    front.until_ended().await;
    let ran = front.cluster.ask(Member::Node(0), &["EXISTS", "k"]).await.unwrap();
    assert_eq!(pointsman::demo::wire::text(&ran), "0");
}

#[tokio::test]
async fn those_who_are_connected_go_on_for_the_grace() {
    let mut front = Front::with_head("drain_grace = \"700ms\"\n", "", "").await;
    let mut client = Raw::connect(front.proxy).await;
    client.ask(&["PING"]).await;
    let begun = Instant::now();
    front.terminate();
    front.until_closed().await;
    while begun.elapsed() < Duration::from_millis(600) {
        assert_eq!(client.ask(&["PING"]).await, "+PONG\r\n");
        sleep(Duration::from_millis(20)).await;
    }
    until_end(client).await;
    assert!(begun.elapsed() >= Duration::from_millis(700));
    front.until_ended().await;
}

#[tokio::test]
async fn a_drain_ends_at_its_limit_or_at_a_second_signal() {
    for second in [false, true] {
        let limit = if second { "1h" } else { "300ms" };
        let mut front = Front::with_head(&format!("drain_timeout = \"{limit}\"\n"), "", "").await;
        let mut client = Raw::connect(front.proxy).await;
        client.send(&command(&["MULTI"])).await;
        client.until(b"+OK\r\n").await;
        front.terminate();
        front.until_closed().await;
        if second {
            assert!(front.process.ended().unwrap().is_none(), "a transaction is open");
            front.terminate();
        }
        front.until_ended().await;
        assert_eq!(client.rest().await, b"");
        let log = front.log();
        let expected = if second { "ending at once" } else { "drain_timeout has passed" };
        assert!(log.contains(expected) && log.contains("clients=1"), "{log}");
    }
}
