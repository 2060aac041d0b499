//! A TLS stream in two halves of one thread, alike in what they promise to those of plain sockets.
//!
//! The writing half counts bytes as taken when the kernel has the whole record that holds them, and not before: a record
//! that is there in part cannot be read by the other side, so what is in it never runs. One record at a time is
//! encrypted, and only for the kernel to take it now. Where it does not, the record has its place in the stream and cannot
//! be made undone: either it goes out next, or nothing ever goes out any more ([`TlsWrite::is_committed`]).

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::tls::{Peer, explained, subject};

/// What one record holds at most (RFC 8446, 5.1).
const RECORD: usize = 16 * 1024;
/// Slices that are looked at for one record.
const MAX_SLICES: usize = 64;

/// A stream whose handshake is done, in one piece.
#[derive(Debug)]
pub struct TlsTcp {
    tcp: TcpStream,
    tls: Connection,
    peer: Peer,
}

/// What both halves use.
#[derive(Debug)]
struct Shared {
    tls: RefCell<Connection>,
    /// Bytes that were given to the record which the kernel has not wholly taken.
    committed: Cell<usize>,
    peer: Peer,
}

/// The half that is read.
#[derive(Debug)]
pub struct TlsRead {
    tcp: OwnedReadHalf,
    shared: Rc<Shared>,
}

/// The half that is written.
#[derive(Debug)]
pub(super) struct TlsWrite {
    tcp: OwnedWriteHalf,
    shared: Rc<Shared>,
}

impl TlsTcp {
    /// Of what a handshake left.
    pub(super) fn new(tcp: TcpStream, tls: Connection, peer: Peer) -> Self {
        Self { tcp, tls, peer }
    }

    /// The socket.
    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Whose certificate the other side has shown, if it has shown one.
    pub(super) fn subject(&self) -> Option<String> {
        subject(self.tls.peer_certificates()?.first()?)
    }

    /// The bytes as they would go out, the last ones.
    pub(super) fn seal(&mut self, bytes: &[u8], sealed: &mut Vec<u8>) {
        // Neither can fail: nothing waits, and a vector takes all.
        let _ = self.tls.writer().write_all(bytes);
        self.tls.send_close_notify();
        while self.tls.wants_write() && self.tls.write_tls(sealed).is_ok() {}
    }

    /// Splits into halves.
    pub(super) fn split(self) -> (TlsRead, TlsWrite) {
        let shared = Rc::new(Shared { tls: RefCell::new(self.tls), committed: Cell::new(0), peer: self.peer });
        let (read, write) = self.tcp.into_split();
        (TlsRead { tcp: read, shared: Rc::clone(&shared) }, TlsWrite { tcp: write, shared })
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Sink(&self.tcp)) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(self.tcp.poll_write_ready(cx))?,
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for TlsTcp {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, tls, peer } = self.get_mut();
        poll_read(tls, tcp, *peer, true, cx, buf)
    }
}

impl AsyncWrite for TlsTcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        let taken = this.tls.writer().write(bytes)?;
        // What the socket does not take now goes with the next write, or the flush that ends them.
        let _ = this.poll_send(cx)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.tls.send_close_notify();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.tcp).poll_shutdown(cx)
    }
}

/// A socket that is read, whole or in halves.
trait Readable: AsyncRead + Unpin {
    fn socket(&self) -> &TcpStream;
}

impl Readable for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Readable for OwnedReadHalf {
    fn socket(&self) -> &TcpStream {
        self.as_ref()
    }
}

/// Reads what the other side has said. `may_send`: what TLS itself has to answer may go.
fn poll_read(
    tls: &mut Connection,
    tcp: &mut impl Readable,
    peer: Peer,
    may_send: bool,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    loop {
        match tls.reader().read(buf.initialize_unfilled()) {
            Ok(n) => {
                buf.advance(n);
                return Poll::Ready(Ok(()));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            // Without the farewell of TLS, as Redis ends. A reply that is cut off is seen by its own length.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(())),
            Err(e) => return Poll::Ready(Err(e)),
        }
        match tls.read_tls(&mut Source { tcp: &mut *tcp, cx: &mut *cx }) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(e) => return Poll::Ready(Err(e)),
        }
        let processed = tls.process_new_packets();
        // New keys, or what is wrong.
        if may_send && tls.wants_write() {
            let _ = tls.write_tls(&mut Sink(tcp.socket()));
        }
        if let Err(error) = processed {
            return Poll::Ready(Err(explained(io::Error::new(io::ErrorKind::InvalidData, error), peer)));
        }
    }
}

impl TlsRead {
    /// The socket.
    pub(super) fn tcp(&self) -> &OwnedReadHalf {
        &self.tcp
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Shared { tls, committed, peer } = &*self.shared;
        // A record that is stuck may be sent by its owner alone.
        poll_read(&mut tls.borrow_mut(), &mut self.tcp, *peer, committed.get() == 0, cx, buf)
    }
}

impl TlsWrite {
    /// The socket.
    pub(super) fn tcp(&self) -> &OwnedWriteHalf {
        &self.tcp
    }

    /// Ends nothing: the socket is closed with its other half.
    pub(super) fn forget(self) {
        self.tcp.forget();
    }

    /// As of a plain socket; at most a record is taken. After `WouldBlock` the same bytes must come first.
    pub(super) fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut tls = self.shared.tls.borrow_mut();
        if self.shared.committed.get() == 0 {
            let mut record = [IoSlice::new(&[]); MAX_SLICES];
            let (mut slices, mut room) = (0, RECORD);
            for (slice, buf) in record.iter_mut().zip(bufs) {
                if room == 0 {
                    break;
                }
                *slice = IoSlice::new(&buf[..buf.len().min(room)]);
                room -= slice.len();
                slices += 1;
            }
            self.shared.committed.set(tls.writer().write_vectored(&record[..slices])?);
        }
        while tls.wants_write() {
            tls.write_tls(&mut Sink(self.tcp.as_ref()))?;
        }
        Ok(self.shared.committed.take())
    }

    /// Whether bytes are encrypted that the kernel has not taken: they can go out, or the connection can end; anything
    /// else in their place cannot go out.
    pub(super) fn is_committed(&self) -> bool {
        self.shared.committed.get() > 0
    }

    /// Says, if the kernel takes it now, that nothing more follows. The other side could otherwise not tell the end from
    /// an attacker's cut.
    pub(super) fn say_goodbye(&self) {
        // Borrowed by the reading half only while it reads, and it closes nothing meanwhile.
        let Ok(mut tls) = self.shared.tls.try_borrow_mut() else { return };
        if self.shared.committed.get() == 0 {
            tls.send_close_notify();
            let _ = tls.write_tls(&mut Sink(self.tcp.as_ref()));
        }
    }
}

/// The socket as rustls reads it.
struct Source<'a, 'c, T> {
    tcp: &'a mut T,
    cx: &'a mut Context<'c>,
}

impl<T: Readable> Read for Source<'_, '_, T> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(into);
        match Pin::new(&mut *self.tcp).poll_read(self.cx, &mut buf) {
            Poll::Ready(Ok(())) => Ok(buf.filled().len()),
            Poll::Ready(Err(e)) => Err(e),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// The socket as rustls writes to it.
struct Sink<'a>(&'a TcpStream);

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Streams for tests.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Arc;

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::{TlsAcceptor, TlsConnector, server};

    use super::TlsTcp;
    use crate::net::Stream;
    use crate::tls::Peer;

    /// Our side, and the other one.
    pub(crate) async fn connected() -> (Stream, server::TlsStream<TcpStream>) {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["test".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let accepting = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let dialling = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        let name = ServerName::try_from("test").unwrap();
        let (ours, theirs) = tokio::join!(
            TlsConnector::from(Arc::new(dialling)).connect(name, ours),
            TlsAcceptor::from(Arc::new(accepting)).accept(theirs)
        );
        let (tcp, tls) = ours.unwrap().into_inner();
        (Stream::Tls(Box::new(TlsTcp::new(tcp, tls.into(), Peer::Server))), theirs.unwrap())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio_rustls::server;

    use super::super::{ReadHalf, WriteHalf};
    use super::testing::connected;
    use super::*;

    async fn pair() -> (ReadHalf, WriteHalf, server::TlsStream<TcpStream>) {
        let (ours, theirs) = connected().await;
        let (read, write) = ours.into_split();
        (read, write, theirs)
    }

    /// Numbers in eight bytes each, so that every byte tells where it belongs.
    fn numbers(from: u64, n: u64) -> Vec<u8> {
        (from..from + n).flat_map(u64::to_be_bytes).collect()
    }

    /// Writes until the kernel takes no more; returns what it took.
    fn fill(write: &WriteHalf, bytes: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            // In pieces of all sizes, as commands come.
            let next = &bytes[taken..];
            let cut = next.len().min(taken % 977 + 1);
            match write.try_write_vectored(&[IoSlice::new(&next[..cut]), IoSlice::new(&next[cut..])]) {
                Ok(n) => taken += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return taken,
                Err(e) => panic!("{e}"),
            }
        }
    }

    #[tokio::test]
    async fn what_blocks_goes_on_in_order() {
        let (_read, write, mut theirs) = pair().await;
        let bytes = numbers(0, 2 << 20);
        let mut got = vec![0; bytes.len()];
        let send = async {
            let mut taken = fill(&write, &bytes);
            assert!(taken < bytes.len(), "a socket holds no 16 MiB");
            assert!(write.is_committed());
            while taken < bytes.len() {
                write.writable().await.unwrap();
                match write.try_write_vectored(&[IoSlice::new(&bytes[taken..])]) {
                    Ok(n) => taken += n,
                    Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
                }
            }
            assert!(!write.is_committed());
        };
        let (received, ()) = tokio::join!(theirs.read_exact(&mut got), send);
        received.unwrap();
        assert!(got == bytes);
    }

    /// What was not counted as taken is never read at the other end, though a part of its record may have gone.
    #[tokio::test]
    async fn what_was_not_taken_does_not_arrive() {
        for _ in 0..20 {
            let (_read, write, mut theirs) = pair().await;
            let bytes = numbers(0, 2 << 20);
            let taken = fill(&write, &bytes);
            assert!(write.is_committed());
            write.shutdown();
            let mut got = Vec::new();
            // It ends without the farewell of TLS: that would have had to stand behind the stuck record.
            assert!(theirs.read_to_end(&mut got).await.is_err());
            assert!(got == bytes[..taken], "{} bytes arrived, {taken} were taken", got.len());
        }
    }

    #[tokio::test]
    async fn an_orderly_end_is_told_and_seen() {
        let (mut read, write, mut theirs) = pair().await;
        assert_eq!(write.try_write_vectored(&[IoSlice::new(b"bye")]).unwrap(), 3);
        write.shutdown();
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).await.expect("told");
        assert_eq!(got, b"bye");
        got.clear();
        read.read_to_end(&mut got).await.unwrap();
    }

    /// Reads of a few bytes at a time lose nothing of a record, nor of those that came with it.
    #[tokio::test]
    async fn small_reads_get_all_of_it() {
        use tokio::io::AsyncWriteExt;
        let (mut read, _write, mut theirs) = pair().await;
        let bytes = numbers(0, 1 << 15);
        let mut got = Vec::new();
        let take = async {
            let mut buf = [0; 100];
            while got.len() < bytes.len() {
                let n = read.read(&mut buf).await.unwrap();
                assert!(n > 0, "{}", got.len());
                got.extend_from_slice(&buf[..n]);
            }
        };
        let (written, ()) = tokio::join!(
            async {
                theirs.write_all(&bytes).await?;
                theirs.flush().await
            },
            take
        );
        written.unwrap();
        assert!(got == bytes);
        drop(theirs);
        assert_eq!(read.read(&mut [0; 10]).await.unwrap(), 0, "an end without a farewell is an end");
    }
}
