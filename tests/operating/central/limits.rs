//! Who may connect: networks, and how many of one address.

use std::net::SocketAddr;

use tokio::net::TcpSocket;
use tokio::time::Instant;

use crate::support::{Front, Raw, command, text};

const REJECTED: &str = "pointsman_clients_rejected_total";

/// A connection that comes from another loopback address.
async fn connect_from(ip: &str, to: SocketAddr) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{ip}:0").parse().unwrap()).unwrap();
    Raw { stream: socket.connect(to).await.unwrap(), received: Vec::new() }
}

/// A client as a balancer at 127.0.0.1 brings it.
async fn brought(client: &str, to: SocketAddr) -> Raw {
    let mut raw = Raw::connect(to).await;
    raw.send(format!("PROXY TCP4 {client} 198.51.100.1 40000 6379\r\n").as_bytes()).await;
    raw
}

#[tokio::test]
async fn only_clients_of_networks_that_are_allowed_come_in() {
    let front =
        Front::listening("proxy_protocol = [\"127.0.0.1\"], allow = [\"127.0.0.2\", \"203.0.113.0/24\"]", "").await;
    let to = front.proxy;
    assert_eq!(connect_from("127.0.0.2", to).await.ask(&["PING"]).await, "+PONG\r\n");
    assert_eq!(brought("203.0.113.9", to).await.ask(&["PING"]).await, "+PONG\r\n", "the balancer is let in with it");
    for (mut client, ip) in
        [(connect_from("127.0.0.3", to).await, "127.0.0.3"), (brought("192.0.2.9", to).await, "192.0.2.9")]
    {
        client.send(&command(&["PING"])).await;
        let line = text(&client.rest().await);
        let expected = format!("-DENIED pointsman: {ip} is not among the networks that may connect (listen.allow)\r\n");
        assert_eq!(line, expected);
    }
    // What the balancer itself wants has no other address.
    let mut own = Raw::connect(to).await;
    own.send(b"PROXY UNKNOWN\r\n").await;
    assert_eq!(own.ask(&["PING"]).await, "+PONG\r\n");
    assert_eq!(front.metric(REJECTED, "reason=\"allow\"").await, 2.0);
    assert_eq!(front.metric("pointsman_clients_closed_total", "rejected").await, 2.0);
    let log = front.until_logged("client refused: ").await;
    assert!(log.matches("client refused: 127.0.0.3").count() + log.matches("client refused: 192.0.2.9").count() == 1);
}

/// One application that leaks connections does not take the places of the others.
#[tokio::test]
async fn the_limit_for_an_address_is_for_the_clients_own() {
    let front = Front::listening("proxy_protocol = [\"127.0.0.1\"]", "limits.max_clients_per_address = 2").await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = brought("203.0.113.9", front.proxy).await;
        assert_eq!(client.ask(&["PING"]).await, "+PONG\r\n");
        clients.push(client);
    }
    let line = text(&brought("203.0.113.9", front.proxy).await.rest().await);
    let expected = "-TRYAGAIN pointsman: 2 clients of 203.0.113.9 are connected (limits.max_clients_per_address)\r\n";
    assert_eq!(line, expected);
    assert_eq!(brought("203.0.113.10", front.proxy).await.ask(&["PING"]).await, "+PONG\r\n", "another behind the same");
    drop(clients);
    front.until_metric("pointsman_clients", "", 0.0).await;
    assert_eq!(brought("203.0.113.9", front.proxy).await.ask(&["PING"]).await, "+PONG\r\n");
    assert_eq!(front.metric(REJECTED, "max_clients_per_address").await, 1.0);
}

/// A crowd is let in at the pace that is set, and nobody is turned away.
#[tokio::test]
async fn a_crowd_waits_for_its_turn() {
    let front = Front::configured("limits.accept_rate = 50").await;
    let begun = Instant::now();
    let crowd: Vec<_> = (0..75)
        .map(|_| {
            let to = front.proxy;
            tokio::spawn(async move { Raw::connect(to).await.ask(&["PING"]).await })
        })
        .collect();
    for client in crowd {
        assert_eq!(client.await.unwrap(), "+PONG\r\n");
    }
    assert!(begun.elapsed().as_millis() >= 480, "fifty at once, the others in half a second: {:?}", begun.elapsed());
    assert!(front.metric("pointsman_limit_reached_total", "accept_rate").await >= 1.0);
}
