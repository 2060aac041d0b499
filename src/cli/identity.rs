//! Whom the process runs as.

use std::ffi::CString;

use nix::unistd::{Gid, Uid, geteuid, initgroups, setresgid, setresuid};

use crate::config::Account;

/// Becomes that user for good, with its groups and without any privilege. Nothing is to be done if it is one already.
///
/// # Errors
/// Only root can become another.
pub(super) fn assume(account: &Account) -> Result<(), String> {
    let Account { name, user, group } = account;
    let (uid, gid) = (Uid::from_raw(*user), Gid::from_raw(*group));
    if geteuid() == uid {
        return Ok(());
    }
    if !can_assume() {
        return Err(format!(
            "cannot become `{name}` (`user`): only root can, and this is started by user {}: start it as root or as \
             `{name}`, or leave `user` out",
            geteuid()
        ));
    }
    let become_it = || {
        initgroups(&CString::new(name.as_str()).map_err(|_| nix::Error::EINVAL)?, gid)?;
        setresgid(gid, gid, gid)?;
        // Last: behind it there is no right to anything before. The kernel takes away the capabilities with it.
        setresuid(uid, uid, uid)
    };
    become_it().map_err(|error| {
        format!("cannot become `{name}` (`user`): {error}: root needs CAP_SETUID and CAP_SETGID for it")
    })
}

/// Whether [`assume`] can be anything else than an error or nothing.
pub(super) fn can_assume() -> bool {
    geteuid().is_root()
}

/// What there is to say to whoever has started us as root.
pub(super) fn warning() -> Option<&'static str> {
    let advice =
        "running as root, of which nothing here has any use: set `user`, or have it started as a user of its own";
    can_assume().then_some(advice)
}
