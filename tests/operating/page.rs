//! The status page in a real browser (headless Chromium): it shows a failover that happens while it is open.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use pointsman::config::Commit;
use pointsman::demo::cluster::{Cluster, Member};
use pointsman::demo::ledger::{Ledger, LedgerSettings};
use pointsman::demo::process::Process;
use pointsman::demo::proxy::{Proxy, ProxySettings};
use pointsman::demo::settings::Settings;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// One tab of a browser, driven over the Chrome DevTools Protocol.
struct Tab {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: String,
    last: u64,
    _browser: Process,
}

impl Tab {
    async fn open(cluster: &Cluster) -> Self {
        let directory = cluster.dir().join("chromium");
        let log = cluster.dir().join("chromium.log");
        let arguments =
            ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", directory.display()));
        let output = std::fs::File::create(&log).unwrap();
        let browser = cluster.supervisor().spawn(Path::new("chromium"), arguments, Some(output)).unwrap();
        let end = Instant::now() + LIMIT;
        let address = loop {
            let said = std::fs::read_to_string(&log).unwrap();
            if let Some(address) = said.lines().find_map(|l| l.strip_prefix("DevTools listening on ")) {
                break address.to_owned();
            }
            assert!(Instant::now() < end, "{said}");
            sleep(PAUSE).await;
        };
        let (socket, _) = connect_async(address).await.unwrap();
        let mut tab = Self { socket, session: String::new(), last: 0, _browser: browser };
        let target = tab.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        tab.session = tab.call("Target.attachToTarget", attach).await["sessionId"].as_str().unwrap().to_owned();
        tab
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut call = json!({ "id": self.last, "method": method, "params": params });
        if !self.session.is_empty() {
            call["sessionId"] = self.session.as_str().into();
        }
        self.socket.send(Message::text(call.to_string())).await.unwrap();
        loop {
            let message = timeout(LIMIT, self.socket.next()).await.expect("the browser answers").unwrap().unwrap();
            let answer: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
            if answer["id"] == self.last {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    async fn go(&mut self, page: &str) {
        self.call("Page.navigate", json!({ "url": page })).await;
    }

    /// What an expression gives.
    async fn ask(&mut self, expression: &str) -> Value {
        let answer = self.call("Runtime.evaluate", json!({ "expression": expression, "returnByValue": true })).await;
        assert!(answer["exceptionDetails"].is_null(), "{answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    async fn until(&mut self, expression: &str) {
        let end = Instant::now() + LIMIT;
        while self.ask(expression).await != true {
            assert!(Instant::now() < end, "{expression}: {}", self.ask("document.body.innerText").await);
            sleep(PAUSE).await;
        }
    }

    /// A picture of the whole page, as PNG in base64.
    async fn picture(&mut self, theme: &str, width: u32) -> String {
        let features = json!([{ "name": "prefers-color-scheme", "value": theme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features })).await;
        let size = |height: u64| json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size(800)).await;
        let height = self.ask("document.documentElement.scrollHeight").await.as_u64().unwrap();
        self.call("Emulation.setDeviceMetricsOverride", size(height)).await;
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png" })).await;
        picture["data"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium: make page"]
async fn a_failover_is_seen_by_whoever_has_the_page_open() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_pointsman"));
    let settings = ProxySettings { binary, commit: Commit::Confirmed, workers: 1, extra: Vec::new() };
    let proxy = Proxy::start(&cluster, &settings).await.unwrap();
    let page = format!("http://{}/", proxy.admin());
    let load = LedgerSettings { pause: Duration::from_millis(2), ..LedgerSettings::new(proxy.listen()) };
    let ledger = Ledger::start(load);
    let old = cluster.addr(Member::Node(0)).to_string();

    let mut tab = Tab::open(&cluster).await;
    tab.go(&page).await;
    tab.until("document.querySelector('.badge')?.textContent === 'flowing'").await;
    tab.until("document.querySelectorAll('.chart path').length >= 4").await;
    assert_eq!(tab.ask("document.querySelectorAll('details').length").await, 0);

    cluster.failover(0).await.unwrap();
    tab.until("document.querySelector('.badge').textContent === 'WRITES HELD'").await;
    tab.until("document.querySelector('summary .kind')?.textContent === '1 planned'").await;
    tab.until("document.querySelector('.badge').textContent === 'flowing'").await;
    tab.until("document.querySelectorAll('.chart .held').length > 0").await;
    let story = tab.ask("document.querySelector('details').textContent").await;
    assert!(story.as_str().unwrap().contains(&format!("{old} → ")), "{story}");
    assert!(tab.ask("document.querySelectorAll('.timeline line').length").await.as_u64() > Some(3));
    if let Some(directory) = std::env::var_os("PAGE_PICTURES") {
        // Time for some life in the charts.
        sleep(Duration::from_secs(30)).await;
        for (name, theme, width) in [("light", "light", 900), ("dark", "dark", 900), ("phone", "light", 400)] {
            let picture = tab.picture(theme, width).await;
            std::fs::write(Path::new(&directory).join(format!("page-{name}.png.base64")), picture).unwrap();
        }
    }
    // What somebody has opened stays open while the page goes on.
    tab.ask("document.querySelector('summary').click()").await;
    tab.ask("window.seen = document.querySelector('.state')").await;
    tab.until("document.querySelector('.state') !== window.seen").await;
    assert_eq!(tab.ask("document.querySelector('details').open").await, true);
    tab.until("document.querySelectorAll('.chart')[0].textContent.includes('write')").await;
    assert_eq!(tab.ask("document.documentElement.scrollWidth <= window.innerWidth").await, true);

    // Without scripts the same is there, but for the charts.
    tab.call("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await;
    tab.go(&page).await;
    tab.until("document.querySelector('.badge')?.textContent === 'flowing' && document.querySelectorAll('.chart').length === 0").await;
    assert_eq!(tab.ask("document.querySelectorAll('details').length").await, 1);
    tab.call("Emulation.setScriptExecutionDisabled", json!({ "value": false })).await;

    // Nobody answers any more: the page says so, and since when.
    tab.go(&page).await;
    tab.until("document.querySelectorAll('.chart').length > 0").await;
    drop(ledger);
    drop(proxy);
    tab.until("document.querySelector('#stale').hidden === false").await;
}
