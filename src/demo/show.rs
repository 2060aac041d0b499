//! What the demo prints: progress with times, and the table at the end. Plain lines, so that a terminal and a log file
//! read alike; colour only on a terminal.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::cluster::Cluster;
use super::observer::{Sight, Sighting};
use super::tally::Tally;

/// What Sentinels publish that tells the story of a failover; the rest (links of clients, epochs, votes) is noise here.
const TOLD: [&str; 11] = [
    "+sdown",
    "+odown",
    "+try-failover",
    "+elected-leader",
    "+selected-slave",
    "+failover-state-wait-promotion",
    "+promoted-slave",
    "+switch-master",
    "+convert-to-slave",
    "+failover-end",
    "-failover-abort-not-elected",
];

/// Prints with the time since the start of the demo.
#[derive(Debug)]
pub(super) struct Screen {
    start: Instant,
    colour: bool,
}

/// One column of the table.
#[derive(Debug)]
pub(super) struct Phase {
    pub(super) name: &'static str,
    pub(super) tally: Tally,
    /// Promises that were broken in it, one sentence each.
    pub(super) broken: Vec<String>,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), colour: io::stdout().is_terminal() }
    }

    /// One line without a time.
    pub(super) fn plain(&self, text: &str) {
        // Whoever closed our output does not want to read; the exit code still tells.
        let _ = writeln!(io::stdout().lock(), "{text}");
    }

    /// A line of progress.
    pub(super) fn say(&self, text: &str) {
        self.at(Instant::now(), text);
    }

    /// A heading.
    pub(super) fn heading(&self, text: &str) {
        self.plain("");
        self.say(&self.paint("1", text));
    }

    /// What was seen of the cluster.
    pub(super) fn sightings(&self, cluster: &Cluster, sightings: &[Sighting]) {
        for sighting in sightings {
            if let Some(text) = describe(cluster, &sighting.what) {
                self.at(sighting.at, &text);
            }
        }
    }

    /// The table and the verdict. True if no promise was broken.
    pub(super) fn summary(&self, phases: &[Phase]) -> bool {
        self.plain("");
        self.plain(&table(phases));
        let broken: Vec<String> = phases
            .iter()
            .flat_map(|phase| phase.broken.iter().map(|sentence| format!("{}: {sentence}", phase.name)))
            .collect();
        for sentence in &broken {
            self.plain(&self.paint("31", &format!("broken  {sentence}")));
        }
        if broken.is_empty() {
            self.plain(&self.paint("32", "Every promise was kept."));
        }
        broken.is_empty()
    }

    fn at(&self, at: Instant, text: &str) {
        self.plain(&format!("{:8.3}  {text}", at.duration_since(self.start).as_secs_f64()));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn describe(cluster: &Cluster, sight: &Sight) -> Option<String> {
    match sight {
        Sight::Published(i, channel, message) => TOLD
            .contains(&channel.as_str())
            .then(|| format!("sentinel {}   {channel} {}", i + 1, short(cluster, channel, message))),
        Sight::Role(i, Some(role)) => Some(format!("redis {}      says {role}", i + 1)),
        Sight::Role(i, None) => Some(format!("redis {}      does not answer", i + 1)),
        Sight::Proxy(view) => Some(format!("pointsman    {}", nicknames(cluster, view))),
    }
}

/// A Sentinel's message, which names its subject as `<type> <name> <ip> <port> @ …`, or for `+switch-master`
/// `<service> <old ip> <old port> <new ip> <new port>`, in a few words.
fn short(cluster: &Cluster, channel: &str, message: &str) -> String {
    let words: Vec<&str> = message.split(' ').collect();
    let subject = if channel == "+switch-master" { words.get(3..5) } else { words.get(2..4) };
    match subject {
        Some(&[host, port]) => nicknames(cluster, &format!("{host}:{port}")),
        _ => message.to_owned(),
    }
}

/// The text with the servers' addresses replaced by the names that the demo gives them.
fn nicknames(cluster: &Cluster, text: &str) -> String {
    let named = |addrs: Vec<SocketAddr>, kind: &'static str| {
        addrs.into_iter().enumerate().map(move |(i, addr)| (addr.to_string(), format!("{kind} {}", i + 1)))
    };
    named(cluster.nodes(), "redis")
        .chain(named(cluster.sentinels(), "sentinel"))
        .fold(text.to_owned(), |text, (addr, name)| text.replace(&addr, &name))
}

fn table(phases: &[Phase]) -> String {
    type Cell = fn(&Tally) -> String;
    let rows: [(&str, Cell); 12] = [
        ("commands", |t| grouped(t.commands)),
        ("acknowledged writes", |t| grouped(t.acknowledged)),
        ("error replies", |t| grouped(t.errors)),
        ("dropped connections, write in flight", |t| grouped(t.dropped_writing)),
        ("dropped connections, read in flight", |t| grouped(t.dropped_reading)),
        ("failed connects", |t| grouped(t.failed_connects)),
        ("longest stall of writes", |t| millis(t.write_stall.length)),
        ("longest stall of reads", |t| millis(t.read_stall.length)),
        ("acknowledged writes lost", |t| grouped(t.lost)),
        ("writes executed twice", |t| grouped(t.doubled)),
        ("writes misplaced", |t| grouped(t.misplaced)),
        ("reads that went back in time", |t| grouped(t.went_back)),
    ];
    let mut lines = vec![format!("{:<38}", "")];
    for phase in phases {
        lines[0] += &format!("{:>18}", phase.name);
    }
    for (name, cell) in rows {
        let cells: String = phases.iter().map(|phase| format!("{:>18}", cell(&phase.tally))).collect();
        lines.push(format!("{name:<38}{cells}"));
    }
    lines.join("\n")
}

/// A number with commas between its thousands.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn millis(d: Duration) -> String {
    format!("{} ms", grouped(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn the_table_has_one_column_per_phase() {
        let phase =
            |name, commands| Phase { name, tally: Tally { commands, lost: 7, ..Tally::default() }, broken: Vec::new() };
        let table = table(&[phase("calm", 12_345), phase("kill -9", 6)]);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].ends_with("calm           kill -9"), "{table}");
        assert!(lines[1].starts_with("commands") && lines[1].ends_with("12,345                 6"), "{table}");
        assert!(table.contains("acknowledged writes lost"), "{table}");
    }
}
