//! `pointsman slowlog`: the commands that took longest, and where they waited.

use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;

use super::args::SlowlogArguments;
use super::check::say;
use super::table::{Cell, Look, Table, Tone};
use super::{admin, exit};
use crate::admin::words::{count, second};
use crate::admin::{Forgotten, ServiceSlowLog, SlowLogs};
use crate::insight::{Outcome, SlowCommand};
use crate::metrics::STAGES;

pub(super) fn run(arguments: &SlowlogArguments) -> ExitCode {
    exit::after(shown(arguments))
}

fn shown(arguments: &SlowlogArguments) -> Result<String, (String, u8)> {
    let unavailable = |why| (why, exit::UNAVAILABLE);
    let address = admin::address(&arguments.admin).map_err(unavailable)?;
    let not_understood = |e: serde_json::Error| {
        let why = format!("{address} is no pointsman, or one of a version that this does not understand: {e}");
        (why, exit::UNAVAILABLE)
    };
    if arguments.reset {
        let order = json!({ "service": arguments.service }).to_string();
        let lines = admin::post(&address, "/slowlog/reset", &order).map_err(|e| unavailable(e.to_string()))?;
        let text: String = lines.collect::<Result<_, _>>().map_err(|e| unavailable(format!("{address}: {e}")))?;
        let Forgotten { forgotten } = serde_json::from_str(&text).map_err(not_understood)?;
        say(&format!("{} forgotten", count(forgotten as u64, "slow command")));
        return Ok(String::new());
    }
    let text = admin::get(&address, "/slowlog").map_err(unavailable)?;
    let mut logs: SlowLogs = serde_json::from_str(&text).map_err(not_understood)?;
    if let Some(name) = &arguments.service {
        let all: Vec<String> = logs.services.iter().map(|s| s.service.clone()).collect();
        logs.services.retain(|s| s.service == *name);
        if logs.services.is_empty() {
            return Err((format!("{address} has no service `{name}`, but {}", all.join(", ")), exit::USAGE));
        }
    }
    if arguments.json {
        return serde_json::to_string_pretty(&logs).map(|text| text + "\n").map_err(not_understood);
    }
    let parts =
        logs.services.iter().map(|log| page(log, arguments.stage.as_deref(), arguments.last, Look::of_stdout()));
    Ok(parts.collect::<Vec<_>>().join("\n"))
}

/// The newest of one service.
fn page(log: &ServiceSlowLog, stage: Option<&str>, last: usize, look: Look) -> String {
    let wanted = |c: &&Arc<SlowCommand>| stage.is_none_or(|stage| STAGES[c.stage() as usize] == stage);
    let all: Vec<_> = log.commands.iter().filter(wanted).collect();
    let rule = match log.slower_than_ms {
        Some(ms) => format!("slower than {ms} ms"),
        None => "nothing is noted (slowlog_slower_than is \"off\")".to_owned(),
    };
    let kept = match stage {
        Some(stage) => format!("{} that waited in {stage}", count(all.len() as u64, "slow command")),
        None => count(all.len() as u64, "slow command"),
    };
    let mut text = format!("{}: {kept} kept, {rule}", look.paint(&log.service, Tone::Title));
    if all.len() > last {
        text += &format!("; the newest {last}");
    }
    text.push('\n');
    if all.is_empty() || last == 0 {
        return text;
    }
    let mut table = Table::titled([
        "ENDED (UTC)",
        "TOTAL",
        "HOLD",
        "QUEUE",
        "BACKEND",
        "OUTCOME",
        "COMMAND",
        "KEY",
        "DB",
        "CLIENT",
    ]);
    for command in all.into_iter().take(last) {
        table.row(row(command));
    }
    for line in table.lines(2, look) {
        text += &line;
        text.push('\n');
    }
    text
}

fn row(c: &SlowCommand) -> [Cell; 10] {
    let (outcome, tone) = match (c.outcome, &c.error) {
        (Outcome::Ok, _) => ("ok".to_owned(), Tone::Plain),
        (Outcome::Error, error) => (format!("error {}", error.as_deref().unwrap_or_default()), Tone::Warn),
        (Outcome::Refused, _) => ("refused".to_owned(), Tone::Bad),
        (Outcome::Unknown, _) => ("unknown".to_owned(), Tone::Bad),
    };
    let outcome = if c.resent { outcome + ", sent again" } else { outcome };
    let mut command = c.command.clone();
    if c.commands > 1 {
        command += &format!(" and {} more", c.commands - 1);
    }
    if !c.also.is_empty() {
        command += &format!(" ({})", c.also.join(", "));
    }
    if c.together > c.commands {
        command += &format!(", one of {} at once", c.together);
    }
    let name = if c.client_name.is_empty() { String::new() } else { format!(" {}", c.client_name) };
    // The part that took longest stands out.
    let stage = c.stage() as usize;
    let [hold, queue, backend] = [c.hold_us, c.queue_us, c.backend_us].map(time);
    let mut parts = [hold, queue, backend].map(|text| Cell::from(text).toned(Tone::Dim));
    parts[stage] = parts[stage].clone().toned(Tone::Title);
    let [hold, queue, backend] = parts;
    [
        second(c.ended).into(),
        time(u64::try_from(c.total().as_micros()).unwrap_or(u64::MAX)).into(),
        hold,
        queue,
        backend,
        Cell::from(outcome).toned(tone),
        command.into(),
        c.key.as_deref().unwrap_or("-").into(),
        c.database.to_string().into(),
        format!("{} {}{name}", c.client, c.address).into(),
    ]
}

/// Microseconds, with as many digits as tell something.
pub(super) fn time(us: u64) -> String {
    match us {
        0 => "0".to_owned(),
        1..10_000 => format!("{}.{} ms", us / 1000, us / 100 % 10),
        10_000..1_000_000 => format!("{} ms", us / 1000),
        _ => format!("{}.{:02} s", us / 1_000_000, us / 10_000 % 100),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::insight::{Described, Spent};
    use crate::topology::status::WallTime;

    fn log() -> ServiceSlowLog {
        let ms = Duration::from_millis;
        let what =
            |command: &str, key: Option<&str>| Described { command: command.into(), key: key.map(str::to_owned) };
        let held = Spent { hold: ms(1234), queue: ms(0), backend: ms(2) };
        let held = SlowCommand::new(what("set", Some("user:1")), held, Outcome::Refused);
        let slow = Spent { hold: ms(0), queue: ms(3), backend: ms(456) };
        let slow = SlowCommand::new(what("keys", None), slow, Outcome::Ok);
        let also = vec!["get".to_owned()];
        let ended = WallTime(1_795_000_000_000);
        let held = SlowCommand { ended, client: 7, address: "10.0.0.1:5".into(), client_name: "web".into(), ..held };
        let slow = SlowCommand { ended, commands: 3, also, together: 40, address: "unix:/s".into(), ..slow };
        let slow = SlowCommand { resent: true, ..slow };
        ServiceSlowLog { service: "m".into(), slower_than_ms: Some(100), commands: vec![held.into(), slow.into()] }
    }

    #[test]
    fn a_page_tells_where_the_time_went() {
        const PLAIN: Look = Look { width: None, colour: false };
        let lines: Vec<String> = page(&log(), None, 9, PLAIN)
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let expected = [
            "m: 2 slow commands kept, slower than 100 ms",
            "ENDED (UTC) TOTAL HOLD QUEUE BACKEND OUTCOME COMMAND KEY DB CLIENT",
            "2026-11-18 11:06:40 1.23 s 1.23 s 0 2.0 ms refused set user:1 0 7 10.0.0.1:5 web",
            "2026-11-18 11:06:40 459 ms 0 3.0 ms 456 ms ok, sent again keys and 2 more (get), one of 40 at once - 0 0 unix:/s",
        ];
        assert_eq!(lines, expected);
        assert_eq!(page(&log(), Some("backend"), 9, PLAIN).lines().count(), 3);
        assert!(
            page(&log(), None, 1, PLAIN).starts_with("m: 2 slow commands kept, slower than 100 ms; the newest 1\n")
        );
        let off = ServiceSlowLog { slower_than_ms: None, commands: Vec::new(), ..log() };
        let words = "m: 0 slow commands kept, nothing is noted (slowlog_slower_than is \"off\")\n";
        assert_eq!(page(&off, None, 9, PLAIN), words);
    }

    #[test]
    fn times_have_three_digits() {
        for (us, text) in [
            (0, "0"),
            (99, "0.0 ms"),
            (1_250, "1.2 ms"),
            (99_999, "99 ms"),
            (1_000_000, "1.00 s"),
            (61_239_999, "61.23 s"),
        ] {
            assert_eq!(time(us), text);
        }
    }
}
