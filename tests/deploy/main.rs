//! What stands around the program: the service manager it runs under, and everything in `deploy/`, each held against
//! what will read it.

#![allow(clippy::unwrap_used, reason = "what a test needs and does not get fails the test")]

mod containers;
mod hooks;
mod identity;
mod kept;
mod managed;
mod servers;
mod sockets;
#[path = "../support/mod.rs"]
mod support;
mod systemd;
mod takeover;
#[path = "../support/threads.rs"]
mod threads;
mod units;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A file of `deploy/`.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn deployed(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("deploy/{name}: {e}"))
}

/// What `pointsman` with these arguments prints; or, if it fails, that and why.
async fn runs(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args(arguments).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = [output.stdout, output.stderr].map(|t| String::from_utf8(t).unwrap()).concat();
    if output.status.success() { Ok(text) } else { Err(format!("{}: {text}", output.status)) }
}
