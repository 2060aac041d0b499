//! What clients send: where commands end does not depend on how they arrive, agrees with a reader that cannot be resumed,
//! and what comes out can be taken apart.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::resp::{args, inline_to_command};

#[path = "../../tests/support/scanning.rs"]
mod scanning;

use scanning::{MAX_BULK, scan_requests, stream_requests};

// The first two bytes say in what pieces the rest arrives.
fuzz_target!(|data: &[u8]| {
    let [a, b, input @ ..] = data else { return };
    let cuts = [usize::from(*a) + 1, usize::from(*b) + 1];
    let whole = scan_requests(input, &[input.len().max(1)]);
    assert_eq!(scan_requests(input, &cuts), whole, "in pieces of {cuts:?}");
    let (lengths, error) = stream_requests(input, &cuts);
    assert_eq!(lengths, whole.0.iter().map(|c| c.0.len()).collect::<Vec<_>>(), "streamed in pieces of {cuts:?}");
    assert_eq!(error, whole.1);
    for (frame, name, argc) in &whole.0 {
        if *argc == 0 {
            if let Ok(Some(command)) = inline_to_command(frame) {
                let (again, error) = scan_requests(&command, &[7]);
                assert_eq!((again.len(), error), (1, None), "an inline command becomes one command");
            }
            continue;
        }
        assert_eq!(args(frame).next(), Some(&name[..]));
        assert_eq!(plain(frame), Some((frame.len(), args(frame).map(<[u8]>::to_vec).collect())));
    }
});

/// The length and the arguments of the command at the start, read in the plainest way.
fn plain(input: &[u8]) -> Option<(usize, Vec<Vec<u8>>)> {
    let (argc, mut at) = header(input, 0, b'*')?;
    let mut arguments = Vec::new();
    for _ in 0..argc {
        let (len, start) = header(input, at, b'$')?;
        let len = usize::try_from(len).ok().filter(|len| *len <= MAX_BULK)?;
        arguments.push(input.get(start..start + len)?.to_vec());
        // Like Redis it takes whatever two bytes stand behind an argument.
        at = start + len + 2;
    }
    (at <= input.len()).then_some((at, arguments))
}

/// The number in a header line, and where what follows begins.
fn header(input: &[u8], at: usize, kind: u8) -> Option<(i64, usize)> {
    let line = &input[at..];
    let end = line.iter().position(|b| *b == b'\r')?;
    let digits = line[..end].strip_prefix(&[kind])?;
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, at + end + 2))
}
