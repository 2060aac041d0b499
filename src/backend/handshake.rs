//! The first words on a backend connection: who we are, which database, which RESP version, and whether it is a master.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::config::Credentials;
use crate::net::Dialer;
use crate::net::client::{Client, ClientError};
use crate::resp::{Value, encode_command, without_arguments};

/// The state that all sessions on a shared connection have in common.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// `SELECT`ed database.
    pub database: u32,
    /// RESP version 3 rather than 2.
    pub resp3: bool,
    /// Authenticated user; none: whatever the backend takes an unauthenticated connection for.
    pub user: Option<Rc<Credentials>>,
}

/// What a backend said of itself.
#[derive(Clone, Debug, Default)]
pub struct Hello {
    /// `id` of the connection; 0 if it was not told.
    pub id: i64,
    /// The connection is not authenticated where it would have to be: it answers `-NOAUTH` to all but a few commands,
    /// and its role is not known.
    pub unauthenticated: bool,
    /// Why its user could not have selected its database. It was selected before the user was authenticated, as a client
    /// does that authenticates as one who may not `SELECT`.
    pub select_refusal: Option<Bytes>,
    /// `WAIT` on the connection speaks only of what the connection itself has written: of no write before the last command
    /// that was handed on to replicas. Valkey from 8 on; Redis up to 7.4 takes every command for one.
    pub marks_by_writes: bool,
}

/// Why a connection could not be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// No answer in time, no route, or the connection broke.
    #[error("{0}")]
    Unreachable(String),
    /// The node says another role than master.
    #[error("says that it is a {0}, not a master")]
    NotMaster(String),
    /// It refused the user or password. The error line as the backend wrote it.
    #[error("{}", String::from_utf8_lossy(.0).trim_end())]
    Auth(Bytes),
    /// It refused the database. The error line as the backend wrote it.
    #[error("{}", String::from_utf8_lossy(.0).trim_end())]
    Select(Bytes),
    /// A script has been running for too long, and it does nothing else. The error line as the backend wrote it.
    #[error("{}", String::from_utf8_lossy(.0).trim_end())]
    Busy(Bytes),
    /// It was given what must not be given twice, and has not answered.
    #[error("no answer to what may have run")]
    Unanswered,
    /// It answered with another error (`-LOADING`, `-ERR max number of clients reached` …).
    #[error("{0}")]
    Answered(String),
}

impl From<ClientError> for DialError {
    fn from(e: ClientError) -> Self {
        Self::Unreachable(e.to_string())
    }
}

/// Connects and brings the connection into the state of `key`. `own` is pointsman's own user.
///
/// # Errors
/// [`DialError`]; everything within the dialler's time.
pub(super) async fn dial(
    dialer: &Dialer,
    node: SocketAddr,
    key: &Key,
    own: Option<&Credentials>,
) -> Result<(Client, Hello), DialError> {
    within(dialer.connect_timeout(), async {
        let mut client = open(dialer, node).await?;
        let hello = greet(&mut client, key).await?;
        if key.database == 0 || hello.unauthenticated {
            return Ok((client, hello));
        }
        match select(&mut client, key.database).await {
            Ok(()) => Ok((client, hello)),
            Err(DialError::Select(line)) if line.starts_with(b"-NOPERM") && key.user.is_some() => {
                select_first(dialer, node, key, own).await.map_err(|_| DialError::Select(line.clone())).map(
                    |(client, mut hello)| {
                        hello.select_refusal = Some(line);
                        (client, hello)
                    },
                )
            }
            Err(e) => Err(e),
        }
    })
    .await
}

async fn within<T>(limit: Duration, asked: impl Future<Output = Result<T, DialError>>) -> Result<T, DialError> {
    let late = || DialError::Unreachable(format!("no answer within {} ms", limit.as_millis()));
    timeout(limit, asked).await.unwrap_or_else(|_| Err(late()))
}

pub(super) async fn open(dialer: &Dialer, node: SocketAddr) -> Result<Client, DialError> {
    dialer.connect(node).await.map_err(|e| match e.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused,
        _ => DialError::Unreachable(e.to_string()),
    })
}

async fn select(client: &mut Client, database: u32) -> Result<(), DialError> {
    let frame = client.exchange(&encode_command(&["SELECT", &database.to_string()])).await?;
    match frame[0] {
        b'-' if frame.starts_with(b"-BUSY") => Err(DialError::Busy(frame)),
        b'-' => Err(DialError::Select(frame)),
        _ => Ok(()),
    }
}

/// Selects as pointsman's own user and then becomes the one of `key`: `AUTH` leaves the database as it is.
async fn select_first(
    dialer: &Dialer,
    node: SocketAddr,
    key: &Key,
    own: Option<&Credentials>,
) -> Result<(Client, Hello), DialError> {
    let mut client = open(dialer, node).await?;
    let hello = greet(&mut client, &Key { user: own.cloned().map(Rc::new), ..key.clone() }).await?;
    select(&mut client, key.database).await?;
    if let Some(user) = &key.user {
        authenticate(&mut client, user).await?;
    }
    Ok((client, hello))
}

/// `HELLO v [AUTH …]` is allowed to every ACL user and tells the role; `ROLE` is asked only where `HELLO` is missing
/// (Redis before 6).
pub(super) async fn greet(client: &mut Client, key: &Key) -> Result<Hello, DialError> {
    let version = if key.resp3 { "3" } else { "2" };
    let mut command: Vec<&[u8]> = vec![b"HELLO", version.as_bytes()];
    if let Some(c) = &key.user {
        command.extend([b"AUTH", c.user.as_deref().unwrap_or(b"default"), c.password.expose()]);
    }
    let frame = client.exchange(&encode_command(&command)).await?;
    let reply = crate::resp::decode(&frame).map_err(|e| DialError::Unreachable(e.to_string()))?;
    match &reply {
        Value::Error(e) if e.starts_with("NOAUTH") => Ok(Hello { unauthenticated: true, ..Hello::default() }),
        Value::Error(e) if e.starts_with("WRONGPASS") || e.starts_with("NOPERM") => Err(DialError::Auth(frame)),
        Value::Error(e) if e.starts_with("ERR unknown command") => greet_without_hello(client, key).await,
        Value::Error(e) => Err(DialError::Answered(without_arguments(e).to_owned())),
        reply => {
            let role = reply.map_get("role").and_then(Value::as_str).unwrap_or("node of unknown role");
            if role != "master" {
                return Err(DialError::NotMaster(role.to_owned()));
            }
            let id = reply.map_get("id").and_then(Value::as_i64).unwrap_or(0);
            let text = |field| reply.map_get(field).and_then(Value::as_str).unwrap_or_default();
            Ok(Hello { id, marks_by_writes: marks_by_writes(text("server"), text("version")), ..Hello::default() })
        }
    }
}

fn marks_by_writes(server: &str, version: &str) -> bool {
    let major = version.split('.').next().and_then(|n| n.parse::<u32>().ok());
    server != "redis" || major.is_some_and(|n| n >= 8)
}

async fn authenticate(client: &mut Client, c: &Credentials) -> Result<(), DialError> {
    let mut command: Vec<&[u8]> = vec![b"AUTH"];
    command.extend(c.user.as_deref());
    command.push(c.password.expose());
    let frame = client.exchange(&encode_command(&command)).await?;
    if frame[0] != b'-' {
        return Ok(());
    }
    // The client that is told may be another than the one whose password this is.
    let line = String::from_utf8_lossy(&frame);
    Err(DialError::Auth(format!("{}\r\n", without_arguments(line.trim_end())).into()))
}

async fn greet_without_hello(client: &mut Client, key: &Key) -> Result<Hello, DialError> {
    if let Some(c) = &key.user {
        authenticate(client, c).await?;
    }
    match client.call(&["ROLE"]).await? {
        Value::Error(e) if e.starts_with("NOAUTH") => Ok(Hello { unauthenticated: true, ..Hello::default() }),
        Value::Error(e) => Err(DialError::Answered(e)),
        Value::Array(items) => match items.first().and_then(Value::as_str) {
            Some("master") => Ok(Hello::default()),
            role => Err(DialError::NotMaster(role.unwrap_or("node of unknown role").to_owned())),
        },
        _ => Err(DialError::Answered("an answer to ROLE that is none".to_owned())),
    }
}

/// Has a node keep these scripts.
///
/// # Errors
/// [`DialError`] when it cannot be asked, or refuses one; the others are kept.
pub(super) async fn load_scripts(
    dialer: &Dialer,
    node: SocketAddr,
    key: &Key,
    scripts: &[Bytes],
) -> Result<(), DialError> {
    let load = async {
        let (mut client, _) = dial(dialer, node, key, None).await?;
        for script in scripts {
            let command = encode_command(&[b"SCRIPT".as_slice(), b"LOAD", script]);
            client.send(&command).await.map_err(|e| DialError::Unreachable(e.to_string()))?;
        }
        let mut refused = None;
        for _ in scripts {
            if let Value::Error(e) = client.receive().await? {
                refused.get_or_insert(e);
            }
        }
        refused.map_or(Ok(()), |e| Err(DialError::Answered(e)))
    };
    within(dialer.connect_timeout(), load).await
}

/// Asks blocking commands to come back (`CLIENT UNBLOCK id ERROR`): `-UNBLOCKED` on their connections then proves that
/// they popped nothing. Without the right to do so, or without an answer, they stay where they are. `ids` is asked when
/// the connection is there. Returns those that come back.
///
/// # Errors
/// [`DialError`] when the backend cannot be asked.
pub(super) async fn unblock(
    dialer: &Dialer,
    node: SocketAddr,
    key: &Key,
    ids: impl FnOnce() -> Vec<i64>,
) -> Result<Vec<i64>, DialError> {
    let ask = async {
        let (mut client, _) = dial(dialer, node, key, None).await?;
        let ids = ids();
        let commands: Vec<Bytes> =
            ids.iter().map(|id| encode_command(&["CLIENT", "UNBLOCK", &id.to_string(), "ERROR"])).collect();
        client.send(&commands.concat()).await.map_err(|e| DialError::Unreachable(e.to_string()))?;
        let mut come_back = Vec::new();
        for id in ids {
            if client.receive().await? == Value::Int(1) {
                come_back.push(id);
            }
        }
        Ok(come_back)
    };
    within(dialer.connect_timeout(), ask).await
}
