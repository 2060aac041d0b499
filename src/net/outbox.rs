//! Replies on their way to a client.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::iter;

use bytes::{Buf, Bytes, BytesMut};

use super::WriteHalf;

/// Slices handed to one vectored write. Linux takes 1024; past 64 the copy into the kernel outweighs the call.
const MAX_SLICES: usize = 64;

/// A slice below this size that has to wait is copied: it is a part of a read buffer, of 256 KiB at most, which it would
/// keep for as long as the client does not read. So what an outbox keeps is less than twice what is counted.
const COPY_BELOW: usize = 128 * 1024;
/// Copies are gathered in pieces of about this size: bookkeeping for each would be many times a small reply.
const PIECE: usize = 16 * 1024;

/// The bytes that wait for a client's socket, and the half of the socket they go to.
///
/// Whoever has replies pushes them and flushes; the session's task takes over only when the socket takes no more.
#[derive(Debug)]
pub struct Outbox {
    writer: WriteHalf,
    /// What leaves next: as a rule there is no more. Empty: nothing waits but what was kept while the socket was blocked.
    first: RefCell<Bytes>,
    /// In a box, and only as long as something is in it: most clients are at rest at any time.
    behind: RefCell<Option<Box<Behind>>>,
    /// Sum of the lengths of all that waits.
    queued: Cell<usize>,
    /// The socket took less than there was: the session's task waits until it is writable.
    blocked: Cell<bool>,
    /// The socket is gone; what is pushed is dropped.
    broken: Cell<bool>,
    sent: Cell<u64>,
}

/// What waits behind the first slice.
#[derive(Debug, Default)]
struct Behind {
    queue: VecDeque<Bytes>,
    /// Behind the queue: copies of what came since the socket was blocked.
    tail: BytesMut,
}

impl Behind {
    /// Appends bytes that have to wait.
    fn keep(&mut self, bytes: Bytes) {
        let copied = bytes.len() < COPY_BELOW;
        if copied {
            self.tail.extend_from_slice(&bytes);
        }
        if !self.tail.is_empty() && (!copied || self.tail.len() >= PIECE) {
            self.queue.push_back(std::mem::take(&mut self.tail).freeze());
        }
        if !copied {
            self.queue.push_back(bytes);
        }
    }
}

impl Outbox {
    /// An empty outbox in front of `writer`.
    pub fn new(writer: WriteHalf) -> Self {
        Self {
            writer,
            first: RefCell::default(),
            behind: RefCell::default(),
            queued: Cell::new(0),
            blocked: Cell::new(false),
            broken: Cell::new(false),
            sent: Cell::new(0),
        }
    }

    /// Appends bytes; they leave with the next [`Outbox::flush`].
    pub fn push(&self, bytes: Bytes) {
        if self.broken.get() || bytes.is_empty() {
            return;
        }
        self.queued.set(self.queued.get() + bytes.len());
        let mut first = self.first.borrow_mut();
        if self.blocked.get() {
            // Behind bytes that already wait, these will outlive the turn.
            self.behind.borrow_mut().get_or_insert_default().keep(bytes);
        } else if first.is_empty() {
            *first = bytes;
        } else {
            self.behind.borrow_mut().get_or_insert_default().queue.push_back(bytes);
        }
    }

    /// Hands to the kernel what it takes now. Afterwards [`Outbox::is_blocked`] and [`Outbox::is_broken`] say how it went.
    pub fn flush(&self) {
        if !self.blocked.get() && self.write_out() {
            let mut behind = self.behind.borrow_mut();
            let behind = behind.get_or_insert_default();
            let waiting = std::mem::take(&mut behind.queue);
            behind.keep(self.first.take());
            waiting.into_iter().for_each(|bytes| behind.keep(bytes));
        }
    }

    /// Nothing more will be pushed: ends our direction of the connection.
    pub fn finish(&self) {
        self.writer.finish();
    }

    /// As [`Outbox::flush`], for the session's task once the socket is writable again.
    pub fn resume(&self) {
        self.blocked.set(false);
        // What is left has been copied already.
        self.write_out();
    }

    /// Returns whether the socket took less than there was.
    fn write_out(&self) -> bool {
        let (mut first, mut behind) = (self.first.borrow_mut(), self.behind.borrow_mut());
        if let Some(Behind { queue, tail }) = behind.as_deref_mut() {
            if !tail.is_empty() {
                queue.push_back(std::mem::take(tail).freeze());
            }
            if first.is_empty() {
                *first = queue.pop_front().unwrap_or_default();
            }
        }
        while !first.is_empty() {
            let written = match behind.as_ref().filter(|behind| !behind.queue.is_empty()) {
                None => self.writer.try_write_vectored(&[IoSlice::new(&first)]),
                Some(behind) => {
                    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                    let n = (1 + behind.queue.len()).min(MAX_SLICES);
                    for (slice, bytes) in slices.iter_mut().zip(iter::once(&*first).chain(&behind.queue)) {
                        *slice = IoSlice::new(bytes);
                    }
                    self.writer.try_write_vectored(&slices[..n])
                }
            };
            match written {
                Ok(n) => {
                    self.sent.set(self.sent.get() + n as u64);
                    self.queued.set(self.queued.get() - n);
                    consume(&mut first, behind.as_deref_mut(), n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked.set(true);
                    return true;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    drop((first, behind));
                    self.break_off();
                    return false;
                }
            }
        }
        *behind = None;
        false
    }

    /// Drops what waits and ends the connection.
    pub fn close(&self) {
        self.break_off();
        self.writer.shutdown();
    }

    /// As [`Outbox::close`], where the socket is closed right away: the reading half goes too, and nobody else has this.
    pub fn part(&self) {
        self.break_off();
        self.writer.part();
    }

    fn break_off(&self) {
        self.broken.set(true);
        self.first.take();
        self.behind.take();
        self.queued.set(0);
    }

    /// Bytes that wait.
    pub fn queued(&self) -> usize {
        self.queued.get()
    }

    /// Bytes handed to the kernel since the last call.
    pub fn take_sent(&self) -> u64 {
        self.sent.replace(0)
    }

    /// Whether the session's task must wait for [`Outbox::writable`] and then [`Outbox::resume`].
    pub fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Whether the socket is gone.
    pub fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Ready when the socket takes bytes again.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn writable(&self) -> io::Result<()> {
        self.writer.writable().await
    }
}

/// Drops the first `n` bytes of what waits: of `first`, and of the queue behind it. What is left of a slice is the first.
fn consume(first: &mut Bytes, mut behind: Option<&mut Behind>, mut n: usize) {
    while n > 0 {
        if first.len() > n {
            first.advance(n);
            return;
        }
        n -= first.len();
        *first = behind.as_mut().and_then(|behind| behind.queue.pop_front()).unwrap_or_default();
        assert!(n == 0 || !first.is_empty(), "no more is written than was queued");
    }
}

#[cfg(test)]
mod tests {
    use super::super::Stream;
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    /// Slices of all sizes, of one read buffer each: what waits must come in order, and let go of the buffers.
    #[tokio::test]
    async fn what_waits_keeps_its_order_and_not_its_buffers() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (_read, write) = Stream::Unix(ours).into_split();
        let outbox = Outbox::new(write);
        let mut expected = Vec::new();
        let mut send = |len: usize, fill: usize, flush: bool| {
            let mut buffer = vec![b'a' + (fill % 26) as u8; 256 * 1024];
            buffer.truncate(len);
            let buffer = Bytes::from(buffer);
            expected.extend_from_slice(&buffer);
            outbox.push(buffer.clone());
            if flush {
                outbox.flush();
            }
            buffer
        };
        // The last two wait for the first flush, which finds the socket full.
        let mut slices: Vec<Bytes> = [900_000, 100, 70_000].map(|len| send(len, len, false)).to_vec();
        slices.push(send(5, 1, true));
        assert!(outbox.is_blocked());
        slices.extend((0..300).map(|i| send([3, 5_000, COPY_BELOW - 1, COPY_BELOW, 40][i % 5], i, true)));
        for slice in slices.into_iter().skip(1).filter(|s| s.len() < COPY_BELOW) {
            assert!(slice.is_unique(), "a slice of {} bytes keeps its buffer", slice.len());
        }
        let mut got = vec![0; expected.len()];
        let (read, ()) = tokio::join!(theirs.read_exact(&mut got), async {
            while outbox.queued() > 0 {
                outbox.writable().await.unwrap();
                outbox.resume();
            }
        });
        read.unwrap();
        assert!(got == expected);
    }

    #[tokio::test]
    async fn a_reader_that_stops_blocks_and_loses_nothing() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (_read, write) = Stream::Unix(ours).into_split();
        let outbox = Outbox::new(write);
        let mut expected = Vec::new();
        for i in 0..200_000u32 {
            let piece = Bytes::from(i.to_string());
            expected.extend_from_slice(&piece);
            outbox.push(piece);
            if i % 100 == 0 {
                outbox.flush();
            }
        }
        outbox.flush();
        assert!(outbox.is_blocked(), "a socket buffer does not hold a megabyte");
        let mut got = vec![0; expected.len()];
        let (read, ()) = tokio::join!(theirs.read_exact(&mut got), async {
            while outbox.queued() > 0 {
                outbox.writable().await.unwrap();
                outbox.resume();
            }
        });
        read.unwrap();
        assert!(got == expected);
        assert_eq!(outbox.take_sent(), expected.len() as u64);
        drop(theirs);
        outbox.push(Bytes::from_static(b"x"));
        outbox.flush();
        assert!(outbox.is_broken());
        assert_eq!(outbox.queued(), 0);
    }
}
