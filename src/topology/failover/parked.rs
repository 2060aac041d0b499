//! Parked replies: which of them the candidate is known to have, and what it lacked when it was promoted.

use std::net::SocketAddr;

use super::Failover;
use crate::clock::Moment;
use crate::topology::record::OffsetLost;

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
    fn followed_to(&self, node: SocketAddr) -> Option<u64> {
        let following = self.known.nodes.get(&node)?.following?;
        (following.generation == self.generation).then_some(following.offset)
    }

    /// What `node` had not received of the present master when it was promoted.
    ///
    /// A reply that a client got arrived before the hold was acknowledged, or was parked and found safe; so the first
    /// offset that the old master told after that covers all of ours, whatever it went on to execute for others. One that
    /// went away unasked may have executed any number of writes after its last word: that is a lower bound, or nothing.
    pub(super) fn offset_lost(&self, node: SocketAddr) -> OffsetLost {
        let (Some(master), Some(round)) = (&self.master, &self.round) else { return OffsetLost::Unknown };
        // What the run before had and did not save is gone as well, and nobody can tell how much that was.
        if round.restarted {
            return OffsetLost::Unknown;
        }
        let received = self.followed_to(node);
        match (round.final_offset, self.shared_offset(master.node, node)) {
            (Some(last), Some(shared)) => OffsetLost::Exact(last.saturating_sub(shared)),
            (Some(last), None) => match received.map(|received| last.saturating_sub(received)) {
                Some(0) => OffsetLost::Exact(0),
                Some(n) => OffsetLost::AtMost(n),
                None => OffsetLost::Unknown,
            },
            (None, Some(shared)) => match self.last_word(master.node).map(|(_, last)| last.saturating_sub(shared)) {
                None | Some(0) => OffsetLost::Unknown,
                Some(n) => OffsetLost::AtLeast(n),
            },
            (None, None) => OffsetLost::Unknown,
        }
    }

    /// What is known where a loss is not known exactly, for the record.
    pub(super) fn loss_in_words(&self, node: SocketAddr) -> Option<String> {
        let (master, round) = (self.master.as_ref()?, self.round.as_ref()?);
        let shared = self.shared_offset(master.node, node).filter(|_| round.final_offset.is_none())?;
        let (asked, last) = self.last_word(master.node)?;
        let before = round.began.since(asked).as_millis();
        Some(format!(
            "{node} had received {} up to offset {shared}; that node last said {last}, {before} ms before writes were held",
            master.node
        ))
    }

    /// The offset up to which `new` had the stream of `old` when it was promoted, by its own account. None unless both
    /// told their histories and they meet: a number alone proves nothing.
    fn shared_offset(&self, old: SocketAddr, new: SocketAddr) -> Option<u64> {
        let history = |node| self.known.nodes.get(&node)?.history.as_ref();
        let (followed, end) = history(new)?.followed.as_ref()?;
        (*followed == history(old)?.id).then_some(*end)
    }

    /// When a node was last asked for its offset as master, and what it was.
    fn last_word(&self, node: SocketAddr) -> Option<(Moment, u64)> {
        self.known.nodes.get(&node)?.led
    }
}
