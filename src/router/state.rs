//! What one client has changed about its connection, so far as it decides routes.

use bytes::Bytes;

use crate::backend::Key;

/// Whether replies go to the client (`CLIENT REPLY`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Replies {
    /// They do.
    #[default]
    On,
    /// They do not.
    Off,
    /// The next one does not.
    Skip,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct State {
    /// Database, RESP version and user: the key of the pool the session uses.
    pub key: Key,
    /// `CLIENT SETNAME`.
    pub name: Option<Bytes>,
    /// `CLIENT REPLY`.
    pub replies: Replies,
    /// Between `MULTI` and `EXEC` or `DISCARD`.
    pub multi: bool,
    /// Between `WATCH` and `EXEC`, `DISCARD` or `UNWATCH`.
    pub watching: bool,
    /// Subscribed to something.
    pub subscribed: bool,
    /// Told invalidations (`CLIENT TRACKING` without `REDIRECT`).
    pub tracking: bool,
    /// The connection was changed in a way that is not followed.
    pub kept: bool,
}

impl State {
    /// A client that has said nothing.
    pub fn new(key: Key) -> Self {
        Self {
            key,
            name: None,
            replies: Replies::On,
            multi: false,
            watching: false,
            subscribed: false,
            tracking: false,
            kept: false,
        }
    }

    /// Whether the session has a connection of its own beyond one command.
    pub fn is_pinned(&self) -> bool {
        self.multi || self.watching || self.subscribed || self.tracking || self.kept
    }
}
