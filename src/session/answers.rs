//! Which values of what `EXEC` answers come of which of its commands. Pure.
//!
//! As a rule there is one for each. But a `SUBSCRIBE` confirms each of its channels, and Redis 7.0 tells a client what it
//! publishes to itself in the middle of its transaction; the length at the head of the reply counts neither. So what lies
//! behind its end belongs to it too, and only the values say how much.

use std::collections::VecDeque;
use std::ops::Range;

use crate::backend::{Frame, Subscriptions};

/// One value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Value {
    /// The command's place among those that were queued.
    pub(super) place: usize,
    /// Where it stands in the whole answer.
    pub(super) span: Range<usize>,
    /// It confirms a subscription, or is a message: its client hears it also with replies turned off.
    pub(super) pushed: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Answers {
    commands: usize,
    /// The commands that change subscriptions: the place of each, and how many confirmations are to come of it, as
    /// [`crate::backend::Answer::Confirmations`] has it.
    subscribing: VecDeque<(usize, u32)>,
    place: usize,
    at: usize,
    values: Vec<Value>,
}

impl Answers {
    /// To so many commands.
    pub(super) fn new(commands: usize, subscribing: VecDeque<(usize, u32)>) -> Self {
        Self { commands, subscribing, place: 0, at: 0, values: Vec::new() }
    }

    /// The head of the array has come, with so many bytes.
    pub(super) fn begin(&mut self, len: usize) {
        self.at = len;
    }

    /// Whether that was so.
    pub(super) fn is_begun(&self) -> bool {
        self.at > 0
    }

    /// Whether every command is answered.
    pub(super) fn is_complete(&self) -> bool {
        self.place == self.commands
    }

    /// What has come, in order.
    pub(super) fn values(&self) -> &[Value] {
        &self.values
    }

    /// The next value.
    pub(super) fn take(&mut self, value: &[u8], subscriptions: &mut Subscriptions) {
        let span = self.at..self.at + value.len();
        self.at = span.end;
        let place = self.place;
        let pushed = match self.subscribing.front_mut().filter(|(at, _)| *at == place) {
            Some((_, left)) => match subscriptions.note(value, true, true) {
                Frame::Confirmation(of) => {
                    *left = subscriptions.left_to_confirm(*left, of);
                    if *left == 0 {
                        self.subscribing.pop_front();
                        self.place += 1;
                    }
                    true
                }
                Frame::Push => true,
                // It was refused.
                Frame::Reply => {
                    self.subscribing.pop_front();
                    self.place += 1;
                    false
                }
            },
            None if subscriptions.is_message(value) => true,
            None => {
                self.place += 1;
                false
            }
        };
        self.values.push(Value { place, span, pushed });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(commands: usize, subscribing: &[(usize, u32)], values: &[&str]) -> (Vec<(usize, bool)>, bool) {
        let mut answers = Answers::new(commands, subscribing.iter().copied().collect());
        let mut subscriptions = Subscriptions::default();
        answers.begin(4);
        values.iter().for_each(|value| answers.take(value.as_bytes(), &mut subscriptions));
        assert_eq!(answers.values().first().map(|v| v.span.start), (!values.is_empty()).then_some(4));
        (answers.values().iter().map(|v| (v.place, v.pushed)).collect(), answers.is_complete())
    }

    const A: &str = "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n";
    const B: &str = "*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n";
    const MESSAGE: &str = "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n";

    #[test]
    fn every_channel_is_confirmed_and_messages_answer_nothing() {
        assert_eq!(places(0, &[], &[]), (vec![], true));
        assert_eq!(places(2, &[], &[":1\r\n"]), (vec![(0, false)], false));
        let all = [A, B, MESSAGE, ":1\r\n"];
        let expected = vec![(0, true), (0, true), (1, true), (1, false)];
        assert_eq!(places(2, &[(0, 2)], &all), (expected, true));
        assert_eq!(
            places(1, &[], &[MESSAGE]),
            (vec![(0, false)], true),
            "a list, of one who has subscribed to nothing"
        );
        let pushes = all.map(|value| value.replace("*3", ">3"));
        let pushes: Vec<&str> = pushes.iter().map(String::as_str).collect();
        assert_eq!(places(2, &[(0, 2)], &pushes), (vec![(0, true), (0, true), (1, true), (1, false)], true));
    }

    #[test]
    fn one_that_is_refused_answers_once_and_one_that_names_nothing_until_nothing_is_left() {
        assert_eq!(places(2, &[(0, 2)], &["-NOPERM\r\n", ":1\r\n"]), (vec![(0, false), (1, false)], true));
        let [no_b, no_a] = ["b", "a"].map(|c| format!("*3\r\n$11\r\nunsubscribe\r\n$1\r\n{c}\r\n:0\r\n"));
        let all = (vec![(0, true), (0, true), (1, true), (1, true), (2, false)], true);
        assert_eq!(places(3, &[(0, 2), (1, u32::MAX)], &[A, B, &no_b, &no_a, "+OK\r\n"]), all);
        let none = "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n";
        assert_eq!(places(2, &[(0, u32::MAX)], &[none, "+OK\r\n"]), (vec![(0, true), (1, false)], true));
    }
}
