//! What is counted of hooks: written by their thread, read at scrape time.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Counter, Family, names};

/// The counts of one hook.
#[derive(Debug, Default)]
pub struct HookStats {
    /// Events that it was told.
    pub delivered: Counter,
    /// Events that it could not be told.
    pub failed: Counter,
    /// Events that gave way to newer ones.
    pub dropped: Counter,
    /// Attempts after the first.
    pub retries: Counter,
    /// Events that wait now, the one that is being told included.
    pub waiting: Counter,
}

/// A hook's name, and its counts.
pub type NamedStats = (Arc<str>, Arc<HookStats>);

/// The counts of the hooks that there are. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct HookCounts(Arc<Mutex<Vec<NamedStats>>>);

impl HookCounts {
    /// These are there from now on, and no others.
    pub fn set(&self, hooks: Vec<NamedStats>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = hooks;
    }

    /// As metric families.
    pub fn families(&self) -> [Family; 3] {
        let mut deliveries = Family::new(names::HOOK_DELIVERIES);
        let mut retries = Family::new(names::HOOK_RETRIES);
        let mut waiting = Family::new(names::HOOK_EVENTS_WAITING);
        for (name, stats) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let results = [("delivered", &stats.delivered), ("failed", &stats.failed), ("dropped", &stats.dropped)];
            for (result, count) in results {
                deliveries.add(&[name, result], count.value() as f64);
            }
            retries.add(&[name], stats.retries.value() as f64);
            waiting.add(&[name], stats.waiting.value() as f64);
        }
        [deliveries, retries, waiting]
    }
}
