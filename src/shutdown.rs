//! What signals ask for: SIGTERM and SIGINT drain, and a second one ends at once; SIGHUP has the configuration read again;
//! SIGUSR2 has the program started anew in our place.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that the process obeys.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user2: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// To end; the signal's name.
    End(&'static str),
    /// To read the configuration again.
    Reload,
    /// To start a successor.
    Succession,
}

impl Signals {
    /// Takes the signals over from their default action.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next one that asks to end. Cancel safe; others are ignored meanwhile.
    pub async fn end(&mut self) -> &'static str {
        loop {
            if let Asked::End(signal) = self.next().await {
                return signal;
            }
        }
    }

    /// What the next one asks for. Cancel safe.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End("SIGTERM"),
            _ = self.interrupt.recv() => Asked::End("SIGINT"),
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.user2.recv() => Asked::Succession,
        }
    }
}
