//! `/clients`: who is connected, as `CLIENT LIST` would have it, a page at a time.
//!
//! What a client is doing it says itself into its entry of `crate::clients`, so that a list asks no worker for anything. The
//! pages are there because the edge thread accepts clients beside this: a list of ten thousand would hold it up for long.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::body::refusal;
use super::routes::Answer;
use super::{AdminState, query};
use crate::clients::Client;
use crate::clock::Moment;
use crate::resp::{CommandId, Kind};

pub(super) const PATH: &str = "/clients";
pub(super) const ABOUT: &str = "the clients of a service, as JSON, a page at a time: ?service=NAME&after=ID";

/// Clients of one page, at most.
const PAGE: usize = 500;
/// Clients that are looked at for one page, at most.
const LOOKED_AT: usize = 5_000;
const KEYS: [&str; 7] = ["service", "after", "limit", "user", "name", "addr", "state"];

/// One page of the clients of a service, the eldest first.
#[derive(Debug, Serialize, Deserialize)]
pub struct ClientPage {
    /// The service.
    pub service: String,
    /// Those that were wanted.
    pub clients: Vec<ClientEntry>,
    /// What `after` has to be for the next page; none: this is the last.
    pub next: Option<u64>,
}

/// One client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClientEntry {
    /// Unique in this process; what `CLIENT ID` says.
    pub id: u64,
    /// Its address; of a Unix socket the path.
    pub addr: String,
    /// The address that it connected to.
    pub laddr: String,
    /// The worker that serves it.
    pub worker: usize,
    /// Its database.
    pub db: u32,
    /// Whom it is authenticated as.
    pub user: String,
    /// What it calls itself; empty if it has not said.
    pub name: String,
    /// Its library and that one's version.
    pub library: String,
    /// Since it connected.
    pub age_seconds: u64,
    /// Since it last sent a command.
    pub idle_seconds: u64,
    /// What it is doing.
    pub state: ClientState,
    /// Whether it has a backend connection to itself.
    pub own_connection: bool,
    /// Its last command; none before the first.
    pub command: Option<String>,
}

/// What a client is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientState {
    /// Its command waits for a master, for a connection, or for the end of a pause.
    Held,
    /// In a blocking command.
    Blocked,
    /// Subscribed to something.
    Subscribed,
    /// It has a backend connection of its own: a transaction, a watch, or something that cannot be told apart.
    Pinned,
    /// It shares backend connections.
    Shared,
    /// It has used none yet.
    New,
}

impl ClientState {
    /// All, with the words for them.
    pub const ALL: [(&str, Self); 6] = [
        ("held", Self::Held),
        ("blocked", Self::Blocked),
        ("subscribed", Self::Subscribed),
        ("pinned", Self::Pinned),
        ("shared", Self::Shared),
        ("new", Self::New),
    ];

    fn of(client: &Client) -> Self {
        let own = client.pinned() != 0;
        let blocks = |index| {
            let kind = CommandId::all().nth(index).map(|id| id.info().kind);
            matches!(kind, Some(Kind::Blocking | Kind::BlockingIfAsked | Kind::Wait))
        };
        match () {
            () if client.is_waiting() => Self::Held,
            () if client.is_subscribed() => Self::Subscribed,
            // With its reply it would have given the connection back.
            () if own && blocks(client.last().0) => Self::Blocked,
            () if own => Self::Pinned,
            () if client.backend() != 0 => Self::Shared,
            () => Self::New,
        }
    }

    /// Its word.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, state)| *state == self).map_or("", |(word, _)| word)
    }
}

#[derive(Default)]
struct Filter {
    /// None: the only one.
    service: Option<String>,
    after: u64,
    limit: usize,
    user: Option<String>,
    name: Option<String>,
    addr: Option<String>,
    state: Option<ClientState>,
}

impl Filter {
    fn of(query: Option<&str>) -> Result<Self, Answer> {
        let mut filter = Self { limit: PAGE, ..Self::default() };
        for (key, value) in query::pairs(query, &KEYS)? {
            let bad = |expected: &str| {
                refusal(StatusCode::BAD_REQUEST, &format!("`{key}`: expected {expected}, found `{value}`"))
            };
            match key.as_str() {
                "service" => filter.service = Some(value),
                "after" => filter.after = value.parse().map_err(|_| bad("the id of a client"))?,
                "limit" => {
                    let limit = value.parse().ok().filter(|n| (1..=PAGE).contains(n));
                    filter.limit = limit.ok_or_else(|| bad(&format!("1 to {PAGE}")))?;
                }
                "user" => filter.user = Some(value),
                "name" => filter.name = Some(value),
                "addr" => filter.addr = Some(value),
                _ => {
                    let words = ClientState::ALL.map(|(word, _)| word).join(", ");
                    let found = ClientState::ALL.iter().find(|(word, _)| *word == value);
                    filter.state = Some(found.ok_or_else(|| bad(&format!("one of {words}")))?.1);
                }
            }
        }
        Ok(filter)
    }

    fn wants(&self, client: &ClientEntry) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|wanted| wanted == value);
        is(&self.user, &client.user)
            && is(&self.name, &client.name)
            && self.addr.as_ref().is_none_or(|addr| client.addr.starts_with(addr))
            && self.state.is_none_or(|state| state == client.state)
    }
}

/// One page, as a query wants it.
pub(super) fn page(state: &AdminState, query: Option<&str>) -> Result<ClientPage, Answer> {
    let filter = Filter::of(query)?;
    let service = match (&filter.service, &state.services()[..]) {
        (Some(name), _) => state.service(name)?,
        (None, [only]) => only.clone(),
        (None, _) => return Err(refusal(StatusCode::BAD_REQUEST, "say which service: ?service=NAME")),
    };
    let now = Moment::now();
    let (mut clients, mut after, mut looked_at) = (Vec::new(), filter.after, 0);
    let next = 'page: loop {
        let some = service.clients.after(after, PAGE);
        for client in &some {
            if clients.len() == filter.limit || looked_at == LOOKED_AT {
                break 'page Some(after);
            }
            (after, looked_at) = (client.id, looked_at + 1);
            let entry = entry(client, now);
            if filter.wants(&entry) {
                clients.push(entry);
            }
        }
        if some.len() < PAGE {
            break None;
        }
    };
    Ok(ClientPage { service: service.name.to_string(), clients, next })
}

fn entry(client: &Client, now: Moment) -> ClientEntry {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (name, user) = client.named();
    let (library, version) = client.library();
    let (command, active) = client.last();
    ClientEntry {
        id: client.id,
        addr: client.addr.to_string(),
        laddr: client.laddr.to_string(),
        worker: client.worker(),
        db: client.database(),
        user: if user.is_empty() { "default".to_owned() } else { text(user) },
        name: text(name),
        library: [text(library), text(version)].join(" ").trim().to_owned(),
        age_seconds: now.since(client.since).as_secs(),
        idle_seconds: now.since(active).as_secs(),
        state: ClientState::of(client),
        own_connection: client.pinned() != 0,
        command: CommandId::all().nth(command).map(|id| id.info().name.to_owned()),
    }
}
