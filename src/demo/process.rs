//! Child processes and directories that do not outlive what started them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::{env, fs, io, thread};

use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;

use rustix::process::{Pid, Signal, kill_process};

/// Starts programs that die with this process, however it ends.
///
/// `setpriv --pdeathsig` (util-linux) asks the kernel for that. The kernel takes "parent" to mean the *thread* that
/// forked, so all children are started by one thread that lives as long as this value: a test's own thread would take
/// them with it when the test ends, though a shared cluster was meant to go on.
#[derive(Debug)]
pub struct Supervisor {
    requests: SyncSender<Request>,
}

/// Whoever dies between the fork and the request to the kernel has a child that is never told.
const IF_PARENT_LIVES: &str = r#"[ "$PPID" = "$0" ] || exit 1; exec "$@""#;

type Request = (Command, SyncSender<io::Result<Child>>);

impl Supervisor {
    /// Starts the thread. Fails only if no thread can be made.
    pub fn new() -> io::Result<Self> {
        let (requests, inbox): (SyncSender<Request>, Receiver<Request>) = sync_channel(1);
        thread::Builder::new().name("supervisor".into()).spawn(move || {
            while let Ok((mut command, answer)) = inbox.recv() {
                // Whoever asked waits for the answer; if it has gone, so has the supervisor.
                let _ = answer.send(command.spawn());
            }
        })?;
        Ok(Self { requests })
    }

    /// Starts `program` (looked up in PATH) without stdin, in a process group of its own, so that Ctrl-C on the
    /// terminal reaches only us. `output` takes stdout and stderr; none: both are discarded.
    pub fn spawn<A: AsRef<OsStr>>(
        &self,
        program: &Path,
        args: impl IntoIterator<Item = A>,
        output: Option<fs::File>,
    ) -> io::Result<Process> {
        let program = find_program(program).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("{} is not installed", program.display()))
        })?;
        let mut command = match find_program(Path::new("setpriv")) {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--", "sh", "-c", IF_PARENT_LIVES]);
                command.arg(std::process::id().to_string()).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(args).stdin(Stdio::null()).process_group(0);
        match output {
            Some(file) => command.stdout(file.try_clone()?).stderr(file),
            None => command.stdout(Stdio::null()).stderr(Stdio::null()),
        };
        let (answer, spawned) = sync_channel(1);
        let gone = || io::Error::other("the supervisor thread has ended");
        self.requests.send((command, answer)).map_err(|_| gone())?;
        let child = spawned.recv().map_err(|_| gone())??;
        Ok(Process { child })
    }
}

/// A running child; killed and waited for on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Its process id, also across what `setpriv` executes.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone is what we want; there is nobody to tell anything else.
        let _ = self.kill();
    }
}

/// The file that running `program` would execute: itself if it has a slash, else the first match in PATH.
pub fn find_program(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Linux' file system in memory. A Sentinel writes its configuration to the disk and waits for it at every step of a
/// failover: on a busy disk that takes seconds, and it would be the disk that is shown and measured.
const IN_MEMORY: &str = "/dev/shm";

/// A directory of our own below `TMPDIR`, else in memory where that can be had, else below the system's one for temporary
/// files; removed with its contents on drop.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes one that only this user can read.
    pub fn new() -> io::Result<Self> {
        let name = format!("pointsman-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let make = |parent: &Path| {
            let path = parent.join(&name);
            fs::DirBuilder::new().mode(0o700).create(&path).map(|()| Self(path))
        };
        // Whoever says where gets it there.
        if env::var_os("TMPDIR").is_some() {
            return make(&env::temp_dir());
        }
        make(Path::new(IN_MEMORY)).or_else(|_| make(&env::temp_dir()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
