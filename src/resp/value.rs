//! Replies taken apart, for the control plane: `ROLE`, `HELLO`, Sentinel. Cold.
//!
//! The decoding is redis-protocol's, which recurses, cannot be stopped half-way and knows each RESP version by itself.
//! So it is shown only whole frames of bounded depth, and RESP2 nulls in RESP3 frames are rewritten for it.

use bytes::{Bytes, BytesMut};
use redis_protocol::error::RedisProtocolError;
use redis_protocol::resp2::types::BytesFrame as Resp2;
use redis_protocol::resp3::types::BytesFrame as Resp3;
use redis_protocol::{resp2, resp3};

use super::number::parse;
use super::{ProtocolError, ReplyScanner};

/// Deepest nesting that is decoded; the control plane meets three levels (`COMMAND DOCS`, which it never asks for, has
/// ten).
const MAX_DEPTH: usize = 32;

/// A decoded reply. RESP3 sets are arrays here, verbatim strings bulks, big numbers simple strings.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any of the nulls.
    Null,
    /// `:`
    Int(i64),
    /// `,`
    Double(f64),
    /// `#`
    Bool(bool),
    /// `+` or `(`
    Simple(String),
    /// `-` or `!`, without the type byte.
    Error(String),
    /// `$` or `=`
    Bulk(Bytes),
    /// `*` or `~`
    Array(Vec<Value>),
    /// `%`, in no particular order.
    Map(Vec<(Value, Value)>),
    /// `>`
    Push(Vec<Value>),
}

/// Why bytes are not a [`Value`].
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not RESP.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// Less, or more, than one frame.
    #[error("not exactly one reply")]
    NotOneFrame,
    /// Deeper than any reply the control plane asks for.
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// A frame that the decoder has no place for, such as a set of arrays.
    #[error("cannot be decoded: {0}")]
    Unsupported(#[from] RedisProtocolError),
}

/// Decodes one whole frame, RESP2 or RESP3. Attributes are dropped.
pub fn decode(frame: &[u8]) -> Result<Value, DecodeError> {
    let whole = ReplyScanner::new().scan(frame)?;
    if !whole.complete || whole.consumed != frame.len() {
        return Err(DecodeError::NotOneFrame);
    }
    let survey = survey(frame)?;
    let decoded = if survey.is_resp3 {
        resp3::decode::complete::decode_bytes(&survey.with_resp3_nulls(frame))?.map(|(frame, _)| from_resp3(frame))
    } else {
        resp2::decode::decode_bytes(&Bytes::copy_from_slice(frame))?.map(|(frame, _)| from_resp2(frame))
    };
    decoded.ok_or(DecodeError::NotOneFrame)
}

/// What has to be known of a frame before it is given to the decoder.
struct Survey {
    is_resp3: bool,
    /// Offsets of `$-1` and `*-1`.
    nulls: Vec<usize>,
}

/// Walks a frame that the scanner has accepted.
fn survey(frame: &[u8]) -> Result<Survey, DecodeError> {
    let mut survey = Survey { is_resp3: false, nulls: Vec::new() };
    // Values still to come on each level that is open.
    let mut open: Vec<u64> = vec![1];
    let mut pos = 0;
    while let Some(left) = open.last_mut() {
        if *left == 0 {
            open.pop();
            continue;
        }
        let line_end = memchr::memmem::find(&frame[pos..], b"\r\n").ok_or(DecodeError::NotOneFrame)? + pos;
        let number = parse(&frame[pos + 1..line_end]);
        let kind = frame[pos];
        survey.is_resp3 |= !matches!(kind, b'+' | b'-' | b':' | b'$' | b'*');
        if kind != b'|' {
            *left -= 1;
        }
        match (kind, number) {
            (b'$' | b'*', Some(-1)) => survey.nulls.push(pos),
            (b'*' | b'~' | b'>', Some(n)) => open.push(n as u64),
            (b'%' | b'|', Some(n)) => open.push(n as u64 * 2),
            _ => {}
        }
        pos = line_end + 2;
        if let (b'$' | b'!' | b'=', Some(len @ 0..)) = (kind, number) {
            pos += len as usize + 2;
        }
        if open.len() > MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
    }
    Ok(survey)
}

impl Survey {
    /// The frame with `_` for its RESP2 nulls: a server may send them until `HELLO 3` has taken effect.
    fn with_resp3_nulls(&self, frame: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(frame.len());
        let mut from = 0;
        for null in &self.nulls {
            out.extend_from_slice(&frame[from..*null]);
            out.extend_from_slice(b"_\r\n");
            from = null + b"$-1\r\n".len();
        }
        out.extend_from_slice(&frame[from..]);
        out.freeze()
    }
}

fn from_resp2(frame: Resp2) -> Value {
    match frame {
        Resp2::SimpleString(text) => Value::Simple(lossy(&text)),
        Resp2::Error(text) => Value::Error(text.to_string()),
        Resp2::Integer(n) => Value::Int(n),
        Resp2::BulkString(data) => Value::Bulk(data),
        Resp2::Array(items) => Value::Array(items.into_iter().map(from_resp2).collect()),
        Resp2::Null => Value::Null,
    }
}

fn from_resp3(frame: Resp3) -> Value {
    let all = |items: Vec<Resp3>| items.into_iter().map(from_resp3).collect();
    match frame {
        Resp3::BlobString { data, .. } | Resp3::VerbatimString { data, .. } | Resp3::ChunkedString(data) => {
            Value::Bulk(data)
        }
        Resp3::BlobError { data, .. } => Value::Error(lossy(&data)),
        Resp3::SimpleString { data, .. } | Resp3::BigNumber { data, .. } => Value::Simple(lossy(&data)),
        Resp3::SimpleError { data, .. } => Value::Error(data.to_string()),
        Resp3::Boolean { data, .. } => Value::Bool(data),
        Resp3::Number { data, .. } => Value::Int(data),
        Resp3::Double { data, .. } => Value::Double(data),
        Resp3::Array { data, .. } => Value::Array(all(data)),
        Resp3::Push { data, .. } => Value::Push(all(data)),
        Resp3::Set { data, .. } => Value::Array(data.into_iter().map(from_resp3).collect()),
        Resp3::Map { data, .. } => {
            Value::Map(data.into_iter().map(|(key, value)| (from_resp3(key), from_resp3(value))).collect())
        }
        // A reply is never a HELLO: the scanner knows no such type.
        Resp3::Null | Resp3::Hello { .. } => Value::Null,
    }
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

impl Value {
    /// The text of a simple or bulk string; `None` for all else, errors included.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Simple(text) => Some(text),
            Self::Bulk(data) => std::str::from_utf8(data).ok(),
            _ => None,
        }
    }

    /// An integer, or a string that spells one.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(n) => Some(*n),
            _ => self.as_str()?.parse().ok(),
        }
    }

    /// The elements of an array, set or push.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(items) | Self::Push(items) => Some(items),
            _ => None,
        }
    }

    /// The text of an error reply, without the leading minus.
    pub fn as_error(&self) -> Option<&str> {
        match self {
            Self::Error(text) => Some(text),
            _ => None,
        }
    }

    /// Whether it is a null.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The value of `field` in a map, or in the flat array of fields and values that RESP2 has for one.
    pub fn map_get(&self, field: &str) -> Option<&Value> {
        match self {
            Self::Map(pairs) => pairs.iter().find(|(key, _)| key.as_str() == Some(field)).map(|(_, value)| value),
            Self::Array(items) => items.chunks_exact(2).find(|pair| pair[0].as_str() == Some(field)).map(|p| &p[1]),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(frame: &str) -> Value {
        decode(frame.as_bytes()).unwrap_or_else(|e| panic!("{frame:?}: {e}"))
    }

    #[test]
    fn every_type() {
        let bulk = |text: &'static str| Value::Bulk(text.into());
        for (frame, value) in [
            ("+OK\r\n", Value::Simple("OK".into())),
            ("-ERR no\r\n", Value::Error("ERR no".into())),
            (":-7\r\n", Value::Int(-7)),
            ("$3\r\na\r\n\r\n", bulk("a\r\n")),
            ("$0\r\n\r\n", bulk("")),
            ("$-1\r\n", Value::Null),
            ("*-1\r\n", Value::Null),
            ("_\r\n", Value::Null),
            ("#t\r\n", Value::Bool(true)),
            (",1.5\r\n", Value::Double(1.5)),
            (",inf\r\n", Value::Double(f64::INFINITY)),
            ("(123456789012345678901\r\n", Value::Simple("123456789012345678901".into())),
            ("!5\r\nERR x\r\n", Value::Error("ERR x".into())),
            ("=7\r\ntxt:abc\r\n", bulk("abc")),
            (
                "*2\r\n*0\r\n*1\r\n+a\r\n",
                Value::Array(vec![Value::Array(vec![]), Value::Array(vec![Value::Simple("a".into())])]),
            ),
            ("~1\r\n+a\r\n", Value::Array(vec![Value::Simple("a".into())])),
            (">2\r\n+a\r\n:1\r\n", Value::Push(vec![Value::Simple("a".into()), Value::Int(1)])),
            // Nulls of RESP2 beside types of RESP3, and a bulk that only looks like one.
            (
                "*4\r\n#f\r\n$-1\r\n*-1\r\n$5\r\n$-1\r\n\r\n",
                Value::Array(vec![Value::Bool(false), Value::Null, Value::Null, bulk("$-1\r\n")]),
            ),
        ] {
            assert_eq!(ok(frame), value, "{frame:?}");
        }
    }

    #[test]
    fn fields_of_both_versions() {
        let resp3 = ok("%2\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$5\r\nproto\r\n:3\r\n");
        let resp2 = ok("*4\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$5\r\nproto\r\n$1\r\n2\r\n");
        for (reply, proto) in [(&resp3, 3), (&resp2, 2)] {
            assert_eq!(reply.map_get("role").unwrap().as_str(), Some("master"));
            assert_eq!(reply.map_get("proto").unwrap().as_i64(), Some(proto));
            assert_eq!(reply.map_get("master"), None, "a value is not a field");
        }
        assert_eq!(Value::Error("x".into()).as_str(), None);
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}:1\r\n", "*1\r\n".repeat(depth));
        ok(&nested(MAX_DEPTH - 1));
        assert!(matches!(decode(nested(MAX_DEPTH).as_bytes()), Err(DecodeError::TooDeep)));
        assert!(matches!(decode(nested(100_000).as_bytes()), Err(DecodeError::TooDeep)));
    }

    #[test]
    fn only_whole_frames() {
        assert!(matches!(decode(b""), Err(DecodeError::NotOneFrame)));
        assert!(matches!(decode(b"$3\r\nab"), Err(DecodeError::NotOneFrame)));
        assert!(matches!(decode(b"+OK\r\n+OK\r\n"), Err(DecodeError::NotOneFrame)));
        assert!(matches!(decode(b"HELLO 3\r\n"), Err(DecodeError::Protocol(_))));
        // A set of arrays is legal and never sent to us.
        assert!(matches!(decode(b"~1\r\n*0\r\n"), Err(DecodeError::Unsupported(_))));
    }
}
