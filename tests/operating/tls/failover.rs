//! The promise of a failover where every connection of pointsman to Redis and to Sentinel is TLS, and shows a
//! certificate.

use std::path::Path;
use std::time::Duration;

use pointsman::demo::cluster::{Cluster, Member, Settings};
use pointsman::demo::ledger::{Ledger, LedgerSettings};
use pointsman::demo::process::TempDir;
use pointsman::demo::proxy::Proxy;
use pointsman::demo::{KILLED, PLANNED, Promise};
use tokio::time::{Instant, sleep};

use super::certificates::{Authority, leg};

const SETTLE_LIMIT: Duration = Duration::from_secs(40);
/// Acknowledged writes before and after each failover.
const ENOUGH: u64 = 1000;

/// The password of who runs the test.
const HARNESS: &str = "harness";
/// And ours.
const OURS: &str = "ours";

/// What the documentation says that our users need, at Redis and at Sentinel.
fn least_permissions() -> [String; 2] {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md")).unwrap();
    let rules = text.lines().filter_map(|line| line.strip_prefix("user pointsman on >PASSWORD "));
    let rules: Vec<String> = rules.map(str::to_owned).collect();
    rules.try_into().expect("one of each")
}

struct Rig {
    ledger: Ledger,
    proxy: Proxy,
    cluster: Cluster,
    writers: usize,
    _files: TempDir,
}

impl Rig {
    async fn start() -> Self {
        let files = TempDir::new().unwrap();
        let authority = Authority::new(files.path(), "authority");
        let us = authority.issue("pointsman", &[]);
        // Users by ACL files, of Redis and of Sentinel alike; ours with the least that the documentation says, and what
        // its clients need.
        let least = least_permissions();
        let acl = |name: &str, rules: String| {
            let path = files.path().join(name);
            let all = format!("user default on >{HARNESS} ~* &* +@all\nuser pointsman on >{OURS} {rules}\n");
            std::fs::write(&path, all).unwrap();
            format!("aclfile \"{}\"", path.display())
        };
        let settings = Settings {
            tls: Some(authority.servers()),
            password: Some(HARNESS.to_owned()),
            sentinel_password: Some(HARNESS.to_owned()),
            redis_lines: vec![acl("redis.acl", format!("~* {} +rpush +llen +lrange +get +set", least[0]))],
            sentinel_lines: vec![acl("sentinel.acl", least[1].clone())],
            ..Settings::default()
        };
        let cluster = Cluster::start(settings).await.unwrap();
        let password = files.path().join("password");
        std::fs::write(&password, OURS).unwrap();
        let mut keys = String::from("client_auth = \"inject\"\n");
        for of in ["backend", "sentinel"] {
            keys += &leg(&format!("{of}_tls"), &authority.file, Some(&us));
            keys += &format!("{of}_user = \"pointsman\"\n{of}_password_file = \"{}\"\n", password.display());
        }
        let binary = Path::new(env!("CARGO_BIN_EXE_pointsman"));
        let proxy = Proxy::start_configured(&cluster, binary, &keys).await.unwrap();
        let load = LedgerSettings::new(proxy.listen());
        let writers = load.writers;
        let rig = Self { ledger: Ledger::start(load), proxy, cluster, writers, _files: files };
        rig.run_for(ENOUGH).await;
        rig
    }

    async fn run_for(&self, acknowledged: u64) {
        let aim = self.ledger.tally().acknowledged + acknowledged;
        let end = Instant::now() + Duration::from_secs(30);
        while self.ledger.tally().acknowledged < aim {
            assert!(Instant::now() < end, "the clients stand still\n{}", self.proxy.log_tail());
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn close(&mut self, what: &str, promise: Promise) {
        let master = Member::Node(self.cluster.master().await.unwrap());
        let mut direct = self.cluster.connect(master).await.unwrap();
        let tally = self.ledger.audit(&mut direct).await.unwrap();
        let broken = promise.broken(&tally, self.writers, self.proxy.reported_loss().await.unwrap());
        assert!(broken.is_empty(), "{what}: {broken:?}\n{tally:?}\n{}", self.proxy.log_tail());
        eprintln!("{what}: {} writes, longest stall {:?}", tally.acknowledged, tally.write_stall);
        self.ledger.go_on();
    }
}

/// Both in one life of the servers, which is what takes the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_planned_and_an_unplanned_failover_keep_their_promises() {
    let mut rig = Rig::start().await;
    rig.close("start", PLANNED).await;

    let old = rig.cluster.master().await.unwrap();
    rig.cluster.failover(0).await.unwrap();
    rig.cluster.wait_master_other_than(old, SETTLE_LIMIT).await.unwrap();
    rig.run_for(ENOUGH).await;
    rig.close("planned", PLANNED).await;

    rig.cluster.wait_settled(SETTLE_LIMIT).await.unwrap();
    let old = rig.cluster.master().await.unwrap();
    rig.cluster.kill(Member::Node(old)).unwrap();
    rig.cluster.wait_master_other_than(old, SETTLE_LIMIT).await.unwrap();
    rig.run_for(ENOUGH).await;
    rig.close("killed", KILLED).await;
}
