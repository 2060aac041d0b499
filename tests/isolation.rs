//! A soak: many clients that do all sorts of things, vanish in the middle of them, and live through planned failovers.
//! Every reply must be the client's own, every count must come out, and nothing may be left behind.

#![allow(clippy::unwrap_used)]

mod soak;

use std::path::PathBuf;
use std::time::Duration;

use pointsman::config::Commit;
use pointsman::demo::cluster::{Cluster, Member, Settings};
use pointsman::demo::proxy::{Proxy, ProxySettings};
use pointsman::demo::wire::text;
use soak::client::Counts;
use soak::scenes::{Actor, SHARED};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const CLIENTS: usize = 100;
/// Between two planned failovers; each takes about 11 s until it is settled.
const FAILOVER_EVERY: Duration = Duration::from_secs(12);
const SETTLE_LIMIT: Duration = Duration::from_secs(40);
/// Pinned connections that nobody uses are closed after 20 s.
const BASELINE_LIMIT: Duration = Duration::from_secs(40);

#[tokio::test]
async fn half_a_minute() {
    run(Duration::from_secs(30)).await;
}

#[tokio::test]
#[ignore = "ten minutes; `make test-all` runs it"]
async fn ten_minutes() {
    run(Duration::from_secs(600)).await;
}

async fn run(length: Duration) {
    let seed = std::env::var("SOAK_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SOAK_SEED={seed}");
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_pointsman"));
    let settings = ProxySettings { binary, commit: Commit::Confirmed, workers: 2, extra: Vec::new() };
    let mut proxy = Proxy::start(&cluster, &settings).await.unwrap();
    let addr = proxy.listen();

    let end = Instant::now() + length;
    let mut tasks = JoinSet::new();
    for id in 0..CLIENTS {
        tasks.spawn(async move {
            let mut actor = Actor::new(id, seed);
            while Instant::now() < end {
                actor.visit(addr).await;
                actor.publish(addr, CLIENTS).await;
            }
            actor
        });
    }
    let mut actors = Vec::new();
    let mut failovers = 0;
    let mut next = Instant::now() + FAILOVER_EVERY / 3;
    while !tasks.is_empty() {
        tokio::select! {
            joined = tasks.join_next() => {
                let joined = joined.unwrap();
                actors.push(joined.unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", proxy.log_tail())));
            }
            () = tokio::time::sleep_until(next), if next < end => {
                cluster.failover(failovers % 3).await.unwrap();
                failovers += 1;
                cluster.wait_settled(SETTLE_LIMIT).await.unwrap();
                next = (next + FAILOVER_EVERY).max(Instant::now() + Duration::from_secs(1));
            }
        }
    }

    let master = Member::Node(cluster.wait_settled(SETTLE_LIMIT).await.unwrap());
    let mut direct = cluster.connect(master).await.unwrap();
    let mut count = async |key: &str| -> u64 {
        text(&direct.call(&["GET", key], SETTLE_LIMIT).await.unwrap()).parse().unwrap_or(0)
    };
    let mut all = Counts::default();
    for actor in &actors {
        let Counts { acknowledged, unknown, .. } = actor.counts;
        let found = count(&actor.counter()).await;
        assert!(
            (acknowledged..=acknowledged + unknown).contains(&found),
            "client {}: {found} counted, {acknowledged} acknowledged and {unknown} unknown; seed {seed}\n{}",
            actor.id,
            proxy.log_tail()
        );
        all.add(&actor.counts);
    }
    let shared = count(SHARED).await;
    eprintln!("{failovers} failovers, {shared} shared, {all:?}");
    assert!(
        (all.shared_acknowledged..=all.shared_acknowledged + all.shared_unknown).contains(&shared),
        "{shared} raised, {all:?}: an update was lost; seed {seed}"
    );
    assert_eq!(count("soak:never").await, 0, "a discarded transaction ran");
    assert!(all.replies > 10_000 && all.shared_acknowledged > 10, "the soak did nothing: {all:?}");

    assert!(proxy.is_running(), "{}", proxy.log_tail());
    let log = std::fs::read_to_string(proxy.log()).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(proxy.metric("pointsman_backend_protocol_errors_total", "").await.unwrap(), 0.0);
    assert_eq!(proxy.metric("pointsman_clients_closed_total", "internal").await.unwrap(), 0.0);
    let limit = Instant::now() + BASELINE_LIMIT;
    loop {
        let clients = proxy.metric("pointsman_clients", "").await.unwrap();
        let pinned = proxy.metric("pointsman_backend_connections", "pinned").await.unwrap();
        let waiting = proxy.metric("pointsman_commands_waiting", "").await.unwrap();
        if (clients, pinned, waiting) == (0.0, 0.0, 0.0) {
            break;
        }
        assert!(Instant::now() < limit, "{clients} clients, {pinned} pinned, {waiting} waiting stay behind");
        sleep(Duration::from_millis(100)).await;
    }
}
