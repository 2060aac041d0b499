//! One thread of a process that gets no turn.
#![allow(clippy::unwrap_used, unreachable_pub)]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Stops one thread, as a debugger does. Nothing else can: a signal stops the whole process.
pub async fn stop_thread(process: u32, name: &str, time: Duration) {
    const STOP: &str = r#"
        my ($ptrace, $thread, $seconds) = @ARGV;
        sub request { syscall($ptrace, $_[0], $thread + 0, 0, 0) == -1 and die "ptrace $_[0]: $!" }
        request(0x4206); # PTRACE_SEIZE
        request(0x4207); # PTRACE_INTERRUPT
        waitpid($thread, 0x40000000); # __WALL
        select(undef, undef, undef, $seconds);
        request(17); # PTRACE_DETACH
    "#;
    let ptrace = if cfg!(target_arch = "aarch64") { "117" } else { "101" };
    let is_it = |task: &PathBuf| std::fs::read_to_string(task.join("comm")).unwrap().trim() == name;
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let thread = tasks.map(|task| task.unwrap().path()).find(is_it).expect("it has one");
    let thread = thread.file_name().unwrap().to_str().unwrap().to_owned();
    let seconds = time.as_secs_f64().to_string();
    let stop = move || Command::new("perl").args(["-e", STOP, ptrace, &thread, &seconds]).status();
    assert!(tokio::task::spawn_blocking(stop).await.unwrap().unwrap().success(), "perl could not stop it");
}
