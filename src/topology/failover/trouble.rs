//! Reasons to hold that lie in what is known rather than in one event.

use std::net::SocketAddr;

use super::round::Cause;
use super::{Action, Failover, LOWER_EPOCH_PATIENCE, SUSPECT_PATIENCE};
use crate::clock::Moment;
use crate::topology::{RoleAnswer, View};

impl Failover {
    /// Begins a round if there is reason to. Only called while none is on.
    pub(super) fn look_for_trouble(&mut self, now: Moment, out: &mut Vec<Action>) -> bool {
        let Some(master) = self.master.clone() else { return false };
        self.raise_epoch(master.node);
        if let Some((since, _)) = master.provisional {
            if self.confirmation(now, master.node, |v| v.epoch >= master.epoch).is_some() {
                self.confirm_provisional(now, out);
            } else if now.since(since) >= self.settings.confirm_timeout {
                self.begin(now, Cause::Unconfirmed, "pointsman", out);
                return true;
            }
        }
        if let Some(suspicion) = self.suspicion.filter(|s| now.since(s.since) >= SUSPECT_PATIENCE) {
            self.begin(now, suspicion.cause, "pointsman", out);
            return true;
        }
        let named = self.known.voices().find(|(_, v)| self.is_news(v)).map(|(id, v)| (id, v.master));
        if let Some((id, node)) = named {
            self.begin(now, Cause::Named(node), &self.known.name(id), out);
            return true;
        }
        if let Some(cause) = self.unheard_promotion(now) {
            self.begin(now, cause, "pointsman", out);
            return true;
        }
        if let Some(node) = self.successor(now).filter(|n| self.known.says_master(*n, self.turned)) {
            self.begin(now, Cause::Reconfigured(node), "pointsman", out);
            return true;
        }
        false
    }

    /// Whether a Sentinel names another master with an epoch that is higher than ours, and is not known to be alone
    /// with that.
    pub(super) fn is_news(&self, view: &View) -> bool {
        self.master.as_ref().is_some_and(|m| view.master != m.node && view.epoch > m.epoch)
            && self.disbelieved.get(&view.master).is_none_or(|e| *e < view.epoch)
    }

    /// The Sentinels' epoch for the master we have may rise without a change of master.
    fn raise_epoch(&mut self, node: SocketAddr) {
        let highest = self.known.voices().filter(|(_, v)| v.master == node).map(|(_, v)| v.epoch).max();
        if let (Some(highest), Some(master)) = (highest, &mut self.master)
            && master.provisional.is_none()
            && highest > master.epoch
        {
            master.epoch = highest;
        }
    }

    /// Where all Sentinels have begun anew (other ones, or wiped), what they will say is measured by what they say now: by
    /// the epoch of those before, nobody could confirm a master.
    pub(super) fn lower_epoch(&mut self, now: Moment) {
        let Some(master) = &self.master else { return };
        let (node, epoch) = (master.node, master.epoch);
        let lower = self.known.voices().all(|(_, v)| v.master == node && v.epoch < epoch);
        let lower = lower && self.known.is_majority(self.known.voices().count());
        self.lower_since = lower.then(|| self.lower_since.unwrap_or(now));
        if self.lower_since.is_some_and(|since| now.since(since) >= LOWER_EPOCH_PATIENCE)
            && let Some(highest) = self.known.voices().map(|(_, v)| v.epoch).max()
            && let Some(master) = &mut self.master
        {
            (master.epoch, self.lower_since) = (highest, None);
            self.disbelieved.clear();
        }
    }

    /// Rule 1: what the replicas show of a failover whose leader is out of hearing. While all Sentinels are heard, a
    /// replica that says master was made so by somebody else, and is none of our business.
    fn unheard_promotion(&self, now: Moment) -> Option<Cause> {
        let may_be_unheard = !self.known.hears_all() || self.known.sentinels.values().any(|s| s.is_leading());
        if !may_be_unheard || !self.settings.managed {
            return None;
        }
        self.known.followers(self.generation).find_map(|(address, node)| match node.answer(self.turned)? {
            RoleAnswer::Master { .. } => Some(Cause::Claim(address)),
            RoleAnswer::Replica { connected: false, .. } if now >= node.link_exonerated_until => {
                node.left_list.and_then(|left| node.answer(left)).map(|_| Cause::LeftList(address))
            }
            _ => None,
        })
    }

    /// Takes note of which replicas the master lists; one that disappears is looked at closely.
    pub(super) fn note_list(&mut self, now: Moment, replicas: &[(SocketAddr, u64)]) {
        let mut left = false;
        for (address, node) in &mut self.known.nodes {
            let listed = replicas.iter().any(|(r, _)| r == address);
            if node.listed && !listed {
                node.left_list = Some(now);
                left = true;
            } else if listed {
                node.left_list = None;
            }
            node.listed = listed;
        }
        if left {
            self.alert(now);
        }
    }

    /// Rule 5: keeps track of whether every Sentinel in hearing, and a majority of all, names one other node.
    pub(super) fn note_agreement(&mut self, now: Moment) {
        let mut names = self.known.voices().map(|(_, v)| v.master);
        let first = names.next().filter(|n| self.master.as_ref().is_some_and(|m| m.node != *n));
        let unanimous = first.filter(|n| names.all(|other| other == *n));
        let count = self.known.voices().count();
        self.agreement = unanimous.filter(|_| self.known.is_majority(count)).map(|node| match self.agreement {
            Some((before, since)) if before == node => (node, since),
            _ => (node, now),
        });
    }

    /// The node that is to be master by other means than a failover: all Sentinels agree on it, or the name of a static
    /// master moved there.
    pub(super) fn successor(&self, now: Moment) -> Option<SocketAddr> {
        let master = self.master.as_ref().map(|m| m.node);
        self.ripe_agreement(now).or(self.static_master.filter(|n| Some(*n) != master))
    }

    /// The node agreed on for long enough.
    pub(super) fn ripe_agreement(&self, now: Moment) -> Option<SocketAddr> {
        self.agreement.filter(|(_, since)| now.since(*since) >= LOWER_EPOCH_PATIENCE).map(|(node, _)| node)
    }
}
