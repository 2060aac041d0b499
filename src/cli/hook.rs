//! `pointsman hook`: tells one hook, once, that it is being tried.

use std::process::ExitCode;

use super::args::HookArguments;
use super::check::say;
use super::{exit, refuse};
use crate::config::{self, Environment, HookAction, Resolved};
use crate::hooks;

pub(super) fn run(arguments: &HookArguments) -> ExitCode {
    let read = || config::load(&arguments.config)?.0.resolve(&Environment::of_process()?);
    let Resolved { config, .. } = match read() {
        Ok(resolved) => resolved,
        Err(problems) => return refuse(&problems),
    };
    let Some(hook) = config.hooks.iter().find(|hook| hook.name == arguments.name) else {
        let names: Vec<&str> = config.hooks.iter().map(|hook| hook.name.as_str()).collect();
        let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        eprintln!("there is no hook `{}` in {}, which has: {has}", arguments.name, arguments.config.display());
        return ExitCode::from(exit::USAGE);
    };
    let service = hook.services.first().map_or(config.services[0].name.as_str(), String::as_str);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            return ExitCode::from(exit::OS);
        }
    };
    let told = runtime.block_on(async {
        tokio::select! {
            told = hooks::try_once(hook, service, config.resolvers.clone()) => Some(told),
            // A program is killed with it: it is in a process group of its own, which Ctrl-C does not reach.
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    let whom = match &hook.action {
        HookAction::Post(webhook) => webhook.url.to_string(),
        HookAction::Run(program) => program.path.display().to_string(),
    };
    match told {
        None => ExitCode::from(exit::INTERRUPTED),
        Some(Ok(())) => {
            say(&format!("{whom} was told that `{}` is being tried", hook.name));
            ExitCode::SUCCESS
        }
        Some(Err(why)) => {
            eprintln!("{whom} could not be told: {why}");
            ExitCode::from(exit::UNAVAILABLE)
        }
    }
}
