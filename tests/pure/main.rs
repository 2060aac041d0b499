//! What needs no server: the configuration, the scanners, the router against its model, and that the documents say what
//! the code does.
//!
//! One program for many files, here and in its neighbours: each program costs the time to link it.

#![allow(clippy::unwrap_used, reason = "what a test needs and does not get fails the test")]

mod clients_doc;
mod config;
mod config_docs;
#[path = "../support/configuration.rs"]
mod configuration;
mod errors_doc;
mod metrics_doc;
mod resp_properties;
mod router_model;
#[path = "../support/scanning.rs"]
mod scanning;
