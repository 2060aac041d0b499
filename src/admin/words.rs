//! The words for how a service stands, as the page and `pointsman status` have them.

use std::net::SocketAddr;

use crate::topology::status::{FlowStatus, FlowWord, Phase, SentinelStatus, ServiceStatus, WallTime};

/// How good or bad something is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mood {
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Clients notice it.
    Bad,
}

/// The state in a word or two.
pub fn verdict(status: &ServiceStatus) -> (&'static str, Mood) {
    if status.paused.is_some() {
        return ("PAUSED", Mood::Warn);
    }
    match (status.reads.flow, status.writes.flow) {
        (FlowWord::Flowing, FlowWord::Flowing) => ("flowing", Mood::Good),
        (FlowWord::Flowing, FlowWord::Held) => ("WRITES HELD", Mood::Warn),
        (FlowWord::Flowing, FlowWord::Refused) => ("WRITES REFUSED", Mood::Bad),
        (_, FlowWord::Refused) => ("REFUSED", Mood::Bad),
        _ if status.phase == Phase::Starting => ("NO MASTER YET", Mood::Bad),
        _ => ("HELD", Mood::Bad),
    }
}

/// Since when it is as [`verdict`] says.
pub fn since(status: &ServiceStatus) -> WallTime {
    status.paused.map_or(status.since, |paused| paused.since)
}

/// Why traffic does not flow; none when it does.
pub fn why(status: &ServiceStatus) -> Option<String> {
    let paused = status.paused.map(|paused| match paused.until {
        Some(until) => format!("an operator has paused it, until {} UTC", second(until)),
        None => "an operator has paused it, until it is resumed".to_owned(),
    });
    let cause = Some(status.why.clone()).filter(|why| !why.is_empty());
    paused.into_iter().chain(cause).reduce(|paused, cause| format!("{paused}; {cause}"))
}

/// The master and what is known of it; none if none was confirmed since the start.
pub fn master(status: &ServiceStatus) -> Option<String> {
    let mut text = format!("{}, generation {}", status.master?, status.generation);
    if let Some(epoch) = status.config_epoch {
        text += &format!(", config epoch {epoch}");
    }
    if let Some(offset) = status.offset {
        text += &format!(", offset {offset}");
    }
    text += match (status.provisional, status.settled) {
        (true, _) => "; Sentinels have yet to confirm it",
        (false, true) => ", settled",
        (false, false) => "",
    };
    Some(text)
}

/// Where one kind of traffic goes.
pub fn flow(what: &str, traffic: FlowStatus) -> String {
    match (traffic.flow, traffic.node) {
        (FlowWord::Flowing, Some(node)) => format!("{what} flow to {node}"),
        (FlowWord::Flowing, None) => format!("{what} flow"),
        (FlowWord::Held, _) => format!("{what} wait"),
        (FlowWord::Refused, _) => format!("{what} are refused"),
    }
}

/// What a Sentinel says.
pub fn said(sentinel: &SentinelStatus) -> String {
    let mut parts = Vec::new();
    parts.extend(sentinel.master.map(|master| format!("master {master}")));
    parts.extend(sentinel.epoch.map(|epoch| format!("config epoch {epoch}")));
    parts.extend(sentinel.master_down.then(|| "cannot reach it".to_owned()));
    parts.extend(sentinel.failing_over.then(|| "is failing over".to_owned()));
    parts.extend(sentinel.tilt.then(|| "is in TILT".to_owned()));
    parts.extend(sentinel.error.clone());
    let said = if parts.is_empty() { "nothing yet".to_owned() } else { parts.join(", ") };
    said + if sentinel.learned { " (learned)" } else { "" }
}

/// Whether what a Sentinel says is what it should.
pub fn agrees(sentinel: &SentinelStatus, status: &ServiceStatus) -> bool {
    let differs = sentinel.master.is_some() && sentinel.master != status.master;
    sentinel.up && !differs && !sentinel.master_down
}

/// An address, or `nobody`.
pub fn node(node: Option<SocketAddr>) -> String {
    node.map_or_else(|| "nobody".to_owned(), |node| node.to_string())
}

/// `2026-11-21 03:00:28`.
pub fn second(time: WallTime) -> String {
    let text = time.to_string();
    text[..text.len().min(19)].replace('T', " ")
}

/// `1 command`, `2 commands`.
pub fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Milliseconds in the two largest units.
pub fn duration(ms: u64) -> String {
    let s = ms / 1000;
    let (m, h, d) = (s / 60, s / 3600, s / 86_400);
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{s} s"),
        60..3600 => format!("{m} min {} s", s % 60),
        3600..86_400 => format!("{h} h {} min", m % 60),
        _ => format!("{d} d {} h", h % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        for (ms, text) in
            [(0, "0 ms"), (999, "999 ms"), (59_999, "59 s"), (3_599_000, "59 min 59 s"), (90_000_000, "1 d 1 h")]
        {
            assert_eq!(duration(ms), text);
        }
        assert_eq!(duration(7_260_000), "2 h 1 min");
    }
}
