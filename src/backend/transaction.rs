//! What the replies to a transaction mean that was sent as one. Pure.

use bytes::Bytes;

use super::inflight::Entry;
use crate::resp::{Refusal, ReplyScanner, classify, split};

/// Whether `EXEC` answers this when there is no transaction any more: one that ran answers an array, one that watched in vain a
/// null, and errors drop it (`execCommandAbort`). Not so one of a server without `EXEC` (`rename-command`), or before Redis 6.2
/// one that an ACL denies.
pub(super) fn has_ended(exec: &[u8]) -> bool {
    exec.starts_with(b"*") || exec.starts_with(b"_") || exec.starts_with(b"-EXECABORT")
}

/// The refusal for which a transaction was not run, if it was one.
#[cold]
pub(super) fn why_discarded(replies: &[u8]) -> Option<Refusal> {
    let refusal = each(replies).find_map(classify);
    refusal.filter(|_| replies.starts_with(b"+") && last(replies).starts_with(b"-EXECABORT"))
}

/// The reply to `EXEC`.
#[cold]
pub(super) fn last(replies: &[u8]) -> &[u8] {
    each(replies).last().unwrap_or_default()
}

fn each(mut replies: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut scanner = ReplyScanner::new();
    std::iter::from_fn(move || {
        let progress = scanner.scan(replies).ok().filter(|progress| progress.complete)?;
        replies.split_off(..progress.consumed)
    })
}

/// The command of an entry that is answered with much now; none where it is not known which of a transaction's.
#[cold]
pub(super) fn suspect<T>(entry: &Entry<T>) -> Option<Bytes> {
    let (command, _) = entry.next_commands(1).pop()?;
    if !entry.is_transaction() {
        return Some(command);
    }
    // Between `MULTI` and `EXEC`.
    match split(&command).collect::<Vec<_>>()[..] {
        [_, only, _] => Some(command.slice_ref(only)),
        _ => None,
    }
}
