//! The Sentinel tasks against real Sentinels.

use std::net::SocketAddr;
use std::time::Duration;

use crate::sentinels::{Reports, SOON, password, user};
use pointsman::addr::{AddressMap, Endpoint};
use pointsman::config::Credentials;
use pointsman::demo::cluster::{Cluster, Member, Settings};
use pointsman::demo::wire::{Connection, Reply, elements, text};
use pointsman::net::{Dialer, Resolver};
use pointsman::sentinel::{PING_INTERVAL, Peer, SentinelEvent, SentinelTask, Trouble};
use pointsman::topology::{Event, Message, SentinelId, View};
use tokio::sync::watch;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
/// A pace that is never due: what comes is asked for, or published.
const NEVER: Duration = Duration::from_secs(3600);
const SENTINEL: Member = Member::Sentinel(0);
const ID: SentinelId = SentinelId(0);

/// One node and one Sentinel.
fn small() -> Settings {
    Settings { replicas: 0, sentinels: 1, quorum: 1, ..Settings::default() }
}

/// Starts a Sentinel task that polls every `pace`.
fn sentinel(
    reports: &Reports,
    id: u16,
    endpoint: impl Into<Endpoint>,
    service: &str,
    credentials: Option<Credentials>,
    pace: Duration,
) -> watch::Sender<Duration> {
    let (sender, pace) = watch::channel(pace);
    let (endpoint, service) = (endpoint.into(), service.to_owned());
    reports.start(|events, cancel| {
        let resolver = Resolver::default();
        let dialer = Dialer::new(AddressMap::default(), SECOND, resolver.clone());
        let id = SentinelId(id);
        SentinelTask { id, endpoint, service, credentials, resolver, dialer, pace, events }.run(cancel)
    });
    sender
}

fn view(event: &SentinelEvent) -> Option<(SentinelId, View)> {
    match event {
        SentinelEvent::Machine(Event::View(id, view)) => Some((*id, view.clone())),
        _ => None,
    }
}

fn published(event: &SentinelEvent) -> Option<(SentinelId, Message)> {
    match event {
        SentinelEvent::Machine(Event::Published(id, message)) => Some((*id, message.clone())),
        _ => None,
    }
}

fn trouble(event: &SentinelEvent) -> Option<Option<Trouble>> {
    match event {
        SentinelEvent::Trouble { trouble, .. } => Some(trouble.clone()),
        _ => None,
    }
}

fn is(expected: Event) -> impl Fn(&SentinelEvent) -> Option<()> {
    move |event| (*event == SentinelEvent::Machine(expected.clone())).then_some(())
}

async fn command(cluster: &Cluster, member: Member, command: &[&str]) {
    let reply = cluster.ask(member, command).await.unwrap();
    assert!(!matches!(reply, Reply::Error(_)), "{command:?}: {reply:?}");
}

/// A subscriber without any of our code between it and the Sentinel: when it hears `channel`.
async fn hears(cluster: &Cluster, channel: &'static str) -> tokio::task::JoinHandle<Instant> {
    let mut connection: Connection = cluster.connect(SENTINEL).await.unwrap();
    connection.call(&["SUBSCRIBE", channel], SOON).await.unwrap();
    tokio::spawn(async move {
        let message = connection.receive().await.unwrap();
        assert_eq!(text(&elements(&message)[1]), channel);
        Instant::now()
    })
}

#[tokio::test]
async fn a_planned_failover_is_heard_in_order_and_without_delay() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let (nodes, sentinels) = (cluster.nodes(), cluster.sentinels());
    let mut reports = Reports::new();
    let mut paces = Vec::new();
    for (id, address) in (0..).zip(&sentinels) {
        paces.push(sentinel(&reports, id, *address, cluster.service(), None, SECOND));
    }

    // In hearing: who they are, whom they know, what they see.
    let (mut up, mut ids, mut peers, mut views) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    while views.len() < 3 || peers.len() < 3 {
        let event = reports.until("event", SOON, |e| Some(e.clone())).await;
        match event {
            SentinelEvent::Machine(Event::SentinelUp(id)) => up.push(id),
            SentinelEvent::Machine(Event::View(id, view)) if !views.contains(&id) => {
                assert!(up.contains(&id), "a view before it is up");
                assert_eq!((view.master, view.epoch, view.quorum), (nodes[0], 0, 2));
                assert_eq!((view.failover_in_progress, view.master_down), (false, false));
                assert_eq!(view.down_after, SECOND);
                let mut replicas: Vec<SocketAddr> = view.replicas.iter().map(|r| r.node).collect();
                replicas.sort_unstable();
                let mut expected = nodes[1..].to_vec();
                expected.sort_unstable();
                assert_eq!(replicas, expected);
                assert!(view.replicas.iter().all(|r| r.reachable && r.link_up && r.priority == 100));
                views.push(id);
            }
            SentinelEvent::Identity { run_id, .. } => ids.push(run_id),
            SentinelEvent::Peers { id, peers: list } => {
                let others = sentinels.iter().enumerate().filter(|(n, _)| *n != usize::from(id.0));
                let mut others: Vec<Endpoint> = others.map(|(_, a)| Endpoint::from(*a)).collect();
                let mut listed: Vec<Endpoint> = list.iter().map(|p: &Peer| p.endpoint.clone()).collect();
                others.sort();
                listed.sort();
                assert_eq!(listed, others);
                assert!(list.iter().all(|p| p.reachable));
                peers.push(list);
            }
            _ => {}
        }
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3, "{ids:?}");
    for peer in peers.iter().flatten() {
        assert!(ids.contains(peer.run_id.as_ref().unwrap()), "{peer:?}");
    }

    let heard = hears(&cluster, "+selected-slave").await;
    reports.drain();
    cluster.failover(0).await.unwrap();
    let mut leader = Vec::new();
    let (mut selected_at, mut promoted_at, mut flipped_at) = (None, None, None);
    loop {
        let event = reports.until("event of the failover", 15 * SECOND, |e| Some(e.clone())).await;
        if let Some((ID, message)) = published(&event) {
            match &message {
                Message::ConfigChanged | Message::NewEpoch(_) | Message::RoleChange(_) => continue,
                Message::SelectedSlave(_) => selected_at = Some(Instant::now()),
                Message::PromotedSlave(_) => promoted_at = Some(Instant::now()),
                _ => {}
            }
            let done = matches!(message, Message::SwitchMaster { .. });
            leader.push(message);
            if done {
                break;
            }
        }
        if let Some((ID, view)) = view(&event)
            && view.master != nodes[0]
        {
            assert_eq!(view.epoch, 1);
            flipped_at.get_or_insert_with(Instant::now);
        }
    }
    let Message::SelectedSlave(candidate) = leader[2] else { panic!("{leader:?}") };
    assert!(nodes[1..].contains(&candidate));
    assert_eq!(
        leader,
        [
            Message::TryFailover,
            Message::ElectedLeader,
            Message::SelectedSlave(candidate),
            Message::WaitPromotion(candidate),
            Message::PromotedSlave(candidate),
            Message::FailoverEnd,
            Message::SwitchMaster { old: nodes[0], new: candidate },
        ]
    );
    // The margin is for this machine; a poll interval, or a look-up, would be more.
    let delay = selected_at.unwrap().saturating_duration_since(heard.await.unwrap());
    assert!(delay < Duration::from_millis(50), "+selected-slave came {delay:?} late");
    // Asked at once after +promoted-slave, not only at the next turn of the second, which is a second away.
    let flip = flipped_at.unwrap().saturating_duration_since(promoted_at.unwrap());
    assert!(flip < Duration::from_millis(250), "the new view came {flip:?} after +promoted-slave");
}

#[tokio::test]
async fn a_sentinel_with_a_password() {
    let acl = "user proxy on >pw resetchannels &+* &-* -@all +auth +ping +subscribe +psubscribe \
               +sentinel|get-master-addr-by-name +sentinel|master +sentinel|replicas +sentinel|sentinels +sentinel|myid";
    let silent = "user deaf on >pw resetchannels -@all +auth +ping +subscribe +psubscribe +sentinel";
    let settings = Settings {
        sentinel_password: Some("watch".into()),
        sentinel_lines: vec![acl.into(), silent.into()],
        ..small()
    };
    let cluster = Cluster::start(settings).await.unwrap();
    for (credentials, code) in [
        (None, "NOAUTH"),
        (password("wrong"), "WRONGPASS"),
        (user("nobody", "watch"), "WRONGPASS"),
        (user("deaf", "pw"), "NOPERM"),
    ] {
        let mut reports = Reports::new();
        let _pace = sentinel(&reports, 0, cluster.addr(SENTINEL), cluster.service(), credentials, SECOND);
        match reports.until("trouble", SOON, trouble).await {
            Some(Trouble::Authentication(error)) => assert!(error.starts_with(code), "{error}"),
            other => panic!("{code}: {other:?}"),
        }
        assert_eq!(reports.seen.len(), 1, "nothing else is said, and this once: {:?}", reports.seen);
    }
    for credentials in [password("watch"), user("proxy", "pw")] {
        let mut reports = Reports::new();
        let _pace = sentinel(&reports, 0, cluster.addr(SENTINEL), cluster.service(), credentials, SECOND);
        reports.until("view", SOON, view).await;
        let set = ["SENTINEL", "SET", cluster.service(), "parallel-syncs", "1"];
        command(&cluster, SENTINEL, &set).await;
        assert_eq!(reports.until("message", SOON, published).await, (ID, Message::ConfigChanged));
    }
}

#[tokio::test]
async fn credentials_that_nobody_asks_for_do_no_harm() {
    let cluster = Cluster::start(small()).await.unwrap();
    let mut reports = Reports::new();
    let _pace = sentinel(&reports, 0, cluster.addr(SENTINEL), cluster.service(), password("early"), SECOND);
    reports.until("view", SOON, view).await;
}

#[tokio::test]
async fn a_name_that_it_does_not_know_and_then_does() {
    let cluster = Cluster::start(small()).await.unwrap();
    let mut reports = Reports::new();
    let _pace = sentinel(&reports, 0, cluster.addr(SENTINEL), "other", None, NEVER);
    reports.until("up", SOON, is(Event::SentinelUp(ID))).await;
    reports.until("unknown name", SOON, is(Event::UnknownName(ID))).await;
    assert_eq!(reports.until("trouble", SOON, trouble).await, Some(Trouble::UnknownName("other".into())));

    let node = cluster.addr(Member::Node(0));
    let port = node.port().to_string();
    command(&cluster, SENTINEL, &["SENTINEL", "MONITOR", "other", "127.0.0.1", &port, "1"]).await;
    // Its announcement is enough to ask again at once, at any pace.
    assert_eq!(reports.until("view", SOON, view).await.1.master, node);
    assert_eq!(reports.until("end of trouble", SOON, trouble).await, None);

    command(&cluster, SENTINEL, &["SENTINEL", "REMOVE", "other"]).await;
    reports.until("unknown name", SOON, is(Event::UnknownName(ID))).await;
    assert!(!reports.seen.iter().any(|(_, e)| *e == SentinelEvent::Machine(Event::SentinelDown(ID))));
}

#[tokio::test]
async fn a_hung_sentinel_is_noticed_by_the_subscription_alone() {
    let mut cluster = Cluster::start(small()).await.unwrap();
    let mut reports = Reports::new();
    let _pace = sentinel(&reports, 0, cluster.addr(SENTINEL), cluster.service(), None, NEVER);
    reports.until("view", SOON, view).await;
    // Longer than an interval: the PINGs are answered, and silence between them is no fault.
    let quiet = tokio::time::timeout(3 * PING_INTERVAL, reports.until("down", SOON, is(Event::SentinelDown(ID)))).await;
    assert!(quiet.is_err());

    cluster.pause(SENTINEL).unwrap();
    let paused = Instant::now();
    reports.until("down", 2 * PING_INTERVAL + SECOND, is(Event::SentinelDown(ID))).await;
    assert!(paused.elapsed() < 2 * PING_INTERVAL + Duration::from_millis(250), "{:?}", paused.elapsed());
    assert_eq!(reports.until("trouble", SOON, trouble).await, Some(Trouble::Silent));

    cluster.resume(SENTINEL).unwrap();
    reports.until("up", SOON, is(Event::SentinelUp(ID))).await;
    reports.until("view", SOON, view).await;
    assert_eq!(reports.until("end of trouble", SOON, trouble).await, None);
}

#[tokio::test]
async fn a_dead_sentinel_and_its_return() {
    let mut cluster = Cluster::start(small()).await.unwrap();
    let mut reports = Reports::new();
    let pace = sentinel(&reports, 0, cluster.addr(SENTINEL), cluster.service(), None, SECOND);
    reports.until("view", SOON, view).await;
    cluster.kill(SENTINEL).unwrap();
    reports.until("down", SECOND, is(Event::SentinelDown(ID))).await;
    let is_refused = |e: &SentinelEvent| (trouble(e)? == Some(Trouble::Refused)).then_some(());
    reports.until("refusal", SOON, is_refused).await;

    cluster.restart(SENTINEL).await.unwrap();
    reports.drain();
    pace.send_replace(SECOND);
    reports.until("up", SOON, is(Event::SentinelUp(ID))).await;
    // Subscribed anew as well.
    command(&cluster, SENTINEL, &["SENTINEL", "SET", cluster.service(), "parallel-syncs", "1"]).await;
    reports.until("message", SOON, published).await;
}

#[tokio::test]
async fn one_that_has_too_many_clients_is_tried_again() {
    // Redis refuses less than 32 descriptors of its own beside the clients, but not few clients.
    let settings = Settings { sentinel_lines: vec!["maxclients 4".into()], ..small() };
    let cluster = Cluster::start(settings).await.unwrap();
    let mut others = Vec::new();
    // Those that the launcher closed just now may still be counted.
    while others.len() < 4 {
        let mut connection = cluster.connect(SENTINEL).await.unwrap();
        if matches!(connection.call(&["PING"], SOON).await, Ok(Reply::SimpleString(_))) {
            others.push(connection);
        }
    }
    let mut reports = Reports::new();
    let _pace = sentinel(&reports, 0, cluster.addr(SENTINEL), cluster.service(), None, SECOND);
    let refusal = reports.until("trouble", SOON, trouble).await;
    assert_eq!(refusal, Some(Trouble::Answered("ERR max number of clients reached".into())));
    drop(others);
    reports.until("up", SOON, is(Event::SentinelUp(ID))).await;
}

#[tokio::test]
async fn polls_keep_the_pace_and_can_be_asked_for() {
    let cluster = Cluster::start(small()).await.unwrap();
    let mut reports = Reports::new();
    let pace = sentinel(&reports, 0, cluster.addr(SENTINEL), cluster.service(), None, NEVER);
    reports.until("view", SOON, view).await;
    for _ in 0..3 {
        reports.drain();
        pace.send_replace(NEVER);
        reports.until("view", SOON, view).await;
    }
    pace.send_replace(Duration::from_millis(10));
    let began = Instant::now();
    for _ in 0..50 {
        reports.until("view", SOON, view).await;
    }
    let took = began.elapsed();
    assert!((Duration::from_millis(450)..3 * SECOND).contains(&took), "50 polls at 10 ms took {took:?}");
    let peers = reports.seen.iter().filter(|(_, e)| matches!(e, SentinelEvent::Peers { .. })).count();
    assert!(peers <= 1, "peers are said when they change");
}

#[tokio::test]
async fn names_are_resolved_in_views_and_messages() {
    let settings = Settings {
        replicas: 1,
        redis_lines: vec!["replica-announce-ip localhost".into()],
        sentinel_lines: vec!["sentinel resolve-hostnames yes".into(), "sentinel announce-hostnames yes".into()],
        ..small()
    };
    // Not `Cluster::start`'s own service: its master is named by address.
    let cluster = Cluster::start(settings).await.unwrap();
    let (master, replica) = (cluster.addr(Member::Node(0)), cluster.addr(Member::Node(1)));
    let port = master.port().to_string();
    command(&cluster, SENTINEL, &["SENTINEL", "MONITOR", "named", "localhost", &port, "1"]).await;
    let address = cluster.ask(SENTINEL, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "named"]).await.unwrap();
    assert_eq!(text(&elements(&address)[0]), "localhost", "the Sentinel announces names");

    let mut reports = Reports::new();
    let endpoint = Endpoint { host: "localhost".into(), port: cluster.addr(SENTINEL).port() };
    let _pace = sentinel(&reports, 0, endpoint, "named", None, Duration::from_millis(100));
    let has_replica = |e: &SentinelEvent| view(e).filter(|(_, view)| view.replicas.iter().any(|r| r.link_up));
    let (_, view) = reports.until("view with the replica", 15 * SECOND, has_replica).await;
    assert_eq!(view.master, master);
    assert_eq!(view.replicas[0].node, replica);

    command(&cluster, SENTINEL, &["SENTINEL", "FAILOVER", "named"]).await;
    let switch = |e: &SentinelEvent| match published(e)?.1 {
        Message::SwitchMaster { old, new } => Some((old, new)),
        _ => None,
    };
    assert_eq!(reports.until("switch", 15 * SECOND, switch).await, (master, replica));
    assert!(reports.seen.iter().any(|(_, e)| published(e) == Some((ID, Message::SelectedSlave(replica)))));
}
