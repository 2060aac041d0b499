//! What clients do to each other and to the server, through shared connections.

use std::time::Duration;

use crate::support::{Front, PATIENCE, Raw, command, text};
use pointsman::demo::cluster::Member;
use pointsman::demo::settings::Settings;
use tokio::time::{Instant, sleep};

pub(crate) async fn id(client: &mut Raw) -> String {
    client.ask(&["CLIENT", "ID"]).await.trim_start_matches(':').trim_end().to_owned()
}

/// Waits until `CLIENT LIST` says so of a client.
pub(crate) async fn listed(asker: &mut Raw, id: &str, what: &str) {
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

/// Words that, said of a blocked command, prove that it did not run.
#[tokio::test]
async fn a_script_that_says_that_it_was_unblocked_runs_once() {
    let front = Front::start(Settings::single(), &["--workers", "1"]).await;
    let mut client = Raw::connect(front.proxy).await;
    let said = "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)";
    let script = format!("redis.call('INCR', 'n') return redis.error_reply('{said}')");
    assert_eq!(client.ask(&["EVAL", &script, "0"]).await, format!("-{said}\r\n"));
    assert_eq!(client.ask(&["GET", "n"]).await, "$1\r\n1\r\n");
}

/// Both come back from a server that dies; meanwhile the time of the pop has passed.
#[tokio::test]
async fn what_a_pop_whose_time_is_up_answers_stands_behind_what_came_before() {
    let mut front = Front::start(Settings::single(), &["--workers", "1"]).await;
    let mut client = Raw::connect(front.proxy).await;
    client.send(&command(&["HELLO", "3"])).await;
    client.until(b"modules\r\n*0\r\n").await;
    // Its connection is its own from then on.
    assert_eq!(client.ask(&["CLIENT", "TRACKING", "ON"]).await, "+OK\r\n");
    assert_eq!(client.ask(&["LRANGE", "k", "0", "-1"]).await, "*0\r\n");
    front.cluster.pause(Member::Node(0)).unwrap();
    let begun = Instant::now();
    let both = [&["LRANGE", "k", "0", "-1"][..], &["BLPOP", "q", "0.3"], &["BLPOP", "q", "-1"]];
    client.send(&both.map(command).concat()).await;
    tokio::time::sleep_until(begun + Duration::from_millis(400)).await;
    front.cluster.kill(Member::Node(0)).unwrap();
    front.cluster.restart(Member::Node(0)).await.unwrap();
    let answers = client.until(b"timeout is negative\r\n").await;
    let invalid = ">2\r\n$10\r\ninvalidate\r\n_\r\n";
    let expected = format!("{invalid}*0\r\n_\r\n-ERR timeout is negative\r\n");
    assert_eq!(text(&answers), expected, "{}", front.log());
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
    let own = id(&mut asker).await;
    let info = asker.ask(&["CLIENT", "INFO"]).await;
    assert!(info.contains(&format!("id={own} ")) && info.contains("user=weak"), "about itself it may ask: {info}");
    assert_eq!(other.ask(&["PING"]).await, "+PONG\r\n");
}

#[tokio::test]
async fn a_pause_that_is_refused_changes_nothing() {
    let front = Front::configured("refuse = [\"FAILOVER\"]").await;
    let (mut weak, mut other) = (Raw::connect(front.proxy).await, Raw::connect(front.proxy).await);
    other.ask(&["ACL", "SETUSER", "weak", "on", ">pw", "~*", "+@all", "-client|pause"]).await;
    assert_eq!(weak.ask(&["AUTH", "weak", "pw"]).await, "+OK\r\n");
    let pinned = async || front.metric("pointsman_backend_connections", "role=\"pinned\"").await;
    assert!(weak.ask(&["CLIENT", "PAUSE", "100000", "WRITE"]).await.starts_with("-NOPERM"));
    let before = pinned().await;
    assert_eq!(other.ask(&["SET", "k", "v"]).await, "+OK\r\n");
    assert_eq!(pinned().await, before, "writes go on sharing");
    // Nor does one in a transaction that does not run: because of that one, of another command, of what was watched.
    let transaction = |more: &[&[&str]]| {
        let pause = ["CLIENT", "PAUSE", "100000", "WRITE"];
        [&[&["MULTI"][..], &pause][..], more, &[&["EXEC"]]].concat().into_iter().flat_map(command).collect::<Vec<u8>>()
    };
    weak.send(&transaction(&[])).await;
    weak.until(b"-EXECABORT").await;
    weak.until(b"\r\n").await;
    // In another database, and so on other connections than the one who writes.
    let mut elsewhere = Raw::connect(front.proxy).await;
    assert_eq!(elsewhere.ask(&["SELECT", "1"]).await, "+OK\r\n");
    elsewhere.send(&transaction(&[&["FAILOVER"]])).await;
    elsewhere.until(b"-EXECABORT").await;
    elsewhere.until(b"\r\n").await;
    assert_eq!(elsewhere.ask(&["WATCH", "w"]).await, "+OK\r\n");
    let mut direct = Raw::connect(front.redis).await;
    assert_eq!(direct.ask(&["SELECT", "1"]).await + &direct.ask(&["SET", "w", "1"]).await, "+OK\r\n+OK\r\n");
    elsewhere.send(&transaction(&[])).await;
    elsewhere.until(b"*-1\r\n").await;
    let before = pinned().await;
    assert_eq!(other.ask(&["SET", "k", "v"]).await, "+OK\r\n");
    assert_eq!(pinned().await, before, "writes go on sharing");
    assert_eq!(other.ask(&["CLIENT", "PAUSE", "1", "WRITE"]).await, "+OK\r\n");
    assert_eq!(other.ask(&["SET", "k", "v"]).await, "+OK\r\n");
}

/// While the server's writes are paused those of different clients do not wait behind each other, nor reads behind them.
#[tokio::test]
async fn a_pause_from_within_a_transaction_is_one_and_a_shorter_one_does_not_end_it() {
    let front = Front::configured("refuse = []").await;
    let mut direct = Raw::connect(front.redis).await;
    let (mut pauser, mut one, mut two) =
        (Raw::connect(front.proxy).await, Raw::connect(front.proxy).await, Raw::connect(front.proxy).await);
    // No marker in between, which would be queued.
    pauser.send(&[&["MULTI"][..], &["CLIENT", "PAUSE", "60000", "WRITE"], &["EXEC"]].map(command).concat()).await;
    assert_eq!(text(&pauser.until(b"*1\r\n+OK\r\n").await), "+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
    assert_eq!(pauser.ask(&["CLIENT", "PAUSE", "1", "WRITE"]).await, "+OK\r\n");
    one.send(&command(&["SET", "a", "1"])).await;
    two.send(&command(&["SET", "b", "2"])).await;
    let end = Instant::now() + PATIENCE;
    while !direct.ask(&["INFO", "clients"]).await.contains("blocked_clients:2\r\n") {
        assert!(Instant::now() < end, "one waits behind the other");
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(pauser.ask(&["EXISTS", "a"]).await, ":0\r\n", "reads go on");
    assert_eq!(pauser.ask(&["CLIENT", "UNPAUSE"]).await, "+OK\r\n");
    for client in [&mut one, &mut two] {
        assert_eq!(client.line().await.unwrap(), "+OK\r\n");
    }
}

/// What a connection says of itself is compared with a client's of the server itself.
fn of_itself(list: &str) -> Vec<String> {
    const SAME: [&str; 9] = ["name", "db", "sub", "multi", "flags", "cmd", "user", "redir", "resp"];
    let fields = list.split([' ', '\n', '\r']).filter_map(|field| field.split_once('='));
    fields.filter(|(key, _)| SAME.contains(key)).map(|(key, value)| format!("{key}={value}")).collect()
}

#[tokio::test]
async fn a_transaction_asks_about_clients_as_they_are_when_it_runs() {
    let front = Front::start(Settings::single(), &["--workers", "2"]).await;
    let mut other = Raw::connect(front.proxy).await;
    other.ask(&["ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@all"]).await;
    let of_other = id(&mut other).await;
    let block = [
        &["MULTI"][..],
        &["AUTH", "bob", "pw"],
        &["CLIENT", "SETNAME", "me"],
        &["SELECT", "3"],
        &["CLIENT", "INFO"],
        &["EXEC"],
    ];
    let mut said = Vec::new();
    for addr in [front.redis, front.proxy] {
        let mut client = Raw::connect(addr).await;
        client.send(&block.map(command).concat()).await;
        said.push(of_itself(&text(&client.until(b"\n\r\n").await)));
    }
    assert_eq!(said[0], said[1], "{}", front.log());
    assert!(said[1].contains(&"user=bob".to_owned()) && said[1].contains(&"name=me".to_owned()), "{said:?}");

    // Others are found, listed and killed by the ids that they have here.
    let mut asker = Raw::connect(front.proxy).await;
    let own = id(&mut asker).await;
    let block = [
        &["MULTI"][..],
        &["CLIENT", "ID"],
        &["CLIENT", "LIST", "ID", &of_other, "999999"],
        &["CLIENT", "LIST", "TYPE", "pubsub"],
        &["CLIENT", "KILL", "ID", "999999"],
        &["CLIENT", "KILL", "nobody:1"],
        &["CLIENT", "KILL", "ID", &of_other],
        &["EXEC"],
    ];
    asker.send(&block.map(command).concat()).await;
    let said = text(&asker.until(b"-ERR No such client\r\n:1\r\n").await);
    assert!(said.contains(&format!("*6\r\n:{own}\r\n$")) && said.contains(&format!("\r\nid={of_other} ")), "{said}");
    assert_eq!(said.matches("id=").count(), 1, "{said}");
    assert!(said.ends_with("\n\r\n$0\r\n\r\n:0\r\n-ERR No such client\r\n:1\r\n"), "{said}");
    assert!(other.line().await.is_none(), "killed");

    // Whom it unblocks it may name before that one is blocked, and on which connection.
    let (mut blocked, mut third) = (Raw::connect(front.proxy).await, Raw::connect(front.proxy).await);
    let of_blocked = id(&mut blocked).await;
    let unblock = ["CLIENT", "UNBLOCK", &of_blocked];
    let wrong = [["CLIENT", "UNBLOCK", "x"], ["CLIENT", "UNBLOCK", "+5"], ["CLIENT", "UNBLOCK", "07"]];
    let begin = [&["MULTI"][..], &unblock, &wrong[0], &wrong[1], &wrong[2], &["CLIENT", "UNBLOCK", "9", "?"], &unblock];
    asker.send(&begin.map(command).concat()).await;
    asker.until(&b"+QUEUED\r\n".repeat(6)).await;
    blocked.send(&command(&["BLPOP", "list", "0"])).await;
    listed(&mut third, &of_blocked, "flags=b ").await;
    asker.send(&[&["RPUSH", "list", "x"][..], &["CLIENT", "ID"], &["EXEC"]].map(command).concat()).await;
    let no_number = "-ERR value is not an integer or out of range\r\n".repeat(3);
    let no_reason = "-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR\r\n";
    let expected = format!("+QUEUED\r\n+QUEUED\r\n*8\r\n:1\r\n{no_number}{no_reason}:0\r\n:1\r\n:{own}\r\n");
    assert_eq!(text(&asker.until(format!(":{own}\r\n").as_bytes()).await), expected, "{}", front.log());
    assert_eq!(blocked.line().await.unwrap(), "*-1\r\n", "before it is given what was added");
    assert_eq!(asker.ask(&["LLEN", "list"]).await, ":1\r\n");

    // One who closes itself hears nothing of what comes behind that.
    let mut heard = Vec::new();
    for addr in [front.redis, front.proxy] {
        let mut client = Raw::connect(addr).await;
        let own = id(&mut client).await;
        let kill = ["CLIENT", "KILL", "ID", &own, "SKIPME", "no"];
        let block = [&["MULTI"][..], &["SET", "k", "v"], &kill, &["INCR", "ran"], &["EXEC"], &["INCR", "ran"]];
        client.send(&block.map(command).concat()).await;
        heard.push(text(&client.rest().await));
    }
    assert_eq!(heard[0], heard[1]);
    assert_eq!(asker.ask(&["GET", "ran"]).await, "$1\r\n2\r\n", "once for each");
}

/// `EXEC` answers more than it announces where a transaction subscribes to several channels, or publishes to itself.
#[tokio::test]
async fn a_transaction_subscribes_and_the_client_hears_what_it_would_directly() {
    const BLOCKS: [&[&str]; 7] = [
        &["MULTI", "SUBSCRIBE a", "EXEC"],
        &["MULTI", "GET k", "SUBSCRIBE a b", "UNSUBSCRIBE b", "ECHO x", "EXEC"],
        &["MULTI", "PSUBSCRIBE a* z*", "SUBSCRIBE a", "PUBLISH a own", "CLIENT GETNAME", "SELECT 3", "EXEC"],
        &["MULTI", "UNSUBSCRIBE", "PUNSUBSCRIBE x y", "SUBSCRIBE a", "UNSUBSCRIBE", "SUBSCRIBE a", "GET k", "EXEC"],
        &["MULTI", "CLIENT REPLY OFF", "SUBSCRIBE b a", "GET k", "EXEC"],
        &["CLIENT REPLY SKIP", "MULTI", "SUBSCRIBE a", "SSUBSCRIBE s t", "GET k", "EXEC"],
        &["MULTI", "SUBSCRIBE a b", "NOSUCH", "EXEC", "SUBSCRIBE x y", "UNSUBSCRIBE x z", "SUBSCRIBE a"],
    ];
    let front = Front::start(Settings::single(), &["--workers", "2"]).await;
    let mut publisher = Raw::connect(front.redis).await;
    let said = |words: &str| command(&words.split(' ').collect::<Vec<_>>());
    for (version, block) in ["2", "3"].into_iter().flat_map(|version| BLOCKS.map(|block| (version, block))) {
        let mut heard = Vec::new();
        for addr in [front.redis, front.proxy] {
            let mut client = Raw::connect(addr).await;
            client.send(&command(&["HELLO", version])).await;
            client.until(b"modules\r\n*0\r\n").await;
            client.send(&block.iter().flat_map(|words| said(words)).collect::<Vec<_>>()).await;
            // Every block leaves it subscribed to that.
            let end = Instant::now() + PATIENCE;
            while publisher.ask(&["PUBLISH", "a", "others"]).await == ":0\r\n" {
                assert!(Instant::now() < end, "RESP{version} {block:?} subscribes to nothing");
            }
            let behind = ["PING", "GET k", "MULTI", "PUBLISH a own", "GET k", "EXEC", "PING", "RESET", "GET k", "QUIT"];
            client.send(&behind.into_iter().flat_map(said).collect::<Vec<_>>()).await;
            heard.push(text(&client.rest().await));
        }
        assert_eq!(heard[0], heard[1], "RESP{version} {block:?}\n{}", front.log());
        assert!(heard[0].contains("others"), "{}", heard[0]);
    }
}

/// Clients that authenticate at once are judged in turn: on fewer connections than there are clients.
#[tokio::test]
async fn a_storm_of_clients_that_authenticate_is_none_for_the_server() {
    const CLIENTS: usize = 300;
    let front = Front::start(Settings::single(), &["--workers", "2"]).await;
    let mut one = Raw::connect(front.proxy).await;
    one.ask(&["ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@all"]).await;
    assert_eq!(one.ask(&["CONFIG", "SET", "maxclients", "60"]).await, "+OK\r\n");
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Raw::connect(front.proxy).await);
    }
    for client in &mut clients {
        client.send(&command(&["AUTH", "bob", "pw"])).await;
    }
    for client in &mut clients {
        assert_eq!(client.line().await.as_deref(), Some("+OK\r\n"));
    }
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
    let library = "#!lua name=lib\nredis.register_function('forever', function() while true do end end)";
    assert_eq!(other.ask(&["FUNCTION", "LOAD", library]).await, "$3\r\nlib\r\n");
    let both = [("SCRIPT", &["EVAL", "while true do end", "0"][..]), ("FUNCTION", &["FCALL", "forever", "0"])];
    for (kind, begin) in both {
        looping.send(&command(begin)).await;
        let end = Instant::now() + PATIENCE;
        loop {
            other.send(&command(&["GET", "k"])).await;
            if other.line().await.unwrap().starts_with("-BUSY") {
                break;
            }
            assert_eq!(other.line().await.unwrap(), "v\r\n");
            assert!(Instant::now() < end, "the script did not begin");
        }
        other.send(&command(&[kind, "KILL"])).await;
        assert_eq!(other.line().await.unwrap(), "+OK\r\n");
        assert!(looping.line().await.unwrap().contains("killed by user"));
    }
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

/// While the server is silent its blocking commands are asked to come back, and are issued again. That must not be
/// mistaken for what another client asks later.
#[tokio::test]
async fn a_client_that_was_carried_over_a_hold_can_be_unblocked() {
    let mut front = Front::start(Settings::single(), &["--workers", "1"]).await;
    let (mut asker, mut blocked) = (Raw::connect(front.proxy).await, Raw::connect(front.proxy).await);
    blocked.ask(&["HELLO", "3"]).await;
    let of_blocked = id(&mut blocked).await;
    // It keeps its connection all the time.
    blocked.send(&[command(&["SUBSCRIBE", "channel"]), command(&["BLPOP", "nothing", "0"])].concat()).await;
    blocked.until(b"channel\r\n:1\r\n").await;
    listed(&mut asker, &of_blocked, "cmd=blpop").await;

    front.cluster.pause(Member::Node(0)).unwrap();
    asker.send(&command(&["GET", "k"])).await;
    front.until_phase(false).await;
    front.cluster.resume(Member::Node(0)).unwrap();
    front.until_phase(true).await;
    asker.until(b"$-1\r\n").await;
    let end = Instant::now() + PATIENCE;
    // Again: it may be on its way back.
    let line = loop {
        asker.ask(&["CLIENT", "UNBLOCK", &of_blocked, "ERROR"]).await;
        if let Ok(line) = tokio::time::timeout(Duration::from_millis(50), blocked.line()).await {
            break line.unwrap();
        }
        assert!(Instant::now() < end, "{}", front.log());
    };
    assert!(line.starts_with("-UNBLOCKED"), "{line}");
}

/// Redis counts for each connection by itself; the writes of a client go over connections that it shares.
#[tokio::test]
async fn wait_speaks_of_what_the_client_wrote_wherever_that_went() {
    let mut front = Front::start(Settings { replicas: 1, ..Settings::single() }, &["--workers", "1"]).await;
    let replica = Member::Node(1);
    let writes: [&[&[&str]]; 4] = [
        &[&["SET", "k", "v"]],
        &[&["EVAL", "return redis.call('incr', KEYS[1])", "1", "n"]],
        &[&["MULTI"], &["INCR", "n"], &["EXEC"]],
        &[&["RPUSH", "l", "a"], &["BLPOP", "l", "1"]],
    ];
    for write in writes {
        let (mut direct, mut through) = (Raw::connect(front.redis).await, Raw::connect(front.proxy).await);
        for (paused, expected) in [(false, ":1\r\n"), (true, ":0\r\n")] {
            if paused {
                front.cluster.pause(replica).unwrap();
            }
            for client in [&mut direct, &mut through] {
                client.send(&write.iter().flat_map(|words| command(words)).collect::<Vec<_>>()).await;
                assert!(client.ask(&["PING"]).await.ends_with("+PONG\r\n"));
                let time = if paused { "50" } else { "10000" };
                assert_eq!(client.ask(&["WAIT", "1", time]).await, expected, "{write:?}");
                if paused {
                    // In a transaction it does not wait.
                    client.send(&[&["MULTI"][..], &["WAIT", "1", "0"], &["EXEC"]].map(command).concat()).await;
                    let answer = text(&client.until(b"*1\r\n:0\r\n").await);
                    assert_eq!(answer, "+OK\r\n+QUEUED\r\n*1\r\n:0\r\n", "{write:?}");
                }
            }
        }
        front.cluster.resume(replica).unwrap();
        for client in [&mut direct, &mut through] {
            assert_eq!(client.ask(&["WAIT", "1", "10000"]).await, ":1\r\n", "{write:?}");
        }
    }
    let mut weak = Raw::connect(front.proxy).await;
    weak.ask(&["ACL", "SETUSER", "weak", "on", ">pw", "~*", "+@all", "-ping"]).await;
    assert_eq!(weak.ask(&["AUTH", "weak", "pw"]).await, "+OK\r\n");
    for _ in 0..3 {
        assert!(weak.ask(&["WAIT", "0", "0"]).await.starts_with("-WAITUNKNOWN pointsman: "));
        assert_eq!(weak.ask(&["SET", "k", "v"]).await, "+OK\r\n");
    }
    let pinned = front.metric("pointsman_backend_connections", "role=\"pinned\"").await;
    assert!(pinned <= 3.0, "{pinned}: what was taken for it is given back");
}

/// Commands of modules, here Redis' own under names that pointsman does not know.
#[tokio::test]
async fn the_server_is_asked_what_an_unknown_command_is() {
    let names = ["strlen", "append", "blpop", "xinfo", "echo"];
    let renamed = names.iter().map(|name| format!("rename-command {name} mod.{name}"));
    let settings = Settings { redis_lines: renamed.collect(), ..Settings::single() };
    let front = Front::start(settings, &["--workers", "1"]).await;
    let pinned = async || front.metric("pointsman_backend_connections", "role=\"pinned\"").await;
    let plain = async |client: &mut Raw, words: &[&str]| {
        client.send(&command(words)).await;
        client.line().await.unwrap()
    };
    let mut clients = Vec::new();
    for i in 1..=20 {
        let mut client = Raw::connect(front.proxy).await;
        assert_eq!(plain(&mut client, &["mod.append", "k", "x"]).await, format!(":{i}\r\n"));
        assert_eq!(plain(&mut client, &["MOD.STRLEN", "k"]).await, format!(":{i}\r\n"));
        assert!(plain(&mut client, &["mod.xinfo", "STREAM", "none"]).await.starts_with("-ERR no such key"));
        clients.push(client);
    }
    assert_eq!(pinned().await, 0.0, "they share");
    // In a transaction it is one of its commands.
    let block = [&["MULTI"][..], &["MOD.APPEND", "k", "x"], &["EXEC"]].map(command).concat();
    clients[0].send(&block).await;
    assert_eq!(text(&clients[0].until(b":21\r\n").await), "+OK\r\n+QUEUED\r\n*1\r\n:21\r\n");
    assert_eq!(plain(&mut clients[0], &["MOD.STRLEN", "k"]).await, ":21\r\n");
    assert_eq!(front.metric("pointsman_backend_connections", "role=\"pinned\"").await, 1.0, "given back");
    assert!(plain(&mut clients[0], &["NOSUCH", "k"]).await.starts_with("-ERR unknown command"));
    assert_eq!(pinned().await, 1.0, "what was refused has changed nothing");
    // One that waits has a connection of its own, and so has one that is not about data.
    clients[1].send(&command(&["MOD.BLPOP", "list", "0"])).await;
    assert_eq!(plain(&mut clients[2], &["MOD.ECHO", "mark"]).await, "$4\r\n");
    assert_eq!(plain(&mut clients[3], &["RPUSH", "list", "x"]).await, ":1\r\n");
    clients[1].until(b"list\r\n$1\r\nx\r\n").await;
    assert_eq!(pinned().await, 2.0);
    // Who may not ask is in doubt, and is served all the same.
    let mut weak = Raw::connect(front.proxy).await;
    let rules = ["ACL", "SETUSER", "weak", "on", ">pw", "~*", "+@all", "-command"];
    assert_eq!(plain(&mut weak, &rules).await, "+OK\r\n");
    assert_eq!(plain(&mut weak, &["AUTH", "weak", "pw"]).await, "+OK\r\n");
    assert_eq!(plain(&mut weak, &["MOD.STRLEN", "k"]).await, ":21\r\n");
}
