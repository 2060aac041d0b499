//! A cluster, pointsman before it, and clients that keep a ledger.

use std::path::PathBuf;
use std::time::Duration;

use pointsman::config::Commit;
use pointsman::demo::cluster::{Cluster, Member, Settings};
use pointsman::demo::ledger::{Ledger, LedgerSettings};
use pointsman::demo::proxy::{Proxy, ProxySettings, reports_loss};
use pointsman::demo::tally::Tally;
use pointsman::demo::wire::{Connection, Reply, elements, info_field, text};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::network::{Network, Site};
use crate::outcome::{Allowed, tell};

/// Longest wait for anything that must happen; Sentinel demotes an old master after some 11 to 22 s.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
/// Acknowledged writes before and after a fault, so that the figures mean something.
const ENOUGH: u64 = 200;
/// Few clients: these tests are about what happens, not how fast, and several run at once.
pub(crate) const WRITERS: usize = 4;
pub(crate) const READERS: usize = 2;
/// Between two commands of a client: some 100 writes a second of each writer, so that a dozen of these tests can run at
/// once.
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) struct Rig {
    pub(crate) proxy: Proxy,
    pub(crate) cluster: Cluster,
    network: Option<Network>,
}

impl Rig {
    pub(crate) async fn start(settings: Settings, flags: &[&str]) -> Self {
        let cluster = Cluster::start(settings).await.unwrap();
        let proxy = Proxy::start(&cluster, &proxy_settings(flags)).await.unwrap();
        Self { proxy, cluster, network: None }
    }

    /// The same with every server on a machine of its own.
    pub(crate) async fn start_in(network: Network, flags: &[&str]) -> Self {
        let cluster = Cluster::start(network.settings()).await.unwrap();
        let place = network.place(Site::Pointsman);
        let proxy = Proxy::start_at(&place, &cluster, &proxy_settings(flags)).await.unwrap();
        Self { proxy, cluster, network: Some(network) }
    }

    /// The cables.
    pub(crate) fn network(&mut self) -> &mut Network {
        self.network.as_mut().expect("it was started in one")
    }

    /// With more keys of the service.
    pub(crate) async fn start_configured(settings: Settings, keys: &str) -> Self {
        let cluster = Cluster::start(settings).await.unwrap();
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_pointsman"));
        let proxy = Proxy::start_configured(&cluster, &binary, keys).await.unwrap();
        Self { proxy, cluster, network: None }
    }

    /// Clients that have written enough to be warm.
    pub(crate) async fn ledger(&self) -> Ledger {
        let load = LedgerSettings {
            writers: WRITERS,
            readers: READERS,
            pause: PAUSE,
            ..LedgerSettings::new(self.proxy.listen())
        };
        let ledger = Ledger::start(load);
        self.write_on(&ledger).await;
        ledger
    }

    /// Waits until more writes are acknowledged.
    pub(crate) async fn write_on(&self, ledger: &Ledger) {
        let aim = ledger.tally().acknowledged + ENOUGH;
        let end = Instant::now() + PATIENCE;
        while ledger.tally().acknowledged < aim {
            assert!(Instant::now() < end, "the clients stand still: {:?}\n{}", ledger.tally(), self.evidence());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The end of a scenario: what the clients were told is compared with what the node holds, told in numbers, and must
    /// be no worse than allowed. The clients rest.
    pub(crate) async fn settle(
        &self,
        (number, scenario): (&str, &str),
        ledger: &Ledger,
        node: usize,
        allowed: Allowed,
    ) -> Tally {
        self.write_on(ledger).await;
        // With down-after 1 s a Sentinel may take the new master for dead right after the switch, and fail over once more.
        let node = self.cluster.master().await.unwrap_or(node);
        let mut direct = self.cluster.connect(Member::Node(node)).await.unwrap();
        let tally = ledger.audit(&mut direct).await.unwrap();
        tell(number, scenario, &tally);
        let broken = allowed.broken(&tally, self.proxy.reported_loss().await.unwrap());
        if !broken.is_empty() {
            // A busy machine makes Sentinels fail over on their own: then the records tell which of them lost what.
            panic!("{broken:?}\n{tally:?}\n{:#}\n{}", self.service().await["records"], self.evidence());
        }
        tally
    }

    pub(crate) async fn service(&self) -> Value {
        self.proxy.status().await.unwrap()["services"][0].clone()
    }

    /// Waits until pointsman's status is as said.
    pub(crate) async fn until(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let service = self.service().await;
            if fits(&service) {
                return service;
            }
            assert!(Instant::now() < end, "never {what}: {service:#}\n{}", self.evidence());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until all flows in this generation; returns the index of the master.
    pub(crate) async fn until_flowing(&self, generation: u64) -> usize {
        let service = self
            .until("flowing", |s| s["generation"].as_u64() >= Some(generation) && s["writes"]["flow"] == "flowing")
            .await;
        assert_eq!(service["generation"], generation, "{}", self.evidence());
        self.node_at(&service["writes"]["node"])
    }

    /// For as long as this, the status must stay as said.
    pub(crate) async fn stays(&self, what: &str, time: Duration, fits: impl Fn(&Value) -> bool) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let service = self.service().await;
            assert!(fits(&service), "not {what} any more: {service:#}\n{}", self.evidence());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Where acknowledged writes are missing, the records must not say that nothing was lost.
    pub(crate) async fn loss_is_told(&self, tally: &Tally) {
        let service = self.service().await;
        eprintln!("{} acknowledged writes lost; the record: {}", tally.lost, last_record(&service)["offset_lost"]);
        assert!(tally.lost == 0 || reports_loss(&service), "{tally:?}: {service:#}");
    }

    /// A node that was replaced says master until Sentinel demotes it. Not one command reaches it meanwhile. Returns how
    /// often it was seen to say so.
    pub(crate) async fn gets_nothing_until_demoted(&self, node: usize) -> u32 {
        let (mut seen, mut before) = (0, None);
        let end = Instant::now() + PATIENCE;
        loop {
            let (role, calls) = self.traffic(node).await;
            if role != "master" {
                return seen;
            }
            let before = *before.get_or_insert(calls);
            assert_eq!(calls, before, "commands reached the old master\n{}", self.evidence());
            seen += 1;
            assert!(Instant::now() < end, "never demoted");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Which node an address in the status is.
    pub(crate) fn node_at(&self, addr: &Value) -> usize {
        let addr = addr.as_str().unwrap();
        self.cluster.nodes().iter().position(|n| n.to_string() == addr).unwrap()
    }

    pub(crate) fn addr(&self, member: Member) -> String {
        self.cluster.addr(member).to_string()
    }

    /// What a node has carried out for clients, and what it says that it is, both at one moment. Counts of a replica
    /// contain what it was sent by its master.
    pub(crate) async fn traffic(&self, node: usize) -> (String, u64) {
        self.calls(node, &["cmdstat_incr", "cmdstat_get", "cmdstat_set", "cmdstat_rpush", "cmdstat_llen"]).await
    }

    /// The same of these commands.
    pub(crate) async fn calls(&self, node: usize, commands: &[&str]) -> (String, u64) {
        let end = Instant::now() + PATIENCE;
        // Sentinel ends all connections to a node that it reconfigures, in the middle of this too.
        let (role, stats) = loop {
            if let Ok(mut direct) = self.cluster.connect(Member::Node(node)).await
                && let Ok(role) = direct.call(&["ROLE"], PATIENCE).await
                && let Ok(stats) = direct.call(&["INFO", "commandstats"], PATIENCE).await
            {
                break (role, stats);
            }
            assert!(Instant::now() < end, "node {node} does not answer");
            sleep(Duration::from_millis(10)).await;
        };
        let calls = |name: &&str| {
            let line = info_field(&stats, name).unwrap_or_default();
            line.strip_prefix("calls=").and_then(|c| c.split(',').next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        let role = elements(&role).first().map(text).unwrap_or_default();
        (role, commands.iter().map(calls).sum())
    }

    /// Has a server do something, however long that takes: a Sentinel writes each change to its disk before it answers.
    pub(crate) async fn tell(&self, member: Member, command: &[&str]) {
        let mut direct = self.cluster.connect(member).await.unwrap();
        assert_eq!(text(&direct.call(command, PATIENCE).await.unwrap()), "OK", "{command:?}");
    }

    pub(crate) async fn offset(&self, node: usize) -> u64 {
        let info = self.cluster.ask(Member::Node(node), &["INFO", "replication"]).await.unwrap();
        info_field(&info, "master_repl_offset").unwrap().parse().unwrap()
    }

    pub(crate) async fn client(&self) -> Connection {
        Connection::open(self.proxy.listen(), PATIENCE).await.unwrap()
    }

    /// What one command through pointsman is answered.
    pub(crate) async fn ask(&self, command: &[&str]) -> Reply {
        self.client().await.call(command, PATIENCE).await.unwrap()
    }

    /// Waits for a line of the log that contains this.
    pub(crate) async fn until_logged(&self, words: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let log = std::fs::read_to_string(self.proxy.log()).unwrap();
            if let Some(line) = log.lines().find(|l| l.contains(words)) {
                return line.to_owned();
            }
            assert!(Instant::now() < end, "never logged: {words}\n{log}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// For whoever must find out why a test failed.
    pub(crate) fn evidence(&self) -> String {
        self.proxy.log_tail()
    }
}

fn proxy_settings(flags: &[&str]) -> ProxySettings {
    ProxySettings {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_pointsman")),
        commit: Commit::Confirmed,
        workers: 2,
        extra: flags.iter().map(|f| (*f).to_owned()).collect(),
    }
}

/// The last closed record.
pub(crate) fn last_record(service: &Value) -> &Value {
    service["records"].as_array().unwrap().iter().rev().find(|r| !r["lasted_ms"].is_null()).unwrap()
}
