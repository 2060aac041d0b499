//! Scanners driven as connections drive them: with bytes that arrive in pieces. Used by the property tests and the fuzz
//! targets.
#![allow(unreachable_pub, dead_code)] // a helper of several programs, each of which uses some of it

use pointsman::resp::{ProtocolError, ReplyScanner, RequestScanner, Scan};

pub const MAX_BULK: usize = 1 << 20;

/// A frame as the scanner reports it: its bytes, its name, its number of arguments.
pub type Command = (Vec<u8>, Vec<u8>, u32);

/// Scans all of `input` while it arrives in pieces, whose lengths `cuts` gives (over and over).
pub fn scan_requests(input: &[u8], cuts: &[usize]) -> (Vec<Command>, Option<ProtocolError>) {
    let mut scanner = RequestScanner::new(MAX_BULK);
    let mut found = Vec::new();
    let (mut start, mut arrived) = (0, 0);
    let mut cuts = cuts.iter().cycle();
    loop {
        match scanner.scan(&input[start..arrived]) {
            Err(error) => return (found, Some(error)),
            Ok(Scan::Incomplete) => {
                assert!(scanner.scanned() <= arrived - start);
                if arrived == input.len() {
                    return (found, None);
                }
                arrived = (arrived + cuts.next().expect("there is a cut")).min(input.len());
            }
            Ok(Scan::Empty { len }) => {
                assert!(len > 0);
                start += len;
            }
            Ok(Scan::Inline { len }) => {
                found.push((input[start..start + len].to_vec(), Vec::new(), 0));
                start += len;
            }
            Ok(Scan::Command { len, name, argc }) => {
                let frame = &input[start..start + len];
                found.push((frame.to_vec(), frame[name.0..name.1].to_vec(), argc));
                start += len;
            }
        }
    }
}

/// The same, while everything that may be streamed on is taken away at once: lengths of the pieces per command.
pub fn stream_requests(input: &[u8], cuts: &[usize]) -> (Vec<usize>, Option<ProtocolError>) {
    let mut scanner = RequestScanner::new(MAX_BULK);
    let mut lengths = Vec::new();
    let (mut start, mut arrived, mut streamed) = (0, 0, 0);
    let mut cuts = cuts.iter().cycle();
    loop {
        match scanner.scan(&input[start..arrived]) {
            Err(error) => return (lengths, Some(error)),
            Ok(Scan::Incomplete) => {
                if scanner.pending().is_some() {
                    let n = scanner.scanned();
                    scanner.advance(n);
                    start += n;
                    streamed += n;
                }
                if arrived == input.len() {
                    return (lengths, None);
                }
                arrived = (arrived + cuts.next().expect("there is a cut")).min(input.len());
            }
            Ok(Scan::Empty { len }) => start += len,
            Ok(Scan::Inline { len } | Scan::Command { len, .. }) => {
                start += len;
                lengths.push(streamed + len);
                streamed = 0;
            }
        }
    }
}

/// Ends of the replies in `input`, which arrives in pieces.
pub fn scan_replies(input: &[u8], cuts: &[usize]) -> (Vec<usize>, Option<ProtocolError>) {
    let mut scanner = ReplyScanner::new();
    let mut ends = Vec::new();
    let (mut consumed, mut arrived) = (0, 0);
    let mut cuts = cuts.iter().cycle();
    loop {
        match scanner.scan(&input[consumed..arrived]) {
            Err(error) => return (ends, Some(error)),
            Ok(progress) => {
                consumed += progress.consumed;
                assert!(consumed <= arrived);
                if progress.complete {
                    assert!(progress.consumed > 0 && scanner.is_at_start());
                    ends.push(consumed);
                    continue;
                }
            }
        }
        if arrived == input.len() {
            return (ends, None);
        }
        arrived = (arrived + cuts.next().expect("there is a cut")).min(input.len());
    }
}
