//! Clients that speak TLS, and those that should.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pointsman::demo::cluster::{Cluster, Member, Settings, free_port};
use pointsman::demo::process::{Process, TempDir};
use pointsman::demo::proxy::fetch;
use proxy_header::{ProxiedAddress, ProxyHeader};
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificates::{Authority, Pair};

const PATIENCE: Duration = Duration::from_secs(10);

/// pointsman with a listener that speaks TLS, before one plain Redis.
struct Front {
    files: TempDir,
    authority: Authority,
    /// As clients call it.
    port: u16,
    plain_port: u16,
    admin: u16,
    process: Process,
    cluster: Cluster,
}

impl Front {
    async fn start(keys: impl FnOnce(&Authority) -> String) -> Self {
        Self::start_with(keys, "").await
    }

    /// With keys of the service besides those of its listener.
    async fn start_with(keys: impl FnOnce(&Authority) -> String, service: &str) -> Self {
        let files = TempDir::new().unwrap();
        let authority = Authority::new(files.path(), "authority");
        let cluster = Cluster::start(Settings::single()).await.unwrap();
        let [port, plain_port, admin] = [(); 3].map(|()| free_port().unwrap());
        let redis = cluster.addr(Member::Node(0));
        let Pair { cert, key } = authority.issue("front", &["localhost", "127.0.0.1"]);
        let tls = format!("tls_cert_file = \"{}\", tls_key_file = \"{}\"", cert.display(), key.display());
        let listen = format!("{{ address = \"127.0.0.1:{port}\", {tls}, {} }}", keys(&authority));
        let text = format!(
            "admin = \"127.0.0.1:{admin}\"\nworkers = 2\n[log]\nlevel = \"debug\"\n[[service]]\nmaster = \"{redis}\"\n\
             limits.handshake_timeout = \"300ms\"\n{service}\nlisten = [\"127.0.0.1:{plain_port}\", {listen}]\n"
        );
        let path = files.path().join("pointsman.toml");
        std::fs::write(&path, text).unwrap();
        let process = Self::spawn(&cluster, &files);
        let front = Self { files, authority, port, plain_port, admin, process, cluster };
        front.until_stable().await;
        front
    }

    fn spawn(cluster: &Cluster, files: &TempDir) -> Process {
        let log = std::fs::File::create(files.path().join("log")).unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_pointsman"));
        let config = files.path().join("pointsman.toml").display().to_string();
        cluster.supervisor().spawn(binary, ["run", "--config", &config], Some(log)).unwrap()
    }

    async fn until_stable(&self) {
        self.until(|_, status| status.replace(' ', "").contains("\"phase\":\"stable\"")).await;
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.files.path().join("log")).unwrap()
    }

    /// Waits until this is so of the log and `/status`.
    async fn until(&self, is_so: impl Fn(&str, &str) -> bool) {
        let end = Instant::now() + PATIENCE;
        let admin = ([127, 0, 0, 1], self.admin).into();
        while !fetch(admin, "/status").await.is_ok_and(|status| is_so(&self.log(), &status)) {
            assert!(Instant::now() < end, "{}", self.log());
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn logged(&self, text: &str) {
        self.until(|log, _| log.contains(text)).await;
    }

    async fn metric(&self, series: &str) -> f64 {
        let page = fetch(([127, 0, 0, 1], self.admin).into(), "/metrics").await.unwrap();
        let line = page.lines().find(|l| l.starts_with(series)).unwrap_or_else(|| panic!("no {series}:\n{page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    async fn handshakes(&self, outcome: &str) -> f64 {
        self.metric(&format!("pointsman_tls_handshakes_total{{service=\"redis\",outcome=\"{outcome}\"}}")).await
    }

    /// Waits until so many handshakes, or more, ended so: a client may know before they are counted, and redis-cli may
    /// connect twice.
    async fn counted(&self, outcome: &str, n: f64) {
        let end = Instant::now() + PATIENCE;
        while self.handshakes(outcome).await < n {
            assert!(Instant::now() < end, "{outcome} {n}: {}", self.log());
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn redis_cli(&self, pair: Option<&Pair>) -> Command {
        let mut cli = Command::new("redis-cli");
        cli.args(["-h", "localhost", "-p", &self.port.to_string(), "--tls", "--cacert"]).arg(&self.authority.file);
        if let Some(Pair { cert, key }) = pair {
            cli.arg("--cert").arg(cert).arg("--key").arg(key);
        }
        cli.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        cli
    }

    /// What redis-cli says to a command, errors too.
    fn ask(&self, pair: Option<&Pair>, words: &[&str]) -> String {
        let output = self.redis_cli(pair).args(words).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }
}

// The programs are waited for on the thread of the test, while the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_cli_is_served_and_those_who_do_not_speak_it_are_told_of() {
    let front = Front::start(|_| String::new()).await;
    assert_eq!(front.ask(None, &["SET", "k", "v"]), "OK\n");
    // Larger than a record, and than what a socket holds, in both directions.
    let large = "x".repeat(8 << 20);
    let mut cli = front.redis_cli(None).args(["-x", "SET", "large"]).spawn().unwrap();
    cli.stdin.take().unwrap().write_all(large.as_bytes()).unwrap();
    assert_eq!(cli.wait_with_output().unwrap().stdout, b"OK\n");
    assert_eq!(front.ask(None, &["GET", "large"]).trim_end(), large);
    front.counted("done", 3.0).await;
    // In a pipeline, over several database numbers: the TLS leg is no other than the plain one.
    let mut cli = front.redis_cli(None).arg("--pipe").spawn().unwrap();
    let sets: String = (0..20_000).map(|n| format!("SET k{n} {n}\r\n")).collect();
    cli.stdin.take().unwrap().write_all(sets.as_bytes()).unwrap();
    let said = String::from_utf8(cli.wait_with_output().unwrap().stdout).unwrap();
    assert!(said.contains("errors: 0, replies: 20000"), "{said}");

    let mut plain = TcpStream::connect(("127.0.0.1", front.port)).await.unwrap();
    plain.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
    let mut got = Vec::new();
    let _ = plain.read_to_end(&mut got).await;
    assert!(!got.starts_with(b"+"), "{got:?}");
    front.logged("TLS: the client does not speak TLS on this port").await;
    front.counted("plain", 1.0).await;

    // Nothing is heard of this one for longer than it may take.
    let mut silent = TcpStream::connect(("127.0.0.1", front.port)).await.unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
    front.counted("timeout", 1.0).await;

    let mut cli = Command::new("redis-cli");
    cli.args(["-h", "127.0.0.1", "-p", &front.plain_port.to_string(), "--tls", "--insecure", "PING"]);
    assert!(!cli.output().unwrap().stdout.starts_with(b"PONG"));
    front.logged("it speaks TLS, and this listener has no tls_cert_file").await;
    front.counted("unexpected", 1.0).await;
    assert_eq!(front.ask(None, &["GET", "k"]), "v\n", "all others go on");
    assert!(front.cluster.is_running(Member::Node(0)));
}

// The programs are waited for on the thread of the test, while the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_clients_are_demanded_and_renewed_ones_are_taken_at_a_reload() {
    let ca = |a: &Authority| format!("tls_client_ca_file = \"{}\"", a.file.display());
    let front = Front::start(ca).await;
    let app = front.authority.issue("app", &[]);
    let stranger = Authority::new(front.files.path(), "stranger").issue("impostor", &[]);
    let old = front.authority.issue_until("former", &[], SystemTime::now() - Duration::from_secs(60));

    let said = front.ask(Some(&app), &["CLIENT", "LIST"]);
    assert!(said.contains(" name=app "), "{said}");
    front.logged("subject=CN=app").await;
    for (pair, outcome) in [(None, "no_certificate"), (Some(&stranger), "certificate"), (Some(&old), "certificate")] {
        let before = front.handshakes(outcome).await;
        assert_ne!(front.ask(pair, &["PING"]), "PONG\n");
        front.counted(outcome, before + 1.0).await;
    }
    front.logged("TLS: the client shows no certificate, and one is demanded").await;

    // One that stays connected while the certificate of the listener is renewed, then broken.
    let mut staying = front.redis_cli(Some(&app)).spawn().unwrap();
    let (mut says, mut hears) = (staying.stdin.take().unwrap(), staying.stdout.take().unwrap());
    let mut answer = [0; 5];
    says.write_all(b"PING\n").unwrap();
    hears.read_exact(&mut answer).unwrap();
    let expiry = "pointsman_tls_certificate_expiry_timestamp_seconds{service=\"redis\",leg=\"client\"";
    let expires = |path: &Path| format!("{expiry},file=\"{}\"", path.display());
    let file = front.files.path().join("front.crt");
    let before = front.metric(&expires(&file)).await;
    let end = SystemTime::now() + Duration::from_secs(200 * 24 * 3600);
    front.authority.issue_until("front", &["localhost"], end);
    front.process.signal(Signal::HUP).unwrap();
    front.logged("reloaded: service redis changed: listen").await;
    assert!(front.metric(&expires(&file)).await > before + 100.0 * 24.0 * 3600.0);
    assert_eq!(front.ask(Some(&app), &["PING"]), "PONG\n");
    std::fs::copy(&app.key, front.files.path().join("front.key")).unwrap();
    front.process.signal(Signal::HUP).unwrap();
    front.logged("not reloaded: ").await;
    assert!(front.log().contains("is not the key of the certificate in"), "{}", front.log());
    assert_eq!(front.ask(Some(&app), &["PING"]), "PONG\n", "with what was there before");
    says.write_all(b"PING\n").unwrap();
    hears.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"PONG\n", "it has noticed nothing");
    drop(says);
    staying.wait().unwrap();
}

impl Front {
    /// A TLS session on a connection that is there.
    async fn shake_hands(&self, tcp: TcpStream) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.authority.file).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), tcp).await.unwrap()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }
}

/// An end that nobody has announced is an error in TLS, since an attacker could have made it.
#[tokio::test]
async fn a_client_that_leaves_in_a_drain_is_told_of_the_end() {
    let front = Front::start(|_| String::new()).await;
    let mut client = front.shake_hands(front.connect().await).await;
    client.write_all(b"PING\r\n").await.unwrap();
    client.read_exact(&mut [0; 7]).await.unwrap();
    front.process.signal(Signal::TERM).unwrap();
    assert_eq!(client.read(&mut [0; 16]).await.expect("an end that was announced"), 0);
}

/// A balancer in TCP mode: its header, in plain, then the client's handshake.
#[tokio::test]
async fn behind_a_balancer_the_header_comes_before_the_handshake() {
    let front = Front::start(|_| "proxy_protocol = [\"127.0.0.1\"]".to_owned()).await;
    let address = ProxiedAddress::stream("203.0.113.9:40001".parse().unwrap(), "198.51.100.1:6379".parse().unwrap());
    let mut header = [0; 64];
    let len = ProxyHeader::with_address(address).encode_to_slice_v2(&mut header).unwrap();
    for header in [&header[..len], b"PROXY TCP4 203.0.113.9 198.51.100.1 40001 6379\r\n"] {
        let mut tcp = front.connect().await;
        tcp.write_all(header).await.unwrap();
        let mut client = front.shake_hands(tcp).await;
        client.write_all(b"CLIENT INFO\r\n").await.unwrap();
        let mut said = vec![0; 4096];
        let n = client.read(&mut said).await.unwrap();
        let said = String::from_utf8_lossy(&said[..n]).into_owned();
        assert!(said.contains(" addr=203.0.113.9:40001 laddr=198.51.100.1:6379 "), "{said}");
    }
    // TLS where the header is due is none.
    let mut early = front.connect().await;
    early.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0, 0, 0, 0, 0]).await.unwrap();
    let mut said = Vec::new();
    let _ = early.read_to_end(&mut said).await;
    assert!(said.starts_with(b"-DENIED pointsman: a PROXY header was expected, and other bytes came"), "{said:?}");
}

/// What is wrong with a certificate in use is a reason to change things, not against it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_in_use_stands_in_the_way_of_no_reload_and_a_new_one_does() {
    let mut front = Front::start(|_| String::new()).await;
    let (file, key) = (front.files.path().join("front.crt"), front.files.path().join("front.key"));
    let valid = [&file, &key].map(|path| std::fs::read(path).unwrap());
    let configuration = front.files.path().join("pointsman.toml");
    let change = |from: &str, to: &str| {
        let text = std::fs::read_to_string(&configuration).unwrap().replace(from, to);
        std::fs::write(&configuration, text).unwrap();
        front.process.signal(Signal::HUP).unwrap();
    };
    // Put in the place of one that is good.
    let end = SystemTime::now() + Duration::from_secs(3);
    front.authority.issue_until("front", &["localhost"], SystemTime::now() - Duration::from_secs(60));
    change("300ms", "301ms");
    front.logged("not reloaded: ").await;
    assert!(front.log().contains("the certificate of CN=front expired on "), "{}", front.log());
    assert_eq!(front.ask(None, &["PING"]), "PONG\n");
    let expired = "pointsman_config_last_reload_successful";
    assert_eq!(front.metric(expired).await, 0.0);

    // It expires while it is used.
    front.authority.issue_until("front", &["localhost"], end);
    change("301ms", "302ms");
    front.logged("reloaded: service redis changed").await;
    while SystemTime::now() < end + Duration::from_secs(1) {
        sleep(Duration::from_millis(50)).await;
    }
    assert_ne!(front.ask(None, &["PING"]), "PONG\n", "clients refuse it");
    change("302ms", "303ms");
    front.until(|log, _| log.matches("reloaded: service redis changed").count() == 2).await;
    assert_eq!(front.metric(expired).await, 1.0);
    assert_eq!(front.log().matches("the certificate of CN=front expired on ").count(), 2, "{}", front.log());

    for (path, bytes) in [&file, &key].into_iter().zip(valid) {
        std::fs::write(path, bytes).unwrap();
    }
    front.process.signal(Signal::HUP).unwrap();
    front.until(|log, _| log.matches("reloaded: service redis changed").count() == 3).await;
    assert_eq!(front.ask(None, &["PING"]), "PONG\n");

    // Nor does it keep anybody from starting: those of the plain port are served.
    front.authority.issue_until("front", &["localhost"], SystemTime::now() - Duration::from_secs(60));
    front.process.kill().unwrap();
    front.process = Front::spawn(&front.cluster, &front.files);
    front.until_stable().await;
    assert!(front.log().contains("ERROR") && front.log().contains("expired on "), "{}", front.log());
    let expires = "pointsman_tls_certificate_expiry_timestamp_seconds{service=\"redis\",leg=\"client\"";
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(front.metric(expires).await < since_1970);
    let mut plain = TcpStream::connect(("127.0.0.1", front.plain_port)).await.unwrap();
    plain.write_all(b"PING\r\n").await.unwrap();
    plain.read_exact(&mut [0; 7]).await.unwrap();
}

/// A handshake for every client too many is what the limit is to spare us: the connection is closed, and it is counted.
#[tokio::test]
async fn one_client_too_many_is_closed_before_its_handshake() {
    let front = Front::start_with(|_| String::new(), "limits.max_clients = 1").await;
    let mut first = front.shake_hands(front.connect().await).await;
    first.write_all(b"PING\r\n").await.unwrap();
    first.read_exact(&mut [0; 7]).await.unwrap();
    let mut second = front.connect().await;
    let mut said = Vec::new();
    let _ = second.read_to_end(&mut said).await;
    assert_eq!(said, b"");
    let refused = "pointsman_clients_rejected_total{service=\"redis\",reason=\"max_clients\"";
    assert_eq!(front.metric(refused).await, 1.0);
    front.logged("1 clients are connected (limits.max_clients)").await;
    first.write_all(b"PING\r\n").await.unwrap();
    first.read_exact(&mut [0; 7]).await.expect("it goes on");
}
