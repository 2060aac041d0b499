//! Parked replies: which of them the candidate is known to have.

use std::net::SocketAddr;

use super::Failover;
use crate::clock::Moment;

/// Samples kept. They come every few milliseconds, matter for the few hundred until the promotion, and only a new
/// offset makes a new one.
const SAMPLES: usize = 64;

impl Failover {
    /// The master said in this round, asked at `asked`, that its offset is `offset`.
    pub(super) fn sample(&mut self, asked: Moment, offset: u64) {
        let Some(round) = &mut self.round else { return };
        if round.acknowledged.is_some_and(|a| asked > a) {
            round.final_offset.get_or_insert(offset);
        }
        if let Some(same) = round.samples.iter_mut().find(|(_, o)| *o == offset) {
            same.0 = same.0.max(asked);
            return;
        }
        if round.samples.len() == SAMPLES {
            round.samples.remove(0);
        }
        round.samples.push((asked, offset));
    }

    /// Replies parked before this moment have reached the candidate.
    ///
    /// A reply that arrived before the master was asked for its offset belongs to a write that it had executed before
    /// it answered, at an offset not higher than the answer. A candidate seen at that offset, as replica, has it. Once
    /// it is master its offset counts other writes too, so only what it said as replica is looked at.
    pub(super) fn safe_before(&self) -> Moment {
        let reached = self.round.as_ref().filter(|r| !r.restarted).and_then(|round| {
            let offset = round.candidate_set().into_iter().map(|node| self.followed_to(node)).min()??;
            round.samples.iter().filter(|(_, sampled)| *sampled <= offset).map(|(asked, _)| *asked).max()
        });
        reached.unwrap_or_default().max(self.published.parked_safe_before)
    }

    /// The offset at which a node was last seen connected to the present master.
    pub(super) fn followed_to(&self, node: SocketAddr) -> Option<u64> {
        let following = self.known.nodes.get(&node)?.following?;
        (following.generation == self.generation).then_some(following.offset)
    }
}
