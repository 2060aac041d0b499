//! `pointsman reload`: has one that runs read its configuration again, and prints what changed or why nothing did.

use std::process::ExitCode;

use super::admin::{self, Failure};
use super::args::ReloadArguments;
use super::check::say;
use super::exit;

pub(super) fn run(arguments: &ReloadArguments) -> ExitCode {
    let address = match admin::address(&arguments.admin) {
        Ok(address) => address,
        Err(why) => return fail(&why, exit::UNAVAILABLE),
    };
    let lines = match admin::post(&address, "/reload", "{}") {
        Ok(lines) => lines,
        // A line for each problem, as `check` and `run` print them.
        Err(Failure::Answered { status: 422, body, .. }) => {
            eprintln!("{body}");
            return fail("not reloaded, nothing has changed", exit::CONFIG);
        }
        Err(failure) => return fail(&failure.to_string(), exit::UNAVAILABLE),
    };
    for line in lines {
        match line {
            Ok(line) => say(&line),
            Err(e) => return fail(&format!("{address}: {e}; what changed is in its log"), exit::UNAVAILABLE),
        }
    }
    ExitCode::SUCCESS
}

fn fail(why: &str, code: u8) -> ExitCode {
    eprintln!("pointsman: {why}");
    ExitCode::from(code)
}
