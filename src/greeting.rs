//! What comes before a client's first command, where its listener asks for something: a PROXY header, a TLS handshake.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use crate::addr::ClientAddr;
use crate::complaints::Complaints;
use crate::config::ListenerConfig;
use crate::metrics::{CloseReason, Limit, ProxyHeader, ServiceStats, TlsHandshake};
use crate::net::{HandshakeError, Handshakes, HeaderError, Proxied, Stream, receive_proxy_header};
use crate::resp::OwnError;
use crate::tls::{Cause, Incoming};

/// A client that has not said anything yet.
#[derive(Debug)]
pub struct Newcomer {
    /// Its connection.
    pub stream: Stream,
    /// Its address; of a client behind a balancer, the balancer's until it has said whose it is.
    pub addr: ClientAddr,
    /// The address that it connected to.
    pub laddr: ClientAddr,
    /// A balancer's connection that brings nobody.
    pub is_balancers_own: bool,
}

impl Newcomer {
    /// One that has just been accepted.
    pub fn new(stream: Stream, addr: ClientAddr, laddr: ClientAddr) -> Self {
        Self { stream, addr, laddr, is_balancers_own: false }
    }

    /// Whether its listener lets it in. One without an address has shown by the permissions of a file that it may.
    pub fn is_allowed(&self, listener: &ListenerConfig) -> bool {
        let is_in = self.addr.ip().is_none_or(|ip| listener.allow.contains(ip));
        is_in || self.is_balancers_own || listener.allow.is_empty()
    }

    /// Says why it is turned away. Its socket is fresh and takes the line at once, or nobody is there any more.
    pub fn turn_away(self, line: &[u8]) {
        self.stream.send_at_once(line);
    }
}

/// Whether something has to come before the client is served.
pub fn is_due(newcomer: &Newcomer, listener: &ListenerConfig) -> bool {
    listener.tls.is_some() || behind_balancer(newcomer, listener).is_some()
}

/// The balancer that the client comes from, if it is one that has to say who it is.
fn behind_balancer(newcomer: &Newcomer, listener: &ListenerConfig) -> Option<SocketAddr> {
    match newcomer.addr {
        ClientAddr::Tcp(peer) if listener.proxy_protocol.contains(peer.ip()) => Some(peer),
        _ => None,
    }
}

/// What the clients of a listener are taken in with.
#[derive(Debug)]
pub struct Reception<'a> {
    /// The listener.
    pub listener: &'a ListenerConfig,
    /// For how long what has to come is waited for, each time.
    pub limit: Duration,
    /// What is counted.
    pub stats: &'a ServiceStats,
    /// Who computes handshakes.
    pub handshakes: &'a Handshakes,
    /// What is said of PROXY headers.
    pub of_headers: &'a Complaints,
    /// What is said of handshakes, by their outcome.
    pub of_handshakes: &'a [Complaints],
}

impl Reception<'_> {
    /// Takes what has to come.
    ///
    /// # Errors
    /// Why the client was turned away; its connection is closed when this returns.
    pub async fn receive(&self, newcomer: Newcomer) -> Result<Newcomer, CloseReason> {
        let newcomer = self.receive_header(newcomer).await?;
        match &self.listener.tls {
            Some(tls) => self.shake_hands(newcomer, tls).await,
            None => Ok(newcomer),
        }
    }

    async fn receive_header(&self, mut newcomer: Newcomer) -> Result<Newcomer, CloseReason> {
        let behind = behind_balancer(&newcomer, self.listener);
        let (Some(balancer), Stream::Tcp(stream)) = (behind, &mut newcomer.stream) else {
            return Ok(newcomer);
        };
        let (outcome, error) = match timeout(self.limit, receive_proxy_header(stream)).await {
            Ok(Ok(Some(Proxied { source, destination }))) => {
                self.stats.proxied(ProxyHeader::Client);
                newcomer.addr = ClientAddr::Tcp(source);
                newcomer.laddr = ClientAddr::Tcp(destination);
                return Ok(newcomer);
            }
            Ok(Ok(None)) => {
                self.stats.proxied(ProxyHeader::Local);
                newcomer.is_balancers_own = true;
                return Ok(newcomer);
            }
            // A balancer's look whether somebody listens: nothing to tell anybody.
            Ok(Err(HeaderError::NoData)) => return Err(CloseReason::NoData),
            Ok(Err(e @ HeaderError::Missing)) => (ProxyHeader::Missing, e.to_string()),
            Ok(Err(e @ HeaderError::Malformed)) => (ProxyHeader::Malformed, e.to_string()),
            Err(_) => {
                self.stats.reached(Limit::HandshakeTimeout);
                let error = format!("no PROXY header came within {:?} (limits.handshake_timeout)", self.limit);
                (ProxyHeader::Timeout, error)
            }
        };
        self.stats.proxied(outcome);
        if let Some(unsaid) = self.of_headers.due() {
            tracing::warn!(listener = %self.listener.address, from = %balancer, unsaid, "client refused: {error}");
        }
        newcomer.turn_away(&OwnError::Denied.line(&format!("{error}; it is expected of {}", balancer.ip())));
        Err(CloseReason::ProxyHeader)
    }

    async fn shake_hands(&self, newcomer: Newcomer, tls: &Incoming) -> Result<Newcomer, CloseReason> {
        let Newcomer { stream, addr, laddr, is_balancers_own } = newcomer;
        let Stream::Tcp(socket) = stream else { return Err(CloseReason::Internal) };
        let (outcome, error) = match timeout(self.limit, self.handshakes.accept(socket, tls.config())).await {
            Ok(Ok(stream)) => {
                self.stats.shaken(TlsHandshake::Done);
                if let Some(subject) = stream.subject() {
                    tracing::debug!(listener = %self.listener.address, from = %addr, %subject, "client known by its certificate");
                }
                return Ok(Newcomer { stream, addr, laddr, is_balancers_own });
            }
            Ok(Err(HandshakeError { cause, error })) => {
                let outcome = match cause {
                    Some(Cause::Plain) => TlsHandshake::Plain,
                    Some(Cause::NoCertificate) => TlsHandshake::NoCertificate,
                    Some(Cause::Certificate) => TlsHandshake::Certificate,
                    Some(Cause::Other) => TlsHandshake::Failed,
                    None => TlsHandshake::Closed,
                };
                (outcome, error.to_string())
            }
            Err(_) => {
                self.stats.reached(Limit::HandshakeTimeout);
                (TlsHandshake::Timeout, format!("TLS: no handshake within {:?} (limits.handshake_timeout)", self.limit))
            }
        };
        self.stats.shaken(outcome);
        // A balancer's look whether somebody listens ends like this, and so does whoever scans for open ports.
        if outcome == TlsHandshake::Closed {
            tracing::debug!(listener = %self.listener.address, from = %addr, "client left in its TLS handshake: {error}");
            return Err(CloseReason::NoData);
        }
        if let Some(unsaid) = self.of_handshakes[outcome as usize].due() {
            tracing::warn!(listener = %self.listener.address, from = %addr, unsaid, "client refused: {error}");
        }
        Err(CloseReason::TlsHandshake)
    }
}
