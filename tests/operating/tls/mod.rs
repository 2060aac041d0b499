//! TLS on every leg, between real servers that speak nothing else.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "what a test needs and does not get fails the test")]

mod certificates;
mod clients;
mod failover;
mod files;
mod servers;
