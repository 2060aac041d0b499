//! The control thread against real servers: which topologies it publishes, and when (`--nocapture` shows it).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and shows what it measured")]

mod faults;
mod harness;

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use harness::{Change, Control, HOLD_LIMIT_MS, LIMIT, config, flows, held, watched};
use pointsman::clock::Moment;
use pointsman::config::{Commit, Source};
use pointsman::demo::cluster::{Cluster, Member, Settings};
use pointsman::sentinel::LEASE_VALIDITY;
use pointsman::topology::record::OffsetLost;
use pointsman::topology::status::Phase;
use pointsman::topology::{Flow, Hint, HintKind};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Nothing happens behind the commit, but for what a busy machine does: Sentinel fails over once more by itself, or the new
/// master does not answer for half a second, and reads and writes wait for it.
fn assert_nothing_more(diary: &[Change], commit: usize, old: SocketAddr) {
    let (until, behind) = diary.split_at(commit);
    let new = until.last().and_then(|change| change.2);
    let again = diary.iter().any(|change| change.1 > 2);
    // What Sentinels say of a failover holds writes alone. Behind a silence they may flow later than reads.
    let mut silent = false;
    let is_silence = |change: &Change| {
        silent |= change.3 == Flow::Held;
        change.2 == new && (silent || change.3 == change.4)
    };
    assert!(again || behind.iter().all(is_silence), "after the commit: {behind:?}");
    assert!(behind.iter().all(|change| change.1 > 2 || change.2 != Some(old)), "to the old master: {behind:?}");
}

async fn planned(commit: Commit, limit_ms: u64) {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let old = cluster.addr(Member::Node(0));
    let mut control = Control::start(config(watched(&cluster), commit));
    control.until_stable(old, 3, 2).await;

    let from = Moment::now();
    cluster.failover(0).await.unwrap();
    let after = control.until("the commit", |t| t.generation == 2 && flows(t)).await;
    let new = after.writes.node.unwrap();
    assert_ne!(new, old);
    let diary = control.diary(from);
    let held = diary.iter().find(|d| d.4 == Flow::Held).unwrap();
    let commit = diary.iter().find(|d| d.1 == 2).unwrap();
    assert!(held.0 <= HOLD_LIMIT_MS, "held {} ms after the command", held.0);
    assert!(commit.0 <= limit_ms, "committed {} ms after the command", commit.0);
    assert!(diary.iter().all(|d| d.3 == Flow::Flowing), "reads were never held");
    assert_eq!(diary.len(), 3, "one hold, one commit, and writes when the worker has prepared the new master");

    // The old master is a master for ten more seconds, the leading Sentinel says +switch-master late, the replicas are
    // re-pointed: none of it moves anything again.
    control.until_status("settled", |s| s.settled && !s.provisional).await;
    assert_nothing_more(&control.diary(from), 3, old);
    let record = control.until_recorded("planned").await;
    println!("{record:#?}");
    assert_eq!((record.from, record.to), (Some(old), Some(new)));
    assert_eq!(record.offset_lost, OffsetLost::Exact(0), "the replica had everything before it was promoted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_confirmed() {
    planned(Commit::Confirmed, 1500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_eager() {
    planned(Commit::Eager, 350).await;
}

async fn killed(commit: Commit) -> Vec<Change> {
    let mut cluster = Cluster::start(Settings::default()).await.unwrap();
    let old = cluster.addr(Member::Node(0));
    let mut control = Control::start(config(watched(&cluster), commit));
    control.until_stable(old, 3, 2).await;

    let from = Moment::now();
    cluster.kill(Member::Node(0)).unwrap();
    control.until("the commit", |t| t.generation == 2 && flows(t)).await;
    let diary = control.diary(from);
    assert!(diary[0].0 <= HOLD_LIMIT_MS, "held {} ms after the kill", diary[0].0);
    assert_eq!((diary[0].3, diary[0].4), (Flow::Held, Flow::Held), "reads have nowhere to go either");

    // The old master comes back as a writable master for ten seconds and more. It never gets anything.
    cluster.restart(Member::Node(0)).await.unwrap();
    let written = cluster.ask(Member::Node(0), &["SET", "stray", "1"]).await.unwrap();
    println!("the returning old master answers a write: {written:?}");
    control
        .until_status("settled, the old master included", |s| {
            s.settled && s.replicas.len() == 2 && s.replicas.iter().all(|r| r.link == "connected")
        })
        .await;
    let rest = control.diary(from);
    assert_nothing_more(&rest, diary.len(), old);
    control.until_recorded("crash").await;
    rest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_confirmed() {
    let diary = killed(Commit::Confirmed).await;
    let reads = diary.iter().find(|d| d.3 == Flow::Flowing).unwrap();
    assert_eq!((reads.1, reads.4), (1, Flow::Held), "reads flow to the promoted node before the commit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_eager() {
    killed(Commit::Eager).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_does_not_acknowledge_loses_its_sockets_to_the_old_master() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let old = cluster.addr(Member::Node(0));
    // It acknowledges nothing that holds writes.
    let mut control = Control::start_with(config(watched(&cluster), Commit::Eager), |t| t.writes.flow == Flow::Flowing);
    control.until_stable(old, 3, 2).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut to_old = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut to_other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    control.link.register(1, old, to_old.try_clone().unwrap());
    control.link.register(2, SocketAddr::from(([127, 0, 0, 1], 1)), to_other.try_clone().unwrap());

    cluster.failover(0).await.unwrap();
    control.until("the commit all the same", |t| t.generation == 2).await;
    to_old.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(to_old.read(&mut [0; 1]).unwrap(), 0, "shut down");
    to_other.set_nonblocking(true).unwrap();
    let untouched = to_other.read(&mut [0; 1]).unwrap_err();
    assert_eq!(untouched.kind(), std::io::ErrorKind::WouldBlock, "the others live");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_renewed_while_control_runs_and_expires_with_it() {
    let cluster = Cluster::start(Settings::single()).await.unwrap();
    let node = cluster.addr(Member::Node(0));
    let mut control = Control::start(config(Source::Static(node.into()), Commit::Confirmed));
    let generation = control.until("the master", |t| flows(t)).await.generation;
    let mut seen = std::collections::BTreeSet::new();
    let end = Moment::now() + LEASE_VALIDITY * 4;
    while Moment::now() < end {
        seen.insert(control.link.lease.load().valid_until.0);
        sleep(Duration::from_millis(10)).await;
    }
    assert!(seen.len() >= 8, "renewed {} times in four times its validity", seen.len());
    control.shutdown.cancel();
    let ended = control.thread.take().unwrap();
    tokio::task::spawn_blocking(|| ended.join().unwrap()).await.unwrap();
    let grant = control.link.lease.load();
    assert!(!grant.permits_writes(generation, Moment::now() + LEASE_VALIDITY));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_master_that_goes_and_comes_back() {
    let mut cluster = Cluster::start(Settings::single()).await.unwrap();
    let node = cluster.addr(Member::Node(0));
    let mut config = config(Source::Static(node.into()), Commit::Confirmed);
    config.hold_timeout = Duration::from_millis(700);
    let mut control = Control::start(config);
    control.until("the master", |t| flows(t)).await;

    // The probe runs once a second: the worker's hint is what tells at once.
    cluster.kill(Member::Node(0)).unwrap();
    control.hints.send(Hint { node, kind: HintKind::Refused }).await.unwrap();
    control.until("held", |t| held(t)).await;
    control.until("refused", |t| t.writes.flow == Flow::Refused && t.reads.flow == Flow::Refused).await;
    control.until_status("unavailable", |s| s.phase == Phase::Unavailable).await;
    cluster.restart(Member::Node(0)).await.unwrap();
    let back = control.until("back", |t| flows(t)).await;
    assert_eq!(back.generation, 1, "the same master");
    control.until_status("another process, counted", |s| s.run_id_changes_total == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_clients_killed_holds_nobody() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let old = cluster.addr(Member::Node(0));
    let mut control = Control::start(config(watched(&cluster), Commit::Confirmed));
    control.until_stable(old, 3, 2).await;
    let from = Moment::now();
    cluster.ask(Member::Node(0), &["CLIENT", "KILL", "TYPE", "normal"]).await.unwrap();
    control.hints.send(Hint { node: old, kind: HintKind::Reset }).await.unwrap();
    // Long enough for the probe to have reconnected and decided.
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(control.diary(from), [], "no hold");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_configuration_is_gone_by_until_there_is_none() {
    let first = Cluster::start(Settings::single()).await.unwrap();
    let second = Cluster::start(Settings::single()).await.unwrap();
    let (one, two) = (first.addr(Member::Node(0)), second.addr(Member::Node(0)));
    let mut control = Control::start(config(Source::Static(one.into()), Commit::Confirmed));
    control.until("the master", |t| flows(t) && t.writes.node == Some(one)).await;
    control.config.send_replace(config(Source::Static(two.into()), Commit::Confirmed).into());
    let after = control.until("the other master", |t| flows(t) && t.writes.node == Some(two)).await;
    assert_eq!(after.generation, 2);
    control.config = watch::channel(config(Source::Static(two.into()), Commit::Confirmed).into()).0;
    timeout(LIMIT, async { while control.topology.changed().await.is_ok() {} }).await.expect("watched no more");
}
