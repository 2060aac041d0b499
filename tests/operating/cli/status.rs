//! `pointsman status` before a real service, in each of its states, and before what is no pointsman.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use pointsman::config::Commit;
use pointsman::demo::cluster::{Cluster, Member, Settings};
use pointsman::demo::proxy::{Proxy, ProxySettings};
use tokio::time::{Instant, sleep};

use super::ends;

/// Longest wait for a state that must come.
const PATIENCE: Duration = Duration::from_secs(20);

async fn status(admin: SocketAddr, more: &[&str]) -> (i32, String, String) {
    let admin = admin.to_string();
    let args: Vec<String> = ["status", "--admin", &admin].iter().chain(more).map(|s| (*s).to_owned()).collect();
    let call = move || ends(&args.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(call).await.unwrap()
}

/// Asks until the page contains this.
async fn until(proxy: &Proxy, words: &str) -> (i32, String) {
    let end = Instant::now() + PATIENCE;
    loop {
        let (code, page, err) = status(proxy.admin(), &[]).await;
        if page.contains(words) {
            return (code, page);
        }
        assert!(Instant::now() < end, "never {words}: {page}{err}\n{}", proxy.log_tail());
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn status_tells_how_a_service_stands() {
    let mut cluster = Cluster::start(Settings::default()).await.unwrap();
    let extra = ["--hold-timeout", "1500ms"].map(str::to_owned).to_vec();
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_pointsman"));
    let settings = ProxySettings { binary, commit: Commit::Confirmed, workers: 1, extra };
    let proxy = Proxy::start(&cluster, &settings).await.unwrap();
    let old = cluster.addr(Member::Node(0));

    // All is well.
    let (code, page) = until(&proxy, ", settled").await;
    assert_eq!(code, 0, "{page}");
    assert!(page.contains("\nmymaster: flowing since "), "{page}");
    assert!(page.contains(&format!("master       {old}, generation 1, config epoch 0")), "{page}");
    for node in [1, 2].map(|n| cluster.addr(Member::Node(n)).to_string()) {
        let line = page.lines().find(|l| l.trim_start().starts_with(&node)).unwrap_or_else(|| panic!("{page}"));
        assert!(line.ends_with("connected replica"), "{page}");
    }
    for sentinel in cluster.sentinels() {
        let line = page.lines().find(|l| l.contains(&sentinel.to_string())).unwrap_or_else(|| panic!("{page}"));
        assert!(line.contains("yes") && line.contains(&format!("master {old}, config epoch 0")), "{page}");
    }
    assert!(!page.contains('\x1b'), "no colour where nobody can see it");

    // For a health check, to which it is no fault of this pointsman that a master is missing.
    let (code, page, _) = status(proxy.admin(), &["--ready"]).await;
    assert!(code == 0 && page.starts_with("ready\nmymaster: master "), "{code}: {page}");

    // As JSON, and of one service.
    let (code, json, _) = status(proxy.admin(), &["mymaster", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["services"][0]["writes"]["flow"]), (0, &"flowing".into()));
    assert_eq!(json["services"].as_array().unwrap().len(), 1);
    let (code, page, err) = status(proxy.admin(), &["another"]).await;
    assert_eq!((code, page.as_str()), (64, ""));
    assert!(err.contains("has no service `another`, but mymaster"), "{err}");
    let (code, _, err) = status(proxy.admin(), &["--failover", "1"]).await;
    assert_eq!(code, 64, "{err}");
    assert_eq!(status(proxy.admin(), &["--failovers"]).await.1, "no failover since the start\n");

    // A failover, while it lasts and behind it.
    cluster.failover(0).await.unwrap();
    let (code, page) = until(&proxy, "WRITES HELD").await;
    let leader = cluster.addr(Member::Sentinel(0));
    assert_eq!(code, 75, "{page}");
    assert!(page.contains(&format!("why          Sentinel {leader} announced a failover")), "{page}");
    assert!(page.contains("reads flow to ") && page.contains("writes wait"), "{page}");
    assert_eq!(status(proxy.admin(), &["--ready"]).await.0, 0);
    assert!(page.contains("IT LASTS"), "{page}");
    until(&proxy, "generation 2").await;
    let new = cluster.addr(Member::Node(cluster.master().await.unwrap()));
    // Scripts and subscriptions come first.
    let (code, page) = until(&proxy, &format!("writes flow to {new}")).await;
    assert_eq!(code, 0, "{page}");
    assert!(page.contains("nothing lost"), "{page}");
    let (code, story, _) = status(proxy.admin(), &["--failover", "1"]).await;
    assert_eq!(code, 0);
    for event in ["writes held: ", "+selected-slave", "says master", "confirmed by", "writes flow to"] {
        assert!(story.contains(event), "{event} is not in\n{story}");
    }

    // Without Sentinels it goes on; without a master it does not.
    for sentinel in 0..3 {
        cluster.kill(Member::Sentinel(sentinel)).unwrap();
    }
    let end = Instant::now() + PATIENCE;
    loop {
        let (code, page, _) = status(proxy.admin(), &[]).await;
        assert_eq!(code, 0, "{page}");
        if page.matches("  NO  ").count() == 3 {
            break;
        }
        assert!(Instant::now() < end, "{page}");
        sleep(Duration::from_millis(20)).await;
    }
    let master = cluster.nodes().iter().position(|n| *n == new).unwrap();
    cluster.kill(Member::Node(master)).unwrap();
    let (code, page) = until(&proxy, "mymaster: HELD").await;
    assert_eq!(code, 75, "{page}");
    let (code, page) = until(&proxy, "mymaster: REFUSED").await;
    assert_eq!(code, 75, "{page}");
    // Whether it was found dead by a connect or by a connection that ended is chance.
    assert!(page.lines().any(|l| l.trim_start().starts_with("why ") && l.ends_with("refuses connections")), "{page}");
    assert!(page.contains("reads are refused, writes are refused"), "{page}");
}

#[tokio::test]
async fn what_is_no_pointsman_is_said_to_be_none() {
    let cluster = Cluster::start(Settings::single()).await.unwrap();
    let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (silent, other_protocol, other) = (listener(), listener(), listener());
    let local = |l: &TcpListener| l.local_addr().unwrap();
    let nobody = local(&listener());
    let cases = [
        (nobody, "nothing listens on"),
        (local(&silent), "does not answer within 5s"),
        (local(&other_protocol), "does not answer in HTTP"),
        (local(&other), "is no pointsman"),
        // It takes this for an attack, and hangs up.
        (cluster.addr(Member::Node(0)), "closed the connection without an answer"),
    ];
    // They end with their one client.
    let answer = |listener: TcpListener, text: &'static str| {
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(text.as_bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        })
    };
    let servers = [answer(other_protocol, "SSH-2.0-x\r\n"), answer(other, "HTTP/1.1 200 OK\r\n\r\n<html></html>")];
    for (address, words) in cases {
        let (code, page, err) = status(address, &[]).await;
        assert_eq!((code, page.as_str()), (69, ""), "{err}");
        assert!(err.contains(words) && err.contains(&address.to_string()), "{words}: {err}");
    }
    servers.into_iter().for_each(|server| server.join().unwrap());
    let (code, _, err) = ends(&["status"]);
    assert_eq!(code, 69);
    assert!(err.contains("say which pointsman by --admin HOST:PORT, --admin unix:/path or --config FILE"), "{err}");
}
