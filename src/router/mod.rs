//! From a command and what its session has changed to the way the command goes. Pure.

mod state;

pub use state::{Replies, State};

use crate::backend::{Answer, Effect};
use crate::resp::{CommandInfo, Kind, args};

/// The way of one command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// On a connection shared with others.
    Shared(Effect),
    /// On a connection of the session's own.
    Pinned(Pinned),
    /// Answered by pointsman.
    Local(Local),
    /// Put to a backend on a connection made for it: `AUTH`, `HELLO`, `SCRIPT KILL`.
    Judge,
    /// Put to a backend, whose answer is translated: what is asked names clients by their ids here.
    About(About),
    /// To another database, which a backend has to accept.
    Select(u32),
}

/// How a command goes on a pinned connection, and what becomes of the pin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pinned {
    /// What it means if its reply is lost.
    pub effect: Effect,
    /// What answers it.
    pub answer: Answer,
    /// What it does to the session.
    pub step: Step,
}

impl Pinned {
    /// For a command that could be shared and is not to be.
    pub fn once(info: &CommandInfo) -> Self {
        Self { effect: effect(info), answer: Answer::Replies, step: Step::Once }
    }
}

/// What a command on a pinned connection does to its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing; the connection is free again after the reply, unless something else pins it.
    Once,
    /// As `Once`, and an element may have been popped: `true` if it may be issued again without proof to the contrary.
    Block(bool),
    /// As `Once`, for `WAIT`: an earlier write of the session has to lie behind it on the same connection.
    Wait,
    /// Opens a transaction.
    Multi,
    /// Is queued in the transaction.
    Queue,
    /// Runs the transaction.
    Exec,
    /// Drops the transaction.
    Discard,
    /// Watches keys.
    Watch,
    /// Forgets them.
    Unwatch,
    /// Changes subscriptions.
    Subscribe,
    /// Every later byte is the client's.
    Monitor,
    /// The connection is a replica's: from now on bytes go to and fro unread.
    Sync,
    /// `CLIENT TRACKING`: pins while it is on.
    Track,
    /// As `Once`, for `CLIENT CACHING`: about the command behind it.
    Caching,
    /// `SELECT` of one database, which the session is in if it is accepted.
    Select(u32),
    /// Changes the connection in a way that is not followed: it is the session's until the client leaves.
    Keep,
    /// As `Keep`, and its RESP version is not followed either.
    Hello,
}

/// What a client asks about clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum About {
    /// `CLIENT LIST`.
    List,
    /// `CLIENT INFO`.
    Info,
    /// `CLIENT KILL`.
    Kill,
    /// `CLIENT UNBLOCK`.
    Unblock,
}

/// What pointsman answers itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Local {
    /// `QUIT`.
    Quit,
    /// `RESET`.
    Reset,
    /// `CLIENT REPLY` ON, OFF or SKIP.
    Reply(Replies),
}

/// Decides. `frame` is the whole command, `argc` its number of arguments, the name included.
pub fn route(info: &CommandInfo, frame: &[u8], argc: u32, state: &State) -> Route {
    // A RESP2 subscriber may do next to nothing, and the server has the words for that.
    if state.only_listens() && !matches!(info.kind, Kind::Subscribe | Kind::Unsubscribe | Kind::Quit | Kind::Reset) {
        return pinned(Effect::Read, Step::Once);
    }
    if let Some(route) = everywhere(info, frame, argc, state) {
        return route;
    }
    if state.multi {
        in_transaction(info, frame, argc, state)
    } else if state.is_pinned() {
        on_own_connection(info, frame, argc, state)
    } else {
        unpinned(info, frame, argc)
    }
}

/// Commands that go the same way whatever the session has changed.
fn everywhere(info: &CommandInfo, frame: &[u8], argc: u32, state: &State) -> Option<Route> {
    match info.kind {
        Kind::Quit => Some(Route::Local(Local::Quit)),
        Kind::Reset if argc == 1 => Some(Route::Local(Local::Reset)),
        Kind::Client => {
            let sub = argument(frame, 1);
            let about = [(b"LIST".as_slice(), About::List), (b"INFO", About::Info), (b"KILL", About::Kill)];
            let about = about.iter().find(|(word, _)| is(sub, word)).map(|(_, about)| *about);
            let about = about.or_else(|| (is(sub, b"UNBLOCK") && argc > 2).then_some(About::Unblock));
            if let Some(about) = about {
                return Some(if state.multi { pinned(Effect::Deferred, Step::Queue) } else { Route::About(about) });
            }
            // In a transaction it is turned on or off when that runs.
            if state.multi || argc != 3 || !is(sub, b"REPLY") {
                return None;
            }
            let modes = [(b"ON".as_slice(), Replies::On), (b"OFF", Replies::Off), (b"SKIP", Replies::Skip)];
            let mode = modes.iter().find(|(word, _)| is(argument(frame, 2), word));
            mode.map(|(_, replies)| Route::Local(Local::Reply(*replies)))
        }
        _ => None,
    }
}

fn pinned(effect: Effect, step: Step) -> Route {
    Route::Pinned(Pinned { effect, answer: Answer::Replies, step })
}

fn effect(info: &CommandInfo) -> Effect {
    if info.readonly { Effect::Read } else { Effect::Write }
}

fn in_transaction(info: &CommandInfo, frame: &[u8], argc: u32, state: &State) -> Route {
    match info.kind {
        // With arguments it is refused, and the transaction has ended all the same.
        Kind::Exec => pinned(Effect::Write, Step::Exec),
        // With arguments it is refused, and the transaction stays open.
        Kind::Discard if argc == 1 => pinned(Effect::Deferred, Step::Discard),
        // What the reply to EXEC says of these is followed.
        Kind::Select | Kind::Auth | Kind::Hello if !state.kept => pinned(Effect::Deferred, Step::Queue),
        Kind::Hello => pinned(Effect::Deferred, Step::Hello),
        // Queued like any other, but what they do to the connection when the transaction runs is not followed.
        Kind::Select | Kind::Auth | Kind::Reset | Kind::Monitor | Kind::Replica | Kind::Other => {
            pinned(Effect::Deferred, Step::Keep)
        }
        Kind::Client if leaves_connection(frame) || !state.kept && tracks_for_itself(frame) => {
            pinned(Effect::Deferred, Step::Queue)
        }
        Kind::Client => pinned(Effect::Deferred, Step::Keep),
        _ => pinned(Effect::Deferred, Step::Queue),
    }
}

fn on_own_connection(info: &CommandInfo, frame: &[u8], argc: u32, state: &State) -> Route {
    match info.kind {
        Kind::Unwatch if argc == 1 => pinned(Effect::Deferred, Step::Unwatch),
        Kind::Unwatch => pinned(Effect::Read, Step::Once),
        Kind::Multi if argc > 1 => pinned(Effect::Read, Step::Once),
        Kind::Watch if argc == 1 => pinned(Effect::Read, Step::Once),
        // What such a connection is like only the server knows.
        Kind::Hello if state.kept => pinned(effect(info), Step::Hello),
        Kind::Select | Kind::Auth | Kind::Reset if state.kept => pinned(effect(info), Step::Keep),
        Kind::Select => match argument(frame, 1).filter(|_| argc == 2).and_then(database) {
            Some(n) => pinned(Effect::Deferred, Step::Select(n)),
            None => pinned(Effect::Read, Step::Once),
        },
        Kind::Reset => pinned(Effect::Read, Step::Once),
        Kind::Client => match client(frame) {
            Route::Shared(effect) => pinned(effect, Step::Once),
            other => other,
        },
        Kind::Plain | Kind::Scan | Kind::Script | Kind::Exec | Kind::Discard => pinned(effect(info), Step::Once),
        Kind::ScriptControl if !is(argument(frame, 1), b"DEBUG") => pinned(effect(info), Step::Once),
        Kind::BlockingIfAsked if !blocks(frame) => pinned(effect(info), Step::Once),
        _ => unpinned(info, frame, argc),
    }
}

fn unpinned(info: &CommandInfo, frame: &[u8], argc: u32) -> Route {
    match info.kind {
        Kind::Plain | Kind::Scan | Kind::Script | Kind::Exec | Kind::Discard | Kind::Unwatch => {
            Route::Shared(effect(info))
        }
        Kind::Blocking | Kind::BlockingIfAsked if info.kind == Kind::Blocking || blocks(frame) => {
            pinned(Effect::Write, Step::Block(may_pop_again(info)))
        }
        Kind::BlockingIfAsked | Kind::Blocking => Route::Shared(effect(info)),
        Kind::Wait => pinned(Effect::Write, Step::Wait),
        Kind::Multi if argc == 1 => pinned(Effect::Deferred, Step::Multi),
        // An error that opens nothing.
        Kind::Multi => Route::Shared(Effect::Read),
        Kind::Watch if argc > 1 => pinned(Effect::Deferred, Step::Watch),
        // An error that watches nothing.
        Kind::Watch => Route::Shared(Effect::Read),
        Kind::Subscribe | Kind::Unsubscribe => {
            let answer = Answer::Confirmations(confirmations(info.kind, argc));
            Route::Pinned(Pinned { effect: Effect::Deferred, answer, step: Step::Subscribe })
        }
        Kind::Select => match argument(frame, 1).filter(|_| argc == 2).and_then(database) {
            Some(n) => Route::Select(n),
            // The backend knows the words for what is wrong with it; it changes nothing.
            None => Route::Shared(Effect::Read),
        },
        Kind::Auth | Kind::Hello => Route::Judge,
        Kind::Client => client(frame),
        Kind::Monitor => pinned(Effect::Deferred, Step::Monitor),
        // While a script runs for too long, the server brings no new connection into a database, but does answer these
        // on one that needs none.
        Kind::ScriptControl if is(argument(frame, 1), b"KILL") || is(argument(frame, 1), b"STATS") => Route::Judge,
        Kind::ScriptControl if is(argument(frame, 1), b"DEBUG") => pinned(Effect::Write, Step::Keep),
        Kind::ScriptControl => Route::Shared(Effect::Write),
        // Whoever shares a connection with it would wait behind it.
        Kind::Server => pinned(Effect::Write, Step::Once),
        // With arguments it is an error that changes nothing.
        Kind::Reset => Route::Shared(Effect::Read),
        Kind::Replica if info.name == "replconf" => pinned(Effect::Write, Step::Keep),
        Kind::Replica => pinned(Effect::Write, Step::Sync),
        Kind::Other => pinned(Effect::Write, Step::Keep),
        Kind::Quit => unreachable!("decided before"),
    }
}

/// How many confirmations answer a command of so many words that changes subscriptions, as [`Answer::Confirmations`] has it.
pub fn confirmations(kind: Kind, argc: u32) -> u32 {
    match argc.saturating_sub(1) {
        0 if kind == Kind::Unsubscribe => u32::MAX,
        channels => channels.max(1),
    }
}

/// `CLIENT`, outside of a transaction, with what goes the same way everywhere dealt with.
fn client(frame: &[u8]) -> Route {
    let sub = argument(frame, 1);
    // They change nothing, or what is the client's. What is handled elsewhere has come with a wrong number of arguments.
    const HARMLESS: [&[u8]; 9] =
        [b"UNBLOCK", b"GETREDIR", b"TRACKINGINFO", b"SETINFO", b"HELP", b"REPLY", b"SETNAME", b"GETNAME", b"ID"];
    if HARMLESS.iter().any(|c| is(sub, c)) || sub.is_none() {
        Route::Shared(Effect::Read)
    } else if is(sub, b"PAUSE") || is(sub, b"UNPAUSE") {
        pinned(Effect::Write, Step::Once)
    } else if is(sub, b"CACHING") {
        pinned(Effect::Deferred, Step::Caching)
    } else if is(sub, b"TRACKING") {
        pinned(Effect::Deferred, Step::Track)
    } else {
        // It changes the connection, or may in a server newer than this.
        pinned(Effect::Deferred, Step::Keep)
    }
}

/// Whether a transaction with this `CLIENT` command leaves its connection as it was. `CACHING` is about that alone.
fn leaves_connection(frame: &[u8]) -> bool {
    matches!(client(frame), Route::Shared(_) | Route::Pinned(Pinned { step: Step::Once | Step::Caching, .. }))
}

/// Whether a `CLIENT` command is about invalidations, and not about another client's. Such a transaction can be queued
/// elsewhere.
fn tracks_for_itself(frame: &[u8]) -> bool {
    is(argument(frame, 1), b"TRACKING") && !args(frame).any(|word| is(Some(word), b"REDIRECT"))
}

/// Pops that lose an undelivered element exactly as for a client that reconnects and pops again. Those that move it
/// elsewhere or hand it to a consumer group would do it twice.
fn may_pop_again(info: &CommandInfo) -> bool {
    matches!(info.name, "blpop" | "brpop" | "bzpopmin" | "bzpopmax" | "xread")
}

/// `BLOCK` before `STREAMS` (Redis `xreadCommand`).
fn blocks(frame: &[u8]) -> bool {
    args(frame).skip(1).take_while(|a| !a.eq_ignore_ascii_case(b"STREAMS")).any(|a| a.eq_ignore_ascii_case(b"BLOCK"))
}

fn argument(frame: &[u8], n: usize) -> Option<&[u8]> {
    args(frame).nth(n)
}

fn is(argument: Option<&[u8]>, word: &[u8]) -> bool {
    argument.is_some_and(|a| a.eq_ignore_ascii_case(word))
}

/// The database of a `SELECT`.
pub fn selected(frame: &[u8]) -> Option<u32> {
    argument(frame, 1).and_then(database)
}

/// A database number as Redis reads it (`string2ll`: digits only, no leading zeros).
fn database(text: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(text).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?;
    if digits.len() > 1 && digits.starts_with('0') { None } else { digits.parse().ok() }
}

#[cfg(test)]
mod tests;
