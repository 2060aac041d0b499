//! The admin HTTP server: metrics, health and status, on an address of its own and on the edge thread.
//!
//! It only reads (the workers' counters, control's status of each service, the threads' heartbeats), but for one thing:
//! it passes the order for a switchover on to control. Nothing here waits for a worker or for control, so a scrape is
//! answered however busy or stuck they are.

mod health;
mod routes;
mod scrape;
mod server;
mod status;
mod switchover;

pub use server::{Limits, serve, serve_with};
pub use status::{BackendConnections, Service, Status, record_counts};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::sync::{mpsc, watch};

use crate::clock::Moment;
use crate::metrics::WorkerStats;
use crate::topology::status::ServiceStatus;
use crate::topology::switchover::Order;

/// All that the admin server looks at.
#[derive(Debug)]
pub struct AdminState {
    /// Counters, by worker.
    stats: Vec<Arc<WorkerStats>>,
    /// Name and latest status of each service, in the order of the configuration.
    services: Vec<(String, watch::Receiver<Arc<ServiceStatus>>)>,
    /// Set once, when pointsman begins to drain.
    draining: Arc<AtomicBool>,
    /// When each thread last did its rounds, as the milliseconds of a [`Moment`]: the workers in their order, then
    /// control. Each thread writes its own once a second.
    heartbeats: Arc<Vec<AtomicU64>>,
    started: Moment,
    started_at: SystemTime,
    /// Where each service takes orders for switchovers.
    orders: Vec<mpsc::Sender<Order>>,
}

impl AdminState {
    /// The state of a process that starts now.
    ///
    /// `heartbeats` has one entry for each of `stats` and a last one for control. A thread that has not written
    /// anything yet is taken to have been well until now.
    pub fn new(
        stats: Vec<Arc<WorkerStats>>,
        services: Vec<(String, watch::Receiver<Arc<ServiceStatus>>)>,
        draining: Arc<AtomicBool>,
        heartbeats: Arc<Vec<AtomicU64>>,
    ) -> Self {
        assert_eq!(heartbeats.len(), stats.len() + 1, "a heartbeat for each worker and one for control");
        assert!(stats.iter().all(|worker| worker.services.len() == services.len()), "counters for each service");
        Self {
            stats,
            services,
            draining,
            heartbeats,
            started: Moment::now(),
            started_at: SystemTime::now(),
            orders: Vec::new(),
        }
    }

    /// Lets switchovers be ordered, of the services in their order.
    pub fn taking_orders(mut self, orders: Vec<mpsc::Sender<Order>>) -> Self {
        self.orders = orders;
        self
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The latest status of each service, in the order of the configuration.
    fn statuses(&self) -> impl Iterator<Item = (&str, Arc<ServiceStatus>)> {
        self.services.iter().map(|(name, status)| (name.as_str(), status.borrow().clone()))
    }
}
