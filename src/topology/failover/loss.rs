//! What the promoted node lacked of the old master's stream: when it is committed, and again if the old master comes back.

use std::net::SocketAddr;

use super::{Action, Failover, Level};
use crate::clock::Moment;
use crate::topology::record::{OffsetLost, RECORDS};
use crate::topology::{History, RoleAnswer};

/// A loss that the old master could tell more of, should it come back.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct OpenLoss {
    /// The record it is about.
    record: u64,
    /// The old master, and its stream.
    node: SocketAddr,
    stream: String,
    /// Up to where the new master had that.
    shared: u64,
}

impl Failover {
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
            (None, Some(shared)) => {
                OffsetLost::at_least(self.last_word(master.node).map_or(0, |(_, last)| last), shared)
            }
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

    /// What is to be remembered of the master that is about to be replaced by `node`, if its own word could tell more of
    /// the loss than is known now. The record is the one that is open.
    pub(super) fn open_loss(&self, node: SocketAddr) -> Option<OpenLoss> {
        let (master, round) = (self.master.as_ref()?, self.round.as_ref()?);
        let shared =
            self.shared_offset(master.node, node).filter(|_| round.final_offset.is_none() && !round.restarted)?;
        let stream = self.history(master.node)?.id.clone();
        Some(OpenLoss { record: 0, node: master.node, stream, shared })
    }

    /// Waits for the old master's word on the loss of a record.
    pub(super) fn await_word(&mut self, open: Option<OpenLoss>, record: u64) {
        let Some(open) = open else { return };
        self.open_losses.retain(|u| u.node != open.node);
        if self.open_losses.len() == RECORDS {
            self.open_losses.remove(0);
        }
        self.open_losses.push(OpenLoss { record, ..open });
    }

    /// A node answered: if it is an old master whose loss is not known, its word may settle that.
    ///
    /// As long as it goes on with its own stream it tells how far it got. That covers all that it ever acknowledged, and
    /// as much that it executed since, for others or from its sockets' buffers when it woke: an upper bound. One that
    /// loaded a part of that stream from its disk had at least that. One that follows somebody has forgotten it.
    pub(super) fn hear_old_master(
        &mut self,
        now: Moment,
        node: SocketAddr,
        answer: &RoleAnswer,
        out: &mut Vec<Action>,
    ) {
        let Some(at) = self.open_losses.iter().position(|u| u.node == node) else { return };
        let OpenLoss { record, stream, shared, .. } = self.open_losses[at].clone();
        let Some(known) = self.recorder.closed(record).map(|r| r.offset_lost) else {
            self.open_losses.remove(at);
            return;
        };
        let (loss, words) = match answer {
            RoleAnswer::Master { offset, history: Some(history), .. } if history.id == stream => {
                (known.at_most(*offset, shared), format!("is back, and had got to offset {offset} of its own stream"))
            }
            RoleAnswer::Master { history: Some(history), .. } => {
                let loaded = history.followed.as_ref().filter(|(id, _)| *id == stream).map_or(0, |(_, end)| *end);
                (
                    known.or_more(loaded, shared),
                    "is back as another process: how far the one before got, nobody can tell".to_owned(),
                )
            }
            RoleAnswer::Replica { .. } => (known, "is back as a replica, and has forgotten how far it got".to_owned()),
            // No word on it, or one that may not be asked.
            RoleAnswer::Master { .. } | RoleAnswer::Refused | RoleAnswer::Silent { .. } | RoleAnswer::Error(_) => {
                return;
            }
        };
        self.open_losses.remove(at);
        self.recorder.amend_loss(now, record, &node.to_string(), &words, loss);
        let level = if loss.is_certain() { Level::Warn } else { Level::Info };
        out.push(Action::Say(level, format!("failover {record}: {loss}: {node} {words}")));
    }

    /// The offset up to which `new` has what `old` had: the end of the stream that the one followed until it was promoted,
    /// and the other wrote. (`old` is the one that followed where an eager commit is undone.) None unless both told their
    /// histories and they meet: a number alone proves nothing.
    fn shared_offset(&self, old: SocketAddr, new: SocketAddr) -> Option<u64> {
        self.followed_until(new, old).or_else(|| self.followed_until(old, new))
    }

    /// The offset up to which `node` had the stream of `leader` when it was promoted, by its own account.
    pub(super) fn followed_until(&self, node: SocketAddr, leader: SocketAddr) -> Option<u64> {
        let (followed, end) = self.history(node)?.followed.as_ref()?;
        (*followed == self.history(leader)?.id).then_some(*end)
    }

    pub(super) fn history(&self, node: SocketAddr) -> Option<&History> {
        self.known.nodes.get(&node)?.history.as_deref()
    }

    /// When a node was last asked for its offset as master, and what it was.
    fn last_word(&self, node: SocketAddr) -> Option<(Moment, u64)> {
        self.known.nodes.get(&node)?.led
    }
}
