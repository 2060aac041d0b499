//! Taking in what nodes answer when asked for their role.

use std::net::SocketAddr;

use super::knowledge::{Following, Heard};
use super::round::Cause;
use super::{Action, Failover, Level};
use crate::clock::Moment;
use crate::topology::RoleAnswer;

impl Failover {
    pub(super) fn hear_role(
        &mut self,
        now: Moment,
        node: SocketAddr,
        asked: Moment,
        answer: RoleAnswer,
        out: &mut Vec<Action>,
    ) {
        let Some(known) = self.known.nodes.get(&node) else { return };
        // Asked before the present state of affairs began, or answered out of turn: no word on it.
        if asked <= self.turned || asked < known.since || known.last.as_ref().is_some_and(|h| h.asked > asked) {
            return;
        }
        if self.round.is_some() {
            let before = self.known.nodes.get(&node).and_then(|n| n.answer(self.turned)).map(state);
            if before.as_deref() != Some(&*state(&answer)) {
                self.recorder.event(now, &node.to_string(), state(&answer));
            }
        }
        let is_master = self.master.as_ref().is_some_and(|m| m.node == node);
        self.note_answer(node, asked, &answer);
        self.hear_old_master(now, node, &answer, out);
        if is_master {
            self.hear_master(now, node, asked, &answer, out);
        }
        self.note_candidate(now, node, &answer);
        if let Some(known) = self.known.nodes.get_mut(&node) {
            known.last = Some(Heard { asked, answer });
        }
    }

    /// What an answer says about the node itself, whoever is master.
    fn note_answer(&mut self, node: SocketAddr, asked: Moment, answer: &RoleAnswer) {
        let (generation, master) = (self.generation, self.master.as_ref().map(|m| m.node));
        let Some(known) = self.known.nodes.get_mut(&node) else { return };
        known.closes = if matches!(answer, RoleAnswer::Silent { closed: true }) { known.closes + 1 } else { 0 };
        known.silent_since = match answer {
            RoleAnswer::Silent { closed: false } => known.silent_since.or(Some(asked)),
            _ => None,
        };
        match answer {
            RoleAnswer::Master { offset, history, .. } => {
                known.led = Some((asked, *offset));
                known.history.clone_from(history);
            }
            RoleAnswer::Replica { of, connected: true, offset } if Some(*of) == master && node != *of => {
                known.following = Some(Following { generation, offset: *offset });
            }
            _ => {}
        }
    }

    /// What an answer of the candidate says about the failover.
    fn note_candidate(&mut self, now: Moment, node: SocketAddr, answer: &RoleAnswer) {
        let master = self.master.as_ref().map(|m| m.node);
        let Some(round) = self.round.as_mut().filter(|r| r.candidate() == Some(node)) else { return };
        match answer {
            RoleAnswer::Master { .. } => (round.promoted, round.demoted_since) = (true, None),
            RoleAnswer::Replica { of, connected: true, .. } if round.promoted && Some(*of) == master => {
                round.demoted_since.get_or_insert(now);
            }
            _ => round.demoted_since = None,
        }
    }

    /// What an answer of the master says about the service.
    fn hear_master(
        &mut self,
        now: Moment,
        node: SocketAddr,
        asked: Moment,
        answer: &RoleAnswer,
        out: &mut Vec<Action>,
    ) {
        if let RoleAnswer::Master { offset, replicas, run_id, .. } = answer {
            self.note_run_id(now, run_id.as_deref(), out);
            self.note_list(now, replicas);
            self.sample(asked, *offset);
        }
        let closed_again = self.known.nodes.get(&node).is_some_and(|n| n.closes >= 2);
        let failure = match answer {
            RoleAnswer::Refused => Some(Cause::Refused),
            RoleAnswer::Silent { closed: true } if closed_again => Some(Cause::Closed),
            RoleAnswer::Silent { closed: false } => Some(Cause::Silent),
            RoleAnswer::Error(e) if e.starts_with("LOADING") => Some(Cause::Loading),
            RoleAnswer::Error(e) if e.starts_with("MASTERDOWN") => Some(Cause::MasterDown),
            _ => None,
        };
        if let Some(round) = &mut self.round {
            if failure.is_some() {
                round.master_failed = true;
                round.reads_flow = false;
                round.expires = None;
                round.answering_since = None;
                return;
            }
            match answer {
                RoleAnswer::Master { .. } => {
                    round.answering_since.get_or_insert(now);
                    round.reads_flow = !round.restarted && now >= round.not_before && round.cause != Cause::Loading;
                }
                RoleAnswer::Replica { .. } => {
                    round.expires = None;
                    round.answering_since = None;
                    round.reads_flow = round.cause != Cause::MasterDown && now >= round.not_before;
                }
                _ => {}
            }
            return;
        }
        // That there is no answer is a word on this moment, whenever the question was asked.
        let silent = matches!(answer, RoleAnswer::Silent { closed: false });
        let decides = self.suspicion.is_some_and(|s| asked > s.since || silent);
        match (failure, answer) {
            (Some(Cause::Silent), _) if !decides => {
                let since = self.known.nodes.get(&node).and_then(|n| n.silent_since).unwrap_or(asked);
                if asked > since && asked.since(since) >= self.settings.silence_threshold {
                    self.begin(now, Cause::Silent, &node.to_string(), out);
                }
            }
            (Some(cause), _) => {
                self.begin(now, cause, &node.to_string(), out);
            }
            (None, RoleAnswer::Replica { .. }) => {
                self.begin(now, Cause::Demoted, &node.to_string(), out);
            }
            // Whoever kills all clients of a node kills the probe too: only a connection that is closed again counts.
            (None, RoleAnswer::Silent { .. }) => self.suspect(now, Cause::Closed),
            // It answers: as master, or with an error that has nothing to do with a failover.
            (None, _) if decides => self.suspicion = None,
            (None, _) => {}
        }
    }

    /// A master whose process was replaced under its address may have lost its data (rule 9).
    fn note_run_id(&mut self, now: Moment, run_id: Option<&str>, out: &mut Vec<Action>) {
        let (Some(run_id), Some(master)) = (run_id, &mut self.master) else { return };
        if let Some(before) = master.run_id.as_deref().filter(|b| *b != run_id) {
            let text = format!(
                "the master {} was restarted in place (run_id {before} is now {run_id}): data it had not saved is gone",
                master.node
            );
            self.run_id_changes += 1;
            self.recorder.event(now, &master.node.to_string(), text.clone());
            if let Some(round) = &mut self.round {
                round.restarted = true;
                round.samples.clear();
            }
            // Offsets of two runs cannot be compared.
            for node in self.known.nodes.values_mut() {
                node.following = node.following.map(|f| Following { offset: 0, ..f });
            }
            out.push(Action::Say(Level::Warn, text));
        }
        master.run_id = Some(run_id.to_owned());
    }
}

/// An answer without what changes all the time.
pub(super) fn state(answer: &RoleAnswer) -> String {
    match answer {
        RoleAnswer::Master { .. } => "says master".to_owned(),
        RoleAnswer::Replica { of, connected: true, .. } => format!("says connected replica of {of}"),
        RoleAnswer::Replica { of, connected: false, .. } => format!("says replica of {of}, not connected"),
        RoleAnswer::Refused => "refuses connections".to_owned(),
        RoleAnswer::Silent { closed: true } => "closed the connection".to_owned(),
        RoleAnswer::Silent { closed: false } => "does not answer".to_owned(),
        RoleAnswer::Error(e) => format!("answers {e}"),
    }
}
