//! What a transaction asks about its connection, or changes of it: the reply to its `EXEC` says what ran, and is told in
//! terms of the client.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};

use super::telling::{Teller, kind, reply_mode};
use crate::backend::Translate;
use crate::resp::{Kind, ReplyScanner, args};
use crate::router::Replies;

/// A transaction whose `EXEC` was sent.
#[derive(Debug)]
pub(super) struct Executed {
    /// Commands that were queued.
    queued: usize,
    /// Those that matter, each with its place among them.
    heeded: Vec<(usize, Bytes)>,
    teller: Teller,
    /// Whether the client hears what the `EXEC` answers.
    replies: Replies,
    outcome: RefCell<Option<Outcome>>,
}

/// What `EXEC` has led to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The commands that the server has accepted of those that are heeded; none if that cannot be told.
    pub(super) accepted: Option<Vec<Bytes>>,
    /// Whether the client hears what follows.
    pub(super) replies: Replies,
    /// The client has closed itself.
    pub(super) left: bool,
}

/// Whether a queued command asks about its connection, or changes what its session is.
pub(super) fn is_heeded(frame: &[u8]) -> bool {
    matches!(kind(frame), Kind::Select | Kind::Auth | Kind::Hello | Kind::Client)
}

/// Where the elements of an array stand; none if it is something else.
fn elements(reply: &[u8]) -> Option<Vec<(usize, usize)>> {
    let header = memchr::memchr(b'\n', reply)? + 1;
    let count: usize = std::str::from_utf8(reply.strip_prefix(b"*")?.get(..header - 3)?).ok()?.parse().ok()?;
    let mut at = header;
    (0..count)
        .map(|_| {
            let progress = ReplyScanner::new().scan(&reply[at..]).ok().filter(|p| p.complete)?;
            at += progress.consumed;
            Some((at - progress.consumed, at))
        })
        .collect()
}

/// What a client hears, who may turn replies off and on in between (Redis `clientReplyCommand`, `resetClient`).
struct Hearing {
    off: bool,
    /// `EXEC` itself is the one to be skipped.
    skipped: bool,
    skips_next: bool,
    /// The connection is closed behind what was heard.
    ended: bool,
    heard: BytesMut,
}

impl Hearing {
    fn new(replies: Replies) -> Self {
        let (off, skipped) = (replies == Replies::Off, replies == Replies::Skip);
        Self { off, skipped, skips_next: false, ended: false, heard: BytesMut::new() }
    }

    fn hear(&mut self, bytes: &[u8]) {
        if !self.off && !self.skipped && !self.ended {
            self.heard.extend_from_slice(bytes);
        }
    }

    fn turn(&mut self, replies: Replies) {
        match replies {
            Replies::On => (self.off, self.skipped) = (false, false),
            Replies::Off => self.off = true,
            // While nothing is answered there is nothing to skip.
            Replies::Skip => self.skips_next |= !self.off,
        }
    }

    fn afterwards(&self) -> Replies {
        match (self.off, self.skips_next) {
            (true, _) => Replies::Off,
            (false, true) => Replies::Skip,
            (false, false) => Replies::On,
        }
    }
}

impl Translate for Executed {
    fn translate(&self, reply: BytesMut) -> BytesMut {
        let mut hearing = Hearing::new(self.replies);
        let accepted = match elements(&reply) {
            Some(elements) if elements.len() == self.queued => Some(self.tell(&reply, &elements, &mut hearing)),
            elements => {
                hearing.hear(&reply);
                // What is no array says that nothing has run.
                elements.is_none().then(Vec::new)
            }
        };
        let (replies, left) = (hearing.afterwards(), self.teller.has_left());
        *self.outcome.borrow_mut() = Some(Outcome { accepted, replies, left });
        hearing.heard
    }
}

impl Executed {
    /// Of the `heeded` ones among so many queued commands.
    pub(super) fn new(queued: usize, heeded: Vec<(usize, Bytes)>, teller: Teller, replies: Replies) -> Self {
        Self { queued, heeded, teller, replies, outcome: RefCell::default() }
    }

    /// What has come of it, once `EXEC` was answered.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.outcome.take()
    }

    /// Tells the elements of the reply one after the other; returns what was accepted.
    fn tell(&self, reply: &[u8], elements: &[(usize, usize)], hearing: &mut Hearing) -> Vec<Bytes> {
        let mut accepted = Vec::new();
        let mut heeded = self.heeded.iter().peekable();
        hearing.hear(&reply[..elements.first().map_or(reply.len(), |(from, _)| *from)]);
        for (place, (from, to)) in elements.iter().enumerate() {
            let element = &reply[*from..*to];
            let Some((_, command)) = heeded.next_if(|(at, _)| *at == place) else {
                hearing.hear(element);
                continue;
            };
            let has_run = element[0] != b'-';
            let mode = reply_mode(&args(command).collect::<Vec<_>>()).filter(|_| has_run);
            if let Some(mode) = mode {
                hearing.turn(mode);
            }
            if matches!(mode, None | Some(Replies::On)) {
                hearing.hear(&self.teller.told(command, element));
            }
            if has_run {
                accepted.push(command.clone());
            }
            hearing.ended = self.teller.has_left();
        }
        accepted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Presence;
    use crate::session::telling::tests::{command, presence};

    fn executed(presence: &Presence, replies: Replies, queued: usize, heeded: &[(usize, &str)]) -> Executed {
        let heeded = heeded.iter().map(|(place, words)| (*place, command(words))).collect();
        Executed::new(queued, heeded, Teller::new(&presence.client, &presence.clients, Vec::new()), replies)
    }

    #[test]
    fn what_ran_changes_the_session_and_speaks_of_the_client() {
        let presence = presence();
        let e = executed(&presence, Replies::On, 4, &[(0, "SELECT 5"), (2, "CLIENT ID"), (3, "SELECT 99")]);
        let reply = b"*4\r\n+OK\r\n*2\r\n:1\r\n:2\r\n:55\r\n-ERR DB index is out of range\r\n";
        let told = e.translate(reply.as_slice().into());
        assert_eq!(told, "*4\r\n+OK\r\n*2\r\n:1\r\n:2\r\n:7\r\n-ERR DB index is out of range\r\n");
        assert_eq!(e.outcome().unwrap().accepted.unwrap(), [command("SELECT 5"), command("CLIENT ID")]);
    }

    #[test]
    fn what_did_not_run_changes_nothing() {
        let presence = presence();
        for reply in ["-EXECABORT x\r\n", "*-1\r\n", "_\r\n"] {
            for (replies, heard) in [(Replies::On, reply), (Replies::Off, ""), (Replies::Skip, "")] {
                let e = executed(&presence, replies, 2, &[(0, "SELECT 5"), (1, "CLIENT REPLY SKIP")]);
                assert_eq!(e.translate(reply.as_bytes().into()), heard);
                let outcome = e.outcome().unwrap();
                let after = if replies == Replies::Off { Replies::Off } else { Replies::On };
                assert_eq!((outcome.accepted.unwrap().len(), outcome.replies), (0, after), "{reply}");
            }
        }
        let e = executed(&presence, Replies::On, 1, &[(0, "SELECT 5")]);
        e.translate(b"*2\r\n+OK\r\n+OK\r\n".as_slice().into());
        assert!(e.outcome().unwrap().accepted.is_none(), "more than was queued");
    }

    #[test]
    fn replies_are_turned_off_and_on_in_their_place() {
        let presence = presence();
        use Replies::{Off, On, Skip};
        for (before, commands, heard, after) in [
            (On, ["CLIENT REPLY OFF", "GET a", "CLIENT ID"], "*3\r\n", Off),
            (On, ["GET a", "CLIENT REPLY SKIP", "GET a"], "*3\r\n:0\r\n:2\r\n", Skip),
            (Off, ["GET a", "CLIENT REPLY ON", "GET a"], ":1\r\n:2\r\n", On),
            (Skip, ["GET a", "CLIENT REPLY ON", "CLIENT REPLY SKIP"], ":1\r\n", Skip),
            (Off, ["CLIENT REPLY SKIP", "GET a", "CLIENT REPLY OFF"], "", Off),
            (On, ["CLIENT REPLY SKIP", "CLIENT REPLY OFF", "CLIENT REPLY ON"], "*3\r\n:2\r\n", Skip),
            (On, ["CLIENT KILL ID 7 SKIPME no", "GET a", "CLIENT REPLY ON"], "*3\r\n:1\r\n", On),
        ] {
            let heeded: Vec<_> = commands.into_iter().enumerate().filter(|(_, c)| is_heeded(&command(c))).collect();
            let e = executed(&presence, before, 3, &heeded);
            assert_eq!(e.translate(b"*3\r\n:0\r\n:1\r\n:2\r\n".as_slice().into()), heard, "{commands:?}");
            let outcome = e.outcome().unwrap();
            assert_eq!((outcome.replies, outcome.left), (after, commands[0].contains("KILL")), "{commands:?}");
        }
    }
}
