//! Addresses, each with a type that says what it is.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Host (name or IP literal) and port as configured or announced, not yet resolved.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// A DNS name, an IPv4 literal, or an IPv6 literal without brackets.
    pub host: String,
    /// TCP port, never 0.
    pub port: u16,
}

impl Endpoint {
    /// The address itself, if `host` is an IP literal.
    pub fn literal(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(a: SocketAddr) -> Self {
        Self { host: a.ip().to_string(), port: a.port() }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// Where servers are dialled that cannot be reached from here as they are announced (behind NAT, in containers).
///
/// Everything else goes by the announced addresses: they are what Sentinels and nodes call each other, and what is
/// compared. An address with a port comes before the same without.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AddressMap(Arc<BTreeMap<Place, Place>>);

/// An address with a port, or with whichever.
type Place = (IpAddr, Option<u16>);

impl AddressMap {
    /// A map of these pairs, each announced and dialled: both `IP:PORT`, or both an IP alone, whose ports stay.
    ///
    /// # Errors
    /// What is wrong with which pair.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut map = BTreeMap::new();
        for (announced, dialled) in pairs {
            let parse = |text: &str| {
                let whole = text.parse::<SocketAddr>().ok().map(|a| (a.ip().to_canonical(), Some(a.port())));
                whole.or_else(|| Some((text.parse::<IpAddr>().ok()?.to_canonical(), None)))
            };
            match (parse(announced), parse(dialled)) {
                (Some(from @ (_, None)), Some(to @ (_, None)))
                | (Some(from @ (_, Some(_))), Some(to @ (_, Some(1..)))) => {
                    map.insert(from, to);
                }
                _ => return Err(format!("expected IP:PORT = IP:PORT or IP = IP, found `{announced}` = `{dialled}`")),
            }
        }
        Ok(Self(Arc::new(map)))
    }

    /// Where to dial what is announced as this.
    pub fn dial(&self, announced: SocketAddr) -> SocketAddr {
        let ip = announced.ip().to_canonical();
        let found = self.0.get(&(ip, Some(announced.port()))).or_else(|| self.0.get(&(ip, None)));
        found.map_or(announced, |(ip, port)| SocketAddr::new(*ip, port.unwrap_or(announced.port())))
    }
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found `{found}`")]
pub struct AddrError {
    /// What would have been accepted.
    pub expected: &'static str,
    /// What was there.
    pub found: String,
}

impl FromStr for Endpoint {
    type Err = AddrError;
    fn from_str(s: &str) -> Result<Self, AddrError> {
        let bad = || AddrError { expected: "HOST:PORT", found: s.to_owned() };
        let (host, port) = if let Some(rest) = s.strip_prefix('[') {
            let (host, port) = rest.split_once("]:").ok_or_else(bad)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
            (host, port)
        } else {
            s.rsplit_once(':').filter(|(h, _)| !h.contains(':')).ok_or_else(bad)?
        };
        let port: u16 = port.parse().map_err(|_| bad())?;
        if host.is_empty() || port == 0 || host.chars().any(|c| c.is_whitespace() || c == '/') {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Where a listener listens: `IP:PORT` or `unix:/path`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ListenAddr {
    /// A TCP address; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A Unix stream socket at this path.
    Unix(PathBuf),
}

/// One end of a client's connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientAddr {
    /// Of a TCP connection.
    Tcp(SocketAddr),
    /// The path of the socket that the client connected to.
    Unix(Arc<str>),
}

impl ClientAddr {
    /// The address without its port; none of a Unix connection. An IPv4 address is one however it came.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(addr) => Some(addr.ip().to_canonical()),
            Self::Unix(_) => None,
        }
    }
}

/// Networks of addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the address is in one of them. An IPv4 address is one also where it came to an IPv6 socket.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.contains(&ip))
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

/// As Redis writes it in `CLIENT LIST`: `IP:PORT`, or `/path:0` for both ends of a Unix connection.
impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "{path}:0"),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(a) => a.fmt(f),
            Self::Unix(p) => write!(f, "unix:{}", p.display()),
        }
    }
}

impl FromStr for ListenAddr {
    type Err = AddrError;
    fn from_str(s: &str) -> Result<Self, AddrError> {
        if let Some(path) = s.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(AddrError { expected: "unix:/path/to/socket", found: s.to_owned() });
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        s.parse::<SocketAddr>()
            .map(Self::Tcp)
            .map_err(|_| AddrError { expected: "IP:PORT or unix:/path", found: s.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_a_port_comes_before_the_same_without() {
        let map = AddressMap::new([
            ("10.0.0.1:6379", "127.0.0.1:7001"),
            ("10.0.0.1", "192.0.2.1"),
            ("2001:db8::1", "::1"),
            ("[2001:db8::2]:6379", "127.0.0.1:7002"),
        ]);
        let map = map.expect("a map");
        for (announced, dialled) in [
            ("10.0.0.1:6379", "127.0.0.1:7001"),
            ("[::ffff:10.0.0.1]:6379", "127.0.0.1:7001"),
            ("10.0.0.1:6380", "192.0.2.1:6380"),
            ("[2001:db8::1]:9", "[::1]:9"),
            ("[2001:db8::2]:6379", "127.0.0.1:7002"),
            ("[2001:db8::2]:6380", "[2001:db8::2]:6380"),
            ("127.0.0.1:7001", "127.0.0.1:7001"),
        ] {
            let parse = |text: &str| text.parse::<SocketAddr>().expect("an address");
            assert_eq!(map.dial(parse(announced)), parse(dialled), "{announced}");
        }
    }

    #[test]
    fn an_ipv4_address_is_in_its_network_however_it_came() {
        let networks: Networks =
            ["192.168.255.0/24", "2001:db8::/32"].iter().map(|n| n.parse().expect("one")).collect();
        for (ip, is_in) in [
            ("192.168.255.9", true),
            ("::ffff:192.168.255.9", true),
            ("192.168.254.9", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(networks.contains(ip.parse().expect("an address")), is_in, "{ip}");
        }
    }

    #[test]
    fn both_sides_have_a_port_or_neither() {
        for (announced, dialled) in [
            ("10.0.0.1:1", "10.0.0.2"),
            ("10.0.0.1", "10.0.0.2:1"),
            ("redis:1", "10.0.0.2:1"),
            ("10.0.0.1:1", "10.0.0.2:0"),
        ] {
            let error = AddressMap::new([(announced, dialled)]).expect_err(announced);
            assert!(error.contains(&format!("found `{announced}` = `{dialled}`")), "{error}");
        }
    }
}
