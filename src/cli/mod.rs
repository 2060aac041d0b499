//! The command line: what the program was asked for, and how it ends.

mod admin;
mod args;
mod check;
mod drill;
mod exit;
mod hook;
mod hotkeys;
mod identity;
mod lists;
mod logging;
mod online;
mod orders;
mod reload;
mod slowlog;
mod status;
mod switchover;
mod table;
mod top;

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{self, ExitCode};

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser};

use crate::app::{self, Reloading};
use crate::config::{Config, Environment, Problems, Resolved};
use crate::net::Inherited;
use crate::{config, demo};
use args::{Arguments, Command, ServiceArguments};

/// The command line as clap knows it, for manual pages and completions.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let mut words = env::args_os().skip(1);
    // Between two processes of ours, not for users: neither help nor completions mention it.
    if words.next().is_some_and(|word| word == app::DETACH) {
        return detach(words);
    }
    let arguments = match Arguments::try_parse_from(env::args_os()) {
        Ok(arguments) => arguments,
        Err(e) => return usage_error(e),
    };
    match arguments.command {
        Command::Run(service) => run(&service),
        Command::Check(check) => match checked(&check.service) {
            Ok(resolved) => match inherited(&resolved.config) {
                Ok(inherited) => check::run(&check, &resolved, &inherited),
                Err(code) => code,
            },
            Err(code) => code,
        },
        Command::Status(arguments) => status::run(&arguments),
        Command::Switchover(arguments) => switchover::run(&arguments),
        Command::Drill(arguments) => drill::run(&arguments),
        Command::Reload(arguments) => reload::run(&arguments),
        Command::Slowlog(arguments) => slowlog::run(&arguments),
        Command::Hotkeys(arguments) => hotkeys::run(&arguments),
        Command::Hook(arguments) => hook::run(&arguments),
        Command::Clients(arguments) => lists::clients(&arguments),
        Command::Pools(arguments) => lists::pools(&arguments),
        Command::Sentinels(arguments) => lists::sentinels(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Pause(arguments) => orders::pause(&arguments),
        Command::Resume(arguments) => orders::resume(&arguments),
        Command::LogLevel(arguments) => orders::log_level(&arguments),
        Command::Demo(demo) => demo::run(&demo.into()),
    }
}

fn run(arguments: &ServiceArguments) -> ExitCode {
    let Resolved { config, warnings, faults } = match assumed(arguments) {
        Ok(resolved) => resolved,
        Err(code) => return code,
    };
    let inherited = match inherited(&config) {
        Ok(inherited) => inherited,
        Err(code) => return code,
    };
    let (log, set_log_level) = logging::init(&config.log);
    if let Some(warning) = identity::warning() {
        tracing::warn!("{warning}");
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    for fault in faults {
        tracing::error!("{fault}");
    }
    let again = arguments.clone();
    let reloading = Reloading { read: Box::new(move || configuration(&again)), set_log_level };
    let ended = app::run(config, inherited, reloading);
    drop(log); // what the threads logged comes before the last word
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("pointsman: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

/// The configuration, as whoever looks at it. Root looks as the user that it names, and finds what only root could read.
fn checked(arguments: &ServiceArguments) -> Result<Resolved, ExitCode> {
    if identity::can_assume() { assumed(arguments) } else { configuration(arguments).map_err(|p| refuse(&p)) }
}

/// The configuration, as the user that it names, whom we are from then on.
fn assumed(arguments: &ServiceArguments) -> Result<Resolved, ExitCode> {
    let read = || configuration(arguments).map_err(|problems| refuse(&problems));
    let resolved = read()?;
    let Some(account) = &resolved.config.user else { return Ok(resolved) };
    identity::assume(account).map_err(|why| {
        eprintln!("pointsman: {why}");
        ExitCode::from(exit::OS)
    })?;
    // Once more: what only root can read would be missed at the next reload.
    read().inspect_err(|_| {
        eprintln!("pointsman: read as `{}` (`user`), who must be able to read all of it", account.name)
    })
}

/// As [`app::run`] has its successor started: once we have ended, that one is a child of the service manager.
fn detach(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(program) = words.next().map(PathBuf::from) else { return ExitCode::from(exit::USAGE) };
    match process::Command::new(&program).args(words).spawn() {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pointsman: cannot start {}: {error}", program.display());
            ExitCode::FAILURE
        }
    }
}

/// The sockets that were opened for us, if all of them are wanted.
fn inherited(config: &Config) -> Result<Inherited, ExitCode> {
    let problems = match Inherited::of_process() {
        Ok(inherited) => match inherited.problems(&config.services) {
            none if none.is_empty() => return Ok(inherited),
            problems => problems,
        },
        Err(problem) => vec![problem],
    };
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    Err(ExitCode::from(exit::CONFIG))
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
