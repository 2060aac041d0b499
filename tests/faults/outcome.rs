//! What a fault may cost its clients, and the line of the table that says what it did cost.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use pointsman::demo::Promise;
use pointsman::demo::tally::Tally;

/// What the clients may notice of a fault. That a write is executed twice: never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed {
    /// Kinds of error replies, by their first word.
    pub(crate) errors: &'static [&'static str],
    /// Connections closed with a write in flight. Its outcome is unknown.
    pub(crate) drops: u64,
    /// Longest time between two acknowledged writes of one client.
    pub(crate) stall: Duration,
    /// Whether more acknowledged writes may be missing than those of a dead master's last turn.
    pub(crate) lost: bool,
    /// The same of values that are older than one that the same client has read before.
    pub(crate) went_back: bool,
}

/// What a planned failover takes, some 1.2 s, on a machine that runs several at once.
pub(crate) const PLANNED: Duration = Duration::from_secs(4);
/// What Sentinel takes for a master that went away: down-after, an election and a promotion, some 2.5 to 3 s.
pub(crate) const CRASH: Duration = Duration::from_secs(7);
/// Until Sentinel has undone what was done half or past it: some 10 to 30 s, as it asks every node every 10 s.
pub(crate) const UNDONE: Duration = Duration::from_secs(40);

/// Nothing but a wait.
pub(crate) const fn waiting(stall: Duration) -> Allowed {
    Allowed { errors: &[], drops: 0, stall, lost: false, went_back: false }
}

/// A wait, and of every writer the one write that was on its way.
pub(crate) const fn in_flight(stall: Duration) -> Allowed {
    Allowed { drops: super::rig::WRITERS as u64, ..waiting(stall) }
}

/// `hold_timeout` ran out, so that clients were told that there is no master.
pub(crate) const fn refused(drops: u64, stall: Duration) -> Allowed {
    Allowed { errors: &["MASTERDOWN"], drops, ..waiting(stall) }
}

impl Allowed {
    /// What the clients noticed beyond it, one sentence each. `reported_loss`: as in [`Promise::broken`].
    pub(crate) fn broken(&self, tally: &Tally, reported_loss: bool) -> Vec<String> {
        let unforeseen = tally.error_kinds.iter().filter(|(kind, _)| !self.errors.contains(&kind.as_str()));
        let mut rest = Tally { errors: unforeseen.map(|(_, n)| n).sum(), ..tally.clone() };
        rest.lost = if self.lost { 0 } else { rest.lost };
        rest.went_back = if self.went_back { 0 } else { rest.went_back };
        let mut broken = Promise { master_dies: true }.broken(&rest, self.drops as usize, reported_loss);
        let stall = tally.write_stall.length;
        if stall > self.stall {
            broken.push(format!("writes stalled for {stall:?}, {:?} are allowed", self.stall));
        }
        broken
    }
}

/// Prints the line of a scenario, and adds it to the table that `make faults` shows. `number` is that of the list in
/// [`crate`], or a letter.
pub(crate) fn tell(number: &str, scenario: &str, tally: &Tally) {
    let kinds: Vec<String> = tally.error_kinds.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    let errors = if kinds.is_empty() { "0".to_owned() } else { kinds.join(", ") };
    let stall = tally.write_stall.length.max(tally.read_stall.length).as_millis();
    let line = format!(
        "| {number:>3} | {scenario:<70} | {errors:>16} | {:>5} | {stall:>6} | {:>4} | {:>5} | {:>12} |\n",
        tally.dropped(),
        tally.lost,
        tally.doubled,
        tally.acknowledged,
    );
    eprint!("{line}");
    let table = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults.table");
    let mut file = File::options().create(true).append(true).open(table).unwrap();
    file.write_all(line.as_bytes()).unwrap();
}
