//! A pause: an operator has a service's commands wait, for as long as he likes.
//!
//! It is none of the failover machine's holds, which are about a master that is not trusted. The master is as good as ever:
//! what it has been given is answered and the answers go to their clients, only nothing new is given to it.

use std::time::Duration;

use tokio::sync::oneshot;

/// What is ordered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pause {
    /// No command is handed on from now on; where a time is given, until it has passed. Replaces a pause that is on.
    Begin(Option<Duration>),
    /// Commands are handed on again.
    End,
}

/// An order on its way to control.
#[derive(Debug)]
pub struct PauseOrder {
    /// What is wanted.
    pub pause: Pause,
    /// Told once it is so: of a pause, that every worker goes by it and none has a write under way. Dropped if another
    /// order came before that.
    pub done: oneshot::Sender<()>,
}
