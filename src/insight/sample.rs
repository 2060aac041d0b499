//! A sample of the commands of a service: which keys they are about. Each worker looks at one of so many commands for as
//! long as it is taken; then what they have seen is added up.

use std::hash::RandomState;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::sketch::Sketch;
use super::{Insight, lock};
use crate::resp::{args, keys, lookup, printable, split};

/// Longest time that a sample is taken for.
pub const MAX_FOR: Duration = Duration::from_secs(30);
/// Most keys that are told.
pub const MAX_TOP: usize = 500;
/// Keys that each worker keeps count of for certain; twice as many at times.
const ROOM: usize = 1000;
/// Bytes of a key that are kept.
const KEY_BYTES: usize = 128;
/// Keys of one command that are counted.
const KEYS_OF_ONE: usize = 64;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// One of how many commands is looked at, on average; not 0.
    pub one_in: u32,
    /// Decides which.
    pub seed: u64,
}

/// What one worker has seen.
#[derive(Debug)]
pub(super) struct Sample {
    one_in: u32,
    /// Commands to pass before the next one is looked at. Drawn each time, since clients have rhythms: of one that sends
    /// ten commands over and over, every tenth is the same.
    left: u32,
    random: fastrand::Rng,
    /// Commands that have passed.
    passed: u64,
    looked_at: u64,
    /// Of these, how many have no key.
    keyless: u64,
    sketch: Sketch,
}

impl Sample {
    fn new(wanted: Wanted, worker: usize, hasher: RandomState) -> Self {
        let random = fastrand::Rng::with_seed(wanted.seed.wrapping_add(worker as u64));
        let sketch = Sketch::new(ROOM, KEY_BYTES, hasher);
        let mut sample =
            Self { one_in: wanted.one_in.max(1), left: 0, random, passed: 0, looked_at: 0, keyless: 0, sketch };
        sample.draw();
        sample
    }

    /// On average one less than `one_in`.
    fn draw(&mut self) {
        self.left = self.random.u32(0..=2 * (self.one_in - 1));
    }

    /// Consecutive commands pass.
    pub(super) fn pass(&mut self, database: u32, batch: &[u8], commands: u32) {
        self.passed += u64::from(commands);
        let mut rest = commands;
        if rest <= self.left {
            self.left -= rest;
            return;
        }
        let mut frames = split(batch);
        while rest > self.left {
            rest -= self.left + 1;
            // `nth` counts from 0.
            let Some(frame) = frames.nth(self.left as usize) else { break };
            self.look_at(database, frame);
            self.draw();
        }
        self.left = self.left.saturating_sub(rest);
    }

    fn look_at(&mut self, database: u32, frame: &[u8]) {
        self.looked_at += 1;
        let is_read = args(frame).next().is_some_and(|name| lookup(name).info().readonly);
        let keys = keys(frame, KEYS_OF_ONE);
        self.keyless += u64::from(keys.is_empty());
        for key in keys {
            self.sketch.add((database, key), is_read);
        }
    }
}

/// A sample that is being taken. Ends when it is dropped.
#[derive(Debug)]
pub struct Sampling {
    insight: Insight,
}

impl Insight {
    /// Begins to take a sample. None: another one is being taken.
    pub fn begin_sampling(&self, wanted: Wanted) -> Option<Sampling> {
        if self.taken.swap(true, Ordering::Relaxed) {
            return None;
        }
        // Not until all have the means, and one after the other: a little sooner on one worker than on another is no harm.
        let hasher = RandomState::new();
        for (number, seen) in self.workers.iter().enumerate() {
            *lock(&seen.sample) = Some(Sample::new(wanted, number, hasher.clone()));
            seen.one_in.store(wanted.one_in.max(1), Ordering::Relaxed);
        }
        Some(Sampling { insight: self.clone() })
    }
}

impl Sampling {
    /// Ends it: the `top` keys. It has lasted so long.
    pub fn end(self, top: usize, lasted: Duration) -> HotKeys {
        let samples = self.insight.workers.iter().filter_map(|seen| {
            seen.one_in.store(0, Ordering::Relaxed);
            lock(&seen.sample).take()
        });
        let whole = samples.reduce(|mut whole, part| {
            whole.passed += part.passed;
            whole.looked_at += part.looked_at;
            whole.keyless += part.keyless;
            whole.sketch.merge(part.sketch);
            whole
        });
        whole.map(|whole| HotKeys::of(&whole, top, lasted)).unwrap_or_default()
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        for seen in self.insight.workers.iter() {
            seen.one_in.store(0, Ordering::Relaxed);
            *lock(&seen.sample) = None;
        }
        self.insight.taken.store(false, Ordering::Relaxed);
    }
}

/// What a sample says.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct HotKeys {
    /// How long it was taken.
    pub seconds: f64,
    /// Commands that were sent to servers in that time.
    pub commands: u64,
    /// One of how many was looked at, on average.
    pub one_in: u32,
    /// How many were.
    pub looked_at: u64,
    /// How many of these have no key.
    pub keyless: u64,
    /// How often a key may have been seen in them and not be told here, or have been seen beyond what its share says.
    pub unseen: u64,
    /// The keys, the hottest first.
    pub keys: Vec<HotKey>,
}

/// One key of a sample.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HotKey {
    /// Its beginning, for people: not printable bytes are spelt out.
    pub key: String,
    /// Bytes of the whole key.
    pub key_bytes: usize,
    /// Its database.
    pub database: u32,
    /// Which part of all commands is about it, 0 to 1, as seen.
    pub share: f64,
    /// The same at least, and at most, by the laws of chance in 95 of 100 samples.
    pub share_at_least: f64,
    /// See there.
    pub share_at_most: f64,
    /// Commands in a second that are about it.
    pub per_second: f64,
    /// Which part of these only reads, 0 to 1.
    pub reads: f64,
}

impl HotKeys {
    fn of(sample: &Sample, top: usize, lasted: Duration) -> Self {
        let (looked_at, seconds) = (sample.looked_at as f64, lasted.as_secs_f64());
        let lost = sample.sketch.lost();
        let rate = if seconds > 0.0 { sample.passed as f64 / seconds } else { 0.0 };
        let keys = sample.sketch.top(top).into_iter().map(|(database, tally)| {
            let share = tally.count as f64 / looked_at;
            HotKey {
                // There may be more of the key than was kept.
                key: printable(&tally.beginning, KEY_BYTES) + if tally.len > KEY_BYTES { "…" } else { "" },
                key_bytes: tally.len,
                database,
                share,
                share_at_least: interval(tally.count, sample.looked_at).0,
                share_at_most: interval(tally.count + lost, sample.looked_at).1,
                per_second: share * rate,
                reads: tally.reads as f64 / (tally.reads + tally.writes).max(1) as f64,
            }
        });
        Self {
            seconds,
            commands: sample.passed,
            one_in: sample.one_in,
            looked_at: sample.looked_at,
            keyless: sample.keyless,
            unseen: lost,
            keys: keys.collect(),
        }
    }
}

/// Between what the share of all is if `count` of `of` were such: Wilson's interval of 95 %. (A command that names a key
/// twice is counted twice; so there may be more than there are commands.)
fn interval(count: u64, of: u64) -> (f64, f64) {
    const Z: f64 = 1.96;
    if of == 0 {
        return (0.0, 1.0);
    }
    let (n, p) = (of as f64, (count as f64 / of as f64).min(1.0));
    let middle = p + Z * Z / (2.0 * n);
    let width = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (((middle - width) / scale).max(0.0), ((middle + width) / scale).min(1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resp::encode_command;

    const ALL: Wanted = Wanted { one_in: 1, seed: 1 };

    fn batch(commands: &[&str]) -> Vec<u8> {
        commands.iter().flat_map(|c| encode_command(&c.split(' ').collect::<Vec<_>>())).collect()
    }

    #[test]
    fn shares_rates_and_reads_are_as_they_were() {
        let insight = Insight::new(2);
        let sampling = insight.begin_sampling(ALL).unwrap();
        assert!(insight.begin_sampling(ALL).is_none(), "one at a time");
        assert!(insight.workers().iter().all(|seen| seen.is_sampling()));
        let [one, two] = insight.workers() else { panic!("two workers") };
        one.sample(0, &batch(&["GET a", "SET a 1", "GET b", "PING"]), 4);
        two.sample(0, &batch(&["MGET a b", "GET a"]), 2);
        two.sample(3, &batch(&["GET a", "GET c"]), 2);
        let hot = sampling.end(3, Duration::from_secs(2));
        assert_eq!((hot.commands, hot.looked_at, hot.keyless, hot.unseen, hot.seconds), (8, 8, 1, 0, 2.0));
        let told: Vec<_> = hot.keys.iter().map(|k| (&*k.key, k.database, k.share, k.per_second, k.reads)).collect();
        assert_eq!(told, [("a", 0, 0.5, 2.0, 0.75), ("b", 0, 0.25, 1.0, 1.0), ("a", 3, 0.125, 0.5, 1.0)]);
        assert!(hot.keys.iter().all(|k| k.share_at_least < k.share && k.share < k.share_at_most));
        assert!(insight.workers().iter().all(|seen| !seen.is_sampling()));
        assert!(insight.begin_sampling(ALL).is_some(), "the next one");
    }

    #[test]
    fn who_leaves_ends_it() {
        let insight = Insight::new(1);
        drop(insight.begin_sampling(ALL));
        assert!(!insight.workers()[0].is_sampling());
        assert!(lock(&insight.workers()[0].sample).is_none());
        insight.workers()[0].sample(0, &batch(&["GET a"]), 1);
        let nothing = insight.begin_sampling(ALL).unwrap().end(9, Duration::ZERO);
        assert_eq!((nothing.commands, nothing.keys.len()), (0, 0));
    }

    #[test]
    fn every_tenth_of_a_client_with_a_rhythm_of_ten_is_not_always_the_same() {
        let mut sample = Sample::new(Wanted { one_in: 10, seed: 7 }, 0, RandomState::new());
        let commands: Vec<String> = (0..10).map(|i| format!("GET {i}")).collect();
        let rhythm = batch(&commands.iter().map(String::as_str).collect::<Vec<_>>());
        for _ in 0..10_000 {
            sample.pass(0, &rhythm, 10);
        }
        let hot = HotKeys::of(&sample, 99, Duration::from_secs(1));
        assert_eq!((hot.commands, hot.keys.len()), (100_000, 10));
        assert!((9_500..10_500).contains(&hot.looked_at), "{}", hot.looked_at);
        for key in &hot.keys {
            // 1,000 looks each, or a tenth; four times the standard deviation.
            assert!((key.share - 0.1).abs() < 0.038, "{key:?}");
            assert!((key.per_second - 10_000.0).abs() < 3_800.0, "{key:?}");
        }
    }

    proptest! {
        /// However the commands are cut into batches, what passes is counted, and the same commands are looked at.
        #[test]
        fn batches_make_no_difference(cuts in prop::collection::vec(1usize..9, 1..40), one_in in 1u32..9, seed: u64) {
            let commands: Vec<String> = (0..cuts.iter().sum()).map(|i: usize| format!("GET {i}")).collect();
            let frames: Vec<Vec<u8>> = commands.iter().map(|c| batch(&[c])).collect();
            let hasher = RandomState::new();
            let new = || Sample::new(Wanted { one_in, seed }, 0, hasher.clone());
            let (mut apart, mut together) = (new(), new());
            frames.iter().for_each(|frame| apart.pass(0, frame, 1));
            let mut rest = &frames[..];
            for cut in cuts {
                let (now, later) = rest.split_at(cut);
                together.pass(0, &now.concat(), cut as u32);
                rest = later;
            }
            let told = |sample: &Sample| HotKeys::of(sample, 999, Duration::from_secs(1));
            prop_assert_eq!(told(&apart), told(&together));
            prop_assert_eq!(told(&apart).commands, frames.len() as u64);
        }
    }

    #[test]
    fn long_keys_and_odd_ones_are_shown_within_bounds() {
        let insight = Insight::new(1);
        let sampling = insight.begin_sampling(ALL).unwrap();
        insight.workers()[0].sample(0, &encode_command(&[&b"GET"[..], &[b'k'; 5000]]), 1);
        insight.workers()[0].sample(0, &encode_command(&[&b"SET"[..], b"\x1b[2J\xff", b""]), 1);
        let hot = sampling.end(9, Duration::from_secs(1));
        let mut told: Vec<_> = hot.keys.iter().map(|k| (k.key.clone(), k.key_bytes, k.reads)).collect();
        told.sort_unstable_by_key(|(_, len, _)| *len);
        assert_eq!(told[0], ("\\u{1b}[2J\\xff".to_owned(), 5, 0.0));
        assert_eq!(told[1], ("k".repeat(KEY_BYTES) + "…", 5000, 1.0));
    }
}
