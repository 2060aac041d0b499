//! The parts of `resp` that repeat what a server does, compared with a real one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pointsman::addr::AddressMap;
use pointsman::net::client::Client;
use pointsman::net::{Dialer, Resolver};
use pointsman::resp::{
    CommandId, Kind, ProtocolError, Refusal, RequestScanner, Scan, Value, args, classify, encode_command,
    inline_to_command, keys, lookup,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A redis-server on a free port, ended with the test.
struct Server {
    process: Child,
    addr: SocketAddr,
    dir: PathBuf,
}

impl Server {
    fn start(options: &[&str]) -> Self {
        // A port that was free a moment ago may be taken by another test: then the server exits, and the next is tried.
        for _ in 0..20 {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("resp-{}-{port}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            let mut process = Command::new("redis-server")
                .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""])
                .arg("--dir")
                .arg(&dir)
                .args(options)
                .stdout(Stdio::piped())
                .spawn()
                .expect("redis-server is installed");
            let mut log = BufReader::new(process.stdout.take().unwrap()).lines();
            if log.any(|line| line.unwrap().contains("Ready to accept connections")) {
                // Somebody has to go on reading, or the log fills its pipe and the server stands still.
                std::thread::spawn(move || log.for_each(drop));
                return Self { process, addr: SocketAddr::from(([127, 0, 0, 1], port)), dir };
            }
            process.wait().unwrap();
            std::fs::remove_dir_all(&dir).unwrap();
        }
        panic!("no free port");
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    async fn client(&self) -> Client {
        Dialer::new(AddressMap::default(), PATIENCE, Resolver::default()).connect(self.addr).await.unwrap()
    }

    /// All that the server answers to `input` until it closes.
    fn answer(&self, input: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        // The server may close before it has read all of it.
        let _ = stream.write_all(input);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => answer,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => answer,
            Err(e) => panic!("the server neither answers nor closes: {e}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn scan(input: &[u8]) -> Result<Scan, ProtocolError> {
    RequestScanner::new(512 << 20).scan(input)
}

#[test]
fn malformed_requests_get_the_same_answer() {
    let server = Server::start(&[]);
    let long = "x".repeat(64 * 1024 + 1);
    let mut inputs: Vec<Vec<u8>> = [
        "*abc\r\n",
        "*+1\r\n",
        "*01\r\n",
        "*1 \r\n",
        "* 1\r\n",
        "*\r\n",
        "*2147483648\r\n",
        "*99999999999999999999\r\n",
        "*-99999999999999999999\r\n",
        "*-0\r\n",
        "*1\r\n$abc\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n$+4\r\n",
        "*1\r\n$04\r\n",
        "*1\r\n$\r\n",
        "*1\r\n$536870913\r\n",
        "*1\r\nPING\r\n",
        "*1\rx:4\rx",
        "*2\r\n$4\r\nECHO\r\n*1\r\n",
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec();
    inputs.push(long.clone().into_bytes());
    inputs.push(format!("*{long}").into_bytes());
    inputs.push(format!("*1\r\n${long}").into_bytes());
    // A byte in place of the `$`; the reply quotes it.
    inputs.extend((0..=255).filter(|b| *b != b'$').map(|b| [b"*1\r\n", [b].as_slice(), b"4\r\n"].concat()));
    for input in inputs {
        let start = String::from_utf8_lossy(&input[..input.len().min(40)]).into_owned();
        let Err(error) = scan(&input) else { panic!("{start:?} was accepted") };
        if input == b"*1\r\n\x004\r\n" {
            // Redis 7.0 searches the line end as in a C string and waits behind the NUL; here it is one more wrong byte.
            continue;
        }
        let ours = error.reply().unwrap();
        assert_eq!(String::from_utf8_lossy(&server.answer(&input)), String::from_utf8_lossy(&ours), "{start:?}");
    }
}

#[test]
fn strangers_get_the_same_answer() {
    let server = Server::start(&["--requirepass", "secret"]);
    for input in ["*11\r\n", "*1\r\n$16385\r\n", "*2147483648\r\n"] {
        let mut scanner = RequestScanner::new(512 << 20);
        scanner.set_auth_required(true);
        let error = scanner.scan(input.as_bytes()).unwrap_err();
        assert_eq!(server.answer(input.as_bytes()), error.reply().unwrap(), "{input:?}");
    }
}

#[test]
fn http_is_closed_without_an_answer() {
    let server = Server::start(&[]);
    for input in ["POST / HTTP/1.1\r\n", "Host: x\r\n", "*1\r\n$4\r\npost\r\n", "*1\r\n$5\r\nHOST:\r\n"] {
        let ours = match scan(input.as_bytes()) {
            Ok(Scan::Inline { len }) => inline_to_command(&input.as_bytes()[..len]).unwrap_err(),
            other => other.unwrap_err(),
        };
        assert_eq!((ours, ours.reply()), (ProtocolError::Http, None));
        assert_eq!(server.answer(input.as_bytes()), b"", "{input:?}");
    }
}

#[test]
fn what_is_accepted_means_the_same() {
    let server = Server::start(&[]);
    // Lines that are nothing, and oddities that Redis lets pass, before an ECHO that shows where it goes on.
    for odd in ["\r\n", "\n", "  \t\r\n", "*0\r\n", "*-1\r\n", "*-5\r\n", "*0\rx", "*1\rx$4\rxPINGxx"] {
        let len = match scan(odd.as_bytes()).unwrap() {
            Scan::Empty { len } | Scan::Command { len, .. } | Scan::Inline { len } => len,
            Scan::Incomplete => panic!("{odd:?} is whole for Redis"),
        };
        assert_eq!(len, odd.len());
        let answer = server.answer(&[odd.as_bytes(), b"*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n"].concat());
        let pong = if odd.contains("PING") { "+PONG\r\n" } else { "" };
        assert_eq!(String::from_utf8_lossy(&answer), format!("{pong}$2\r\nhi\r\n"), "{odd:?}");
    }
}

#[test]
fn inline_quoting_is_the_same() {
    let server = Server::start(&[]);
    for line in [
        "ECHO a",
        "  ECHO\t'a b'  ",
        r#"ECHO "\x41\x4a\n\r\t\b\a\q\\\"""#,
        r#"ECHO '\n\'\x41'"#,
        r#"EC"HO" x"#,
        r#"ECHO """#,
        r#"ECHO "\x4"#,
        r#"ECHO "\xzz""#,
        "ECHO a\u{b}b",
        "\u{c}ECHO \u{b}a",
        "ECHO \"a\"b",
        "ECHO 'a'b",
        "ECHO \"a",
        "ECHO 'a\\'",
        "ECHO \"a\"\u{b}",
        "ECHO a\rb",
        "ECHO \u{e9}",
    ] {
        let input = format!("{line}\r\n");
        let expected = match inline_to_command(input.as_bytes()) {
            Ok(Some(command)) => server.answer(&command),
            Ok(None) => panic!("{line:?} is not blank"),
            Err(error) => error.reply().unwrap().to_vec(),
        };
        let answer = server.answer(input.as_bytes());
        assert_eq!(String::from_utf8_lossy(&answer), String::from_utf8_lossy(&expected), "{line:?}");
    }
}

/// The flags of every command of the server, by name.
async fn command_flags(server: &Server) -> BTreeMap<String, Vec<String>> {
    let reply = server.client().await.call(&["COMMAND"]).await.unwrap();
    let commands = reply.as_array().unwrap().iter().map(|command| {
        let fields = command.as_array().unwrap();
        let flags = fields[2].as_array().unwrap().iter().map(|f| f.as_str().unwrap().to_owned()).collect();
        (fields[0].as_str().unwrap().to_owned(), flags)
    });
    commands.collect()
}

#[tokio::test]
async fn the_command_table_is_that_of_the_server() {
    let server = Server::start(&[]);
    let commands = command_flags(&server).await;
    assert!(commands.len() >= 240, "Redis 7.0 has 240 commands");
    // Counted as reads though no flag says so: each only looks (see the table), subcommands included.
    const JUDGED_READS: &[&str] =
        &["command", "echo", "info", "lastsave", "memory", "object", "ping", "pubsub", "role", "time", "xinfo"];
    for (name, flags) in &commands {
        let id = lookup(name.as_bytes());
        assert_ne!(id, CommandId::OTHER, "{name} is not in the table");
        let info = id.info();
        let has = |flag: &str| flags.iter().any(|f| f == flag);
        let read = has("readonly") && name != "pfcount" || JUDGED_READS.contains(&name.as_str());
        assert_eq!(info.readonly, read, "{name} {flags:?}");
        assert!(!(info.readonly && has("write")), "{name} {flags:?}");
        if has("blocking") {
            assert!(matches!(info.kind, Kind::Blocking | Kind::BlockingIfAsked | Kind::Wait), "{name}");
        }
        if has("pubsub") && !matches!(name.as_str(), "publish" | "spublish") {
            assert!(matches!(info.kind, Kind::Subscribe | Kind::Unsubscribe), "{name}");
        }
        if has("no_multi") && name != "save" {
            assert!(matches!(info.kind, Kind::Server | Kind::Replica), "{name}");
        }
        // Not allowed in scripts because they act on the connection: none of them may be shared, but for those that
        // are merely slow, or scripts themselves.
        let harmless = ["bgrewriteaof", "bgsave", "eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro"];
        if has("noscript") && !harmless.contains(&name.as_str()) && !matches!(name.as_str(), "role" | "save") {
            assert_ne!(info.kind, Kind::Plain, "{name}");
        }
    }
}

/// First key, last key (negative: from the end) and step, as the server has them for a command or subcommand.
fn keys_of(command: &Value) -> [i64; 3] {
    let fields = command.as_array().unwrap();
    [3, 4, 5].map(|i| match &fields[i] {
        Value::Int(n) => *n,
        other => panic!("{other:?}"),
    })
}

#[tokio::test]
async fn keys_are_where_the_server_has_them() {
    let server = Server::start(&[]);
    let mut client = server.client().await;
    let reply = client.call(&["COMMAND"]).await.unwrap();
    let mut compared = 0;
    for command in reply.as_array().unwrap() {
        let fields = command.as_array().unwrap();
        let name = fields[0].as_str().unwrap();
        let has = |flag: &str| fields[2].as_array().unwrap().iter().any(|f| f.as_str() == Some(flag));
        // Those are asked for below; and channels are no keys, whatever the server calls them there.
        if has("movablekeys") || has("pubsub") {
            continue;
        }
        // Of a container the subcommands that have keys say where they are.
        let parts = fields.get(9).and_then(Value::as_array).unwrap_or_default();
        let places: Vec<[i64; 3]> =
            if parts.is_empty() { vec![keys_of(command)] } else { parts.iter().map(keys_of).collect() };
        let [first, last, step] = places.into_iter().max().unwrap();
        let words: Vec<String> = (0..9).map(|i| if i == 0 { name.to_owned() } else { format!("w{i}") }).collect();
        let last = if last < 0 { 9 + last } else { last };
        let expected: Vec<&str> = (first..=last)
            .step_by(step.max(1) as usize)
            .filter(|_| first > 0)
            .map(|i| words[i as usize].as_str())
            .collect();
        let frame = encode_command(&words);
        let found: Vec<&str> = keys(&frame, 99).into_iter().map(|key| std::str::from_utf8(key).unwrap()).collect();
        assert_eq!(found, expected, "{name} {first} {last} {step}");
        compared += 1;
    }
    assert!(compared > 200, "{compared}");
    for words in [
        "EVAL return 2 a b c",
        "EVALSHA abc 1 a b",
        "FCALL f 2 a b c",
        "LMPOP 2 a b LEFT",
        "BLMPOP 0 2 a b LEFT",
        "ZMPOP 1 a MIN",
        "BZMPOP 0 1 a MIN",
        "SINTERCARD 2 a b",
        "ZUNION 2 a b WEIGHTS 1 2",
        "ZDIFF 2 a b",
        "ZINTERCARD 2 a b LIMIT 3",
        "ZUNIONSTORE d 2 a b",
        "ZINTERSTORE d 1 a",
        "ZDIFFSTORE d 2 a b",
        "XREAD COUNT 1 STREAMS a b 0 0",
        "XREADGROUP GROUP g c STREAMS a >",
        "MIGRATE h 1 a 0 9",
        "SORT a",
        "GEORADIUS a 0 0 1 m",
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        let reply = client.call(&[&["COMMAND", "GETKEYS"], &words[..]].concat()).await.unwrap();
        let expected: Vec<&str> = reply.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let frame = encode_command(&words);
        let found: Vec<&str> = keys(&frame, 99).into_iter().map(|key| std::str::from_utf8(key).unwrap()).collect();
        assert_eq!(found, expected, "{words:?}");
    }
}

#[tokio::test]
async fn refusals_are_those_of_the_server() {
    let server = Server::start(&["--replicaof", "127.0.0.1 1", "--repl-diskless-sync-delay", "0"]);
    let mut stream = server.connect();
    let mut ask = |command: &[&str]| {
        stream.write_all(&encode_command(command)).unwrap();
        let mut line = String::new();
        BufReader::with_capacity(1, &stream).read_line(&mut line).unwrap();
        line
    };
    let read_only = Some(Refusal::ReadOnly);
    for (command, expected) in [
        (["SET", "k", "v"].as_slice(), read_only),
        (&["EVAL", "return redis.call('SET', 'k', 'v')", "0"], read_only),
        (&["EVAL", "return redis.pcall('SET', 'k', 'v')", "0"], read_only),
        (&["EVAL", "return redis.error_reply('READONLY x')", "0"], None),
        (&["EVALSHA", "0000000000000000000000000000000000000000", "0"], Some(Refusal::NoScript)),
        (&["GET"], None),
        (&["CONFIG", "SET", "replica-serve-stale-data", "no"], None),
        (&["GET", "k"], Some(Refusal::MasterDown)),
        (&["CONFIG", "SET", "replica-serve-stale-data", "yes"], None),
    ] {
        let line = ask(command);
        assert_eq!(classify(line.as_bytes()), expected, "{command:?}: {line}");
    }
    // A block queued on a master and run on a replica.
    let mut admin = server.client().await;
    admin.call(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    assert_eq!(ask(&["MULTI"]), "+OK\r\n");
    assert_eq!(ask(&["SET", "k", "v"]), "+QUEUED\r\n");
    admin.call(&["REPLICAOF", "127.0.0.1", "1"]).await.unwrap();
    let line = ask(&["EXEC"]);
    assert_eq!(classify(line.as_bytes()), read_only, "{line}");
    admin.call(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    admin.call(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await.unwrap();
    let line = ask(&["SET", "k", "v"]);
    assert_eq!(classify(line.as_bytes()), Some(Refusal::NoReplicas), "{line}");
}

#[tokio::test]
async fn blocked_commands_are_sent_away_with_proof() {
    let server = Server::start(&[]);
    let mut admin = server.client().await;
    for how in ["unblock", "replicaof"] {
        let mut stream = server.connect();
        let mut replies = BufReader::new(stream.try_clone().unwrap());
        let mut next = || {
            let mut line = String::new();
            replies.read_line(&mut line).unwrap();
            line
        };
        stream.write_all(&encode_command(&["CLIENT", "ID"])).unwrap();
        let id = next().trim_start_matches(':').trim_end().to_owned();
        stream.write_all(&encode_command(&["BLPOP", "list", "0"])).unwrap();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let info = admin.call(&["INFO", "clients"]).await.unwrap();
            if info.as_str().unwrap().contains("blocked_clients:1\r\n") {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "BLPOP does not block");
        }
        let done = match how {
            "unblock" => admin.call(&["CLIENT", "UNBLOCK", &id, "ERROR"]).await.unwrap(),
            _ => admin.call(&["REPLICAOF", "127.0.0.1", "1"]).await.unwrap(),
        };
        assert!(done.as_error().is_none());
        let line = next();
        assert_eq!(classify(line.as_bytes()), Some(Refusal::Unblocked), "{line}");
    }
}

#[tokio::test]
async fn replies_of_both_versions_are_decoded() {
    let server = Server::start(&["--enable-debug-command", "yes"]);
    let mut client = server.client().await;
    let hello2 = client.call(&["HELLO", "2"]).await.unwrap();
    let hello3 = client.call(&["HELLO", "3"]).await.unwrap();
    for (hello, proto) in [(hello2, 2), (hello3, 3)] {
        assert_eq!(hello.map_get("role").unwrap().as_str(), Some("master"));
        assert_eq!(hello.map_get("proto").unwrap().as_i64(), Some(proto));
    }
    for (kind, expected) in [
        ("string", Value::Bulk("Hello World".into())),
        ("integer", Value::Int(12345)),
        ("double", Value::Double("3.141".parse().unwrap())),
        ("null", Value::Null),
        ("array", Value::Array((0..3).map(Value::Int).collect())),
        ("set", Value::Array((0..3).map(Value::Int).collect())),
        ("bignum", Value::Simple("1234567999999999999999999999999999999".into())),
        ("true", Value::Bool(true)),
        ("false", Value::Bool(false)),
        ("verbatim", Value::Bulk("This is a verbatim\nstring".into())),
    ] {
        let mut value = client.call(&["DEBUG", "PROTOCOL", kind]).await.unwrap();
        if let (Value::Array(items), "set") = (&mut value, kind) {
            items.sort_by_key(Value::as_i64);
        }
        assert_eq!(value, expected, "{kind}");
    }
    let map = client.call(&["DEBUG", "PROTOCOL", "map"]).await.unwrap();
    assert!(matches!(&map, Value::Map(pairs) if pairs.len() == 3), "{map:?}");
    // An attribute and then its reply are one frame; a push is one of its own.
    let after_attribute = client.call(&["DEBUG", "PROTOCOL", "attrib"]).await.unwrap();
    assert_eq!(after_attribute.as_str(), Some("Some real reply following the attribute"));
    client.send(&encode_command(&["DEBUG", "PROTOCOL", "push"])).await.unwrap();
    assert!(matches!(client.receive().await.unwrap(), Value::Push(_)));
    assert_eq!(client.receive().await.unwrap().as_str(), Some("Some real reply following the push reply"));
    assert_eq!(client.call(&["ECHO", "in step"]).await.unwrap().as_str(), Some("in step"));
}

#[tokio::test]
async fn deep_replies_pass_and_are_not_decoded() {
    let server = Server::start(&[]);
    let mut client = server.client().await;
    let script = "local t = 1; for i = 1, 60 do t = {t} end; return t";
    assert!(client.call(&["EVAL", script, "0"]).await.is_err());
    assert_eq!(client.call(&["ECHO", "in step"]).await.unwrap().as_str(), Some("in step"));
}

#[test]
fn arguments_reach_the_server_as_they_are() {
    let server = Server::start(&[]);
    let value: Vec<u8> = (0..=255).collect();
    let command = encode_command(&[b"ECHO".as_slice(), &value]);
    assert_eq!(args(&command).nth(1), Some(value.as_slice()));
    let answer = server.answer(&command);
    assert_eq!(answer, [b"$256\r\n".as_slice(), &value, b"\r\n"].concat());
}
