//! What a transaction asks about its connection, or changes of it: the reply to its `EXEC` says what ran, and is told in
//! terms of the client.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};

use super::answers::{Answers, Value};
use super::telling::{Besides, Teller, kind, reply_mode};
use crate::backend::{Subscriptions, Translate};
use crate::resp::{Kind, ReplyScanner, args};
use crate::router::{Replies, confirmations};

/// A transaction whose `EXEC` was sent.
#[derive(Debug)]
pub(super) struct Executed {
    /// Commands that were queued.
    queued: usize,
    /// Those that matter, each with its place among them.
    heeded: Vec<(usize, Bytes)>,
    /// What the server is asked behind them for the sake of some, each with the place of the one that it is for.
    besides: Vec<(usize, Besides)>,
    answers: RefCell<Answers>,
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
    use Kind::{Auth, Client, Hello, Select, Subscribe, Unsubscribe};
    matches!(kind(frame), Select | Auth | Hello | Client | Subscribe | Unsubscribe)
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
        if !self.off && !self.skipped {
            self.hear_anyway(bytes);
        }
    }

    /// What comes with replies turned off, too.
    fn hear_anyway(&mut self, bytes: &[u8]) {
        if !self.ended {
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
    fn hear(&self, frame: &[u8], subscriptions: &mut Subscriptions) -> bool {
        let mut answers = self.answers.borrow_mut();
        if answers.is_begun() {
            answers.take(frame, subscriptions);
            return answers.is_complete();
        }
        let Some(elements) = elements(frame).filter(|elements| elements.len() == self.queued + self.besides.len())
        else {
            return true;
        };
        // What is published from there on comes as arrays, perhaps among the answers (Redis 7.0).
        if self.heeded.iter().any(|(_, command)| kind(command) == Kind::Hello && args(command).nth(1) == Some(b"2")) {
            subscriptions.expect_arrays();
        }
        answers.begin(elements.first().map_or(frame.len(), |(from, _)| *from));
        elements.into_iter().for_each(|(from, to)| answers.take(&frame[from..to], subscriptions));
        answers.is_complete()
    }

    fn translate(&self, reply: BytesMut) -> BytesMut {
        let mut hearing = Hearing::new(self.replies);
        let answers = self.answers.borrow();
        let accepted = if answers.is_begun() {
            Some(self.tell(&reply, answers.values(), &mut hearing))
        } else {
            hearing.hear(&reply);
            // What is no array says that nothing has run.
            (reply.first() != Some(&b'*') || reply.starts_with(b"*-")).then(Vec::new)
        };
        let (replies, left) = (hearing.afterwards(), self.teller.has_left());
        *self.outcome.borrow_mut() = Some(Outcome { accepted, replies, left });
        hearing.heard
    }
}

impl Executed {
    /// Of the `heeded` ones among so many queued commands.
    pub(super) fn new(
        queued: usize,
        heeded: Vec<(usize, Bytes)>,
        besides: Vec<(usize, Besides)>,
        teller: Teller,
        replies: Replies,
    ) -> Self {
        let subscribing = |(place, command): &(usize, Bytes)| {
            let kind = kind(command);
            let left = || (*place, confirmations(kind, args(command).count() as u32));
            matches!(kind, Kind::Subscribe | Kind::Unsubscribe).then(left)
        };
        let subscribing = heeded.iter().filter_map(subscribing).collect();
        let answers = RefCell::new(Answers::new(queued.saturating_add(besides.len()), subscribing));
        Self { queued, heeded, besides, answers, teller, replies, outcome: RefCell::default() }
    }

    /// Whether the server is asked more than was queued.
    pub(super) fn asks_besides(&self) -> bool {
        !self.besides.is_empty()
    }

    /// What has come of it, once `EXEC` was answered.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.outcome.take()
    }

    /// Tells the values of the reply one after the other; returns what was accepted.
    fn tell(&self, reply: &[u8], values: &[Value], hearing: &mut Hearing) -> Vec<Bytes> {
        let mut accepted = Vec::new();
        let mut heeded = self.heeded.iter().peekable();
        match values.first() {
            Some(first) if self.besides.is_empty() => hearing.hear(&reply[..first.span.start]),
            Some(_) => hearing.hear(format!("*{}\r\n", self.queued).as_bytes()),
            None => hearing.hear(reply),
        }
        for Value { place, span, pushed } in values.iter().take_while(|value| value.place < self.queued) {
            let element = &reply[span.clone()];
            if *pushed {
                hearing.hear_anyway(element);
                continue;
            }
            while heeded.next_if(|(at, _)| at < place).is_some() {}
            let Some((_, command)) = heeded.next_if(|(at, _)| at == place) else {
                hearing.hear(element);
                continue;
            };
            let has_run = element[0] != b'-';
            let mode = reply_mode(&args(command).collect::<Vec<_>>()).filter(|_| has_run);
            if let Some(mode) = mode {
                hearing.turn(mode);
            }
            if matches!(mode, None | Some(Replies::On)) {
                let asked = self.besides.iter().position(|(of, _)| of == place).filter(|_| has_run);
                let answer = asked.and_then(|n| values.iter().rfind(|v| v.place == self.queued + n));
                let element = answer.map_or(element, |value| &reply[value.span.clone()]);
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
        Executed::new(queued, heeded, Vec::new(), Teller::new(&presence.client, &presence.clients, Vec::new()), replies)
    }

    fn answered(executed: &Executed, frames: &[&str]) -> String {
        let (last, before) = frames.split_last().unwrap();
        let mut subscriptions = Subscriptions::default();
        let mut hear = |frame: &str| executed.hear(frame.as_bytes(), &mut subscriptions);
        assert!(!before.iter().any(|frame| hear(frame)) && hear(last), "{frames:?}");
        String::from_utf8(executed.translate(frames.concat().as_bytes().into()).to_vec()).unwrap()
    }

    #[test]
    fn what_ran_changes_the_session_and_speaks_of_the_client() {
        let presence = presence();
        let e = executed(&presence, Replies::On, 4, &[(0, "SELECT 5"), (2, "CLIENT ID"), (3, "SELECT 99")]);
        let told = answered(&e, &["*4\r\n+OK\r\n*2\r\n:1\r\n:2\r\n:55\r\n-ERR DB index is out of range\r\n"]);
        assert_eq!(told, "*4\r\n+OK\r\n*2\r\n:1\r\n:2\r\n:7\r\n-ERR DB index is out of range\r\n");
        assert_eq!(e.outcome().unwrap().accepted.unwrap(), [command("SELECT 5"), command("CLIENT ID")]);
    }

    #[test]
    fn what_did_not_run_changes_nothing() {
        let presence = presence();
        for reply in ["-EXECABORT x\r\n", "*-1\r\n", "_\r\n"] {
            for (replies, heard) in [(Replies::On, reply), (Replies::Off, ""), (Replies::Skip, "")] {
                let e = executed(&presence, replies, 2, &[(0, "SELECT 5"), (1, "CLIENT REPLY SKIP")]);
                assert_eq!(answered(&e, &[reply]), heard);
                let outcome = e.outcome().unwrap();
                let after = if replies == Replies::Off { Replies::Off } else { Replies::On };
                assert_eq!((outcome.accepted.unwrap().len(), outcome.replies), (0, after), "{reply}");
            }
        }
        let e = executed(&presence, Replies::On, 1, &[(0, "SELECT 5")]);
        answered(&e, &["*2\r\n+OK\r\n+OK\r\n"]);
        assert!(e.outcome().unwrap().accepted.is_none(), "more than was queued");
    }

    #[test]
    fn what_was_asked_besides_is_the_answer_and_is_not_counted() {
        let presence = presence();
        presence.client.pin(([127, 0, 0, 1], 1).into(), 40);
        let heeded = [(0, "CLIENT UNBLOCK 7"), (2, "CLIENT UNBLOCK 7 maybe"), (3, "CLIENT LIST USER nobody")];
        let heeded: Vec<_> = heeded.map(|(place, said)| (place, command(said))).into();
        let besides = |(place, said): &(usize, Bytes)| {
            Some((*place, crate::session::telling::besides(said, &presence.clients, ([127, 0, 0, 1], 1).into())?))
        };
        let besides: Vec<_> = heeded.iter().filter_map(besides).collect();
        let asked: Vec<_> = besides.iter().map(|(_, besides)| besides.command.clone()).collect();
        assert_eq!(asked, ["CLIENT UNBLOCK 40", "CLIENT UNBLOCK 40 maybe", "CLIENT LIST"].map(command));
        let teller = Teller::new(&presence.client, &presence.clients, Vec::new());
        let e = Executed::new(4, heeded, besides, teller, Replies::On);
        assert!(!presence.client.unpin(), "another client could be given the connection");
        let reply = "*7\r\n:0\r\n+a\r\n-ERR reason\r\n$5\r\nid=9\n\r\n:1\r\n-ERR reason\r\n$5\r\nid=9\n\r\n";
        assert_eq!(answered(&e, &[reply]), "*4\r\n:1\r\n+a\r\n-ERR reason\r\n$0\r\n\r\n");
    }

    #[test]
    fn confirmations_behind_the_end_belong_to_it_and_come_with_replies_turned_off() {
        let presence = presence();
        let confirmed = |channel: char| format!(">3\r\n$9\r\nsubscribe\r\n$1\r\n{channel}\r\n:1\r\n");
        let (a, b) = (confirmed('a'), confirmed('b'));
        let (head, tail) = (format!("*3\r\n{a}{b}+OK\r\n"), ":55\r\n");
        for (second, replies, heard) in [
            ("SELECT 1", Replies::On, format!("{head}{tail}").replace("55", "7")),
            ("SELECT 1", Replies::Off, format!("{a}{b}")),
            ("CLIENT REPLY OFF", Replies::On, format!("*3\r\n{a}{b}")),
        ] {
            let e = executed(&presence, replies, 3, &[(0, "SUBSCRIBE a b"), (1, second), (2, "CLIENT ID")]);
            assert_eq!(answered(&e, &[&head, tail]), heard);
            assert_eq!(e.outcome().unwrap().accepted.unwrap(), [second, "CLIENT ID"].map(command));
        }
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
            assert_eq!(answered(&e, &["*3\r\n:0\r\n:1\r\n:2\r\n"]), heard, "{commands:?}");
            let outcome = e.outcome().unwrap();
            assert_eq!((outcome.replies, outcome.left), (after, commands[0].contains("KILL")), "{commands:?}");
        }
    }
}
