//! Many clients at once: no storm of connects, memory that is bounded, and nobody forgotten.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pointsman::demo::cluster::{Member, Settings};
use pointsman::demo::proxy::fetch;
use pointsman::demo::tally::Tally;
use pointsman::demo::wire::{Connection, Reply, elements, text};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::outcome::tell;
use crate::rig::{PATIENCE, Rig, last_record};

const MIB: u64 = 1 << 20;

/// From the commit to the answer of the last of 5,000 clients, unless the machine is so busy that half of it is too little for as
/// many who wait for nothing.
const SERVED_WITHIN: Duration = Duration::from_millis(250);
/// What a scrape may cost the workers with 5,000 clients.
const SCRAPE: Duration = Duration::from_millis(2);
/// What a waiting client may cost; its command is in buffers that it has anyway.
const HELD_BYTES: u64 = 8 << 10;

/// Connections that each have been answered once. Each is an open file here, and a shell permits 1024 by itself.
async fn crowd(rig: &Rig, n: usize) -> Vec<Connection> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let mut clients = Vec::new();
    for i in 0..n {
        let mut client = rig.client().await;
        assert_eq!(text(&client.call(&["SET", &format!("c:{i}"), "0"], PATIENCE).await.unwrap()), "OK");
        clients.push(client);
    }
    clients
}

/// What the workers have computed, all together, while they run.
fn worker_time(process: u32) -> Duration {
    let mut ns = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let task = task.unwrap().path();
        let read = |file| std::fs::read_to_string(task.join(file)).unwrap();
        if read("comm").starts_with("worker-") {
            // The first of its numbers: nanoseconds on a CPU.
            ns += read("schedstat").split(' ').next().unwrap().parse::<u64>().unwrap();
        }
    }
    Duration::from_nanos(ns)
}

/// What one scrape takes from the workers, who do nothing else meanwhile.
async fn scrape_cost(rig: &Rig) -> Duration {
    const SCRAPES: u32 = 20;
    let before = worker_time(rig.proxy.id());
    for _ in 0..SCRAPES {
        fetch(rig.proxy.admin(), "/metrics").await.unwrap();
    }
    (worker_time(rig.proxy.id()) - before) / SCRAPES
}

async fn metric(rig: &Rig, name: &str) -> u64 {
    rig.proxy.metric(name, "").await.unwrap() as u64
}

/// When the last record ended, by the time of day.
fn ended(service: &Value) -> Duration {
    let record = last_record(service);
    let (began, lasted) = (record["began"].as_str().unwrap(), record["lasted_ms"].as_u64().unwrap());
    // 2026-11-21T12:09:51.362Z; the day is that of today, or else the test is repeated tomorrow.
    let part = |range: std::ops::Range<usize>| began[range].parse::<u64>().unwrap();
    let of_day =
        Duration::from_millis(part(11..13) * 3_600_000 + part(14..16) * 60_000 + part(17..19) * 1000 + part(20..23));
    of_day + Duration::from_millis(lasted)
}

fn now_of_day() -> Duration {
    const DAY: u64 = 86_400_000;
    Duration::from_millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64 % DAY)
}

/// How long the machine takes, as busy as it is, to answer each of them once where nobody waits for anything.
async fn unhindered(clients: Vec<Connection>) -> Duration {
    let began = Instant::now();
    let mut asking = JoinSet::new();
    for mut client in clients {
        asking.spawn(async move {
            assert_eq!(client.call(&["GET", "nothing"], PATIENCE).await.unwrap(), Reply::Null);
            client
        });
    }
    asking.join_all().await;
    began.elapsed()
}

/// All of them wait with a write.
async fn switch(kill: bool) {
    const CLIENTS: usize = 5000;
    let mut rig = Rig::start(Settings::default(), &[]).await;
    let clients = crowd(&rig, CLIENTS).await;
    let scrape = scrape_cost(&rig).await;
    assert!(scrape < SCRAPE, "a scrape costs the workers {scrape:?}");
    let (connects, resident) =
        (metric(&rig, "pointsman_backend_connects_total").await, rig.proxy.resident_bytes().unwrap());
    if kill {
        rig.cluster.kill(Member::Node(0)).unwrap();
    } else {
        rig.cluster.failover(0).await.unwrap();
    }
    rig.until("held", |s| s["writes"]["flow"] == "held").await;
    let began = Instant::now();
    let sent = Arc::new(Barrier::new(CLIENTS + 1));
    let mut waiting = JoinSet::new();
    for (i, mut client) in clients.into_iter().enumerate() {
        let sent = Arc::clone(&sent);
        waiting.spawn(async move {
            client.send(&["INCR", &format!("c:{i}")]).await.unwrap();
            sent.wait().await;
            let reply = timeout(PATIENCE, client.receive()).await.expect("an answer").unwrap();
            assert_eq!(reply, Reply::Integer(1));
            (now_of_day(), client)
        });
    }
    sent.wait().await;
    let asked = began.elapsed();
    // What was sent has still to be read there.
    let held = loop {
        let held = metric(&rig, "pointsman_commands_waiting").await;
        if held == CLIENTS as u64 || rig.service().await["writes"]["flow"] != "held" {
            break held;
        }
        sleep(Duration::from_millis(20)).await;
    };
    let grown = rig.proxy.resident_bytes().unwrap().saturating_sub(resident);
    let (mut last, mut clients) = (Duration::ZERO, Vec::new());
    while let Some(done) = waiting.join_next().await {
        let (at, client) = done.unwrap();
        last = last.max(at);
        clients.push(client);
    }
    let stall = began.elapsed();
    let new = rig.until_flowing(2).await;
    let service = rig.service().await;
    let after = last.saturating_sub(ended(&service));
    let connects = metric(&rig, "pointsman_backend_connects_total").await - connects;
    let how = if kill { "kill -9" } else { "planned failover" };
    eprintln!(
        "{how}: a scrape costs the workers {scrape:?}; {held} of {CLIENTS} held (sent in {asked:?}), {} KiB more memory; the last was answered {after:?} after the commit; {connects} backend connects",
        grown >> 10
    );
    let mut direct = rig.cluster.connect(Member::Node(new)).await.unwrap();
    let mut tally = Tally { acknowledged: CLIENTS as u64, ..Tally::default() };
    tally.write_stall.length = stall;
    for i in 0..CLIENTS {
        match text(&direct.call(&["GET", &format!("c:{i}")], PATIENCE).await.unwrap()).as_str() {
            "1" => {}
            "2" => tally.doubled += 1,
            _ => tally.lost += 1,
        }
    }
    tell("K", &format!("{CLIENTS} clients wait through a {how}"), &tally);
    assert_eq!((tally.lost, tally.doubled), (0, 0));
    assert!(held > CLIENTS as u64 / 2, "most were still sending when it was over: {held}");
    assert!(grown < CLIENTS as u64 * HELD_BYTES + 4 * MIB, "{grown} bytes more");
    assert!(connects <= 8, "{connects} connects for shared connections of two workers");
    let unhindered = unhindered(clients).await;
    assert!(after < SERVED_WITHIN.max(unhindered * 2), "{after:?}, unhindered {unhindered:?}\n{}", rig.evidence());
}

#[tokio::test]
async fn five_thousand_wait_through_a_planned_failover() {
    switch(false).await;
}

#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn five_thousand_wait_through_a_crash() {
    switch(true).await;
}

/// Each has a connection of its own, and wants another on the new master. One element then wakes one of them.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn five_hundred_blocked_pops_are_blocked_again() {
    const BLOCKED: usize = 500;
    let rig = Rig::start(Settings::default(), &[]).await;
    let mut popping = JoinSet::new();
    for _ in 0..BLOCKED {
        let mut client = rig.client().await;
        popping.spawn(async move {
            let popped = client.call(&["BLPOP", "list", "0"], 2 * PATIENCE).await.unwrap();
            text(&elements(&popped)[1])
        });
    }
    blocked(&rig, 0, BLOCKED).await;
    let before = metric(&rig, "pointsman_backend_connects_total").await;
    let began = Instant::now();
    rig.cluster.failover(0).await.unwrap();
    let new = rig.until_flowing(2).await;
    blocked(&rig, new, BLOCKED).await;
    let again = began.elapsed();
    let connects = metric(&rig, "pointsman_backend_connects_total").await - before;
    eprintln!("{BLOCKED} blocked again after {again:?}; {connects} connects");
    assert!(connects <= BLOCKED as u64 + 8, "{connects} connects");
    let mut client = rig.client().await;
    for n in 0..BLOCKED {
        assert_eq!(client.call(&["RPUSH", "list", &n.to_string()], PATIENCE).await.unwrap(), Reply::Integer(1));
        let popped = popping.join_next().await.unwrap().unwrap();
        assert_eq!(popped, n.to_string(), "one element wakes one client, and is its own");
    }
    let mut tally = Tally { acknowledged: 2 * BLOCKED as u64, ..Tally::default() };
    tally.write_stall.length = again;
    tell("25", "500 clients blocked in BLPOP, planned failover", &tally);
}

/// Waits until so many clients are blocked on a node.
async fn blocked(rig: &Rig, node: usize, n: usize) {
    let end = Instant::now() + PATIENCE;
    loop {
        let info = rig.cluster.ask(Member::Node(node), &["INFO", "clients"]).await.unwrap();
        let blocked = pointsman::demo::wire::info_field(&info, "blocked_clients").unwrap();
        if blocked == n.to_string() {
            return;
        }
        assert!(Instant::now() < end, "{blocked} of {n} are blocked\n{}", rig.evidence());
        sleep(Duration::from_millis(10)).await;
    }
}

/// All hear what is published through the new master, once, and nothing of the switch. A machine with too much else to do
/// does not have them all back within the time that writes wait for them, and pointsman says so.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn a_thousand_subscribers_notice_nothing() {
    const SUBSCRIBERS: usize = 1000;
    let rig = Rig::start(Settings::default(), &[]).await;
    let mut subscribers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let mut client = rig.client().await;
        client.call(&["SUBSCRIBE", "news"], PATIENCE).await.unwrap();
        subscribers.push(client);
    }
    let mut publisher = rig.client().await;
    let mut publish = async |message: &str| publisher.call(&["PUBLISH", "news", message], PATIENCE).await.unwrap();
    assert_eq!(publish("before").await, Reply::Integer(SUBSCRIBERS as i64));
    rig.cluster.failover(0).await.unwrap();
    rig.until("held", |s| s["writes"]["flow"] == "held").await;
    let began = Instant::now();
    let heard = publish("after").await;
    let stall = began.elapsed();
    rig.until_flowing(2).await;
    let end = Instant::now() + PATIENCE;
    while publish("end").await != Reply::Integer(SUBSCRIBERS as i64) {
        assert!(Instant::now() < end, "not all are subscribed again\n{}", rig.evidence());
    }
    let mut told = 0;
    for subscriber in &mut subscribers {
        let mut messages = Vec::new();
        while messages.last().is_none_or(|m| m != "end") {
            let message = timeout(PATIENCE, subscriber.receive()).await.expect("a message").unwrap();
            let words: Vec<String> = elements(&message).iter().map(text).collect();
            assert_eq!(words[..2], ["message", "news"], "no second confirmation");
            messages.push(words[2].clone());
        }
        messages.retain(|m| m != "end");
        told += i64::from(messages.len() == 2);
        assert_eq!(messages, ["before", "after"][..messages.len()], "each once\n{}", rig.evidence());
    }
    eprintln!("published in the failover: {heard:?} of {SUBSCRIBERS} heard it, {stall:?} later");
    let mut tally = Tally { acknowledged: 3, ..Tally::default() };
    tally.write_stall.length = stall;
    tell("26", "1,000 subscribers, planned failover", &tally);
    assert_eq!(heard, Reply::Integer(told), "so many were told");
    let in_time = !std::fs::read_to_string(rig.proxy.log()).unwrap().contains("scripts and subscriptions are all back");
    assert!(told == SUBSCRIBERS as i64 || !in_time, "{told} of {SUBSCRIBERS}\n{}", rig.evidence());
}
