//! A planned switchover as the failover machine sees it: a hold that the procedure in `topology::switchover` ends, and a
//! node whose own word then suffices.

use std::net::SocketAddr;

use super::commit::Elect;
use super::round::{Cause, Expected};
use super::{Action, Failover};
use crate::clock::Moment;
use crate::topology::switchover::{NodeSurvey, SentinelSurvey, Survey};
use crate::topology::{Flow, RoleAnswer, SwitchoverEvent};

impl Failover {
    pub(super) fn hear_switchover(&mut self, now: Moment, event: SwitchoverEvent, out: &mut Vec<Action>) {
        match event {
            SwitchoverEvent::Begin => self.alert(now),
            SwitchoverEvent::Hold(nodes) => {
                if self.round.is_none() && self.master.is_some() {
                    let round = self.begin(now, Cause::Switchover, "pointsman", out);
                    round.switchover = Some(Expected { nodes, ordered: None });
                }
            }
            SwitchoverEvent::Ordered => {
                if let Some(expected) = self.round.as_mut().and_then(|r| r.switchover.as_mut()) {
                    expected.ordered = Some(now);
                }
            }
            SwitchoverEvent::Released => {
                if let Some(round) = &mut self.round {
                    round.switchover = None;
                }
            }
        }
    }

    /// One of the expected nodes says master, asked after the order. It has all that was acknowledged before writes were
    /// held, and nobody has written since; what Sentinels may still undo is what `provisional` watches.
    pub(super) fn switched_over(&self) -> Option<Elect> {
        let (Some(master), Some(round)) = (&self.master, &self.round) else { return None };
        let expected = round.switchover.as_ref().filter(|_| master.provisional.is_none())?;
        let ordered = expected.ordered?.max(self.turned);
        let mut promoted = expected.nodes.iter().filter(|n| self.known.says_master(**n, ordered));
        let node = *promoted.next().filter(|_| promoted.next().is_none())?;
        let by = "its own word, as the switchover wanted".to_owned();
        Some(Elect { node, epoch: master.epoch + 1, provisional: true, by })
    }

    /// What the procedure looks at. `quiet`: under which publication no worker had a write left under way.
    pub fn survey(&self, quiet: u64) -> Survey {
        let round = self.round.as_ref();
        let held = round.filter(|r| r.switchover.is_some());
        Survey {
            generation: self.generation,
            master: self.master.as_ref().map(|m| m.node),
            confirmed: self.master.as_ref().is_some_and(|m| m.provisional.is_none()),
            flowing: self.published.writes.flow == Flow::Flowing,
            held: held.is_some(),
            quiet: held.is_some_and(|r| r.acknowledged.is_some() && quiet >= r.held_seq),
            trouble: round.filter(|r| r.master_failed || r.restarted || r.after_gap).map(|_| self.round_trouble()),
            unsettled: self.unsettled(),
            hold_timeout: self.settings.hold_timeout,
            nodes: self.known.nodes.iter().map(|(a, n)| (*a, self.survey_node(*a, n))).collect(),
            sentinels: self
                .known
                .sentinels
                .iter()
                .map(|(id, s)| SentinelSurvey {
                    id: *id,
                    name: self.known.name(*id),
                    tilt: s.tilt,
                    view: s.voice().cloned(),
                })
                .collect(),
        }
    }

    fn survey_node(&self, address: SocketAddr, node: &super::knowledge::Node) -> NodeSurvey {
        let last = node.last.as_ref();
        let of = self.master.as_ref().map(|m| m.node);
        NodeSurvey {
            asked: last.map(|h| h.asked).unwrap_or_default(),
            offset: last.and_then(|h| match &h.answer {
                RoleAnswer::Master { offset, .. } if Some(address) == of => Some(*offset),
                RoleAnswer::Replica { of: whose, connected: true, offset } if Some(*whose) == of => Some(*offset),
                _ => None,
            }),
            says: last.map_or_else(|| "was not asked yet".to_owned(), |h| super::roles::state(&h.answer)),
        }
    }

    /// What is the matter with the master in a round that has trouble.
    fn round_trouble(&self) -> String {
        let state = self.master.as_ref().and_then(|m| self.known.answer(m.node, self.turned)).map(super::roles::state);
        format!("the master failed meanwhile ({})", state.unwrap_or_else(|| "was not heard since".to_owned()))
    }
}
