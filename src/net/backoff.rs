//! How long to wait before trying again.

use std::time::Duration;

/// Exponential backoff with decorrelated jitter: each delay is drawn between `base` and three times the one before,
/// and is never longer than `cap`.
///
/// The randomness keeps many tasks that lost the same server at the same moment from coming back to it in step. Pure:
/// it holds no timer, and equal seeds give equal delays.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    previous: Duration,
    rng: fastrand::Rng,
}

impl Backoff {
    /// Delays from `base` (not zero) up to `cap`, drawn by a generator with this seed.
    pub fn new(base: Duration, cap: Duration, seed: u64) -> Self {
        Self { base, cap: cap.max(base), previous: base, rng: fastrand::Rng::with_seed(seed) }
    }

    /// The delay before the next try.
    pub fn next_delay(&mut self) -> Duration {
        let low = micros(self.base);
        let high = micros(self.previous).saturating_mul(3).min(micros(self.cap)).max(low);
        self.previous = Duration::from_micros(self.rng.u64(low..=high));
        self.previous
    }

    /// A try succeeded: the next delay is short again.
    pub fn reset(&mut self) {
        self.previous = self.base;
    }
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_millis(50);
    const CAP: Duration = Duration::from_secs(1);

    #[test]
    fn delays_stay_between_base_and_cap_and_reach_the_cap() {
        for seed in 0..100 {
            let mut backoff = Backoff::new(BASE, CAP, seed);
            let delays: Vec<_> = (0..200).map(|_| backoff.next_delay()).collect();
            assert!(delays.iter().all(|d| (BASE..=CAP).contains(d)), "{delays:?}");
            assert!(delays[0] <= BASE * 3, "{delays:?}");
            assert!(delays.iter().any(|d| *d > CAP * 3 / 4), "grows: {delays:?}");
        }
    }

    #[test]
    fn reset_makes_the_next_delay_short() {
        let mut backoff = Backoff::new(BASE, CAP, 7);
        for _ in 0..50 {
            backoff.next_delay();
        }
        backoff.reset();
        assert!(backoff.next_delay() <= BASE * 3);
    }

    #[test]
    fn equal_seeds_are_equal_and_others_differ() {
        let draw = |seed| {
            let mut backoff = Backoff::new(BASE, CAP, seed);
            (0..10).map(|_| backoff.next_delay()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn a_cap_below_the_base_is_the_base() {
        let mut backoff = Backoff::new(BASE, Duration::ZERO, 1);
        assert_eq!(backoff.next_delay(), BASE);
    }
}
