//! pointsman as a central proxy behind a balancer: whose address a client has, who may connect, and how it leaves.

mod drain;
mod limits;
mod proxy_protocol;
mod rolling;

use crate::support::{Front, PATIENCE};
use tokio::time::{Instant, sleep};

impl Front {
    /// Until a metric is what it is to be, for labels that contain this.
    async fn until_metric(&self, name: &str, label: &str, value: f64) {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = self.metric(name, label).await;
            if found == value {
                return;
            }
            assert!(Instant::now() < end, "{name} {label} is {found}, not {value}\n{}", self.log());
            sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// The log, once these words are in it: a line may come later than the reply that it is about.
    async fn until_logged(&self, words: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            if log.contains(words) {
                return log;
            }
            assert!(Instant::now() < end, "{words} was never said\n{log}");
            sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}
