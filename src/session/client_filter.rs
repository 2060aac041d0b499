//! Which clients a `CLIENT LIST` or `CLIENT KILL` is about, in the words of Redis 7 and Valkey 8. Pure.
//!
//! Whether the words are right the server says. Valkey takes for both what Redis takes for `CLIENT KILL`, and any number
//! of ids (Valkey `parseClientFiltersOrReply`).

use std::sync::Arc;

use bytes::Bytes;

use crate::clients::{Client, Clients};
use crate::clock::Moment;
use crate::resp::encode_command;

/// An id that no connection of a server has.
pub(super) const NOBODY: &str = "9223372036854775807";

/// See the module. A client has to pass every kind of filter that is given; of one kind the last counts.
#[derive(Default)]
pub(super) struct Filter<'a> {
    ids: Option<Vec<u64>>,
    addr: Option<&'a [u8]>,
    laddr: Option<&'a [u8]>,
    user: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
    /// Seconds.
    min_age: Option<u64>,
    skip_me: bool,
    /// There is a filter that pointsman does not know.
    unknown: bool,
}

impl<'a> Filter<'a> {
    /// The filter of a command, its first two words included. `skip_me`: what holds if it does not say.
    pub(super) fn of(words: &[&'a [u8]], skip_me: bool) -> Self {
        if let [_, _, addr] = words {
            // The old form of `CLIENT KILL`, by which one can kill oneself.
            return Self { addr: Some(*addr), ..Self::default() };
        }
        let mut filter = Self { skip_me, ..Self::default() };
        for (option, values) in options(words) {
            let value = values.first().copied();
            match option.to_ascii_uppercase().as_slice() {
                b"ID" => filter.ids.get_or_insert_default().extend(values.iter().filter_map(|id| number(id))),
                b"ADDR" => filter.addr = value,
                b"LADDR" => filter.laddr = value,
                b"USER" => filter.user = value,
                b"TYPE" => filter.kind = value,
                b"MAXAGE" => filter.min_age = value.and_then(number),
                b"SKIPME" => filter.skip_me = value.is_some_and(|v| v.eq_ignore_ascii_case(b"YES")),
                _ => filter.unknown = true,
            }
        }
        filter
    }

    /// The clients that pass, the eldest first. `own` is the id of the one that asks.
    pub(super) fn chosen(&self, clients: &Clients, own: u64) -> Vec<Arc<Client>> {
        let now = Moment::now();
        let mut all = clients.all();
        all.retain(|c| {
            !self.unknown
                && self.ids.as_ref().is_none_or(|ids| ids.contains(&c.id))
                && self.addr.is_none_or(|addr| c.addr.to_string().as_bytes() == addr)
                && self.laddr.is_none_or(|laddr| c.laddr.to_string().as_bytes() == laddr)
                && self.user.is_none_or(|wanted| user(c) == wanted)
                && self.kind.is_none_or(|kind| is_of_type(c, kind))
                && self.min_age.is_none_or(|age| now.since(c.since).as_secs() >= age)
                && !(self.skip_me && c.id == own)
        });
        all
    }
}

/// The options behind the first two words, each with its values: `ID` has all the numbers that follow, the others have
/// one, and the last word none if it is an option.
fn options<'w, 'a>(words: &'w [&'a [u8]]) -> impl Iterator<Item = (&'a [u8], &'w [&'a [u8]])> {
    let mut rest = words.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (option, behind) = rest.split_first()?;
        let values = if option.eq_ignore_ascii_case(b"ID") {
            behind.iter().take_while(|v| parsed::<i64>(v).is_some()).count().max(1).min(behind.len())
        } else {
            behind.len().min(1)
        };
        let (values, next) = behind.split_at(values);
        rest = next;
        Some((*option, values))
    })
}

/// Whether a `CLIENT LIST` is one that every server takes, with one filter that is known here.
pub(super) fn lists_by(words: &[&[u8]]) -> bool {
    const TYPES: [&[u8]; 5] = [b"NORMAL", b"PUBSUB", b"MASTER", b"REPLICA", b"SLAVE"];
    match words {
        [_, _, option, kind] if option.eq_ignore_ascii_case(b"TYPE") => {
            TYPES.iter().any(|known| kind.eq_ignore_ascii_case(known))
        }
        [_, _, option, ids @ ..] => {
            option.eq_ignore_ascii_case(b"ID") && !ids.is_empty() && ids.iter().all(|id| number(id).is_some())
        }
        _ => false,
    }
}

fn is_of_type(client: &Client, wanted: &[u8]) -> bool {
    let its: &[u8] = if client.is_subscribed() { b"PUBSUB" } else { b"NORMAL" };
    wanted.eq_ignore_ascii_case(its)
}

/// Whom a client is authenticated as.
pub(super) fn user(client: &Client) -> Vec<u8> {
    let (_, user) = client.named();
    if user.is_empty() { b"default".to_vec() } else { user }
}

/// The same `CLIENT KILL`, so that the server judges it, but with filters that nobody passes: the last of a kind is the
/// one that counts, and all kinds have to be passed.
pub(super) fn harmless_kill(words: &[&[u8]]) -> Bytes {
    const NOBODYS: [&[u8]; 4] = [b"ADDR", b"nobody:0", b"LADDR", b"nobody:0"];
    match words {
        [_, _] | [_] | [] => encode_command(words),
        [kill, what, _] => encode_command(&[kill, what, &b"nobody:0"[..]]),
        // An option without its value would take one from behind it.
        [most @ .., last] if options(words).any(|(_, values)| values.is_empty()) => {
            encode_command(&[most, &NOBODYS, &[last]].concat())
        }
        _ => encode_command(&[words, &NOBODYS, &[b"ID", NOBODY.as_bytes()]].concat()),
    }
}

pub(super) fn number(text: &[u8]) -> Option<u64> {
    parsed(text)
}

/// As Redis reads numbers (`string2ll`): no plus, no leading zeros.
fn parsed<T: std::str::FromStr + ToString>(text: &[u8]) -> Option<T> {
    let number: T = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::ClientAddr;
    use crate::clients::Presence;
    use crate::resp::args;

    fn words(command: &str) -> Vec<&[u8]> {
        command.split(' ').map(str::as_bytes).collect()
    }

    fn three() -> (Arc<Clients>, Vec<Presence>) {
        let clients = Arc::new(Clients::new(1));
        let tcp = |addr: &str| ClientAddr::Tcp(addr.parse().unwrap());
        let join = |id| clients.join(id, 0, [tcp(&format!("10.0.0.{id}:5")), tcp("10.1.0.1:1")], None).unwrap();
        let presences: Vec<Presence> = (1..=3).map(join).collect();
        presences[1].client.describe(b"bob", true);
        (clients, presences)
    }

    fn chosen(clients: &Clients, command: &str) -> Vec<u64> {
        let words = words(command);
        let kill = words[1] == b"KILL";
        Filter::of(&words, kill).chosen(clients, 1).iter().map(|c| c.id).collect()
    }

    #[test]
    fn filters_choose_whom_to_kill() {
        let (clients, _presences) = three();
        let ids = |command: &str| chosen(&clients, command);
        assert_eq!(ids("CLIENT KILL SKIPME YES"), [2, 3]);
        assert_eq!(ids("CLIENT KILL SKIPME NO"), [1, 2, 3]);
        assert!(ids("CLIENT KILL ID 1").is_empty(), "the one that asks is spared");
        assert_eq!(ids("CLIENT KILL ID 1 3 SKIPME no"), [1, 3]);
        assert_eq!(ids("CLIENT KILL 10.0.0.1:5"), [1]);
        assert_eq!(ids("CLIENT KILL USER bob TYPE pubsub"), [2]);
        assert_eq!(ids("CLIENT KILL USER default SKIPME no"), [1, 3]);
        assert!(ids("CLIENT KILL TYPE replica").is_empty());
        assert!(ids("CLIENT KILL MAXAGE 100").is_empty());
        assert!(ids("CLIENT KILL LATER yes").is_empty(), "what is not known chooses nobody");
    }

    #[test]
    fn a_list_takes_the_same_filters_and_names_the_one_that_asks() {
        let (clients, _presences) = three();
        let ids = |command: &str| chosen(&clients, command);
        assert_eq!(ids("CLIENT LIST"), [1, 2, 3]);
        assert_eq!(ids("CLIENT LIST ID 3 1 9"), [1, 3]);
        assert_eq!(ids("CLIENT LIST TYPE normal"), [1, 3]);
        assert_eq!(ids("CLIENT LIST ID 2 3 TYPE normal USER default"), [3]);
        assert_eq!(ids("CLIENT LIST SKIPME yes ADDR 10.0.0.3:5"), [3]);
        assert_eq!(ids("CLIENT LIST LADDR 10.1.0.1:1 MAXAGE 0 SKIPME yes"), [2, 3]);
    }

    #[test]
    fn the_server_is_never_asked_to_kill_anybody() {
        for (command, asked) in [
            ("CLIENT KILL", "CLIENT KILL"),
            ("CLIENT KILL a:1", "CLIENT KILL nobody:0"),
            ("CLIENT KILL ID 5", "CLIENT KILL ID 5 ADDR nobody:0 LADDR nobody:0 ID 9223372036854775807"),
            ("CLIENT KILL ID 5 6 7", "CLIENT KILL ID 5 6 7 ADDR nobody:0 LADDR nobody:0 ID 9223372036854775807"),
            ("CLIENT KILL ID x", "CLIENT KILL ID x ADDR nobody:0 LADDR nobody:0 ID 9223372036854775807"),
            ("CLIENT KILL ID 5 -6", "CLIENT KILL ID 5 -6 ADDR nobody:0 LADDR nobody:0 ID 9223372036854775807"),
            ("CLIENT KILL ADDR a:1 TYPE", "CLIENT KILL ADDR a:1 ADDR nobody:0 LADDR nobody:0 TYPE"),
            ("CLIENT KILL ADDR a:1 ID", "CLIENT KILL ADDR a:1 ADDR nobody:0 LADDR nobody:0 ID"),
        ] {
            let sent = harmless_kill(&words(command));
            let sent: Vec<&str> = args(&sent).map(|a| std::str::from_utf8(a).unwrap()).collect();
            assert_eq!(sent.join(" "), asked);
        }
    }
}
