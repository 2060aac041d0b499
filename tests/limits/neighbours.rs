//! What others notice: a few clients that ask for little, and how long the slowest of their answers take.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::support::{PATIENCE, command};

const NEIGHBOURS: usize = 8;

/// The 99th percentile of the neighbours' latency at `addr` for as long as `length`, while something else is done there.
pub(crate) async fn p99(addr: SocketAddr, length: Duration, meanwhile: impl Future<Output = ()>) -> Duration {
    let end = Instant::now() + length;
    let mut neighbours = JoinSet::new();
    for id in 0..NEIGHBOURS {
        neighbours.spawn(live(addr, id, end));
    }
    let all = async {
        let mut all: Vec<Duration> = Vec::new();
        while let Some(latencies) = neighbours.join_next().await {
            all.extend(latencies.unwrap());
        }
        all
    };
    let mut all = tokio::select! {
        all = pin!(all) => all,
        () = meanwhile => unreachable!("it goes on for ever"),
    };
    assert!(all.len() > 100, "{} answers in {length:?}", all.len());
    all.sort_unstable();
    all[all.len() * 99 / 100]
}

async fn live(addr: SocketAddr, id: usize, end: Instant) -> Vec<Duration> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let key = format!("neighbour:{id}");
    let set = (command(&["SET", &key, &key]), "+OK\r\n".to_owned());
    let get = (command(&["GET", &key]), format!("${}\r\n{key}\r\n", key.len()));
    let mut latencies = Vec::new();
    let mut got = [0; 64];
    for (question, answer) in [&set, &get].into_iter().cycle() {
        let begun = Instant::now();
        if begun >= end {
            break;
        }
        stream.write_all(question).await.unwrap();
        let got = &mut got[..answer.len()];
        timeout(PATIENCE, stream.read_exact(got)).await.expect("a neighbour is answered").unwrap();
        assert!(got == answer.as_bytes(), "a neighbour was given {got:?}");
        latencies.push(begun.elapsed());
    }
    latencies
}
