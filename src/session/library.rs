//! What `CLIENT SETINFO` says. Pure.
//!
//! A shared connection forgets it with the next client that says so; whoever asks is told of the client.

use std::sync::Arc;

use bytes::BytesMut;

use crate::backend::Translate;
use crate::clients::{Attribute, Client};
use crate::resp::args;

/// What a client said of its library, and the server has not answered.
#[derive(Debug)]
pub(super) struct Said {
    client: Arc<Client>,
    attribute: Attribute,
    value: Vec<u8>,
}

impl Said {
    /// What the command says, if it is a right `CLIENT SETINFO`.
    pub(super) fn of(frame: &[u8], client: &Arc<Client>) -> Option<Self> {
        let (attribute, value) = said(frame)?;
        Some(Self { client: Arc::clone(client), attribute, value: value.to_owned() })
    }
}

/// A server that does not know the command, or does not let the user say it, has not heard it.
impl Translate for Said {
    fn translate(&self, reply: BytesMut) -> BytesMut {
        if reply.first() == Some(&b'+') {
            self.client.describe_library(self.attribute, &self.value);
        }
        reply
    }
}

/// What a `CLIENT SETINFO` says, if it is right (Redis `clientSetinfoCommand`).
fn said(frame: &[u8]) -> Option<(Attribute, &[u8])> {
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
        let said = |words: &[&str]| said(&encode_command(words)).map(|(a, v)| (a, v.to_owned()));
        assert_eq!(said(&["CLIENT", "setinfo", "lib-name", "x"]), Some((Attribute::Library, b"x".to_vec())));
        assert_eq!(said(&["CLIENT", "SETINFO", "LIB-VER", ""]), Some((Attribute::Version, Vec::new())));
        assert_eq!(said(&["CLIENT", "SETINFO", "LIB-VER", "1 2"]), None);
        assert_eq!(said(&["CLIENT", "SETINFO", "LIB", "1"]), None);
        assert_eq!(said(&["CLIENT", "SETINFO", "LIB-NAME", "x", "y"]), None);
        assert_eq!(said(&["CLIENT", "SETNAME", "LIB-NAME", "x"]), None);
    }
}
