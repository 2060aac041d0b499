//! Listening sockets, TCP and Unix.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::coop::consume_budget;

use super::client::set_options;
use crate::addr::{ClientAddr, ListenAddr};
use crate::config::{FileAccess, ListenerConfig};

/// How often, and how far apart, it is tried to have a directory to oneself while a socket is put into it.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Pause between two attempts to have a listening socket waited for.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// Why an address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: {reason}")]
pub struct BindError {
    /// The address.
    pub addr: ListenAddr,
    /// What the kernel said, in a person's words.
    pub reason: String,
}

/// A bound, listening socket, not yet registered with any runtime.
pub struct Listener {
    socket: Listening,
    is_ours: bool,
}

enum Listening {
    /// TCP, and the address with the port that the kernel chose.
    Tcp(net::TcpListener, SocketAddr),
    /// Unix. The file is removed when this is dropped, if it is still ours, and while we still listen: once nobody did,
    /// another process could take it for stale and put its own in its place, between our look and our removal.
    Unix(SocketFile, unix::net::UnixListener),
}

/// A client as accepted.
#[derive(Debug)]
pub struct Accepted {
    /// Its socket.
    pub socket: ClientSocket,
    /// Its address.
    pub addr: ClientAddr,
    /// The address that it connected to.
    pub laddr: ClientAddr,
}

/// A socket that does not block, not yet registered with any runtime.
#[derive(Debug)]
pub enum ClientSocket {
    /// TCP.
    Tcp(net::TcpStream),
    /// Unix.
    Unix(unix::net::UnixStream),
}

/// The file of a Unix socket, by device and inode.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// The path as clients' addresses have it.
    name: Arc<str>,
    /// None: whoever opened the socket removes it.
    inode: Option<(u64, u64)>,
    /// It stays when we close the socket: somebody else has that too.
    is_left: Leaving,
}

/// Whether the file of a Unix socket stays when that is closed, since another process has the socket too.
#[derive(Clone, Debug, Default)]
pub struct Leaving(Arc<AtomicBool>);

impl Leaving {
    /// It does, or does not.
    pub fn leave(&self, leave: bool) {
        self.0.store(leave, Ordering::Relaxed);
    }
}

impl SocketFile {
    /// Of a socket that listens there and is ours to remove.
    ///
    /// # Errors
    /// The kernel's, or `NotFound` if there is no socket.
    pub(super) fn ours(path: &Path) -> io::Result<Self> {
        let m = std::fs::symlink_metadata(path)?;
        if !m.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "what is there is not a socket"));
        }
        let mut file = Self::of_another(path);
        file.inode = Some((m.dev(), m.ino()));
        Ok(file)
    }

    /// Of a socket that was passed to us.
    pub(super) fn of_another(path: &Path) -> Self {
        let name = path.display().to_string().into();
        Self { path: path.to_owned(), name, inode: None, is_left: Leaving::default() }
    }

    /// Whether it stays when this is dropped.
    pub(super) fn leave(&self, leave: bool) {
        self.is_left.leave(leave);
    }

    /// Puts it in the place of whatever socket is at `path`.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn move_to(&mut self, path: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, path)?;
        path.clone_into(&mut self.path);
        Ok(())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

impl SocketFile {
    fn remove(&self) {
        // Another process may have bound the path after us; then the file is theirs.
        let is_there = || std::fs::symlink_metadata(&self.path).is_ok_and(|m| Some((m.dev(), m.ino())) == self.inode);
        if !self.is_left.0.load(Ordering::Relaxed) && is_there() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            Listening::Tcp(l, _) => l.fmt(f),
            Listening::Unix(file, _) => file.fmt(f),
        }
    }
}

/// Binds and listens.
///
/// # Errors
/// [`BindError`] naming the address and the reason.
pub fn bind(listener: &ListenerConfig) -> Result<Listener, BindError> {
    let backlog = listener.backlog.into();
    let bound = match &listener.address {
        ListenAddr::Tcp(a) => bind_tcp(*a, backlog).and_then(|socket| Listener::tcp(socket, true)),
        ListenAddr::Unix(path) => {
            bind_unix(path, listener.access, backlog).and_then(|(file, socket)| Listener::unix(file, socket, true))
        }
    };
    bound.map_err(|e| BindError { addr: listener.address.clone(), reason: explain(&listener.address, &e) })
}

fn bind_tcp(addr: SocketAddr, backlog: i32) -> io::Result<net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Without it a restart would fail for as long as old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(addr.ip() != net::Ipv6Addr::UNSPECIFIED)?;
    }
    set_options(&socket)?;
    socket.bind(&addr.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path, access: FileAccess, backlog: i32) -> io::Result<(SocketFile, unix::net::UnixListener)> {
    // Two that start at once would each take the other's socket, bound and not yet listening, for a stale one.
    let _alone = lock(directory(path))?;
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::ours(path)?;
    // Until we listen nobody can connect, whatever the permissions are.
    give_access(path, access)?;
    socket.listen(backlog)?;
    Ok((file, socket.into()))
}

/// Has those in who are to be let in to a Unix socket.
pub(super) fn give_access(path: &Path, access: FileAccess) -> io::Result<()> {
    if access.owner.is_some() || access.group.is_some() {
        unix::fs::lchown(path, access.owner, access.group).map_err(|e| refused("give the socket away", &e))?;
    }
    if let Some(mode) = access.mode {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, mode).map_err(|e| refused("set the socket's mode", &e))?;
    }
    Ok(())
}

fn refused(what: &str, e: &io::Error) -> io::Error {
    io::Error::other(format!("cannot {what}: {e} (only root may give it to other users, or to groups it is not in)"))
}

/// The directory that a path is in.
pub fn directory(path: &Path) -> &Path {
    path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Keeps other instances of pointsman from putting sockets into a directory, until the value is dropped. Where that
/// cannot be (whoever may read the directory can hold the lock for as long as he likes), it does without.
fn lock(directory: &Path) -> io::Result<Option<File>> {
    let file = match File::open(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(io::Error::new(e.kind(), format!("there is no directory {}", directory.display())));
        }
        Err(_) => return Ok(None),
        Ok(file) => file,
    };
    for _ in 0..LOCK_TRIES {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => thread::sleep(LOCK_PAUSE),
            _ => break,
        }
    }
    Ok(Some(file))
}

/// A socket file that nobody listens behind is what a killed process leaves; anything else at the path is not ours to remove.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(m) if m.file_type().is_socket() => match unix::net::UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            _ => Err(io::ErrorKind::AddrInUse.into()),
        },
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is not a socket is in the way")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn explain(addr: &ListenAddr, e: &io::Error) -> String {
    match (e.kind(), addr) {
        (io::ErrorKind::AddrInUse, _) => "the address is in use by another process".to_owned(),
        (io::ErrorKind::PermissionDenied, ListenAddr::Tcp(_)) => {
            "permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)".to_owned()
        }
        (io::ErrorKind::PermissionDenied, ListenAddr::Unix(path)) => {
            format!("permission denied in {}", directory(path).display())
        }
        (io::ErrorKind::AddrNotAvailable, _) => "this machine does not have the address".to_owned(),
        _ => e.to_string(),
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Listening::Tcp(l, _) => l.as_fd(),
            Listening::Unix(_, l) => l.as_fd(),
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Listener {
    /// A socket that listens already.
    pub(super) fn tcp(socket: net::TcpListener, is_ours: bool) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(Self { socket: Listening::Tcp(socket, address), is_ours })
    }

    /// The same of a Unix socket, whose file is there.
    pub(super) fn unix(file: SocketFile, socket: unix::net::UnixListener, is_ours: bool) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket: Listening::Unix(file, socket), is_ours })
    }

    /// Whether a pointsman opened it: this one or, if it was handed over, one before. Else it is a socket unit's.
    pub fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// Its file, if it has one, for whoever gives the socket away.
    pub fn file(&self) -> Option<Leaving> {
        match &self.socket {
            Listening::Tcp(..) => None,
            Listening::Unix(file, _) => Some(file.is_left.clone()),
        }
    }

    /// Whether its file, if it has one, stays when we close it, since another process has the socket too.
    pub fn leave_file(&self, leave: bool) {
        if let Listening::Unix(file, _) = &self.socket {
            file.leave(leave);
        }
    }

    /// The address listened on, with the port the kernel chose.
    pub fn local_addr(&self) -> ListenAddr {
        match &self.socket {
            Listening::Tcp(_, addr) => ListenAddr::Tcp(*addr),
            Listening::Unix(file, _) => ListenAddr::Unix(file.path.clone()),
        }
    }

    /// Removes its file, if that is ours to remove, before it is closed by another thread.
    pub fn remove_file(&self) {
        if let Listening::Unix(file, _) = &self.socket {
            file.remove();
        }
    }

    /// A client that waits. No runtime knows it yet: tokio's own listeners register it with that of the accepting thread,
    /// which is not always the one that it is for.
    ///
    /// # Errors
    /// The kernel's, `WouldBlock` if nobody waits.
    pub fn accept(&self) -> io::Result<Accepted> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (socket, peer) = acceptfrom_with(self, flags)?;
        match &self.socket {
            Listening::Tcp(_, addr) => {
                let socket = net::TcpStream::from(socket);
                // What is bound to one address is connected to at no other.
                let laddr = if addr.ip().is_unspecified() { socket.local_addr()? } else { *addr };
                let peer = peer.and_then(|peer| peer.try_into().ok()).ok_or(io::ErrorKind::ConnectionAborted)?;
                Ok(Accepted {
                    socket: ClientSocket::Tcp(socket),
                    addr: ClientAddr::Tcp(peer),
                    laddr: ClientAddr::Tcp(laddr),
                })
            }
            Listening::Unix(file, _) => {
                // Redis too gives the path of its own side for both.
                let addr = ClientAddr::Unix(Arc::clone(&file.name));
                Ok(Accepted { socket: ClientSocket::Unix(socket.into()), laddr: addr.clone(), addr })
            }
        }
    }
}

/// A [`Listener`] inside the runtime of the thread that accepts.
#[derive(Debug)]
pub struct Accepting(AsyncFd<Arc<Listener>>);

impl Accepting {
    /// Must be called inside the runtime, with I/O. Waits for as long as the kernel has no room for another descriptor that
    /// is waited for. Cancel safe.
    pub async fn begin(listener: Arc<Listener>) -> Self {
        loop {
            match readable(Arc::clone(&listener)) {
                Ok(socket) => return Self(socket),
                Err(error) => {
                    tracing::warn!(listener = %listener.local_addr(), %error, "cannot wait for clients; trying again");
                    tokio::time::sleep(WATCH_PAUSE).await;
                }
            }
        }
    }

    /// The next client; none once the socket is shut down, which another process may do that has it too. Cancel safe.
    ///
    /// # Errors
    /// The kernel's; `EMFILE` and the like are for the caller to wait out.
    pub async fn accept(&self) -> io::Result<Option<Accepted>> {
        loop {
            consume_budget().await;
            let mut ready = self.0.readable().await?;
            match self.0.get_ref().accept() {
                // What Linux says of TCP then.
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => return Ok(None),
                // Of a Unix socket it says for ever that nobody waits at it, while it stays readable: tokio's own
                // `async_io` would not come back from that.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && ready.ready().is_read_closed() => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                accepted => return accepted.map(Some),
            }
        }
    }
}

/// A descriptor, a listening socket for one, that can be waited for until it can be read.
pub(super) fn readable<T: AsRawFd>(socket: T) -> io::Result<AsyncFd<T>> {
    // What has taken its place is `unsafe`, for the sake of those who give a descriptor that they do not own.
    #[allow(deprecated)]
    AsyncFd::with_interest(socket, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    fn at(text: &str) -> ListenerConfig {
        ListenerConfig::new(text.parse().unwrap())
    }

    /// A directory of one test, removed at its end.
    struct Dir(PathBuf);

    impl Dir {
        fn new(test: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("pointsman-listen-{test}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn socket(&self) -> (PathBuf, ListenerConfig) {
            let path = self.0.join("s.sock");
            (path.clone(), ListenerConfig::new(ListenAddr::Unix(path)))
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_not() {
        let dir = Dir::new("stale");
        let (path, config) = dir.socket();
        drop(unix::net::UnixListener::bind(&path).unwrap());
        let listener = bind(&config).expect("nobody listens behind the stale file");
        assert!(bind(&config).unwrap_err().reason.contains("in use"));
        drop(listener);
        assert!(!path.exists(), "our own file goes with us");
        std::fs::write(&path, "x").unwrap();
        assert!(bind(&config).unwrap_err().reason.contains("not a socket"));
        std::fs::remove_file(&path).unwrap();
        let listener = bind(&config).unwrap();
        std::fs::rename(&path, path.with_extension("old")).unwrap();
        let successor = bind(&config).unwrap();
        drop(listener);
        assert!(path.exists(), "what lies there is another's by now");
        drop(successor);
    }

    #[tokio::test]
    async fn a_socket_has_the_permissions_that_it_is_to_have() {
        let dir = Dir::new("mode");
        let (path, mut config) = dir.socket();
        let own = std::fs::metadata(&dir.0).unwrap();
        config.access = FileAccess { mode: Some(0o666), owner: Some(own.uid()), group: Some(own.gid()) };
        let listener = bind(&config).unwrap();
        let m = std::fs::metadata(&path).unwrap();
        assert_eq!((m.mode() & 0o777, m.uid(), m.gid()), (0o666, own.uid(), own.gid()), "whatever the umask");
        drop(listener);
        if own.uid() != 0 {
            config.access.owner = Some(0);
            assert!(bind(&config).unwrap_err().reason.contains("cannot give the socket away"));
            assert!(!path.exists(), "what cannot be as it is to be is not there");
        }
    }

    #[tokio::test]
    async fn of_two_that_start_at_once_one_listens() {
        let dir = Dir::new("race");
        let (_, config) = dir.socket();
        let runtime = tokio::runtime::Handle::current();
        let racers: Vec<_> = (0..8)
            .map(|_| {
                let (config, runtime) = (config.clone(), runtime.clone());
                thread::spawn(move || {
                    let _inside = runtime.enter();
                    bind(&config)
                })
            })
            .collect();
        let bound: Vec<_> = racers.into_iter().map(|r| r.join().unwrap()).collect();
        assert_eq!(bound.iter().filter(|b| b.is_ok()).count(), 1, "{bound:?}");
        let ListenAddr::Unix(path) = &config.address else { unreachable!() };
        unix::net::UnixStream::connect(path).expect("it is the one whose file is there");
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_named() {
        let e = bind(&at("unix:/nonexistent/s.sock")).unwrap_err();
        assert_eq!(e.to_string(), "cannot listen on unix:/nonexistent/s.sock: there is no directory /nonexistent");
    }

    #[tokio::test]
    async fn what_is_accepted_has_the_options_and_addresses_of_a_client() {
        for listen in ["127.0.0.1:0", "0.0.0.0:0"] {
            let listener = bind(&at(listen)).unwrap();
            let ListenAddr::Tcp(at) = listener.local_addr() else { unreachable!() };
            let to = SocketAddr::from(([127, 0, 0, 1], at.port()));
            let client = net::TcpStream::connect(to).unwrap();
            let accepted = Accepting::begin(Arc::new(listener)).await.accept().await.unwrap().unwrap();
            assert_eq!(accepted.addr, ClientAddr::Tcp(client.local_addr().unwrap()));
            assert_eq!(accepted.laddr, ClientAddr::Tcp(to));
            let ClientSocket::Tcp(socket) = accepted.socket else { unreachable!() };
            let socket = socket2::SockRef::from(&socket);
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap() && socket.nonblocking().unwrap());
            assert!(socket.tcp_user_timeout().unwrap().is_some());
        }
    }

    /// How many clients are accepted of one that waits, at a socket that is shut down before they are, or when nobody
    /// waits any more.
    async fn accepted_at(config: &ListenerConfig, is_shut_before: bool) -> usize {
        let listener = Arc::new(bind(config).unwrap());
        let another = listener.as_fd().try_clone_to_owned().unwrap();
        let shut_down = || rustix::net::shutdown(&another, rustix::net::Shutdown::Both).unwrap();
        let address = socket2::SockRef::from(&another).local_addr().unwrap();
        let client = Socket::new(address.domain(), Type::STREAM, None).unwrap();
        client.connect(&address).unwrap();
        let accepting = Accepting::begin(listener).await;
        if is_shut_before {
            shut_down();
        }
        let mut came = 0;
        loop {
            let next = accepting.accept();
            tokio::pin!(next);
            let waits = std::future::poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx).is_pending()));
            if came == 1 && !is_shut_before && waits.await {
                shut_down();
            }
            match next.await.unwrap() {
                Some(_) => came += 1,
                None => return came,
            }
        }
    }

    #[test]
    fn at_a_socket_that_another_has_shut_down_nobody_is_waited_for() {
        let dir = Dir::new("shut");
        let unix = dir.socket().1;
        // TCP resets who waits, Unix does not.
        for (config, is_shut_before, comes) in
            [(at("127.0.0.1:0"), true, 0), (at("127.0.0.1:0"), false, 1), (unix.clone(), true, 1), (unix, false, 1)]
        {
            // On a thread of its own: what is looked for is a loop that no time-out ends.
            let (tell, told) = std::sync::mpsc::channel();
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                tell.send(runtime.block_on(accepted_at(&config, is_shut_before))).unwrap();
            });
            assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(comes));
        }
    }

    #[tokio::test]
    async fn a_port_in_use_says_so() {
        let listener = bind(&at("127.0.0.1:0")).unwrap();
        let e = bind(&ListenerConfig::new(listener.local_addr())).unwrap_err();
        assert_eq!(
            e.to_string(),
            format!("cannot listen on {}: the address is in use by another process", listener.local_addr())
        );
    }
}
