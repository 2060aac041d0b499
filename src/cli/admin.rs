//! A client of the admin server of a pointsman that runs: blocking, one request on one connection.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Take, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::args::AdminArguments;
use crate::config;

/// Longest wait for a connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for the next part of a page: it is there already.
const PAGE_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for the next line of a report. The longest step of a switchover takes 15 s.
const LINE_LIMIT: Duration = Duration::from_secs(60);
/// Longest answer that is read; whatever is longer does not come from a pointsman.
const ANSWER_BYTES: u64 = 64 << 20;

/// Where the running pointsman has its admin server, by flag or by the file that it was started with.
pub(super) fn address(arguments: &AdminArguments) -> Result<SocketAddr, String> {
    let mut address = match (&arguments.admin, &arguments.config) {
        (Some(address), _) => *address,
        (None, Some(path)) => {
            let (settings, _) = config::load(path).map_err(|problems| problems.to_string())?;
            settings.admin.ok_or_else(|| format!("{} gives no admin address", path.display()))?.value
        }
        (None, None) => return Err("say which pointsman by --admin IP:PORT or --config FILE".to_owned()),
    };
    // It may listen on all addresses; orders are taken on a loopback one.
    if address.ip().is_unspecified() {
        let local: IpAddr = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(local);
    }
    Ok(address)
}

/// Why there is no answer, or none that helps.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Nobody, or no pointsman.
    #[error("{0}")]
    NotThere(String),
    /// It would not.
    #[error("{admin} answered {status}: {body}")]
    Answered { admin: SocketAddr, status: u16, body: String },
}

impl From<Failure> for String {
    fn from(failure: Failure) -> Self {
        failure.to_string()
    }
}

/// The lines of an answer, as they come.
pub(super) struct Lines(BufReader<Take<TcpStream>>);

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
pub(super) fn get(admin: SocketAddr, path: &str) -> Result<String, String> {
    let mut lines = request(admin, &format!("GET {path} HTTP/1.0\r\nHost: {admin}\r\n\r\n"), PAGE_LIMIT)?;
    let mut body = String::new();
    lines.0.read_to_string(&mut body).map_err(|e| failed(admin, PAGE_LIMIT, &e))?;
    Ok(body)
}

/// Sends a document.
pub(super) fn post(admin: SocketAddr, path: &str, json: &str) -> Result<Lines, Failure> {
    let length = json.len();
    let text = format!(
        "POST {path} HTTP/1.0\r\nHost: {admin}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{json}"
    );
    request(admin, &text, LINE_LIMIT)
}

/// HTTP/1.0, so that the body comes as it is and ends with the connection. `limit`: how long to wait for more of it.
fn request(admin: SocketAddr, text: &str, limit: Duration) -> Result<Lines, Failure> {
    let broken = |e: io::Error| Failure::NotThere(failed(admin, limit, &e));
    let refused = |e: io::Error| Failure::NotThere(failed(admin, CONNECT_LIMIT, &e));
    let mut stream = TcpStream::connect_timeout(&admin, CONNECT_LIMIT).map_err(refused)?;
    stream.set_read_timeout(Some(limit)).map_err(broken)?;
    stream.write_all(text.as_bytes()).map_err(broken)?;
    let mut lines = Lines(BufReader::new(stream.take(ANSWER_BYTES)));
    let head = lines.by_ref().take_while(|line| !matches!(line, Ok(line) if line.is_empty()));
    let head: Vec<String> = head.collect::<Result<_, _>>().map_err(broken)?;
    let Some(first) = head.first() else {
        let why = format!("{admin} closed the connection without an answer: {NOT_ADMIN}");
        return Err(Failure::NotThere(why));
    };
    let Some((_, status)) = first.split_once(' ').filter(|_| first.starts_with("HTTP/1.")) else {
        return Err(Failure::NotThere(format!("{admin} does not answer in HTTP: {NOT_ADMIN}")));
    };
    if status.starts_with("200") {
        return Ok(lines);
    }
    let mut body = String::new();
    // The status says enough if the reason cannot be had.
    let _ = lines.0.read_to_string(&mut body);
    let status = status.get(..3).and_then(|code| code.parse().ok()).unwrap_or_default();
    Err(Failure::Answered { admin, status, body: body.trim_end().to_owned() })
}

const NOT_ADMIN: &str = "that is not the admin address of a pointsman (`admin` in its configuration)";

/// What became of a connection, in words that say where to look.
fn failed(admin: SocketAddr, limit: Duration, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => {
            format!("nothing listens on {admin}: pointsman does not run, or its admin address is another one")
        }
        // The second is what a read that takes too long gives on Unix.
        ErrorKind::TimedOut | ErrorKind::WouldBlock => format!("{admin} does not answer within {limit:?}"),
        ErrorKind::InvalidData => format!("{admin} does not answer in text: {NOT_ADMIN}"),
        _ => format!("{admin}: {error}"),
    }
}
