//! A client that knows what every reply must be.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use pointsman::resp::{ReplyScanner, Value, decode, encode_command};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for a reply: a failover, on a busy machine, is well within it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a command may be answered.
#[derive(Clone, Debug)]
pub enum Expect {
    /// Exactly this bulk string.
    Exactly(String),
    /// A bulk string of the client's own, that begins so, or a null.
    Own(String),
    /// An `INCR` of the client's own counter.
    Incr,
    /// An integer.
    Int,
    /// `+OK`.
    Ok,
    /// `+QUEUED`.
    Queued,
    /// A transaction of so many `INCR`s of the own counter, and an own value at the end; or a null.
    Exec(usize, String),
    /// A transaction on the counter that all share: an array if it ran, a null if it was watched in vain.
    SharedExec,
    /// A list's name and an own element, or a null.
    Popped(String, String),
    /// A greeting.
    Map,
    /// Not answered at all.
    Nothing,
}

/// What a client has been told of its writes.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    pub acknowledged: u64,
    pub unknown: u64,
    pub shared_acknowledged: u64,
    pub shared_unknown: u64,
    pub replies: u64,
    pub refused: u64,
    pub closed: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.shared_acknowledged += other.shared_acknowledged;
        self.shared_unknown += other.shared_unknown;
        self.replies += other.replies;
        self.refused += other.refused;
        self.closed += other.closed;
    }
}

/// How a batch ended.
pub enum End {
    Answered(Vec<Value>),
    /// The connection is gone; what was not answered is counted as unknown.
    Closed,
}

pub struct Client {
    stream: TcpStream,
    buf: BytesMut,
    scanner: ReplyScanner,
    scanned: usize,
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buf: BytesMut::new(), scanner: ReplyScanner::new(), scanned: 0 })
    }

    /// The next frame; an error if the connection is gone.
    pub async fn next(&mut self) -> io::Result<Value> {
        loop {
            let progress = self.scanner.scan(&self.buf[self.scanned..]).expect("what comes from pointsman is RESP");
            self.scanned += progress.consumed;
            if progress.complete {
                let frame = self.buf.split_to(std::mem::take(&mut self.scanned));
                return Ok(decode(&frame).expect("and can be decoded"));
            }
            self.buf.reserve(16 * 1024);
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buf)).await;
            if read.unwrap_or_else(|_| panic!("no reply for {PATIENCE:?}"))? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    pub async fn send(&mut self, commands: &[(Vec<String>, Expect)]) -> io::Result<()> {
        let bytes: Vec<u8> = commands.iter().flat_map(|(words, _)| encode_command(words).to_vec()).collect();
        self.stream.write_all(&bytes).await
    }

    /// Sends commands in one piece and holds each reply against what it may be.
    ///
    /// # Panics
    /// If a reply is anybody else's.
    pub async fn run(&mut self, batch: &[(Vec<String>, Expect)], counts: &mut Counts) -> End {
        let mut replies = Vec::new();
        if self.send(batch).await.is_err() {
            lost(batch, counts);
            return End::Closed;
        }
        for (i, (words, expect)) in batch.iter().enumerate() {
            if matches!(expect, Expect::Nothing) {
                continue;
            }
            let Ok(reply) = self.next().await else {
                lost(&batch[i..], counts);
                return End::Closed;
            };
            check(words, expect, &reply, counts, &batch[..i]);
            replies.push(reply);
        }
        End::Answered(replies)
    }
}

/// Unanswered commands: whether they ran is not known.
fn lost(batch: &[(Vec<String>, Expect)], counts: &mut Counts) {
    counts.closed += 1;
    for (_, expect) in batch {
        match expect {
            Expect::Incr => counts.unknown += 1,
            Expect::Exec(n, _) => counts.unknown += *n as u64,
            Expect::SharedExec => counts.shared_unknown += 1,
            _ => {}
        }
    }
}

fn text(v: &Value) -> Option<&[u8]> {
    match v {
        Value::Bulk(b) => Some(b),
        Value::Simple(s) => Some(s.as_bytes()),
        _ => None,
    }
}

fn is_own(v: &Value, tag: &str) -> bool {
    *v == Value::Null || text(v).is_some_and(|t| t.starts_with(tag.as_bytes()))
}

fn check(words: &[String], expect: &Expect, reply: &Value, counts: &mut Counts, before: &[(Vec<String>, Expect)]) {
    counts.replies += 1;
    // pointsman's own errors say that the command did not run; nothing else may go wrong here.
    if let Value::Error(e) = reply {
        let own = ["MASTERDOWN ", "TRYAGAIN ", "EXECABORT "].iter().any(|p| e.starts_with(p));
        assert!(own, "{words:.60?} was answered {e:?} behind {before:.200?}");
        counts.refused += 1;
        return;
    }
    let right = match (expect, reply) {
        (Expect::Exactly(s), v) => text(v) == Some(s.as_bytes()),
        (Expect::Own(tag), v) => is_own(v, tag),
        (Expect::Incr, Value::Int(_)) => {
            counts.acknowledged += 1;
            true
        }
        (Expect::Int, Value::Int(_)) | (Expect::Map, Value::Map(_) | Value::Array(_)) => true,
        (Expect::Ok, Value::Simple(s)) => s == "OK",
        (Expect::Queued, Value::Simple(s)) => s == "QUEUED",
        (Expect::Exec(..) | Expect::SharedExec | Expect::Popped(..), Value::Null) => true,
        (Expect::Exec(n, tag), Value::Array(items)) => {
            counts.acknowledged += *n as u64;
            items.len() == n + 1 && items[..*n].iter().all(|i| matches!(i, Value::Int(_))) && is_own(&items[*n], tag)
        }
        (Expect::SharedExec, Value::Array(_)) => {
            counts.shared_acknowledged += 1;
            true
        }
        (Expect::Popped(key, tag), Value::Array(items)) => {
            items.len() == 2 && text(&items[0]) == Some(key.as_bytes()) && is_own(&items[1], tag)
        }
        _ => false,
    };
    let shown = format!("{reply:?}");
    assert!(right, "{words:.60?} expects {expect:.60?}, got {shown:.200} behind {before:.400?}");
}
