//! One thread of a process that gets no turn.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code)]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A thread that is stopped for as long as the value lives.
pub struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        // The thread goes on when its debugger is gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Stops one thread for a time.
pub async fn stop_thread(process: u32, name: &str, time: Duration) {
    let _stopped = stop(process, name).await;
    tokio::time::sleep(time).await;
}

/// Stops one thread, as a debugger does. Nothing else can: a signal stops the whole process.
pub async fn stop(process: u32, name: &str) -> Stopped {
    const STOP: &str = r#"
        my ($ptrace, $thread) = @ARGV;
        $| = 1;
        sub request { syscall($ptrace, $_[0], $thread + 0, 0, 0) == -1 and die "ptrace $_[0]: $!" }
        request(0x4206); # PTRACE_SEIZE
        request(0x4207); # PTRACE_INTERRUPT
        waitpid($thread, 0x40000000); # __WALL
        print "stopped\n";
        sleep;
    "#;
    let ptrace = if cfg!(target_arch = "aarch64") { "117" } else { "101" };
    let is_it = |task: &PathBuf| std::fs::read_to_string(task.join("comm")).unwrap().trim() == name;
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let thread = tasks.map(|task| task.unwrap().path()).find(is_it).expect("it has one");
    let thread = thread.file_name().unwrap().to_str().unwrap().to_owned();
    let start = move || {
        let perl = Command::new("perl").args(["-e", STOP, ptrace, &thread]).stdout(Stdio::piped()).spawn().unwrap();
        let mut stopped = Stopped(perl);
        let mut said = String::new();
        BufReader::new(stopped.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "stopped\n", "perl could not stop it");
        stopped
    };
    tokio::task::spawn_blocking(start).await.unwrap()
}
