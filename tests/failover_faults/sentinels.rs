//! Sentinels that contradict each other, crash, hang, forget or are told something else.

use std::fs;
use std::time::Duration;

use pointsman::demo::KILLED;
use pointsman::demo::cluster::{Member, Settings};
use pointsman::demo::wire::{Reply, text};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::rig::{PATIENCE, Rig, last_record};

/// Longer than any of these holds: an error reply would be a client noticing.
const PATIENT: [&str; 2] = ["--hold-timeout", "35s"];

/// Both lead, both with the same epoch, and kill the candidate's clients twice.
#[tokio::test]
#[ignore = "all of them take minutes: `make test-all` runs it"]
async fn two_failovers_at_once_are_one_switch() {
    let rig = Rig::start(Settings { replicas: 1, ..Settings::default() }, &PATIENT).await;
    let ledger = rig.ledger().await;
    let (first, second) = tokio::join!(rig.cluster.failover(0), rig.cluster.failover(1));
    first.unwrap();
    second.unwrap();
    let new = rig.until_flowing(2).await;
    assert_eq!(new, 1);
    rig.stays("one switch", Duration::from_secs(4), |s| s["generation"] == 2).await;
    let tally = rig.unnoticed(&ledger, new).await;
    let service = rig.service().await;
    assert_eq!(last_record(&service)["offset_lost"], json!({"known": "exact", "bytes": 0}), "{service:#}");
    eprintln!("two at once: writes stalled {:?}, reads {:?}", tally.write_stall.length, tally.read_stall.length);
}

/// It has promoted a node and told nobody: the others go on with the old master, and so must everybody.
#[tokio::test]
#[ignore = "all of them take minutes: `make test-all` runs it"]
async fn a_leader_that_crashes_after_the_promotion_costs_nothing_but_waiting() {
    let rig = Rig::start(Settings::default(), &PATIENT).await;
    let ledger = rig.ledger().await;
    rig.cluster.ask(Member::Sentinel(0), &["SENTINEL", "SIMULATE-FAILURE", "crash-after-promotion"]).await.unwrap();
    rig.cluster.failover(0).await.unwrap();
    let mut claim: Option<(usize, u64)> = None;
    let mut claims = 0;
    let end = Instant::now() + PATIENCE;
    // Until the others have demoted it again.
    loop {
        let mut claimant = None;
        for node in [1, 2] {
            let (role, calls) = rig.traffic(node).await;
            if role == "master" {
                claimant = Some((node, calls));
            }
        }
        match (claim, claimant) {
            (None, Some(c)) => claim = Some(c),
            (Some(first), Some(c)) => {
                claims += 1;
                assert_eq!(c, first, "commands went to a node that no Sentinel names\n{}", rig.evidence());
            }
            (Some(_), None) => break,
            (None, None) => {}
        }
        assert!(Instant::now() < end, "never promoted and demoted: {claim:?}\n{}", rig.evidence());
        sleep(Duration::from_millis(20)).await;
    }
    assert!(claims > 50, "it was master for long: seen {claims} times");
    assert_eq!(rig.until_flowing(1).await, 0);
    let tally = rig.unnoticed(&ledger, 0).await;
    let service = rig.service().await;
    assert_eq!(total(&service, "aborted"), 1, "{service:#}");
    // Afterwards the node that was demoted may lose its link once more, which is looked at: an interruption.
    for kind in ["planned", "crash", "unannounced", "rollback"] {
        assert_eq!(total(&service, kind), 0, "{service:#}");
    }
    let record = &service["records"][0];
    assert!(record["cause"].as_str().unwrap().contains(&rig.addr(Member::Sentinel(0))), "{record:#}");
    eprintln!("crashed leader: writes stalled {:?}, reads {:?}", tally.write_stall.length, tally.read_stall.length);
    assert!(tally.read_stall.length < Duration::from_secs(2), "reads went on: {:?}", tally.read_stall);
}

/// How many records of a kind there were.
fn total(service: &Value, kind: &str) -> u64 {
    let totals = service["failovers_total"].as_array().unwrap();
    totals.iter().find(|t| t[0] == kind).unwrap()[1].as_u64().unwrap()
}

/// One hung through the failover, one comes back with an empty memory: both name the old master, with an old epoch.
#[tokio::test]
#[ignore = "all of them take minutes: `make test-all` runs it"]
async fn stale_and_forgetful_sentinels_turn_nothing_back() {
    let mut rig = Rig::start(Settings::default(), &[]).await;
    let forgetful = rig.cluster.addr(Member::Sentinel(2)).port();
    let config = rig.cluster.dir().join(format!("redis-sentinel-{forgetful}")).join("redis.conf");
    let ledger = rig.ledger().await;

    rig.cluster.pause(Member::Sentinel(2)).unwrap();
    rig.until("one is out of hearing", |s| s["sentinels"].as_array().unwrap().iter().any(|s| s["up"] == false)).await;
    rig.cluster.failover(0).await.unwrap();
    let new = rig.until_flowing(2).await;
    assert_ne!(new, 0);
    rig.cluster.resume(Member::Sentinel(2)).unwrap();
    let is_heard = |s: &Value| s["sentinels"].as_array().unwrap().iter().all(|s| s["up"] == true);
    rig.until("all are in hearing", is_heard).await;
    rig.stays("the new master", Duration::from_secs(2), |s| s["generation"] == 2 && s["writes"]["flow"] == "flowing")
        .await;

    // Nothing but what it was started with: the old master, no epoch, no peers; and nobody can tell it better. Sentinels
    // learn from each other through the nodes that they watch, and by a PUBLISH to each other.
    rig.cluster.kill(Member::Sentinel(2)).unwrap();
    rig.cluster.ask(Member::Node(0), &["ACL", "SETUSER", "default", "-publish", "-subscribe"]).await.unwrap();
    let old = rig.cluster.addr(Member::Node(0));
    let fresh = format!(
        "port {forgetful}\nbind 127.0.0.1\nprotected-mode no\ndaemonize no\ndir \"{}\"\n\
         sentinel monitor mymaster 127.0.0.1 {} 2\nsentinel down-after-milliseconds mymaster 1000\n\
         user default on nopass ~* &* +@all -publish\n",
        config.parent().unwrap().display(),
        old.port()
    );
    fs::write(&config, fresh).unwrap();
    rig.cluster.restart(Member::Sentinel(2)).await.unwrap();
    let end = Instant::now() + Duration::from_secs(4);
    let mut named_old = 0;
    while Instant::now() < end {
        let service = rig.service().await;
        let names_old = |s: &Value| s["master"] == old.to_string() && s["epoch"] == 0;
        named_old += u32::from(service["sentinels"].as_array().unwrap().iter().any(names_old));
        assert!(service["generation"] == 2 && service["writes"]["flow"] == "flowing", "{service:#}");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(
        named_old > 20,
        "its word was hardly heard ({named_old} times): the test proves nothing\n{}",
        rig.evidence()
    );
    rig.unnoticed(&ledger, new).await;
}

/// Everything is gone and comes back: refused in time and in words, and no restart of pointsman is needed.
#[tokio::test]
#[ignore = "all of them take minutes: `make test-all` runs it"]
async fn all_down_and_back_is_refused_in_time_and_recovers() {
    let mut rig = Rig::start(Settings::default(), &["--hold-timeout", "2s"]).await;
    assert_eq!(text(&rig.ask(&["SET", "k", "v"]).await), "OK");
    for i in 0..3 {
        rig.cluster.kill(Member::Sentinel(i)).unwrap();
    }
    rig.cluster.kill(Member::Node(0)).unwrap();
    let began = Instant::now();
    for (command, limit) in [(&["SET", "k", "w"][..], 3000), (&["GET", "k"], 3000), (&["SET", "k", "w"], 200)] {
        let asked = Instant::now();
        let Reply::Error(refused) = rig.ask(command).await else { panic!("{command:?} was answered") };
        assert!(refused.starts_with("MASTERDOWN pointsman: no master for 'mymaster': "), "{refused}");
        assert!(refused.contains("the master "), "it says why: {refused}");
        let waited = asked.elapsed();
        assert!(waited < Duration::from_millis(limit), "{command:?} waited {waited:?}: {refused}");
    }
    assert!(began.elapsed() >= Duration::from_secs(2), "hold_timeout was waited for");
    for node in 1..3 {
        assert_eq!(rig.traffic(node).await.0, "slave", "nobody promoted it");
    }

    rig.cluster.restart(Member::Node(0)).await.unwrap();
    for i in 0..3 {
        rig.cluster.restart(Member::Sentinel(i)).await.unwrap();
    }
    let back = Instant::now();
    let service =
        rig.until("flowing again", |s| s["writes"]["flow"] == "flowing" && s["reads"]["flow"] == "flowing").await;
    assert!(back.elapsed() < Duration::from_secs(15), "{:?}", back.elapsed());
    assert_eq!(text(&rig.ask(&["SET", "k", "again"]).await), "OK");
    if rig.node_at(&service["master"]) == 0 {
        // It kept nothing on disk: that is said, and not called "nothing lost".
        assert_eq!(service["run_id_changes_total"], 1, "{service:#}");
        assert_ne!(last_record(&service)["offset_lost"], json!({"known": "exact", "bytes": 0}), "{service:#}");
    }
}

#[tokio::test]
#[ignore = "all of them take minutes: `make test-all` runs it"]
async fn a_reset_of_every_sentinel_under_load_holds_nobody() {
    let rig = Rig::start(Settings::default(), &[]).await;
    let ledger = rig.ledger().await;
    for i in 0..3 {
        rig.cluster.ask(Member::Sentinel(i), &["SENTINEL", "RESET", "mymaster"]).await.unwrap();
    }
    rig.stays("undisturbed", Duration::from_secs(3), |s| s["generation"] == 1 && s["writes"]["flow"] == "flowing")
        .await;
    let tally = rig.unnoticed(&ledger, 0).await;
    assert!(tally.write_stall.length < Duration::from_secs(1), "{:?}", tally.write_stall);
}

/// The leader forgets its own failover, with the candidate perhaps promoted: whoever is master in the end, nobody lost
/// anything on the way.
#[tokio::test]
#[ignore = "all of them take minutes: `make test-all` runs it"]
async fn a_reset_in_the_middle_of_a_failover_loses_nothing() {
    let rig = Rig::start(Settings::default(), &PATIENT).await;
    let ledger = rig.ledger().await;
    rig.cluster.failover(0).await.unwrap();
    // On a busy machine the selection itself may be published while the leader is out of hearing.
    let is_selection = |e: &Value| {
        let text = e["text"].as_str().unwrap();
        text.starts_with("+selected-slave") || text.starts_with("+failover-state-wait-promotion")
    };
    let selected = |s: &Value| {
        s["records"].as_array().unwrap().iter().flat_map(|r| r["events"].as_array().unwrap()).any(is_selection)
    };
    rig.until("a candidate is selected", selected).await;
    rig.cluster.ask(Member::Sentinel(0), &["SENTINEL", "RESET", "mymaster"]).await.unwrap();
    let service = rig.until("writes flow", |s| s["writes"]["flow"] == "flowing").await;
    let master = rig.node_at(&service["master"]);
    let tally = rig.unnoticed(&ledger, master).await;
    eprintln!("reset in mid-failover: node {master} is master, writes stalled {:?}", tally.write_stall.length);
}

/// An operator moves the service: no failover, no +switch-master, and no epoch that is higher.
#[tokio::test]
#[ignore = "all of them take minutes: `make test-all` runs it"]
async fn a_service_that_is_removed_and_monitored_elsewhere_is_followed() {
    let rig = Rig::start(Settings::default(), &PATIENT).await;
    let ledger = rig.ledger().await;
    // Quiet, since Redis drops what a demoted master had not sent yet.
    let mut direct = rig.cluster.connect(Member::Node(0)).await.unwrap();
    ledger.audit(&mut direct).await.unwrap();
    let end = Instant::now() + PATIENCE;
    while rig.offset(1).await < rig.offset(0).await {
        assert!(Instant::now() < end, "never replicated");
        sleep(Duration::from_millis(10)).await;
    }
    for i in 0..3 {
        rig.tell(Member::Sentinel(i), &["SENTINEL", "REMOVE", "mymaster"]).await;
    }
    let port = rig.cluster.addr(Member::Node(1)).port().to_string();
    rig.tell(Member::Node(1), &["REPLICAOF", "NO", "ONE"]).await;
    for node in [0, 2] {
        rig.tell(Member::Node(node), &["REPLICAOF", "127.0.0.1", &port]).await;
    }
    ledger.go_on();
    for i in 0..3 {
        let monitor = ["SENTINEL", "MONITOR", "mymaster", "127.0.0.1", &port, "2"];
        rig.tell(Member::Sentinel(i), &monitor).await;
    }
    assert_eq!(rig.until_flowing(2).await, 1);
    rig.unnoticed(&ledger, 1).await;
}

/// Nobody may be promoted: refused in time, with the reason that the Sentinel gave.
#[tokio::test]
#[ignore = "all of them take minutes: `make test-all` runs it"]
async fn a_dead_master_without_a_candidate_is_refused_with_the_reason() {
    let settings = Settings { redis_lines: vec!["replica-priority 0".into()], ..Settings::default() };
    let mut rig = Rig::start(settings, &["--hold-timeout", "4s"]).await;
    let ledger = rig.ledger().await;
    let mut direct = rig.cluster.connect(Member::Node(0)).await.unwrap();
    let tally = ledger.audit(&mut direct).await.unwrap();
    assert!(KILLED.broken(&tally, 0, false).is_empty(), "{tally:?}");
    rig.cluster.kill(Member::Node(0)).unwrap();
    let asked = Instant::now();
    let Reply::Error(refused) = rig.ask(&["INCR", "k"]).await else { panic!("there is no master") };
    let waited = asked.elapsed();
    assert!((4000..5500).contains(&waited.as_millis()), "{waited:?}: {refused}");
    assert!(refused.contains("finds no replica that it could promote"), "{refused}\n{}", rig.evidence());
    rig.cluster.restart(Member::Node(0)).await.unwrap();
    assert_eq!(rig.until_flowing(1).await, 0);
    let service = rig.service().await;
    assert_eq!(service["run_id_changes_total"], 1, "{service:#}");
    assert_eq!(rig.ask(&["INCR", "k"]).await, Reply::Integer(1));
}

/// It hangs at any moment of its own failover (Sentinel writes its configuration to the disk at every step): what it
/// announces then is heard late or never, and nothing may be lost by that.
#[tokio::test]
#[ignore = "all of them take minutes: `make test-all` runs it"]
async fn a_leader_that_hangs_at_any_moment_of_its_failover_loses_nothing() {
    // Longer ones make it a case of Sentinel's own TILT: it goes on half a minute later, or somebody else undoes it.
    for hang in [400, 900, 1400, 1800] {
        let mut rig = Rig::start(Settings::default(), &PATIENT).await;
        let ledger = rig.ledger().await;
        rig.cluster.failover(0).await.unwrap();
        let moment = fastrand::u64(0..250);
        sleep(Duration::from_millis(moment)).await;
        rig.cluster.pause(Member::Sentinel(0)).unwrap();
        sleep(Duration::from_millis(hang)).await;
        rig.cluster.resume(Member::Sentinel(0)).unwrap();
        let new = rig.until_flowing(2).await;
        let tally = rig.unnoticed(&ledger, new).await;
        let service = rig.service().await;
        let kinds: Vec<&str> =
            service["records"].as_array().unwrap().iter().map(|r| r["kind"].as_str().unwrap()).collect();
        eprintln!(
            "hung for {hang} ms, {moment} ms after the beginning: {kinds:?}, writes stalled {:?}",
            tally.write_stall.length
        );
        assert_eq!(kinds, ["planned"], "writes flowed to the old master in between\n{}", rig.evidence());
        assert_eq!(last_record(&service)["offset_lost"], json!({"known": "exact", "bytes": 0}), "{service:#}");
        assert_ne!(new, 0);
    }
}
