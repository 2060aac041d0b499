//! Inline commands: what people type into telnet.

use bytes::Bytes;

use super::scan::is_http;
use super::{ProtocolError, encode_command};

/// C's `isspace` in the locale Redis runs in.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// An inline line, with or without its newline, as the RESP array that means the same; `Ok(None)` if it is blank.
///
/// Quoting is that of Redis' `sdssplitargs`: double quotes with `\n \r \t \b \a \xHH` and escaped characters, single
/// quotes with `\'` only, each closing quote followed by a blank or the end.
pub fn inline_to_command(line: &[u8]) -> Result<Option<Bytes>, ProtocolError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let args = split_args(line).ok_or(ProtocolError::UnbalancedQuotes)?;
    match args.first() {
        None => Ok(None),
        Some(name) if is_http(name) => Err(ProtocolError::Http),
        Some(_) => Ok(Some(encode_command(&args))),
    }
}

/// Splits as `sdssplitargs`; `None` for unbalanced quotes.
fn split_args(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut args = Vec::new();
    let mut rest = line;
    loop {
        while let [byte, tail @ ..] = rest
            && is_blank(*byte)
        {
            rest = tail;
        }
        if rest.is_empty() {
            return Some(args);
        }
        let (arg, tail) = next_arg(rest)?;
        args.push(arg);
        rest = tail;
    }
}

fn next_arg(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut arg = Vec::new();
    loop {
        match rest {
            [] => return Some((arg, rest)),
            // Vertical tab and form feed separate arguments but do not end one: so does sdssplitargs.
            [b' ' | b'\n' | b'\r' | b'\t', ..] => return Some((arg, rest)),
            [b'"', tail @ ..] => rest = closing_quote(double_quoted(tail, &mut arg)?)?,
            [b'\'', tail @ ..] => rest = closing_quote(single_quoted(tail, &mut arg)?)?,
            [byte, tail @ ..] => {
                arg.push(*byte);
                rest = tail;
                continue;
            }
        }
        // A closing quote ends the argument.
        return Some((arg, rest));
    }
}

/// What follows a closing quote must be a blank or the end.
fn closing_quote(rest: &[u8]) -> Option<&[u8]> {
    rest.first().is_none_or(|b| is_blank(*b)).then_some(rest)
}

fn double_quoted<'a>(mut rest: &'a [u8], arg: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, tail) = match rest {
            [] => return None,
            [b'"', tail @ ..] => return Some(tail),
            [b'\\', b'x', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex(*high) * 16 + hex(*low), tail)
            }
            [b'\\', escaped, tail @ ..] => (unescape(*escaped), tail),
            [byte, tail @ ..] => (*byte, tail),
        };
        arg.push(byte);
        rest = tail;
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], arg: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, tail) = match rest {
            [] => return None,
            [b'\'', tail @ ..] => return Some(tail),
            [b'\\', b'\'', tail @ ..] => (b'\'', tail),
            [byte, tail @ ..] => (*byte, tail),
        };
        arg.push(byte);
        rest = tail;
    }
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        other => (other.to_ascii_lowercase() - b'a') + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Option<Vec<String>> {
        split_args(line.as_bytes())
            .map(|args| args.iter().map(|a| a.iter().map(|b| char::from(*b)).collect()).collect())
    }

    #[test]
    fn splits_and_unquotes() {
        assert_eq!(split("  SET  k\tv ").unwrap(), ["SET", "k", "v"]);
        assert_eq!(split(r#"SET "a b" 'c d'"#).unwrap(), ["SET", "a b", "c d"]);
        assert_eq!(split(r#""\x41\n\q\"\xzz""#).unwrap(), ["A\nq\"xzz"]);
        assert_eq!(split(r#"'a\'b\n'"#).unwrap(), ["a'b\\n"]);
        assert_eq!(split("ab\"cd\" e").unwrap(), ["abcd", "e"]);
        assert_eq!(split("\"\"").unwrap(), [""]);
        assert_eq!(split("a\u{b}b \u{c}c").unwrap(), ["a\u{b}b", "c"]);
        assert_eq!(split(" \u{b}\t").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn rejects_unbalanced_quotes() {
        for line in ["\"a", "'a", "\"a\"b", "'a'b", "\"a\\\"", "\"\\"] {
            assert_eq!(split(line), None, "{line:?}");
        }
    }

    #[test]
    fn becomes_a_command() {
        assert_eq!(inline_to_command(b"GET k\r\n").unwrap().unwrap(), "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
        assert_eq!(inline_to_command(b"PING\n").unwrap().unwrap(), "*1\r\n$4\r\nPING\r\n");
        assert_eq!(inline_to_command(b" \r\n"), Ok(None));
        assert_eq!(inline_to_command(b"GET \"k\r\n"), Err(ProtocolError::UnbalancedQuotes));
        assert_eq!(inline_to_command(b"Post / HTTP/1.1\r\n"), Err(ProtocolError::Http));
        assert_eq!(inline_to_command(b"Host: localhost\r\n"), Err(ProtocolError::Http));
    }
}
