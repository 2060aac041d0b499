//! The fences: without a majority of the Sentinels in hearing nothing is written; and nothing is written to an old master.

use std::time::Duration;

use pointsman::demo::cluster::{Member, Settings};
use pointsman::demo::wire::{Connection, Reply, text};
use tokio::time::{Instant, sleep};

use crate::outcome::{PLANNED, waiting};
use crate::rig::{PATIENCE, Rig, last_record};

/// From the cut to the refusal (scenario 7 of the faults that a proxy must stand).
const FENCED_WITHIN: Duration = Duration::from_secs(3);

/// Two of three Sentinels hang, as behind a cable that was cut. Then they are back.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn writes_are_refused_without_a_majority_and_reads_are_not() {
    let mut rig = Rig::start_configured(Settings::default(), "fence_without_quorum = true").await;
    let mut client = rig.client().await;
    assert_eq!(text(&client.call(&["SET", "k", "1"], PATIENCE).await.unwrap()), "OK");
    rig.cluster.pause(Member::Sentinel(2)).unwrap();
    sleep(FENCED_WITHIN).await;
    assert_eq!(text(&client.call(&["SET", "k", "2"], PATIENCE).await.unwrap()), "OK", "two of three are a majority");

    rig.cluster.pause(Member::Sentinel(1)).unwrap();
    let cut = Instant::now();
    let refusal = loop {
        match client.call(&["SET", "k", "3"], PATIENCE).await.unwrap() {
            Reply::Error(refusal) => break refusal,
            reply => assert_eq!(text(&reply), "OK"),
        }
        assert!(cut.elapsed() < FENCED_WITHIN, "not refused\n{}", rig.evidence());
        sleep(Duration::from_millis(10)).await;
    };
    eprintln!("refused {:?} after the cut: {refusal}", cut.elapsed());
    assert!(refusal.starts_with("MASTERDOWN pointsman: "), "{refusal}");
    assert!(refusal.contains("only 1 of 3 Sentinels are in hearing"), "{refusal}");
    assert_eq!(text(&client.call(&["GET", "k"], PATIENCE).await.unwrap()), "3", "reads flow");
    let service = rig.service().await;
    assert_eq!(service["phase"], "fenced", "{service:#}");
    assert_eq!(service["records"].as_array().unwrap().len(), 0, "that was no failover: {service:#}");

    rig.cluster.resume(Member::Sentinel(1)).unwrap();
    rig.until("flowing", |s| s["writes"]["flow"] == "flowing").await;
    assert_eq!(text(&client.call(&["SET", "k", "4"], PATIENCE).await.unwrap()), "OK");
}

/// Sentinel leaves the old master writable for some ten seconds. A client that writes there past pointsman is cut off at
/// the commit, and Sentinels are content with what they find.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn the_old_master_is_a_replica_as_soon_as_the_failover_is_confirmed() {
    let rig = Rig::start_configured(Settings::default(), "fence_old_master = true").await;
    let ledger = rig.ledger().await;
    let mut direct = Connection::open(rig.cluster.addr(Member::Node(0)), PATIENCE).await.unwrap();
    rig.cluster.failover(0).await.unwrap();
    let new = rig.until_flowing(2).await;
    let committed = Instant::now();
    let end = loop {
        match direct.call(&["SET", "past", "pointsman"], PATIENCE).await {
            Ok(Reply::Error(refusal)) => break refusal,
            Ok(reply) => assert_eq!(text(&reply), "OK"),
            Err(lost) => break lost.to_string(),
        }
        assert!(committed.elapsed() < Duration::from_secs(3), "the old master takes writes\n{}", rig.evidence());
    };
    let took = committed.elapsed();
    eprintln!("the old master took writes for {took:?} after the commit; the direct writer: {end}");
    assert_eq!(rig.traffic(0).await.0, "slave");
    let made = format!("was made a replica of {}", rig.addr(Member::Node(new)));
    rig.until("on record", |s| {
        last_record(s)["events"].as_array().unwrap().iter().any(|e| e["text"].as_str() == Some(&made))
    })
    .await;
    rig.settle(("F", "planned failover, the old master fenced"), &ledger, new, waiting(PLANNED)).await;
    rig.cluster.wait_settled(PATIENCE).await.unwrap();
    assert_eq!(rig.service().await["generation"], 2, "nobody failed over again");
}
