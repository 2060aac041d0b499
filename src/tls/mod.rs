//! TLS: certificates and keys as files, judged when they are read and read again when told to; what is expected of the
//! other side; and what goes wrong in a handshake, in words.
//!
//! rustls with the cryptography of `ring`, TLS 1.2 and 1.3. No socket is touched here.

mod explain;
mod files;
mod incoming;
mod outgoing;

pub use explain::{Cause, Peer, explain, explained, is_fault};
pub use files::{EXPIRES_SOON, Fault, Part, Validity};
pub use incoming::{ClientCert, Incoming, IncomingSettings, subject};
pub use outgoing::{Outgoing, OutgoingSettings, Verify, is_server_name};

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
