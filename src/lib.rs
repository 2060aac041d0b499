//! pointsman: one fixed address in front of a Redis that Sentinel fails over.
//!
//! The life of a command and of a failover, file by file, is told in `docs/architecture.md`. Modules are listed here in
//! layer order: each imports only from those above it (`tests/architecture.rs` holds the table).

pub mod addr;
pub mod clock;
pub mod complaints;
pub mod resp;
pub mod shutdown;
pub mod tls;

pub mod clients;
pub mod config;
pub mod metrics;

pub mod net;
pub mod topology;

pub mod insight;

pub mod backend;
pub mod hooks;

pub mod pool;
pub mod sentinel;

pub mod router;

pub mod session;

pub mod greeting;

pub mod worker;

pub mod admin;
pub mod listener;
pub mod systemd;

pub mod app;

pub mod demo;

pub mod cli;
