//! `pointsman status`: what the pointsman that runs says of its services, for people.

mod page;

use std::io::{self, Write};
use std::process::ExitCode;

use super::args::StatusArguments;
use super::table::Look;
use super::{admin, exit};
use crate::admin::Status;
use crate::topology::status::{FlowWord, WallTime};
use page::Detail;

pub(super) fn run(arguments: &StatusArguments) -> ExitCode {
    let page = if arguments.ready { "/readyz" } else { "/status" };
    let asked = admin::address(&arguments.admin).and_then(|address| {
        let text = admin::get(&address, page)?;
        Ok((address, text))
    });
    let (address, text) = match asked {
        Ok(asked) => asked,
        Err(why) => return fail(&why, exit::UNAVAILABLE),
    };
    if arguments.ready {
        let _ = io::stdout().write_all(text.as_bytes());
        return ExitCode::SUCCESS;
    }
    let mut status: Status = match serde_json::from_str(&text) {
        Ok(status) => status,
        Err(e) => {
            let why = format!("{address} is no pointsman, or one of a version that this does not understand: {e}");
            return fail(&why, exit::UNAVAILABLE);
        }
    };
    let mut text = text;
    if let Some(name) = &arguments.service {
        let all: Vec<String> = status.services.iter().map(|s| s.status.service.clone()).collect();
        status.services.retain(|s| s.status.service == *name);
        if status.services.is_empty() {
            return fail(&format!("{address} has no service `{name}`, but {}", all.join(", ")), exit::USAGE);
        }
        text = serde_json::to_string_pretty(&status).expect("it was JSON before") + "\n";
    }
    if !arguments.json {
        let detail = match (arguments.failover, arguments.failovers) {
            (Some(number), _) => Detail::Failover(number),
            (None, true) => Detail::Failovers,
            (None, false) => Detail::Summary,
        };
        let Some(page) = page::page(&status, &address.to_string(), detail, WallTime::now(), Look::of_stdout()) else {
            return fail("no failover of this number is on record", exit::USAGE);
        };
        text = page;
    }
    // Whoever closed our output does not want to read; the exit code still tells.
    let _ = io::stdout().write_all(text.as_bytes());
    let flows = |s: &crate::admin::Service| {
        s.status.writes.flow == FlowWord::Flowing && s.status.reads.flow == FlowWord::Flowing
    };
    if status.services.iter().all(flows) { ExitCode::SUCCESS } else { ExitCode::from(exit::NOT_FLOWING) }
}

fn fail(why: &str, code: u8) -> ExitCode {
    eprintln!("pointsman: {why}");
    ExitCode::from(code)
}
