//! When a hold ends with the master it began with.

use std::net::SocketAddr;
use std::time::Duration;

use super::round::{Cause, Round};
use super::{
    ANSWER_PATIENCE, Action, EXONERATED_FOR, Failover, HEARSAY_PATIENCE, LINK_EXONERATED_FOR, LINK_PATIENCE,
    LOST_LEADER_PATIENCE, Level, RECONNECT_PATIENCE,
};
use crate::clock::Moment;
use crate::topology::failover::knowledge::{Node, Sentinel};
use crate::topology::record::{FailoverKind, OffsetLost};
use crate::topology::{RoleAnswer, SentinelId};

impl Failover {
    /// Lets traffic flow to the old master again if nothing speaks against it.
    pub(super) fn try_release(&mut self, now: Moment, out: &mut Vec<Action>) -> bool {
        let (Some(master), Some(round)) = (&self.master, &self.round) else { return false };
        if round.switchover.is_some() {
            return false;
        }
        let intended = round.was_announced() || round.cause == Cause::Switchover;
        let (node, restarted) = (master.node, round.restarted);
        let deadline = round.deadline;
        // Where its run id may not be asked, a master that went away may have come back as another process.
        let may_have_restarted = restarted || round.master_failed && master.run_id.is_none();
        let (failed, undone, cause) = (round.master_failed, round.undone.is_some(), round.cause);
        let outcome = if self.obstacle(now).is_none() {
            format!("{node} is master still")
        } else if self.announcement_came_to_nothing(now) {
            format!("nothing followed the announcement; {node} is master still")
        } else if self.hearsay_is_refuted(now) {
            self.disbelieve();
            format!("most Sentinels still name {node}")
        } else {
            return false;
        };
        if undone {
            self.confirm_provisional(now, out);
        }
        if let Cause::LeftList(replica) = cause
            && let Some(replica) = self.known.nodes.get_mut(&replica)
        {
            replica.link_exonerated_until = now + LINK_EXONERATED_FOR;
        }
        self.round = None;
        // What was not prepared before the round has to be yet, as far as that makes nobody wait longer than he may.
        self.preparing = self.preparing.map(|_| self.preparation_ends(now).min(deadline));
        self.last_deadline = deadline;
        self.turned = now;
        self.exonerated_until = now + EXONERATED_FOR;
        let kind = if intended && !failed { FailoverKind::Aborted } else { FailoverKind::Interruption };
        let lost = if may_have_restarted { OffsetLost::Unknown } else { OffsetLost::Exact(0) };
        out.push(Action::Say(Level::Info, format!("writes flow again: {outcome}")));
        let number = self.recorder.close(now, kind, node, self.generation, outcome, lost);
        out.push(Action::RecordClosed(number));
        true
    }

    /// What speaks against letting traffic flow to the old master (the end of rule 2).
    pub(super) fn obstacle(&self, now: Moment) -> Option<String> {
        let (Some(master), Some(round)) = (&self.master, &self.round) else {
            return Some("no master is confirmed yet".to_owned());
        };
        match self.known.answer(master.node, round.last_sign) {
            Some(RoleAnswer::Master { .. }) => {}
            Some(answer) => return Some(format!("{} {}", master.node, super::roles::state(answer))),
            None => return Some(format!("{} was not heard since", master.node)),
        }
        if now < round.not_before {
            return Some(format!("{} may still be loading", master.node));
        }
        if let Some((id, view)) = self.known.voices().find(|(_, v)| self.is_news(v)) {
            return Some(format!("{} names {} with epoch {}", self.known.name(id), view.master, view.epoch));
        }
        if round.undone.is_some() && self.confirmation(now, master.node, |v| v.epoch >= master.epoch).is_none() {
            return Some("no Sentinel confirmed the new master".to_owned());
        }
        if let Some(node) = self.successor(now).filter(|n| self.may_be_master(now, *n)) {
            return Some(format!("{node} is to be master"));
        }
        self.unfinished_failover(now, round)
            .or_else(|| self.missing_witness(now, round, master.run_id.is_some()))
            .or_else(|| self.stray_replica(now, master.node, round))
    }

    /// Whether a node says master, or has not had the time to say otherwise.
    fn may_be_master(&self, now: Moment, node: SocketAddr) -> bool {
        match self.known.answer(node, self.turned) {
            None => now.since(self.turned) < ANSWER_PATIENCE,
            Some(answer) => matches!(answer, RoleAnswer::Master { .. }),
        }
    }

    /// A Sentinel that is failing over, may be, or has not said since.
    fn unfinished_failover(&self, now: Moment, round: &Round) -> Option<String> {
        for (id, sentinel) in self.known.sentinels.iter().filter(|(_, s)| s.up && !s.unknown_name) {
            if sentinel.is_leading() && !self.promotion_was_undone(now, round) {
                return Some(format!("{} reports a failover in progress", self.known.name(*id)));
            }
            // One that has just come back into hearing has not had the time to say whether it goes on.
            let since = sentinel.heard.map_or(self.turned, |heard| heard.max(self.turned));
            if sentinel.views < 2 && (sentinel.view.is_some() || now.since(since) < ANSWER_PATIENCE) {
                return Some(format!("{} was not heard since", self.known.name(*id)));
            }
        }
        // A leader that went out of hearing may still promote whom it selected.
        let lost = round.announcers.iter().find(|id| self.known.sentinels.get(id).is_none_or(|s| !s.up));
        lost.filter(|_| now.since(round.last_sign) < LOST_LEADER_PATIENCE)
            .map(|id| format!("{}, which announced a failover, is out of hearing", self.known.name(*id)))
    }

    /// Whether the candidate was promoted and demoted again. SLAVEOF NO ONE is sent only once, so that nothing can come
    /// of this failover any more, but its leader goes on waiting for as long as `failover-timeout` (3 minutes).
    fn promotion_was_undone(&self, now: Moment, round: &Round) -> bool {
        let vouched = self.master.as_ref().is_some_and(|m| self.known.is_majority(self.vouchers(m.node)));
        vouched && round.demoted_since.is_some_and(|since| now.since(since) >= LINK_PATIENCE)
    }

    /// Where no Sentinel is in hearing, a master that went away and came back needs a witness that nobody was promoted
    /// meanwhile: its own unbroken run, or a replica that is connected to it (rule 9).
    fn missing_witness(&self, now: Moment, round: &Round, has_run_id: bool) -> Option<String> {
        if !self.settings.managed || self.known.voices().next().is_some() || !(round.master_failed || round.is_gap()) {
            return None;
        }
        if now.since(self.turned) < RECONNECT_PATIENCE {
            return Some("no Sentinel is in hearing yet".to_owned());
        }
        let same_run = has_run_id && !round.restarted;
        let followed = self
            .known
            .followers(self.generation)
            .any(|(_, n)| matches!(n.answer(self.turned), Some(RoleAnswer::Replica { connected: true, .. })));
        (!same_run && !followed).then(|| "the master was restarted and no Sentinel is in hearing".to_owned())
    }

    /// A node that followed the master and does not say so now.
    fn stray_replica(&self, now: Moment, master: SocketAddr, round: &Round) -> Option<String> {
        for (node, since) in &round.must_follow {
            match self.known.answer(*node, *since) {
                Some(RoleAnswer::Replica { .. }) => {}
                Some(RoleAnswer::Refused | RoleAnswer::Silent { .. }) if self.is_out_of_all_reach(*node, master) => {}
                _ => return Some(format!("{node} may have been promoted and does not say replica")),
            }
        }
        self.known.followers(self.generation).find_map(|(address, node)| {
            let fault = self.fault(now, master, round, node)?;
            Some(format!("{address} {fault}"))
        })
    }

    /// Whether a majority of the Sentinels is content with the master and does not reach this node either. Whoever was to
    /// promote it has given up by then, and it may never come back.
    fn is_out_of_all_reach(&self, node: SocketAddr, master: SocketAddr) -> bool {
        let agree =
            |s: &&Sentinel| s.voice().is_some_and(|v| !v.replicas.iter().any(|r| r.node == node && r.reachable));
        self.known.is_majority(self.contented(master).filter(agree).count())
    }

    fn fault(&self, now: Moment, master: SocketAddr, round: &Round, node: &Node) -> Option<String> {
        let answer = node.answer(round.last_sign);
        match answer {
            None => (now.since(round.last_sign) < ANSWER_PATIENCE).then(|| "was not heard since".to_owned()),
            Some(RoleAnswer::Replica { of, connected: true, .. }) if *of == master => None,
            Some(RoleAnswer::Replica { of, connected: false, .. }) if *of == master => {
                // After a restart of the master a resync may take minutes, and Sentinels vouch that nobody is promoted.
                let settled = round.answering_since.is_some_and(|s| now.since(s) >= LINK_PATIENCE);
                let vouched = !self.settings.managed || self.known.is_majority(self.vouchers(master));
                (!(settled && vouched)).then(|| "is not connected to the master yet".to_owned())
            }
            Some(RoleAnswer::Master { .. }) => Some("says master".to_owned()),
            Some(RoleAnswer::Replica { of, .. }) => Some(format!("says replica of {of}")),
            // Out of reach: nothing can be expected of it.
            Some(RoleAnswer::Refused | RoleAnswer::Silent { .. } | RoleAnswer::Error(_)) => None,
        }
    }

    /// How many Sentinels, asked since the round began, are content with the master.
    fn vouchers(&self, master: SocketAddr) -> usize {
        self.contented(master).count()
    }

    fn contented(&self, master: SocketAddr) -> impl Iterator<Item = &Sentinel> {
        self.known.sentinels.values().filter(move |s| {
            s.views >= 2 && !s.is_leading() && s.voice().is_some_and(|v| v.master == master && !v.master_down)
        })
    }

    /// A Sentinel that cannot win its election must not stall a healthy master. That nothing followed can be said only
    /// of one that goes on talking: what one announces that hangs, or is out of hearing, may be on its way.
    fn announcement_came_to_nothing(&self, now: Moment) -> bool {
        let (Some(master), Some(round)) = (&self.master, &self.round) else { return false };
        let alive = matches!(
            self.known.answer(master.node, self.turned),
            Some(RoleAnswer::Master { .. } | RoleAnswer::Error(_))
        );
        let Some(expires) = round.expires else { return false };
        let went_on = |id: &SentinelId| {
            self.known.sentinels.get(id).is_some_and(|s| s.up && s.heard.is_some_and(|heard| heard >= expires))
        };
        now >= expires
            && alive
            && (round.announcers.iter().all(went_on) || now.since(round.last_sign) >= LOST_LEADER_PATIENCE)
            && round.must_follow.is_empty()
            && !self.known.voices().any(|(_, v)| self.is_news(v))
            && !self.known.followers(self.generation).any(|(a, _)| self.known.says_master(a, self.turned))
    }

    /// A hold that hearsay began ends when most Sentinels have gone on naming a master that goes on.
    fn hearsay_is_refuted(&self, now: Moment) -> bool {
        let (Some(master), Some(round)) = (&self.master, &self.round) else { return false };
        round.cause.is_hearsay()
            && !round.was_announced()
            && !round.master_failed
            && round.undone.is_none()
            && round.must_follow.is_empty()
            && round.age(now) >= self.hearsay_patience()
            && self.master_says_master()
            && self.known.is_majority(self.vouchers(master.node))
    }

    pub(super) fn hearsay_patience(&self) -> Duration {
        HEARSAY_PATIENCE.max(self.settings.confirm_timeout)
    }

    /// What was refuted is no reason to hold again, until it is seen to have been right for a while.
    fn disbelieve(&mut self) {
        let news: Vec<(SocketAddr, u64)> =
            self.known.voices().filter(|(_, v)| self.is_news(v)).map(|(_, v)| (v.master, v.epoch)).collect();
        for (node, epoch) in news {
            self.disbelieved.insert(node, epoch);
        }
        let turned = self.turned;
        for node in self.known.nodes.values_mut() {
            if !matches!(node.answer(turned), Some(RoleAnswer::Replica { connected: true, .. })) {
                node.following = None;
            }
        }
    }
}
