//! The role probes against real nodes.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use crate::sentinels::{Reports, SOON, password, user};
use pointsman::addr::AddressMap;
use pointsman::clock::Moment;
use pointsman::config::Credentials;
use pointsman::demo::cluster::{Cluster, Member, Settings};
use pointsman::demo::wire::{Reply, info_field};
use pointsman::net::{Dialer, Resolver};
use pointsman::sentinel::{ProbeTask, SLOW_PATIENCE, SentinelEvent};
use pointsman::topology::{Event, FAST_PATIENCE, RoleAnswer};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

const FAST: Option<Duration> = Some(Duration::from_millis(5));
const SLOW: Option<Duration> = Some(Duration::from_secs(1));
const NODE: Member = Member::Node(0);

/// Starts a role probe.
fn probe(
    reports: &Reports,
    node: SocketAddr,
    credentials: Option<Credentials>,
    pace: Option<Duration>,
) -> watch::Sender<Option<Duration>> {
    let (sender, pace) = watch::channel(pace);
    reports.start(|events, cancel| {
        let resolver = Resolver::default();
        let dialer = Dialer::new(AddressMap::default(), Duration::from_secs(1), resolver.clone());
        ProbeTask { node, credentials, resolver, dialer, pace, events }.run(cancel)
    });
    sender
}

/// The next answer to ROLE of which `pick` makes something.
async fn role<T: Debug>(
    reports: &mut Reports,
    what: &str,
    within: Duration,
    mut pick: impl FnMut(&RoleAnswer) -> Option<T>,
) -> T {
    let answer = |event: &SentinelEvent| match event {
        SentinelEvent::Machine(Event::Role { answer, .. }) => pick(answer),
        _ => None,
    };
    reports.until(what, within, answer).await
}

fn master(answer: &RoleAnswer) -> Option<Option<String>> {
    match answer {
        RoleAnswer::Master { run_id, .. } => Some(run_id.clone()),
        _ => None,
    }
}

fn is(expected: RoleAnswer) -> impl Fn(&RoleAnswer) -> Option<()> {
    move |answer| (*answer == expected).then_some(())
}

fn error(answer: &RoleAnswer) -> Option<String> {
    match answer {
        RoleAnswer::Error(text) => Some(text.clone()),
        _ => None,
    }
}

const CLOSED: RoleAnswer = RoleAnswer::Silent { closed: true };
const SILENT: RoleAnswer = RoleAnswer::Silent { closed: false };

async fn run_id(cluster: &Cluster, member: Member) -> String {
    info_field(&cluster.ask(member, &["INFO", "server"]).await.unwrap(), "run_id").unwrap()
}

#[tokio::test]
async fn a_master_and_its_replica() {
    let settings = Settings {
        replicas: 1,
        sentinels: 0,
        redis_lines: vec!["replica-announce-ip localhost".into()],
        ..Settings::default()
    };
    let cluster = Cluster::start(settings).await.unwrap();
    let (node, replica) = (cluster.addr(NODE), cluster.addr(Member::Node(1)));

    let mut reports = Reports::new();
    let _pace = probe(&reports, node, None, FAST);
    // A replica that says connected is on its master's list only from its first acknowledgement on.
    let answer = |a: &RoleAnswer| match a {
        RoleAnswer::Master { offset, replicas, run_id, .. } if !replicas.is_empty() => {
            Some((*offset, replicas.clone(), run_id.clone()))
        }
        RoleAnswer::Master { .. } => None,
        other => panic!("{other:?}"),
    };
    let (offset, replicas, id) = role(&mut reports, "master with a replica", SOON, answer).await;
    assert_eq!(id, Some(run_id(&cluster, NODE).await));
    assert_eq!(replicas.iter().map(|(node, _)| *node).collect::<Vec<_>>(), [replica], "announced as localhost");
    assert!(replicas[0].1 <= offset);

    let mut reports = Reports::new();
    let _pace = probe(&reports, replica, None, SLOW);
    let answer = role(&mut reports, "answer", SOON, |a| Some(a.clone())).await;
    assert!(matches!(answer, RoleAnswer::Replica { of, connected: true, .. } if of == node), "{answer:?}");
}

#[tokio::test]
async fn a_killed_node_is_heard_at_once_and_its_return_is_another_process() {
    let mut cluster = Cluster::start(Settings::single()).await.unwrap();
    let mut reports = Reports::new();
    // A pace that is never due: neither the end nor the return must wait for it.
    let _pace = probe(&reports, cluster.addr(NODE), None, Some(Duration::from_secs(3600)));
    let first = role(&mut reports, "master", SOON, master).await.unwrap();

    let before = Moment::now();
    cluster.kill(NODE).unwrap();
    role(&mut reports, "end of the connection", Duration::from_millis(500), is(CLOSED)).await;
    role(&mut reports, "refusal", SOON, is(RoleAnswer::Refused)).await;
    for (_, event) in &reports.seen[1..] {
        let SentinelEvent::Machine(Event::Role { asked, .. }) = event else { panic!("{event:?}") };
        assert!(*asked >= before, "what is heard of the end is not older than it");
    }

    cluster.restart(NODE).await.unwrap();
    let second = role(&mut reports, "master", SOON, master).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(second, run_id(&cluster, NODE).await);
}

#[tokio::test]
async fn a_hung_node_is_silent_soon_at_a_fast_pace_and_later_at_a_slow_one() {
    let mut cluster = Cluster::start(Settings::single()).await.unwrap();
    let mut reports = Reports::new();
    let pace = probe(&reports, cluster.addr(NODE), None, FAST);
    for (interval, patience) in [(FAST, FAST_PATIENCE), (SLOW, SLOW_PATIENCE)] {
        pace.send_replace(interval);
        role(&mut reports, "master", SOON, master).await;
        cluster.pause(NODE).unwrap();
        reports.drain();
        pace.send_replace(interval);
        let paused = Instant::now();
        // Again and again, for as long as it lasts, and over a change of the connection.
        for n in 1..=4 {
            role(&mut reports, "silence", SOON, is(SILENT)).await;
            let due = patience * n;
            let late = paused.elapsed().saturating_sub(due);
            assert!(late < patience / 2 + Duration::from_millis(150), "silence {n} at {:?}", paused.elapsed());
        }
        assert!(paused.elapsed() > patience * 3, "silence is not said before its time");
        assert!(reports.seen.iter().all(|(_, e)| matches!(e, SentinelEvent::Machine(Event::Role { .. }))));
        cluster.resume(NODE).unwrap();
        let resumed = Instant::now();
        role(&mut reports, "master", SOON, master).await;
        assert!(resumed.elapsed() < Duration::from_millis(500), "{:?}", resumed.elapsed());
    }
}

#[tokio::test]
async fn a_faster_pace_shortens_the_patience_with_the_question_that_is_out() {
    let mut cluster = Cluster::start(Settings::single()).await.unwrap();
    let mut reports = Reports::new();
    let pace = probe(&reports, cluster.addr(NODE), None, SLOW);
    role(&mut reports, "master", SOON, master).await;
    cluster.pause(NODE).unwrap();
    reports.drain();
    pace.send_replace(SLOW);
    let asked = Instant::now();
    tokio::task::yield_now().await;
    pace.send_replace(FAST);
    role(&mut reports, "silence", SOON, is(SILENT)).await;
    assert!(asked.elapsed() < SLOW_PATIENCE / 2, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_connection_killed_under_it_is_replaced_at_once() {
    let cluster = Cluster::start(Settings::single()).await.unwrap();
    for interval in [FAST, SLOW] {
        let mut reports = Reports::new();
        let _pace = probe(&reports, cluster.addr(NODE), None, interval);
        role(&mut reports, "master", SOON, master).await;
        // Sentinel's own way at a promotion. A connection younger than half a second would count as failed.
        sleep(Duration::from_millis(600)).await;
        reports.drain();
        let killed = Instant::now();
        cluster.ask(NODE, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await.unwrap();
        role(&mut reports, "end of the connection", SOON, is(CLOSED)).await;
        role(&mut reports, "master", SOON, master).await;
        assert!(killed.elapsed() < Duration::from_millis(200), "{interval:?}: {:?}", killed.elapsed());
    }
}

#[tokio::test]
async fn the_pace_is_kept_and_can_be_off() {
    let cluster = Cluster::start(Settings::single()).await.unwrap();
    let mut reports = Reports::new();
    let pace = probe(&reports, cluster.addr(NODE), None, None);
    let asked = async || {
        let stats = cluster.ask(NODE, &["INFO", "commandstats"]).await.unwrap();
        let calls = info_field(&stats, "cmdstat_role").unwrap_or_default();
        calls.strip_prefix("calls=").and_then(|c| c.split(',').next()?.parse::<u32>().ok()).unwrap_or(0)
    };
    // The launcher asks ROLE too, but is done.
    let start = asked().await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(asked().await, start, "off");

    pace.send_replace(FAST);
    let began = Instant::now();
    for _ in 0..100 {
        role(&mut reports, "master", SOON, master).await;
    }
    let took = began.elapsed();
    pace.send_replace(None);
    assert!((Duration::from_millis(450)..Duration::from_secs(3)).contains(&took), "100 questions took {took:?}");

    // Off again, but for the question that may be out. Its answer closes the count.
    pace.send_replace(SLOW);
    reports.drain();
    pace.send_replace(SLOW);
    role(&mut reports, "master", SOON, master).await;
    pace.send_replace(None);
    let end = asked().await;
    assert!(end - start <= 110, "{} questions for 100 answers", end - start);
    sleep(Duration::from_millis(300)).await;
    assert_eq!(asked().await, end, "off again");
}

#[tokio::test]
async fn passwords() {
    let settings = Settings {
        password: Some("secret".into()),
        redis_lines: vec!["user probe on >pw +role +info".into(), "user blind on >pw +role".into()],
        ..Settings::single()
    };
    let cluster = Cluster::start(settings).await.unwrap();
    for (credentials, code) in
        [(None, "NOAUTH"), (password("wrong"), "WRONGPASS"), (user("probe", "secret"), "WRONGPASS")]
    {
        let mut reports = Reports::new();
        let _pace = probe(&reports, cluster.addr(NODE), credentials, FAST);
        assert_eq!(role(&mut reports, "error", SOON, error).await, code);
    }
    let id = run_id(&cluster, NODE).await;
    for (credentials, expected) in
        [(password("secret"), Some(id.clone())), (user("probe", "pw"), Some(id)), (user("blind", "pw"), None)]
    {
        let mut reports = Reports::new();
        let _pace = probe(&reports, cluster.addr(NODE), credentials, FAST);
        assert_eq!(role(&mut reports, "master", SOON, master).await, expected);
    }
    let open = Cluster::start(Settings::single()).await.unwrap();
    let mut reports = Reports::new();
    let _pace = probe(&reports, open.addr(NODE), password("early"), FAST);
    assert!(role(&mut reports, "master", SOON, master).await.is_some());
}

#[tokio::test]
async fn a_wrong_password_is_not_hammered_with() {
    let cluster = Cluster::start(Settings { password: Some("secret".into()), ..Settings::single() }).await.unwrap();
    let mut reports = Reports::new();
    let _pace = probe(&reports, cluster.addr(NODE), password("wrong"), FAST);
    let began = Instant::now();
    for _ in 0..8 {
        role(&mut reports, "error", SOON, error).await;
    }
    // Seven pauses of 50 ms at least; at the pace of the questions it would be 35 ms.
    assert!(began.elapsed() > Duration::from_millis(350), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_node_with_too_many_clients_says_so() {
    let cluster = Cluster::start(Settings::single()).await.unwrap();
    let mut admin = cluster.connect(NODE).await.unwrap();
    assert!(matches!(admin.call(&["CONFIG", "SET", "maxclients", "1"], SOON).await.unwrap(), Reply::SimpleString(_)));
    let mut reports = Reports::new();
    let _pace = probe(&reports, cluster.addr(NODE), None, FAST);
    assert_eq!(role(&mut reports, "error", SOON, error).await, "ERR max number of clients reached");
    admin.call(&["CONFIG", "SET", "maxclients", "100"], SOON).await.unwrap();
    role(&mut reports, "master", SOON, master).await;
}
