//! Keeping other writers away from the old master by `CLIENT PAUSE`, a slice at a time: should pointsman be killed, the
//! last slice ends by itself.

use std::time::Duration;

use crate::clock::Moment;

/// Longest slice, however patient Sentinel is.
const SLICE_MAX: Duration = Duration::from_secs(1);
/// Longest time for which writers are kept away before the point of no return.
const LIMIT_MAX: Duration = Duration::from_secs(5);

/// A pause of writes that is renewed.
#[derive(Debug)]
pub(super) struct Fence {
    /// Sentinel's own `PUBLISH` is paused as well, and its `PING`s queue behind it: writes must not be paused for
    /// `down-after-milliseconds`, or it takes the master for dead.
    pub(super) slice: Duration,
    limit: Moment,
    /// When the slice was sent that has not been answered.
    sent: Option<Moment>,
    /// When the next one is due.
    next: Moment,
    /// Until when the slices that were answered last. Counted from their sending: never too long.
    until: Option<Moment>,
    /// Between two of them the master may have executed writes.
    broken: bool,
}

/// For how long writers may be kept away from a master.
pub(super) fn limit(down_after: Duration, hold_timeout: Duration) -> Duration {
    (down_after * 3 / 4).min(hold_timeout).min(LIMIT_MAX)
}

impl Fence {
    pub(super) fn new(now: Moment, down_after: Duration, hold_timeout: Duration) -> Self {
        Self {
            slice: (down_after * 2 / 5).min(SLICE_MAX),
            limit: now + limit(down_after, hold_timeout),
            sent: None,
            next: now,
            until: None,
            broken: false,
        }
    }

    /// When it must come down.
    pub(super) fn limit(&self) -> Moment {
        self.limit
    }

    /// Whether a slice is to be sent now.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.sent.is_none() && now >= self.next && now + self.slice <= self.limit
    }

    /// When one will be, if nothing is answered before.
    pub(super) fn due(&self) -> Option<Moment> {
        (self.sent.is_none() && self.next + self.slice <= self.limit).then_some(self.next)
    }

    /// A slice was sent.
    pub(super) fn sent(&mut self, now: Moment) {
        self.sent = Some(now);
        self.next = now + self.slice / 3;
    }

    /// It was answered.
    pub(super) fn answered(&mut self, now: Moment) {
        let Some(sent) = self.sent.take() else { return };
        self.broken |= self.until.is_some_and(|until| now >= until);
        self.until = Some(sent + self.slice);
    }

    /// It was not.
    pub(super) fn failed(&mut self) {
        self.sent = None;
    }

    /// Whether there was a slice.
    pub(super) fn is_up(&self) -> bool {
        self.until.is_some()
    }

    /// Whether no write can have run since the first slice was answered.
    pub(super) fn holds(&self, now: Moment) -> bool {
        !self.broken && self.until.is_some_and(|until| now < until)
    }
}
