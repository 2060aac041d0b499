//! What a client has been told of its writes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use pointsman::resp::Value;
use tokio::time::Instant;

/// Room for the counts of one client. Every client's counter begins at a multiple of its own, so that a count says
/// whose it is.
const RANGE: u64 = 1_000_000_000_000;

/// An acknowledged write that is not there any more: `kill -9` may take what a master answered and had not yet handed to
/// its replicas, and nothing else may.
#[derive(Clone, Copy, Debug)]
pub struct Setback {
    /// Acknowledged writes that are gone, at least.
    pub missing: u64,
    /// When the last of them was acknowledged.
    pub acknowledged_at: Instant,
    /// When its loss was seen.
    pub seen_at: Instant,
}

impl Setback {
    fn new(missing: u64, acknowledged_at: Instant) -> Self {
        Self { missing, acknowledged_at, seen_at: Instant::now() }
    }
}

/// Who raised the counter that all share to which number, and when. No number comes twice unless it was lost.
pub type Raised = Arc<Mutex<HashMap<u64, Instant>>>;

/// See the module.
#[derive(Debug)]
pub struct Book {
    base: u64,
    last: (u64, Instant),
    raised: Raised,
    pops: HashMap<Vec<u8>, Instant>,
    pub acknowledged: u64,
    pub unknown: u64,
    pub shared_acknowledged: u64,
    pub shared_unknown: u64,
    pub setbacks: Vec<Setback>,
    pub replies: u64,
    pub refused: u64,
    pub closed: u64,
}

impl Book {
    pub fn new(id: usize, raised: Raised) -> Self {
        let base = Self::base(id);
        Self {
            base,
            last: (base, Instant::now()),
            raised,
            pops: HashMap::new(),
            acknowledged: 0,
            unknown: 0,
            shared_acknowledged: 0,
            shared_unknown: 0,
            setbacks: Vec::new(),
            replies: 0,
            refused: 0,
            closed: 0,
        }
    }

    /// What a client's counter is set to before it begins.
    pub fn base(id: usize) -> u64 {
        (id as u64 + 1) * RANGE
    }

    /// The own counter was raised to `n`.
    pub fn counted(&mut self, n: i64) -> Result<(), String> {
        let n = u64::try_from(n).ok().filter(|n| (self.base..self.base + RANGE).contains(n));
        let n = n.ok_or("a count of somebody else")?;
        let (last, at) = self.last;
        if n <= last {
            self.setbacks.push(Setback::new(last + 1 - n, at));
        }
        self.last = (n, Instant::now());
        self.acknowledged += 1;
        self.at_most(n)
    }

    fn at_most(&self, n: u64) -> Result<(), String> {
        let most = self.base + self.acknowledged + self.unknown;
        if n > most { Err(format!("{n} where {most} is the most that can have run: one ran twice")) } else { Ok(()) }
    }

    /// The counter that all share was raised to `n`.
    pub fn raised(&mut self, n: u64) -> Result<(), String> {
        self.shared_acknowledged += 1;
        let before = self.raised.lock().unwrap().insert(n, Instant::now());
        self.setbacks.extend(before.map(|at| Setback::new(1, at)));
        Ok(())
    }

    /// How many different numbers all clients together have raised the shared counter to.
    pub fn raised_numbers(&self) -> u64 {
        self.raised.lock().unwrap().len() as u64
    }

    /// An element of the own list was popped. Each is pushed once.
    pub fn popped(&mut self, element: &Value) -> Result<(), String> {
        let Value::Bulk(element) = element else { return Err("no element".into()) };
        let before = self.pops.insert(element.to_vec(), Instant::now());
        self.setbacks.extend(before.map(|at| Setback::new(1, at)));
        Ok(())
    }

    /// Compares with what the master has at the end; whether it is right, and what is missing that was acknowledged.
    pub fn close(&mut self, found: u64) -> Result<(), String> {
        let (last, at) = self.last;
        if found < last {
            self.setbacks.push(Setback::new(last - found, at));
        }
        self.at_most(found)
    }
}
