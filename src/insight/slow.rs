//! Commands that took long, and where. Pure.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::metrics::{STAGES, Stage};
use crate::resp::{keys, printable, title};
use crate::topology::status::WallTime;

/// How long a command was in each [`Stage`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spent {
    /// [`Stage::Hold`].
    pub hold: Duration,
    /// [`Stage::Queue`].
    pub queue: Duration,
    /// [`Stage::Backend`].
    pub backend: Duration,
}

impl Spent {
    /// All of it.
    pub fn total(&self) -> Duration {
        self.hold.saturating_add(self.queue).saturating_add(self.backend)
    }
}

/// What is known of a command's time before it is queued on a connection. Most have waited for nothing.
#[derive(Clone, Debug, Default)]
pub struct Waited {
    /// Until then.
    pub spent: Spent,
    /// It was sent before, and came back.
    pub resent: bool,
    /// What it is, where that cannot be seen later: of a large one only the end is kept.
    pub described: Option<Described>,
}

/// What a command is, in words.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Described {
    /// Name and subcommand.
    pub command: String,
    /// The beginning of its first key.
    pub key: Option<String>,
}

impl Described {
    /// A command; of its key so many bytes, none if 0.
    pub fn new(frame: &[u8], key_bytes: usize) -> Self {
        let key = keys(frame, 1).first().filter(|_| key_bytes > 0).map(|key| printable(key, key_bytes));
        Self { command: title(frame), key }
    }
}

/// What became of a slow command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was answered.
    Ok,
    /// The server answered with an error.
    Error,
    /// pointsman answered with an error: it did not run.
    Refused,
    /// The server was lost before it answered a write; the client was closed.
    Unknown,
}

/// One that took longer than `slowlog_slower_than`; or several of one client, if their replies came at once and had the
/// same time.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SlowCommand {
    /// When it was answered or given up.
    pub ended: WallTime,
    /// Number of its client.
    pub client: u64,
    /// Where the client came from.
    pub address: String,
    /// What the client calls itself; empty if it does not say.
    pub client_name: String,
    /// The database that it had selected.
    pub database: u32,
    /// The server that answered; none if it was pointsman.
    pub node: Option<SocketAddr>,
    /// Name and subcommand; of several commands the first one's.
    pub command: String,
    /// The beginning of its first key, for people: not printable bytes are spelt out.
    pub key: Option<String>,
    /// How many commands this is about.
    pub commands: u32,
    /// Names of other commands among them.
    pub also: Vec<String>,
    /// Commands, of any clients, whose replies came at once with this one's on the connection: their time at the backend is
    /// that of all together.
    pub together: u32,
    /// Microseconds in [`Stage::Hold`].
    pub hold_us: u64,
    /// Microseconds in [`Stage::Queue`].
    pub queue_us: u64,
    /// Microseconds in [`Stage::Backend`].
    pub backend_us: u64,
    /// It was sent again: a connection was lost, or a server refused it. Counted as hold from when it was first sent on.
    pub resent: bool,
    /// What became of it.
    pub outcome: Outcome,
    /// The first word of an error.
    pub error: Option<String>,
}

/// Most names in [`SlowCommand::also`].
pub(super) const MAX_ALSO: usize = 8;
/// Most bytes of a client's name that are kept.
const CLIENT_NAME_BYTES: usize = 64;

impl SlowCommand {
    /// What took so long.
    pub fn total(&self) -> Duration {
        Duration::from_micros(self.hold_us.saturating_add(self.queue_us).saturating_add(self.backend_us))
    }

    /// Where most of the time went.
    pub fn stage(&self) -> Stage {
        if self.hold_us >= self.queue_us && self.hold_us >= self.backend_us {
            Stage::Hold
        } else if self.queue_us >= self.backend_us {
            Stage::Queue
        } else {
            Stage::Backend
        }
    }

    /// Its client.
    #[must_use]
    pub fn of_client(self, id: u64, address: String, name: &[u8]) -> Self {
        Self { client: id, address, client_name: printable(name, CLIENT_NAME_BYTES), ..self }
    }

    /// One that ends now, without a client or server yet.
    pub fn new(what: Described, spent: Spent, outcome: Outcome) -> Self {
        Self {
            ended: WallTime::now(),
            client: 0,
            address: String::new(),
            client_name: String::new(),
            database: 0,
            node: None,
            command: what.command,
            key: what.key,
            commands: 1,
            also: Vec::new(),
            together: 1,
            hold_us: micros(spent.hold),
            queue_us: micros(spent.queue),
            backend_us: micros(spent.backend),
            resent: false,
            outcome,
            error: None,
        }
    }

    /// These follow it, and were answered with it.
    pub fn add_others<'a>(&mut self, frames: impl Iterator<Item = &'a [u8]>) {
        for frame in frames {
            self.commands += 1;
            if self.also.len() < MAX_ALSO {
                let name = title(frame);
                if name != self.command && !self.also.contains(&name) {
                    self.also.push(name);
                }
            }
        }
    }

    /// The first word of a reply that is an error.
    #[must_use]
    pub fn answered(self, reply: &[u8]) -> Self {
        let Some(line) = reply.strip_prefix(b"-") else { return self };
        let word = line.split(|b| b.is_ascii_whitespace()).next().unwrap_or_default();
        Self { outcome: Outcome::Error, error: Some(printable(word, 32)), ..self }
    }

    /// Its reply was kept back for so long.
    pub fn hold_longer(&mut self, time: Duration) {
        self.ended = WallTime::now();
        self.hold_us = self.hold_us.saturating_add(micros(time));
    }
}

/// In microseconds.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The newest slow commands, apart by where they spent most of their time: a failover, in which thousands wait, does not
/// push out those that were slow by themselves.
#[derive(Debug, Default)]
pub struct SlowLog([VecDeque<Arc<SlowCommand>>; STAGES.len()]);

impl SlowLog {
    /// Adds one; of its [`Stage`] the newest `most` are kept.
    pub fn push(&mut self, command: impl Into<Arc<SlowCommand>>, most: usize) {
        let command = command.into();
        let ring = &mut self.0[command.stage() as usize];
        ring.push_back(command);
        // More than one where fewer are to be kept now than before.
        ring.drain(..ring.len().saturating_sub(most));
    }

    /// All that are kept.
    pub fn all(&self) -> Vec<Arc<SlowCommand>> {
        self.0.iter().flatten().cloned().collect()
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.0.iter().map(VecDeque::len).sum()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resp::encode_command;

    fn slow(ms: [u64; 3]) -> SlowCommand {
        let [hold, queue, backend] = ms.map(Duration::from_millis);
        SlowCommand::new(Described::default(), Spent { hold, queue, backend }, Outcome::Ok)
    }

    #[test]
    fn a_command_is_where_most_of_its_time_went() {
        assert_eq!(slow([3, 2, 1]).stage(), Stage::Hold);
        assert_eq!(slow([1, 3, 2]).stage(), Stage::Queue);
        assert_eq!(slow([1, 2, 3]).stage(), Stage::Backend);
        assert_eq!(slow([1, 2, 3]).total(), Duration::from_millis(6));
    }

    proptest! {
        /// Against the simplest thing that is right: all that ever came, the last `most` of each kind.
        #[test]
        fn of_each_kind_the_newest_are_kept(
            pushed in prop::collection::vec((0u64..4, 0u64..4, 0u64..4), 0..60),
            limits in prop::collection::vec(0usize..6, 60),
        ) {
            let (mut log, mut model) = (SlowLog::default(), vec![Vec::new(); STAGES.len()]);
            for (i, ((a, b, c), most)) in pushed.into_iter().zip(limits).enumerate() {
                let command = SlowCommand { client: i as u64, ..slow([a, b, c]) };
                let kind: &mut Vec<u64> = &mut model[command.stage() as usize];
                kind.push(i as u64);
                kind.drain(..kind.len().saturating_sub(most));
                log.push(command, most);
                let kept: Vec<u64> = log.all().iter().map(|command| command.client).collect();
                prop_assert_eq!(kept, model.concat());
                prop_assert_eq!(log.len(), model.concat().len());
            }
        }

        /// Whatever clients send, one takes no more memory than the table of bounds in the documentation says.
        #[test]
        fn one_is_bounded(
            words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..20),
            name in prop::collection::vec(any::<u8>(), 0..600),
            key_bytes in 0usize..1024,
        ) {
            let frame = encode_command(&words);
            let mut command = SlowCommand::new(Described::new(&frame, key_bytes), Spent::default(), Outcome::Ok)
                .of_client(1, String::new(), &name)
                .answered(&[b"-", &name[..]].concat());
            command.add_others(words.iter().map(|_| &frame[..]));
            // What is not printable takes up to ten characters for four bytes.
            let strings = [&command.command, &command.client_name, command.error.as_ref().unwrap()];
            prop_assert!(strings.iter().all(|s| s.len() <= 800), "{:?}", command);
            prop_assert!(command.key.as_ref().is_none_or(|key| key.len() <= key_bytes * 6 + 3));
            prop_assert_eq!(command.key.is_none(), key_bytes == 0 || keys(&frame, 1).is_empty());
            prop_assert!(command.also.len() <= MAX_ALSO);
        }
    }

    #[test]
    fn several_commands_are_one_with_the_names_of_the_others() {
        let frames =
            [["GET", "a"], ["KEYS", "*"], ["GET", "b"], ["GET", "c"], ["keys", "x"]].map(|c| encode_command(&c));
        let mut command = SlowCommand::new(Described::new(&frames[0], 4), Spent::default(), Outcome::Ok);
        command.add_others(frames[1..].iter().map(|frame| &frame[..]));
        assert_eq!((&*command.command, command.key.as_deref()), ("get", Some("a")));
        assert_eq!((command.commands, &command.also[..]), (5, &["keys".to_owned()][..]));
    }

    #[test]
    fn an_error_is_told_by_its_first_word() {
        let command = slow([0, 0, 1]);
        assert_eq!(command.clone().answered(b"+OK\r\n").outcome, Outcome::Ok);
        let failed = command.answered(b"-WRONGTYPE Operation against a key\r\n");
        assert_eq!((failed.outcome, failed.error.as_deref()), (Outcome::Error, Some("WRONGTYPE")));
    }
}
