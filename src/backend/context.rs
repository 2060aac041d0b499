//! What all backend connections of one service on one worker have in common.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::preparation::Preparation;
use super::scripts::{Scripts, Seen};
use super::{Downstream, Entry, LargeReplies};
use crate::complaints::Complaints;
use crate::config::{ClientAuth, Credentials, ServiceConfig};
use crate::insight::Observed;
use crate::metrics::{ServiceStats, TLS_HANDSHAKES};
use crate::net::{Dialer, Resolver};
use crate::resp::{CommandSet, Learned, Refusal, split};
use crate::topology::{Access, Hint, HintKind};

/// What is configured, and what follows from it for a worker.
#[derive(Debug)]
pub struct Terms {
    config: Arc<ServiceConfig>,
    /// What is not forwarded.
    pub refused: CommandSet,
    /// pointsman's own user at the backends.
    pub own_user: Option<Rc<Credentials>>,
    /// How the servers are dialled.
    pub(super) dialer: Dialer,
}

impl Terms {
    fn new(config: Arc<ServiceConfig>, names: Resolver) -> Self {
        let own_user = config.backend.clone().map(Rc::new);
        Self { refused: CommandSet::new(&config.refuse), own_user, dialer: Dialer::of_nodes(&config, names), config }
    }

    /// Whose identity a client has that has not said AUTH.
    pub fn first_user(&self) -> Option<Rc<Credentials>> {
        self.own_user.clone().filter(|_| self.config.client_auth == ClientAuth::Inject)
    }
}

impl Deref for Terms {
    type Target = ServiceConfig;
    fn deref(&self) -> &ServiceConfig {
        &self.config
    }
}

fn slow_from(config: &ServiceConfig) -> Duration {
    config.slowlog.slower_than.unwrap_or(Duration::MAX)
}

/// See the module.
#[derive(Debug)]
pub struct Context {
    terms: RefCell<Rc<Terms>>,
    /// Where the names of servers are known.
    names: Resolver,
    /// What traffic may do.
    pub access: Access,
    /// What is counted.
    pub stats: Arc<ServiceStats>,
    /// What is kept of single commands.
    pub observed: Arc<Observed>,
    /// Commands that take so long are noted; [`Duration::MAX`]: none.
    pub(super) slow_from: Cell<Duration>,
    /// What servers have said of commands that are not in the table.
    pub learned: RefCell<Learned>,
    /// What not to share a connection with.
    pub large: LargeReplies,
    /// The server may leave a transaction open that has come to its `EXEC`: none shares a connection.
    pub keeps_transactions_open: Cell<bool>,
    /// The scripts that clients have the servers keep, of all workers.
    pub scripts: Arc<Scripts>,
    /// Those of them that this worker has noted.
    seen_scripts: Seen,
    /// What is still to be done on a new master.
    pub preparation: Rc<Preparation>,
    /// Clients turned away for want of a PROXY header.
    pub missing_headers: Complaints,
    /// What is said of TLS handshakes of clients, by how they ended.
    pub failed_handshakes: [Complaints; TLS_HANDSHAKES.len()],
    /// Clients that were not let in.
    pub rejections: Complaints,
    /// PROXY headers from where none is believed.
    pub untrusted_headers: Complaints,
    hints: mpsc::Sender<Hint>,
    /// Sessions with parked replies.
    pub(super) parked: RefCell<Vec<Rc<Downstream>>>,
    next_id: Cell<u64>,
    /// Until when a client of this worker has paused the others (`CLIENT PAUSE`).
    paused_until: Cell<Option<Instant>>,
    /// When the generation last changed.
    switched_at: Cell<Option<Instant>>,
}

impl Context {
    /// The context of a service on a worker.
    pub fn new(
        config: Arc<ServiceConfig>,
        names: Resolver,
        access: Access,
        stats: Arc<ServiceStats>,
        observed: Arc<Observed>,
        hints: mpsc::Sender<Hint>,
        scripts: Arc<Scripts>,
    ) -> Self {
        Self {
            slow_from: Cell::new(slow_from(&config)),
            scripts,
            seen_scripts: Seen::default(),
            preparation: Rc::new(Preparation::new(Arc::clone(access.link()))),
            terms: RefCell::new(Rc::new(Terms::new(config, names.clone()))),
            names,
            access,
            stats,
            observed,
            learned: RefCell::default(),
            large: LargeReplies::default(),
            keeps_transactions_open: Cell::default(),
            missing_headers: Complaints::default(),
            failed_handshakes: Default::default(),
            rejections: Complaints::default(),
            untrusted_headers: Complaints::default(),
            hints,
            parked: RefCell::default(),
            next_id: Cell::new(1),
            paused_until: Cell::new(None),
            switched_at: Cell::new(None),
        }
    }

    /// What is configured now. A caller that keeps it goes on by what was configured then.
    pub fn terms(&self) -> Rc<Terms> {
        Rc::clone(&self.terms.borrow())
    }

    /// Whether these are no longer the terms.
    pub fn has_other_terms(&self, than: &Rc<Terms>) -> bool {
        !Rc::ptr_eq(&self.terms.borrow(), than)
    }

    /// The configuration has changed.
    pub fn configure(&self, config: Arc<ServiceConfig>) {
        self.slow_from.set(slow_from(&config));
        self.terms.replace(Rc::new(Terms::new(config, self.names.clone())));
    }

    /// A number that no other connection of this worker and service has.
    pub fn next_id(&self) -> u64 {
        self.next_id.replace(self.next_id.get() + 1)
    }

    /// Tells control what was seen. When the channel is full control has enough to look at: the hint is dropped.
    pub fn hint(&self, node: SocketAddr, kind: HintKind) {
        let _ = self.hints.try_send(Hint { node, kind });
    }

    /// A client of this worker has paused the server's clients for so long, or with zero let them go on. A pause that
    /// would end sooner than the present one changes nothing (Redis `pauseClients`).
    pub fn pause(&self, time: Duration) {
        let end = Instant::now().checked_add(time);
        self.paused_until.set(if time.is_zero() { None } else { end.max(self.paused_until.get()) });
    }

    /// Whether writes are paused, as far as this worker knows.
    pub fn is_paused(&self) -> bool {
        self.paused_until.get().is_some_and(|end| {
            let paused = Instant::now() < end;
            if !paused {
                self.paused_until.set(None);
            }
            paused
        })
    }

    /// The generation has changed.
    pub fn note_switch(&self) {
        self.switched_at.set(Some(Instant::now()));
        self.keeps_transactions_open.set(false);
    }

    /// Whether there are commands among these that do something to the server's scripts that is not noted yet.
    pub fn has_news_of_scripts(&self, batch: &[u8]) -> bool {
        split(batch).any(|command| self.seen_scripts.is_news(&self.scripts, command))
    }

    /// The server has accepted the next `n` commands of an entry that has news of scripts.
    pub(super) fn note_scripts(&self, entry: &Entry<Rc<Downstream>>, n: u32) {
        for (command, _) in entry.next_commands(n) {
            self.stats.scripts_forgotten.add(self.seen_scripts.note(&self.scripts, &command));
        }
    }

    /// Whether a refused command of this session is kept and sent again rather than its refusal delivered.
    pub fn may_retry(&self, refusal: Refusal, of: &Downstream, now: Instant) -> bool {
        let limit = self.terms().hold_timeout;
        let within = |since: Option<Instant>| since.is_some_and(|s| now.saturating_duration_since(s) < limit);
        let passes = match refusal {
            // A server that does not have a script has not run it; the caller has seen to it that there is one to load.
            Refusal::ReadOnly | Refusal::Loading | Refusal::MasterDown | Refusal::Unblocked | Refusal::NoScript => true,
            // A new master says so until its first replica has come; at any other time it is the application's to know.
            Refusal::NoReplicas => within(self.switched_at.get()),
        };
        passes && (of.refused_since().is_none() || within(of.refused_since()))
    }
}
