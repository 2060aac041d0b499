//! A replica's priority that a switchover has changed for the while: remembered beside the master, so that whoever is
//! started after this process was killed can set it back.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
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

/// Where the files are, beside that of the remembered master: one for each replica, named like this and by its address.
pub(super) fn beside(state_file: &Path) -> PathBuf {
    state_file.with_extension("priority")
}

fn file_of(node: SocketAddr, beside: &Path) -> PathBuf {
    let mut name = beside.as_os_str().to_owned();
    name.push(format!(".{node}"));
    name.into()
}

/// Remembers what the priority of `node` is before it is changed. A disk that fails stops no switchover.
pub(super) async fn note(service: &str, beside: &Path, node: SocketAddr, before: u32) {
    let path = file_of(node, beside);
    let to = path.clone();
    let stored = tokio::task::spawn_blocking(move || state_file::store(&to, &Preferred { node, before })).await;
    if let Ok(Err(error)) = stored {
        tracing::warn!(service, "cannot remember the replica-priority in {}: {error}", path.display());
    }
}

/// That of `node` is what it was.
pub(super) async fn forget(beside: &Path, node: SocketAddr) {
    let path = file_of(node, beside);
    // That there is none is what was wanted.
    let _ = tokio::task::spawn_blocking(move || std::fs::remove_file(path)).await;
}

/// Sets back what a process before this one has left, if there is anything; tries until each replica can be asked.
pub(super) async fn restore(common: Common) {
    let Some(beside) = common.preferred.clone() else { return };
    let left = left(&common.service, &beside);
    let mut all: JoinSet<()> = left.into_iter().map(|of| restore_one(common.clone(), beside.clone(), of)).collect();
    while all.join_next().await.is_some() {}
}

/// What processes before this one have left. There is none where there is no directory.
fn left(service: &str, beside: &Path) -> Vec<Preferred> {
    let name = beside.file_name().unwrap_or_default().as_encoded_bytes();
    let is_ours = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().as_encoded_bytes();
        file.strip_prefix(name).is_some_and(|rest| rest.starts_with(b".") && !rest.ends_with(b".new"))
    };
    let files = beside.parent().and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten();
    let mut left = Vec::new();
    for path in files.flatten().map(|file| file.path()).filter(is_ours) {
        match state_file::load(&path) {
            Ok(preferred) => left.extend(preferred),
            Err(error) => tracing::warn!(service, "cannot read {}: {error}", path.display()),
        }
    }
    left
}

async fn restore_one(common: Common, beside: PathBuf, of: Preferred) {
    let (Preferred { node, before }, service) = (of, common.service.clone());
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
                forget(&beside, node).await;
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
