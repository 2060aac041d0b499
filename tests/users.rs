//! Users and passwords: each client is who it says it is and nobody else, and to find that out costs no connections.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;

use pointsman::demo::settings::Settings;
use support::{Front, Raw, command};
use tokio::time::Instant;

/// Judgements of one worker at a time, as docs/architecture.md has it.
const JUDGES: f64 = 16.0;

/// What php-fpm does for each request.
async fn request(proxy: SocketAddr, user: &str, password: &str) -> Result<(), String> {
    let mut client = Raw::connect(proxy).await;
    for (words, expected) in
        [(&["AUTH", user, password][..], "+OK\r\n"), (&["SELECT", "1"], "+OK\r\n"), (&["GET", user], user)]
    {
        client.send(&command(words)).await;
        let mut line = client.line().await;
        if line.as_ref().is_some_and(|line| line.starts_with('$')) {
            line = client.line().await;
        }
        if !line.as_ref().is_some_and(|line| line.starts_with(expected)) {
            return Err(format!("{words:?} as {user}: {line:?}"));
        }
    }
    Ok(())
}

/// So many requests, fifty at a time, by several users.
async fn requests(front: &Front, each: usize) {
    let tasks: Vec<_> = (0..50)
        .map(|i| {
            let proxy = front.proxy;
            tokio::spawn(async move {
                for n in 0..each {
                    let user = ["alice", "bob"][(i + n) % 2];
                    request(proxy, user, &format!("{user}-pw")).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap_or_else(|error| panic!("{error}\n{}", front.log()));
    }
}

async fn with_users(flags: &[&str]) -> Front {
    // Each may read its own only.
    let user = |name: &str| format!("user {name} on >{name}-pw ~{name} &* +@all");
    let front =
        Front::start(Settings { redis_lines: vec![user("alice"), user("bob")], ..Settings::single() }, flags).await;
    let mut direct = Raw::connect(front.redis).await;
    direct.ask(&["SELECT", "1"]).await;
    assert_eq!(direct.ask(&["MSET", "alice", "alice", "bob", "bob"]).await, "+OK\r\n");
    front
}

#[tokio::test]
async fn five_thousand_who_come_authenticate_and_go_cost_a_handful_of_connects() {
    let front = with_users(&["--workers", "2"]).await;
    let connects = async || front.metric("pointsman_backend_connects_total", "").await;
    requests(&front, 100).await;
    // Those that are judged on, and one for each user, by worker.
    let first = connects().await;
    assert!(first <= 2.0 * (JUDGES + 2.0), "{first}");
    let judges = front.metric("pointsman_backend_connections", "role=\"judge\"").await;
    assert!((1.0..=2.0 * JUDGES).contains(&judges), "{judges}");
    // A wrong password costs nothing either, and leaves whoever comes next as it found them.
    for _ in 0..10 {
        let refused = request(front.proxy, "alice", "bob-pw").await.unwrap_err();
        assert!(refused.contains("-WRONGPASS"), "{refused}");
        request(front.proxy, "bob", "bob-pw").await.unwrap();
    }
    assert_eq!(connects().await, first, "{}", front.log());
}

#[tokio::test]
async fn judges_that_die_cost_nobody_an_answer() {
    let front = with_users(&["--workers", "1"]).await;
    let mut killer = Raw::connect(front.redis).await;
    let begin = Instant::now();
    let storm = requests(&front, 10);
    let kill = async {
        let mut killed = 0;
        for _ in 0..10 {
            let answer = killer.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
            killed += answer.trim_start_matches(':').trim_end().parse::<u32>().unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        killed
    };
    let ((), killed) = tokio::join!(storm, kill);
    assert!(killed > 0, "{:?}", begin.elapsed());
}

/// What one client leaves on the connection on which it was judged is not there for the next.
#[tokio::test]
async fn nobody_is_judged_as_the_one_before() {
    let front = with_users(&["--workers", "1"]).await;
    let mut direct = Raw::connect(front.redis).await;
    direct.ask(&["CONFIG", "SET", "requirepass", "secret"]).await;
    let hello = async |words: &[&str]| {
        let mut client = Raw::connect(front.proxy).await;
        client.send(&command(words)).await;
        client.line().await.unwrap()
    };
    for _ in 0..20 {
        assert_eq!(hello(&["HELLO", "3", "AUTH", "alice", "alice-pw", "SETNAME", "a"]).await, "%7\r\n");
        assert!(hello(&["HELLO"]).await.starts_with("-NOAUTH"));
        assert_eq!(hello(&["AUTH", "bob", "bob-pw"]).await, "+OK\r\n");
        assert!(hello(&["HELLO", "3"]).await.starts_with("-NOAUTH"));
        assert!(hello(&["HELLO", "2", "AUTH", "bob", "alice-pw"]).await.starts_with("-WRONGPASS"));
        assert!(hello(&["CLIENT", "LIST"]).await.starts_with("-NOAUTH"));
    }
    // One at a time, and others while those of before are cleaned.
    let judges = front.metric("pointsman_backend_connections", "role=\"judge\"").await;
    assert!(judges < JUDGES, "{judges}");
}
