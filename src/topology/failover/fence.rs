//! The fences, both of them options.
//!
//! Without a majority of the Sentinels in hearing another master may be elected unheard, and what is written to this one
//! would be lost; but then the Sentinels' outage stops the writes of a healthy master. And an old master takes writes past
//! pointsman until Sentinel demotes it; but demoting it is Sentinel's business.

use std::net::SocketAddr;

use super::{Action, Demotion, FENCE_PATIENCE, Failover, Level};
use crate::clock::Moment;

impl Failover {
    /// Keeps track of whether a majority of the Sentinels is in hearing. One that answers but knows no master of this name
    /// has no voice.
    pub(super) fn note_majority(&mut self, now: Moment, out: &mut Vec<Action>) {
        if !self.settings.fence_without_quorum || !self.settings.managed {
            self.minority_since = None;
            return;
        }
        let was_fenced = self.fenced(now).is_some();
        let heard = self.known.voices().count();
        if !self.known.is_majority(heard) {
            self.minority_since.get_or_insert(now);
        } else if self.minority_since.take().is_some() && was_fenced {
            let known = self.known.sentinels.len();
            out.push(Action::Say(
                Level::Info,
                format!("{heard} of {known} Sentinels are in hearing: the fence is down"),
            ));
        }
    }

    /// Why writes are refused although nobody says that the master is another one.
    pub(super) fn fenced(&self, now: Moment) -> Option<String> {
        self.master.as_ref()?;
        self.minority_since.filter(|since| now.since(*since) >= FENCE_PATIENCE)?;
        let (heard, known) = (self.known.voices().count(), self.known.sentinels.len());
        Some(format!("only {heard} of {known} Sentinels are in hearing, and fence_without_quorum is on"))
    }

    /// Whether Sentinels that are gone for good may be forgotten. Where writes need a majority, it is one of those that were
    /// known before the network was cut.
    pub fn may_forget_sentinels(&self) -> bool {
        !self.settings.fence_without_quorum || self.known.is_majority(self.known.voices().count())
    }

    /// What is to be done with the present master when `node` takes its place. Only a node that by its own account followed
    /// this one is its successor: a service may have been moved to servers that have nothing to do with it.
    pub(super) fn demotion_for(&self, node: SocketAddr) -> Option<Demotion> {
        let master = self.master.as_ref().filter(|_| self.settings.fence_old_master)?;
        self.followed_until(node, master.node)?;
        let stream = self.history(master.node)?.id.clone();
        Some(Demotion { old: master.node, new: node, run_id: master.run_id.clone()?, stream })
    }

    /// Has the old master made a replica, if its successor can not be undone: two Sentinels name it, or the only one there
    /// is. Otherwise that is left to Sentinel.
    pub(super) fn demote(&mut self, out: &mut Vec<Action>) {
        let Some(demotion) = self.demotion.take() else { return };
        let namers = self.known.voices().filter(|(_, v)| v.master == demotion.new).count();
        if namers >= 2 || namers == self.known.sentinels.len() {
            out.push(Action::Demote(demotion));
        }
    }
}
