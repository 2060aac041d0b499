//! A soak: many clients that do all sorts of things, vanish in the middle of them, and live through failovers, planned
//! and by `kill -9`. Every reply must be the client's own, every count must come out, and nothing may be left behind.
//!
//! `make soak` runs it for ten minutes. `SOAK_SEED` repeats what the clients of a run did, though not when.

#![allow(clippy::unwrap_used)]

mod soak;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pointsman::config::Commit;
use pointsman::demo::cluster::{Cluster, Member, Settings};
use pointsman::demo::proxy::{Proxy, ProxySettings, fetch};
use pointsman::demo::wire::text;
use soak::book::{Book, Raised};
use soak::scenes::{Actor, SHARED, USERS};
use soak::turns::{SETTLE_LIMIT, Turns, lateness};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const CLIENTS: usize = 100;
/// Pinned connections that nobody uses are closed after 20 s.
const BASELINE_LIMIT: Duration = Duration::from_secs(40);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn half_a_minute() {
    run(Duration::from_secs(30)).await;
}

#[tokio::test]
#[ignore = "ten minutes; `make soak` runs it"]
async fn ten_minutes() {
    run(Duration::from_secs(600)).await;
}

async fn run(length: Duration) {
    let seed = std::env::var("SOAK_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SOAK_SEED={seed}");
    let redis_lines = (1..=USERS).map(|n| format!("user u{n} on >u{n} ~* &* +@all")).collect();
    let mut cluster = Cluster::start(Settings { redis_lines, ..Settings::default() }).await.unwrap();
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_pointsman"));
    let settings = ProxySettings { binary, commit: Commit::Confirmed, workers: 2, extra: Vec::new() };
    let mut proxy = Proxy::start(&cluster, &settings).await.unwrap();
    if let Err(why) = play(&mut cluster, &mut proxy, length, seed).await {
        let kept = keep_evidence(&cluster, &proxy, seed).await;
        panic!("{why}\nSOAK_SEED={seed}; logs and status are in {}\n{}", kept.display(), proxy.log_tail());
    }
}

async fn play(cluster: &mut Cluster, proxy: &mut Proxy, length: Duration, seed: u64) -> Result<(), String> {
    let raised: Raised = Arc::new(Mutex::default());
    let master = cluster.master().await.map_err(|e| e.to_string())?;
    begin(cluster, Member::Node(master)).await;
    let end = Instant::now() + length;
    let addr = proxy.listen();
    let mut tasks = JoinSet::new();
    for id in 0..CLIENTS {
        let raised = Arc::clone(&raised);
        tasks.spawn(async move {
            let mut actor = Actor::new(id, CLIENTS, seed, raised);
            while Instant::now() < end {
                actor.visit(addr).await;
                actor.publish(addr).await;
            }
            (id, actor)
        });
    }
    let crowd = async {
        let mut actors = Vec::new();
        while let Some(joined) = tasks.join_next().await {
            actors.push(joined.map_err(|e| format!("a client failed: {e}"))?);
        }
        Ok(actors)
    };
    let turns = async { Turns::run(cluster, end).await.map_err(|e| format!("the cluster: {e}")) };
    let late = async { Ok(lateness(end).await) };
    let (mut actors, turns, late) = tokio::try_join!(crowd, turns, late)?;

    let master = Member::Node(cluster.wait_settled(SETTLE_LIMIT).await.map_err(|e| e.to_string())?);
    audit(cluster, master, &mut actors, &turns, late).await?;
    if turns.kills.is_empty() {
        return Err("no failover".into());
    }
    nothing_is_left(proxy).await
}

/// Every client's counter begins at a number of its own.
async fn begin(cluster: &Cluster, master: Member) {
    let mut direct = cluster.connect(master).await.unwrap();
    for id in 0..CLIENTS {
        direct.call(&["SET", &Actor::counter(id), &Book::base(id).to_string()], ANSWER_LIMIT).await.unwrap();
    }
    let reached = direct.call(&["WAIT", "2", "10000"], ANSWER_LIMIT).await.unwrap();
    assert_eq!(text(&reached), "2", "the replicas have what the clients begin with");
}

/// What the master has must be what the clients were told.
async fn audit(
    cluster: &Cluster,
    master: Member,
    actors: &mut [(usize, Actor)],
    turns: &Turns,
    late: Duration,
) -> Result<(), String> {
    let mut direct = cluster.connect(master).await.map_err(|e| e.to_string())?;
    let mut count = async |key: &str| -> Result<u64, String> {
        let found = direct.call(&["GET", key], ANSWER_LIMIT).await.map_err(|e| e.to_string())?;
        Ok(text(&found).parse().unwrap_or(0))
    };
    let (mut replies, mut refused, mut closed, mut acknowledged, mut unknown) = (0, 0, 0, 0, 0);
    let (mut shared_acknowledged, mut shared_unknown, mut setbacks) = (0, 0, Vec::new());
    for (id, actor) in actors.iter_mut() {
        let found = count(&Actor::counter(*id)).await?;
        let book = &mut actor.book;
        book.close(found).map_err(|e| format!("client {id}: {e}"))?;
        let missing: u64 = book.setbacks.iter().map(|s| s.missing).sum();
        if found + missing < Book::base(*id) + book.acknowledged {
            return Err(format!("client {id}: {found} counted, of {} acknowledged", book.acknowledged));
        }
        (replies, refused, closed) = (replies + book.replies, refused + book.refused, closed + book.closed);
        (acknowledged, unknown) = (acknowledged + book.acknowledged, unknown + book.unknown);
        shared_acknowledged += book.shared_acknowledged;
        shared_unknown += book.shared_unknown;
        setbacks.append(&mut book.setbacks);
    }
    let shared = count(SHARED).await?;
    let lost: u64 = setbacks.iter().map(|s| s.missing).sum();
    eprintln!(
        "{} planned failovers, {} kills; {replies} replies, {refused} refused, {closed} connections ended early; \
         {acknowledged} counted and {unknown} unknown; {shared} shared, {shared_acknowledged} acknowledged and \
         {shared_unknown} unknown; {lost} acknowledged writes went with killed masters; turns up to {late:?} late",
        turns.planned,
        turns.kills.len()
    );
    let down_after = Settings::default().down_after;
    if let Some(setback) = setbacks.iter().find(|s| !turns.excuse(s, down_after, late)) {
        return Err(format!("{setback:?} though no master was killed in that time: {turns:?}"));
    }
    // Every number was raised to once, but for those that were lost and raised to again.
    let distinct = actors[0].1.book.raised_numbers();
    if !(distinct..=distinct + shared_unknown).contains(&shared) {
        return Err(format!("{shared} raised, {distinct} acknowledged and {shared_unknown} unknown"));
    }
    if count("soak:never").await? != 0 {
        return Err("a discarded transaction ran".into());
    }
    if replies < 10_000 || shared_acknowledged < 10 {
        return Err("the soak did nothing".into());
    }
    Ok(())
}

/// Nothing is left of clients that have gone.
async fn nothing_is_left(proxy: &mut Proxy) -> Result<(), String> {
    if !proxy.is_running() {
        return Err("pointsman has ended".into());
    }
    if std::fs::read_to_string(proxy.log()).unwrap().contains("panicked") {
        return Err("a task of pointsman panicked".into());
    }
    let metric = async |name: &str, label: &str| proxy.metric(name, label).await.map_err(|e| e.to_string());
    for (name, label) in
        [("pointsman_backend_protocol_errors_total", ""), ("pointsman_clients_closed_total", "internal")]
    {
        let n = metric(name, label).await?;
        if n != 0.0 {
            return Err(format!("{name} {label}: {n}"));
        }
    }
    let limit = Instant::now() + BASELINE_LIMIT;
    loop {
        let clients = metric("pointsman_clients", "").await?;
        let pinned = metric("pointsman_backend_connections", "pinned").await?;
        let waiting = metric("pointsman_commands_waiting", "").await?;
        if (clients, pinned, waiting) == (0.0, 0.0, 0.0) {
            return Ok(());
        }
        if Instant::now() > limit {
            return Err(format!("{clients} clients, {pinned} pinned, {waiting} waiting stay behind"));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Copies what tells what happened to where it outlives the cluster.
async fn keep_evidence(cluster: &Cluster, proxy: &Proxy, seed: u64) -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("soak-{seed}"));
    std::fs::create_dir_all(&kept).unwrap();
    for entry in std::fs::read_dir(cluster.dir()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let (log, copy) = if path.is_dir() { (path.join("log"), format!("{name}.log")) } else { (path, name) };
        // What is not there has nothing to tell.
        let _ = std::fs::copy(log, kept.join(copy));
    }
    for page in ["status", "metrics"] {
        let text = fetch(proxy.admin(), &format!("/{page}")).await.unwrap_or_else(|e| e.to_string());
        std::fs::write(kept.join(page), text).unwrap();
    }
    kept
}
