//! The listening sockets: which there are, and where the clients that come to each belong.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addr::ListenAddr;
use crate::config::ListenerConfig;
use crate::listener::{self, Destination, Targets};
use crate::net::{self, BindError, Inherited, Listener};

/// Sockets that were bound for addresses at which nobody listened yet.
pub(super) type Bound = Vec<(ListenAddr, Listener)>;

/// A socket that accepts.
#[derive(Debug)]
struct Listening {
    /// As configured: the kernel may have chosen a port.
    address: ListenAddr,
    aim: watch::Sender<Arc<Destination>>,
    stop: CancellationToken,
}

/// All that accept.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    open: Vec<Listening>,
    tasks: TaskTracker,
}

impl Listeners {
    /// Binds those of `wanted` at whose address nobody listens, unless it was inherited.
    ///
    /// # Errors
    /// That of the first address that cannot be had; those that were bound are closed again.
    pub(super) fn bind_new<'a>(
        &self,
        wanted: impl Iterator<Item = &'a ListenerConfig>,
        inherited: &mut Inherited,
    ) -> Result<Bound, BindError> {
        let mut kept: Vec<&ListenAddr> = self.open.iter().map(|l| &l.address).collect();
        let mut bound = Bound::new();
        for listener in wanted {
            match kept.iter().position(|address| **address == listener.address) {
                // Each once: port 0 may be wanted several times.
                Some(at) => drop(kept.swap_remove(at)),
                None => {
                    let open = match inherited.take(listener)? {
                        Some(open) => open,
                        None => net::bind(listener)?,
                    };
                    bound.push((listener.address.clone(), open));
                }
            }
        }
        Ok(bound)
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
        for destination in destinations {
            let address = destination.listener.address.clone();
            let destination = Arc::new(destination);
            if let Some(at) = before.iter().position(|l| l.address == address) {
                let listening = before.swap_remove(at);
                listening.aim.send_replace(destination);
                self.open.push(listening);
            } else if let Some(at) = bound.iter().position(|(a, _)| *a == address) {
                let (_, listener) = bound.swap_remove(at);
                tracing::info!(service = destination.name(), address = %listener.local_addr(), "listening");
                let (aim, aimed) = watch::channel(destination);
                let stop = CancellationToken::new();
                let serve = listener::serve(listener, aimed, Arc::clone(targets), stop.clone(), failed.clone());
                self.tasks.spawn(serve);
                self.open.push(Listening { address, aim, stop });
            }
        }
        for listening in before {
            tracing::info!(address = %listening.address, "listening no more");
            listening.stop.cancel();
        }
    }

    /// Closes all sockets.
    pub(super) async fn close(&self) {
        self.open.iter().for_each(|listening| listening.stop.cancel());
        self.tasks.close();
        self.tasks.wait().await;
    }
}
