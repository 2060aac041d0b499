//! Sockets and names: listening, dialling, both legs' transports, the client's outbox, the wake-up of a task by its
//! neighbours, name resolution and backoff.

mod backoff;
pub mod client;
mod dial;
mod dns;
mod listen;
mod outbox;
mod signal;
mod tls;
mod transport;

pub use backoff::Backoff;
pub use dial::Dialer;
pub use dns::{DnsError, Resolver};
pub use listen::{Accepted, BindError, ClientSocket, Listener, bind, directory};
pub use outbox::Outbox;
pub use signal::Signal;
#[cfg(test)]
pub(crate) use tls::testing::connected as tls_connected;
pub use transport::{ReadHalf, Stream, WriteHalf};
