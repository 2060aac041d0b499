//! Tasks under test with the events they report, and how to wait for one.

use std::fmt::Debug;
use std::time::Duration;

use pointsman::config::{Credentials, Secret};
use pointsman::sentinel::SentinelEvent;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longest wait for what should happen at once, on a machine that is busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// What some tasks reported. They end when it is dropped.
pub(crate) struct Reports {
    events: mpsc::Receiver<SentinelEvent>,
    sender: mpsc::Sender<SentinelEvent>,
    cancel: CancellationToken,
    /// All that was received, with its time since the start.
    pub(crate) seen: Vec<(Duration, SentinelEvent)>,
    started: Instant,
    _guard: DropGuard,
}

impl Reports {
    pub(crate) fn new() -> Self {
        let (sender, events) = mpsc::channel(256);
        let cancel = CancellationToken::new();
        let guard = cancel.clone().drop_guard();
        Self { events, sender, cancel, seen: Vec::new(), started: Instant::now(), _guard: guard }
    }

    /// Starts a task, given where it reports and what ends it.
    pub(crate) fn start<F: Future<Output = ()> + Send + 'static>(
        &self,
        task: impl FnOnce(mpsc::Sender<SentinelEvent>, CancellationToken) -> F,
    ) {
        tokio::spawn(task(self.sender.clone(), self.cancel.clone()));
    }

    /// The next event of which `pick` makes something; what comes before it is passed over, and is in `seen`.
    pub(crate) async fn until<T: Debug>(
        &mut self,
        what: &str,
        within: Duration,
        mut pick: impl FnMut(&SentinelEvent) -> Option<T>,
    ) -> T {
        let end = Instant::now() + within;
        let from = self.seen.len();
        loop {
            match timeout_at(end, self.next()).await {
                Ok(event) => {
                    if let Some(picked) = pick(&event) {
                        return picked;
                    }
                }
                Err(_) => panic!("no {what} within {within:?}; only {:#?}", &self.seen[from..]),
            }
        }
    }

    /// The next event, whenever it comes.
    async fn next(&mut self) -> SentinelEvent {
        let event = self.events.recv().await.expect("the tasks hold senders");
        self.seen.push((self.started.elapsed(), event.clone()));
        event
    }

    /// Forgets what has come so far.
    pub(crate) fn drain(&mut self) {
        while self.events.try_recv().is_ok() {}
        self.seen.clear();
    }
}

pub(crate) fn password(password: &str) -> Option<Credentials> {
    Some(Credentials { user: None, password: Secret::new(password) })
}

pub(crate) fn user(user: &str, password: &str) -> Option<Credentials> {
    Some(Credentials { user: Some(user.into()), password: Secret::new(password) })
}
