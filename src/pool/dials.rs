//! Connects to one place: who waits for them, and what the last failure was.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::waiters::Waiters;
use crate::backend::{DialError, Use};
use crate::net::Signal;

/// Pause after a first failed connect, doubled with each further one, with jitter: sessions of many workers and
/// instances wait for the same node.
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_MOST: Duration = Duration::from_millis(500);

/// The last failure of connects to one place, and how often they failed in a row.
#[derive(Debug, Default)]
pub(super) struct Setback {
    last: Option<(DialError, Instant)>,
    failures: u32,
}

impl Setback {
    /// The last failure, and when to try again, while it is too early to.
    pub(super) fn last(&self, now: Instant) -> Option<(DialError, Instant)> {
        self.last.clone().filter(|(_, retry_at)| now < *retry_at)
    }

    pub(super) fn add(&mut self, error: DialError, now: Instant) {
        let pause = (RETRY_FIRST * 2u32.saturating_pow(self.failures.min(10))).min(RETRY_MOST);
        self.failures += 1;
        self.last = Some((error, now + pause.mul_f64(0.5 + fastrand::f64() / 2.0)));
    }
}

#[derive(Debug, Default)]
pub(super) struct Dials {
    pub(super) running: usize,
    waiters: Waiters,
    setback: Setback,
}

impl Dials {
    pub(super) fn wait(&mut self, waiter: &Rc<Signal>) {
        self.waiters.add(waiter);
    }

    pub(super) fn forget(&mut self, waiter: &Rc<Signal>) {
        self.waiters.forget(waiter);
    }

    /// One shared connection serves all who wait; pinned ones are dialled for each.
    pub(super) fn wants_another(&self, used: Use) -> bool {
        match used {
            Use::Shared | Use::Scripts | Use::Large => self.running == 0,
            Use::Pinned => self.running < self.waiters.len(),
        }
    }

    /// The last failure, while it is too early to try again.
    pub(super) fn failed(&self, now: Instant) -> Option<(DialError, Instant)> {
        self.setback.last(now)
    }

    pub(super) fn fail(&mut self, error: DialError, now: Instant) {
        self.setback.add(error, now);
    }

    pub(super) fn succeeded(&mut self) {
        self.setback = Setback::default();
    }

    /// The topology has changed: what failed may succeed.
    pub(super) fn forgive(&mut self) {
        self.succeeded();
        self.wake_all();
    }

    pub(super) fn wake_one(&mut self) {
        self.waiters.wake_one();
    }

    pub(super) fn wake_all(&mut self) {
        self.waiters.wake_all();
    }

    /// Sessions that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Sessions that wait while nothing is on its way to them.
    pub(super) fn idle_waiters(&self) -> usize {
        if self.running == 0 { self.waiters.len() } else { 0 }
    }

    /// Nothing to remember.
    pub(super) fn is_done(&self) -> bool {
        self.running == 0 && self.waiters.is_empty() && self.failed(Instant::now()).is_none()
    }
}
