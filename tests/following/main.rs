//! Sentinels, and the parts that follow them: what is asked of them, what is made of it, and what a session takes along.

#![allow(clippy::unwrap_used, reason = "what a test needs and does not get fails the test")]

mod carried;
mod demo;
mod interrupted;
mod role_probe;
mod sentinel_client;
#[path = "../support/sentinels.rs"]
mod sentinels;
#[path = "../support/mod.rs"]
mod support;
