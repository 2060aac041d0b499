//! A connection on which every reply is held against what it may be.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use pointsman::resp::{ReplyScanner, Value, decode, encode_command};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::book::Book;
use super::expect::{Command, Expect};

/// Longest wait for a reply: a failover, on a busy machine, is well within it.
const PATIENCE: Duration = Duration::from_secs(30);

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
    /// What keys begin with that the server may say have changed.
    own_keys: String,
}

impl Client {
    pub async fn connect(addr: SocketAddr, own_keys: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let own_keys = own_keys.to_owned();
        Ok(Self { stream, buf: BytesMut::new(), scanner: ReplyScanner::new(), scanned: 0, own_keys })
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

    /// The next frame that answers a command.
    async fn reply(&mut self) -> io::Result<Value> {
        loop {
            match self.next().await? {
                Value::Push(items) => assert!(self.is_invalidation(&items), "{items:?} pushed to {}", self.own_keys),
                reply => return Ok(reply),
            }
        }
    }

    /// Keys of the client's own that have changed, or all keys.
    fn is_invalidation(&self, items: &[Value]) -> bool {
        match items {
            [Value::Bulk(what), Value::Null] => what == "invalidate",
            [Value::Bulk(what), Value::Array(keys)] => {
                let own = |k: &Value| matches!(k, Value::Bulk(k) if k.starts_with(self.own_keys.as_bytes()));
                what == "invalidate" && keys.iter().all(own)
            }
            _ => false,
        }
    }

    pub async fn send(&mut self, commands: &[Command]) -> io::Result<()> {
        self.stream.write_all(&encode(commands)).await
    }

    /// Sends some of the bytes of these commands, perhaps only a part of one, and is gone; with a reset, if asked to.
    pub async fn break_off(mut self, commands: &[Command], part: f64, reset: bool) {
        let bytes = encode(commands);
        let part = (bytes.len() as f64 * part) as usize;
        // An error means that the other side was quicker.
        let _ = self.stream.write_all(&bytes[..part]).await;
        if reset {
            let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Sends commands in one piece and holds each reply against what it may be.
    ///
    /// # Panics
    /// If a reply is anybody else's.
    pub async fn run(&mut self, batch: &[Command], book: &mut Book) -> End {
        match self.send(batch).await {
            Ok(()) => self.read(batch, usize::MAX, book).await,
            Err(_) => {
                lost(batch, book);
                End::Closed
            }
        }
    }

    /// Looks at the first `most` replies to commands that were sent; the rest is counted as unknown.
    pub async fn read(&mut self, batch: &[Command], most: usize, book: &mut Book) -> End {
        let mut replies = Vec::new();
        for (i, (words, expect)) in batch.iter().enumerate() {
            if i >= most {
                lost(&batch[i..], book);
                break;
            }
            if matches!(expect, Expect::Nothing) {
                continue;
            }
            let Ok(reply) = self.reply().await else {
                lost(&batch[i..], book);
                return End::Closed;
            };
            if let Err(why) = expect.check(&reply, book) {
                let (shown, before) = (format!("{reply:?}"), &batch[i.saturating_sub(5)..i]);
                panic!("{why}: {words:.60?} expects {expect:.60?}, got {shown:.300} behind {before:.400?}");
            }
            replies.push(reply);
        }
        End::Answered(replies)
    }
}

fn encode(commands: &[Command]) -> Vec<u8> {
    commands.iter().flat_map(|(words, _)| encode_command(words).to_vec()).collect()
}

/// Unanswered commands: whether they ran is not known.
pub fn lost(batch: &[Command], book: &mut Book) {
    book.closed += 1;
    batch.iter().for_each(|(_, expect)| expect.lost(book));
}
