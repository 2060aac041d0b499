//! Where the keys of a command stand, and what it is called. Cold: for those who look at commands, not for the way of one.

use super::command::{CommandId, lookup};
use super::frame::args;

/// Where keys stand among the arguments; the name is argument 0.
enum Place {
    /// There are none.
    Nowhere,
    /// The first, the last (negative: counted from the end) and every so many between, as in the reply of `COMMAND`.
    Every(usize, isize, usize),
    /// As many as this argument says behind it, every so many.
    Counted(usize, usize),
    /// The first one, and as many as argument 2 says behind that.
    StoredAndCounted,
    /// The first half of what stands behind `STREAMS`.
    Streams,
    /// `MIGRATE`: argument 3, or if that is empty all behind `KEYS`.
    Migrated,
}

/// By name, as Redis 7 and 8 and Valkey 8 have it. Channels are no keys. Of a command that is not in the table (a
/// module's) it is taken to be the first argument, as with most.
fn place(name: &str) -> Place {
    match name {
        "acl" | "asking" | "auth" | "bgrewriteaof" | "bgsave" | "client" | "cluster" | "command" | "commandlog"
        | "config" | "dbsize" | "debug" | "discard" | "echo" | "exec" | "failover" | "flushall" | "flushdb"
        | "function" | "hello" | "info" | "keys" | "lastsave" | "latency" | "lolwut" | "module" | "monitor"
        | "multi" | "pfselftest" | "ping" | "psubscribe" | "psync" | "publish" | "pubsub" | "punsubscribe" | "quit"
        | "randomkey" | "readonly" | "readwrite" | "replconf" | "replicaof" | "reset" | "role" | "save" | "scan"
        | "script" | "select" | "shutdown" | "slaveof" | "slowlog" | "spublish" | "ssubscribe" | "subscribe"
        | "sunsubscribe" | "swapdb" | "sync" | "time" | "unsubscribe" | "unwatch" | "wait" | "waitaof" => {
            Place::Nowhere
        }
        "del" | "exists" | "mget" | "pfcount" | "pfmerge" | "sdiff" | "sdiffstore" | "sinter" | "sinterstore"
        | "sunion" | "sunionstore" | "touch" | "unlink" | "watch" => Place::Every(1, -1, 1),
        "blpop" | "brpop" | "bzpopmax" | "bzpopmin" => Place::Every(1, -2, 1),
        "mset" | "msetnx" => Place::Every(1, -1, 2),
        "blmove" | "brpoplpush" | "copy" | "geosearchstore" | "lcs" | "lmove" | "rename" | "renamenx" | "rpoplpush"
        | "smove" | "zrangestore" => Place::Every(1, 2, 1),
        "bitop" => Place::Every(2, -1, 1),
        "memory" | "object" | "pfdebug" | "xgroup" | "xinfo" => Place::Every(2, 2, 1),
        "lmpop" | "sintercard" | "zdiff" | "zinter" | "zintercard" | "zmpop" | "zunion" => Place::Counted(1, 1),
        "msetex" => Place::Counted(1, 2),
        "blmpop" | "bzmpop" | "eval" | "eval_ro" | "evalsha" | "evalsha_ro" | "fcall" | "fcall_ro" => {
            Place::Counted(2, 1)
        }
        "zdiffstore" | "zinterstore" | "zunionstore" => Place::StoredAndCounted,
        "xread" | "xreadgroup" => Place::Streams,
        "migrate" => Place::Migrated,
        _ => Place::Every(1, 1, 1),
    }
}

/// The keys that a command names, `most` at most. Those that stand behind options (`SORT … STORE`, `GEORADIUS … STORE`)
/// are left out. Of the beginning of a command, the keys that are there.
pub fn keys(frame: &[u8], most: usize) -> Vec<&[u8]> {
    let words: Vec<&[u8]> = args(frame).collect();
    let Some(id) = words.first().map(|name| lookup(name)) else { return Vec::new() };
    let count = words.len();
    let every = |from: usize, to: usize, step: usize| {
        let named = words.get(from..to.min(count)).unwrap_or_default();
        named.iter().step_by(step).copied().take(most).collect::<Vec<_>>()
    };
    let counted = |at: usize, step: usize| {
        let number = words.get(at).and_then(|word| std::str::from_utf8(word).ok()?.parse::<usize>().ok());
        let end = number.unwrap_or(0).saturating_mul(step).saturating_add(at + 1);
        every(at + 1, end, step)
    };
    match place(if id == CommandId::OTHER { "" } else { id.info().name }) {
        Place::Nowhere => Vec::new(),
        Place::Every(first, last, step) => {
            let end = if last < 0 { count.saturating_sub(last.unsigned_abs() - 1) } else { last.unsigned_abs() + 1 };
            every(first, end, step)
        }
        Place::Counted(at, step) => counted(at, step),
        Place::StoredAndCounted => [every(1, 2, 1), counted(2, 1)].concat().into_iter().take(most).collect(),
        Place::Streams => {
            let behind = words.iter().position(|word| word.eq_ignore_ascii_case(b"STREAMS")).map_or(count, |at| at + 1);
            every(behind, behind + (count - behind) / 2, 1)
        }
        Place::Migrated if words.get(3).is_some_and(|key| key.is_empty()) => {
            let behind = words.iter().position(|word| word.eq_ignore_ascii_case(b"KEYS")).map_or(count, |at| at + 1);
            every(behind, count, 1)
        }
        Place::Migrated => every(3, 4, 1),
    }
}

/// What a command is called: its name in lower case, with the subcommand where there are some, and with what a script is
/// called by. Not longer than [`NAME_BYTES`]. What clients have made up is shown [printably](printable).
pub fn title(frame: &[u8]) -> String {
    let mut words = args(frame);
    let name = words.next().unwrap_or_default();
    let info = lookup(name).info();
    let is_container = matches!(
        info.name,
        "acl"
            | "client"
            | "cluster"
            | "command"
            | "commandlog"
            | "config"
            | "debug"
            | "function"
            | "latency"
            | "memory"
            | "module"
            | "object"
            | "pfdebug"
            | "pubsub"
            | "script"
            | "slowlog"
            | "xgroup"
            | "xinfo"
    );
    // The whole of a script may stand behind EVAL; what the others name is short.
    let names_script = matches!(info.name, "evalsha" | "evalsha_ro" | "fcall" | "fcall_ro");
    let mut title = printable(&name.to_ascii_lowercase(), NAME_BYTES / 2);
    if let Some(word) = words.next().filter(|_| is_container || names_script) {
        let word = if is_container { word.to_ascii_lowercase() } else { word.to_owned() };
        title = format!("{title} {}", printable(&word, NAME_BYTES / 2));
    }
    title
}

/// Bytes of a command's name and of what belongs to it, before they are made printable.
const NAME_BYTES: usize = 96;

/// The first `most` bytes as text for people and terminals: what is no printable character as `\xNN`, `\n` and the like.
/// Ends in `…` if that is not all.
pub fn printable(bytes: &[u8], most: usize) -> String {
    let mut text = String::new();
    for chunk in bytes[..bytes.len().min(most)].utf8_chunks() {
        for c in chunk.valid().chars() {
            // Characters that turn the direction of a line are as bad as control characters.
            let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if c == '\\' || c.is_control() || turns {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        text.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    if bytes.len() > most {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::encode_command;

    fn frame(text: &str) -> bytes::Bytes {
        encode_command(&text.split(' ').collect::<Vec<_>>())
    }

    fn found(text: &str) -> String {
        let frame = frame(text);
        keys(&frame, 10).into_iter().map(|key| String::from_utf8_lossy(key)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn keys_stand_where_the_command_has_them() {
        for (command, expected) in [
            ("GET a", "a"),
            ("get", ""),
            ("PING a", ""),
            ("DEL a b c", "a b c"),
            ("MSET a 1 b 2", "a b"),
            ("BLPOP a b 0", "a b"),
            ("BLPOP", ""),
            ("BITOP AND d a b", "d a b"),
            ("OBJECT ENCODING a", "a"),
            ("MEMORY DOCTOR", ""),
            ("EVAL return 2 a b c", "a b"),
            ("EVAL return 0 a", ""),
            ("EVAL return 99 a", "a"),
            ("EVAL return x a", ""),
            ("FCALL_RO f 1 a b", "a"),
            ("LMPOP 2 a b LEFT", "a b"),
            ("BZMPOP 0 1 a MIN", "a"),
            ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "d a b"),
            ("XREAD COUNT 2 STREAMS a b 0 0", "a b"),
            ("XREADGROUP GROUP g c STREAMS a >", "a"),
            ("XREAD", ""),
            ("MIGRATE h 1 a 0 9", "a"),
            ("MIGRATE h 1  0 9 KEYS a b", "a b"),
            ("JSON.GET a", "a"),
            ("SUBSCRIBE c", ""),
            ("MSETEX 2 a 1 b 2 EX 9", "a b"),
        ] {
            assert_eq!(found(command), expected, "{command}");
        }
        assert_eq!(keys(&frame("MGET a b c"), 2).len(), 2);
        assert_eq!(keys(&frame("EVAL x 18446744073709551615 a"), 9).len(), 1, "a count beyond all bounds");
        assert_eq!(keys(b"*2\r\n$3\r\nGET\r\n$500\r\nab", 9).len(), 0, "the key is not whole");
        assert_eq!(keys(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$500\r\nab", 9), [b"a"], "of a beginning, what is there");
    }

    #[test]
    fn names_say_what_was_asked_and_not_more() {
        for (command, expected) in [
            ("GET secret", "get"),
            ("CONFIG Get x", "config get"),
            ("EVALSHA ABC 0", "evalsha ABC"),
            ("EVAL return 0", "eval"),
            ("AUTH user password", "auth"),
            ("My.Module x", "my.module"),
            ("\x1b[2J x", "\\u{1b}[2j"),
        ] {
            assert_eq!(title(&frame(command)), expected, "{command}");
        }
        assert!(title(&frame(&"x".repeat(1000))).chars().count() <= NAME_BYTES);
    }

    #[test]
    fn what_is_shown_is_bounded_and_harmless() {
        assert_eq!(printable("größe".as_bytes(), 99), "größe");
        assert_eq!(printable("größe".as_bytes(), 3), "gr\\xc3…", "cut in the middle of a character");
        assert_eq!(printable(b"a\r\n\x00\xff\\", 99), "a\\r\\n\\u{0}\\xff\\\\");
        assert_eq!(printable("\u{202e}x".as_bytes(), 99), "\\u{202e}x");
        assert_eq!(printable(b"abc", 3), "abc");
        assert_eq!(printable(b"abcd", 0), "…");
    }
}
