//! Every limit that has a name in the configuration or the metrics is reached, and counted.

use pointsman::config::{KEYS, Table};
use pointsman::metrics::LIMITS;
use tokio::net::TcpSocket;

use crate::support::{Front, PATIENCE, Raw, command, text};

/// One test a limit: it reaches the limit and gives back the pointsman that has to have counted it.
macro_rules! reaching {
    ($($limit:ident)*) => {
        const TESTED: &[&str] = &[$(stringify!($limit)),*];
        $(
            #[tokio::test]
            async fn $limit() {
                let front = reach::$limit().await;
                assert!(front.reached(stringify!($limit)).await >= 1.0, "not counted");
                let mut client = Raw::connect(front.proxy).await;
                assert_eq!(client.ask(&["PING"]).await, "+PONG\r\n", "{}", front.log());
            }
        )*
    };
}

reaching! {
    max_clients
    max_clients_per_address
    accept_rate
    handshake_timeout
    outstanding_bytes
    outstanding_commands
    output_bytes
    pinned
    pin_timeout
    bulk_bytes
    command_bytes
}

#[test]
fn every_limit_is_reached_by_a_test_and_counted() {
    assert_eq!(TESTED, LIMITS);
    let keys = KEYS.iter().filter(|k| k.table == Table::Limits);
    for key in keys {
        assert!(TESTED.contains(&key.name), "limits.{} is reached by no test", key.name);
    }
}

/// A client with its connection pinned and nothing owed.
async fn pinned_client(front: &Front) -> Raw {
    let mut client = Raw::connect(front.proxy).await;
    client.send(&command(&["MULTI"])).await;
    client.until(b"+OK\r\n").await;
    client
}

mod reach {
    use super::*;

    pub(super) async fn max_clients() -> Front {
        let front = Front::configured("limits.max_clients = 2").await;
        let mut clients = Vec::new();
        for _ in 0..2 {
            let mut client = Raw::connect(front.proxy).await;
            assert_eq!(client.ask(&["PING"]).await, "+PONG\r\n");
            clients.push(client);
        }
        let line = text(&Raw::connect(front.proxy).await.rest().await);
        assert_eq!(line, "-TRYAGAIN pointsman: 2 clients are connected (limits.max_clients)\r\n");
        let mut left = clients.pop().unwrap();
        left.send(&command(&["QUIT"])).await;
        left.rest().await;
        let end = tokio::time::Instant::now() + PATIENCE;
        while front.metric("pointsman_clients", "").await > 1.0 {
            assert!(tokio::time::Instant::now() < end, "a client that has left is still counted");
        }
        front
    }

    pub(super) async fn max_clients_per_address() -> Front {
        let front = Front::configured("limits.max_clients_per_address = 1").await;
        let mut first = Raw::connect(front.proxy).await;
        assert_eq!(first.ask(&["PING"]).await, "+PONG\r\n");
        let line = text(&Raw::connect(front.proxy).await.rest().await);
        assert!(line.starts_with("-TRYAGAIN pointsman: 1 clients of 127.0.0.1 are connected"), "{line}");
        first.send(&command(&["QUIT"])).await;
        first.rest().await;
        let end = tokio::time::Instant::now() + PATIENCE;
        while front.metric("pointsman_clients", "").await > 0.0 {
            assert!(tokio::time::Instant::now() < end, "a client that has left is still counted");
        }
        front
    }

    pub(super) async fn accept_rate() -> Front {
        let front = Front::configured("limits.accept_rate = 5").await;
        for _ in 0..6 {
            assert_eq!(Raw::connect(front.proxy).await.ask(&["PING"]).await, "+PONG\r\n");
        }
        front
    }

    /// From an address that is a balancer's comes nothing.
    pub(super) async fn handshake_timeout() -> Front {
        let front = Front::listening("proxy_protocol = [\"127.0.0.2\"]", "limits.handshake_timeout = \"50ms\"").await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut client = Raw { stream: socket.connect(front.proxy).await.unwrap(), received: Vec::new() };
        let line = text(&client.rest().await);
        assert!(line.starts_with("-DENIED pointsman: no PROXY header came within 50ms"), "{line}");
        front
    }

    /// More than may be under way at once is answered all the same, in order.
    async fn pipeline(front: &Front, commands: usize, size: usize) {
        let mut client = Raw::connect(front.proxy).await;
        let (mut read, mut write) = client.stream.split();
        let value = |i: usize| format!("{i:0size$}");
        let send = async {
            for i in 0..commands {
                tokio::io::AsyncWriteExt::write_all(&mut write, &command(&["ECHO", &value(i)])).await.unwrap();
            }
        };
        let receive = async {
            for i in 0..commands {
                let expected = format!("${size}\r\n{}\r\n", value(i));
                let mut got = vec![0; expected.len()];
                tokio::io::AsyncReadExt::read_exact(&mut read, &mut got).await.unwrap();
                assert!(got == expected.as_bytes(), "reply {i} is another's");
            }
        };
        tokio::time::timeout(3 * PATIENCE, async { tokio::join!(send, receive) }).await.expect("it goes on");
    }

    pub(super) async fn outstanding_bytes() -> Front {
        let front = Front::configured("limits.outstanding_bytes = 4096").await;
        pipeline(&front, 1000, 3000).await;
        front
    }

    pub(super) async fn outstanding_commands() -> Front {
        let front = Front::configured("").await;
        pipeline(&front, 50_000, 5).await;
        front
    }

    /// A client that takes a little all the time, but too little: others wait behind it for a second, not for ever.
    pub(super) async fn output_bytes() -> Front {
        let front = Front::configured("limits.output_bytes = \"4MiB\"").await;
        let mut setter = Raw::connect(front.proxy).await;
        assert_eq!(setter.ask(&["SET", "middle", &"x".repeat(50_000)]).await, "+OK\r\n");
        front.overtake(&command(&["GET", "middle"]).repeat(1000)).await;
        front
    }

    pub(super) async fn pinned() -> Front {
        let front = Front::configured("limits.pinned = 1").await;
        let mut first = pinned_client(&front).await;
        let mut second = Raw::connect(front.proxy).await;
        second.send(&command(&["MULTI"])).await;
        while front.reached("pinned").await < 1.0 {
            tokio::task::yield_now().await;
        }
        first.send(&command(&["DISCARD"])).await;
        first.until(b"+OK\r\n").await;
        second.until(b"+OK\r\n").await;
        second.send(&command(&["DISCARD"])).await;
        second.until(b"+OK\r\n").await;
        front
    }

    pub(super) async fn pin_timeout() -> Front {
        let front = Front::configured("limits.pinned = 1\nlimits.pin_timeout = \"200ms\"").await;
        let mut first = pinned_client(&front).await;
        let mut second = Raw::connect(front.proxy).await;
        let refusal = second.ask(&["BLPOP", "nothing", "1"]).await;
        assert!(refusal.starts_with("-TRYAGAIN pointsman: all 1 pinned"), "{refusal}");
        first.send(&command(&["DISCARD"])).await;
        first.until(b"+OK\r\n").await;
        assert_eq!(second.ask(&["BLPOP", "nothing", "0.01"]).await, "*-1\r\n", "there is room again");
        front
    }

    pub(super) async fn bulk_bytes() -> Front {
        let front = Front::configured("limits.bulk_bytes = \"1MiB\"").await;
        let mut client = Raw::connect(front.proxy).await;
        assert_eq!(client.ask(&["SET", "k", &"x".repeat(1 << 20)]).await, "+OK\r\n");
        client.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048577\r\nx").await;
        assert_eq!(text(&client.rest().await), "-ERR Protocol error: invalid bulk length\r\n");
        front
    }

    /// A command that has to be known as a whole is not kept in any length; what stands behind it is none of it.
    pub(super) async fn command_bytes() -> Front {
        let front = Front::configured("limits.command_bytes = \"1MiB\"").await;
        front.forget_peak();
        let before = front.peak();
        let mut client = Raw::connect(front.proxy).await;
        let name = "x".repeat(60 << 20);
        for huge in [["BLPOP", &name, "0"].as_slice(), &["SUBSCRIBE", &name], &["AUTH", &name], &[&name]] {
            let refusal = client.ask(huge).await;
            assert!(refusal.starts_with("-NOPERM pointsman: "), "{refusal:.200}");
            assert!(refusal.ends_with("(limits.command_bytes)\r\n"), "{refusal:.200}");
        }
        // Many small arguments are no different.
        let mut names = vec!["BLPOP"];
        names.resize(300_000, "list");
        assert!(client.ask(&names).await.starts_with("-NOPERM pointsman: "));
        // Within the limit it is a command like any other.
        assert_eq!(client.ask(&["BLPOP", &name[..1 << 19], "0.01"]).await, "*-1\r\n");
        let grown = front.peak().saturating_sub(before);
        assert!(grown < 16 << 20, "{grown} bytes for commands that were refused");
        front
    }
}
