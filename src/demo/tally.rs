//! What the ledger's clients count, and each writer's account. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::history::{Fault, History, Outcome};

/// Counts of one phase.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Commands answered, error replies not counted.
    pub commands: u64,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Error replies, and replies that fit no command of ours.
    pub errors: u64,
    /// How many of each kind, by their first word.
    pub error_kinds: BTreeMap<String, u64>,
    /// The first of them.
    pub first_error: Option<String>,
    /// Connections lost with a write sent and unanswered: its outcome is unknown.
    pub dropped_writing: u64,
    /// Connections lost with a read sent and unanswered.
    pub dropped_reading: u64,
    /// Connects that failed.
    pub failed_connects: u64,
    /// Acknowledged writes that an audit did not find.
    pub lost: u64,
    /// Writes that it found more than once.
    pub doubled: u64,
    /// Writes that it found though they were refused, or nobody made them, or out of their client's order.
    pub misplaced: u64,
    /// The first of what it found wrong.
    pub first_fault: Option<String>,
    /// Reads that answered less than the same client had seen before.
    pub went_back: u64,
    /// The longest time between two acknowledged writes of one client.
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
        let kind = message.split(' ').next().unwrap_or_default().to_owned();
        *self.error_kinds.entry(kind).or_default() += 1;
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

/// One writer's list, as far as the writer can know it.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    /// Its length at the last reply.
    pub(super) known: i64,
    history: History,
    /// What was wrong at earlier audits, and stays so.
    told: BTreeSet<Fault>,
}

impl Account {
    /// The writer's next write, and how it went.
    pub(super) fn wrote(&mut self, number: u64, outcome: Outcome) {
        self.history.note(number, outcome);
    }

    /// A read was answered `n`.
    pub(super) fn read_back(&mut self, n: i64, tally: &mut Tally) {
        tally.went_back += u64::from(n < self.known);
        self.known = n;
    }

    /// Counts what is wrong with the list as it is, each fault once.
    pub(super) fn compare(&mut self, found: &[u64], whose: &str, tally: &mut Tally) {
        for fault in self.history.check(found) {
            if self.told.insert(fault) {
                match fault {
                    Fault::Lost(_) => tally.lost += 1,
                    Fault::Doubled(_) => tally.doubled += 1,
                    Fault::RanThoughRefused(_) | Fault::Overtaken(..) | Fault::Strange(_) => tally.misplaced += 1,
                }
                tally.first_fault.get_or_insert_with(|| format!("{whose}: {fault}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_counts_each_fault_once() {
        let (mut account, mut tally) = (Account::default(), Tally::default());
        for number in 1..=4 {
            account.wrote(number, if number == 3 { Outcome::Refused } else { Outcome::Acknowledged });
        }
        account.compare(&[1, 2, 2, 3], "a", &mut tally);
        assert_eq!((tally.lost, tally.doubled, tally.misplaced), (1, 1, 1));
        assert_eq!(tally.first_fault.as_deref(), Some("a: 2 is there more than once"));
        account.wrote(5, Outcome::Acknowledged);
        account.compare(&[1, 2, 2, 3], "a", &mut tally);
        assert_eq!((tally.lost, tally.doubled, tally.misplaced), (2, 1, 1));
    }

    #[test]
    fn a_shorter_list_is_noticed_at_once() {
        let (mut account, mut tally) = (Account::default(), Tally::default());
        account.read_back(2, &mut tally);
        account.read_back(1, &mut tally);
        account.read_back(1, &mut tally);
        assert_eq!(tally.went_back, 1);
    }
}
