//! The keys that come most often in a stream, in bounded memory. Pure.
//!
//! The algorithm of Misra and Gries (1982), in the form that takes off the median of twice the counters at once and so
//! needs no order among them (Anderson et al., "A High-Performance Algorithm for Identifying Frequent Items in Data
//! Streams", 2017; `ItemsSketch` of Apache DataSketches). Counts are never too high, and too low by [`Sketch::lost`] at
//! most, which is at most the length of the stream divided by `room + 1`. Sketches of parts of a stream add up.

use std::collections::HashMap;
use std::hash::RandomState;

/// What is counted of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Tally {
    /// The beginning of the key.
    pub(super) beginning: Box<[u8]>,
    /// Bytes of all of it.
    pub(super) len: usize,
    /// How often it came, less what was taken off: too low by [`Sketch::lost`] at most.
    pub(super) count: u64,
    /// Reads of it since it was last taken up, nothing taken off.
    pub(super) reads: u64,
    /// The same of writes.
    pub(super) writes: u64,
}

/// A key in its database.
pub(super) type Place<'a> = (u32, &'a [u8]);

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Sketch {
    /// Keys that are kept for certain.
    room: usize,
    /// Bytes of a key that are kept.
    key_bytes: usize,
    /// Two keys are the same if database and hash are: of some thousand keys, two with one hash of 64 bits do not occur.
    hasher: RandomState,
    tallies: HashMap<(u32, u64), Tally>,
    lost: u64,
}

impl Sketch {
    /// For the `room` keys that come most often, of each of which so many bytes are kept. Sketches that are to be merged
    /// have the same hasher.
    pub(super) fn new(room: usize, key_bytes: usize, hasher: RandomState) -> Self {
        Self { room: room.max(1), key_bytes, hasher, tallies: HashMap::new(), lost: 0 }
    }

    /// How much each count may be too low.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// A key came.
    pub(super) fn add(&mut self, (database, key): Place<'_>, is_read: bool) {
        use std::hash::BuildHasher;
        let beginning = &key[..key.len().min(self.key_bytes)];
        let tally = self.tallies.entry((database, self.hasher.hash_one(key))).or_insert_with(|| Tally {
            beginning: beginning.into(),
            len: key.len(),
            count: 0,
            reads: 0,
            writes: 0,
        });
        tally.count += 1;
        *(if is_read { &mut tally.reads } else { &mut tally.writes }) += 1;
        self.shrink();
    }

    /// What another sketch has seen came here too.
    pub(super) fn merge(&mut self, other: Self) {
        self.lost += other.lost;
        for (place, theirs) in other.tallies {
            match self.tallies.get_mut(&place) {
                Some(tally) => {
                    tally.count += theirs.count;
                    tally.reads += theirs.reads;
                    tally.writes += theirs.writes;
                }
                None => drop(self.tallies.insert(place, theirs)),
            }
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        if self.tallies.len() <= 2 * self.room {
            return;
        }
        let mut counts: Vec<u64> = self.tallies.values().map(|tally| tally.count).collect();
        let (_, &mut median, _) = counts.select_nth_unstable_by(self.room, |a, b| b.cmp(a));
        self.tallies.retain(|_, tally| {
            tally.count = tally.count.saturating_sub(median);
            tally.count > 0
        });
        self.lost += median;
    }

    /// The keys that came most often, each with its database.
    pub(super) fn top(&self, most: usize) -> Vec<(u32, &Tally)> {
        let mut all: Vec<_> = self.tallies.iter().map(|((database, _), tally)| (*database, tally)).collect();
        // The second, so that equal ones stand in one order whatever the hashes are.
        all.sort_by(|(_, a), (_, b)| b.count.cmp(&a.count).then_with(|| a.beginning.cmp(&b.beginning)));
        all.truncate(most);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn sketch(room: usize) -> Sketch {
        Sketch::new(room, 8, RandomState::new())
    }

    fn add_all(sketch: &mut Sketch, stream: &[u16]) {
        for key in stream {
            sketch.add((u32::from(key % 2), key.to_string().as_bytes()), key % 3 == 0);
        }
    }

    fn check(sketch: &Sketch, stream: &[u16]) -> Result<(), TestCaseError> {
        let mut truth: BTreeMap<String, u64> = BTreeMap::new();
        stream.iter().for_each(|key| *truth.entry(key.to_string()).or_default() += 1);
        prop_assert!(sketch.tallies.len() <= 2 * sketch.room);
        prop_assert!(sketch.lost * (sketch.room as u64 + 1) <= stream.len() as u64);
        for (database, tally) in sketch.top(usize::MAX) {
            let key = String::from_utf8(tally.beginning.to_vec()).unwrap();
            let real = truth.remove(&key).unwrap_or_default();
            prop_assert!(tally.count <= real && real <= tally.count + sketch.lost, "{key}: {tally:?}, {real}");
            prop_assert!(tally.count <= tally.reads + tally.writes && tally.reads + tally.writes <= real);
            prop_assert_eq!(u64::from(database), key.parse::<u64>().unwrap() % 2);
        }
        // And what is not kept came so seldom.
        prop_assert!(truth.values().all(|real| *real <= sketch.lost), "{truth:?} with {}", sketch.lost);
        Ok(())
    }

    proptest! {
        #[test]
        fn counts_are_right_within_what_is_told(
            room in 1usize..20,
            // Some keys often, many seldom.
            stream in prop::collection::vec(prop_oneof![0u16..5, 0u16..500], 0..600),
        ) {
            let mut one = sketch(room);
            add_all(&mut one, &stream);
            check(&one, &stream)?;
        }

        #[test]
        fn sketches_of_parts_add_up(
            room in 1usize..20,
            parts in prop::collection::vec(prop::collection::vec(prop_oneof![0u16..5, 0u16..500], 0..200), 1..5),
        ) {
            let mut whole = sketch(room);
            for part in &parts {
                let mut one = Sketch::new(room, 8, whole.hasher.clone());
                add_all(&mut one, part);
                whole.merge(one);
            }
            check(&whole, &parts.concat())?;
        }
    }

    #[test]
    fn long_keys_are_told_apart_by_their_ends() {
        let mut sketch = sketch(4);
        for key in ["prefix:prefix:1", "prefix:prefix:2", "prefix:prefix:1"] {
            sketch.add((0, key.as_bytes()), true);
        }
        let top: Vec<_> = sketch.top(9).into_iter().map(|(_, t)| (&*t.beginning, t.len, t.count)).collect();
        assert_eq!(top, [(&b"prefix:p"[..], 15, 2), (b"prefix:p", 15, 1)]);
    }
}
