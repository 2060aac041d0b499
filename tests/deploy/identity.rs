//! Started by root, it becomes the user that it is told to be, and keeps nothing of root's.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Output;

use nix::unistd::{User, geteuid};
use pointsman::demo::cluster::{Cluster, Member, free_port};
use pointsman::demo::process::Process;
use pointsman::demo::settings::Settings;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::support::{PATIENCE, Raw};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pointsman");
const NOBODY: &str = "nobody";

struct Stage {
    cluster: Cluster,
    listen: SocketAddr,
}

impl Stage {
    async fn new() -> Self {
        let cluster = Cluster::start(Settings::single()).await.unwrap();
        // Its configuration is for others to read too.
        fs::set_permissions(cluster.dir(), Permissions::from_mode(0o755)).unwrap();
        Self { cluster, listen: SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap())) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.cluster.dir().join(name)
    }

    fn configure(&self, head: &str, more: &str) -> String {
        let (redis, listen, file) = (self.cluster.addr(Member::Node(0)), self.listen, self.path("pointsman.toml"));
        let service = format!("[[service]]\nname = \"s\"\nmaster = \"{redis}\"\nlisten = [\"{listen}\"{more}]\n");
        fs::write(&file, format!("workers = 2\n{head}\n{service}")).unwrap();
        file.display().to_string()
    }

    /// What comes of a start that comes to nothing.
    async fn refused(&self, before: &[&str], what: &str, config: &str) -> (Option<i32>, String) {
        let words = [before, &[PROGRAM, what, "--config", config]].concat();
        let mut command = tokio::process::Command::new(words[0]);
        let Output { status, stderr, .. } = command.args(&words[1..]).output().await.unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    }

    async fn start(&self, config: &str) -> Process {
        let log = fs::File::create(self.path("log")).unwrap();
        let process = self.cluster.supervisor().spawn(Path::new(PROGRAM), ["run", "--config", config], Some(log));
        let end = Instant::now() + PATIENCE;
        while !self.log().contains("listening") {
            assert!(Instant::now() < end, "{}", self.log());
            sleep(std::time::Duration::from_millis(10)).await;
        }
        process.unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }
}

#[tokio::test]
async fn root_becomes_the_user_that_is_configured_and_keeps_nothing() {
    let stage = Stage::new().await;
    let config = stage.configure(&format!("user = \"{NOBODY}\""), "");
    if !geteuid().is_root() {
        let (code, said) = stage.refused(&[], "run", &config).await;
        assert!(code == Some(71) && said.contains("cannot become `nobody` (`user`): only root can"), "{code:?} {said}");
        return;
    }
    // A container's root, without what it takes.
    let bounded = ["setpriv", "--bounding-set=-setuid,-setgid", "--"];
    let (code, said) = stage.refused(&bounded, "run", &config).await;
    assert!(code == Some(71) && said.contains("cannot become `nobody` (`user`): EPERM"), "{code:?} {said}");

    // What it could not read again is missed at the start.
    let token = stage.path("token");
    fs::write(&token, "0123456789abcdef0123456789abcdef").unwrap();
    fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
    let own = stage.path("own");
    fs::create_dir(&own).unwrap();
    let nobody = User::from_name(NOBODY).unwrap().unwrap();
    let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
    chown(&own, Some(uid), None).unwrap();
    let head = format!("user = \"{NOBODY}\"\nadmin_token_file = \"token\"");
    let socket = own.join("client.sock");
    let config = stage.configure(&head, &format!(", \"unix:{}\"", socket.display()));
    for what in ["run", "check"] {
        let (code, said) = stage.refused(&[], what, &config).await;
        assert!(code == Some(78) && said.contains("token: cannot be read: "), "{what}: {code:?} {said}");
        assert!(said.contains("read as `nobody` (`user`), who must be able to"), "{what}: {said}");
    }

    chown(&token, Some(uid), None).unwrap();
    let process = stage.start(&config).await;
    assert_eq!(Raw::connect(stage.listen).await.ask(&["PING"]).await, "+PONG\r\n");
    assert_eq!(fs::metadata(&socket).unwrap().uid(), uid);
    let threads: Vec<_> = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap().collect();
    assert!(threads.len() >= 4, "the log's, control's and the workers' besides its own");
    for thread in threads {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key}"));
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(value("Uid:"), vec![uid.to_string(); 4], "{status}");
        assert_eq!(value("Gid:"), vec![gid.to_string(); 4], "{status}");
        assert!(!value("Groups:").contains(&"0".to_owned()), "{status}");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(value(set), ["0000000000000000"], "{status}");
        }
    }
    process.signal(Signal::HUP).unwrap();
    let end = Instant::now() + PATIENCE;
    while !stage.log().contains("reloaded: nothing has changed") {
        assert!(Instant::now() < end, "{}", stage.log());
        sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(!stage.log().contains("running as root"), "{}", stage.log());
    drop(process);

    let _root = stage.start(&stage.configure("", "")).await;
    assert!(stage.log().contains("running as root, of which nothing here has any use"), "{}", stage.log());
}
