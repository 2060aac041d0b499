//! pointsman as it is operated: called, asked, scraped, watched, reloaded, drained, behind a balancer and with TLS.

#![allow(clippy::unwrap_used, reason = "what a test needs and does not get fails the test")]

mod admin;
mod admin_support;
mod central;
mod cli;
#[path = "../support/configuration.rs"]
mod configuration;
mod insight;
mod monitoring;
mod orders;
mod page;
mod reload;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/threads.rs"]
mod threads;
mod tls;
