//! What a server says of a connection, put in terms of the client that it serves; and what the server is told for that.
//!
//! A connection is one client's now and another's later, or many clients' at once. So the server judges a command (its
//! words, and whether the user may say it), and what it changes or asks is the client's.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Session;
use super::client_filter::{Filter, NOBODY, harmless_kill, lists_by, number};
use super::clients::{Asking, list, text};
use super::library::{is_printable, said_of_library};
use super::redirection::Redirection;
use super::words::without_name;
use crate::backend::{Heed, Translate};
use crate::clients::{Client, Clients, Held};
use crate::resp::{Kind, args, encode_command, lookup, with_redirection};
use crate::router::Replies;

/// What the server is told instead, if it is not to have the command as it is. Of what it would refuse it has every word.
pub(super) fn for_server(frame: &[u8]) -> Option<Bytes> {
    let words: Vec<&[u8]> = args(frame).collect();
    match (kind(frame), words.as_slice()) {
        // The name is the client's, and its connection may become another's.
        (Kind::Hello, _) => {
            let names = words.windows(2).filter(|pair| pair[0].eq_ignore_ascii_case(b"SETNAME")).map(|pair| pair[1]);
            names.into_iter().all(is_printable).then(|| without_name(frame))
        }
        (Kind::Client, [client, sub, name]) if sub.eq_ignore_ascii_case(b"SETNAME") => {
            is_printable(name).then(|| encode_command(&[client, sub, &b""[..]]))
        }
        // A connection always answers; whether the client hears it is seen to here.
        (Kind::Client, [client, sub, _]) if reply_mode(&words).is_some() => {
            Some(encode_command(&[client, sub, &b"ON"[..]]))
        }
        (Kind::Client, [_, sub, ..]) if sub.eq_ignore_ascii_case(b"KILL") => Some(harmless_kill(&words)),
        // Which connection is meant is known only when the transaction runs: see `besides`.
        (Kind::Client, [client, sub, id, rest @ ..])
            if sub.eq_ignore_ascii_case(b"UNBLOCK") && number(id).is_some() =>
        {
            Some(encode_command(&[&[client, sub, NOBODY.as_bytes()], rest].concat()))
        }
        // Its filters choose among the clients here.
        (Kind::Client, [client, sub, _, ..]) if sub.eq_ignore_ascii_case(b"LIST") && lists_by(&words) => {
            Some(encode_command(&[client, sub]))
        }
        _ => None,
    }
}

pub(super) fn kind(frame: &[u8]) -> Kind {
    lookup(args(frame).next().unwrap_or_default()).info().kind
}

/// What the server is asked behind a transaction, right before it runs, to answer one of its commands.
#[derive(Debug)]
pub(super) struct Besides {
    pub(super) command: Bytes,
    /// Until it is answered, the connection that it names stays its client's.
    _held: Option<Held>,
}

/// What is to be asked so for this command, if something is. What has been queued for it says whether its words are right.
///
/// Whom Redis unblocks is served when the transaction is at its end, as are those for whom it adds something; so that this
/// happens behind the rest makes no difference.
pub(super) fn besides(said: &[u8], clients: &Clients, node: SocketAddr) -> Option<Besides> {
    let words: Vec<&[u8]> = args(said).collect();
    match (kind(said), words.as_slice()) {
        (Kind::Client, [client, sub, id, rest @ ..]) if sub.eq_ignore_ascii_case(b"UNBLOCK") => {
            let (id, held) = blocked_on(id, clients, node)?;
            let command = encode_command(&[&[client, sub, id.to_string().as_bytes()], rest].concat());
            Some(Besides { command, _held: Some(held) })
        }
        (Kind::Client, [client, sub, _, ..]) if sub.eq_ignore_ascii_case(b"LIST") && !lists_by(&words) => {
            Some(Besides { command: encode_command(&[client, sub]), _held: None })
        }
        _ => None,
    }
}

/// The connection to `node` that the client of this id may be blocked on, and which stays its own meanwhile.
pub(super) fn blocked_on(id: &[u8], clients: &Clients, node: SocketAddr) -> Option<(i64, Held)> {
    let held = clients.get(number(id)?)?.hold();
    let backend = held.backend(node);
    (backend != 0).then_some((backend, held))
}

/// What a `CLIENT REPLY` asks for.
pub(super) fn reply_mode(words: &[&[u8]]) -> Option<Replies> {
    let [_, sub, mode] = words else { return None };
    let is = |word: &[u8]| mode.eq_ignore_ascii_case(word);
    match sub.eq_ignore_ascii_case(b"REPLY") {
        true if is(b"ON") => Some(Replies::On),
        true if is(b"OFF") => Some(Replies::Off),
        true if is(b"SKIP") => Some(Replies::Skip),
        _ => None,
    }
}

/// Puts answers of the server into the client's terms, and takes note of what they change.
#[derive(Debug)]
pub(super) struct Teller {
    client: Arc<Client>,
    clients: Arc<Clients>,
    /// Whom invalidations go to that are redirected.
    redirections: Vec<Redirection>,
    /// The client has closed itself.
    has_left: Cell<bool>,
}

impl Teller {
    pub(super) fn new(client: &Arc<Client>, clients: &Arc<Clients>, redirections: Vec<Redirection>) -> Self {
        let (client, clients) = (Arc::clone(client), Arc::clone(clients));
        Self { client, clients, redirections, has_left: Cell::new(false) }
    }

    /// Whether the client has closed itself (`CLIENT KILL`): it hears nothing more.
    pub(super) fn has_left(&self) -> bool {
        self.has_left.get()
    }

    /// The client said `command`, and this is the server's answer to it, or to what it was told instead.
    pub(super) fn told(&self, command: &[u8], reply: &[u8]) -> Bytes {
        let words: Vec<&[u8]> = args(command).collect();
        let as_it_is = Bytes::copy_from_slice(reply);
        let sub = match kind(command) {
            Kind::Client => words.get(1).map(|word| word.to_ascii_uppercase()).unwrap_or_default(),
            _ => Vec::new(),
        };
        let failed = reply.first() == Some(&b'-');
        match (sub.as_slice(), words.as_slice()) {
            (b"KILL", _) => self.killed(&words, as_it_is),
            _ if failed => as_it_is,
            (b"", _) if kind(command) == Kind::Hello => {
                if let Some(name) = named_in_hello(&words) {
                    self.client.set_name(name);
                }
                with_id(&as_it_is, self.client.id)
            }
            (b"ID", _) => format!(":{}\r\n", self.client.id).into(),
            (b"SETNAME", [_, _, name]) => {
                self.client.set_name(name);
                as_it_is
            }
            // Where there is no name the server has none either, and knows which null it is.
            (b"GETNAME", _) => Some(self.client.name()).filter(|n| !n.is_empty()).map_or(as_it_is, |name| bulk(&name)),
            (b"SETINFO", _) => {
                if let Some((attribute, value)) = said_of_library(command) {
                    self.client.describe_library(attribute, value);
                }
                as_it_is
            }
            (b"INFO" | b"LIST", _) => {
                let listed = match sub.as_slice() {
                    b"INFO" => vec![Arc::clone(&self.client)],
                    _ => Filter::of(&words, false).chosen(&self.clients, self.client.id),
                };
                let asking =
                    Asking { id: self.client.id, command: None, database: None, asked_on: self.client.backend() };
                text(&list(reply, &listed, &asking), reply[0] == b'=')
            }
            (b"GETREDIR" | b"TRACKINGINFO", _) => {
                let target =
                    |backend| self.redirections.iter().find(|r| r.backend == backend).map(|r| (r.id, r.broken));
                with_redirection(reply, target)
            }
            _ => as_it_is,
        }
    }

    /// Closes whom a `CLIENT KILL` means, if the server would have let the client do so: it was asked for nobody.
    fn killed(&self, words: &[&[u8]], reply: Bytes) -> Bytes {
        let old_form = words.len() == 3;
        let permitted = reply.first() == Some(&b':') || old_form && reply.starts_with(b"-ERR No such client");
        if !permitted {
            return reply;
        }
        let victims = Filter::of(words, true).chosen(&self.clients, self.client.id);
        for victim in &victims {
            if victim.id == self.client.id {
                self.has_left.set(true);
            } else {
                self.clients.kill(victim);
            }
        }
        match (old_form, victims.is_empty()) {
            (true, true) => reply,
            (true, false) => Bytes::from_static(b"+OK\r\n"),
            (false, _) => format!(":{}\r\n", victims.len()).into(),
        }
    }
}

/// One command, as the client said it, whose answer is put into its terms.
#[derive(Debug)]
struct Told {
    said: Bytes,
    teller: Teller,
}

impl Translate for Told {
    fn translate(&self, reply: BytesMut) -> BytesMut {
        self.teller.told(&self.said, &reply).into()
    }
}

impl Session {
    pub(super) fn teller(&self) -> Teller {
        Teller::new(&self.presence.client, &self.presence.clients, self.redirections())
    }

    /// The answer to this command is to be put into the client's terms.
    pub(super) fn heed_told(&self, said: &[u8]) -> Heed {
        Heed::Translate(Rc::new(Told { said: Bytes::copy_from_slice(said), teller: self.teller() }))
    }
}

/// The name that a `HELLO` gives, if it gives one: the last.
fn named_in_hello<'a>(words: &[&'a [u8]]) -> Option<&'a [u8]> {
    let (mut name, mut rest) = (None, words.get(2..).unwrap_or_default());
    while let [option, tail @ ..] = rest {
        rest = match tail {
            [_, _, more @ ..] if option.eq_ignore_ascii_case(b"AUTH") => more,
            [said, more @ ..] if option.eq_ignore_ascii_case(b"SETNAME") => {
                name = Some(*said);
                more
            }
            _ => tail,
        };
    }
    name
}

fn bulk(bytes: &[u8]) -> Bytes {
    let mut reply = BytesMut::from(format!("${}\r\n", bytes.len()).as_bytes());
    reply.extend_from_slice(bytes);
    reply.extend_from_slice(b"\r\n");
    reply.freeze()
}

/// The reply to `HELLO` with the client's own id in place of the backend connection's.
fn with_id(reply: &Bytes, id: u64) -> Bytes {
    const FIELD: &[u8] = b"$2\r\nid\r\n:";
    let Some(start) = memchr::memmem::find(reply, FIELD).map(|at| at + FIELD.len()) else { return reply.clone() };
    let Some(end) = memchr::memchr(b'\r', &reply[start..]).map(|at| start + at) else { return reply.clone() };
    [&reply[..start], id.to_string().as_bytes(), &reply[end..]].concat().into()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::addr::ClientAddr;
    use crate::clients::Presence;

    pub(in crate::session) fn command(words: &str) -> Bytes {
        encode_command(&words.split(' ').collect::<Vec<_>>())
    }

    pub(in crate::session) fn presence() -> Presence {
        let here = || ClientAddr::Tcp(([127, 0, 0, 1], 1).into());
        Arc::new(Clients::new(1)).join(7, 0, [here(), here()], None).unwrap()
    }

    #[test]
    fn the_server_judges_and_nothing_of_the_client_stays_there() {
        for (said, told) in [
            ("HELLO 3 SETNAME me", Some("HELLO 3")),
            ("HELLO 3 AUTH SETNAME p", Some("HELLO 3 AUTH SETNAME p")),
            ("HELLO 3 SETNAME \u{7f}", None),
            ("AUTH SETNAME me", None),
            ("CLIENT SETNAME me", Some("CLIENT SETNAME ")),
            ("CLIENT SETNAME \u{7f}", None),
            ("client setname", None),
            ("CLIENT REPLY off", Some("CLIENT REPLY ON")),
            ("CLIENT REPLY no", None),
            ("CLIENT KILL a:1", Some("CLIENT KILL nobody:0")),
            ("CLIENT LIST ID 4 5", Some("CLIENT LIST")),
            ("CLIENT LIST TYPE pubsub", Some("CLIENT LIST")),
            ("CLIENT LIST TYPE nobody", None),
            ("CLIENT LIST", None),
            ("CLIENT LIST USER bob", None),
            ("CLIENT UNBLOCK 5 ERROR", Some("CLIENT UNBLOCK 9223372036854775807 ERROR")),
            ("CLIENT UNBLOCK +5", None),
        ] {
            assert_eq!(for_server(&command(said)), told.map(command), "{said}");
        }
    }

    #[test]
    fn an_answer_is_about_the_client() {
        let presence = presence();
        let to = Redirection { backend: 40, id: 8, broken: false };
        let teller = Teller::new(&presence.client, &presence.clients, vec![to]);
        for (said, reply, told) in [
            ("CLIENT ID", ":40\r\n", ":7\r\n"),
            ("CLIENT GETNAME", "_\r\n", "_\r\n"),
            ("CLIENT SETNAME me", "-NOPERM\r\n", "-NOPERM\r\n"),
            ("CLIENT GETNAME", "$-1\r\n", "$-1\r\n"),
            ("CLIENT SETNAME me", "+OK\r\n", "+OK\r\n"),
            ("CLIENT GETNAME", "_\r\n", "$2\r\nme\r\n"),
            ("HELLO 3 AUTH SETNAME x SETNAME you", "*2\r\n$2\r\nid\r\n:40\r\n", "*2\r\n$2\r\nid\r\n:7\r\n"),
            ("CLIENT GETNAME", "_\r\n", "$3\r\nyou\r\n"),
            ("CLIENT GETREDIR", ":40\r\n", ":8\r\n"),
            ("CLIENT GETREDIR", ":-1\r\n", ":-1\r\n"),
            ("AUTH ID ID", "+OK\r\n", "+OK\r\n"),
            ("CLIENT KILL ID 7", ":0\r\n", ":0\r\n"),
            ("CLIENT KILL 127.0.0.1:2", "-ERR No such client\r\n", "-ERR No such client\r\n"),
        ] {
            assert_eq!(teller.told(&command(said), reply.as_bytes()), told, "{said}");
        }
        assert!(!teller.has_left());
        let itself = command("CLIENT KILL 127.0.0.1:1");
        assert_eq!(teller.told(&itself, b"-NOPERM\r\n"), "-NOPERM\r\n");
        assert!(!teller.has_left());
        assert_eq!(teller.told(&itself, b"-ERR No such client\r\n"), "+OK\r\n");
        assert!(teller.has_left());
    }
}
