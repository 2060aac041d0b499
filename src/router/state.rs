//! What one client has changed about its connection, so far as it decides routes.

use super::Step;
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
    /// `CLIENT REPLY`.
    pub replies: Replies,
    /// Between `MULTI` and `EXEC` or `DISCARD`.
    pub multi: bool,
    /// Between `WATCH` and `EXEC`, `DISCARD` or `UNWATCH`.
    pub watching: bool,
    /// Subscribed to something.
    pub subscribed: bool,
    /// `CLIENT TRACKING` is on.
    pub tracking: bool,
    /// The connection was changed in a way that is not followed.
    pub kept: bool,
    /// And so was its RESP version, perhaps.
    pub rephrased: bool,
}

impl State {
    /// A client that has said nothing.
    pub fn new(key: Key) -> Self {
        Self {
            key,
            replies: Replies::On,
            multi: false,
            watching: false,
            subscribed: false,
            tracking: false,
            kept: false,
            rephrased: false,
        }
    }

    /// Takes note of a command that is on its way on the session's own connection. Returns whether the connection may be
    /// free after its reply; what is subscribed and tracked then, the replies say.
    pub fn sent(&mut self, step: Step) -> bool {
        match step {
            Step::Once | Step::Caching => return !self.is_pinned(),
            Step::Multi => self.multi = true,
            Step::Exec | Step::Discard => (self.multi, self.watching) = (false, false),
            Step::Watch => self.watching = true,
            Step::Unwatch => self.watching = false,
            Step::Subscribe => self.subscribed = true,
            // What was queued before it may be a HELLO, which is not followed either from now on.
            Step::Keep if self.multi => (self.kept, self.rephrased) = (true, true),
            Step::Monitor | Step::Sync | Step::Keep => self.kept = true,
            Step::Hello => (self.kept, self.rephrased) = (true, true),
            Step::Block(_) | Step::Wait | Step::Queue | Step::Track | Step::Select(_) => {}
        }
        let stays = [Step::Multi, Step::Queue, Step::Watch, Step::Monitor, Step::Sync, Step::Keep, Step::Hello];
        !stays.contains(&step) && !matches!(step, Step::Select(_))
    }

    /// What was sent and would have changed the connection in a way that is not followed was refused.
    pub fn unchanged(&mut self) {
        (self.kept, self.rephrased) = (false, false);
    }

    /// Whether it is a RESP2 subscriber, as far as is known: all but a few commands are refused to it.
    pub fn only_listens(&self) -> bool {
        self.subscribed && !self.key.resp3 && !self.rephrased
    }

    /// Whether the session has a connection of its own beyond one command.
    pub fn is_pinned(&self) -> bool {
        self.subscribed || self.is_pinned_beyond_subscriptions()
    }

    /// The same for other reasons than that it is subscribed.
    pub fn is_pinned_beyond_subscriptions(&self) -> bool {
        self.multi || self.watching || self.tracking || self.kept
    }
}
