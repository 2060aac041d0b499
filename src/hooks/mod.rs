//! Alert hooks: what happens to services, told to webhooks and programs.
//!
//! All of it runs on a thread of its own, which is there as soon as a hook is configured: a handshake, a name server
//! that hangs or a program on a dead file system stands in nobody's way. It learns what happens from the status that
//! control publishes anyway, and nobody waits for it.

mod delivery;
mod director;
mod message;
mod observer;
mod program;
mod queue;
mod webhook;

pub use message::{Failover, LostBytes, Notification, VERSION};

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{HookConfig, HookEvent};
use crate::metrics::HookCounts;
use crate::net::Resolver;
use crate::topology::status::ServiceStatus;
use delivery::attempt;
use director::Director;
use message::{Message, Sender};
use observer::{Notice, Past};

/// How long what is still to be told may take when pointsman ends.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What control says of a service.
pub type Status = watch::Receiver<Arc<ServiceStatus>>;

/// A service to look at.
#[derive(Clone, Debug)]
struct Observed {
    status: Status,
    /// What is told of it at first.
    past: Past,
}

/// The hooks, wherever they run.
#[derive(Debug)]
pub struct Hooks {
    configs: watch::Sender<Arc<Vec<HookConfig>>>,
    services: watch::Sender<Vec<Observed>>,
    /// Name servers to ask; none: those of the system.
    resolvers: Vec<SocketAddr>,
    counts: HookCounts,
    thread: Option<Thread>,
}

#[derive(Debug)]
struct Thread {
    ending: CancellationToken,
    ended: CancellationToken,
}

impl Hooks {
    /// No hooks yet. `counts` is what they count into.
    pub fn new(resolvers: Vec<SocketAddr>, counts: HookCounts) -> Self {
        let (configs, services) = (watch::Sender::default(), watch::Sender::default());
        Self { configs, services, resolvers, counts, thread: None }
    }

    /// These hooks are told from now on. One that stays, by its name, keeps what it is still to be told. Starts the
    /// thread if there is none: a fault there costs nobody but the hooks, until the next time.
    ///
    /// # Errors
    /// No thread could be started; nobody is told anything.
    pub fn configure(&mut self, hooks: &[HookConfig]) -> io::Result<()> {
        self.configs.send_replace(Arc::new(hooks.to_vec()));
        if hooks.is_empty() || self.thread.as_ref().is_some_and(|thread| !thread.ended.is_cancelled()) {
            return Ok(());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ending, ended) = (CancellationToken::new(), CancellationToken::new());
        let last: DropGuard = ended.clone().drop_guard();
        // Read here: a service that begins after this is told of from its beginning.
        let (configs, mut services) = (self.configs.subscribe(), self.services.subscribe());
        let known = services.borrow_and_update().clone();
        let director = Director::new(self.counts.clone(), Resolver::new(self.resolvers.clone()));
        let until = ending.clone();
        std::thread::Builder::new().name("hooks".to_owned()).spawn(move || {
            let _last = last;
            // Dropped before that: the end is told when what is still run has been killed.
            let runtime = runtime;
            runtime.block_on(director.run(configs, known, services, until));
        })?;
        self.thread = Some(Thread { ending, ended });
        Ok(())
    }

    /// What happens to these services, and to no others, is told from now on. `told`: those of which another process has
    /// told until now.
    pub fn observe(&self, services: Vec<Status>, told: &[String]) {
        let observed = services.into_iter().map(|status| {
            let past = if told.contains(&status.borrow().service) { Past::Rest } else { Past::All };
            Observed { status, past }
        });
        self.services.send_replace(observed.collect());
    }

    /// Waits until what has happened is told, for 3 s at most, and ends.
    pub async fn finish(&self) {
        if let Some(thread) = &self.thread {
            thread.ending.cancel();
            // A little more than what the thread allows itself.
            let _ = timeout(LAST_WORDS + Duration::from_millis(500), thread.ended.cancelled()).await;
        }
    }
}

/// Tells one hook, once, that it is being tried.
///
/// # Errors
/// Why it was not told, in words.
pub async fn try_once(hook: &HookConfig, service: &str, resolvers: Vec<SocketAddr>) -> Result<(), String> {
    let notice = Notice::new(HookEvent::Trial, format!("{service}: a trial of the hook `{}`", hook.name));
    let message = Message::new(&notice, &ServiceStatus::unknown(service), &mut Sender::of_process());
    attempt(hook, &message, &Resolver::new(resolvers)).await.map_err(|failure| failure.why)
}
