//! What the ledger's clients count, and the arithmetic that tells a lost increment from an unknown one. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Counts of one phase.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Commands answered, error replies not counted.
    pub commands: u64,
    /// Increments acknowledged.
    pub acknowledged: u64,
    /// Error replies, and replies that fit no command of ours.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
    /// Connections lost with an INCR sent and unanswered: its outcome is unknown.
    pub dropped_writing: u64,
    /// Connections lost with a GET sent and unanswered.
    pub dropped_reading: u64,
    /// Connects that failed.
    pub failed_connects: u64,
    /// Acknowledged increments that are not in a later value.
    pub lost: u64,
    /// Increments in a value beyond those sent: something ran twice.
    pub doubled: u64,
    /// GETs that answered less than the same client had seen before.
    pub went_back: u64,
    /// The longest time between two acknowledged increments of one client.
    pub write_stall: Stall,
    /// The longest time between two answers to one read-only client.
    pub read_stall: Stall,
}

impl Tally {
    /// Connections lost with a command in flight.
    pub fn dropped(&self) -> u64 {
        self.dropped_writing + self.dropped_reading
    }

    /// Counts an error reply.
    pub(super) fn error(&mut self, message: String) {
        self.errors += 1;
        self.first_error.get_or_insert(message);
    }
}

/// A time without success of one client: from its last success to the next, reconnects included.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stall {
    /// How long.
    pub length: Duration,
    /// When the success came; none: there was no command yet.
    pub end: Option<Instant>,
}

impl Stall {
    /// Keeps the longer one.
    pub(super) fn extend(&mut self, (length, end): (Duration, Instant)) {
        if length > self.length {
            *self = Self { length, end: Some(end) };
        }
    }
}

/// One writer's key, as far as the writer can know it.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    /// The value at the last reply.
    known: i64,
    /// Increments of unknown outcome that have not shown in a value yet. They may run late (a hung master executes what
    /// it has received when it wakes), so they never expire.
    pub(super) unknown: i64,
}

impl Account {
    /// INCR was answered `n`.
    pub(super) fn incremented(&mut self, n: i64, tally: &mut Tally) {
        self.known += 1;
        self.compare(n, tally);
    }

    /// GET was answered `n`.
    pub(super) fn read_back(&mut self, n: i64, tally: &mut Tally) {
        tally.went_back += u64::from(n < self.known);
        self.compare(n, tally);
    }

    /// The key holds `n`: what is missing was lost, what is too much beyond the unknown ones ran twice.
    pub(super) fn compare(&mut self, n: i64, tally: &mut Tally) {
        let surplus = n - self.known;
        if surplus < 0 {
            tally.lost += surplus.unsigned_abs();
        } else {
            let explained = surplus.min(self.unknown);
            self.unknown -= explained;
            tally.doubled += (surplus - explained).unsigned_abs();
        }
        self.known = n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+n` INCR answered n, `?` INCR of unknown outcome, `=n` GET answered n, `!n` audit found n.
    fn account(history: &str) -> (u64, u64, u64) {
        let (mut account, mut tally) = (Account::default(), Tally::default());
        for step in history.split_whitespace() {
            let n = step[1..].parse().unwrap_or_default();
            match &step[..1] {
                "+" => account.incremented(n, &mut tally),
                "=" => account.read_back(n, &mut tally),
                "!" => account.compare(n, &mut tally),
                _ => account.unknown += 1,
            }
        }
        (tally.lost, tally.doubled, tally.went_back)
    }

    #[test]
    fn tells_lost_from_unknown_and_doubled() {
        assert_eq!(account("+1 =1 +2 =2 !2"), (0, 0, 0));
        assert_eq!(account("+1 ? +2 !2"), (0, 0, 0), "it did not run");
        assert_eq!(account("+1 ? +3 !3"), (0, 0, 0), "it ran");
        assert_eq!(account("+1 ? +2 =3 !3"), (0, 0, 0), "it ran late");
        assert_eq!(account("+1 ? +3 =4"), (0, 1, 0), "it ran twice");
        assert_eq!(account("+1 +3"), (0, 1, 0));
        assert_eq!(account("+1 +2 +3 +2 +3 !3"), (2, 0, 0));
        assert_eq!(account("+1 +2 =1 +2"), (1, 0, 1));
        assert_eq!(account("+1 +2 !1"), (1, 0, 0));
    }
}
