//! One process after the other at the same addresses: what is taken over from a predecessor, and given to a successor.

use std::env;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::Error;
use super::listeners::Listeners;
use super::services::Running;
use crate::admin::AdminState;
use crate::net::{BindError, Host, Inherited, Offer, Offered, Predecessor, READINESS, Successor};
use crate::topology::status::{Phase, ServiceStatus, WallTime};

/// What tells a process which descriptors and which watchdog are its own: not of use to its child.
const OF_ONE_PROCESS: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// The command that starts a program that is to be nobody's child, and ends.
pub(crate) const DETACH: &str = "detach";

/// The program that runs, whatever is at its path by now (`proc(5)`).
const OURSELVES: &str = "/proc/self/exe";

/// How long after a change of master its record has all counts, and whoever is to be told of its end is.
const COMPLETE_AFTER: Duration = Duration::from_secs(5);

/// How long after that every node follows the new master, mostly: Sentinel takes up to 22 s. What does not by then may never.
const SETTLED_AFTER: Duration = Duration::from_secs(30);

/// A process that is there before us, and goes on until it is relieved.
#[derive(Debug)]
pub(super) struct Before {
    predecessor: Predecessor,
    /// Its admin server's sockets, each until it is taken.
    pub(super) admin: Inherited,
    /// Services whose writes flow there.
    flowing: Vec<String>,
}

impl Before {
    /// Asks whoever listens at `path` for its sockets; nobody needs to be there.
    ///
    /// # Errors
    /// Somebody is there, and does not give up anything.
    pub(super) async fn ask(path: &Path, inherited: &mut Inherited) -> Result<Option<Self>, Error> {
        let Some((offer, predecessor)) = Predecessor::ask(path).await.map_err(cannot)? else { return Ok(None) };
        tracing::info!(sockets = offer.sockets.len(), "taking over from the pointsman that runs");
        let (admin, flowing) = offer.divide(inherited);
        Ok(Some(Self { predecessor, admin, flowing }))
    }

    /// Waits until these services can serve where it can, then has it end. With less than it has we would be worse.
    /// Returns the names of those that it served.
    ///
    /// # Errors
    /// It goes on.
    pub(super) async fn relieve(self, services: &[Running]) -> Result<Vec<String>, Error> {
        let flowing = || services.iter().filter(|service| self.flowing.contains(&service.config().name));
        let all = async {
            for service in flowing() {
                service.until_flows().await;
            }
        };
        if timeout(READINESS, all).await.is_err()
            && let Some(service) = flowing().find(|service| !service.flows())
        {
            let (name, limit) = (&service.config().name, READINESS.as_secs());
            let why = format!("writes of `{name}` flow there, and not here within {limit} s: {}", service.why());
            return Err(cannot(io::Error::other(why)));
        }
        self.predecessor.relieve().await.map_err(cannot)?;
        self.admin.close();
        Ok(self.flowing)
    }
}

fn cannot(error: io::Error) -> Error {
    Error::Takeover(error.to_string())
}

/// Where successors ask, and the one that is being dealt with.
#[derive(Debug)]
pub(super) struct Succession {
    host: Option<(PathBuf, Host)>,
    giving: Option<AbortOnDropHandle<io::Result<Successor>>>,
}

impl Succession {
    /// Everything that can fail, for successors at `path`; nobody asks here yet.
    ///
    /// # Errors
    /// The path cannot be listened on.
    pub(super) fn prepare(path: Option<&Path>) -> Result<Self, BindError> {
        let host = path.map(|path| Ok((path.to_owned(), Host::prepare(path)?))).transpose()?;
        Ok(Self { host, giving: None })
    }

    /// Successors ask here from now on.
    pub(super) fn show(&mut self) {
        if let Some((path, host)) = &mut self.host
            && let Err(error) = host.show(path)
        {
            tracing::error!(path = %path.display(), %error, "takeover: no successor will find us");
        }
    }

    /// A successor has our place.
    pub(super) fn leave(&self) {
        self.host.iter().for_each(|(_, host)| host.leave());
    }

    /// What was offered is no longer what we have.
    pub(super) fn withdraw(&mut self) {
        if self.giving.take().is_some() {
            tracing::warn!("takeover: we go on: the configuration was read again meanwhile");
        }
    }

    /// Until a successor can serve at the sockets that `offer` gives; it waits to be given our place. Cancel safe: it goes
    /// on where it was.
    pub(super) async fn asked(&mut self, offer: impl Fn() -> Result<Offer, String>) -> Successor {
        loop {
            let Self { host, giving } = self;
            let Some((_, host)) = host else { return pending().await };
            let given = async {
                match giving.as_mut() {
                    Some(giving) => giving.await,
                    None => pending().await,
                }
            };
            tokio::select! {
                given = given => {
                    *giving = None;
                    match given {
                        Ok(Ok(successor)) => return successor,
                        Ok(Err(error)) => tracing::warn!("takeover: we go on: {error}"),
                        Err(error) => tracing::error!("takeover: we go on: {error}"),
                    }
                }
                successor = host.asked() => {
                    let busy = || Err("another one is about to take over".to_owned());
                    match if giving.is_some() { busy() } else { offer() } {
                        Ok(offer) => {
                            let give = async move { successor.give(&offer).await };
                            *giving = Some(AbortOnDropHandle::new(tokio::spawn(give)));
                        }
                        Err(why) => {
                            tracing::warn!("takeover: refused: {why}");
                            successor.refuse(&why).await;
                        }
                    }
                }
            }
        }
    }

    /// Starts one: the program that is at our own path now, with our arguments, environment and directory.
    pub(super) async fn start(&self) {
        if self.host.is_none() {
            return tracing::warn!("no successor is started: `takeover` is not configured");
        }
        let mut arguments = env::args_os();
        // Whoever starts a program may call it anything.
        let Some(program) = arguments.next() else { return };
        // Not as a child of ours: systemd kills a main process that is another's child at once where it would
        // have waited for its drain (`main_pid_alien` in `unit_kill_context`, for `KillMode=mixed`).
        let mut command = Command::new(OURSELVES);
        for name in OF_ONE_PROCESS {
            command.env_remove(name);
        }
        command.arg(DETACH).arg(&program).args(arguments);
        // Its output is this process's, and the successor's: why it failed stands there, without a time.
        match spawn_blocking(move || command.status()).await {
            Ok(Ok(status)) if status.success() => tracing::info!("takeover: a successor was started"),
            Ok(Ok(status)) => tracing::error!(
                program = %program.display(), %status,
                "takeover: no successor could be started; the line before says why"
            ),
            Ok(Err(error)) => tracing::error!(%error, "takeover: no successor could be started"),
            Err(error) => tracing::error!(%error, "takeover: no successor could be started"),
        }
    }
}

/// Why nobody can take our place now.
pub(super) fn unfit(services: &[Running], state: &AdminState) -> Option<String> {
    // Its end would be cut short, and the other would set back what it has set.
    if state.is_switching_over() {
        return Some("a switchover is under way".to_owned());
    }
    let now = WallTime::now();
    services.iter().find_map(|service| {
        let status = service.status();
        let status = status.borrow();
        // The other would know nothing of it.
        if status.paused.is_some() {
            return Some(format!("service `{}` is paused: resume it first", status.service));
        }
        unfinished(&status, now)
    })
}

/// Why the failover that this service is in, or was in last, cannot be another process's yet: that would know neither how
/// it began, so that its end is told to nobody, nor what was lost, nor that a master is one that may be undone. A service
/// that refuses commands has no such reason: there another process may be the remedy.
fn unfinished(status: &ServiceStatus, now: WallTime) -> Option<String> {
    let service = &status.service;
    match status.phase {
        Phase::Held => {
            return Some(format!("writes of `{service}` are held ({}): try again when they flow", status.why));
        }
        Phase::Stable | Phase::Fenced => {}
        Phase::Starting | Phase::Unavailable => return None,
    }
    let changed = status.records.iter().rev().find(|record| record.to.is_some() && record.to != record.from)?;
    let ended = changed.began.0 + changed.lasted_ms?;
    // None: the time of day was set back. Nobody is to wait until it is that late again.
    let since = Duration::from_millis(now.0.checked_sub(ended)?);
    let (limit, what) = if status.settled {
        (COMPLETE_AFTER, "its record is not complete")
    } else {
        (SETTLED_AFTER, status.unsettled.as_deref().unwrap_or_default())
    };
    let left = limit.checked_sub(since).filter(|left| !left.is_zero());
    if left.is_none() && !status.provisional {
        return None;
    }
    let latest = left.unwrap_or_default().as_secs() + 1;
    Some(format!("failover {} of `{service}` is not over ({what}): try again in {latest} s", changed.number))
}

/// What a successor is offered now.
///
/// # Errors
/// Why it is refused.
pub(super) fn offer(
    listeners: &Listeners,
    admin: &[Offered],
    services: &[Running],
    state: &AdminState,
) -> Result<Offer, String> {
    if let Some(why) = unfit(services, state) {
        return Err(why);
    }
    let sockets = || {
        let mut sockets = listeners.offered()?;
        for admin in admin {
            sockets.push(admin.try_clone()?);
        }
        io::Result::Ok(sockets)
    };
    let sockets = sockets().map_err(|e| format!("its sockets cannot be shared: {e}"))?;
    let flowing = services.iter().filter(|service| service.flows());
    Ok(Offer { sockets, flowing: flowing.map(|service| service.config().name.clone()).collect() })
}

#[cfg(test)]
#[path = "succession_tests.rs"]
mod tests;
