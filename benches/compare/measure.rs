//! One measurement: load on one server, and what it cost the processes that carried it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::{fs, io};

use pointsman::demo::wire::{Connection, text};
use rustix::param::clock_ticks_per_second;
use serde::Serialize;
use tokio::time::sleep;

use crate::load::{self, Load};
use crate::peers::Server;

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The figures of one round.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    /// Commands by second.
    pub(crate) throughput: f64,
    /// Median latency in ms.
    pub(crate) p50_ms: f64,
    /// In ms.
    pub(crate) p99_ms: f64,
    /// User and system time of the proxy in µs by command; of Redis itself where there is no proxy.
    pub(crate) cpu_us: f64,
    /// The same of Redis.
    pub(crate) redis_cpu_us: f64,
    /// Resident memory of the process after it, in MiB.
    pub(crate) resident_mib: f64,
    /// Commands that Redis finds each time that it reads.
    pub(crate) batch: f64,
}

/// What makes the load of a row.
#[derive(Clone, Debug)]
pub(crate) enum Tool {
    /// redis-benchmark with these arguments besides the number of requests.
    RedisBenchmark {
        /// `-n`.
        requests: u64,
        /// As on its command line.
        arguments: String,
    },
    /// Our own.
    Own(Load),
}

/// Runs it once.
pub(crate) async fn sample(server: &Server, redis: &Server, tool: &Tool) -> io::Result<Sample> {
    let reads = reads_of(redis).await?;
    let before = (cpu(server.id())?, cpu(redis.id())?);
    let (commands, throughput, p50_ms, p99_ms) = match tool {
        Tool::RedisBenchmark { requests, arguments } => {
            let (throughput, p50, p99) = redis_benchmark(server.addr, *requests, arguments)?;
            (*requests, throughput, p50, p99)
        }
        Tool::Own(load) => {
            let outcome = load::run(&server.addrs(), *load).await?;
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            let throughput = outcome.commands as f64 / outcome.took.as_secs_f64();
            (outcome.commands, throughput, ms(outcome.p50), ms(outcome.p99))
        }
    };
    let us = |before: Duration, after: Duration| (after - before).as_secs_f64() * 1e6 / commands as f64;
    let after = (cpu(server.id())?, cpu(redis.id())?);
    Ok(Sample {
        throughput,
        p50_ms,
        p99_ms,
        cpu_us: us(before.0, after.0),
        redis_cpu_us: us(before.1, after.1),
        batch: commands as f64 / (reads_of(redis).await? - reads).max(1) as f64,
        resident_mib: resident(server.id())? / 1024.0,
    })
}

/// How often Redis has read from its clients (`INFO stats`).
async fn reads_of(redis: &Server) -> io::Result<u64> {
    let mut connection = Connection::open(redis.addr, PATIENCE).await?;
    let info = text(&connection.call(&["INFO", "stats"], PATIENCE).await?);
    let reads = info.lines().find_map(|line| line.strip_prefix("total_reads_processed:")?.trim().parse().ok());
    reads.ok_or_else(|| io::Error::other("Redis does not tell how often it has read"))
}

/// Throughput, p50 and p99 in ms.
fn redis_benchmark(addr: SocketAddr, requests: u64, arguments: &str) -> io::Result<(f64, f64, f64)> {
    let output = Command::new("redis-benchmark")
        .args(["-h", &addr.ip().to_string(), "-p", &addr.port().to_string(), "--csv", "-n", &requests.to_string()])
        .args(arguments.split_whitespace())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
    let figures = said.lines().last().unwrap_or_default();
    let figures: Vec<f64> = figures.split(',').filter_map(|f| f.trim_matches('"').parse().ok()).collect();
    match figures[..] {
        [throughput, _, _, p50, _, p99, _] if output.status.success() => Ok((throughput, p50, p99)),
        _ => Err(io::Error::other(format!("redis-benchmark: {said}{}", String::from_utf8_lossy(&output.stderr)))),
    }
}

/// Resident memory by idle client in KiB: what `clients` connections that have sent one command each add.
pub(crate) async fn memory_by_idle_client(server: &Server, clients: usize) -> io::Result<f64> {
    let before = resident(server.id())?;
    let mut idle = Vec::with_capacity(clients);
    for _ in 0..clients {
        let mut connection = Connection::open(server.addr, PATIENCE).await?;
        connection.call(&["GET", "nothing"], PATIENCE).await?;
        idle.push(connection);
    }
    sleep(Duration::from_secs(1)).await;
    Ok((resident(server.id())? - before) / clients as f64)
}

/// User and system time of a process (proc(5), fields 14 and 15 of `stat`).
pub(crate) fn cpu(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    // The name, in parentheses, may have blanks.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
}

/// Resident memory in KiB.
fn resident(pid: u32) -> io::Result<f64> {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse().ok()).ok_or_else(|| io::Error::other("no VmRSS in /proc"))
}
