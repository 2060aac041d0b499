//! Properties of the scanners: how bytes arrive makes no difference, redis-protocol agrees on what is valid, and no
//! input makes them panic or stand still.

use crate::scanning::{scan_replies, scan_requests, stream_requests};
use bytes::Bytes;
use pointsman::resp::{args, decode, encode_command, inline_to_command};
use proptest::prelude::*;

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1usize..40, 1..8)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    // Line ends and type bytes more often than chance has them: they are what could be mistaken.
    let byte = prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'$'), Just(b'*'), any::<u8>()];
    prop::collection::vec(byte, 0..60)
}

fn command() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let name = prop_oneof![Just(b"GET".to_vec()), Just(b"posT2".to_vec()), bytes()];
    (name, prop::collection::vec(bytes(), 0..12)).prop_map(|(name, mut args)| {
        args.insert(0, name);
        args
    })
}

/// A legal reply, RESP2 or RESP3, of bounded depth.
fn reply(resp3: bool) -> impl Strategy<Value = Vec<u8>> {
    let line = "[^\r\n]{0,20}";
    let number = any::<i64>();
    let scalar = prop_oneof![
        line.prop_map(|s| format!("+{s}\r\n").into_bytes()),
        line.prop_map(|s| format!("-{s}\r\n").into_bytes()),
        number.prop_map(|n| format!(":{n}\r\n").into_bytes()),
        bytes().prop_map(|b| [format!("${}\r\n", b.len()).as_bytes(), &b, b"\r\n"].concat()),
        Just(if resp3 { b"_\r\n".to_vec() } else { b"$-1\r\n".to_vec() }),
    ];
    let scalar3 = prop_oneof![
        any::<bool>().prop_map(|b| format!("#{}\r\n", if b { 't' } else { 'f' }).into_bytes()),
        (-1e9..1e9f64).prop_map(|d| format!(",{d}\r\n").into_bytes()),
        "[1-9][0-9]{20,40}".prop_map(|n| format!("({n}\r\n").into_bytes()),
        "[a-z]{0,20}".prop_map(|s| format!("={}\r\ntxt:{s}\r\n", s.len() + 4).into_bytes()),
        "[a-z]{0,20}".prop_map(|s| format!("!{}\r\n{s}\r\n", s.len()).into_bytes()),
    ];
    let leaf = if resp3 { prop_oneof![scalar, scalar3].boxed() } else { scalar.boxed() };
    leaf.prop_recursive(5, 40, 6, move |inner| {
        let array = prop::collection::vec(inner.clone(), 0..6)
            .prop_map(|items| [format!("*{}\r\n", items.len()).into_bytes(), items.concat()].concat());
        // Keys are made distinct and hashable: redis-protocol has hash maps.
        let map = prop::collection::vec(inner, 0..4).prop_map(|items| {
            let pairs = items.iter().enumerate().map(|(i, v)| [format!("+k{i}\r\n").as_bytes(), v].concat());
            [format!("%{}\r\n", items.len()).into_bytes(), pairs.collect::<Vec<_>>().concat()].concat()
        });
        if resp3 { prop_oneof![array, map].boxed() } else { array.boxed() }
    })
}

/// What redis-protocol says the length of the first frame is.
fn oracle(input: &[u8], resp3: bool) -> Option<usize> {
    let input = Bytes::copy_from_slice(input);
    if resp3 {
        let found = redis_protocol::resp3::decode::complete::decode_bytes(&input);
        found.expect("valid").map(|(_, len)| len)
    } else {
        let found = redis_protocol::resp2::decode::decode_bytes(&input);
        found.expect("valid").map(|(_, len)| len)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn commands_come_out_as_they_went_in(commands in prop::collection::vec(command(), 1..6), cuts in cuts()) {
        let frames: Vec<Bytes> = commands.iter().map(|c| encode_command(c)).collect();
        let (found, error) = scan_requests(&frames.concat(), &cuts);
        prop_assert_eq!(error, None);
        prop_assert_eq!(found.len(), frames.len());
        for ((frame, name, argc), (sent, command)) in found.iter().zip(frames.iter().zip(&commands)) {
            prop_assert_eq!(frame, sent);
            prop_assert_eq!(name, &command[0]);
            prop_assert_eq!(*argc as usize, command.len());
            prop_assert_eq!(&args(frame).map(<[u8]>::to_vec).collect::<Vec<_>>(), command);
            prop_assert_eq!(oracle(frame, false), Some(frame.len()));
        }
    }

    #[test]
    fn streaming_changes_no_boundary(commands in prop::collection::vec(command(), 1..6), cuts in cuts()) {
        let frames: Vec<Bytes> = commands.iter().map(|c| encode_command(c)).collect();
        let (lengths, error) = stream_requests(&frames.concat(), &cuts);
        prop_assert_eq!(error, None);
        prop_assert_eq!(lengths, frames.iter().map(Bytes::len).collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_scan_alike_however_they_arrive(
        start in prop_oneof![Just(""), Just("*"), Just("*2\r\n"), Just("*1\r\n$"), Just("*3\r\n$3\r\nSET\r\n$2")],
        rest in prop::collection::vec(bytes(), 0..6),
        cuts in cuts(),
    ) {
        let input = [start.as_bytes(), &rest.concat()].concat();
        let whole = scan_requests(&input, &[input.len().max(1)]);
        prop_assert_eq!(&scan_requests(&input, &cuts), &whole);
        prop_assert_eq!(&scan_requests(&input, &[1]), &whole);
        for (frame, _, argc) in &whole.0 {
            if *argc > 0 {
                prop_assert_eq!(args(frame).count(), *argc as usize);
            } else if let Ok(Some(command)) = inline_to_command(frame) {
                let (again, error) = scan_requests(&command, &[7]);
                prop_assert_eq!((again.len(), error), (1, None));
            }
        }
    }

    #[test]
    fn replies_end_where_redis_protocol_ends_them(
        (resp3, replies) in any::<bool>().prop_flat_map(|v| (Just(v), prop::collection::vec(reply(v), 1..5))),
        cuts in cuts(),
    ) {
        let input = replies.concat();
        let (ends, error) = scan_replies(&input, &cuts);
        prop_assert_eq!(error, None);
        let mut end = 0;
        let expected: Vec<usize> = replies.iter().map(|r| { end += r.len(); end }).collect();
        prop_assert_eq!(ends, expected);
        for reply in &replies {
            prop_assert_eq!(oracle(reply, resp3), Some(reply.len()));
            prop_assert!(decode(reply).is_ok());
        }
    }

    #[test]
    fn any_bytes_as_replies_scan_alike_however_they_arrive(
        start in prop_oneof![Just(""), Just("*2\r\n"), Just("%1\r\n+a\r\n"), Just("|1\r\n"), Just("$3\r\n"), Just("+")],
        rest in prop::collection::vec(bytes(), 0..6),
        cuts in cuts(),
    ) {
        let input = [start.as_bytes(), &rest.concat()].concat();
        let whole = scan_replies(&input, &[input.len().max(1)]);
        prop_assert_eq!(&scan_replies(&input, &cuts), &whole);
        prop_assert_eq!(&scan_replies(&input, &[1]), &whole);
        // An error is fine, a panic is not.
        let _ = decode(&input);
    }
}

#[test]
fn long_lines_and_bulks_byte_by_byte() {
    let body = vec![b'x'; 60_000];
    let mut input = [b"+".as_slice(), &body, b"\r\n"].concat();
    input.extend_from_slice(&[b"$60000\r\n".as_slice(), &body, b"\r\n"].concat());
    assert_eq!(scan_replies(&input, &[1]).0.len(), 2);
    let request = [b"*1\r\n$60000\r\n".as_slice(), &body, b"\r\n", &body, b"\n"].concat();
    assert_eq!(scan_requests(&request, &[1]).0.len(), 2);
}
