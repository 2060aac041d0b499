//! Commands that do something to a connection, that look as if they did, and that show what it is.

/// See the module. Words are separated by single spaces.
#[rustfmt::skip]
pub const COMMANDS: &[&str] = &[
    "GET k", "SET k v", "incr k", "PING", "EVAL script 0", "PUBLISH c m", "DBSIZE", "INFO",
    "SELECT 0", "SELECT 3", "select 15", "SELECT 16", "SELECT -1", "SELECT 03", "SELECT x", "SELECT", "SELECT 1 2",
    "AUTH u1 u1", "AUTH u2 u2", "AUTH u1 wrong", "AUTH wrong", "AUTH default any", "AUTH", "AUTH a b c",
    "HELLO", "HELLO 2", "HELLO 3", "hello 3 auth u1 u1", "HELLO 3 AUTH u1 wrong", "HELLO 2 SETNAME me",
    "HELLO 3 SETNAME you AUTH u2 u2", "HELLO 4", "HELLO 3 FOO", "HELLO 3 AUTH u1", "HELLO x",
    "RESET", "RESET x", "QUIT",
    "MULTI", "MULTI x", "EXEC", "DISCARD", "DISCARD x", "EXEC x",
    "WATCH k", "WATCH", "UNWATCH", "UNWATCH x",
    "SUBSCRIBE a", "SUBSCRIBE a b", "SUBSCRIBE", "PSUBSCRIBE p*", "SSUBSCRIBE s",
    "UNSUBSCRIBE", "UNSUBSCRIBE a", "UNSUBSCRIBE b none", "PUNSUBSCRIBE", "PUNSUBSCRIBE p*", "SUNSUBSCRIBE",
    "SUNSUBSCRIBE s",
    "BLPOP l 0", "BLMOVE a b LEFT RIGHT 0", "XREAD STREAMS s 0", "XREAD BLOCK 0 STREAMS s $",
    "XREADGROUP GROUP g c STREAMS BLOCK 0", "XREADGROUP GROUP g c BLOCK 0 STREAMS s >", "WAIT 0 0", "WAITAOF 0 0 0",
    "CLIENT", "CLIENT ID", "CLIENT ID x", "CLIENT GETNAME", "CLIENT SETNAME me", "client setname you",
    "CLIENT SETNAME", "CLIENT SETNAME a b", "CLIENT INFO", "CLIENT LIST", "CLIENT KILL ID 9", "CLIENT KILL",
    "CLIENT UNBLOCK 9", "CLIENT UNBLOCK", "CLIENT REPLY ON", "CLIENT REPLY OFF", "CLIENT REPLY SKIP",
    "CLIENT REPLY MAYBE", "CLIENT REPLY", "CLIENT TRACKING ON", "CLIENT TRACKING OFF", "CLIENT TRACKING",
    "CLIENT CACHING YES", "CLIENT GETREDIR", "CLIENT TRACKINGINFO", "CLIENT NO-EVICT ON", "CLIENT PAUSE 0",
    "CLIENT HELP",
    "MONITOR", "SCRIPT LOAD x", "SCRIPT KILL", "SCRIPT DEBUG YES", "FUNCTION STATS", "FUNCTION KILL", "DEBUG SLEEP 0",
    "REPLCONF ack 0", "PSYNC ? -1", "SYNC", "MODULE.COMMAND x", "NOSUCH",
    "CLIENT LIST ID 9", "CLIENT LIST ID 9 TYPE normal",
];
