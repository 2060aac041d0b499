//! What a program says of its writes, against what Redis has.

use pointsman::demo::history::{Fault, History, Outcome};

/// A line of a program: how the write of one number went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// It was answered.
    Acknowledged(u64),
    /// The connection was lost before the answer.
    Unknown(u64, String),
    /// An error reply: it did not run.
    Refused(u64, String),
}

impl Entry {
    /// None for a line about something else.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(3, ' ');
        let (kind, id, why) = (words.next()?, words.next()?.parse().ok()?, words.next().unwrap_or_default().to_owned());
        match kind {
            "acknowledged" => Some(Self::Acknowledged(id)),
            "unknown" => Some(Self::Unknown(id, why)),
            "refused" => Some(Self::Refused(id, why)),
            _ => None,
        }
    }

    pub(crate) fn id(&self) -> u64 {
        let (Self::Acknowledged(id) | Self::Unknown(id, _) | Self::Refused(id, _)) = self;
        *id
    }
}

/// The last numbers told of before a kill whose writes may have been under way just then, or, of a queue, not yet
/// processed.
const UNDER_WAY: u64 = 20;
/// Writes that a master has answered and not sent to any replica when it is killed: it may have written to a client
/// before the replicas in its very last turn.
const LAST_TURN: usize = 1;

/// What is wrong with a ledger, one sentence each. `held` is the list in Redis, `before_kill` the highest number that
/// the program had told of when a master was killed; `resends`: its library sends again by itself what was under way.
/// Order is not looked at: some programs have several writes under way.
pub(crate) fn audit(entries: Vec<Entry>, resends: bool, held: &[String], before_kill: u64) -> Vec<String> {
    let in_doubt = |id: u64| id + UNDER_WAY > before_kill;
    let held: Vec<u64> = held.iter().map(|element| element.parse().unwrap()).collect();
    let (mut history, mut wrong) = (History::default(), Vec::new());
    for entry in entries {
        let id = entry.id();
        let outcome = match entry {
            Entry::Acknowledged(_) => Outcome::Acknowledged,
            Entry::Unknown(..) => Outcome::Unknown,
            Entry::Refused(_, why) => {
                wrong.push(format!("{id} was refused: {why}"));
                Outcome::Refused
            }
        };
        history.note(id, outcome);
    }
    let mut missing = 0;
    for fault in history.check(&held) {
        match fault {
            Fault::Lost(id) if in_doubt(id) => missing += 1,
            Fault::Doubled(id) if resends && in_doubt(id) && held.iter().filter(|h| **h == id).count() == 2 => {}
            Fault::Overtaken(..) => {}
            fault => wrong.push(fault.to_string()),
        }
    }
    if missing > LAST_TURN {
        wrong.push(format!("{missing} writes were acknowledged just before the kill and are lost"));
    }
    wrong
}

#[test]
fn whatever_is_wrong_is_told() {
    let entries = |lines: &[&str]| lines.iter().filter_map(|line| Entry::parse(line)).collect::<Vec<_>>();
    let told = entries(&["ready", "acknowledged 1", "unknown 100 closed", "acknowledged 101"]);
    let wrong = |held: &[&str], resends| {
        let held: Vec<String> = held.iter().map(|n| (*n).to_owned()).collect();
        audit(told.clone(), resends, &held, 100)
    };
    let none = Vec::<String>::new();
    assert_eq!(wrong(&["1", "101"], false), none);
    assert_eq!(wrong(&["1", "100", "101"], false), none);
    assert_eq!(wrong(&["1", "100", "100", "101"], true), none);
    assert_eq!(wrong(&["1", "100", "100", "101"], false), ["100 is there more than once"]);
    assert_eq!(wrong(&["1", "1", "101"], true), ["1 is there more than once"]);
    assert_eq!(wrong(&["101"], false), ["1 was acknowledged and is lost"]);
    assert_eq!(wrong(&["1", "7", "101"], false), ["7 is there and was never written"]);
    let refused = audit(entries(&["refused 1 MASTERDOWN why"]), false, &[], 100);
    assert_eq!(refused, ["1 was refused: MASTERDOWN why"]);
    let last = entries(&["acknowledged 99", "acknowledged 100"]);
    assert_eq!(audit(last, false, &[], 100), ["2 writes were acknowledged just before the kill and are lost"]);
}
