//! What clients do to each other and to the server, through shared connections.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use pointsman::demo::settings::Settings;
use support::{Front, PATIENCE, Raw, command};
use tokio::time::{Instant, sleep};

async fn id(client: &mut Raw) -> String {
    client.ask(&["CLIENT", "ID"]).await.trim_start_matches(':').trim_end().to_owned()
}

/// Waits until `CLIENT LIST` says so of a client.
async fn listed(asker: &mut Raw, id: &str, what: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        let list = asker.ask(&["CLIENT", "LIST", "ID", id]).await;
        if list.contains(what) {
            return;
        }
        assert!(Instant::now() < end, "never {what}: {list}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_client_is_found_unblocked_and_killed_by_its_id() {
    // Several workers: the clients that meet here belong to different ones.
    let front = Front::start(Settings::single(), &["--workers", "2"]).await;
    let (mut asker, mut other, mut third) =
        (Raw::connect(front.proxy).await, Raw::connect(front.proxy).await, Raw::connect(front.proxy).await);
    let (own, of_other) = (id(&mut asker).await, id(&mut other).await);
    other.ask(&["CLIENT", "SETNAME", "other"]).await;
    third.ask(&["PING"]).await;

    listed(&mut asker, &of_other, "name=other ").await;
    let info = asker.ask(&["CLIENT", "INFO"]).await;
    assert!(info.contains(&format!("id={own} ")) && info.contains("cmd=client|info"), "{info}");
    assert_eq!(asker.ask(&["CLIENT", "LIST"]).await.matches("id=").count(), 3);

    other.send(&command(&["BLPOP", "nothing", "0"])).await;
    listed(&mut asker, &of_other, "flags=b ").await;
    assert_eq!(asker.ask(&["CLIENT", "UNBLOCK", &of_other, "ERROR"]).await, ":1\r\n");
    assert!(other.line().await.unwrap().starts_with("-UNBLOCKED"));
    assert_eq!(asker.ask(&["CLIENT", "UNBLOCK", &of_other]).await, ":0\r\n", "it waits for nothing");
    assert_eq!(asker.ask(&["CLIENT", "UNBLOCK", "999999"]).await, ":0\r\n");

    assert_eq!(asker.ask(&["CLIENT", "KILL", "ID", "999999"]).await, ":0\r\n");
    assert_eq!(asker.ask(&["CLIENT", "KILL", "nobody:1"]).await, "-ERR No such client\r\n");
    assert!(asker.ask(&["CLIENT", "KILL", "TYPE", "x"]).await.starts_with("-ERR Unknown client type"));
    assert_eq!(asker.ask(&["CLIENT", "KILL", "ID", &of_other]).await, ":1\r\n");
    assert!(other.line().await.is_none(), "killed");
    assert_eq!(third.ask(&["PING"]).await, "+PONG\r\n", "nobody else was");
    assert_eq!(asker.ask(&["PING"]).await, "+PONG\r\n");
}

#[tokio::test]
async fn who_may_not_kill_kills_nobody() {
    let front = Front::start(Settings::single(), &["--workers", "1"]).await;
    let mut asker = Raw::connect(front.proxy).await;
    let mut other = Raw::connect(front.proxy).await;
    let of_other = id(&mut other).await;
    asker.ask(&["ACL", "SETUSER", "weak", "on", ">pw", "~*", "+@all", "-client|kill", "-client|list"]).await;
    assert_eq!(asker.ask(&["AUTH", "weak", "pw"]).await, "+OK\r\n");
    for kill in [["CLIENT", "KILL", "ID", &of_other].as_slice(), &["CLIENT", "KILL", "SKIPME", "yes"]] {
        assert!(asker.ask(kill).await.starts_with("-NOPERM"));
    }
    assert!(asker.ask(&["CLIENT", "LIST"]).await.starts_with("-NOPERM"));
    assert_eq!(other.ask(&["PING"]).await, "+PONG\r\n");
}

#[tokio::test]
async fn a_script_that_never_ends_keeps_only_its_own_client_waiting() {
    let front = Front::start(Settings::single(), &["--workers", "1"]).await;
    let (mut looping, mut other) = (Raw::connect(front.proxy).await, Raw::connect(front.proxy).await);
    other.ask(&["CONFIG", "SET", "busy-reply-threshold", "10"]).await;
    for client in [&mut looping, &mut other] {
        client.ask(&["SELECT", "9"]).await;
        client.ask(&["SET", "k", "v"]).await;
    }
    looping.send(&command(&["EVAL", "while true do end", "0"])).await;
    let end = Instant::now() + PATIENCE;
    loop {
        other.send(&command(&["GET", "k"])).await;
        if other.line().await.unwrap().starts_with("-BUSY") {
            break;
        }
        assert_eq!(other.line().await.unwrap(), "v\r\n");
        assert!(Instant::now() < end, "the script did not begin");
    }
    other.send(&command(&["SCRIPT", "KILL"])).await;
    assert_eq!(other.line().await.unwrap(), "+OK\r\n");
    assert!(looping.line().await.unwrap().contains("Script killed by user"));
    assert_eq!(other.ask(&["SET", "k", "v"]).await, "+OK\r\n");
}

#[tokio::test]
async fn what_is_refused_is_what_the_list_says() {
    let usual = Front::start(Settings::single(), &["--workers", "1"]).await;
    let mut client = Raw::connect(usual.proxy).await;
    for refused in [["DEBUG", "SLEEP", "0"].as_slice(), &["CLIENT", "PAUSE", "1"], &["SHUTDOWN"], &["SYNC"]] {
        assert!(client.ask(refused).await.starts_with("-NOPERM pointsman: "), "{refused:?}");
    }
    let front = Front::configured("refuse = [\"flushall\", \"config set\"]").await;
    let mut client = Raw::connect(front.proxy).await;
    assert!(client.ask(&["FLUSHALL"]).await.starts_with("-NOPERM pointsman: "));
    assert!(client.ask(&["CONFIG", "SET", "maxmemory", "1"]).await.starts_with("-NOPERM pointsman: "));
    assert!(client.ask(&["CONFIG", "GET", "maxmemory"]).await.contains("maxmemory"));
    assert_eq!(client.ask(&["CLIENT", "PAUSE", "1"]).await, "+OK\r\n");
    client.send(&[command(&["MULTI"]), command(&["FLUSHALL"]), command(&["EXEC"])].concat()).await;
    for reply in ["+OK", "-NOPERM pointsman: ", "-EXECABORT"] {
        let line = client.line().await.unwrap();
        assert!(line.starts_with(reply), "{line}");
    }
}

#[tokio::test]
async fn a_user_that_may_not_select_keeps_the_database_it_came_with() {
    let front = Front::start(Settings::single(), &["--workers", "1"]).await;
    let mut client = Raw::connect(front.proxy).await;
    client.ask(&["ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@all", "-select"]).await;
    client.ask(&["SELECT", "9"]).await;
    assert_eq!(client.ask(&["AUTH", "bob", "pw"]).await, "+OK\r\n");
    assert_eq!(client.ask(&["SET", "k", "nine"]).await, "+OK\r\n");
    let mut same = Raw::connect(front.proxy).await;
    assert_eq!(same.ask(&["AUTH", "bob", "pw"]).await, "+OK\r\n");
    assert!(same.ask(&["SELECT", "9"]).await.starts_with("-NOPERM"), "though such a connection is open");
    assert_eq!(same.ask(&["GET", "k"]).await, "$-1\r\n");
}
