//! What one client does to the others, side by side: the same abuse of Redis itself, and of pointsman before another.
//! `ABUSE=trickle` does only those whose name has that.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use pointsman::demo::cluster::{Cluster, Member};
use pointsman::demo::settings::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::MEASURING;
use crate::neighbours::p99;
use crate::support::{Front, Raw, command};

/// What one client does until it is dropped.
struct Abuse {
    name: &'static str,
    begin: fn(SocketAddr) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

const ABUSES: [Abuse; 7] = [
    Abuse { name: "a large SET at a trickle", begin: |a| Box::pin(trickle(a)) },
    Abuse { name: "large replies that nobody reads", begin: |a| Box::pin(deaf(a)) },
    Abuse { name: "many replies that nobody reads", begin: |a| Box::pin(deaf_to_many(a)) },
    Abuse { name: "a deep pipeline", begin: |a| Box::pin(pipeline(a)) },
    Abuse { name: "arguments without end", begin: |a| Box::pin(arguments(a)) },
    Abuse { name: "replies nested deep", begin: |a| Box::pin(nested(a)) },
    Abuse { name: "one byte a packet", begin: |a| Box::pin(bytes(a)) },
];

async fn connect(addr: SocketAddr) -> TcpStream {
    Raw::connect(addr).await.stream
}

async fn trickle(addr: SocketAddr) {
    let mut stream = connect(addr).await;
    stream.write_all(b"*3\r\n$3\r\nSET\r\n$7\r\ntrickle\r\n$536870912\r\n").await.unwrap();
    loop {
        stream.write_all(&[b'x'; 1000]).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
}

/// One at a time, and no more in a second than Redis bears: it copies the whole reply for each.
async fn deaf(addr: SocketAddr) {
    const BYTES_PER_SECOND: f64 = 128e6;
    let mut client = Raw::connect(addr).await;
    let len: f64 = client.ask(&["STRLEN", "large"]).await[1..].trim_end().parse().unwrap();
    loop {
        let mut stream = connect(addr).await;
        stream.write_all(&command(&["GET", "large"])).await.unwrap();
        sleep(Duration::from_secs_f64(len / BYTES_PER_SECOND)).await;
    }
}

async fn deaf_to_many(addr: SocketAddr) {
    let mut kept = Vec::new();
    loop {
        let mut stream = connect(addr).await;
        stream.write_all(&command(&["GET", "middle"]).repeat(300)).await.unwrap();
        kept.push(stream);
        sleep(Duration::from_millis(250)).await;
    }
}

async fn pipeline(addr: SocketAddr) {
    let (mut read, mut write) = connect(addr).await.into_split();
    let some = command(&["INCR", "n"]).repeat(1000);
    let send = async {
        loop {
            write.write_all(&some).await.unwrap();
        }
    };
    let receive = async {
        let mut buf = vec![0; 1 << 16];
        loop {
            assert!(read.read(&mut buf).await.unwrap() > 0);
        }
    };
    tokio::join!(send, receive).0
}

async fn arguments(addr: SocketAddr) {
    loop {
        let mut stream = connect(addr).await;
        stream.write_all(b"*2147483647\r\n$4\r\nMGET\r\n").await.unwrap();
        for _ in 0..200 {
            stream.write_all(&b"$1\r\na\r\n".repeat(1000)).await.unwrap();
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// As deep as Redis' own scripts go.
async fn nested(addr: SocketAddr) {
    let script = "local t = {1}; for i = 1, 3000 do t = {t} end; return t";
    let question = command(&["EVAL", script, "0"]);
    let mut client = Raw::connect(addr).await;
    loop {
        client.send(&question).await;
        client.until(b":1\r\n").await;
        sleep(Duration::from_millis(1)).await;
    }
}

async fn bytes(addr: SocketAddr) {
    let mut client = Raw::connect(addr).await;
    loop {
        for byte in command(&["SET", "bytes", "one after the other"]) {
            client.send(&[byte]).await;
            // Or the kernel puts several into one packet while nobody has read the first.
            tokio::task::yield_now().await;
        }
        client.until(b"+OK\r\n").await;
    }
}

async fn fill(addr: SocketAddr, large: usize) {
    let mut client = Raw::connect(addr).await;
    assert_eq!(client.ask(&["SET", "middle", &"m".repeat(50_000)]).await, "+OK\r\n");
    assert_eq!(client.ask(&["SETRANGE", "large", &(large - 1).to_string(), "x"]).await, format!(":{large}\r\n"));
}

/// Rounds of one abuse after the other; what the neighbours of each may notice is `allowed(direct, quiet)`, where `quiet`
/// is what pointsman costs them when nobody does anything.
async fn side_by_side(rounds: usize, length: Duration, large: usize, allowed: fn(Duration, Duration) -> Duration) {
    let _alone = MEASURING.lock().await;
    let mut front = Front::start(Settings::single(), &["--workers", "1"]).await;
    let other = Cluster::start(Settings::single()).await.unwrap();
    let direct = other.addr(Member::Node(0));
    fill(front.redis, large).await;
    fill(direct, large).await;
    let mut failed = Vec::new();
    let only = std::env::var("ABUSE").unwrap_or_default();
    for Abuse { name, begin } in ABUSES.into_iter().filter(|abuse| abuse.name.contains(&only)) {
        let (mut quiet, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        // By turns, so that what else this machine does meets all three.
        for _ in 0..rounds {
            quiet.push(p99(front.proxy, length, std::future::pending()).await);
            theirs.push(p99(direct, length, begin(direct)).await);
            ours.push(p99(front.proxy, length, begin(front.proxy)).await);
        }
        let (quiet, ours, theirs) = (median(quiet), median(ours), median(theirs));
        eprintln!("{name:32} p99 {ours:>10.1?} through pointsman, {theirs:>10.1?} directly; {quiet:.1?} without it");
        if ours > allowed(theirs, quiet) {
            failed.push(name);
        }
    }
    assert_eq!(failed, [""; 0], "the neighbours suffered");
    assert!(front.process.ended().unwrap().is_none(), "{}", front.log());
    assert_eq!(front.metric("pointsman_clients_closed_total", "internal").await, 0.0);
    let log = front.log();
    assert!(!log.contains("panicked"), "{log}");
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Generous: rounds are short, and the machine may be busy with something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_do_not_suffer_much() {
    let allowed = |direct, quiet| 5 * (direct + quiet) + Duration::from_millis(10);
    side_by_side(3, Duration::from_millis(250), 32 << 20, allowed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "four minutes, on a quiet machine; `make limits` runs it"]
async fn neighbours_suffer_no_more_than_twice() {
    side_by_side(5, Duration::from_secs(2), 512 << 20, |direct, quiet| 2 * direct + quiet).await;
}
