//! What clients ask about each other. Redis knows pointsman's connections; the clients know ids of pointsman's. So the
//! server is asked first, which judges arguments and permissions in its own words, and its answer is translated.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::client_filter::{Filter, NOBODY, harmless_kill, number, user};
use super::telling::blocked_on;
use super::{Command, Session, Step};
use crate::backend::{Effect, Verdict};
use crate::clients::{Client, Held};
use crate::clock::Moment;
use crate::resp::{CommandId, args, encode_command};
use crate::router::About;
use crate::topology::Pass;

/// What becomes of the server's answer.
#[derive(Debug)]
pub(super) enum Translate {
    /// Nothing: it is the client's.
    No,
    /// A list of connections becomes one of these clients.
    List(Vec<Arc<Client>>),
    /// It was asked whether such clients might be closed.
    Kill,
    /// It says whether the command at the front may be carried out here.
    MayTurnReplies,
    /// Nothing; meanwhile the connection that it is about stays its client's.
    Unblock { _held: Option<Held> },
    /// It says what the command at the front is, of this name, at the master of this generation.
    Learn { name: Bytes, generation: u64 },
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
            About::List => {
                let listed = Filter::of(&words, false).chosen(clients, self.presence.client.id);
                // Without a filter the one answer says all.
                let commands = if words.len() == 2 { vec![frame.clone()] } else { vec![frame.clone(), all()] };
                (commands, Translate::List(listed))
            }
            About::Kill => (vec![harmless_kill(&words)], Translate::Kill),
            About::Unblock => {
                let (id, held) = match blocked_on(words[2], clients, node) {
                    Some((backend, held)) => (backend.to_string().into_bytes(), Some(held)),
                    // The server has words for what is no number.
                    None if number(words[2]).is_none() => (words[2].to_owned(), None),
                    None => (NOBODY.into(), None),
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
            Translate::Learn { name, generation } => return self.taught(&name, generation, Some(verdict)),
            Translate::MayTurnReplies if reply.first() == Some(&b'+') => {
                self.may_turn_replies = true;
                return Step::Done;
            }
            Translate::No | Translate::Unblock { .. } | Translate::MayTurnReplies => reply.clone(),
            Translate::List(clients) if reply.first() != Some(&b'-') => {
                let is_info = args(&self.buf).nth(1).is_some_and(|a| a.eq_ignore_ascii_case(b"INFO"));
                let asking = Asking {
                    id: self.presence.client.id,
                    command: Some(if is_info { "client|info" } else { "client|list" }),
                    database: Some(self.state.key.database),
                    asked_on: verdict.asked_on,
                };
                text(&list(reply, &clients, &asking), self.state.key.resp3)
            }
            Translate::List(_) => reply.clone(),
            Translate::Kill => {
                let teller = self.teller();
                let line = teller.told(&self.buf[..command.len], reply);
                self.quitting |= teller.has_left();
                line
            }
        };
        self.say(command, line)
    }
}

/// The client that asked for a list.
pub(super) struct Asking {
    pub(super) id: u64,
    /// Its command, if that is not the one that the server shows.
    pub(super) command: Option<&'static str>,
    /// Its database, if the connection on which it asked is in another.
    pub(super) database: Option<u32>,
    /// The server's id of that connection; 0 if that is not known.
    pub(super) asked_on: i64,
}

/// The server's list of connections as one of clients: each in the words of the server about the connection that it
/// uses, with what is its own in place of the connection's.
pub(super) fn list(reply: &[u8], clients: &[Arc<Client>], asking: &Asking) -> String {
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
        let (library, version) = client.library();
        let fields: Vec<String> = connection
            .split(' ')
            .map(|field| {
                let (key, value) = field.split_once('=').unwrap_or((field, ""));
                let value = match key {
                    "id" => client.id.to_string(),
                    "addr" => client.addr.to_string(),
                    "laddr" => client.laddr.to_string(),
                    "name" => String::from_utf8_lossy(&name).into_owned(),
                    "age" => now.since(client.since).as_secs().to_string(),
                    "idle" => now.since(active).as_secs().to_string(),
                    // What the server says of its user is so at this moment, also within a transaction that changes it.
                    "user" if !asks => String::from_utf8_lossy(&user(client)).into_owned(),
                    "lib-name" => String::from_utf8_lossy(&library).into_owned(),
                    "lib-ver" => String::from_utf8_lossy(&version).into_owned(),
                    "redir" if value.starts_with(|c| ('1'..='9').contains(&c)) => client.redirects_to().to_string(),
                    "cmd" if asks => asking.command.unwrap_or(value).to_owned(),
                    "db" if asks => asking.database.map_or_else(|| value.to_owned(), |db| db.to_string()),
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
pub(super) fn text(body: &str, resp3: bool) -> Bytes {
    if resp3 { format!("={}\r\ntxt:{body}\r\n", body.len() + 4) } else { format!("${}\r\n{body}\r\n", body.len()) }
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::ClientAddr;
    use crate::clients::Clients;

    #[test]
    fn a_list_speaks_of_clients() {
        let clients = Arc::new(Clients::new(1));
        let tcp = |addr: &str| ClientAddr::Tcp(addr.parse().unwrap());
        let join = |id| clients.join(id, 0, [tcp(&format!("10.0.0.{id}:5")), tcp("10.1.0.1:1")], None).unwrap();
        let presences: Vec<crate::clients::Presence> = (1..=2).map(join).collect();
        presences[0].client.pin(([127, 0, 0, 1], 1).into(), 31);
        presences[0].client.redirect_to(2);
        presences[0].client.set_name(b"me");
        let reply = b"$99\r\nid=30 addr=p:1 laddr=r:1 name= age=9 idle=0 flags=N db=0 cmd=get redir=-1 user=bob resp=2\n\
                      id=31 addr=p:2 laddr=r:1 name= age=9 idle=0 flags=b db=9 cmd=blpop redir=33 user=bob resp=2\n\r\n";
        assert_eq!(
            list(
                reply,
                &clients.all(),
                &Asking { id: 2, command: Some("client|list"), database: Some(4), asked_on: 30 }
            ),
            "id=1 addr=10.0.0.1:5 laddr=10.1.0.1:1 name=me age=0 idle=0 flags=b db=9 cmd=blpop redir=2 user=default resp=2\n\
             id=2 addr=10.0.0.2:5 laddr=10.1.0.1:1 name= age=0 idle=0 flags=N db=4 cmd=client|list redir=-1 user=bob resp=2\n"
        );
    }
}
