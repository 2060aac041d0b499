//! The `pointsman` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pointsman::cli::main()
}
