//! Transactions that come in one piece go with other clients' commands, and nobody can tell.

use crate::support::{Front, Raw, command, text};
use pointsman::demo::settings::Settings;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

fn all(commands: &[&str]) -> Vec<u8> {
    commands.iter().flat_map(|c| command(&c.split(' ').collect::<Vec<_>>())).collect()
}

async fn front() -> Front {
    Front::start(Settings::single(), &["--workers", "1"]).await
}

async fn pinned(front: &Front) -> f64 {
    front.metric("pointsman_backend_connections", "role=\"pinned\"").await
}

#[tokio::test]
async fn those_of_many_clients_share_connections_and_stay_together() {
    const CLIENTS: usize = 50;
    const ROUNDS: usize = 20;
    let front = front().await;
    let mut clients = JoinSet::new();
    for i in 0..CLIENTS {
        let mut client = Raw::connect(front.proxy).await;
        clients.spawn(async move {
            let key = format!("k{i}");
            for round in 0..ROUNDS {
                let (get, set) = (format!("GET {key}"), format!("SET {key} {round}"));
                // The two counters are the same at any time, unless somebody else's command comes between.
                let block = ["MULTI", &set, "INCR one", &get, "INCR other", "EXEC"];
                client.send(&all(&[&[get.as_str()], &block[..], &[&get, "PING"]].concat())).await;
                let answer = text(&client.until(b"+PONG\r\n").await);
                let bulk = |n: usize| format!("${}\r\n{n}\r\n", n.to_string().len());
                let before = if round == 0 { "$-1\r\n".to_owned() } else { bulk(round - 1) };
                let begin = format!("{before}+OK\r\n{}*4\r\n+OK\r\n:", "+QUEUED\r\n".repeat(4));
                let rest = answer.strip_prefix(&begin).unwrap_or_else(|| panic!("{answer}"));
                let (count, rest) = rest.split_once("\r\n").unwrap();
                assert_eq!(rest, format!("{0}:{count}\r\n{0}+PONG\r\n", bulk(round)));
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let mut client = Raw::connect(front.proxy).await;
    let total = (CLIENTS * ROUNDS).to_string();
    assert_eq!(client.ask(&["GET", "other"]).await, format!("${}\r\n{total}\r\n", total.len()));
    assert_eq!(pinned(&front).await, 0.0);
    for (name, count) in [("multi", 1), ("incr", 2), ("exec", 1)] {
        let counted = front.metric("pointsman_commands_total", &format!("command=\"{name}\"")).await;
        assert_eq!(counted, (count * CLIENTS * ROUNDS) as f64, "{name}");
    }
}

#[tokio::test]
async fn one_whose_rest_is_yet_to_come_begins_on_a_connection_of_its_own() {
    let front = front().await;
    let mut client = Raw::connect(front.proxy).await;
    client.send(&all(&["MULTI", "INCR n"])).await;
    assert_eq!(text(&client.until(b"+QUEUED\r\n").await), "+OK\r\n+QUEUED\r\n");
    assert_eq!(pinned(&front).await, 1.0);
    client.send(&all(&["INCR n", "EXEC"])).await;
    assert_eq!(text(&client.until(b":2\r\n").await), "+QUEUED\r\n*2\r\n:1\r\n:2\r\n");
    // More than is read at once is all there soon; more than is kept in one piece is not waited for.
    for (commands, its_own) in [(500, false), (5000, true)] {
        let front = self::front().await;
        let mut client = Raw::connect(front.proxy).await;
        let block = [&["MULTI"][..], &vec!["INCR n"; commands], &["EXEC"]].concat();
        client.send(&all(&block)).await;
        client.until(format!("*{commands}\r\n:1\r\n").as_bytes()).await;
        client.until(format!(":{commands}\r\n").as_bytes()).await;
        assert_eq!(pinned(&front).await, if its_own { 1.0 } else { 0.0 }, "{commands} commands");
    }
}

/// A neighbour waits behind a thousand commands, no more, whether or not they are in transactions.
#[tokio::test]
async fn commands_under_way_have_their_limit() {
    let front = front().await;
    let mut client = Raw::connect(front.proxy).await;
    let block = all(&[&["MULTI"][..], &["INCR n"; 1022], &["EXEC"]].concat());
    client.send(&[&block.repeat(20), &all(&["PING"])[..]].concat()).await;
    client.until(b":20440\r\n+PONG\r\n").await;
    assert!(front.metric("pointsman_limit_reached_total", "limit=\"outstanding_commands\"").await > 0.0);
    assert_eq!(pinned(&front).await, 0.0);
}

#[tokio::test]
async fn a_user_who_may_not_say_multi_or_exec_hears_what_the_server_says() {
    let front = front().await;
    let mut admin = Raw::connect(front.redis).await;
    for user in ["multi", "exec", "set"] {
        let denied = format!("-{user}");
        assert_eq!(admin.ask(&["ACL", "SETUSER", user, "on", "nopass", "~*", "&*", "+@all", &denied]).await, "+OK\r\n");
        let mut heard = Vec::new();
        for addr in [front.redis, front.proxy] {
            admin.ask(&["FLUSHALL"]).await;
            let mut client = Raw::connect(addr).await;
            assert_eq!(client.ask(&["AUTH", user, "x"]).await, "+OK\r\n");
            let mut other = Raw::connect(addr).await;
            assert_eq!(other.ask(&["AUTH", user, "x"]).await, "+OK\r\n");
            client.send(&all(&["MULTI", "INCR n", "SET k v", "EXEC", "GET k", "PING"])).await;
            let answer = text(&client.until(b"+PONG\r\n").await);
            heard.push((answer, other.ask(&["INCR", "n"]).await, client.ask(&["GET", "n"]).await));
        }
        assert_eq!(heard[0], heard[1], "without {user}");
    }
    assert_eq!(pinned(&front).await, 0.0);
}

/// It passes through the connection, and what was learnt of it keeps the next one off that.
#[tokio::test]
async fn a_large_answer_reaches_its_client() {
    let front = front().await;
    let value = "v".repeat(8 << 20);
    let mut client = Raw::connect(front.proxy).await;
    assert_eq!(client.ask(&["SET", "large", &value]).await, "+OK\r\n");
    for _ in 0..2 {
        let mut other = Raw::connect(front.proxy).await;
        client.send(&all(&["MULTI", "GET large", "GET large", "EXEC"])).await;
        assert_eq!(other.ask(&["ECHO", "x"]).await, "$1\r\nx\r\n");
        assert_eq!(client.line().await.unwrap(), "+OK\r\n");
        let bulk = format!("${}\r\n{value}\r\n", value.len());
        let answer = client.until(format!("{bulk}{bulk}").as_bytes()).await;
        assert!(answer.starts_with(b"+QUEUED\r\n+QUEUED\r\n*2\r\n"));
        assert_eq!(client.ask(&["PING"]).await, "+PONG\r\n");
    }
    assert_eq!(front.metric("pointsman_backend_protocol_errors_total", "").await, 0.0);
}

#[tokio::test]
async fn in_resp3_it_is_answered_as_directly() {
    let front = front().await;
    let mut heard = Vec::new();
    for addr in [front.redis, front.proxy] {
        let mut client = Raw::connect(addr).await;
        client.ask(&["HELLO", "3"]).await;
        client.ask(&["HSET", "h", "f", "v"]).await;
        client.send(&all(&["MULTI", "HGETALL h", "GET none", "ZADD z 1 m", "ZSCORE z m", "EXEC", "PING"])).await;
        heard.push(text(&client.until(b"+PONG\r\n").await).replace(":0\r\n", ":1\r\n"));
    }
    assert_eq!(heard[0], heard[1]);
    assert_eq!(pinned(&front).await, 0.0);
}

#[tokio::test]
async fn one_at_whose_end_the_client_closes_its_side_is_answered() {
    let front = front().await;
    let mut client = Raw::connect(front.proxy).await;
    client.send(&all(&["MULTI", "INCR n", "EXEC"])).await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(text(&client.rest().await), "+OK\r\n+QUEUED\r\n*1\r\n:1\r\n");
}
