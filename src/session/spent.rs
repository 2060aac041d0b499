//! What a session's commands have waited for before they were sent, for the log of slow ones; and that they are shown to
//! whoever takes a sample. All of it is off the way of a command that waits for nothing while nobody looks.

use tokio::time::Instant;

use super::{Command, Session};
use crate::insight::{Outcome, Waited};

impl Session {
    /// The command at the front is sent, or answered here: what it has waited for. To be called once for each.
    #[inline]
    pub(super) fn take_waited(&mut self) -> Option<Box<Waited>> {
        if self.returned.is_some() { Some(self.waited_since_it_was_sent()) } else { self.waited.take() }
    }

    /// It came back: what passed on a connection that was lost, or until it was refused, is told with the hold, of which it
    /// is a part as a rule.
    #[cold]
    fn waited_since_it_was_sent(&mut self) -> Box<Waited> {
        let mut waited = self.waited.take().unwrap_or_default();
        if let Some(sent) = self.returned {
            waited.spent.hold = sent.elapsed().saturating_sub(waited.spent.queue);
        }
        waited.resent = true;
        if self.counted == 0 {
            self.returned = None;
        }
        waited
    }

    /// The front has waited since then, and now goes on.
    #[cold]
    pub(super) fn note_wait(&mut self, since: Instant, now: Instant) {
        let permitted = self.permitted_since.take().unwrap_or(now);
        let waited = self.waited.get_or_insert_default();
        waited.spent.hold += permitted.saturating_duration_since(since);
        waited.spent.queue += now.saturating_duration_since(permitted);
    }

    /// A backend was asked about the command at the front then, and has answered.
    pub(super) fn note_judgement(&mut self, since: Instant) {
        let spent = since.elapsed();
        if spent >= self.pool.context.slow_from() {
            self.forget_wait();
            self.waited.get_or_insert_default().spent.backend += spent;
        }
    }

    /// The command at the front is refused because it has waited for too long.
    pub(super) fn note_refused(&mut self, command: Command, line: &[u8]) {
        self.forget_wait();
        if let Some(waited) = self.take_waited() {
            self.note_answered(&self.buf[..command.len], &waited, line, Some(Outcome::Refused));
        }
    }

    /// A command is answered here with `line`.
    pub(super) fn note_answered(&self, frame: &[u8], waited: &Waited, line: &[u8], outcome: Option<Outcome>) {
        let (context, client) = (&self.pool.context, &self.presence.client);
        context.note_answered(client, self.state.key.database, frame, waited, line, outcome);
    }

    /// These commands are sent.
    #[inline]
    pub(super) fn show(&self, batch: &[u8], commands: u32) {
        let observed = &self.pool.context.observed;
        if observed.is_sampling() {
            observed.sample(self.state.key.database, batch, commands);
        }
    }
}
