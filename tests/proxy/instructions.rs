//! What commands cost in instructions, counted by valgrind: so many, whatever else the machine does. Counted is what is
//! done for clients: scanning, routing, forwarding, and handing out the replies; not the event loop, nor what goes on by
//! itself.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use pointsman::demo::cluster::{Cluster, Member, free_port};
use pointsman::demo::process::find_program;
use pointsman::demo::settings::Settings;
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::support::{Raw, command};

/// Under valgrind a start takes seconds, on a busy machine tens of them.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Two runs differ by a thousandth; what two compilers make, or one from scratch and from what it had, by a twentieth.
const TOLERANCE: f64 = 0.05;
/// Within these, and what they call, instructions are counted.
const COUNTED: [&str; 3] = [
    "--toggle-collect=pointsman::worker::serve*",
    "--toggle-collect=pointsman::backend::driver::read_replies*",
    "--toggle-collect=pointsman::backend::driver::write_commands*",
];

/// One way to send commands.
struct Case {
    name: &'static str,
    /// Commands in all.
    commands: u32,
    /// How many are sent at once.
    pipeline: u32,
    /// How many each connection sends.
    by_connection: u32,
    words: &'static [&'static str],
    /// Instructions by command in user space, in the profile that the tests are built with, as last measured.
    expected: f64,
}

const VALUE: &str = "0123456789012345678901234567890123456789012345678901234567890123";
const WRITE: &[&str] = &["SET", "key:000000000001", VALUE];
const READ: &[&str] = &["GET", "key:000000000001"];

const CASES: [Case; 4] = [
    Case { name: "SET", commands: 1000, pipeline: 1, by_connection: u32::MAX, words: WRITE, expected: 5_820.0 },
    // Of what the one before has written.
    Case { name: "GET", commands: 1000, pipeline: 1, by_connection: u32::MAX, words: READ, expected: 5_745.0 },
    Case {
        name: "SET, pipeline 16",
        commands: 8000,
        pipeline: 16,
        by_connection: u32::MAX,
        words: WRITE,
        expected: 885.0,
    },
    Case {
        name: "connect, SET, close",
        commands: 1000,
        pipeline: 1,
        by_connection: 1,
        words: WRITE,
        expected: 11_270.0,
    },
];

/// Instructions by command.
async fn instructions(cluster: &Cluster, case: &Case) -> f64 {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
    let log = cluster.dir().join(format!("{}.log", addr.port()));
    let (master, listen) = (cluster.addr(Member::Node(0)).to_string(), addr.to_string());
    let [session, reader, writer] = COUNTED;
    let binary = env!("CARGO_BIN_EXE_pointsman");
    let tool = ["--tool=callgrind", "--callgrind-out-file=/dev/null", session, reader, writer, binary];
    let run = ["run", "--master", &master, "--service", "test", "--listen", &listen, "--workers", "1"];
    let valgrind = find_program(Path::new("valgrind")).expect("tests/install.sh valgrind");
    let mut process =
        cluster.supervisor().spawn(&valgrind, tool.iter().chain(&run), Some(File::create(&log).unwrap())).unwrap();
    let said = || fs::read_to_string(&log).unwrap_or_default();

    let end = Instant::now() + START_LIMIT;
    while TcpStream::connect(addr).await.is_err() {
        assert!(Instant::now() < end && process.ended().unwrap().is_none(), "{}: {}", case.name, said());
        sleep(Duration::from_millis(20)).await;
    }
    let batch = command(case.words).repeat(case.pipeline as usize);
    let mut client = Raw::connect(addr).await;
    let (mut sent, mut by_this) = (0, 0);
    while sent < case.commands {
        if by_this >= case.by_connection {
            (client, by_this) = (Raw::connect(addr).await, 0);
        }
        client.send(&batch).await;
        for _ in 0..case.pipeline {
            let mut reply = client.line().await.unwrap_or_default();
            if reply == format!("${}\r\n", VALUE.len()) {
                reply = client.line().await.unwrap_or_default();
            }
            let right = if case.words == READ { VALUE } else { "+OK" };
            assert_eq!(reply.trim_end(), right, "{}", case.name);
        }
        (sent, by_this) = (sent + case.pipeline, by_this + case.pipeline);
    }
    drop(client);
    process.signal(Signal::TERM).unwrap();
    while process.ended().unwrap().is_none() {
        assert!(Instant::now() < end, "{} does not end: {}", case.name, said());
        sleep(Duration::from_millis(10)).await;
    }
    let said = said();
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let count: Option<f64> = collected.and_then(|(_, count)| count.parse().ok());
    count.unwrap_or_else(|| panic!("{}: {said}", case.name)) / f64::from(case.commands)
}

#[tokio::test]
#[ignore = "it needs valgrind, and ten seconds"]
async fn commands_cost_no_more_instructions_than_before() {
    let cluster = Cluster::start(Settings::single()).await.unwrap();
    let mut wrong = Vec::new();
    for case in &CASES {
        let cost = instructions(&cluster, case).await;
        eprintln!("{}: {cost:.0} instructions by command, expected {:.0}", case.name, case.expected);
        if (cost / case.expected - 1.0).abs() > TOLERANCE {
            wrong.push(format!("{}: {cost:.0}, expected {:.0}", case.name, case.expected));
        }
    }
    assert!(wrong.is_empty(), "if that is intended, say so in CASES: {wrong:?}");
}
