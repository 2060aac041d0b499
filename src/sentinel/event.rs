//! What the tasks towards Sentinels and nodes report to the watcher.

use std::io;

use crate::addr::Endpoint;
use crate::net::DnsError;
use crate::resp::without_arguments;
use crate::topology::{Event, SentinelId};

/// One report of a Sentinel task or a role probe.
#[derive(Clone, PartialEq, Debug)]
pub enum SentinelEvent {
    /// For the failover machine.
    Machine(Event),
    /// The run id (`SENTINEL MYID`) of the process behind a Sentinel's endpoint, once per connection: two endpoints
    /// with one run id are one Sentinel. Not sent if the ACL forbids asking.
    Identity {
        /// The Sentinel.
        id: SentinelId,
        /// Its run id, 40 hexadecimal digits.
        run_id: String,
    },
    /// The other Sentinels it knows for this service (`SENTINEL SENTINELS`; itself is not among them), when first asked
    /// on a connection and whenever they changed. Dead ones stay listed for ever.
    Peers {
        /// Who says so.
        id: SentinelId,
        /// The others.
        peers: Vec<Peer>,
    },
    /// Something for the record of the last failover.
    Note {
        /// Who says so.
        source: String,
        /// What happened.
        text: String,
    },
    /// What is wrong with a Sentinel from now on; sent when it changes, none: nothing any more.
    Trouble {
        /// The Sentinel.
        id: SentinelId,
        /// What is wrong.
        trouble: Option<Trouble>,
    },
}

/// A Sentinel as another one lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Where it says that it can be reached; not resolved.
    pub endpoint: Endpoint,
    /// Its run id; none if the lister has not heard it yet.
    pub run_id: Option<String>,
    /// Whether the lister reaches it (neither `s_down` nor `disconnected`).
    pub reachable: bool,
}

/// Why a Sentinel is of no use now, in words for `/readyz` and the log.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Trouble {
    /// Its name has no address.
    #[error(transparent)]
    Unresolved(#[from] DnsError),
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// No answer in time, to a connect or to a question.
    #[error("no answer in time")]
    Silent,
    /// It closed the connection.
    #[error("connection closed")]
    Closed,
    /// TLS comes to nothing, or another network error.
    #[error("{0}")]
    Network(String),
    /// It refused our credentials, or asks for some: the error it gave.
    #[error("authentication: {0}")]
    Authentication(String),
    /// It answered a question with this error.
    #[error("answered: {0}")]
    Answered(String),
    /// Its answer makes no sense; it may not be a Sentinel.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
    /// It answers, but does not monitor a master of this name.
    #[error("does not know a master named `{0}`")]
    UnknownName(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, TimedOut, UnexpectedEof,
        };
        match error.kind() {
            // It says more than its kind does.
            _ if error.get_ref().is_some() => Self::Network(error.to_string()),
            ConnectionRefused => Self::Refused,
            TimedOut => Self::Silent,
            UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe => Self::Closed,
            _ => Self::Network(error.to_string()),
        }
    }
}

impl Trouble {
    /// The trouble that an error reply (without its `-`) means.
    pub(super) fn from_reply(error: &str) -> Self {
        match error.split(' ').next() {
            Some("NOAUTH" | "WRONGPASS" | "NOPERM") => Self::Authentication(error.to_owned()),
            _ => Self::Answered(without_arguments(error).to_owned()),
        }
    }
}
