//! How much a failover lost, as far as anybody can tell.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much of the replication stream the promoted node had not received.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "known", content = "bytes")]
pub enum OffsetLost {
    /// So many bytes of what the old master had executed once writes were held; 0: nothing of ours is lost.
    Exact(u64),
    /// At most so many: the promoted node may have received more after it was last asked.
    AtMost(u64),
    /// At least so many: the old master may have executed more after it was last asked.
    AtLeast(u64),
    /// Both bounds are known. The old master came back, and what it had executed by then was not all acknowledged before.
    Between {
        /// What it had said that it had when it went away.
        at_least: u64,
        /// What it had when it came back.
        at_most: u64,
    },
    /// The old master or the promoted node could not be asked in time.
    Unknown,
}

impl OffsetLost {
    /// The old master had got to `known` at least, the promoted node to `shared`.
    pub(super) fn at_least(known: u64, shared: u64) -> Self {
        match known.saturating_sub(shared) {
            0 => Self::Unknown,
            n => Self::AtLeast(n),
        }
    }

    /// The same as known now, but the old master had got to `last` at most.
    pub(super) fn at_most(self, last: u64, shared: u64) -> Self {
        let most = last.saturating_sub(shared);
        match self.bounds() {
            (least, _) if most <= least => Self::Exact(most),
            (0, _) => Self::AtMost(most),
            (at_least, _) => Self::Between { at_least, at_most: most },
        }
    }

    /// The same as known now, but the old master had got to `known` at least.
    pub(super) fn or_more(self, known: u64, shared: u64) -> Self {
        match (self, known.saturating_sub(shared)) {
            (Self::Unknown, n) if n > 0 => Self::AtLeast(n),
            (Self::AtLeast(before), n) => Self::AtLeast(before.max(n)),
            _ => self,
        }
    }

    /// How many bytes are lost at least, and at most if that is known.
    pub fn bounds(self) -> (u64, Option<u64>) {
        match self {
            Self::Exact(n) => (n, Some(n)),
            Self::AtMost(n) => (0, Some(n)),
            Self::AtLeast(n) => (n, None),
            Self::Between { at_least, at_most } => (at_least, Some(at_most)),
            Self::Unknown => (0, None),
        }
    }

    /// Whether something is lost for certain.
    pub fn is_certain(self) -> bool {
        self.bounds().0 > 0
    }
}

impl fmt::Display for OffsetLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(0) => f.write_str("nothing lost"),
            Self::Exact(n) => write!(f, "{n} bytes of the replication stream lost"),
            Self::AtMost(n) => write!(f, "at most {n} bytes of the replication stream lost"),
            Self::AtLeast(n) => write!(f, "at least {n} bytes of the replication stream lost"),
            Self::Between { at_least, at_most } => {
                write!(f, "between {at_least} and {at_most} bytes of the replication stream lost")
            }
            Self::Unknown => f.write_str("loss unknown"),
        }
    }
}
