//! Commands on one backend connection: queued, written, answered. Pure: no socket, no clock.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::io::IoSlice;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::subscriptions::Subscriptions;
use crate::insight::Waited;
use crate::metrics::LatencyClass;
use crate::resp::{RequestScanner, Scan, lengths, lookup};

/// What it means for a command to have been written when its connection is lost before it answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// It changes nothing: sent again.
    Read,
    /// Whether it ran is unknown: never sent again.
    Write,
    /// It has not run, since the connection only kept it: a command queued in `MULTI`, a `SUBSCRIBE`. Its session knows
    /// how to bring the connection's state back.
    Deferred,
}

/// How many frames answer the commands of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// One reply a command.
    Replies,
    /// So many confirmations (a `SUBSCRIBE` confirms each channel), or a single error. For an entry of one command.
    Confirmations(u32),
    /// The entry is a whole transaction, `MULTI` to `EXEC`, which counts as one command: it runs, comes back and is answered
    /// as one. So many replies are yet to come, the last of them that to `EXEC`.
    Transaction(u32),
}

/// Who is told the replies to an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// The client.
    Client,
    /// Nobody: the client has turned replies off (`CLIENT REPLY`). Its commands are sent again like any others.
    Nobody,
    /// pointsman: a command of its own that brings the connection into the session's state. It is never sent again by
    /// itself; where it did not run, the session begins afresh on another connection.
    Ours,
    /// Nobody any more: the commands were sent again elsewhere.
    Forgotten,
}

/// Puts a reply into other words: what the server says of the connection is to be true of the client.
pub trait Translate: std::fmt::Debug {
    /// The next frame of the answer has come, on a connection of the client's own that has these subscriptions. Returns whether
    /// it is the last.
    fn hear(&self, _frame: &[u8], _subscriptions: &mut Subscriptions) -> bool {
        true
    }

    /// What the client is told instead.
    fn translate(&self, reply: BytesMut) -> BytesMut;
}

/// What is remembered of commands or their replies, or changed in these.
#[derive(Clone, Debug)]
pub enum Heed {
    /// Nothing.
    Nothing,
    /// Among the commands are some that do something to the server's scripts.
    Scripts,
    /// The one command scans something, told apart by the number, and its reply has a cursor.
    Cursor(u64),
    /// The one command's reply is not for the client as it is. It is kept until all of it has come.
    Translate(Rc<dyn Translate>),
}

/// Consecutive commands of one session.
#[derive(Debug)]
pub struct Entry<T> {
    /// Whose they are.
    pub to: T,
    /// The commands themselves, kept until the replies are read: resending needs them.
    pub bytes: Bytes,
    /// What the client said, if its one command was put into other words for the server: this is what comes back.
    pub said: Option<Bytes>,
    /// How many commands are in `bytes`.
    pub commands: u32,
    /// How many of them have been answered. 0 ≤ `answered` < `commands` while the entry is queued.
    pub answered: u32,
    /// The effect of an entry with one command; with several, `Write` says that there are writes among them.
    pub effect: Effect,
    /// What answers it.
    pub answer: Answer,
    /// Who is told the replies.
    pub audience: Audience,
    /// A refusal that proves a command did not run leads to its being sent again.
    pub retry: bool,
    /// The bytes are the end of a command whose beginning was streamed: they cannot be sent again.
    pub partial: bool,
    /// What else is looked at.
    pub heed: Heed,
    /// Class for the latency histogram.
    pub class: LatencyClass,
    /// When it was queued.
    pub queued_at: Instant,
    /// What it had waited for until then; hardly any has.
    pub waited: Option<Box<Waited>>,
}

impl<T> Entry<T> {
    /// The next `n` unanswered commands, each as the client said it and with its effect. Scans the batch again: for cold paths.
    pub(super) fn next_commands(&self, n: u32) -> Vec<(Bytes, Effect)> {
        let mut start = 0;
        let spans = self.lengths().map(|len| {
            start += len;
            start - len..start
        });
        let wanted = spans.skip(self.answered as usize).take(n as usize).map(|span| self.bytes.slice(span));
        wanted.map(|c| (self.said.clone().unwrap_or_else(|| c.clone()), self.effect_of(&c))).collect()
    }

    /// How many of the bytes are commands that have been answered.
    fn answered_bytes(&self) -> usize {
        self.lengths().take(self.answered as usize).sum()
    }

    /// The lengths of its commands. Scans the batch again.
    fn lengths(&self) -> impl Iterator<Item = usize> {
        let is_one = self.is_transaction();
        let commands = (!is_one).then(|| lengths(&self.bytes));
        is_one.then_some(self.bytes.len()).into_iter().chain(commands.into_iter().flatten())
    }

    /// Whether it is a whole transaction.
    pub(super) fn is_transaction(&self) -> bool {
        matches!(self.answer, Answer::Transaction(_))
    }

    /// Whether its replies may acknowledge what is gone with a master that is replaced: those to writes, and to pops.
    pub(super) fn acknowledges(&self) -> bool {
        self.effect == Effect::Write || self.effect == Effect::Deferred && self.retry
    }

    fn effect_of(&self, command: &[u8]) -> Effect {
        if self.commands == 1 || self.effect != Effect::Write { self.effect } else { effect(command) }
    }
}

/// What became of a command whose connection is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// The backend never had the whole of it: it certainly did not run.
    NeverWritten,
    /// Handed to the kernel and not answered.
    Written(Effect),
}

/// Commands that were taken back before they were handed to the kernel.
#[derive(Debug)]
pub(super) struct Taken<T> {
    pub(super) to: T,
    pub(super) bytes: Bytes,
    pub(super) commands: u32,
    pub(super) audience: Audience,
    pub(super) queued_at: Instant,
}

/// Entries that were taken away, each with the commands of it that were not answered and what became of them.
pub(super) type Abandoned<T> = Vec<(Entry<T>, Vec<(Bytes, Fate)>)>;

/// The queue. Entries are written front to back and answered front to back.
///
/// `written` entries at the front are wholly handed to the kernel, and `offset` bytes of the next one:
/// `written` ≤ `entries.len()`, `offset` < the length of entry `written`.
#[derive(Debug)]
pub(super) struct InFlight<T> {
    entries: VecDeque<Entry<T>>,
    written: usize,
    offset: usize,
}

impl<T> Default for InFlight<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), written: 0, offset: 0 }
    }
}

impl<T> InFlight<T> {
    /// Appends commands to be written.
    pub(super) fn push(&mut self, entry: Entry<T>) {
        debug_assert!(entry.commands > 0 && entry.answered == 0 && !entry.bytes.is_empty());
        self.entries.push_back(entry);
    }

    /// Whether nothing is queued or owed.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether something waits to be written.
    pub(super) fn has_unwritten(&self) -> bool {
        self.written < self.entries.len()
    }

    /// Entries not wholly written yet.
    pub(super) fn unwritten(&self) -> impl Iterator<Item = &Entry<T>> {
        self.entries.iter().skip(self.written)
    }

    /// Fills `slices` with what is to be written next; returns how many were filled.
    pub(super) fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut n = 0;
        let mut offset = self.offset;
        for (slice, entry) in slices.iter_mut().zip(self.unwritten()) {
            *slice = IoSlice::new(&entry.bytes[offset..]);
            offset = 0;
            n += 1;
        }
        n
    }

    /// The kernel took `n` bytes of what [`InFlight::gather`] showed.
    pub(super) fn wrote(&mut self, n: usize) {
        self.offset += n;
        while let Some(entry) = self.entries.get(self.written)
            && self.offset >= entry.bytes.len()
        {
            self.offset -= entry.bytes.len();
            self.written += 1;
        }
        debug_assert!(self.written < self.entries.len() || self.offset == 0);
    }

    /// The entry that the next reply belongs to; none if nothing was sent that could be answered.
    pub(super) fn front(&mut self) -> Option<&mut Entry<T>> {
        if self.written == 0 && self.offset == 0 { None } else { self.entries.front_mut() }
    }

    /// The oldest entry that was written.
    pub(super) fn oldest_written(&self) -> Option<&Entry<T>> {
        self.entries.front().filter(|_| self.written > 0)
    }

    /// The entry that was queued last.
    pub(super) fn newest(&self) -> Option<&Entry<T>> {
        self.entries.back()
    }

    /// Whether an entry behind the oldest is such.
    pub(super) fn waits_behind(&self, is_such: impl Fn(&Entry<T>) -> bool) -> bool {
        self.entries.iter().skip(1).any(is_such)
    }

    /// Whether something such that was handed to the kernel, in part at least, is unanswered.
    pub(super) fn owes(&self, is_such: impl Fn(&Entry<T>) -> bool) -> bool {
        let begun = self.written + usize::from(self.offset > 0);
        self.entries.iter().take(begun).any(is_such)
    }

    /// Whether something such is here, handed to the kernel or not.
    pub(super) fn holds(&self, is_such: impl Fn(&Entry<T>) -> bool) -> bool {
        self.entries.iter().any(is_such)
    }

    /// The front entry's answers are complete. None if it was not wholly written: the backend answered more than it was asked.
    pub(super) fn pop(&mut self) -> Option<Entry<T>> {
        self.written = self.written.checked_sub(1)?;
        self.entries.pop_front()
    }

    /// Takes everything away, each command with what became of it, in order. Commands that were answered are left out.
    pub(super) fn abandon(&mut self) -> Abandoned<T> {
        let (written, offset) = (std::mem::take(&mut self.written), std::mem::take(&mut self.offset));
        self.entries
            .drain(..)
            .enumerate()
            .map(|(i, entry)| {
                let sent = if i < written {
                    entry.bytes.len()
                } else if i == written {
                    offset
                } else {
                    0
                };
                let fates = fates(&entry, sent);
                (entry, fates)
            })
            .collect()
    }
}

impl<T: PartialEq + Clone> InFlight<T> {
    /// Takes back what was written and not answered of the sessions that have nothing but reads here, all of them such that
    /// `may_go`: they are sent again elsewhere, and what still answers them is for nobody. `whose`: what tells sessions apart.
    pub(super) fn forget_reads<S: Hash + Eq>(
        &mut self,
        whose: impl Fn(&T) -> S,
        may_go: impl Fn(&Entry<T>) -> bool,
    ) -> Vec<Taken<T>> {
        let is_read =
            |e: &Entry<T>| e.effect == Effect::Read && e.audience == Audience::Client && !e.partial && may_go(e);
        let stays: HashSet<S> = (self.entries.iter().enumerate())
            .filter(|(i, e)| e.audience != Audience::Forgotten && !(*i < self.written && is_read(e)))
            .map(|(_, e)| whose(&e.to))
            .collect();
        let mut taken = Vec::new();
        for entry in self.entries.iter_mut().take(self.written) {
            if entry.audience == Audience::Forgotten || stays.contains(&whose(&entry.to)) {
                continue;
            }
            taken.push(Taken {
                to: entry.to.clone(),
                bytes: entry.said.clone().unwrap_or_else(|| entry.bytes.slice(entry.answered_bytes()..)),
                commands: entry.commands - entry.answered,
                audience: entry.audience,
                queued_at: entry.queued_at,
            });
            (entry.audience, entry.retry, entry.heed) = (Audience::Forgotten, false, Heed::Nothing);
        }
        taken
    }

    /// Takes back, for every session, what was not handed to the kernel from the first entry that `permitted` denies:
    /// the session's later entries come along, since its commands run in order.
    ///
    /// The second value is true if a command was stuck in the middle of being written: it is among those taken back,
    /// and the connection must never write again, so that the backend never sees the rest of it. Everything behind it is
    /// taken back too, whatever is permitted: it would wait for ever. `committed`: what is to be written next can only be
    /// what was ([`crate::net::WriteHalf::is_committed`]), which is the same as a command stuck before its first byte.
    pub(super) fn take_back(
        &mut self,
        permitted: impl Fn(&Entry<T>) -> bool,
        committed: bool,
    ) -> (Vec<Taken<T>>, bool) {
        let mut taken: Vec<Taken<T>> = Vec::new();
        let mut stuck = committed;
        let mut kept = VecDeque::with_capacity(self.entries.len());
        for (i, mut entry) in self.entries.drain(..).enumerate() {
            let denied = i >= self.written && (stuck || !permitted(&entry) || taken.iter().any(|t| t.to == entry.to));
            if !denied {
                kept.push_back(entry);
                continue;
            }
            let sent = if i == self.written { std::mem::take(&mut self.offset) } else { 0 };
            // Commands of which the kernel has every byte stay; the rest is split off.
            let (mut whole, mut commands) = (0, 0);
            for len in entry.lengths() {
                if whole + len > sent {
                    break;
                }
                whole += len;
                commands += 1;
            }
            stuck |= sent > whole;
            taken.push(Taken {
                to: entry.to.clone(),
                bytes: entry.said.take().unwrap_or_else(|| entry.bytes.slice(whole..)),
                commands: entry.commands - commands,
                audience: entry.audience,
                queued_at: entry.queued_at,
            });
            if commands > entry.answered {
                entry.bytes.truncate(whole);
                entry.commands = commands;
                kept.push_back(entry);
                self.written += 1;
            } else if commands > 0 {
                // All that was written of it has been answered: nothing is owed for it any more.
                debug_assert_eq!(commands, entry.answered);
            }
        }
        self.entries = kept;
        (taken, stuck)
    }
}

/// Whether a command of a batch is a write, by its name.
fn effect(command: &[u8]) -> Effect {
    match RequestScanner::new(usize::MAX).scan(command) {
        Ok(Scan::Command { name: (from, to), .. }) if lookup(&command[from..to]).info().readonly => Effect::Read,
        _ => Effect::Write,
    }
}

fn fates<T>(entry: &Entry<T>, sent: usize) -> Vec<(Bytes, Fate)> {
    let mut end = entry.answered_bytes();
    let unanswered = entry.lengths().skip(entry.answered as usize);
    let fate = |(len, (command, effect)): (usize, (Bytes, Effect))| {
        end += len;
        (command, if end > sent { Fate::NeverWritten } else { Fate::Written(effect) })
    };
    unanswered.zip(entry.next_commands(u32::MAX)).map(fate).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::parked::Parked;
    use super::*;

    const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n";
    const INCR: &[u8] = b"*2\r\n$4\r\nINCR\r\n$1\r\na\r\n";

    fn entry(to: u32, commands: &[&[u8]]) -> Entry<u32> {
        let effect = if commands.contains(&INCR) { Effect::Write } else { Effect::Read };
        Entry {
            to,
            bytes: commands.concat().into(),
            said: None,
            commands: commands.len() as u32,
            answered: 0,
            effect,
            answer: Answer::Replies,
            audience: Audience::Client,
            retry: true,
            partial: false,
            heed: Heed::Nothing,
            class: LatencyClass::Read,
            queued_at: Instant::now(),
            waited: None,
        }
    }

    fn flat(abandoned: Abandoned<u32>) -> Vec<(u32, Fate)> {
        abandoned.into_iter().flat_map(|(e, f)| f.into_iter().map(move |(_, fate)| (e.to, fate))).collect()
    }

    #[test]
    fn gathers_from_where_the_kernel_stopped() {
        let mut q = InFlight::default();
        q.push(entry(1, &[GET]));
        q.push(entry(2, &[GET]));
        assert!(q.front().is_none(), "nothing was sent: nothing can be answered");
        q.wrote(GET.len() + 3);
        let mut slices = [IoSlice::new(&[]); 4];
        assert_eq!(q.gather(&mut slices), 1);
        assert_eq!(&*slices[0], &GET[3..]);
        assert_eq!(q.pop().unwrap().to, 1);
        assert!(q.pop().is_none(), "a reply to what was not wholly sent");
    }

    #[test]
    fn a_lost_connection_tells_each_commands_fate() {
        let mut q = InFlight::default();
        q.push(entry(1, &[GET, INCR, GET]));
        q.push(entry(2, &[INCR]));
        q.wrote(GET.len() + INCR.len() + 5);
        q.front().unwrap().answered = 1;
        assert_eq!(
            flat(q.abandon()),
            [(1, Fate::Written(Effect::Write)), (1, Fate::NeverWritten), (2, Fate::NeverWritten)]
        );
        assert!(q.is_empty());
    }

    #[test]
    fn reads_are_forgotten_where_their_session_has_nothing_else() {
        let mut q = InFlight::default();
        q.push(entry(1, &[GET, GET, GET]));
        q.push(entry(2, &[GET]));
        q.push(entry(3, &[GET]));
        q.push(entry(2, &[INCR]));
        q.push(entry(4, &[GET]));
        q.push(entry(5, &[GET]));
        q.wrote(5 * GET.len() + INCR.len() + GET.len());
        q.front().unwrap().answered = 1;
        let taken = q.forget_reads(|to| *to, |e| e.to != 3);
        let told: Vec<_> = taken.iter().map(|t| (t.to, t.commands, t.bytes.len())).collect();
        assert_eq!(told, [(1, 2, 2 * GET.len()), (4, 1, GET.len())], "2 writes, 3 may not go, 5 is not written");
        assert!(q.forget_reads(|to| *to, |e| e.to != 3).is_empty(), "once");
        assert_eq!(q.entries.len(), 6, "what is owed stays owed");
        assert_eq!(q.entries.iter().filter(|e| e.audience == Audience::Forgotten).count(), 2);
    }

    #[test]
    fn what_was_put_into_other_words_comes_back_as_it_was_said() {
        let said = || Some(Bytes::from_static(b"said"));
        let mut q = InFlight::default();
        q.push(Entry { said: said(), ..entry(1, &[GET]) });
        q.wrote(5);
        let abandoned = q.abandon();
        assert_eq!(abandoned[0].1, [(Bytes::from_static(b"said"), Fate::NeverWritten)]);
        q.push(Entry { said: said(), ..entry(1, &[GET]) });
        assert_eq!(q.take_back(|_| false, false).0[0].bytes, "said");
        q.push(Entry { said: said(), ..entry(1, &[GET]) });
        assert_eq!(q.entries[0].next_commands(1), [(Bytes::from_static(b"said"), Effect::Read)], "refused, say");
        let parked = Parked::new(&q.entries[0], SocketAddr::from(([127, 0, 0, 1], 1)), b"$-1\r\n", 1);
        assert_eq!(parked.again.unwrap(), ["said"]);
        q.wrote(GET.len());
        assert_eq!(q.forget_reads(|to| *to, |_| true)[0].bytes, "said");
    }

    #[test]
    fn a_hold_takes_back_writes_and_what_their_sessions_sent_behind_them() {
        let mut q = InFlight::default();
        q.push(entry(1, &[INCR]));
        q.push(entry(2, &[GET]));
        q.push(entry(3, &[INCR]));
        q.push(entry(3, &[GET]));
        q.push(entry(4, &[GET]));
        q.wrote(INCR.len());
        let (taken, stuck) = q.take_back(|e| e.effect == Effect::Read, false);
        assert!(!stuck);
        assert_eq!(taken.iter().map(|t| (t.to, t.commands)).collect::<Vec<_>>(), [(3, 1), (3, 1)]);
        assert_eq!(q.unwritten().map(|e| e.to).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(q.entries.len(), 3, "the written one stays owed");
    }

    #[test]
    fn a_command_stuck_in_the_middle_is_taken_back_and_said() {
        let mut q = InFlight::default();
        q.push(entry(1, &[INCR, INCR, INCR]));
        q.wrote(INCR.len() + 4);
        let (taken, stuck) = q.take_back(|_| false, false);
        assert!(stuck);
        assert_eq!((taken[0].commands, taken[0].bytes.as_ref()), (2, [INCR, INCR].concat().as_slice()));
        assert!(!q.has_unwritten());
        assert_eq!(q.pop().unwrap().commands, 1, "the whole one is still owed its reply");
    }

    #[test]
    fn behind_a_stuck_command_nothing_stays_to_be_written() {
        let mut q = InFlight::default();
        q.push(entry(1, &[INCR]));
        q.push(entry(2, &[GET]));
        q.wrote(4);
        let (taken, stuck) = q.take_back(|e| e.effect == Effect::Read, false);
        assert!(stuck);
        assert_eq!(taken.iter().map(|t| t.to).collect::<Vec<_>>(), [1, 2], "the connection writes no more");
        assert!(q.is_empty());
    }

    #[test]
    fn a_batch_answered_as_far_as_it_was_written_leaves_nothing_owed() {
        let mut q = InFlight::default();
        q.push(entry(1, &[INCR, INCR]));
        q.wrote(INCR.len());
        q.front().unwrap().answered = 1;
        let (taken, stuck) = q.take_back(|_| false, false);
        assert!(!stuck && q.is_empty() && !q.has_unwritten());
        assert_eq!(taken[0].commands, 1);
    }
}
