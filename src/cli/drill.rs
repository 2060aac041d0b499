//! `pointsman drill`: a switchover there and back on a set-up in use, and what its clients noticed.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::admin::Admin;
use super::args::DrillArguments;
use super::check::say;
use super::{admin, exit, switchover};
use crate::topology::switchover::Outcome;

/// How long to wait until the switch is settled, so that the way back can begin: Sentinel asks each node every 10 s, and
/// may do so twice.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// What of the metrics tells what clients noticed.
const NOTICED: [(&str, &str); 5] = [
    ("pointsman_commands_held_total", "commands waited"),
    ("pointsman_commands_resent_total", "commands were sent again"),
    ("pointsman_commands_refused_total", "commands were answered with an error"),
    ("pointsman_commands_unknown_outcome_total", "writes have an unknown outcome"),
    ("pointsman_clients_closed_total", "clients were disconnected by pointsman"),
];

pub(super) fn run(arguments: &DrillArguments) -> ExitCode {
    match admin::address(&arguments.admin).and_then(|admin| drill(&admin, &arguments.service)) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("pointsman: {why}");
            ExitCode::from(exit::UNAVAILABLE)
        }
    }
}

fn drill(admin: &Admin, service: &str) -> Result<ExitCode, String> {
    let first = status(admin, service)?["master"].as_str().unwrap_or_default().to_owned();
    let mut worst = 0;
    let before = noticed(admin, service)?;
    for (way, to) in [("there", None), ("back", Some(first.as_str()))] {
        settle(admin, service)?;
        say(&format!("{way}:"));
        let end = switchover::order(admin, service, to, false)?;
        say(&switchover::summary(&end));
        worst = worst.max(end.stall_ms);
        if end.outcome != Outcome::Done {
            return Ok(switchover::code(end.outcome));
        }
    }
    let after = noticed(admin, service)?;
    say(&format!("longest wait of a write: {worst} ms"));
    let mut errors = 0;
    for (metric, what) in NOTICED {
        let count = after[metric] - before[metric];
        say(&format!("{count:>8} {what}"));
        if !matches!(metric, "pointsman_commands_held_total" | "pointsman_commands_resent_total") {
            errors += count;
        }
    }
    say(if errors == 0 { "no client noticed more than that wait" } else { "clients noticed: see above" });
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn settle(admin: &Admin, service: &str) -> Result<(), String> {
    let end = Instant::now() + SETTLE_LIMIT;
    while status(admin, service)?["settled"] != true {
        if Instant::now() >= end {
            return Err(format!("{service} was not settled within {} s, see /status", SETTLE_LIMIT.as_secs()));
        }
        sleep(ASK_EVERY);
    }
    Ok(())
}

fn status(admin: &Admin, service: &str) -> Result<Value, String> {
    let status: Value = serde_json::from_str(&admin::get(admin, "/status")?).map_err(|e| format!("/status: {e}"))?;
    let services = status["services"].as_array().map_or(&[][..], Vec::as_slice);
    let found = services.iter().find(|s| s["service"] == service).cloned();
    found.ok_or_else(|| format!("{admin} has no service `{service}`"))
}

/// Sums by metric. Clients that left by themselves are not counted.
fn noticed(admin: &Admin, service: &str) -> Result<BTreeMap<&'static str, u64>, String> {
    let text = admin::get(admin, "/metrics")?;
    let label = format!("service=\"{service}\"");
    let sum = |metric: &str| {
        let series = text.lines().filter(|line| {
            line.strip_prefix(metric).is_some_and(|rest| rest.starts_with('{'))
                && line.contains(&label)
                && !["client", "protocol_error", "killed"].iter().any(|r| line.contains(&format!("reason=\"{r}\"")))
        });
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    };
    Ok(NOTICED.iter().map(|(metric, _)| (*metric, sum(metric))).collect())
}
