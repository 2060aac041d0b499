//! The integers of RESP headers.

/// Parses as Redis' `string2ll`: an optional minus and digits, without leading zeros, plus sign or blanks.
pub(super) fn parse(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    match digits {
        [] => return None,
        [b'0'] if !negative => return Some(0),
        [b'0', ..] => return None,
        _ => {}
    }
    // Counting downwards reaches i64::MIN, which has no positive counterpart.
    let value = digits.iter().try_fold(0i64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_sub(digit)
    })?;
    if negative { Some(value) } else { value.checked_neg() }
}

/// The usual header, `?digits\r` and one more byte, at the start of `buf`: its value and its length.
///
/// Only what can be accepted without a second look; `None` means that the careful way has to decide.
#[inline]
pub(super) fn short_header(buf: &[u8]) -> Option<(usize, usize)> {
    // One digit or two, as nearly all have, without a loop.
    if let Some([_, a, b, c, _]) = buf.first_chunk::<5>() {
        let (first, second) = (a.wrapping_sub(b'0'), b.wrapping_sub(b'0'));
        if *b == b'\r' && first <= 9 {
            return Some((usize::from(first), 4));
        }
        if *c == b'\r' && (1..=9).contains(&first) && second <= 9 {
            return Some((usize::from(first) * 10 + usize::from(second), 5));
        }
    }
    longer_header(buf)
}

fn longer_header(buf: &[u8]) -> Option<(usize, usize)> {
    // Nine digits cannot overflow even 32 bits, and longer ones are rare enough for the careful way.
    const DIGITS: usize = 9;
    let first = buf.get(1)?.wrapping_sub(b'0');
    if first > 9 {
        return None;
    }
    let mut value = usize::from(first);
    for i in 2..2 + DIGITS {
        let byte = *buf.get(i)?;
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 && value != 0 {
            value = value * 10 + usize::from(digit);
        } else if byte == b'\r' && buf.len() > i + 1 {
            return Some((value, i + 2));
        } else {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_string2ll_accepts() {
        for n in [0, 1, -1, 9, 10, 1_000_000, i64::MAX, i64::MIN, i64::MIN + 1] {
            assert_eq!(parse(n.to_string().as_bytes()), Some(n));
        }
        for bad in
            ["", "-", "+1", "-0", "00", "01", "-01", " 1", "1 ", "1a", "9223372036854775808", "-9223372036854775809"]
        {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn the_short_way_agrees_with_the_careful_one() {
        for n in ["0", "3", "10", "100", "999999999", "1234567890", "01", "00", "", "-1", "+1", "1x"] {
            let header = format!("${n}\r\n");
            for buf in [header.clone(), header.clone() + "$3\r\n"] {
                if let Some((value, len)) = short_header(buf.as_bytes()) {
                    assert_eq!(parse(n.as_bytes()), Some(value as i64));
                    assert_eq!(len, header.len());
                } else {
                    assert!(n.len() > 9 || parse(n.as_bytes()).is_none_or(|v| v < 0), "{n} should be short");
                }
            }
        }
        assert_eq!(short_header(b"$5\r"), None, "the byte after the carriage return has not arrived");
    }
}
