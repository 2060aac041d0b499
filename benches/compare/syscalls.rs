//! How many system calls a command costs: `perf stat` counts them while a server carries the load of a row.

use std::path::Path;
use std::process::Command;
use std::{fs, io};

use crate::measure::{Tool, reads_of};
use crate::peers::{Peers, Server};
use crate::{fill, progress, rows, write};

/// What is told of each, and the tracepoints that it is the sum of (`syscalls:sys_enter_…`).
const KINDS: [(&str, &[&str]); 4] = [
    ("read", &["read", "readv", "recvfrom", "recvmsg"]),
    ("write", &["write", "writev", "sendto", "sendmsg"]),
    ("epoll_wait", &["epoll_wait", "epoll_pwait"]),
    ("accept, epoll_ctl, close", &["accept", "accept4", "epoll_ctl", "close"]),
];
/// All of them.
const ALL: &str = "raw_syscalls:sys_enter";

/// Counts them for every row that redis-benchmark makes the load of, for each proxy, and writes `syscalls.md`. To be counted
/// makes them slower: nothing else is measured meanwhile.
pub(crate) async fn run(peers: &Peers, only: Option<&str>, out: &Path) -> io::Result<()> {
    let mut text = "| row | |".to_owned();
    for (kind, _) in KINDS {
        text += &format!(" {kind} |");
    }
    text += &format!(" all | *b* |\n|---|---|{}\n", "---:|".repeat(KINDS.len() + 2));
    for row in rows::all() {
        let Tool::RedisBenchmark { requests, arguments } = &row.tool else { continue };
        if only.is_some_and(|part| !row.name.contains(part)) {
            continue;
        }
        fill(&peers.redis, row.fill).await?;
        for server in &peers.proxies {
            progress(&format!("{}: system calls of {}", row.name, server.name));
            let before = reads_of(&peers.redis).await?;
            let counts = count(server, *requests, arguments, out)?;
            let batch = *requests as f64 / (reads_of(&peers.redis).await? - before).max(1) as f64;
            text += &format!("| {} | {} |", row.name, server.name);
            for count in counts {
                text += &format!(" {:.2} |", count as f64 / *requests as f64);
            }
            text += &format!(" {batch:.1} |\n");
        }
    }
    progress("");
    println!("{text}");
    write(out, "syscalls.md", &text)
}

/// Of each kind, and of all.
fn count(server: &Server, requests: u64, arguments: &str, out: &Path) -> io::Result<Vec<u64>> {
    let file = out.join("perf.csv");
    let events: Vec<String> =
        KINDS.iter().flat_map(|(_, calls)| *calls).map(|call| format!("syscalls:sys_enter_{call}")).collect();
    let output = Command::new("perf")
        .args(["stat", "-x", ",", "-e", &format!("{},{ALL}", events.join(",")), "-p", &server.id().to_string(), "-o"])
        .arg(&file)
        .args(["--", "redis-benchmark", "-h", &server.addr.ip().to_string(), "-p", &server.addr.port().to_string()])
        .args(["-q", "-n", &requests.to_string()])
        .args(arguments.split_whitespace())
        .output()
        .map_err(|e| io::Error::other(format!("perf: {e} (apt-get install linux-perf)")))?;
    let counted = fs::read_to_string(&file).unwrap_or_default();
    // count,unit,event,…
    let of = |event: &str| {
        let line = counted.lines().find(|line| line.split(',').nth(2) == Some(event))?;
        line.split(',').next()?.parse::<u64>().ok()
    };
    let sum = |calls: &[&str]| calls.iter().filter_map(|call| of(&format!("syscalls:sys_enter_{call}"))).sum();
    match of(ALL) {
        Some(all) if output.status.success() => Ok(KINDS.iter().map(|(_, calls)| sum(calls)).chain([all]).collect()),
        _ => {
            Err(io::Error::other(format!("perf counts nothing: {}{counted}", String::from_utf8_lossy(&output.stderr))))
        }
    }
}
