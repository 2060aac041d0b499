//! Commands that were slow: noted where their replies are handed out, where those that were kept back are delivered, and
//! where nobody will answer any more. With the clock reads that there are anyway.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use super::inflight::{Audience, Entry};
use super::transaction::last;
use super::{Context, Downstream};
use crate::clients::Client;
use crate::clock::Moment;
use crate::insight::{Described, Outcome, SlowCommand, Spent, Waited};
use crate::metrics::LatencyClass;
use crate::resp::{Kind, args, lookup, split};

/// What one turn of a connection's reader has answered. Replies that come at once cannot be told apart by time: a server
/// that is given a pipeline answers it at its end.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// When the last reply of an earlier turn came: until then the server was at something else.
    before: Option<Instant>,
    answered_at: Option<Instant>,
    /// Commands answered in this turn.
    answered: u32,
    slow: Vec<SlowCommand>,
}

impl Turn {
    /// Something has come.
    pub(super) fn begin(&mut self) {
        self.before = self.answered_at;
        self.answered = 0;
    }

    /// So many replies were among it.
    pub(super) fn answered(&mut self, commands: u32, now: Instant) {
        self.answered_at = Some(now);
        self.answered += commands;
    }

    /// The next `n` commands of an entry are answered with `replies` now: what there is to be noted of them if they were
    /// slow; of those whose reply is `kept` back in any case.
    #[cold]
    pub(super) fn draft(
        &self,
        conn: &Connection,
        entry: &Entry<Rc<Downstream>>,
        replies: &[u8],
        n: u32,
        now: Instant,
        kept: bool,
    ) -> Option<SlowCommand> {
        let from = conn.context.slow_from();
        if from == Duration::MAX || matches!(entry.audience, Audience::Ours | Audience::Forgotten) {
            return None;
        }
        // Its turn came when everything before it was answered.
        let turn =
            self.before.map_or(entry.queued_at, |before| before.clamp(entry.queued_at, now.max(entry.queued_at)));
        let waited = entry.waited.as_deref();
        let mut spent = waited.map_or_else(Spent::default, |waited| waited.spent);
        spent.queue += turn - entry.queued_at;
        spent.backend += now.saturating_duration_since(turn);
        if spent.total() < from && !kept {
            return None;
        }
        let commands = entry.next_commands(n);
        // Those of a transaction.
        let frames: Vec<&[u8]> = commands.iter().flat_map(|(command, _)| split(command)).collect();
        let first = *frames.first()?;
        if waits_by_intent(entry, first) {
            spent.backend = Duration::ZERO;
            if spent.total() < from && !kept {
                return None;
            }
        }
        let told = if entry.is_transaction() { last(replies) } else { replies };
        let mut command = described(conn, entry, first, spent, Outcome::Ok).answered(told);
        command.add_others(frames[1..].iter().copied());
        command.together = command.commands;
        Some(command)
    }

    /// Notes one of this turn.
    pub(super) fn note(&mut self, command: SlowCommand) {
        self.slow.push(command);
    }

    /// All that came has been handed out.
    pub(super) fn end(&mut self, context: &Context) {
        for mut command in self.slow.drain(..) {
            command.together = self.answered.max(command.commands);
            context.log_slow(command);
        }
    }
}

/// Whether the time that the server takes says nothing: a pop waits for an element, `WAIT` for replicas.
fn waits_by_intent<T>(entry: &Entry<T>, command: &[u8]) -> bool {
    let kind = args(command).next().map_or(Kind::Other, |name| lookup(name).info().kind);
    entry.class == LatencyClass::Pinned && matches!(kind, Kind::Blocking | Kind::BlockingIfAsked | Kind::Wait)
}

fn described(
    conn: &Connection,
    entry: &Entry<Rc<Downstream>>,
    first: &[u8],
    spent: Spent,
    outcome: Outcome,
) -> SlowCommand {
    let waited = entry.waited.as_deref();
    let known = waited.and_then(|waited| waited.described.clone());
    let described = known.unwrap_or_else(|| conn.context.describe(first));
    let command = conn.context.slow_command(&entry.to.client, described, spent, outcome);
    let resent = waited.is_some_and(|waited| waited.resent);
    SlowCommand { node: Some(conn.node), database: conn.database.get(), resent, ..command }
}

impl Connection {
    /// A command of this entry is to be sent again. What waits by intent has waited as it was told to.
    pub(super) fn note_return(&self, entry: &Entry<Rc<Downstream>>) {
        if !waits_by_intent(entry, &entry.bytes) {
            entry.to.note_return(entry.queued_at);
        }
    }

    /// Nobody will know what became of a command of this entry.
    #[cold]
    pub(super) fn note_unknown(&self, entry: &Entry<Rc<Downstream>>, command: &[u8]) {
        if self.context.slow_from() == Duration::MAX || entry.audience == Audience::Ours {
            return;
        }
        let mut spent = entry.waited.as_deref().map_or_else(Spent::default, |waited| waited.spent);
        if !waits_by_intent(entry, command) {
            spent.backend += entry.queued_at.elapsed();
        }
        self.context.log_slow(described(self, entry, command, spent, Outcome::Unknown));
    }
}

impl Context {
    /// From which time on a command is slow; [`Duration::MAX`] if nothing is noted.
    #[inline]
    pub fn slow_from(&self) -> Duration {
        self.slow_from.get()
    }

    /// A command in words, as far as it may be told.
    pub fn describe(&self, frame: &[u8]) -> Described {
        Described::new(frame, self.terms().slowlog.key_bytes)
    }

    /// A command of a client that ends now.
    pub fn slow_command(&self, client: &Client, what: Described, spent: Spent, outcome: Outcome) -> SlowCommand {
        let (name, _) = client.named();
        SlowCommand::new(what, spent, outcome).of_client(client.id, client.addr.to_string(), &name)
    }

    /// A command that pointsman answers with `line` after it has waited; `outcome` if that does not follow from the line.
    pub fn note_answered(
        &self,
        client: &Client,
        database: u32,
        frame: &[u8],
        waited: &Waited,
        line: &[u8],
        outcome: Option<Outcome>,
    ) {
        if waited.spent.total() < self.slow_from() {
            return;
        }
        let what = waited.described.clone().unwrap_or_else(|| self.describe(frame));
        let command = self.slow_command(client, what, waited.spent, Outcome::Ok).answered(line);
        let outcome = outcome.unwrap_or(command.outcome);
        self.log_slow(SlowCommand { database, outcome, resent: waited.resent, ..command });
    }

    /// Replies that were kept back since then are delivered now, or will never be.
    pub(super) fn note_kept(&self, command: Option<Box<SlowCommand>>, since: Moment, outcome: Option<Outcome>) {
        if let Some(mut command) = command {
            command.hold_longer(Moment::now().since(since));
            command.outcome = outcome.unwrap_or(command.outcome);
            self.log_slow(*command);
        }
    }

    /// Notes a command, if it was slow.
    fn log_slow(&self, command: SlowCommand) {
        if command.total() >= self.slow_from() {
            self.stats.slow_commands[command.stage() as usize].add(command.commands.into());
            self.observed.keep(command, self.terms().slowlog.max_len);
        }
    }
}
