//! Byte for byte what a direct connection gets: every conversation is held with the Redis and through pointsman, and
//! the two must not differ.

use crate::support::{Front, PATIENCE, Raw, command, text};
use pointsman::demo::settings::Settings;

/// One thing a client does.
enum Act {
    /// Sends bytes and waits for the reply to a marker behind them.
    Say(Vec<u8>),
    /// Sends bytes that end the connection, and waits for the end.
    Last(Vec<u8>),
    /// Sends bytes one packet each.
    Dribble(Vec<u8>),
}

use Act::{Dribble, Last, Say};

fn say(words: &str) -> Act {
    Say(command(&words.split(' ').collect::<Vec<_>>()))
}

fn all(commands: &[&str]) -> Vec<u8> {
    commands.iter().flat_map(|c| command(&c.split(' ').collect::<Vec<_>>())).collect()
}

async fn converse(addr: std::net::SocketAddr, acts: &[Act]) -> Vec<String> {
    let mut client = Raw::connect(addr).await;
    let mut heard = Vec::new();
    for (i, act) in acts.iter().enumerate() {
        let mark = format!("mark-{i}-7f3a");
        let echo = command(&["ECHO", &mark]);
        match act {
            Say(bytes) => client.send(&[bytes.as_slice(), &echo].concat()).await,
            Dribble(bytes) => {
                for byte in bytes.iter().chain(&echo) {
                    client.send(&[*byte]).await;
                }
            }
            Last(bytes) => {
                client.send(bytes).await;
                heard.push(text(&client.rest().await));
                break;
            }
        }
        // In a transaction the marker is queued: its echo comes with EXEC, so the marker to wait for is what is queued.
        heard.push(text(&client.until(format!("{mark}\r\n").as_bytes()).await));
    }
    heard
}

async fn same(front: &Front, name: &str, acts: &[Act]) {
    let mut heard = Vec::new();
    for addr in [front.redis, front.proxy] {
        Raw::connect(front.redis).await.ask(&["FLUSHALL"]).await;
        heard.push(converse(addr, acts).await);
    }
    assert_eq!(heard[0], heard[1], "{name}\n{}", front.log());
}

#[tokio::test]
async fn conversations_do_not_differ() {
    let front = Front::start(Settings::single(), &["--workers", "1"]).await;
    let big = "x".repeat(300_000);
    let same = |name: &'static str, acts: Vec<Act>| {
        let front = &front;
        async move { same(front, name, &acts).await }
    };

    same(
        "plain",
        vec![say("SET a 1"), say("GET a"), say("INCR a"), say("LPUSH a x"), say("MGET a b c"), say("NOSUCH a b")],
    )
    .await;
    same("arity", vec![say("GET"), say("SET a"), say("SELECT"), say("AUTH"), say("WATCH"), say("SUBSCRIBE")]).await;
    same(
        "pipeline",
        vec![Say(all(&[
            "SET a 1",
            "GET a",
            "SELECT 2",
            "GET a",
            "SET a 2",
            "SELECT 0",
            "GET a",
            "BLPOP l 0.01",
            "PING",
        ]))],
    )
    .await;
    same(
        "dribbled",
        vec![Dribble(all(&["SET a 1", "GET a"])), Dribble(b"PING\r\nSET  b \"x y\"\r\nGET b\r\n".to_vec())],
    )
    .await;
    same("inline", vec![Say(b"SET a 1\r\nGET a\n\r\n  \r\nPING\r\n".to_vec())]).await;
    same("empty frames", vec![Say(b"*0\r\n*-1\r\n*1\r\n$4\r\nPING\r\n".to_vec())]).await;
    same(
        "select",
        vec![
            say("SELECT 3"),
            say("SET a 3"),
            say("SELECT 0"),
            say("GET a"),
            say("SELECT 99"),
            say("SELECT x"),
            say("SELECT -1"),
            say("GET a"),
        ],
    )
    .await;
    same(
        "large values",
        vec![
            Say(command(&["SET", "big", &big])),
            say("GET big"),
            say("STRLEN big"),
            Say([command(&["GET", "big"]), command(&["GET", "big"]), all(&["PING"])].concat()),
        ],
    )
    .await;
    let many = vec!["INCR n"; 3000];
    same(
        "whole transactions",
        vec![
            Say(all(&["MULTI", "SET a 1", "GET a", "EXEC"])),
            Say(all(&["SET b 1", "MULTI", "INCR b", "EXEC", "GET b", "MULTI", "EXEC", "GET b"])),
            Say(all(&["MULTI", "LPUSH l x y", "LRANGE l 0 -1", "HSET h f v", "HGETALL h", "INCR l", "EXEC", "GET a"])),
            Say(all(&["MULTI", "SET a", "GET a", "EXEC", "GET a"])),
            Say(all(&["MULTI", "GET a", "EXEC x", "GET a", "EXEC"])),
            Say(all(&["MULTI x", "GET a", "EXEC"])),
            Say(all(&["MULTI", "GET a", "EVAL return{1,{2}} 0", "EXEC", "EVAL return{1,{2}} 0"])),
            Say(all(&["CLIENT REPLY SKIP", "MULTI", "GET a", "EXEC", "GET a"])),
            Say(all(&["CLIENT REPLY OFF", "MULTI", "SET a 2", "EXEC", "CLIENT REPLY ON", "GET a"])),
            Say([all(&["MULTI"]), command(&["SET", "big", &big]), all(&["GET big", "EXEC", "GET a"])].concat()),
            Say(all(&["MULTI", "GET big", "MGET big big", "EXEC", "MULTI", "GET big", "EXEC", "GET a"])),
            Say([all(&["MULTI"]), all(&many), all(&["EXEC", "GET n"])].concat()),
            Say(b"MULTI\r\nGET a\r\nEXEC\r\n".to_vec()),
            Say([all(&["MULTI"]), b"GET a\r\n".to_vec(), all(&["EXEC"])].concat()),
            Dribble(all(&["MULTI", "GET a", "EXEC"])),
            Last([all(&["MULTI", "GET a"]), b"*1\r\n$x\r\n".to_vec()].concat()),
        ],
    )
    .await;
    same(
        "watch and multi",
        vec![
            say("SET a 1"),
            say("WATCH a"),
            say("GET a"),
            say("UNWATCH"),
            say("EXEC"),
            say("DISCARD"),
            Say(all(&["WATCH a", "MULTI", "INCR a", "GET a", "EXEC"])),
            Say(all(&["MULTI", "INCR a", "NOSUCH", "EXEC"])),
            Say(all(&["MULTI", "MULTI", "WATCH a", "INCR a", "DISCARD", "GET a"])),
            Say(all(&["MULTI", "SELECT 5", "SET z 1", "EXEC", "GET z"])),
            Say(all(&["MULTI", "WATCH a", "CLIENT GETNAME", "SELECT 5", "EXEC", "GET z"])),
            say("GET z"),
            say("SELECT 0"),
            say("GET z"),
        ],
    )
    .await;
    same(
        "what is selected on a connection of one's own",
        vec![
            Say(all(&["WATCH a", "SELECT 2", "SET a 2", "SELECT x", "SELECT 99", "UNWATCH", "GET a"])),
            Say(all(&[
                "WATCH a", "SELECT 3", "RESET x", "GET a", "MULTI", "SET a 3", "EXEC", "GET a", "SELECT 0", "GET a",
            ])),
        ],
    )
    .await;
    same(
        "blocking",
        vec![
            Say(all(&["RPUSH l a b", "BLPOP l 1", "BLPOP l 1", "BLPOP l 0.05", "BRPOPLPUSH l m 0.05"])),
            Say(all(&["XADD s 1-1 f v", "XREAD BLOCK 10 STREAMS s 0", "XREAD BLOCK 10 STREAMS s 5"])),
        ],
    )
    .await;
    same("wait", vec![Say(all(&["SET a 1", "WAIT 0 10", "WAIT 1 20"]))]).await;
    same(
        "reply off",
        vec![
            Say(all(&["CLIENT REPLY SKIP", "GET a", "PING"])),
            Say(all(&["CLIENT REPLY OFF", "SET a 9", "GET a", "CLIENT REPLY ON", "GET a"])),
        ],
    )
    .await;
    same(
        "names",
        vec![
            say("CLIENT SETNAME me"),
            say("CLIENT GETNAME"),
            Say(command(&["CLIENT", "SETNAME", "a b"])),
            Say(command(&["CLIENT", "SETNAME", ""])),
            say("CLIENT GETNAME"),
            say("CLIENT NOSUCH"),
        ],
    )
    .await;
    same(
        "names from within a transaction",
        vec![
            Say(all(&["MULTI", "CLIENT GETNAME", "CLIENT SETNAME you", "CLIENT GETNAME", "EXEC", "CLIENT GETNAME"])),
            Say([all(&["MULTI"]), command(&["CLIENT", "SETNAME", "a b"]), all(&["CLIENT GETNAME", "EXEC"])].concat()),
            Say(all(&["MULTI", "CLIENT SETNAME x", "DISCARD", "CLIENT GETNAME"])),
            Say(all(&["MULTI", "CLIENT SETNAME x", "NOSUCH", "EXEC", "CLIENT GETNAME"])),
            Say(all(&["MULTI", "CLIENT SETNAME x y", "CLIENT GETNAME", "EXEC", "CLIENT GETNAME"])),
            Say(all(&[
                "WATCH a",
                "CLIENT SETNAME z",
                "SET a 1",
                "MULTI",
                "CLIENT SETNAME x",
                "EXEC",
                "CLIENT GETNAME",
            ])),
            Say(all(&["MULTI", "CLIENT SETNAME x", "RESET", "CLIENT GETNAME"])),
        ],
    )
    .await;
    same(
        "replies turned off and on from within a transaction",
        vec![
            Say(all(&["MULTI", "SET a 1", "CLIENT REPLY OFF", "GET a", "EXEC", "GET a", "CLIENT REPLY ON", "GET a"])),
            Say(all(&["MULTI", "CLIENT REPLY SKIP", "GET a", "EXEC", "GET a", "GET a"])),
            Say(all(&["CLIENT REPLY OFF", "MULTI", "GET a", "CLIENT REPLY ON", "GET a", "EXEC", "GET a"])),
            Say(all(&[
                "MULTI",
                "CLIENT REPLY SKIP",
                "CLIENT REPLY OFF",
                "CLIENT REPLY ON",
                "GET a",
                "EXEC",
                "GET b",
                "GET a",
            ])),
            Say(all(&["CLIENT REPLY SKIP", "MULTI", "GET a", "EXEC"])),
            Say(all(&["CLIENT REPLY OFF", "MULTI", "CLIENT REPLY SKIP", "GET a", "EXEC", "CLIENT REPLY ON", "GET a"])),
            Say(all(&["MULTI", "CLIENT REPLY SKIP", "NOSUCH", "EXEC", "GET a"])),
            Say(all(&["CLIENT REPLY OFF", "MULTI", "CLIENT REPLY ON", "NOSUCH", "EXEC", "CLIENT REPLY ON"])),
            Say(all(&["MULTI", "CLIENT REPLY NO", "CLIENT REPLY SKIP", "DISCARD", "GET a"])),
            Say(all(&["WATCH a", "SET a 2", "MULTI", "CLIENT REPLY OFF", "EXEC", "GET a"])),
        ],
    )
    .await;
    same("reset", vec![Say(all(&["SELECT 4", "MULTI", "SET a 1", "RESET", "SET a 2", "SELECT 0", "GET a"]))]).await;
    same(
        "scripts",
        vec![
            say("EVAL return{1,{2,{3}},'x'} 0"),
            say("EVALSHA ffffffffffffffffffffffffffffffffffffffff 0"),
            say("SCRIPT KILL"),
        ],
    )
    .await;
    same("quit", vec![Last(all(&["SET a 1", "GET a", "QUIT", "SET a 2"]))]).await;
    for (name, bytes) in [
        ("bad bulk", &b"*2\r\n$3\r\nGET\r\n:1\r\n"[..]),
        ("bad multibulk", b"*abc\r\n"),
        ("bad length", b"*2\r\n$3\r\nGET\r\n$-5\r\n"),
        ("huge count", b"*2147483648\r\n"),
        ("quotes", b"SET a \"unbalanced\r\n"),
    ] {
        same(name, vec![say("SET a 1"), Last([all(&["GET a"]), bytes.to_vec()].concat())]).await;
    }
    same("http", vec![Last(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec())]).await;
}

#[tokio::test]
async fn resp3_conversations_do_not_differ() {
    let front = Front::start(Settings::single(), &["--workers", "1"]).await;
    let mut heard = Vec::new();
    for addr in [front.redis, front.proxy] {
        let mut client = Raw::connect(addr).await;
        client.send(&command(&["HELLO", "3"])).await;
        let hello = client.until(b"$7\r\nmodules\r\n*0\r\n").await;
        let hello = text(&hello);
        let (before, rest) = hello.split_once("$2\r\nid\r\n:").unwrap();
        let rest = rest.split_once("\r\n").unwrap().1;
        let mut all = vec![before.to_owned(), rest.to_owned()];
        for words in [
            &["FLUSHALL"][..],
            &["HSET", "h", "f", "v"],
            &["HGETALL", "h"],
            &["GET", "nothing"],
            &["EVAL", "redis.setresp(3); return {double=1.5}", "0"],
            &["BLPOP", "nothing", "0.01"],
            &["HELLO", "4"],
            &["HELLO", "abc"],
            &["MULTI"],
            &["GET", "nothing"],
            &["EXEC"],
        ] {
            if words == ["MULTI"] {
                let block = [["MULTI"].as_slice(), &["GET", "nothing"], &["EXEC"]].map(command).concat();
                client.send(&block).await;
                all.push(text(&client.until(b"*1\r\n_\r\n").await));
                break;
            }
            all.push(client.ask(words).await);
        }
        client.send(&command(&["SUBSCRIBE", "c"])).await;
        all.push(text(&client.until(b":1\r\n").await));
        all.push(client.ask(&["SET", "while", "subscribed"]).await);
        heard.push(all);
    }
    assert_eq!(heard[0], heard[1], "{}", front.log());
}

/// redis-py begins every RESP3 connection with a subcommand of `CLIENT` that Redis does not have.
#[tokio::test]
async fn what_was_refused_leaves_no_connection_taken() {
    let front = Front::start(Settings::single(), &["--workers", "1"]).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = Raw::connect(front.proxy).await;
        let refused = client.ask(&["CLIENT", "MAINT_NOTIFICATIONS", "ON"]).await;
        assert!(refused.starts_with("-ERR unknown subcommand"), "{refused}");
        assert_eq!(client.ask(&["PING"]).await, "+PONG\r\n");
        clients.push(client);
    }
    let pinned = front.metric("pointsman_backend_connections", "role=\"pinned\"").await;
    assert!(pinned <= 1.0, "{pinned}: each took one after the other, and gave it back");
    // What was carried out does take it.
    assert_eq!(clients[0].ask(&["CLIENT", "NO-EVICT", "ON"]).await, "+OK\r\n");
    assert_eq!(clients[1].ask(&["CLIENT", "NO-EVICT", "ON"]).await, "+OK\r\n");
    assert_eq!(front.metric("pointsman_backend_connections", "role=\"pinned\"").await, 2.0);
}

#[tokio::test]
async fn a_closed_half_still_gets_its_replies() {
    use tokio::io::AsyncWriteExt;
    let front = Front::start(Settings::single(), &["--workers", "1"]).await;
    let mut client = Raw::connect(front.proxy).await;
    client.send(&all(&["SET a 1", "GET a", "INCR a"])).await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(text(&client.rest().await), "+OK\r\n$1\r\n1\r\n:2\r\n");
}

#[tokio::test]
async fn a_pop_does_not_outlive_its_client() {
    let front = Front::start(Settings::single(), &["--workers", "1"]).await;
    let mut blocked = Raw::connect(front.proxy).await;
    blocked.send(&command(&["BLPOP", "l", "0"])).await;
    let mut other = Raw::connect(front.redis).await;
    let clients = async |other: &mut Raw| other.ask(&["INFO", "clients"]).await;
    while !clients(&mut other).await.contains("blocked_clients:1") {}
    drop(blocked);
    while !clients(&mut other).await.contains("blocked_clients:0") {}
    other.ask(&["RPUSH", "l", "element"]).await;
    assert_eq!(other.ask(&["LLEN", "l"]).await, ":1\r\n", "nobody is there to have popped it");
}

#[tokio::test]
async fn passwords_and_acl_users_are_judged_by_the_backend() {
    let settings = Settings {
        password: Some("opensesame".into()),
        redis_lines: vec!["user reader on >look ~* +get +hello".into(), "user single on >step ~* +@all -multi".into()],
        ..Settings::single()
    };
    let secret = std::env::temp_dir().join(format!("pointsman-secret-{}", std::process::id()));
    std::fs::write(&secret, "opensesame\n").unwrap();
    let front = Front::start(settings, &["--backend-password-file", secret.to_str().unwrap()]).await;
    std::fs::remove_file(&secret).unwrap();
    for words in [
        vec!["GET a", "AUTH wrong", "GET a", "AUTH opensesame", "SET a 1", "GET a", "AUTH wrong", "GET a"],
        vec!["AUTH reader look", "GET a", "SET a 2", "AUTH opensesame", "SET a 3"],
        vec!["SELECT 1", "HELLO 3 AUTH reader wrong", "GET a", "PING", "AUTH reader look", "SELECT 1", "GET a"],
        vec!["CLIENT SETNAME me", "CLIENT GETNAME", "CLIENT ID", "CLIENT REPLY OFF", "CLIENT REPLY SKIP", "PING"],
        vec![
            "AUTH reader look",
            "CLIENT SETNAME me",
            "CLIENT REPLY OFF",
            "AUTH opensesame",
            "CLIENT GETNAME",
            "CLIENT SETNAME me",
            "CLIENT GETNAME",
        ],
        vec!["MULTI", "SUBSCRIBE x", "BLPOP l 0.1", "WAIT 0 0", "WAITAOF 0 0 0"],
        vec![
            "AUTH single step",
            "MULTI",
            "SET a 4",
            "GET a",
            "EXEC",
            "WATCH a",
            "MULTI",
            "SET a 5",
            "GET a",
            "UNWATCH",
        ],
        vec![
            "AUTH opensesame",
            "WATCH a",
            "SELECT 2",
            "AUTH single step",
            "ACL WHOAMI",
            "UNWATCH",
            "ACL WHOAMI",
            "SET w 1",
        ],
    ] {
        let (mut direct, mut through) = (Raw::connect(front.redis).await, Raw::connect(front.proxy).await);
        for command in words {
            let command: Vec<&str> = command.split(' ').collect();
            // The marker's echo may itself be refused: a PING is not, once refused, told from it by its text.
            let (d, t) = (answer(&mut direct, &command).await, answer(&mut through, &command).await);
            assert_eq!(d, t, "{command:?}\n{}", front.log());
        }
    }
    assert!(!front.log().contains("opensesame"));
}

/// The answer to one command where markers would be refused: one frame.
async fn answer(client: &mut Raw, words: &[&str]) -> String {
    use pointsman::resp::ReplyScanner;
    use tokio::io::AsyncReadExt;
    client.send(&command(words)).await;
    let read = async {
        loop {
            let progress = ReplyScanner::new().scan(&client.received).unwrap();
            if progress.complete {
                return text(&client.received.drain(..progress.consumed).collect::<Vec<_>>());
            }
            assert!(client.stream.read_buf(&mut client.received).await.unwrap() > 0, "closed at {words:?}");
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("no answer to {words:?}"))
}

#[tokio::test]
async fn large_values_disturb_nobody_whatever_their_clients_do() {
    let front = Front::start(Settings::single(), &["--workers", "1"]).await;
    let mut client = Raw::connect(front.proxy).await;
    let size = 40_000_000;
    client.send(format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${size}\r\n").as_bytes()).await;
    let part = vec![b'z'; 1 << 20];
    let mut left = size;
    let mut other = Raw::connect(front.proxy).await;
    while left > 0 {
        let n = left.min(part.len());
        client.send(&part[..n]).await;
        left -= n;
        assert_eq!(other.ask(&["PING"]).await, "+PONG\r\n");
    }
    client.send(b"\r\n").await;
    assert_eq!(text(&client.until(b"+OK\r\n").await), "+OK\r\n");

    // Half a command and gone: it never ran.
    let mut gone = Raw::connect(front.proxy).await;
    gone.send(format!("*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n${size}\r\n").as_bytes()).await;
    gone.send(&part).await;
    drop(gone);
    // A reply that nobody reads, and one whose reader leaves in the middle.
    let mut lazy = Raw::connect(front.proxy).await;
    lazy.send(&all(&["GET big", "GET big", "GET big"])).await;
    let mut leaver = Raw::connect(front.proxy).await;
    leaver.send(&all(&["GET big"])).await;
    leaver.until(b"zzzz").await;
    drop(leaver);
    for i in 0..50 {
        assert_eq!(other.ask(&["ECHO", &i.to_string()]).await, format!("${}\r\n{i}\r\n", i.to_string().len()));
    }
    assert_eq!(other.ask(&["EXISTS", "half"]).await, ":0\r\n");
    assert_eq!(other.ask(&["STRLEN", "big"]).await, format!(":{size}\r\n"));
    // The reply waits for its reader; memory does not wait with it.
    let status = std::fs::read_to_string(format!("/proc/{}/status", front.process.id())).unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    assert!(peak.unwrap() < 160 << 10, "{status}");
    drop(lazy);
}

/// What one client sends in one piece must not take its shared connection from where the others think it is.
#[tokio::test]
async fn what_changes_nothing_takes_nothing_along_that_does() {
    let front = Front::start(Settings::single(), &["--workers", "1"]).await;
    let pairs = [
        "SELECT -1\nSELECT 3",
        "SELECT 03\nSELECT 4",
        "MULTI x\nMULTI\nSET k in\nDISCARD",
        "WATCH\nWATCH k",
        "CLIENT HELP\nCLIENT NO-EVICT ON",
        "XREAD COUNT 1 STREAMS s 0\nXREAD BLOCK 0 STREAMS s $",
        "RESET x\nRESET",
    ];
    let mut before = Raw::connect(front.proxy).await;
    assert_eq!(before.ask(&["SET", "k", "zero"]).await, "+OK\r\n");
    for pair in pairs {
        let mut client = Raw::connect(front.proxy).await;
        client.send(&all(&pair.split('\n').collect::<Vec<_>>())).await;
        // Its first reply says that all of it has been read and put on its way.
        client.line().await.unwrap();
        for reader in [&mut before, &mut Raw::connect(front.proxy).await] {
            assert_eq!(reader.ask(&["GET", "k"]).await, "$4\r\nzero\r\n", "beside {pair:?}");
        }
    }
}
