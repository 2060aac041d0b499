//! A histogram with fixed buckets and one writing thread.

use std::time::Duration;

use super::Counter;

/// Upper bounds of the buckets in seconds, as `docs/metrics.md` lists them; one more bucket is +Inf.
pub const BOUNDS: [f64; 15] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

const BOUNDS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000,
];

/// Counts by bucket (not cumulative) and the sum in microseconds.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; 16],
    sum_us: Counter,
}

impl Histogram {
    /// Counts `n` observations of the same duration.
    pub fn observe(&self, d: Duration, n: u64) {
        let us = u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.iter().position(|b| us <= *b).unwrap_or(BOUNDS_US.len());
        self.buckets[bucket].add(n);
        self.sum_us.add(us.saturating_mul(n));
    }

    /// Counts by bucket, not cumulative; the last is +Inf.
    pub fn buckets(&self) -> [u64; 16] {
        std::array::from_fn(|i| self.buckets[i].value())
    }

    /// Sum of all observations in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_us.value() as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_agree_and_are_inclusive() {
        for (s, us) in BOUNDS.iter().zip(BOUNDS_US) {
            assert!((s * 1e6 - us as f64).abs() < 1e-6);
        }
        let h = Histogram::default();
        h.observe(Duration::from_micros(100), 2);
        h.observe(Duration::from_micros(101), 1);
        h.observe(Duration::from_secs(9), 1);
        assert_eq!(h.buckets()[0], 2);
        assert_eq!(h.buckets()[1], 1);
        assert_eq!(h.buckets()[15], 1);
        assert!((h.sum_seconds() - 9.000301).abs() < 1e-9);
    }
}
