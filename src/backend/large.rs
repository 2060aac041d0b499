//! Commands whose reply was large the last time. On a connection that others share they would wait behind it again; so they
//! go where they keep nobody waiting but each other.

use std::cell::{Cell, RefCell};
use std::hash::{DefaultHasher, Hash, Hasher};

/// A reply from this size on keeps others waiting for about a millisecond, on a fast network.
pub(super) const LARGE: usize = 1 << 20;
/// Commands remembered. Few values are large, and of a thousand that are it is enough to know those asked for most.
const SLOTS: usize = 256;
/// Bytes of a command that tell it from others.
const TELLING: usize = 1024;

/// See the module. Each command has one place, that of its hash; there the newest is remembered.
#[derive(Debug)]
pub struct LargeReplies {
    hashes: RefCell<[u64; SLOTS]>,
    any: Cell<bool>,
}

impl Default for LargeReplies {
    fn default() -> Self {
        Self { hashes: RefCell::new([0; SLOTS]), any: Cell::new(false) }
    }
}

impl LargeReplies {
    /// The reply to this command is large.
    pub(super) fn remember(&self, command: &[u8]) {
        let hash = hash(command);
        self.hashes.borrow_mut()[hash as usize % SLOTS] = hash;
        self.any.set(true);
    }

    /// Whether it was, the last time. One that is taken for another goes a way on which it may wait longer, no more.
    pub fn expects(&self, command: &[u8]) -> bool {
        if !self.any.get() {
            return false;
        }
        let hash = hash(command);
        self.hashes.borrow()[hash as usize % SLOTS] == hash
    }
}

fn hash(command: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (command.len(), &command[..command.len().min(TELLING)]).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_large_is_expected_to_be_and_nothing_else() {
        let large = LargeReplies::default();
        let command = |i: usize| crate::resp::encode_command(&["GET", &i.to_string()]);
        assert!(!large.expects(&command(0)));
        (0..10 * SLOTS).for_each(|i| large.remember(&command(i)));
        assert!(large.expects(&command(10 * SLOTS - 1)), "the newest is remembered");
        let remembered = (0..10 * SLOTS).filter(|i| large.expects(&command(*i))).count();
        assert!((SLOTS / 2..=SLOTS).contains(&remembered), "{remembered}");
        assert!((10 * SLOTS..100 * SLOTS).all(|i| !large.expects(&command(i))));
    }
}
