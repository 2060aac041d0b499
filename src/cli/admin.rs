//! A client of the admin server of a pointsman that runs: blocking, one request on one connection.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::args::AdminArguments;
use crate::config;

/// Longest wait for a connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for the next line. The longest step of a switchover takes 15 s.
const LINE_LIMIT: Duration = Duration::from_secs(60);

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

/// The lines of an answer, as they come.
pub(super) struct Lines(BufReader<TcpStream>);

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
    let mut lines = request(admin, &format!("GET {path} HTTP/1.0\r\nHost: {admin}\r\n\r\n"))?;
    let mut body = String::new();
    lines.0.read_to_string(&mut body).map_err(|e| format!("{admin}: {e}"))?;
    Ok(body)
}

/// Sends a document.
pub(super) fn post(admin: SocketAddr, path: &str, json: &str) -> Result<Lines, String> {
    let length = json.len();
    request(
        admin,
        &format!(
            "POST {path} HTTP/1.0\r\nHost: {admin}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{json}"
        ),
    )
}

/// HTTP/1.0, so that the body comes as it is and ends with the connection.
fn request(admin: SocketAddr, text: &str) -> Result<Lines, String> {
    let failed = |e: io::Error| match e.kind() {
        ErrorKind::ConnectionRefused => {
            format!("nothing listens on {admin}: pointsman does not run, or its admin address is another one")
        }
        _ => format!("{admin}: {e}"),
    };
    let mut stream = TcpStream::connect_timeout(&admin, CONNECT_LIMIT).map_err(failed)?;
    stream.set_read_timeout(Some(LINE_LIMIT)).map_err(failed)?;
    stream.write_all(text.as_bytes()).map_err(failed)?;
    let mut lines = Lines(BufReader::new(stream));
    let head = lines.by_ref().take_while(|line| !matches!(line, Ok(line) if line.is_empty()));
    let head: Vec<String> = head.collect::<Result<_, _>>().map_err(failed)?;
    let status = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    if status == "200" {
        return Ok(lines);
    }
    let mut body = String::new();
    // The status says enough if the reason cannot be had.
    let _ = lines.0.read_to_string(&mut body);
    Err(format!("{admin} answered {status}: {}", body.trim_end()))
}
