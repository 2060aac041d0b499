//! A running admin server with hand-written HTTP requests, and states of a service to show.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use pointsman::addr::ListenAddr;
use pointsman::admin::{AdminState, Instruction, Limits, Watched, serve_with};
use pointsman::clients::Clients;
use pointsman::config::{AdminConfig, ListenerConfig, ServiceConfig, Source};
use pointsman::insight::Insight;
use pointsman::metrics::ByWorker;
use pointsman::net::{Listener, bind};
use pointsman::topology::pause::PauseOrder;
use pointsman::topology::status::{FlowStatus, FlowWord, Phase, SentinelStatus, ServiceStatus};
use pointsman::topology::switchover::Order;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything may take; where it is reached the test has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a free port, and everything that it looks at. Ends with the test's runtime.
pub(crate) struct Admin {
    pub(crate) address: SocketAddr,
    /// Of each service, by two workers.
    pub(crate) stats: Vec<ByWorker>,
    /// The same.
    pub(crate) insight: Vec<Insight>,
    pub(crate) state: Arc<AdminState>,
    /// What the app is told to do.
    pub(crate) instructions: mpsc::Receiver<Instruction>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) server: Option<JoinHandle<()>>,
    /// What is ordered, by service.
    pub(crate) orders: Vec<mpsc::Receiver<Order>>,
    /// Pauses, by service.
    pub(crate) pauses: Vec<mpsc::Receiver<PauseOrder>>,
    /// The clients, by service.
    pub(crate) clients: Vec<Arc<Clients>>,
    services: Vec<(String, watch::Sender<Arc<ServiceStatus>>)>,
}

impl Admin {
    pub(crate) async fn start(services: &[&str]) -> Self {
        Self::start_with(services, Limits::default()).await
    }

    pub(crate) async fn start_with(services: &[&str], limits: Limits) -> Self {
        let listen = vec![ListenerConfig::new("127.0.0.1:0".parse().unwrap())];
        Self::start_as(services, limits, AdminConfig { listen, ..AdminConfig::default() }).await
    }

    /// The first of the sockets is TCP's.
    pub(crate) async fn start_as(services: &[&str], limits: Limits, config: AdminConfig) -> Self {
        let listeners: Vec<Listener> = config.listen.iter().map(|l| bind(l).unwrap()).collect();
        let ListenAddr::Tcp(address) = listeners[0].local_addr() else { panic!("TCP comes first") };
        let stats: Vec<_> = services.iter().map(|_| ByWorker::new(2)).collect();
        let insight: Vec<_> = services.iter().map(|_| Insight::new(2)).collect();
        let shutdown = CancellationToken::new();
        let (mut senders, mut orders, mut watched) = (Vec::new(), Vec::new(), Vec::new());
        let (mut pauses, mut clients) = (Vec::new(), Vec::new());
        for ((name, stats), insight) in services.iter().zip(&stats).zip(&insight) {
            let (sender, status) = watch::channel(Arc::new(ServiceStatus::unknown(name)));
            let (taker, taken) = mpsc::channel(1);
            let source = Source::Static(master().into());
            let config = watch::channel(Arc::new(ServiceConfig::new(*name, Vec::new(), source))).1;
            let known = Arc::new(Clients::new(2));
            let (pauser, paused) = mpsc::channel(1);
            watched.push(Watched {
                name: (*name).into(),
                config,
                stats: stats.clone(),
                insight: insight.clone(),
                status,
                orders: taker,
                pauses: pauser,
                clients: Arc::clone(&known),
            });
            pauses.push(paused);
            clients.push(known);
            senders.push((name.to_string(), sender));
            orders.push(taken);
        }
        let heartbeats = Arc::new((0..3).map(|_| AtomicU64::new(0)).collect());
        let (instructor, instructions) = mpsc::channel(1);
        let state = Arc::new(AdminState::new(watch::channel(watched).1, heartbeats, instructor, config));
        let server = tokio::spawn(serve_with(listeners, Arc::clone(&state), limits, shutdown.clone()));
        Self {
            address,
            stats,
            insight,
            state,
            instructions,
            shutdown,
            server: Some(server),
            orders,
            pauses,
            clients,
            services: senders,
        }
    }

    /// What control would do.
    pub(crate) fn set(&self, status: ServiceStatus) {
        let (_, sender) =
            self.services.iter().find(|(name, _)| *name == status.service).expect("a service of the test");
        sender.send_replace(Arc::new(status));
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request("GET", path).await
    }

    pub(crate) async fn request(&self, method: &str, path: &str) -> Response {
        self.send(method, path, "", "").await
    }

    /// How many requests, or connections for them, were turned away for this reason.
    pub(crate) async fn refused(&self, reason: &str) -> u64 {
        let scrape = self.get("/metrics").await.body;
        let series = format!("pointsman_admin_requests_refused_total{{reason=\"{reason}\"}} ");
        scrape.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
    }

    /// A request with more header lines, each with its end, and a body.
    pub(crate) async fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        send(self.address, method, path, headers, body).await
    }
}

/// See [`Admin::send`].
pub(crate) async fn send(host: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Response {
    let mut stream = TcpStream::connect(host).await.unwrap();
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}{length}\r\n");
    let request = head + body;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("answered in time").unwrap();
    Response::parse(&answer)
}

/// An HTTP response, taken apart.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: String,
    headers: Vec<(String, String)>,
}

impl Response {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|l| l.strip_prefix("HTTP/1.1 ")).expect("a status line");
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(": ").expect("a header");
            (name.to_ascii_lowercase(), value.to_owned())
        });
        Self { status: status[..3].parse().unwrap(), body: body.to_owned(), headers: headers.collect() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

fn master() -> SocketAddr {
    "127.0.0.1:7001".parse().unwrap()
}

fn sentinels() -> Vec<SentinelStatus> {
    let heard = SentinelStatus {
        endpoint: "127.0.0.1:26001".parse().unwrap(),
        learned: false,
        up: true,
        master: Some(master()),
        epoch: Some(3),
        master_down: false,
        failing_over: false,
        tilt: false,
        heard: None,
        error: None,
    };
    let lost = SentinelStatus {
        endpoint: "127.0.0.1:26002".parse().unwrap(),
        up: false,
        master: None,
        epoch: None,
        error: Some("connect refused".into()),
        ..heard
    };
    vec![heard, lost]
}

/// Sentinels have been asked, and no master is confirmed.
pub(crate) fn without_master(service: &str) -> ServiceStatus {
    ServiceStatus { sentinels: sentinels(), ..ServiceStatus::unknown(service) }
}

/// A master is confirmed and everything flows.
pub(crate) fn stable(service: &str) -> ServiceStatus {
    let flowing = FlowStatus { node: Some(master()), flow: FlowWord::Flowing };
    ServiceStatus {
        phase: Phase::Stable,
        master: Some(master()),
        generation: 1,
        config_epoch: Some(3),
        reads: flowing,
        writes: flowing,
        why: String::new(),
        settled: true,
        ..without_master(service)
    }
}

/// A failover has been announced: writes are held, reads flow.
pub(crate) fn failing_over(service: &str) -> ServiceStatus {
    let stable = stable(service);
    ServiceStatus {
        phase: Phase::Held,
        writes: FlowStatus { flow: FlowWord::Held, ..stable.writes },
        why: "a Sentinel has begun a failover".into(),
        writes_held_ms_total: 1500,
        ..stable
    }
}
