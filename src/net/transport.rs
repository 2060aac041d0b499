//! The byte streams of both legs, TCP, TLS or Unix, split into a half that is awaited and a half that anyone may write to.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use super::tls::{TlsRead, TlsTcp, TlsWrite};

/// A connected stream.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix stream socket.
    Unix(UnixStream),
    /// TLS over TCP, its handshake done.
    Tls(Box<TlsTcp>),
}

impl Stream {
    /// Sends what the socket takes at once, past the runtime, which knows nothing yet of a socket that it was just given.
    /// What the peer has sent is thrown away: left unread it would make a reset of the close, which can overtake the rest.
    pub fn send_at_once(mut self, bytes: &[u8]) {
        let mut sealed = Vec::new();
        let bytes = match &mut self {
            Self::Tcp(_) | Self::Unix(_) => bytes,
            Self::Tls(s) => {
                s.seal(bytes, &mut sealed);
                &sealed
            }
        };
        let fd = self.as_fd();
        let _ = rustix::net::recv(fd, &mut [0; 4096][..], RecvFlags::DONTWAIT);
        let _ = rustix::net::send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Whose certificate the other side has shown, if it has shown one.
    pub fn subject(&self) -> Option<String> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => None,
            Self::Tls(s) => s.subject(),
        }
    }

    /// Splits into halves.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tls(s) => {
                let (r, w) = s.split();
                (ReadHalf::Tls(Box::new(r)), WriteHalf::new(Writer::Tls(Box::new(w))))
            }
            Self::Tcp(s) => {
                let (r, w) = s.into_split();
                (ReadHalf::Tcp(r), WriteHalf::new(Writer::Tcp(w)))
            }
            Self::Unix(s) => {
                let (r, w) = s.into_split();
                (ReadHalf::Unix(r), WriteHalf::new(Writer::Unix(w)))
            }
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(s) => s.as_fd(),
            Self::Unix(s) => s.as_fd(),
            Self::Tls(s) => s.tcp().as_fd(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Unix(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Tls(s) => Pin::new(s).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_flush(cx),
            Self::Unix(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

/// The half that is read by one task, through `AsyncRead`: after a short read tokio knows that the socket is empty and
/// saves the system call that would say so.
#[derive(Debug)]
pub enum ReadHalf {
    /// TCP.
    Tcp(tcp::OwnedReadHalf),
    /// Unix.
    Unix(unix::OwnedReadHalf),
    /// TLS.
    Tls(Box<TlsRead>),
}

impl ReadHalf {
    /// Ready when a read may give something, so that no buffer need be there before. What TLS has is known by reading only.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(s) => s.as_ref().poll_read_ready(cx).map(drop),
            Self::Unix(s) => s.as_ref().poll_read_ready(cx).map(drop),
            Self::Tls(_) => Poll::Ready(()),
        }
    }

    /// Whether the peer has sent something that was not read yet.
    pub fn has_unread(&self) -> bool {
        let fd = match self {
            Self::Tcp(s) => s.as_ref().as_fd(),
            Self::Unix(s) => s.as_ref().as_fd(),
            Self::Tls(s) => s.tcp().as_ref().as_fd(),
        };
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        rustix::net::recv(fd, &mut [0; 1][..], flags).is_ok_and(|(_, n)| n > 0)
    }

    /// Ready when the peer has ended its direction, or the connection, however much is there to be read before that.
    ///
    /// # Errors
    /// The runtime's, when it is shutting down.
    pub async fn ended(&self) -> io::Result<()> {
        // tokio has no interest in the end alone. Out-of-band data comes with it here, but nothing registers for that.
        match self {
            Self::Tcp(s) => s.ready(Interest::PRIORITY).await,
            Self::Unix(s) => s.ready(Interest::PRIORITY).await,
            Self::Tls(s) => s.tcp().ready(Interest::PRIORITY).await,
        }
        .map(drop)
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => s.poll_read(cx, buf),
        }
    }
}

/// The half that is written without awaiting, from whichever task has the bytes.
///
/// When it is dropped nothing is said to the peer: the socket is closed with its other half, or was shut down before.
/// tokio's halves end our direction then, by a system call that every client would cost.
#[derive(Debug)]
pub struct WriteHalf(Option<Writer>);

#[derive(Debug)]
enum Writer {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
    Tls(Box<TlsWrite>),
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        match self.0.take() {
            Some(Writer::Tcp(s)) => s.forget(),
            Some(Writer::Unix(s)) => s.forget(),
            Some(Writer::Tls(s)) => s.forget(),
            None => {}
        }
    }
}

impl WriteHalf {
    fn new(writer: Writer) -> Self {
        Self(Some(writer))
    }

    fn writer(&self) -> &Writer {
        self.0.as_ref().expect("it is there until it is dropped")
    }

    /// Writes what the kernel takes now. Never registers a waker, so any task may call it.
    ///
    /// # Errors
    /// `WouldBlock` when the kernel takes nothing (see [`WriteHalf::is_committed`]); otherwise the connection's error.
    pub fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        // `send` costs the kernel less than `writev`.
        match (self.writer(), bufs) {
            (Writer::Tcp(s), [one]) => s.try_write(one),
            (Writer::Unix(s), [one]) => s.try_write(one),
            (Writer::Tcp(s), _) => s.try_write_vectored(bufs),
            (Writer::Unix(s), _) => s.try_write_vectored(bufs),
            (Writer::Tls(s), _) => s.try_write_vectored(bufs),
        }
    }

    /// Whether what was last given to [`WriteHalf::try_write_vectored`], and not taken, must be what is given next or
    /// nothing any more: TLS has encrypted it. As long as nothing is given, the other side gets nothing that it can read.
    pub fn is_committed(&self) -> bool {
        match self.writer() {
            Writer::Tcp(_) | Writer::Unix(_) => false,
            Writer::Tls(s) => s.is_committed(),
        }
    }

    /// Ready when a write may succeed. Only the owner of the stream may poll it (it registers a waker).
    ///
    /// # Errors
    /// The runtime's, when it is shutting down.
    pub async fn writable(&self) -> io::Result<()> {
        match self.writer() {
            Writer::Tcp(s) => s.writable().await,
            Writer::Unix(s) => s.writable().await,
            Writer::Tls(s) => s.tcp().writable().await,
        }
    }

    /// Ends our direction: behind what was written the peer sees the end.
    pub fn finish(&self) {
        if let Writer::Tls(s) = self.writer() {
            s.say_goodbye();
        }
        let _ = rustix::net::shutdown(self.fd(), rustix::net::Shutdown::Write);
    }

    /// Ends the connection in both directions; the reading half sees an end of file.
    pub fn shutdown(&self) {
        if let Writer::Tls(s) = self.writer() {
            s.say_goodbye();
        }
        self.cut();
    }

    /// As [`WriteHalf::shutdown`], for a connection whose other half is dropped now, and with it the socket.
    pub fn part(&self) {
        if let Writer::Tls(s) = self.writer() {
            s.say_goodbye();
        }
    }

    fn cut(&self) {
        // An error means that the peer was faster.
        let _ = rustix::net::shutdown(self.fd(), rustix::net::Shutdown::Both);
    }

    /// The same, and what the peer's kernel has not acknowledged is thrown away when both halves are dropped. Otherwise
    /// the kernel goes on sending it for as long as it takes, to a peer behind a cut cable perhaps until that is mended.
    pub fn abort(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(self.fd(), Some(Duration::ZERO));
        self.cut();
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self.writer() {
            Writer::Tcp(s) => s.as_ref().as_fd(),
            Writer::Unix(s) => s.as_ref().as_fd(),
            Writer::Tls(s) => s.tcp().as_ref().as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), async { listener.accept().await });
        (Stream::Tcp(ours.unwrap()), theirs.unwrap().0)
    }

    #[tokio::test]
    async fn the_peer_sees_the_end_with_the_second_half_or_when_it_is_said() {
        let (ours, mut theirs) = pair().await;
        let (read, write) = ours.into_split();
        drop(write);
        let end = timeout(Duration::from_millis(50), theirs.read_u8()).await;
        assert!(end.is_err(), "the reading half goes on: {end:?}");
        drop(read);
        assert!(theirs.read_u8().await.is_err());

        let (ours, mut theirs) = pair().await;
        let (_read, write) = ours.into_split();
        write.finish();
        assert!(theirs.read_u8().await.is_err());
    }

    #[tokio::test]
    async fn one_slice_and_several_arrive_alike() {
        let (ours, mut theirs) = pair().await;
        let (_read, write) = ours.into_split();
        let slices = [b"one", b"two"].map(|slice| IoSlice::new(slice));
        assert_eq!(write.try_write_vectored(&slices[..1]).unwrap(), 3);
        assert_eq!(write.try_write_vectored(&slices).unwrap(), 6);
        let mut got = [0; 9];
        theirs.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"oneonetwo");
    }
}
