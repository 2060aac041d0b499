//! `pointsman hotkeys`: which keys the commands of a service are about, by a sample of them.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use serde_json::json;

use super::admin::Failure;
use super::args::HotkeysArguments;
use super::table::{Cell, Look, Table, Tone};
use super::{admin, exit};
use crate::insight::HotKeys;

pub(super) fn run(arguments: &HotkeysArguments) -> ExitCode {
    exit::after(shown(arguments))
}

fn shown(arguments: &HotkeysArguments) -> Result<String, (String, u8)> {
    let HotkeysArguments { service, lasting, top, one_in, json, admin } = arguments;
    let unavailable = |why| (why, exit::UNAVAILABLE);
    let address = admin::address(admin).map_err(unavailable)?;
    if io::stderr().is_terminal() {
        eprintln!("looking at one of {one_in} commands for {lasting:?} (Ctrl-C ends it) …");
    }
    let for_ms = u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX);
    let order = json!({ "service": service, "for_ms": for_ms, "top": top, "one_in": one_in });
    let lines = admin::post(&address, "/hotkeys", &order.to_string()).map_err(|failure| match failure {
        // Out of range, or no such service.
        Failure::Answered { status: 400 | 404, ref body, .. } => (body.clone(), exit::USAGE),
        failure => unavailable(failure.to_string()),
    })?;
    let text = lines.map(|line| line.map(|line| line + "\n")).collect::<Result<String, _>>();
    let text = text.map_err(|e| unavailable(format!("{address}: {e}")))?;
    if *json {
        return Ok(text);
    }
    let hot: HotKeys = serde_json::from_str(&text).map_err(|e| {
        unavailable(format!("{address} is no pointsman, or one of a version that this does not understand: {e}"))
    })?;
    Ok(page(service, &hot, Look::of_stdout()))
}

fn page(service: &str, hot: &HotKeys, look: Look) -> String {
    let rate = if hot.seconds > 0.0 { hot.commands as f64 / hot.seconds } else { 0.0 };
    let mut text = format!(
        "{}: {} commands in {:.1} s, {rate:.0} a second; {} looked at, one of {}\n",
        look.paint(service, Tone::Title),
        hot.commands,
        hot.seconds,
        hot.looked_at,
        hot.one_in
    );
    if hot.looked_at == 0 {
        return text;
    }
    let mut table = Table::titled(["SHARE", "95 % SURE", "A SECOND", "READS", "DB", "KEY"]);
    for key in &hot.keys {
        let cut = if key.key.ends_with('…') { format!(" ({} bytes)", key.key_bytes) } else { String::new() };
        table.row([
            percent(key.share).into(),
            format!("{} to {}", percent(key.share_at_least), percent(key.share_at_most)).into(),
            format!("{:.0}", key.per_second).into(),
            Cell::from(percent(key.reads)),
            key.database.to_string().into(),
            format!("{}{cut}", key.key).into(),
        ]);
    }
    for line in table.lines(2, look) {
        text += &line;
        text.push('\n');
    }
    let keyless = percent(hot.keyless as f64 / hot.looked_at as f64);
    text += &format!("{keyless} of the commands have no key");
    if hot.unseen > 0 {
        let unseen = percent(hot.unseen as f64 / hot.looked_at as f64);
        text += &format!("; there were more keys than are counted: a share may be {unseen} larger than it says");
    }
    text + "\n"
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent < 10.0 && percent > 0.0 { format!("{percent:.2} %") } else { format!("{percent:.1} %") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insight::HotKey;

    #[test]
    fn a_page_tells_how_sure_it_is() {
        const PLAIN: Look = Look { width: None, colour: false };
        let key = HotKey {
            key: "user:1".into(),
            key_bytes: 6,
            database: 0,
            share: 0.312,
            share_at_least: 0.299,
            share_at_most: 0.325,
            per_second: 3197.2,
            reads: 0.98,
        };
        let long = HotKey { key: "k…".into(), key_bytes: 5000, share: 0.0123, ..key };
        let (commands, one_in, looked_at) = (51_234, 10, 5_120);
        let hot = HotKeys { seconds: 5.0, commands, one_in, looked_at, keyless: 102, unseen: 3, keys: vec![key, long] };
        let expected = "\
m: 51234 commands in 5.0 s, 10247 a second; 5120 looked at, one of 10
  SHARE   95 % SURE         A SECOND  READS   DB  KEY
  31.2 %  29.9 % to 32.5 %  3197      98.0 %  0   user:1
  1.23 %  29.9 % to 32.5 %  3197      98.0 %  0   k… (5000 bytes)
1.99 % of the commands have no key; there were more keys than are counted: a share may be 0.06 % larger than it says
";
        assert_eq!(page("m", &hot, PLAIN), expected);
        let nothing = HotKeys { seconds: 5.0, one_in: 10, ..HotKeys::default() };
        assert_eq!(page("m", &nothing, PLAIN), "m: 0 commands in 5.0 s, 0 a second; 0 looked at, one of 10\n");
    }
}
