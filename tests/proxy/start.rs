//! Starting where not everything is well: pointsman starts, serves what it can, says who said what, and recovers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::support::{PATIENCE, Raw, command, text};
use pointsman::demo::cluster::{Cluster, Member, free_port};
use pointsman::demo::process::Process;
use pointsman::demo::proxy::fetch;
use pointsman::demo::settings::Settings;
use tokio::time::{Instant, sleep};

/// pointsman with these flags, two services of which only one may be well.
struct Started {
    _process: Process,
    listen: SocketAddr,
    admin: SocketAddr,
    log: std::path::PathBuf,
}

impl Started {
    fn new(cluster: &Cluster, flags: &[&str]) -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (listen, admin) = (local(free_port().unwrap()), local(free_port().unwrap()));
        let (listen_text, admin_text) = (listen.to_string(), admin.to_string());
        let mut args = vec!["run", "--listen", &listen_text, "--admin", &admin_text];
        args.extend_from_slice(flags);
        let log = cluster.dir().join("start.log");
        let output = std::fs::File::create(&log).unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_pointsman"));
        let process = cluster.supervisor().spawn(binary, args, Some(output)).unwrap();
        Self { _process: process, listen, admin, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Until `/readyz`, whatever its status, says this.
    async fn says(&self, words: &str) {
        let end = Instant::now() + PATIENCE;
        let mut last = String::new();
        while Instant::now() < end {
            if let Ok(body) = fetch(self.admin, "/readyz").await {
                if body.contains(words) {
                    return;
                }
                last = body;
            }
            sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("/readyz does not say {words:?}:\n{last}\n{}", self.log());
    }

    /// The answer to one command, waiting until there is one.
    async fn answer(&self, words: &[&str]) -> String {
        let mut client = Raw::connect(self.listen).await;
        client.send(&command(words)).await;
        text(&client.until(b"\r\n").await)
    }
}

fn sentinels(cluster: &Cluster) -> String {
    cluster.sentinels().iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",")
}

#[tokio::test]
async fn a_service_that_no_sentinel_knows_is_refused_until_one_does() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let all = sentinels(&cluster);
    let started = Started::new(&cluster, &["--sentinel", &all, "--service", "nosuch", "--hold-timeout", "300ms"]);
    started.says("nosuch").await;
    let refused = started.answer(&["GET", "a"]).await;
    assert!(refused.starts_with("-MASTERDOWN pointsman: no master for 'nosuch'"), "{refused}");
    let (ip, port) = (cluster.addr(Member::Node(0)).ip().to_string(), cluster.addr(Member::Node(0)).port().to_string());
    for sentinel in 0..cluster.sentinels().len() {
        cluster.ask(Member::Sentinel(sentinel), &["SENTINEL", "MONITOR", "nosuch", &ip, &port, "2"]).await.unwrap();
    }
    started.says("writes flowing").await;
    assert_eq!(started.answer(&["GET", "a"]).await, "$-1\r\n");
    let complaints = started.log().lines().filter(|l| l.contains("does not know")).count();
    assert!((1..=3).contains(&complaints), "once for each Sentinel, not more:\n{}", started.log());
}

#[tokio::test]
async fn a_sentinel_that_refuses_the_password_is_named_and_the_others_serve() {
    let mut cluster = Cluster::start(Settings::default()).await.unwrap();
    cluster.ask(Member::Sentinel(0), &["CONFIG", "SET", "requirepass", "changed"]).await.ok();
    let locked =
        Cluster::start(Settings { sentinel_password: Some("pw".into()), ..Settings::default() }).await.unwrap();
    let all = sentinels(&locked);
    let started = Started::new(&locked, &["--sentinel", &all, "--service", "mymaster", "--hold-timeout", "300ms"]);
    started.says("NOAUTH").await;
    let refused = started.answer(&["GET", "a"]).await;
    assert!(refused.starts_with("-MASTERDOWN pointsman: "), "{refused}");
    assert!(started.log().contains("NOAUTH"), "{}", started.log());

    // One Sentinel of three is down at the start.
    let down = cluster.sentinels()[2].to_string();
    cluster.kill(Member::Sentinel(2)).unwrap();
    let all = sentinels(&cluster);
    let started = Started::new(&cluster, &["--sentinel", &all, "--service", "mymaster"]);
    started.says("writes flowing").await;
    started.says(&down).await;
    assert_eq!(started.answer(&["SET", "a", "1"]).await, "+OK\r\n");
    cluster.restart(Member::Sentinel(2)).await.unwrap();
    started.says(&format!("{down}: up")).await;
}

#[tokio::test]
async fn without_a_sentinel_commands_wait_and_are_served_when_one_comes() {
    let mut cluster = Cluster::start(Settings::default()).await.unwrap();
    let all = sentinels(&cluster);
    for sentinel in 0..3 {
        cluster.kill(Member::Sentinel(sentinel)).unwrap();
    }
    let started = Started::new(&cluster, &["--sentinel", &all, "--service", "mymaster"]);
    started.says("mymaster").await;
    let waiting = started.answer(&["INCR", "a"]);
    tokio::pin!(waiting);
    tokio::select! {
        early = &mut waiting => panic!("answered without a master: {early}"),
        restarted = cluster.restart(Member::Sentinel(1)) => restarted.unwrap(),
    }
    assert_eq!(waiting.await, ":1\r\n", "{}", started.log());
}

#[tokio::test]
async fn a_restart_without_sentinels_serves_the_master_that_was_known_unless_it_was_restarted_too() {
    let mut cluster = Cluster::start(Settings::default()).await.unwrap();
    let (all, dir) = (sentinels(&cluster), cluster.dir().join("state"));
    let dir = dir.to_str().unwrap().to_owned();
    let flags =
        ["--sentinel", &all, "--service", "mymaster", "--state-dir", &dir, "--hold-timeout", "4s", "--workers", "1"];
    let started = Started::new(&cluster, &flags);
    started.says("writes flowing").await;
    let file = Path::new(&dir).join("mymaster.json");
    let end = Instant::now() + PATIENCE;
    while !file.exists() {
        assert!(Instant::now() < end, "nothing is remembered: {}", started.log());
        sleep(std::time::Duration::from_millis(20)).await;
    }
    drop(started);
    for sentinel in 0..3 {
        cluster.kill(Member::Sentinel(sentinel)).unwrap();
    }

    let started = Started::new(&cluster, &flags);
    started.says("writes flowing").await;
    assert_eq!(started.answer(&["SET", "a", "1"]).await, "+OK\r\n");
    assert!(started.log().contains("before the restart of pointsman"), "{}", started.log());
    drop(started);

    // Its replicas must not hand it its data back: it is only the process that counts.
    cluster.kill(Member::Node(0)).unwrap();
    cluster.restart(Member::Node(0)).await.unwrap();
    let started = Started::new(&cluster, &flags);
    started.says("reads flowing").await;
    assert_eq!(started.answer(&["GET", "a"]).await, "$-1\r\n");
    let refused = started.answer(&["SET", "a", "2"]).await;
    assert!(refused.starts_with("-MASTERDOWN pointsman: "), "{refused}\n{}", started.log());
    cluster.restart(Member::Sentinel(0)).await.unwrap();
    cluster.restart(Member::Sentinel(1)).await.unwrap();
    started.says("writes flowing").await;
}
