//! Command frames taken apart and put together. Cold.

use bytes::{BufMut, Bytes, BytesMut};

use super::number::parse;
use super::scan::{RequestScanner, Scan};

/// The arguments of a complete RESP command, its name first.
///
/// Meant for frames that [`RequestScanner`] has accepted; on any other bytes it ends early.
pub fn args(frame: &[u8]) -> Args<'_> {
    match header(frame, b'*') {
        Some((count, rest)) => Args { rest, left: count },
        None => Args { rest: &[], left: 0 },
    }
}

/// Iterator over the arguments of a command; see [`args`].
#[derive(Debug, Clone)]
pub struct Args<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Args<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let (len, body) = header(self.rest, b'$')?;
        let (arg, rest) = body.split_at_checked(len)?;
        self.rest = rest.get(2..)?;
        Some(arg)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

/// The number in the header line at the start of `buf`, and what follows the line.
fn header(buf: &[u8], kind: u8) -> Option<(usize, &[u8])> {
    if *buf.first()? != kind {
        return None;
    }
    let end = memchr::memchr(b'\r', buf)?;
    let value = usize::try_from(parse(&buf[1..end])?).ok()?;
    Some((value, buf.get(end + 2..)?))
}

/// The commands of a batch that has been scanned.
pub fn split(mut batch: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut lengths = lengths(batch);
    std::iter::from_fn(move || batch.split_off(..lengths.next()?))
}

/// Lengths of the commands in a batch that has been scanned.
pub fn lengths(mut batch: &[u8]) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if batch.is_empty() {
            return None;
        }
        match RequestScanner::new(usize::MAX).scan(batch) {
            Ok(Scan::Command { len, .. }) => {
                batch = &batch[len..];
                Some(len)
            }
            // A batch holds whole commands only; a rest that is none is treated as one command.
            _ => Some(std::mem::take(&mut batch).len()),
        }
    })
}

/// A command as a RESP array of bulk strings.
pub fn encode_command<A: AsRef<[u8]>>(args: &[A]) -> Bytes {
    // Room for the headers too: 20 digits at most are never needed, 16 bytes hold what occurs.
    let size: usize = args.iter().map(|a| a.as_ref().len() + 16).sum();
    let mut out = BytesMut::with_capacity(size + 16);
    put_header(&mut out, b'*', args.len());
    for arg in args {
        put_header(&mut out, b'$', arg.as_ref().len());
        out.put_slice(arg.as_ref());
        out.put_slice(b"\r\n");
    }
    out.freeze()
}

fn put_header(out: &mut BytesMut, kind: u8, value: usize) {
    out.put_u8(kind);
    out.put_slice(value.to_string().as_bytes());
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_survive_encoding() {
        let original: [&[u8]; 4] = [b"SET", b"", b"a\r\nb\0", &[0xff; 300]];
        let frame = encode_command(&original);
        assert_eq!(args(&frame).collect::<Vec<_>>(), original);
    }

    #[test]
    fn a_broken_frame_ends_early() {
        let frame = encode_command(&["SET", "key", "value"]);
        for cut in 0..frame.len() {
            assert!(args(&frame[..cut]).count() < 3);
        }
        assert_eq!(args(b"*2\r\n$9999999999999999999\r\nx\r\n").count(), 0);
        assert_eq!(args(b"PING\r\n").count(), 0);
    }
}
