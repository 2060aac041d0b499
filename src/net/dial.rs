//! Dialling servers: where, in what time, and with TLS or without.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::client::{Client, set_options};
use super::tls::TlsTcp;
use super::{Resolver, Stream};
use crate::addr::AddressMap;
use crate::config::ServiceConfig;
use crate::tls::{Outgoing, Peer, explained};

/// How the servers of one leg of a service are dialled. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Dialer {
    address_map: AddressMap,
    connect_timeout: Duration,
    tls: Option<Arc<Outgoing>>,
    /// Where the names are known that servers are announced by.
    names: Resolver,
}

impl Dialer {
    /// Plain connections.
    pub fn new(address_map: AddressMap, connect_timeout: Duration, names: Resolver) -> Self {
        Self { address_map, connect_timeout, tls: None, names }
    }

    /// How the Redis servers of a service are dialled.
    pub fn of_nodes(service: &ServiceConfig, names: Resolver) -> Self {
        let plain = Self::new(service.address_map.clone(), service.connect_timeout, names);
        Self { tls: service.backend_tls.clone(), ..plain }
    }

    /// How its Sentinels are.
    pub fn of_sentinels(service: &ServiceConfig, names: Resolver) -> Self {
        let plain = Self::new(service.address_map.clone(), service.connect_timeout, names);
        Self { tls: service.sentinel_tls.clone(), ..plain }
    }

    /// Whether servers are dialled alike. (A certificate that was renewed is shown by those that are there, too.)
    pub fn dials_like(&self, other: &Self) -> bool {
        let settings = |dialer: &Self| dialer.tls.as_ref().map(|tls| tls.settings());
        self.address_map == other.address_map
            && self.connect_timeout == other.connect_timeout
            && settings(self) == settings(other)
    }

    /// Longest time for a connect, its handshake, and what is said first.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// Where a server is dialled that is announced there.
    pub fn dialled(&self, announced: SocketAddr) -> SocketAddr {
        self.address_map.dial(announced)
    }

    /// A connection to the server that is announced at an address. By TLS its certificate has to be for the name that it
    /// is announced by, or for the address.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] after [`Dialer::connect_timeout`]; [`io::ErrorKind::InvalidData`], with the reason in
    /// words, where TLS comes to nothing; otherwise the connection's.
    pub async fn connect(&self, announced: SocketAddr) -> io::Result<Client> {
        let name = self.tls.as_ref().and_then(|_| self.names.name_of(announced));
        self.connect_as(name.as_deref(), announced).await
    }

    /// The same where the name is known; an IP address is one.
    ///
    /// # Errors
    /// As [`Dialer::connect`].
    pub async fn connect_as(&self, name: Option<&str>, announced: SocketAddr) -> io::Result<Client> {
        let end = Instant::now() + self.connect_timeout;
        let connect = TcpStream::connect(self.dialled(announced));
        let stream = timeout_at(end, connect).await.map_err(|_| io::ErrorKind::TimedOut)??;
        set_options(&stream)?;
        let Some(tls) = &self.tls else { return Ok(Client::new(Stream::Tcp(stream))) };
        let address = announced.ip().to_canonical().to_string();
        let expected = tls.expected(name.unwrap_or(&address));
        let expected = expected.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("TLS: {e}")))?;
        // In a box: a plain connection's future has no room for it.
        let handshake = Box::pin(TlsConnector::from(tls.config()).connect(expected, stream));
        // A Redis that does not speak TLS there waits for the end of a line.
        let stream = timeout_at(end, handshake).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = stream.map_err(|e| match e.kind() {
            io::ErrorKind::TimedOut => perhaps_plain(&e, "does not answer the handshake"),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => perhaps_plain(&e, "ends the handshake"),
            _ => explained(e, Peer::Server),
        })?;
        let (stream, tls) = stream.into_inner();
        Ok(Client::new(Stream::Tls(Box::new(TlsTcp::new(stream, tls.into(), Peer::Server)))))
    }
}

fn perhaps_plain(error: &io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("TLS: the server {what}; perhaps it does not speak TLS on this port"))
}
