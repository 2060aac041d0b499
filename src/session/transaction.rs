//! What it takes to bring an open `MULTI` over to another connection. Pure.

use bytes::Bytes;

/// Bytes of queued commands that are kept for replay; a larger transaction does not survive the loss of its connection.
const MAX_LOG: usize = 1 << 20;

/// Redis' own words when a command could not be queued.
pub(super) const ABORTED: &[u8] = b"-EXECABORT Transaction discarded because of previous errors.\r\n";

/// Commands since `MULTI` (included), and why `EXEC` may not run them.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    log: Vec<Bytes>,
    bytes: usize,
    /// More was queued than is kept.
    overflowed: bool,
    /// What `EXEC` answers instead of running.
    spoiled: Option<Bytes>,
    /// `EXEC` or `DISCARD` has been sent and not been answered.
    ending: bool,
    /// Keys were watched when it was.
    watched: bool,
    /// The watched connection was lost: somebody may have changed the keys.
    pub(super) watch_lost: bool,
    /// The log was replayed on a new connection, and its replies have not been looked at.
    pub(super) replayed: bool,
    /// `MULTI` has been sent and not been answered. Until then nothing behind it is known to be only queued.
    pub(super) opening: bool,
}

impl Transaction {
    /// Remembers a command that was sent.
    pub(super) fn log(&mut self, command: Bytes) {
        self.bytes += command.len();
        if self.bytes > MAX_LOG {
            self.overflow();
        } else {
            self.log.push(command);
        }
    }

    /// A command was streamed and not kept.
    pub(super) fn overflow(&mut self) {
        self.overflowed = true;
        self.log.clear();
    }

    /// `EXEC` or `DISCARD` has been sent.
    pub(super) fn end(&mut self, watched: bool) {
        (self.ending, self.watched) = (true, watched);
    }

    /// Whether `EXEC` or `DISCARD` is on its way.
    pub(super) fn is_ending(&self) -> bool {
        self.ending
    }

    /// `EXEC` or `DISCARD` came back: the transaction is open. Returns whether keys were watched.
    pub(super) fn reopen(&mut self) -> bool {
        self.ending = false;
        self.watched
    }

    /// The connection was lost and the last `n` commands came back: they will be sent, and logged, again. Returns
    /// whether the rest can be replayed.
    pub(super) fn unlog(&mut self, n: usize) -> bool {
        let keep = self.log.len().saturating_sub(n);
        for dropped in self.log.drain(keep..) {
            self.bytes = self.bytes.saturating_sub(dropped.len());
        }
        !self.overflowed
    }

    /// Whether `MULTI` itself is among what came back, so that nothing is open.
    pub(super) fn is_unopened(&self) -> bool {
        self.log.is_empty() && !self.overflowed
    }

    /// What has to be sent to a new connection.
    pub(super) fn replay(&self) -> &[Bytes] {
        &self.log
    }

    /// A command of an open transaction was not queued: Redis would refuse to run the rest.
    pub(super) fn spoil(&mut self, open: bool) {
        if open {
            self.spoil_with(Bytes::from_static(ABORTED));
        }
    }

    /// `EXEC` answers this instead of running, unless there is a reason already.
    pub(super) fn spoil_with(&mut self, line: Bytes) {
        self.spoiled.get_or_insert(line);
    }

    /// What `EXEC` has to answer without running, if anything. `null` is the null of the client's RESP version.
    pub(super) fn refusal(&self, null: &'static [u8]) -> Option<Bytes> {
        self.spoiled.clone().or_else(|| self.watch_lost.then(|| Bytes::from_static(null)))
    }

    /// It has ended.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_back_is_not_replayed_twice() {
        let mut t = Transaction::default();
        for c in ["MULTI", "SET", "GET"] {
            t.log(Bytes::from_static(c.as_bytes()));
        }
        assert!(t.unlog(1));
        assert_eq!(t.replay(), ["MULTI", "SET"]);
        t.log(Bytes::from(vec![0; MAX_LOG]));
        assert!(!t.unlog(0), "too large to be carried over");
    }

    #[test]
    fn the_first_reason_not_to_run_is_the_one_given() {
        let mut t = Transaction { watch_lost: true, ..Transaction::default() };
        assert_eq!(t.refusal(b"*-1\r\n").unwrap(), "*-1\r\n");
        t.spoil(false);
        assert_eq!(t.refusal(b"_\r\n").unwrap(), "_\r\n");
        t.spoil(true);
        assert_eq!(t.refusal(b"_\r\n").unwrap(), ABORTED);
    }
}
