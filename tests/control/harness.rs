//! The control thread of one service with a worker that only keeps a diary.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pointsman::addr::Endpoint;
use pointsman::clock::Moment;
use pointsman::config::{Commit, ServiceConfig, Source};
use pointsman::demo::cluster::Cluster;
use pointsman::net::Resolver;
use pointsman::sentinel::{ServiceControl, spawn};
use pointsman::topology::record::{FailoverRecord, RecordCounts};
use pointsman::topology::status::ServiceStatus;
use pointsman::topology::{Flow, Hint, Link, Topology};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything that must happen.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn config(source: Source, commit: Commit) -> ServiceConfig {
    ServiceConfig {
        commit,
        connect_timeout: Duration::from_secs(1),
        ..ServiceConfig::new("mymaster", Vec::new(), source)
    }
}

pub(crate) fn watched(cluster: &Cluster) -> Source {
    Source::Sentinels { endpoints: cluster.sentinels().into_iter().map(Endpoint::from).collect(), credentials: None }
}

/// Milliseconds after the beginning, generation, node, reads, writes.
pub(crate) type Change = (u64, u64, Option<SocketAddr>, Flow, Flow);

/// The control thread of one service with one worker, which does nothing but keep a diary and acknowledge.
pub(crate) struct Control {
    pub(crate) link: Arc<Link>,
    pub(crate) hints: mpsc::Sender<Hint>,
    pub(crate) topology: watch::Receiver<Arc<Topology>>,
    pub(crate) status: watch::Receiver<Arc<ServiceStatus>>,
    /// The service is watched for as long as this lives.
    pub(crate) config: watch::Sender<Arc<ServiceConfig>>,
    pub(crate) diary: Arc<Mutex<Vec<(Moment, Topology)>>>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) thread: Option<std::thread::JoinHandle<()>>,
}

impl Control {
    pub(crate) fn start(config: ServiceConfig) -> Self {
        Self::start_with(config, |_| true)
    }

    /// `acknowledges` decides which topologies the worker acknowledges.
    pub(crate) fn start_with(config: ServiceConfig, acknowledges: impl Fn(&Topology) -> bool + Send + 'static) -> Self {
        let link = Arc::new(Link::default());
        let (hints, hints_receiver) = mpsc::channel(16);
        let (topology_sender, topology) = watch::channel(Arc::new(Topology::unknown()));
        let (status_sender, status) = watch::channel(Arc::new(ServiceStatus::unknown(&config.name)));
        let diary = Arc::new(Mutex::new(Vec::new()));
        let (config, configured) = watch::channel(Arc::new(config));
        let control = ServiceControl {
            config: configured,
            links: vec![link.clone()],
            hints: hints_receiver,
            orders: mpsc::channel(1).1,
            pauses: mpsc::channel(1).1,
            topology: topology_sender,
            status: status_sender,
            stats: Arc::new(RecordCounts::default),
        };
        tokio::spawn({
            let (mut topology, diary, link) = (topology.clone(), diary.clone(), link.clone());
            async move {
                while topology.changed().await.is_ok() {
                    let now = Moment::now();
                    let seen = topology.borrow_and_update().as_ref().clone();
                    if acknowledges(&seen) {
                        link.acknowledge(seen.seq);
                        link.report_prepared(seen.generation);
                    }
                    diary.lock().unwrap().push((now, seen));
                }
            }
        });
        let (service, services) = mpsc::channel(1);
        service.try_send(control).unwrap();
        let shutdown = CancellationToken::new();
        let thread = Some(spawn(services, Resolver::default(), || {}, shutdown.clone()).unwrap());
        Self { config, link, hints, topology, status, diary, shutdown, thread }
    }

    pub(crate) async fn until(&mut self, what: &str, condition: impl FnMut(&Arc<Topology>) -> bool) -> Arc<Topology> {
        let outcome = timeout(LIMIT, self.topology.wait_for(condition)).await.map(|t| t.unwrap().clone());
        let Ok(topology) = outcome else {
            panic!("not within {LIMIT:?}: {what}; status: {:#?}", self.status.borrow());
        };
        self.noted(topology.seq).await;
        topology
    }

    /// Waits until the worker has written this publication into its diary.
    async fn noted(&self, seq: u64) {
        let is_noted = || seq == 0 || self.diary.lock().unwrap().last().is_some_and(|(_, t)| t.seq >= seq);
        while !is_noted() {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn until_status(&mut self, what: &str, condition: impl FnMut(&Arc<ServiceStatus>) -> bool) {
        let outcome = timeout(LIMIT, self.status.wait_for(condition)).await.map(|s| s.is_ok());
        assert_eq!(outcome, Ok(true), "{what}; status: {:#?}", self.status.borrow());
    }

    /// Waits until all flows and every Sentinel and replica has been heard, so that a failover finds nothing half known.
    pub(crate) async fn until_stable(&mut self, master: SocketAddr, sentinels: usize, replicas: usize) {
        self.until("a master", |t| flows(t) && t.writes.node == Some(master)).await;
        self.until_status("all heard", |s| {
            s.sentinels.iter().filter(|s| s.up).count() == sentinels
                && s.replicas.iter().filter(|r| r.link == "connected").count() == replicas
                && s.settled
        })
        .await;
    }

    /// Waits for a closed record of this kind.
    pub(crate) async fn until_recorded(&mut self, kind: &str) -> FailoverRecord {
        let is_it = |r: &&Arc<FailoverRecord>| r.kind.label() == kind && r.lasted_ms.is_some();
        self.until_status("the record", |s| s.records.iter().any(|r| is_it(&r))).await;
        let status = self.status.borrow();
        status.records.iter().find(is_it).unwrap().as_ref().clone()
    }

    /// What the worker saw since `from`; changes only. Without the holds
    /// that a starved control thread makes for itself: on a loaded machine they come at any time.
    pub(crate) fn diary(&self, from: Moment) -> Vec<Change> {
        let diary = self.diary.lock().unwrap();
        let entries = diary.iter().filter(|(at, t)| *at >= from && !is_gap(t)).map(|(at, t)| {
            (at.since(from).as_millis() as u64, t.generation, t.reads.node, t.reads.flow, t.writes.flow)
        });
        let mut changes: Vec<_> = entries.collect();
        changes.dedup_by_key(|(_, generation, node, reads, writes)| (*generation, *node, *reads, *writes));
        println!("{changes:?}");
        for record in &self.status.borrow().records {
            println!("{record}");
        }
        changes
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok(), "the control thread panicked");
        }
    }
}

/// How long a hold may take on a machine that is busy with other things; it takes 1 to 5 ms on one that is not.
pub(crate) const HOLD_LIMIT_MS: u64 = 250;

pub(crate) fn held(t: &Topology) -> bool {
    t.writes.flow == Flow::Held && !is_gap(t)
}

fn is_gap(t: &Topology) -> bool {
    t.why.starts_with("pointsman was suspended")
}

pub(crate) fn flows(t: &Topology) -> bool {
    t.reads.flow == Flow::Flowing && t.writes.flow == Flow::Flowing
}
