//! The admin HTTP server over real sockets: what it answers, and that nobody can hold it up.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use pointsman::addr::{ClientAddr, ListenAddr};
use pointsman::admin::{Instruction, Limits, ServiceSlowLog, SlowLogs};
use pointsman::config::{AdminConfig, FileAccess, ListenerConfig, Secret};
use pointsman::insight::{Described, HotKeys, Outcome as Became, SlowCommand, Spent};
use pointsman::metrics::names::{ALL, BUILD_INFO, TLS_CERTIFICATE_EXPIRY};
use pointsman::metrics::{CLOSE_REASONS, CloseReason, LATENCY_CLASSES, LatencyClass};
use pointsman::topology::pause::{Pause, PauseOrder};
use pointsman::topology::status::WallTime;
use pointsman::topology::switchover::{Order, Outcome, Report};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::admin_support::{Admin, PATIENCE, failing_over, send, stable, without_master};
use crate::configuration::Dir;

#[tokio::test]
async fn promtool_has_nothing_to_say_about_a_scrape() {
    let admin = Admin::start(&["one", "two"]).await;
    admin.state.hooks().set(vec![("chat".into(), Arc::default())]);
    admin.set(stable("one"));
    let scrape = admin.get("/metrics").await;
    assert_eq!(scrape.status, 200);
    assert_eq!(scrape.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));

    let mut promtool = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (Debian package prometheus)");
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), scrape.body.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.is_empty(), "promtool: {said}");
}

#[tokio::test]
async fn a_scrape_has_every_declared_metric_and_no_other() {
    let admin = Admin::start(&["one"]).await;
    admin.state.hooks().set(vec![("chat".into(), Arc::default())]);
    admin.set(stable("one"));
    let body = admin.get("/metrics").await.body;
    let found: BTreeSet<String> = body
        .lines()
        .filter_map(|l| l.strip_prefix("# TYPE "))
        .map(|l| l.split(' ').next().unwrap_or_default().to_owned())
        .collect();
    // Of certificates there are none here.
    let declared = ALL.iter().filter(|m| **m != TLS_CERTIFICATE_EXPIRY);
    let declared: BTreeSet<String> = declared.map(|m| m.name.to_owned()).collect();
    assert_eq!(found, declared);
    assert!(body.contains(&format!("# HELP {} {}\n", BUILD_INFO.name, BUILD_INFO.help)));
}

#[tokio::test]
async fn every_series_of_every_service_is_there_from_the_start() {
    let admin = Admin::start(&["one", "two"]).await;
    let body = admin.get("/metrics").await.body;
    for service in ["one", "two"] {
        for name in ["clients", "clients_accepted_total", "commands_unknown_outcome_total", "generation", "settled"] {
            assert!(body.contains(&format!("\npointsman_{name}{{service=\"{service}\"}} 0\n")), "{name} of {service}");
        }
        for reason in CLOSE_REASONS {
            let series = format!("pointsman_clients_closed_total{{service=\"{service}\",reason=\"{reason}\"}} 0\n");
            assert!(body.contains(&series), "{series}");
        }
        for class in LATENCY_CLASSES {
            let series =
                format!("pointsman_command_duration_seconds_count{{service=\"{service}\",class=\"{class}\"}} 0\n");
            assert!(body.contains(&series), "{series}");
        }
        for role in ["master", "replica", "pinned"] {
            let series = format!("pointsman_backend_connections{{service=\"{service}\",role=\"{role}\"}} 0\n");
            assert!(body.contains(&series), "{series}");
        }
        for traffic in ["reads", "writes"] {
            let series = format!("pointsman_flowing{{service=\"{service}\",traffic=\"{traffic}\"}} 0\n");
            assert!(body.contains(&series), "{series}");
        }
        assert!(body.contains(&format!("pointsman_commands_total{{service=\"{service}\",command=\"other\"}} 0\n")));
    }
    assert!(!body.contains("pointsman_master_info"), "no master is known yet");
}

#[tokio::test]
async fn counts_are_summed_over_the_workers_and_kept_apart_by_service() {
    let admin = Admin::start(&["one", "two"]).await;
    for (stats, n) in admin.stats[1].iter().zip([3, 4]) {
        stats.clients.add(n);
        stats.clients.sub(1);
        stats.clients_closed[CloseReason::OutputLimit as usize].add(n);
        stats.commands[pointsman::resp::lookup(b"GET").index()].add(10 * n);
        stats.hold_wait_ms.add(250 * n);
        stats.backend_pinned.add(n);
        stats.latency[LatencyClass::Write as usize].observe(Duration::from_millis(2), n);
    }
    let body = admin.get("/metrics").await.body;
    for line in [
        "pointsman_clients{service=\"one\"} 0",
        "pointsman_clients{service=\"two\"} 5",
        "pointsman_clients_closed_total{service=\"two\",reason=\"output_limit\"} 7",
        "pointsman_commands_total{service=\"two\",command=\"get\"} 70",
        "pointsman_hold_wait_seconds_total{service=\"two\"} 1.75",
        "pointsman_backend_connections{service=\"two\",role=\"pinned\"} 7",
        "pointsman_command_duration_seconds_bucket{service=\"two\",class=\"write\",le=\"0.001\"} 0",
        "pointsman_command_duration_seconds_bucket{service=\"two\",class=\"write\",le=\"0.0025\"} 7",
        "pointsman_command_duration_seconds_sum{service=\"two\",class=\"write\"} 0.014",
    ] {
        assert!(body.lines().any(|l| l == line), "{line} is not in\n{body}");
    }
    assert!(!body.contains("service=\"one\",command=\"get\""), "a command appears with its first use");
}

#[tokio::test]
async fn a_failover_shows_in_the_metrics_and_the_old_master_disappears() {
    let admin = Admin::start(&["one"]).await;
    admin.set(stable("one"));
    let before = admin.get("/metrics").await.body;
    assert!(before.contains("pointsman_master_info{service=\"one\",address=\"127.0.0.1:7001\"} 1\n"));
    assert!(before.contains("pointsman_flowing{service=\"one\",traffic=\"writes\"} 1\n"));
    assert!(before.contains("pointsman_sentinel_up{service=\"one\",sentinel=\"127.0.0.1:26001\"} 1\n"));
    assert!(before.contains("pointsman_sentinel_up{service=\"one\",sentinel=\"127.0.0.1:26002\"} 0\n"));
    admin.set(failing_over("one"));
    let after = admin.get("/metrics").await.body;
    assert!(after.contains("pointsman_flowing{service=\"one\",traffic=\"writes\"} 0\n"));
    assert!(after.contains("pointsman_flowing{service=\"one\",traffic=\"reads\"} 1\n"));
    assert!(after.contains("pointsman_hold_seconds_total{service=\"one\",traffic=\"writes\"} 1.5\n"));
    admin.set(without_master("one"));
    assert!(!admin.get("/metrics").await.body.contains("pointsman_master_info"));
}

#[tokio::test]
async fn readyz_tells_of_the_master_and_of_what_each_sentinel_said() {
    let admin = Admin::start(&["one"]).await;
    admin.set(without_master("one"));
    let without = admin.get("/readyz").await;
    assert_eq!(without.status, 200, "no master is a fault that all instances share: {}", without.body);
    assert!(without.body.starts_with("ready\n"), "{}", without.body);
    assert!(without.body.contains("no master is known yet"), "{}", without.body);
    assert!(without.body.contains("127.0.0.1:26002") && without.body.contains("connect refused"), "{}", without.body);

    admin.set(stable("one"));
    let with = admin.get("/readyz").await;
    assert_eq!(with.status, 200);
    assert!(with.body.contains("master 127.0.0.1:7001"), "{}", with.body);
}

#[tokio::test]
async fn a_draining_instance_is_alive_but_not_ready() {
    let admin = Admin::start(&["one"]).await;
    admin.set(stable("one"));
    assert_eq!(admin.get("/readyz").await.status, 200);
    admin.state.drain();
    let ready = admin.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.starts_with("not ready: draining\n"), "{}", ready.body);
    assert_eq!(admin.get("/livez").await.status, 200);
    assert!(admin.get("/metrics").await.body.contains("\npointsman_draining 1\n"));
}

#[tokio::test]
async fn livez_is_well_from_the_start() {
    let admin = Admin::start(&["one"]).await;
    let live = admin.get("/livez").await;
    assert_eq!((live.status, live.body.as_str()), (200, "live\n"));
}

#[tokio::test]
async fn status_is_json_with_every_service() {
    let admin = Admin::start(&["one", "two"]).await;
    admin.set(stable("two"));
    admin.stats[1][0].clients.add(3);
    admin.stats[1][1].clients.add(4);
    let status = admin.get("/status").await;
    assert_eq!(status.status, 200);
    assert_eq!(status.header("content-type"), Some("application/json"));
    let json: serde_json::Value = serde_json::from_str(&status.body).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["draining"], false);
    assert!(json["uptime_seconds"].as_f64().unwrap() < PATIENCE.as_secs_f64());
    assert_eq!(json["services"][0]["service"], "one");
    assert_eq!(json["services"][1]["service"], "two");
    assert_eq!(json["services"][1]["clients"], 7);
    assert_eq!(json["services"][1]["master"], "127.0.0.1:7001");
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_told_what_would_be_right() {
    let admin = Admin::start(&["one"]).await;
    let index = admin.get("/").await;
    assert_eq!(index.status, 200);
    let unknown = admin.get("/metric").await;
    assert_eq!(unknown.status, 404);
    for path in ["/metrics", "/livez", "/readyz", "/status", "/slowlog"] {
        assert!(index.body.contains(path) && unknown.body.contains(path), "{path}");
        let posted = admin.request("POST", path).await;
        assert_eq!(posted.status, 405);
        assert_eq!(posted.header("allow"), Some("GET, HEAD"));

        let head = admin.request("HEAD", path).await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert!(head.header("content-length").is_some_and(|n| n != "0"), "{path}");
        assert_eq!(admin.get(&format!("{path}?verbose")).await.status, 200);
    }
    assert_eq!(refused(&admin, "unknown").await, 6);
}

/// How many requests, or connections for them, were turned away for this reason.
async fn refused(admin: &Admin, reason: &str) -> u64 {
    let scrape = admin.get("/metrics").await.body;
    let series = format!("pointsman_admin_requests_refused_total{{reason=\"{reason}\"}} ");
    scrape.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_order_that_is_too_large_or_never_comes_is_refused() {
    let admin = Admin::start(&["one"]).await;
    let large = format!("{{\"service\": \"{}\"}}", "x".repeat(5000));
    let answer = admin.send("POST", "/pause", JSON, &large).await;
    assert_eq!((answer.status, answer.body.as_str()), (413, "an order has 4096 bytes at most\n"));
    let answer = admin.send("POST", "/pause", &format!("{JSON}Content-Length: 10\r\n"), "").await;
    assert_eq!((answer.status, answer.body.as_str()), (408, "the order did not come in time\n"));
    assert_eq!((refused(&admin, "large").await, refused(&admin, "slow").await), (1, 1));
}

#[tokio::test]
async fn a_client_that_dribbles_its_request_is_closed_in_time() {
    let limits = Limits { header_timeout: Duration::from_millis(300), ..Limits::default() };
    let admin = Admin::start_with(&["one"], limits).await;
    let began = Instant::now();
    let (mut reader, mut writer) = admin.connect().await.into_split();
    let dribble = tokio::spawn(async move {
        // A byte again and again, so that no idle timeout could help; ends when the server has closed.
        while writer.write_all(b"G").await.is_ok() && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut rest = Vec::new();
    // A reset is as good an end as a close.
    let _ = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut rest)).await.expect("closed by the server");
    assert!(began.elapsed() >= limits.header_timeout, "closed after {:?}", began.elapsed());
    assert!(began.elapsed() < PATIENCE / 4, "closed only after {:?}", began.elapsed());
    dribble.await.unwrap();
    // One who has asked may be silent after it.
    let mut kept = admin.connect().await;
    kept.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, kept.read_to_end(&mut answer)).await.expect("closed by the server").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(refused(&admin, "slow").await, 1);
}

#[tokio::test]
async fn an_oversized_request_head_is_refused() {
    let admin = Admin::start(&["one"]).await;
    let mut stream = admin.connect().await;
    let head = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "a".repeat(1 << 20));
    // The server answers and closes before it has read all, so that writing may fail.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("closed by the server");
    // The answer may be lost to the reset that follows unread bytes; a 200 may not be.
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(refused(&admin, "large").await, 1);
}

#[tokio::test]
async fn a_hundred_idle_connections_do_not_keep_a_scrape_out() {
    let limits = Limits { connections: 16, header_timeout: PATIENCE * 3, lifetime: PATIENCE * 3, ..Limits::default() };
    let admin = Admin::start_with(&["one"], limits).await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(admin.connect().await);
    }
    assert_eq!(admin.get("/metrics").await.status, 200);
    // Room was made by closing the oldest, and only as many as had to go.
    let mut byte = [0u8];
    let first = tokio::time::timeout(PATIENCE, idle[0].read(&mut byte)).await.expect("closed by the server");
    assert!(matches!(first, Ok(0) | Err(_)), "{first:?}");
    let last = idle.last_mut().unwrap();
    last.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, last.read_to_string(&mut answer)).await.expect("answered in time").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(refused(&admin, "crowded").await >= 84, "of a hundred sixteen have room");
}

#[tokio::test]
async fn a_client_that_does_not_take_its_responses_is_closed_at_the_end_of_its_life() {
    let limits =
        Limits { lifetime: Duration::from_millis(300), grace: Duration::from_millis(100), ..Limits::default() };
    let admin = Admin::start_with(&["one"], limits).await;
    let (mut reader, mut writer) = admin.connect().await.into_split();
    // Far more than the socket buffers of both sides hold, and not a byte of it read until the server has given up.
    // (Loopback buffers grow to some MiB; one scrape is tens of KiB.)
    let one = admin.get("/metrics").await.body.len();
    let requests = 64 * 1024 * 1024 / one;
    let asking = tokio::spawn(async move {
        for _ in 0..requests {
            if writer.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.is_err() {
                return true;
            }
        }
        // All requests fitted into the buffers: whether it was closed shows when reading.
        false
    });
    let closed_while_asking = tokio::time::timeout(PATIENCE, asking).await.expect("closed by the server").unwrap();
    let mut received = 0;
    let mut buf = vec![0; 1 << 16];
    while let Ok(n) = tokio::time::timeout(PATIENCE, reader.read(&mut buf)).await.expect("closed by the server") {
        received += n;
        if n == 0 {
            break;
        }
    }
    assert!(closed_while_asking || received < requests * one, "{received} bytes of {requests} scrapes");
}

#[tokio::test]
async fn shutdown_frees_the_port_in_bounded_time_though_connections_are_open() {
    // The grace is the only bound here that is within the test's patience.
    let (long, grace) = (PATIENCE * 3, Duration::from_millis(300));
    let limits = Limits { header_timeout: long, lifetime: long, grace, ..Limits::default() };
    let mut admin = Admin::start_with(&["one"], limits).await;
    // One that takes no responses, so that the server is stuck in the middle of one: it no longer reads requests.
    let mut stuck = admin.connect().await;
    let requests = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    let stall = Duration::from_millis(500);
    while let Ok(Ok(())) = tokio::time::timeout(stall, stuck.write_all(requests.as_bytes())).await {}
    let mut idle = admin.connect().await;
    let mut half = admin.connect().await;
    half.write_all(b"GET /metrics HT").await.unwrap();
    assert_eq!(admin.get("/livez").await.status, 200);
    admin.shutdown.cancel();
    tokio::time::timeout(PATIENCE, admin.server.take().unwrap()).await.expect("ends within the grace").unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, idle.read_to_end(&mut rest)).await.expect("closed");
    let _ = tokio::time::timeout(PATIENCE, half.read_to_end(&mut rest)).await.expect("closed");
    assert!(rest.is_empty());
    assert!(tokio::net::TcpStream::connect(admin.address).await.is_err());
}

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

/// Whoever fills one of the sockets keeps nobody from another.
#[tokio::test]
async fn a_unix_socket_is_free_however_full_tcp_is() {
    let dir = Dir::new("admin-unix");
    let path = dir.file("admin.sock", "");
    std::fs::remove_file(&path).unwrap();
    let access = FileAccess { mode: Some(0o600), ..FileAccess::default() };
    let unix = ListenerConfig { access, ..ListenerConfig::new(ListenAddr::Unix(path.clone())) };
    let listen = vec![ListenerConfig::new("127.0.0.1:0".parse().unwrap()), unix];
    let limits = Limits { connections: 1, header_timeout: PATIENCE * 3, lifetime: PATIENCE * 3, ..Limits::default() };
    let admin = Admin::start_as(&["one"], limits, AdminConfig { listen, ..AdminConfig::default() }).await;
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let _others = (admin.connect().await, admin.connect().await);
    assert_eq!(admin.get("/livez").await.status, 200);
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("answered in time").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777, 0o600);
}

/// A list is a page at a time, so that no request holds the thread that accepts clients.
#[tokio::test]
async fn ten_thousand_clients_are_listed_page_by_page() {
    let admin = Admin::start(&["one", "two"]).await;
    let addr = |port: u64| ClientAddr::Tcp(([10, 0, (port >> 8) as u8, port as u8], 5).into());
    let join = |id| admin.clients[1].join(id, (id % 2) as usize, [addr(id), addr(0)], None).unwrap();
    let presences: Vec<_> = (1..=10_000).map(join).collect();
    presences[6_999].client.set_name(b"caf\xc3\xa9");
    presences[6_999].client.describe(b"app", true);
    let page = async |query: &str| {
        let answer = admin.get(&format!("/clients?{query}")).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{}", answer.body);
        serde_json::from_str::<serde_json::Value>(&answer.body).unwrap()
    };
    let (mut ids, mut pages, mut after) = (Vec::new(), 0, Some(0));
    while let Some(id) = after {
        let page = page(&format!("service=two&after={id}")).await;
        ids.extend(page["clients"].as_array().unwrap().iter().map(|c| c["id"].as_u64().unwrap()));
        (pages, after) = (pages + 1, page["next"].as_u64());
    }
    assert_eq!(ids, (1..=10_000).collect::<Vec<_>>());
    assert!((20..=21).contains(&pages), "{pages}");
    // To look is bounded too: half of them are looked at for nothing.
    let first = page("service=two&name=caf%C3%A9").await;
    assert_eq!((first["clients"].as_array().unwrap().len(), first["next"].as_u64()), (0, Some(5_000)));
    let second = page("service=two&name=caf%C3%A9&state=subscribed&user=app&after=5000").await;
    assert_eq!((&second["clients"][0]["id"], &second["clients"][0]["worker"]), (&7_000.into(), &0.into()));
    assert_eq!(page("service=one").await["clients"].as_array().unwrap().len(), 0);
    for (wrong, status) in [
        ("", 400),
        ("service=three", 404),
        ("service=two&limit=0", 400),
        ("service=two&limit=501", 400),
        ("service=two&state=asleep", 400),
        ("service=two&after=x", 400),
        ("service=two&servce=x", 400),
    ] {
        assert_eq!(admin.get(&format!("/clients?{wrong}")).await.status, status, "{wrong}");
    }
}

#[tokio::test]
async fn a_browser_gets_a_page_and_everybody_else_a_list() {
    let admin = Admin::start(&["one", "two"]).await;
    admin.set(failing_over("two"));
    let page = admin.send("GET", "/", "Accept: text/html,application/xhtml+xml\r\n", "").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.contains("default-src 'none'")));
    for words in ["NO MASTER YET", "WRITES HELD", "a Sentinel has begun a failover", "connect refused"] {
        assert!(page.body.contains(words), "{words}: {}", page.body);
    }
    for headers in ["", "Accept: */*\r\n", "Accept: application/json\r\n"] {
        let list = admin.send("GET", "/", headers, "").await;
        assert_eq!(list.header("content-type"), Some("text/plain; charset=utf-8"));
        assert!(list.body.contains("/metrics"), "{}", list.body);
    }
}
