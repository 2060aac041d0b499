//! Sentinels that contradict each other, forget, are told something else or are all gone.

use std::fs;
use std::time::Duration;

use pointsman::demo::KILLED;
use pointsman::demo::cluster::{Member, Settings};
use pointsman::demo::wire::{Reply, text};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::outcome::{PLANNED, UNDONE, waiting};
use crate::rig::{PATIENCE, Rig, last_record};

/// Longer than any of these holds: an error reply would be a client noticing.
const PATIENT: [&str; 2] = ["--hold-timeout", "35s"];

/// Both lead, both with the same epoch, and kill the candidate's clients twice.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn two_failovers_at_once_are_one_switch() {
    let rig = Rig::start(Settings { replicas: 1, ..Settings::default() }, &PATIENT).await;
    let ledger = rig.ledger().await;
    let (first, second) = tokio::join!(rig.cluster.failover(0), rig.cluster.failover(1));
    first.unwrap();
    second.unwrap();
    let new = rig.until_flowing(2).await;
    assert_eq!(new, 1);
    rig.stays("one switch", Duration::from_secs(4), |s| s["generation"] == 2).await;
    let scenario = ("3", "two failovers at once, one epoch");
    let tally = rig.settle(scenario, &ledger, new, waiting(PLANNED)).await;
    let service = rig.service().await;
    assert_eq!(last_record(&service)["offset_lost"], json!({"known": "exact", "bytes": 0}), "{service:#}");
    eprintln!("two at once: writes stalled {:?}, reads {:?}", tally.write_stall.length, tally.read_stall.length);
}

/// One hung through the failover, one comes back with an empty memory: both name the old master, with an old epoch.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
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
    let scenario = ("13", "stale Sentinel (14: a forgetful one) after a failover");
    rig.settle(scenario, &ledger, new, waiting(PLANNED)).await;
}

/// Everything is gone and comes back: refused in time and in words, and no restart of pointsman is needed.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
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
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn a_reset_of_every_sentinel_under_load_holds_nobody() {
    let rig = Rig::start(Settings::default(), &[]).await;
    let ledger = rig.ledger().await;
    for i in 0..3 {
        rig.cluster.ask(Member::Sentinel(i), &["SENTINEL", "RESET", "mymaster"]).await.unwrap();
    }
    rig.stays("undisturbed", Duration::from_secs(3), |s| s["generation"] == 1 && s["writes"]["flow"] == "flowing")
        .await;
    let scenario = ("18", "SENTINEL RESET of all");
    rig.settle(scenario, &ledger, 0, waiting(Duration::from_secs(1))).await;
}

/// The leader forgets its own failover, with the candidate perhaps promoted: whoever is master in the end, nobody lost
/// anything on the way.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
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
    let scenario = ("18", "SENTINEL RESET of the leader in a failover");
    let tally = rig.settle(scenario, &ledger, master, waiting(UNDONE)).await;
    eprintln!("reset in mid-failover: node {master} is master, writes stalled {:?}", tally.write_stall.length);
}

/// An operator moves the service: no failover, no +switch-master, and no epoch that is higher.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
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
    rig.settle(("19", "REMOVE and MONITOR to another node"), &ledger, 1, waiting(UNDONE)).await;
}

/// Nobody may be promoted: refused in time, with the reason that the Sentinel gave.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
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
    // It may be noticed before anybody asks, and whoever asks then waits for what is left.
    assert!((3900..5500).contains(&waited.as_millis()), "{waited:?}: {refused}");
    assert!(refused.contains("finds no replica that it could promote"), "{refused}\n{}", rig.evidence());
    rig.cluster.restart(Member::Node(0)).await.unwrap();
    assert_eq!(rig.until_flowing(1).await, 0);
    let service = rig.service().await;
    assert_eq!(service["run_id_changes_total"], 1, "{service:#}");
    assert_eq!(rig.ask(&["INCR", "k"]).await, Reply::Integer(1));
}
