//! Listening sockets that were open before this process: passed by whoever started it, as systemd does for a socket unit
//! (`sd_listen_fds(3)`) and with what an earlier process had it keep (`FDSTORE`, `sd_notify(3)`), or handed over by a
//! predecessor that still runs ([`takeover`](super::takeover)).

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::{env, io};

use listenfd::ListenFd;
use rustix::net::{Shutdown, shutdown};
use socket2::SockRef;

use super::client::set_options;
use super::listen::{BindError, Listener, SocketFile, bind, give_access};
use super::takeover::{Offered, Role};
use crate::addr::ListenAddr;
use crate::config::{ListenerConfig, ServiceConfig, Shape};

/// The number of the first descriptor that is passed.
const FIRST: usize = 3;

/// How the names begin that an earlier process has given to what it had kept. A socket unit calls its sockets by its own
/// name, unless told otherwise.
const KEPT: &str = "listen-";

/// Sockets that listen already, each until it is taken.
#[derive(Debug, Default)]
pub struct Inherited {
    passed: Vec<Passed>,
    /// Names of what was kept and is of no use.
    spent: Vec<String>,
}

#[derive(Debug)]
struct Passed {
    from: From,
    address: ListenAddr,
    socket: Socket,
}

/// Who had it open before us.
#[derive(Debug)]
enum From {
    /// A socket unit, whose file it is. The descriptor's number, and what it is called in `LISTEN_FDNAMES`.
    Unit(String),
    /// An earlier process, which had the service manager keep it by this name.
    Kept(String),
    /// A process that still runs.
    Predecessor,
}

#[derive(Debug)]
enum Socket {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

/// What a service manager is told to call the socket of this address: printable ASCII without colons (`FDNAME`,
/// `sd_notify(3)`).
pub fn kept_name(address: &ListenAddr) -> String {
    let mut name = KEPT.to_owned();
    for byte in address.to_string().bytes() {
        match byte {
            b':' | b'%' | ..=b' ' | 127.. => name += &format!("%{byte:02x}"),
            plain => name.push(plain.into()),
        }
    }
    name
}

impl Inherited {
    /// Those of this process. To be called once, and before there is a second thread: the variables that say so are
    /// taken away, so that no child takes the descriptors for its own.
    ///
    /// # Errors
    /// Which descriptor is something else than a listening TCP or Unix stream socket.
    pub fn of_process() -> Result<Self, String> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').filter(|name| !name.is_empty());
        let mut descriptors = ListenFd::from_env();
        let mut inherited = Self::default();
        for at in 0..descriptors.len() {
            let (number, name) = (at + FIRST, names.next());
            let kept = name.filter(|name| name.starts_with(KEPT));
            let taken = take(&mut descriptors, at).and_then(|socket| Ok((address(&socket)?, socket)));
            match (taken, kept) {
                (Ok((address, socket)), Some(name)) if has_its_file(&address) => {
                    inherited.passed.push(Passed { from: From::Kept(name.to_owned()), address, socket });
                }
                (_, Some(name)) => inherited.spent.push(name.to_owned()),
                (taken, None) => {
                    let name = name.map_or(format!("descriptor {number}"), |n| format!("descriptor {number}, {n}"));
                    let (address, socket) =
                        taken.map_err(|e| format!("{name}: expected a listening TCP or Unix stream socket: {e}"))?;
                    inherited.passed.push(Passed { from: From::Unit(name), address, socket });
                }
            }
        }
        Ok(inherited)
    }

    /// Adds those of a predecessor. They are shared with it until it ends, and its files are not ours before that.
    pub(super) fn adopt(&mut self, offered: Vec<Offered>) {
        // What it gives it may have been passed itself.
        self.passed.retain(|passed| offered.iter().all(|offered| offered.address != passed.address));
        self.passed.extend(offered.into_iter().map(|Offered { role, address, socket }| {
            let socket = match &address {
                ListenAddr::Tcp(_) => Socket::Tcp(socket.into()),
                ListenAddr::Unix(_) => Socket::Unix(socket.into()),
            };
            let from = if role == Role::Lent { From::Unit(String::new()) } else { From::Predecessor };
            Passed { from, address, socket }
        }));
    }

    /// Whether there is one that listens at this address.
    pub fn listens(&self, address: &ListenAddr) -> bool {
        self.passed.iter().any(|passed| passed.address == *address)
    }

    /// What is wrong with those of socket units for these services, in a line each: nobody wants one, or one is of a
    /// service whose port must not stay open when this process is gone.
    pub fn problems(&self, services: &[ServiceConfig]) -> Vec<String> {
        let problem = |Passed { from, address, .. }: &Passed| {
            let From::Unit(name) = from else { return None };
            let Some(service) = wanted_by(services, address) else {
                return Some(format!(
                    "{name}: {address} was opened for us, and is in no `listen` of the configuration"
                ));
            };
            (service.shape == Shape::Central).then(|| {
                format!(
                    "{name}: {address} was opened for us, but service `{}` has shape \"central\": its balancer would \
                     take a port that stays open for an instance that is well",
                    service.name
                )
            })
        };
        self.passed.iter().filter_map(problem).collect()
    }

    /// Closes what was kept and no service wants any more, or only one whose port must not stay open when this process is
    /// gone. Gives the names of all that the service manager need not keep.
    pub fn release(&mut self, services: &[ServiceConfig]) -> Vec<String> {
        let is_unwanted = |passed: &mut Passed| {
            matches!(passed.from, From::Kept(_))
                && wanted_by(services, &passed.address).is_none_or(|service| service.shape == Shape::Central)
        };
        for Passed { from, socket, address } in self.passed.extract_if(.., is_unwanted) {
            // The service manager has it too, and at an address that still listens nobody else could.
            let _ = shutdown(&socket, Shutdown::Both);
            remove_file(&address);
            if let From::Kept(name) = from {
                self.spent.push(name);
            }
        }
        std::mem::take(&mut self.spent)
    }

    /// What listens at the address of `listener`; binds it if there is nothing. As [`Self::take`].
    ///
    /// # Errors
    /// [`BindError`].
    pub fn open(&mut self, listener: &ListenerConfig) -> Result<Listener, BindError> {
        match self.take(listener)? {
            Some(open) => Ok(open),
            None => bind(listener),
        }
    }

    /// The one that listens at the address of `listener`, if there is one. Its file is left when it is closed, until
    /// [`Listener::leave_file`] says otherwise.
    ///
    /// # Errors
    /// The kernel's.
    fn take(&mut self, listener: &ListenerConfig) -> Result<Option<Listener>, BindError> {
        let is_it = |passed: &Passed| passed.address == listener.address;
        let Some(at) = self.passed.iter().position(is_it) else { return Ok(None) };
        let passed = self.passed.swap_remove(at);
        let address = passed.address.clone();
        let opened = passed.open_as(listener).and_then(|()| passed.into_listener());
        opened.map(Some).map_err(|e| BindError { addr: address, reason: e.to_string() })
    }

    /// Closes what nobody has taken, and removes the files: whoever had it open has given it up. Gives the names of all
    /// that the service manager need not keep.
    pub fn close(self) -> Vec<String> {
        let mut spent = Vec::new();
        for Passed { from, address, socket } in self.passed {
            if matches!(from, From::Predecessor) {
                tracing::info!(%address, "listening no more");
                // The service manager may have it too: nobody would accept who connects there.
                let _ = shutdown(&socket, Shutdown::Both);
                remove_file(&address);
                spent.push(kept_name(&address));
            }
        }
        spent
    }
}

fn wanted_by<'a>(services: &'a [ServiceConfig], address: &ListenAddr) -> Option<&'a ServiceConfig> {
    services.iter().find(|service| service.listen.iter().any(|listener| listener.address == *address))
}

/// Whether a client finds it: somebody may have removed the file meanwhile.
fn has_its_file(address: &ListenAddr) -> bool {
    match address {
        ListenAddr::Tcp(_) => true,
        ListenAddr::Unix(path) => std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()),
    }
}

fn remove_file(address: &ListenAddr) {
    if let ListenAddr::Unix(path) = address {
        drop(SocketFile::ours(path));
    }
}

impl Passed {
    /// What is ours is opened as the configuration has it now, and not as it had it when the socket was bound. A mode or an
    /// owner that it had then, and has not any more, stays.
    fn open_as(&self, listener: &ListenerConfig) -> io::Result<()> {
        if let From::Unit(_) = self.from {
            return Ok(());
        }
        if let ListenAddr::Unix(path) = &self.address {
            give_access(path, listener.access)?;
        }
        SockRef::from(&self.socket).listen(listener.backlog.into())
    }

    fn into_listener(self) -> io::Result<Listener> {
        let is_ours = !matches!(self.from, From::Unit(_));
        match self.socket {
            Socket::Tcp(socket) => {
                set_options(&socket)?;
                Listener::tcp(socket, is_ours)
            }
            Socket::Unix(socket) => {
                let path = path(&socket)?;
                let file = if is_ours { SocketFile::ours(&path)? } else { SocketFile::of_another(&path) };
                file.leave(true);
                Listener::unix(file, socket, is_ours)
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

fn path(socket: &UnixListener) -> io::Result<PathBuf> {
    let address = socket.local_addr()?;
    address.as_pathname().map(Path::to_owned).ok_or_else(|| io::Error::other("it has no path"))
}

fn take(descriptors: &mut ListenFd, at: usize) -> io::Result<Socket> {
    // Both check what it is.
    if let Ok(Some(socket)) = descriptors.take_unix_listener(at) {
        return Ok(Socket::Unix(socket));
    }
    let socket = descriptors.take_tcp_listener(at)?;
    socket.map(Socket::Tcp).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn address(socket: &Socket) -> io::Result<ListenAddr> {
    let (listens, address) = match socket {
        Socket::Tcp(socket) => (SockRef::from(socket).is_listener()?, ListenAddr::Tcp(socket.local_addr()?)),
        Socket::Unix(socket) => (SockRef::from(socket).is_listener()?, ListenAddr::Unix(path(socket)?)),
    };
    if listens { Ok(address) } else { Err(io::Error::other("it does not listen")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_has_a_name_that_can_be_passed() {
        let name = |address: &str| kept_name(&address.parse().unwrap());
        assert_eq!(name("127.0.0.1:6379"), "listen-127.0.0.1%3a6379");
        assert_eq!(name("[::1]:6379"), "listen-[%3a%3a1]%3a6379");
        assert_eq!(name("unix:/run/a b/ä%3a.sock"), "listen-unix%3a/run/a%20b/%c3%a4%253a.sock");
    }
}
