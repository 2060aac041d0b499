//! What a connection is subscribed to, as its confirmations say. Pure.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::resp::{Value, args, decode, encode_command};

/// What a frame on a connection of a subscriber is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame {
    /// The answer to a command.
    Reply,
    /// Confirms one channel of a (un)subscribe command.
    Confirmation(Kind),
    /// Answers nothing: a message, an invalidation.
    Push,
}

/// The three kinds of subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `SUBSCRIBE`.
    Channel,
    /// `PSUBSCRIBE`.
    Pattern,
    /// `SSUBSCRIBE`.
    Shard,
}

/// Channels, patterns and shard channels that were confirmed and not revoked.
#[derive(Default, Debug)]
pub struct Subscriptions {
    sets: [BTreeSet<Bytes>; 3],
    /// Confirmations come as RESP3 pushes, and so do messages: an array is always a reply.
    pushes: bool,
}

impl Subscriptions {
    /// Whether nothing is subscribed.
    pub fn is_empty(&self) -> bool {
        self.sets.iter().all(BTreeSet::is_empty)
    }

    /// Whether a message may come as an array (RESP2).
    pub(super) fn may_be_array(&self) -> bool {
        !self.pushes && !self.is_empty()
    }

    /// Whether nothing of one kind is subscribed.
    pub fn is_empty_of(&self, kind: Kind) -> bool {
        self.sets[kind as usize].is_empty()
    }

    /// The connection is told to speak RESP2, and nothing else is owed on it: from the answer on, messages are arrays.
    pub fn expect_arrays(&mut self) {
        self.pushes = false;
    }

    /// Tells what a frame is and takes note of confirmations.
    ///
    /// `expected`: a subscribe command is the oldest unanswered one; `owed`: there is an unanswered one. In RESP2 a message is told from a reply by its
    /// shape, which is sure only while something is subscribed (then nothing else but `PING` is answered) or expected; in
    /// RESP3 anything may be answered meanwhile, a list that begins with the word "message" too. Where nothing is to be
    /// answered the server has been told in a transaction to speak RESP2.
    pub fn note(&mut self, frame: &[u8], expected: bool, owed: bool) -> Frame {
        let resp3 = frame.first() == Some(&b'>');
        if !resp3 && (frame.first() != Some(&b'*') || !expected && (self.pushes && owed || self.is_empty())) {
            return Frame::Reply;
        }
        let Some(word) = first_word(frame) else { return if resp3 { Frame::Push } else { Frame::Reply } };
        let (kind, subscribed) = match word {
            b"subscribe" => (Kind::Channel, true),
            b"psubscribe" => (Kind::Pattern, true),
            b"ssubscribe" => (Kind::Shard, true),
            b"unsubscribe" => (Kind::Channel, false),
            b"punsubscribe" => (Kind::Pattern, false),
            b"sunsubscribe" => (Kind::Shard, false),
            b"message" | b"pmessage" | b"smessage" => return Frame::Push,
            _ => return if resp3 { Frame::Push } else { Frame::Reply },
        };
        self.pushes = resp3;
        if let Ok(Value::Array(items) | Value::Push(items)) = decode(frame)
            && let Some(Value::Bulk(name)) = items.into_iter().nth(1)
        {
            // Detached: a name must not keep a read buffer alive for as long as the subscription.
            let name = Bytes::copy_from_slice(&name);
            if subscribed {
                self.sets[kind as usize].insert(name);
            } else {
                self.sets[kind as usize].remove(&name);
            }
        }
        Frame::Confirmation(kind)
    }

    /// How many confirmations are still to come of a command that was to have `left`, and has had one of this kind: an
    /// `UNSUBSCRIBE` that names nothing (`u32::MAX`) confirms every channel there is, or none with a null.
    pub fn left_to_confirm(&self, left: u32, of: Kind) -> u32 {
        match left {
            u32::MAX if self.is_empty_of(of) => 0,
            u32::MAX => u32::MAX,
            left => left.saturating_sub(1),
        }
    }

    /// Whether this, where it may also be the reply to a command that changes no subscription, is a message. In RESP2 a
    /// list that reads like one from a channel that is subscribed is taken for it.
    pub fn is_message(&self, value: &[u8]) -> bool {
        let pushed = value.first() == Some(&b'>');
        let reads_so = || {
            let mut words = args(value);
            let set = match words.next() {
                Some(b"message") => Kind::Channel,
                Some(b"pmessage") => Kind::Pattern,
                Some(b"smessage") => Kind::Shard,
                _ => return false,
            };
            words.next().is_some_and(|name| self.sets[set as usize].contains(name))
        };
        pushed || self.may_be_array() && value.first() == Some(&b'*') && reads_so()
    }

    /// The commands that bring everything back on a new connection, each with its number of confirmations.
    pub fn renewal(&self) -> Vec<(Bytes, u32)> {
        const WORDS: [&[u8]; 3] = [b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE"];
        let sets = WORDS.iter().zip(&self.sets).filter(|(_, set)| !set.is_empty());
        sets.map(|(word, set)| {
            let args: Vec<&[u8]> = std::iter::once(*word).chain(set.iter().map(AsRef::as_ref)).collect();
            (encode_command(&args), set.len() as u32)
        })
        .collect()
    }
}

/// The text of the first element of an array or push, if it is a bulk or simple string.
fn first_word(frame: &[u8]) -> Option<&[u8]> {
    let rest = &frame[memchr::memchr(b'\n', frame)? + 1..];
    let end = memchr::memchr(b'\r', rest)?;
    match rest.first()? {
        b'+' => Some(&rest[1..end]),
        b'$' => {
            let rest = &rest[end + 2..];
            Some(&rest[..memchr::memchr(b'\r', rest)?])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_that_goes_back_to_resp2_is_told_in_arrays() {
        let mut s = Subscriptions::default();
        s.note(b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", true, true);
        let message = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n";
        assert_eq!(s.note(message, false, true), Frame::Reply, "a list with such a beginning");
        s.expect_arrays();
        assert_eq!(s.note(b"*2\r\n$6\r\nserver\r\n$5\r\nredis\r\n", false, true), Frame::Reply, "to HELLO");
        assert_eq!(s.note(message, false, true), Frame::Push);
    }

    #[test]
    fn follows_confirmations_and_renews_what_is_left() {
        let mut s = Subscriptions::default();
        let sub = |s: &mut Subscriptions, f: &[u8]| s.note(f, true, true);
        assert_eq!(sub(&mut s, b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"), Frame::Confirmation(Kind::Channel));
        sub(&mut s, b"*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n");
        sub(&mut s, b"*3\r\n$10\r\npsubscribe\r\n$2\r\nx*\r\n:3\r\n");
        sub(&mut s, b"*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:2\r\n");
        assert_eq!(s.note(b"*3\r\n$7\r\nmessage\r\n$1\r\nb\r\n$2\r\nhi\r\n", false, true), Frame::Push);
        assert_eq!(s.note(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n", false, true), Frame::Reply);
        let renewal = s.renewal();
        assert_eq!(renewal[0], (Bytes::from_static(b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nb\r\n"), 1));
        assert_eq!(renewal.len(), 2);
        assert!(s.is_empty_of(Kind::Shard) && !s.is_empty());
    }

    #[test]
    fn a_subscriber_whose_transaction_goes_back_to_resp2_hears_on() {
        let mut s = Subscriptions::default();
        s.note(b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", true, true);
        let message = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n";
        assert_eq!(s.note(message, false, false), Frame::Push, "nothing is to be answered");
    }

    #[test]
    fn a_resp3_subscriber_may_read_a_list_that_looks_like_a_message() {
        let mut s = Subscriptions::default();
        s.note(b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", true, true);
        for word in ["message", "subscribe", "unsubscribe"] {
            let list = format!("*3\r\n${}\r\n{word}\r\n$1\r\na\r\n$1\r\nx\r\n", word.len());
            assert_eq!(s.note(list.as_bytes(), false, true), Frame::Reply, "{word}");
            assert!(!s.is_message(list.as_bytes()), "{word}");
        }
        assert!(!s.is_empty());
    }

    #[test]
    fn a_subscriber_that_goes_back_to_resp2_is_confirmed() {
        let mut s = Subscriptions::default();
        s.note(b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", true, true);
        let confirmation = b"*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n";
        assert_eq!(s.note(confirmation, true, true), Frame::Confirmation(Kind::Channel));
        assert!(s.is_empty());
    }

    #[test]
    fn a_list_that_looks_like_a_message_is_a_reply_where_nothing_is_subscribed() {
        let mut s = Subscriptions::default();
        assert_eq!(s.note(b"*3\r\n$7\r\nmessage\r\n$1\r\nb\r\n$2\r\nhi\r\n", false, true), Frame::Reply);
        assert_eq!(s.note(b">2\r\n$10\r\ninvalidate\r\n_\r\n", false, true), Frame::Push);
    }
}
