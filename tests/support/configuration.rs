//! What the tests of the configuration and of the command line share.

#![allow(dead_code, clippy::unwrap_used, reason = "each test program uses its part; what it does not get fails it")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use pointsman::config::{Environment, Resolved, load};

/// The least that a file must say.
pub(crate) const SERVICE: &str = "[[service]]\nname = \"a\"\nlisten = [\"127.0.0.1:1\"]\nsentinels = [\"h:1\"]\n";

/// A directory of one test, removed at its end.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new(test: &str) -> Self {
        // Two tests may give it the same name, and run at the same time.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(format!("pointsman-config-{test}-{process}-{number}"));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A file that only its owner can read.
    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Loads a file; problems as text without the directory.
pub(crate) fn resolve(path: &Path, environment: &Environment) -> Result<Resolved, String> {
    let (settings, mut warnings) = load(path).map_err(|e| shorten(path, &e.to_string()))?;
    let mut resolved = settings.resolve(environment).map_err(|e| shorten(path, &e.to_string()))?;
    warnings.append(&mut resolved.warnings);
    Ok(Resolved { warnings, ..resolved })
}

pub(crate) fn shorten(path: &Path, text: &str) -> String {
    text.replace(&format!("{}/", path.parent().unwrap().display()), "")
}

/// What a file with this text is answered.
pub(crate) fn complaints(test: &str, text: impl AsRef<[u8]>) -> String {
    let dir = Dir::new(test);
    resolve(&dir.file("p.toml", text), &Environment::default()).expect_err("a mistake must be found")
}
