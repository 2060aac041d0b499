//! What is wrong with bytes that are not RESP.

use bytes::Bytes;

/// A frame that cannot be accepted. The connection it came on is lost: nothing behind it can be told apart.
///
/// From a client: answer [`reply`](Self::reply), then close. From a backend ([`BadReply`](Self::BadReply)): close.
/// The texts are those of Redis 7.0 (`networking.c`, `setProtocolError` and its callers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// An inline command with a quote that is not closed, or not followed by a blank.
    #[error("unbalanced quotes in request")]
    UnbalancedQuotes,
    /// An inline command longer than 64 KiB.
    #[error("too big inline request")]
    TooBigInline,
    /// 64 KiB after a `*` without the end of a line.
    #[error("too big mbulk count string")]
    TooBigMultibulkCount,
    /// The number of arguments is not a number, or does not fit 31 bits.
    #[error("invalid multibulk length")]
    InvalidMultibulkLength,
    /// An argument that is not a bulk string; carries the byte found in place of the `$`.
    #[error("expected '$', got '{}'", char::from(*.0))]
    ExpectedBulk(u8),
    /// 64 KiB after a `$` without the end of a line.
    #[error("too big bulk count string")]
    TooBigBulkCount,
    /// The length of an argument is not a number, or negative.
    #[error("invalid bulk length")]
    InvalidBulkLength,
    /// The length of an argument is over `proto-max-bulk-len`. Redis does not tell it from the other.
    #[error("invalid bulk length")]
    TooLargeBulk,
    /// More than 10 arguments before authentication.
    #[error("unauthenticated multibulk length")]
    UnauthenticatedMultibulk,
    /// An argument of more than 16,384 bytes before authentication.
    #[error("unauthenticated bulk length")]
    UnauthenticatedBulk,
    /// `POST` or `Host:` as a command: somebody makes a browser talk to us. Closed without a word, as Redis does.
    #[error("an HTTP request")]
    Http,
    /// A backend sent what is not a reply.
    #[error("not a reply: {0}")]
    BadReply(&'static str),
}

impl ProtocolError {
    /// What the client is told before its connection is closed; `None` where it is closed silently.
    pub fn reply(&self) -> Option<Bytes> {
        let text: &[u8] = match self {
            Self::Http | Self::BadReply(_) => return None,
            Self::ExpectedBulk(found) => return Some(expected_bulk(*found)),
            Self::UnbalancedQuotes => b"-ERR Protocol error: unbalanced quotes in request\r\n",
            Self::TooBigInline => b"-ERR Protocol error: too big inline request\r\n",
            Self::TooBigMultibulkCount => b"-ERR Protocol error: too big mbulk count string\r\n",
            Self::InvalidMultibulkLength => b"-ERR Protocol error: invalid multibulk length\r\n",
            Self::TooBigBulkCount => b"-ERR Protocol error: too big bulk count string\r\n",
            Self::InvalidBulkLength | Self::TooLargeBulk => b"-ERR Protocol error: invalid bulk length\r\n",
            Self::UnauthenticatedMultibulk => b"-ERR Protocol error: unauthenticated multibulk length\r\n",
            Self::UnauthenticatedBulk => b"-ERR Protocol error: unauthenticated bulk length\r\n",
        };
        Some(Bytes::copy_from_slice(text))
    }
}

fn expected_bulk(found: u8) -> Bytes {
    let mut line = b"-ERR Protocol error: expected '$', got '".to_vec();
    match found {
        // Redis formats this as a C string, which a NUL ends, closing quote and all.
        0 => {}
        b'\r' | b'\n' => line.extend_from_slice(b" '"),
        byte => line.extend_from_slice(&[byte, b'\'']),
    }
    line.extend_from_slice(b"\r\n");
    line.into()
}
