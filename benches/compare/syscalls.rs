//! How many system calls a command costs, and how many commands (*b*) a turn of the event loop handles: `perf stat` counts them
//! while a server carries the load of a row.

use std::path::Path;
use std::process::Command;
use std::{fs, io};

use crate::measure::Tool;
use crate::peers::{Peers, Server};
use crate::{fill, progress, rows, write};

/// What is told of each, and the tracepoints that it is the sum of (`syscalls:sys_enter_…`).
const KINDS: [(&str, &[&str]); 4] = [
    ("read", &["read", "readv", "recvfrom", "recvmsg"]),
    ("write", &["write", "writev", "sendto", "sendmsg"]),
    ("epoll_wait", &["epoll_wait", "epoll_pwait"]),
    ("accept, epoll_ctl, close", &["accept", "accept4", "epoll_ctl", "close"]),
];
/// One of them begins a turn of the event loop: which of the kinds.
const EPOLL_WAIT: usize = 2;
/// All of them.
const ALL: &str = "raw_syscalls:sys_enter";

/// Counts them for every row that redis-benchmark makes the load of, for each proxy, and writes `syscalls.md`. To be counted
/// makes them slower: nothing else is measured meanwhile.
pub(crate) async fn run(peers: &Peers, only: Option<&str>, out: &Path) -> io::Result<()> {
    let mut text = "| row | |".to_owned();
    for (kind, _) in KINDS {
        text += &format!(" {kind} |");
    }
    text += &format!(" all | *b* | 2 + 3/*b* |\n|---|---|{}\n", "---:|".repeat(KINDS.len() + 3));
    for row in rows::all() {
        let Tool::RedisBenchmark { requests, arguments } = &row.tool else { continue };
        if only.is_some_and(|part| !row.name.contains(part)) {
            continue;
        }
        fill(&peers.redis, row.fill).await?;
        for server in &peers.proxies {
            progress(&format!("{}: system calls of {}", row.name, server.name));
            let counts = count(server, *requests, arguments, out)?;
            let turns = *requests as f64 / counts[EPOLL_WAIT].max(1) as f64;
            text += &format!("| {} | {} |", row.name, server.name);
            for count in counts {
                text += &format!(" {:.2} |", count as f64 / *requests as f64);
            }
            text += &format!(" {turns:.1} | {:.2} |\n", 2.0 + 3.0 / turns);
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
