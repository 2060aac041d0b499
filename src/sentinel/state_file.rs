//! What is remembered over a restart of pointsman: the confirmed master.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::topology::Remembered;

/// What was remembered; none if nothing ever was.
///
/// # Errors
/// The kernel's, or `InvalidData` for a file that is not ours.
pub(super) fn load<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Replaces the file whole: a reader finds the old text or the new one, whenever we are stopped.
pub(super) fn store(path: &Path, remembered: &impl Serialize) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mut new = path.as_os_str().to_owned();
    // One that drains writes beside its successor.
    new.push(format!(".{}", std::process::id()));
    std::fs::write(&new, serde_json::to_vec(remembered)?)?;
    std::fs::rename(new, path)
}

/// Writes what is worth remembering, as it changes, on the runtime's threads for blocking work: a disk that hangs must
/// not stand in control's way.
pub(super) async fn keep(service: String, path: PathBuf, mut latest: watch::Receiver<Option<Remembered>>) {
    // What another task of this kind had no time for when it was ended.
    latest.mark_changed();
    while latest.changed().await.is_ok() {
        let Some(remembered) = latest.borrow_and_update().clone() else { continue };
        let to = path.clone();
        let stored = tokio::task::spawn_blocking(move || store(&to, &remembered)).await;
        if let Ok(Err(error)) = stored {
            tracing::warn!(service, "cannot remember the master in {}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_loaded_and_rubbish_is_an_error() {
        let dir = std::env::temp_dir().join(format!("pointsman-state-{}", std::process::id()));
        let path = dir.join("mymaster.json");
        assert_eq!(load::<Remembered>(&path).unwrap(), None);
        let master = "[::1]:6379".parse().unwrap();
        for epoch in [3, 4] {
            let remembered = Remembered { master, epoch, run_id: "ab12".into() };
            store(&path, &remembered).unwrap();
            assert_eq!(load(&path).unwrap(), Some(remembered));
        }
        std::fs::write(&path, "{").unwrap();
        assert_eq!(load::<Remembered>(&path).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
