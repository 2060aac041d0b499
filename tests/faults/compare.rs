//! The same three faults with pointsman and with HAProxy before the same cluster: HAProxy asks each node for its role and
//! sends clients to whichever says master, as it is commonly set up. `make failover-compare` shows the table that is in
//! `docs/failover.md`.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pointsman::config::Commit;
use pointsman::demo::cluster::{Cluster, Member, Settings, free_port};
use pointsman::demo::ledger::{Ledger, LedgerSettings};
use pointsman::demo::process::Process;
use pointsman::demo::proxy::{Proxy, ProxySettings};
use pointsman::demo::tally::Tally;
use tokio::time::{Instant, sleep};

use crate::rig::PATIENCE;

/// The load of the project's failover measurements, slowed down so that a run is not about how fast the machine is.
const WRITERS: usize = 20;
const READERS: usize = 5;
const PAUSE: Duration = Duration::from_millis(5);
/// Before the fault.
const WARM: Duration = Duration::from_secs(2);
/// Until a dead master is started again, and a hung one goes on.
const AWAY: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Planned,
    Crash,
    Hang,
}

const FAULTS: [(Fault, &str); 3] = [
    (Fault::Planned, "`SENTINEL FAILOVER`"),
    (Fault::Crash, "`kill -9`, started again after 8 s"),
    (Fault::Hang, "`SIGSTOP`, `SIGCONT` after 8 s"),
];

/// What the clients go through.
enum Front {
    Pointsman(Proxy),
    HaProxy(SocketAddr, #[allow(dead_code, reason = "ends it")] Process),
}

impl Front {
    fn listen(&self) -> SocketAddr {
        match self {
            Self::Pointsman(proxy) => proxy.listen(),
            Self::HaProxy(listen, _) => *listen,
        }
    }
}

async fn pointsman(cluster: &Cluster, commit: Commit) -> Front {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_pointsman"));
    let settings = ProxySettings { binary, commit, workers: 1, extra: Vec::new() };
    Front::Pointsman(Proxy::start(cluster, &settings).await.unwrap())
}

/// With the checks that are recommended everywhere, more often than is recommended, and with the sessions to a node ended as
/// soon as it is not master any more.
async fn haproxy(cluster: &Cluster) -> Front {
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let servers: String = cluster.nodes().iter().enumerate().map(|(i, n)| format!(" server r{i} {n}\n")).collect();
    let config = format!(
        "global\n nbthread 1\ndefaults\n mode tcp\n timeout connect 1s\n timeout client 10m\n timeout server 10m\n\
         listen redis\n bind {listen}\n balance first\n option redispatch\n option tcp-check\n\
         tcp-check connect\n tcp-check send PING\\r\\n\n tcp-check expect string +PONG\n\
         tcp-check send info\\ replication\\r\\n\n tcp-check expect string role:master\n\
         tcp-check send QUIT\\r\\n\n tcp-check expect string +OK\n\
         timeout check 500ms\n default-server check inter 200ms fall 2 rise 1 on-marked-down shutdown-sessions\n{servers}"
    );
    let path = cluster.dir().join("haproxy.cfg");
    fs::write(&path, config).unwrap();
    let log = File::create(cluster.dir().join("haproxy.log")).unwrap();
    // It lives where not everybody's PATH leads.
    let program = pointsman::demo::process::find_program("haproxy".as_ref()).unwrap_or("/usr/sbin/haproxy".into());
    let process = cluster.supervisor().spawn(&program, ["-db".as_ref(), "-f".as_ref(), path.as_os_str()], Some(log));
    Front::HaProxy(listen, process.unwrap())
}

/// What clients noticed of a fault, until every node follows the new master.
async fn suffer(fault: Fault, cluster: &mut Cluster, front: &Front) -> Tally {
    let load =
        LedgerSettings { writers: WRITERS, readers: READERS, pause: PAUSE, ..LedgerSettings::new(front.listen()) };
    let ledger = Ledger::start(load);
    let end = Instant::now() + PATIENCE;
    while ledger.tally().acknowledged == 0 {
        assert!(Instant::now() < end, "nobody is served: {:?}", ledger.tally());
        sleep(Duration::from_millis(10)).await;
    }
    sleep(WARM).await;
    let old = Member::Node(0);
    let began = Instant::now();
    match fault {
        Fault::Planned => cluster.failover(0).await.unwrap(),
        Fault::Crash => cluster.kill(old).unwrap(),
        Fault::Hang => cluster.pause(old).unwrap(),
    }
    let new = cluster.wait_master_other_than(0, PATIENCE).await.unwrap();
    sleep(AWAY.saturating_sub(began.elapsed())).await;
    match fault {
        Fault::Planned => {}
        Fault::Crash => cluster.restart(old).await.unwrap(),
        Fault::Hang => cluster.resume(old).unwrap(),
    }
    assert_eq!(cluster.wait_settled(PATIENCE).await.unwrap(), new);
    sleep(WARM).await;
    ledger.audit(&mut cluster.connect(Member::Node(new)).await.unwrap()).await.unwrap()
}

fn row(fault: &str, through: &str, tally: &Tally) -> String {
    let kinds: Vec<String> = tally.error_kinds.iter().map(|(kind, n)| format!("{n} `{kind}`")).collect();
    let errors = if kinds.is_empty() { "0".to_owned() } else { kinds.join(", ") };
    format!(
        "| {fault} | {through} | {errors} | {} | {} | {} ms | {} ms | {} | **{}** | {} |",
        tally.dropped(),
        tally.failed_connects,
        tally.write_stall.length.as_millis(),
        tally.read_stall.length.as_millis(),
        tally.acknowledged,
        tally.lost,
        tally.went_back,
    )
}

#[tokio::test]
#[ignore = "`make failover-compare`: five minutes, and it needs HAProxy"]
async fn three_faults_beside_haproxy() {
    eprintln!(
        "| | through | error replies | disconnected | connects failed | writes stalled | reads stalled | \
         acknowledged writes | **of them lost** | reads that went back |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    for (fault, name) in FAULTS {
        for through in ["pointsman", "pointsman, eager", "HAProxy"] {
            let mut cluster = Cluster::start(Settings::default()).await.unwrap();
            let front = match through {
                "pointsman" => pointsman(&cluster, Commit::Confirmed).await,
                "pointsman, eager" => pointsman(&cluster, Commit::Eager).await,
                _ => haproxy(&cluster).await,
            };
            let tally = suffer(fault, &mut cluster, &front).await;
            eprintln!("{}", row(name, through, &tally));
            if let Front::Pointsman(_) = front {
                assert_eq!(
                    (tally.errors, tally.failed_connects, tally.doubled, tally.misplaced),
                    (0, 0, 0, 0),
                    "{tally:?}"
                );
                let drops = if fault == Fault::Planned { 0 } else { WRITERS as u64 };
                assert!(tally.dropped() <= drops, "{tally:?}");
                // A killed master may take with it what it had not sent its replicas yet.
                assert!(tally.lost == 0 || fault == Fault::Crash, "{tally:?}");
                assert!(tally.went_back == 0 || fault == Fault::Crash, "{tally:?}");
            }
        }
    }
}
