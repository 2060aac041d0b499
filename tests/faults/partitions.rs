//! Cables that are cut: both ways, one way, and from some only. A cut says nothing, neither to those who send nor to
//! those who wait.

use std::time::Duration;

use pointsman::demo::cluster::Member;
use pointsman::demo::wire::Reply;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::network::Site::{Node, Pointsman, Sentinel};
use crate::network::{Site, in_network};
use crate::outcome::{Allowed, CRASH, PLANNED, UNDONE, in_flight, refused, waiting};
use crate::rig::{PATIENCE, Rig, WRITERS, last_record};

const SENTINELS: [Site; 3] = [Sentinel(0), Sentinel(1), Sentinel(2)];
/// pointsman asks the Sentinels that it listens to every second whether they are there.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// Waits until pointsman hears so many of the Sentinels.
async fn until_hears(rig: &Rig, n: usize) {
    let is_up = |s: &&Value| s["up"] == true;
    let up = |s: &Value| s["sentinels"].as_array().unwrap().iter().filter(is_up).count();
    rig.until("so many Sentinels in hearing", |s| up(s) == n).await;
}

/// The links of two Sentinels swallow what is sent, each in one direction. Both are found out, and the one that fails
/// over unheard is followed all the same.
#[test]
fn a_link_that_swallows_packets_is_noticed_within_two_pings() {
    in_network(async |network| {
        let mut rig = Rig::start_in(network, &[]).await;
        let ledger = rig.ledger().await;
        rig.network().cut_one_way(&[Pointsman], &[Sentinel(0)]);
        rig.network().cut_one_way(&[Sentinel(1)], &[Pointsman]);
        let cut = Instant::now();
        until_hears(&rig, 1).await;
        let noticed = cut.elapsed();
        assert!(noticed < 2 * PING_INTERVAL + Duration::from_millis(300), "{noticed:?}\n{}", rig.evidence());
        rig.cluster.failover(0).await.unwrap();
        // Its only witness is the Sentinel that is left, whose word counts alone after `confirm_timeout`, 5 s.
        let new = rig.until_flowing(2).await;
        eprintln!("swallowed: noticed after {noticed:?}");
        let stall = PLANNED + Duration::from_secs(5);
        let scenario = ("17", "links of 2 Sentinels swallow packets, one of them leads");
        let tally = rig.settle(scenario, &ledger, new, Allowed { lost: true, went_back: true, ..waiting(stall) }).await;
        rig.loss_is_told(&tally).await;
    });
}

/// pointsman, its master and one Sentinel on one side: they cannot know better, and are put right when they can.
#[test]
#[ignore = "all of them take minutes: `make faults` runs it"]
fn on_the_wrong_side_of_a_partition_the_old_master_is_left_when_it_heals() {
    in_network(async |network| {
        let mut rig = Rig::start_in(network, &[]).await;
        let ledger = rig.ledger().await;
        let here = [Pointsman, Node(0), Sentinel(0)];
        rig.network().cut(&here, &[Node(1), Node(2), Sentinel(1), Sentinel(2)]);
        let cut = Instant::now();
        until_hears(&rig, 1).await;
        assert!(cut.elapsed() < Duration::from_secs(3), "{:?}", cut.elapsed());
        rig.cluster.wait_master_other_than(0, PATIENCE).await.unwrap();
        rig.stays("the old master", Duration::from_secs(2), |s| {
            s["generation"] == 1 && s["writes"]["flow"] == "flowing"
        })
        .await;
        rig.network().heal();
        let healed = Instant::now();
        let new = rig.until_flowing(2).await;
        let switched = healed.elapsed();
        let (role, calls) = rig.traffic(0).await;
        assert_eq!(role, "master", "Sentinel has not demoted it yet");
        rig.write_on(&ledger).await;
        assert_eq!(rig.traffic(0).await.1, calls, "nothing goes there any more\n{}", rig.evidence());
        eprintln!("healed: switched after {switched:?}");
        assert!(switched < Duration::from_secs(3), "{switched:?}\n{}", rig.evidence());
        // What the cut off master acknowledged is lost by Redis; it must be told.
        let drops = WRITERS as u64;
        let allowed = Allowed { lost: true, went_back: true, drops, ..waiting(CRASH) };
        let tally =
            rig.settle(("7", "pointsman, master and a Sentinel cut off from the rest"), &ledger, new, allowed).await;
        assert!(tally.lost > 0, "{tally:?}");
        rig.loss_is_told(&tally).await;
    });
}

/// The master and one Sentinel on the other side. When it heals, the old master is a writable master for ten seconds, and
/// what it had to say before comes late.
#[test]
#[ignore = "all of them take minutes: `make faults` runs it"]
fn a_master_behind_a_partition_gets_nothing_when_it_heals() {
    in_network(async |network| {
        let mut rig = Rig::start_in(network, &[]).await;
        let ledger = rig.ledger().await;
        let rest = [Pointsman, Node(1), Node(2), Sentinel(1), Sentinel(2)];
        rig.network().cut(&[Node(0), Sentinel(0)], &rest);
        let new = rig.until_flowing(2).await;
        rig.write_on(&ledger).await;
        sleep(Duration::from_secs(3)).await;
        rig.network().heal();
        rig.gets_nothing_until_demoted(0).await;
        assert_eq!(rig.service().await["generation"], 2, "{}", rig.evidence());
        rig.settle(("8", "master and a Sentinel cut off from the rest, healed"), &ledger, new, in_flight(CRASH)).await;
    });
}

/// Nobody but pointsman is cut off from the master: Sentinel has no reason to do anything. `ways`: whether the commands
/// get there, whether the answers do.
async fn cut_from_the_master(rig: &mut Rig, ways: (bool, bool), time: Duration) -> Duration {
    if !ways.0 {
        rig.network().cut_one_way(&[Pointsman], &[Node(0)]);
    }
    if !ways.1 {
        rig.network().cut_one_way(&[Node(0)], &[Pointsman]);
    }
    let cut = Instant::now();
    rig.until("held", |s| s["writes"]["flow"] == "held").await;
    let noticed = cut.elapsed();
    sleep(time.saturating_sub(cut.elapsed())).await;
    rig.network().heal();
    let healed = Instant::now();
    assert_eq!(rig.until_flowing(1).await, 0);
    eprintln!(
        "commands arrive, answers arrive: {ways:?}; held after {noticed:?}, flows {:?} after it healed",
        healed.elapsed()
    );
    // Held to the goal in `hangs`, where what the machine adds is measured.
    assert!(noticed < Duration::from_millis(1500), "{noticed:?}");
    healed.elapsed()
}

#[test]
fn answers_that_do_not_arrive_cost_only_waiting() {
    in_network(async |network| {
        let mut rig = Rig::start_in(network, &[]).await;
        let ledger = rig.ledger().await;
        cut_from_the_master(&mut rig, (true, false), Duration::from_secs(3)).await;
        rig.settle(("C", "the master's answers do not arrive for 3 s"), &ledger, 0, waiting(CRASH)).await;
    });
}

#[test]
#[ignore = "all of them take minutes: `make faults` runs it"]
fn commands_that_do_not_arrive_cost_only_waiting() {
    in_network(async |network| {
        let mut rig = Rig::start_in(network, &[]).await;
        let ledger = rig.ledger().await;
        cut_from_the_master(&mut rig, (false, true), Duration::from_secs(3)).await;
        rig.settle(("C", "commands do not arrive at the master for 3 s"), &ledger, 0, waiting(CRASH)).await;
    });
}

/// For longer than anybody should wait: refused in words, and well again when the cable is.
#[test]
#[ignore = "all of them take minutes: `make faults` runs it"]
fn cut_off_from_the_master_alone_is_refused_in_time_and_recovers() {
    in_network(async |network| {
        let mut rig = Rig::start_in(network, &["--hold-timeout", "4s"]).await;
        let ledger = rig.ledger().await;
        let mut client = rig.client().await;
        let refusal = tokio::spawn(async move {
            sleep(Duration::from_secs(1)).await;
            client.call(&["INCR", "late"], PATIENCE).await.unwrap()
        });
        let recovered = cut_from_the_master(&mut rig, (false, false), Duration::from_secs(10)).await;
        let Reply::Error(said) = refusal.await.unwrap() else { panic!("it was answered") };
        assert!(said.starts_with("MASTERDOWN pointsman: ") && said.contains("does not answer"), "{said}");
        assert!(recovered < Duration::from_secs(3), "{recovered:?}\n{}", rig.evidence());
        let allowed = refused(WRITERS as u64, UNDONE);
        rig.settle(("C", "pointsman alone is cut off from the master for 10 s"), &ledger, 0, allowed).await;
        let service = rig.service().await;
        assert_eq!(last_record(&service)["offset_lost"], json!({"known": "exact", "bytes": 0}), "{service:#}");
    });
}

/// The Sentinels cannot see the master, and everybody else can.
#[test]
#[ignore = "all of them take minutes: `make faults` runs it"]
fn a_master_that_only_the_sentinels_cannot_see_is_left_without_loss() {
    in_network(async |network| {
        let mut rig = Rig::start_in(network, &[]).await;
        let ledger = rig.ledger().await;
        rig.network().cut(&SENTINELS, &[Node(0)]);
        let new = rig.until_flowing(2).await;
        let (role, calls) = rig.traffic(0).await;
        assert_eq!(role, "master");
        rig.write_on(&ledger).await;
        sleep(Duration::from_secs(3)).await;
        assert_eq!(rig.traffic(0).await, (role, calls), "nothing goes there any more\n{}", rig.evidence());
        rig.settle(("C", "only the Sentinels are cut off from the master"), &ledger, new, waiting(PLANNED)).await;
        let service = rig.service().await;
        assert_eq!(last_record(&service)["offset_lost"], json!({"known": "exact", "bytes": 0}), "{service:#}");
        rig.network().heal();
        rig.gets_nothing_until_demoted(0).await;
    });
}

/// No Sentinel can be heard while they fail over: what the replicas say bounds the loss, and nothing flows until somebody
/// can be asked.
#[test]
#[ignore = "all of them take minutes: `make faults` runs it"]
fn a_failover_of_which_no_sentinel_is_heard_loses_little_and_says_so() {
    in_network(async |network| {
        let mut rig = Rig::start_in(network, &["--hold-timeout", "30s"]).await;
        let ledger = rig.ledger().await;
        rig.network().cut(&[Pointsman], &SENTINELS);
        until_hears(&rig, 0).await;
        rig.stays("undisturbed", Duration::from_secs(10), |s| s["generation"] == 1 && s["writes"]["flow"] == "flowing")
            .await;
        rig.cluster.failover(0).await.unwrap();
        rig.until("held", |s| s["writes"]["flow"] == "held").await;
        rig.stays("held", Duration::from_secs(3), |s| s["writes"]["flow"] == "held").await;
        rig.network().heal();
        let new = rig.until_flowing(2).await;
        let scenario = ("15", "no Sentinel is heard for 15 s, they fail over meanwhile");
        let allowed = Allowed { lost: true, went_back: true, drops: WRITERS as u64, ..waiting(CRASH) };
        let tally = rig.settle(scenario, &ledger, new, allowed).await;
        assert!(tally.lost < 200, "half a second of it: {tally:?}");
        rig.loss_is_told(&tally).await;
        assert_eq!(rig.cluster.addr(Member::Node(new)).to_string(), rig.service().await["master"]);
    });
}
