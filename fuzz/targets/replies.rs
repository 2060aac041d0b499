//! What backends answer: where replies end does not depend on how they arrive and agrees with redis-protocol, and
//! nothing that looks at a reply panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::backend::Subscriptions;
use pointsman::resp::{classify, decode};

#[path = "../../tests/support/scanning.rs"]
mod scanning;

use scanning::scan_replies;

// The first two bytes say in what pieces the rest arrives.
fuzz_target!(|data: &[u8]| {
    let [a, b, input @ ..] = data else { return };
    let cuts = [usize::from(*a) + 1, usize::from(*b) + 1];
    let (ends, error) = scan_replies(input, &[input.len().max(1)]);
    assert_eq!(scan_replies(input, &cuts), (ends.clone(), error), "in pieces of {cuts:?}");
    let mut subscriptions = Subscriptions::default();
    let mut start = 0;
    for end in ends {
        let frame = &input[start..end];
        if let Some(len) = oracle(frame) {
            assert_eq!(len, frame.len(), "redis-protocol ends {:?} elsewhere", String::from_utf8_lossy(frame));
        }
        // An error is fine.
        let _ = decode(frame);
        if classify(frame).is_some() {
            assert_eq!(frame[0], b'-', "only an error proves that a command did not run");
        }
        subscriptions.note(frame, a % 2 == 0, a % 4 < 2);
        start = end;
    }
    // However many there are, what would renew them is one command of each kind.
    assert!(subscriptions.renewal().len() <= 3);
});

/// The length that redis-protocol gives the frame, if it takes it for one. It recurses, so deep ones are not shown to it.
fn oracle(frame: &[u8]) -> Option<usize> {
    const DEEP: usize = 64;
    if frame.iter().filter(|b| b"*%~>|".contains(b)).count() > DEEP {
        return None;
    }
    let bytes = bytes::Bytes::copy_from_slice(frame);
    match redis_protocol::resp2::decode::decode_bytes(&bytes) {
        Ok(Some((_, len))) => Some(len),
        _ => None,
    }
}
