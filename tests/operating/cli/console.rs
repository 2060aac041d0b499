//! What is typed at a pointsman that runs: pauses, what is logged, and who may.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use pointsman::config::Commit;
use pointsman::demo::cluster::{Cluster, Member, Settings, free_port};
use pointsman::demo::proxy::{Proxy, ProxySettings, fetch, fetch_status};
use pointsman::demo::wire::text as reply_text;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep, timeout};

use super::ends;
use crate::support::{Front, PATIENCE, Raw, command};

/// Longer than any command may wait where it is not paused.
const BEYOND_HOLD: Duration = Duration::from_millis(1500);

/// Exit code, stdout and stderr.
async fn call(args: &[&str]) -> (i32, String, String) {
    let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
    let call = move || ends(&args.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(call).await.unwrap()
}

/// What a call that succeeds prints.
async fn said(args: &[&str]) -> String {
    let (code, out, err) = call(args).await;
    assert_eq!((code, err.as_str()), (0, ""), "{args:?}: {out}");
    out
}

async fn until(admin: SocketAddr, is_so: impl Fn(&serde_json::Value) -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        let status = fetch_status(admin).await.unwrap();
        if is_so(&status["services"][0]) {
            return;
        }
        assert!(Instant::now() < end, "never so: {status}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Commands wait through a failover and beyond `hold_timeout`, subscriptions and blocking pops are carried over, and behind
/// the pause everything runs once, at the new master.
#[tokio::test]
async fn in_a_pause_everything_waits_and_a_failover_goes_its_way() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let extra = ["--hold-timeout", "1s"].map(str::to_owned).to_vec();
    let settings = ProxySettings {
        binary: Path::new(env!("CARGO_BIN_EXE_pointsman")).to_owned(),
        commit: Commit::Confirmed,
        workers: 2,
        extra,
    };
    let proxy = Proxy::start(&cluster, &settings).await.unwrap();
    let admin = proxy.admin().to_string();
    let at = ["--admin", &admin];
    let order = |words: &[&'static str]| [words, &at].concat();
    let connect = || Raw::connect(proxy.listen());

    let (mut writer, mut reader, mut popper, mut subscriber) =
        (connect().await, connect().await, connect().await, connect().await);
    assert_eq!(writer.ask(&["INCR", "n"]).await, ":1\r\n");
    popper.send(&command(&["BLPOP", "list", "0"])).await;
    subscriber.send(&command(&["SUBSCRIBE", "news"])).await;
    subscriber.until(b":1\r\n").await;
    // A transaction that is open stays so.
    let mut transaction = connect().await;
    transaction.send(&command(&["MULTI"])).await;
    transaction.until(b"+OK\r\n").await;

    let heard = said(&order(&["sentinels", "mymaster"])).await;
    assert!(heard.starts_with("mymaster: 3 of 3 Sentinels in hearing\n") && heard.contains("  now  "), "{heard}");

    let paused = said(&order(&["pause", "mymaster"])).await;
    assert!(
        paused.starts_with("mymaster is paused until `pointsman resume mymaster`: nothing is under way, "),
        "{paused}"
    );
    writer.send(&command(&["INCR", "n"])).await;
    reader.send(&command(&["GET", "n"])).await;
    transaction.send(&command(&["INCR", "n"])).await;
    until(proxy.admin(), |s| s["commands_waiting"] == 4).await;
    let (code, page, _) = call(&order(&["status"])).await;
    assert!(
        code == 75 && page.contains("mymaster: PAUSED since ") && page.contains("an operator has paused it"),
        "{page}"
    );
    assert!(fetch(proxy.admin(), "/metrics").await.unwrap().contains("pointsman_paused{service=\"mymaster\"} 1\n"));
    assert_eq!(call(&order(&["status", "--ready"])).await.0, 0, "its clients have nowhere else to go");
    assert_eq!(said(&order(&["reload"])).await, "nothing has changed\n");

    cluster.failover(0).await.unwrap();
    until(proxy.admin(), |s| s["generation"] == 2 && s["phase"] == "stable").await;
    assert!(timeout(BEYOND_HOLD, writer.stream.readable()).await.is_err(), "answered in a pause");
    assert!(timeout(Duration::ZERO, reader.stream.readable()).await.is_err(), "answered in a pause");
    let new = cluster.master().await.unwrap();
    let n = async || reply_text(&cluster.ask(Member::Node(new), &["GET", "n"]).await.unwrap());
    assert_eq!(n().await, "1", "it did not run");

    assert_eq!(said(&order(&["resume", "mymaster"])).await, "mymaster goes on\n");
    writer.until(b":2\r\n").await;
    reader.until(b"\r\n").await;
    transaction.until(b"+QUEUED\r\n").await;
    transaction.send(&command(&["EXEC"])).await;
    transaction.until(b"*1\r\n:3\r\n").await;
    assert_eq!(writer.ask(&["PUBLISH", "news", "back"]).await, ":1\r\n");
    subscriber.until(b"$4\r\nback\r\n").await;
    assert_eq!(writer.ask(&["RPUSH", "list", "x"]).await, ":1\r\n");
    popper.until(b"$1\r\nx\r\n").await;
    assert_eq!(n().await, "3", "each ran once");
    assert_eq!(call(&order(&["status"])).await.0, 0);

    // Forgotten, it ends by itself.
    assert!(said(&order(&["pause", "mymaster", "--for", "300ms"])).await.contains("is paused until 2"));
    writer.send(&command(&["INCR", "n"])).await;
    writer.until(b":4\r\n").await;
    assert!(proxy.log_tail().contains("resumed: the time of the pause has passed"), "{}", proxy.log_tail());
    let (code, _, err) = call(&order(&["pause", "nobody"])).await;
    assert!(code == 69 && err.contains("there is no service `nobody`, but mymaster"), "{code}: {err}");

    assert_eq!(said(&order(&["log-level", "pointsman=debug"])).await, "logged from now on: pointsman=debug\n");
    assert!(said(&order(&["status"])).await.contains("log level pointsman=debug, set while it runs"));
    assert_eq!(said(&order(&["reload"])).await, "nothing has changed\n");
    assert!(said(&order(&["status"])).await.contains("log level pointsman=debug"), "a reload leaves it");
    assert_eq!(said(&order(&["log-level", "default"])).await, "logged from now on: info\n");
    assert!(!said(&order(&["status"])).await.contains("log level"));
    let (code, _, err) = call(&order(&["log-level", "loud"])).await;
    assert!(code == 64 && err.contains("loud"), "{code}: {err}");
}

/// Without a server to hear from, a subscriber is closed after `hold_timeout`, since it cannot be told; but a pause is for
/// working on servers, and has no such end.
#[tokio::test]
async fn subscribers_wait_out_a_pause_in_which_their_server_is_away() {
    let mut front = Front::start(Settings::single(), &["--hold-timeout", "200ms"]).await;
    let admin = front.admin.to_string();
    let mut subscriber = Raw::connect(front.proxy).await;
    subscriber.send(&command(&["SUBSCRIBE", "news"])).await;
    subscriber.until(b":1\r\n").await;
    said(&["pause", "test", "--admin", &admin]).await;
    front.cluster.kill(Member::Node(0)).unwrap();
    assert!(timeout(BEYOND_HOLD, subscriber.stream.readable()).await.is_err(), "closed in a pause");
    front.cluster.restart(Member::Node(0)).await.unwrap();
    let end = Instant::now() + PATIENCE;
    while reply_text(&front.cluster.ask(Member::Node(0), &["PUBLISH", "news", "flash"]).await.unwrap()) == "0" {
        assert!(Instant::now() < end, "it does not hear in the pause: {}", front.log());
        sleep(Duration::from_millis(10)).await;
    }
    subscriber.until(b"$5\r\nflash\r\n").await;
    said(&["resume", "test", "--admin", &admin]).await;

    // Without a pause it is closed.
    front.until_phase(true).await;
    front.cluster.kill(Member::Node(0)).unwrap();
    assert_eq!(subscriber.rest().await, b"");
}

/// A file with a token, its admin server on TCP with TLS and on a Unix socket.
#[tokio::test]
async fn orders_take_the_token_over_tls_and_a_unix_socket() {
    let cluster = Cluster::start(Settings::single()).await.unwrap();
    let local = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
    let (listen, admin, redis) = (local(), local(), cluster.addr(Member::Node(0)));
    let path = |name: &str| cluster.dir().join(name).display().to_string();
    let write = |name: &str, text: &str| std::fs::write(cluster.dir().join(name), text).unwrap();
    let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    write("admin.crt", &own.cert.pem());
    write("admin.key", &own.signing_key.serialize_pem());
    write("token", "0123456789abcdef-old\n");
    write("wrong", "0123456789abcdef-wrong\n");
    let socket = path("admin.sock");
    write(
        "pointsman.toml",
        &format!(
            "workers = 1\nadmin_token_file = \"token\"\nadmin_token_for_reads = true\nadmin = [\n\
             {{ address = \"{admin}\", tls_cert_file = \"admin.crt\", tls_key_file = \"admin.key\" }},\n\
             {{ address = \"unix:{socket}\", mode = \"0600\" }},\n]\n\
             [[service]]\nname = \"test\"\nlisten = [\"{listen}\"]\nmaster = \"{redis}\"\n"
        ),
    );
    let (file, log) = (path("pointsman.toml"), cluster.dir().join("pointsman.log"));
    let args = ["run", "--config", &file].map(str::to_owned);
    let output = std::fs::File::create(&log).unwrap();
    let mut process =
        cluster.supervisor().spawn(Path::new(env!("CARGO_BIN_EXE_pointsman")), args, Some(output)).unwrap();
    let end = Instant::now() + PATIENCE;
    while call(&["status", "--config", &file]).await.0 != 0 {
        assert!(Instant::now() < end, "{}", std::fs::read_to_string(&log).unwrap());
        sleep(Duration::from_millis(20)).await;
    }

    let (tcp, unix) = (admin.to_string(), format!("unix:{socket}"));
    let (ca, token, wrong) = (path("admin.crt"), path("token"), path("wrong"));
    let by_tls = ["--admin", &tcp, "--tls-ca-file", &ca];
    let fails = async |words: &[&str], why: &str| {
        let (code, out, err) = call(words).await;
        assert!(code == 69 && out.is_empty() && err.contains(why), "{words:?}: {code} {out}{err}");
    };
    fails(&["pause", "test", "--admin", &unix], "takes the token of `admin_token`").await;
    fails(&["pause", "test", "--admin", &unix], "--token-file FILE").await;
    fails(&["status", "--admin", &unix], "takes the token").await;
    fails(&[&["pause", "test", "--token-file", &wrong], &by_tls[..]].concat(), "takes another token than this one")
        .await;
    fails(&["status", "--admin", &tcp, "--token-file", &token], "TLS is spoken there").await;
    fails(&["status", "--admin", &tcp, "--token-file", &token, "--tls"], "certificate").await;
    fails(&["status", "--admin", &unix, "--token-file", &path("none")], "cannot be read").await;
    assert!(said(&[&["status", "--token-file", &token], &by_tls[..]].concat()).await.contains("test: flowing"));
    assert!(said(&["pause", "test", "--config", &file]).await.contains("test is paused"));
    assert!(said(&[&["resume", "test", "--token-file", &token], &by_tls[..]].concat()).await.contains("goes on"));
    assert!(said(&["status", "--ready", "--admin", &unix]).await == "ready\n", "whoever only checks has no token");

    // The token is changed, and a signal has it read: the old one is of no use any more.
    write("old", "0123456789abcdef-old\n");
    write("token", "0123456789abcdef-new\n");
    fails(&["reload", "--config", &file], "takes another token").await;
    assert!(said(&["reload", "--admin", &unix, "--token-file", &path("old")]).await.contains("changed: admin_token"));
    fails(&["pause", "test", "--admin", &unix, "--token-file", &path("old")], "takes another token").await;
    assert!(said(&["pause", "test", "--config", &file, "--for", "1m"]).await.contains("test is paused"));

    let logged = std::fs::read_to_string(&log).unwrap();
    assert_eq!(logged.matches("was refused: token").count(), 1, "said once in a while: {logged}");
    assert!(!logged.contains("0123456789abcdef"), "a token is shown");
    process.signal(Signal::TERM).unwrap();
    let end = Instant::now() + PATIENCE;
    while process.ended().unwrap().is_none() {
        assert!(Instant::now() < end, "it does not end");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(!Path::new(&socket).exists(), "its file is removed");
}

/// A client in each state, as the lists show them.
#[tokio::test]
async fn lists_tell_what_every_client_is_doing() {
    let front = Front::start(Settings::single(), &["--workers", "2"]).await;
    let admin = front.admin.to_string();
    let at = ["--admin", &admin];
    let order = |words: &[&'static str]| [words, &at].concat();
    let connect = || Raw::connect(front.proxy);
    let (mut shared, mut blocked, mut subscribed, mut pinned, mut held, _new) =
        (connect().await, connect().await, connect().await, connect().await, connect().await, connect().await);
    for words in [&["SELECT", "3"][..], &["CLIENT", "SETNAME", "web"]] {
        assert_eq!(shared.ask(words).await, "+OK\r\n");
    }
    // Redis knows it from 7.2 on.
    let has_said = shared.ask(&["CLIENT", "SETINFO", "LIB-NAME", "phpredis"]).await == "+OK\r\n";
    let (library, called) = if has_said { ("phpredis", "  web, phpredis") } else { ("", "  web") };
    assert_eq!(shared.ask(&["GET", "k"]).await, "$-1\r\n");
    subscribed.send(&command(&["SUBSCRIBE", "news"])).await;
    subscribed.until(b":1\r\n").await;
    assert_eq!(pinned.ask(&["WATCH", "k"]).await, "+OK\r\n");
    blocked.send(&command(&["BLPOP", "list", "0"])).await;
    let end = Instant::now() + PATIENCE;
    while said(&order(&["clients", "--state", "blocked", "--json"])).await.matches("\"id\"").count() < 1 {
        assert!(Instant::now() < end, "never blocked");
    }

    let listed = async |more: &[&'static str]| {
        let json = said(&order(&[&["clients", "test", "--json"], more].concat())).await;
        serde_json::from_str::<serde_json::Value>(&json).unwrap()["clients"].as_array().unwrap().clone()
    };
    let states = |clients: &[serde_json::Value]| {
        clients.iter().map(|c| c["state"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = listed(&[]).await;
    assert_eq!(states(&all), ["shared", "blocked", "subscribed", "pinned", "new", "new"]);
    let web = &all[0];
    assert_eq!((&web["db"], &web["name"], &web["library"]), (&3.into(), &"web".into(), &library.into()));
    assert_eq!((&web["user"], &web["command"], &web["service"]), (&"default".into(), &"echo".into(), &"test".into()));
    assert_eq!(all[1]["own_connection"], true);
    for (filter, count) in [
        (["--name", "web"], 1),
        (["--user", "default"], 6),
        (["--user", "nobody"], 0),
        (["--addr", "127.0.0.1:"], 6),
        (["--addr", "10."], 0),
        (["--limit", "2"], 2),
    ] {
        assert_eq!(listed(&filter).await.len(), count, "{filter:?}");
    }
    let table = said(&order(&["clients"])).await;
    assert!(table.starts_with("SERVICE  ID  ADDRESS") && table.ends_with("\n6 clients\n"), "{table}");
    assert!(table.lines().any(|l| l.ends_with(called) && l.contains("shared")), "{table}");
    let (code, _, err) = call(&order(&["clients", "nobody"])).await;
    assert!(code == 69 && err.contains("there is no service `nobody`, but test"), "{code}: {err}");
    assert_eq!(call(&order(&["clients", "--state", "asleep"])).await.0, 64);

    // Two are subscribed or watch, one blocks: each has a connection to itself.
    let pools: serde_json::Value = serde_json::from_str(&said(&order(&["pools", "--json"])).await).unwrap();
    let sum = |key: &str| {
        let workers = pools["services"][0]["workers"].as_array().unwrap();
        workers.iter().map(|worker| worker[key].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!((sum("clients"), sum("pinned") - sum("free"), sum("queued")), (6, 3, 0), "{pools}");
    assert!(sum("master") >= 1 && pools["services"][0]["commands"]["get"] == 1, "{pools}");
    let table = said(&order(&["pools"])).await;
    assert!(table.contains("test: writes to ") && table.contains("\n  all "), "{table}");
    assert_eq!(said(&order(&["sentinels"])).await, "test: its master is fixed, no Sentinel is asked\n");
    let (code, _, err) = call(&order(&["pools", "nobody"])).await;
    assert!(code == 64 && err.contains("has no service `nobody`, but test"), "{code}: {err}");

    said(&order(&["pause", "test"])).await;
    held.send(&command(&["GET", "k"])).await;
    let end = Instant::now() + PATIENCE;
    // The pop was taken back, and waits with it.
    while listed(&["--state", "held"]).await.len() < 2 {
        assert!(Instant::now() < end, "never held");
    }
    let top = said(&order(&["top", "-n", "2", "--interval", "100ms"])).await;
    assert_eq!(top.matches("SERVICE").count(), 2, "{top}");
    assert!(top.lines().any(|l| l.starts_with("test") && l.contains("PAUSED")), "{top}");
    assert!(!top.contains('\x1b'), "no colour and no cursor where nobody can see it");
    said(&order(&["resume", "test"])).await;
    held.until(b"$-1\r\n").await;
    assert_eq!(held.ask(&["RPUSH", "list", "x"]).await, ":1\r\n");
    blocked.until(b"$1\r\nx\r\n").await;
}

/// In a terminal `top` draws on a screen of its own, and leaves everything as it was.
#[tokio::test]
async fn top_leaves_the_terminal_as_it_was() {
    let front = Front::start(Settings::single(), &[]).await;
    // Ctrl-C is a key there; a signal comes from elsewhere.
    for (key, code) in [(Some("q"), 0), (Some("\x03"), 0), (None, 143)] {
        let program = env!("CARGO_BIN_EXE_pointsman");
        // What the terminal is set to behind it is asked in the same terminal.
        let top = format!("echo $$ >pid; exec {program} top --admin {}", front.admin);
        let line = format!("stty -a >before; sh -c '{top}'; echo ended $?; stty -a >after");
        let mut script = std::process::Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .current_dir(front.cluster.dir())
            .env("TERM", "xterm")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("script is installed (Debian package bsdutils)");
        let (mut keys, mut screen) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
        let pid = front.cluster.dir().join("pid");
        let process = move || Pid::from_raw(std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap()).unwrap();
        let watched = tokio::task::spawn_blocking(move || {
            let (mut seen, mut some, mut pressed) = (Vec::new(), [0; 4096], false);
            while let Ok(n @ 1..) = std::io::Read::read(&mut screen, &mut some) {
                seen.extend_from_slice(&some[..n]);
                // The second drawing: rates have come.
                if !pressed && String::from_utf8_lossy(&seen).matches("q: leave").count() == 2 {
                    match key {
                        Some(key) => std::io::Write::write_all(&mut keys, key.as_bytes()).unwrap(),
                        None => kill_process(process(), Signal::TERM).unwrap(),
                    }
                    pressed = true;
                }
            }
            String::from_utf8_lossy(&seen).into_owned()
        });
        let seen = timeout(PATIENCE * 2, watched).await.expect("it ends").unwrap();
        script.wait().unwrap();
        let (enter, leave) = ("\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l");
        assert!(seen.contains(enter) && seen.contains(&format!("{leave}ended {code}")), "{seen:?}");
        assert!(seen.contains("COMMANDS/S") && seen.contains("flowing"), "{seen:?}");
        let [before, after] =
            ["before", "after"].map(|f| std::fs::read_to_string(front.cluster.dir().join(f)).unwrap());
        assert_eq!(before, after);
    }
}
