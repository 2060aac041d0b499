//! The scripts that clients have had the server keep (`SCRIPT LOAD`, `EVAL`). A server replicates what scripts do, but
//! since Redis 7.0 not the scripts themselves, and forgets them when it restarts: a new master has to be given them.
//! (Functions are data, and replicated.)
//!
//! A script is remembered when the server has accepted it from the client: one who may not load scripts must not get
//! them loaded by way of a failover.

use std::cell::RefCell;
use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::resp::args;

/// Scripts remembered for a service, at most. Applications have some tens of them; more are texts made up for each call,
/// and those nobody calls by their digest.
const MAX_SCRIPTS: usize = 1000;
/// Bytes of all scripts remembered for a service, at most. To load as much takes a server some 20 ms.
const MAX_BYTES: usize = 4 << 20;
/// Bytes of one script that is remembered, at most.
const MAX_SCRIPT_BYTES: usize = 128 << 10;

/// After scripts were loaded, or could not be, nobody waits for that to be tried again for so long: a server that has
/// them and still says that it has not is answering in a script's words.
const LOAD_AGAIN: Duration = Duration::from_secs(1);

/// A script's name: its SHA-1.
type Digest = [u8; 20];

/// The scripts of one service, for all workers: one that a client has loaded through one of them is called through any.
#[derive(Debug, Default)]
pub struct Scripts {
    kept: Mutex<Kept>,
    /// +1 when something was forgotten.
    forgotten: AtomicU64,
    /// The highest generation to whose master somebody brings them.
    claimed: AtomicU64,
    /// How many are loading them into a server now.
    loading: AtomicUsize,
}

/// Scripts on their way into a server, until it is dropped.
#[derive(Debug)]
pub(super) struct Loading(Arc<Scripts>);

/// From the one longest unheard of to the latest.
#[derive(Debug, Default)]
struct Kept {
    scripts: Vec<Script>,
    bytes: usize,
    /// When somebody was last done loading them, and whether they could be.
    tried: Option<(Instant, bool)>,
}

#[derive(Debug)]
struct Script {
    digest: Digest,
    body: Bytes,
    /// By `SCRIPT LOAD`: somebody means to call it by its digest.
    loaded: bool,
}

/// What a command does to the scripts of a server.
#[derive(PartialEq, Eq, Debug)]
enum Meaning<'a> {
    /// It keeps this one.
    Keep { body: &'a [u8], loaded: bool },
    /// It forgets all.
    Flush,
}

impl Scripts {
    /// Whether the caller is the one to bring the scripts to the master of this generation: one of the workers is enough.
    pub fn claim(&self, generation: u64) -> bool {
        self.claimed.fetch_max(generation, Ordering::AcqRel) < generation
    }

    /// They are about to be loaded into a server.
    pub(super) fn begin_loading(self: &Arc<Self>) -> Loading {
        self.loading.fetch_add(1, Ordering::AcqRel);
        Loading(Arc::clone(self))
    }

    /// Whether they are being loaded into a server. Who has the server forget them meanwhile would find some there.
    pub fn is_loading(&self) -> bool {
        self.loading.load(Ordering::Acquire) > 0
    }

    /// All of them, the oldest first.
    pub(super) fn all(&self) -> Vec<Bytes> {
        self.lock().scripts.iter().map(|s| s.body.clone()).collect()
    }

    /// Whether the command, queued then and refused with `-NOSCRIPT`, calls a script by its digest that is remembered
    /// and can be loaded.
    ///
    /// A script may say `-NOSCRIPT` itself, when it has run. The words come from it or its arguments, or else it is sent
    /// again once.
    pub(super) fn can_bring_called(&self, command: &[u8], queued_at: Instant) -> bool {
        let says = |text: &[u8]| memchr::memmem::find(text, b"NOSCRIPT").is_some();
        let mut words = args(command);
        let by_digest = words
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case(b"EVALSHA") || name.eq_ignore_ascii_case(b"EVALSHA_RO"));
        let digest = words.next().filter(|_| by_digest && !says(command)).and_then(from_hex);
        digest.is_some_and(|digest| {
            let kept = self.lock();
            let is_worth_trying = self.is_loading()
                || kept.tried.is_none_or(|(at, loaded)| at.elapsed() >= LOAD_AGAIN || loaded && queued_at < at);
            is_worth_trying && kept.scripts.iter().any(|s| s.digest == digest && !says(&s.body))
        })
    }

    /// Returns how many were forgotten to make room.
    fn keep(&self, body: &[u8], loaded: bool) -> u64 {
        let digest = sha1_smol::Sha1::from(body).digest().bytes();
        let mut kept = self.lock();
        let known = kept.scripts.iter().position(|s| s.digest == digest).map(|at| kept.scripts.remove(at));
        let script = match known {
            Some(script) => Script { loaded: script.loaded || loaded, ..script },
            None => {
                kept.bytes += body.len();
                // Detached: a script must not keep a read buffer alive for as long as it is remembered.
                Script { digest, body: Bytes::copy_from_slice(body), loaded }
            }
        };
        kept.scripts.push(script);
        let mut dropped = 0;
        while kept.scripts.len() > MAX_SCRIPTS || kept.bytes > MAX_BYTES {
            let victim = kept.scripts.iter().position(|s| !s.loaded).unwrap_or(0);
            let victim = kept.scripts.remove(victim);
            kept.bytes -= victim.body.len();
            dropped += 1;
        }
        if dropped > 0 {
            self.forgotten.fetch_add(1, Ordering::Release);
        }
        dropped
    }

    fn forget_all(&self) {
        *self.lock() = Kept::default();
        self.forgotten.fetch_add(1, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one worker knows to be in [`Scripts`], so that a script that is called all the time is looked up here only.
#[derive(Debug, Default)]
pub(super) struct Seen(RefCell<(HashSet<u64>, u64)>, RandomState);

impl Seen {
    /// Whether the command does something to the scripts that is not noted yet.
    pub(super) fn is_news(&self, scripts: &Scripts, command: &[u8]) -> bool {
        match meaning(command) {
            Some(Meaning::Keep { body, loaded }) => {
                let mut seen = self.0.borrow_mut();
                let forgotten = scripts.forgotten.load(Ordering::Acquire);
                if seen.1 != forgotten {
                    *seen = (HashSet::new(), forgotten);
                }
                !seen.0.contains(&self.1.hash_one((body, loaded)))
            }
            Some(Meaning::Flush) => true,
            None => false,
        }
    }

    /// The server has accepted the command. Returns how many scripts were forgotten to make room.
    pub(super) fn note(&self, scripts: &Scripts, command: &[u8]) -> u64 {
        match meaning(command) {
            Some(Meaning::Keep { body, loaded }) => {
                self.0.borrow_mut().0.insert(self.1.hash_one((body, loaded)));
                scripts.keep(body, loaded)
            }
            Some(Meaning::Flush) => {
                scripts.forget_all();
                0
            }
            None => 0,
        }
    }
}

impl Loading {
    /// They were loaded, or could not be.
    pub(super) fn end(self, loaded: bool) {
        self.0.lock().tried = Some((Instant::now(), loaded));
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.0.loading.fetch_sub(1, Ordering::AcqRel);
    }
}

fn meaning(command: &[u8]) -> Option<Meaning<'_>> {
    let mut words = args(command);
    let (name, first) = (words.next()?, words.next()?);
    let is = |word: &[u8], text: &str| word.eq_ignore_ascii_case(text.as_bytes());
    let (body, loaded) = if is(name, "EVAL") || is(name, "EVAL_RO") {
        (first, false)
    } else if is(name, "SCRIPT") && is(first, "LOAD") {
        (words.next()?, true)
    } else if is(name, "SCRIPT") && is(first, "FLUSH") {
        return Some(Meaning::Flush);
    } else {
        return None;
    };
    (body.len() <= MAX_SCRIPT_BYTES).then_some(Meaning::Keep { body, loaded })
}

fn from_hex(text: &[u8]) -> Option<Digest> {
    let mut digest = Digest::default();
    if text.len() != 2 * digest.len() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::encode_command;

    /// As `redis-cli script load "return 1"` answers.
    const RETURN_1: &str = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";

    #[test]
    fn a_script_is_known_by_its_digest_until_a_flush() {
        let (scripts, seen) = (Scripts::default(), Seen::default());
        let call = encode_command(&["evalsha_ro", &RETURN_1.to_uppercase(), "0"]);
        let eval = encode_command(&["eval", "return 1", "0"]);
        assert!(seen.is_news(&scripts, &eval) && !scripts.can_bring_called(&call, Instant::now()));
        seen.note(&scripts, &eval);
        assert!(!seen.is_news(&scripts, &eval) && scripts.can_bring_called(&call, Instant::now()));
        assert!(!scripts.can_bring_called(&encode_command(&["GET", RETURN_1]), Instant::now()));
        let load = encode_command(&["SCRIPT", "load", "return 1"]);
        assert!(seen.is_news(&scripts, &load), "somebody means to call it by its digest");
        seen.note(&scripts, &load);
        assert_eq!(scripts.all(), ["return 1"]);
        let elsewhere = Seen::default();
        let flush = encode_command(&["SCRIPT", "FLUSH", "ASYNC"]);
        assert!(elsewhere.is_news(&scripts, &flush));
        elsewhere.note(&scripts, &flush);
        assert!(
            !scripts.can_bring_called(&call, Instant::now()) && seen.is_news(&scripts, &eval),
            "flushed by a client of another worker"
        );
    }

    #[test]
    fn at_the_limits_the_oldest_is_forgotten_but_those_that_were_loaded_last() {
        let scripts = Scripts::default();
        scripts.keep(b"return 'loaded'", true);
        for i in 0..MAX_SCRIPTS {
            scripts.keep(format!("return {i}").as_bytes(), false);
        }
        let kept = scripts.all();
        assert_eq!((kept.len(), &kept[0][..], &kept[1][..]), (MAX_SCRIPTS, &b"return 'loaded'"[..], &b"return 1"[..]));
        let large = vec![b' '; MAX_SCRIPT_BYTES - 4];
        let dropped: u64 = (0..MAX_BYTES / MAX_SCRIPT_BYTES + 1)
            .map(|i| scripts.keep(&[format!("{i:04}").as_bytes(), &large].concat(), true))
            .sum();
        let kept = scripts.all();
        assert!(kept.iter().map(Bytes::len).sum::<usize>() <= MAX_BYTES);
        assert_eq!(dropped as usize, MAX_SCRIPTS + MAX_BYTES / MAX_SCRIPT_BYTES + 1 - kept.len());
        assert_eq!(scripts.lock().bytes, kept.iter().map(Bytes::len).sum::<usize>());
    }

    #[test]
    fn what_is_called_again_is_not_the_oldest() {
        let scripts = Scripts::default();
        scripts.keep(b"return 1", false);
        scripts.keep(b"return 2", false);
        scripts.keep(b"return 1", false);
        assert_eq!(scripts.all(), ["return 2", "return 1"]);
    }

    #[test]
    fn a_script_too_large_to_keep_is_no_news() {
        let body = "x".repeat(MAX_SCRIPT_BYTES + 1);
        assert!(!Seen::default().is_news(&Scripts::default(), &encode_command(&["EVAL", &body, "0"])));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_scripts_that_cannot_be_loaded() {
        let scripts = Arc::new(Scripts::default());
        scripts.keep(b"return 1", false);
        let call = encode_command(&["EVALSHA", RETURN_1, "0"]);
        let can = |queued_at| scripts.can_bring_called(&call, queued_at);
        let (loading, other, before) = (scripts.begin_loading(), scripts.begin_loading(), Instant::now());
        loading.end(false);
        assert!(scripts.is_loading() && can(before), "somebody is still at it");
        drop(other);
        assert!(!scripts.is_loading() && !can(before));
        tokio::time::advance(LOAD_AGAIN).await;
        assert!(can(before), "worth another try");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_was_given_a_script_and_says_that_it_has_none_is_believed() {
        let scripts = Arc::new(Scripts::default());
        scripts.keep(b"return 1", false);
        let call = encode_command(&["EVALSHA", RETURN_1, "0"]);
        let before = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        scripts.begin_loading().end(true);
        assert!(scripts.can_bring_called(&call, before), "it was sent before");
        assert!(!scripts.can_bring_called(&call, Instant::now()));
        let says = encode_command(&["EVALSHA", RETURN_1, "1", "NOSCRIPT"]);
        assert!(!scripts.can_bring_called(&says, before), "the words may be its own");
    }

    #[test]
    fn one_worker_brings_them_to_each_master() {
        let scripts = Scripts::default();
        assert!(scripts.claim(2) && !scripts.claim(2) && !scripts.claim(1) && scripts.claim(3));
    }
}
