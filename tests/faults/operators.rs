//! Masters that are moved by hand, restarted, or not allowed to write: what is done behind Sentinel's back, and what
//! Redis says then.

use std::time::Duration;

use pointsman::demo::cluster::{Member, Settings};
use pointsman::demo::wire::{Reply, text};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::outcome::{PLANNED, UNDONE, in_flight, waiting};
use crate::rig::{PATIENCE, Rig};

/// Longer than any of these holds: an error reply would be a client noticing.
const PATIENT: [&str; 2] = ["--hold-timeout", "40s"];

/// From the end of loading until writes flow: it is tried once a second in the end, its replicas have two to connect, and a
/// busy machine adds to that.
const FOUND_WITHIN: Duration = Duration::from_secs(6);

/// Nothing is under way and the replica has it all: Redis drops what a demoted master had not sent yet.
async fn quiet(rig: &Rig, ledger: &pointsman::demo::ledger::Ledger, replica: usize) {
    let mut direct = rig.cluster.connect(Member::Node(0)).await.unwrap();
    let tally = ledger.audit(&mut direct).await.unwrap();
    assert_eq!((tally.lost, tally.doubled), (0, 0), "{tally:?}");
    let end = Instant::now() + PATIENCE;
    while rig.offset(replica).await < rig.offset(0).await {
        assert!(Instant::now() < end, "never replicated");
        sleep(Duration::from_millis(10)).await;
    }
}

fn generation(service: &Value) -> u64 {
    service["generation"].as_u64().unwrap()
}

/// Redis' own FAILOVER, of which no Sentinel knows: they go on naming a replica for some 25 s, and then promote anybody.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn a_failover_behind_sentinels_back_is_waited_for() {
    let rig = Rig::start(Settings::default(), &PATIENT).await;
    let ledger = rig.ledger().await;
    let to = rig.cluster.addr(Member::Node(1));
    rig.tell(Member::Node(0), &["FAILOVER", "TO", &to.ip().to_string(), &to.port().to_string(), "TIMEOUT", "5000"])
        .await;
    rig.until("held", |s| s["writes"]["flow"] == "held").await;
    let service = rig.until("flowing", |s| s["writes"]["flow"] == "flowing").await;
    let master = rig.node_at(&service["master"]);
    let tally = rig.settle(("20", "FAILOVER TO, Sentinels unaware"), &ledger, master, in_flight(UNDONE)).await;
    rig.loss_is_told(&tally).await;
}

/// The same by hand. A blocked pop is not told anything of it, and gets what comes later.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn a_master_that_is_demoted_by_hand_costs_only_waiting() {
    let rig = Rig::start(Settings::default(), &PATIENT).await;
    let ledger = rig.ledger().await;
    let mut popping = rig.client().await;
    popping.send(&["BLPOP", "list", "0"]).await.unwrap();
    quiet(&rig, &ledger, 1).await;
    let to = rig.cluster.addr(Member::Node(1));
    let (ip, port) = (to.ip().to_string(), to.port().to_string());
    rig.tell(Member::Node(1), &["REPLICAOF", "NO", "ONE"]).await;
    for node in [0, 2] {
        rig.tell(Member::Node(node), &["REPLICAOF", &ip, &port]).await;
    }
    ledger.go_on();
    let service = rig.until("flowing", |s| s["writes"]["flow"] == "flowing" && generation(s) > 1).await;
    let master = rig.node_at(&service["master"]);
    assert_eq!(rig.ask(&["RPUSH", "list", "late"]).await, Reply::Integer(1));
    let popped = tokio::time::timeout(PATIENCE, popping.receive()).await.unwrap().unwrap();
    assert_eq!(pointsman::demo::wire::elements(&popped).len(), 2, "{popped:?}");
    // The clients of the ledger give up after 20 s.
    rig.settle(("21", "REPLICAOF by hand, Sentinels unaware"), &ledger, master, in_flight(UNDONE)).await;
}

/// The new master has no replica yet and refuses to write for a second.
#[tokio::test]
async fn a_new_master_without_replicas_is_waited_for() {
    let settings = Settings {
        redis_lines: vec!["min-replicas-to-write 1".into(), "min-replicas-max-lag 10".into()],
        ..Settings::default()
    };
    let rig = Rig::start(settings, &[]).await;
    let ledger = rig.ledger().await;
    rig.cluster.failover(0).await.unwrap();
    let new = rig.until_flowing(2).await;
    rig.settle(("23", "-NOREPLICAS right after a planned failover"), &ledger, new, waiting(PLANNED)).await;
}

/// It never gets one: refused in time, and in Redis' words.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn a_master_that_stays_without_replicas_is_not_waited_for_for_ever() {
    let settings = Settings { redis_lines: vec!["min-replicas-to-write 1".into()], ..Settings::default() };
    let mut rig = Rig::start(settings, &["--hold-timeout", "4s"]).await;
    assert_eq!(text(&rig.ask(&["SET", "k", "v"]).await), "OK");
    for replica in [1, 2] {
        rig.cluster.kill(Member::Node(replica)).unwrap();
    }
    let end = Instant::now() + PATIENCE;
    loop {
        let asked = Instant::now();
        match rig.ask(&["SET", "k", "w"]).await {
            Reply::Error(e) => {
                assert!(e.starts_with("NOREPLICAS"), "{e}");
                assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
                break;
            }
            _ => assert!(Instant::now() < end, "it goes on writing"),
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(text(&rig.ask(&["GET", "k"]).await), "v", "reads go on");
    rig.cluster.restart(Member::Node(1)).await.unwrap();
    while text(&rig.ask(&["SET", "k", "w"]).await) != "OK" {
        assert!(Instant::now() < end, "never well again\n{}", rig.evidence());
        sleep(Duration::from_millis(100)).await;
    }
}

/// It is killed and at once there again, with so much data that it loads for seconds; no Sentinel has seen a thing.
#[tokio::test]
async fn a_master_that_restarts_and_loads_is_waited_for() {
    let lines = ["enable-debug-command local", "key-load-delay 20", "loading-process-events-interval-bytes 1024"];
    let settings = Settings {
        down_after: Duration::from_secs(10),
        redis_lines: lines.map(str::to_owned).to_vec(),
        ..Settings::default()
    };
    let mut rig = Rig::start(settings, &[]).await;
    let ledger = rig.ledger().await;
    rig.tell(Member::Node(0), &["DEBUG", "POPULATE", "40000"]).await;
    quiet(&rig, &ledger, 1).await;
    rig.tell(Member::Node(0), &["SAVE"]).await;
    let killed = Instant::now();
    rig.cluster.kill(Member::Node(0)).unwrap();
    ledger.go_on();
    rig.cluster.restart(Member::Node(0)).await.unwrap();
    let mut direct = rig.cluster.connect(Member::Node(0)).await.unwrap();
    let said = text(&direct.call(&["GET", "k"], PATIENCE).await.unwrap());
    assert!(said.starts_with("LOADING"), "else this test proves nothing: {said}");
    while text(&direct.call(&["GET", "k"], PATIENCE).await.unwrap()).starts_with("LOADING") {
        sleep(Duration::from_millis(10)).await;
    }
    // How long it loads is the machine's affair.
    let loaded = killed.elapsed();
    let service = rig.until("flowing", |s| s["writes"]["flow"] == "flowing" && s["run_id_changes_total"] == 1).await;
    assert_eq!(generation(&service), 1);
    let scenario = ("10", "master restarts at once and is LOADING for seconds");
    eprintln!("loaded {loaded:?} after it was killed");
    rig.settle(scenario, &ledger, 0, in_flight(loaded + FOUND_WITHIN)).await;
    rig.until_logged("was restarted in place").await;
}

/// The service gets another name at every Sentinel: nobody is sent anywhere else, and it is said.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn a_service_that_is_renamed_goes_on() {
    let rig = Rig::start(Settings::default(), &[]).await;
    let ledger = rig.ledger().await;
    let [master, other] = [0, 1].map(|n| rig.cluster.addr(Member::Node(n)));
    for i in 0..3 {
        let sentinel = Member::Sentinel(i);
        rig.tell(sentinel, &["SENTINEL", "REMOVE", "mymaster"]).await;
        let port = master.port().to_string();
        rig.tell(sentinel, &["SENTINEL", "MONITOR", "renamed", "127.0.0.1", &port, "2"]).await;
    }
    rig.until_logged("does not know").await;
    rig.stays("the last confirmed master", Duration::from_secs(3), |s| {
        generation(s) == 1 && s["writes"]["flow"] == "flowing" && s["master"] != other.to_string()
    })
    .await;
    rig.settle(("19", "the service is renamed at every Sentinel"), &ledger, 0, waiting(PLANNED)).await;
}
