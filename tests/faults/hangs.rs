//! Masters that hang or are busy: for how long nobody notices, when it counts, and what becomes of late answers.

use std::time::Duration;

use pointsman::demo::cluster::{Member, Settings};
use pointsman::demo::observer::Observer;
use pointsman::demo::tally::Tally;
use pointsman::demo::wire::{Connection, Reply, elements, text};
use tokio::time::{Instant, sleep};

use crate::outcome::{CRASH, in_flight, tell, waiting};
use crate::rig::{PATIENCE, Rig};

/// The goal: from the stop to the hold.
const NOTICED_WITHIN: Duration = Duration::from_millis(500);

/// Sentinels that see no reason to do anything.
fn patient() -> Settings {
    Settings { down_after: Duration::from_secs(10), ..Settings::default() }
}

/// It is noticed soon, nothing is sent to it from then on, and nobody is the worse for it.
#[tokio::test]
async fn a_master_that_hangs_for_a_moment_is_noticed_and_costs_only_waiting() {
    let mut rig = Rig::start(patient(), &[]).await;
    let ledger = rig.ledger().await;
    let observer = Observer::start(&rig.cluster, None);
    for _ in 0..3 {
        // Its answers are late by as long as it hangs; those of the others tell what the machine adds.
        observer.noise();
        rig.cluster.pause(Member::Node(0)).unwrap();
        let hung = Instant::now();
        rig.until("held", |s| s["writes"]["flow"] == "held").await;
        let noticed = hung.elapsed();
        sleep(Duration::from_millis(900).saturating_sub(hung.elapsed())).await;
        let noise = observer.noise();
        rig.cluster.resume(Member::Node(0)).unwrap();
        let woken = Instant::now();
        assert_eq!(rig.until_flowing(1).await, 0);
        eprintln!(
            "noticed after {noticed:?}, flows {:?} after it woke; the machine added up to {noise:?}",
            woken.elapsed()
        );
        assert!(noticed < NOTICED_WITHIN + 2 * noise, "{noticed:?}\n{}", rig.evidence());
        rig.write_on(&ledger).await;
    }
    let scenario = ("6", "master hangs for 0.9 s, three times");
    rig.settle(scenario, &ledger, 0, waiting(Duration::from_secs(3))).await;
}

/// It wakes in the worst moment: a replica is promoted already and nobody has said so. What it carries out and answers
/// then acknowledges nothing, and shows nothing that is gone with it.
#[tokio::test]
async fn a_master_that_wakes_between_promotion_and_commit_acknowledges_nothing() {
    const CLIENTS: usize = 20;
    let mut rig = Rig::start(Settings::default(), &[]).await;
    let ledger = rig.ledger().await;
    let (mut clients, mut readers): (Vec<Connection>, Vec<Connection>) = (Vec::new(), Vec::new());
    for i in 0..CLIENTS {
        let mut client = rig.client().await;
        assert_eq!(text(&client.call(&["SET", &format!("last:{i}"), "0"], PATIENCE).await.unwrap()), "OK");
        clients.push(client);
        readers.push(rig.client().await);
    }
    let mut replicas = [Member::Node(1), Member::Node(2)].map(|_| None);
    for (i, replica) in replicas.iter_mut().enumerate() {
        *replica = Some(rig.cluster.connect(Member::Node(i + 1)).await.unwrap());
    }
    rig.cluster.pause(Member::Node(0)).unwrap();
    for (i, client) in clients.iter_mut().enumerate() {
        client.send(&["INCR", &format!("last:{i}")]).await.unwrap();
        // Behind it, or at least some of them.
        readers[i].send(&["GET", &format!("last:{i}")]).await.unwrap();
    }
    let end = Instant::now() + PATIENCE;
    'promoted: loop {
        for (i, replica) in replicas.iter_mut().enumerate() {
            let member = Member::Node(i + 1);
            // The promotion ends its connections.
            let role = match replica {
                Some(connection) => connection.call(&["ROLE"], Duration::from_secs(1)).await.ok(),
                None => None,
            };
            match role {
                Some(role) if text(&elements(&role)[0]) == "master" => break 'promoted,
                Some(_) => {}
                None => *replica = rig.cluster.connect(member).await.ok(),
            }
        }
        assert!(Instant::now() < end, "nobody was promoted");
        sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(rig.service().await["generation"], 1, "no commit yet: else this test proves nothing");
    rig.cluster.resume(Member::Node(0)).unwrap();
    let woken = Instant::now();
    let new = rig.until_flowing(2).await;
    let committed = woken.elapsed();

    let (mut answered, mut closed) = (0, 0);
    let mut direct = rig.cluster.connect(Member::Node(new)).await.unwrap();
    for (i, client) in clients.iter_mut().enumerate() {
        let stored = text(&direct.call(&["GET", &format!("last:{i}")], PATIENCE).await.unwrap());
        match tokio::time::timeout(PATIENCE, client.receive()).await.expect("an answer or an end") {
            Ok(reply) => {
                assert_eq!((reply, stored.as_str()), (Reply::Integer(1), "1"), "the answer is the new master's");
                answered += 1;
            }
            Err(_) => {
                assert_eq!(stored, "0", "of unknown outcome, and not sent again");
                closed += 1;
            }
        }
        let read = tokio::time::timeout(PATIENCE, readers[i].receive()).await.expect("an answer").unwrap();
        assert!(["0", &stored].contains(&text(&read).as_str()), "{read:?} was read, of a write that is gone");
    }
    let executed = rig.traffic(0).await;
    eprintln!(
        "woken {committed:?} before the commit: of {CLIENTS} writes {closed} went into it, {answered} waited; {executed:?}"
    );
    assert!(closed > 0, "none had reached it");
    rig.gets_nothing_until_demoted(0).await;
    let scenario = ("5", "hung master wakes between promotion and commit");
    rig.settle(scenario, &ledger, new, in_flight(CRASH)).await;
}

/// Nobody waits for a master that hangs for longer than for one that is not there: what reached it ends as well.
#[tokio::test]
async fn what_a_hung_master_was_sent_ends_as_soon_as_what_was_held() {
    const HOLD: Duration = Duration::from_secs(2);
    // Writes have as long as a commit may take: of them nobody can say what became.
    const CONFIRM: Duration = Duration::from_secs(3);
    let keys = "hold_timeout = \"2s\"\nconfirm_timeout = \"3s\"\n";
    let mut rig = Rig::start_configured(patient(), keys).await;
    let (mut reader, mut writer) = (rig.client().await, rig.client().await);
    // There is a connection to write it to then.
    assert_eq!(text(&writer.call(&["SET", "k", "0"], PATIENCE).await.unwrap()), "OK");
    // On a connection of its own, so that no write keeps it waiting.
    assert_eq!(text(&reader.call(&["WATCH", "k"], PATIENCE).await.unwrap()), "OK");
    rig.cluster.pause(Member::Node(0)).unwrap();
    let hung = Instant::now();
    reader.send(&["GET", "k"]).await.unwrap();
    writer.send(&["INCR", "k"]).await.unwrap();
    let refusal = tokio::time::timeout(PATIENCE, reader.receive()).await.expect("an answer").unwrap();
    let refused = hung.elapsed();
    let Reply::Error(said) = refusal else { panic!("it was answered: {refusal:?}") };
    assert!(said.starts_with("MASTERDOWN pointsman: "), "{said}");
    let unknown = tokio::time::timeout(PATIENCE, writer.receive()).await.expect("an end");
    let closed = hung.elapsed();
    assert!(unknown.is_err(), "{unknown:?}");
    eprintln!("hung master: the read was refused after {refused:?}, the writer was closed after {closed:?}");
    // Noticed, held, and a look ten times a second.
    let late = NOTICED_WITHIN + Duration::from_millis(1500);
    assert!((HOLD..HOLD + late).contains(&refused), "{refused:?}\n{}", rig.evidence());
    assert!((CONFIRM..CONFIRM + late).contains(&closed), "{closed:?}\n{}", rig.evidence());
    rig.cluster.resume(Member::Node(0)).unwrap();
    assert_eq!(rig.until_flowing(1).await, 0);
    // The client's connection is good; the write has run, or its connection was cut before the server had it.
    let read = text(&reader.call(&["GET", "k"], PATIENCE).await.unwrap());
    assert!(["0", "1"].contains(&read.as_str()), "{read}");
}

/// A script that runs for `time` while everybody waits; what its client was told.
async fn busy(rig: &Rig, time: Duration) -> std::io::Result<Reply> {
    const BUSY: &str = "local t = redis.call('TIME') local ends = t[1] * 1000 + t[2] / 1000 + ARGV[1] \
         repeat t = redis.call('TIME') until t[1] * 1000 + t[2] / 1000 > ends return redis.call('INCR', KEYS[1])";
    rig.client().await.call(&["EVAL", BUSY, "1", "busy", &time.as_millis().to_string()], PATIENCE).await
}

/// Redis itself loses patience after 5 s, and answers what is under way with `-BUSY`, unless it is told not to.
#[tokio::test]
async fn a_slow_command_is_not_a_dead_master() {
    let settings = Settings { redis_lines: vec!["busy-reply-threshold 20000".into()], ..patient() };
    let rig = Rig::start(settings, &[]).await;
    let ledger = rig.ledger().await;
    let began = Instant::now();
    let answered = busy(&rig, Duration::from_millis(5500)).await.unwrap();
    assert_eq!(answered, Reply::Integer(1), "{}", rig.evidence());
    assert_eq!(rig.until_flowing(1).await, 0);
    eprintln!("a script of 5.5 s: answered and flowing again after {:?}", began.elapsed());
    let scenario = ("P", "a script of 5.5 s, down-after 10 s");
    rig.settle(scenario, &ledger, 0, waiting(Duration::from_secs(8))).await;
    assert!(
        rig.service().await["failovers_total"].as_array().unwrap().iter().all(|t| t[0] == "interruption" || t[1] == 0)
    );
}

/// Sentinel thinks otherwise, and replaces the master: then it is like one that hangs.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn a_slow_command_that_sentinel_takes_for_death_loses_nothing() {
    let rig = Rig::start(Settings::default(), &[]).await;
    let ledger = rig.ledger().await;
    let answered = busy(&rig, Duration::from_millis(4500)).await;
    let new = rig.until_flowing(2).await;
    assert!(answered.is_err(), "of unknown outcome: {answered:?}");
    assert_eq!(text(&rig.ask(&["GET", "busy"]).await), "", "not sent again");
    rig.gets_nothing_until_demoted(0).await;
    rig.settle(("P", "a script of 4.5 s, down-after 1 s"), &ledger, new, in_flight(CRASH)).await;
}

/// As on a big database: one command of seconds that nobody can do anything about.
#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn a_big_keys_is_waited_for() {
    let settings = Settings { redis_lines: vec!["enable-debug-command local".into()], ..patient() };
    let rig = Rig::start(settings, &[]).await;
    rig.tell(Member::Node(0), &["DEBUG", "POPULATE", "1500000"]).await;
    let mut client = rig.client().await;
    let began = Instant::now();
    let keys = client.call(&["KEYS", "*"], PATIENCE).await.unwrap();
    assert_eq!(elements(&keys).len(), 1_500_000);
    assert_eq!(rig.until_flowing(1).await, 0);
    let mut tally = Tally { commands: 1, ..Tally::default() };
    tally.read_stall.length = began.elapsed();
    tell("P", "KEYS of 1,500,000 keys, down-after 10 s", &tally);
}
