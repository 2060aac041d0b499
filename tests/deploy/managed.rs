//! The unit's promises under systemd itself: a manager of the test's own (`systemd --user`), in namespaces that end with
//! the test, as root.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::deployed;
use crate::support::{PATIENCE, Raw, command};
use crate::takeover::{Crowd, Stage};

/// Starts systemd with a directory of its own for what it has in `/run`, then does what `systemctl` is told line by line,
/// and says after each how it ended.
const SHELL: &str = r#"
    mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system || exit
    export XDG_RUNTIME_DIR=$0 XDG_CONFIG_HOME=$0
    /lib/systemd/systemd --user --log-target=console </dev/null >"$0/systemd.log" 2>&1 &
    for try in $(seq 100); do systemctl --user list-units >/dev/null 2>&1 && break; sleep 0.05; done
    while read -r words; do systemctl --user $words 2>&1; echo "= $?"; done
    systemctl --user exit
"#;

/// What of the unit is about the life of the process; the rest takes away rights, which a user's manager cannot.
const LIFE: [&str; 8] = [
    "Type=",
    "NotifyAccess=",
    "Restart=",
    "RestartSec=",
    "RestartPreventExitStatus=",
    "WatchdogSec=",
    "FileDescriptorStoreMax=",
    "KillMode=",
];

struct Systemd {
    shell: Child,
    words: ChildStdin,
    said: Receiver<String>,
}

impl Systemd {
    /// None, and why on stderr, if this machine cannot have it.
    fn start(stage: &Stage, config: &str) -> Option<Self> {
        let run = stage.path("run");
        std::fs::create_dir_all(format!("{run}/systemd/user")).unwrap();
        let life = deployed("systemd/pointsman.service");
        let life = life.lines().filter(|line| LIFE.iter().any(|key| line.starts_with(key)));
        let life: String = life.flat_map(|line| [line, "\n"]).collect();
        assert_eq!(life.lines().count(), LIFE.len(), "{life}");
        let unit = format!(
            "[Service]\n{life}ExecStart={} run --config {config}\nStandardError=append:{run}/log\n",
            env!("CARGO_BIN_EXE_pointsman")
        );
        std::fs::write(format!("{run}/systemd/user/pointsman.service"), unit).unwrap();
        let mut shell = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", SHELL, &run])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (words, lines) = (shell.stdin.take().unwrap(), BufReader::new(shell.stdout.take().unwrap()).lines());
        let (say, said) = channel();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| say.send(line)));
        let mut systemd = Self { shell, words, said };
        if systemd.ctl("is-system-running").is_some_and(|said| !said.contains("offline") && !said.contains("Failed")) {
            return Some(systemd);
        }
        let log = std::fs::read_to_string(format!("{run}/systemd.log")).unwrap_or_default();
        let _ = writeln!(std::io::stderr(), "NOT TESTED, it needs root, namespaces and cgroups for a systemd: {log}");
        None
    }

    /// What `systemctl` says to these words. None if it is not there.
    fn ctl(&mut self, words: &str) -> Option<String> {
        writeln!(self.words, "{words}").ok()?;
        let mut all = String::new();
        loop {
            let line = self.said.recv_timeout(PATIENCE).ok()?;
            if line.starts_with("= ") {
                return Some(all);
            }
            all += &format!("{line}\n");
        }
    }

    fn show(&mut self, property: &str) -> String {
        self.ctl(&format!("show --value --property={property} pointsman")).unwrap().trim().to_owned()
    }

    /// Waits for another main process than this one that is ready.
    async fn until_other_than(&mut self, main: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let (now, state) = (self.show("MainPID"), self.show("ActiveState"));
            if now != main && now != "0" && state == "active" {
                return now;
            }
            assert!(Instant::now() < end, "still {now}, {state}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // With it goes every process in its namespace.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_systemd_no_connect_is_refused_whatever_takes_the_place_of_the_process() {
    let stage = Stage::new().await;
    let config = stage.configure(&[]);
    let Some(mut systemd) = Systemd::start(&stage, &config) else { return };
    assert_eq!(systemd.ctl("start pointsman").as_deref(), Some(""));
    let first = systemd.show("MainPID");
    assert_eq!(systemd.show("NFileDescriptorStore"), "2");

    let crowd = Crowd::of(&stage);
    crowd.goes_on().await;
    assert_eq!(systemd.ctl("kill --kill-who=main --signal=USR2 pointsman").as_deref(), Some(""));
    let second = systemd.until_other_than(&first).await;
    crowd.goes_on().await;
    // The successor is main before its predecessor has drained, and a restart ends whoever is left.
    let log = || std::fs::read_to_string(stage.path("run/log")).unwrap();
    let drained = || log().lines().filter(|line| line.ends_with(": drained")).count();
    let end = Instant::now() + PATIENCE;
    while drained() == 0 {
        assert!(Instant::now() < end, "the first does not drain: {}", log());
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(systemd.ctl("restart pointsman").as_deref(), Some(""));
    let third = systemd.until_other_than(&second).await;
    assert_ne!(third, first);
    assert_eq!(drained(), 2, "nobody was killed: {}", log());
    crowd.goes_on().await;
    crowd.leave().await;
    assert_eq!(systemd.show("NRestarts"), "0", "it was told to, each time");
    assert_eq!(systemd.show("NFileDescriptorStore"), "2");

    assert_eq!(systemd.ctl("kill --kill-who=main --signal=KILL pointsman").as_deref(), Some(""));
    while systemd.show("MainPID") == third {
        sleep(Duration::from_millis(5)).await;
    }
    let mut waiting = Raw::connect(stage.listen).await;
    waiting.send(&command(&["PING"])).await;
    waiting.until(b"+PONG\r\n").await;
    assert_eq!(systemd.show("NRestarts"), "1");
    assert_eq!(systemd.ctl("stop pointsman").as_deref(), Some(""));
    assert!(tokio::net::TcpStream::connect(stage.listen).await.is_err());
}
