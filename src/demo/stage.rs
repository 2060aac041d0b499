//! The course of the demo.

use std::env;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};

use super::DemoArgs;
use super::cluster::{Cluster, ClusterError, Member, Settings};
use super::ledger::{Ledger, LedgerSettings};
use super::observer::Observer;
use super::promises::{KILLED, PLANNED, Promise};
use super::proxy::{Proxy, ProxySettings};
use super::show::{Phase, Screen, grouped};

/// How long the clients run before anything happens, and after each failover.
const CALM: Duration = Duration::from_secs(2);
/// Longest wait until a failover is settled; up to 22 s are usual for a planned one.
const SETTLE_LIMIT: Duration = Duration::from_secs(40);
/// How often news are printed.
const NEWS_EVERY: Duration = Duration::from_millis(50);
/// How often the counts are printed, in rounds of news.
const COUNTS_EVERY: u64 = 20;

/// Everything that runs. Fields drop in this order: clients, then pointsman, then the servers.
pub(super) struct Stage<'a> {
    screen: &'a Screen,
    writers: usize,
    ledger: Ledger,
    observer: Observer,
    proxy: Proxy,
    cluster: Cluster,
}

impl<'a> Stage<'a> {
    /// Starts the cluster, pointsman and the clients.
    pub(super) async fn set(args: &DemoArgs, screen: &'a Screen) -> Result<Self, ClusterError> {
        screen.say("starting 3 redis-servers and 3 redis-sentinels (down-after 1 s)");
        let cluster = Cluster::start(Settings::default()).await?;
        screen.say(&format!("redis at {}, the first is master", list(&cluster.nodes())));
        screen.say(&format!("Sentinels at {}", list(&cluster.sentinels())));

        let settings = ProxySettings {
            binary: env::current_exe()?,
            commit: args.commit,
            workers: args.workers,
            extra: Vec::new(),
        };
        let proxy = Proxy::start(&cluster, &settings).await?;
        screen.say(&format!("pointsman at {}, admin server at http://{}", proxy.listen(), proxy.admin()));

        let observer = Observer::start(&cluster, Some(proxy.admin()));
        let load = LedgerSettings {
            writers: args.clients.max(1),
            readers: args.clients.div_ceil(4),
            ..LedgerSettings::new(proxy.listen())
        };
        screen.say(&format!(
            "{} clients append to a list and read its length back, {} only read",
            load.writers, load.readers
        ));
        Ok(Self { screen, writers: load.writers, ledger: Ledger::start(load), observer, proxy, cluster })
    }

    /// Plays the three phases.
    pub(super) async fn play(&mut self) -> Result<Vec<Phase>, ClusterError> {
        self.watch(sleep(CALM)).await?;
        let calm = self.close("calm", PLANNED).await?;

        self.screen.heading("planned failover: SENTINEL FAILOVER at sentinel 1");
        self.cluster.failover(0).await?;
        self.watch(self.cluster.wait_settled(SETTLE_LIMIT)).await??;
        self.screen.say("settled: every node follows the new master");
        self.watch(sleep(CALM)).await?;
        let planned = self.close("planned failover", PLANNED).await?;

        let master = self.cluster.master().await?;
        self.screen.heading(&format!("kill -9 of redis {}, the master", master + 1));
        self.cluster.kill(Member::Node(master))?;
        self.watch(self.cluster.wait_master_other_than(master, SETTLE_LIMIT)).await??;
        self.watch(self.cluster.wait_settled(SETTLE_LIMIT)).await??;
        self.screen.say("settled: what is left follows the new master");
        self.watch(sleep(CALM)).await?;
        let killed = self.close("kill -9", KILLED).await?;
        Ok(vec![calm, planned, killed])
    }

    /// For whoever must find out why a promise was broken.
    pub(super) fn say_log(&self) {
        self.screen.plain(&format!("\nThe end of pointsman's log:\n{}", self.proxy.log_tail()));
    }

    /// For `--keep`: ends the clients, brings back the node that was killed, says how to connect and returns what is to
    /// be kept alive.
    pub(super) async fn keep(mut self) -> Result<(Proxy, Cluster), ClusterError> {
        for i in 0..self.cluster.nodes().len() {
            if !self.cluster.is_running(Member::Node(i)) {
                self.cluster.restart(Member::Node(i)).await?;
            }
        }
        let (listen, admin) = (self.proxy.listen(), self.proxy.admin());
        let sentinel = self.cluster.addr(Member::Sentinel(0));
        self.screen.plain(&format!(
            "\nEverything keeps running until Ctrl-C.\n\
             \x20 use it           redis-cli -p {}\n\
             \x20 fail over again  redis-cli -p {} SENTINEL FAILOVER {}\n\
             \x20 metrics          curl http://{admin}/metrics\n\
             \x20 what it sees     curl http://{admin}/status\n\
             \x20 its log          {}",
            listen.port(),
            sentinel.port(),
            self.cluster.service(),
            self.proxy.log().display(),
        ));
        Ok((self.proxy, self.cluster))
    }

    /// Ends a phase: the clients rest, the accounts are compared with what the master holds, the clients go on.
    async fn close(&mut self, name: &'static str, promise: Promise) -> Result<Phase, ClusterError> {
        let master = self.cluster.master().await?;
        let mut direct = self.cluster.connect(Member::Node(master)).await?;
        let tally = self.ledger.audit(&mut direct).await?;
        self.ledger.go_on();
        let broken = promise.broken(&tally, self.writers, self.proxy.reported_loss().await?);
        Ok(Phase { name, tally, broken })
    }

    /// Prints what is seen until `done` is.
    async fn watch<T>(&self, done: impl Future<Output = T>) -> Result<T, ClusterError> {
        let mut done = pin!(done);
        let mut ticks = interval(NEWS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for round in 1.. {
            tokio::select! {
                outcome = &mut done => {
                    self.print_news();
                    return Ok(outcome);
                }
                _ = ticks.tick() => self.print_news(),
            }
            if round % COUNTS_EVERY == 0 {
                self.print_counts();
            }
        }
        unreachable!("the loop has no end but the return")
    }

    fn print_news(&self) {
        self.screen.sightings(&self.cluster, &self.observer.news());
    }

    fn print_counts(&self) {
        let tally = self.ledger.tally();
        self.screen.say(&format!(
            "clients      {} commands, {} errors, {} drops",
            grouped(tally.commands),
            grouped(tally.errors),
            grouped(tally.dropped()),
        ));
    }
}

fn list(addrs: &[std::net::SocketAddr]) -> String {
    addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
