//! What comes before a client's first command, where its listener asks for something: a PROXY header.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use crate::addr::ClientAddr;
use crate::complaints::Complaints;
use crate::config::ListenerConfig;
use crate::metrics::{CloseReason, Limit, ProxyHeader, ServiceStats};
use crate::net::{HeaderError, Proxied, Stream, receive_proxy_header};
use crate::resp::OwnError;

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
    behind_balancer(newcomer, listener).is_some()
}

/// The balancer that the client comes from, if it is one that has to say who it is.
fn behind_balancer(newcomer: &Newcomer, listener: &ListenerConfig) -> Option<SocketAddr> {
    match newcomer.addr {
        ClientAddr::Tcp(peer) if listener.proxy_protocol.contains(peer.ip()) => Some(peer),
        _ => None,
    }
}

/// Takes what has to come, for no longer than `limit`.
///
/// # Errors
/// Why the client was turned away; its connection is closed when this returns.
pub async fn receive(
    mut newcomer: Newcomer,
    listener: &ListenerConfig,
    limit: Duration,
    stats: &ServiceStats,
    log: &Complaints,
) -> Result<Newcomer, CloseReason> {
    let (Some(balancer), Stream::Tcp(stream)) = (behind_balancer(&newcomer, listener), &mut newcomer.stream) else {
        return Ok(newcomer);
    };
    let (outcome, error) = match timeout(limit, receive_proxy_header(stream)).await {
        Ok(Ok(Some(Proxied { source, destination }))) => {
            stats.proxied(ProxyHeader::Client);
            newcomer.addr = ClientAddr::Tcp(source);
            newcomer.laddr = ClientAddr::Tcp(destination);
            return Ok(newcomer);
        }
        Ok(Ok(None)) => {
            stats.proxied(ProxyHeader::Local);
            newcomer.is_balancers_own = true;
            return Ok(newcomer);
        }
        // A balancer's look whether somebody listens: nothing to tell anybody.
        Ok(Err(HeaderError::NoData)) => return Err(CloseReason::NoData),
        Ok(Err(e @ HeaderError::Missing)) => (ProxyHeader::Missing, e.to_string()),
        Ok(Err(e @ HeaderError::Malformed)) => (ProxyHeader::Malformed, e.to_string()),
        Err(_) => {
            stats.reached(Limit::HandshakeTimeout);
            (ProxyHeader::Timeout, format!("no PROXY header came within {limit:?} (limits.handshake_timeout)"))
        }
    };
    stats.proxied(outcome);
    if let Some(unsaid) = log.due() {
        tracing::warn!(listener = %listener.address, from = %balancer, unsaid, "client refused: {error}");
    }
    newcomer.turn_away(&OwnError::Denied.line(&format!("{error}; it is expected of {}", balancer.ip())));
    Err(CloseReason::ProxyHeader)
}
