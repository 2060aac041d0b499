//! What systemd is told of this process (`sd_notify(3)`): that it is ready, how it stands, that it lives, that it ends;
//! and what it is given to keep for the next one.

use std::ffi::OsStr;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;
use std::{env, io, process};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::admin::AdminState;

/// How often it is looked whether there is something new to say, and so the most that is said.
const PACE: Duration = Duration::from_secs(1);

/// What the drain may take longer than `drain_timeout` before systemd kills.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Longest wait for room for a descriptor, each: it comes once, and may not be lost.
const KEEPING: Duration = Duration::from_secs(1);

/// A service manager that wants to be told.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// How often it must hear that we live.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The one that started this process, if it gave an address in `NOTIFY_SOCKET`.
    pub fn of_process() -> Option<Self> {
        let address = env::var_os("NOTIFY_SOCKET")?;
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        // A watchdog may be meant for the parent that handed its environment down.
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|time| is_ours && *time > 0).map(Duration::from_micros);
        Self::at(&address, watchdog)
            .inspect_err(|error| tracing::warn!(?address, %error, "cannot tell the service manager anything"))
            .ok()
    }

    fn at(address: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        // Clients are accepted on this thread: they do not wait for a manager that hangs.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address, watchdog })
    }

    fn tell(&self, words: &str) {
        if let Err(error) = self.socket.send_to_addr(words.as_bytes(), &self.address) {
            tracing::debug!(words, %error, "the service manager does not listen");
        }
    }

    /// The configuration is read again. Newer versions want to know since when, on their clock.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// Clients can connect; or, behind [`Self::reloading`], that is over.
    pub fn ready(&self, state: &AdminState) {
        self.tell(&format!("READY=1\nSTATUS={}", state.summary()));
    }

    /// No new clients; those that are there have `drain_timeout` to finish, whatever the unit's `TimeoutStopSec` says.
    pub fn stopping(&self, drain_timeout: Duration) {
        let limit = (drain_timeout + LAST_WORDS).as_micros();
        self.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={limit}"));
    }

    /// Has a listening socket kept for whoever is started after us, by this name: over a restart, and when we die
    /// (`FDSTORE`). It keeps no two of one socket.
    ///
    /// # Errors
    /// The kernel's. A manager whose `FileDescriptorStoreMax` is reached says nothing but in its own log.
    pub fn keep(&self, name: &str, socket: BorrowedFd<'_>) -> io::Result<()> {
        let way = UnixDatagram::unbound()?;
        way.connect_addr(&self.address)?;
        way.set_write_timeout(Some(KEEPING))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sockets = [socket];
        control.push(SendAncillaryMessage::ScmRights(&sockets));
        let words = format!("FDSTORE=1\nFDNAME={name}");
        sendmsg(&way, &[IoSlice::new(words.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Has what is kept by this name closed.
    pub fn forget(&self, name: &str) {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
    }

    /// Another process is the service from now on; it does the telling.
    pub fn succeeded_by(&self, process: i32) {
        self.tell(&format!("MAINPID={process}"));
    }

    /// Tells how things stand whenever that changes, and in time for the watchdog that every thread lives. As soon as
    /// one does not, nothing is said of life any more: the manager's watchdog bites.
    pub async fn keep_informed(self: Arc<Self>, state: Arc<AdminState>) {
        let often = self.watchdog.map(|limit| limit / 2);
        let mut rounds = interval(often.map_or(PACE, |often| often.min(PACE)));
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut told, mut told_at) = (String::new(), None::<Instant>);
        let mut fed_at = None::<Instant>;
        loop {
            let now = rounds.tick().await;
            // Half of the time that it grants, less a round: never later than half.
            let hungry = often.is_some_and(|often| fed_at.is_none_or(|at| now + PACE.min(often) > at + often));
            if hungry && state.is_live() {
                self.tell("WATCHDOG=1");
                fed_at = Some(now);
            }
            if told_at.is_none_or(|at| now >= at + PACE) {
                let summary = state.summary();
                if summary != told {
                    self.tell(&format!("STATUS={summary}"));
                    (told, told_at) = (summary, Some(now));
                }
            }
        }
    }
}
