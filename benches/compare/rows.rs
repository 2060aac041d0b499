//! What is measured.

use pointsman::resp::encode_command;

use crate::floor::Frames;
use crate::load::{Load, Mix, key};
use crate::measure::Tool;

/// One row of the table.
pub(crate) struct Row {
    /// As the table names it.
    pub(crate) name: &'static str,
    /// What makes its load.
    pub(crate) tool: Tool,
    /// Keys that are filled before, and the size of their values in bytes.
    pub(crate) fill: (u32, usize),
    /// How long what passes is, if it is always the same.
    pub(crate) frames: Option<Frames>,
}

fn row(name: &'static str, requests: u64, arguments: &str, fill: (u32, usize)) -> Row {
    let frames = if arguments.contains("-t set") { set(fill.1) } else { get(fill.1) };
    let arguments = format!("{arguments} -r {} -d {}", fill.0, fill.1);
    Row { name, tool: Tool::RedisBenchmark { requests, arguments }, fill, frames: Some(frames) }
}

fn get(size: usize) -> Frames {
    Frames { request: encode_command(&["GET", &key(0)]).len(), reply: format!("${size}\r\n").len() + size + 2 }
}

fn set(size: usize) -> Frames {
    Frames { request: encode_command(&["SET", &key(0), &"v".repeat(size)]).len(), reply: "+OK\r\n".len() }
}

/// All of them. The numbers of requests keep each measurement between one and three seconds on a small machine.
pub(crate) fn all() -> Vec<Row> {
    const SMALL: (u32, usize) = (1000, 64);
    const LARGE: (u32, usize) = (1000, 16 << 10);
    let mixed = Load { clients: 50, pipeline: 1, mix: Mix::Transactions, value: 64, keys: 1000, commands: 150_000 };
    vec![
        row("GET, 50 clients", 200_000, "-t get -c 50", SMALL),
        row("SET, 50 clients", 200_000, "-t set -c 50", SMALL),
        row("GET, 50 clients, pipeline 16", 1_500_000, "-t get -c 50 -P 16", SMALL),
        row("SET, 50 clients, pipeline 16", 1_000_000, "-t set -c 50 -P 16", SMALL),
        row("GET, 1,000 clients", 200_000, "-t get -c 1000", SMALL),
        row("GET, 1 client", 50_000, "-t get -c 1", SMALL),
        row("SET 16 KiB, 50 clients", 80_000, "-t set -c 50", LARGE),
        row("GET 16 KiB, 50 clients", 80_000, "-t get -c 50", LARGE),
        row("GET 1 MiB, 10 clients", 3_000, "-t get -c 10", (10, 1 << 20)),
        row("connect, GET, close, 50 clients", 40_000, "-t get -c 50 -k 0", SMALL),
        Row { name: "mixed with 5 % transactions, 50 clients", tool: Tool::Own(mixed), fill: SMALL, frames: None },
    ]
}
