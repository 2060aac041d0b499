//! A process gives its listening sockets to its successor, so that no connect is refused while one takes the place of the
//! other: over a Unix socket that only its own user can open (`SCM_RIGHTS`, unix(7)).
//!
//! | Says | What |
//! |---|---|
//! | who runs | `pointsman takeover 1`: how it is done; another way has another number |
//! | | for each socket `listen ADDRESS`, `lent ADDRESS` or `admin ADDRESS`, with the descriptor |
//! | | for each service whose writes flow `flows NAME` |
//! | | `end` |
//! | who comes | `ready`: it has all that it needs to serve, and these services' writes flow |
//! | who runs | `yours`: it accepts no more |
//!
//! Only from `yours` on does the one accept and the other drain: whichever of them fails before, who runs goes on alone.
//! In place of any of its words who runs may say `no`, and why. The socket keeps records apart (`SOCK_SEQPACKET`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use super::Inherited;
use super::listen::{BindError, Listener, SocketFile, directory};
use crate::addr::ListenAddr;

const GREETING: &str = "pointsman takeover 1";
const END: &str = "end";
const READY: &str = "ready";
const YOURS: &str = "yours";
/// Before the reason.
const NO: &str = "no ";
/// Longest wait for a word of the other that takes it no work.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a successor may take until it can serve: it has to hear Sentinels and masters first.
pub const READINESS: Duration = Duration::from_secs(10);
/// Longest record: a word and an address, or the name of a service.
const RECORD_BYTES: usize = 4096;
/// Successors that wait to be answered; each is at once.
const BACKLOG: i32 = 4;
/// Pause before it is asked again at a socket whose process has just ended, or after accepting has failed.
const PAUSE: Duration = Duration::from_millis(50);
/// How often that is done: whoever takes its place is there within a second.
const TRIES: u32 = 20;

/// What a listening socket is to whoever gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A service's.
    Listen,
    /// A service's, opened by a socket unit.
    Lent,
    /// The admin server's.
    Admin,
}

impl Role {
    const ALL: [(Self, &str); 3] = [(Self::Listen, "listen"), (Self::Lent, "lent"), (Self::Admin, "admin")];

    fn word(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// A listening socket and what it is for.
#[derive(Debug)]
pub struct Offered {
    /// What it is for.
    pub role: Role,
    /// Where it listens, as configured: the kernel may have chosen the port.
    pub address: ListenAddr,
    /// Itself.
    pub socket: OwnedFd,
}

impl Offered {
    /// A socket that we have, and go on to have; `address` is as configured.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of(role: Role, address: &ListenAddr, socket: &Listener) -> io::Result<Self> {
        Ok(Self { role, address: address.clone(), socket: socket.as_fd().try_clone_to_owned()? })
    }

    /// The same socket once more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { role: self.role, address: self.address.clone(), socket: self.socket.try_clone()? })
    }
}

/// What a successor is given.
#[derive(Debug, Default)]
pub struct Offer {
    /// The listening sockets.
    pub sockets: Vec<Offered>,
    /// Services whose writes flow: they have to with the successor, or nothing is gained.
    pub flowing: Vec<String>,
}

impl Offer {
    /// Adds what is not the admin server's to the services'; gives what is, and the services that flow.
    pub fn divide(self, services: &mut Inherited) -> (Inherited, Vec<String>) {
        let (admins, others): (Vec<_>, Vec<_>) = self.sockets.into_iter().partition(|s| s.role == Role::Admin);
        services.adopt(others);
        let mut admin = Inherited::default();
        admin.adopt(admins);
        (admin, self.flowing)
    }
}

/// Where successors ask.
#[derive(Debug)]
pub struct Host {
    // Removed before the listener is closed, as that of a client's socket.
    file: SocketFile,
    listener: UnixListener,
}

impl Host {
    /// Listens beside `path`, where nobody asks yet: whoever does it at `path` may go on to. Must be called inside a
    /// runtime with I/O.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn prepare(path: &Path) -> Result<Self, BindError> {
        let prepare = || {
            match std::fs::symlink_metadata(path) {
                Ok(m) if !m.file_type().is_socket() => {
                    return Err(io::Error::other("a file that is not a socket is in the way"));
                }
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let mut beside = path.as_os_str().to_owned();
            beside.push(format!(".{}", std::process::id()));
            let beside = PathBuf::from(beside);
            // Of a process that had our number, and was killed right here.
            drop(SocketFile::ours(&beside));
            let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
            socket.bind(&SockAddr::unix(&beside)?).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => {
                    io::Error::new(e.kind(), format!("there is no directory {}", directory(path).display()))
                }
                io::ErrorKind::PermissionDenied => {
                    io::Error::new(e.kind(), format!("permission denied in {}", directory(path).display()))
                }
                _ => e,
            })?;
            let file = SocketFile::ours(&beside)?;
            // Until we listen nobody can connect.
            std::fs::set_permissions(&beside, PermissionsExt::from_mode(0o600))?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(Self { file, listener: UnixListener::from_std(OwnedFd::from(socket).into())? })
        };
        prepare().map_err(|e: io::Error| BindError { addr: ListenAddr::Unix(path.to_owned()), reason: e.to_string() })
    }

    /// From now on successors ask here, and no more where they did before.
    ///
    /// # Errors
    /// The kernel's.
    pub fn show(&mut self, path: &Path) -> io::Result<()> {
        self.file.move_to(path)
    }

    /// Somebody else has our place, who asks at the same path: what is there is not ours to remove any more.
    pub fn leave(&self) {
        self.file.leave(true);
    }

    /// The next one who asks and may: a process of our own user, or of root. Cancel safe.
    pub async fn asked(&self) -> Successor {
        loop {
            let asked = async {
                let (stream, _) = self.listener.accept().await?;
                let peer = stream.peer_cred()?;
                // One that our namespace does not know has the number 0.
                io::Result::Ok((Link(stream), peer.uid(), peer.pid().filter(|pid| *pid > 0)))
            };
            match asked.await {
                Ok((link, uid, pid)) if is_trusted(uid) => return Successor { link, pid },
                Ok((_, uid, _)) => {
                    tracing::warn!(uid, "takeover: another user's process asked for the listening sockets")
                }
                Err(error) => {
                    tracing::warn!(%error, "takeover: cannot accept");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Another process that wants our place.
#[derive(Debug)]
pub struct Successor {
    link: Link,
    /// Its process id, in our own namespace.
    pub pid: Option<i32>,
}

impl Successor {
    /// Gives it the sockets, which we share from then on, and waits until it can serve.
    ///
    /// # Errors
    /// It did not come to that.
    pub async fn give(self, offer: &Offer) -> io::Result<Self> {
        match self.until_ready(offer).await {
            Ok(()) => Ok(self),
            // It gives its own reasons where it was started.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(io::Error::other("it ended before it could serve"))
            }
            Err(e) => Err(e),
        }
    }

    async fn until_ready(&self, offer: &Offer) -> io::Result<()> {
        self.link.send(GREETING, None).await?;
        for Offered { role, address, socket } in &offer.sockets {
            self.link.send(&format!("{} {address}", role.word()), Some(socket)).await?;
        }
        for name in &offer.flowing {
            self.link.send(&format!("flows {name}"), None).await?;
        }
        self.link.send(END, None).await?;
        match self.link.receive(READINESS + PATIENCE).await? {
            (word, None) if word == READY => Ok(()),
            _ => Err(strange("another word than `ready`")),
        }
    }

    /// Lets it not have our place.
    pub async fn refuse(self, why: &str) {
        // If it is gone, that was to come of it.
        let _ = self.link.send(&format!("{NO}{why}"), None).await;
    }

    /// Gives it our place.
    ///
    /// # Errors
    /// It is gone: we go on.
    pub async fn yield_to(self) -> io::Result<()> {
        self.link.send(YOURS, None).await
    }
}

/// The process whose place we want.
#[derive(Debug)]
pub struct Predecessor(Link);

impl Predecessor {
    /// Asks whoever listens at `path`. None if nobody does.
    ///
    /// # Errors
    /// Somebody is there, and why he does not give anything.
    pub async fn ask(path: &Path) -> io::Result<Option<(Offer, Self)>> {
        for _ in 0..TRIES {
            let Some(link) = Link::to(path)? else { return Ok(None) };
            match link.receive(PATIENCE).await {
                Ok((greeting, _)) if greeting == GREETING => {
                    let offer = link.receive_offer().await?;
                    return Ok(Some((offer, Self(link))));
                }
                Ok((greeting, _)) => return Err(strange(&format!("`{}`", greeting.escape_debug()))),
                // It was about to end: another one may have its place by now, or nobody.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => sleep(PAUSE).await,
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::other("it hangs up at once, again and again"))
    }

    /// We have all that we need to serve. Returns once it has given up its place.
    ///
    /// # Errors
    /// It has not, and may go on: nothing that was given is ours.
    pub async fn relieve(self) -> io::Result<()> {
        // If it hangs up, its last word is there all the same.
        let _ = self.0.send(READY, None).await;
        let mut word = self.0.receive(PATIENCE).await;
        if word.is_err() {
            // It may say it at this very moment, and then we are who serves. Behind this it finds that it cannot.
            let _ = shutdown(&self.0.0, Shutdown::Both);
            word = self.0.receive(PATIENCE).await.or(word);
        }
        match word {
            Ok((word, _)) if word == YOURS => Ok(()),
            Ok((other, _)) => Err(strange(&format!("`{}`", other.escape_debug()))),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(io::Error::other("it ended meanwhile; start again"))
            }
            Err(e) => Err(e),
        }
    }
}

fn strange(what: &str) -> io::Error {
    io::Error::other(format!("it said {what}, which a pointsman of this version does not: a restart takes its place"))
}

/// A connection that keeps records apart, for which tokio has no type.
#[derive(Debug)]
struct Link(UnixStream);

impl Link {
    /// None if nobody listens there.
    fn to(path: &Path) -> io::Result<Option<Self>> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        // If too many wait there already, we do not.
        socket.set_nonblocking(true)?;
        match socket.connect(&SockAddr::unix(path)?) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        }
        let stream = UnixStream::from_std(OwnedFd::from(socket).into())?;
        let uid = stream.peer_cred()?.uid();
        if !is_trusted(uid) {
            return Err(io::Error::other(format!("it is of another user ({uid})")));
        }
        Ok(Some(Self(stream)))
    }

    async fn receive_offer(&self) -> io::Result<Offer> {
        let mut offer = Offer::default();
        loop {
            let (record, socket) = self.receive(PATIENCE).await?;
            if record == END {
                return Ok(offer);
            }
            let unknown = || strange(&format!("`{}`", record.escape_debug()));
            let (word, about) = record.split_once(' ').ok_or_else(unknown)?;
            match (Role::ALL.iter().find(|(_, w)| *w == word), socket) {
                (Some((role, _)), Some(socket)) => {
                    let address = about.parse().map_err(|_| unknown())?;
                    offer.sockets.push(Offered { role: *role, address, socket });
                }
                (None, None) if word == "flows" => offer.flowing.push(about.to_owned()),
                _ => return Err(unknown()),
            }
        }
    }

    async fn send(&self, record: &str, descriptor: Option<&OwnedFd>) -> io::Result<()> {
        let send = self.0.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let descriptor = descriptor.map(|d| [d.as_fd()]);
            if let Some(descriptor) = &descriptor {
                control.push(SendAncillaryMessage::ScmRights(descriptor));
            }
            Ok(sendmsg(&self.0, &[IoSlice::new(record.as_bytes())], &mut control, SendFlags::NOSIGNAL)?)
        });
        match timeout(PATIENCE, send).await.map_err(|_| silent(PATIENCE))? {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(io::ErrorKind::UnexpectedEof.into()),
            sent => sent.map(drop),
        }
    }

    /// The next record and the descriptor that came with it. Why there is none, as with sending: `UnexpectedEof` at the end, or what is
    /// behind a `no`.
    async fn receive(&self, limit: Duration) -> io::Result<(String, Option<OwnedFd>)> {
        let receive = self.0.async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut record = vec![0; RECORD_BYTES];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = recvmsg(&self.0, &mut [IoSliceMut::new(&mut record)], &mut control, flags)?;
            record.truncate(received.bytes);
            let descriptor = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                _ => None,
            });
            Ok((record, descriptor, received.flags))
        });
        let (record, descriptor, flags) = match timeout(limit, receive).await.map_err(|_| silent(limit))? {
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(io::ErrorKind::UnexpectedEof.into()),
            received => received?,
        };
        match String::from_utf8(record) {
            Ok(record) if record.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(record) if flags.contains(ReturnFlags::TRUNC) => Err(strange(&format!("`{record} …`"))),
            Ok(record) => match record.strip_prefix(NO) {
                Some(why) => Err(io::Error::other(why.to_owned())),
                None => Ok((record, descriptor)),
            },
            Err(_) => Err(strange("what is no text")),
        }
    }
}

fn silent(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("it said nothing for {} s", limit.as_secs()))
}
