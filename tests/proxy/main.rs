//! One Redis and pointsman before it: what clients get, and that it is what a direct connection gets.

#![allow(clippy::unwrap_used, reason = "what a test needs and does not get fails the test")]

mod backends;
mod clients;
mod indistinguishable;
mod instructions;
mod resp_against_redis;
mod start;
#[path = "../support/mod.rs"]
mod support;
mod switch;
mod tracking;
mod transactions;
mod transparency;
mod users;
