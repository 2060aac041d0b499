//! `pointsman top`: the services of one that runs, live in the terminal, or as lines.

mod frame;
mod terminal;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use super::admin::{self, Admin};
use super::args::TopArguments;
use super::table::Look;
use super::{exit, lists};
use crate::admin::{Pools, Status};
use frame::frame;
use terminal::{Key, Terminal};

/// What is seen at one moment.
struct Sample {
    status: Status,
    pools: Pools,
}

impl Sample {
    fn take(admin: &Admin) -> Result<Self, String> {
        let read = || Ok(Self { status: lists::read(admin, "/status")?, pools: lists::read(admin, "/pools")? });
        read().map_err(|(why, _): (String, u8)| why)
    }
}

pub(super) fn run(arguments: &TopArguments) -> ExitCode {
    let interval = arguments.interval;
    let outcome = admin::address(&arguments.admin).and_then(|admin| {
        let first = Sample::take(&admin)?;
        let live = !arguments.plain && arguments.rounds.is_none();
        if live && io::stdin().is_terminal() && io::stdout().is_terminal() {
            watch(&admin, first, interval)
        } else {
            print(&admin, first, interval, arguments.rounds)
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("pointsman: {why}");
            ExitCode::from(exit::UNAVAILABLE)
        }
    }
}

/// Draws until somebody has seen enough. That pointsman does not answer is shown, and may pass.
fn watch(admin: &Admin, first: Sample, interval: Duration) -> Result<(), String> {
    let failed = |e: io::Error| format!("the terminal: {e}");
    let mut terminal = Terminal::open(interval).map_err(failed)?;
    let (mut before, mut trouble) = (first, None::<String>);
    let mut shown = frame(&before, &before, &admin.to_string(), Look::of_stdout());
    loop {
        let text = trouble.as_ref().map(|why| format!("{why}\n\n")).unwrap_or_default() + &shown;
        terminal.draw(&text, "q: leave").map_err(failed)?;
        if terminal.key().map_err(failed)? == Key::Leave {
            return Ok(());
        }
        match Sample::take(admin) {
            Ok(now) => {
                shown = frame(&before, &now, &admin.to_string(), Look::of_stdout());
                (before, trouble) = (now, None);
            }
            Err(why) => trouble = Some(why),
        }
    }
}

/// One frame behind the other, so many or without end.
fn print(admin: &Admin, first: Sample, interval: Duration, rounds: Option<u32>) -> Result<(), String> {
    let mut before = first;
    for round in 0.. {
        if rounds.is_some_and(|rounds| round >= rounds) {
            break;
        }
        sleep(interval);
        let now = Sample::take(admin)?;
        let text = frame(&before, &now, &admin.to_string(), Look::of_stdout()) + "\n";
        if io::stdout().write_all(text.as_bytes()).is_err() {
            break; // whoever closed our output has seen enough
        }
        before = now;
    }
    Ok(())
}
