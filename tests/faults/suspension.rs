//! pointsman itself is stopped while the Sentinels fail over: what it believed is old when it wakes.

use std::time::Duration;

use pointsman::demo::cluster::{Member, Settings};
use pointsman::demo::wire::{Connection, Reply, text};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::outcome::{CRASH, PLANNED, in_flight, waiting};
use crate::rig::{PATIENCE, Rig};
use crate::threads::stop_thread;

/// How long it is stopped: the failover is over by then, and the old master says master for eight seconds more.
const STOPPED: Duration = Duration::from_secs(3);

/// The clients' commands lie in its sockets when it wakes, so they are the first thing that its workers see.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn stopped_for_three_seconds_across_a_failover_not_one_byte_reaches_the_old_master() {
    wakes_after_a_failover(None).await;
}

/// Nor while nobody tells it better: the old master answers and says that it is master, and every Sentinel hangs.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn nor_while_the_sentinels_hang() {
    wakes_after_a_failover(Some(Duration::from_millis(1500))).await;
}

async fn wakes_after_a_failover(sentinels_hang: Option<Duration>) {
    let mut rig = Rig::start(Settings::default(), &[]).await;
    let mut writers: Vec<Connection> = Vec::new();
    let mut readers: Vec<Connection> = Vec::new();
    for i in 0..8 {
        let mut writer = rig.client().await;
        assert_eq!(writer.call(&["INCR", &format!("k{i}")], PATIENCE).await.unwrap(), Reply::Integer(1));
        writers.push(writer);
        let mut reader = rig.client().await;
        assert_eq!(text(&reader.call(&["GET", &format!("k{i}")], PATIENCE).await.unwrap()), "1");
        readers.push(reader);
    }

    rig.proxy.signal(Signal::STOP).unwrap();
    let stopped = Instant::now();
    let before = rig.traffic(0).await;
    rig.cluster.failover(0).await.unwrap();
    let new = rig.cluster.wait_master_other_than(0, PATIENCE).await.unwrap();
    for (i, client) in writers.iter_mut().enumerate() {
        client.send(&["INCR", &format!("k{i}")]).await.unwrap();
    }
    for (i, client) in readers.iter_mut().enumerate() {
        client.send(&["GET", &format!("k{i}")]).await.unwrap();
    }
    sleep_until(stopped + STOPPED).await;
    assert_eq!(rig.traffic(0).await, before, "nothing was on its way when it was stopped");
    if let Some(time) = sentinels_hang {
        for i in 0..3 {
            rig.cluster.pause(Member::Sentinel(i)).unwrap();
        }
        rig.proxy.signal(Signal::CONT).unwrap();
        sleep(time).await;
        assert_eq!(rig.traffic(0).await, before, "client commands reached the old master\n{}", rig.evidence());
        for i in 0..3 {
            rig.cluster.resume(Member::Sentinel(i)).unwrap();
        }
    } else {
        rig.proxy.signal(Signal::CONT).unwrap();
    }
    let woken = Instant::now();

    for client in &mut writers {
        assert_eq!(client.receive().await.unwrap(), Reply::Integer(2), "what the old master had was replicated");
    }
    for client in &mut readers {
        let value = text(&client.receive().await.unwrap());
        assert!(["1", "2"].contains(&value.as_str()), "{value}");
    }
    let waited = woken.elapsed();
    assert!(waited < Duration::from_secs(2), "{waited:?} until everybody was answered\n{}", rig.evidence());
    let after = rig.traffic(0).await;
    assert_eq!(after.0, "master", "the old master would have taken them");
    assert_eq!(after, before, "client commands reached the old master\n{}", rig.evidence());
    assert_eq!(rig.until_flowing(2).await, new);
}

/// The same under load: what was in flight when it was stopped is of unknown outcome, and nothing more.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn stopped_under_load_across_a_failover_no_acknowledged_write_is_lost() {
    let rig = Rig::start(Settings::default(), &[]).await;
    let ledger = rig.ledger().await;
    rig.proxy.signal(Signal::STOP).unwrap();
    rig.cluster.failover(0).await.unwrap();
    sleep(STOPPED).await;
    rig.proxy.signal(Signal::CONT).unwrap();
    let new = rig.until_flowing(2).await;
    let scenario = ("S", "pointsman stopped for 3 s across a failover");
    let tally = rig.settle(scenario, &ledger, new, in_flight(CRASH)).await;
    eprintln!("stopped under load: {} acknowledged, {} of unknown outcome", tally.acknowledged, tally.dropped_writing);
    // The old master is demoted, and nobody notices.
    ledger.go_on();
    rig.cluster.wait_settled(PATIENCE).await.unwrap();
    rig.settle(("S", "… until the old master is demoted"), &ledger, new, waiting(PLANNED)).await;
    assert_eq!(rig.service().await["generation"], 2, "{}", rig.evidence());
}

/// Without a failover a stop costs nothing but waiting, and the master stays.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn stopped_while_nothing_happens_costs_nothing_but_waiting() {
    let rig = Rig::start(Settings::default(), &[]).await;
    let ledger = rig.ledger().await;
    rig.proxy.signal(Signal::STOP).unwrap();
    sleep(Duration::from_secs(2)).await;
    rig.proxy.signal(Signal::CONT).unwrap();
    rig.settle(("S", "pointsman stopped for 2 s, no failover"), &ledger, 0, waiting(CRASH)).await;
    assert_eq!(rig.until_flowing(1).await, 0);
    assert!(rig.cluster.is_running(Member::Node(0)));
}

/// Its control thread alone gets no turn for a second: leases run out, everything waits, nobody notices anything else.
#[tokio::test]
async fn control_starved_for_a_second_costs_nothing_but_waiting() {
    let rig = Rig::start(Settings::default(), &[]).await;
    let ledger = rig.ledger().await;
    stop_thread(rig.proxy.id(), "control", Duration::from_secs(1)).await;
    rig.until_logged("control did not run for").await;
    assert_eq!(rig.until_flowing(1).await, 0);
    let scenario = ("S", "control thread starved for 1 s");
    let tally = rig.settle(scenario, &ledger, 0, waiting(Duration::from_secs(3))).await;
    assert!(tally.write_stall.length > Duration::from_millis(300), "it held: {tally:?}");
}

/// The same across a planned failover: the leases that ran out are what keeps writes from the old master.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn control_starved_across_a_promotion_loses_little_more_than_a_lease() {
    let rig = Rig::start(Settings::default(), &[]).await;
    let ledger = rig.ledger().await;
    let starved = stop_thread(rig.proxy.id(), "control", Duration::from_secs(3));
    let failover = async {
        // When the leases have run out, so that what is lost is nobody's but the failover's.
        sleep(Duration::from_millis(700)).await;
        rig.cluster.failover(0).await.unwrap();
    };
    tokio::join!(starved, failover);
    let new = rig.until_flowing(2).await;
    rig.settle(("S", "control thread starved for 3 s across a failover"), &ledger, new, in_flight(CRASH)).await;
}
