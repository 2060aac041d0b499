//! The program as it is called: exit codes, messages, help, and what `check --online` finds on real servers.

mod console;
mod status;

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::configuration::Dir;
use pointsman::demo::cluster::{Cluster, Member, Settings};

const SECRET: &str = "hunter2";

/// The program without the environment of whoever runs the tests.
fn pointsman(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

/// Exit code, stdout and stderr. No output of any call in these tests may show the secret.
fn call(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(!out.contains(SECRET) && !err.contains(SECRET), "a secret is shown: {out}{err}");
    (status.code().expect("not killed by a signal"), out, err)
}

fn ends(arguments: &[&str]) -> (i32, String, String) {
    call(&mut pointsman(arguments))
}

/// A file that only its owner can read, as an argument.
fn file(dir: &Dir, name: &str, text: &str) -> String {
    dir.file(name, text).display().to_string()
}

#[test]
fn version_and_help_are_no_errors() {
    assert_eq!(ends(&["--version"]), (0, format!("pointsman {}\n", env!("CARGO_PKG_VERSION")), String::new()));
    let (code, help, _) = ends(&["--help"]);
    assert_eq!(code, 0);
    for part in ["run", "check", "status", "demo", "--version", "Exit codes", "78"] {
        assert!(help.contains(part), "{part} in {help}");
    }
    let flags = "--config --sentinel --master --service --listen --client-auth --commit --hold-timeout --backend-user \
                 --backend-password-file --sentinel-user --sentinel-password-file --admin --workers --drain-timeout \
                 --log-level --log-format POINTSMAN_BACKEND_PASSWORD POINTSMAN_SENTINEL_PASSWORD";
    for subcommand in ["run", "check"] {
        let (code, help, _) = ends(&[subcommand, "--help"]);
        assert_eq!(code, 0);
        for flag in flags.split_whitespace() {
            assert!(help.contains(flag), "{flag} in the help of {subcommand}");
        }
    }
    assert!(ends(&["check", "--help"]).1.contains("--online"));
    let (_, demo, _) = ends(&["demo", "--help"]);
    for flag in ["--keep", "--commit", "--clients", "--workers"] {
        assert!(demo.contains(flag), "{flag} in the help of demo");
    }
}

#[test]
fn wrong_usage_ends_with_64() {
    let master = ["run", "--master", "127.0.0.1:1", "--listen", "127.0.0.1:0"];
    let with = |more: &[&'static str]| [&master[..], more].concat();
    let cases: &[(Vec<&str>, &str)] = &[
        (vec![], "Usage: pointsman <COMMAND>"),
        (vec!["rnu"], "unrecognized subcommand 'rnu'"),
        (vec!["run"], "--config <FILE>|--sentinel <HOST:PORT>|--master <HOST:PORT>"),
        (vec!["run", "--sentinel", "h:1"], "--service <NAME>\n  --listen <ADDR>"),
        (vec!["run", "--sentinel", "h", "--service", "a", "--listen", "127.0.0.1:0"], "expected HOST:PORT, found `h`"),
        (
            vec!["run", "--master", "h:1", "--listen", "localhost:1"],
            "expected IP:PORT or unix:/path, found `localhost:1`",
        ),
        (
            vec!["run", "--config", "x", "--listen", "127.0.0.1:0"],
            "'--config <FILE>' cannot be used with '--listen <ADDR>'",
        ),
        (with(&["--hold-timeout", "5"]), "did you mean \"5s\" or \"5ms\"?"),
        (with(&["--commit", "eagre"]), "a similar value exists: 'eager'"),
        (with(&["--workers", "many"]), "expected a number of threads or \"auto\", found \"many\""),
        (with(&["--log-level", "inof"]), "did you mean \"info\"?"),
        (with(&["--backend-password", SECRET]), "a similar argument exists: '--backend-password-file'"),
        (with(&["--backend-password=hunter2"]), "a similar argument exists: '--backend-password-file'"),
        (
            vec!["run", "--master", "redis://u:hunter2@h:1", "--listen", "127.0.0.1:0"],
            "expected HOST:PORT, found a URL",
        ),
    ];
    for (arguments, expected) in cases {
        let (code, out, err) = ends(arguments);
        assert_eq!((code, out.as_str()), (64, ""), "{arguments:?}");
        assert!(err.contains(expected), "{arguments:?}: {err}");
    }
}

#[test]
fn a_wrong_configuration_ends_with_78_and_one_line_for_each_mistake() {
    let dir = Dir::new("wrong");
    let path = file(
        &dir,
        "p.toml",
        "[[service]]\nname = \"a\"\nlisten = [\"127.0.0.1:7000\"]\nsentinels = [\"h:1\"]\nbackend_password = \"hunter2\"\n\
         hold_timout = \"5s\"\ncommit = true\n[[service]]\nname = \"b\"\nlisten = [\"127.0.0.1:x\"]\n",
    );
    let expected = format!(
        "{path}:6:1: unknown key `hold_timout`, did you mean `hold_timeout`?\n\
         {path}:7:10: `commit`: expected a string in quotes, found true or false\n\
         {path}:10:11: `listen`: expected IP:PORT or unix:/path, found `127.0.0.1:x`\n"
    );
    let missing = "/nonexistent/p.toml";
    let not_there =
        format!("{missing}: cannot be read: No such file or directory (os error 2); expected a TOML file\n");
    let twice = file(
        &dir,
        "twice.toml",
        "[[service]]\nname = \"a\"\nlisten = [\"127.0.0.1:7000\"]\nmaster = \"h:1\"\n\
         [[service]]\nname = \"b\"\nlisten = [\"127.0.0.1:7000\"]\nmaster = \"h:1\"\n",
    );
    let duplicate = format!(
        "{twice}:7:11: duplicate listener 127.0.0.1:7000: expected an address of its own, this one was given at \
         {twice}:3:11\n"
    );
    // `check` finds what `run` would, in the same words.
    for subcommand in ["run", "check"] {
        assert_eq!(ends(&[subcommand, "--config", &path]), (78, String::new(), expected.clone()));
        assert_eq!(ends(&[subcommand, "--config", missing]), (78, String::new(), not_there.clone()));
        assert_eq!(ends(&[subcommand, "--config", &twice]), (78, String::new(), duplicate.clone()));
    }
    let secret = ["--backend-password-file", "/nonexistent/secret"];
    let flags = [&["check", "--master", "h:1", "--listen", "127.0.0.1:0"][..], &secret].concat();
    let expected = "--backend-password-file: password file /nonexistent/secret: cannot be read: No such file or \
                    directory (os error 2)\n";
    assert_eq!(ends(&flags), (78, String::new(), expected.to_owned()));
    let flags = ["check", "--master", "h:1", "--listen", "127.0.0.1:7000,0.0.0.0:7000"];
    let expected = "--listen: listener 0.0.0.0:7000 overlaps with 127.0.0.1:7000 given at --listen: expected an address \
                    apart from it\n";
    assert_eq!(ends(&flags), (78, String::new(), expected.to_owned()));
}

#[test]
fn an_address_that_cannot_be_bound_ends_with_71() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let run = |listen: &str, admin: &str| {
        ends(&["run", "--master", "127.0.0.1:1", "--listen", listen, "--admin", admin, "--log-level", "off"])
    };
    let in_use = format!("pointsman: cannot listen on {addr}: the address is in use by another process\n");
    assert_eq!(run(&addr, "127.0.0.1:0"), (71, String::new(), in_use.clone()));
    assert_eq!(run("127.0.0.1:0", &addr), (71, String::new(), in_use));
    let elsewhere = "pointsman: cannot listen on 192.0.2.1:1: this machine does not have the address\n";
    assert_eq!(run("192.0.2.1:1", "127.0.0.1:0"), (71, String::new(), elsewhere.to_owned()));
    let (code, _, err) = run("unix:/nonexistent/s", "127.0.0.1:0");
    assert_eq!(code, 71);
    assert!(
        err.starts_with("pointsman: cannot listen on unix:/nonexistent/s: there is no directory /nonexistent"),
        "{err}"
    );
}

#[test]
fn check_tries_the_addresses_but_lets_a_running_pointsman_keep_its_own() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let check = |listen: &str| ends(&["check", "--master", "h:1", "--listen", listen, "--workers", "3"]);
    let (code, out, err) = check(&addr);
    assert_eq!((code, err), (0, format!("warning: {addr} is in use at present\n")));
    assert_eq!(out, format!("flags: OK: redis on {addr} by the fixed master h:1; no admin address; 3 workers\n"));
    assert_eq!(check("192.0.2.1:1").0, 71);
    let (code, _, err) = check("unix:/nonexistent/s");
    assert_eq!((code, &*err), (71, "cannot listen on unix:/nonexistent/s: there is no directory /nonexistent\n"));
}

#[test]
fn the_shipped_configurations_pass_the_check() {
    let shipped = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("config")).unwrap();
    let shipped: Vec<_> = shipped.map(|entry| entry.unwrap().path()).collect();
    assert!(shipped.len() >= 2, "{shipped:?}");
    for path in shipped {
        let (code, out, err) = ends(&["check", "--config", path.to_str().unwrap()]);
        assert_eq!(code, 0, "{err}");
        assert!(out.ends_with(" workers\n") && out.lines().count() == 1, "{out}");
    }
}

#[test]
fn process_flags_win_over_the_file_and_the_environment_over_its_passwords() {
    let dir = Dir::new("override");
    let path = file(
        &dir,
        "p.toml",
        "workers = 1\n[[service]]\nlisten = [\"127.0.0.1:0\"]\nmaster = \"h:1\"\nbackend_password = \"hunter2\"\n",
    );
    let mut command = pointsman(&["check", "--config", &path, "--workers", "4", "--admin", "127.0.0.1:0"]);
    let (code, out, err) = call(command.env("POINTSMAN_BACKEND_PASSWORD", SECRET));
    assert_eq!(code, 0, "{err}");
    assert!(out.ends_with("; admin on 127.0.0.1:0; 4 workers\n"), "{out}");
    let why = "not used: POINTSMAN_BACKEND_PASSWORD is set, and the environment goes first";
    assert_eq!(err, format!("warning: {path}:5:20: {why}\n"));
    // A flag goes first of all, so the file's absence is noticed although the environment has a password.
    let flags = ["check", "--master", "h:1", "--listen", "127.0.0.1:0", "--backend-password-file", "/nonexistent/s"];
    assert_eq!(call(pointsman(&flags).env("POINTSMAN_BACKEND_PASSWORD", SECRET)).0, 78);
}

/// Runs until the address that cannot be bound ends it. Gives the warning that was logged to a file before.
fn logged(dir: &Dir, format: &str, journal: bool) -> String {
    let path = dir.0.join("log");
    let log = File::create(&path).unwrap();
    let (device, inode) = (log.metadata().unwrap().dev(), log.metadata().unwrap().ino());
    let flags = ["run", "--sentinel", "h:1", "--service", "a", "--listen", "unix:/nonexistent/s"];
    let mut command = pointsman(&[&flags[..], &["--hold-timeout", "1s", "--log-format", format]].concat());
    if journal {
        command.env("JOURNAL_STREAM", format!("{device}:{inode}"));
    } else {
        // The journal of something else: our stderr has been redirected.
        command.env("JOURNAL_STREAM", format!("{device}:{}", inode + 1));
    }
    assert_eq!(command.stderr(log).status().unwrap().code(), Some(71));
    let text = std::fs::read_to_string(&path).unwrap();
    // Root is told of itself before that.
    let warning = text.lines().find(|line| line.contains("`hold_timeout`: 1s is shorter than a failover"));
    let warning = warning.unwrap_or_else(|| panic!("{text}"));
    assert!(text.lines().last().unwrap().starts_with("pointsman: cannot listen on"), "the reason comes last: {text}");
    assert!(!text.contains('\x1b'), "no colour but on a terminal");
    warning.to_owned()
}

#[test]
fn log_lines_suit_their_reader() {
    let dir = Dir::new("log");
    let text = logged(&dir, "text", false);
    assert!(text.starts_with("20") && text.contains(" WARN "), "a time, then the level: {text}");
    let journal = logged(&dir, "text", true);
    assert!(journal.starts_with("<4> WARN "), "a priority and no time: {journal}");
    let json: serde_json::Value = serde_json::from_str(&logged(&dir, "json", true)).unwrap();
    assert_eq!(json["level"], "WARN");
    assert!(json["timestamp"].as_str().unwrap().starts_with("20"));
}

/// `check --online` for the whole cluster through flags and the given environment.
fn online(cluster: &Cluster, service: &str, more: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let sentinels: Vec<String> = cluster.sentinels().iter().map(ToString::to_string).collect();
    let sentinels = sentinels.join(",");
    let flags = ["check", "--online", "--sentinel", &sentinels, "--service", service, "--listen", "127.0.0.1:0"];
    call(pointsman(&[&flags[..], more].concat()).envs(environment.iter().copied()))
}

#[tokio::test]
async fn online_every_server_says_what_it_knows() {
    let mut cluster = Cluster::start(Settings::default()).await.unwrap();
    let master = cluster.addr(Member::Node(0));
    let (code, out, err) = online(&cluster, "mymaster", &[], &[]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 5, "three Sentinels, the master, the summary: {out}");
    for (line, sentinel) in lines.iter().zip(cluster.sentinels()) {
        let start = format!("mymaster: Sentinel {sentinel}: master {master}, config epoch 0, 2 replicas, 2 other ");
        assert!(line.starts_with(&start) && line.contains("quorum 2, down-after 1000 ms; OK 3 usable"), "{line}");
    }
    assert_eq!(lines[3], format!("mymaster: master {master}: role master, 2 replicas connected"));
    assert!(lines[4].starts_with("flags: OK: "));

    let (code, _, err) = online(&cluster, "mymaster", &["--hold-timeout", "5500ms"], &[]);
    assert_eq!(code, 0);
    assert!(err.starts_with("warning: mymaster: a failover may take 6s"), "{err}");

    let (code, out, _) = online(&cluster, "mymastre", &[], &[]);
    assert_eq!(code, 69);
    assert!(out.lines().all(|l| l.ends_with("FAILED: knows no master named `mymastre`, but mymaster")), "{out}");

    cluster.kill(Member::Sentinel(1)).unwrap();
    let (code, out, err) = online(&cluster, "mymaster", &[], &[]);
    assert_eq!(code, 69);
    assert_eq!(out.lines().filter(|l| l.contains("FAILED: cannot connect: Connection refused")).count(), 1, "{out}");
    assert!(err.contains("1 FAILED"), "{err}");

    // Stopped, not dead: connects are completed by its kernel and answered by nobody.
    cluster.pause(Member::Sentinel(2)).unwrap();
    let (code, out, _) = online(&cluster, "mymaster", &[], &[]);
    assert_eq!(code, 69);
    assert_eq!(out.lines().filter(|l| l.contains("FAILED: no answer within 3s")).count(), 1, "{out}");
}

#[tokio::test]
async fn online_passwords_are_used_where_they_belong_and_never_shown() {
    let settings = Settings {
        password: Some(SECRET.into()),
        sentinel_password: Some("hunter2-of-sentinel".into()),
        down_after: Duration::from_secs(5),
        ..Settings::default()
    };
    let cluster = Cluster::start(settings).await.unwrap();
    let dir = Dir::new("passwords");
    let sentinel_file = file(&dir, "sentinel", "hunter2-of-sentinel\n");
    let backend = ("POINTSMAN_BACKEND_PASSWORD", SECRET);
    let (code, out, err) = online(&cluster, "mymaster", &["--sentinel-password-file", &sentinel_file], &[backend]);
    assert_eq!(code, 0, "{out}{err}");

    let (code, out, _) = online(&cluster, "mymaster", &[], &[backend]);
    assert_eq!(code, 69);
    assert_eq!(out.matches("FAILED: NOAUTH Authentication required.").count(), 3, "{out}");

    let wrong = ("POINTSMAN_BACKEND_PASSWORD", "hunter2-but-wrong");
    let (code, out, _) = online(&cluster, "mymaster", &["--sentinel-password-file", &sentinel_file], &[wrong]);
    assert_eq!(code, 69);
    assert_eq!(out.matches("FAILED: AUTH: WRONGPASS").count(), 1, "{out}");

    let (code, out, _) = online(&cluster, "mymaster", &["--sentinel-password-file", &sentinel_file], &[]);
    assert_eq!(code, 69);
    let hint = "FAILED: NOAUTH Authentication required. (backend_password is not configured)";
    assert_eq!(out.matches(hint).count(), 1, "{out}");
}

#[tokio::test]
async fn online_the_documented_permissions_suffice() {
    let docs = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md")).unwrap();
    let users: Vec<String> =
        docs.lines().filter(|l| l.starts_with("user pointsman ")).map(|l| l.replace("PASSWORD", SECRET)).collect();
    let [backend, sentinel] = &users[..] else { panic!("one user for Redis, one for Sentinel: {users:?}") };
    let settings =
        Settings { redis_lines: vec![backend.clone()], sentinel_lines: vec![sentinel.clone()], ..Settings::default() };
    let cluster = Cluster::start(settings).await.unwrap();
    let environment = [("POINTSMAN_BACKEND_PASSWORD", SECRET), ("POINTSMAN_SENTINEL_PASSWORD", SECRET)];
    let users = ["--backend-user", "pointsman", "--sentinel-user", "pointsman"];
    let (code, out, err) = online(&cluster, "mymaster", &users, &environment);
    assert_eq!(code, 0, "{out}{err}");
    let (_, out, _) = online(&cluster, "other", &users, &environment);
    assert_eq!(out.matches("knows no master named `other`, but mymaster").count(), 3, "{out}");
}

#[tokio::test]
async fn online_a_fixed_master_is_asked_as_well() {
    let cluster = Cluster::start(Settings { replicas: 1, ..Settings::single() }).await.unwrap();
    let check = |node| {
        let addr = cluster.addr(Member::Node(node)).to_string();
        ends(&["check", "--online", "--master", &addr, "--listen", "127.0.0.1:0"])
    };
    let (code, out, _) = check(0);
    assert_eq!(code, 0, "{out}");
    let (code, out, _) = check(1);
    assert_eq!(code, 69);
    assert!(out.contains("FAILED: expected role master, found slave"), "{out}");
    let (code, out, _) = ends(&["check", "--online", "--master", "name.invalid:1", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, 69);
    assert!(out.contains("FAILED: cannot resolve `name.invalid`"), "{out}");
}
