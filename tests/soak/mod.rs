//! Clients of the soak.
#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations)] // a helper of one test

pub mod client;
pub mod scenes;
