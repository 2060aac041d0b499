//! The fence: without a majority of the Sentinels in hearing nothing is written.

use std::time::Duration;

use pointsman::demo::cluster::{Member, Settings};
use pointsman::demo::wire::{Reply, text};
use tokio::time::{Instant, sleep};

use crate::rig::{PATIENCE, Rig};

/// From the cut to the refusal (scenario 7 of the faults that a proxy must stand).
const FENCED_WITHIN: Duration = Duration::from_secs(3);

/// Two of three Sentinels hang, as behind a cable that was cut. Then they are back.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn writes_are_refused_without_a_majority_and_reads_are_not() {
    let mut rig = Rig::start_fenced(Settings::default()).await;
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
