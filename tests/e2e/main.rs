//! Programs as users write them, in C, Perl, PHP, Python, JavaScript and shell, with the client libraries that they
//! use: at rest, through a planned failover and through a `kill -9`. All run side by side before one cluster.

#![allow(clippy::unwrap_used, reason = "what a test needs and does not get fails the test")]

#[path = "../operating/tls/certificates.rs"]
#[allow(dead_code, unreachable_pub, reason = "what other tests need of it")]
mod certificates;
mod errors;
mod ledger;
mod program;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod tls;

use std::time::Duration;

use errors::Provokers;
use ledger::Entry;
use pointsman::demo::cluster::Member;
use pointsman::resp::OwnError;
use program::{Program, Spec};
use stage::Stage;

/// Longest wait for a failover, for what follows it, and for a program's start. The machines are small and busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Entries in each ledger by which a program shows that it goes on.
const PROGRESS: usize = 10;

const PROGRAMS: &[Spec] = &[
    Spec::c("hiredis_sync"),
    Spec::c("hiredis_async"),
    Spec::perl("redis", "once"),
    Spec::perl("redis", "again").resends(),
    Spec::perl("redis", "careful"),
    Spec::php("phpredis", "connect"),
    Spec::php("phpredis", "pconnect"),
    Spec::php("predis", ""),
    Spec::php("request", "ledger"),
    // The worker takes a job again that it could not say it had done.
    Spec::php("laravel", "phpredis").resends(),
    Spec::php("laravel", "predis").resends(),
    Spec::python("sync_client", "2").resends(),
    Spec::python("sync_client", "3").resends(),
    Spec::python("sync_client", "once"),
    Spec::python("asyncio_client", "").resends(),
    Spec::python("pubsub", "2").resends(),
    Spec::python("pubsub", "3").resends(),
    Spec::node("ioredis", "again").resends(),
    Spec::node("ioredis", "once"),
    Spec::node("node-redis", ""),
    Spec::shell("redis_cli").resends(),
];

#[tokio::test]
async fn programs_go_on_through_failovers() {
    let mut stage = Stage::set().await;
    let mut programs: Vec<Program> = PROGRAMS.iter().map(|spec| stage.start(spec)).collect();
    goes_on(&mut programs, "at rest").await;
    let provokers = |error| Provokers::start(error, &stage.cluster, stage.proxy.listen());
    let transactions = provokers(OwnError::TransactionLost).await;
    let scans = provokers(OwnError::StaleCursor).await;
    let waits = provokers(OwnError::WaitUnknown).await;

    let old = stage.cluster.master().await.unwrap();
    stage.cluster.failover(0).await.unwrap();
    stage.cluster.wait_master_other_than(old, PATIENCE).await.unwrap();
    goes_on(&mut programs, "after a planned failover").await;
    for program in &programs {
        let noticed: Vec<_> = program.entries().into_iter().filter(|e| !matches!(e, Entry::Acknowledged(_))).collect();
        assert!(noticed.is_empty(), "{}: noticed a planned failover: {noticed:?}", program.name());
    }
    transactions.go().await;
    scans.go().await;
    waits.go().await;
    let old = stage.cluster.wait_settled(PATIENCE).await.unwrap();

    let before_kill: Vec<u64> = programs.iter().map(Program::last_id).collect();
    stage.cluster.kill(Member::Node(old)).unwrap();
    stage.cluster.wait_master_other_than(old, PATIENCE).await.unwrap();
    goes_on(&mut programs, "after a kill -9").await;

    for program in &programs {
        program.stop();
    }
    // On a machine that is busy enough Sentinel may have failed over once more.
    let master = stage.cluster.wait_settled(PATIENCE).await.unwrap();
    let mut wrong = Vec::new();
    for (mut program, before_kill) in programs.into_iter().zip(before_kill) {
        program.wait_end(PATIENCE).await;
        let held = stage.list(master, program.key()).await;
        let found = ledger::audit(program.entries(), program.resends, &held, before_kill);
        wrong.extend(found.into_iter().map(|what| format!("{}: {what}", program.name())));
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), stage.proxy.log_tail());
}

/// Until every program has written some more.
async fn goes_on(programs: &mut [Program], when: &str) {
    let goals: Vec<usize> = programs.iter().map(|p| p.acknowledged() + PROGRESS).collect();
    for (program, goal) in programs.iter_mut().zip(goals) {
        program.wait_acknowledged(goal, PATIENCE, when).await;
    }
}

/// php-fpm without persistent connections: each request connects, authenticates, selects its database, and closes. That
/// costs the backend no connects, and a planned failover as many as there are connections.
#[tokio::test]
async fn requests_that_connect_cost_no_backend_connects() {
    // Of two workers: those on which passwords are judged (docs/architecture.md), and a few that clients share.
    const MOST: f64 = 2.0 * (16.0 + 4.0);
    let stage = Stage::set().await;
    let connects = async || stage.proxy.metric("pointsman_backend_connects_total", "").await.unwrap();
    let mut storm = stage.start(&Spec::php("request", "storm"));
    storm.wait_said("ready", PATIENCE).await;
    let old = stage.cluster.master().await.unwrap();
    let at_rest = connects().await;
    assert!(at_rest <= MOST, "{at_rest} connects");
    stage.cluster.failover(0).await.unwrap();
    stage.cluster.wait_master_other_than(old, PATIENCE).await.unwrap();
    storm.stop();
    storm.wait_end(PATIENCE).await;
    let more = connects().await - at_rest;
    assert!(more <= MOST, "{more} connects\n{}", stage.proxy.log_tail());
}
