//! The clients of one service over all workers, by the ids that they know each other by (`CLIENT LIST`, `KILL`,
//! `UNBLOCK`). Written when a client comes, goes, changes its name or is given a connection; for a command no more than two
//! words are stored, which hardly anybody reads.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::addr::ClientAddr;
use crate::clock::Moment;

/// One client as others may see it.
#[derive(Debug)]
pub struct Client {
    /// Unique among the clients of this process.
    pub id: u64,
    /// Its address.
    pub addr: ClientAddr,
    /// The address that it connected to.
    pub laddr: ClientAddr,
    /// Since when.
    pub since: Moment,
    worker: usize,
    /// What it calls itself and whom it is authenticated as.
    named: Mutex<(Vec<u8>, String)>,
    /// Its library and that one's version, as it says.
    library: Mutex<(Vec<u8>, Vec<u8>)>,
    own: Mutex<Own>,
    /// Id of the shared backend connection that it used last; 0 if none.
    shared: AtomicI64,
    subscribed: AtomicBool,
    active: AtomicU64,
    command: AtomicUsize,
}

/// What `CLIENT SETINFO` is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attribute {
    /// `LIB-NAME`.
    Library,
    /// `LIB-VER`.
    Version,
}

/// A client's own backend connection, as others name it to the server.
#[derive(Debug, Default)]
struct Own {
    /// Where it leads, and its id there: another server may know another client's connection by the same one.
    backend: Option<(SocketAddr, i64)>,
    /// Others that are about to name it: it must not become another client's meanwhile.
    holders: usize,
    /// The server has been told to send something there (`REDIRECT`): it must never become another client's.
    is_target: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done in these that a panic could have interrupted.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// Its own backend connection, kept from becoming another's for as long as the value lives.
    pub fn hold(self: &Arc<Self>) -> Held {
        lock(&self.own).holders += 1;
        Held(Arc::clone(self))
    }

    /// Id of its own backend connection; 0 if it has none.
    pub fn pinned(&self) -> i64 {
        lock(&self.own).backend.map_or(0, |(_, id)| id)
    }

    /// The same if it leads to `node`, as the one to which that is to send something; 0 if it does not.
    pub fn target(&self, node: SocketAddr) -> i64 {
        let mut own = lock(&self.own);
        let id = own.id_at(node);
        own.is_target |= id != 0;
        id
    }

    /// The client was given a connection of its own.
    pub fn pin(&self, node: SocketAddr, backend: i64) {
        lock(&self.own).backend = Some((node, backend));
    }

    /// It was taken from it. Returns whether the connection may be given to another client.
    pub fn unpin(&self) -> bool {
        let mut own = lock(&self.own);
        own.backend = None;
        !std::mem::take(&mut own.is_target) && own.holders == 0
    }

    /// The connection that its state can be read from: its own, or the shared one it used last; 0 if it has used none.
    pub fn backend(&self) -> i64 {
        match self.pinned() {
            0 => self.shared.load(Ordering::Relaxed),
            own => own,
        }
    }

    /// It uses this shared connection.
    pub fn share(&self, backend: i64) {
        self.shared.store(backend, Ordering::Relaxed);
    }

    /// Name and user.
    pub fn named(&self) -> (Vec<u8>, String) {
        lock(&self.named).clone()
    }

    /// Library and version; each is empty if it has not said.
    pub fn library(&self) -> (Vec<u8>, Vec<u8>) {
        lock(&self.library).clone()
    }

    /// It said this about its library: an empty word takes back what it said.
    pub fn describe_library(&self, attribute: Attribute, value: &[u8]) {
        let mut said = lock(&self.library);
        match attribute {
            Attribute::Library => said.0 = value.to_owned(),
            Attribute::Version => said.1 = value.to_owned(),
        }
    }

    /// Name, user, and whether it is subscribed to something have changed, or may have.
    pub fn describe(&self, name: &[u8], user: &str, subscribed: bool) {
        *lock(&self.named) = (name.to_owned(), user.to_owned());
        self.subscribed.store(subscribed, Ordering::Relaxed);
    }

    /// Whether it is subscribed to something.
    pub fn is_subscribed(&self) -> bool {
        self.subscribed.load(Ordering::Relaxed)
    }

    /// It sent a command: its place in the table of commands.
    #[inline]
    pub fn sent(&self, command: usize) {
        self.command.store(command, Ordering::Relaxed);
    }

    /// It did something.
    #[inline]
    pub fn active(&self, now: Moment) {
        self.active.store(now.0, Ordering::Relaxed);
    }

    /// Its last command, and when that was.
    pub fn last(&self) -> (usize, Moment) {
        (self.command.load(Ordering::Relaxed), Moment(self.active.load(Ordering::Relaxed)))
    }
}

impl Own {
    fn id_at(&self, node: SocketAddr) -> i64 {
        self.backend.filter(|(at, _)| *at == node).map_or(0, |(_, id)| id)
    }
}

/// See [`Client::hold`].
#[derive(Debug)]
pub struct Held(Arc<Client>);

impl Held {
    /// Id of the connection; 0 if there is none to `node`.
    pub fn backend(&self, node: SocketAddr) -> i64 {
        lock(&self.0.own).id_at(node)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.0.own).holders -= 1;
    }
}

/// See the module.
#[derive(Debug)]
pub struct Clients {
    open: Mutex<BTreeMap<u64, Arc<Client>>>,
    /// By worker: clients that are to be closed.
    killed: Vec<(Mutex<Vec<u64>>, Notify)>,
}

impl Clients {
    /// Nobody yet.
    pub fn new(workers: usize) -> Self {
        Self { open: Mutex::default(), killed: (0..workers).map(|_| Default::default()).collect() }
    }

    /// A client has come to a worker.
    pub fn join(self: &Arc<Self>, id: u64, worker: usize, addr: ClientAddr, laddr: ClientAddr) -> Presence {
        let now = Moment::now();
        let client = Arc::new(Client {
            id,
            addr,
            laddr,
            since: now,
            worker,
            named: Mutex::default(),
            library: Mutex::default(),
            own: Mutex::default(),
            shared: AtomicI64::new(0),
            subscribed: AtomicBool::new(false),
            active: AtomicU64::new(now.0),
            command: AtomicUsize::new(usize::MAX),
        });
        lock(&self.open).insert(id, Arc::clone(&client));
        Presence { client, clients: Arc::clone(self) }
    }

    /// All clients, the eldest first.
    pub fn all(&self) -> Vec<Arc<Client>> {
        lock(&self.open).values().cloned().collect()
    }

    /// One client.
    pub fn get(&self, id: u64) -> Option<Arc<Client>> {
        lock(&self.open).get(&id).cloned()
    }

    /// Has its worker close the client.
    pub fn kill(&self, client: &Client) {
        if let Some((ids, notify)) = self.killed.get(client.worker) {
            lock(ids).push(client.id);
            notify.notify_one();
        }
    }

    /// The clients of a worker that are to be closed, once there are any.
    pub async fn killed(&self, worker: usize) -> Vec<u64> {
        let (ids, notify) = &self.killed[worker];
        loop {
            let due = std::mem::take(&mut *lock(ids));
            if !due.is_empty() {
                return due;
            }
            notify.notified().await;
        }
    }
}

/// A client among the others, for as long as the value lives.
#[derive(Debug)]
pub struct Presence {
    /// Itself.
    pub client: Arc<Client>,
    /// All.
    pub clients: Arc<Clients>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        lock(&self.clients.open).remove(&self.client.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anywhere() -> ClientAddr {
        ClientAddr::Unix("/s".into())
    }

    #[test]
    fn a_connection_that_somebody_names_is_not_given_away() {
        let clients = Arc::new(Clients::new(1));
        let presence = clients.join(7, 0, anywhere(), anywhere());
        let (here, there) = (SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([127, 0, 0, 1], 2)));
        presence.client.pin(here, 40);
        let held = clients.get(7).unwrap().hold();
        assert_eq!((held.backend(here), held.backend(there)), (40, 0), "there it may be anybody's");
        assert!(!presence.client.unpin());
        assert_eq!(held.backend(here), 0);
        drop(held);
        presence.client.pin(here, 41);
        assert_eq!(presence.client.target(there), 0);
        assert!(presence.client.unpin());
        presence.client.pin(here, 42);
        assert_eq!(presence.client.target(here), 42);
        assert!(!presence.client.unpin(), "what is sent there is for nobody else");
        drop(presence);
        assert!(clients.all().is_empty());
    }

    #[tokio::test]
    async fn the_worker_of_a_killed_client_is_told() {
        let clients = Arc::new(Clients::new(2));
        let presence = clients.join(7, 1, anywhere(), anywhere());
        clients.kill(&presence.client);
        assert_eq!(clients.killed(1).await, [7]);
    }
}
