//! Faults other than a plain failover or crash, each as it was seen to go wrong somewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pointsman::addr::AddressMap;
use pointsman::clock::Moment;
use pointsman::config::{Commit, ServiceConfig};
use pointsman::demo::cluster::{Cluster, Member, Settings};
use pointsman::demo::wire::text;
use pointsman::topology::status::ServiceStatus;
use pointsman::topology::{Hint, HintKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use crate::harness::{Control, config, flows, held, watched};

async fn stable(commit: Commit) -> (Cluster, Control) {
    stable_with(Settings::default().down_after, commit).await
}

async fn stable_with(down_after: Duration, commit: Commit) -> (Cluster, Control) {
    let cluster = Cluster::start(Settings { down_after, ..Settings::default() }).await.unwrap();
    let mut control = Control::start(config(watched(&cluster), commit));
    control.until_stable(cluster.addr(Member::Node(0)), 3, 2).await;
    (cluster, control)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_hangs_is_left_and_its_return_changes_nothing() {
    let (mut cluster, mut control) = stable(Commit::Confirmed).await;
    let old = cluster.addr(Member::Node(0));
    let from = Moment::now();
    cluster.pause(Member::Node(0)).unwrap();
    // What a worker says when its oldest command in flight is 300 ms old.
    sleep(Duration::from_millis(300)).await;
    control.hints.send(Hint { node: old, kind: HintKind::Silent }).await.unwrap();
    control.until("the commit", |t| t.generation == 2 && flows(t)).await;
    let diary = control.diary(from);
    assert!((300..1000).contains(&diary[0].0), "held {} ms after the stop", diary[0].0);
    assert!(diary.last().unwrap().0 < 4000, "{} ms", diary.last().unwrap().0);

    cluster.resume(Member::Node(0)).unwrap();
    control
        .until_status("settled, the old master included", |s| {
            s.settled && s.replicas.iter().filter(|r| r.link == "connected").count() == 2
        })
        .await;
    crate::assert_nothing_more(&control.diary(from), diary.len(), old);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_pauses_for_less_than_down_after_stays() {
    let (mut cluster, mut control) = stable_with(Duration::from_secs(5), Commit::Confirmed).await;
    let master = cluster.addr(Member::Node(0));
    cluster.pause(Member::Node(0)).unwrap();
    sleep(Duration::from_millis(300)).await;
    control.hints.send(Hint { node: master, kind: HintKind::Silent }).await.unwrap();
    control.until("held", |t| held(t)).await;
    sleep(Duration::from_millis(200)).await;
    cluster.resume(Member::Node(0)).unwrap();
    let resumed = Moment::now();
    let back = control.until("released", |t| flows(t)).await;
    assert_eq!((back.generation, back.writes.node), (1, Some(master)));
    assert!(Moment::now().since(resumed) < Duration::from_millis(500), "no longer than it takes to ask everybody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_crashes_after_the_promotion_is_not_followed() {
    let (cluster, mut control) = stable(Commit::Confirmed).await;
    let old = cluster.addr(Member::Node(0));
    let from = Moment::now();
    cluster.ask(Member::Sentinel(0), &["SENTINEL", "SIMULATE-FAILURE", "crash-after-promotion"]).await.unwrap();
    cluster.failover(0).await.unwrap();
    control.until("held", |t| held(t)).await;
    // The others have heard nothing. They see a replica that says master, and demote it after some 14 s.
    let back = control.until("released", |t| flows(t)).await;
    assert_eq!((back.generation, back.writes.node), (1, Some(old)));
    let diary = control.diary(from);
    assert!(diary.iter().all(|d| d.2 == Some(old)), "nobody was sent anywhere else");
    assert!(diary.last().unwrap().0 > 8000, "the promoted node was master for long");
    control.until_recorded("aborted").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eager_commit_whose_leader_crashes_is_undone() {
    let (cluster, mut control) = stable(Commit::Eager).await;
    let old = cluster.addr(Member::Node(0));
    cluster.ask(Member::Sentinel(0), &["SENTINEL", "SIMULATE-FAILURE", "crash-after-promotion"]).await.unwrap();
    cluster.failover(0).await.unwrap();
    control.until("the provisional commit", |t| t.generation == 2 && flows(t)).await;
    let committed = Moment::now();
    control.until("held again", |t| held(t)).await;
    let held = Moment::now().since(committed).as_millis();
    assert!((4900..5300).contains(&held), "confirm_timeout is 5 s, held after {held} ms");
    let back = control.until("the old master", |t| flows(t)).await;
    assert_eq!((back.generation, back.writes.node), (3, Some(old)));
    control.until_recorded("rollback").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_restarts_at_once_goes_on_and_is_told_apart() {
    let (mut cluster, mut control) = stable(Commit::Confirmed).await;
    let master = cluster.addr(Member::Node(0));
    let from = Moment::now();
    cluster.restart(Member::Node(0)).await.unwrap();
    control.until_status("another process", |s| s.run_id_changes_total == 1).await;
    let back = control.until("released", |t| flows(t)).await;
    assert_eq!((back.generation, back.writes.node), (1, Some(master)));
    let diary = control.diary(from);
    assert!(diary.last().unwrap().0 < 3500, "{} ms", diary.last().unwrap().0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_are_reset_or_stopped_or_stale_hold_nobody() {
    let (mut cluster, mut control) = stable(Commit::Confirmed).await;
    let from = Moment::now();
    for i in 0..3 {
        cluster.ask(Member::Sentinel(i), &["SENTINEL", "RESET", "mymaster"]).await.unwrap();
    }
    cluster.wait_settled(Duration::from_secs(40)).await.unwrap();
    cluster.pause(Member::Sentinel(2)).unwrap();
    control.until_status("one is out of hearing", |s| s.sentinels.iter().any(|s| !s.up)).await;
    assert_eq!(control.diary(from), [], "no hold");

    cluster.failover(0).await.unwrap();
    let new = control.until("the commit", |t| t.generation == 2).await.writes.node;
    cluster.resume(Member::Sentinel(2)).unwrap();
    control
        .until_status("it has caught up", |s| s.settled && s.sentinels.iter().all(|s| s.up && s.master == new))
        .await;
    assert_eq!(
        control.diary(from).len(),
        3,
        "one hold, one commit, and then writes: what it said meanwhile moved nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_are_told_of_another_master_are_followed() {
    let (cluster, mut control) = stable(Commit::Confirmed).await;
    let (old, new) = (cluster.addr(Member::Node(0)), cluster.addr(Member::Node(1)));
    let (host, port) = (new.ip().to_string(), new.port().to_string());
    for i in 0..3 {
        cluster.ask(Member::Sentinel(i), &["SENTINEL", "REMOVE", "mymaster"]).await.unwrap();
    }
    control.until_status("nobody knows the name", |s| s.sentinels.iter().all(|s| s.error.is_some())).await;
    assert!(flows(&control.topology.borrow()), "the last confirmed master goes on");
    cluster.ask(Member::Node(1), &["REPLICAOF", "NO", "ONE"]).await.unwrap();
    for i in [0, 2] {
        cluster.ask(Member::Node(i), &["REPLICAOF", &host, &port]).await.unwrap();
    }
    // The old master says replica now: that is noticed by a worker's write or by the probe.
    control.hints.send(Hint { node: old, kind: HintKind::ReadOnly }).await.unwrap();
    control.until("held", |t| held(t)).await;
    for i in 0..3 {
        cluster.ask(Member::Sentinel(i), &["SENTINEL", "MONITOR", "mymaster", &host, &port, "2"]).await.unwrap();
    }
    let after = control.until("the commit", |t| flows(t)).await;
    assert_eq!((after.generation, after.writes.node), (2, Some(new)));
}

/// The old master runs a script that nobody can stop when it is to be made a replica; and when it can be, the network
/// fails in the middle of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_master_that_cannot_be_told_at_once_is_told_again() {
    const BUSY: &str = "redis.call('set', 'k', 'v') \
        local function now() return tonumber(redis.call('time')[1]) end \
        local t = now() while now() - t < 3 do end";
    let settings = Settings { redis_lines: vec!["lua-time-limit 50".into()], ..Settings::default() };
    let cluster = Cluster::start(settings).await.unwrap();
    let old = cluster.addr(Member::Node(0));
    let (relay, cuts) = relay_that_cuts_once(old, b"KILL").await;
    let address_map = AddressMap::new([(old.to_string().as_str(), relay.to_string().as_str())]).unwrap();
    let settings =
        ServiceConfig { fence_old_master: true, address_map, ..config(watched(&cluster), Commit::Confirmed) };
    let mut control = Control::start(settings);
    control.until_stable(old, 3, 2).await;
    let mut busy = cluster.connect(Member::Node(0)).await.unwrap();
    busy.send(&["EVAL", BUSY, "0"]).await.unwrap();
    cluster.failover(0).await.unwrap();
    let new = control.until("the commit", |t| t.generation == 2 && flows(t)).await.writes.node.unwrap();
    control.until_status("an end of it", |s| !told_to(s, old).is_empty()).await;
    assert_eq!(told_to(&control.status.borrow(), old), [format!("was made a replica of {new}")]);
    assert_eq!(cuts.load(Ordering::Relaxed), 3, "cut at the first, and two in the try behind it");
    let end = busy.receive().await.map(|reply| text(&reply));
    assert!(end.as_ref().is_ok_and(String::is_empty), "it ran to its end: {end:?}");
}

/// What is on record of making an old master a replica.
fn told_to(status: &ServiceStatus, old: SocketAddr) -> Vec<String> {
    let events = status.records.iter().flat_map(|r| &r.events).filter(|e| e.source == old.to_string());
    let texts = events.map(|e| e.text.clone());
    // How far it had got is another matter.
    texts
        .filter(|t| t.contains("replica") || t.contains("left to Sentinel"))
        .filter(|t| !t.starts_with("is back"))
        .collect()
}

/// A master that hangs was replaced, and is to be made a replica as soon as it can be told. Then there was another hold,
/// behind which it might have been master again, and the same new master came out of it.
async fn held_again() -> (Cluster, Control, SocketAddr, SocketAddr) {
    let mut cluster = Cluster::start(Settings::default()).await.unwrap();
    let old = cluster.addr(Member::Node(0));
    let settings = ServiceConfig { fence_old_master: true, ..config(watched(&cluster), Commit::Confirmed) };
    let mut control = Control::start(settings);
    control.until_stable(old, 3, 2).await;
    cluster.pause(Member::Node(0)).unwrap();
    control.hints.send(Hint { node: old, kind: HintKind::Silent }).await.unwrap();
    let new = control.until("the commit", |t| t.generation == 2 && flows(t)).await.writes.node.unwrap();
    control.hints.send(Hint { node: new, kind: HintKind::Refused }).await.unwrap();
    control.until("held again", |t| held(t)).await;
    let after = control.until("flowing again", |t| flows(t)).await;
    assert_eq!((after.generation, after.writes.node), (2, Some(new)));
    assert_eq!(told_to(&control.status.borrow(), old), [""; 0], "it could not be told anything yet");
    (cluster, control, old, new)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_changes_nothing_spares_no_old_master() {
    let (mut cluster, mut control, old, new) = held_again().await;
    cluster.resume(Member::Node(0)).unwrap();
    control.until_status("an end of it", |s| !told_to(s, old).is_empty()).await;
    assert_eq!(told_to(&control.status.borrow(), old), [format!("was made a replica of {new}")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_master_is_left_alone_once_the_master_has_changed_again() {
    let (cluster, mut control, old, _) = held_again().await;
    let end = Instant::now() + Duration::from_secs(10);
    while let Err(refusal) = cluster.failover(0).await {
        assert!(Instant::now() < end, "it is not done with the last one: {refusal}");
        sleep(Duration::from_millis(50)).await;
    }
    control.until("the commit", |t| t.generation == 3).await;
    control.until_status("left alone", |s| !told_to(s, old).is_empty()).await;
    assert_eq!(told_to(&control.status.borrow(), old), ["is left to Sentinel, since the master has changed again"]);
}

/// An address that leads to `node`. The first connection on which these bytes come is cut there.
async fn relay_that_cuts_once(node: SocketAddr, at: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, cuts) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&cuts);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut server = TcpStream::connect(node).await?;
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.split(), server.split());
                let there = async {
                    let mut buf = vec![0; 4096];
                    loop {
                        let n = from_client.read(&mut buf).await?;
                        let is_it = buf[..n].windows(at.len()).any(|w| w == at);
                        if n == 0 || is_it && count.fetch_add(1, Ordering::Relaxed) == 0 {
                            return std::io::Result::Ok(());
                        }
                        to_server.write_all(&buf[..n]).await?;
                    }
                };
                tokio::select! {
                    there = there => there,
                    back = tokio::io::copy(&mut from_server, &mut to_client) => back.map(drop),
                }
            });
        }
    });
    (addr, cuts)
}
