//! The commands of Redis 7 and 8 and Valkey 8, by how they are routed.
//!
//! A test compares it with the `COMMAND` reply of a real server. Subcommands of a container share its entry.

use super::command::{CommandInfo, Kind};

/// One group: how it is routed, whether it certainly changes nothing, and its commands.
type Group = (Kind, bool, &'static [&'static str]);

const READ: bool = true;
const WRITE: bool = false;

#[rustfmt::skip]
const GROUPS: &[Group] = &[
    // Flagged readonly by the server.
    (Kind::Plain, READ, &[
        "bitcount", "bitfield_ro", "bitpos", "dbsize", "digest", "dump", "exists", "expiretime",
        "geodist", "geohash", "geopos", "georadius_ro", "georadiusbymember_ro", "geosearch", "get", "getbit",
        "getrange", "hexists", "hexpiretime", "hget", "hgetall", "hkeys", "hlen", "hmget", "hpexpiretime", "hpttl",
        "hrandfield", "hstrlen", "httl", "hvals", "keys", "lcs", "lindex", "llen", "lolwut", "lpos", "lrange",
        "mget", "pexpiretime", "pttl", "randomkey", "scard", "sdiff", "sinter", "sintercard", "sismember",
        "smembers", "smismember", "sort_ro", "srandmember", "strlen", "substr", "sunion", "touch", "ttl", "type",
        "xlen", "xpending", "xrange", "xrevrange", "zcard", "zcount", "zdiff", "zinter", "zintercard", "zlexcount",
        "zmscore", "zrandmember", "zrange", "zrangebylex", "zrangebyscore", "zrank", "zrevrange", "zrevrangebylex",
        "zrevrangebyscore", "zrevrank", "zscore", "zunion",
    ]),
    (Kind::Scan, READ, &["hscan", "scan", "sscan", "zscan"]),
    // Not flagged, but they only look: at keys (whose container has no flags of its own), or at the server.
    (Kind::Plain, READ, &[
        "command", "echo", "info", "lastsave", "memory", "object", "ping", "pubsub", "role", "time", "xinfo",
    ]),
    // Flagged readonly, but it writes its cache back into the key, and then replicates.
    (Kind::Plain, WRITE, &["pfcount"]),
    (Kind::Plain, WRITE, &[
        "append", "bitfield", "bitop", "copy", "decr", "decrby", "del", "delex", "delifeq", "expire",
        "expireat", "flushall", "flushdb", "geoadd", "georadius", "georadiusbymember", "geosearchstore",
        "getdel", "getex", "getset", "hdel", "hexpire", "hexpireat", "hgetdel", "hgetex", "hincrby", "hincrbyfloat",
        "hmset", "hpersist", "hpexpire", "hpexpireat", "hset", "hsetex", "hsetnx", "incr", "incrby", "incrbyfloat",
        "linsert", "lmove", "lmpop", "lpop", "lpush", "lpushx", "lrem", "lset", "ltrim", "migrate", "move", "mset",
        "msetex", "msetnx", "persist", "pexpire", "pexpireat", "pfadd", "pfdebug", "pfmerge", "pfselftest", "psetex",
        "publish", "rename", "renamenx", "restore", "restore-asking", "rpop", "rpoplpush", "rpush", "rpushx", "sadd",
        "sdiffstore", "set", "setbit", "setex", "setnx", "setrange", "sinterstore", "smove", "sort", "spop", "spublish",
        "srem", "sunionstore", "swapdb", "unlink", "xack", "xackdel", "xadd", "xautoclaim", "xclaim", "xdel", "xdelex",
        "xgroup", "xsetid", "xtrim", "zadd", "zdiffstore", "zincrby", "zinterstore", "zmpop", "zpopmax", "zpopmin",
        "zrangestore", "zrem", "zremrangebylex", "zremrangebyrank", "zremrangebyscore", "zunionstore",
    ]),
    (Kind::Script, READ, &["eval_ro", "evalsha_ro", "fcall_ro"]),
    (Kind::Script, WRITE, &["eval", "evalsha", "fcall"]),
    // Administration: containers count as writes if any subcommand changes something.
    (Kind::Plain, WRITE, &[
        "acl", "asking", "bgrewriteaof", "bgsave", "cluster", "commandlog", "config", "latency", "readonly", "readwrite",
        "save", "slowlog",
    ]),
    (Kind::Blocking, WRITE, &[
        "blmove", "blmpop", "blpop", "brpop", "brpoplpush", "bzmpop", "bzpopmax", "bzpopmin",
    ]),
    (Kind::BlockingIfAsked, READ, &["xread"]),
    (Kind::BlockingIfAsked, WRITE, &["xreadgroup"]),
    (Kind::Wait, WRITE, &["wait", "waitaof"]),
    (Kind::Multi, WRITE, &["multi"]),
    (Kind::Exec, WRITE, &["exec"]),
    (Kind::Discard, WRITE, &["discard"]),
    (Kind::Watch, WRITE, &["watch"]),
    (Kind::Unwatch, WRITE, &["unwatch"]),
    (Kind::Subscribe, WRITE, &["psubscribe", "ssubscribe", "subscribe"]),
    (Kind::Unsubscribe, WRITE, &["punsubscribe", "sunsubscribe", "unsubscribe"]),
    (Kind::Select, WRITE, &["select"]),
    (Kind::Auth, WRITE, &["auth"]),
    (Kind::Hello, WRITE, &["hello"]),
    (Kind::Reset, WRITE, &["reset"]),
    (Kind::Quit, WRITE, &["quit"]),
    (Kind::Client, WRITE, &["client"]),
    (Kind::Monitor, WRITE, &["monitor"]),
    (Kind::ScriptControl, WRITE, &["function", "script"]),
    (Kind::Server, WRITE, &["debug", "failover", "module", "replicaof", "shutdown", "slaveof"]),
    (Kind::Replica, WRITE, &["psync", "replconf", "sync"]),
];

/// Commands in the table.
pub(super) const TABLE_SIZE: usize = count();

/// The groups, flattened; a command's place is its [`CommandId`](super::CommandId).
pub(super) static COMMANDS: [CommandInfo; TABLE_SIZE] = flatten();

const fn count() -> usize {
    let (mut sum, mut group) = (0, 0);
    while group < GROUPS.len() {
        sum += GROUPS[group].2.len();
        group += 1;
    }
    sum
}

const fn flatten() -> [CommandInfo; TABLE_SIZE] {
    let mut all = [const { CommandInfo { name: "", readonly: false, kind: Kind::Other } }; TABLE_SIZE];
    let (mut next, mut group) = (0, 0);
    while group < GROUPS.len() {
        let (kind, readonly, names) = GROUPS[group];
        let mut i = 0;
        while i < names.len() {
            all[next] = CommandInfo { name: names[i], readonly, kind };
            next += 1;
            i += 1;
        }
        group += 1;
    }
    all
}
