//! Load that redis-benchmark cannot make: mixtures with transactions, and any number of clients. Closed loop: each
//! client sends a batch, takes its replies, sends the next.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pointsman::resp::{ReplyScanner, encode_command};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout};

/// No load lasts longer, however slow the server.
const LIMIT: Duration = Duration::from_secs(120);
/// How many connects are under way at a time: a listening socket's backlog must not be what is measured.
const CONNECTING: usize = 64;

/// What clients send.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mix {
    /// `GET` alone.
    Get,
    /// `SET` alone.
    Set,
    /// 80 % `GET`, 15 % `SET`, 5 % `MULTI`, `SET`, `INCR`, `EXEC` in one piece.
    Transactions,
}

/// One load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Connections.
    pub(crate) clients: usize,
    /// Commands (or transactions) that a client sends at once.
    pub(crate) pipeline: usize,
    /// What they send.
    pub(crate) mix: Mix,
    /// Size of the values in bytes.
    pub(crate) value: usize,
    /// Keys to choose from.
    pub(crate) keys: u32,
    /// Commands in all, the four of a transaction counted one by one.
    pub(crate) commands: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Commands answered.
    pub(crate) commands: u64,
    /// In this time.
    pub(crate) took: Duration,
    /// Median of the time from sending a batch to its last reply.
    pub(crate) p50: Duration,
    /// 99 % of them took no longer.
    pub(crate) p99: Duration,
}

/// The key with this number, as redis-benchmark writes it.
pub(crate) fn key(number: u32) -> String {
    format!("key:{number:012}")
}

/// Runs it against one server, whose addresses share the clients. Fails at the first error reply: a proxy that refuses a command is not measured by how
/// fast it does so.
pub(crate) async fn run(addrs: &[SocketAddr], load: Load) -> io::Result<Outcome> {
    let mut streams = Vec::with_capacity(load.clients);
    while streams.len() < load.clients {
        let many = CONNECTING.min(load.clients - streams.len());
        let of_each = addrs.iter().cycle().skip(streams.len() % addrs.len());
        let connects: Vec<_> = of_each.take(many).map(|addr| tokio::spawn(TcpStream::connect(*addr))).collect();
        for connect in connects {
            let stream = connect.await??;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
    }
    let left = Rc::new(Cell::new(load.commands));
    let times = Rc::new(RefCell::new(Vec::with_capacity((load.commands as usize / load.pipeline).min(1 << 22))));
    let began = Instant::now();
    let clients = LocalSet::new();
    let running: Vec<_> = streams
        .into_iter()
        .enumerate()
        .map(|(seed, stream)| clients.spawn_local(client(stream, load, seed as u64, left.clone(), times.clone())))
        .collect();
    let done = timeout(
        LIMIT,
        clients.run_until(async {
            let mut commands = 0;
            for client in running {
                commands += client.await??;
            }
            io::Result::Ok(commands)
        }),
    );
    let commands = done.await.map_err(|_| io::ErrorKind::TimedOut)??;
    let took = began.elapsed();
    let mut times = times.take();
    times.sort_unstable();
    let at = |part: f64| times.get(((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1)));
    let time = |part| at(part).copied().unwrap_or_default();
    Ok(Outcome { commands, took, p50: time(0.5), p99: time(0.99) })
}

/// One client, until the commands of all are used up; how many were its own.
async fn client(
    mut stream: TcpStream,
    load: Load,
    seed: u64,
    left: Rc<Cell<u64>>,
    times: Rc<RefCell<Vec<Duration>>>,
) -> io::Result<u64> {
    let mut random = fastrand::Rng::with_seed(seed);
    let value = "v".repeat(load.value);
    let (mut out, mut input) = (Vec::new(), BytesMut::new());
    let mut scanner = ReplyScanner::new();
    let mut sent = 0;
    loop {
        out.clear();
        let mut batch = 0;
        for _ in 0..load.pipeline {
            batch += compose(load, &value, &mut random, &mut out);
        }
        let Some(rest) = left.get().checked_sub(batch) else { return Ok(sent) };
        left.set(rest);
        let began = Instant::now();
        stream.write_all(&out).await?;
        let mut owed = batch;
        while owed > 0 {
            if stream.read_buf(&mut input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            owed -= take(&mut scanner, &mut input)?;
        }
        times.borrow_mut().push(began.elapsed());
        sent += batch;
    }
}

/// Appends what a client sends next; how many commands it is.
fn compose(load: Load, value: &str, random: &mut fastrand::Rng, out: &mut Vec<u8>) -> u64 {
    let key = key(random.u32(..load.keys));
    let dice = match load.mix {
        Mix::Get => 0,
        Mix::Set => 80,
        Mix::Transactions => random.u32(..100),
    };
    match dice {
        0..80 => out.extend_from_slice(&encode_command(&["GET", &key])),
        80..95 => out.extend_from_slice(&encode_command(&["SET", &key, value])),
        _ => {
            out.extend_from_slice(&encode_command(&["MULTI"]));
            out.extend_from_slice(&encode_command(&["SET", &key, value]));
            out.extend_from_slice(&encode_command(&["INCR", "transactions"]));
            out.extend_from_slice(&encode_command(&["EXEC"]));
            return 4;
        }
    }
    1
}

/// Consumes the replies that are complete; how many. Large ones are consumed as they come.
fn take(scanner: &mut ReplyScanner, input: &mut BytesMut) -> io::Result<u64> {
    let mut replies = 0;
    while !input.is_empty() {
        if scanner.is_at_start() && input[0] == b'-' {
            let said = String::from_utf8_lossy(input).into_owned();
            return Err(io::Error::other(said.lines().next().unwrap_or_default().to_owned()));
        }
        let progress = scanner.scan(input).map_err(|e| io::Error::other(e.to_string()))?;
        input.advance(progress.consumed);
        if !progress.complete {
            break;
        }
        replies += 1;
    }
    Ok(replies)
}
