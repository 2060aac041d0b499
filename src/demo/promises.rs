//! What a failover may cost the clients, as the demo and the tests hold pointsman to it.

use super::tally::Tally;

/// What is allowed in one kind of failover; what is not named is never allowed: error replies, failed connects, a write
/// executed twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promise {
    /// Whether the master goes away without a word. Then a client whose write was on its way may be disconnected: nobody
    /// can know whether it was executed. And what the master did in its last turn may be gone, though it was told to
    /// clients: Redis writes to clients and to replicas one after the other (`handleClientsWithPendingWrites`), and may
    /// die in between. That is one write of each writer, and one read of each client.
    pub master_dies: bool,
}

/// A failover that begins while the master still answers costs nothing but waiting.
pub const PLANNED: Promise = Promise { master_dies: false };

/// `kill -9` of the master: each writer has one command in flight at most.
pub const KILLED: Promise = Promise { master_dies: true };

impl Promise {
    /// What of it the counts break, one sentence each. There are no more readers than `writers`. `reported_loss`: the
    /// flight recorder says that replicated data was lost, or that it cannot know; then, and only then, what a dead
    /// master did last may be missing.
    pub fn broken(self, tally: &Tally, writers: usize, reported_loss: bool) -> Vec<String> {
        let mut broken = Vec::new();
        let mut expect_none = |count: u64, what: &str| {
            if count > 0 {
                broken.push(format!("{count} {what}"));
            }
        };
        expect_none(tally.errors, &format!("error replies, first: {}", tally.first_error.as_deref().unwrap_or("?")));
        expect_none(tally.dropped_reading, "connections dropped with no write in flight");
        expect_none(tally.failed_connects, "connects failed");
        expect_none(tally.doubled, "writes executed twice");
        expect_none(tally.misplaced, "writes where none was promised, or out of their order");
        let in_flight = if self.master_dies { writers as u64 } else { 0 };
        expect_none(tally.dropped_writing.saturating_sub(in_flight), "connections dropped beyond what is allowed");
        let last_turn = if reported_loss { in_flight } else { 0 };
        expect_none(tally.lost.saturating_sub(last_turn), "acknowledged writes lost beyond what is reported");
        expect_none(tally.went_back.saturating_sub(2 * last_turn), "reads answered less than was read before");
        if tally.acknowledged == 0 {
            broken.push("no write was acknowledged at all".into());
        }
        if let (false, Some(fault)) = (broken.is_empty(), &tally.first_fault) {
            broken.push(format!("the first of what the audit found: {fault}"));
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_breach_is_told() {
        let fine = Tally { acknowledged: 10, ..Tally::default() };
        assert_eq!(PLANNED.broken(&fine, 2, false), Vec::<String>::new());
        let breaches = [
            Tally { errors: 1, first_error: Some("MASTERDOWN x".into()), ..fine.clone() },
            Tally { dropped_writing: 1, ..fine.clone() },
            Tally { dropped_reading: 1, ..fine.clone() },
            Tally { failed_connects: 1, ..fine.clone() },
            Tally { lost: 1, ..fine.clone() },
            Tally { doubled: 1, ..fine.clone() },
            Tally { misplaced: 1, ..fine.clone() },
            Tally { went_back: 1, ..fine.clone() },
            Tally { acknowledged: 0, ..fine.clone() },
        ];
        for breach in &breaches {
            assert_eq!(PLANNED.broken(breach, 2, false).len(), 1, "{breach:?}");
        }
        assert!(PLANNED.broken(&breaches[0], 2, false)[0].contains("MASTERDOWN x"));
        let told = Tally { first_fault: Some("ledger:0: 1 is there more than once".into()), ..breaches[5].clone() };
        assert!(PLANNED.broken(&told, 2, false)[1].contains("ledger:0: 1"));

        let last_turn = Tally { dropped_writing: 2, lost: 2, went_back: 4, ..fine };
        assert_eq!(KILLED.broken(&last_turn, 2, true), Vec::<String>::new());
        assert_eq!(KILLED.broken(&last_turn, 1, true).len(), 3, "more than one turn");
        assert_eq!(KILLED.broken(&last_turn, 2, false).len(), 2, "and nobody says so");
        assert_eq!(PLANNED.broken(&last_turn, 2, true).len(), 3, "it did not die");
    }
}
