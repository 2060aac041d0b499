//! `pointsman demo` from outside: what it leaves behind, and what it says when something is missing.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// A directory for one test, removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("demo-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Kills the demo if the test fails, so that nothing is left running.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processes that the demo with this TMPDIR is or has started: they inherited the variable (pointsman), or run below it
/// (the servers, which overwrite their environment with their title).
fn processes_of(dir: &Path) -> Vec<PathBuf> {
    let variable = format!("TMPDIR={}", dir.display());
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    processes
        .filter(|process| {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            let inherited = environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes());
            inherited || fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
        })
        .collect()
}

/// A demo whose servers run.
fn start(scratch: &Scratch) -> (Demo, impl Iterator<Item = String>) {
    let mut demo = Demo(
        Command::new(env!("CARGO_BIN_EXE_pointsman"))
            .arg("demo")
            .env("TMPDIR", &scratch.0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let started = lines.by_ref().find(|line| line.contains("Sentinels at"));
    assert!(started.is_some(), "the demo ended before its Sentinels ran");
    assert!(processes_of(&scratch.0).len() >= 7, "the demo and six servers; this test would not see what is left");
    (demo, lines)
}

fn ends_by(signal: Signal) {
    let scratch = Scratch::new(&format!("signal-{}", signal.as_raw()));
    let (mut demo, lines) = start(&scratch);
    kill_process(Pid::from_child(&demo.0), signal).unwrap();
    let rest: Vec<String> = lines.collect();
    let status = demo.0.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{status}, {rest:?}");
    assert_eq!(processes_of(&scratch.0), Vec::<PathBuf>::new());
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0, "files were left");
}

#[test]
fn ctrl_c_leaves_nothing() {
    ends_by(Signal::INT);
}

#[test]
fn sigterm_leaves_nothing() {
    ends_by(Signal::TERM);
}

/// Nobody can clean up after `kill -9`, but the kernel ends the servers.
#[test]
fn kill_9_leaves_no_process() {
    let scratch = Scratch::new("kill");
    let (demo, _lines) = start(&scratch);
    drop(demo);
    let mut left = Vec::new();
    for _ in 0..500 {
        left = processes_of(&scratch.0);
        if left.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{left:?} still run");
}

#[test]
fn missing_servers_are_named_with_the_way_to_get_them() {
    let scratch = Scratch::new("no-redis");
    let output = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .arg("demo")
        .env("PATH", &scratch.0)
        .env("TMPDIR", &scratch.0)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("redis-server is not installed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("apt-get install redis-server redis-sentinel"), "{said}");
    assert_eq!(output.status.code(), Some(69));
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0, "files were left");
}
