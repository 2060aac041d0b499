//! pointsman beside its peers and beside Redis itself, in turns on one machine (`make bench`), and how its cost grows
//! with clients, pipelines, values and services (`make bench-growth`).
#![allow(clippy::print_stdout)] // the table is what it is for

mod floor;
mod growth;
mod load;
mod measure;
mod peers;
mod rows;
mod syscalls;
mod table;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use clap::Parser;
use pointsman::demo::wire::Connection;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::json;

use floor::Frames;
use peers::{Peers, Server};
use rows::Row;
use table::Results;

/// Clients of the row about memory.
const IDLE_CLIENTS: usize = 3000;
/// Longest wait for one answer while keys are filled.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Args {
    /// Rounds of each row; the medians are told.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only rows, or curves, whose name contains this.
    #[arg(long)]
    row: Option<String>,
    /// pointsman's worker threads.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// The curves in place of the comparison.
    #[arg(long)]
    growth: bool,
    /// System calls by command in place of the comparison (with perf, as root).
    #[arg(long)]
    syscalls: bool,
    /// Redis, whoever stands before it and the load share one core: what they cost, and not how the machine sends them to
    /// sleep and wakes them on others.
    #[arg(long)]
    one_core: bool,
    /// Directory for the tables, as Markdown and as JSON.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// The program to measure, if not the one that was built with this.
    #[arg(long, env = "POINTSMAN", default_value = env!("CARGO_BIN_EXE_pointsman"))]
    pointsman: PathBuf,
    /// Runs as the floor: port, port of Redis, bytes of a request, bytes of a reply.
    #[arg(long, hide = true, value_delimiter = ',', num_args = 1)]
    floor: Vec<usize>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let args = Args::parse();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    if let [port, redis, request, reply] = args.floor[..] {
        return floor::run(port as u16, redis as u16, Frames { request, reply });
    }
    if args.one_core {
        stay_on_one_core()?;
    }
    fs::create_dir_all(&args.out)?;
    if args.growth {
        return growth::run(&args.pointsman, args.rounds, args.row.as_deref(), &args.out).await;
    }
    compare(&args).await
}

/// This process, and all that it starts from now on.
fn stay_on_one_core() -> io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).ok_or(io::ErrorKind::NotFound)?);
    Ok(sched_setaffinity(None, &one)?)
}

async fn compare(args: &Args) -> io::Result<()> {
    let peers = Peers::start(&args.pointsman, args.workers).await?;
    for (name, get) in &peers.missing {
        eprintln!("{name} was not found ({get}): left out");
    }
    if args.syscalls {
        return syscalls::run(&peers, args.row.as_deref(), &args.out).await;
    }
    let mut results = Vec::new();
    for row in rows::all() {
        if args.row.as_ref().is_some_and(|part| !row.name.contains(part.as_str())) {
            continue;
        }
        fill(&peers.redis, row.fill).await?;
        results.push(measure_row(&peers, &row, args.rounds).await?);
    }
    let mut memory = Vec::new();
    if args.row.as_ref().is_none_or(|part| "memory".contains(part.as_str())) {
        for proxy in &peers.proxies {
            progress(&format!("memory by idle client: {}", proxy.name));
            memory.push((proxy.name.clone(), measure::memory_by_idle_client(proxy, IDLE_CLIENTS).await?));
        }
    }
    progress("");
    let machine = machine(&peers, args);
    let text = write_up(&machine, &results, &memory);
    println!("{text}");
    fs::write(args.out.join("compare.md"), &text)?;
    let json = json!({
        "machine": machine,
        "rows": results.iter().map(Results::json).collect::<Vec<_>>(),
        "kib_by_idle_client": memory.iter().map(|(name, kib)| json!({ "server": name, "kib": kib })).collect::<Vec<_>>(),
    });
    fs::write(args.out.join("compare.json"), serde_json::to_string_pretty(&json)?)?;
    eprintln!("written to {}", args.out.display());
    Ok(())
}

/// All servers in turns, `rounds` times. Whoever fails once is left out of the row.
async fn measure_row(peers: &Peers, row: &Row, rounds: usize) -> io::Result<Results> {
    let floor = match row.frames {
        Some(frames) => Some(peers.floor(frames).await?),
        None => None,
    };
    let mut servers: Vec<_> = peers.all().map(|server| (server, Ok(Vec::new()))).collect();
    if let Some(floor) = &floor {
        servers.insert(servers.len() - 1, (floor, Ok(Vec::new())));
    }
    let (row, tool) = (row.name, &row.tool);
    for round in 1..=rounds {
        for (server, samples) in &mut servers {
            let Ok(so_far) = samples else { continue };
            progress(&format!("{row}: round {round} of {rounds}, {}", server.name));
            match measure::sample(server, &peers.redis, tool).await {
                Ok(sample) => so_far.push(sample),
                Err(e) => *samples = Err(e),
            }
        }
    }
    let named = servers.into_iter().map(|(server, samples)| {
        let samples = samples.unwrap_or_else(|e| {
            progress("");
            eprintln!("{row}: {} cannot: {e}", server.name);
            Vec::new()
        });
        (server.name.clone(), samples)
    });
    Ok(Results { row, servers: named.collect() })
}

/// So many keys, with values of so many bytes; nothing else is in the database.
pub(crate) async fn fill(redis: &Server, (keys, size): (u32, usize)) -> io::Result<()> {
    let mut connection = Connection::open(redis.addr, PATIENCE).await?;
    connection.call(&["FLUSHALL"], PATIENCE).await?;
    let value = "v".repeat(size);
    for number in 0..keys {
        connection.call(&["SET", &load::key(number), &value], PATIENCE).await?;
    }
    Ok(())
}

fn machine(peers: &Peers, args: &Args) -> String {
    let cores = match std::thread::available_parallelism().map_or(0, usize::from) {
        1 => "one core".to_owned(),
        n => format!("{n} cores"),
    };
    let versions: Vec<String> = peers.all().map(|s| format!("{} ({})", s.name, s.version)).collect();
    format!("{cores}, {} rounds, medians, load {} at the end; {}", args.rounds, load_average(), versions.join(", "))
}

/// Of the last minute: on a machine with other work the figures say less.
pub(crate) fn load_average() -> String {
    let average = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    average.split(' ').next().unwrap_or_default().to_owned()
}

fn write_up(machine: &str, results: &[Results], memory: &[(String, f64)]) -> String {
    let mut text =
        format!("{machine}\n\npointsman beside the best peer of each figure:\n\n{}\n", table::summary(results));
    text += &format!("{}\n", table::HEAD);
    for line in results.iter().flat_map(Results::lines) {
        text += &format!("{line}\n");
    }
    if !memory.is_empty() {
        text += &format!("\n| resident memory by idle client, {IDLE_CLIENTS} clients | KiB |\n|---|---:|\n");
        for (name, kib) in memory {
            text += &format!("| {name} | {kib:.2} |\n");
        }
    }
    text
}

/// What is going on, on one line of a terminal; nothing where nobody watches.
pub(crate) fn progress(text: &str) {
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[K{text}");
    }
}

/// A file of the output directory.
pub(crate) fn write(out: &Path, name: &str, text: &str) -> io::Result<()> {
    fs::write(out.join(name), text)
}
