//! Sockets and names: listening, dialling, both legs' transports, the client's outbox, the wake-up of a task by its
//! neighbours, name resolution and backoff.

mod backoff;
pub mod client;
mod dns;
mod listen;
mod outbox;
mod signal;
mod transport;

pub use backoff::Backoff;
pub use dns::{DnsError, Resolver};
pub use listen::{Accepted, BindError, ClientSocket, Listener, bind, directory};
pub use outbox::Outbox;
pub use signal::Signal;
pub use transport::{ReadHalf, Stream, WriteHalf};
