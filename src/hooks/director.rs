//! What runs on the hooks' thread: a task that looks at each service, a task that tells each hook, and between them this.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::delivery::Delivery;
use super::message::{Message, Sender};
use super::observer::{Notice, Observer, Past};
use super::queue::Queue;
use super::{LAST_WORDS, Observed, Status};
use crate::clock::Moment;
use crate::config::HookConfig;
use crate::metrics::{HookCounts, HookStats};
use crate::net::Resolver;
use crate::topology::status::ServiceStatus;

/// What was seen and not yet handed on; who sees more waits, and misses nothing.
const NOTICES: usize = 64;

/// One thing that happened, and how the service stood then.
type Seen = (Arc<ServiceStatus>, Notice);

pub(super) struct Director {
    hooks: Vec<Hook>,
    services: Vec<Service>,
    counts: HookCounts,
    names: Resolver,
    sender: Sender,
    progress: Arc<Notify>,
}

struct Hook {
    name: Arc<str>,
    config: watch::Sender<Arc<HookConfig>>,
    queue: Arc<Queue>,
    stats: Arc<HookStats>,
    /// Ended when dropped.
    _delivery: AbortOnDropHandle<()>,
}

struct Service {
    status: Status,
    /// Ended when dropped.
    _observer: AbortOnDropHandle<()>,
}

impl Director {
    pub(super) fn new(counts: HookCounts, names: Resolver) -> Self {
        let (hooks, services) = (Vec::new(), Vec::new());
        Self { hooks, services, counts, names, sender: Sender::of_process(), progress: Arc::default() }
    }

    /// Tells what happens until `ending`, and then what has happened. Of `known` services the past is not told.
    pub(super) async fn run(
        mut self,
        mut configs: watch::Receiver<Arc<Vec<HookConfig>>>,
        known: Vec<Observed>,
        mut services: watch::Receiver<Vec<Observed>>,
        ending: CancellationToken,
    ) {
        let (seen, mut notices) = mpsc::channel(NOTICES);
        self.configure(&configs.borrow_and_update());
        self.observe(known.into_iter().map(|known| Observed { past: Past::Nothing, ..known }).collect(), &seen);
        loop {
            tokio::select! {
                Ok(()) = configs.changed() => self.configure(&configs.borrow_and_update()),
                Ok(()) = services.changed() => {
                    let services = services.borrow_and_update().clone();
                    self.observe(services, &seen);
                }
                Some(seen) = notices.recv() => self.tell(&seen),
                () = ending.cancelled() => break,
            }
        }
        let mut late = std::pin::pin!(sleep(LAST_WORDS));
        while self.hooks.iter().any(|hook| hook.stats.waiting.value() > 0) || !notices.is_empty() {
            tokio::select! {
                Some(seen) = notices.recv() => self.tell(&seen),
                () = self.progress.notified() => {}
                () = &mut late => break,
            }
        }
        for Hook { name, stats, .. } in self.hooks.iter().filter(|hook| hook.stats.waiting.value() > 0) {
            tracing::warn!(hook = %name, "pointsman ends, and {} events were not told", stats.waiting.value());
        }
    }

    /// These hooks are told from now on.
    fn configure(&mut self, configs: &[HookConfig]) {
        let mut before = std::mem::take(&mut self.hooks);
        for config in configs {
            let config = Arc::new(config.clone());
            match before.iter().position(|hook| *hook.name == *config.name) {
                Some(at) => {
                    let hook = before.swap_remove(at);
                    hook.config.send_if_modified(|before| {
                        let news = *before != config;
                        *before = Arc::clone(&config);
                        news
                    });
                    self.hooks.push(hook);
                }
                None => self.hooks.push(self.start(config)),
            }
        }
        for Hook { name, stats, .. } in before.iter().filter(|hook| hook.stats.waiting.value() > 0) {
            tracing::warn!(hook = %name, "the hook is gone, and {} events were not told", stats.waiting.value());
        }
        self.counts.set(self.hooks.iter().map(|hook| (Arc::clone(&hook.name), Arc::clone(&hook.stats))).collect());
    }

    fn start(&self, config: Arc<HookConfig>) -> Hook {
        let (queue, stats): (Arc<Queue>, Arc<HookStats>) = Default::default();
        let name = Arc::from(config.name.as_str());
        let config = watch::Sender::new(config);
        let delivery = Delivery {
            config: config.subscribe(),
            queue: Arc::clone(&queue),
            stats: Arc::clone(&stats),
            names: self.names.clone(),
            progress: Arc::clone(&self.progress),
        };
        Hook { name, config, queue, stats, _delivery: AbortOnDropHandle::new(tokio::spawn(delivery.run())) }
    }

    /// These services are looked at from now on. One is the same for as long as its status is.
    fn observe(&mut self, observed: Vec<Observed>, seen: &mpsc::Sender<Seen>) {
        self.services.retain(|service| observed.iter().any(|o| o.status.same_channel(&service.status)));
        for Observed { status, past } in observed {
            if !self.services.iter().any(|service| service.status.same_channel(&status)) {
                let look = tokio::spawn(look(status.clone(), past, seen.clone()));
                self.services.push(Service { status, _observer: AbortOnDropHandle::new(look) });
            }
        }
    }

    fn tell(&mut self, (status, notice): &Seen) {
        let mut message = None;
        for hook in &self.hooks {
            if !hook.config.borrow().wants(notice.event, &status.service) {
                continue;
            }
            let message = message.get_or_insert_with(|| Arc::new(Message::new(notice, status, &mut self.sender)));
            hook.stats.waiting.add(1);
            if let Some(dropped) = hook.queue.push(Arc::clone(message)) {
                hook.stats.waiting.sub(1);
                hook.stats.dropped.add(1);
                let (event, service) = (dropped.event.word(), &dropped.service);
                tracing::warn!(hook = %hook.name, event, service, "too many events wait for the hook: it is not told");
            }
        }
    }
}

/// Sees what happens to a service.
async fn look(mut status: Status, past: Past, seen: mpsc::Sender<Seen>) {
    let mut observer = Observer::new(past, &status.borrow_and_update());
    loop {
        let now = Arc::clone(&status.borrow_and_update());
        for notice in observer.look(Moment::now(), &now) {
            if seen.send((Arc::clone(&now), notice)).await.is_err() {
                return;
            }
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}
