//! The admin HTTP server: metrics, health and status, on addresses of its own and on the edge thread.
//!
//! It reads (the workers' counters, control's status of each service, the clients' entries, the threads' heartbeats), and it
//! passes orders on: for control (a switchover, a pause) and for the app (a reload, what is logged). To read, nothing here
//! waits for a worker or for control, so a scrape is answered however busy or stuck they are.

mod body;
mod clients;
mod guard;
mod health;
mod hotkeys;
mod log_level;
mod page;
mod pause;
mod pools;
mod query;
mod reload;
mod routes;
mod scrape;
mod server;
mod slowlog;
mod status;
mod switchover;
pub mod words;

pub use clients::{ClientEntry, ClientPage, ClientState};
pub use guard::{REFUSALS, Refusal};
pub use pause::PauseAnswer;
pub use pools::{Pools, ServicePools, WorkerPool};
pub use reload::Reloaded;
pub use server::{Limits, serve, serve_with};
pub use slowlog::{Forgotten, ServiceSlowLog, SlowLogs};
pub use status::{BackendConnections, Service, Status, record_counts};

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use hyper::StatusCode;
use tokio::sync::{mpsc, oneshot, watch};

use crate::clients::Clients;
use crate::clock::Moment;
use crate::config::{AdminConfig, ServiceConfig};
use crate::insight::Insight;
use crate::metrics::{ByWorker, HookCounts};
use crate::topology::pause::PauseOrder;
use crate::topology::status::{ServiceStatus, WallTime};
use crate::topology::switchover::{Order, Report};
use guard::Refused;
use routes::Answer;

/// One service, as the admin server sees it.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Its name.
    pub name: Arc<str>,
    /// What is configured.
    pub config: watch::Receiver<Arc<ServiceConfig>>,
    /// What the workers count of it.
    pub stats: ByWorker,
    /// What they have seen of single commands.
    pub insight: Insight,
    /// What control says of it.
    pub status: watch::Receiver<Arc<ServiceStatus>>,
    /// Where it takes orders for switchovers.
    pub orders: mpsc::Sender<Order>,
    /// Where it takes orders for pauses.
    pub pauses: mpsc::Sender<PauseOrder>,
    /// Its clients.
    pub clients: Arc<Clients>,
}

/// All that the admin server looks at.
#[derive(Debug)]
pub struct AdminState {
    /// The services that run, in the order of the configuration.
    services: watch::Receiver<Vec<Watched>>,
    /// Set once, when pointsman begins to drain.
    draining: AtomicBool,
    /// Where the app takes instructions.
    instructions: mpsc::Sender<Instruction>,
    /// Who may use it.
    config: RwLock<Arc<AdminConfig>>,
    refused: Refused,
    /// What is logged, if that was set while running.
    log_level: RwLock<Option<String>>,
    reloads: Reloads,
    hooks: HookCounts,
    /// Where the switchovers that were ordered report, which is for as long as they go on.
    switchovers: Mutex<Vec<mpsc::WeakSender<Report>>>,
    /// When each thread last did its rounds, as the milliseconds of a [`Moment`]: the workers in their order, then
    /// control. Each thread writes its own once a second; one that has nothing left to do in a drain leaves [`Moment::MAX`].
    heartbeats: Arc<Vec<AtomicU64>>,
    started: Moment,
    started_at: SystemTime,
}

/// What the app is told to do.
#[derive(Debug)]
pub enum Instruction {
    /// To read the configuration again, and to tell the outcome.
    Reload(oneshot::Sender<Reloaded>),
    /// To log at this level from now on, or at the configured one.
    SetLogLevel {
        /// As `log.level` has it; none: the configured one.
        level: Option<String>,
        /// Told the level in force.
        done: oneshot::Sender<String>,
    },
}

/// How reloads ended.
#[derive(Debug)]
struct Reloads {
    succeeded: AtomicU64,
    failed: AtomicU64,
    last_failed: AtomicBool,
    /// When the configuration in force was read, in milliseconds of Unix time.
    last_success: AtomicU64,
}

impl AdminState {
    /// The state of a process that starts now.
    ///
    /// `heartbeats` has one entry for each worker and a last one for control. A thread that has not written anything
    /// yet is taken to have been well until now.
    pub fn new(
        services: watch::Receiver<Vec<Watched>>,
        heartbeats: Arc<Vec<AtomicU64>>,
        instructions: mpsc::Sender<Instruction>,
        config: AdminConfig,
    ) -> Self {
        let reloads = Reloads {
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            last_failed: AtomicBool::new(false),
            last_success: AtomicU64::new(WallTime::now().0),
        };
        Self {
            services,
            draining: AtomicBool::new(false),
            instructions,
            config: RwLock::new(Arc::new(config)),
            refused: Refused::default(),
            log_level: RwLock::default(),
            reloads,
            hooks: HookCounts::default(),
            switchovers: Mutex::default(),
            heartbeats,
            started: Moment::now(),
            started_at: SystemTime::now(),
        }
    }

    /// pointsman takes no new clients from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// What the hooks count into.
    pub fn hooks(&self) -> HookCounts {
        self.hooks.clone()
    }

    /// Who may use the server, from now on; its sockets stay as they are.
    pub fn configure(&self, config: AdminConfig) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    fn config(&self) -> Arc<AdminConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// This is logged from now on; none: what is configured.
    pub fn note_log_level(&self, level: Option<String>) {
        *self.log_level.write().unwrap_or_else(PoisonError::into_inner) = level;
    }

    fn log_level(&self) -> Option<String> {
        self.log_level.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a switchover is under way.
    pub fn is_switching_over(&self) -> bool {
        let switchovers = self.switchovers.lock().unwrap_or_else(PoisonError::into_inner);
        switchovers.iter().any(|reports| reports.upgrade().is_some())
    }

    /// A switchover begins that reports there.
    fn note_switchover(&self, reports: &mpsc::Sender<Report>) {
        let mut switchovers = self.switchovers.lock().unwrap_or_else(PoisonError::into_inner);
        switchovers.retain(|reports| reports.upgrade().is_some());
        switchovers.push(reports.downgrade());
    }

    /// The configuration was read again, and is in force or was refused.
    pub fn note_reload(&self, in_force: bool) {
        let reloads = &self.reloads;
        if in_force {
            reloads.succeeded.fetch_add(1, Ordering::Relaxed);
            reloads.last_success.store(WallTime::now().0, Ordering::Relaxed);
        } else {
            reloads.failed.fetch_add(1, Ordering::Relaxed);
        }
        reloads.last_failed.store(!in_force, Ordering::Relaxed);
    }

    fn workers(&self) -> usize {
        self.heartbeats.len() - 1
    }

    /// Whether every thread does its rounds, as `/livez` has it.
    pub fn is_live(&self) -> bool {
        health::live(self).well
    }

    /// One line for people: how many clients there are, and each service as `/readyz` has it.
    pub fn summary(&self) -> String {
        health::summary(self)
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The services that run now, in the order of the configuration.
    fn services(&self) -> Vec<Watched> {
        self.services.borrow().clone()
    }

    /// The service of this name, or the answer that there is none.
    fn service(&self, name: &str) -> Result<Watched, Answer> {
        let services = self.services();
        services.iter().find(|s| *s.name == *name).cloned().ok_or_else(|| {
            let all: Vec<&str> = services.iter().map(|s| &*s.name).collect();
            body::refusal(StatusCode::NOT_FOUND, &format!("there is no service `{name}`, but {}", all.join(", ")))
        })
    }
}
