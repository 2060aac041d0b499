//! Telling one hook: one event at a time, in order, again where that may help.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::message::Message;
use super::queue::Queue;
use super::{program, webhook};
use crate::config::{HookAction, HookConfig};
use crate::metrics::HookStats;
use crate::net::{Backoff, Resolver};

/// The first pauses before another attempt are of about this length, later ones longer.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why an attempt came to nothing.
#[derive(Debug)]
pub(super) struct Failure {
    /// In words.
    pub(super) why: String,
    /// Whether another one may come to more.
    pub(super) again: bool,
    /// How long the other side wants to be left alone.
    pub(super) not_before: Duration,
}

impl Failure {
    /// One that another attempt may mend.
    pub(super) fn passing(why: impl Into<String>) -> Self {
        Self { why: why.into(), again: true, not_before: Duration::ZERO }
    }
}

/// Tells it once.
pub(super) async fn attempt(config: &HookConfig, message: &Message, names: &Resolver) -> Result<(), Failure> {
    match &config.action {
        HookAction::Run(program) => program::run(program, message, config.timeout).await,
        HookAction::Post(webhook) => {
            let post = webhook::post(webhook, message.json.clone(), names);
            let late = || Failure::passing(format!("no answer within {:?}", config.timeout));
            timeout(config.timeout, post).await.unwrap_or_else(|_| Err(late()))
        }
    }
}

/// Tells one hook what is queued for it, for ever.
pub(super) struct Delivery {
    pub(super) config: watch::Receiver<Arc<HookConfig>>,
    pub(super) queue: Arc<Queue>,
    pub(super) stats: Arc<HookStats>,
    pub(super) names: Resolver,
    /// Told whenever there is one less to be told.
    pub(super) progress: Arc<Notify>,
}

impl Delivery {
    pub(super) async fn run(mut self) {
        loop {
            let message = self.queue.next().await;
            self.tell(&message).await;
            self.stats.waiting.sub(1);
            self.progress.notify_one();
        }
    }

    async fn tell(&mut self, message: &Message) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE, fastrand::u64(..));
        for attempts in 1u32.. {
            let config = Arc::clone(&self.config.borrow_and_update());
            let (hook, event, service) = (config.name.as_str(), message.event.word(), message.service.as_str());
            let Failure { why, again, not_before } = match attempt(&config, message, &self.names).await {
                Ok(()) => {
                    self.stats.delivered.add(1);
                    tracing::debug!(hook, event, service, attempts, "the hook was told");
                    return;
                }
                Err(failure) => failure,
            };
            if !again || attempts > config.retries {
                self.stats.failed.add(1);
                tracing::warn!(hook, event, service, attempts, "the hook was not told: {why}");
                return;
            }
            let pause = backoff.next_delay().max(not_before.min(LONGEST_PAUSE));
            tracing::info!(hook, event, service, attempts, "the hook was not told, and will be tried again: {why}");
            tokio::select! {
                () = sleep(pause) => {}
                // What was in the way may be mended by that.
                Ok(()) = self.config.changed() => {}
            }
            self.stats.retries.add(1);
        }
    }
}
