//! The two tasks of a backend connection. One reads what comes and hands it out. The other writes what sessions have queued:
//! it is woken by the first of them, and so runs behind all that were ready in the same turn of the event loop, wherever among
//! them the first one stands.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::BytesMut;
use tokio_util::io::poll_read_buf;

use super::Downstream;
use super::connection::{Connection, Lost};
use super::receiver::Receiver;
use crate::net::ReadHalf;

/// Smallest read buffer; a turn's replies to small commands fit.
const READ_MIN: usize = 16 * 1024;
/// Largest read buffer: larger replies pass through in pieces of this size.
const READ_MAX: usize = 256 * 1024;
/// Replies waiting for a client behind which nobody waits, from which on its connection is read no further: enough to
/// keep both sockets busy. The rest stays with the backend, as it would if the client were connected to it.
const OUTPUT_ALONE: usize = 1 << 20;
/// Bytes read in a row after which the task lets others run: a large reply that comes as fast as it is read would keep the
/// worker for tens of milliseconds.
const READ_BURST: usize = 512 * 1024;

/// Closes the connection and with it its sessions if one of its tasks ends in any other way than by its loss, a panic above
/// all: better dropped than shifted by one reply.
struct Guard(Rc<Connection>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.close(Lost::Dropped);
    }
}

/// Writes what is queued until the connection is lost.
pub(super) async fn write_commands(conn: Rc<Connection>) {
    let _guard = Guard(Rc::clone(&conn));
    while conn.lost().is_none() {
        conn.flush();
        if conn.is_retired() {
            conn.close(Lost::Dropped);
        } else if conn.is_blocked() {
            tokio::select! {
                () = conn.wake.wait() => {}
                // An error means that the runtime ends; the read says so too.
                _ = conn.writable() => conn.unblock(),
            }
        } else {
            conn.wake.wait().await;
        }
    }
}

/// Reads replies until the connection is lost. `buf` holds what the handshake read too much.
pub(super) async fn read_replies(conn: Rc<Connection>, mut read: ReadHalf, mut buf: BytesMut) {
    let _guard = Guard(Rc::clone(&conn));
    let (mut rx, mut size, mut burst) = (Receiver::default(), READ_MIN, 0);
    while conn.lost().is_none() {
        if let Some((stalled, others)) = over_limit(&conn) {
            rx.wait_for_client(&conn, &stalled, others).await;
            continue;
        }
        let Some(n) = next(&conn, &mut read, &mut buf, size).await else { continue };
        if n == 0 {
            conn.close(Lost::Closed);
            break;
        }
        conn.context.stats.backend_received_bytes.add(n as u64);
        size = adapted(size, n);
        if conn.raw.get() {
            rx.pass_on(&conn, &mut buf);
        } else if rx.receive(&conn, &mut buf).is_err() {
            conn.close(Lost::Protocol);
        }
        rx.end_turn(&conn);
        rx.flush_touched().await;
        if conn.is_retired() {
            conn.close(Lost::Dropped);
        }
        burst += n;
        if burst >= READ_BURST {
            burst = 0;
            tokio::task::yield_now().await;
        }
    }
    rx.flush_touched().await;
}

/// Buffers grow with what arrives, and go back when little does.
fn adapted(size: usize, n: usize) -> usize {
    if n >= size {
        (size * 2).min(READ_MAX)
    } else if n < size / 8 {
        (size / 2).max(READ_MIN)
    } else {
        size
    }
}

/// So many bytes were read, none at the end; `None` if the connection may be lost.
async fn next(conn: &Connection, read: &mut ReadHalf, buf: &mut BytesMut, size: usize) -> Option<usize> {
    poll_fn(|cx| {
        if conn.reader.poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        if buf.capacity() - buf.len() < size / 4 {
            buf.reserve(size);
        }
        // After an error nothing more comes either.
        poll_read_buf(Pin::new(&mut *read), cx, buf).map(|read| Some(read.unwrap_or_default()))
    })
    .await
}

/// The client at whose replies the connection is, if it has more waiting than it may; and whether others wait behind it.
fn over_limit(conn: &Connection) -> Option<(Rc<Downstream>, bool)> {
    let inflight = conn.inflight.borrow();
    let owner = conn.owner.borrow();
    let to = owner.as_ref().or_else(|| inflight.oldest_written().map(|e| &e.to)).filter(|to| !to.is_gone())?;
    let limit = conn.context.terms().limits.output_bytes;
    let queued = to.outbox.queued();
    if queued <= OUTPUT_ALONE.min(limit) {
        return None;
    }
    let others = inflight.waits_behind(|e| !Rc::ptr_eq(&e.to, to) && !e.to.is_gone());
    (!others || queued > limit).then(|| (Rc::clone(to), others))
}
