//! A connection that asks one thing at a time: handshakes, role probes, Sentinels. Cold.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Stream;
use crate::resp::{DecodeError, ProtocolError, ReplyScanner, Value, decode, encode_command};
use crate::tls::{Peer, explained};

/// A silent peer is probed after this long: before the idle time-outs of common NATs and balancers (60 s and up).
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Then this often ...
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// ... until so many probes went unanswered: a peer that vanished is found within half a minute. Whoever has to know
/// sooner sends PINGs.
const KEEPALIVE_PROBES: u32 = 3;
/// Unacknowledged data for longer than this ends the connection. The kernel's own limit is about 15 minutes.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest reply taken. The largest that is asked for, a Sentinel's list of a hundred replicas, has some 100 KiB.
const MAX_FRAME: usize = 16 << 20;
/// How an answer of TLS begins that says what is wrong with a question that is not TLS (RFC 8446, 5.1 and 6).
const TLS_ALERT: &[u8] = &[21, 3];
/// Room made for a read: holds nearly every reply of the control plane.
const READ_BYTES: usize = 4096;

/// Why no reply could be had.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server closed the connection.
    #[error("closed by the server")]
    Closed,
    /// The same before it had said anything, on a plain connection: so does a Redis that expects TLS.
    #[error("closed by the server before it said anything; perhaps it speaks TLS on this port")]
    ClosedAtOnce,
    /// What came is not RESP; the connection is of no more use.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// A reply that cannot be decoded; the next one can be.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The server expects TLS; the connection is of no more use.
    #[error("the server speaks TLS on this port (see backend_tls and sentinel_tls)")]
    SpeaksTls,
    /// A reply of more than 16 MiB; the connection is of no more use.
    #[error("reply larger than {MAX_FRAME} bytes")]
    TooLarge,
}

/// A connection to a Redis server or a Sentinel. Time-outs of single calls are the caller's.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    /// Begins with the reply that is being received.
    buf: BytesMut,
    scanner: ReplyScanner,
    /// Bytes of `buf` that the scanner has consumed.
    scanned: usize,
    /// Nothing was received yet.
    unheard: bool,
}

impl Client {
    /// A client on a stream on which nothing was said yet.
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, buf: BytesMut::new(), scanner: ReplyScanner::new(), scanned: 0, unheard: true }
    }

    /// Writes commands that are already encoded, one or several. Not cancel safe: half a command may have gone.
    pub async fn send(&mut self, commands: &[u8]) -> io::Result<()> {
        self.stream.write_all(commands).await?;
        // What TLS has encrypted and the kernel did not take.
        self.stream.flush().await
    }

    /// The next reply or push. Cancel safe: what has arrived is kept for the next call.
    pub async fn receive(&mut self) -> Result<Value, ClientError> {
        Ok(decode(&self.receive_frame().await?)?)
    }

    /// As [`Client::receive`], byte for byte.
    pub async fn receive_frame(&mut self) -> Result<Bytes, ClientError> {
        loop {
            let progress = match self.scanner.scan(&self.buf[self.scanned..]) {
                Ok(progress) => progress,
                Err(_) if self.buf.starts_with(TLS_ALERT) => return Err(ClientError::SpeaksTls),
                Err(e) => return Err(e.into()),
            };
            self.scanned += progress.consumed;
            if progress.complete {
                return Ok(self.buf.split_to(std::mem::take(&mut self.scanned)).freeze());
            }
            if self.buf.len() > MAX_FRAME {
                return Err(ClientError::TooLarge);
            }
            self.buf.reserve(READ_BYTES);
            let at_once = self.unheard && matches!(self.stream, Stream::Tcp(_));
            match self.stream.read_buf(&mut self.buf).await {
                Ok(0) if at_once => return Err(ClientError::ClosedAtOnce),
                Ok(0) => return Err(ClientError::Closed),
                Ok(_) => self.unheard = false,
                Err(e) if at_once && e.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(ClientError::ClosedAtOnce);
                }
                Err(e) => return Err(explained(e, Peer::Server).into()),
            }
        }
    }

    /// Sends one command and waits for the next reply. Not cancel safe: the reply owed would be taken for the next one.
    pub async fn call(&mut self, args: &[&str]) -> Result<Value, ClientError> {
        self.send(&encode_command(args)).await?;
        self.receive().await
    }

    /// Sends one encoded command and waits for its reply, byte for byte. Not cancel safe, as [`Client::call`].
    pub async fn exchange(&mut self, command: &[u8]) -> Result<Bytes, ClientError> {
        self.send(command).await?;
        self.receive_frame().await
    }

    /// The stream, and what has been read from it but not been received.
    pub fn into_parts(self) -> (Stream, BytesMut) {
        (self.stream, self.buf)
    }
}

/// What every TCP connection needs: no delay for small writes, and dead peers found in bounded time. On Linux, what is
/// accepted from a listening socket has its options from that.
pub fn set_options(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::AddressMap;
    use crate::net::{Dialer, Resolver};
    use std::net::SocketAddr;
    use tokio::net::TcpListener;

    async fn connect(addr: SocketAddr) -> io::Result<Client> {
        Dialer::new(AddressMap::default(), Duration::from_secs(5), Resolver::default()).connect(addr).await
    }

    /// A server that sends `reply` in single bytes and then closes.
    async fn served(reply: &'static [u8]) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            for byte in reply {
                stream.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        connect(addr).await.unwrap()
    }

    #[tokio::test]
    async fn replies_arrive_whole_however_they_are_cut() {
        let mut client = served(b"*2\r\n$3\r\nabc\r\n:1\r\n+OK\r\n$3\r\nxy").await;
        let first = client.receive().await.unwrap();
        assert_eq!(first, Value::Array(vec![Value::Bulk("abc".into()), Value::Int(1)]));
        assert_eq!(client.receive().await.unwrap(), Value::Simple("OK".into()));
        assert!(matches!(client.receive().await, Err(ClientError::Closed)));
    }

    #[tokio::test]
    async fn receiving_can_be_cancelled() {
        let mut client = served(b"$3\r\nabc\r\n+next\r\n").await;
        let mut reply = None;
        while reply.is_none() {
            // The yield is ready in the second poll at the latest: most of these attempts are dropped half-way.
            tokio::select! {
                biased;
                r = client.receive() => reply = Some(r.unwrap()),
                () = tokio::task::yield_now() => {}
            }
        }
        assert_eq!(reply, Some(Value::Bulk("abc".into())));
        assert_eq!(client.receive().await.unwrap(), Value::Simple("next".into()));
    }

    #[tokio::test]
    async fn what_is_not_resp_is_an_error() {
        let mut client = served(b"HTTP/1.1 400 Bad Request\r\n").await;
        assert!(matches!(client.receive().await, Err(ClientError::Protocol(_))));
    }

    #[tokio::test]
    async fn a_reply_without_end_is_not_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"$99999999\r\n").await.unwrap();
            // Ends with an error when the client has had enough.
            while stream.write_all(&[0; 1 << 16]).await.is_ok() {}
        });
        let mut client = connect(addr).await.unwrap();
        assert!(matches!(client.receive().await, Err(ClientError::TooLarge)));
    }

    #[tokio::test]
    async fn a_dead_peer_is_found() {
        let client = served(b"").await;
        let (stream, _) = client.into_parts();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        assert!(socket.tcp_nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_refused_connect_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let error = connect(addr).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
