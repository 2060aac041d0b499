//! A program that is run for each event, with the JSON on its standard input, and is bounded in time and words.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{sleep, timeout};

use super::delivery::Failure;
use super::message::Message;
use crate::config::Program;

/// Its search path. What pointsman's own environment holds, secrets perhaps, is not passed on.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Passed on if it is set: where systemd has put the credentials of the service.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// One that says more than this is out of its mind, and is killed.
const OUTPUT_BYTES: usize = 1 << 20;
/// The end of what it said, which is kept.
const TAIL_BYTES: usize = 4096;
/// Lines of that which are logged, and characters of each.
const TAIL_LINES: usize = 5;
const LINE_CHARS: usize = 200;
/// How long after its end its last words may take; what it left running may hold its output open for ever.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How long after a kill the kernel may take to let it go.
const DYING: Duration = Duration::from_secs(1);

/// Runs it, and all that it starts, for so long at most.
pub(super) async fn run(program: &Program, message: &Message, limit: Duration) -> Result<(), Failure> {
    let mut command = Command::new(&program.path);
    command.args(&program.arguments).current_dir("/").process_group(0);
    command.env_clear().env("PATH", PATH).envs(std::env::var_os(CREDENTIALS).map(|directory| (CREDENTIALS, directory)));
    command.env("POINTSMAN_EVENT", message.event.word()).env("POINTSMAN_SERVICE", &message.service);
    command.env("POINTSMAN_TEXT", &message.text);
    command.env("POINTSMAN_MASTER", message.master.map_or(String::new(), |master| master.to_string()));
    let cannot = |error: io::Error| Failure::passing(format!("cannot be run: {error}"));
    // One pipe for both, so that what is said stays in its order.
    let (said, say) = io::pipe().map_err(cannot)?;
    command.stdin(Stdio::piped()).stdout(say.try_clone().map_err(cannot)?).stderr(say);
    let mut child = command.spawn().map_err(cannot)?;
    let mut group = Group::of(&child);
    // It has the other end of the pipe, which would never end for that.
    drop(command);
    let said = pipe::Receiver::from_owned_fd(said.into()).map_err(cannot)?;
    let tail = Mutex::new(Tail::default());
    let mut talk = pin!(talk(child.stdin.take(), said, &message.json, &tail));
    let mut late = pin!(sleep(limit));
    let mut talking = true;
    let end = loop {
        tokio::select! {
            ended = child.wait() => break ended.map_err(|error| format!("cannot be waited for: {error}")),
            () = &mut late => break Err(format!("was killed: it did not end within {limit:?}")),
            said = &mut talk, if talking => match said {
                Ok(()) => talking = false,
                Err(TooMuch) => break Err(format!("was killed: it said more than {OUTPUT_BYTES} bytes")),
            },
        }
    };
    let why = match end {
        Ok(status) => {
            group.let_go();
            if talking {
                let _ = timeout(LAST_WORDS, talk).await;
            }
            if status.success() {
                return Ok(());
            }
            status.to_string()
        }
        Err(why) => {
            drop(group);
            // One that the kernel does not let go now is reaped when it does.
            let _ = timeout(DYING, child.wait()).await;
            why
        }
    };
    Err(Failure::passing(format!("the program: {why}{}", locked(&tail).said())))
}

struct TooMuch;

/// Says what it is to know, and hears what it says; until both ends are closed.
async fn talk(
    stdin: Option<ChildStdin>,
    said: pipe::Receiver,
    json: &Bytes,
    tail: &Mutex<Tail>,
) -> Result<(), TooMuch> {
    let say = async {
        if let Some(mut stdin) = stdin {
            // Whoever does not want to know has closed it.
            let _ = stdin.write_all(json).await;
        }
        Ok(())
    };
    tokio::try_join!(say, hear(said, tail)).map(drop)
}

async fn hear(mut said: pipe::Receiver, tail: &Mutex<Tail>) -> Result<(), TooMuch> {
    let mut buffer = vec![0; TAIL_BYTES];
    loop {
        match said.read(&mut buffer).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(n) => locked(tail).add(&buffer[..n])?,
        }
    }
}

fn locked(tail: &Mutex<Tail>) -> MutexGuard<'_, Tail> {
    tail.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end of what a program said.
#[derive(Debug, Default)]
struct Tail {
    bytes: VecDeque<u8>,
    total: usize,
}

impl Tail {
    fn add(&mut self, bytes: &[u8]) -> Result<(), TooMuch> {
        self.total += bytes.len();
        self.bytes.extend(bytes);
        self.bytes.drain(..self.bytes.len().saturating_sub(TAIL_BYTES));
        if self.total > OUTPUT_BYTES { Err(TooMuch) } else { Ok(()) }
    }

    /// Its last lines in one, for the log.
    fn said(&self) -> String {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.split(char::is_control).map(str::trim).filter(|line| !line.is_empty());
        let short = |line: &str| line.chars().take(LINE_CHARS).collect::<String>();
        let last: Vec<String> = lines.rev().take(TAIL_LINES).map(short).collect();
        if last.is_empty() {
            return String::new();
        }
        format!("; it said: {}", last.into_iter().rev().collect::<Vec<_>>().join(" | "))
    }
}

/// The process group of a child that has not been waited for, so that its number is nobody else's. Killed when dropped:
/// also when whoever waits for it is not wanted any more.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    /// It has ended by itself. What it left running is meant to be.
    fn let_go(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            // Gone already is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_without_what_a_terminal_would_obey() {
        let mut tail = Tail::default();
        assert_eq!(tail.said(), "");
        for number in 0..5000 {
            assert!(tail.add(format!("line {number}\n").as_bytes()).is_ok());
        }
        assert!(tail.add(b"\x1b[2J\xff \r\n\n").is_ok());
        let said = "; it said: line 4997 | line 4998 | line 4999 | [2J\u{fffd}";
        assert!(tail.said().ends_with(&said[12..]), "{}", tail.said());
        assert!(tail.bytes.len() <= TAIL_BYTES);
        assert!(tail.add(&vec![b'x'; OUTPUT_BYTES]).is_err());
        assert!(tail.said().chars().count() < TAIL_LINES * (LINE_CHARS + 3) + 20);
    }
}
