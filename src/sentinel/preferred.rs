//! A replica's priority that a switchover has changed for the while: remembered beside the master, so that whoever is
//! started after this process was killed can set it back.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::state_file;
use super::switchover::ServerTask;
use super::tasks::Common;
use crate::topology::switchover::{Answer, CHOSEN, Request};

/// Pause between two tries: a replica that is away comes back, or it does not matter what it prefers.
const TRY_AGAIN: Duration = Duration::from_secs(2);

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Preferred {
    node: SocketAddr,
    /// Its `replica-priority` before.
    before: u32,
}

/// The file, beside that of the remembered master.
pub(super) fn beside(state_file: &Path) -> PathBuf {
    state_file.with_extension("priority")
}

/// Remembers what the priority of `node` is before it is changed. A disk that fails stops no switchover.
pub(super) async fn note(service: &str, path: &Path, node: SocketAddr, before: u32) {
    let to = path.to_owned();
    let stored = tokio::task::spawn_blocking(move || state_file::store(&to, &Preferred { node, before })).await;
    if let Ok(Err(error)) = stored {
        tracing::warn!(service, "cannot remember the replica-priority in {}: {error}", path.display());
    }
}

/// It is what it was.
pub(super) async fn forget(path: &Path) {
    let path = path.to_owned();
    // That there is none is what was wanted.
    let _ = tokio::task::spawn_blocking(move || std::fs::remove_file(path)).await;
}

/// Sets back what a process before this one has left, if there is anything; tries until the replica can be asked.
pub(super) async fn restore(common: Common) {
    let (Some(path), service) = (common.preferred.clone(), common.service.clone()) else { return };
    let Preferred { node, before } = match state_file::load(&path) {
        Ok(Some(preferred)) => preferred,
        Ok(None) => return,
        Err(error) => return tracing::warn!(service, "cannot read {}: {error}", path.display()),
    };
    let mut told = false;
    loop {
        let mut task = ServerTask::of_node(&common, node);
        let outcome = match task.answer(Request::Priority).await {
            // Somebody else has set it meanwhile.
            Answer::Done(now) if now != CHOSEN.to_string() => Ok(format!("is {now}, and stays so")),
            Answer::Done(_) => match task.answer(Request::SetPriority(before)).await {
                Answer::Done(_) => {
                    // A promotion would have written the other to its file. One without a file has nothing to write.
                    task.answer(Request::Persist).await;
                    Ok(format!("is {before} again"))
                }
                Answer::Refused(why) | Answer::Lost(why) => Err(why),
            },
            Answer::Refused(why) | Answer::Lost(why) => Err(why),
        };
        match outcome {
            Ok(how) => {
                forget(&path).await;
                tracing::info!(
                    service,
                    "replica-priority of {node}, changed by a switchover that was cut short, {how}"
                );
                return;
            }
            Err(why) if !told => {
                told = true;
                tracing::warn!(
                    service,
                    "replica-priority of {node} was left at {CHOSEN} by a switchover that was cut short, and cannot be \
                     set back to {before} yet: {why}"
                );
            }
            Err(_) => {}
        }
        sleep(TRY_AGAIN).await;
    }
}
