//! What Sentinels publish and answer, and what nodes say of their role: nothing panics, and what is made of it names
//! real addresses and the service asked about.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::addr::Endpoint;
use pointsman::resp::{Value, decode};
use pointsman::sentinel::{Poll, parse_message, parse_peers, parse_role, role_endpoints};

const SERVICE: &str = "mymaster";
/// Their messages carry no service name.
const FOR_ALL: [&str; 4] = ["+new-epoch", "+vote-for-leader", "+tilt", "-tilt"];

// The first byte says what the rest is.
fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 3 {
        0 => message(rest),
        1 => role(rest),
        _ => poll(rest),
    }
});

/// A channel, a line end, a payload.
fn message(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some((channel, payload)) = text.split_once('\n') else { return };
    let Some(parsed) = parse_message(channel, payload, SERVICE) else { return };
    assert!(FOR_ALL.contains(&channel) || payload.split(' ').any(|word| word == SERVICE), "{channel} {payload}");
    for endpoint in parsed.endpoints() {
        check(endpoint);
        assert!(payload.split(' ').any(|word| word == endpoint.host), "{endpoint} is not in {payload}");
    }
    parsed.clone().resolved(|_| None);
    parsed.resolved(Endpoint::literal);
}

fn role(data: &[u8]) {
    let Ok(reply) = decode(data) else { return };
    role_endpoints(&reply).iter().for_each(check);
    parse_role(&reply, None, None, Endpoint::literal);
}

/// The three replies to one poll, or the one that names the other Sentinels.
fn poll(data: &[u8]) {
    let mut replies = Vec::new();
    let mut scanner = pointsman::resp::ReplyScanner::new();
    let mut rest = data;
    while let Ok(progress) = scanner.scan(rest) {
        if !progress.complete {
            break;
        }
        let (frame, more) = rest.split_at(progress.consumed);
        replies.push(decode(frame).unwrap_or(Value::Null));
        rest = more;
    }
    for reply in &replies {
        parse_peers(reply).iter().flatten().for_each(|peer| check(&peer.endpoint));
    }
    if let Ok([address, master, replicas]) = <[Value; 3]>::try_from(replies) {
        let poll = Poll { address, master, replicas };
        poll.endpoints().for_each(|endpoint| check(&endpoint));
        // What makes no sense is an error, and that is fine.
        let _ = poll.answer(Endpoint::literal);
    }
}

fn check(endpoint: &Endpoint) {
    assert!(endpoint.port != 0 && !endpoint.host.is_empty(), "{endpoint}");
}
