//! The clock of leases and failovers: milliseconds that go on counting while the machine is suspended.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A point on the boot clock, in milliseconds.
///
/// `CLOCK_BOOTTIME` counts suspension, which `CLOCK_MONOTONIC` (and so `tokio::time::Instant`) does not: a permission
/// given before a virtual machine was paused must be found expired when it wakes. A plain value, so that the pure
/// machines take it as an argument and tests make their own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// Later than every other.
    pub const MAX: Self = Self(u64::MAX);

    /// The present moment.
    pub fn now() -> Self {
        let t = clock_gettime(ClockId::Boottime);
        Self(t.tv_sec as u64 * 1000 + t.tv_nsec as u64 / 1_000_000)
    }

    /// How long `earlier` lies back; zero if it does not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Moment {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}
