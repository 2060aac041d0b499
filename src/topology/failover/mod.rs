//! The failover machine: from what was heard to where traffic may go.
//!
//! A pure function of (state, event, now): no sockets, no clock, no tasks, no randomness. Events go in through
//! [`Failover::handle`], passing time through [`Failover::tick`]; [`Action`]s come out. It knows two situations: a
//! master is confirmed and traffic flows, or a [`round`] is on: writes are held (later refused) until a master is
//! confirmed, the same or another. Whatever comes in only changes what is known; then the conclusions are drawn anew:
//!
//! - `hearing`, `roles`: events that by themselves begin a hold;
//! - `trouble`: what is known gives reason to hold;
//! - `commit`: another master is confirmed;
//! - `release`: the old one goes on;
//! - `pause`: what an operator wants, beside all this;
//! - `switchover`: a planned one holds writes and names the node whose word then suffices;
//! - `output`: what follows for workers, probes and polls.
//!
//! Three rules keep late and stale words harmless. A role counts only when asked after the round began. A generation
//! is published only after every worker has acknowledged the hold. An epoch never goes down on one Sentinel's word.

mod commit;
mod fence;
mod hearing;
mod knowledge;
mod loss;
mod output;
mod parked;
mod pause;
mod release;
mod remembered;
mod roles;
mod round;
mod switchover;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::record::Recorder;
use super::status::WallTime;
use super::{Event, Flow, Topology};
use crate::clock::Moment;
use crate::config::Commit;
use knowledge::Knowledge;
use loss::OpenLoss;
pub use output::SentinelFacts;
use pause::Paused;
use round::{Cause, Previous, Round};

/// How long an announcement that nothing follows holds writes. `+selected-slave` comes 80–150 ms after
/// `+try-failover`; a Sentinel that cannot win its election says so only after up to 10 s.
pub const ANNOUNCEMENT_EXPIRES: Duration = Duration::from_millis(500);
/// A Sentinel that has answered no poll for so long hangs, or is out of hearing: what it says next may be late.
const SENTINEL_SILENT: Duration = Duration::from_millis(250);
/// How long writes wait, at most, for what sessions need on a master that has taken over: their scripts, their
/// subscriptions. Few take some ms. As many subscribers as a worker may have (`limits.pinned`) take longer than all the
/// other clients should wait for them.
pub const PREPARATION_LIMIT: Duration = Duration::from_millis(250);
/// How long stragglers among the workers may take to acknowledge a hold before their sockets are shut down.
pub const STRAGGLER_PATIENCE: Duration = Duration::from_millis(20);
/// For how long after the last sign of a failover everybody is asked as often as possible. The slowest step that is
/// worth it, from the hold to the commit, takes about 2 s; a longer outage is watched at a calmer pace.
const FAST_FOR: Duration = Duration::from_secs(5);
/// How long no majority of the Sentinels may be in hearing before writes are refused, where that is wanted: two that
/// restart one after the other are no partition.
pub const FENCE_PATIENCE: Duration = Duration::from_millis(500);
/// For how long everybody is asked more often after a sign that may concern another service.
const ALERT_FOR: Duration = Duration::from_secs(2);
/// Longest wait for the probe that decides on a suspicion; the probe itself gives up sooner.
const SUSPECT_PATIENCE: Duration = Duration::from_secs(1);
/// For how long after a hold that was about nothing hints of workers are checked before they are believed.
const EXONERATED_FOR: Duration = Duration::from_secs(1);
/// ROLE cannot show that a master is loading, so a hold for that lasts at least so long, and longer each time …
const DWELL_MIN: Duration = Duration::from_millis(50);
/// … up to this.
const DWELL_MAX: Duration = Duration::from_secs(1);
/// After so long without a hold for loading, the first one is short again.
const DWELL_FORGET: Duration = Duration::from_secs(10);
/// For how long a replica whose lost link began a hold about nothing begins no other by that.
const LINK_EXONERATED_FOR: Duration = Duration::from_secs(60);
/// How long the answers of replicas and new Sentinels are waited for before a hold ends without them.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// How long replicas that follow the master, but are not connected to it yet, keep a hold alive.
const LINK_PATIENCE: Duration = Duration::from_secs(2);
/// How long after its last word a leading Sentinel that went out of hearing may still promote somebody.
const LOST_LEADER_PATIENCE: Duration = Duration::from_secs(3);
/// How long the Sentinels are given to reconnect, after an outage that cut them off as well, before it counts that
/// none is in hearing.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// Shortest life of a hold that hearsay began and most Sentinels contradict.
const HEARSAY_PATIENCE: Duration = Duration::from_secs(3);
/// At the start: how long to wait for the other Sentinels once the first has named a master.
const START_PATIENCE: Duration = Duration::from_secs(1);
/// At the start: how long to wait while a Sentinel says that a failover is in progress.
const START_FAILOVER_PATIENCE: Duration = Duration::from_secs(2);
/// For how long all Sentinels must agree before an epoch that is not higher is accepted.
pub const LOWER_EPOCH_PATIENCE: Duration = Duration::from_secs(10);

/// What the machine must know of the configuration.
#[derive(Clone, Copy, Hash, Debug)]
pub struct Settings {
    /// When a promotion counts.
    pub commit: Commit,
    /// After so long a hold becomes a refusal.
    pub hold_timeout: Duration,
    /// Longest wait for a second Sentinel, and for the confirmation of an eager commit.
    pub confirm_timeout: Duration,
    /// The master is silent when two slow probes in a row, this far apart at least, found no answer.
    pub silence_threshold: Duration,
    /// Whether writes are refused while no majority of the Sentinels is in hearing.
    pub fence_without_quorum: bool,
    /// Whether the old master is to be made a replica as soon as another one is confirmed.
    pub fence_old_master: bool,
    /// Whether Sentinels name the master; otherwise `Event::StaticMaster` does.
    pub managed: bool,
}

/// How often to ask.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Pace {
    /// Once a second: all is well.
    Slow,
    /// Ten times a second: something may begin unheard, or an outage lasts.
    Watch,
    /// As often as is sensible: a failover is under way.
    Fast,
}

/// Weight of a line for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Worth knowing.
    Info,
    /// Somebody should look at it.
    Warn,
}

/// What control is to do.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Leases first, then the topology itself.
    Publish(Topology),
    /// From now on ask these nodes for their role, at this pace.
    Probe {
        /// The nodes; others are no longer asked.
        nodes: BTreeSet<SocketAddr>,
        /// How often.
        pace: Pace,
    },
    /// From now on ask all Sentinels at this pace, beginning at once.
    Poll(Pace),
    /// Shut down the sockets to `node` of every worker that has not acknowledged `seq`, then say `Acknowledged(seq)`.
    Sever {
        /// The publication that held writes.
        seq: u64,
        /// The old master.
        node: SocketAddr,
    },
    /// A record was opened: remember the workers' counts as they stand.
    RecordOpened(u64),
    /// A record was closed: give it the difference of the workers' counts soon, and log its line.
    RecordClosed(u64),
    /// Make this old master a replica, if it is still what it was.
    Demote(Demotion),
    /// A line for the log.
    Say(Level, String),
}

/// An old master that is to follow its successor.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Demotion {
    /// The old master.
    pub old: SocketAddr,
    /// Its successor.
    pub new: SocketAddr,
    /// The process that it was (`run_id`): another one under its address is left alone.
    pub run_id: String,
    /// The stream that it wrote (`master_replid`): a node that began another one is left alone.
    pub stream: String,
}

/// The confirmed master.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Master {
    node: SocketAddr,
    epoch: u64,
    run_id: Option<String>,
    /// An eager commit that no Sentinel has confirmed yet: since when, and the master before.
    provisional: Option<(Moment, Previous)>,
}

/// A doubt about the master that one probe decides.
#[derive(Clone, Copy, Hash, Debug)]
struct Suspicion {
    since: Moment,
    /// What it is if the probe finds no answer.
    cause: Cause,
}

/// The failover machine of one service. A clone goes its own way from the same state. Machines that hash alike do alike:
/// the hash is of everything that they decide by, which the records are not.
#[derive(Clone, Hash, Debug)]
pub struct Failover {
    settings: Settings,
    known: Knowledge,
    master: Option<Master>,
    generation: u64,
    /// Present whenever writes do not flow, but for a moment behind a commit.
    round: Option<Round>,
    /// Another master was committed, and until here at most writes wait for the workers to prepare it.
    preparing: Option<Moment>,
    /// The last time a round began or ended; roles asked for before or at it are of the past.
    turned: Moment,
    /// Deadline of the wait that ended last without anything flowing.
    last_deadline: Moment,
    suspicion: Option<Suspicion>,
    /// Everybody is asked more often until here.
    alert_until: Moment,
    /// Hints are checked before they are believed until here.
    exonerated_until: Moment,
    /// How long the next hold for loading lasts at least, and when the last one was asked for.
    dwell: (Duration, Moment),
    /// Claims of Sentinels (address, epoch) that most others contradicted for long: no reason to hold again.
    disbelieved: BTreeMap<SocketAddr, u64>,
    /// What is to be done with the old master once the provisional one is confirmed.
    demotion: Option<Demotion>,
    /// Since when no majority of the Sentinels has been in hearing.
    minority_since: Option<Moment>,
    /// The one other address that every Sentinel in hearing, a majority of all, names, and since when.
    agreement: Option<(SocketAddr, Moment)>,
    /// Since when every Sentinel in hearing, a majority of all, has named the master we have with a lower epoch.
    lower_since: Option<Moment>,
    /// When the first Sentinel named a master.
    first_voice: Option<Moment>,
    static_master: Option<SocketAddr>,
    /// What the last process knew.
    remembered: Option<super::Remembered>,
    /// An operator has the service wait.
    paused: Option<Paused>,
    published: Topology,
    /// Whether that refuses writes because of the fence alone.
    published_fenced: bool,
    planned: Option<(BTreeSet<SocketAddr>, Pace)>,
    polled: Option<Pace>,
    run_id_changes: u64,
    /// Losses of which an old master that comes back could tell more; at most one for each node.
    open_losses: Vec<OpenLoss>,
    recorder: Recorder,
}

impl Failover {
    /// Goes by these settings from now on; deadlines that were set stay as they are.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// A machine that knows nothing yet: all traffic is held until a master is confirmed.
    pub fn new(settings: Settings, now: Moment) -> Self {
        Self {
            known: Knowledge::default(),
            master: None,
            generation: 0,
            round: Some(Round::new(now, Cause::Start, &settings)),
            preparing: None,
            turned: now,
            last_deadline: now,
            suspicion: None,
            alert_until: now,
            exonerated_until: now,
            dwell: (DWELL_MIN, Moment(0)),
            disbelieved: BTreeMap::new(),
            demotion: None,
            minority_since: None,
            agreement: None,
            lower_since: None,
            first_voice: None,
            static_master: None,
            remembered: None,
            paused: None,
            published: Topology::unknown(),
            published_fenced: false,
            planned: None,
            polled: None,
            run_id_changes: 0,
            open_losses: Vec::new(),
            recorder: Recorder::new(now),
            settings,
        }
    }

    /// Takes in one event and draws the conclusions. `now` never goes back.
    pub fn handle(&mut self, now: Moment, event: Event, out: &mut Vec<Action>) {
        self.hear(now, event, out);
        self.settle(now, out);
    }

    /// Draws the conclusions from the time that passed. To be called at [`Self::deadline`]; calling it at other times
    /// does no harm.
    pub fn tick(&mut self, now: Moment, out: &mut Vec<Action>) {
        self.settle(now, out);
    }

    /// The time of day at which the boot clock would have shown 0, for records. To be refreshed now and then, since
    /// the time of day can be set.
    pub fn set_wall_clock(&mut self, at_zero: WallTime) {
        self.recorder.set_wall_clock(at_zero);
    }

    /// The topology as last published.
    pub fn topology(&self) -> &Topology {
        &self.published
    }

    /// The records.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The records, to add the workers' counts.
    pub fn recorder_mut(&mut self) -> &mut Recorder {
        &mut self.recorder
    }

    /// Until when writes wait for the workers to prepare a master that is confirmed now.
    fn preparation_ends(&self, now: Moment) -> Moment {
        now + PREPARATION_LIMIT.min(self.settings.hold_timeout)
    }

    /// Draws conclusions until none is left.
    fn settle(&mut self, now: Moment, out: &mut Vec<Action>) {
        // Where a commit is to be undone, or may be, those count who know the master before.
        let undone = self.round.as_ref().and_then(|r| r.undone);
        let provisional = self.master.as_ref().and_then(|m| m.provisional.as_ref()).map(|(_, previous)| *previous);
        let before = undone.or(provisional).map(|previous| previous.epoch);
        let epoch = before.or(self.master.as_ref().map(|m| m.epoch)).unwrap_or(0);
        self.known.note_names(now, epoch);
        self.note_agreement(now);
        self.lower_epoch(now);
        self.note_majority(now, out);
        self.end_pause(now, out);
        if self.first_voice.is_none() && self.known.voices().next().is_some() {
            self.first_voice = Some(now);
        }
        // Each turn begins or ends a round, and a round that began now cannot end now (roles are asked for after it
        // began), so two turns are all there can be.
        for _ in 0..2 {
            let turned = match self.round {
                None => self.look_for_trouble(now, out),
                Some(_) => self.try_commit(now, out) || self.try_release(now, out),
            };
            if !turned {
                break;
            }
        }
        // During a round nothing is prepared: the time is given anew when it ends.
        if self.round.is_none() && self.preparing.is_some_and(|until| now >= until) {
            self.preparing = None;
            if !self.settings.hold_timeout.is_zero() {
                out.push(Action::Say(Level::Warn, "writes flow before scripts and subscriptions are all back".into()));
            }
        }
        self.publish(now, out);
        self.track(now);
        self.plan(now, out);
    }

    /// Holds writes: begins a round. Without a confirmed master a round is always on.
    fn begin(&mut self, now: Moment, cause: Cause, source: &str, out: &mut Vec<Action>) -> &mut Round {
        let mut round = Round::new(now, cause, &self.settings);
        let waited = self.published.writes.flow != Flow::Flowing && !self.published_fenced;
        if waited && self.published.generation == self.generation {
            // The last round ended this instant and nothing has flowed since: for clients it is one wait.
            round.deadline = self.last_deadline;
        }
        if matches!(cause, Cause::Demoted | Cause::Unconfirmed) {
            // `slave` from a provisional master undoes the commit as an abort or a time-out does.
            round.undone = self.master.as_ref().and_then(|m| m.provisional.as_ref()).map(|(_, previous)| *previous);
        }
        if matches!(cause, Cause::Announced(_)) {
            round.expires = Some(now + ANNOUNCEMENT_EXPIRES);
        }
        self.turned = now;
        self.suspicion = None;
        for sentinel in self.known.sentinels.values_mut() {
            sentinel.views = 0;
        }
        let why = cause.words(&self.known);
        let number = self.recorder.open(now, self.master.as_ref().map(|m| m.node), why.clone());
        let text = format!("writes held: {why}");
        self.recorder.event(now, source, text.clone());
        out.push(Action::RecordOpened(number));
        out.push(Action::Say(Level::Info, text));
        self.round = Some(round);
        let before = self.published.seq;
        self.publish(now, out);
        if self.published.seq == before {
            // Nothing changes for workers: a fence keeps writes already, or one hold follows another. They acknowledge it
            // all the same, so that the round is carried out as any other.
            self.publish_anew(out);
        }
        let seq = self.published.seq;
        let round = self.round.as_mut().expect("set above");
        round.held_seq = seq;
        round
    }

    /// Whether the master's last answer in this round (or since the last one ended) is that it is master.
    fn master_says_master(&self) -> bool {
        self.master.as_ref().is_some_and(|m| self.known.says_master(m.node, self.turned))
    }
}

#[cfg(test)]
mod tests;
