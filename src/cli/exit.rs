//! Exit codes, those of `sysexits.h`. What keeps the program from running in the first place (71 for an address that
//! cannot be bound) comes from the application's own error.

use std::io::{self, Write};
use std::process::ExitCode;

/// The command line cannot be understood.
pub(super) const USAGE: u8 = 64;

/// `check --online`: a Sentinel or a master does not answer as it should. `status`, `switchover`, `drill`: the pointsman
/// that runs does not.
pub(super) const UNAVAILABLE: u8 = 69;

/// An address cannot be bound.
pub(super) const OS: u8 = 71;

/// The configuration is wrong, or a file that it consists of cannot be read.
pub(super) const CONFIG: u8 = 78;

/// A switchover was refused or undone: everything is as before, and it can be tried again.
pub(super) const UNDONE: u8 = 75;

/// `status`: the reads or writes of some service wait or are refused; that may pass.
pub(super) const NOT_FLOWING: u8 = 75;

/// Prints what was asked for, or why it cannot be had.
pub(super) fn after(asked: Result<String, (String, u8)>) -> ExitCode {
    match asked {
        Ok(text) => {
            // Whoever closed our output does not want to read.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err((why, code)) => {
            eprintln!("pointsman: {why}");
            ExitCode::from(code)
        }
    }
}

/// Ctrl-C, as a shell reports it.
pub(super) const INTERRUPTED: u8 = 130;
