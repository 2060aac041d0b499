//! The clients of one service over all workers, by the ids that they know each other by (`CLIENT LIST`, `KILL`,
//! `UNBLOCK`, `TRACKING … REDIRECT`). Written when a client comes, goes, changes its name or is given a connection; for a command no more than two
//! words are stored, which hardly anybody reads.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
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
    details: Mutex<Option<Box<Details>>>,
    /// Id of the shared backend connection that it used last; 0 if none.
    shared: AtomicI64,
    subscribed: AtomicBool,
    /// The client that its invalidations go to; 0: none.
    redirects_to: AtomicU64,
    /// It has left, or what it reads is a stream that nothing may be put into.
    deaf: AtomicBool,
    active: AtomicU64,
    command: AtomicUsize,
    database: AtomicU32,
    /// Its command waits: for a master, for a connection, for the end of a pause.
    waiting: AtomicBool,
}

/// What `CLIENT SETINFO` is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attribute {
    /// `LIB-NAME`.
    Library,
    /// `LIB-VER`.
    Version,
}

/// What most clients never have. In a box, since each client would have room for it.
#[derive(Debug, Default)]
struct Details {
    /// What it calls itself.
    name: Vec<u8>,
    /// Whom it is authenticated as.
    user: Vec<u8>,
    /// Its library.
    library: Vec<u8>,
    /// That one's version.
    version: Vec<u8>,
    own: Own,
}

/// A client's own backend connection, as others name it to the server.
#[derive(Debug, Default)]
struct Own {
    /// Where it leads, and its id there: another server may know another client's connection by the same one.
    backend: Option<(SocketAddr, i64)>,
    /// Others that are about to name it: it must not become another client's meanwhile.
    holders: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done in these that a panic could have interrupted.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// One for tests of those who only need to have one.
    #[cfg(test)]
    pub fn anybody() -> Arc<Self> {
        let anywhere = || ClientAddr::Unix("/s".into());
        let presence = Arc::new(Clients::new(1)).join(1, 0, [anywhere(), anywhere()], None);
        presence.map(|presence| Arc::clone(&presence.client)).expect("it is the first")
    }

    /// Its own backend connection, kept from becoming another's for as long as the value lives.
    pub fn hold(self: &Arc<Self>) -> Held {
        self.detail(|details| details.own.holders += 1);
        Held(Arc::clone(self))
    }

    /// Id of its own backend connection; 0 if it has none.
    pub fn pinned(&self) -> i64 {
        self.own_backend().map_or(0, |(_, id)| id)
    }

    fn own_backend(&self) -> Option<(SocketAddr, i64)> {
        self.seen(|details| details.own.backend).flatten()
    }

    /// Looks at its details, if it has any.
    fn seen<T>(&self, look: impl FnOnce(&Details) -> T) -> Option<T> {
        lock(&self.details).as_deref().map(look)
    }

    /// Changes its details.
    fn detail<T>(&self, change: impl FnOnce(&mut Details) -> T) -> T {
        change(lock(&self.details).get_or_insert_default())
    }

    /// The client was given a connection of its own.
    pub fn pin(&self, node: SocketAddr, backend: i64) {
        self.detail(|details| details.own.backend = Some((node, backend)));
    }

    /// It was taken from it. Returns whether the connection may be given to another client.
    pub fn unpin(&self) -> bool {
        self.detail(|details| {
            details.own.backend = None;
            details.own.holders == 0
        })
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

    /// What it calls itself; empty if it has not said.
    pub fn name(&self) -> Vec<u8> {
        self.seen(|details| details.name.clone()).unwrap_or_default()
    }

    /// It calls itself so from now on; an empty name takes back what it was called.
    pub fn set_name(&self, name: &[u8]) {
        self.detail(|details| details.name = name.to_owned());
    }

    /// Name and user.
    pub fn named(&self) -> (Vec<u8>, Vec<u8>) {
        self.seen(|details| (details.name.clone(), details.user.clone())).unwrap_or_default()
    }

    /// Library and version; each is empty if it has not said.
    pub fn library(&self) -> (Vec<u8>, Vec<u8>) {
        self.seen(|details| (details.library.clone(), details.version.clone())).unwrap_or_default()
    }

    /// It said this about its library: an empty word takes back what it said.
    pub fn describe_library(&self, attribute: Attribute, value: &[u8]) {
        self.detail(|details| match attribute {
            Attribute::Library => details.library = value.to_owned(),
            Attribute::Version => details.version = value.to_owned(),
        });
    }

    /// Its user, and whether it is subscribed to something, have changed, or may have.
    pub fn describe(&self, user: &[u8], subscribed: bool) {
        self.detail(|details| details.user = user.to_owned());
        self.subscribed.store(subscribed, Ordering::Relaxed);
    }

    /// Whether it is subscribed to something.
    pub fn is_subscribed(&self) -> bool {
        self.subscribed.load(Ordering::Relaxed)
    }

    /// Its invalidations go to this client; 0: to none.
    pub fn redirect_to(&self, id: u64) {
        self.redirects_to.store(id, Ordering::Relaxed);
    }

    /// The client that its invalidations go to; 0 if there is none.
    pub fn redirects_to(&self) -> u64 {
        self.redirects_to.load(Ordering::Relaxed)
    }

    /// From now on others can tell it nothing, or can again.
    pub fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::Relaxed);
    }

    /// Whether others can tell it nothing.
    pub fn is_deaf(&self) -> bool {
        self.deaf.load(Ordering::Relaxed)
    }

    /// It sent a command: its place in the table of commands.
    #[inline]
    pub fn sent(&self, command: usize) {
        self.command.store(command, Ordering::Relaxed);
    }

    /// It is in this database now.
    pub fn select(&self, database: u32) {
        self.database.store(database, Ordering::Relaxed);
    }

    /// The database that it is in.
    pub fn database(&self) -> u32 {
        self.database.load(Ordering::Relaxed)
    }

    /// Its command has begun to wait, or waits no more.
    pub fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    /// Whether its command waits.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The worker that serves it.
    pub fn worker(&self) -> usize {
        self.worker
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

/// See [`Client::hold`].
#[derive(Debug)]
pub struct Held(Arc<Client>);

impl Held {
    /// Id of the connection; 0 if there is none to `node`.
    pub fn backend(&self, node: SocketAddr) -> i64 {
        self.0.own_backend().filter(|(at, _)| *at == node).map_or(0, |(_, id)| id)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.detail(|details| details.own.holders -= 1);
    }
}

#[derive(Debug, Default)]
struct Open {
    by_id: BTreeMap<u64, Arc<Client>>,
    /// How many have each address.
    by_address: HashMap<IpAddr, usize>,
}

/// See the module.
#[derive(Debug)]
pub struct Clients {
    open: Mutex<Open>,
    /// By worker.
    errands: Vec<(Mutex<Errands>, Notify)>,
}

/// What a worker is to do to its clients.
#[derive(Debug, Default)]
pub struct Errands {
    /// Clients to be closed.
    pub killed: Vec<u64>,
    /// Clients to be told that keys are invalid, each with the keys as the server writes them.
    pub told: Vec<(u64, Bytes)>,
    /// Clients for which more waits to be told than may.
    pub flooded: Vec<u64>,
    /// Sum of the lengths in `told`.
    bytes: usize,
}

/// Bytes that may wait for a worker to tell its clients, beside what is told at one go. It does so in its next turn; if it
/// does not get to that, the next client to be told something is closed instead.
const MAX_TOLD: usize = 16 << 20;

/// Whether a client can be told something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hearing {
    /// It will be.
    Told,
    /// Too much waits for it already: it is closed.
    Flooded,
    /// It has left, or hears nothing any more.
    Deaf,
}

impl Clients {
    /// Nobody yet.
    pub fn new(workers: usize) -> Self {
        Self { open: Mutex::default(), errands: (0..workers).map(|_| Default::default()).collect() }
    }

    /// A client has come to a worker. None: there are as many with its address as there may be.
    pub fn join(
        self: &Arc<Self>,
        id: u64,
        worker: usize,
        [addr, laddr]: [ClientAddr; 2],
        per_address: Option<usize>,
    ) -> Option<Presence> {
        let mut open = lock(&self.open);
        if let Some(ip) = addr.ip() {
            let others = open.by_address.entry(ip).or_default();
            if per_address.is_some_and(|limit| *others >= limit) {
                return None;
            }
            *others += 1;
        }
        let now = Moment::now();
        let client = Arc::new(Client {
            id,
            addr,
            laddr,
            since: now,
            worker,
            details: Mutex::default(),
            shared: AtomicI64::new(0),
            subscribed: AtomicBool::new(false),
            redirects_to: AtomicU64::new(0),
            deaf: AtomicBool::new(false),
            active: AtomicU64::new(now.0),
            command: AtomicUsize::new(usize::MAX),
            database: AtomicU32::new(0),
            waiting: AtomicBool::new(false),
        });
        open.by_id.insert(id, Arc::clone(&client));
        Some(Presence { client, clients: Arc::clone(self) })
    }

    /// All clients, the eldest first.
    pub fn all(&self) -> Vec<Arc<Client>> {
        lock(&self.open).by_id.values().cloned().collect()
    }

    /// So many of them at most, whose ids are above this one, the eldest first.
    pub fn after(&self, id: u64, count: usize) -> Vec<Arc<Client>> {
        let above = (Bound::Excluded(id), Bound::Unbounded);
        lock(&self.open).by_id.range(above).take(count).map(|(_, client)| Arc::clone(client)).collect()
    }

    /// One client.
    pub fn get(&self, id: u64) -> Option<Arc<Client>> {
        lock(&self.open).by_id.get(&id).cloned()
    }

    /// Has its worker close the client.
    pub fn kill(&self, client: &Client) {
        self.send(client, |errands| errands.killed.push(client.id));
    }

    /// Has its worker tell the client that these keys are invalid.
    pub fn tell(&self, client: &Client, keys: Bytes) -> Hearing {
        let mut hearing = Hearing::Told;
        if client.is_deaf() {
            hearing = Hearing::Deaf;
        } else {
            self.send(client, |errands| {
                if errands.bytes > 0 && errands.bytes + keys.len() > MAX_TOLD {
                    hearing = Hearing::Flooded;
                    if errands.flooded.last() != Some(&client.id) {
                        errands.flooded.push(client.id);
                    }
                } else {
                    errands.bytes += keys.len();
                    errands.told.push((client.id, keys));
                }
            });
        }
        hearing
    }

    fn send(&self, client: &Client, errand: impl FnOnce(&mut Errands)) {
        if let Some((errands, notify)) = self.errands.get(client.worker) {
            errand(&mut lock(errands));
            notify.notify_one();
        }
    }

    /// What the worker is to do, once there is something.
    pub async fn errands(&self, worker: usize) -> Errands {
        let (errands, notify) = &self.errands[worker];
        loop {
            let due = std::mem::take(&mut *lock(errands));
            if !(due.killed.is_empty() && due.told.is_empty() && due.flooded.is_empty()) {
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
        self.client.set_deaf(true);
        let mut open = lock(&self.clients.open);
        open.by_id.remove(&self.client.id);
        if let Some(Entry::Occupied(mut others)) = self.client.addr.ip().map(|ip| open.by_address.entry(ip)) {
            *others.get_mut() -= 1;
            if *others.get() == 0 {
                others.remove();
            }
        }
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
        let presence = clients.join(7, 0, [anywhere(), anywhere()], None).unwrap();
        let (here, there) = (SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([127, 0, 0, 1], 2)));
        presence.client.pin(here, 40);
        let held = clients.get(7).unwrap().hold();
        assert_eq!((held.backend(here), held.backend(there)), (40, 0), "there it may be anybody's");
        assert!(!presence.client.unpin());
        assert_eq!(held.backend(here), 0);
        drop(held);
        presence.client.pin(here, 41);
        assert!(presence.client.unpin());
        drop(presence);
        assert!(clients.all().is_empty());
    }

    #[test]
    fn of_one_address_there_are_only_so_many() {
        let clients = Arc::new(Clients::new(1));
        let tcp = |addr: &str| ClientAddr::Tcp(addr.parse().unwrap());
        let join = |id, addr: &str| clients.join(id, 0, [tcp(addr), anywhere()], Some(2));
        let first = join(1, "10.0.0.1:1");
        let second = join(2, "[::ffff:10.0.0.1]:2");
        assert!(first.is_some() && second.is_some());
        assert!(join(3, "10.0.0.1:3").is_none());
        assert!(join(4, "10.0.0.2:3").is_some(), "another address");
        assert!(clients.join(5, 0, [anywhere(), anywhere()], Some(2)).is_some(), "a Unix socket has no address");
        drop(second);
        assert!(join(6, "10.0.0.1:6").is_some());
        drop(first);
        assert!(lock(&clients.open).by_address.is_empty(), "nothing is kept of those that have left");
    }

    #[tokio::test]
    async fn the_worker_of_a_client_is_told_what_to_do_to_it() {
        let clients = Arc::new(Clients::new(2));
        let presence = clients.join(7, 1, [anywhere(), anywhere()], None).unwrap();
        let client = Arc::clone(&presence.client);
        clients.kill(&client);
        assert_eq!(clients.errands(1).await.killed, [7]);
        let keys = Bytes::from_static(b"_\r\n");
        let tell = |keys: &Bytes| clients.tell(&client, keys.clone());
        assert_eq!(tell(&keys), Hearing::Told);
        assert_eq!(clients.errands(1).await.told, [(7, keys.clone())]);
        let most = Bytes::from(vec![0; MAX_TOLD]);
        assert_eq!([&most, &keys, &most].map(tell), [Hearing::Told, Hearing::Flooded, Hearing::Flooded]);
        let due = clients.errands(1).await;
        assert_eq!((due.told.len(), due.flooded), (1, vec![7]), "the worker does not get to it");
        assert_eq!(tell(&[&most[..], &keys].concat().into()), Hearing::Told);
        assert!(clients.errands(1).await.flooded.is_empty(), "what the server says at one go");
        drop(presence);
        assert_eq!(tell(&keys), Hearing::Deaf, "it has left");
    }
}
