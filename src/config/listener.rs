//! One listening socket: where it is, who may open it, and what is asked of those who come there.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nix::unistd::{Group, User};

use super::error::Problem;
use super::settings::{Given, GivenListener};
use super::tls;
use crate::addr::{ListenAddr, Networks};
use crate::tls::Incoming;

/// Connections that the kernel completes ahead of us. PHP opens one per request, and a full Unix backlog is an immediate
/// error for the client; the kernel caps it at `net.core.somaxconn` (4096 by default).
const BACKLOG: u16 = 4096;

/// Longest path that fits into the kernel's `sockaddr_un` with its final zero.
const MAX_UNIX_PATH: usize = 107;

/// A listening socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenerConfig {
    /// Where it listens.
    pub address: ListenAddr,
    /// Connections that wait to be accepted before the kernel turns others away.
    pub backlog: u16,
    /// Who may open a Unix socket.
    pub access: FileAccess,
    /// Balancers, which say by a PROXY header whom they bring.
    pub proxy_protocol: Networks,
    /// Where clients may come from; none given: from everywhere.
    pub allow: Networks,
    /// TLS towards clients; none: plain.
    pub tls: Option<Arc<Incoming>>,
}

/// Permissions of a socket file. What is not given is as the kernel makes it: by umask, user and group of the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FileAccess {
    /// Permission bits. To connect one has to be allowed to write.
    pub mode: Option<u32>,
    /// User, by number.
    pub owner: Option<u32>,
    /// Group, by number.
    pub group: Option<u32>,
}

impl ListenerConfig {
    /// A listener with everything else at its default.
    pub fn new(address: ListenAddr) -> Self {
        Self {
            address,
            backlog: BACKLOG,
            access: FileAccess::default(),
            proxy_protocol: Networks::default(),
            allow: Networks::default(),
            tls: None,
        }
    }

    /// Whether a socket opened as this says is as `other` wants it.
    pub fn is_opened_like(&self, other: &Self) -> bool {
        (&self.address, self.backlog, self.access) == (&other.address, other.backlog, other.access)
    }
}

/// Checks what is only wrong in combination, or on this machine.
pub(super) fn resolve(given: &GivenListener, said: &mut tls::Said<'_>) -> ListenerConfig {
    let tls = tls::incoming(given, said);
    let problems = &mut *said.problems;
    let address = &given.address.value;
    match address {
        ListenAddr::Unix(path) => {
            if path.as_os_str().as_bytes().len() > MAX_UNIX_PATH {
                let expected = format!("expected a socket path of at most {MAX_UNIX_PATH} bytes, found a longer one");
                problems.push(Problem::new(&given.address.place, expected));
            }
            if let Some(file) = &given.tls_cert_file {
                let message =
                    "`tls_cert_file`: what goes through a Unix socket leaves the machine nowhere, and needs no TLS";
                problems.push(Problem::new(&file.place, message));
            }
            for (key, networks) in [("proxy_protocol", &given.proxy_protocol), ("allow", &given.allow)] {
                if let Some(network) = networks.first() {
                    let message = format!("`{key}` names networks, and clients of a Unix socket come from none");
                    problems.push(Problem::new(&network.place, message));
                }
            }
        }
        ListenAddr::Tcp(_) => {
            let mode = given.mode.as_ref().map(|mode| ("mode", &mode.place));
            let owner = given.owner.as_ref().map(|owner| ("owner", &owner.place));
            let group = given.group.as_ref().map(|group| ("group", &group.place));
            for (key, place) in [mode, owner, group].into_iter().flatten() {
                problems.push(Problem::new(place, format!("`{key}` is of Unix sockets, and {address} is none")));
            }
        }
    }
    let mut number = |key: &str, given: Option<&Given<String>>, find: fn(&str) -> nix::Result<Option<u32>>| {
        let Given { value: name, place } = given?;
        let found = name.parse().map_or_else(|_| find(name), |id: u32| Ok(Some(id)));
        let message = match found {
            Ok(Some(id)) => return Some(id),
            Ok(None) => format!("`{key}`: this machine knows no such name as `{name}`"),
            Err(error) => format!("`{key}`: `{name}` cannot be looked up: {error}"),
        };
        problems.push(Problem::new(place, message));
        None
    };
    let owner = number("owner", given.owner.as_ref(), |name| Ok(User::from_name(name)?.map(|user| user.uid.as_raw())));
    let group = number("group", given.group.as_ref(), |name| Ok(Group::from_name(name)?.map(|g| g.gid.as_raw())));
    ListenerConfig {
        backlog: given.backlog.as_ref().map_or(BACKLOG, |backlog| backlog.value),
        allow: given.allow.iter().map(|network| network.value).collect(),
        proxy_protocol: given.proxy_protocol.iter().map(|network| network.value).collect(),
        tls,
        access: FileAccess { mode: given.mode.as_ref().map(|mode| mode.value), owner, group },
        ..ListenerConfig::new(address.clone())
    }
}
