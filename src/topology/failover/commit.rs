//! When another master is confirmed: by Sentinels and by its own word (rules 3 and 5), or at the start by the first.

use std::net::SocketAddr;
use std::sync::Arc;

use super::round::{Cause, Previous};
use super::{Action, Failover, Level, Master, START_FAILOVER_PATIENCE, START_PATIENCE, STRAGGLER_PATIENCE};
use crate::clock::Moment;
use crate::config::Commit;
use crate::topology::record::FailoverKind;
use crate::topology::{RoleAnswer, View};

/// A master that may be committed.
pub(super) struct Elect {
    pub(super) node: SocketAddr,
    pub(super) epoch: u64,
    pub(super) provisional: bool,
    /// Who says so, for the record.
    pub(super) by: String,
}

impl Failover {
    /// Commits another master if one is confirmed and every worker holds writes.
    pub(super) fn try_commit(&mut self, now: Moment, out: &mut Vec<Action>) -> bool {
        let elect = if self.master.is_none() { self.first_master(now) } else { self.next_master(now) };
        let Some(elect) = elect else { return false };
        let Some(round) = &mut self.round else { return false };
        // Before the first commit nothing ever flowed, so that there is nothing to acknowledge.
        if let (None, Some(master)) = (round.acknowledged, &self.master) {
            if !round.severed && now.since(round.began) >= STRAGGLER_PATIENCE {
                round.severed = true;
                out.push(Action::Sever { seq: round.held_seq, node: master.node });
            }
            return false;
        }
        self.commit(now, elect, out);
        true
    }

    /// The first master after the start.
    fn first_master(&self, now: Moment) -> Option<Elect> {
        if !self.settings.managed {
            let node = self.static_master.filter(|n| self.known.says_master(*n, self.turned))?;
            return Some(Elect { node, epoch: 0, provisional: false, by: "the configuration".to_owned() });
        }
        let Some(voice) = self.first_voice else { return self.remembered_master(now) };
        let (_, best) = self.known.voices().max_by_key(|(_, v)| (v.epoch, self.namers(v.master)))?;
        let namers = self.namers(best.master);
        if !self.known.is_majority(namers) && now.since(voice) < START_PATIENCE {
            return None;
        }
        // A promotion may be a moment away, or have happened without being advertised yet.
        if self.known.voices().any(|(_, v)| v.failover_in_progress) {
            let promoted = |n: &SocketAddr| *n != best.master && self.known.says_master(*n, self.turned);
            if now.since(voice) < START_FAILOVER_PATIENCE || self.known.mentioned().iter().any(promoted) {
                return None;
            }
        }
        self.known.says_master(best.master, self.turned).then(|| Elect {
            node: best.master,
            epoch: best.epoch,
            provisional: false,
            by: format!("{namers} of {} Sentinels", self.known.sentinels.len()),
        })
    }

    fn namers(&self, node: SocketAddr) -> usize {
        self.known.voices().filter(|(_, v)| v.master == node).count()
    }

    /// The master after the present one.
    fn next_master(&self, now: Moment) -> Option<Elect> {
        if !self.settings.managed {
            let node = self.static_master.filter(|n| self.master.as_ref().is_some_and(|m| m.node != *n))?;
            let by = "the configuration".to_owned();
            return self.known.says_master(node, self.turned).then_some(Elect {
                node,
                epoch: 0,
                provisional: false,
                by,
            });
        }
        self.confirmed_master(now)
            .or_else(|| self.agreed_master(now))
            .or_else(|| self.promoted_candidate())
            .or_else(|| self.switched_over())
    }

    /// Confirmed by Sentinels with an acceptable epoch, highest first, and by its own word.
    fn confirmed_master(&self, now: Moment) -> Option<Elect> {
        let mut nodes: Vec<(u64, SocketAddr)> =
            self.known.voices().filter(|(_, v)| self.is_acceptable(v)).map(|(_, v)| (v.epoch, v.master)).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let highest = nodes.last()?.0;
        // Two forced failovers can share an epoch. Then the leader's word alone decides nothing.
        let contested = nodes.iter().filter(|(e, _)| *e == highest).count() > 1;
        let mut elects = nodes.iter().filter(|(e, _)| *e == highest).filter_map(|(epoch, node)| {
            let (namers, by) = self.confirmation(now, *node, |v| self.is_acceptable(v))?;
            let same_epoch = self.master.as_ref().is_some_and(|m| *epoch <= m.epoch);
            let enough = namers >= 2 || !(contested || same_epoch) || self.known.sentinels.len() == 1;
            (enough && self.known.says_master(*node, self.turned)).then_some(Elect {
                node: *node,
                epoch: *epoch,
                provisional: false,
                by,
            })
        });
        let elect = elects.next();
        elect.filter(|_| elects.next().is_none())
    }

    /// Whether this view may move the service to another master.
    fn is_acceptable(&self, view: &View) -> bool {
        let (Some(master), Some(round)) = (&self.master, &self.round) else { return false };
        if view.master == master.node {
            return false;
        }
        let answer = self.known.answer(master.node, self.turned);
        // Back to the one before a provisional commit only when the provisional one is not master any more.
        let undoes = round.undone.is_some_and(|p| p.node == view.master && view.epoch >= p.epoch)
            && answer.is_some_and(|a| !matches!(a, RoleAnswer::Master { .. }));
        // An equal epoch never undoes a commit of ours as long as the master stands by it.
        let deposed = view.epoch == master.epoch && matches!(answer, Some(RoleAnswer::Replica { .. }));
        self.is_news(view) || undoes || deposed
    }

    /// Whether Sentinels confirm a node: two of them, the only one there is, or one after `confirm_timeout` where
    /// nobody credible contradicts. Returns how many, and the words for the record.
    pub(super) fn confirmation(
        &self,
        now: Moment,
        node: SocketAddr,
        accept: impl Fn(&View) -> bool,
    ) -> Option<(usize, String)> {
        let namers = self.known.voices().filter(|(_, v)| v.master == node && accept(v)).count();
        let known = self.known.sentinels.len();
        if namers >= 2 || (namers == 1 && known == 1) {
            return Some((namers, format!("{namers} of {known} Sentinels")));
        }
        let since = self.known.named.get(&node)?;
        let waited = now.since(*since) >= self.settings.confirm_timeout;
        // Somebody who reaches a working other master, and may be right.
        let contradicted = self
            .known
            .sentinels
            .values()
            .filter(|s| !s.tilt)
            .filter_map(|s| s.voice())
            .any(|v| v.master != node && !v.master_down && self.known.says_master(v.master, self.turned));
        (namers == 1 && waited && !contradicted)
            .then(|| (1, format!("1 of {known} Sentinels, no second one within confirm_timeout")))
    }

    /// Every Sentinel in hearing has agreed on it for long, though not with a higher epoch (rule 5).
    fn agreed_master(&self, now: Moment) -> Option<Elect> {
        let node = self.ripe_agreement(now).filter(|n| self.known.says_master(*n, self.turned))?;
        let epoch = self.known.voices().map(|(_, v)| v.epoch).max()?;
        let by = format!("all {} Sentinels in hearing, for 10 s", self.namers(node));
        Some(Elect { node, epoch, provisional: false, by })
    }

    /// An eager commit: the candidate selected in this round, seen as connected replica of the master, says master.
    fn promoted_candidate(&self) -> Option<Elect> {
        let (Some(master), Some(round)) = (&self.master, &self.round) else { return None };
        if self.settings.commit != Commit::Eager || round.candidates.len() != 1 || master.provisional.is_some() {
            return None;
        }
        let (node, id) = round.candidates.iter().next()?;
        let followed = self.known.nodes.get(node)?.following.is_some_and(|f| f.generation == self.generation);
        (followed && self.known.says_master(*node, self.turned)).then(|| Elect {
            node: *node,
            epoch: master.epoch + 1,
            provisional: true,
            by: format!("its own word, selected by {}", self.known.name(*id)),
        })
    }

    fn commit(&mut self, now: Moment, elect: Elect, out: &mut Vec<Action>) {
        let Elect { node, epoch, provisional, by } = elect;
        let demotion = self.demotion_for(node);
        let (lost, open) = (self.offset_lost(node), self.open_loss(node));
        if let Some(words) = self.loss_in_words(node) {
            self.recorder.event(now, "pointsman", words);
        }
        let Some(round) = self.round.take() else { return };
        let run_id = match self.known.answer(node, self.turned) {
            Some(RoleAnswer::Master { run_id, .. }) => run_id.clone(),
            _ => None,
        };
        let previous = self.master.as_ref().map(|m| Previous { node: m.node, epoch: m.epoch });
        self.master =
            Some(Master { node, epoch, run_id, provisional: previous.filter(|_| provisional).map(|p| (now, p)) });
        self.generation += 1;
        if previous.is_some() {
            self.preparing = Some(self.preparation_ends(now));
            self.last_deadline = now + self.settings.hold_timeout;
        }
        self.turned = now;
        self.agreement = None;
        self.disbelieved.clear();
        for sentinel in self.known.sentinels.values_mut() {
            sentinel.reconfiguring = sentinel.voice().is_some_and(|v| v.master == node && v.failover_in_progress);
        }
        for known in self.known.nodes.values_mut() {
            known.listed = false;
            known.left_list = None;
        }
        let outcome = format!("{node} is master, confirmed by {by}");
        let line = format!("{outcome} (epoch {epoch}, generation {})", self.generation);
        out.push(Action::Say(Level::Info, line));
        let kind = if round.undone.is_some_and(|p| p.node == node) {
            FailoverKind::Rollback
        } else if round.master_failed {
            FailoverKind::Crash
        } else if round.switchover.as_ref().is_some_and(|s| s.ordered.is_some()) {
            FailoverKind::Switchover
        } else if round.was_announced() {
            FailoverKind::Planned
        } else {
            FailoverKind::Unannounced
        };
        self.demotion = demotion.filter(|_| {
            matches!(kind, FailoverKind::Planned | FailoverKind::Crash | FailoverKind::Unannounced)
                && previous.is_some_and(|p| epoch > p.epoch)
        });
        if !provisional {
            self.demote(out);
        }
        if round.cause != Cause::Start {
            let number = self.recorder.close(now, kind, node, self.generation, outcome, lost);
            self.await_word(open, number);
            if !provisional {
                self.recorder.confirm_loss();
            }
            out.push(Action::RecordClosed(number));
        }
    }

    /// A provisional commit is final.
    pub(super) fn confirm_provisional(&mut self, now: Moment, out: &mut Vec<Action>) {
        let Some(master) = &mut self.master else { return };
        if master.provisional.take().is_none() {
            return;
        }
        let node = master.node;
        let highest = self.known.voices().filter(|(_, v)| v.master == node).map(|(_, v)| v.epoch).max();
        master.epoch = highest.unwrap_or(master.epoch).max(master.epoch);
        let text: Arc<str> = format!("{node} is confirmed by Sentinels (epoch {})", master.epoch).into();
        self.recorder.late_event(now, "pointsman", &text);
        self.recorder.confirm_loss();
        out.push(Action::Say(Level::Info, text.to_string()));
        self.demote(out);
    }
}
