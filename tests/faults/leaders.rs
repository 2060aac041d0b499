//! Leading Sentinels that crash, are killed or hang in the middle of their failover.

use std::time::Duration;

use pointsman::demo::cluster::{Member, Settings};
use pointsman::demo::wire::{elements, text};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::outcome::{UNDONE, in_flight, waiting};
use crate::rig::{PATIENCE, Rig, last_record};

/// Longer than any of these holds: an error reply would be a client noticing.
const PATIENT: [&str; 2] = ["--hold-timeout", "35s"];

/// It has promoted a node and told nobody: the others go on with the old master, and so must everybody.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
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
    let scenario = ("11", "leader crashes after the promotion, planned");
    let tally = rig.settle(scenario, &ledger, 0, waiting(UNDONE)).await;
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

/// The leader is killed so early that nobody else knows of the promotion, or so late that they may: undone or done,
/// nothing is lost.
async fn leader_killed(after_promotion: Duration) {
    let mut rig = Rig::start(Settings::default(), &PATIENT).await;
    let ledger = rig.ledger().await;
    rig.cluster.failover(0).await.unwrap();
    let end = Instant::now() + PATIENCE;
    'promoted: loop {
        for node in [1, 2] {
            if rig.cluster.ask(Member::Node(node), &["ROLE"]).await.is_ok_and(|r| text(&elements(&r)[0]) == "master") {
                break 'promoted;
            }
        }
        assert!(Instant::now() < end, "nobody was promoted");
    }
    sleep(after_promotion).await;
    let leader = rig.addr(Member::Sentinel(0));
    rig.cluster.kill(Member::Sentinel(0)).unwrap();
    let service = rig
        .until("flowing, and on record", |s| {
            s["writes"]["flow"] == "flowing"
                && s["records"].as_array().unwrap().iter().any(|r| !r["lasted_ms"].is_null())
        })
        .await;
    let master = rig.node_at(&service["master"]);
    let scenario = format!("leader killed {} ms after the promotion", after_promotion.as_millis());
    rig.settle(("11", &scenario), &ledger, master, waiting(UNDONE)).await;
    let record = &service["records"][0];
    assert!(record["cause"].as_str().unwrap().contains(&leader), "{record:#}");
    let told =
        |text: &str| record["events"].as_array().unwrap().iter().any(|e| e["text"].as_str().unwrap().contains(text));
    assert!(told("says master"), "what it waited for: {record:#}");
    assert_eq!(record["offset_lost"], json!({"known": "exact", "bytes": 0}), "{record:#}");
    eprintln!("{scenario}: node {master} is master; {}", record["outcome"]);
}

#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn a_leader_killed_right_after_the_promotion_loses_nothing() {
    leader_killed(Duration::ZERO).await;
}

#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn a_leader_killed_when_it_may_have_told_somebody_loses_nothing() {
    leader_killed(Duration::from_millis(900)).await;
}

/// Nobody names the node that it promoted until the next failover, and the old master is dead.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn a_leader_that_crashes_after_promoting_for_a_dead_master_is_waited_for() {
    let settings = Settings { failover_timeout: Duration::from_secs(3), ..Settings::default() };
    let mut rig = Rig::start(settings, &PATIENT).await;
    let ledger = rig.ledger().await;
    for i in 0..3 {
        rig.tell(Member::Sentinel(i), &["SENTINEL", "SIMULATE-FAILURE", "crash-after-promotion"]).await;
    }
    rig.cluster.kill(Member::Node(0)).unwrap();
    let end = Instant::now() + PATIENCE;
    let crashed = 'crashed: loop {
        for i in 0..3 {
            if rig.cluster.ask(Member::Sentinel(i), &["PING"]).await.is_err() {
                break 'crashed i;
            }
        }
        assert!(Instant::now() < end, "no leader crashed");
        sleep(Duration::from_millis(10)).await;
    };
    rig.cluster.kill(Member::Sentinel(crashed)).unwrap();
    for i in (0..3).filter(|i| *i != crashed) {
        // Without a kind it simulates none, and HELP is none.
        rig.cluster.ask(Member::Sentinel(i), &["SENTINEL", "SIMULATE-FAILURE", "HELP"]).await.unwrap();
    }
    let mut before = None;
    let mut seen = 0;
    while rig.service().await["generation"] == 1 {
        for node in [1, 2] {
            let (role, writes) = rig.calls(node, &["cmdstat_rpush"]).await;
            // Between these two the Sentinels may have come to name it.
            if role == "master" && rig.service().await["generation"] == 1 {
                assert_eq!(writes, *before.get_or_insert(writes), "writes went to a node that no Sentinel names");
                seen += 1;
            }
        }
        assert!(Instant::now() < end, "never named\n{}", rig.evidence());
        sleep(Duration::from_millis(20)).await;
    }
    assert!(seen > 20, "it was master for long: seen {seen} times");
    let new = rig.until_flowing(2).await;
    let scenario = ("12", "leader crashes after the promotion, master dead");
    rig.settle(scenario, &ledger, new, in_flight(UNDONE)).await;
}

/// How many records of a kind there were.
fn total(service: &Value, kind: &str) -> u64 {
    let totals = service["failovers_total"].as_array().unwrap();
    totals.iter().find(|t| t[0] == kind).unwrap()[1].as_u64().unwrap()
}

/// It hangs at any moment of its own failover (Sentinel writes its configuration to the disk at every step): what it
/// announces then is heard late or never, and nothing may be lost by that.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
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
        let scenario = ("L", "leader hangs at any moment of its failover");
        let tally = rig.settle(scenario, &ledger, new, waiting(UNDONE)).await;
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
