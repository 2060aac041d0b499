//! A look at single commands: those that were slow, and, on demand, which keys they are about. Each worker keeps what it
//! has seen of a service behind locks that nobody takes for a command that is neither slow nor in a sample; whoever asks
//! takes them one after the other.

mod sample;
mod sketch;
mod slow;

pub use sample::{HotKey, HotKeys, MAX_FOR, MAX_TOP, Sampling, Wanted};
pub use slow::{Described, Outcome, SlowCommand, SlowLog, Spent, Waited};

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sample::Sample;

/// What one worker has seen of a service.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Observed {
    /// While a sample is taken, one of how many commands is looked at; else 0.
    one_in: AtomicU32,
    sample: Mutex<Option<Sample>>,
    slow: Mutex<SlowLog>,
}

impl Observed {
    /// Whether commands are to be shown to [`Self::sample`].
    #[inline]
    pub fn is_sampling(&self) -> bool {
        self.one_in.load(Ordering::Relaxed) != 0
    }

    /// Shows consecutive commands of a client that has selected `database`, which are sent to a server now.
    #[cold]
    pub fn sample(&self, database: u32, batch: &[u8], commands: u32) {
        if let Some(sample) = lock(&self.sample).as_mut() {
            sample.pass(database, batch, commands);
        }
    }

    /// Keeps a command that was slow, of those that waited where it did the newest `most`.
    #[cold]
    pub fn keep(&self, command: SlowCommand, most: usize) {
        lock(&self.slow).push(command, most);
    }
}

/// What all workers have seen of a service.
#[derive(Clone, Debug)]
pub struct Insight {
    workers: Arc<[Arc<Observed>]>,
    /// A sample is being taken: one at a time.
    taken: Arc<AtomicBool>,
}

impl Insight {
    /// Nothing yet, of so many workers.
    pub fn new(workers: usize) -> Self {
        Self { workers: (0..workers).map(|_| Arc::default()).collect(), taken: Arc::default() }
    }

    /// By worker.
    pub fn workers(&self) -> &[Arc<Observed>] {
        &self.workers
    }

    /// The slow commands that are kept, the newest first; of those that waited in one place `most`.
    pub fn slow(&self, most: usize) -> Vec<Arc<SlowCommand>> {
        let mut all = SlowLog::default();
        let mut kept: Vec<_> = self.workers.iter().flat_map(|seen| lock(&seen.slow).all()).collect();
        kept.sort_by_key(|command| command.ended);
        kept.into_iter().for_each(|command| all.push(command, most));
        let mut newest = all.all();
        newest.sort_by_key(|command| std::cmp::Reverse(command.ended));
        newest
    }

    /// Forgets them; returns how many there were.
    pub fn forget_slow(&self) -> usize {
        self.workers.iter().map(|seen| std::mem::take(&mut *lock(&seen.slow)).len()).sum()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Where a panic has interrupted somebody, a count is wrong at most.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
