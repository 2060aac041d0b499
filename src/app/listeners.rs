//! The listening sockets: which there are, where the clients that come to each belong, and who has them after us.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addr::ListenAddr;
use crate::config::{self, ListenerConfig, Shape};
use crate::listener::{self, Destination, Stop, Targets};
use crate::net::{BindError, Inherited, Listener, Offered, Role, kept_name};
use crate::systemd::ServiceManager;

/// Sockets that were bound for addresses at which nobody listened yet.
pub(super) type Bound = Vec<(ListenAddr, Listener)>;

/// How long a reload waits for sockets that are closed by it.
const SETTLE_LIMIT: Duration = Duration::from_secs(1);

/// Longest name that systemd keeps a socket by. (No path is as long that is not mostly of other letters than ASCII has.)
const MAX_NAME: usize = 255;

/// A socket that accepts.
#[derive(Debug)]
struct Listening {
    /// As configured: the kernel may have chosen a port.
    address: ListenAddr,
    aim: watch::Sender<Arc<Destination>>,
    /// Itself, until it stops.
    socket: Weak<Listener>,
    stop: Stop,
    /// Cancelled when it is closed.
    closed: CancellationToken,
    /// The service manager has it too.
    kept: bool,
}

impl Listening {
    /// Whether it is to stay open when we are gone. A balancer would go on sending clients there, and an address that the
    /// kernel chose is none that the next process asks for. What systemd opened it keeps anyway.
    fn is_worth_keeping(&self, socket: &Listener) -> bool {
        let is_sidecars = self.aim.borrow().config.borrow().shape == Shape::Sidecar;
        let is_fixed = !matches!(self.address, ListenAddr::Tcp(address) if address.port() == 0);
        let has_name = kept_name(&self.address).len() <= MAX_NAME;
        socket.is_ours() && is_sidecars && is_fixed && has_name
    }
}

/// The listening sockets of the process.
#[derive(Debug)]
pub(super) struct Listeners {
    manager: Option<Arc<ServiceManager>>,
    open: Vec<Listening>,
    /// Those that were told to close.
    closing: Vec<Listening>,
    tasks: TaskTracker,
}

impl Listeners {
    /// None yet. `manager` is who keeps sockets for the next process.
    pub(super) fn new(manager: Option<Arc<ServiceManager>>) -> Self {
        Self { manager, open: Vec::new(), closing: Vec::new(), tasks: TaskTracker::new() }
    }

    /// Binds those of `wanted` at whose address nobody listens, unless it was inherited.
    ///
    /// # Errors
    /// That of the first address that cannot be had; those that were bound are closed again.
    pub(super) fn bind_new<'a>(
        &self,
        wanted: impl Iterator<Item = &'a ListenerConfig>,
        inherited: &mut Inherited,
    ) -> Result<Bound, BindError> {
        let accepts = |l: &&Listening| !l.closed.is_cancelled();
        let mut kept: Vec<&ListenAddr> = self.open.iter().filter(accepts).map(|l| &l.address).collect();
        let mut bound = Bound::new();
        for listener in wanted {
            match kept.iter().position(|address| **address == listener.address) {
                // Each once: port 0 may be wanted several times.
                Some(at) => drop(kept.swap_remove(at)),
                None => {
                    let open = inherited.open(listener).map_err(|error| self.explain(error))?;
                    bound.push((listener.address.clone(), open));
                }
            }
        }
        Ok(bound)
    }

    /// Who is in the way may be ourselves.
    fn explain(&self, error: BindError) -> BindError {
        let Some(own) = self.open.iter().find(|l| config::overlap(&l.address, &error.addr)) else { return error };
        let reason = format!("it overlaps with {}, where we listen until then: this takes a restart", own.address);
        BindError { reason, ..error }
    }

    /// Has clients come to where they belong from now on: accepts at what was bound, goes on at what is wanted still, and
    /// closes the other sockets. Clients that were accepted are left alone.
    pub(super) fn aim(
        &mut self,
        destinations: Vec<Destination>,
        mut bound: Bound,
        targets: &Arc<Targets>,
        failed: &CancellationToken,
    ) {
        let mut before = std::mem::take(&mut self.open);
        // Those that another process has shut down are bound anew.
        before.retain(|listening| !listening.closed.is_cancelled());
        let mut opened = Vec::new();
        for destination in destinations {
            let address = destination.listener.address.clone();
            let destination = Arc::new(destination);
            if let Some(at) = before.iter().position(|l| l.address == address) {
                let listening = before.swap_remove(at);
                listening.aim.send_replace(destination);
                self.open.push(listening);
            } else if let Some(at) = bound.iter().position(|(a, _)| *a == address) {
                let (_, listener) = bound.swap_remove(at);
                opened.push(address.clone());
                tracing::info!(service = destination.name(), address = %listener.local_addr(), "listening");
                listener.leave_file(false);
                let (aim, aimed) = watch::channel(destination);
                let stop = Stop::default();
                let listener = Arc::new(listener);
                let socket = Arc::downgrade(&listener);
                let serve = listener::serve(listener, aimed, Arc::clone(targets), stop.clone(), failed.clone());
                let closed = CancellationToken::new();
                let closes = closed.clone();
                targets.accept(self.tasks.track_future(async move {
                    serve.await;
                    closes.cancel();
                }));
                self.open.push(Listening { address, aim, socket, stop, closed, kept: false });
            }
        }
        for mut listening in before {
            tracing::info!(address = %listening.address, "listening no more");
            self.keep(&mut listening, false);
            listening.stop.close.cancel();
            self.closing.push(listening);
        }
        let mut open = std::mem::take(&mut self.open);
        for listening in &mut open {
            let wanted = listening.socket.upgrade().is_some_and(|socket| listening.is_worth_keeping(&socket));
            self.keep(listening, wanted);
            // A predecessor may have had it kept.
            if let Some(manager) = self.manager.as_ref().filter(|_| !wanted && opened.contains(&listening.address)) {
                manager.forget(&kept_name(&listening.address));
            }
        }
        self.open = open;
    }

    /// Waits until the sockets that are not wanted any more are closed, which the thread that accepts does; not for one that
    /// is stuck.
    pub(super) async fn settle(&mut self) {
        let end = Instant::now() + SETTLE_LIMIT;
        for listening in &self.closing {
            let _ = timeout_at(end, listening.closed.cancelled()).await;
        }
        self.closing.retain(|listening| !listening.closed.is_cancelled());
    }

    /// Has the service manager keep a socket, or not any more.
    fn keep(&self, listening: &mut Listening, wanted: bool) {
        let (Some(manager), Some(socket)) = (&self.manager, listening.socket.upgrade()) else { return };
        let name = kept_name(&listening.address);
        if wanted && !listening.kept {
            match manager.keep(&name, socket.as_fd()) {
                Ok(()) => listening.kept = true,
                Err(error) => {
                    let address = &listening.address;
                    tracing::warn!(%address, %error, "the service manager cannot keep the socket over a restart");
                }
            }
        } else if !wanted && listening.kept {
            manager.forget(&name);
            listening.kept = false;
        }
        socket.leave_file(listening.kept);
    }

    /// The sockets, for a successor.
    pub(super) fn offered(&self) -> io::Result<Vec<Offered>> {
        let open = self.open.iter().filter_map(|l| Some((l.address.clone(), l.socket.upgrade()?)));
        let offer = |(address, socket): (ListenAddr, Arc<Listener>)| {
            let role = if socket.is_ours() { Role::Listen } else { Role::Lent };
            Offered::of(role, &address, &socket)
        };
        open.map(offer).collect()
    }

    /// Closes all sockets. Those that `are_shared` with a successor, and those that are kept for one, stay open there, with
    /// their files and with whoever has not been accepted yet.
    pub(super) async fn close(&self, are_shared: bool) {
        for listening in &self.open {
            if are_shared || listening.kept {
                listening.socket.upgrade().inspect(|socket| socket.leave_file(true));
                listening.stop.leave.cancel();
            } else {
                listening.stop.close.cancel();
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Listeners {
    /// Whatever is open still is closed by the end of the process, which leaves files behind.
    fn drop(&mut self) {
        for listening in self.open.iter().chain(&self.closing) {
            listening.socket.upgrade().inspect(|socket| socket.remove_file());
        }
    }
}
