//! `deploy/redis`: real servers from these very files, and pointsman before them with no more rights than they give.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use pointsman::demo::cluster::{Cluster, free_port};
use pointsman::demo::process::{Process, Supervisor, TempDir};
use pointsman::demo::proxy::fetch;
use pointsman::demo::settings::Settings;
use pointsman::demo::wire::{Connection, Reply, elements, fields, text};
use tokio::time::{Instant, sleep};

use crate::{deployed, runs};

/// Sentinels find each other by messages every two seconds, and look at nodes every ten.
const PATIENCE: Duration = Duration::from_secs(40);
const LIMIT: Duration = Duration::from_secs(5);
/// For the test's own questions, the same at nodes and Sentinels.
const ADMINISTRATOR: &str = "user test on >test ~* &* +@all";

/// The set-up of the files, on one machine.
struct Servers {
    nodes: Vec<SocketAddr>,
    sentinels: Vec<SocketAddr>,
    supervisor: Supervisor,
    dir: TempDir,
    _processes: Vec<Process>,
}

fn local() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()))
}

impl Servers {
    /// Addresses and directories are changed, and nothing else.
    fn start() -> Self {
        let (nodes, sentinels): (Vec<_>, Vec<_>) = (0..3).map(|_| (local(), local())).unzip();
        let (dir, supervisor) = (TempDir::new().unwrap(), Supervisor::new().unwrap());
        let mut processes = Vec::new();
        let mut start = |program: &str, name: String, config: String| {
            let home = dir.path().join(&name);
            fs::create_dir(&home).unwrap();
            let config = config.replace("dir /var/lib/redis", &format!("dir {}", home.display()));
            let file = home.join("conf");
            fs::write(&file, config).unwrap();
            let log = fs::File::create(dir.path().join(name + ".log")).unwrap();
            processes.push(supervisor.spawn(Path::new(program), [file], Some(log)).unwrap());
        };
        let users = dir.path().join("users.acl");
        fs::write(&users, deployed("redis/users.acl") + ADMINISTRATOR + "\n").unwrap();
        for (i, node) in nodes.iter().enumerate() {
            let mut config = deployed("redis/redis.conf")
                .replace("bind 10.0.0.1 127.0.0.1", "bind 127.0.0.1")
                .replace("announce-ip 10.0.0.1", "announce-ip 127.0.0.1")
                .replace("port 6379\n", &format!("port {}\n", node.port()))
                .replace("/etc/redis/users.acl", users.to_str().unwrap());
            if i > 0 {
                let follow = format!("replicaof 127.0.0.1 {}", nodes[0].port());
                config = config.replace("#replicaof 10.0.0.1 6379", &follow);
            }
            start("redis-server", format!("node{i}"), config);
        }
        for (i, sentinel) in sentinels.iter().enumerate() {
            let config = deployed("redis/sentinel.conf")
                .replace("bind 10.0.0.1 127.0.0.1", "bind 127.0.0.1")
                .replace("announce-ip 10.0.0.1", "announce-ip 127.0.0.1")
                .replace("port 26379", &format!("port {}", sentinel.port()))
                .replace("10.0.0.1 6379", &format!("127.0.0.1 {}", nodes[0].port()));
            start("redis-sentinel", format!("sentinel{i}"), config + ADMINISTRATOR + "\n");
        }
        Self { nodes, sentinels, supervisor, dir, _processes: processes }
    }

    /// Everything that was logged, for a failure.
    fn logs(&self) -> String {
        let names = fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().path());
        let logs = names.filter(|p| p.extension().is_some_and(|e| e == "log"));
        logs.map(|log| format!("{}:\n{}\n", log.display(), fs::read_to_string(&log).unwrap())).collect()
    }
}

/// A configuration of one service with the users of `deploy/redis`.
fn configuration(dir: &Path, sentinels: &[SocketAddr], listen: SocketAddr, admin: SocketAddr) -> String {
    let sentinels: Vec<String> = sentinels.iter().map(|s| format!("\"{s}\"")).collect();
    let path = dir.join("pointsman.toml");
    let config = format!(
        "admin = \"{admin}\"\n[[service]]\nname = \"mymaster\"\nlisten = [\"{listen}\"]\nsentinels = [{}]\n\
         backend_user = \"pointsman\"\nbackend_password = \"CHANGE-ME-pointsman\"\n\
         sentinel_user = \"pointsman\"\nsentinel_password = \"CHANGE-ME-pointsman\"\n",
        sentinels.join(", ")
    );
    fs::write(&path, config).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What these files forbade anybody at this server.
async fn refused(server: SocketAddr) -> Vec<String> {
    let log = signed_in(server, "test", "test").await.call(&["ACL", "LOG"], LIMIT).await.unwrap();
    let entry = |reply: &Reply| {
        let entry = fields(reply);
        format!("{} was refused {} at {server}: {}", entry["username"], entry["object"], entry["reason"])
    };
    elements(&log).iter().map(entry).collect()
}

async fn signed_in(server: SocketAddr, user: &str, password: &str) -> Connection {
    let mut client = Connection::open(server, LIMIT).await.unwrap();
    assert_eq!(text(&client.call(&["AUTH", user, password], LIMIT).await.unwrap()), "OK");
    client
}

#[tokio::test]
async fn the_three_nodes_of_deploy_redis_are_switched_over_with_the_rights_that_are_given_there() {
    let servers = Servers::start();
    let (listen, admin) = (local(), local());
    let config = configuration(servers.dir.path(), &servers.sentinels, listen, admin);
    let args = [env!("CARGO_BIN_EXE_pointsman"), "run", "--config", &config];
    let log = fs::File::create(servers.dir.path().join("pointsman.log")).unwrap();
    let _pointsman = servers.supervisor.spawn(Path::new(args[0]), &args[1..], Some(log)).unwrap();

    // A Sentinel may be the last to hear of another, and a replica to follow.
    let end = Instant::now() + PATIENCE;
    let to = servers.nodes[2].to_string();
    while let Err(why) = runs(&["switchover", "mymaster", "--to", &to, "--dry-run", "--config", &config]).await {
        assert!(Instant::now() < end, "{why}\n{}", servers.logs());
        sleep(Duration::from_millis(200)).await;
    }
    runs(&["check", "--online", "--config", &config]).await.unwrap();
    let mut client = signed_in(listen, "app", "CHANGE-ME-app").await;
    assert_eq!(text(&client.call(&["INCR", "n"], LIMIT).await.unwrap()), "1");
    // Where it is refused nothing has changed.
    let end = Instant::now() + PATIENCE;
    let done = loop {
        match runs(&["switchover", "mymaster", "--to", &to, "--config", &config]).await {
            Ok(done) => break done,
            Err(why) if why.contains("exit status: 75") && Instant::now() < end => {
                sleep(Duration::from_millis(200)).await
            }
            Err(why) => panic!("{why}\n{}", servers.logs()),
        }
    };
    assert!(done.contains("none was lost"), "{done}");
    assert_eq!(text(&client.call(&["INCR", "n"], LIMIT).await.unwrap()), "2");
    let ready = fetch(admin, "/readyz").await.unwrap();
    assert!(ready.contains(&format!("master {}", servers.nodes[2])), "{ready}");
    let mut denied = Vec::new();
    for server in servers.nodes.iter().chain(&servers.sentinels) {
        denied.extend(refused(*server).await);
    }
    assert_eq!(denied, Vec::<String>::new(), "nobody needs more than it has");
}

/// The users in a document, as they are to be copied: at Redis, and at Sentinel.
fn documented(name: &str) -> Vec<String> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    let document = fs::read_to_string(document).unwrap();
    document.lines().filter(|line| line.starts_with("user pointsman on >PASSWORD ")).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_least_rights_that_the_documents_name_are_enough_for_a_failover() {
    let lines = documented("security.md");
    assert_eq!(lines, documented("configuration.md"));
    let [at_redis, at_sentinel] = &lines[..] else { panic!("one line each: {lines:?}") };
    let line = |line: &str| vec![line.replace("PASSWORD", "CHANGE-ME-pointsman"), ADMINISTRATOR.to_owned()];
    let settings = Settings { redis_lines: line(at_redis), sentinel_lines: line(at_sentinel), ..Settings::default() };
    let cluster = Cluster::start(settings).await.unwrap();
    let (listen, admin) = (local(), local());
    let config = configuration(cluster.dir(), &cluster.sentinels(), listen, admin);
    let args = [env!("CARGO_BIN_EXE_pointsman"), "run", "--config", &config];
    let _pointsman = cluster.supervisor().spawn(Path::new(args[0]), &args[1..], None).unwrap();
    let end = Instant::now() + PATIENCE;
    while !fetch(admin, "/readyz").await.is_ok_and(|page| page.contains("writes flowing") && !page.contains(": down")) {
        assert!(Instant::now() < end, "it does not serve");
        sleep(Duration::from_millis(50)).await;
    }
    runs(&["check", "--online", "--config", &config]).await.unwrap();

    let mut client = Connection::open(listen, LIMIT).await.unwrap();
    let script = text(&client.call(&["SCRIPT", "LOAD", "return redis.call('incr', KEYS[1])"], LIMIT).await.unwrap());
    let run = ["EVALSHA", &script, "1", "n"];
    assert_eq!(text(&client.call(&run, LIMIT).await.unwrap()), "1");
    let mut blocked = Connection::open(listen, LIMIT).await.unwrap();
    blocked.send(&["BLMOVE", "queue", "done", "LEFT", "LEFT", "0"]).await.unwrap();
    cluster.failover(0).await.unwrap();
    cluster.wait_master_other_than(0, PATIENCE).await.unwrap();
    assert_eq!(text(&client.call(&run, PATIENCE).await.unwrap()), "2");
    client.call(&["RPUSH", "queue", "job"], PATIENCE).await.unwrap();
    assert_eq!(text(&blocked.receive().await.unwrap()), "job", "taken back from the old master, and issued again");
    let mut denied = Vec::new();
    for server in cluster.nodes().iter().chain(&cluster.sentinels()) {
        denied.extend(refused(*server).await);
    }
    assert_eq!(denied, Vec::<String>::new());
}
