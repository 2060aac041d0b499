//! A client of the admin server of a pointsman that runs: blocking, one request on one connection.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Take, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};

use super::args::{AdminArguments, AdminTls};
use crate::addr::{Endpoint, ListenAddr};
use crate::config::{self, Environment, Secret};
use crate::tls::{self, Outgoing, OutgoingSettings};

/// Longest wait for a connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for the next part of a page: it is there already.
const PAGE_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for the next line of a report. The longest step of a switchover takes 15 s.
const LINE_LIMIT: Duration = Duration::from_secs(60);
/// Longest answer that is read; whatever is longer does not come from a pointsman.
const ANSWER_BYTES: u64 = 64 << 20;

/// Where an admin server is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// A host, by name or address, and a port.
    Tcp(Endpoint),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            None => {
                text.parse().map(Self::Tcp).map_err(|_| format!("expected HOST:PORT or unix:/path, found `{text}`"))
            }
            Some(_) => Err(format!("expected unix:/path, found `{text}`")),
        }
    }
}

impl From<ListenAddr> for Place {
    fn from(address: ListenAddr) -> Self {
        match address {
            ListenAddr::Unix(path) => Self::Unix(path),
            ListenAddr::Tcp(mut address) => {
                // It may listen on all addresses; without a token orders are taken on a loopback one.
                if address.ip().is_unspecified() {
                    address.set_ip(loopback(address.is_ipv4()));
                }
                Self::Tcp(address.into())
            }
        }
    }
}

fn loopback(v4: bool) -> IpAddr {
    if v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(endpoint) => endpoint.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The admin server of a pointsman that runs, and what is needed to be heard there.
#[derive(Debug)]
pub(super) struct Admin {
    place: Place,
    tls: Option<Outgoing>,
    token: Option<Secret>,
}

impl fmt::Display for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)
    }
}

/// The admin server that is meant, by flags or by the file that the pointsman was started with.
pub(super) fn address(arguments: &AdminArguments) -> Result<Admin, String> {
    let environment = Environment::of_process().map_err(|problems| problems.to_string())?;
    let configured = match &arguments.config {
        None => None,
        Some(path) => {
            let (settings, _) = config::load(path).map_err(|problems| problems.to_string())?;
            let access = settings.admin_access(&environment).map_err(|problem| problem.to_string())?;
            Some(access.ok_or_else(|| format!("{} gives no admin address", path.display()))?)
        }
    };
    let place = match (&arguments.admin, &configured) {
        // `0.0.0.0` is what its configuration says, perhaps; nobody can be reached there.
        (Some(Place::Tcp(Endpoint { host, port })), _) => match host.parse::<IpAddr>() {
            Ok(ip) => ListenAddr::Tcp(SocketAddr::new(ip, *port)).into(),
            Err(_) => Place::Tcp(Endpoint { host: host.clone(), port: *port }),
        },
        (Some(unix), _) => unix.clone(),
        (None, Some(configured)) => configured.address.clone().into(),
        (None, None) => {
            return Err("say which pointsman by --admin HOST:PORT, --admin unix:/path or --config FILE".to_owned());
        }
    };
    let token = match &arguments.token_file {
        Some(path) => Some(config::token_of(path)?),
        None => configured.as_ref().and_then(|c| c.token.clone()).or(environment.admin_token.map(|t| t.value)),
    };
    let speaks_tls = arguments.admin.is_none() && configured.is_some_and(|configured| configured.tls);
    let tls = tls_settings(&arguments.tls, speaks_tls)?;
    let tls = tls.map(Outgoing::load).transpose().map_err(|fault| format!("TLS: {}", fault.message))?;
    Ok(Admin { place, tls, token })
}

/// None: TLS is not spoken.
fn tls_settings(arguments: &AdminTls, configured: bool) -> Result<Option<OutgoingSettings>, String> {
    let AdminTls { tls, tls_ca_file, tls_cert_file, tls_key_file, tls_server_name, tls_verify } = arguments;
    let given = tls_ca_file.is_some() || tls_cert_file.is_some() || tls_server_name.is_some() || tls_verify.is_some();
    if !(*tls || given || configured) {
        return Ok(None);
    }
    Ok(Some(OutgoingSettings {
        ca_file: tls_ca_file.clone(),
        identity: tls_cert_file.clone().zip(tls_key_file.clone()),
        server_name: tls_server_name.clone(),
        verify: tls_verify.unwrap_or_default(),
    }))
}

/// Why there is no answer, or none that helps.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Nobody, or no pointsman.
    #[error("{0}")]
    NotThere(String),
    /// It would not.
    #[error("{admin} answered {status}: {body}{}", advice(*.status))]
    Answered { admin: String, status: u16, body: String },
}

fn advice(status: u16) -> &'static str {
    if status == 401 { " (--token-file FILE, POINTSMAN_ADMIN_TOKEN, or --config FILE)" } else { "" }
}

impl From<Failure> for String {
    fn from(failure: Failure) -> Self {
        failure.to_string()
    }
}

/// A connection, whatever it is made of.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// The lines of an answer, as they come.
pub(super) struct Lines(BufReader<Take<Box<dyn Stream>>>);

impl Iterator for Lines {
    type Item = io::Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(Ok(line.trim_end().to_owned())),
            Err(e) => Some(Err(e)),
        }
    }
}

/// The body of a page.
pub(super) fn get(admin: &Admin, path: &str) -> Result<String, String> {
    let mut lines = admin.request(&format!("GET {path} HTTP/1.0\r\n"), "", PAGE_LIMIT)?;
    let mut body = String::new();
    lines.0.read_to_string(&mut body).map_err(|e| admin.failed(PAGE_LIMIT, e))?;
    Ok(body)
}

/// Sends a document.
pub(super) fn post(admin: &Admin, path: &str, json: &str) -> Result<Lines, Failure> {
    let length = json.len();
    let head = format!("POST {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n");
    admin.request(&head, json, LINE_LIMIT)
}

impl Admin {
    /// HTTP/1.0, so that the body comes as it is and ends with the connection. `limit`: how long to wait for more of it.
    fn request(&self, head: &str, body: &str, limit: Duration) -> Result<Lines, Failure> {
        let broken = |e: io::Error| Failure::NotThere(self.failed(limit, e));
        let mut stream = self.connect(limit).map_err(|e| Failure::NotThere(self.failed(CONNECT_LIMIT, e)))?;
        let host = match &self.place {
            Place::Tcp(endpoint) => endpoint.to_string(),
            Place::Unix(_) => "localhost".to_owned(),
        };
        let token = self.token.as_ref().map(|token| String::from_utf8_lossy(token.expose()));
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        stream.write_all(format!("{head}Host: {host}\r\n{token}\r\n{body}").as_bytes()).map_err(broken)?;
        stream.flush().map_err(broken)?;
        let mut lines = Lines(BufReader::new(stream.take(ANSWER_BYTES)));
        let head = lines.by_ref().take_while(|line| !matches!(line, Ok(line) if line.is_empty()));
        let head: Vec<String> = head.collect::<Result<_, _>>().map_err(broken)?;
        let Some(first) = head.first() else {
            let why = format!("{self} closed the connection without an answer: {}", self.not_admin());
            return Err(Failure::NotThere(why));
        };
        let Some((_, status)) = first.split_once(' ').filter(|_| first.starts_with("HTTP/1.")) else {
            return Err(Failure::NotThere(format!("{self} does not answer in HTTP: {}", self.not_admin())));
        };
        if status.starts_with("200") {
            return Ok(lines);
        }
        let mut body = String::new();
        // The status says enough if the reason cannot be had.
        let _ = lines.0.read_to_string(&mut body);
        let status = status.get(..3).and_then(|code| code.parse().ok()).unwrap_or_default();
        Err(Failure::Answered { admin: self.to_string(), status, body: body.trim_end().to_owned() })
    }

    fn connect(&self, limit: Duration) -> io::Result<Box<dyn Stream>> {
        let endpoint = match &self.place {
            Place::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(limit))?;
                return Ok(Box::new(stream));
            }
            Place::Tcp(endpoint) => endpoint,
        };
        let mut outcome = Err(ErrorKind::AddrNotAvailable.into());
        for address in (endpoint.host.as_str(), endpoint.port).to_socket_addrs()? {
            outcome = TcpStream::connect_timeout(&address, CONNECT_LIMIT);
            if outcome.is_ok() {
                break;
            }
        }
        let mut stream = outcome?;
        stream.set_read_timeout(Some(limit))?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let name = tls.expected(&endpoint.host).map_err(io::Error::other)?;
        let mut session = ClientConnection::new(Arc::clone(&tls.config()), name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(Box::new(StreamOwned::new(session, stream)))
    }

    /// What became of a connection, in words that say where to look.
    fn failed(&self, limit: Duration, error: io::Error) -> String {
        match error.kind() {
            _ if self.tls.is_some() && tls::is_fault(&error) => {
                format!("{self}: {}", tls::explained(error, tls::Peer::Server))
            }
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => {
                format!("nothing listens on {self}: pointsman does not run, or its admin address is another one")
            }
            // The second is what a read that takes too long gives on Unix.
            ErrorKind::TimedOut | ErrorKind::WouldBlock => format!("{self} does not answer within {limit:?}"),
            ErrorKind::InvalidData => format!("{self} does not answer in text: {}", self.not_admin()),
            _ => format!("{self}: {error}"),
        }
    }

    fn not_admin(&self) -> &'static str {
        match self.tls {
            None => {
                "that is not the admin address of a pointsman (`admin` in its configuration), or TLS is spoken there (--tls)"
            }
            Some(_) => "that is not the admin address of a pointsman (`admin` in its configuration)",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_server_has_a_host_or_a_path() {
        let place = |text: &str| text.parse::<Place>().map(|place| place.to_string());
        for right in ["127.0.0.1:9600", "[::1]:9600", "proxy-1.example:9600", "unix:/run/pointsman/admin.sock"] {
            assert_eq!(place(right).as_deref(), Ok(right));
        }
        for wrong in ["9600", "unix:admin.sock", "http://127.0.0.1:9600", "unix:"] {
            assert!(place(wrong).is_err_and(|e| e.contains(wrong)), "{wrong}");
        }
        assert_eq!(Place::from(ListenAddr::Tcp(([0, 0, 0, 0], 1).into())).to_string(), "127.0.0.1:1");
    }
}
