//! Where the replies of a backend end.

use memchr::memchr;

use super::ProtocolError;
use super::number::{parse, short_header};

/// Longest header line with a number in it; the longest legal one has 20 digits and a sign.
const MAX_HEADER: usize = 32;
/// A text line (`+ - ( ,`) up to this long is kept whole, so that it can be classified; the rest of a longer one is
/// consumed as it comes.
const MAX_LINE: usize = 64 * 1024;

/// Finds the ends of replies, RESP2 and RESP3.
///
/// The end of a frame needs no stack: it is enough to count the values still to come, which an aggregate of `n` raises
/// by `n` and every value lowers by one. So nesting costs neither memory nor a limit. An attribute counts as part of
/// the reply behind it. Streamed types (`$?`, `*?`), which no Redis sends, are an error.
#[derive(Debug, Clone)]
pub struct ReplyScanner {
    /// Values still to come before the frame ends; 0 between frames.
    values_left: u64,
    state: State,
    /// Up to where the unconsumed line at the start of the next buffer has been searched.
    searched: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A type byte comes next.
    Header,
    /// In a bulk: this many bytes, then a line end.
    Bulk(u64),
    /// In a text line too long to be kept whole.
    Text,
}

/// How far [`ReplyScanner::scan`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that belong to the current frame and need not be shown again.
    pub consumed: usize,
    /// Whether the frame ends with them.
    pub complete: bool,
}

impl Default for ReplyScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl ReplyScanner {
    /// A scanner for one backend connection.
    pub fn new() -> Self {
        Self { values_left: 0, state: State::Header, searched: 0 }
    }

    /// Whether the next byte begins a frame.
    pub fn is_at_start(&self) -> bool {
        self.values_left == 0
    }

    /// Consumes up to the end of one frame, or as much of it as is there.
    ///
    /// `buf` begins behind all that was consumed before. An unfinished header line is left unconsumed and must be at
    /// the start of the next `buf` again.
    #[inline]
    pub fn scan(&mut self, buf: &[u8]) -> Result<Progress, ProtocolError> {
        if self.values_left == 0 {
            if buf.is_empty() {
                return Ok(Progress { consumed: 0, complete: false });
            }
            if let Some(consumed) = usual_reply(buf) {
                self.searched = 0;
                return Ok(Progress { consumed, complete: true });
            }
            self.values_left = 1;
        }
        let mut pos = 0;
        while self.values_left > 0 {
            let step = match self.state {
                State::Header => self.header(&buf[pos..])?,
                State::Bulk(left) => self.bulk(left, &buf[pos..])?,
                State::Text => self.text(&buf[pos..]),
            };
            match step {
                Step::Done(n) => pos += n,
                Step::Short(n) => return Ok(self.short(pos + n)),
            }
        }
        Ok(Progress { consumed: pos, complete: true })
    }

    /// Ends a scan for want of bytes.
    fn short(&mut self, consumed: usize) -> Progress {
        if consumed == 0 && self.values_left == 1 && self.state == State::Header {
            // Nothing of a frame was consumed: it has not begun, as far as the caller can see.
            self.values_left = 0;
        }
        Progress { consumed, complete: false }
    }

    #[inline]
    fn header(&mut self, buf: &[u8]) -> Result<Step, ProtocolError> {
        let Some(kind) = buf.first() else { return Ok(Step::Short(0)) };
        match kind {
            b'$' | b'!' | b'=' => {
                let Some((len, end)) = self.number_line(buf)? else { return Ok(Step::Short(0)) };
                match u64::try_from(len) {
                    Ok(len) => self.state = State::Bulk(len),
                    Err(_) if *kind == b'$' && len == -1 => self.values_left -= 1,
                    Err(_) => return Err(ProtocolError::BadReply("a negative bulk length")),
                }
                Ok(Step::Done(end))
            }
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let Some((count, end)) = self.number_line(buf)? else { return Ok(Step::Short(0)) };
                let count = match u64::try_from(count) {
                    Ok(count) => count,
                    Err(_) if *kind == b'*' && count == -1 => 0,
                    Err(_) => return Err(ProtocolError::BadReply("a negative element count")),
                };
                let values = if matches!(kind, b'%' | b'|') { count.checked_mul(2) } else { Some(count) };
                // An attribute is not a value itself: the one it describes is still to come.
                let own = u64::from(*kind != b'|');
                self.values_left = values
                    .and_then(|values| (self.values_left - own).checked_add(values))
                    .ok_or(ProtocolError::BadReply("more elements than can be counted"))?;
                Ok(Step::Done(end))
            }
            b':' | b'_' | b'#' => {
                let Some(end) = self.short_line(buf)? else { return Ok(Step::Short(0)) };
                self.values_left -= 1;
                Ok(Step::Done(end))
            }
            b'+' | b'-' | b',' | b'(' => {
                if let Some(end) = self.line_end(buf) {
                    self.values_left -= 1;
                    return Ok(Step::Done(end));
                }
                if buf.len() > MAX_LINE {
                    self.state = State::Text;
                    self.searched = 0;
                    return Ok(Step::Done(0));
                }
                Ok(Step::Short(0))
            }
            _ => Err(ProtocolError::BadReply("an unknown type")),
        }
    }

    /// The number in the line at the start of `buf`, and the length of the line.
    #[inline]
    fn number_line(&mut self, buf: &[u8]) -> Result<Option<(i64, usize)>, ProtocolError> {
        if let Some((value, end)) = short_header(buf)
            && buf[end - 1] == b'\n'
        {
            self.searched = 0;
            return Ok(Some((value as i64, end)));
        }
        let Some(end) = self.short_line(buf)? else { return Ok(None) };
        let value = parse(&buf[1..end - 2]).ok_or(ProtocolError::BadReply("a length that is not a number"))?;
        Ok(Some((value, end)))
    }

    /// Length of a line that cannot be long.
    fn short_line(&mut self, buf: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let end = self.line_end(buf);
        if end.unwrap_or(buf.len()) > MAX_HEADER {
            return Err(ProtocolError::BadReply("a header without an end"));
        }
        Ok(end)
    }

    /// Length of the line at the start of `buf`, CR LF included.
    #[inline]
    fn line_end(&mut self, buf: &[u8]) -> Option<usize> {
        let mut from = self.searched;
        while let Some(i) = buf.get(from..).and_then(|rest| memchr(b'\r', rest)) {
            match buf.get(from + i + 1) {
                Some(b'\n') => {
                    self.searched = 0;
                    return Some(from + i + 2);
                }
                Some(_) => from += i + 1,
                None => {
                    self.searched = from + i;
                    return None;
                }
            }
        }
        self.searched = buf.len();
        None
    }

    #[inline]
    fn bulk(&mut self, left: u64, buf: &[u8]) -> Result<Step, ProtocolError> {
        if left > buf.len() as u64 {
            self.state = State::Bulk(left - buf.len() as u64);
            return Ok(Step::Short(buf.len()));
        }
        let body = left as usize;
        match &buf[body..] {
            [b'\r', b'\n', ..] => {
                self.state = State::Header;
                self.values_left -= 1;
                Ok(Step::Done(body + 2))
            }
            [] | [b'\r'] => {
                self.state = State::Bulk(0);
                Ok(Step::Short(body))
            }
            _ => Err(ProtocolError::BadReply("a bulk string longer than its length")),
        }
    }

    /// Consumes a long text line up to its end, or all but a final carriage return.
    fn text(&mut self, buf: &[u8]) -> Step {
        match self.line_end(buf) {
            Some(end) => {
                self.state = State::Header;
                self.values_left -= 1;
                Step::Done(end)
            }
            None => {
                self.searched = 0;
                Step::Short(buf.len() - usize::from(buf.last() == Some(&b'\r')))
            }
        }
    }
}

/// Length of the reply at the start of `buf`, if it is a whole one of those that most replies are: `+OK`, a bulk string, an
/// integer.
#[inline]
fn usual_reply(buf: &[u8]) -> Option<usize> {
    if buf.starts_with(b"+OK\r\n") {
        return Some(5);
    }
    let (value, end) = short_header(buf)?;
    if buf[end - 1] != b'\n' {
        return None;
    }
    match buf[0] {
        b':' => Some(end),
        b'$' => buf.get(end + value..)?.starts_with(b"\r\n").then_some(end + value + 2),
        _ => None,
    }
}

/// Outcome of one step: bytes consumed, and whether more are needed to go on.
enum Step {
    Done(usize),
    Short(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Consumes one frame that arrives in pieces of `step` bytes, giving up after the input.
    fn consume(input: &[u8], step: usize) -> Result<Option<usize>, ProtocolError> {
        let mut scanner = ReplyScanner::new();
        let (mut consumed, mut arrived) = (0, 0);
        while arrived < input.len() {
            arrived = (arrived + step).min(input.len());
            let progress = scanner.scan(&input[consumed..arrived])?;
            consumed += progress.consumed;
            if progress.complete {
                assert!(scanner.is_at_start());
                return Ok(Some(consumed));
            }
        }
        Ok(None)
    }

    const FRAMES: &[&str] = &[
        "+OK\r\n",
        "-ERR no\r\n",
        "+a\rb\nc\r\n",
        ":-12\r\n",
        "_\r\n",
        "#t\r\n",
        ",1.5\r\n",
        ",inf\r\n",
        "(3492890328409238509324850943850943825024385\r\n",
        "$-1\r\n",
        "$0\r\n\r\n",
        "$5\r\na\r\nbc\r\n",
        "!5\r\nERR x\r\n",
        "=7\r\ntxt:abc\r\n",
        "*-1\r\n",
        "*0\r\n",
        "*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
        "~2\r\n+a\r\n+b\r\n",
        "%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n_\r\n",
        ">3\r\n+message\r\n+c\r\n+m\r\n",
        "|1\r\n+ttl\r\n:3\r\n$1\r\na\r\n",
        "*2\r\n|1\r\n+ttl\r\n:3\r\n$1\r\na\r\n:2\r\n",
    ];

    #[test]
    fn every_type_however_it_arrives() {
        for frame in FRAMES {
            for step in 1..=frame.len() {
                let input = format!("{frame}+next\r\n");
                assert_eq!(consume(input.as_bytes(), step), Ok(Some(frame.len())), "{frame:?} by {step}");
            }
            for cut in 0..frame.len() {
                assert_eq!(consume(&frame.as_bytes()[..cut], 1), Ok(None), "{frame:?} cut at {cut}");
            }
        }
    }

    /// What is remembered of a line that was cut is forgotten with it: what follows is found as ever.
    #[test]
    fn a_stream_is_the_same_wherever_it_is_cut() {
        let frames = [
            ":1000\r\n",
            ":-1\r\n",
            "+OK\r\n",
            "$-1\r\n",
            "_\r\n",
            "$100\r\n",
            "#t\r\n",
            ":5\r\n",
            "-E\r\n",
            "*1\r\n:0\r\n",
        ]
        .map(|frame| if frame == "$100\r\n" { format!("{frame}{}\r\n", "x".repeat(100)) } else { frame.into() });
        for first in &frames {
            for second in &frames {
                let stream = format!("{first}{second}{}", frames.concat());
                let ends: Vec<usize> = [first, second].into_iter().chain(&frames).map(String::len).collect();
                for cut in 0..stream.len().min(130) {
                    let mut scanner = ReplyScanner::new();
                    let (mut start, mut scanned, mut found) = (0, 0, Vec::new());
                    for arrived in [cut, stream.len()] {
                        loop {
                            let progress = scanner.scan(&stream.as_bytes()[scanned..arrived]).unwrap();
                            scanned += progress.consumed;
                            if !progress.complete {
                                break;
                            }
                            found.push(scanned - start);
                            start = scanned;
                        }
                    }
                    assert_eq!(found, ends, "{first:?} {second:?} cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn a_surprise_is_an_error() {
        for bad in [
            "hello\r\n",
            "$?\r\n",
            "*?\r\n",
            "$-2\r\n",
            "=-1\r\n",
            "%-1\r\n",
            "*-2\r\n",
            "*+1\r\n",
            "$01\r\n",
            "$3\r\nabcd\r\n",
            "$3\r\nabc\rx",
            "*1\r\n?",
            "%9223372036854775807\r\n*9223372036854775807\r\n",
            ":12345678901234567890123456789012345",
            "\0",
        ] {
            for step in [1, bad.len()] {
                assert!(consume(bad.as_bytes(), step).is_err(), "{bad:?} by {step}");
            }
        }
    }

    #[test]
    fn nesting_costs_nothing() {
        let mut deep = "*1\r\n".repeat(10_000);
        deep.push_str(":1\r\n");
        assert_eq!(consume(deep.as_bytes(), 7), Ok(Some(deep.len())));
    }

    #[test]
    fn a_line_is_whole_up_to_its_limit_and_streamed_beyond() {
        let mut scanner = ReplyScanner::new();
        let kept = [b"+".as_slice(), &[b'a'; MAX_LINE - 1]].concat();
        assert_eq!(scanner.scan(&kept), Ok(Progress { consumed: 0, complete: false }));
        assert!(scanner.is_at_start());
        let long = [kept.as_slice(), b"bb\r"].concat();
        assert_eq!(scanner.scan(&long), Ok(Progress { consumed: long.len() - 1, complete: false }));
        assert!(!scanner.is_at_start());
        assert_eq!(scanner.scan(b"\r\n+OK"), Ok(Progress { consumed: 2, complete: true }));
    }

    #[test]
    fn a_large_bulk_is_consumed_as_it_comes() {
        let mut scanner = ReplyScanner::new();
        assert_eq!(scanner.scan(b"$6000000000\r\nabc"), Ok(Progress { consumed: 16, complete: false }));
        assert_eq!(scanner.scan(&[0; 9]), Ok(Progress { consumed: 9, complete: false }));
        assert!(!scanner.is_at_start());
    }
}
