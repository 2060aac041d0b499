//! The fence: without a majority of the Sentinels in hearing another master may be elected unheard, and what is written to
//! this one would be lost. An option, since the Sentinels' outage then stops the writes of a healthy master.

use super::{Action, FENCE_PATIENCE, Failover, Level};
use crate::clock::Moment;

impl Failover {
    /// Keeps track of whether a majority of the Sentinels is in hearing. One that answers but knows no master of this name
    /// has no voice.
    pub(super) fn note_majority(&mut self, now: Moment, out: &mut Vec<Action>) {
        if !self.settings.fence_without_quorum || !self.settings.managed {
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
}
