//! Invalidations of client tracking: asked for in a transaction, and redirected to another client.

use crate::clients::{id, listed};
use crate::support::{Front, PATIENCE, Raw, command, text};
use pointsman::demo::settings::Settings;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

/// What a transaction turns on is followed like what is turned on outside of one.
#[tokio::test]
async fn invalidations_asked_for_in_a_transaction_come_until_they_are_turned_off() {
    let front = Front::start(Settings::single(), &["--workers", "1"]).await;
    let (mut asker, mut target) = (Raw::connect(front.proxy).await, Raw::connect(front.proxy).await);
    let mut writer = Raw::connect(front.redis).await;
    let until_pinned = async |wanted: f64, why: &str| {
        let end = Instant::now() + PATIENCE;
        while front.metric("pointsman_backend_connections", "role=\"pinned\"").await != wanted {
            assert!(Instant::now() < end, "{why}");
        }
    };
    asker.ask(&["HELLO", "3"]).await;
    let on = [&["MULTI"][..], &["CLIENT", "TRACKING", "ON", "OPTIN"], &["EXEC"]].map(command).concat();
    asker.send(&on).await;
    asker.until(b"*1\r\n+OK\r\n").await;
    let caching = [&["MULTI"][..], &["CLIENT", "CACHING", "YES"], &["GET", "a"], &["EXEC"], &["GET", "b"]];
    asker.send(&caching.map(command).concat()).await;
    assert_eq!(text(&asker.until(b"*2\r\n+OK\r\n_\r\n_\r\n").await).matches("QUEUED").count(), 2);
    writer.ask(&["SET", "b", "1"]).await;
    writer.ask(&["SET", "a", "1"]).await;
    assert_eq!(text(&asker.until(b"$1\r\na\r\n").await), ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n");
    asker.send(&[&["MULTI"][..], &["CLIENT", "TRACKING", "OFF"], &["EXEC"]].map(command).concat()).await;
    asker.until(b"*1\r\n+OK\r\n").await;
    assert_eq!(asker.ask(&["GET", "a"]).await, "$1\r\n1\r\n");
    until_pinned(0.0, "nothing keeps its connection").await;

    target.ask(&["HELLO", "3"]).await;
    let of_target = id(&mut target).await;
    let redirect = ["CLIENT", "TRACKING", "ON", "REDIRECT", &of_target];
    let dropped = [&["MULTI"][..], &redirect, &["DISCARD"]].map(command).concat();
    let own = id(&mut asker).await;
    let (elsewhere, off) = (["CLIENT", "TRACKING", "ON", "REDIRECT", &own], ["CLIENT", "TRACKING", "OFF"]);
    let (whom, who) = (["CLIENT", "GETREDIR"], ["CLIENT", "ID"]);
    let run = [&["MULTI"][..], &elsewhere, &whom, &off, &redirect, &whom, &who, &["EXEC"]].map(command).concat();
    for _ in 0..3 {
        asker.send(&dropped).await;
        asker.until(b"+QUEUED\r\n+OK\r\n").await;
    }
    asker.send(&run).await;
    let all = format!("*6\r\n+OK\r\n:{own}\r\n+OK\r\n+OK\r\n:{of_target}\r\n:{own}\r\n");
    asker.until(all.as_bytes()).await;
    until_pinned(2.0, "its own, and the one that is redirected to").await;
    asker.ask(&["GET", "c"]).await;
    writer.ask(&["SET", "c", "1"]).await;
    assert_eq!(text(&target.until(b"$1\r\nc\r\n").await), ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nc\r\n");
}

/// Clients have invalidations sent to another, which may be anything by the time that there are some: idle and without a
/// connection of its own, blocked, a subscriber in either version of RESP.
#[tokio::test]
async fn invalidations_are_redirected_to_a_client_whatever_it_does() {
    // The clients that meet here belong to different workers.
    let front = Front::start(Settings::single(), &["--workers", "2"]).await;
    let (mut asker, mut target, mut writer) =
        (Raw::connect(front.proxy).await, Raw::connect(front.proxy).await, Raw::connect(front.proxy).await);
    let (own, of_target) = (id(&mut asker).await, id(&mut target).await);
    let on = ["CLIENT", "TRACKING", "ON", "REDIRECT", &of_target];
    let mut changed = async |asker: &mut Raw, key: &str| {
        asker.ask(&["GET", key]).await;
        writer.ask(&["SET", key, "1"]).await;
    };
    let push = |key: &str| format!(">2\r\n$10\r\ninvalidate\r\n*1\r\n${}\r\n{key}\r\n", key.len());

    assert_eq!(asker.ask(&on).await, "+OK\r\n", "RESP2, and hears nothing itself");
    assert_eq!(asker.ask(&["CLIENT", "GETREDIR"]).await, format!(":{of_target}\r\n"));
    assert!(target.ask(&["CLIENT", "LIST", "ID", &own]).await.contains(&format!(" redir={of_target} ")));
    target.ask(&["HELLO", "3"]).await;
    changed(&mut asker, "idle").await;
    assert_eq!(text(&target.until(b"idle\r\n").await), push("idle"));

    target.send(&command(&["BLPOP", "list", "0"])).await;
    listed(&mut asker, &of_target, "flags=b ").await;
    changed(&mut asker, "blocked").await;
    assert_eq!(text(&target.until(b"blocked\r\n").await), push("blocked"));
    assert_eq!(asker.ask(&["RPUSH", "list", "x"]).await, ":1\r\n");
    target.until(b"$4\r\nlist\r\n$1\r\nx\r\n").await;

    target.send(&[command(&["HELLO", "2"]), command(&["GET", "a"])].concat()).await;
    target.until(b"$-1\r\n").await;
    target.send(&command(&["SUBSCRIBE", "any"])).await;
    assert_eq!(text(&target.until(b":1\r\n").await), "*3\r\n$9\r\nsubscribe\r\n$3\r\nany\r\n:1\r\n");
    changed(&mut asker, "subscribed").await;
    let message = "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$10\r\nsubscribed\r\n";
    assert_eq!(text(&target.until(b"subscribed\r\n").await), message);

    // The asker's own, who is told when that one has gone.
    assert!(asker.ask(&["HELLO", "3"]).await.contains("proto"));
    asker.ask(&["GET", "late"]).await;
    drop(target);
    let end = Instant::now() + PATIENCE;
    while asker.ask(&["CLIENT", "LIST", "ID", &of_target]).await.contains("id=") {
        assert!(Instant::now() < end, "it does not leave");
    }
    changed(&mut asker, "late").await;
    let broken = format!(">2\r\n$21\r\ntracking-redir-broken\r\n:{of_target}\r\n");
    assert_eq!(text(&asker.until(format!("\r\n:{of_target}\r\n").as_bytes()).await), broken);
    let info = asker.ask(&["CLIENT", "TRACKINGINFO"]).await;
    assert!(info.contains("~2\r\n$2\r\non\r\n$15\r\nbroken_redirect\r\n"), "{info}");
    assert_eq!(asker.ask(&["CLIENT", "TRACKING", "OFF"]).await, "+OK\r\n");
    let gone = asker.ask(&on).await;
    assert_eq!(gone, "-ERR The client ID you want redirect to does not exist\r\n");
}

/// A large reply to the one who is told is not interrupted.
#[tokio::test]
async fn what_is_redirected_stands_between_two_replies() {
    const LEN: usize = 8 << 20;
    let front = Front::start(Settings::single(), &["--workers", "1"]).await;
    let (mut asker, mut target, mut writer) =
        (Raw::connect(front.proxy).await, Raw::connect(front.proxy).await, Raw::connect(front.proxy).await);
    target.ask(&["HELLO", "3"]).await;
    let of_target = id(&mut target).await;
    writer.ask(&["SETRANGE", "large", &(LEN - 1).to_string(), "x"]).await;
    asker.ask(&["CLIENT", "TRACKING", "ON", "BCAST", "REDIRECT", &of_target]).await;
    target.send(&[command(&["GET", "large"]), command(&["PING"])].concat()).await;
    let mut got = target.until(b"\r\n").await;
    assert_eq!(text(&got), format!("${LEN}\r\n"));
    // What has come of it fills the sockets, as nobody reads.
    assert_eq!(writer.ask(&["SET", "k", "v"]).await, "+OK\r\n");
    let told = ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n";
    got = std::mem::take(&mut target.received);
    let all = LEN + "\r\n+PONG\r\n".len() + told.len();
    while got.len() < all {
        let read = tokio::time::timeout(PATIENCE, target.stream.read_buf(&mut got)).await;
        let behind = text(&got[got.len().min(LEN)..]);
        assert!(read.unwrap_or_else(|_| panic!("{}: {behind}", got.len())).unwrap() > 0);
    }
    assert!(got[..LEN - 1].iter().all(|b| *b == 0) && got[LEN - 1] == b'x');
    let behind = text(&got[LEN + 2..]);
    assert!([format!("+PONG\r\n{told}"), format!("{told}+PONG\r\n")].contains(&behind), "{behind}");
}

/// The server may close what the invalidations come on by itself. Nobody is left believing in what may have changed.
#[tokio::test]
async fn a_redirection_that_the_server_cuts_is_had_anew() {
    let front = Front::start(Settings::single(), &["--workers", "1"]).await;
    let (mut asker, mut target) = (Raw::connect(front.proxy).await, Raw::connect(front.proxy).await);
    target.ask(&["HELLO", "3"]).await;
    let of_target = id(&mut target).await;
    assert_eq!(asker.ask(&["CLIENT", "TRACKING", "ON", "REDIRECT", &of_target]).await, "+OK\r\n");
    let mut direct = Raw::connect(front.redis).await;
    let list = direct.ask(&["CLIENT", "LIST"]).await;
    let redirecting = list.lines().find_map(|l| l.split(" redir=").nth(1)?.split(' ').next().filter(|id| *id != "-1"));
    assert_eq!(direct.ask(&["CLIENT", "KILL", "ID", redirecting.unwrap()]).await, ":1\r\n");
    const ALL: &str = ">2\r\n$10\r\ninvalidate\r\n$-1\r\n";
    assert_eq!(text(&target.until(b"$-1\r\n").await), ALL);
    assert_eq!(asker.ask(&["GET", "k"]).await, "$-1\r\n", "it goes on");
    assert_eq!(direct.ask(&["SET", "k", "v"]).await, "+OK\r\n");
    assert_eq!(text(&target.until(b"k\r\n").await), ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n");
}
