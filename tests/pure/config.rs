//! The configuration file: what it can say, and what each mistake is answered with.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::configuration::{Dir, SERVICE, complaints, resolve, shorten};
use pointsman::config::{
    ClientAuth, Commit, Environment, FileAccess, Given, GivenCredentials, HookAction, HookEvent, LogFormat, Place,
    Problem, Resolved, Secret, Source, load,
};

#[test]
fn several_services_with_all_they_can_say() {
    let dir = Dir::new("several");
    dir.file("secret", "s3cret\n");
    let path = dir.file(
        "p.toml",
        r#"
            workers = 3
            admin = "[::1]:9600"
            log.format = "json"
            [[service]]
            name = "cache"
            listen = ["127.0.0.1:6379", { address = "unix:/run/cache.sock", mode = "0660", owner = "root", group = "12", backlog = 5 }]
            sentinels = ["s1:26379", "[::1]:26379"]
            backend_user = "app"
            backend_password_file = "secret"
            sentinel_password = "other"
            client_auth = "inject"
            commit = "eager"
            hold_timeout = "0s"
            reissue_pops = false
            limits = { max_clients = 5, bulk_bytes = 0x200000 }
            [[service]]
            master = "localhost:6380"
            listen = ["127.0.0.1:6380"]
            [service.limits]
            pinned = 7
        "#,
    );
    let Resolved { config, warnings, .. } = resolve(&path, &Environment::default()).unwrap();
    assert_eq!(warnings, []);
    assert_eq!((config.workers, config.log.format), (3, LogFormat::Json));
    assert_eq!(config.admin.listen.iter().map(|l| l.address.to_string()).collect::<Vec<_>>(), ["[::1]:9600"]);
    let [cache, fixed] = &config.services[..] else { panic!("two services") };
    let listen: Vec<String> = cache.listen.iter().map(|l| l.address.to_string()).collect();
    assert_eq!(listen, ["127.0.0.1:6379", "unix:/run/cache.sock"]);
    let access = FileAccess { mode: Some(0o660), owner: Some(0), group: Some(12) };
    assert_eq!((cache.listen[1].access, cache.listen[1].backlog, cache.listen[0].backlog), (access, 5, 4096));
    let backend = cache.backend.as_ref().unwrap();
    assert_eq!((backend.user.as_deref(), backend.password.expose()), (Some(&b"app"[..]), &b"s3cret"[..]));
    let Source::Sentinels { endpoints, credentials: Some(sentinel) } = &cache.source else { panic!("{cache:?}") };
    assert_eq!(endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(), ["s1:26379", "[::1]:26379"]);
    assert_eq!((sentinel.user.as_deref(), sentinel.password.expose()), (None, &b"other"[..]));
    assert_eq!((cache.client_auth, cache.commit), (ClientAuth::Inject, Commit::Eager));
    assert_eq!((cache.hold_timeout, cache.reissue_pops), (Duration::ZERO, false));
    assert_eq!((cache.limits.max_clients, cache.limits.bulk_bytes), (5, 2 << 20));
    assert_eq!((fixed.name.as_str(), fixed.limits.pinned), ("redis", 7));
    assert_eq!(fixed.source, Source::Static("localhost:6380".parse().unwrap()));
}

#[test]
fn every_mistake_of_shape_is_told_at_once_with_its_place() {
    let text = r#"wokers = 3
workers = "x"
commit = "eager"
[log]
level = "inof"
[[service]]
name = "a"
listen = "127.0.0.1:1"
sentinels = ["h:1", "redis://u:hunter2@h:1", 3]
backend_password = 12345
hold_timeout = 15
reissue_pops = "yes"
client_auth = "injekt"
  hold_timout = "1s"
limits = { pined = 3, output_bytes = "64KB", bulk_bytes = -1 }
[[service]]
listen = ["x", { address = "y", mod = "0660", mode = "660x" }, { mode = 660, listen = 1, backlog = 0 }, 3]
[[service]]
[[service.listen]]
adress = "127.0.0.1:1"
[[service.listen]]
address = "127.0.0.1:1"
backlog = "many"
"#;
    let expected = r#"p.toml:1:1: unknown key `wokers`, did you mean `workers`?
p.toml:2:11: `workers`: expected a number of threads or "auto", found "x"
p.toml:3:1: unknown key `commit`, it belongs to [[service]]
p.toml:5:9: `level`: expected one of off, error, warn, info, debug, trace, found "inof", did you mean "info"?
p.toml:8:10: `listen`: expected an array of addresses, ["…", "…"], found a string
p.toml:9:21: `sentinels`: expected HOST:PORT, found a URL; user and password have places of their own: backend_user and backend_password_file, or sentinel_user and sentinel_password_file
p.toml:9:46: `sentinels`: expected a string in quotes, found a number
p.toml:10:20: `backend_password`: expected a string in quotes, found a number
p.toml:11:16: `hold_timeout`: expected a duration such as "250ms", "5s" or "1m", found "15", which lacks its unit: did you mean "15s" or "15ms"?
p.toml:12:16: `reissue_pops`: expected true or false, found a string
p.toml:13:15: `client_auth`: expected "passthrough" or "inject", found "injekt", did you mean "inject"?
p.toml:14:3: unknown key `hold_timout`, did you mean `hold_timeout`?
p.toml:15:12: unknown key `pined`, did you mean `pinned`?
p.toml:15:38: `output_bytes`: expected bytes, such as 65536, "64KiB" or "1MiB", found "64KB": write KiB for 1024
p.toml:15:59: `bulk_bytes`: expected a whole number, found -1
p.toml:17:11: `listen`: expected IP:PORT or unix:/path, found `x`
p.toml:17:28: `address`: expected IP:PORT or unix:/path, found `y`
p.toml:17:33: unknown key `mod`, did you mean `mode`?
p.toml:17:54: `mode`: expected three octal digits such as "0660", found "660x"
p.toml:17:64: incomplete listener: expected `address`, an IP:PORT or unix:/path
p.toml:17:73: `mode`: expected a string in quotes, found a number
p.toml:17:78: unknown key `listen`, it belongs to [[service]]
p.toml:17:100: `backlog`: expected 1 to 65535, found 0
p.toml:17:105: `listen`: expected a string in quotes, found a number
p.toml:19:1: incomplete listener: expected `address`, an IP:PORT or unix:/path
p.toml:20:1: unknown key `adress`, did you mean `address`?
p.toml:23:11: `backlog`: expected a whole number, found a string"#;
    assert_eq!(complaints("shape", text), expected);
}

#[test]
fn every_contradiction_is_told_at_once_with_its_place() {
    let text = r#"admin = "127.0.0.1:2"
workers = 0
user = "root"
[[service]]
name = "a"
listen = ["127.0.0.1:1", "0.0.0.0:2"]
sentinels = ["h:1", "h:1"]
hold_timeout = "2h"
client_auth = "inject"
[[service]]
name = "a"
listen = ["0.0.0.0:1", "unix:/s", "unix:/s"]
master = "h:2"
sentinel_user = "u"
[[service]]
name = "b c"
listen = ["127.0.0.1:3"]
sentinels = ["h:1"]
master = "h:2"
backend_user = "u"
[[service]]
sentinels = ["h:1"]
sentinel_password = ""
limits.max_clients = 0
[[service]]
name = "d"
listen = ["127.0.0.1:4"]
[[service]]
name = "e"
listen = [{ address = "127.0.0.1:5", mode = "0600" }, { address = "unix:/t", owner = "nobody at all", group = "-1" }]
master = "h:2"
"#;
    let expected = r#"p.toml:1:9: listener 127.0.0.1:2 overlaps with 0.0.0.0:2 given at p.toml:6:26: expected an address apart from it
p.toml:2:11: `workers`: expected at least 1, found 0
p.toml:3:8: `user`: expected somebody without privileges, found root
p.toml:7:21: Sentinel h:1 is given twice
p.toml:8:16: `hold_timeout`: expected at most 3600s, found 7200s
p.toml:9:15: client_auth "inject" gives clients the identity of the backend user: expected backend_password, backend_password_file or POINTSMAN_BACKEND_PASSWORD
p.toml:11:8: service name `a` is taken: expected another than at p.toml:5:8
p.toml:12:11: listener 0.0.0.0:1 overlaps with 127.0.0.1:1 given at p.toml:6:11: expected an address apart from it
p.toml:12:35: duplicate listener unix:/s: expected an address of its own, this one was given at p.toml:12:24
p.toml:14:17: a service with a fixed `master` asks no Sentinel: unexpected sentinel user or password
p.toml:16:8: expected the name of a service, found an empty one or one with blanks
p.toml:18:14: expected `sentinels` or a fixed `master`, found both
p.toml:20:16: a user without a password: expected backend_password, backend_password_file or POINTSMAN_BACKEND_PASSWORD
p.toml:21:1: incomplete service: expected `name`, the master name that the Sentinels know
p.toml:21:1: incomplete service: expected `listen`, at least one IP:PORT or unix:/path
p.toml:23:21: `sentinel_password`: expected a password, found an empty string
p.toml:24:22: `max_clients`: expected at least 1, found 0
p.toml:25:1: incomplete service: expected `sentinels` (at least one HOST:PORT) or a fixed `master`
p.toml:30:45: `mode` is of Unix sockets, and 127.0.0.1:5 is none
p.toml:30:86: `owner`: this machine knows no such name as `nobody at all`
p.toml:30:111: `group`: this machine knows no such name as `-1`"#;
    assert_eq!(complaints("contradictions", text), expected);
}

#[test]
fn files_that_are_no_configuration() {
    let single = "p.toml:1:1: expected [[service]], in double brackets since there may be several";
    let cases: &[(&str, &[u8], &str)] = &[
        ("empty", b"", "p.toml:1:1: no service: expected at least one [[service]] block"),
        ("single", b"[service]\nname = \"a\"", single),
        ("scalar", b"service = 3", "p.toml:1:11: `service`: expected [[service]] blocks, found a number"),
        ("none", b"service = []", "p.toml:1:11: no service: expected at least one [[service]] block"),
        ("log", b"log = 3\n[[service]]", "p.toml:1:7: `log`: expected a table, found a number"),
        ("utf8", b"# \xc3\xa4\nworkers = \"\xff\"", "p.toml:2:12: expected UTF-8 text, found something else"),
    ];
    for (test, text, expected) in cases {
        assert_eq!(complaints(test, text).lines().next(), Some(*expected), "{test}");
    }
    let large = complaints("large", vec![b'#'; (1 << 20) + 1]);
    assert_eq!(large, "p.toml: expected a TOML file, found more than 1 MiB");
    let missing = load(Path::new("/nonexistent/p.toml")).unwrap_err().to_string();
    let expected = "cannot be read: No such file or directory (os error 2); expected a TOML file";
    assert_eq!(missing, format!("/nonexistent/p.toml: {expected}"));
}

#[test]
fn no_mistake_around_a_password_shows_it() {
    const SECRET: &str = "hunter2";
    let values = [
        "hunter2",
        "\"hunter2",
        "'hunter2\n",
        "\"hunter2\" x",
        "\"hunter2\\q\"",
        "[\"hunter2\"]",
        "{ a = \"hunter2\" }",
        "\"hunter2\"\nbackend_password = \"hunter2\"\nsentinel_password = \"hunter2\"",
        "\"hunter2\"\nlimits = \"hunter2\"",
        "\"\"\"hunter2",
    ];
    for key in ["backend_password", "sentinel_password", "backend_pasword"] {
        for value in values {
            let text = complaints("secret", format!("{SERVICE}{key} = {value}\n"));
            assert!(!text.contains(SECRET), "{key} = {value}: {text}");
            assert!(text.starts_with("p.toml:"), "{text}");
        }
    }
    // Numbers are secrets too.
    assert!(!complaints("number", format!("{SERVICE}backend_password = 4711\n")).contains("4711"));
}

#[test]
fn a_password_never_shows_in_debug_output() {
    let dir = Dir::new("debug");
    let path = dir.file("p.toml", format!("{SERVICE}backend_password = \"hunter2\"\n"));
    let resolved = resolve(&path, &Environment::default()).unwrap();
    assert_eq!(resolved.config.services[0].backend.as_ref().unwrap().password.expose(), b"hunter2");
    assert!(!format!("{resolved:?}{:?}", load(&path)).contains("hunter2"));
}

#[test]
fn password_files() {
    let dir = Dir::new("files");
    let config = |file: &str| {
        let path = dir.file("p.toml", format!("{SERVICE}backend_password_file = \"{file}\"\n"));
        resolve(&path, &Environment::default())
    };
    for (content, password) in [("pw", "pw"), ("pw\n", "pw"), ("pw\r\n", "pw"), (" p w \n", " p w ")] {
        dir.file("s", content);
        assert_eq!(
            config("s").unwrap().config.services[0].backend.as_ref().unwrap().password.expose(),
            password.as_bytes()
        );
    }
    let refused = |content: &[u8]| {
        dir.file("s", content);
        let text = config("s").unwrap_err();
        assert!(text.starts_with("p.toml:5:25: password file s: ") && !text.contains("hunter2"), "{text}");
        text
    };
    assert!(refused(b"").ends_with("found none"));
    assert!(refused(b"\n").ends_with("found none"));
    assert!(refused(b"hunter2\nhunter2\n").ends_with("found several"));
    assert!(refused(b"hunter2\xff").ends_with("found something else"));
    assert!(refused(&[b'x'; 4097]).ends_with("found more than 4 KiB"));
    assert!(config("none").unwrap_err().contains("password file none: cannot be read: No such file"));
}

#[test]
fn the_environment_goes_before_the_file_and_says_so() {
    let place = Place::Named("POINTSMAN_BACKEND_PASSWORD");
    let environment = Environment {
        backend: GivenCredentials {
            user: Some(Given::new("env".into(), place.clone())),
            password: Some(Given::new(Secret::new("from the environment"), place)),
            password_file: None,
        },
        ..Environment::default()
    };
    let dir = Dir::new("environment");
    let path = dir.file("p.toml", format!("{SERVICE}backend_user = \"file\"\nbackend_password = \"from the file\"\n"));
    let Resolved { config, warnings, .. } = resolve(&path, &environment).unwrap();
    let backend = config.services[0].backend.as_ref().unwrap();
    assert_eq!((backend.user.as_deref(), backend.password.expose()), (Some(&b"env"[..]), &b"from the environment"[..]));
    let [Problem { message, .. }] = &warnings[..] else { panic!("{warnings:?}") };
    assert_eq!(message, "not used: POINTSMAN_BACKEND_PASSWORD is set, and the environment goes first");
}

#[test]
fn hooks_with_all_they_can_say() {
    let dir = Dir::new("hooks");
    dir.file("token", "from-the-file\n");
    let path = dir.file(
        "p.toml",
        format!(
            r#"{SERVICE}
            [[hook]]
            name = "chat-1"
            url = "https://chat.example:8443/hooks/s3cret?x=1"
            token_file = "token"
            headers = {{ X-Scope = "redis" }}
            events = ["failover_committed", "loss_known"]
            services = ["a"]
            timeout = "1m"
            retries = 0
            [[hook]]
            name = "page"
            url = "http://127.0.0.1:9094"
            token = "from-the-configuration"
            [[hook]]
            name = "run"
            exec = ["/bin/sh", "-c", "true"]
            "#
        ),
    );
    let variable = "POINTSMAN_HOOK_CHAT_1_TOKEN".to_owned();
    let hook_tokens = [(variable, Secret::new("from-the-environment"))].into();
    let environment = Environment { hook_tokens, ..Environment::default() };
    let Resolved { config, warnings, faults } = resolve(&path, &environment).unwrap();
    assert_eq!((warnings, faults), (vec![], vec![]));
    let [chat, page, run] = &config.hooks[..] else { panic!("three hooks") };
    let HookAction::Post(webhook) = &chat.action else { panic!("{chat:?}") };
    assert_eq!(
        (webhook.url.endpoint.to_string(), webhook.url.path.expose()),
        ("chat.example:8443".into(), &b"/hooks/s3cret?x=1"[..])
    );
    assert_eq!(webhook.token.as_ref().map(Secret::expose), Some(&b"from-the-environment"[..]));
    assert!(webhook.tls.is_some() && webhook.headers[0].0 == "x-scope");
    assert_eq!((chat.timeout, chat.retries), (Duration::from_secs(60), 0));
    assert!(chat.wants(HookEvent::LossKnown, "a") && !chat.wants(HookEvent::LossKnown, "b"));
    assert!(!chat.wants(HookEvent::HoldEnded, "a") && page.wants(HookEvent::HoldEnded, "b"));
    let HookAction::Post(webhook) = &page.action else { panic!("{page:?}") };
    assert_eq!(webhook.token.as_ref().map(Secret::expose), Some(&b"from-the-configuration"[..]));
    assert_eq!((page.timeout, page.retries), (Duration::from_secs(5), 4));
    let HookAction::Run(program) = &run.action else { panic!("{run:?}") };
    assert_eq!(
        (program.path.as_path(), &program.arguments[..]),
        (Path::new("/bin/sh"), &["-c".to_owned(), "true".to_owned()][..])
    );
    let shown = format!("{config:?}");
    assert!(!shown.contains("s3cret") && !shown.contains("from-the"), "{shown}");

    let path = dir.file("p.toml", format!("{SERVICE}[[hook]]\nname = \"h\"\nurl = \"http://h/\"\ntoken = \"t\"\n"));
    let Resolved { warnings, .. } = resolve(&path, &environment).unwrap();
    let warnings: Vec<String> = warnings.iter().map(|w| shorten(&path, &w.to_string())).collect();
    let expected = [
        "p.toml:7:7: `url`: without https everybody on the way can read the token and the headers",
        "environment: POINTSMAN_HOOK_CHAT_1_TOKEN is set, and there is no hook of that name",
    ];
    assert_eq!(warnings, expected);
}

#[test]
fn what_is_wrong_with_hooks_is_told_without_their_secrets() {
    let text = format!(
        r#"{SERVICE}[[hook]]
name = "a b"
url = "https://u:hunter2@h/"
events = ["failover_comitted"]
headers = {{ "hunter2 x" = "y" }}
exec = ["sh"]
[[hook]]
nam = "x"
timeout = 5
"#
    );
    let expected = r#"p.toml:6:8: `name`: expected letters, digits, "-" and "_", found "a b"
p.toml:7:7: `url`: user and password in a URL: expected them in `headers`, or a `token`
p.toml:8:11: `events`: expected "master_found" or "failover_begun" or "failover_committed" or "failover_aborted" or "failover_rolled_back" or "failover_finished" or "loss_known" or "hold_too_long" or "hold_ended" or "master_restarted" or "sentinel_quorum_lost" or "sentinel_quorum_regained", found "failover_comitted", did you mean "failover_committed"?
p.toml:9:11: `headers`: expected names and values of HTTP headers, { X-Name = "value" }
p.toml:10:8: `exec`: expected the path of a program first, with a "/"
p.toml:12:1: unknown key `nam`, did you mean `name`?
p.toml:13:11: `timeout`: expected a duration such as "250ms", "5s" or "1m", found "5", which lacks its unit: did you mean "5s" or "5ms"?"#;
    assert_eq!(complaints("hook-shape", text), expected);

    let text = format!(
        r#"{SERVICE}[[hook]]
name = "a"
url = "http://h/"
exec = ["/bin/true"]
[[hook]]
url = "http://h/"
ca_file = "ca"
[[hook]]
name = "a"
services = ["nobody"]
exec = ["/bin/true"]
token = "hunter2"
timeout = "10m"
[[hook]]
name = "b"
url = "http://h/"
token = "hunter 2"
token_file = "none"
[[hook]]
name = "c"
url = "http://h/"
token = "hunter 2"
"#
    );
    let expected = r#"p.toml:8:8: expected `url` or `exec`, found both
p.toml:9:1: incomplete hook: expected `name`
p.toml:11:11: `ca_file` is of no use without https in `url`
p.toml:13:8: hook name `a` is taken: expected another than at p.toml:6:8
p.toml:14:13: `services`: there is no service "nobody"
p.toml:16:9: `token` is of no use without `url`
p.toml:17:11: `timeout`: expected at most 300s, found 600s
p.toml:22:14: expected `token` or `token_file`, found both
p.toml:26:9: token: expected visible ASCII characters without blanks"#;
    assert_eq!(complaints("hooks", text), expected);

    let single = format!("{SERVICE}[hook]\nname = \"x\"\n");
    assert_eq!(
        complaints("hook-table", single),
        "p.toml:5:1: expected [[hook]], in double brackets since there may be several"
    );
    let dir = Dir::new("hook-program");
    let path = dir.file("p.toml", format!("{SERVICE}[[hook]]\nname = \"x\"\nexec = [\"./p.toml\"]\n"));
    let faults: Vec<String> = resolve(&path, &Environment::default())
        .unwrap()
        .faults
        .iter()
        .map(|f| shorten(&path, &f.to_string()))
        .collect();
    assert_eq!(faults, ["p.toml:7:8: `exec`: p.toml is not executable (chmod +x)"]);
}

#[test]
fn what_is_suspicious_is_warned_of() {
    let dir = Dir::new("warnings");
    let warned = |text: &str, mode: u32| {
        let path = dir.file("p.toml", format!("{SERVICE}{text}"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let resolved = resolve(&path, &Environment::default()).unwrap();
        resolved.warnings.iter().map(|w| shorten(&path, &w.to_string())).collect::<Vec<_>>()
    };
    let one = |text: &str, mode: u32, expected: &str| {
        let warnings = warned(text, mode);
        assert!(warnings.len() == 1 && warnings[0].contains(expected), "{text}: {warnings:?}");
        assert!(!warnings[0].contains("hunter2"));
    };
    let none = |text: &str, mode: u32| assert_eq!(warned(text, mode), [""; 0], "{text}");
    one("backend_password = \"hunter2\"\n", 0o644, "p.toml:5:20: a password in a file that every user");
    none("backend_password = \"hunter2\"\n", 0o640);
    none("", 0o644);
    one("hold_timeout = \"4s\"\n", 0o600, "shorter than a failover");
    one("hold_timeout = \"6s\"\nconfirm_timeout = \"7s\"\n", 0o600, "shorter than confirm_timeout");
    none("hold_timeout = \"0s\"\n", 0o600); // refusing at once is a choice
    std::fs::set_permissions(dir.file("s", "hunter2"), std::fs::Permissions::from_mode(0o644)).unwrap();
    one("backend_password_file = \"s\"\n", 0o600, "password file s: every user of this machine");
}
