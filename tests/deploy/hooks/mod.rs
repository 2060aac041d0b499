//! Hooks, by real failovers: what is told, in which order, and that nothing of it touches traffic; and the examples of
//! `deploy/hooks`.

mod examples;
mod receiver;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use pointsman::config::{HOOK_EVENTS, HookEvent};
use pointsman::demo::PLANNED;
use pointsman::demo::cluster::{Cluster, Member, free_port};
use pointsman::demo::ledger::{Ledger, LedgerSettings};
use pointsman::demo::proxy::{Proxy, fetch};
use pointsman::demo::settings::Settings;
use pointsman::hooks::{LostBytes, Notification, VERSION};
use pointsman::topology::record::FailoverKind;
use receiver::{Answer, Receiver};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

/// Longest wait for anything that should come soon.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest wait until a failover is settled; up to 22 s are usual for a planned one.
const SETTLE_LIMIT: Duration = Duration::from_secs(40);
/// How long the hook that is never answered is waited for: whoever waits for it stalls for longer than traffic may.
const HANGING: Duration = Duration::from_secs(6);
const STALL: Duration = Duration::from_secs(4);
/// As tokens, headers and paths go: no line of the log may have it.
const SECRET: &str = "hunter2";

/// A program for a hook, in the cluster's directory; it is run by `/bin/sh`, since not every directory for temporary
/// files lets programs be run.
fn script(cluster: &Cluster, name: &str, text: &str) -> String {
    let path = cluster.dir().join(name);
    fs::write(&path, text).unwrap();
    format!("[\"/bin/sh\", \"{}\", \"{}\"]", path.display(), cluster.dir().display())
}

fn hook(name: &str, keys: &str) -> String {
    format!("[[hook]]\nname = \"{name}\"\n{keys}\n")
}

/// A series of the hooks' metrics.
async fn metric(proxy: &Proxy, name: &str, labels: &str) -> f64 {
    let page = fetch(proxy.admin(), "/metrics").await.unwrap();
    let series = format!("pointsman_hook_{name}{{{labels}}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(series.as_str()));
    value.unwrap_or_else(|| panic!("no {series}")).parse().unwrap()
}

async fn results(proxy: &Proxy, hook: &str) -> [f64; 3] {
    let mut counts = [0.0; 3];
    for (count, result) in counts.iter_mut().zip(["delivered", "failed", "dropped"]) {
        *count = metric(proxy, "deliveries_total", &format!("hook=\"{hook}\",result=\"{result}\"")).await;
    }
    counts
}

async fn until(what: &str, proxy: &Proxy, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < end, "never so: {what}\n{}", fs::read_to_string(proxy.log()).unwrap());
        sleep(Duration::from_millis(20)).await;
    }
}

/// The state letter of a process in `/proc`, and its parent; none if there is no such process.
fn process(id: &str) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// One cluster, and every kind of hook at once: good ones, slow ones, broken ones and mad ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_are_told_in_order_and_traffic_knows_nothing_of_it() {
    let receiver = Receiver::start(|call, before| match call.path.as_str() {
        "/hang" => Answer::status("200 OK").after(Duration::from_secs(600)),
        "/broken" => Answer { body: "x".repeat(1 << 20), ..Answer::status("500 Internal Server Error") },
        "/flaky" if before == 0 => Answer::status("503 Service Unavailable"),
        "/busy" if before == 0 => Answer { headers: "Retry-After: 2\r\n", ..Answer::status("429 Too Many Requests") },
        "/gone" => Answer::status("404 Not Found"),
        "/slow" => Answer::status("204 No Content").after(Duration::from_millis(500)),
        _ => Answer::status("200 OK"),
    })
    .await;
    let mut cluster = Cluster::start(Settings::default()).await.unwrap();
    let alone = Cluster::start(Settings::single()).await.unwrap();
    let authority = cluster.dir().join("hooks.crt");
    let secure = Receiver::start_tls(&authority, |_, _| Answer::status("200 OK")).await;

    let url = |path: &str| format!("url = \"http://{}/{path}\"\n", receiver.address);
    let only = |event: &str| format!("events = [\"{event}\"]\nservices = [\"{}\"]\n", cluster.service());
    let committed = only("failover_committed");
    let program = |name: &str, text: &str| format!("exec = {}\ntimeout = \"1s\"\n", script(&cluster, name, text));
    fs::write(cluster.dir().join("token"), format!("{SECRET}-token\n")).unwrap();
    let nobody = free_port().unwrap();
    let hooks = [
        hook("order", &url("order")),
        hook("slow", &url("slow")),
        hook("hang", &format!("{}timeout = \"{HANGING:?}\"\nretries = 0\n", url("hang"))),
        hook("broken", &format!("{}{committed}retries = 1\n", url("broken"))),
        hook(
            "flaky",
            &format!("{}{committed}token_file = \"token\"\nheaders = {{ X-Key = \"{SECRET}-key\" }}", url("flaky")),
        ),
        hook("busy", &format!("{}{committed}", url("busy"))),
        hook("gone", &format!("{}{committed}", url("gone"))),
        hook("refused", &format!("url = \"http://127.0.0.1:{nobody}/{SECRET}\"\n{committed}retries = 1\n")),
        hook(
            "secure",
            &format!(
                "url = \"https://localhost:{}/secure\"\nca_file = \"{}\"\n{committed}",
                secure.address.port(),
                authority.display()
            ),
        ),
        hook(
            "stranger",
            &format!(
                "url = \"https://127.0.0.1:{}/stranger\"\nca_file = \"{}\"\nretries = 0\n{committed}",
                secure.address.port(),
                authority.display()
            ),
        ),
        hook("program", &format!("{}{committed}", program("program", "cat > $1/stdin; env > $1/env; pwd >> $1/env"))),
        hook(
            "stuck",
            &format!(
                "{}{committed}retries = 0\n",
                program("stuck", "sleep 600 & echo $! > $1/stuck; trap '' TERM; wait")
            ),
        ),
        hook(
            "failing",
            &format!("{}{committed}retries = 1\n", program("failing", "echo so it is; echo >&2 no good; exit 3")),
        ),
        hook("flood", &format!("{}{committed}retries = 0\n", program("flood", "exec cat /dev/zero"))),
        hook("deaf", &format!("{}{committed}", program("deaf", "exec <&-; sleep 3 & exit 0"))),
        hook("other", &format!("{}services = [\"other\"]\n", url("other"))),
    ];
    let other = format!(
        "[[service]]\nname = \"other\"\nmaster = \"{}\"\nlisten = [\"127.0.0.1:{}\"]\n",
        alone.addr(Member::Node(0)),
        free_port().unwrap()
    );
    let keys = format!("hold_timeout = \"5s\"\n{other}{}", hooks.concat());
    let binary = Path::new(env!("CARGO_BIN_EXE_pointsman"));
    let mut proxy = Proxy::start_configured(&cluster, binary, &keys).await.unwrap();
    let service = cluster.service().to_owned();
    let order = |event| receiver.until("/order", &service, event, SETTLE_LIMIT);

    // A planned failover under load.
    let load = LedgerSettings {
        writers: 8,
        readers: 2,
        pause: Duration::from_millis(1),
        ..LedgerSettings::new(proxy.listen())
    };
    let ledger = Ledger::start(load);
    until("the clients run", &proxy, async || ledger.tally().acknowledged > 500).await;
    order(HookEvent::MasterFound).await;
    cluster.failover(0).await.unwrap();
    let told = order(HookEvent::FailoverCommitted).await;
    // The hanging one has been told of the first event, and waits.
    until("the clients run on", &proxy, async || ledger.tally().acknowledged > 2000).await;
    let nodes = cluster.nodes();
    let new = nodes.iter().position(|node| Some(*node) == told.master).unwrap();
    let tally = ledger.audit(&mut cluster.connect(Member::Node(new)).await.unwrap()).await.unwrap();
    let log_file = proxy.log().to_owned();
    let log = || fs::read_to_string(&log_file).unwrap();
    assert_eq!(PLANNED.broken(&tally, 8, false), Vec::<String>::new(), "{}", log());
    assert!(tally.write_stall.length < STALL && tally.read_stall.length < STALL, "{tally:?}\n{}", log());

    let finished = order(HookEvent::FailoverFinished).await;
    let failover = told.failover.as_ref().unwrap();
    assert_eq!((told.version, told.master, told.sentinels), (VERSION, Some(nodes[new]), 3));
    assert_eq!(
        (failover.kind, failover.from, failover.to),
        (Some(FailoverKind::Planned), Some(nodes[0]), Some(nodes[new]))
    );
    assert_eq!(failover.lost_bytes, Some(LostBytes { at_least: 0, at_most: Some(0) }));
    let failover = finished.failover.as_ref().unwrap();
    assert!(failover.settled && failover.commands.held > 0 && failover.commands.unknown == 0, "{failover:?}");

    // Everybody has been told, or given up, as the metrics say.
    for (name, counts, retries) in [
        // The other service has a master, too.
        ("order", [5.0, 0.0, 0.0], 0.0),
        ("slow", [5.0, 0.0, 0.0], 0.0),
        ("broken", [0.0, 1.0, 0.0], 1.0),
        ("flaky", [1.0, 0.0, 0.0], 1.0),
        ("busy", [1.0, 0.0, 0.0], 1.0),
        ("gone", [0.0, 1.0, 0.0], 0.0),
        ("refused", [0.0, 1.0, 0.0], 1.0),
        ("secure", [1.0, 0.0, 0.0], 0.0),
        ("stranger", [0.0, 1.0, 0.0], 0.0),
        ("program", [1.0, 0.0, 0.0], 0.0),
        ("stuck", [0.0, 1.0, 0.0], 0.0),
        ("failing", [0.0, 1.0, 0.0], 1.0),
        ("flood", [0.0, 1.0, 0.0], 0.0),
        ("deaf", [1.0, 0.0, 0.0], 0.0),
        ("other", [1.0, 0.0, 0.0], 0.0),
    ] {
        until(&format!("{name}: {counts:?}"), &proxy, async || results(&proxy, name).await == counts).await;
        assert_eq!(metric(&proxy, "retries_total", &format!("hook=\"{name}\"")).await, retries, "{name}");
    }
    let planned = ["master_found", "failover_begun", "failover_committed", "failover_finished"];
    assert_eq!(receiver.events("/order", &service), planned);
    assert_eq!(receiver.events("/slow", &service), planned, "one after the other, though each takes long");
    assert_eq!(receiver.events("/other", &service), [""; 0]);
    assert_eq!(receiver.events("/other", "other"), ["master_found"]);
    assert!(metric(&proxy, "events_waiting", "hook=\"hang\"").await > 0.0);

    // What was sent again is the same; and when, and with what.
    let flaky = receiver.calls("/flaky");
    assert_eq!((flaky.len(), &flaky[0].body), (2, &flaky[1].body));
    for line in [
        format!("authorization: bearer {SECRET}-token"),
        format!("x-key: {SECRET}-key"),
        "content-type: application/json".into(),
    ] {
        assert!(flaky[0].headers.lines().any(|l| l == line), "{line}: {}", flaky[0].headers);
    }
    let busy = receiver.calls("/busy");
    assert!(busy[1].at - busy[0].at >= Duration::from_secs(2), "Retry-After");
    let ids: BTreeSet<String> = receiver.told("/order", &service).into_iter().map(|told| told.id).collect();
    assert_eq!(ids.len(), planned.len());
    assert_eq!(secure.events("/secure", &service), ["failover_committed"]);

    // What programs had, and what became of those that did not behave.
    let dir = cluster.dir().to_owned();
    let stdin: Notification = serde_json::from_str(&fs::read_to_string(dir.join("stdin")).unwrap()).unwrap();
    assert_eq!((stdin.id, &stdin.text), (told.id, &told.text));
    let env = fs::read_to_string(dir.join("env")).unwrap();
    let mut env: Vec<&str> =
        env.lines().filter(|l| !["_=", "SHLVL=", "PWD=", "OLDPWD="].iter().any(|p| l.starts_with(p))).collect();
    env.sort_unstable();
    let expected = [
        "/".to_owned(),
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        "POINTSMAN_EVENT=failover_committed".to_owned(),
        format!("POINTSMAN_MASTER={}", nodes[new]),
        format!("POINTSMAN_SERVICE={service}"),
        format!("POINTSMAN_TEXT={}", told.text),
    ];
    assert_eq!(env, expected);
    let left = fs::read_to_string(dir.join("stuck")).unwrap();
    until("what a program had started is killed with it", &proxy, async || {
        process(left.trim()).is_none_or(|(state, _)| state == 'Z')
    })
    .await;
    for (hook, why) in [
        ("broken", "it answered 500 Internal Server Error"),
        ("gone", "it answered 404 Not Found"),
        ("refused", "Connection refused"),
        ("stranger", "TLS: "),
        ("stuck", "the program: was killed: it did not end within 1s"),
        ("failing", "the program: exit status: 3; it said: so it is | no good"),
        ("flood", "the program: was killed: it said more than 1048576 bytes"),
    ] {
        let log = log();
        let said = |l: &&str| {
            l.contains("WARN") && l.contains(&format!("\"{hook}\"")) && l.contains("the hook was not told: ")
        };
        let line = log.lines().find(said).unwrap_or_else(|| panic!("nothing of {hook}: {log}"));
        assert!(line.contains(why), "{line}");
    }
    let zombies = fs::read_dir("/proc").unwrap().filter_map(|entry| process(entry.unwrap().file_name().to_str()?));
    assert_eq!(zombies.filter(|process| *process == ('Z', proxy.id())).count(), 0, "every program is waited for");

    // Others from now on. Those that stay keep what they are still to be told.
    let file = dir.join(format!("pointsman-{}.toml", proxy.listen().port()));
    let text = fs::read_to_string(&file).unwrap();
    let (before, _) = text.split_once("[[hook]]").unwrap();
    let before = before.replace("hold_timeout = \"5s\"", "hold_timeout = \"500ms\"");
    let kept = [&hooks[0], &hooks[1], &hook("late", &url("late"))].map(String::as_str).concat();
    fs::write(&file, format!("{before}{kept}")).unwrap();
    proxy.signal(Signal::HUP).unwrap();
    until("reloaded", &proxy, async || log().contains("hook late begins") && log().contains("hook hang ends")).await;
    let page = fetch(proxy.admin(), "/metrics").await.unwrap();
    assert!(!page.contains("hook=\"hang\"") && page.contains("hook=\"late\",result=\"delivered\"} 0"), "{page}");

    // Two Sentinels die, then the master hangs: nobody is promoted, commands wait and are refused; then it answers again.
    for sentinel in [1, 2] {
        cluster.kill(Member::Sentinel(sentinel)).unwrap();
    }
    cluster.pause(Member::Node(new)).unwrap();
    ledger.go_on();
    order(HookEvent::HoldTooLong).await;
    order(HookEvent::SentinelQuorumLost).await;
    cluster.resume(Member::Node(new)).unwrap();
    order(HookEvent::HoldEnded).await;
    // The slow one is still being told when pointsman ends, and is told to the end.
    proxy.signal(Signal::TERM).unwrap();
    drop(ledger);
    let end = Instant::now() + PATIENCE;
    while proxy.is_running() {
        assert!(Instant::now() < end, "it does not end: {}", log());
        sleep(Duration::from_millis(20)).await;
    }
    let all = receiver.events("/order", &service);
    let since = &all[planned.len()..];
    let is = |event: &str| since.iter().filter(|e| **e == event).count();
    for event in ["sentinel_quorum_lost", "hold_too_long", "hold_ended"] {
        assert_eq!(is(event), 1, "{event} in {since:?}");
    }
    let (mut number, mut decided) = (1, true);
    for told in receiver.told("/order", &service).iter().skip(planned.len()) {
        let Some(failover) = &told.failover else { continue };
        // A hang may be held for more than once.
        number += u64::from(decided);
        decided = !decided;
        let event = if decided { HookEvent::FailoverAborted } else { HookEvent::FailoverBegun };
        assert_eq!((failover.number, told.event), (number, event), "{since:?}");
    }
    assert!(decided && number > 1, "{since:?}");
    assert_eq!(receiver.events("/slow", &service), all, "{}", log());
    assert_eq!(receiver.events("/late", &service), since, "its past is not told");
    assert!(!log().contains(SECRET), "{}", log());
}

#[test]
fn the_documentation_has_an_example_of_every_event() {
    let text = include_str!("../../../docs/hooks.md");
    let mut documented = Vec::new();
    for section in text.split("\n### ").skip(1) {
        let word = section.lines().next().unwrap().trim_matches('`');
        let example = section.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let told: Notification = serde_json::from_str(example).unwrap_or_else(|e| panic!("{word}: {e}"));
        assert_eq!((told.event.word(), told.version), (word, VERSION));
        // Nothing is missing in it that would be told, nor in another order.
        assert_eq!(serde_json::to_string(&told).unwrap(), example.trim(), "{word}");
        assert!(told.text.starts_with(&told.service), "{word}");
        documented.push(told.event);
    }
    let events = HOOK_EVENTS.iter().map(|(_, event)| *event).chain([HookEvent::Trial]);
    assert_eq!(documented, events.collect::<Vec<_>>());
}
