//! Listening sockets that were opened by whoever started this process, as systemd does for a socket unit
//! (`sd_listen_fds(3)`).

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::{env, io};

use listenfd::ListenFd;
use socket2::SockRef;
use tokio::net;

use super::client::set_options;
use super::listen::{BindError, Listener, SocketFile};
use crate::addr::ListenAddr;
use crate::config::{ListenerConfig, ServiceConfig, Shape};

/// The number of the first descriptor that is passed.
const FIRST: usize = 3;

/// Sockets that listen already, each until it is taken.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Passed>);

#[derive(Debug)]
struct Passed {
    address: ListenAddr,
    /// Its number, and what it is called in `LISTEN_FDNAMES`: the socket unit, unless that says otherwise.
    name: String,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
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
        let mut passed = Vec::new();
        for at in 0..descriptors.len() {
            let number = at + FIRST;
            let name = names.next().map_or(format!("descriptor {number}"), |n| format!("descriptor {number}, {n}"));
            let taken = take(&mut descriptors, at)
                .and_then(|socket| Ok((address(&socket)?, socket)))
                .map_err(|e| format!("{name}: expected a listening TCP or Unix stream socket: {e}"));
            let (address, socket) = taken?;
            passed.push(Passed { address, name, socket });
        }
        Ok(Self(passed))
    }

    /// Whether there is one that listens at this address.
    pub fn listens(&self, address: &ListenAddr) -> bool {
        self.0.iter().any(|passed| passed.address == *address)
    }

    /// What is wrong with them for these services, in a line each: nobody wants one, or one is of a service whose port
    /// must not stay open when this process is gone.
    pub fn problems(&self, services: &[ServiceConfig]) -> Vec<String> {
        let problem = |Passed { address, name, .. }: &Passed| {
            let Some(service) = services.iter().find(|s| s.listen.iter().any(|l| l.address == *address)) else {
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
        self.0.iter().filter_map(problem).collect()
    }

    /// The one that listens at the address of `listener`, if there is one. Must be called inside a runtime with I/O.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take(&mut self, listener: &ListenerConfig) -> Result<Option<Listener>, BindError> {
        let Some(at) = self.0.iter().position(|passed| passed.address == listener.address) else { return Ok(None) };
        let Passed { address, socket, .. } = self.0.swap_remove(at);
        let taken = socket.into_listener().map_err(|e| BindError { addr: address, reason: e.to_string() });
        taken.map(Some)
    }
}

impl Socket {
    fn into_listener(self) -> io::Result<Listener> {
        match self {
            Self::Tcp(socket) => {
                set_options(&socket)?;
                socket.set_nonblocking(true)?;
                let address = socket.local_addr()?;
                Ok(Listener::Tcp(net::TcpListener::from_std(socket)?, address))
            }
            Self::Unix(socket) => {
                socket.set_nonblocking(true)?;
                let file = SocketFile::of_another(&path(&socket)?);
                Ok(Listener::Unix(file, net::UnixListener::from_std(socket)?))
            }
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
