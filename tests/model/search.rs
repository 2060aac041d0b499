//! Every way that a world can go, once.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::rules::Rules;
use crate::steps::Step;
use crate::world::{Excuse, World};

/// What a search came to.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) states: usize,
    pub(crate) steps: usize,
    /// Worlds in which a master other than the first was confirmed.
    pub(crate) switched: usize,
    /// Worlds in which an acknowledged write is gone that replication lost, and that no warning saved.
    pub(crate) replication: usize,
    pub(crate) unheard: usize,
    /// The way to a loss that has no excuse.
    pub(crate) counterexample: Option<String>,
}

pub(crate) struct Search {
    rules: Rules,
    start: World,
    /// What a loss may be excused with.
    excuses: &'static [Excuse],
    seen: HashSet<u64>,
    way: Vec<Step>,
    found: Found,
}

impl Search {
    pub(crate) fn new(start: World, rules: Rules, excuses: &'static [Excuse]) -> Self {
        Self { rules, start, excuses, seen: HashSet::new(), way: Vec::new(), found: Found::default() }
    }

    pub(crate) fn run(mut self) -> Found {
        let start = self.start.clone();
        self.visit(&start);
        self.found.states = self.seen.len();
        self.found
    }

    /// Depth first: a world carries what is left of its budget, so that there is an end, and none needs two visits.
    fn visit(&mut self, world: &World) {
        let mut hasher = DefaultHasher::new();
        world.hash(&mut hasher);
        if !self.seen.insert(hasher.finish()) {
            return;
        }
        self.found.switched += usize::from(world.proxy.machine.topology().generation > 1);
        for loss in world.losses() {
            match loss.excuse {
                Some(Excuse::Replication) => self.found.replication += 1,
                Some(Excuse::Unheard) => self.found.unheard += 1,
                None => {}
            }
            if loss.excuse.is_none_or(|excuse| !self.excuses.contains(&excuse)) {
                self.found.counterexample = Some(self.tell(loss.write));
                return;
            }
        }
        for step in world.steps() {
            let mut next = world.clone();
            next.take(step, self.rules);
            self.found.steps += 1;
            self.way.push(step);
            self.visit(&next);
            if self.found.counterexample.is_some() {
                return;
            }
            self.way.pop();
        }
    }

    /// The way to here, step by step.
    fn tell(&self, write: usize) -> String {
        let mut world = self.start.clone();
        let began = world.now;
        let mut text = format!("w{write} was acknowledged, and is not on the master agreed on:\n");
        for step in &self.way {
            world.take(*step, self.rules);
            let _ = writeln!(text, "{:>6} ms  {:<40} {world}", world.now - began, step.to_string());
        }
        text
    }
}
