//! Leaving while pointsman drains, or a service ends: between two commands, and so that the client sees no more than the
//! end of its connection.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::Session;
use crate::clock::Moment;

/// How far a worker is with asking its sessions to leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Leave {
    /// It does not.
    #[default]
    Nobody,
    /// Since then, those that are between two commands and have no connection of their own.
    Free(Moment),
    /// Since then, those that are subscribed too: nobody else is left.
    Subscribed(Moment),
}

/// How long a client must have been silent, unless it was given a reply since it is to leave. One that has just been
/// served, or has just come, may be sending; one that has just got its reply cannot have thought of anything yet.
const SILENCE: Duration = Duration::from_millis(100);

/// Whether a client that came then, and was last served then, is not about to send something, as far as can be told.
fn is_between(leaving: Moment, came: Moment, served: Moment, now: Moment) -> bool {
    let has_reply = served > came && served >= leaving;
    has_reply || now.since(served.max(came)) >= SILENCE
}

/// How long a client that has been told of the end may take to end its side. A command that crosses the end is taken and
/// dropped meanwhile: left in the socket it would make a reset of it, which many clients take for a worse thing.
const LINGER: Duration = Duration::from_secs(1);

impl Session {
    /// Whether this is the moment to leave. Nothing is owed.
    pub(super) fn may_leave(&self) -> bool {
        let (since, with_subscribed) = match self.leaving.get() {
            Leave::Nobody => return false,
            Leave::Free(since) => (since, false),
            Leave::Subscribed(since) => (since, true),
        };
        let stays = if with_subscribed { self.state.is_pinned_beyond_subscriptions() } else { self.state.is_pinned() };
        // A client that is slow to take its replies gets them all.
        let is_served = self.buf.is_empty() && self.down.outbox.queued() == 0 && !self.down.is_mid_reply();
        if stays || !is_served || self.read.has_unread() {
            return false;
        }
        let client = &self.presence.client;
        is_between(since, client.since, client.last().1, Moment::now())
    }

    /// Ends our direction, and waits for the client to end its own.
    pub(super) async fn linger(&mut self) {
        self.down.outbox.finish();
        let unheard = async {
            while self.read.read_buf(&mut self.buf).await.is_ok_and(|n| n > 0) {
                self.buf.clear();
            }
        };
        let _ = timeout(LINGER, unheard).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_leaves_behind_a_reply_or_in_a_silence() {
        let at = |[leaving, came, served, now]: [u64; 4]| {
            is_between(Moment(leaving), Moment(came), Moment(served), Moment(now))
        };
        assert!(at([1000, 0, 1000, 1001]), "it was served since it is to leave");
        assert!(!at([1000, 0, 950, 1001]), "it was served just before, and may be sending");
        assert!(at([1000, 0, 950, 1050]), "it has been silent since");
        assert!(!at([1000, 990, 990, 1001]), "it has just come");
        assert!(!at([1000, 1010, 1010, 1020]), "it came when the port was about to be closed, and was not served yet");
        assert!(at([1000, 1010, 1015, 1020]), "it was");
        assert!(at([1000, 1010, 1010, 1110]), "it wants nothing");
    }
}
