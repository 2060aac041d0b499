//! Starting while no Sentinel is in hearing: what the last process knew, checked against the node itself (rule 9).

use std::net::SocketAddr;

use super::commit::Elect;
use super::{Failover, RECONNECT_PATIENCE};
use crate::clock::Moment;
use crate::topology::{Remembered, RoleAnswer};

impl Failover {
    /// The remembered master, if it is still the same process and says master. It did not follow anybody since, or it
    /// would say so; what Sentinels decide meanwhile counts as soon as one is heard.
    pub(super) fn remembered_master(&self, now: Moment) -> Option<Elect> {
        let remembered = self.counts(now)?;
        let same = |run_id: &Option<String>| run_id.as_deref() == Some(&remembered.run_id);
        match self.known.answer(remembered.master, self.turned)? {
            RoleAnswer::Master { run_id, .. } if same(run_id) => Some(Elect {
                node: remembered.master,
                epoch: remembered.epoch,
                provisional: false,
                by: "what was known before the restart of pointsman; no Sentinel is in hearing".to_owned(),
            }),
            _ => None,
        }
    }

    /// The remembered master once it says master, whatever its process: it may be read.
    pub(super) fn remembered_reader(&self, now: Moment) -> Option<SocketAddr> {
        let node = self.counts(now)?.master;
        self.known.says_master(node, self.turned).then_some(node)
    }

    /// What is remembered, while it counts: nothing was confirmed yet, and Sentinels had the time to be heard.
    fn counts(&self, now: Moment) -> Option<&Remembered> {
        let round = self.round.as_ref().filter(|_| self.master.is_none() && self.first_voice.is_none())?;
        self.remembered.as_ref().filter(|_| round.age(now) >= RECONNECT_PATIENCE)
    }

    /// What is to be remembered of the present state; nothing while it may yet be undone.
    pub fn worth_remembering(&self) -> Option<Remembered> {
        let master = self.master.as_ref().filter(|m| m.provisional.is_none() && self.settings.managed)?;
        let run_id = master.run_id.clone()?;
        Some(Remembered { master: master.node, epoch: master.epoch, run_id })
    }
}
