use super::*;
use crate::backend::Key;
use crate::resp::{CommandId, encode_command, lookup};

fn fresh() -> State {
    State::new(Key { database: 0, resp3: false, user: None })
}

fn decide(command: &str, state: &State) -> Route {
    let words: Vec<&str> = command.split(' ').collect();
    route(lookup(words[0].as_bytes()).info(), &encode_command(&words), words.len() as u32, state)
}

fn step(command: &str, state: &State) -> Option<Step> {
    match decide(command, state) {
        Route::Pinned(p) => Some(p.step),
        _ => None,
    }
}

#[test]
fn a_fresh_session_shares_and_pins_by_the_table() {
    let s = fresh();
    for (command, expected) in [
        ("GET k", Route::Shared(Effect::Read)),
        ("set k v", Route::Shared(Effect::Write)),
        ("PUBLISH c m", Route::Shared(Effect::Write)),
        ("EVAL x 0", Route::Shared(Effect::Write)),
        ("EXEC", Route::Shared(Effect::Write)),
        ("XREAD STREAMS BLOCK 0", Route::Shared(Effect::Read)),
        ("SELECT 3", Route::Select(3)),
        ("SELECT 03", Route::Shared(Effect::Read)),
        ("SELECT -1", Route::Shared(Effect::Read)),
        ("SELECT 1 2", Route::Shared(Effect::Read)),
        ("AUTH pw", Route::Judge),
        ("HELLO 3", Route::Judge),
        ("SCRIPT KILL", Route::Judge),
        ("QUIT", Route::Local(Local::Quit)),
        ("RESET", Route::Local(Local::Reset)),
        ("CLIENT ID", Route::Shared(Effect::Read)),
        ("client setname x", Route::Shared(Effect::Read)),
        ("CLIENT GETNAME", Route::Shared(Effect::Read)),
        ("CLIENT REPLY skip", Route::Local(Local::Reply(Replies::Skip))),
        ("CLIENT REPLY maybe", Route::Shared(Effect::Read)),
        ("CLIENT INFO", Route::About(About::Info)),
        ("CLIENT KILL ID 3", Route::About(About::Kill)),
        ("CLIENT UNBLOCK 3", Route::About(About::Unblock)),
        ("CLIENT UNBLOCK", Route::Shared(Effect::Read)),
        ("MULTI x", Route::Shared(Effect::Read)),
        ("SCRIPT LOAD x", Route::Shared(Effect::Write)),
        ("SCRIPT EXISTS x", Route::Shared(Effect::Write)),
        ("FUNCTION LIST", Route::Shared(Effect::Write)),
        ("FUNCTION KILL", Route::Judge),
        ("FUNCTION STATS", Route::Judge),
        ("EVALSHA x 0", Route::Shared(Effect::Write)),
        ("EVAL_RO x 0", Route::Shared(Effect::Read)),
        ("FCALL f 0", Route::Shared(Effect::Write)),
        ("FCALL_RO f 0", Route::Shared(Effect::Read)),
        ("SCAN 0", Route::Shared(Effect::Read)),
        ("HSCAN h 0", Route::Shared(Effect::Read)),
        ("PING", Route::Shared(Effect::Read)),
        ("ECHO x", Route::Shared(Effect::Read)),
        ("INFO", Route::Shared(Effect::Read)),
        ("ROLE", Route::Shared(Effect::Read)),
        ("KEYS *", Route::Shared(Effect::Read)),
        ("PFCOUNT k", Route::Shared(Effect::Write)),
        ("PUBSUB CHANNELS", Route::Shared(Effect::Read)),
        ("SPUBLISH c m", Route::Shared(Effect::Write)),
        ("DISCARD", Route::Shared(Effect::Write)),
        ("UNWATCH", Route::Shared(Effect::Write)),
        ("FLUSHALL", Route::Shared(Effect::Write)),
        ("MIGRATE h 1 k 0 10", Route::Shared(Effect::Write)),
        ("CONFIG SET a b", Route::Shared(Effect::Write)),
        ("ACL WHOAMI", Route::Shared(Effect::Write)),
        ("CLUSTER INFO", Route::Shared(Effect::Write)),
        ("READONLY", Route::Shared(Effect::Write)),
        ("XREADGROUP GROUP g c STREAMS s >", Route::Shared(Effect::Write)),
        ("CLIENT LIST", Route::About(About::List)),
        ("CLIENT SETINFO LIB-NAME x", Route::Shared(Effect::Read)),
        ("CLIENT GETREDIR", Route::Shared(Effect::Read)),
        ("CLIENT TRACKINGINFO", Route::Shared(Effect::Read)),
        ("CLIENT REPLY on", Route::Local(Local::Reply(Replies::On))),
        ("RESET x", Route::Shared(Effect::Read)),
        ("HELLO", Route::Judge),
        ("HELLO 3 AUTH u p SETNAME n", Route::Judge),
    ] {
        assert_eq!(decide(command, &s), expected, "{command}");
    }
    for (command, expected) in [
        ("BLPOP k 0", Step::Block(true)),
        ("BLMOVE a b LEFT LEFT 0", Step::Block(false)),
        ("XREAD BLOCK 0 STREAMS s $", Step::Block(true)),
        ("XREADGROUP GROUP g c BLOCK 0 STREAMS s >", Step::Block(false)),
        ("WAIT 1 0", Step::Wait),
        ("MULTI", Step::Multi),
        ("WATCH k", Step::Watch),
        ("SUBSCRIBE a b", Step::Subscribe),
        ("MONITOR", Step::Monitor),
        ("CLIENT TRACKING ON BCAST", Step::Track),
        ("CLIENT TRACKING ON REDIRECT 5", Step::Track),
        ("CLIENT CACHING YES", Step::Caching),
        ("CLIENT CAPA redirect", Step::Keep),
        ("SCRIPT DEBUG YES", Step::Keep),
        ("SHUTDOWN", Step::Once),
        ("DEBUG SLEEP 1", Step::Once),
        ("CLIENT PAUSE 10", Step::Once),
        ("REPLCONF listening-port 1", Step::Keep),
        ("SYNC", Step::Sync),
        ("NOSUCHCOMMAND x", Step::Keep),
        ("BRPOP k 0", Step::Block(true)),
        ("BZPOPMIN z 0", Step::Block(true)),
        ("BRPOPLPUSH a b 0", Step::Block(false)),
        ("BLMPOP 0 1 k LEFT", Step::Block(false)),
        ("BZMPOP 0 1 z MIN", Step::Block(false)),
        ("WAITAOF 0 0 0", Step::Wait),
        ("PSUBSCRIBE p*", Step::Subscribe),
        ("SSUBSCRIBE s", Step::Subscribe),
        ("UNSUBSCRIBE", Step::Subscribe),
        ("CLIENT NO-EVICT ON", Step::Keep),
        ("CLIENT NO-TOUCH ON", Step::Keep),
        ("CLIENT IMPORT-SOURCE ON", Step::Keep),
        ("CLIENT UNPAUSE", Step::Once),
        ("REPLICAOF h 1", Step::Once),
        ("FAILOVER", Step::Once),
        ("MODULE LIST", Step::Once),
        ("PSYNC ? -1", Step::Sync),
    ] {
        assert_eq!(step(command, &s), Some(expected), "{command}");
    }
}

#[test]
fn what_the_server_says_is_plain_goes_where_scripts_go() {
    let by_id = |id: CommandId, state: &State| route(id.info(), &encode_command(&["MODULE.COMMAND", "k"]), 2, state);
    assert_eq!(by_id(CommandId::LEARNED_READ, &fresh()), Route::Shared(Effect::Read));
    assert_eq!(by_id(CommandId::LEARNED_WRITE, &fresh()), Route::Shared(Effect::Write));
    let in_transaction = by_id(CommandId::LEARNED_WRITE, &State { multi: true, ..fresh() });
    assert!(matches!(in_transaction, Route::Pinned(Pinned { step: Step::Queue, .. })));
}

#[test]
fn nothing_in_a_transaction_reaches_a_shared_connection() {
    let s = State { multi: true, ..fresh() };
    assert_eq!(step("SET k v", &s), Some(Step::Queue));
    assert_eq!(step("BLPOP k 0", &s), Some(Step::Queue));
    assert_eq!(step("MULTI", &s), Some(Step::Queue), "the backend refuses it in its own words");
    assert_eq!(step("EXEC", &s), Some(Step::Exec));
    assert_eq!(step("DISCARD", &s), Some(Step::Discard));
    for followed in [
        "HELLO 3",
        "SELECT 5",
        "AUTH x",
        "CLIENT ID",
        "CLIENT INFO",
        "CLIENT LIST",
        "CLIENT LIST ID 5 6",
        "CLIENT LIST TYPE pubsub",
        "CLIENT LIST USER bob",
        "CLIENT KILL ID 5",
        "CLIENT UNBLOCK 5",
        "SUBSCRIBE c",
        "PUNSUBSCRIBE",
        "CLIENT SETNAME x",
        "CLIENT GETNAME",
        "CLIENT REPLY OFF",
        "CLIENT REPLY maybe",
        "CLIENT TRACKING ON BCAST",
        "CLIENT CACHING YES",
    ] {
        assert_eq!(step(followed, &s), Some(Step::Queue), "{followed}");
    }
    let kept = State { kept: true, ..s.clone() };
    assert_eq!((step("HELLO 3", &kept), step("SELECT 5", &kept)), (Some(Step::Hello), Some(Step::Keep)));
    assert_eq!(step("EXEC x", &s), Some(Step::Exec), "refused, and at an end");
    assert_eq!(step("DISCARD x", &s), Some(Step::Queue), "it stays open");
    assert_eq!(step("CLIENT TRACKING ON", &kept), Some(Step::Keep));
    for smuggled in ["MONITOR", "CLIENT TRACKING ON REDIRECT 5", "CLIENT NO-TOUCH ON", "WHATISIT"] {
        assert_eq!(step(smuggled, &s), Some(Step::Keep), "{smuggled}");
    }
    for harmless in ["CLIENT PAUSE 100 WRITE", "CLIENT UNPAUSE", "CLIENT SETINFO LIB-NAME x", "CLIENT HELP"] {
        assert_eq!(step(harmless, &s), Some(Step::Queue), "{harmless}");
    }
}

#[test]
fn a_watching_session_keeps_to_its_connection() {
    let s = State { watching: true, ..fresh() };
    assert_eq!(step("GET k", &s), Some(Step::Once));
    assert_eq!(step("UNWATCH", &s), Some(Step::Unwatch));
    assert_eq!(step("SELECT 1", &s), Some(Step::Select(1)));
    assert_eq!(step("SELECT x", &s), Some(Step::Once));
    assert_eq!(decide("AUTH pw", &s), Route::Judge, "and then put to the connection");
    assert_eq!(step("MULTI", &s), Some(Step::Multi));
    let kept = State { kept: true, ..s };
    for command in ["SELECT 1", "AUTH pw"] {
        assert_eq!(step(command, &kept), Some(Step::Keep), "{command}");
    }
    assert_eq!(step("HELLO 3", &kept), Some(Step::Hello));
}

#[test]
fn confirmations_are_counted_by_channel() {
    let Route::Pinned(p) = decide("SUBSCRIBE a b c", &fresh()) else { panic!() };
    assert_eq!(p.answer, Answer::Confirmations(3));
    let Route::Pinned(p) = decide("UNSUBSCRIBE", &fresh()) else { panic!() };
    assert_eq!(p.answer, Answer::Confirmations(u32::MAX));
}

#[test]
fn one_who_is_told_invalidations_keeps_the_connection_and_may_ask_about_it() {
    let s = State { tracking: true, ..fresh() };
    assert!(s.is_pinned());
    for (command, expected) in [
        ("GET k", Step::Once),
        ("CLIENT TRACKINGINFO", Step::Once),
        ("CLIENT CACHING YES", Step::Caching),
        ("CLIENT TRACKING OFF", Step::Track),
        ("CLIENT NO-TOUCH ON", Step::Keep),
    ] {
        assert_eq!(step(command, &s), Some(expected), "{command}");
    }
}
