//! The least that a proxy can cost on this machine: it makes the system calls that any proxy with one shared connection has
//! to make, and does nothing else. It knows the lengths of what passes, and so does not look at it.
//!
//! In each turn of its event loop it reads every client that has sent something, once, writes all of it to Redis in one
//! piece, reads Redis once, and hands each client its replies. One thread, one connection to Redis.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// Room for what one turn brings from all clients.
const ROOM: usize = 4 << 20;
/// Read from one client at once.
const CLIENT_ROOM: usize = 64 << 10;
/// Read from Redis at once.
const REDIS_ROOM: usize = 256 << 10;
/// Events taken from the kernel at once, as tokio does.
const EVENTS: usize = 1024;

const LISTENER: u64 = 0;
const REDIS: u64 = 1;
const FIRST_CLIENT: u64 = 2;

/// How long what passes is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frames {
    /// Bytes of each request.
    pub(crate) request: usize,
    /// Bytes of each reply.
    pub(crate) reply: usize,
}

struct Client {
    socket: TcpStream,
    /// Request bytes passed on so far.
    begun: usize,
    /// The beginning of a request.
    partial: Vec<u8>,
}

struct Floor {
    frames: Frames,
    events: rustix::fd::OwnedFd,
    redis: TcpStream,
    clients: HashMap<u64, Client>,
    /// Whose replies come next, and how many bytes of them.
    owed: VecDeque<(u64, usize)>,
}

/// Serves clients at `port` with what Redis at `redis` has, until it is killed.
pub(crate) fn run(port: u16, redis: u16, frames: Frames) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    let redis = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, redis)))?;
    redis.set_nonblocking(true)?;
    redis.set_nodelay(true)?;
    let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&events, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    epoll::add(&events, &redis, epoll::EventData::new_u64(REDIS), epoll::EventFlags::IN)?;
    let mut floor = Floor { frames, events, redis, clients: HashMap::new(), owed: VecDeque::new() };
    let (mut ready, mut next) = (Vec::with_capacity(EVENTS), FIRST_CLIENT);
    let (mut requests, mut replies) = (vec![0; ROOM], vec![0; REDIS_ROOM]);
    loop {
        epoll::wait(&floor.events, spare_capacity(&mut ready), None)?;
        let (mut filled, mut answered) = (0, false);
        for event in ready.drain(..) {
            match event.data.u64() {
                LISTENER => {
                    floor.accept(&listener, next)?;
                    next += 1;
                }
                REDIS => answered = true,
                client => filled = floor.read_client(client, &mut requests, filled)?,
            }
        }
        send_all(&floor.redis, &requests[..filled])?;
        if answered {
            floor.read_redis(&mut replies)?;
        }
    }
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener, id: u64) -> io::Result<()> {
        let Ok((socket, _)) = listener.accept() else { return Ok(()) };
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        epoll::add(&self.events, &socket, epoll::EventData::new_u64(id), epoll::EventFlags::IN)?;
        self.clients.insert(id, Client { socket, begun: 0, partial: Vec::new() });
        Ok(())
    }

    /// Appends what a client has sent at `filled`; returns the new end.
    fn read_client(&mut self, id: u64, requests: &mut [u8], filled: usize) -> io::Result<usize> {
        let Some(client) = self.clients.get_mut(&id) else { return Ok(filled) };
        let from = filled + client.partial.len();
        let read = match recv(&client.socket, &mut requests[from..from + CLIENT_ROOM], RecvFlags::empty()) {
            Ok((n, _)) => n,
            Err(Errno::AGAIN) => return Ok(filled),
            Err(_) => 0,
        };
        // redis-benchmark asks for the configuration, which is of another length; it does without.
        let is_other =
            client.begun == 0 && memchr::memmem::find(&requests[from..from + read.min(20)], b"CONFIG").is_some();
        if read == 0 || is_other {
            self.clients.remove(&id);
            return Ok(filled);
        }
        client.begun += read;
        requests[filled..from].copy_from_slice(&client.partial);
        client.partial.clear();
        let end = from + read;
        let whole = (end - filled) / self.frames.request;
        let passed = filled + whole * self.frames.request;
        client.partial.extend_from_slice(&requests[passed..end]);
        if whole > 0 {
            self.owed.push_back((id, whole * self.frames.reply));
        }
        Ok(passed)
    }

    /// Reads replies, and hands them out.
    fn read_redis(&mut self, replies: &mut [u8]) -> io::Result<()> {
        let read = match recv(&self.redis, &mut *replies, RecvFlags::empty()) {
            Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((n, _)) => n,
            Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut rest = &replies[..read];
        while let Some((id, owed)) = self.owed.front_mut()
            && !rest.is_empty()
        {
            let (replies, others) = rest.split_at(rest.len().min(*owed));
            if let Some(client) = self.clients.get(id) {
                // Who has gone takes none.
                let _ = send_all(&client.socket, replies);
            }
            rest = others;
            *owed -= replies.len();
            if *owed == 0 {
                self.owed.pop_front();
            }
        }
        Ok(())
    }
}

/// Waits where the kernel takes no more now: neither Redis nor redis-benchmark waits for anything meanwhile.
fn send_all(socket: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(socket, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
