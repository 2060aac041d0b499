//! Faults around a failover, on real servers: whatever Sentinels, nodes and pointsman itself go through, no acknowledged
//! write is lost that could be kept, not a byte goes to the wrong node, and the record tells the truth.
//!
//! Each test has a cluster of its own (one master, two replicas, three Sentinels, down-after 1 s) and pointsman as a
//! process of its own before it.

#![allow(clippy::unwrap_used, reason = "what a test needs and does not get fails the test")]

mod loss;
mod masters;
mod rig;
mod sentinels;
#[path = "../support/mod.rs"]
mod support;
mod suspension;
