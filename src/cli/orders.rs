//! `pointsman pause`, `resume` and `log-level`: short orders to the pointsman that runs.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::admin::{self, Admin};
use super::args::{AdminArguments, DEFAULT_LEVEL, LogLevelArguments, PauseArguments, ResumeArguments};
use super::check::say;
use super::exit;
use crate::admin::PauseAnswer;
use crate::admin::words::{count, second};

pub(super) fn pause(arguments: &PauseArguments) -> ExitCode {
    let PauseArguments { service, lasting, admin } = arguments;
    let for_ms = lasting.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    ended(admin, |admin| {
        let answer: PauseAnswer = order(admin, "/pause", &json!({ "service": service, "for_ms": for_ms }))?;
        let until = match answer.until {
            Some(until) => format!("until {} UTC", second(until)),
            None => format!("until `pointsman resume {service}`"),
        };
        if !answer.paused {
            say(&format!("{service} was paused, and goes on already"));
            return Ok(());
        }
        let waiting = count(answer.waiting, "command");
        say(&if answer.carried_out {
            format!("{service} is paused {until}: nothing is under way, {waiting} waiting")
        } else {
            format!("{service} is paused {until}, but commands from before are still under way; {waiting} waiting")
        });
        Ok(())
    })
}

pub(super) fn resume(arguments: &ResumeArguments) -> ExitCode {
    let ResumeArguments { service, admin } = arguments;
    ended(admin, |admin| {
        let _: PauseAnswer = order(admin, "/resume", &json!({ "service": service }))?;
        say(&format!("{service} goes on"));
        Ok(())
    })
}

pub(super) fn log_level(arguments: &LogLevelArguments) -> ExitCode {
    let level = Some(&arguments.level).filter(|level| *level != DEFAULT_LEVEL);
    ended(&arguments.admin, |admin| {
        let answer: Value = order(admin, "/log-level", &json!({ "level": level }))?;
        say(&format!("logged from now on: {}", answer["level"].as_str().unwrap_or_default()));
        Ok(())
    })
}

/// Orders something that is answered by one line of JSON.
fn order<T: serde::de::DeserializeOwned>(admin: &Admin, path: &str, order: &Value) -> Result<T, String> {
    let lines = admin::post(admin, path, &order.to_string())?;
    let text =
        lines.collect::<Result<String, _>>().map_err(|e| format!("{admin}: {e}; what came of it is in its log"))?;
    serde_json::from_str(&text).map_err(|e| format!("{admin} said `{text}`: {e}"))
}

fn ended(arguments: &AdminArguments, order: impl FnOnce(&Admin) -> Result<(), String>) -> ExitCode {
    match admin::address(arguments).and_then(|admin| order(&admin)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("pointsman: {why}");
            ExitCode::from(exit::UNAVAILABLE)
        }
    }
}
