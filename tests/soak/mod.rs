//! Clients of the soak.
#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations)] // a helper of one test

pub mod book;
pub mod client;
pub mod expect;
pub mod scenes;
pub mod turns;
