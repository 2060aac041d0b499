//! What clients call themselves and their libraries (`CLIENT SETNAME`, `SETINFO`). Pure.

use crate::clients::Attribute;
use crate::resp::args;

/// What a `CLIENT SETINFO` says, if it is right (Redis `clientSetinfoCommand`).
///
/// A shared connection forgets it with the next client that says so; whoever asks is told of the client.
pub(super) fn said_of_library(frame: &[u8]) -> Option<(Attribute, &[u8])> {
    let words: Vec<&[u8]> = args(frame).take(5).collect();
    let [_, set_info, attribute, value] = words[..] else { return None };
    if !set_info.eq_ignore_ascii_case(b"SETINFO") || !is_printable(value) {
        return None;
    }
    if attribute.eq_ignore_ascii_case(b"LIB-NAME") {
        Some((Attribute::Library, value))
    } else if attribute.eq_ignore_ascii_case(b"LIB-VER") {
        Some((Attribute::Version, value))
    } else {
        None
    }
}

/// Whether a client may call itself so (Redis `validateClientAttr`): printable, and no space.
pub(super) fn is_printable(name: &[u8]) -> bool {
    name.iter().all(|b| (b'!'..=b'~').contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::encode_command;

    #[test]
    fn a_library_is_taken_as_the_server_takes_it() {
        let said = |words: &[&str]| said_of_library(&encode_command(words)).map(|(a, v)| (a, v.to_owned()));
        assert_eq!(said(&["CLIENT", "setinfo", "lib-name", "x"]), Some((Attribute::Library, b"x".to_vec())));
        assert_eq!(said(&["CLIENT", "SETINFO", "LIB-VER", ""]), Some((Attribute::Version, Vec::new())));
        assert_eq!(said(&["CLIENT", "SETINFO", "LIB-VER", "1 2"]), None);
        assert_eq!(said(&["CLIENT", "SETINFO", "LIB", "1"]), None);
        assert_eq!(said(&["CLIENT", "SETINFO", "LIB-NAME", "x", "y"]), None);
        assert_eq!(said(&["CLIENT", "SETNAME", "LIB-NAME", "x"]), None);
    }
}
