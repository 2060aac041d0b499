//! What the record says of losses, against what was lost.

use std::time::Duration;

use pointsman::demo::cluster::{Member, Settings};
use pointsman::demo::wire::{Connection, Reply, info_field, text};
use serde_json::json;
use tokio::time::sleep;

use crate::outcome::{CRASH, PLANNED, in_flight, waiting};
use crate::rig::{PATIENCE, Rig, last_record};

/// `kill -9` on loopback loses the master's last turn at most, and nobody can tell: the record must not invent a number.
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
    lose_what_comes(&mut rig, &mut client).await;
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

/// The same, but the master only hangs. It comes back before it follows the new one, and then tells how far it had got.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn a_master_that_comes_back_tells_what_was_lost() {
    let mut rig = Rig::start(Settings::default(), &[]).await;
    let mut client = rig.client().await;
    lose_what_comes(&mut rig, &mut client).await;
    let last = rig.offset(0).await;
    rig.cluster.pause(Member::Node(0)).unwrap();
    rig.cluster.resume(Member::Node(1)).unwrap();
    rig.cluster.resume(Member::Node(2)).unwrap();
    let new = rig.until_flowing(2).await;
    let info = rig.cluster.ask(Member::Node(new), &["INFO", "replication"]).await.unwrap();
    let shared = info_field(&info, "second_repl_offset").unwrap().parse::<u64>().unwrap() - 1;
    let lost = last - shared;
    let service = rig.service().await;
    let before = last_record(&service)["offset_lost"].clone();
    assert_eq!(before["known"], "at_least", "{service:#}");
    assert!(before["bytes"].as_u64().unwrap() <= lost, "{lost} bytes were lost: {before}");
    assert_eq!(rig.proxy.metric("pointsman_last_failover_lost_bytes", "at_most").await.unwrap(), f64::INFINITY);

    rig.cluster.resume(Member::Node(0)).unwrap();
    let service = rig.until("amended", |s| last_record(s)["offset_lost"] != before).await;
    let (known, bytes) =
        (&last_record(&service)["offset_lost"]["known"], &last_record(&service)["offset_lost"]["bytes"]);
    let (least, most) = match known.as_str().unwrap() {
        "exact" => (bytes.as_u64().unwrap(), bytes.as_u64().unwrap()),
        "between" => (bytes["at_least"].as_u64().unwrap(), bytes["at_most"].as_u64().unwrap()),
        other => panic!("{other}: {service:#}"),
    };
    eprintln!("{lost} bytes were lost; the record: {before}, then {bytes}");
    assert!(least <= lost && lost <= most, "{lost} bytes were lost: {service:#}");
    // What it carried out when it woke are Sentinels' own messages.
    assert!(most < lost + 20_000, "a bound that is of use: {lost}, {most}");
    let gauge = async |bound| rig.proxy.metric("pointsman_last_failover_lost_bytes", bound).await.unwrap() as u64;
    assert_eq!((gauge("at_least").await, gauge("at_most").await), (least, most));
    assert_eq!(rig.proxy.metric("pointsman_failover_lost_bytes_total", "").await.unwrap() as u64, least);
    let said = rig.until_logged("is back, and had got to offset").await;
    assert!(said.contains(&format!("{most} bytes of the replication stream lost")), "{said}");
}

/// Ten writes that the replicas have; then hundreds that nobody but the master has, of which pointsman has heard.
async fn lose_what_comes(rig: &mut Rig, client: &mut Connection) {
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
    // It asks once a second.
    let written = rig.offset(0).await;
    rig.until("heard of it", |s| s["offset"].as_u64() >= Some(written)).await;
    assert_eq!(rig.service().await["generation"], 1, "{}", rig.evidence());
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
