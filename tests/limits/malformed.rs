//! What is not RESP is answered, and closed, as Redis does it, byte for byte, however it is cut.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;

use crate::support::{Front, Raw, command, text};

/// All that comes until the connection is closed. What `before` asks is answered before the rest is sent: Redis drops
/// replies that it has not written when it closes silently.
async fn answer(addr: SocketAddr, before: &[u8], told: &str, pieces: &[&[u8]]) -> String {
    let mut client = Raw::connect(addr).await;
    if !before.is_empty() {
        client.send(before).await;
        assert_eq!(text(&client.until(told.as_bytes()).await), told);
    }
    for piece in pieces {
        // The other side may have had enough already.
        if client.stream.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    text(&client.rest().await)
}

fn malformed() -> Vec<Vec<u8>> {
    let long = "x".repeat(64 * 1024 + 1);
    let mut inputs: Vec<Vec<u8>> = [
        "*abc\r\n",
        "*01\r\n",
        "* 1\r\n",
        "*\r\n",
        "*2147483648\r\n",
        "*99999999999999999999\r\n",
        "*1\r\n$abc\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n$\r\n",
        "*1\r\n$536870913\r\n",
        "*1\r\nPING\r\n",
        "*1\r\n:4\r\n",
        "*2\r\n$4\r\nECHO\r\n*1\r\n",
        "*2\r\n$4\r\nECHO\r\n\r\n",
        "ECHO \"a\r\n",
        "ECHO \"a\"b\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\n\r\n",
        "Host: x\r\n",
        "*1\r\n$4\r\nPOST\r\n",
        "*2\r\n$5\r\nhost:\r\n$1\r\nx\r\n",
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec();
    inputs.push(long.clone().into_bytes());
    inputs.push(format!("*{long}").into_bytes());
    inputs.push(format!("*1\r\n${long}").into_bytes());
    inputs
}

#[tokio::test]
async fn malformed_requests_are_answered_as_by_redis() {
    let front = Front::configured("").await;
    const TOLD: &str = "+OK\r\n$1\r\nv\r\n";
    let before = [command(&["SET", "k", "v"]), command(&["GET", "k"])].concat();
    let behind = command(&["SET", "k", "smuggled"]);
    for input in malformed() {
        let shown = text(&input[..input.len().min(40)]);
        let expected = answer(front.redis, &before, TOLD, &[&input]).await;
        assert_eq!(answer(front.proxy, &before, TOLD, &[&input]).await, expected, "{shown:?}");
        let all = [before.as_slice(), &input, &behind].concat();
        let told = answer(front.proxy, b"", "", &[&all]).await;
        assert_eq!(told, format!("{TOLD}{expected}"), "{shown:?} in one piece with what stands before and behind it");
        if input.len() < 100 {
            let bytes: Vec<&[u8]> = input.chunks(1).collect();
            assert_eq!(answer(front.proxy, &before, TOLD, &bytes).await, expected, "{shown:?} byte by byte");
        }
    }
    // Redis runs nothing of what comes behind; neither did we let it through.
    let mut client = Raw::connect(front.redis).await;
    assert_eq!(client.ask(&["GET", "k"]).await, "$1\r\nv\r\n");
    assert_eq!(front.metric("pointsman_clients_closed_total", "internal").await, 0.0);
}

/// A client that has a connection of its own is answered alike, and its transaction does not run.
#[tokio::test]
async fn malformed_requests_in_a_transaction_end_it() {
    let front = Front::configured("").await;
    const TOLD: &str = "+OK\r\n+OK\r\n+QUEUED\r\n";
    let before = [command(&["SET", "k", "v"]), command(&["MULTI"]), command(&["SET", "k", "w"])].concat();
    for input in malformed().into_iter().filter(|i| i.len() < 100) {
        let expected = answer(front.redis, &before, TOLD, &[&input]).await;
        assert_eq!(answer(front.proxy, &before, TOLD, &[&input]).await, expected, "{:?}", text(&input));
    }
    let mut client = Raw::connect(front.proxy).await;
    assert_eq!(client.ask(&["GET", "k"]).await, "$1\r\nv\r\n");
}
