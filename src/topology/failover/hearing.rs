//! Taking in what Sentinels and workers say. Some of it begins a hold by itself: waiting for more would lose
//! acknowledged writes.

use std::net::SocketAddr;
use std::time::Duration;

use super::knowledge::Sentinel;
use super::round::Cause;
use super::{
    ALERT_FOR, ANNOUNCEMENT_EXPIRES, Action, DWELL_FORGET, DWELL_MAX, DWELL_MIN, FAST_FOR, Failover, SENTINEL_SILENT,
    Suspicion,
};
use crate::clock::Moment;
use crate::topology::{Event, Hint, HintKind, Message, SentinelId, View};

impl Failover {
    pub(super) fn hear(&mut self, now: Moment, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::SentinelKnown(id, endpoint) => {
                self.known.sentinels.entry(id).or_insert_with(|| Sentinel::new(endpoint));
            }
            Event::SentinelForgotten(id) => {
                self.known.sentinels.remove(&id);
            }
            Event::SentinelUp(id) => {
                if let Some(sentinel) = self.known.sentinels.get_mut(&id) {
                    sentinel.up = true;
                }
                self.talks(now, id);
            }
            Event::SentinelDown(id) => {
                if let Some(sentinel) = self.known.sentinels.get_mut(&id) {
                    // What it said is worth nothing from now on; what it announced stays announced.
                    let reconfiguring = sentinel.reconfiguring;
                    *sentinel = Sentinel { reconfiguring, ..Sentinel::new(sentinel.endpoint.clone()) };
                }
            }
            Event::UnknownName(id) => {
                if let Some(sentinel) = self.known.sentinels.get_mut(&id) {
                    (sentinel.view, sentinel.unknown_name) = (None, true);
                }
            }
            Event::View(id, view) => self.hear_view(now, id, view, out),
            Event::Published(id, message) if self.known.sentinels.contains_key(&id) => {
                self.hear_message(now, id, &message, out);
            }
            Event::Published(..) => {}
            Event::Role { node, asked, answer } => self.hear_role(now, node, asked, answer, out),
            Event::Hint(hint) => self.hear_hint(now, hint, out),
            Event::Remembered(remembered) => self.remembered = Some(remembered),
            Event::StaticMaster(node) => self.static_master = Some(node),
            Event::Acknowledged(seq) => {
                if let Some(round) = self.round.as_mut().filter(|r| seq >= r.held_seq) {
                    round.acknowledged.get_or_insert(now);
                }
            }
            Event::Prepared(generation) => {
                self.preparing = self.preparing.filter(|_| generation < self.generation);
            }
            Event::Paused(pause) => self.hear_pause(now, pause, out),
            Event::Switchover(event) => self.hear_switchover(now, event, out),
            Event::Gap => self.forget_all(now, out),
        }
    }

    /// Everything that was heard is old: Sentinels and nodes must be asked afresh.
    fn forget_all(&mut self, now: Moment, out: &mut Vec<Action>) {
        if self.round.is_none() {
            self.begin(now, Cause::Gap, "pointsman", out);
        }
        self.turned = now;
        for sentinel in self.known.sentinels.values_mut() {
            (sentinel.view, sentinel.views) = (None, 0);
        }
        if let Some(round) = &mut self.round {
            round.candidates.clear();
            round.announcers.clear();
            round.after_gap = true;
            // Meanwhile its word may have become an old one.
            if let Some(expected) = &mut round.switchover {
                expected.ordered = None;
            }
        }
        self.sign(now);
    }

    fn hear_view(&mut self, now: Moment, id: SentinelId, view: View, out: &mut Vec<Action>) {
        let master = self.master.as_ref().map(|m| m.node);
        let Some(sentinel) = self.known.sentinels.get_mut(&id) else { return };
        let before = sentinel.view.replace(view);
        let Some(view) = &sentinel.view else { return };
        sentinel.views = sentinel.views.saturating_add(1);
        sentinel.unknown_name = false;
        let was_in_progress = before.as_ref().map(|v| v.failover_in_progress);
        if !view.failover_in_progress {
            sentinel.reconfiguring = false;
        } else if Some(view.master) == master && before.as_ref().is_some_and(|v| v.master != view.master) {
            // The leader names the node it has just promoted, and we were there before it.
            sentinel.reconfiguring = true;
        }
        let news = before.as_ref().is_none_or(|v| (v.master, v.epoch) != (view.master, view.epoch));
        let text = format!("names {} with epoch {}", view.master, view.epoch);
        // Its announcement was missed, or is still on its way on the other connection.
        let begins = was_in_progress == Some(false) && view.failover_in_progress && Some(view.master) == master;
        let is_underway = was_in_progress.is_none() && view.failover_in_progress;
        self.talks(now, id);
        if news {
            self.recorder.event(now, &self.known.name(id), text);
        }
        if begins {
            self.announced(now, id, out);
        } else if is_underway {
            // It came into hearing in the middle of a failover: what it announced before was missed.
            self.alert(now);
        }
    }

    /// A Sentinel answers. If it was silent, what it announced before is given its time anew: it may go on only now.
    fn talks(&mut self, now: Moment, id: SentinelId) {
        let Some(sentinel) = self.known.sentinels.get_mut(&id) else { return };
        let before = sentinel.heard.replace(now);
        let was_silent = before.is_none_or(|before| now.since(before) >= SENTINEL_SILENT);
        if let Some(round) = self.round.as_mut().filter(|r| was_silent && r.announcers.contains(&id))
            && let Some(expires) = &mut round.expires
        {
            *expires = now + ANNOUNCEMENT_EXPIRES;
        }
    }

    fn hear_message(&mut self, now: Moment, id: SentinelId, message: &Message, out: &mut Vec<Action>) {
        if self.round.is_some() {
            self.recorder.event(now, &self.known.name(id), words(message));
        }
        let master = self.master.as_ref().map(|m| m.node);
        match *message {
            Message::TryFailover | Message::ElectedLeader => {
                if let Some(sentinel) = self.known.sentinels.get_mut(&id) {
                    sentinel.reconfiguring = false;
                }
                self.announced(now, id, out);
            }
            Message::SelectedSlave(node) | Message::WaitPromotion(node) | Message::PromotedSlave(node) => {
                // About the master we already have it is the tail of a failover that was committed early.
                if Some(node) != master && master.is_some() {
                    self.announced(now, id, out);
                    if let Some(round) = &mut self.round {
                        round.candidates.insert(node, id);
                        round.no_candidate = None;
                        round.expires = None;
                    }
                }
            }
            Message::FailoverAborted => self.aborted(now, id, false, out),
            Message::NoGoodReplica => {
                self.aborted(now, id, false, out);
                if let Some(round) = &mut self.round {
                    round.no_candidate = Some(id);
                }
            }
            Message::FailoverAbortedSlaveTimeout => self.aborted(now, id, true, out),
            Message::FailoverEnd => {
                if let Some(round) = &mut self.round {
                    round.announcers.remove(&id);
                }
                self.sign(now);
            }
            Message::SwitchMaster { new, .. } => {
                if self.round.is_none() && Some(new) != master {
                    self.begin(now, Cause::Named(new), &self.known.name(id), out);
                }
                self.sign(now);
                self.alert(now);
            }
            Message::MasterDown | Message::MasterObjectivelyDown => {
                self.suspect(now, Cause::Silent);
                self.alert(now);
            }
            Message::RoleChange(node) | Message::ConvertToSlave(node) => {
                if Some(node) == master {
                    self.suspect(now, Cause::Demoted);
                }
                self.alert(now);
            }
            Message::Tilt(on) => {
                if let Some(sentinel) = self.known.sentinels.get_mut(&id) {
                    sentinel.tilt = on;
                }
            }
            Message::NewEpoch(_) | Message::MasterUp | Message::MasterRebooted | Message::ConfigChanged => {
                self.alert(now);
            }
        }
    }

    /// A Sentinel says that it is failing over (rule 2).
    fn announced(&mut self, now: Moment, id: SentinelId, out: &mut Vec<Action>) {
        if self.master.is_none() {
            return;
        }
        if self.round.is_none() {
            self.begin(now, Cause::Announced(id), &self.known.name(id), out);
        }
        let round = self.round.as_mut().expect("begun above");
        round.announcers.insert(id);
        round.announced = true;
        if let Some(expires) = &mut round.expires {
            *expires = now + ANNOUNCEMENT_EXPIRES;
        }
        self.sign(now);
    }

    /// A Sentinel said something of a failover. What anybody said before is no word on what has come of it.
    fn sign(&mut self, now: Moment) {
        let Some(round) = &mut self.round else { return };
        round.last_sign = now;
        round.fast_until = now + FAST_FOR;
        for sentinel in self.known.sentinels.values_mut() {
            sentinel.views = 0;
        }
    }

    /// A Sentinel says that it gave up.
    fn aborted(&mut self, now: Moment, id: SentinelId, may_be_promoted: bool, out: &mut Vec<Action>) {
        let Some(master) = self.master.clone() else { return };
        let previous = master.provisional.map(|(_, previous)| previous);
        if self.round.is_none() {
            if previous.is_none() {
                return;
            }
            self.begin(now, Cause::Unconfirmed, &self.known.name(id), out);
        }
        let followers: Vec<SocketAddr> = self.known.followers(self.generation).map(|(a, _)| a).collect();
        let round = self.round.as_mut().expect("begun above");
        round.announcers.remove(&id);
        if previous.is_some() {
            (round.undone, round.expires) = (previous, None);
        }
        let selected: Vec<SocketAddr> =
            round.candidates.iter().filter(|(_, by)| **by == id).map(|(node, _)| *node).collect();
        if may_be_promoted {
            // Who was selected may not have been heard.
            let suspects = if selected.is_empty() { followers } else { selected };
            round.must_follow.extend(suspects.into_iter().map(|node| (node, now)));
        }
        round.candidates.retain(|_, by| *by != id);
        self.sign(now);
    }

    fn hear_hint(&mut self, now: Moment, hint: Hint, out: &mut Vec<Action>) {
        if self.master.as_ref().is_none_or(|m| m.node != hint.node) {
            return;
        }
        let cause = match hint.kind {
            HintKind::ReadOnly | HintKind::NotMaster => Cause::Demoted,
            HintKind::Loading => Cause::Loading,
            HintKind::MasterDown => Cause::MasterDown,
            HintKind::Refused => Cause::Refused,
            HintKind::Unreachable | HintKind::Silent => Cause::Silent,
            HintKind::Reset => Cause::Closed,
        };
        let not_before = matches!(cause, Cause::Loading).then(|| now + self.next_dwell(now));
        if self.round.is_none() {
            // Scripts can answer in any words, clients can be killed and a pause can be short: where a hold would be
            // about nothing, a probe goes first.
            let believed = match cause {
                Cause::Closed | Cause::Silent => false,
                Cause::Demoted | Cause::MasterDown => now >= self.exonerated_until,
                _ => true,
            };
            if !believed {
                self.suspect(now, cause);
                return;
            }
            self.begin(now, cause, "worker", out);
        }
        if let (Some(round), Some(moment)) = (&mut self.round, not_before) {
            round.not_before = moment;
            round.reads_flow = false;
            round.expires = None;
        }
    }

    /// Doubles with each hold for loading, so that a long load costs no storm of tries.
    fn next_dwell(&mut self, now: Moment) -> Duration {
        let (dwell, since) = self.dwell;
        // Many workers hint at once; what they saw within one dwell is one thing.
        if now.since(since) > DWELL_FORGET {
            self.dwell = (DWELL_MIN, now);
        } else if now.since(since) >= dwell {
            self.dwell = ((dwell * 2).min(DWELL_MAX), now);
        }
        self.dwell.0
    }

    /// Has the master probed at once; a probe that fails begins a hold.
    pub(super) fn suspect(&mut self, now: Moment, cause: Cause) {
        if self.round.is_none() && self.suspicion.is_none() {
            self.suspicion = Some(Suspicion { since: now, cause });
        }
    }

    /// Has everybody asked more often for a while.
    pub(super) fn alert(&mut self, now: Moment) {
        self.alert_until = now + ALERT_FOR;
    }
}

/// A message in the words of Sentinel.
fn words(message: &Message) -> String {
    match message {
        Message::TryFailover => "+try-failover".to_owned(),
        Message::ElectedLeader => "+elected-leader".to_owned(),
        Message::SelectedSlave(n) => format!("+selected-slave {n}"),
        Message::WaitPromotion(n) => format!("+failover-state-wait-promotion {n}"),
        Message::PromotedSlave(n) => format!("+promoted-slave {n}"),
        Message::FailoverAborted => "-failover-abort-not-elected".to_owned(),
        Message::NoGoodReplica => "-failover-abort-no-good-slave".to_owned(),
        Message::FailoverAbortedSlaveTimeout => "-failover-abort-slave-timeout".to_owned(),
        Message::FailoverEnd => "+failover-end".to_owned(),
        Message::SwitchMaster { old, new } => format!("+switch-master {old} {new}"),
        Message::NewEpoch(e) => format!("+new-epoch {e}"),
        Message::MasterDown => "+sdown master".to_owned(),
        Message::MasterUp => "-sdown master".to_owned(),
        Message::MasterObjectivelyDown => "+odown master".to_owned(),
        Message::MasterRebooted => "+reboot master".to_owned(),
        Message::RoleChange(n) => format!("role-change {n}"),
        Message::ConvertToSlave(n) => format!("+convert-to-slave {n}"),
        Message::ConfigChanged => "configuration changed".to_owned(),
        Message::Tilt(true) => "+tilt".to_owned(),
        Message::Tilt(false) => "-tilt".to_owned(),
    }
}
