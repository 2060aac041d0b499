//! Random sessions, put to one Redis directly and to another through pointsman: every byte that comes back is the same.
//!
//! Several clients at once, each with keys and channels of its own, so that they share connections and still have nothing
//! to do with each other. What pointsman answers otherwise on purpose is left out, as is what depends on time.

#[allow(unreachable_pub)] // a helper of several programs
#[path = "../pure/router_model/vocabulary.rs"]
mod vocabulary;

use std::net::SocketAddr;

use self::vocabulary::COMMANDS;
use crate::support::{Front, PATIENCE, Raw, command, text};
use pointsman::demo::cluster::{Cluster, Member};
use pointsman::demo::settings::Settings;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// Clients at a time.
const CLIENTS: usize = 3;
/// Names a client says that are made its own.
const NAMES: [&str; 9] = ["k", "l", "a", "b", "s", "c", "g", "p*", "none"];

/// Commands whose replies show the data, and that do not wait for ever.
#[rustfmt::skip]
const MORE: &[&str] = &[
    "RPUSH l one", "RPUSH l two", "LRANGE l 0 -1", "BLPOP l 0.01", "BLMOVE l b LEFT RIGHT 0.01", "GET k", "INCR k",
    "SET k v", "DEL k", "LLEN b", "PUBLISH a hello", "PUBLISH b hello", "SPUBLISH s hello", "ECHO mark", "PING mark",
    "HELLO 3", "MULTI", "EXEC", "WATCH k", "CLIENT TRACKING ON", "UNSUBSCRIBE",
    "UNSUBSCRIBE a b", "CLIENT REPLY ON", "CLIENT GETNAME", "CLIENT REPLY SKIP", "EXEC", "MULTI", "EVAL return{KEYS[1],redis.call('type',KEYS[1])} 1 k", "ACL WHOAMI", "CLIENT NO-EVICT OFF",
];

/// Whether the answer is the same wherever it is given.
fn is_comparable(command: &str) -> bool {
    const NOT: &[&str] = &[
        // Waits for ever, or is the end of what can be compared.
        "BLPOP l 0",
        "BLMOVE a b LEFT RIGHT 0",
        "XREAD BLOCK",
        "XREADGROUP GROUP g c BLOCK",
        "QUIT",
        "MONITOR",
        "SYNC",
        "PSYNC",
        "REPLCONF",
        "SCRIPT DEBUG",
        "DEBUG",
        // One confirmation for each, in the order of a hash table, once all are left.
        "SUBSCRIBE a b",
        // About the server, or other clients.
        "INFO",
        "DBSIZE",
        "CLIENT ID",
        "CLIENT INFO",
        "CLIENT LIST",
        "CLIENT KILL",
        "CLIENT UNBLOCK",
        "CLIENT PAUSE",
        "SCRIPT LOAD",
        "SCRIPT KILL",
        "FUNCTION",
    ];
    MORE.contains(&command) || !NOT.iter().any(|not| command.starts_with(not))
}

/// What may give the client a connection of its own that is not followed; `queued`: in a transaction.
fn may_keep(command: &str, queued: bool) -> bool {
    ["CLIENT NO-EVICT", "MODULE"].iter().any(|c| command.starts_with(c))
        || queued && ["CLIENT", "NOSUCH", "RESET"].iter().any(|c| command.to_uppercase().contains(c))
}

/// One client's commands as bytes, in the pieces in which they are sent.
type Session = Vec<Vec<u8>>;

/// `picks`: each command, and whether it is sent together with the one before.
fn session(client: usize, picks: &[(&'static str, bool)]) -> Session {
    let own = |word: &str| if NAMES.contains(&word) { format!("{client}{word}") } else { word.to_owned() };
    let mut pieces: Session = Vec::new();
    let (mut open, mut kept, mut listening, mut followed) = (false, false, false, true);
    for (text, together) in picks {
        // Of a subscriber that changes its RESP version on such a connection pointsman does not know how messages come from
        // then on.
        let unfollowed = kept && text.to_uppercase().starts_with("HELLO");
        if !followed && text.to_uppercase().starts_with("CLIENT REPLY") || listening && unfollowed {
            continue;
        }
        listening |= text.contains("SUBSCRIBE");
        kept |= may_keep(text, open);
        followed &= !unfollowed;
        match text.to_uppercase().as_str() {
            "MULTI" => open = true,
            "EXEC" | "DISCARD" | "RESET" => open = false,
            _ => {}
        }
        let words: Vec<String> =
            text.split(' ').enumerate().map(|(i, w)| if i == 0 { w.into() } else { own(w) }).collect();
        let bytes = command(&words.iter().map(String::as_str).collect::<Vec<_>>());
        match pieces.last_mut().filter(|_| *together) {
            Some(piece) => piece.extend(bytes),
            None => pieces.push(bytes),
        }
    }
    // Redis does not close a client that has turned replies off.
    pieces.push([command(&["RESET"]), command(&["QUIT"])].concat());
    pieces
}

/// All that the server says to a session.
async fn talk(addr: SocketAddr, session: Session) -> String {
    let mut client = Raw::connect(addr).await;
    for piece in session {
        // A server may close earlier; then what it said tells why.
        if client.stream.write_all(&piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let end = timeout(PATIENCE, client.stream.read_to_end(&mut client.received)).await;
    let open = if end.is_err() { " and stays open" } else { "" };
    without_id(&text(&client.received)) + open
}

/// The reply to `HELLO` names the connection.
fn without_id(replies: &str) -> String {
    const FIELD: &str = "$2\r\nid\r\n:";
    let mut parts = replies.split(FIELD);
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        all += FIELD;
        all += part.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    all
}

fn picks() -> impl Strategy<Value = Vec<(&'static str, bool)>> {
    let all: Vec<&'static str> = COMMANDS.iter().chain(MORE).copied().filter(|c| is_comparable(c)).collect();
    prop::collection::vec((prop::sample::select(all), any::<bool>()), 1..25)
}

/// The same cases every time: what is new to it, the longer one finds.
#[test]
fn no_byte_differs() {
    compare(100, 1);
}

#[test]
#[ignore = "some minutes; `make test-all` runs it, with other cases every time"]
fn no_byte_differs_however_long() {
    compare(5000, std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..)));
}

fn compare(cases: u32, seed: u64) {
    eprintln!("SEED={seed}");
    let runtime = Runtime::new().unwrap();
    let settings = || Settings {
        redis_lines: vec!["user u1 on >u1 ~* &* +@all".into(), "user u2 on >u2 ~* &* +@all -multi".into()],
        ..Settings::single()
    };
    let front = runtime.block_on(Front::start(settings(), &["--workers", "1"]));
    let other = runtime.block_on(Cluster::start(settings())).unwrap();
    let direct = other.addr(Member::Node(0));
    let config =
        ProptestConfig { failure_persistence: None, max_shrink_iters: 400, ..ProptestConfig::with_cases(cases) };
    let seed = [seed.to_le_bytes(); 4].concat();
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let sessions = prop::collection::vec(picks(), CLIENTS);
    let result = runner.run(&sessions, |sessions| {
        let sessions: Vec<Session> = sessions.iter().enumerate().map(|(i, picks)| session(i, picks)).collect();
        let (got, expected) = runtime.block_on(async {
            for cluster in [&front.cluster, &other] {
                cluster.ask(Member::Node(0), &["FLUSHALL"]).await.unwrap();
            }
            let all = |addr| talk_all(addr, sessions.clone());
            (all(front.proxy).await, all(direct).await)
        });
        prop_assert_eq!(got, expected);
        Ok(())
    });
    if let Err(why) = result {
        panic!("{why}\n{}", front.log());
    }
}

async fn talk_all(addr: SocketAddr, sessions: Vec<Session>) -> Vec<String> {
    let talks: Vec<_> = sessions.into_iter().map(|s| tokio::spawn(talk(addr, s))).collect();
    let mut said = Vec::new();
    for talk in talks {
        said.push(talk.await.unwrap());
    }
    said
}
