//! What a transaction asks about its connection, or changes of it: the reply to its `EXEC` says what ran, and is told in
//! terms of the client.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::clients::{Asking, list, text};
use super::library::{Said, is_printable};
use super::local::with_id;
use super::redirection::Redirection;
use super::words::without_name;
use crate::backend::Translate;
use crate::clients::{Client, Clients, Presence};
use crate::resp::{Kind, ReplyScanner, args, lookup};

/// A transaction whose `EXEC` was sent.
#[derive(Debug)]
pub(super) struct Executed {
    /// Commands that were queued.
    queued: usize,
    /// Those that matter, each with its place among them.
    heeded: Vec<(usize, Bytes)>,
    client: Arc<Client>,
    clients: Arc<Clients>,
    redirection: Option<Redirection>,
    /// Those of them that were accepted, once `EXEC` was answered.
    accepted: RefCell<Option<Vec<Bytes>>>,
}

/// Whether a queued command asks about its connection, or changes what its session is.
pub(super) fn is_heeded(frame: &[u8]) -> bool {
    matches!(kind(frame), Kind::Select | Kind::Auth | Kind::Hello | Kind::Client)
}

/// What becomes of the connection when the command is queued: all but its name, which stays with the client.
pub(super) fn for_connection(frame: &Bytes) -> Bytes {
    let words: Vec<&[u8]> = args(frame).collect();
    let names = words.windows(2).filter(|pair| pair[0].eq_ignore_ascii_case(b"SETNAME")).map(|pair| pair[1]);
    // What is no name the server refuses, and with it the rest.
    if kind(frame) == Kind::Hello && names.into_iter().all(is_printable) { without_name(frame) } else { frame.clone() }
}

pub(super) fn kind(frame: &[u8]) -> Kind {
    lookup(args(frame).next().unwrap_or_default()).info().kind
}

/// Where the elements of an array stand; none if it is something else.
fn elements(reply: &[u8]) -> Option<Vec<(usize, usize)>> {
    let header = memchr::memchr(b'\n', reply)? + 1;
    let count: usize = std::str::from_utf8(reply.strip_prefix(b"*")?.get(..header - 3)?).ok()?.parse().ok()?;
    let mut at = header;
    (0..count)
        .map(|_| {
            let progress = ReplyScanner::new().scan(&reply[at..]).ok().filter(|p| p.complete)?;
            at += progress.consumed;
            Some((at - progress.consumed, at))
        })
        .collect()
}

impl Translate for Executed {
    fn translate(&self, reply: BytesMut) -> BytesMut {
        let Some(elements) = elements(&reply) else {
            // Nothing has run.
            *self.accepted.borrow_mut() = Some(Vec::new());
            return reply;
        };
        if elements.len() != self.queued {
            return reply;
        }
        let (mut told, mut at, mut accepted) = (BytesMut::with_capacity(reply.len()), 0, Vec::new());
        for (place, command) in &self.heeded {
            let (from, to) = elements[*place];
            if reply[from] == b'-' {
                continue;
            }
            told.extend_from_slice(&reply[at..from]);
            told.extend_from_slice(&self.told(command, &reply[from..to]));
            at = to;
            accepted.push(command.clone());
        }
        *self.accepted.borrow_mut() = Some(accepted);
        told.extend_from_slice(&reply[at..]);
        told
    }
}

impl Executed {
    /// Of the `heeded` ones among so many queued commands.
    pub(super) fn new(
        queued: usize,
        heeded: Vec<(usize, Bytes)>,
        presence: &Presence,
        redirection: Option<Redirection>,
    ) -> Self {
        let (client, clients) = (Arc::clone(&presence.client), Arc::clone(&presence.clients));
        Self { queued, heeded, client, clients, redirection, accepted: RefCell::default() }
    }

    /// The commands that the server has accepted of those that are heeded; none if that cannot be told.
    pub(super) fn accepted(&self) -> Option<Vec<Bytes>> {
        self.accepted.take()
    }

    fn told(&self, command: &[u8], element: &[u8]) -> Bytes {
        let words: Vec<&[u8]> = args(command).take(2).collect();
        let sub = |word: &[u8]| words.get(1).is_some_and(|w| w.eq_ignore_ascii_case(word));
        let as_it_is = || Bytes::copy_from_slice(element);
        match kind(command) {
            Kind::Hello => with_id(&as_it_is(), self.client.id),
            Kind::Client if sub(b"ID") => format!(":{}\r\n", self.client.id).into(),
            Kind::Client if sub(b"INFO") || sub(b"LIST") => {
                let info = sub(b"INFO");
                let listed = if info { vec![Arc::clone(&self.client)] } else { self.clients.all() };
                let asking = Asking {
                    id: self.client.id,
                    command: if info { "client|info" } else { "client|list" },
                    database: None,
                    asked_on: self.client.backend(),
                };
                text(&list(element, &listed, &asking), element[0] == b'=')
            }
            Kind::Client if sub(b"SETINFO") => {
                Said::of(command, &self.client).map_or_else(as_it_is, |said| said.translate(element.into()).freeze())
            }
            Kind::Client => match self.redirection {
                Some(redirection) => redirection.translate(element.into()).freeze(),
                None => as_it_is(),
            },
            _ => as_it_is(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::ClientAddr;
    use crate::resp::encode_command;

    fn command(words: &str) -> Bytes {
        encode_command(&words.split(' ').collect::<Vec<_>>())
    }

    fn executed(queued: usize, heeded: &[(usize, &str)]) -> Executed {
        let clients = Arc::new(Clients::new(1));
        let here = || ClientAddr::Tcp(([127, 0, 0, 1], 1).into());
        let presence = clients.join(7, 0, [here(), here()], None).unwrap();
        let heeded = heeded.iter().map(|(place, words)| (*place, command(words))).collect();
        Executed::new(queued, heeded, &presence, None)
    }

    #[test]
    fn what_ran_changes_the_session_and_speaks_of_the_client() {
        let e = executed(4, &[(0, "SELECT 5"), (2, "CLIENT ID"), (3, "SELECT 99")]);
        let reply = b"*4\r\n+OK\r\n*2\r\n:1\r\n:2\r\n:55\r\n-ERR DB index is out of range\r\n";
        let told = e.translate(reply.as_slice().into());
        assert_eq!(told, "*4\r\n+OK\r\n*2\r\n:1\r\n:2\r\n:7\r\n-ERR DB index is out of range\r\n");
        assert_eq!(e.accepted().unwrap(), [command("SELECT 5"), command("CLIENT ID")]);
    }

    #[test]
    fn what_did_not_run_changes_nothing() {
        for reply in ["-EXECABORT x\r\n", "*-1\r\n", "_\r\n"] {
            let e = executed(1, &[(0, "SELECT 5")]);
            assert_eq!(e.translate(reply.as_bytes().into()), reply);
            assert!(e.accepted().unwrap().is_empty(), "{reply}");
        }
        let e = executed(1, &[(0, "SELECT 5")]);
        e.translate(b"*2\r\n+OK\r\n+OK\r\n".as_slice().into());
        assert!(e.accepted().is_none(), "more than was queued");
    }

    #[test]
    fn a_name_that_is_one_stays_with_the_client() {
        for (said, expected) in [
            ("HELLO 3 SETNAME me", "HELLO 3"),
            ("HELLO 3 SETNAME \u{7f}", "HELLO 3 SETNAME \u{7f}"),
            ("AUTH SETNAME me", "AUTH SETNAME me"),
        ] {
            assert_eq!(for_connection(&command(said)), command(expected), "{said}");
        }
    }
}
