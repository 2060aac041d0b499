//! Cursors of `SCAN`, `SSCAN`, `HSCAN` and `ZSCAN`. A cursor is a place in the hash tables of one server process. On
//! another it means another place, and what the client was never shown it would never miss: it has to begin anew.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

use super::{Command, Session, Step, Wait};
use crate::backend::Effect;
use crate::resp::{OwnError, args};
use crate::topology::Pass;

/// What was begun anew since the master changed, at most; a client that has more is taken to have begun all anew.
const MAX_BEGUN: usize = 256;

/// Who handed out a cursor.
type Server = (u64, SocketAddr);

/// Where a session has scanned.
#[derive(Debug, Default)]
pub(super) struct Scans {
    /// Where it did before the master changed, or does if it has not changed since.
    server: Option<Server>,
    /// The server to which it came since, and what it has begun anew there.
    since: Option<(Server, HashSet<u64>)>,
}

impl Scans {
    /// Whether a command may go to `now`. `what` tells apart what is scanned; `begins`: its cursor is 0.
    fn permits(&mut self, now: Server, what: u64, begins: bool) -> bool {
        if self.server.is_none_or(|server| server == now) {
            (self.server, self.since) = (Some(now), None);
            return true;
        }
        let (server, begun) = self.since.get_or_insert_with(|| (now, HashSet::new()));
        if *server != now {
            (*server, *begun) = (now, HashSet::new());
        }
        if !begins {
            return begun.contains(&what);
        }
        begun.insert(what);
        if begun.len() > MAX_BEGUN {
            (self.server, self.since) = (Some(now), None);
        }
        true
    }
}

impl Session {
    /// Refuses the command at the front, one of the `SCAN` family, if its cursor was another master's. Only what this
    /// session has seen counts: a cursor that came by another connection cannot be told from a good one.
    pub(super) fn refuse_cursor(&mut self, command: Command) -> Option<Step> {
        // Where it has to wait it is asked again.
        let Pass::To(node) = self.pass(Effect::Read) else { return None };
        let server = (self.pool.context.access.topology().generation, node);
        let mut words = args(&self.buf[..command.len]).skip(1);
        let key = if command.id.info().name == "scan" { None } else { words.next() };
        let begins = words.next().is_some_and(|cursor| cursor.iter().all(|digit| *digit == b'0'));
        let mut what = DefaultHasher::new();
        (command.id, self.state.key.database, key).hash(&mut what);
        if self.scans.permits(server, what.finish(), begins) {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u64 = 1;
    const HASH: u64 = 2;

    fn server(generation: u64) -> Server {
        (generation, SocketAddr::from(([127, 0, 0, 1], 7000 + generation as u16)))
    }

    #[test]
    fn a_cursor_is_good_on_its_own_server_only() {
        let mut scans = Scans::default();
        assert!(scans.permits(server(1), KEYS, false), "from another connection, perhaps");
        assert!(scans.permits(server(1), HASH, true) && scans.permits(server(1), HASH, false));
        assert!(!scans.permits(server(2), KEYS, false));
        assert!(!scans.permits(server(2), KEYS, false), "however often it asks");
        assert!(scans.permits(server(2), KEYS, true) && scans.permits(server(2), KEYS, false));
        assert!(!scans.permits(server(2), HASH, false), "the other one was not begun anew");
        assert!(!scans.permits(server(3), KEYS, false), "nor is what was begun in between");
        assert!(scans.permits(server(1), HASH, false), "an old master that goes on after all");
    }

    #[test]
    fn one_who_has_never_scanned_may_bring_a_cursor() {
        let mut scans = Scans::default();
        assert!(scans.permits(server(2), KEYS, false));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut scans = Scans::default();
        scans.permits(server(1), KEYS, true);
        for what in 0..MAX_BEGUN as u64 + 2 {
            assert!(scans.permits(server(2), what, true));
        }
        assert!(scans.since.is_none() && scans.permits(server(2), u64::MAX, false));
    }
}
