//! Faults around a failover, on real servers: whatever Sentinels, nodes, cables and pointsman itself go through, no
//! acknowledged write is lost that could be kept, not a byte goes to the wrong node, and the record tells the truth.
//!
//! Each test has a cluster of its own (one master, two replicas, three Sentinels, down-after 1 s), pointsman as a
//! process of its own before it, and clients with a ledger: what was acknowledged must be there, what was refused must
//! not, and what was cut off may be either. It ends with a line of numbers, and [`outcome::Allowed`] says how bad they
//! may be. `make faults` runs all of them, several at once, and shows the table; `make test` those that are not ignored.
//!
//! The scenarios, by number, and where each is shown:
//!
//! | # | Scenario | Test |
//! |---|---|---|
//! | 1 | planned failover | `failover.rs`, held to its goals; here `loss` |
//! | 2 | ten in a row | `failover.rs`: `ten_planned_in_a_row` |
//! | 3 | two at once on different Sentinels, one epoch | `sentinels` |
//! | 4 | `kill -9` of the master | `failover.rs`, held to its goals; here `loss` |
//! | 5 | master hangs, is replaced and wakes; wakes between promotion and commit | `masters`, `hangs` |
//! | 6 | master hangs for less than down-after | `hangs` |
//! | 7 | pointsman on the wrong side of a partition | `partitions` |
//! | 8 | master on the wrong side of a partition | `partitions` |
//! | 9 | dead master comes back writable | `masters` |
//! | 10 | master restarts at once, and loads | `operators` |
//! | 11 | leader crashes after the promotion, planned | `leaders` |
//! | 12 | the same with a dead master | `leaders` |
//! | 13, 14 | stale Sentinel, forgetful Sentinel | `sentinels` |
//! | 15 | no Sentinel in hearing, nothing else wrong; they fail over meanwhile | `partitions`; for an hour: `topology/failover/tests/outages.rs`; started without any: `start.rs` |
//! | 16 | all Sentinels and the master gone, and back | `sentinels` |
//! | 17 | links to Sentinels swallow packets | `partitions` |
//! | 18 | `SENTINEL RESET`, also in a failover | `sentinels` |
//! | 19 | `REMOVE` and `MONITOR`, to another node or under another name | `sentinels`, `operators` |
//! | 20 | Redis' `FAILOVER` behind Sentinel's back | `operators` |
//! | 21 | `REPLICAOF` by hand | `operators` |
//! | 22 | nobody may be promoted | `sentinels` |
//! | 23 | `-NOREPLICAS` after a switch | `operators` |
//! | 24 | open `MULTI`, `WATCH` | `carried.rs` |
//! | 25 | 500 clients in `BLPOP` | `crowd`; the kinds of pops: `carried.rs` |
//! | 26 | 1,000 subscribers | `crowd` |
//! | 27 | client tracking | `carried.rs` |
//! | 28 | state smuggled in by `MULTI` or inline | `router_model`, `indistinguishable.rs`, `isolation.rs` |
//! | 29 | huge, slow and malformed | `limits` |
//! | 30 | clients that vanish in mid-pipeline, failovers all the time | `isolation.rs` |
//! | P | slow commands: not a dead master | `hangs` |
//! | S | pointsman stopped, its control thread starved | `suspension` |
//! | C | cables between some only, one way only | `partitions` |
//! | K | 5,000 clients at the switch | `crowd` |
//! | L | leader hangs at any moment | `leaders` |
//! | I | IPv6 | `ipv6` |
//! | A | servers that are announced by other addresses; orders from another host | `addresses` |
//! | N | servers known by names, which come and whose addresses move | `names` |
//! | F | `fence_without_quorum`, `fence_old_master` | `fence` |
//! | R | what the record says of a loss | `loss` |
//! | H | the same with HAProxy instead, for comparison | `compare`: `make failover-compare` |

#![allow(clippy::unwrap_used, reason = "what a test needs and does not get fails the test")]

mod addresses;
mod compare;
mod crowd;
mod fence;
mod hangs;
mod ipv6;
mod leaders;
mod loss;
mod masters;
mod names;
mod network;
mod operators;
mod outcome;
mod partitions;
mod rig;
mod sentinels;
#[path = "../support/mod.rs"]
mod support;
mod suspension;
#[path = "../support/threads.rs"]
mod threads;
