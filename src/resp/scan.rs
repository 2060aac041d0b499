//! Where the commands of a client end.

use memchr::memchr;

use super::ProtocolError;
use super::number::{parse, short_header};

/// Longest inline command and longest header line, in bytes (`PROTO_INLINE_MAX_SIZE` of Redis).
const MAX_LINE: usize = 64 * 1024;
/// Most arguments, and largest argument, of a client that still has to authenticate (Redis `processMultibulkBuffer`).
const UNAUTHENTICATED_ARGS: i64 = 10;
const UNAUTHENTICATED_BULK: i64 = 16 * 1024;

/// Finds the ends of client commands: flat arrays of bulk strings, or inline lines.
///
/// Resumable: it keeps its place in the frame at the start of the buffer, so that every byte is looked at once however
/// the frame arrives. It accepts exactly what Redis 7 accepts (the two bytes behind a bulk string, and the one behind
/// the carriage return of a header, may be anything), with one exception: where a NUL byte makes Redis 7.0 wait
/// forever, it is an ordinary byte here.
#[derive(Debug)]
pub struct RequestScanner {
    /// Bytes of the frame that are understood; the scan goes on here.
    pos: usize,
    /// Behind `pos`: up to where an unfinished line has been searched for its end.
    searched: usize,
    /// Bytes of the current bulk string, line end included, that have not arrived; 0 when a header comes next.
    missing: usize,
    /// Arguments declared; 0 until the first header has been read.
    argc: u32,
    /// Arguments not yet complete.
    args_left: u32,
    /// Start and end of the command name.
    name: (usize, usize),
    max_bulk: usize,
    auth_required: bool,
}

/// What [`RequestScanner::scan`] found at the start of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// More bytes are needed.
    Incomplete,
    /// Nothing to run (a blank line, `*0`, `*-1`): drop `len` bytes, no reply is due.
    Empty {
        /// Bytes to drop.
        len: usize,
    },
    /// A whole RESP command.
    Command {
        /// Its length in bytes.
        len: usize,
        /// Start and end offset of its name; `(0, 0)` if the name has been streamed on.
        name: (usize, usize),
        /// Number of its arguments, the name included.
        argc: u32,
    },
    /// A whole inline line, to be put through [`inline_to_command`](super::inline_to_command).
    Inline {
        /// Its length in bytes, newline included.
        len: usize,
    },
}

/// What is known of a frame that has not arrived completely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Start and end offset of the command name; `(0, 0)` once it has been streamed on.
    pub name: (usize, usize),
    /// Number of arguments declared, the name included.
    pub argc: u32,
    /// Bytes of the current bulk string still to come, line end included, as far as declared; 0 between arguments.
    pub missing: usize,
}

impl RequestScanner {
    /// A scanner for one client that refuses bulk strings larger than `max_bulk` bytes.
    pub fn new(max_bulk: usize) -> Self {
        Self { pos: 0, searched: 0, missing: 0, argc: 0, args_left: 0, name: (0, 0), max_bulk, auth_required: false }
    }

    /// Whether the client still has to authenticate: Redis then accepts only short commands, and closes a connection
    /// that brings longer ones, which must not happen to a shared one.
    pub fn set_auth_required(&mut self, required: bool) {
        self.auth_required = required;
    }

    /// Looks for the end of the frame at the start of `buf`.
    ///
    /// Until a frame is found, `buf` must begin with the same bytes as at the last call (less those
    /// [`advance`](Self::advance)d over), and may have more behind them. After one is found, `buf` begins behind it.
    #[inline]
    pub fn scan(&mut self, buf: &[u8]) -> Result<Scan, ProtocolError> {
        if self.argc == 0 {
            match buf.first() {
                None => return Ok(Scan::Incomplete),
                Some(b'*') => {}
                Some(_) => return self.scan_inline(buf),
            }
            if let Some(command) = self.whole_command(buf) {
                self.searched = 0;
                return Ok(command);
            }
            let Some((argc, pos)) = self.array_header(buf)? else { return Ok(Scan::Incomplete) };
            if argc == 0 {
                self.restart();
                return Ok(Scan::Empty { len: pos });
            }
            (self.argc, self.args_left, self.pos) = (argc, argc, pos);
        }
        while self.args_left > 0 {
            if self.missing == 0 {
                let Some((len, pos)) = self.bulk_header(buf)? else { return Ok(Scan::Incomplete) };
                if self.args_left == self.argc {
                    self.name = (pos, pos.saturating_add(len));
                }
                self.pos = pos;
                self.missing = len.saturating_add(2);
            }
            let arrived = self.missing.min(buf.len() - self.pos);
            self.pos += arrived;
            self.missing -= arrived;
            if self.missing > 0 {
                return Ok(Scan::Incomplete);
            }
            if self.args_left == self.argc && is_http(&buf[self.name.0..self.name.1]) {
                return Err(ProtocolError::Http);
            }
            self.args_left -= 1;
        }
        let found = Scan::Command { len: self.pos, name: self.name, argc: self.argc };
        self.restart();
        Ok(found)
    }

    /// The command at the start of `buf`, if all of it is there and nothing about it is unusual.
    ///
    /// Nearly every command is found here, without a place in the frame to be kept up to date. All others are looked at
    /// afresh, the careful way, and at most once in vain: that notes its argument count.
    #[inline]
    fn whole_command(&self, buf: &[u8]) -> Option<Scan> {
        if self.auth_required {
            return None;
        }
        let (argc, mut pos) = short_header(buf)?;
        let mut name = (0, 0);
        for n in 0..argc {
            let line = buf.get(pos..)?;
            let (len, end) = short_header(line)?;
            if line[0] != b'$' || len > self.max_bulk {
                return None;
            }
            if n == 0 {
                name = (pos + end, pos + end + len);
            }
            pos += end + len + 2;
        }
        let unusual = argc == 0 || pos > buf.len() || is_http(&buf[name.0..name.1]);
        (!unusual).then_some(Scan::Command { len: pos, name, argc: argc as u32 })
    }

    /// What is known of the unfinished frame, once its name has arrived.
    pub fn pending(&self) -> Option<Pending> {
        (self.args_left < self.argc).then_some(Pending { name: self.name, argc: self.argc, missing: self.missing })
    }

    /// How many bytes from the start of the buffer are understood, and may be streamed on before the rest arrives.
    pub fn scanned(&self) -> usize {
        self.pos
    }

    /// The caller has taken `n` bytes, at most [`scanned`](Self::scanned), from the front of the unfinished frame.
    pub fn advance(&mut self, n: usize) {
        debug_assert!(n <= self.pos, "only bytes that were scanned can be streamed on");
        self.pos = self.pos.saturating_sub(n);
        self.searched = self.searched.saturating_sub(n);
        // A name that went, even in part, can no longer be looked at.
        self.name = if n <= self.name.0 { (self.name.0 - n, self.name.1 - n) } else { (0, 0) };
    }

    fn restart(&mut self) {
        (self.pos, self.searched, self.missing, self.argc, self.args_left) = (0, 0, 0, 0, 0);
        self.name = (0, 0);
    }

    /// Number of arguments and end of the `*` line; 0 arguments for all that Redis skips.
    #[inline]
    fn array_header(&mut self, buf: &[u8]) -> Result<Option<(u32, usize)>, ProtocolError> {
        if let Some((argc, end)) = short_header(buf)
            && (!self.auth_required || argc as i64 <= UNAUTHENTICATED_ARGS)
        {
            return Ok(Some((argc as u32, end)));
        }
        let Some(end) = self.header_end(buf, ProtocolError::TooBigMultibulkCount)? else { return Ok(None) };
        match parse(&buf[1..end - 2]) {
            Some(argc) if argc > i64::from(i32::MAX) => Err(ProtocolError::InvalidMultibulkLength),
            Some(argc) if self.auth_required && argc > UNAUTHENTICATED_ARGS => {
                Err(ProtocolError::UnauthenticatedMultibulk)
            }
            Some(argc) => Ok(Some((argc.max(0) as u32, end))),
            None => Err(ProtocolError::InvalidMultibulkLength),
        }
    }

    /// Length of the bulk string and end of its `$` line.
    #[inline]
    fn bulk_header(&mut self, buf: &[u8]) -> Result<Option<(usize, usize)>, ProtocolError> {
        let line = &buf[self.pos..];
        if line.first() == Some(&b'$')
            && let Some((len, end)) = short_header(line)
            && len <= self.max_bulk
            && !self.auth_required
        {
            return Ok(Some((len, self.pos + end)));
        }
        let Some(end) = self.header_end(buf, ProtocolError::TooBigBulkCount)? else { return Ok(None) };
        // Redis looks at the type only when the line is complete.
        if buf[self.pos] != b'$' {
            return Err(ProtocolError::ExpectedBulk(buf[self.pos]));
        }
        match parse(&buf[self.pos + 1..end - 2]) {
            Some(len) if len < 0 => Err(ProtocolError::InvalidBulkLength),
            Some(len) if len as u64 > self.max_bulk as u64 => Err(ProtocolError::TooLargeBulk),
            Some(len) if self.auth_required && len > UNAUTHENTICATED_BULK => Err(ProtocolError::UnauthenticatedBulk),
            Some(len) => Ok(Some((len as usize, end))),
            None => Err(ProtocolError::InvalidBulkLength),
        }
    }

    /// End of the header line at `pos`: behind the carriage return and the one byte that follows it.
    #[cold]
    fn header_end(&mut self, buf: &[u8], too_big: ProtocolError) -> Result<Option<usize>, ProtocolError> {
        let from = self.searched.max(self.pos);
        let found = memchr(b'\r', &buf[from..]).map(|i| from + i);
        let end = found.unwrap_or(buf.len());
        if end - self.pos > MAX_LINE {
            return Err(too_big);
        }
        self.searched = end;
        Ok(found.map(|cr| cr + 2).filter(|end| *end <= buf.len()))
    }

    #[cold]
    fn scan_inline(&mut self, buf: &[u8]) -> Result<Scan, ProtocolError> {
        let from = self.searched;
        let newline = memchr(b'\n', &buf[from..]).map(|i| from + i);
        let end = newline.unwrap_or(buf.len());
        if end > MAX_LINE {
            return Err(ProtocolError::TooBigInline);
        }
        if newline.is_none() {
            self.searched = end;
            return Ok(Scan::Incomplete);
        }
        self.restart();
        let len = end + 1;
        let blank = buf[..end].iter().all(|b| super::inline::is_blank(*b));
        Ok(if blank { Scan::Empty { len } } else { Scan::Inline { len } })
    }
}

/// Whether a browser is being made to talk to us (Redis: `securityWarningCommand`).
#[inline]
pub(super) fn is_http(name: &[u8]) -> bool {
    matches!(name, [b'p' | b'P' | b'h' | b'H', ..])
        && (name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_BULK: usize = 512 << 20;

    fn scan(input: &[u8]) -> Result<Scan, ProtocolError> {
        RequestScanner::new(MAX_BULK).scan(input)
    }

    /// The same, byte by byte.
    fn drip(input: &[u8]) -> Result<Scan, ProtocolError> {
        let mut scanner = RequestScanner::new(MAX_BULK);
        (1..=input.len())
            .map(|n| scanner.scan(&input[..n]))
            .find(|r| *r != Ok(Scan::Incomplete))
            .unwrap_or(Ok(Scan::Incomplete))
    }

    #[test]
    fn commands() {
        for (input, expected) in [
            ("*1\r\n$4\r\nPING\r\n", Scan::Command { len: 14, name: (8, 12), argc: 1 }),
            ("*2\r\n$3\r\nGET\r\n$0\r\n\r\n", Scan::Command { len: 19, name: (8, 11), argc: 2 }),
            ("*1\r\n$4\r\nPINGxx", Scan::Command { len: 14, name: (8, 12), argc: 1 }),
            ("*0\r\n", Scan::Empty { len: 4 }),
            ("*-1\r\n", Scan::Empty { len: 5 }),
            ("*-5\r\n", Scan::Empty { len: 5 }),
            ("\r\n", Scan::Empty { len: 2 }),
            ("\n", Scan::Empty { len: 1 }),
            (" \t \r\n", Scan::Empty { len: 5 }),
            ("PING\n", Scan::Inline { len: 5 }),
            ("GET a\0b\r\n", Scan::Inline { len: 9 }),
            ("", Scan::Incomplete),
            ("*", Scan::Incomplete),
            ("*1048577\r\n", Scan::Incomplete),
            ("*2147483647\r\n", Scan::Incomplete),
            ("*1\r\n:4\r", Scan::Incomplete),
            ("*1\r\n$4\r\nPING\r", Scan::Incomplete),
        ] {
            let more = format!("{input}*1\r\n");
            assert_eq!(drip(input.as_bytes()), Ok(expected), "{input:?}");
            if expected != Scan::Incomplete {
                assert_eq!(scan(more.as_bytes()), Ok(expected), "{input:?}");
            }
        }
    }

    /// What is remembered of a line that was cut is forgotten with it: what follows is found as ever.
    #[test]
    fn a_stream_is_the_same_wherever_it_is_cut() {
        let frames = [
            "*1\r\n$4\r\nPING\r\n",
            "\r\n",
            "*0\r\n",
            "PING\n",
            "*2\r\n$3\r\nGET\r\n$12\r\n0123456789ab\r\n",
            "\n",
            "*-1\r\n",
        ];
        for first in frames {
            let stream = format!("{first}{}{}", frames.concat(), frames.concat());
            let ends: Vec<usize> = [first].iter().chain(&frames).chain(&frames).map(|frame| frame.len()).collect();
            for a in 0..stream.len() {
                for b in a..stream.len() {
                    let mut scanner = RequestScanner::new(MAX_BULK);
                    let (mut start, mut found) = (0, Vec::new());
                    for arrived in [a, b, stream.len()] {
                        loop {
                            match scanner.scan(&stream.as_bytes()[start..arrived]) {
                                Ok(Scan::Incomplete) => break,
                                Ok(Scan::Empty { len } | Scan::Inline { len } | Scan::Command { len, .. }) => {
                                    found.push(len);
                                    start += len;
                                }
                                Err(error) => panic!("{first:?} cut at {a} and {b}: {error:?}"),
                            }
                        }
                    }
                    assert_eq!(found, ends, "{first:?} cut at {a} and {b}");
                }
            }
        }
    }

    #[test]
    fn malformed_input_gets_the_answers_of_redis() {
        use ProtocolError::*;
        let long = "x".repeat(MAX_LINE + 1);
        for (input, error, text) in [
            (long.clone(), TooBigInline, "too big inline request"),
            (format!("*{long}"), TooBigMultibulkCount, "too big mbulk count string"),
            (format!("*1\r\n${long}"), TooBigBulkCount, "too big bulk count string"),
            ("*abc\r\n".into(), InvalidMultibulkLength, "invalid multibulk length"),
            ("*+1\r\n".into(), InvalidMultibulkLength, "invalid multibulk length"),
            ("*01\r\n".into(), InvalidMultibulkLength, "invalid multibulk length"),
            ("*1 \r\n".into(), InvalidMultibulkLength, "invalid multibulk length"),
            ("*\r\n".into(), InvalidMultibulkLength, "invalid multibulk length"),
            ("*2147483648\r\n".into(), InvalidMultibulkLength, "invalid multibulk length"),
            ("*99999999999999999999\r\n".into(), InvalidMultibulkLength, "invalid multibulk length"),
            ("*1\r\n:4\r\n".into(), ExpectedBulk(b':'), "expected '$', got ':'"),
            ("*1\r\n\r\n".into(), ExpectedBulk(b'\r'), "expected '$', got ' '"),
            ("*1\r\n$abc\r\n".into(), InvalidBulkLength, "invalid bulk length"),
            ("*1\r\n$-1\r\n".into(), InvalidBulkLength, "invalid bulk length"),
            ("*1\r\n$+4\r\n".into(), InvalidBulkLength, "invalid bulk length"),
            ("*1\r\n$04\r\n".into(), InvalidBulkLength, "invalid bulk length"),
            (format!("*1\r\n${}\r\n", MAX_BULK + 1), TooLargeBulk, "invalid bulk length"),
        ] {
            assert_eq!(scan(input.as_bytes()), Err(error), "{input:.40?}");
            assert_eq!(drip(input.as_bytes()), Err(error), "{input:.40?}");
            let line = format!("-ERR Protocol error: {text}\r\n");
            assert_eq!(error.reply().unwrap(), line);
        }
    }

    #[test]
    fn limits_are_inclusive() {
        let mut line = vec![b'x'; MAX_LINE];
        assert_eq!(scan(&line), Ok(Scan::Incomplete));
        line.push(b'\n');
        assert_eq!(scan(&line), Ok(Scan::Inline { len: MAX_LINE + 1 }));
        assert_eq!(scan(format!("*1\r\n${MAX_BULK}\r\n").as_bytes()), Ok(Scan::Incomplete));
    }

    #[test]
    fn http_is_closed_silently() {
        for name in ["POST", "host:"] {
            let input = format!("*1\r\n${}\r\n{name}\r\n", name.len());
            assert_eq!(drip(input.as_bytes()), Err(ProtocolError::Http));
        }
        assert_eq!(ProtocolError::Http.reply(), None);
    }

    #[test]
    fn strangers_must_be_brief() {
        let mut scanner = RequestScanner::new(MAX_BULK);
        scanner.set_auth_required(true);
        assert_eq!(scanner.scan(b"*11\r\n"), Err(ProtocolError::UnauthenticatedMultibulk));
        assert_eq!(scanner.scan(b"*10\r\n$16385\r\n"), Err(ProtocolError::UnauthenticatedBulk));
        let mut scanner = RequestScanner::new(MAX_BULK);
        scanner.set_auth_required(true);
        assert_eq!(scanner.scan(b"*10\r\n$16384\r\n"), Ok(Scan::Incomplete));
        let mut scanner = RequestScanner::new(MAX_BULK);
        scanner.set_auth_required(true);
        scanner.set_auth_required(false);
        assert_eq!(scanner.scan(b"*11\r\n$16385\r\n"), Ok(Scan::Incomplete));
    }

    #[test]
    fn a_large_command_can_be_streamed() {
        let mut scanner = RequestScanner::new(MAX_BULK);
        assert_eq!(scanner.scan(b"*3\r\n$3\r\nSE"), Ok(Scan::Incomplete));
        assert_eq!(scanner.pending(), None, "the name is not there");
        let head = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000\r\nabc";
        assert_eq!(scanner.scan(head), Ok(Scan::Incomplete));
        assert_eq!(scanner.pending(), Some(Pending { name: (8, 11), argc: 3, missing: 999 }));
        assert_eq!(scanner.scanned(), head.len());
        scanner.advance(scanner.scanned());
        assert_eq!(scanner.pending(), Some(Pending { name: (0, 0), argc: 3, missing: 999 }));
        assert_eq!(scanner.scan(&[b'x'; 500]), Ok(Scan::Incomplete));
        scanner.advance(500);
        let mut rest = vec![b'x'; 499];
        rest.extend_from_slice(b"*1\r\n$4\r\nPING\r\n");
        assert_eq!(scanner.scan(&rest), Ok(Scan::Command { len: 499, name: (0, 0), argc: 3 }));
        assert_eq!(scanner.scan(&rest[499..]), Ok(Scan::Command { len: 14, name: (8, 12), argc: 1 }));
        assert_eq!(scanner.pending(), None);
    }

    #[test]
    fn a_part_may_be_streamed_between_arguments() {
        let mut scanner = RequestScanner::new(MAX_BULK);
        assert_eq!(scanner.scan(b"*2\r\n$3\r\nGET\r\n$1"), Ok(Scan::Incomplete));
        assert_eq!((scanner.scanned(), scanner.pending().unwrap().missing), (13, 0));
        scanner.advance(4);
        assert_eq!(scanner.pending().unwrap().name, (4, 7));
        assert_eq!(scanner.scan(b"$3\r\nGET\r\n$1\r\nk\r\n"), Ok(Scan::Command { len: 16, name: (4, 7), argc: 2 }));
    }
}
