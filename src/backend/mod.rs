//! Backend connections: dialled, greeted, written in batches, read in slices; and what becomes of commands when one is lost.

mod connection;
mod context;
mod downstream;
mod driver;
mod handshake;
mod inflight;
mod salvage;
mod subscriptions;

pub use connection::{Connection, Lost, Use, half_streamed};
pub use context::{Context, Stats};
pub use downstream::{Again, Downstream};
pub use handshake::{DialError, Hello, Key, judge};
pub use inflight::{Answer, Audience, Effect, Entry};
pub use subscriptions::{Kind as SubscriptionKind, Subscriptions};

use std::net::SocketAddr;
use std::rc::Rc;

use crate::net::Stream;

/// Dials, greets, and starts the connection's task on the current thread's runtime.
///
/// # Errors
/// [`DialError`].
pub async fn connect(
    context: &Rc<Context>,
    node: SocketAddr,
    key: &Key,
    used: Use,
) -> Result<Rc<Connection>, DialError> {
    let (client, hello) =
        handshake::dial(node, key, context.config.backend.as_ref(), context.config.connect_timeout).await?;
    let (stream, rest) = client.into_parts();
    let unreachable = |e: std::io::Error| DialError::Unreachable(e.to_string());
    let duplicate = socket2::SockRef::from(&stream).try_clone().map_err(unreachable)?;
    let (read, write) = Stream::Tcp(stream).into_split();
    let connection = Rc::new(Connection::new(Rc::clone(context), node, used, hello, write));
    context.access.link().register(connection.id, node, duplicate.into());
    tokio::task::spawn_local(driver::drive(Rc::clone(&connection), read, rest));
    Ok(connection)
}

/// Takes blocking commands back from a node that traffic is about to leave; see [`handshake::unblock`]. `key` is
/// pointsman's own user.
pub async fn withdraw(context: Rc<Context>, node: SocketAddr, key: Key, blocked: Vec<Rc<Connection>>) {
    for conn in &blocked {
        conn.withdrawn.set(true);
    }
    let ids: Vec<i64> = blocked.iter().map(|c| c.hello.id).filter(|id| *id > 0).collect();
    if let Err(error) = handshake::unblock(node, &key, &ids, context.config.connect_timeout).await {
        tracing::debug!(service = %context.config.name, %node, %error, "cannot withdraw blocking commands");
    }
}

#[cfg(test)]
mod tests;
