//! Users and passwords: each client is who it says it is and nobody else, and to find that out costs no connections.

use std::net::SocketAddr;

use crate::support::{Front, Raw, command, text};
use pointsman::demo::settings::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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

/// Changes of what a user may do reach those who are connected as Redis has it: rights at once, passwords not at all, and
/// whoever is deleted is gone.
#[tokio::test]
async fn changes_of_users_reach_connected_clients() {
    let front = with_users(&["--workers", "1"]).await;
    let mut admin = Raw::connect(front.redis).await;
    let login = async |user: &str, password: &str| {
        let mut client = Raw::connect(front.proxy).await;
        let answer = client.ask(&["AUTH", user, password]).await;
        (client, answer)
    };
    let mut clients = Vec::new();
    for user in ["alice", "bob", "alice", "bob"] {
        let (mut client, answer) = login(user, &format!("{user}-pw")).await;
        assert_eq!(answer, "+OK\r\n");
        assert_eq!(client.ask(&["SELECT", "1"]).await, "+OK\r\n");
        clients.push((client, user));
    }
    let whoami = |user: &str| format!("${}\r\n{user}\r\n", user.len());
    for (client, user) in &mut clients {
        assert_eq!(client.ask(&["ACL", "WHOAMI"]).await, whoami(user));
        assert_eq!(client.ask(&["SET", user, user]).await, "+OK\r\n");
    }
    assert_eq!(admin.ask(&["ACL", "SETUSER", "alice", "-set", "resetpass", ">other"]).await, "+OK\r\n");
    for (client, user) in &mut clients {
        let answer = client.ask(&["SET", user, user]).await;
        assert_eq!(answer.starts_with("-NOPERM"), *user == "alice", "{user}: {answer}");
        assert_eq!(client.ask(&["GET", user]).await, whoami(user), "connected is connected");
    }
    assert!(login("alice", "alice-pw").await.1.starts_with("-WRONGPASS"));
    let (mut late, answer) = login("alice", "other").await;
    assert_eq!(answer, "+OK\r\n");
    assert_eq!(late.ask(&["ACL", "WHOAMI"]).await, whoami("alice"));
    assert_eq!(admin.ask(&["ACL", "SETUSER", "alice", "off"]).await, "+OK\r\n");
    assert!(login("alice", "other").await.1.starts_with("-WRONGPASS"));
    assert_eq!(late.ask(&["ACL", "WHOAMI"]).await, whoami("alice"), "connected is connected");

    assert_eq!(admin.ask(&["ACL", "DELUSER", "alice"]).await, ":1\r\n");
    for (client, user) in &mut clients {
        if *user == "bob" {
            assert_eq!(client.ask(&["SET", user, user]).await, "+OK\r\n");
            continue;
        }
        client.send(&command(&["GET", "alice"])).await;
        let last = text(&client.rest().await);
        assert!(last.is_empty() || last.starts_with("-WRONGPASS"), "nothing is answered to nobody: {last}");
    }
}

/// One connection may be one user after the other, and shares the backend's with whoever is the same then.
#[tokio::test]
async fn users_that_take_turns_on_one_connection_are_told_apart() {
    let front = with_users(&["--workers", "1"]).await;
    let tasks: Vec<_> = (0..20)
        .map(|i| {
            let proxy = front.proxy;
            tokio::spawn(async move {
                let mut client = Raw::connect(proxy).await;
                client.ask(&["SELECT", "1"]).await;
                for n in 0..20 {
                    let (user, other) = if (i + n) % 2 == 0 { ("alice", "bob") } else { ("bob", "alice") };
                    let begin = [command(&["AUTH", user, &format!("{user}-pw")]), command(&["AUTH", other, "wrong"])];
                    client.send(&begin.concat()).await;
                    assert_eq!(client.line().await.unwrap(), "+OK\r\n");
                    assert!(client.line().await.unwrap().starts_with("-WRONGPASS"), "who remains {user}");
                    assert!(client.ask(&["ACL", "WHOAMI"]).await.ends_with(&format!("{user}\r\n")));
                    assert!(client.ask(&["GET", user]).await.ends_with(&format!("{user}\r\n")));
                    assert!(client.ask(&["GET", other]).await.starts_with("-NOPERM"));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_user_and_a_password_are_any_bytes() {
    let front = with_users(&["--workers", "1"]).await;
    let password = b"\xff\xfe\x80 pw";
    let words = |words: &[&[u8]]| pointsman::resp::encode_command(words).to_vec();
    let mut client = Raw::connect(front.proxy).await;
    let rule = [b">", &password[..]].concat();
    let user = b"bin\xff";
    client.send(&words(&[b"ACL", b"SETUSER", user, b"on", &rule, b"~*", b"+@all"])).await;
    assert_eq!(client.line().await.unwrap(), "+OK\r\n");
    client.send(&words(&[b"AUTH", user, b"\xff\xfe\x81 pw"])).await;
    assert!(client.line().await.unwrap().starts_with("-WRONGPASS"));
    client.send(&words(&[b"AUTH", user, password])).await;
    assert_eq!(client.line().await.unwrap(), "+OK\r\n");
    client.send(&words(&[b"ACL", b"WHOAMI"])).await;
    client.until(b"$4\r\nbin\xff\r\n").await;
}

/// Database and user change on a connection of the client's own too, and it is given back as what it has become.
#[tokio::test]
async fn what_changes_on_an_own_connection_is_followed() {
    let front = with_users(&["--workers", "1"]).await;
    let pinned = async || front.metric("pointsman_backend_connections", "role=\"pinned\"").await;
    let mut client = Raw::connect(front.proxy).await;
    for (words, expected) in [
        (&["WATCH", "k"][..], "+OK\r\n"),
        (&["SELECT", "1"], "+OK\r\n"),
        (&["SELECT", "99"], "-ERR DB index is out of range\r\n"),
        (&["AUTH", "bob", "wrong"], "-WRONGPASS"),
        (&["AUTH", "bob", "bob-pw"], "+OK\r\n"),
        (&["ACL", "WHOAMI"], "$3\r\nbob\r\n"),
        (&["GET", "bob"], "$3\r\nbob\r\n"),
        (&["UNWATCH"], "+OK\r\n"),
        (&["ACL", "WHOAMI"], "$3\r\nbob\r\n"),
        (&["GET", "bob"], "$3\r\nbob\r\n"),
        (&["HELLO", "3", "SETNAME", "me"], "%7\r\n"),
        (&["CLIENT", "TRACKING", "ON"], "+OK\r\n"),
        (&["HELLO", "2", "AUTH", "alice", "alice-pw", "SETNAME", "you"], "*14\r\n"),
        (&["SELECT", "0"], "+OK\r\n"),
        (&["GET", "alice"], "$-1\r\n"),
        (&["CLIENT", "TRACKING", "OFF"], "+OK\r\n"),
        (&["CLIENT", "GETNAME"], "$3\r\nyou\r\n"),
    ] {
        let answer = client.ask(words).await;
        assert!(answer.starts_with(expected), "{words:?}: {answer}\n{}", front.log());
    }
    let id = client.ask(&["CLIENT", "ID"]).await;
    client.ask(&["WATCH", "k"]).await;
    assert!(client.ask(&["HELLO", "3"]).await.contains(&format!("$2\r\nid\r\n{id}")), "its own id");
    client.ask(&["UNWATCH"]).await;
    assert!(pinned().await >= 1.0, "they were given back");
    // Whoever gets them next is in the right place.
    for user in ["alice", "bob"] {
        let mut next = Raw::connect(front.proxy).await;
        assert_eq!(next.ask(&["AUTH", user, &format!("{user}-pw")]).await, "+OK\r\n");
        for (database, value) in [("1", format!("${}\r\n{user}\r\n", user.len())), ("0", "$-1\r\n".into())] {
            next.ask(&["SELECT", database]).await;
            for words in [&["WATCH", user][..], &["GET", user], &["ACL", "WHOAMI"], &["UNWATCH"]] {
                let answer = next.ask(words).await;
                match words[0] {
                    "GET" => assert_eq!(answer, value, "{user} in {database}"),
                    "ACL" => assert!(answer.ends_with(&format!("{user}\r\n")), "{answer}"),
                    _ => assert_eq!(answer, "+OK\r\n"),
                }
            }
        }
    }
}

/// A transaction may change who the client is, and ask; both are followed when it has run, and not when it has not.
#[tokio::test]
async fn what_a_transaction_changes_is_followed() {
    let front = with_users(&["--workers", "1"]).await;
    let mut client = Raw::connect(front.proxy).await;
    let id = client.ask(&["CLIENT", "ID"]).await;
    client.ask(&["ECHO", "a"]).await;
    let transaction = [
        &["MULTI"][..],
        &["SELECT", "1"],
        &["CLIENT", "ID"],
        &["AUTH", "bob", "bob-pw"],
        &["HELLO", "3", "SETNAME", "me"],
        &["SELECT", "99"],
        &["CLIENT", "INFO"],
        &["CLIENT", "LIST"],
        &["ECHO", "$2\r\nid\r\n:1\r\n"],
        &["EXEC"],
        &["ECHO", "end"],
    ];
    client.send(&transaction.map(command).concat()).await;
    let answer = text(&client.until(b"$3\r\nend\r\n").await);
    let exec = answer.split_once("*8\r\n").unwrap().1;
    assert!(exec.starts_with(&format!("+OK\r\n{id}+OK\r\n%7\r\n")), "{answer}");
    assert!(exec.contains(&format!("$2\r\nid\r\n{id}$4\r\nmode")), "{answer}");
    assert!(exec.contains("-ERR DB index is out of range\r\n="), "{answer}");
    let described = format!("id={} ", &id[1..id.len() - 2]);
    assert_eq!(exec.matches(&described).count(), 2, "{answer}");
    assert_eq!(exec.matches("id=").count(), 2, "nobody else is there: {answer}");
    assert!(exec.contains("\n\r\n$12\r\n$2\r\nid\r\n:1\r\n\r\n"), "what looks like an id is none: {answer}");
    for (words, expected) in [
        (&["ACL", "WHOAMI"][..], "$3\r\nbob\r\n"),
        (&["GET", "bob"], "$3\r\nbob\r\n"),
        (&["CONFIG", "GET", "nothing"], "%0\r\n"),
        (&["CLIENT", "GETNAME"], "$2\r\nme\r\n"),
    ] {
        assert_eq!(client.ask(words).await, expected, "{words:?}");
    }
    let pinned = async || front.metric("pointsman_backend_connections", "role=\"pinned\"").await;
    assert_eq!(pinned().await, 1.0);
    let mut same = Raw::connect(front.proxy).await;
    same.ask(&["HELLO", "3", "AUTH", "bob", "bob-pw"]).await;
    same.ask(&["SELECT", "1"]).await;
    same.ask(&["WATCH", "bob"]).await;
    assert_eq!(same.ask(&["GET", "bob"]).await, "$3\r\nbob\r\n");
    assert_eq!(pinned().await, 1.0, "it was given back as what it had become");
    assert_eq!(same.ask(&["CLIENT", "GETNAME"]).await, "_\r\n");
    same.ask(&["UNWATCH"]).await;

    for (end, last) in [(&["NOSUCH"][..], "EXEC"), (&["PING"], "DISCARD")] {
        let none = [&["MULTI"][..], &["SELECT", "0"], &["HELLO", "2"], &["AUTH", "alice", "alice-pw"], end, &[last]];
        client.send(&none.map(command).concat()).await;
        assert_eq!(client.ask(&["CONFIG", "GET", "nothing"]).await.rsplit("\r\n").nth(1), Some("%0"), "RESP3");
        assert_eq!(client.ask(&["GET", "bob"]).await, "$3\r\nbob\r\n", "{last}");
    }
}

/// What a subscriber is told before the answer to its `HELLO 2` is RESP3, and what it is told behind it is RESP2.
#[tokio::test]
async fn the_version_changes_where_the_answer_stands() {
    let front = with_users(&["--workers", "1"]).await;
    let mut publisher = Raw::connect(front.redis).await;
    let publish = command(&["PUBLISH", "news", "flash"]);
    let (mut receiving, mut sending) = publisher.stream.split();
    let storm = async {
        loop {
            // Whole commands; the replies are read and dropped.
            sending.write_all(&publish.repeat(20)).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let drain = async {
        let mut replies = vec![0; 1 << 16];
        while receiving.read(&mut replies).await.unwrap() > 0 {}
    };
    let change = async {
        let message = "3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nflash\r\n";
        for i in 0..60 {
            let mut client = Raw::connect(front.proxy).await;
            client.send(&[command(&["HELLO", "3"]), command(&["SUBSCRIBE", "news"])].concat()).await;
            client.until(format!(">{message}").as_bytes()).await;
            // By itself, or within a transaction.
            let (words, answer) = if i % 2 == 0 {
                (vec![&["HELLO", "2"][..]], "*14\r\n$6\r\nserver")
            } else {
                (vec![&["MULTI"][..], &["HELLO", "2"], &["EXEC"]], "*1\r\n*14\r\n$6\r\nserver")
            };
            client.send(&words.iter().flat_map(|words| command(words)).collect::<Vec<_>>()).await;
            let before = text(&client.until(answer.as_bytes()).await);
            client.until(b"modules\r\n*0\r\n").await;
            let before = before.replace(&format!(">{message}"), "");
            let expected = if i % 2 == 0 { answer.to_owned() } else { format!("+OK\r\n+QUEUED\r\n{answer}") };
            assert_eq!(before, expected);
            let behind = format!("*{message}").repeat(3);
            assert!(text(&client.until(behind.as_bytes()).await) == behind, "{i}");
        }
    };
    tokio::select! {
        () = storm => {}
        () = drain => {}
        () = change => {}
    }
}
