//! What the record says of losses, against what was lost.

use std::time::Duration;

use pointsman::demo::cluster::{Member, Settings};
use pointsman::demo::wire::{Reply, info_field, text};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::outcome::{CRASH, PLANNED, in_flight, waiting};
use crate::rig::{PATIENCE, Rig, last_record};

/// `kill -9` on loopback loses nothing, and nobody can prove it: the record must not invent a number.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn a_crash_that_lost_nothing_is_not_said_to_have() {
    let mut rig = Rig::start(Settings::default(), &[]).await;
    let ledger = rig.ledger().await;
    // Offsets that grow while the last word of the master ages.
    sleep(Duration::from_secs(2)).await;
    rig.cluster.kill(Member::Node(0)).unwrap();
    let new = rig.until_flowing(2).await;
    rig.settle(("4", "kill -9 of the master"), &ledger, new, in_flight(CRASH)).await;
    let service = rig.service().await;
    let record = last_record(&service);
    assert_eq!(record["kind"], "crash");
    assert_eq!(record["offset_lost"]["known"], "unknown", "{record:#}");
    let told = record["events"].as_array().unwrap().iter().any(|e| {
        let text = e["text"].as_str().unwrap();
        text.contains("had received") && text.contains("up to offset")
    });
    assert!(told, "what is known is told: {record:#}");
}

/// The replicas are cut off while writes are acknowledged, then the master dies: that is lost, and the record gives a
/// bound that is true.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn a_crash_that_lost_writes_is_said_to_have_lost_no_more_than_it_did() {
    let mut rig = Rig::start(Settings::default(), &[]).await;
    let mut client = rig.client().await;
    for n in 1..=10 {
        assert_eq!(client.call(&["INCR", "k"], PATIENCE).await.unwrap(), Reply::Integer(n));
    }
    // Two that hang, and whose links are cut: what is written from here on reaches nobody.
    rig.cluster.pause(Member::Node(1)).unwrap();
    rig.cluster.pause(Member::Node(2)).unwrap();
    rig.cluster.ask(Member::Node(0), &["CLIENT", "KILL", "TYPE", "replica"]).await.unwrap();
    for n in 11..=500 {
        assert_eq!(client.call(&["INCR", "k"], PATIENCE).await.unwrap(), Reply::Integer(n));
    }
    // Until pointsman has heard of that: it asks once a second.
    let end = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < end {
        assert_eq!(rig.service().await["generation"], 1);
        sleep(Duration::from_millis(100)).await;
    }
    let last = rig.offset(0).await;
    rig.cluster.kill(Member::Node(0)).unwrap();
    rig.cluster.resume(Member::Node(1)).unwrap();
    rig.cluster.resume(Member::Node(2)).unwrap();

    let new = rig.until_flowing(2).await;
    let kept = text(&rig.ask(&["GET", "k"]).await).parse::<u64>().unwrap();
    assert!(kept < 500, "acknowledged writes were lost: {kept} of 500 are there");
    let info = rig.cluster.ask(Member::Node(new), &["INFO", "replication"]).await.unwrap();
    let shared = info_field(&info, "second_repl_offset").unwrap().parse::<u64>().unwrap() - 1;
    let service = rig.service().await;
    let record = last_record(&service);
    eprintln!("{} writes lost, {} bytes; the record: {}", 500 - kept, last - shared, record["offset_lost"]);
    assert_eq!(record["offset_lost"]["known"], "at_least", "{record:#}");
    let bytes = record["offset_lost"]["bytes"].as_u64().unwrap();
    assert!(bytes > 0 && bytes <= last - shared, "{} bytes were lost: {record:#}", last - shared);
    let said = rig.until_logged("at least").await;
    assert!(said.contains(&format!("at least {bytes} bytes of the replication stream lost")), "{said}");
}

/// The old master answers, so that nothing need be guessed.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn a_planned_failover_is_known_to_have_lost_nothing() {
    let rig = Rig::start(Settings::default(), &[]).await;
    let ledger = rig.ledger().await;
    rig.cluster.failover(1).await.unwrap();
    let new = rig.until_flowing(2).await;
    rig.settle(("1", "planned failover"), &ledger, new, waiting(PLANNED)).await;
    let service = rig.service().await;
    let record = last_record(&service);
    assert_eq!(record["kind"], "planned", "{record:#}");
    assert_eq!(record["offset_lost"], json!({"known": "exact", "bytes": 0}), "{record:#}");
    let leader = format!("Sentinel {} announced a failover", rig.addr(Member::Sentinel(1)));
    assert_eq!(record["cause"], leader, "by the address that somebody can look for");
}
