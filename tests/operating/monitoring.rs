//! `deploy/monitoring`: the rules alert when they should, and a real Prometheus that scraped a failover has an answer to
//! every query of the dashboard.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pointsman::config::Commit;
use pointsman::demo::cluster::{Cluster, free_port};
use pointsman::demo::ledger::{Ledger, LedgerSettings};
use pointsman::demo::proxy::{Proxy, ProxySettings};
use pointsman::demo::settings::Settings;
use pointsman::metrics::names::{ALL, Kind};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// Until Prometheus has scraped often enough for a rate.
const LIMIT: Duration = Duration::from_secs(60);

const RULES: &str = include_str!("../../deploy/monitoring/rules.yml");
const DASHBOARD: &str = include_str!("../../deploy/monitoring/grafana/pointsman.json");
const ALERTS: &str = include_str!("../../docs/alerts.md");

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring")
}

/// Every query of the dashboard: those of its panels, and of what it marks in time.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|p| p["targets"].as_array().into_iter().flatten());
    let marks = dashboard["annotations"]["list"].as_array().unwrap().iter();
    targets.chain(marks).map(|t| t["expr"].as_str().unwrap().to_owned()).collect()
}

/// The metrics that a text names.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|w| w.starts_with("pointsman_") || w.starts_with("process_")).collect()
}

#[test]
fn rules_and_dashboard_name_only_metrics_that_there_are() {
    let mut known: BTreeSet<String> = BTreeSet::new();
    for metric in ALL {
        match metric.kind {
            Kind::Histogram => known.extend(["_bucket", "_count", "_sum"].map(|part| metric.name.to_owned() + part)),
            _ => drop(known.insert(metric.name.to_owned())),
        }
    }
    let queries = queries().join("\n");
    assert!(queries.lines().count() > 30);
    for name in metrics_in(RULES).into_iter().chain(metrics_in(&queries)) {
        assert!(known.contains(name), "there is no {name}");
    }
}

#[test]
fn every_alert_is_explained() {
    let rules: BTreeSet<&str> = RULES.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")).collect();
    let explained: BTreeSet<&str> = ALERTS.lines().filter_map(|l| l.strip_prefix("### `")?.strip_suffix('`')).collect();
    assert_eq!(rules, explained);
}

#[test]
fn the_rules_alert_when_they_should() {
    for arguments in [&["check", "config", "prometheus.yml"][..], &["test", "rules", "rules_test.yml"]] {
        let output = Command::new("promtool").args(arguments).current_dir(directory()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "promtool {arguments:?}: {text}");
    }
}

#[test]
fn the_alertmanager_example_wakes_nobody_up_for_nothing() {
    let amtool = |arguments: &[&str]| {
        let output = Command::new("amtool").args(arguments).current_dir(directory()).output();
        let output = output.expect("amtool is installed (Debian package prometheus-alertmanager)");
        // It has warnings of its own about a configuration of its own.
        assert!(output.status.success(), "amtool {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    amtool(&["check-config", "alertmanager.yml"]);
    for (severity, receiver) in [("critical", "pager"), ("warning", "chat"), ("info", "chat")] {
        let label = format!("severity={severity}");
        let route = ["config", "routes", "test", "--config.file=alertmanager.yml", &label, "service=s"];
        assert_eq!(amtool(&route), receiver, "{severity}");
    }
    // What it names is there.
    let text = std::fs::read_to_string(directory().join("alertmanager.yml")).unwrap();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| w.starts_with("Pointsman"));
    for alert in words {
        assert!(RULES.contains(&format!("- alert: {alert}\n")), "there is no {alert}");
    }
}

/// The value of a query now: how many series have one.
async fn ask(prometheus: SocketAddr, query: &str) -> Option<usize> {
    let escaped: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
    let request = format!("GET /api/v1/query?query={escaped} HTTP/1.0\r\nHost: {prometheus}\r\n\r\n");
    let mut stream = TcpStream::connect(prometheus).await.ok()?;
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let answer: Value = serde_json::from_str(body).ok()?;
    assert_ne!(answer["errorType"], "bad_data", "{query}: {answer}");
    Some(answer["data"]["result"].as_array()?.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_the_dashboard_has_data_after_a_failover() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_pointsman"));
    let settings = ProxySettings { binary, commit: Commit::Eager, workers: 1, extra: Vec::new() };
    let proxy = Proxy::start(&cluster, &settings).await.unwrap();

    let directory = cluster.dir().join("prometheus");
    std::fs::create_dir(&directory).unwrap();
    let scrape = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{}]\n\
         scrape_configs: [{{ job_name: pointsman, static_configs: [{{ targets: [\"{}\"] }}] }}]\n",
        self::directory().join("rules.yml").display(),
        proxy.admin(),
    );
    std::fs::write(directory.join("prometheus.yml"), scrape).unwrap();
    let prometheus = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let arguments = [
        format!("--config.file={}", directory.join("prometheus.yml").display()),
        format!("--storage.tsdb.path={}", directory.display()),
        format!("--web.listen-address={prometheus}"),
    ];
    let log = std::fs::File::create(directory.join("log")).unwrap();
    let _process = cluster.supervisor().spawn(Path::new("prometheus"), arguments, Some(log)).unwrap();

    // One scrape at least comes before the failover: a counter that is first seen at 1 has not increased.
    let end = Instant::now() + LIMIT;
    while ask(prometheus, "pointsman_failovers_total").await.is_none_or(|series| series == 0) {
        assert!(Instant::now() < end, "{}", std::fs::read_to_string(directory.join("log")).unwrap());
        sleep(Duration::from_millis(100)).await;
    }
    let ledger =
        Ledger::start(LedgerSettings { pause: Duration::from_millis(5), ..LedgerSettings::new(proxy.listen()) });
    cluster.failover(0).await.unwrap();
    let chosen = [("$job", ".*"), ("$instance", ".*"), ("$service", ".*"), ("$__rate_interval", "30s")];
    let fill = |query: String| chosen.iter().fold(query, |q, (variable, value)| q.replace(variable, value));
    let mut silent: Vec<String> = queries().into_iter().map(fill).collect();
    silent.push("ALERTS{alertname=\"PointsmanFailover\", alertstate=\"firing\"}".to_owned());
    while !silent.is_empty() {
        assert!(Instant::now() < end, "no data for: {silent:#?}");
        sleep(Duration::from_millis(200)).await;
        let mut still = Vec::new();
        for query in silent {
            if ask(prometheus, &query).await.is_none_or(|series| series == 0) {
                still.push(query);
            }
        }
        silent = still;
    }
    drop(ledger);
}
