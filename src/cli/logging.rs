//! Log lines to stderr, through a queue of their own.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt as layer, reload};

use crate::config::{LogConfig, LogFormat};

/// Lines that may wait for stderr. A reader of our stderr that stands still costs lines (they are counted), never the
/// milliseconds that control has during a failover.
const QUEUED_LINES: usize = 4096;

/// How long the end of the program waits for a reader that stands still.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Starts logging for the whole process. What is queued is written out when the guard is dropped; the level can be set
/// anew.
pub(super) fn init(config: &LogConfig) -> (Guard, SetLevel) {
    let (queue, guard) = start(io::stderr());
    let journal = goes_to_journal();
    let fancy = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let lines = layer::layer().with_ansi(fancy).with_writer(queue);
    let lines = match config.format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text if journal => lines.without_time().map_event_format(Prioritised).boxed(),
        LogFormat::Text => lines.boxed(),
    };
    let (filter, handle) = reload::Layer::new(targets(&config.level));
    // Only a second call could fail, and then a logger is there.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
    let level: SetLevel = Box::new(move |level| {
        // Only without a subscriber it could fail, and then nothing is logged anyway.
        let _ = handle.reload(targets(level));
    });
    (guard, level)
}

fn targets(level: &str) -> Targets {
    level.parse().expect("checked with the configuration")
}

/// Sets what is logged, as `log.level` has it.
pub(super) type SetLevel = Box<dyn Fn(&str)>;

/// Whether stderr is the journal's socket: systemd says which one that is, so a redirected stderr is not taken for it.
fn goes_to_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(io::stderr()).is_ok_and(|s| stream == format!("{}:{}", s.st_dev, s.st_ino))
}

/// Puts the syslog priority before each line, which the journal takes off again.
struct Prioritised<F>(F);

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut line: format::Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(line, "<{priority}>")?;
        self.0.format_event(ctx, line, event)
    }
}

enum Message {
    Line(Vec<u8>),
    Finish(SyncSender<()>),
}

/// Hands lines to the thread that writes them.
#[derive(Clone)]
struct Queue {
    lines: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Write for Queue {
    /// One call is one line: the formatter collects a line before it writes.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(Message::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Queue {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Writes out on drop what is queued.
pub(super) struct Guard {
    lines: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (done, finished) = sync_channel(1);
        // A full queue means a reader that stands still: its lines are lost either way.
        if self.lines.try_send(Message::Finish(done)).is_ok()
            && finished.recv_timeout(FLUSH_TIMEOUT).is_ok()
            && let Some(thread) = self.thread.take()
        {
            // A panic in the writer has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn start(out: impl Write + Send + 'static) -> (Queue, Guard) {
    let (sender, receiver) = sync_channel(QUEUED_LINES);
    let dropped = Arc::new(AtomicU64::new(0));
    let queue = Queue { lines: sender.clone(), dropped: dropped.clone() };
    let thread =
        std::thread::Builder::new().name("log".into()).spawn(move || write_lines(&receiver, &dropped, out)).ok();
    (queue, Guard { lines: sender, thread })
}

fn write_lines(lines: &Receiver<Message>, dropped: &AtomicU64, mut out: impl Write) {
    // A closed stderr is nobody's to hear of: errors of writing are ignored throughout.
    for message in lines {
        match message {
            Message::Line(line) => {
                let _ = out.write_all(&line);
            }
            Message::Finish(done) => {
                let _ = out.flush();
                let _ = done.send(());
                return;
            }
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(out, "{lost} log lines were dropped: the reader of stderr does not keep up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A writer that a test can hold up and read.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_queued_is_written_before_the_guard_is_gone() {
        let out = Shared::default();
        let (mut queue, guard) = start(out.clone());
        for i in 0..100 {
            writeln!(queue, "{i}").unwrap();
        }
        drop(guard);
        assert!(String::from_utf8(out.0.lock().unwrap().clone()).unwrap().ends_with("98\n99\n"));
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_no_time() {
        let out = Shared::default();
        let (mut queue, guard) = start(out.clone());
        let stalled = out.0.lock().unwrap();
        for _ in 0..2 * QUEUED_LINES {
            queue.write_all(b"x\n").unwrap(); // would hang here if it waited
        }
        drop(stalled);
        // The queue may still be full: the guard's message must not be the one that is lost.
        while queue.lines.try_send(Message::Line(b"last\n".to_vec())).is_err() {
            std::thread::yield_now();
        }
        drop(guard);
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("log lines were dropped"), "the loss is told");
    }
}
