//! Sentinels, as far as a failover is theirs (Redis 7.0.15, `sentinel.c`). Each goes from step to step at any time that
//! is not too early, and may stop anywhere: how late it is, the model does not bound.

use pointsman::topology::Message;

use crate::proxy::address;
use crate::world::{Node, Role, Time, World};

/// `down-after-milliseconds`.
const DOWN_AFTER: Time = 1000;
/// Shortest time from `+selected-slave` to the promotion: 67 ms were measured.
const SELECTED_BEFORE: Time = 50;
/// `failover-timeout`.
const FAILOVER_TIMEOUT: Time = 10_000;
/// For how long a node must have been in a role that contradicts the configuration before it is put right
/// (`SENTINEL_PUBLISH_PERIOD` * 4).
const ASTRAY_FOR: Time = 8000;

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Sentinel {
    pub(crate) alive: bool,
    pub(crate) master: Node,
    pub(crate) config_epoch: u64,
    /// The highest epoch that it has heard of.
    pub(crate) epoch: u64,
    /// Since when it takes that node for the master.
    pub(crate) since: Time,
    pub(crate) attempt: Option<Attempt>,
}

/// A failover that this Sentinel leads.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Attempt {
    pub(crate) epoch: u64,
    pub(crate) phase: Phase,
    pub(crate) since: Time,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// Announced, and elected.
    Begun,
    Selected,
    /// SLAVEOF NO ONE was sent.
    Sent,
    /// The new master said that it is one: the leader names it from now on.
    Promoted,
}

/// What a Sentinel can do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Deed {
    /// Begins a failover because somebody said so; nobody votes.
    Order,
    /// Begins a failover because the master is down, elected by a majority.
    Election,
    Select,
    Promote,
    Notice,
    GiveUp,
    /// The other Sentinel hears its hello message.
    Tell(usize),
    Finish,
    /// Puts a node right that says master, or follows nobody, and should follow its master.
    Demote(Node),
}

impl Sentinel {
    pub(crate) fn new() -> Self {
        Self { alive: true, master: 0, config_epoch: 1, epoch: 1, since: 0, attempt: None }
    }

    /// What `GET-MASTER-ADDR-BY-NAME` says.
    pub(crate) fn named(&self) -> Node {
        match self.attempt {
            Some(Attempt { phase: Phase::Promoted, .. }) => World::other(self.master),
            _ => self.master,
        }
    }
}

impl World {
    /// All that Sentinel `i` can do now.
    pub(crate) fn deeds(&self, i: usize) -> Vec<Deed> {
        let sentinel = &self.sentinels[i];
        if !sentinel.alive {
            return Vec::new();
        }
        // What it said is heard before it goes on, or is late: both ways are gone.
        let ear = &self.proxy.ears[i];
        if !ear.queue.is_empty() && !ear.stalled {
            return Vec::new();
        }
        let down = |node: Node| !self.nodes[node].alive && self.now - self.nodes[node].since >= DOWN_AFTER;
        let candidate = World::other(sentinel.master);
        let mut deeds = Vec::new();
        match sentinel.attempt {
            None => {
                if self.left.orders > 0 && !down(candidate) && self.first_of_alike(i) {
                    deeds.push(Deed::Order);
                }
                let voters = self.sentinels.iter().filter(|s| s.alive && s.master == sentinel.master);
                let nobody_else = self.sentinels.iter().all(|s| !s.alive || s.attempt.is_none());
                if self.left.elections > 0
                    && down(sentinel.master)
                    && voters.count() >= 2
                    && nobody_else
                    && self.first_of_alike(i)
                {
                    deeds.push(Deed::Election);
                }
            }
            Some(Attempt { phase: Phase::Begun, .. }) => deeds.push(Deed::Select),
            Some(Attempt { phase: Phase::Selected, since, .. }) => {
                if self.now - since >= SELECTED_BEFORE && self.nodes[candidate].alive {
                    deeds.push(Deed::Promote);
                }
            }
            Some(Attempt { phase: Phase::Sent, .. }) => {
                if self.nodes[candidate].alive && self.nodes[candidate].role == Role::Master {
                    deeds.push(Deed::Notice);
                }
            }
            Some(Attempt { phase: Phase::Promoted, .. }) => deeds.push(Deed::Finish),
        }
        if let Some(Attempt { phase: Phase::Selected | Phase::Sent, since, .. }) = sentinel.attempt
            && self.now - since >= FAILOVER_TIMEOUT
        {
            deeds.push(Deed::GiveUp);
        }
        for (j, other) in self.sentinels.iter().enumerate() {
            let news = other.alive && j != i && sentinel.config_epoch > other.config_epoch;
            if news && (!self.alike(1, 2) || j != 2) {
                deeds.push(Deed::Tell(j));
            }
        }
        let (master, node) = (sentinel.master, candidate);
        let astray = self.nodes[node].alive && self.nodes[node].role != Role::ReplicaOf(master);
        let sane = self.nodes[master].alive && self.nodes[master].role == Role::Master;
        let since = [self.nodes[node].since, self.nodes[master].since, sentinel.since].into_iter().max();
        let long = since.is_some_and(|since| self.now - since >= ASTRAY_FOR);
        if astray && sane && long && sentinel.attempt.is_none() {
            deeds.push(Deed::Demote(node));
        }
        deeds
    }

    /// Whether two Sentinels stand alike, so that what one does, the other could have done.
    pub(crate) fn alike(&self, i: usize, j: usize) -> bool {
        self.sentinels[i] == self.sentinels[j] && self.proxy.hears_alike(i, j)
    }

    /// Whether none before it stands alike.
    pub(crate) fn first_of_alike(&self, i: usize) -> bool {
        (0..i).all(|j| !self.alike(i, j))
    }

    /// Carries out a deed of Sentinel `i`.
    pub(crate) fn act(&mut self, i: usize, deed: Deed) {
        let now = self.now;
        let candidate = World::other(self.sentinels[i].master);
        match deed {
            Deed::Order => {
                self.left.orders -= 1;
                let epoch = self.sentinels[i].epoch + 1;
                self.begin(i, epoch);
            }
            Deed::Election => {
                self.left.elections -= 1;
                let epoch = self.sentinels.iter().map(|s| s.epoch).max().unwrap_or(0) + 1;
                let master = self.sentinels[i].master;
                for voter in self.sentinels.iter_mut().filter(|s| s.alive && s.master == master) {
                    voter.epoch = epoch;
                }
                self.begin(i, epoch);
            }
            Deed::Select => {
                let down = !self.nodes[candidate].alive && now - self.nodes[candidate].since >= DOWN_AFTER;
                if down {
                    self.sentinels[i].attempt = None;
                    self.publish(i, Message::NoGoodReplica);
                } else {
                    self.go_on(i, Phase::Selected);
                    self.publish(i, Message::SelectedSlave(address(candidate)));
                }
            }
            Deed::Promote => {
                self.go_on(i, Phase::Sent);
                self.publish(i, Message::WaitPromotion(address(candidate)));
                self.promote(candidate);
            }
            Deed::Notice => {
                self.go_on(i, Phase::Promoted);
                let sentinel = &mut self.sentinels[i];
                sentinel.config_epoch = sentinel.attempt.map_or(sentinel.config_epoch, |a| a.epoch);
                self.publish(i, Message::PromotedSlave(address(candidate)));
            }
            Deed::GiveUp => {
                self.sentinels[i].attempt = None;
                self.publish(i, Message::FailoverAbortedSlaveTimeout);
            }
            Deed::Tell(j) => self.tell(i, j),
            Deed::Finish => {
                let sentinel = &mut self.sentinels[i];
                let old = sentinel.master;
                (sentinel.master, sentinel.since, sentinel.attempt) = (candidate, now, None);
                self.publish(i, Message::FailoverEnd);
                self.publish(i, Message::SwitchMaster { old: address(old), new: address(candidate) });
            }
            Deed::Demote(node) => {
                let master = self.sentinels[i].master;
                self.demote(node, master);
                self.publish(i, Message::ConvertToSlave(address(node)));
            }
        }
    }

    fn begin(&mut self, i: usize, epoch: u64) {
        let now = self.now;
        let sentinel = &mut self.sentinels[i];
        sentinel.epoch = epoch;
        sentinel.attempt = Some(Attempt { epoch, phase: Phase::Begun, since: now });
        self.publish(i, Message::TryFailover);
    }

    fn go_on(&mut self, i: usize, phase: Phase) {
        let now = self.now;
        if let Some(attempt) = &mut self.sentinels[i].attempt {
            (attempt.phase, attempt.since) = (phase, now);
        }
    }

    /// Sentinel `j` hears of a higher config epoch, and takes over what comes with it.
    fn tell(&mut self, i: usize, j: usize) {
        let (named, config_epoch, epoch) =
            (self.sentinels[i].named(), self.sentinels[i].config_epoch, self.sentinels[i].epoch);
        let now = self.now;
        let other = &mut self.sentinels[j];
        other.config_epoch = config_epoch;
        other.epoch = other.epoch.max(epoch);
        if other.named() != named || other.master != named {
            let old = other.master;
            (other.master, other.since, other.attempt) = (named, now, None);
            self.publish(j, Message::SwitchMaster { old: address(old), new: address(named) });
        }
    }
}
