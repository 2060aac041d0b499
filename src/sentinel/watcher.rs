//! The task of one service: events in, the machine's actions out.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::control::ServiceControl;
use super::demotion::Demoting;
use super::event::SentinelEvent;
use super::links::{LEASE_VALIDITY, Links, RENEWAL_INTERVAL};
use super::preferred;
use super::state_file;
use super::switchover::Switchovers;
use super::tasks::{Common, Probes, Sentinels};
use crate::addr::Endpoint;
use crate::clock::Moment;
use crate::config::{ServiceConfig, Source};
use crate::net::Resolver;
use crate::topology::failover::{Action, Failover, Level, Settings};
use crate::topology::pause::PauseOrder;
use crate::topology::record::RecordCounts;
use crate::topology::status::{ServiceStatus, WallTime};
use crate::topology::switchover::{self, Order};
use crate::topology::{Event, Hint, Remembered, Topology};

/// Events of Sentinel and probe tasks that may wait; a task that finds the channel full waits, and loses nothing.
const EVENTS: usize = 1024;
/// How long after a record was closed the workers' counts are taken: what was held has been sent again by then.
const COUNTS_AFTER: Duration = Duration::from_secs(1);
/// How often the status is refreshed when nothing happens, and Sentinels that are gone are forgotten.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often the name of a static master is looked up again.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(5);

/// Workers' counts as they stand.
pub(super) type Stats = Arc<dyn Fn() -> RecordCounts + Send + Sync>;

pub(super) struct Watcher {
    service: String,
    machine: Failover,
    links: Links,
    sentinels: Sentinels,
    probes: Probes,
    switchovers: Switchovers,
    common: Common,
    topology: watch::Sender<Arc<Topology>>,
    status: watch::Sender<Arc<ServiceStatus>>,
    stats: Stats,
    /// What is to be found by the next process.
    remembered: watch::Sender<Option<Remembered>>,
    /// Writes it to the file; ended when dropped.
    memory: Option<AbortOnDropHandle<()>>,
    /// Looks the master of a static service up; ended when dropped.
    look_up: Option<AbortOnDropHandle<()>>,
    /// What a process before this one has left is being set right.
    restoring: Option<AbortOnDropHandle<()>>,
    /// The old master that is being made a replica, or was; ended when dropped.
    demotion: Option<Demoting>,
    /// When leases were renewed last.
    renewed: Moment,
    /// The highest sequence number that the machine was told to be acknowledged.
    acknowledged: u64,
    /// The highest generation that the machine was told to be prepared.
    prepared: u64,
    /// Who has ordered a pause that is not carried out yet, and with which publication it is.
    pausing: Option<(u64, oneshot::Sender<()>)>,
    /// The workers' counts when the open record began.
    counts_before: RecordCounts,
    /// Closed records whose counts are still to be taken.
    closed: VecDeque<Closed>,
    /// Reused for the machine's actions.
    actions: Vec<Action>,
}

/// A closed record whose counts are still to be taken.
struct Closed {
    number: u64,
    /// When.
    due: Moment,
    /// The workers' counts when it began.
    before: RecordCounts,
    /// Those when the next one began.
    after: Option<RecordCounts>,
}

/// What is ordered by way of the admin server.
struct Ordered {
    switchovers: mpsc::Receiver<Order>,
    pauses: mpsc::Receiver<PauseOrder>,
}

/// Watches one service until `shutdown`, or until nobody configures it any more.
pub(super) async fn run(control: ServiceControl, resolver: Resolver, shutdown: CancellationToken) {
    let ServiceControl { config: mut configs, links, mut hints, orders, pauses, topology, status, stats } = control;
    let config = Arc::clone(&configs.borrow_and_update());
    let (sender, mut events) = mpsc::channel(EVENTS);
    let common = Common::new(&config, resolver, sender);
    let now = Moment::now();
    let mut watcher = Watcher {
        service: config.name.clone(),
        machine: Failover::new(settings(&config), now),
        links: Links::new(links),
        sentinels: Sentinels::new(common.clone()),
        probes: Probes::new(common.clone()),
        switchovers: Switchovers::new(common.clone()),
        common,
        topology,
        status,
        stats,
        remembered: watch::Sender::new(None),
        memory: None,
        look_up: None,
        restoring: None,
        demotion: None,
        renewed: now,
        acknowledged: 0,
        prepared: 0,
        pausing: None,
        counts_before: RecordCounts::default(),
        closed: VecDeque::new(),
        actions: Vec::new(),
    };
    watcher.set_wall_clock(now);
    if let Some(path) = &config.state_file {
        watcher.recall(path);
    }
    watcher.find_master_by(&config);
    let mut ordered = Ordered { switchovers: orders, pauses };
    watcher.watch(&mut configs, &mut events, &mut hints, &mut ordered, &shutdown).await;
}

/// What the machine must know of the configuration.
fn settings(config: &ServiceConfig) -> Settings {
    Settings {
        commit: config.commit,
        hold_timeout: config.hold_timeout,
        confirm_timeout: config.confirm_timeout,
        silence_threshold: config.silence_threshold,
        fence_without_quorum: config.fence_without_quorum,
        fence_old_master: config.fence_old_master,
        managed: matches!(config.source, Source::Sentinels { .. }),
    }
}

impl Watcher {
    /// Tells the machine what the last process knew.
    fn recall(&mut self, path: &Path) {
        match state_file::load(path) {
            Ok(Some(remembered)) => self.handle(Event::Remembered(remembered)),
            Ok(None) => {}
            Err(error) => tracing::warn!(service = self.service, "cannot read {}: {error}", path.display()),
        }
        self.restore();
    }

    fn restore(&mut self) {
        self.restoring = Some(AbortOnDropHandle::new(tokio::spawn(preferred::restore(self.common.clone()))));
    }

    /// Has the master found in the configured way, and remembered where that is configured.
    fn find_master_by(&mut self, config: &ServiceConfig) {
        self.memory = config.state_file.clone().map(|path| {
            let keep = state_file::keep(self.service.clone(), path, self.remembered.subscribe());
            AbortOnDropHandle::new(tokio::spawn(keep))
        });
        match &config.source {
            Source::Sentinels { endpoints, .. } => {
                let events = self.sentinels.set_configured(endpoints, Moment::now());
                events.into_iter().for_each(|event| self.handle(event));
            }
            Source::Static(endpoint) => {
                let Common { service, resolver, events, .. } = self.common.clone();
                let look_up = look_up_master(service, endpoint.clone(), resolver, events);
                self.look_up = Some(AbortOnDropHandle::new(tokio::spawn(look_up)));
            }
        }
    }

    /// Goes by another configuration from now on. What is dialled anew is dialled as it says; a failover that is on
    /// goes on.
    fn configure(&mut self, config: &ServiceConfig) {
        self.machine.configure(settings(config));
        let common = Common::new(config, self.common.resolver.clone(), self.common.events.clone());
        if !common.dials_like(&self.common) {
            self.common = common.clone();
            self.probes.renew(common.clone());
            self.switchovers.renew(common.clone());
            let events = self.sentinels.renew(common, Moment::now());
            events.into_iter().for_each(|event| self.handle(event));
            // What a switchover that is on has noted is its own to set back.
            if self.restoring.as_ref().is_some_and(|task| !task.is_finished()) && !self.switchovers.is_on() {
                self.restore();
            }
        }
        self.find_master_by(config);
        self.tick();
    }

    async fn watch(
        &mut self,
        configs: &mut watch::Receiver<Arc<ServiceConfig>>,
        events: &mut mpsc::Receiver<SentinelEvent>,
        hints: &mut mpsc::Receiver<Hint>,
        orders: &mut Ordered,
        shutdown: &CancellationToken,
    ) {
        let mut renewal = interval(RENEWAL_INTERVAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut housekeeping = interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut hinted, mut ordered, mut pausable, mut ended) = (true, true, true, false);
        loop {
            let now = Moment::now();
            let due = self.machine.deadline(now).into_iter().chain(self.switchovers.deadline(now)).min();
            let due = due.map(|at| Instant::now() + at.since(now));
            tokio::select! {
                // In this order: the timers come rarely and must not starve behind a flood of events; an
                // acknowledgement lets a commit go out; Sentinels' words decide, workers' hints only hurry.
                biased;
                () = shutdown.cancelled() => return,
                changed = configs.changed(), if !ended => {
                    if changed.is_ok() {
                        let config = Arc::clone(&configs.borrow_and_update());
                        self.configure(&config);
                    } else {
                        // What a switchover has changed it sets back first, or finishes.
                        ended = true;
                        self.drive_switchover(switchover::Event::Abandoned);
                    }
                }
                _ = renewal.tick() => self.renew(),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => { self.tick(); }
                () = self.links.progress() => self.note_progress(),
                event = self.switchovers.happened() => self.drive_switchover(event),
                Some(event) = events.recv() => self.hear(event),
                hint = hints.recv(), if hinted => match hint {
                    Some(hint) => self.handle(Event::Hint(hint)),
                    None => hinted = false,
                },
                order = orders.switchovers.recv(), if ordered => match order {
                    Some(order) => self.begin_switchover(order),
                    None => ordered = false,
                },
                order = orders.pauses.recv(), if pausable => match order {
                    Some(order) => self.pause(order),
                    None => pausable = false,
                },
                _ = housekeeping.tick() => self.keep_house(),
            }
            if self.switchovers.is_on() {
                self.drive_switchover(switchover::Event::Look);
            }
            if ended && !self.switchovers.is_on() {
                return;
            }
        }
    }

    /// Renews the leases, if control has been awake: after a gap everybody is asked afresh first.
    fn renew(&mut self) {
        // The same moment for both: a process that is stopped in between must not renew what it has not looked at.
        let now = self.tick();
        self.links.grant(self.machine.topology(), now);
        self.renewed = now;
    }

    /// Lets the machine draw conclusions from the time that passed; returns the moment it was told.
    fn tick(&mut self) -> Moment {
        let now = self.awake();
        let mut actions = std::mem::take(&mut self.actions);
        self.machine.tick(now, &mut actions);
        self.carry_out(now, actions);
        now
    }

    fn handle(&mut self, event: Event) {
        let now = self.awake();
        let mut actions = std::mem::take(&mut self.actions);
        self.machine.handle(now, event, &mut actions);
        self.carry_out(now, actions);
    }

    /// The present moment. If the leases have run out unrenewed, the process was suspended or starved, and the machine
    /// is told so before it hears anything else. Whatever woke this task first: the runtime's timers do not count
    /// suspension, and may not be due yet.
    fn awake(&mut self) -> Moment {
        let now = Moment::now();
        if now.since(self.renewed) > LEASE_VALIDITY {
            tracing::warn!(
                service = self.service,
                "control did not run for {} ms: Sentinels and master are asked afresh",
                now.since(self.renewed).as_millis()
            );
            self.renewed = now;
            let mut actions = std::mem::take(&mut self.actions);
            self.machine.handle(now, Event::Gap, &mut actions);
            self.carry_out(now, actions);
        }
        now
    }

    fn begin_switchover(&mut self, order: Order) {
        let (now, survey) = (self.awake(), self.machine.survey(self.links.quiet()));
        let told = self.switchovers.begin(order, now, &survey, &self.sentinels);
        told.into_iter().for_each(|event| self.handle(Event::Switchover(event)));
    }

    /// Pauses or resumes. Whoever has ordered a pause is told once it is carried out.
    fn pause(&mut self, order: PauseOrder) {
        self.handle(Event::Paused(order.pause));
        self.pausing = Some((self.machine.topology().seq, order.done));
        self.note_pause();
        self.publish_status(Moment::now());
    }

    fn note_pause(&mut self) {
        let paused = self.machine.topology().paused;
        let reached = if paused { self.links.quiet() } else { self.links.acknowledged() };
        if let Some((_, done)) = self.pausing.take_if(|(seq, _)| reached >= *seq) {
            // Who has gone away is not waited for.
            let _ = done.send(());
        }
    }

    /// Shows the switchover that is on what happened and how the service stands, until it wants nothing more of the
    /// failover machine.
    fn drive_switchover(&mut self, event: switchover::Event) {
        let mut event = Some(event);
        while let Some(shown) = event.take() {
            let (now, survey) = (self.awake(), self.machine.survey(self.links.quiet()));
            let told = self.switchovers.show(now, shown, &survey, &self.sentinels);
            if !told.is_empty() {
                event = Some(switchover::Event::Look);
            }
            told.into_iter().for_each(|event| self.handle(Event::Switchover(event)));
        }
    }

    fn note_progress(&mut self) {
        self.note_pause();
        let acknowledged = self.links.acknowledged();
        if acknowledged > self.acknowledged {
            self.acknowledged = acknowledged;
            self.handle(Event::Acknowledged(acknowledged));
        }
        let prepared = self.links.prepared();
        if prepared > self.prepared {
            self.prepared = prepared;
            self.handle(Event::Prepared(prepared));
        }
    }

    fn hear(&mut self, event: SentinelEvent) {
        let now = Moment::now();
        match event {
            SentinelEvent::Machine(event) => {
                let from = match &event {
                    Event::SentinelUp(id) | Event::SentinelDown(id) => {
                        self.sentinels.note_up(*id, matches!(event, Event::SentinelUp(_)), now);
                        Some(*id)
                    }
                    Event::View(id, _) | Event::UnknownName(id) | Event::Published(id, _) => Some(*id),
                    _ => None,
                };
                if from.is_none_or(|id| self.sentinels.is_heard(id)) {
                    let visible = matches!(event, Event::SentinelUp(_) | Event::SentinelDown(_));
                    self.handle(event);
                    if visible {
                        self.publish_status(now);
                    }
                }
            }
            SentinelEvent::Note { source, text } => {
                tracing::info!(service = self.service, "{source} {text}");
                self.machine.recorder_mut().note(now, &source, &text);
                self.publish_status(now);
            }
            SentinelEvent::Identity { id, run_id } => {
                let events = self.sentinels.note_identity(id, run_id, Moment::now());
                events.into_iter().for_each(|e| self.handle(e));
            }
            SentinelEvent::Peers { id, peers } => {
                let events = self.sentinels.note_peers(id, peers, now);
                events.into_iter().for_each(|e| self.handle(e));
            }
            SentinelEvent::Trouble { id, trouble } => {
                self.sentinels.note_trouble(id, trouble.map(|t| t.to_string()));
                self.publish_status(now);
            }
        }
    }

    fn carry_out(&mut self, now: Moment, mut actions: Vec<Action>) {
        let mut visible = false;
        let mut severed = None;
        for action in actions.drain(..) {
            match action {
                Action::Publish(topology) => {
                    // The lease first: it stops writes at once, while the topology waits for the worker to be awake.
                    self.links.grant(&topology, now);
                    self.topology.send_replace(Arc::new(topology));
                    visible = true;
                }
                Action::Probe { nodes, pace } => self.probes.set(&nodes, pace),
                Action::Poll(pace) => self.sentinels.set_pace(pace),
                Action::Sever { seq, node } => {
                    let (workers, sockets) = self.links.sever(seq, node);
                    tracing::warn!(
                        service = self.service,
                        "{workers} workers did not acknowledge the hold in time: shut down their {sockets} sockets to {node}"
                    );
                    severed = Some(seq);
                }
                Action::RecordOpened(_) => {
                    self.counts_before = (self.stats)();
                    // What comes from here on is this one's.
                    self.closed.iter_mut().for_each(|closed| {
                        closed.after.get_or_insert(self.counts_before);
                    });
                    self.demotion.iter().for_each(Demoting::suspend);
                }
                Action::RecordClosed(number) => {
                    let (due, before) = (now + COUNTS_AFTER, self.counts_before);
                    self.closed.push_back(Closed { number, due, before, after: None });
                    let master = self.machine.topology().writes.node;
                    if self.demotion.as_ref().is_some_and(|d| !d.go_on(master)) {
                        self.leave_old_master(now);
                    }
                    visible = true;
                }
                Action::Demote(demotion) => {
                    self.leave_old_master(now);
                    self.demotion = Some(Demoting::start(self.common.clone(), demotion));
                }
                Action::Say(Level::Info, text) => tracing::info!(service = self.service, "{text}"),
                Action::Say(Level::Warn, text) => tracing::warn!(service = self.service, "{text}"),
            }
        }
        self.actions = actions;
        if visible {
            self.publish_status(now);
        }
        if let Some(seq) = severed {
            self.handle(Event::Acknowledged(seq));
        }
        // Without workers, or when they were faster than this.
        self.note_progress();
    }

    /// The master has changed again.
    fn leave_old_master(&mut self, now: Moment) {
        if let Some(old) = self.demotion.take().and_then(|d| d.unfinished()) {
            let why = "is left to Sentinel, since the master has changed again";
            self.machine.recorder_mut().note(now, &old.to_string(), why);
        }
    }

    fn publish_status(&mut self, now: Moment) {
        let remembered = self.machine.worth_remembering();
        self.remembered.send_if_modified(|last| {
            let news = remembered.is_some() && *last != remembered;
            if news {
                *last = remembered;
            }
            news
        });
        let status = self.machine.status(now, &self.service, |id| self.sentinels.facts(id));
        self.status.send_replace(Arc::new(status));
    }

    fn keep_house(&mut self) {
        let now = Moment::now();
        self.set_wall_clock(now);
        while self.closed.front().is_some_and(|closed| closed.due <= now) {
            let Some(Closed { number, before, after, .. }) = self.closed.pop_front() else { break };
            let after = after.unwrap_or_else(|| (self.stats)());
            self.machine.recorder_mut().set_counts(number, after.since(before));
            match self.machine.recorder().closed(number) {
                Some(record) if record.offset_lost.is_certain() => tracing::warn!(service = self.service, "{record}"),
                Some(record) => tracing::info!(service = self.service, "{record}"),
                None => {}
            }
        }
        let events = if self.machine.may_forget_sentinels() { self.sentinels.forget_gone(now) } else { Vec::new() };
        events.into_iter().for_each(|e| self.handle(e));
        self.publish_status(now);
    }

    fn set_wall_clock(&mut self, now: Moment) {
        self.machine.set_wall_clock(WallTime(WallTime::now().0.saturating_sub(now.0)));
    }
}

/// Keeps the machine informed of the address of a static service's master.
async fn look_up_master(service: String, endpoint: Endpoint, resolver: Resolver, events: mpsc::Sender<SentinelEvent>) {
    let mut failed = false;
    loop {
        match resolver.locate(&endpoint).await {
            Ok(node) => {
                failed = false;
                if events.send(SentinelEvent::Machine(Event::StaticMaster(node))).await.is_err() {
                    return;
                }
            }
            Err(error) if !failed => {
                failed = true;
                tracing::warn!(service, "{error}");
            }
            Err(_) => {}
        }
        tokio::time::sleep(LOOK_UP_AGAIN).await;
    }
}
