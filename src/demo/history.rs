//! What one client wrote and was told, against what is there in the end. Pure.
//!
//! The client appends numbers to a list of its own, each once, and notes how each went. Then every number tells by
//! itself what became of it, where a counter could hide a lost write behind one of unknown outcome that ran. For rigs
//! that make their own clients: [`History::note`] for each write in the order of its invocation, [`History::check`]
//! whenever all have been answered or given up.

use std::collections::HashMap;
use std::fmt;

/// How a write went, as its client knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Outcome {
    /// It was answered: it must be there.
    Acknowledged,
    /// It was answered with an error: it must not be there.
    Refused,
    /// The connection was lost with the write sent and unanswered: it may be there, and may have run late.
    Unknown,
}

/// What is wrong with the data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fault {
    /// It was acknowledged and is not there.
    Lost(u64),
    /// It is there more than once.
    Doubled(u64),
    /// An error said that it did not run, and it is there.
    RanThoughRefused(u64),
    /// It was acknowledged before this other one was written, and stands behind it.
    Overtaken(u64, u64),
    /// Nobody wrote it.
    Strange(u64),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(n) => write!(f, "{n} was acknowledged and is lost"),
            Self::Doubled(n) => write!(f, "{n} is there more than once"),
            Self::RanThoughRefused(n) => write!(f, "{n} was refused and is there"),
            Self::Overtaken(n, later) => write!(f, "{n} stands behind {later}, which was written after it"),
            Self::Strange(n) => write!(f, "{n} is there and was never written"),
        }
    }
}

/// The writes of one client, in the order of their invocation.
#[derive(Clone, Debug, Default)]
pub struct History(Vec<(u64, Outcome)>);

impl History {
    /// The next write, of a number that was not written before, and how it went.
    pub fn note(&mut self, number: u64, outcome: Outcome) {
        self.0.push((number, outcome));
    }

    /// What is wrong with `found`, the list as it is: first what is there and should not be, in the order of the list,
    /// then what is missing. Nothing is, if acknowledged writes are there once and in their order, refused ones are
    /// not, and those of unknown outcome are there once at most. One of these may stand behind later ones: a server that
    /// hung carries it out when it wakes.
    pub fn check(&self, found: &[u64]) -> Vec<Fault> {
        let written: HashMap<u64, usize> = self.0.iter().enumerate().map(|(i, (number, _))| (*number, i)).collect();
        let mut times = vec![0u32; self.0.len()];
        let mut faults = Vec::new();
        // The one invoked last of those before.
        let mut latest: Option<usize> = None;
        for number in found {
            let Some(&i) = written.get(number) else {
                faults.push(Fault::Strange(*number));
                continue;
            };
            times[i] += 1;
            match (times[i], self.0[i].1) {
                (1, Outcome::Refused) => faults.push(Fault::RanThoughRefused(*number)),
                (1, Outcome::Acknowledged) => {
                    let later = latest.filter(|latest| *latest > i);
                    faults.extend(later.map(|later| Fault::Overtaken(*number, self.0[later].0)));
                }
                (1, Outcome::Unknown) => {}
                (2, _) => faults.push(Fault::Doubled(*number)),
                _ => {}
            }
            latest = latest.max(Some(i));
        }
        let missing = self.0.iter().zip(times).filter(|((_, o), times)| *o == Outcome::Acknowledged && *times == 0);
        faults.extend(missing.map(|((number, _), _)| Fault::Lost(*number)));
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `1 2? 3!`: 1 was acknowledged, 2 is unknown, 3 was refused.
    fn history(writes: &str) -> History {
        let mut history = History::default();
        for write in writes.split_whitespace() {
            let outcome = match write.trim_start_matches(|c: char| c.is_ascii_digit()) {
                "" => Outcome::Acknowledged,
                "?" => Outcome::Unknown,
                _ => Outcome::Refused,
            };
            history.note(write.trim_end_matches(['?', '!']).parse().unwrap(), outcome);
        }
        history
    }

    fn faults(writes: &str, found: &[u64]) -> Vec<Fault> {
        history(writes).check(found)
    }

    #[test]
    fn what_may_be_is_no_fault() {
        assert_eq!(faults("", &[]), []);
        assert_eq!(faults("1 2 3", &[1, 2, 3]), []);
        assert_eq!(faults("1 2? 3", &[1, 3]), [], "it did not run");
        assert_eq!(faults("1 2? 3", &[1, 2, 3]), [], "it ran");
        assert_eq!(faults("1 2? 3 4", &[1, 3, 2, 4]), [], "it ran late");
        assert_eq!(faults("1 2! 3", &[1, 3]), []);
        assert_eq!(faults("7 3 5", &[7, 3, 5]), [], "the order is that of the writes, not of the numbers");
    }

    #[test]
    fn every_planted_violation_is_found() {
        assert_eq!(faults("1 2 3", &[1, 3]), [Fault::Lost(2)]);
        assert_eq!(faults("1 2 3", &[]), [Fault::Lost(1), Fault::Lost(2), Fault::Lost(3)]);
        assert_eq!(faults("1 2", &[1, 2, 2]), [Fault::Doubled(2)]);
        assert_eq!(faults("1 2? 3", &[2, 2, 2, 1, 3]), [Fault::Doubled(2), Fault::Overtaken(1, 2)]);
        assert_eq!(faults("1 2! 3", &[1, 2, 3]), [Fault::RanThoughRefused(2)]);
        assert_eq!(faults("1 2 3", &[1, 3, 2]), [Fault::Overtaken(2, 3)]);
        assert_eq!(faults("1 2", &[1, 9, 2]), [Fault::Strange(9)]);
    }

    /// One loss, and one write of unknown outcome that ran: the count is right and the data is not.
    #[test]
    fn a_loss_does_not_hide_behind_an_unknown_write_that_ran() {
        assert_eq!(faults("1 2 3? 4", &[1, 3, 4]), [Fault::Lost(2)]);
    }

    /// Every way to damage a right list by one step is found, wherever it is done.
    #[test]
    fn every_single_damage_is_found() {
        let writes = "1 2 3? 4 5! 6 7? 8";
        let right: &[u64] = &[1, 2, 3, 4, 6, 8];
        assert_eq!(faults(writes, right), []);
        for at in 0..right.len() {
            let unknown = right[at] == 3;
            let mut damaged = right.to_vec();
            damaged.remove(at);
            assert_eq!(faults(writes, &damaged).is_empty(), unknown, "without {}", right[at]);
            let mut damaged = right.to_vec();
            damaged.insert(at, right[at]);
            assert_eq!(faults(writes, &damaged), [Fault::Doubled(right[at])]);
            for stranger in [5, 9] {
                let mut damaged = right.to_vec();
                damaged.insert(at, stranger);
                assert!(!faults(writes, &damaged).is_empty(), "{stranger} before {}", right[at]);
            }
            if at > 0 {
                let mut damaged = right.to_vec();
                damaged.swap(at - 1, at);
                // The unknown one may run late, though not before what was acknowledged before it.
                let late = right[at - 1] == 3;
                assert_eq!(faults(writes, &damaged).is_empty(), late, "{} before {}", right[at], right[at - 1]);
            }
        }
    }

    #[test]
    fn faults_are_sentences() {
        let faults =
            [Fault::Lost(1), Fault::Doubled(1), Fault::RanThoughRefused(1), Fault::Overtaken(1, 2), Fault::Strange(1)];
        assert!(faults.iter().all(|f| f.to_string().starts_with("1 ")));
    }
}
