//! Listening sockets, TCP and Unix.

use std::fmt;
use std::io;
use std::net::{self, SocketAddr};
use std::os::unix;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::client::set_options;
use crate::addr::{ClientAddr, ListenAddr};

/// Connections the kernel completes ahead of us. PHP opens one per request, and a full Unix backlog is an immediate
/// error for the client; the kernel caps it at `net.core.somaxconn` (4096 by default).
const BACKLOG: i32 = 4096;

/// Why an address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: {reason}")]
pub struct BindError {
    /// The address.
    pub addr: ListenAddr,
    /// What the kernel said, in a person's words.
    pub reason: String,
}

/// A bound, listening socket, accepting once it is turned into a [`Listener`] inside a runtime.
pub enum Listener {
    /// TCP, and the address with the port that the kernel chose.
    Tcp(TcpListener, SocketAddr),
    /// Unix; the path is removed when this is dropped, if it is still ours.
    Unix(UnixListener, SocketFile),
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
pub struct SocketFile {
    path: PathBuf,
    /// The path as clients' addresses have it.
    name: Arc<str>,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have bound the path after us; then the file is theirs.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(l, _) => l.fmt(f),
            Self::Unix(_, file) => file.fmt(f),
        }
    }
}

/// Binds and listens. Must be called inside a runtime with I/O.
///
/// # Errors
/// [`BindError`] naming the address and the reason.
pub fn bind(addr: &ListenAddr) -> Result<Listener, BindError> {
    let bound = match addr {
        ListenAddr::Tcp(a) => bind_tcp(*a).and_then(|l| {
            let addr = l.local_addr()?;
            Ok(Listener::Tcp(TcpListener::from_std(l)?, addr))
        }),
        ListenAddr::Unix(path) => {
            bind_unix(path).and_then(|(l, file)| UnixListener::from_std(l).map(|l| Listener::Unix(l, file)))
        }
    };
    bound.map_err(|e| BindError { addr: addr.clone(), reason: explain(&e) })
}

fn bind_tcp(addr: SocketAddr) -> io::Result<net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Without it a restart would fail for as long as old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(addr.ip() != net::Ipv6Addr::UNSPECIFIED)?;
    }
    set_options(&socket)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<(unix::net::UnixListener, SocketFile)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let m = std::fs::symlink_metadata(path)?;
    let name = path.display().to_string().into();
    Ok((socket.into(), SocketFile { path: path.to_owned(), name, inode: (m.dev(), m.ino()) }))
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

fn explain(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::AddrInUse => "the address is in use by another process".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine does not have the address".to_owned(),
        _ => e.to_string(),
    }
}

impl Listener {
    /// The address listened on, with the port the kernel chose.
    pub fn local_addr(&self) -> ListenAddr {
        match self {
            Self::Tcp(_, addr) => ListenAddr::Tcp(*addr),
            Self::Unix(_, file) => ListenAddr::Unix(file.path.clone()),
        }
    }

    /// The next client. Cancel safe.
    ///
    /// # Errors
    /// The kernel's; `EMFILE` and the like are for the caller to wait out.
    pub async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener, addr) => {
                let (socket, peer) = listener.accept().await?;
                // What is bound to one address is connected to at no other.
                let laddr = if addr.ip().is_unspecified() { socket.local_addr()? } else { *addr };
                Ok(Accepted {
                    socket: ClientSocket::Tcp(socket.into_std()?),
                    addr: ClientAddr::Tcp(peer),
                    laddr: ClientAddr::Tcp(laddr),
                })
            }
            Self::Unix(listener, file) => {
                let (socket, _) = listener.accept().await?;
                // Redis too gives the path of its own side for both.
                let addr = ClientAddr::Unix(Arc::clone(&file.name));
                Ok(Accepted { socket: ClientSocket::Unix(socket.into_std()?), laddr: addr.clone(), addr })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_not() {
        let dir = std::env::temp_dir().join(format!("pointsman-listen-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("s.sock");
        drop(unix::net::UnixListener::bind(&path).unwrap());
        let addr = ListenAddr::Unix(path.clone());
        let listener = bind(&addr).expect("nobody listens behind the stale file");
        assert!(bind(&addr).unwrap_err().reason.contains("in use"));
        drop(listener);
        assert!(!path.exists(), "our own file goes with us");
        std::fs::write(&path, "x").unwrap();
        assert!(bind(&addr).unwrap_err().reason.contains("not a socket"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[tokio::test]
    async fn what_is_accepted_has_the_options_and_addresses_of_a_client() {
        for listen in ["127.0.0.1:0", "0.0.0.0:0"] {
            let listener = bind(&listen.parse().unwrap()).unwrap();
            let ListenAddr::Tcp(at) = listener.local_addr() else { unreachable!() };
            let to = SocketAddr::from(([127, 0, 0, 1], at.port()));
            let client = net::TcpStream::connect(to).unwrap();
            let accepted = listener.accept().await.unwrap();
            assert_eq!(accepted.addr, ClientAddr::Tcp(client.local_addr().unwrap()));
            assert_eq!(accepted.laddr, ClientAddr::Tcp(to));
            let ClientSocket::Tcp(socket) = accepted.socket else { unreachable!() };
            let socket = socket2::SockRef::from(&socket);
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap() && socket.nonblocking().unwrap());
            assert!(socket.tcp_user_timeout().unwrap().is_some());
        }
    }

    #[tokio::test]
    async fn a_port_in_use_says_so() {
        let listener = bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let e = bind(&listener.local_addr()).unwrap_err();
        assert_eq!(
            e.to_string(),
            format!("cannot listen on {}: the address is in use by another process", listener.local_addr())
        );
    }
}
