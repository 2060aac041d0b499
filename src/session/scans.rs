//! Cursors of another master are refused.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Command, Session, Step, Wait};
use crate::backend::Effect;
use crate::resp::{OwnError, args};
use crate::topology::Pass;

impl Session {
    /// Refuses the command at the front, one of the `SCAN` family, if its cursor was another master's.
    pub(super) fn refuse_cursor(&mut self, command: Command) -> Option<Step> {
        // Where it has to wait it is asked again.
        let Pass::To(node) = self.pass(Effect::Read) else { return None };
        let server = (self.pool.context.access.topology().generation, node);
        let cursor = args(&self.buf[..command.len]).nth(if is_scan(command) { 1 } else { 2 })?;
        let cursor = std::str::from_utf8(cursor).ok()?.parse().ok()?;
        if !self.down.is_foreign(self.scanned(command), cursor, server) {
            return None;
        }
        if self.down.owed() > 0 {
            return Some(Step::Wait(Wait::REPLIES));
        }
        self.transaction.spoil(self.state.multi);
        let line =
            OwnError::StaleCursor.line("the master has changed since it gave out this cursor: begin with cursor 0");
        Some(self.say(command, line))
    }

    /// Tells apart what is scanned.
    pub(super) fn scanned(&self, command: Command) -> u64 {
        let key = args(&self.buf[..command.len]).nth(1).filter(|_| !is_scan(command));
        let mut what = DefaultHasher::new();
        (command.id, self.state.key.database, key).hash(&mut what);
        what.finish()
    }
}

fn is_scan(command: Command) -> bool {
    command.id.info().name == "scan"
}
