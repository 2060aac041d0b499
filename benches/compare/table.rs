//! Medians, ratios, and how they are written.

use serde_json::{Value, json};

use crate::measure::Sample;
use crate::peers::FLOOR;

/// One row's results: each server's name and its rounds; none where it could not carry the row.
pub(crate) struct Results {
    /// The row.
    pub(crate) row: &'static str,
    /// Redis first, pointsman last.
    pub(crate) servers: Vec<(String, Vec<Sample>)>,
}

/// The middle one; of an even number the mean of the two in the middle.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// The medians of several rounds.
pub(crate) fn medians(samples: &[Sample]) -> Sample {
    let of = |figure: fn(&Sample) -> f64| median(samples.iter().map(figure));
    Sample {
        throughput: of(|s| s.throughput),
        p50_ms: of(|s| s.p50_ms),
        p99_ms: of(|s| s.p99_ms),
        cpu_us: of(|s| s.cpu_us),
        redis_cpu_us: of(|s| s.redis_cpu_us),
        resident_mib: of(|s| s.resident_mib),
        batch: of(|s| s.batch),
    }
}

/// pointsman beside the best peer, each figure's best by itself.
pub(crate) struct Verdict {
    /// CPU by command: pointsman's as a part of the least of the peers', and whose that is.
    pub(crate) cpu: Option<(f64, String)>,
    /// Throughput: as a part of the most of the peers'.
    pub(crate) throughput: Option<(f64, String)>,
    /// p99: as a part of the least of the peers'.
    pub(crate) p99: Option<(f64, String)>,
    /// Throughput as a part of that without a proxy.
    pub(crate) of_direct: f64,
    /// CPU by command: what the floor needs, as a part of what the peer with the least does.
    pub(crate) floor: Option<f64>,
}

impl Results {
    /// Compares; `None` without figures of pointsman or Redis.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        let (ours, rest) = self.servers.split_last()?;
        let (direct, peers) = rest.split_first()?;
        if ours.1.is_empty() || direct.1.is_empty() {
            return None;
        }
        let ours = medians(&ours.1);
        let best = |figure: fn(&Sample) -> f64, least: bool| {
            let figures = peers.iter().filter(|(name, samples)| !samples.is_empty() && name != FLOOR);
            let figures = figures.map(|(name, samples)| (figure(&medians(samples)), name.clone()));
            let best = figures.min_by(|a, b| if least { a.0.total_cmp(&b.0) } else { b.0.total_cmp(&a.0) })?;
            Some((figure(&ours) / best.0, best.1))
        };
        let cpu = best(|s| s.cpu_us, true);
        let floor = peers.iter().find(|(name, samples)| name == FLOOR && !samples.is_empty());
        let floor = floor.and_then(|(_, samples)| {
            let (ratio, _) = cpu.as_ref()?;
            Some(medians(samples).cpu_us * ratio / ours.cpu_us)
        });
        Some(Verdict {
            floor,
            cpu,
            throughput: best(|s| s.throughput, false),
            p99: best(|s| s.p99_ms, true),
            of_direct: ours.throughput / medians(&direct.1).throughput,
        })
    }

    /// Its lines of the long table.
    pub(crate) fn lines(&self) -> Vec<String> {
        let direct = self.servers.first().map(|(_, samples)| medians(samples).throughput);
        let line = |(name, samples): &(String, Vec<Sample>)| {
            if samples.is_empty() {
                return format!("| {} | {name} | cannot | | | | | | | |", self.row);
            }
            let m = medians(samples);
            let cpu = if name == "redis" { "–".to_owned() } else { format!("{:.2}", m.cpu_us) };
            format!(
                "| {} | {name} | {:.0} | {:.2} | {:.3} | {:.3} | {cpu} | {:.2} | {:.1} | {:.1} |",
                self.row,
                m.throughput,
                m.throughput / direct.unwrap_or(f64::NAN),
                m.p50_ms,
                m.p99_ms,
                m.redis_cpu_us,
                m.resident_mib,
                m.batch
            )
        };
        self.servers.iter().map(line).collect()
    }

    /// For programs: every round.
    pub(crate) fn json(&self) -> Value {
        let servers = self.servers.iter().map(|(name, rounds)| {
            let medians = (!rounds.is_empty()).then(|| medians(rounds));
            json!({ "server": name, "medians": medians, "rounds": rounds })
        });
        json!({ "row": self.row, "servers": servers.collect::<Vec<_>>() })
    }
}

/// The head of the long table.
pub(crate) const HEAD: &str = "| row | | commands/s | of direct | p50 ms | p99 ms | CPU µs by command | Redis CPU µs | resident MiB | commands by read of Redis |\n\
                        |---|---|---:|---:|---:|---:|---:|---:|---:|---:|";

/// The short table: pointsman beside the best peer of each figure.
pub(crate) fn summary(results: &[Results]) -> String {
    let mut text = String::from(
        "| row | CPU of the best peer's | the floor's CPU of it | throughput of the best peer's | p99 of the best peer's | throughput of direct |\n\
         |---|---:|---:|---:|---:|---:|\n",
    );
    for result in results {
        let Some(verdict) = result.verdict() else { continue };
        let cell = |part: &Option<(f64, String)>| {
            part.as_ref().map_or_else(|| "no peer can".to_owned(), |(ratio, who)| format!("{ratio:.2} ({who})"))
        };
        text += &format!(
            "| {} | {} | {} | {} | {} | {:.2} |\n",
            result.row,
            cell(&verdict.cpu),
            verdict.floor.map_or_else(String::new, |part| format!("{part:.2}")),
            cell(&verdict.throughput),
            cell(&verdict.p99),
            verdict.of_direct
        );
    }
    text
}
