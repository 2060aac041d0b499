//! PROXY headers: from a balancer that is named they say who the client is, from nobody else.

use proxy_header::{ProxiedAddress, ProxyHeader};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;

use crate::support::{Front, Raw, command, text};

const HEADERS: &str = "pointsman_proxy_headers_total";
const CLOSED: &str = "pointsman_clients_closed_total";
/// Where the tests' connections come from.
const FROM_HERE: &str = "proxy_protocol = [\"127.0.0.0/8\"]";

fn header(version: u8) -> Vec<u8> {
    let (source, destination) = ("203.0.113.9:40001", "198.51.100.1:6379");
    let address = ProxiedAddress::stream(source.parse().unwrap(), destination.parse().unwrap());
    let (header, mut bytes) = (ProxyHeader::with_address(address), [0; 256]);
    let len = match version {
        1 => header.encode_to_slice_v1(&mut bytes),
        _ => header.encode_to_slice_v2(&mut bytes),
    };
    bytes[..len.unwrap()].to_vec()
}

async fn info(client: &mut Raw) -> String {
    client.ask(&["CLIENT", "INFO"]).await
}

#[tokio::test]
async fn a_client_has_the_address_of_its_header() {
    let front = Front::listening(FROM_HERE, "").await;
    for version in [1, 2] {
        let mut client = Raw::connect(front.proxy).await;
        // The first command may come in the same packet.
        let begin = [header(version), command(&["SET", "k", "v"])].concat();
        client.send(&begin).await;
        assert_eq!(client.line().await.as_deref(), Some("+OK\r\n"));
        let seen = info(&mut client).await;
        assert!(seen.contains(" addr=203.0.113.9:40001 laddr=198.51.100.1:6379 "), "{seen}");
    }
    assert_eq!(front.metric(HEADERS, "client").await, 2.0);
}

#[tokio::test]
async fn a_balancers_own_connections_are_served_and_its_looks_are_silent() {
    let front = Front::listening(FROM_HERE, "").await;
    let quiet = front.until_logged("is master").await;
    let mut local = [0; 64];
    let len = ProxyHeader::with_local().encode_to_slice_v2(&mut local).unwrap();
    for own in [&local[..len], b"PROXY UNKNOWN\r\n"] {
        let mut client = Raw::connect(front.proxy).await;
        client.send(own).await;
        let seen = info(&mut client).await;
        let me = client.stream.local_addr().unwrap();
        assert!(seen.contains(&format!(" addr={me} ")), "{seen}");
        // A look: nothing but the header, or not even that; ended, or reset.
        for reset in [false, true] {
            for said in [own, b""] {
                let mut look = Raw::connect(front.proxy).await;
                look.send(said).await;
                if reset {
                    SockRef::from(&look.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
                } else {
                    look.stream.shutdown().await.unwrap();
                    assert_eq!(look.rest().await, b"");
                }
            }
        }
    }
    front.until_metric(CLOSED, "no_data", 8.0).await;
    assert_eq!(front.log(), quiet);
}

#[tokio::test]
async fn what_is_no_header_where_one_is_due_is_refused() {
    let front = Front::listening(FROM_HERE, "limits.handshake_timeout = \"500ms\"").await;
    let mut beside = Raw::connect(front.proxy).await;
    beside.send(&header(2)).await;
    beside.ask(&["PING"]).await;
    for (said, outcome, told) in [
        (&command(&["PING"])[..], "missing", "-DENIED pointsman: a PROXY header was expected, and other bytes came"),
        (b"PROXY TCP4 nonsense\r\n", "malformed", "-DENIED pointsman: the PROXY header is malformed"),
        (b"", "timeout", "-DENIED pointsman: no PROXY header came within 500ms"),
        (b"PROXY TCP4 ", "timeout", "-DENIED pointsman: no PROXY header came within 500ms"),
    ] {
        let mut client = Raw::connect(front.proxy).await;
        client.send(said).await;
        let line = text(&client.rest().await);
        assert!(line.starts_with(told) && line.ends_with("it is expected of 127.0.0.1\r\n"), "{line}");
        assert!(front.metric(HEADERS, outcome).await >= 1.0, "{outcome}");
    }
    front.until_metric(CLOSED, "proxy_header", 4.0).await;
    assert_eq!(front.metric("pointsman_limit_reached_total", "handshake_timeout").await, 2.0);
    assert_eq!(front.metric("pointsman_clients", "").await, 1.0);
    // One line for the first; how many more there were is told with a later one.
    let log = front.until_logged("client refused").await;
    assert_eq!(log.matches("client refused").count(), 1, "{log}");
    assert!(log.contains("127.0.0.1:"), "{log}");
    assert_eq!(beside.ask(&["ECHO", "x"]).await, "$1\r\nx\r\n");
}

/// One byte at a time and for ever: the limit is for the whole header, not for each byte.
#[tokio::test]
async fn a_header_that_trickles_in_does_not_hold_the_place() {
    let front = Front::listening(FROM_HERE, "limits.handshake_timeout = \"200ms\"").await;
    let client = Raw::connect(front.proxy).await;
    let (_read, mut write) = client.stream.into_split();
    let trickle = tokio::spawn(async move {
        for byte in b"PROXY UNKNOWN ".iter().chain([b'x'; 80].iter()) {
            write.write_all(&[*byte]).await?;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        std::io::Result::Ok(())
    });
    front.until_metric(HEADERS, "timeout", 1.0).await;
    front.until_metric("pointsman_clients", "", 0.0).await;
    assert!(trickle.await.unwrap().is_err(), "it was let finish");
}

/// Whoever is not a balancer that was named cannot call himself anything.
#[tokio::test]
async fn a_header_from_elsewhere_changes_nobody() {
    for listener in ["proxy_protocol = [\"192.0.2.0/24\"]", ""] {
        let front = Front::listening(listener, "").await;
        for version in [1, 2] {
            let mut client = Raw::connect(front.proxy).await;
            client.send(&[header(version), command(&["SET", "k", "v"])].concat()).await;
            let me = client.stream.local_addr().unwrap();
            let expected =
                format!("-DENIED pointsman: a PROXY header from {me} is not believed (listen.proxy_protocol)\r\n");
            assert_eq!(text(&client.rest().await), expected);
        }
        assert_eq!(
            Raw::connect(front.proxy).await.ask(&["GET", "k"]).await,
            "$-1\r\n",
            "what came behind it did not run"
        );
        assert_eq!(front.metric(HEADERS, "untrusted").await, 2.0);
        front.until_metric(CLOSED, "proxy_header", 2.0).await;
        let log = front.until_logged("it sent a PROXY header").await;
        assert_eq!(log.matches("it sent a PROXY header").count(), 1, "{log}");
    }
}
