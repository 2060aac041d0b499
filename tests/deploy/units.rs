//! `deploy/systemd`: read by systemd's own tools, and the rights that the unit leaves held against what pointsman does.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use pointsman::demo::cluster::{Cluster, Member, free_port};
use pointsman::demo::process::TempDir;
use pointsman::demo::settings::Settings;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::support::{PATIENCE, Raw, command};
use crate::{deployed, path};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pointsman");

fn output(command: &mut Command) -> (bool, String) {
    let output = command.env("SYSTEMD_PAGER", "cat").output().expect("Debian's systemd package has it");
    let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
    (output.status.success(), text)
}

#[test]
fn systemd_understands_every_line_of_the_units() {
    let dir = TempDir::new().unwrap();
    let units = ["pointsman.service", "pointsman.socket"].map(|name| {
        let file = dir.path().join(name);
        // The program is not installed here.
        fs::write(&file, deployed(&format!("systemd/{name}")).replace("/usr/bin/pointsman", PROGRAM)).unwrap();
        file
    });
    let verified = output(Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units));
    assert_eq!(verified, (true, String::new()));
    // What it says of a line that it does not understand.
    fs::write(&units[0], deployed("systemd/pointsman.service").replace("ProtectHome", "ProtectHose")).unwrap();
    let (_, said) = output(Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units));
    assert!(said.contains("ProtectHose"), "{said}");
}

#[test]
fn the_unit_leaves_few_rights() {
    let unit = path("systemd/pointsman.service");
    let rated = ["security", "--offline=true", "--threshold=15"];
    let (passed, report) = output(Command::new("systemd-analyze").args(rated).arg(unit));
    assert!(passed, "its exposure is more than 1.5:\n{report}");
}

/// Every call that the unit's filter lets through; `@set`s are resolved as systemd does.
fn allowed() -> BTreeSet<String> {
    let unit = deployed("systemd/pointsman.service");
    let filters = unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter="));
    let mut calls = BTreeSet::new();
    for filter in filters {
        let (sets, takes_away) = filter.strip_prefix('~').map_or((filter, false), |sets| (sets, true));
        for set in sets.split_whitespace() {
            for call in members(set) {
                if takes_away {
                    calls.remove(&call)
                } else {
                    calls.insert(call)
                };
            }
        }
    }
    // A filter lets these through always: systemd.exec(5).
    calls.extend(members("@default"));
    calls.extend(["execve".to_owned()]);
    calls
}

fn members(set: &str) -> Vec<String> {
    let (found, text) = output(Command::new("systemd-analyze").args(["syscall-filter", set]));
    assert!(found, "{text}");
    let names = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let names = names.filter(|line| *line != set);
    names.flat_map(|name| if name.starts_with('@') { members(name) } else { vec![name.to_owned()] }).collect()
}

#[tokio::test]
async fn pointsman_makes_no_system_call_that_the_unit_forbids() {
    let cluster = Cluster::start(Settings::single()).await.unwrap();
    let local = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
    let (listen, socket) = (local(), cluster.dir().join("redis.sock"));
    let (file, state) = (cluster.dir().join("pointsman.toml"), cluster.dir().join("state"));
    fs::create_dir(&state).unwrap();
    let redis = cluster.addr(Member::Node(0));
    let config = format!(
        "admin = \"{}\"\nstate_dir = \"{}\"\n[[service]]\nname = \"main\"\nmaster = \"localhost:{}\"\n\
         listen = [\"{listen}\", \"unix:{}\"]\n",
        local(),
        state.display(),
        redis.port(),
        socket.display()
    );
    fs::write(&file, config).unwrap();
    let calls = cluster.dir().join("calls");
    // As LimitNOFILE of the unit: nothing is left to be raised.
    let script = "ulimit -Hn 4096; ulimit -n 4096; exec \"$0\" \"$@\"";
    // Who is traced goes on when strace dies; a test that fails leaves nothing behind.
    let strace = ["strace", "-f", "-qq", "-o", calls.to_str().unwrap(), "setpriv", "--pdeathsig", "KILL"];
    let run = [PROGRAM, "run", "--config", file.to_str().unwrap()];
    let arguments = ["-c", script].into_iter().chain(strace).chain(run);
    let mut process = cluster.supervisor().spawn(Path::new("sh"), arguments, None).unwrap();
    let end = Instant::now() + PATIENCE;
    while !socket.exists() {
        assert!(Instant::now() < end && process.ended().unwrap().is_none(), "it does not start");
        sleep(std::time::Duration::from_millis(10)).await;
    }
    let mut client = Raw::connect(listen).await;
    client.send(&command(&["SET", "a", "1"])).await;
    client.until(b"+OK\r\n").await;
    client.send(&command(&["BLPOP", "queue", "0.01"])).await;
    client.until(b"*-1\r\n").await;
    drop(client);
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", process.id())).unwrap();
    let traced = rustix::process::Pid::from_raw(children.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(traced, Signal::TERM).unwrap();
    while process.ended().unwrap().is_none() {
        assert!(Instant::now() < end, "it does not end");
        sleep(std::time::Duration::from_millis(10)).await;
    }
    let calls = fs::read_to_string(&calls).unwrap();
    let ours = calls.find(&format!("execve(\"{PROGRAM}\"")).expect("it was run");
    let name = |line: &str| Some(line.split_whitespace().nth(1)?.split_once('(')?.0.to_owned());
    let made: BTreeSet<String> = calls[ours..].lines().skip(1).filter_map(name).collect();
    for usual in ["accept4", "epoll_wait", "connect", "exit_group"] {
        assert!(made.contains(usual), "{made:?}");
    }
    let forbidden: Vec<_> = made.difference(&allowed()).cloned().collect();
    assert_eq!(forbidden, Vec::<String>::new());
}
