//! The admin HTTP server over real sockets: what it answers, and that nobody can hold it up.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use pointsman::addr::{ClientAddr, ListenAddr};
use pointsman::admin::Limits;
use pointsman::config::{AdminConfig, FileAccess, ListenerConfig};
use pointsman::metrics::names::{ALL, BUILD_INFO, TLS_CERTIFICATE_EXPIRY};
use pointsman::metrics::{CLOSE_REASONS, CloseReason, LATENCY_CLASSES, LatencyClass};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::admin_support::{Admin, PATIENCE, failing_over, stable, without_master};
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
    assert_eq!(admin.refused("unknown").await, 6);
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
    assert_eq!(admin.refused("slow").await, 1);
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
    assert_eq!(admin.refused("large").await, 1);
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
    assert!(admin.refused("crowded").await >= 84, "of a hundred sixteen have room");
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
