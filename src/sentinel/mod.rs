//! The control plane: what Sentinels say and nodes answer, and what follows from it.

mod auth;
mod client;
mod control;
mod demotion;
mod event;
mod links;
mod message;
mod preferred;
mod probe;
mod role;
mod state_file;
mod switchover;
mod tasks;
mod view;
mod watcher;

pub use client::{PING_INTERVAL, SentinelTask};
pub use control::{ServiceControl, spawn};
pub use event::{Peer, SentinelEvent, Trouble};
pub use links::{LEASE_VALIDITY, RENEWAL_INTERVAL};
pub use message::{ParsedMessage, parse as parse_message};
pub use probe::{FAST_PACE, ProbeTask, SLOW_PATIENCE};
pub use role::{endpoints as role_endpoints, parse as parse_role};
pub use view::{Answer, Poll, peers as parse_peers};
