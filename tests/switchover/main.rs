//! The planned switchover on real servers: what clients notice of it, and that whatever goes wrong on the way leaves
//! everything as it was, or finished.

#![allow(clippy::unwrap_used, reason = "what a test needs and does not get fails the test")]

mod rig;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pointsman::demo::PLANNED;
use pointsman::demo::cluster::{Cluster, Member, Settings};
use pointsman::demo::wire::text;
use rustix::process::Signal;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use rig::{Direct, PATIENCE, Rig, Said, start_proxy};

/// Longest wait of a write.
const STALL: Duration = Duration::from_millis(300);
/// From the promotion to the last client's first success.
const RESUMED_WITHIN: Duration = Duration::from_millis(50);

#[tokio::test]
async fn nobody_loses_anything() {
    let mut rig = Rig::start(Settings::default()).await;
    rig.load().await;
    let direct = Direct::start(rig.addr(0), 4);
    rig.write_on().await;
    rig.observer.noise();
    let begun = Instant::now();
    let said = rig.switchover(&[]).await;
    let noise = rig.observer.noise();
    assert_eq!(said.code, Some(0), "{}\n{}", said.text, rig.proxy.log_tail());
    let tally = rig.audit(PLANNED).await;
    let master = rig.cluster.master().await.unwrap();
    assert_ne!(master, 0);
    let (written, end) = direct.settle_accounts(&rig, master).await;
    let promoted = rig.promoted(begun, 0);
    let resumed = tally.write_stall.end.unwrap();
    eprintln!(
        "{}{} writes through pointsman, {written} past it (ended by {end}), 0 lost; longest stall {:?}, until {:?} after the promotion; the machine added up to {noise:?}",
        said.text,
        tally.acknowledged,
        tally.write_stall.length,
        resumed.saturating_duration_since(promoted),
    );
    assert!(end.contains("READONLY"), "{end}");
    // Where Sentinel took longer than it does on an idle machine, what counts is how long pointsman took after it.
    let fits = tally.write_stall.length <= STALL || resumed <= promoted + RESUMED_WITHIN + 2 * noise;
    assert!(fits, "{:?}\n{}", tally.write_stall, said.text);
    assert_eq!(rig.role(0).await, "slave", "the old master follows at once");
    let record = rig.service().await["records"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(record["kind"], "switchover", "{record:#}");
    assert_eq!(record["offset_lost"]["bytes"], 0, "{record:#}");
}

/// There and back again, the way back to a chosen replica, as an operator would drill it.
#[tokio::test]
#[ignore = "half a minute; `make test-all` runs it"]
async fn a_drill_goes_there_and_back() {
    let mut rig = Rig::start(Settings::default()).await;
    rig.load().await;
    let said = rig.run(&["drill", "--service", "mymaster"]).await;
    assert_eq!(said.code, Some(0), "{}\n{}", said.text, rig.proxy.log_tail());
    assert!(said.text.contains("no client noticed more"), "{}", said.text);
    rig.audit(PLANNED).await;
    rig.until_settled().await;
    assert_eq!(rig.cluster.master().await.unwrap(), 0, "{}", said.text);
    assert_eq!(rig.priority(0).await, "100");
    let config = std::fs::read_to_string(rig.config(0)).unwrap();
    assert!(!config.contains("replica-priority 1\n"), "what was for the while is not in the file: {config}");
}

#[tokio::test]
async fn a_dry_run_says_and_does_nothing() {
    let rig = Rig::start(Settings::default()).await;
    let before = rig.service().await;
    let target = rig.addr(2).to_string();
    let said = rig.switchover(&["--dry-run", "--to", &target]).await;
    assert_eq!(said.code, Some(0), "{}", said.text);
    for part in
        ["is master, everybody follows", "Sentinels are in hearing", "REPLICAOF", "SENTINEL FAILOVER", "possible"]
    {
        assert!(said.text.contains(part), "{part}: {}", said.text);
    }
    assert_eq!(rig.service().await["records"], before["records"]);
    rig.is_as_before(&said).await;

    for (args, why) in [
        (["--to", "127.0.0.1:1"], "no replica that Sentinel knows"),
        (["--to", "no.such.host:1"], "no replica is known as"),
        (["--to", &rig.addr(0).to_string()], "is the master already"),
    ] {
        let said = rig.switchover(&args).await;
        assert_eq!(said.code, Some(75), "{}", said.text);
        assert!(said.text.contains(why), "{why}: {}", said.text);
    }
    let nobody = rig.run_at("127.0.0.1:1", &["switchover", "mymaster"]).await;
    assert_eq!(nobody.code, Some(69), "{}", nobody.text);
    assert!(nobody.text.contains("nothing listens on 127.0.0.1:1"), "{}", nobody.text);
    let other = rig.run(&["switchover", "another"]).await;
    assert!(other.code == Some(69) && other.text.contains("no service `another`"), "{}", other.text);
}

/// What pointsman's users may not do is found before anything is touched.
#[tokio::test]
async fn a_missing_right_is_said() {
    let user = "user proxy on >secret ~* &* +@all -client|pause".to_owned();
    let settings = Settings { redis_lines: vec![user], ..Settings::default() };
    let flags = |cluster: &Cluster| {
        let file = cluster.dir().join("password");
        std::fs::write(&file, "secret\n").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        ["--backend-user", "proxy", "--backend-password-file", file.to_str().unwrap()].map(str::to_owned).to_vec()
    };
    let rig = Rig::start_with(settings, flags).await;
    let said = rig.switchover(&[]).await;
    assert_eq!(said.code, Some(75), "{}", said.text);
    assert!(said.text.contains("does not permit CLIENT PAUSE … WRITE: NOPERM"), "{}", said.text);
    rig.is_as_before(&said).await;
    for (denied, to, named) in [
        ("+client|pause -replicaof", None, "does not permit REPLICAOF"),
        ("+replicaof -config|set", Some(rig.addr(1).to_string()), "does not permit CONFIG SET replica-priority"),
    ] {
        for node in 0..3 {
            let rule: Vec<&str> = ["ACL", "SETUSER", "proxy"].into_iter().chain(denied.split(' ')).collect();
            rig.ask(node, &rule).await;
        }
        let more: Vec<&str> = to.iter().flat_map(|to| ["--to", to]).collect();
        let said = rig.switchover(&more).await;
        assert!(said.code == Some(75) && said.text.contains(named), "{}", said.text);
    }
}

/// Sentinel refuses when it is told: everything is undone.
#[tokio::test]
async fn sentinels_refusal_undoes_it() {
    let mut rig = Rig::start(Settings::default()).await;
    rig.load().await;
    // Whoever was not heard for five of these periods is no candidate, and that is longer than they are apart.
    for sentinel in 0..3 {
        let told = rig.cluster.ask(Member::Sentinel(sentinel), &["SENTINEL", "DEBUG", "PING-PERIOD", "1"]).await;
        assert_eq!(text(&told.unwrap()), "OK");
    }
    let said = rig.switchover(&[]).await;
    assert_eq!(said.code, Some(75), "{}", said.text);
    assert!(said.text.contains("Sentinel refuses: NOGOODSLAVE"), "{}", said.text);
    rig.is_as_before(&said).await;
    rig.audit(PLANNED).await;
}

/// A replica that fails at any moment of it: done or undone, nothing is lost, nothing is left behind.
#[tokio::test]
#[ignore = "half a minute; `make test-all` runs it"]
async fn a_replica_that_hangs_at_any_moment() {
    let mut rig = Rig::start(Settings::default()).await;
    rig.load().await;
    let target = rig.addr(1).to_string();
    for after in [0, 4, 8, 12] {
        let switchover = rig.begin_switchover(&["--to", &target]);
        // The hold comes when Sentinel has noticed the priority.
        rig.until("held", |s| s["writes"]["flow"] == "held").await;
        sleep(Duration::from_millis(after)).await;
        rig.cluster.pause(Member::Node(1)).unwrap();
        // Longer than the procedure waits for it, and shorter than the undoing is tried.
        sleep(Duration::from_secs(2)).await;
        rig.cluster.resume(Member::Node(1)).unwrap();
        let said = switchover.await.unwrap();
        eprintln!("hung {after} ms into the hold, exit code {:?}: {}", said.code, said.text);
        rig.until("flowing", |s| s["writes"]["flow"] == "flowing").await;
        assert_eq!(rig.priority(1).await, "100", "{}", said.text);
        rig.audit(PLANNED).await;
        rig.until_settled().await;
        if rig.cluster.master().await.unwrap() != 0 {
            assert!(matches!(said.code, Some(0 | 1 | 75)), "{}", said.text);
            return;
        }
        assert_eq!(said.code, Some(75), "{}", said.text);
        rig.until_caught_up(1).await;
    }
}

/// The old master dies after the point of no return: it goes on without it.
#[tokio::test]
async fn the_old_master_dies_after_the_point_of_no_return() {
    let mut rig = Rig::start(Settings::default()).await;
    rig.load().await;
    let switchover = rig.begin_switchover(&[]);
    rig.until("switched", |s| s["generation"] == 2).await;
    rig.cluster.kill(Member::Node(0)).unwrap();
    let said = switchover.await.unwrap();
    assert!(matches!(said.code, Some(0 | 1)), "{}", said.text);
    let service = rig.until("flowing", |s| s["writes"]["flow"] == "flowing" && s["provisional"] == false).await;
    assert_eq!(service["generation"], 2, "{}", said.text);
    rig.audit(PLANNED).await;
}

/// pointsman is killed in the middle: the pause ends by itself, and a failover that was ordered goes on without it.
#[tokio::test]
async fn killed_in_the_middle() {
    let mut rig = Rig::start(Settings::default()).await;
    let direct = Direct::start(rig.addr(0), 2);
    let switchover = rig.begin_switchover(&[]);
    rig.until("held", |s| s["writes"]["flow"] == "held").await;
    rig.proxy.signal(Signal::KILL).unwrap();
    let said = switchover.await.unwrap();
    assert_eq!(said.code, Some(69), "{}", said.text);
    // Half of down-after, and what a busy machine adds.
    let begun = Instant::now();
    let master = rig.cluster.master().await.unwrap();
    let answer = rig.ask(master, &["SET", "still", "here"]).await;
    assert!(begun.elapsed() < Duration::from_millis(500) + 2 * rig.observer.noise(), "{answer:?}");
    assert!(["OK", ""].contains(&text(&answer).as_str()) || text(&answer).starts_with("READONLY"), "{answer:?}");
    direct.abandon();
    rig.cluster.wait_settled(PATIENCE).await.unwrap();
    rig.proxy = start_proxy(&rig.cluster, Vec::new()).await;
    rig.load().await;
    rig.audit(PLANNED).await;
}

/// Begins one and waits until it has changed the priority of node 2, and nothing else yet.
async fn arranged(rig: &Rig) -> JoinHandle<Said> {
    let target = rig.addr(2).to_string();
    let switchover = rig.begin_switchover(&["--to", &target]);
    let end = Instant::now() + PATIENCE;
    while rig.priority(2).await != "1" {
        assert!(Instant::now() < end, "never changed\n{}", rig.proxy.log_tail());
        sleep(Duration::from_millis(1)).await;
    }
    switchover
}

/// pointsman is killed when it has changed a priority: the one that is started next sets it back. One that is told to end
/// does so itself.
#[tokio::test]
async fn ended_with_a_priority_that_was_for_the_while() {
    let state =
        |cluster: &Cluster| ["--state-dir".to_owned(), cluster.dir().join("state").display().to_string()].to_vec();
    let mut rig = Rig::start_with(Settings::default(), state).await;
    let switchover = arranged(&rig).await;
    rig.proxy.signal(Signal::KILL).unwrap();
    let end = Instant::now() + PATIENCE;
    assert_eq!(switchover.await.unwrap().code, Some(69));
    assert_eq!(rig.priority(2).await, "1", "nobody else does it");
    rig.proxy = start_proxy(&rig.cluster, state(&rig.cluster)).await;
    while rig.priority(2).await != "100" {
        assert!(Instant::now() < end, "never set back\n{}", rig.proxy.log_tail());
        sleep(Duration::from_millis(10)).await;
    }
    // It is done: the next process has nothing to set right.
    let noted = || std::fs::read_dir(rig.cluster.dir().join("state")).unwrap().flatten().map(|file| file.file_name());
    while noted().any(|name| name.to_string_lossy().contains("priority")) {
        assert!(Instant::now() < end, "still noted");
        sleep(Duration::from_millis(10)).await;
    }
    rig.until_settled().await;
    let switchover = arranged(&rig).await;
    rig.proxy.signal(Signal::TERM).unwrap();
    let said = switchover.await.unwrap();
    assert!(matches!(said.code, Some(0 | 75)), "{:?} {}\n{}", said.code, said.text, rig.proxy.log_tail());
    assert_eq!(rig.priority(2).await, "100", "{}", said.text);
    rig.cluster.wait_settled(PATIENCE).await.unwrap();
}

/// Two before one service: the one that is not asked keeps its promises too.
#[tokio::test]
async fn several_instances() {
    let mut rig = Rig::start(Settings::default()).await;
    let other = start_proxy(&rig.cluster, Vec::new()).await;
    rig.load().await;
    // Their keys are the same as those of the first: a server of their own would be another service.
    let beside = Direct::start(other.listen(), 4);
    rig.write_on().await;
    let said = rig.switchover(&[]).await;
    assert_eq!(said.code, Some(0), "{}\n{}", said.text, rig.proxy.log_tail());
    rig.audit(PLANNED).await;
    let master = rig.cluster.master().await.unwrap();
    let status = other.status().await.unwrap()["services"][0].clone();
    let (written, end) = beside.settle_accounts(&rig, master).await;
    assert_eq!(end, "stopped", "its clients noticed nothing but a wait; {status:#}\n{}", other.log_tail());
    eprintln!("{written} writes through the other one, 0 lost");
}
