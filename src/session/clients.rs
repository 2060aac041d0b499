//! What clients ask about each other. Redis knows pointsman's connections; the clients know ids of pointsman's. So the
//! server is asked first, which judges arguments and permissions in its own words, and its answer is translated.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::{Command, Session, Step};
use crate::backend::{Effect, Verdict};
use crate::clients::{Client, Clients, Held};
use crate::clock::Moment;
use crate::resp::{CommandId, args, encode_command};
use crate::router::About;
use crate::topology::Pass;

/// An id that no connection of a server has.
const NOBODY: &str = "9223372036854775807";

/// What becomes of the server's answer.
#[derive(Debug)]
pub(super) enum Translate {
    /// Nothing: it is the client's.
    No,
    /// A list of connections becomes one of these clients.
    List(Vec<Arc<Client>>),
    /// It was asked whether such clients might be closed: these.
    Kill { victims: Vec<Arc<Client>>, old_form: bool },
    /// Nothing; meanwhile the connection that it is about stays its client's.
    Unblock { _held: Option<Held> },
}

impl Session {
    /// Asks the server about the command at the front.
    pub(super) fn ask_about(&mut self, command: Command, about: About) -> Step {
        // A blocked client is where writes go; one that is being taken back from there is nowhere.
        let effect = if about == About::Unblock { Effect::Write } else { Effect::Read };
        let node = match self.pass(effect) {
            Pass::To(node) => node,
            pass => return self.hold(command, pass),
        };
        let frame = Bytes::copy_from_slice(&self.buf[..command.len]);
        let words: Vec<&[u8]> = args(&frame).collect();
        let clients = &self.presence.clients;
        let all = || encode_command(&["CLIENT", "LIST"]);
        let (commands, translate) = match about {
            About::Info => (vec![frame.clone(), all()], Translate::List(vec![Arc::clone(&self.presence.client)])),
            About::List => (vec![frame.clone(), all()], Translate::List(listed(clients, &words))),
            About::Kill => {
                let victims = victims(clients, &words, self.presence.client.id);
                (vec![harmless_kill(&words)], Translate::Kill { victims, old_form: words.len() == 3 })
            }
            About::Unblock => {
                let held = number(words[2]).and_then(|id| clients.get(id)).map(|c| c.hold());
                let id = match held.as_ref().map_or(0, |held| held.backend(node)) {
                    backend if backend != 0 => backend.to_string().into_bytes(),
                    // The server has words for what is no number.
                    _ if number(words[2]).is_none() => words[2].to_owned(),
                    _ => NOBODY.into(),
                };
                let mut unblock = words.clone();
                unblock[2] = &id;
                (vec![encode_command(&unblock)], Translate::Unblock { _held: held })
            }
        };
        self.ask(command, node, commands, translate);
        Step::Done
    }

    /// The server has answered.
    pub(super) fn translated(&mut self, command: Command, verdict: &Verdict, translate: Translate) -> Step {
        let reply = &verdict.reply;
        let line = match translate {
            Translate::No | Translate::Unblock { .. } => reply.clone(),
            Translate::List(clients) if reply.first() != Some(&b'-') => {
                let is_info = args(&self.buf).nth(1).is_some_and(|a| a.eq_ignore_ascii_case(b"INFO"));
                let asking = Asking {
                    id: self.presence.client.id,
                    command: if is_info { "client|info" } else { "client|list" },
                    database: self.state.key.database,
                    asked_on: verdict.asked_on,
                };
                text(&list(reply, &clients, &asking), self.state.key.resp3)
            }
            Translate::Kill { victims, old_form } if permitted(reply, old_form) => {
                for victim in &victims {
                    if victim.id == self.presence.client.id {
                        self.quitting = true;
                    } else {
                        self.presence.clients.kill(victim);
                    }
                }
                match (old_form, victims.is_empty()) {
                    (true, true) => reply.clone(),
                    (true, false) => Bytes::from_static(b"+OK\r\n"),
                    (false, _) => format!(":{}\r\n", victims.len()).into(),
                }
            }
            Translate::List(_) | Translate::Kill { .. } => reply.clone(),
        };
        self.say(command, line)
    }
}

/// The command with the id of the client behind `REDIRECT` replaced by that of its own connection to `node`.
pub(super) fn redirected(frame: &Bytes, clients: &Clients, node: SocketAddr) -> Bytes {
    let mut words: Vec<&[u8]> = args(frame).collect();
    if !words.get(1).is_some_and(|w| w.eq_ignore_ascii_case(b"TRACKING")) {
        return frame.clone();
    }
    let at = words.iter().position(|w| w.eq_ignore_ascii_case(b"REDIRECT")).map(|i| i + 1);
    let Some((at, id)) = at.and_then(|at| Some((at, number(words.get(at)?)?))) else { return frame.clone() };
    // A client without a connection of its own cannot be told anything: as if it did not exist.
    let backend = clients.get(id).map_or(0, |c| c.target(node));
    let backend = if backend == 0 { NOBODY.to_owned() } else { backend.to_string() };
    words[at] = backend.as_bytes();
    encode_command(&words)
}

/// The clients that `CLIENT LIST` is about, so far as its filters go by what pointsman knows.
fn listed(clients: &Clients, words: &[&[u8]]) -> Vec<Arc<Client>> {
    let mut all = clients.all();
    if let [_, _, option, rest @ ..] = words {
        if option.eq_ignore_ascii_case(b"ID") {
            all.retain(|c| rest.iter().any(|id| number(id) == Some(c.id)));
        } else if option.eq_ignore_ascii_case(b"TYPE") {
            all.retain(|c| rest.first().is_some_and(|t| is_of_type(c, t)));
        }
    }
    all
}

fn is_of_type(client: &Client, wanted: &[u8]) -> bool {
    let its: &[u8] = if client.is_subscribed() { b"PUBSUB" } else { b"NORMAL" };
    wanted.eq_ignore_ascii_case(its)
}

/// The clients that `CLIENT KILL` is about. The arguments may be wrong: the server will say so.
fn victims(clients: &Clients, words: &[&[u8]], own: u64) -> Vec<Arc<Client>> {
    let mut all = clients.all();
    if let [_, _, addr] = words {
        all.retain(|c| c.addr.as_bytes() == *addr);
        return all;
    }
    let mut skip_me = true;
    for pair in words[2..].chunks_exact(2) {
        let (option, value) = (pair[0].to_ascii_uppercase(), pair[1]);
        match option.as_slice() {
            b"ID" => all.retain(|c| number(value) == Some(c.id)),
            b"ADDR" => all.retain(|c| c.addr.as_bytes() == value),
            b"LADDR" => all.retain(|c| c.laddr.as_bytes() == value),
            b"USER" => all.retain(|c| user(c).as_bytes() == value),
            b"TYPE" => all.retain(|c| is_of_type(c, value)),
            b"SKIPME" => skip_me = value.eq_ignore_ascii_case(b"YES"),
            b"MAXAGE" => {
                let now = Moment::now();
                all.retain(|c| number(value).is_some_and(|age| now.since(c.since).as_secs() >= age));
            }
            _ => all.clear(),
        }
    }
    all.retain(|c| !skip_me || c.id != own);
    all
}

/// The same `CLIENT KILL`, so that the server judges it, but with filters behind that nobody passes: the last of a kind
/// is the one that counts, and all kinds have to be passed.
fn harmless_kill(words: &[&[u8]]) -> Bytes {
    match words.len() {
        3 => encode_command(&["CLIENT", "KILL", "nobody:0"]),
        // Without a pair of words, an error.
        n if n < 3 || n % 2 == 1 => {
            let mut wrong: Vec<&[u8]> = words[..n.min(2)].to_vec();
            if n > 3 {
                wrong.extend([b"ID".as_slice(), NOBODY.as_bytes(), b"syntax"]);
            }
            encode_command(&wrong)
        }
        _ => {
            let nobody: [&[u8]; 6] = [b"ADDR", b"nobody:0", b"LADDR", b"nobody:0", b"ID", NOBODY.as_bytes()];
            encode_command(&[words, &nobody].concat())
        }
    }
}

/// The client that asked for a list.
struct Asking {
    id: u64,
    command: &'static str,
    database: u32,
    /// The server's id of the connection on which it asked; 0 if that is not known.
    asked_on: i64,
}

fn permitted(reply: &[u8], old_form: bool) -> bool {
    reply.first() == Some(&b':') || old_form && reply.starts_with(b"-ERR No such client")
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn user(client: &Client) -> String {
    let (_, user) = client.named();
    if user.is_empty() { "default".to_owned() } else { user }
}

/// The server's list of connections as one of clients: each in the words of the server about the connection that it
/// uses, with what is its own in place of the connection's.
fn list(reply: &[u8], clients: &[Arc<Client>], asking: &Asking) -> String {
    let body = reply.iter().position(|b| *b == b'\n').map_or(&[][..], |at| &reply[at + 1..]);
    let body = String::from_utf8_lossy(body.strip_prefix(b"txt:").unwrap_or(body)).into_owned();
    let id_of = |line: &str| line.strip_prefix("id=")?.split(' ').next()?.parse::<i64>().ok();
    let connections: HashMap<i64, &str> = body.lines().filter_map(|line| Some((id_of(line)?, line))).collect();
    // One that has used no connection is described as the one that asks is.
    let newest = || body.lines().rfind(|line| id_of(line).is_some());
    let asked_on = connections.get(&asking.asked_on).copied().or_else(newest);
    let now = Moment::now();
    let mut list = String::new();
    for client in clients {
        let pinned = client.pinned() != 0;
        let asks = client.id == asking.id;
        let connection = connections.get(&client.backend()).filter(|_| pinned || !asks).copied();
        let Some(connection) = connection.or(asked_on) else { break };
        let (name, _) = client.named();
        let (command, active) = client.last();
        let last_command = CommandId::all().nth(command).map_or("NULL", |id| id.info().name);
        let fields: Vec<String> = connection
            .split(' ')
            .map(|field| {
                let (key, value) = field.split_once('=').unwrap_or((field, ""));
                let value = match key {
                    "id" => client.id.to_string(),
                    "addr" => client.addr.clone(),
                    "laddr" => client.laddr.clone(),
                    "name" => String::from_utf8_lossy(&name).into_owned(),
                    "age" => now.since(client.since).as_secs().to_string(),
                    "idle" => now.since(active).as_secs().to_string(),
                    "user" => user(client),
                    "cmd" if asks => asking.command.to_owned(),
                    "db" if asks => asking.database.to_string(),
                    "cmd" if !pinned => last_command.to_owned(),
                    "flags" if !pinned => "N".to_owned(),
                    _ => value.to_owned(),
                };
                format!("{key}={value}")
            })
            .collect();
        list.push_str(&fields.join(" "));
        list.push('\n');
    }
    list
}

/// A text as the server sends it: a verbatim string in RESP3.
fn text(body: &str, resp3: bool) -> Bytes {
    if resp3 { format!("={}\r\ntxt:{body}\r\n", body.len() + 4) } else { format!("${}\r\n{body}\r\n", body.len()) }
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    fn words(command: &str) -> Vec<&[u8]> {
        command.split(' ').map(str::as_bytes).collect()
    }

    fn two() -> (Arc<Clients>, Vec<crate::clients::Presence>) {
        let clients = Arc::new(Clients::new(1));
        let presences = (1..=2).map(|id| clients.join(id, 0, format!("10.0.0.{id}:5"), "l:1".into())).collect();
        (clients, presences)
    }

    #[test]
    fn filters_choose_whom_to_kill() {
        let (clients, presences) = two();
        presences[1].client.describe(b"", "bob", true);
        let ids = |command: &str| victims(&clients, &words(command), 1).iter().map(|c| c.id).collect::<Vec<_>>();
        assert_eq!(ids("CLIENT KILL SKIPME YES"), [2]);
        assert_eq!(ids("CLIENT KILL SKIPME NO"), [1, 2]);
        assert!(ids("CLIENT KILL ID 1").is_empty(), "the one that asks is spared");
        assert_eq!(ids("CLIENT KILL 10.0.0.1:5"), [1]);
        assert_eq!(ids("CLIENT KILL USER bob TYPE pubsub"), [2]);
        assert_eq!(ids("CLIENT KILL USER default SKIPME no"), [1]);
        assert!(ids("CLIENT KILL TYPE replica").is_empty());
    }

    #[test]
    fn the_server_is_never_asked_to_kill_anybody() {
        for command in
            ["CLIENT KILL", "CLIENT KILL a:1", "CLIENT KILL ID 5", "CLIENT KILL ID 5 6", "CLIENT KILL ID 5 TYPE x"]
        {
            let asked = harmless_kill(&words(command));
            let asked: Vec<String> = args(&asked).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
            let last = asked.iter().rposition(|w| w == "ID").map(|i| asked[i + 1].as_str());
            assert!(asked.len() < 3 || asked[2] == "nobody:0" || last == Some(NOBODY), "{asked:?}");
        }
    }

    #[test]
    fn a_list_speaks_of_clients() {
        let (clients, presences) = two();
        presences[0].client.pin(NODE, 31);
        presences[0].client.describe(b"me", "", false);
        let reply = b"$99\r\nid=30 addr=p:1 laddr=r:1 name= age=9 idle=0 flags=N db=0 cmd=get user=bob resp=2\n\
                      id=31 addr=p:2 laddr=r:1 name= age=9 idle=0 flags=b db=9 cmd=blpop user=bob resp=2\n\r\n";
        assert_eq!(
            list(reply, &clients.all(), &Asking { id: 2, command: "client|list", database: 4, asked_on: 30 }),
            "id=1 addr=10.0.0.1:5 laddr=l:1 name=me age=0 idle=0 flags=b db=9 cmd=blpop user=default resp=2\n\
             id=2 addr=10.0.0.2:5 laddr=l:1 name= age=0 idle=0 flags=N db=4 cmd=client|list user=default resp=2\n"
        );
    }

    #[test]
    fn a_redirection_names_the_connection() {
        let (clients, presences) = two();
        presences[0].client.pin(NODE, 31);
        let ask = |id: &str, node: SocketAddr| {
            let frame = encode_command(&["CLIENT", "TRACKING", "ON", "REDIRECT", id]);
            String::from_utf8_lossy(args(&redirected(&frame, &clients, node)).nth(4).unwrap()).into_owned()
        };
        assert_eq!([ask("1", NODE), ask("2", NODE), ask("x", NODE)], ["31", NOBODY, "x"]);
        assert_eq!(ask("1", SocketAddr::from(([127, 0, 0, 1], 2))), NOBODY, "a connection to another server");
    }
}
