//! `pointsman switchover`: orders one of the pointsman that runs, and prints what it tells.

use std::process::ExitCode;

use serde_json::json;

use super::admin::Admin;
use super::args::SwitchoverArguments;
use super::check::say;
use super::{admin, exit};
use crate::topology::switchover::{Outcome, Report};

/// How a switchover ended.
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) why: String,
    pub(super) stall_ms: u64,
    pub(super) ms: u64,
}

pub(super) fn run(arguments: &SwitchoverArguments) -> ExitCode {
    let ended = admin::address(&arguments.admin)
        .and_then(|admin| order(&admin, &arguments.service, arguments.to.as_deref(), arguments.dry_run));
    match ended {
        Ok(end) => {
            say(&summary(&end));
            code(end.outcome)
        }
        Err(why) => {
            eprintln!("pointsman: {why}");
            ExitCode::from(exit::UNAVAILABLE)
        }
    }
}

pub(super) fn code(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Done | Outcome::Possible => ExitCode::SUCCESS,
        Outcome::Unfinished => ExitCode::FAILURE,
        Outcome::Undone | Outcome::Refused => ExitCode::from(exit::UNDONE),
    }
}

/// Orders a switchover and prints each step as it happens.
pub(super) fn order(admin: &Admin, service: &str, to: Option<&str>, dry_run: bool) -> Result<End, String> {
    let wanted = json!({ "service": service, "to": to, "dry_run": dry_run });
    for line in admin::post(admin, "/switchover", &wanted.to_string())? {
        let line = line.map_err(|e| format!("{admin}: {e}; how it ended is in its log"))?;
        match serde_json::from_str(&line).map_err(|e| format!("{admin} said `{line}`: {e}"))? {
            Report::Step { ms, ok, text } => {
                say(&format!("{ms:>7} ms  {}  {text}", if ok { "ok    " } else { "FAILED" }))
            }
            Report::End { ms, outcome, why, stall_ms } => return Ok(End { outcome, why, stall_ms, ms }),
        }
    }
    Err(format!("{admin} closed the connection before the end; how it ended is in its log"))
}

pub(super) fn summary(end: &End) -> String {
    let End { outcome, why, stall_ms, ms } = end;
    match outcome {
        Outcome::Done => format!("done in {ms} ms: writes waited {stall_ms} ms, and none was lost"),
        Outcome::Unfinished => format!("the master was changed (writes waited {stall_ms} ms), but: {why}"),
        Outcome::Undone => format!("undone (writes waited {stall_ms} ms): {why}"),
        Outcome::Refused => format!("refused, nothing was touched: {why}"),
        Outcome::Possible => "possible: every check passed, nothing was touched".to_owned(),
    }
}
