//! Orders to the admin server: who may give them, what is wrong with one, and what is told of those that are carried out.

use std::time::Duration;

use pointsman::admin::{Instruction, Limits, ServiceSlowLog, SlowLogs};
use pointsman::config::{AdminConfig, ListenerConfig, Secret};
use pointsman::insight::{Described, HotKeys, Outcome as Became, SlowCommand, Spent};
use pointsman::topology::pause::{Pause, PauseOrder};
use pointsman::topology::status::WallTime;
use pointsman::topology::switchover::{Order, Outcome, Report};

use crate::admin_support::{Admin, send, stable};

const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test]
async fn a_switchover_is_ordered_by_a_program_on_this_host_alone() {
    let mut admin = Admin::start(&["one", "two"]).await;
    let order = r#"{"service": "two"}"#;
    let by_get = admin.get("/switchover").await;
    assert_eq!((by_get.status, by_get.header("allow")), (405, Some("POST")));
    let cross_site = "Origin: http://example.com\r\n".to_owned() + JSON;
    // What a form of any page may send without asking.
    let form = "Content-Type: text/plain\r\n";
    for (headers, body, status) in [
        (form, order, 415),
        ("", order, 415),
        (&cross_site, order, 403),
        (JSON, "", 400),
        (JSON, "{", 400),
        (JSON, r#"{"service": "two", "too": "10.0.0.1:6379"}"#, 400),
        (JSON, r#"{"service": "two", "to": "10.0.0.1"}"#, 400),
        (JSON, &format!("{{\"service\": \"{}\"}}", "x".repeat(5000)), 413),
        (JSON, r#"{"service": "three"}"#, 404),
    ] {
        let answer = admin.send("POST", "/switchover", headers, body).await;
        assert_eq!(answer.status, status, "{headers} {body}: {}", answer.body);
    }
    assert!(admin.orders.iter_mut().all(|orders| orders.try_recv().is_err()), "none of these was passed on");
}

#[tokio::test]
async fn what_happens_in_a_switchover_is_told_line_by_line() {
    let mut admin = Admin::start(&["one", "two"]).await;
    let mut orders = admin.orders.remove(1);
    let control = tokio::spawn(async move {
        let Order { to, dry_run, reports } = orders.recv().await.unwrap();
        reports.send(Report::Step { ms: 1, ok: true, text: format!("to {}", to.unwrap()) }).await.unwrap();
        let outcome = if dry_run { Outcome::Possible } else { Outcome::Done };
        reports.send(Report::End { ms: 2, outcome, why: String::new(), stall_ms: 0 }).await.unwrap();
    });
    let order = r#"{"service": "two", "to": "10.0.0.1:6379", "dry_run": true}"#;
    let answer = admin.send("POST", "/switchover", JSON, order).await;
    control.await.unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/x-ndjson")));
    for line in
        [r#"{"ms":1,"ok":true,"text":"to 10.0.0.1:6379"}"#, r#"{"ms":2,"outcome":"possible","why":"","stall_ms":0}"#]
    {
        assert!(answer.body.contains(line), "{line}: {}", answer.body);
    }
}

/// One that took so many milliseconds at the backend.
fn slow_command(client: u64, ms: u64) -> SlowCommand {
    let what = Described { command: "get".into(), key: Some("k".into()) };
    let spent = Spent { backend: Duration::from_millis(ms), ..Spent::default() };
    SlowCommand::new(what, spent, Became::Ok).of_client(client, "10.0.0.1:1".into(), b"web")
}

#[tokio::test]
async fn slow_commands_are_told_and_forgotten_by_service() {
    let admin = Admin::start(&["one", "two"]).await;
    for (n, seen) in (1..).zip(admin.insight.iter().flat_map(|insight| insight.workers())) {
        let (earlier, later) = (slow_command(10 * n, 300), slow_command(10 * n + 1, 200));
        seen.keep(SlowCommand { ended: WallTime(1000 + 2 * n), ..earlier }, 128);
        seen.keep(SlowCommand { ended: WallTime(2000 + 2 * n), ..later }, 128);
    }
    let told = async || {
        let answer = admin.get("/slowlog").await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        let logs: SlowLogs = serde_json::from_str(&answer.body).unwrap();
        assert!(logs.services.iter().all(|log| log.slower_than_ms == Some(100)));
        let of = |log: &ServiceSlowLog| log.commands.iter().map(|command| command.client).collect::<Vec<_>>();
        (of(&logs.services[0]), of(&logs.services[1]))
    };
    assert_eq!(told().await, (vec![21, 11, 20, 10], vec![41, 31, 40, 30]), "of both workers, the newest first");
    let body = admin.get("/slowlog").await.body;
    for field in
        ["\"ended\": \"1970-01-01T00:00:02.004Z\"", "\"backend_us\": 200000", "\"outcome\": \"ok\"", "\"key\": \"k\""]
    {
        assert!(body.contains(field), "{field}: {body}");
    }

    assert_eq!(admin.send("GET", "/slowlog", "Origin: http://example.com\r\n", "").await.status, 403);
    let by_get = admin.get("/slowlog/reset").await;
    assert_eq!((by_get.status, by_get.header("allow")), (405, Some("POST")));
    for (headers, body, status) in [
        ("", "{}", 415),
        (&*("Origin: http://example.com\r\n".to_owned() + JSON), "{}", 403),
        (JSON, r#"{"service": "three"}"#, 404),
        (JSON, r#"{"servise": "one"}"#, 400),
    ] {
        assert_eq!(admin.send("POST", "/slowlog/reset", headers, body).await.status, status, "{headers} {body}");
    }
    let answer = admin.send("POST", "/slowlog/reset", JSON, r#"{"service": "two"}"#).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "{\"forgotten\":4}\n"));
    assert_eq!(told().await, (vec![21, 11, 20, 10], vec![]));
    assert_eq!(admin.send("POST", "/slowlog/reset", JSON, "{}").await.body, "{\"forgotten\":4}\n");
}

#[tokio::test]
async fn a_sample_is_ordered_within_bounds_by_a_program_on_this_host() {
    let admin = Admin::start(&["one"]).await;
    assert_eq!(admin.get("/hotkeys").await.status, 405);
    for (headers, body, status) in [
        ("Content-Type: text/plain\r\n", r#"{"service": "one"}"#, 415),
        (&*("Origin: http://example.com\r\n".to_owned() + JSON), r#"{"service": "one"}"#, 403),
        (JSON, "{}", 400),
        (JSON, r#"{"service": "one", "for_ms": 9}"#, 400),
        (JSON, r#"{"service": "one", "for_ms": 30001}"#, 400),
        (JSON, r#"{"service": "one", "top": 0}"#, 400),
        (JSON, r#"{"service": "one", "top": 501}"#, 400),
        (JSON, r#"{"service": "one", "one_in": 0}"#, 400),
        (JSON, r#"{"service": "one", "one_in": 1000001}"#, 400),
        (JSON, r#"{"service": "three"}"#, 404),
    ] {
        let answer = admin.send("POST", "/hotkeys", headers, body).await;
        assert_eq!(answer.status, status, "{headers} {body}: {}", answer.body);
        assert!(!admin.insight[0].workers()[0].is_sampling(), "{body}");
    }
    let answer = admin.send("POST", "/hotkeys", JSON, r#"{"service": "one", "for_ms": 100, "one_in": 3}"#).await;
    let hot: HotKeys = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((answer.status, hot.commands, hot.keys.len(), hot.one_in), (200, 0, 0, 3));
    assert!(hot.seconds >= 0.1);
}

#[tokio::test]
async fn a_reload_is_ordered_and_its_outcome_told() {
    let mut admin = Admin::start(&["one"]).await;
    let by_get = admin.get("/reload").await;
    assert_eq!((by_get.status, by_get.header("allow")), (405, Some("POST")));
    assert_eq!(admin.send("POST", "/reload", "Origin: http://example.com\r\n", "").await.status, 403);
    assert!(admin.instructions.try_recv().is_err(), "neither was passed on");
    for (outcome, status, body) in [
        (
            Ok(vec!["service a begins".to_owned(), "changed: workers".to_owned()]),
            200,
            "service a begins\nchanged: workers\n",
        ),
        (Err("p.toml:1:1: unknown key `x`".to_owned()), 422, "p.toml:1:1: unknown key `x`\n"),
    ] {
        let answered = async {
            let Some(Instruction::Reload(done)) = admin.instructions.recv().await else { panic!("no reload") };
            done.send(outcome).unwrap();
        };
        let (answer, ()) = tokio::join!(send(admin.address, "POST", "/reload", "", ""), answered);
        assert_eq!((answer.status, answer.body.as_str()), (status, body));
    }
}

#[tokio::test]
async fn a_pause_is_ordered_and_told_when_it_is_carried_out() {
    let mut admin = Admin::start(&["one", "two"]).await;
    admin.set(stable("two"));
    let cross_site = "Origin: http://example.com\r\n".to_owned() + JSON;
    for (headers, body, status) in [
        ("", r#"{"service": "two"}"#, 415),
        (&cross_site, r#"{"service": "two"}"#, 403),
        (JSON, r#"{"service": "two", "for": 1}"#, 400),
        (JSON, r#"{"service": "two", "for_ms": -1}"#, 400),
        (JSON, r#"{"service": "three"}"#, 404),
    ] {
        for path in ["/pause", "/resume"] {
            let answer = admin.send("POST", path, headers, body).await;
            assert_eq!(answer.status, status, "{path} {headers} {body}: {}", answer.body);
        }
    }
    assert!(admin.pauses.iter_mut().all(|orders| orders.try_recv().is_err()), "none of these was passed on");

    let mut pauses = admin.pauses.remove(1);
    let control = tokio::spawn(async move {
        let PauseOrder { pause, done } = pauses.recv().await.unwrap();
        done.send(()).unwrap();
        (pause, pauses)
    });
    let answer = admin.send("POST", "/pause", JSON, r#"{"service": "two", "for_ms": 1500}"#).await;
    let (pause, mut pauses) = control.await.unwrap();
    assert_eq!(pause, Pause::Begin(Some(Duration::from_millis(1500))));
    let told: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((answer.status, &told["carried_out"], &told["waiting"]), (200, &true.into(), &0.into()));

    // What is not carried out in time is told so.
    let (answer, pause) = tokio::join!(admin.send("POST", "/resume", JSON, r#"{"service": "two"}"#), pauses.recv());
    assert_eq!(pause.map(|order| order.pause), Some(Pause::End));
    assert!(answer.status == 200 && answer.body.contains(r#""carried_out":false"#), "{}", answer.body);
}

#[tokio::test]
async fn a_log_level_is_checked_before_it_is_set() {
    let mut admin = Admin::start(&["one"]).await;
    for (body, status) in [(r#"{"level": "loud"}"#, 422), (r#"{"level": 7}"#, 400), ("debug", 400)] {
        assert_eq!(admin.send("POST", "/log-level", JSON, body).await.status, status, "{body}");
    }
    assert!(admin.instructions.try_recv().is_err(), "none of these was passed on");
    for (body, wanted) in [(r#"{"level": "debug"}"#, Some("debug")), (r#"{"level": null}"#, None)] {
        let answered = async {
            let Some(Instruction::SetLogLevel { level, done }) = admin.instructions.recv().await else {
                panic!("no level")
            };
            assert_eq!(level.as_deref(), wanted);
            done.send("info".to_owned()).unwrap();
        };
        let (answer, ()) = tokio::join!(send(admin.address, "POST", "/log-level", JSON, body), answered);
        assert_eq!((answer.status, answer.body.as_str()), (200, "{\"level\":\"info\"}\n"));
    }
}

#[tokio::test]
async fn an_order_that_is_too_large_or_never_comes_is_refused() {
    let admin = Admin::start(&["one"]).await;
    let large = format!("{{\"service\": \"{}\"}}", "x".repeat(5000));
    let answer = admin.send("POST", "/pause", JSON, &large).await;
    assert_eq!((answer.status, answer.body.as_str()), (413, "an order has 4096 bytes at most\n"));
    let answer = admin.send("POST", "/pause", &format!("{JSON}Content-Length: 10\r\n"), "").await;
    assert_eq!((answer.status, answer.body.as_str()), (408, "the order did not come in time\n"));
    assert_eq!((admin.refused("large").await, admin.refused("slow").await), (1, 1));
}

#[tokio::test]
async fn who_has_no_token_is_told_what_is_missing_and_counted() {
    let listen = vec![ListenerConfig::new("127.0.0.1:0".parse().unwrap())];
    let config = AdminConfig { listen, token: Some(Secret::new("0123456789abcdef")), token_for_reads: true };
    let mut admin = Admin::start_as(&["one"], Limits::default(), config.clone()).await;
    let right = "Authorization: Bearer 0123456789abcdef\r\n";
    let wrong = "Authorization: Bearer 0123456789abcdeX\r\n";
    for path in ["/", "/metrics", "/status", "/nowhere"] {
        for headers in ["", wrong] {
            let answer = admin.send("GET", path, headers, "").await;
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer realm=\"pointsman\"")));
            assert!(answer.body.starts_with(path) && !answer.body.contains("/switchover"), "{}", answer.body);
        }
    }
    for path in ["/switchover", "/pause", "/resume", "/reload", "/log-level"] {
        let answer = admin.send("POST", path, JSON, "{}").await;
        assert!(answer.status == 401 && answer.body.contains("Authorization: Bearer TOKEN"), "{}", answer.body);
        assert_eq!(admin.send("POST", path, &(wrong.to_owned() + JSON), "{}").await.status, 401);
    }
    assert!(admin.instructions.try_recv().is_err(), "nothing was passed on");
    // Health checks have no token, and are told no more than they need.
    assert_eq!(admin.get("/readyz").await.body, "ready\n");
    assert_eq!(admin.get("/livez").await.body, "live\n");
    let scrape = admin.send("GET", "/metrics", right, "").await;
    assert!(scrape.body.contains("pointsman_admin_requests_refused_total{reason=\"token\"} 18\n"), "{}", scrape.body);
    assert!(scrape.body.contains("pointsman_admin_requests_refused_total{reason=\"origin\"} 0\n"));

    // As a reload does it.
    admin.state.configure(AdminConfig { token: Some(Secret::new("another-0123456789")), ..config.clone() });
    assert_eq!(admin.send("GET", "/status", right, "").await.status, 401);
    admin.state.configure(AdminConfig { token_for_reads: false, ..config });
    assert_eq!(admin.get("/status").await.status, 200);
}
