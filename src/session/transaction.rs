//! What it takes to bring an open `MULTI` over to another connection. Pure.

use bytes::Bytes;

use crate::resp::args;

/// Bytes of queued commands that are kept for replay; a larger transaction does not survive the loss of its connection.
const MAX_LOG: usize = 1 << 20;

/// Redis' own words when a command could not be queued.
pub(super) const ABORTED: &[u8] = b"-EXECABORT Transaction discarded because of previous errors.\r\n";

/// Commands since `MULTI` (included), and why `EXEC` may not run them.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// None: empty, as it is for a client at rest.
    contents: Option<Box<Contents>>,
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

#[derive(Debug, Default)]
struct Contents {
    log: Vec<Bytes>,
    bytes: usize,
    /// Commands that are queued.
    queued: usize,
    /// Those of them that ask about the connection or change it, each with its place among them.
    heeded: Vec<(usize, Bytes)>,
    heeded_bytes: usize,
    /// More was queued than is kept.
    overflowed: bool,
    /// What `EXEC` answers instead of running.
    spoiled: Option<Bytes>,
}

impl Contents {
    fn overflow(&mut self) {
        self.overflowed = true;
        self.log.clear();
    }
}

impl Transaction {
    fn contents(&mut self) -> &mut Contents {
        self.contents.get_or_insert_default()
    }

    /// Remembers a command that was sent. `said`: what the client said of which it was made, if that asks about the
    /// connection or changes it.
    pub(super) fn log(&mut self, command: Bytes, said: Option<Bytes>) {
        let contents = self.contents();
        if let Some(said) = said {
            contents.heeded_bytes += said.len();
            // A copy: a part of a read buffer would keep all of that.
            contents.heeded.push((contents.queued, Bytes::copy_from_slice(&said)));
        }
        if contents.heeded_bytes > MAX_LOG {
            contents.heeded.clear();
        }
        contents.queued += usize::from(is_queued(&command));
        contents.bytes += command.len();
        if contents.bytes > MAX_LOG {
            contents.overflow();
        } else {
            contents.log.push(command);
        }
    }

    /// A command was streamed and not kept.
    pub(super) fn log_streamed(&mut self) {
        self.contents().queued += 1;
        self.contents().overflow();
    }

    /// How many commands were queued, and those that are heeded; none if these are too many to be kept. What they did is
    /// not known then.
    pub(super) fn queued(&self) -> Option<(usize, Vec<(usize, Bytes)>)> {
        let Some(contents) = &self.contents else { return Some((0, Vec::new())) };
        (contents.heeded_bytes <= MAX_LOG).then(|| (contents.queued, contents.heeded.clone()))
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
        let Some(contents) = &mut self.contents else { return true };
        let keep = contents.log.len().saturating_sub(n);
        for dropped in contents.log.drain(keep..) {
            contents.bytes = contents.bytes.saturating_sub(dropped.len());
            contents.queued -= usize::from(is_queued(&dropped));
        }
        contents.heeded.retain(|(place, _)| *place < contents.queued);
        !contents.overflowed
    }

    /// Whether `MULTI` itself is among what came back, so that nothing is open.
    pub(super) fn is_unopened(&self) -> bool {
        self.contents.as_ref().is_none_or(|contents| contents.log.is_empty() && !contents.overflowed)
    }

    /// What has to be sent to a new connection; also what was refused by itself, which with Valkey 8 has the transaction
    /// fail.
    pub(super) fn replay(&self) -> &[Bytes] {
        self.contents.as_ref().map_or(&[], |contents| &contents.log)
    }

    /// A command of an open transaction was not queued: Redis would refuse to run the rest.
    pub(super) fn spoil(&mut self, open: bool) {
        if open {
            self.spoil_with(Bytes::from_static(ABORTED));
        }
    }

    /// `EXEC` answers this instead of running, unless there is a reason already.
    pub(super) fn spoil_with(&mut self, line: Bytes) {
        self.contents().spoiled.get_or_insert(line);
    }

    /// What `EXEC` has to answer without running, if anything. `null` is the null of the client's RESP version.
    pub(super) fn refusal(&self, null: &'static [u8]) -> Option<Bytes> {
        let spoiled = self.contents.as_ref().and_then(|contents| contents.spoiled.clone());
        spoiled.or_else(|| self.watch_lost.then(|| Bytes::from_static(null)))
    }

    /// It has ended, or there was none. A watch ends with `EXEC`, `DISCARD` or `UNWATCH` alone.
    pub(super) fn clear(&mut self) {
        *self = Self { watch_lost: self.watch_lost && !self.ending, ..Self::default() };
    }
}

/// Whether a command is queued, unless it is refused and the transaction with it: `MULTI` opens it, and is refused by
/// itself where it is open, as is `WATCH`.
fn is_queued(command: &[u8]) -> bool {
    let name = args(command).next().unwrap_or_default();
    !name.eq_ignore_ascii_case(b"MULTI") && !name.eq_ignore_ascii_case(b"WATCH")
}

#[cfg(test)]
mod tests {
    use super::super::executed::is_heeded;
    use super::*;
    use crate::resp::encode_command;

    fn log(t: &mut Transaction, command: &'static str) {
        let command = encode_command(&command.split(' ').collect::<Vec<_>>());
        t.log(command.clone(), is_heeded(&command).then_some(command));
    }

    #[test]
    fn what_came_back_is_neither_replayed_nor_counted_twice() {
        let mut t = Transaction::default();
        for command in ["MULTI", "SET", "SELECT 1", "WATCH k", "MULTI", "SELECT 2"] {
            log(&mut t, command);
        }
        let queued = |t: &Transaction| t.queued().unwrap();
        let places = |t: &Transaction| queued(t).1.iter().map(|(place, _)| *place).collect::<Vec<_>>();
        assert_eq!((queued(&t).0, places(&t)), (3, vec![1, 2]));
        assert!(t.unlog(4));
        assert_eq!((t.replay().len(), queued(&t).0, places(&t)), (2, 1, vec![]));
        log(&mut t, "SELECT 1");
        assert_eq!((queued(&t).0, places(&t)), (2, vec![1]));
        t.log_streamed();
        assert!(!t.unlog(0), "too large to be carried over");
        assert_eq!(queued(&t).0, 3);
    }

    #[test]
    fn what_is_heeded_is_kept_up_to_a_limit() {
        let mut t = Transaction::default();
        let command = encode_command(&["CLIENT", "SETNAME", &"x".repeat(1000)]);
        for _ in 0..=MAX_LOG / command.len() {
            assert!(t.queued().is_some());
            t.log(command.clone(), Some(command.clone()));
        }
        assert_eq!((t.queued(), t.contents().heeded.len()), (None, 0));
    }

    #[test]
    fn what_was_watched_stays_lost_until_the_watch_ends() {
        let mut t = Transaction { watch_lost: true, ..Transaction::default() };
        t.log(encode_command(&["GET", "a"]), None);
        t.clear();
        assert!(t.watch_lost && t.replay().is_empty(), "it was another command's connection");
        t.end(true);
        t.clear();
        assert!(!t.watch_lost);
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
