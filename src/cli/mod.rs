//! The command line: what the program was asked for, and how it ends.

mod admin;
mod args;
mod check;
mod drill;
mod exit;
mod logging;
mod online;
mod reload;
mod status;
mod switchover;

use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue};

use crate::app::{self, Reloading};
use crate::config::{Environment, Problems, Resolved};
use crate::{config, demo};
use args::{Arguments, Command, ServiceArguments};

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse_from(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(e) => return usage_error(e),
    };
    match arguments.command {
        Command::Run(service) => run(&service),
        Command::Check(check) => match configuration(&check.service) {
            Ok(resolved) => check::run(&check, &resolved),
            Err(problems) => refuse(&problems),
        },
        Command::Status(arguments) => status::run(&arguments),
        Command::Switchover(arguments) => switchover::run(&arguments),
        Command::Drill(arguments) => drill::run(&arguments),
        Command::Reload(arguments) => reload::run(&arguments),
        Command::Demo(demo) => demo::run(&demo.into()),
    }
}

fn run(arguments: &ServiceArguments) -> ExitCode {
    let Resolved { config, warnings, faults } = match configuration(arguments) {
        Ok(resolved) => resolved,
        Err(problems) => return refuse(&problems),
    };
    let (log, set_log_level) = logging::init(&config.log);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    for fault in faults {
        tracing::error!("{fault}");
    }
    let again = arguments.clone();
    let reloading = Reloading { read: Box::new(move || configuration(&again)), set_log_level };
    let ended = app::run(config, reloading);
    drop(log); // what the threads logged comes before the last word
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("pointsman: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

/// The configuration that the flags, or the file they name, and the environment give.
fn configuration(arguments: &ServiceArguments) -> Result<Resolved, Problems> {
    let (mut settings, mut warnings) = match &arguments.config {
        Some(path) => config::load(path)?,
        None => Default::default(),
    };
    arguments.add_to(&mut settings);
    let mut resolved = settings.resolve(&Environment::of_process()?)?;
    warnings.append(&mut resolved.warnings);
    Ok(Resolved { warnings, ..resolved })
}

fn refuse(problems: &Problems) -> ExitCode {
    eprintln!("{problems}");
    ExitCode::from(exit::CONFIG)
}

/// Prints what clap has to say, without what may be a password.
fn usage_error(mut e: clap::Error) -> ExitCode {
    if let Some(ContextValue::String(value)) = e.get(ContextKind::InvalidValue)
        && (value.contains('@') || value.contains("://"))
    {
        e.insert(ContextKind::InvalidValue, ContextValue::String("(a URL)".into()));
    }
    // `--help | head` closes the pipe early, which is no failure.
    let _ = e.print();
    ExitCode::from(if e.use_stderr() { exit::USAGE } else { 0 })
}
