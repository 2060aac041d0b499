//! The PROXY protocol, versions 1 and 2: what a balancer says of a client in front of the client's first byte
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).

use std::io;
use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, ProxyHeader};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Longest header that is taken. Addresses need at most 107 bytes in version 1, 52 in version 2; behind those may stand
/// what pointsman has no use for, such as a certificate's name.
const MAX_HEADER: usize = 4096;

/// Longest line of version 1, its end included: so much every receiver has to have room for.
const MAX_V1: usize = 107;

/// How the two versions begin, as far as both are fixed.
const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Both ends of the connection that the balancer was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proxied {
    /// The client.
    pub source: SocketAddr,
    /// The balancer's address, as the client connected to it.
    pub destination: SocketAddr,
}

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The connection ended without a byte: a look whether somebody listens.
    #[error("the connection ended before a byte came")]
    NoData,
    /// The first bytes are not those of a header.
    #[error("a PROXY header was expected, and other bytes came")]
    Missing,
    /// It began like a header and went on unlike one, or ended.
    #[error("the PROXY header is malformed")]
    Malformed,
}

/// Whether a line that a client sent as a command is a PROXY header, or with version 2 a part of one. (Version 2 begins
/// with what servers of line protocols take for nothing, nothing and a zero byte; then it says QUIT.)
pub fn is_header_line(line: &[u8]) -> bool {
    line.starts_with(b"PROXY TCP") || line.starts_with(b"PROXY UNKNOWN") || line == b"\0\r\n"
}

/// Takes the header from the front of a connection, and not a byte more. None: the balancer speaks for itself (`LOCAL`,
/// `UNKNOWN`), as it does to see whether we are well.
///
/// # Errors
/// [`HeaderError`]; then the connection is of no use.
pub async fn receive(stream: &TcpStream) -> Result<Option<Proxied>, HeaderError> {
    let mut header = Vec::new();
    loop {
        // Looked at before it is taken: behind the header another protocol begins.
        let taken = header.len();
        let mut ahead = [0; 256];
        let n = match stream.peek(&mut ahead).await {
            // A balancer's look may end in a reset.
            Ok(0) | Err(_) if taken == 0 => return Err(HeaderError::NoData),
            Ok(0) | Err(_) => return Err(HeaderError::Malformed),
            Ok(n) => n,
        };
        header.extend_from_slice(&ahead[..n]);
        let parsed = parse(&header);
        let wanted = match &parsed {
            Ok((_, len)) => *len,
            Err(Error::BufferTooShort) if header.len() < MAX_HEADER => header.len(),
            Err(_) if begins_alike(&header) => return Err(HeaderError::Malformed),
            Err(_) => return Err(HeaderError::Missing),
        };
        if !take(stream, wanted.saturating_sub(taken)).await {
            return Err(HeaderError::Malformed);
        }
        if let Ok((proxied, _)) = parsed {
            return Ok(proxied);
        }
    }
}

/// What a header says, and how long it is.
fn parse(bytes: &[u8]) -> Result<(Option<Proxied>, usize), Error> {
    if !begins_alike(bytes) {
        return Err(Error::Invalid);
    }
    // A line of version 1 is what is there up to its end, whatever came with it: that may be seen at once, or later.
    let is_v1 = bytes.starts_with(V1);
    let end = bytes.iter().take(MAX_V1).position(|byte| is_v1 && *byte == b'\n');
    if is_v1 && end.is_none() && bytes.len() >= MAX_V1 {
        return Err(Error::Invalid);
    }
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let (header, len) = match ProxyHeader::parse(end.map_or(bytes, |end| &bytes[..=end]), config) {
        Err(Error::BufferTooShort) if end.is_some() => return Err(Error::Invalid),
        parsed => parsed?,
    };
    let proxied = header.proxied_address().map(|a| Proxied { source: a.source, destination: a.destination });
    Ok((proxied, len))
}

fn begins_alike(bytes: &[u8]) -> bool {
    [V1, V2].iter().any(|begin| begin.iter().zip(bytes).all(|(a, b)| a == b))
}

/// Takes bytes that are there.
async fn take(stream: &TcpStream, mut n: usize) -> bool {
    let mut bytes = [0; 256];
    while n > 0 {
        let part = n.min(bytes.len());
        match stream.try_read(&mut bytes[..part]) {
            Ok(0) => return false,
            Ok(read) => n -= read,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if stream.ready(Interest::READABLE).await.is_err() {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const TCP4: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 6379\r\n";

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        [V2, &[0x20 | command, family], &(rest.len() as u16).to_be_bytes(), rest].concat()
    }

    /// What comes of these bytes, sent in pieces of so many, and what is left behind them.
    async fn received(bytes: &[u8], piece: usize) -> (Result<Option<Proxied>, String>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let send = async {
            for piece in bytes.chunks(piece) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
        };
        let (result, ()) = tokio::join!(receive(&server), send);
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        (result.map_err(|e| e.to_string()), rest)
    }

    #[tokio::test]
    async fn a_header_is_taken_and_nothing_behind_it_however_it_is_cut() {
        let v4 =
            Proxied { source: "192.0.2.7:40000".parse().unwrap(), destination: "198.51.100.1:6379".parse().unwrap() };
        let v6 =
            Proxied { source: "[2001:db8::7]:1".parse().unwrap(), destination: "[2001:db8::1]:2".parse().unwrap() };
        let addr4 = [192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 0x18, 0xeb];
        let mut addr6 = [0; 36];
        addr6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        addr6[15] = 7;
        addr6[16..20].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        (addr6[31], addr6[33], addr6[35]) = (1, 1, 2);
        let with_more = [&addr4[..], &[0x05, 0x03, 0xe8], &[b'x'; 1000]].concat();
        for (header, expected) in [
            (TCP4.to_vec(), Some(v4)),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n".to_vec(), Some(v6)),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (v2(1, 0x11, &addr4), Some(v4)),
            (v2(1, 0x21, &addr6), Some(v6)),
            (v2(1, 0x11, &with_more), Some(v4)),
            (v2(0, 0x00, &[]), None),
            (v2(0, 0x11, &addr4), None),
            (v2(1, 0x00, &[]), None),
        ] {
            let bytes = [&header[..], b"PING\r\n"].concat();
            for piece in [1, 7, 4096] {
                assert_eq!(received(&bytes, piece).await, (Ok(expected), b"PING\r\n".to_vec()), "{header:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_a_header_is_told_apart() {
        let long = [V1, &[b'1'; 200]].concat();
        let long_unknown = [V1, b"UNKNOWN ", &[b'x'; 200], b"\r\n"].concat();
        let too_long = v2(1, 0x11, &[0; 5000]);
        for (bytes, expected) in [
            (&b""[..], HeaderError::NoData),
            (b"PING\r\n", HeaderError::Missing),
            (b"P", HeaderError::Malformed),
            (b"*1\r\n$4\r\nPING\r\n", HeaderError::Missing),
            (b"\r\n\r\n\0\r\nQUIZ\n", HeaderError::Missing),
            (b"PROXY TCP4 1.2.3.4\r\n", HeaderError::Malformed),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", HeaderError::Malformed),
            (b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", HeaderError::Malformed),
            (&long, HeaderError::Malformed),
            (&long_unknown, HeaderError::Malformed),
            (b"PROXY UNKNOWN\nPING\r\n", HeaderError::Malformed),
            (&too_long, HeaderError::Malformed),
            (&v2(2, 0x11, &[0; 12]), HeaderError::Malformed),
            (&v2(1, 0x11, &[0; 11]), HeaderError::Malformed),
            (&TCP4[..20], HeaderError::Malformed),
        ] {
            for piece in [1, 4096] {
                assert_eq!(received(bytes, piece).await.0, Err(expected.to_string()), "{bytes:?}");
            }
        }
    }

    proptest! {
        /// The library is called with whatever comes from a network.
        #[test]
        fn no_bytes_make_it_panic(
            version in 0..3usize,
            tail in proptest::collection::vec(any::<u8>(), 0..300),
            text in "(TCP4|TCP6|UNKNOWN)?[ 0-9a-f:.]{0,60}(\r\n)?",
        ) {
            let bytes = match version {
                0 => [V1, text.as_bytes()].concat(),
                1 => [V2, &tail].concat(),
                _ => tail,
            };
            if let Ok((_, len)) = parse(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }

        /// What comes in pieces is judged as soon as it can be, and not otherwise than at once.
        #[test]
        fn a_header_is_what_it_is_however_much_of_what_follows_is_seen(
            version in 0..2usize,
            tail in proptest::collection::vec(any::<u8>(), 0..60),
            text in "(TCP4|TCP6|UNKNOWN)?[ 0-9a-f:.]{0,110}(\r|\n|\r\n)?[a-z]{0,60}(\r\n)?",
        ) {
            let bytes = if version == 0 { [V1, text.as_bytes()].concat() } else { [V2, &tail].concat() };
            let judged = |n: &usize| !matches!(parse(&bytes[..*n]), Err(Error::BufferTooShort));
            if let Some(first) = (1..=bytes.len()).find(judged) {
                let [first, whole] = [first, bytes.len()].map(|n| parse(&bytes[..n]).ok());
                prop_assert_eq!(first, whole);
            }
        }
    }
}
