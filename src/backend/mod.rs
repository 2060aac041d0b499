//! Backend connections: dialled, greeted, written in batches, read in slices; and what becomes of commands when one is lost.

mod connection;
mod context;
mod cursors;
mod downstream;
mod driver;
mod handshake;
mod inflight;
mod judge;
mod large;
mod parked;
mod preparation;
mod receiver;
mod returns;
mod salvage;
mod scripts;
mod slow;
mod subscriptions;
mod transaction;

pub use connection::{Connection, Listener, Lost, Use};
pub use context::{Context, Terms};
pub use cursors::Server;
pub use downstream::{Again, Downstream};
pub use handshake::{DialError, Hello, Key};
pub use inflight::{Answer, Audience, Effect, Entry, Heed, Translate};
pub use judge::{Judge, Verdict};
pub use large::LargeReplies;
pub use preparation::{Outstanding, Preparation};
pub use returns::half_streamed;
pub use scripts::Scripts;
pub use subscriptions::{Frame, Kind as SubscriptionKind, Subscriptions};

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

/// Dials, greets, and starts the connection's tasks on the current thread's runtime.
///
/// # Errors
/// [`DialError`].
pub async fn connect(
    context: &Rc<Context>,
    node: SocketAddr,
    key: &Key,
    used: Use,
) -> Result<Rc<Connection>, DialError> {
    let terms = context.terms();
    let (client, hello) = handshake::dial(&terms.dialer, node, key, terms.backend.as_ref()).await?;
    let (stream, rest) = client.into_parts();
    let unreachable = |e: std::io::Error| DialError::Unreachable(e.to_string());
    let duplicate = socket2::SockRef::from(&stream).try_clone().map_err(unreachable)?;
    let (read, write) = stream.into_split();
    let connection = Rc::new(Connection::new(Rc::clone(context), node, used, hello, write));
    connection.database.set(key.database);
    context.access.link().register(connection.id, node, duplicate.into());
    tokio::task::spawn_local(driver::read_replies(Rc::clone(&connection), read, rest));
    tokio::task::spawn_local(driver::write_commands(Rc::clone(&connection)));
    Ok(connection)
}

/// Loads the scripts that are remembered into a node, as pointsman's own user. `outstanding` is kept until that is done
/// or cannot be done.
pub fn bring_scripts(context: &Rc<Context>, node: SocketAddr, outstanding: Option<Outstanding>) {
    let (context, loading) = (Rc::clone(context), context.scripts.begin_loading());
    tokio::task::spawn_local(async move {
        let _outstanding = outstanding;
        let scripts = context.scripts.all();
        if scripts.is_empty() {
            return;
        }
        let terms = context.terms();
        let user = terms.own_user.clone();
        let key = Key { database: 0, resp3: false, user };
        let loaded = handshake::load_scripts(&terms.dialer, node, &key, &scripts).await;
        loading.end(loaded.is_ok());
        match loaded {
            Ok(()) => context.stats.scripts_loaded.add(scripts.len() as u64),
            Err(error) => {
                let service = &context.terms().name;
                tracing::warn!(%service, %node, "cannot load the scripts that clients use: {error}");
            }
        }
    });
}

/// Takes blocking commands back from a node that traffic is about to leave; see [`handshake::unblock`]. `key` is
/// pointsman's own user.
pub async fn withdraw(context: Rc<Context>, node: SocketAddr, key: Key, blocked: Vec<Rc<Connection>>) {
    let by = context.next_id();
    for conn in &blocked {
        conn.withdrawn.set(by);
    }
    let asked = Cell::new(false);
    // What is blocked on a connection by then may be another command, of another client: nobody asked that to come back.
    let ids = || {
        asked.set(true);
        blocked.iter().filter(|c| c.withdrawn.get() == by && c.hello.id > 0).map(|c| c.hello.id).collect()
    };
    let come_back = handshake::unblock(&context.terms().dialer, node, &key, ids).await;
    if let Err(error) = &come_back {
        tracing::debug!(service = %context.terms().name, %node, %error, "cannot withdraw blocking commands");
    }
    // Those that stay where they are: if one is unblocked, it is by another client.
    let stays = |c: &Connection| come_back.as_ref().map_or(!asked.get(), |ids| !ids.contains(&c.hello.id));
    for conn in blocked.iter().filter(|c| c.withdrawn.get() == by && stays(c)) {
        conn.withdrawn.set(0);
    }
}

#[cfg(test)]
mod tests;
