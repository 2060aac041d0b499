//! How the cost of a command grows: with clients, with the depth of pipelines, with the size of values, with services.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::load::{Load, Mix};
use crate::measure::{Sample, Tool, sample};
use crate::peers::{Peers, Server};
use crate::table::medians;
use crate::{fill, load_average, progress, write};

/// Bytes that one measurement moves at most, so that large values take no longer than small ones.
const BYTES: u64 = 4 << 30;

/// What does not grow.
const BASE: Load = Load { clients: 50, pipeline: 1, mix: Mix::Get, value: 64, keys: 1000, commands: 200_000 };

/// One curve: what grows, and the load at each point.
struct Curve {
    name: &'static str,
    points: Vec<(usize, Load)>,
}

fn curves() -> Vec<Curve> {
    let clients = [1, 10, 100, 1000, 9000].map(|n| {
        // One client alone waits for each reply.
        let commands = if n == 1 { 50_000 } else { 200_000 };
        (n, Load { clients: n, commands, ..BASE })
    });
    let depths = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].map(|n| {
        let commands = if n < 8 { 200_000 } else { 1_500_000 };
        (n, Load { pipeline: n, commands, ..BASE })
    });
    let sizes = [16, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 8 << 20].map(|size: usize| {
        // Ten clients, so that what is under way at once fits everybody's memory.
        let commands = (BYTES / size as u64).clamp(400, 100_000);
        (size, Load { clients: 10, value: size, keys: 16, commands, ..BASE })
    });
    let set_sizes = sizes.map(|(size, load)| (size, Load { mix: Mix::Set, ..load }));
    vec![
        Curve { name: "clients", points: clients.to_vec() },
        Curve { name: "pipeline depth, 50 clients", points: depths.to_vec() },
        Curve { name: "bytes of the value, GET, 10 clients", points: sizes.to_vec() },
        Curve { name: "bytes of the value, SET, 10 clients", points: set_sizes.to_vec() },
    ]
}

/// Measures every point of every curve, directly and through pointsman in turns, and writes `growth.md` and
/// `growth.json`.
pub(crate) async fn run(pointsman: &Path, rounds: usize, only: Option<&str>, out: &Path) -> io::Result<()> {
    let is_wanted = |curve: &str| only.is_none_or(|part| curve.contains(part));
    let peers = Peers::start(pointsman, 1).await?;
    let ours = peers.proxies.last().ok_or_else(|| io::Error::other("pointsman is always there"))?;
    let mut text = String::new();
    let mut data = Vec::new();
    for curve in curves().into_iter().filter(|curve| is_wanted(curve.name)) {
        text += &head(curve.name);
        for (at, load) in curve.points {
            let point = (curve.name, at, load, rounds);
            data.push(measure(&peers.redis, ours, point, &mut text).await?);
        }
        text += "\n";
    }
    const SERVICES: &str = "services, 64 clients in all";
    let numbers: &[usize] = if is_wanted(SERVICES) { &[1, 2, 4, 8, 16, 32] } else { &[] };
    if !numbers.is_empty() {
        text += &head(SERVICES);
    }
    for &services in numbers {
        let ours = peers.serving(pointsman, services).await?;
        let point = (SERVICES, services, Load { clients: 64, ..BASE }, rounds);
        data.push(measure(&peers.redis, &ours, point, &mut text).await?);
    }
    text += "\n";
    progress("");
    let text = format!("{rounds} rounds, medians, load {} at the end\n\n{text}", load_average());
    print!("{text}");
    write(out, "growth.md", &text)?;
    write(out, "growth.json", &serde_json::to_string_pretty(&data)?)
}

fn head(curve: &str) -> String {
    format!(
        "| {curve} | commands/s | of direct | p50 ms | p99 ms | direct p99 ms | CPU µs by command | Redis CPU µs | direct Redis CPU µs |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
    )
}

/// One point of a curve: its line is added to `text`.
async fn measure(
    redis: &Server,
    ours: &Server,
    (curve, at, load, rounds): (&str, usize, Load, usize),
    text: &mut String,
) -> io::Result<Value> {
    progress(&format!("{curve}: {at}"));
    fill(redis, (load.keys, load.value)).await?;
    let (direct, through) = in_turns(redis, ours, load, rounds).await?;
    *text += &format!(
        "| {at} | {:.0} | {:.2} | {:.3} | {:.3} | {:.3} | {:.2} | {:.2} | {:.2} |\n",
        through.throughput,
        through.throughput / direct.throughput,
        through.p50_ms,
        through.p99_ms,
        direct.p99_ms,
        through.cpu_us,
        through.redis_cpu_us,
        direct.redis_cpu_us
    );
    Ok(json!({ "curve": curve, "at": at, "direct": direct, "pointsman": through }))
}

async fn in_turns(redis: &Server, ours: &Server, load: Load, rounds: usize) -> io::Result<(Sample, Sample)> {
    let tool = Tool::Own(load);
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        direct.push(sample(redis, redis, &tool).await?);
        through.push(sample(ours, redis, &tool).await?);
    }
    Ok((medians(&direct), medians(&through)))
}
