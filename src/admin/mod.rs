//! The admin HTTP server: metrics, health and status, on an address of its own and on the edge thread.
//!
//! It only reads (the workers' counters, control's status of each service, the threads' heartbeats), but for one thing:
//! it passes the order for a switchover on to control. Nothing here waits for a worker or for control, so a scrape is
//! answered however busy or stuck they are.

mod body;
mod health;
mod hotkeys;
mod page;
mod reload;
mod routes;
mod scrape;
mod server;
mod slowlog;
mod status;
mod switchover;
pub mod words;

pub use reload::{ReloadOrder, Reloaded};
pub use server::{Limits, serve, serve_with};
pub use slowlog::{Forgotten, ServiceSlowLog, SlowLogs};
pub use status::{BackendConnections, Service, Status, record_counts};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use hyper::StatusCode;
use tokio::sync::{mpsc, watch};

use crate::clock::Moment;
use crate::config::ServiceConfig;
use crate::insight::Insight;
use crate::metrics::{ByWorker, HookCounts};
use crate::topology::status::{ServiceStatus, WallTime};
use crate::topology::switchover::Order;
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
}

/// All that the admin server looks at.
#[derive(Debug)]
pub struct AdminState {
    /// The services that run, in the order of the configuration.
    services: watch::Receiver<Vec<Watched>>,
    /// Set once, when pointsman begins to drain.
    draining: AtomicBool,
    reloads: Reloads,
    hooks: HookCounts,
    /// When each thread last did its rounds, as the milliseconds of a [`Moment`]: the workers in their order, then
    /// control. Each thread writes its own once a second; one that has nothing left to do in a drain leaves [`Moment::MAX`].
    heartbeats: Arc<Vec<AtomicU64>>,
    started: Moment,
    started_at: SystemTime,
}

/// How reloads are asked for, and how they ended.
#[derive(Debug)]
struct Reloads {
    orders: mpsc::Sender<ReloadOrder>,
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
        reload_orders: mpsc::Sender<ReloadOrder>,
    ) -> Self {
        let reloads = Reloads {
            orders: reload_orders,
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            last_failed: AtomicBool::new(false),
            last_success: AtomicU64::new(WallTime::now().0),
        };
        Self {
            services,
            draining: AtomicBool::new(false),
            reloads,
            hooks: HookCounts::default(),
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
