//! Sockets and names: listening, dialling, both legs' transports, the client's outbox, the wake-up of a task by its
//! neighbours, name resolution and backoff.

mod backoff;
pub mod client;
mod dial;
mod dns;
mod handshake;
mod inherited;
mod listen;
mod outbox;
mod proxy_header;
mod rate;
mod signal;
mod takeover;
mod timer;
mod tls;
mod transport;

pub use backoff::Backoff;
pub use dial::Dialer;
pub use dns::{DnsError, Resolver};
pub use handshake::{HandshakeError, Handshakes};
pub use inherited::{Inherited, kept_name};
pub use listen::{Accepted, Accepting, BindError, ClientSocket, Leaving, Listener, bind, directory};
pub use outbox::Outbox;
pub use proxy_header::{HeaderError, Proxied, is_header_line, receive as receive_proxy_header};
pub use rate::Rate;
pub use signal::Signal;
pub use takeover::{Host, Offer, Offered, Predecessor, READINESS, Role, Successor};
pub use timer::Timer;
#[cfg(test)]
pub(crate) use tls::testing::connected as tls_connected;
pub use transport::{ReadHalf, Stream, WriteHalf};
