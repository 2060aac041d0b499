//! So many a second, and no more than that at once.

use std::time::Duration;

use tokio::time::Instant;

/// A rate as it is kept: each event moves a mark on by its share of a second, and the mark may be a second ahead of the
/// clock (GCRA).
#[derive(Debug, Default)]
pub struct Rate(Option<Instant>);

impl Rate {
    /// One has come: how long to wait for the next, if there may be so many a second.
    pub fn pause(&mut self, per_second: u32, now: Instant) -> Duration {
        let share = Duration::from_secs(1) / per_second.max(1);
        let mark = self.0.map_or(now, |mark| mark.max(now)) + share;
        self.0 = Some(mark);
        (mark.duration_since(now) + share).saturating_sub(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_no_more_than_its_number() {
        let begin = Instant::now();
        for per_second in [1, 3, 100] {
            let mut rate = Rate::default();
            let mut now = begin;
            let mut came = Vec::new();
            while now < begin + Duration::from_secs(4) {
                came.push(now);
                now += rate.pause(per_second, now);
            }
            assert_eq!(came.iter().filter(|at| **at == begin).count(), per_second as usize, "at once");
            for second in 1..3 {
                let from = begin + Duration::from_secs(second);
                let n = came.iter().filter(|at| **at > from && **at <= from + Duration::from_secs(1)).count();
                assert!(n <= per_second as usize + 1, "{n} in second {second} of {per_second}");
                assert!(n + 1 >= per_second as usize, "{n} in second {second} of {per_second}");
            }
        }
    }

    #[test]
    fn quiet_is_not_saved_up_for_longer_than_a_second() {
        let begin = Instant::now();
        let mut rate = Rate::default();
        let later = begin + Duration::from_secs(3600);
        assert_eq!(rate.pause(2, later), Duration::ZERO);
        assert_eq!(rate.pause(2, later), Duration::from_millis(500));
    }
}
