//! What whoever asked for a switchover is told.

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::addr::Endpoint;

/// Reports that may wait for somebody who does not read them; further ones are lost, the switchover waits for nobody.
pub const REPORTS: usize = 256;

/// A switchover that somebody asks for.
#[derive(Debug)]
pub struct Order {
    /// The replica that is to be master; none: whichever Sentinel chooses.
    pub to: Option<Endpoint>,
    /// Only the checks.
    pub dry_run: bool,
    /// Where it is told what happens. When the other side is closed before the point of no return, all is undone.
    pub reports: mpsc::Sender<Report>,
}

/// One line of what happens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", untagged)]
pub enum Report {
    /// The last one.
    End {
        /// Milliseconds since the beginning.
        ms: u64,
        /// How it ended.
        outcome: Outcome,
        /// Why it did not, or what is left to do; empty where there is nothing to say.
        why: String,
        /// For how many milliseconds writes did not flow.
        stall_ms: u64,
    },
    /// A check or a step.
    Step {
        /// Milliseconds since the beginning.
        ms: u64,
        /// Whether it went well.
        ok: bool,
        /// What it was.
        text: String,
    },
}

/// How a switchover ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The master was changed, and everything is as it should be.
    Done,
    /// The master was changed, and something is left to do.
    Unfinished,
    /// The master is the same, and everything is as before.
    Undone,
    /// A check failed, or another switchover is on; nothing was touched.
    Refused,
    /// A dry run: every check passed.
    Possible,
}
