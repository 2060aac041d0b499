//! Sessions that wait for the same thing.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

use crate::net::Signal;

/// Signals to raise, each once, in the order in which their sessions began to wait. After a crash thousands of sessions
/// stand here and ask again and again: to find that one is there already must not take a look at all.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    queue: VecDeque<Rc<Signal>>,
    /// Addresses of those in `queue`, which keeps them from being given to others.
    known: HashSet<*const Signal>,
}

impl Waiters {
    pub(super) fn add(&mut self, waiter: &Rc<Signal>) {
        if self.known.insert(Rc::as_ptr(waiter)) {
            self.queue.push_back(Rc::clone(waiter));
        }
    }

    pub(super) fn forget(&mut self, waiter: &Rc<Signal>) {
        if self.known.remove(&Rc::as_ptr(waiter)) {
            self.queue.retain(|w| !Rc::ptr_eq(w, waiter));
        }
    }

    pub(super) fn wake_one(&mut self) {
        if let Some(waiter) = self.queue.pop_front() {
            self.known.remove(&Rc::as_ptr(&waiter));
            waiter.raise();
        }
    }

    pub(super) fn wake_all(&mut self) {
        self.known.clear();
        for waiter in self.queue.drain(..) {
            waiter.raise();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_waits_once_and_in_order() {
        let signals: Vec<Rc<Signal>> = (0..3).map(|_| Rc::default()).collect();
        let mut waiters = Waiters::default();
        for s in signals.iter().chain(&signals) {
            waiters.add(s);
        }
        assert_eq!(waiters.len(), 3);
        waiters.forget(&signals[0]);
        waiters.wake_one();
        assert_eq!(Rc::strong_count(&signals[1]), 1, "the second was woken and let go");
        waiters.add(&signals[1]);
        waiters.wake_all();
        assert!(waiters.is_empty() && signals.iter().all(|s| Rc::strong_count(s) == 1));
    }
}
