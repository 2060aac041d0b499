//! A pause that an operator has ordered. It lies beside the rounds and touches none of them: a failover goes its way in a
//! pause, and behind it traffic flows to whoever is master then.

use super::{Action, Failover, Level};
use crate::clock::Moment;
use crate::topology::pause::Pause;
use crate::topology::status::PauseStatus;

/// A pause that is on.
#[derive(Clone, Copy, Hash, Debug)]
pub(super) struct Paused {
    since: Moment,
    /// When it ends by itself.
    until: Option<Moment>,
}

impl Failover {
    pub(super) fn hear_pause(&mut self, now: Moment, pause: Pause, out: &mut Vec<Action>) {
        let text = match pause {
            Pause::Begin(lasting) => {
                let since = self.paused.map_or(now, |paused| paused.since);
                self.paused = Some(Paused { since, until: lasting.map(|time| now + time) });
                match lasting {
                    Some(time) => format!("paused by an operator, for {time:?} at most"),
                    None => "paused by an operator, until it is resumed".to_owned(),
                }
            }
            Pause::End if self.paused.take().is_some() => "resumed by an operator".to_owned(),
            Pause::End => return,
        };
        self.tell_pause(now, text, out);
    }

    /// Ends a pause whose time has passed.
    pub(super) fn end_pause(&mut self, now: Moment, out: &mut Vec<Action>) {
        if self.pause_ends().is_some_and(|until| now >= until) {
            self.paused = None;
            self.tell_pause(now, "resumed: the time of the pause has passed".to_owned(), out);
        }
    }

    /// When the pause that is on ends by itself.
    pub(super) fn pause_ends(&self) -> Option<Moment> {
        self.paused?.until
    }

    pub(super) fn pause_status(&self) -> Option<PauseStatus> {
        let Paused { since, until } = self.paused?;
        let wall = |moment| self.recorder.wall(moment);
        Some(PauseStatus { since: wall(since), until: until.map(wall) })
    }

    /// Of a failover that is on it is a part of the story.
    fn tell_pause(&mut self, now: Moment, text: String, out: &mut Vec<Action>) {
        if self.round.is_some() {
            self.recorder.note(now, "pointsman", &text);
        }
        out.push(Action::Say(Level::Info, text));
    }
}
