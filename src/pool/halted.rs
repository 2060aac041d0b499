//! For how long traffic has not flowed, and what becomes of what was handed to the master before: nothing waits for ever.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::Pool;
use crate::backend::Connection;

/// Since when reads, and writes, have not flowed; none while they do.
#[derive(Debug, Default)]
pub(super) struct Halted {
    reads: Cell<Option<Instant>>,
    writes: Cell<Option<Instant>>,
}

impl Halted {
    /// Whether they flow at `now`.
    pub(super) fn note(&self, reads: bool, writes: bool, now: Instant) {
        for (flows, since) in [(reads, &self.reads), (writes, &self.writes)] {
            since.set(if flows { None } else { since.get().or(Some(now)) });
        }
    }
}

/// Since when it has not flowed, if that is as long ago as the limit. What was sent since (where writes alone are held,
/// what waits for neither goes on) is not meant.
fn overdue(since: &Cell<Option<Instant>>, limit: Duration, now: Instant) -> Option<Instant> {
    since.get().filter(|since| now.saturating_duration_since(*since) >= limit)
}

impl Pool {
    /// Gives up what the master was sent and has not answered, and what was answered and could not be told, once such
    /// commands have been held for as long as commands wait. Reads end as held ones do. Of writes nobody can say what
    /// became; they are given the time that a commit may take, also where `hold_timeout` is 0: a slow command is not to
    /// cost its client the connection at the first doubt about the master.
    pub(super) fn give_up_overdue(&self, now: Instant) {
        let terms = self.context.terms();
        let reads = overdue(&self.halted.reads, terms.hold_timeout, now);
        let writes = overdue(&self.halted.writes, terms.hold_timeout.max(terms.confirm_timeout), now);
        if reads.is_none() && writes.is_none() {
            return;
        }
        let is_overdue = |conn: &Rc<Connection>| {
            let owes = |a_read, since: Option<Instant>| since.is_some_and(|since| conn.owes(a_read, since));
            owes(false, writes) || owes(true, reads) && (writes.is_some() || !conn.owes(false, now))
        };
        let stuck: Vec<Rc<Connection>> = self.all.borrow().iter().filter(|c| is_overdue(c)).cloned().collect();
        for conn in stuck {
            conn.sever();
        }
        // Behind those: what was answered stands before what was not.
        self.context.give_up_parked(writes.is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_begins_anew_whenever_it_has_flowed() {
        let (halted, began) = (Halted::default(), Instant::now());
        let at = |ms| began + Duration::from_millis(ms);
        let limit = Duration::from_millis(100);
        halted.note(true, false, at(0));
        halted.note(true, false, at(90));
        assert_eq!(
            (overdue(&halted.writes, limit, at(99)), overdue(&halted.writes, limit, at(100))),
            (None, Some(at(0)))
        );
        assert_eq!(overdue(&halted.reads, limit, at(1000)), None);
        halted.note(true, true, at(100));
        halted.note(false, false, at(110));
        assert_eq!(
            (overdue(&halted.writes, limit, at(200)), overdue(&halted.reads, limit, at(210))),
            (None, Some(at(110)))
        );
    }
}
