//! What `top` shows of two samples: how the services stand, and what happened in between.

use super::Sample;
use crate::admin::words::{Mood, duration, node, verdict};
use crate::admin::{ServicePools, Status};
use crate::cli::lists::sum;
use crate::cli::table::{Cell, Look, Table, Tone};

/// Commands that are named, the busiest first.
const BUSIEST: usize = 5;

/// The text, line by line.
pub(super) fn frame(before: &Sample, now: &Sample, admin: &str, look: Look) -> String {
    let seconds = (now.pools.uptime_ms.saturating_sub(before.pools.uptime_ms)) as f64 / 1e3;
    let mut text = head(&now.status, admin);
    let mut table = Table::titled([
        "SERVICE",
        "STATE",
        "MASTER",
        "CLIENTS",
        "COMMANDS/S",
        "P50",
        "P99",
        "WAITING",
        "OWN",
        "IN/S",
        "OUT/S",
        "BUSIEST",
    ]);
    for service in &now.status.services {
        let name = &service.status.service;
        let Some(pools) = now.pools.services.iter().find(|s| s.service == *name) else { continue };
        // One that has begun in between has counted from nothing.
        let earlier = before.pools.services.iter().find(|s| s.service == *name);
        let change = Change { earlier, now: pools, seconds };
        let (word, mood) = verdict(&service.status);
        let tone = match mood {
            Mood::Good => Tone::Good,
            Mood::Warn => Tone::Warn,
            Mood::Bad => Tone::Bad,
        };
        let all = sum(&pools.workers);
        let waiting = Cell::from(all.waiting.to_string());
        table.row([
            Cell::from(name).toned(Tone::Title),
            Cell::from(word).toned(tone),
            node(service.status.master).into(),
            all.clients.to_string().into(),
            change.rate(|s| s.commands.values().sum()).map_or_else(unknown, |rate| format!("{rate:.0}")).into(),
            change.quantile(0.5).into(),
            change.quantile(0.99).into(),
            if all.waiting > 0 { waiting.toned(Tone::Warn) } else { waiting },
            all.pinned.saturating_sub(all.free).to_string().into(),
            change.rate(|s| s.received_bytes).map_or_else(unknown, bytes).into(),
            change.rate(|s| s.sent_bytes).map_or_else(unknown, bytes).into(),
            change.busiest().into(),
        ]);
    }
    for line in table.lines(0, look) {
        text += &line;
        text.push('\n');
    }
    text
}

fn head(status: &Status, admin: &str) -> String {
    let (version, uptime) = (&status.version, duration((status.uptime_seconds * 1000.0) as u64));
    let clients: u64 = status.services.iter().map(|s| s.clients).sum();
    let draining = if status.draining { ", DRAINING" } else { "" };
    let workers = status.workers;
    format!("pointsman {version} at {admin}, up {uptime}, {workers} workers, {clients} clients{draining}\n\n")
}

fn unknown() -> String {
    "-".to_owned()
}

/// A service between two samples.
struct Change<'a> {
    earlier: Option<&'a ServicePools>,
    now: &'a ServicePools,
    seconds: f64,
}

impl Change<'_> {
    fn since(&self, count: impl Fn(&ServicePools) -> u64) -> u64 {
        count(self.now).saturating_sub(self.earlier.map_or(0, count))
    }

    /// A second; none in the first sample.
    fn rate(&self, count: impl Fn(&ServicePools) -> u64) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.since(count) as f64 / self.seconds)
    }

    /// The time within which this part of the commands was answered: the upper bound of the bucket that it falls into.
    fn quantile(&self, part: f64) -> String {
        let count = |bucket: usize| self.since(|s| s.latency.get(bucket).copied().unwrap_or_default());
        let counts: Vec<u64> = (0..self.now.latency.len()).map(count).collect();
        let all: u64 = counts.iter().sum();
        if all == 0 {
            return unknown();
        }
        let wanted = (all as f64 * part).ceil() as u64;
        let mut seen = 0;
        let at = counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        match at.and_then(|at| self.now.latency_bounds.get(at)) {
            Some(bound) => format!("<{}", milliseconds(*bound)),
            None => format!(">{}", milliseconds(self.now.latency_bounds.last().copied().unwrap_or_default())),
        }
    }

    fn busiest(&self) -> String {
        let names = self.now.commands.keys();
        let count = |name: &String| self.since(|s| s.commands.get(name).copied().unwrap_or_default());
        let mut counts: Vec<(u64, &String)> = names.map(|name| (count(name), name)).filter(|(n, _)| *n > 0).collect();
        counts.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        let all: u64 = counts.iter().map(|(n, _)| n).sum();
        let words = counts.iter().take(BUSIEST).map(|(n, name)| format!("{name} {}%", n * 100 / all.max(1)));
        if self.seconds > 0.0 { words.collect::<Vec<_>>().join(" ") } else { unknown() }
    }
}

fn milliseconds(seconds: f64) -> String {
    format!("{} ms", (seconds * 1e6).round() / 1e3)
}

fn bytes(n: f64) -> String {
    match n {
        n if n < 1e4 => format!("{n:.0} B"),
        n if n < 1e7 => format!("{:.0} KB", n / 1e3),
        _ => format!("{:.0} MB", n / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Pools;

    fn service(commands: u64, latency: [u64; 3]) -> ServicePools {
        ServicePools {
            service: "main".into(),
            reads: None,
            writes: None,
            max_clients: 1,
            max_pinned: 1,
            workers: Vec::new(),
            commands: [("get".to_owned(), commands), ("set".to_owned(), 100)].into(),
            latency_bounds: vec![0.0001, 0.00025],
            latency: latency.to_vec(),
            received_bytes: 0,
            sent_bytes: 0,
            counts: Default::default(),
        }
    }

    #[test]
    fn rates_are_of_what_came_in_between() {
        let (earlier, now) = (service(1000, [5, 5, 5]), service(3000, [104, 6, 5]));
        let change = Change { earlier: Some(&earlier), now: &now, seconds: 2.0 };
        assert_eq!(change.rate(|s| s.commands["get"]), Some(1000.0));
        assert_eq!((change.quantile(0.5), change.quantile(0.99)), ("<0.1 ms".to_owned(), "<0.1 ms".to_owned()));
        assert_eq!(change.quantile(1.0), "<0.25 ms");
        assert_eq!(change.busiest(), "get 100%");
        let slow = service(3000, [5, 5, 6]);
        let change = Change { earlier: Some(&earlier), now: &slow, seconds: 2.0 };
        assert_eq!(change.quantile(0.5), ">0.25 ms");
        let new = Change { earlier: None, now: &now, seconds: 2.0 };
        assert_eq!(new.busiest(), "get 96% set 3%");
        let first = Change { earlier: Some(&now), now: &now, seconds: 0.0 };
        assert_eq!((first.rate(|s| s.commands["get"]), first.quantile(0.5)), (None, "-".to_owned()));
    }

    #[test]
    fn bytes_have_a_unit() {
        assert_eq!([0.0, 9_999.0, 12_345.0, 25_000_000.0].map(bytes), ["0 B", "9999 B", "12 KB", "25 MB"]);
    }

    #[test]
    fn a_service_that_has_ended_is_left_out() {
        let status = Status {
            version: "1".into(),
            uptime_seconds: 1.0,
            workers: 1,
            draining: false,
            log_level: None,
            services: Vec::new(),
        };
        let pools = Pools { uptime_ms: 1000, services: vec![service(1, [0; 3])] };
        let sample = Sample { status, pools };
        let text = frame(&sample, &sample, "here", Look { width: None, colour: false });
        assert!(
            text.starts_with("pointsman 1 at here, up 1 s, 1 workers, 0 clients\n\nSERVICE") && !text.contains("main")
        );
    }
}
