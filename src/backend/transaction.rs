//! What the replies to a transaction mean that was sent as one. Pure.

use bytes::Bytes;

use super::inflight::Entry;
use crate::resp::{Refusal, ReplyScanner, args, classify, lookup, split};

/// Reads of one transaction of which any may be the one that was answered with much. Of more it is not known which.
const SUSPECTS: usize = 4;

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

/// The commands of an entry of which one was answered with much.
#[cold]
pub(super) fn suspects<T>(entry: &Entry<T>) -> Vec<Bytes> {
    if !entry.is_transaction() {
        return entry.next_commands(1).into_iter().map(|(command, _)| command).collect();
    }
    let is_read = |command: &&[u8]| args(command).next().is_some_and(|name| lookup(name).info().readonly);
    let reads: Vec<&[u8]> = split(&entry.bytes).filter(is_read).take(SUSPECTS + 1).collect();
    if reads.len() > SUSPECTS {
        Vec::new()
    } else {
        reads.into_iter().map(|read| entry.bytes.slice_ref(read)).collect()
    }
}
