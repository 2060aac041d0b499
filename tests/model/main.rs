//! The failover machine in a small world, every way that it can go: two Redis nodes, three Sentinels, one pointsman, one
//! crash of any process or one fault on the way at any step. And in large numbers of random events: `random`.
//!
//! The machine is the real one; `docs/architecture.md` says what the model around it leaves out. In confirmed mode no
//! acknowledged write is absent from the master that is agreed on in the end, but for what [`Excuse`] names. A loss
//! without an excuse is told step by step.

#![allow(clippy::unwrap_used, reason = "what a test needs and does not get fails the test")]

mod proxy;
mod random;
mod rules;
mod search;
mod sentinels;
mod steps;
mod world;

use rules::Rules;
use search::{Found, Search};
use world::{Budget, Excuse, World};

const NOTHING: Budget = Budget { crashes: 0, faults: 0, orders: 0, elections: 0, time: [0; 3] };
/// Somebody orders a failover.
const PLANNED: Budget = Budget { orders: 1, ..NOTHING };
/// Somebody orders a failover, and a process is killed at any moment before, in or after it.
const PLANNED_AND_CRASH: Budget = Budget { crashes: 1, ..PLANNED };
/// A process is killed; if that is the master, Sentinels promote another.
const CRASH: Budget = Budget { crashes: 1, elections: 1, ..NOTHING };
/// Somebody orders a failover, and something is late, cut off or not run at any moment.
const PLANNED_AND_FAULT: Budget = Budget { faults: 1, ..PLANNED };

/// What asynchronous replication loses, nobody can keep.
const REPLICATION: &[Excuse] = &[Excuse::Replication];
/// Nor can a warning be heeded that did not arrive.
const UNHEARD: &[Excuse] = &[Excuse::Replication, Excuse::Unheard];

fn search(writes: usize, left: Budget, rules: Rules, excuses: &'static [Excuse]) -> Found {
    let found = Search::new(World::new(writes, left), rules, excuses).run();
    eprintln!(
        "{writes} writes, {left:?}: {} states, {} steps; behind a switch {}, with a loss by replication {}, \
         unheard {}",
        found.states, found.steps, found.switched, found.replication, found.unheard
    );
    found
}

/// Every way is without a loss that has no excuse; and the search has seen what it is about.
fn holds(writes: usize, left: Budget, time: [u8; 3], excuses: &'static [Excuse]) {
    let found = search(writes, Budget { time, ..left }, Rules::ALL, excuses);
    assert!(found.counterexample.is_none(), "{}", found.counterexample.unwrap());
    assert!(found.switched > 0, "no failover was ever followed");
    assert!(found.replication > 0, "nothing was ever lost: a model that cannot lose anything shows nothing");
}

/// Without this rule a loss is found. The way to it is printed.
fn is_needed(left: Budget, time: [u8; 3], rules: Rules) {
    let found = search(1, Budget { time, ..left }, rules, REPLICATION);
    eprintln!("{}", found.counterexample.expect("a loss"));
}

#[test]
fn a_planned_failover_loses_nothing() {
    holds(1, PLANNED, [2, 1, 0], REPLICATION);
    holds(2, PLANNED, [2, 0, 0], REPLICATION);
}

#[test]
fn a_planned_failover_with_a_crash_loses_nothing() {
    holds(1, PLANNED_AND_CRASH, [2, 0, 0], UNHEARD);
}

#[test]
fn a_planned_failover_with_a_fault_on_the_way_loses_only_what_no_warning_saved() {
    holds(1, PLANNED_AND_FAULT, [2, 0, 0], UNHEARD);
}

#[test]
fn a_crash_loses_only_what_was_not_replicated() {
    holds(1, CRASH, [2, 2, 0], UNHEARD);
}

#[test]
fn without_parking_acknowledged_writes_are_lost() {
    is_needed(PLANNED, [2, 1, 0], Rules { parking: false, ..Rules::ALL });
}

#[test]
fn without_a_second_sentinel_acknowledged_writes_are_lost() {
    is_needed(PLANNED_AND_CRASH, [2, 0, 0], Rules { second_voice: false, ..Rules::ALL });
}

#[test]
fn without_the_leaders_warnings_acknowledged_writes_are_lost() {
    is_needed(PLANNED, [2, 1, 0], Rules { warnings: false, ..Rules::ALL });
}

#[test]
#[ignore = "minutes; `make model` runs it"]
fn the_same_in_a_larger_world() {
    holds(2, PLANNED, [3, 0, 0], REPLICATION);
    holds(1, CRASH, [2, 2, 1], UNHEARD);
    holds(1, PLANNED_AND_CRASH, [2, 0, 2], UNHEARD);
    holds(1, PLANNED_AND_CRASH, [2, 1, 0], UNHEARD);
    holds(1, PLANNED_AND_FAULT, [1, 1, 0], UNHEARD);
    holds(2, PLANNED_AND_CRASH, [2, 0, 0], UNHEARD);
}
