//! Bytes that nobody would send, at both ports at once, while somebody else is served. `NOISE_SEED=n` sends the same again,
//! though not at the same moments.

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use pointsman::demo::proxy::fetch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Front, PATIENCE, Raw, command};

/// Those who make noise, half of them at each port.
const NOISY: u64 = 8;
/// Longest input; several make up what one connection sends.
const LONGEST: usize = 64 * 1024;

/// What a client may say, to begin with.
fn commands() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        &["GET", "k"][..],
        &["SET", "k", "v"],
        &["MGET", "a", "b", "c"],
        &["MULTI"],
        &["EXEC"],
        &["WATCH", "k"],
        &["HELLO", "3"],
        &["HELLO", "2", "AUTH", "default", "x", "SETNAME", "n"],
        &["AUTH", "nobody", "nothing"],
        &["SELECT", "3"],
        &["SUBSCRIBE", "c", "d"],
        &["BLPOP", "q", "0.01"],
        &["EVAL", "return redis.call('GET', KEYS[1])", "1", "k"],
        &["CLIENT", "TRACKING", "ON", "BCAST"],
        &["CLIENT", "REPLY", "SKIP"],
        &["CLIENT", "LIST", "ID", "1", "2"],
        &["SCAN", "0", "COUNT", "10"],
        &["XREAD", "BLOCK", "10", "STREAMS", "s", "$"],
        &["NOSUCH", "a"],
        &["MONITOR"],
        &["RESET"],
        &["QUIT"],
    ]
    .iter()
    .map(|words| command(words))
    .collect();
    all.push(b"SET inline \"a b\"\r\n".to_vec());
    all.push(format!("*2\r\n$3\r\nGET\r\n$300000\r\n{}\r\n", "x".repeat(60_000)).into_bytes());
    all.push(b"PROXY TCP4 203.0.113.9 198.51.100.1 40001 6379\r\n".to_vec());
    all.push(vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]);
    all
}

/// What a scraper may say, or an operator.
fn requests() -> Vec<Vec<u8>> {
    let json = "{\"service\": \"test\", \"dry_run\": true}";
    let post = |path: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut all: Vec<String> =
        ["/metrics", "/livez", "/readyz", "/status", "/", "/status?x=y", "/../x"].map(get).to_vec();
    all.extend([post("/switchover", json), post("/reload", "{}"), post("/switchover", "{\"service\": 1}")]);
    all.push("POST /reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_owned());
    all.push("GET /metrics HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n".to_owned());
    all.into_iter().map(String::into_bytes).collect()
}

/// A few of them one behind the other, each perhaps no more what it was.
fn garbled(rng: &mut Rng, from: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rng.usize(1..6) {
        let mut one = rng.choice(from).unwrap().clone();
        for _ in 0..rng.usize(0..5) {
            let at = rng.usize(0..=one.len());
            match rng.u8(0..7) {
                0 => one.truncate(at),
                1 => one.splice(at..at, std::iter::repeat_n(rng.u8(..), rng.usize(0..2000))).for_each(drop),
                2 => drop(one.drain(..at)),
                3 => one.extend_from_within(at..),
                4 => one.splice(at..at, *b"\r\n").for_each(drop),
                _ => one.iter_mut().skip(at).take(rng.usize(1..4)).for_each(|byte| *byte = rng.u8(..)),
            }
        }
        bytes.extend_from_slice(&one);
    }
    bytes.truncate(LONGEST);
    bytes
}

/// One connection after the other, until `end`.
async fn make_noise(to: SocketAddr, from: Vec<Vec<u8>>, seed: u64, end: Instant) -> u64 {
    let (mut rng, mut made) = (Rng::with_seed(seed), 0);
    while Instant::now() < end {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let bytes = garbled(&mut rng, &from);
        for piece in bytes.chunks(rng.usize(1..=bytes.len().max(1))) {
            // The other side may have had enough.
            if !matches!(timeout(PATIENCE, stream.write_all(piece)).await, Ok(Ok(()))) {
                break;
            }
        }
        match rng.u8(0..3) {
            0 => {}
            1 => drop(stream.shutdown().await),
            _ => drop(timeout(Duration::from_millis(rng.u64(0..20)), stream.read(&mut [0; 4096])).await),
        }
        made += 1;
    }
    made
}

async fn noise(length: Duration) {
    let seed = std::env::var("NOISE_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("NOISE_SEED={seed}");
    let front = Front::configured("limits.pinned = 100").await;
    let end = Instant::now() + length;
    let noisy: Vec<_> = (0..NOISY)
        .map(|n| {
            let (to, from) = if n % 2 == 0 { (front.proxy, commands()) } else { (front.admin, requests()) };
            tokio::spawn(make_noise(to, from, seed.wrapping_add(n), end))
        })
        .collect();
    let mut served = Raw::connect(front.proxy).await;
    let mut count = 0;
    while Instant::now() < end {
        count += 1;
        assert_eq!(served.ask(&["INCR", "served"]).await, format!(":{count}\r\n"));
        if count % 50 == 0 {
            let page = fetch(front.admin, "/metrics").await.unwrap();
            assert!(page.contains("pointsman_clients{"), "{page}");
        }
    }
    let mut made = 0;
    for noisy in noisy {
        made += noisy.await.unwrap();
    }
    eprintln!("{made} connections, {count} commands beside them");
    assert!(made > 100 && count > 100, "{made} {count}");
    // All of them are gone, none by a fault of ours.
    let gone = Instant::now() + PATIENCE;
    while front.metric("pointsman_clients", "").await > 1.0 {
        assert!(Instant::now() < gone, "some client is still there");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(front.metric("pointsman_clients_closed_total", "reason=\"internal\"").await, 0.0);
    assert!(!front.log().contains("panicked"), "{}", front.log());
    assert_eq!(served.ask(&["INCR", "served"]).await, format!(":{}\r\n", count + 1));
    assert!(front.resident() < 64 << 20, "{} bytes", front.resident());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_at_both_ports_disturbs_nobody() {
    noise(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute"]
async fn a_minute_of_noise_at_both_ports_disturbs_nobody() {
    noise(Duration::from_secs(60)).await;
}
