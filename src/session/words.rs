//! What is read in commands, or changed in them, before they go out on a session's own connection. Pure.

use std::time::Duration;

use bytes::Bytes;

use crate::resp::{args, encode_command};

/// `AUTH` or `HELLO` without `SETNAME`: the name is the client's, and its connection may become another's.
pub(super) fn without_name(frame: &[u8]) -> Bytes {
    let words: Vec<&[u8]> = args(frame).collect();
    let is = |word: &[u8], name: &[u8]| word.eq_ignore_ascii_case(name);
    let (mut kept, mut rest) = (words[..words.len().min(2)].to_vec(), words.get(2..).unwrap_or_default());
    while let [option, tail @ ..] = rest {
        rest = match tail {
            [_, more @ ..] if is(words[0], b"HELLO") && is(option, b"SETNAME") => more,
            [user, password, more @ ..] if is(words[0], b"HELLO") && is(option, b"AUTH") => {
                kept.extend([option, user, password]);
                more
            }
            _ => {
                kept.push(option);
                tail
            }
        };
    }
    encode_command(&kept)
}

/// For how long a `CLIENT` command is to pause the server's clients, if it is about that. Meanwhile the writes of
/// different clients must not wait behind each other, nor reads behind them.
pub(super) fn pause(command: &[u8]) -> Option<Duration> {
    let mut words = args(command).skip(1);
    match words.next()? {
        word if word.eq_ignore_ascii_case(b"PAUSE") => {
            Some(Duration::from_millis(std::str::from_utf8(words.next()?).ok()?.parse().ok()?))
        }
        word if word.eq_ignore_ascii_case(b"UNPAUSE") => Some(Duration::ZERO),
        _ => None,
    }
}

/// A blocking command with what is left of its time; none if nothing is. What is no time the server refuses in its own
/// words.
pub(super) fn with_time_left(command: &Bytes, gone: Duration) -> Option<Bytes> {
    let mut words: Vec<Bytes> = args(command).map(Bytes::copy_from_slice).collect();
    let is = |w: &Bytes, name: &[u8]| w.eq_ignore_ascii_case(name);
    let first = words.first()?.clone();
    // XREAD counts milliseconds behind BLOCK; BLMPOP and BZMPOP have the seconds first, all others last.
    let behind_block = |from: usize| words.iter().skip(from).position(|w| is(w, b"BLOCK")).map(|at| from + at + 1);
    let (at, unit) = if is(&first, b"XREAD") {
        (behind_block(1), 1000.0)
    } else if is(&first, b"XREADGROUP") {
        // A group, or who reads for it, may have that name too.
        (behind_block(4), 1000.0)
    } else if is(&first, b"BLMPOP") || is(&first, b"BZMPOP") {
        (Some(1), 1.0)
    } else {
        (words.len().checked_sub(1), 1.0)
    };
    let time = at.and_then(|at| Some((at, std::str::from_utf8(words.get(at)?).ok()?.parse::<f64>().ok()?)));
    // Zero is for ever.
    let Some((at, total)) = time.filter(|(_, total)| *total > 0.0) else { return Some(command.clone()) };
    let left = total - gone.as_secs_f64() * unit;
    if left <= 0.0 {
        return None;
    }
    // Zero would be for ever.
    words[at] = if unit == 1.0 { format!("{:.3}", left.max(0.001)) } else { format!("{}", left.ceil()) }.into();
    Some(encode_command(&words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(command: &str, gone_ms: u64) -> Option<String> {
        let words: Vec<&str> = command.split(' ').collect();
        let command = with_time_left(&encode_command(&words), Duration::from_millis(gone_ms))?;
        Some(args(&command).map(|a| String::from_utf8_lossy(a).into_owned()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_name_stays_with_the_client() {
        for (said, expected) in [
            ("AUTH SETNAME SETNAME", "AUTH SETNAME SETNAME"),
            ("HELLO", "HELLO"),
            ("hello 3 setname me", "hello 3"),
            ("HELLO 3 AUTH setname auth SETNAME AUTH", "HELLO 3 AUTH setname auth"),
            ("HELLO 2 SETNAME a AUTH u p", "HELLO 2 AUTH u p"),
        ] {
            let words = |text: &str| encode_command(&text.split(' ').collect::<Vec<_>>());
            assert_eq!(without_name(&words(said)), words(expected), "{said}");
        }
    }

    #[test]
    fn the_time_left_stands_where_the_time_stood() {
        assert_eq!(left("BLPOP a b 5", 1500).unwrap(), "BLPOP a b 3.500");
        assert_eq!(left("BLMPOP 5 1 k LEFT", 1500).unwrap(), "BLMPOP 3.500 1 k LEFT");
        assert_eq!(left("XREAD BLOCK 5000 STREAMS s $", 1500).unwrap(), "XREAD BLOCK 3500 STREAMS s $");
        assert_eq!(left("BLPOP a 0", 99_000).unwrap(), "BLPOP a 0", "for ever stays for ever");
        assert_eq!(left("BLPOP a 1", 1000), None);
        assert_eq!(
            left("BLPOP a 1.0001", 1000).unwrap(),
            "BLPOP a 0.001",
            "and what is nearly over does not become that"
        );
        assert_eq!(left("XREAD BLOCK 1 STREAMS s $", 0).unwrap(), "XREAD BLOCK 1 STREAMS s $");
        assert_eq!(
            left("XREADGROUP GROUP block block BLOCK 5000 STREAMS s >", 1500).unwrap(),
            "XREADGROUP GROUP block block BLOCK 3500 STREAMS s >"
        );
    }

    #[test]
    fn what_is_no_time_is_the_servers_to_refuse() {
        for said in ["BLPOP a -1", "BLPOP a x", "BLPOP", "XREAD BLOCK x STREAMS s $", "XREAD BLOCK", "BLMPOP"] {
            assert_eq!(left(said, 99_000).as_deref(), Some(said));
        }
    }
}
