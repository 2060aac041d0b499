//! Permission as a lease: one word per worker and service that control renews and the worker reads before each write.

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::clock::Moment;

/// Whether one kind of traffic flows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Flow {
    /// Commands are written to the node.
    Flowing,
    /// Commands wait.
    Held,
    /// Commands are answered with an error at once: waiting took longer than `hold_timeout`.
    Refused,
}

/// What a [`Lease`] says: both permissions of one generation, until a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Low 20 bits of the generation it is for.
    pub generation: u32,
    /// Permission of reads.
    pub reads: Flow,
    /// Permission of writes.
    pub writes: Flow,
    /// From this moment on it permits nothing.
    pub valid_until: Moment,
}

/// Bits of the generation that fit into the word; a worker that is 2^20 failovers behind is not a case.
const GENERATION_BITS: u32 = 20;
const GENERATION_MASK: u64 = (1 << GENERATION_BITS) - 1;

/// A [`Grant`] in one atomic word: `valid_until` (40 bits: 34 years of milliseconds) | generation (20) | reads (2) | writes (2).
#[derive(Debug, Default)]
pub struct Lease(AtomicU64);

impl Lease {
    /// Replaces the grant. Called by control alone.
    pub fn store(&self, grant: Grant) {
        let word = grant.valid_until.0 << (GENERATION_BITS + 4)
            | (u64::from(grant.generation) & GENERATION_MASK) << 4
            | bits(grant.reads) << 2
            | bits(grant.writes);
        self.0.store(word, Ordering::Release);
    }

    /// The grant as it stands. A new lease has expired at moment 0: everything is held.
    pub fn load(&self) -> Grant {
        let word = self.0.load(Ordering::Acquire);
        Grant {
            generation: (word >> 4 & GENERATION_MASK) as u32,
            reads: flow(word >> 2 & 3),
            writes: flow(word & 3),
            valid_until: Moment(word >> (GENERATION_BITS + 4)),
        }
    }
}

impl Grant {
    /// Whether writes of `generation` may go out now.
    pub fn permits_writes(&self, generation: u64, now: Moment) -> bool {
        self.writes == Flow::Flowing && self.is_current(generation, now)
    }

    /// Whether reads of `generation` may go out now.
    pub fn permits_reads(&self, generation: u64, now: Moment) -> bool {
        self.reads == Flow::Flowing && self.is_current(generation, now)
    }

    fn is_current(&self, generation: u64, now: Moment) -> bool {
        now < self.valid_until && u64::from(self.generation) == generation & GENERATION_MASK
    }
}

fn bits(f: Flow) -> u64 {
    match f {
        Flow::Held => 0,
        Flow::Flowing => 1,
        Flow::Refused => 2,
    }
}

fn flow(bits: u64) -> Flow {
    match bits {
        1 => Flow::Flowing,
        2 => Flow::Refused,
        _ => Flow::Held,
    }
}

/// All that control and one worker share about one service.
#[derive(Debug, Default)]
pub struct Link {
    /// Written by control, read by the worker immediately before each write to a backend.
    pub lease: Lease,
    /// The highest [`super::Topology::seq`] that the worker has carried out.
    acknowledged: AtomicU64,
    /// The generation whose master has what the worker's sessions need there.
    prepared: AtomicU64,
    /// The highest of those that held writes and had no write of the worker left under way.
    quiet: AtomicU64,
    /// Wakes control when `acknowledged`, `prepared` or `quiet` moved.
    pub progress: Notify,
    /// A duplicate of every backend socket the worker has open, so that control can shut them down for a worker that
    /// does not answer. Locked when a connection opens or closes, never per command.
    sockets: Mutex<HashMap<u64, (SocketAddr, TcpStream)>>,
}

impl Link {
    /// The worker has carried out the topology `seq` and all before it.
    pub fn acknowledge(&self, seq: u64) {
        self.acknowledged.store(seq, Ordering::Release);
        self.progress.notify_one();
    }

    /// The highest sequence number that was acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    /// What the worker's sessions had on the master before is there on that of `generation`: writes may follow.
    pub fn report_prepared(&self, generation: u64) {
        self.prepared.store(generation, Ordering::Release);
        self.progress.notify_one();
    }

    /// The generation that was last reported as prepared.
    pub fn prepared(&self) -> u64 {
        self.prepared.load(Ordering::Acquire)
    }

    /// Under the topology `seq`, which holds writes, every write that the worker had handed to a backend is answered.
    pub fn note_quiet(&self, seq: u64) {
        self.quiet.store(seq, Ordering::Release);
        self.progress.notify_one();
    }

    /// The highest sequence number that was quiet.
    pub fn quiet(&self) -> u64 {
        self.quiet.load(Ordering::Acquire)
    }

    /// Registers an open backend socket under an id that is unique to the worker.
    pub fn register(&self, id: u64, node: SocketAddr, duplicate: TcpStream) {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).insert(id, (node, duplicate));
    }

    /// Forgets a socket that the worker has closed.
    pub fn unregister(&self, id: u64) {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Shuts down, in both directions, every socket of the worker to `node`. For a worker that does not answer: what it
    /// would still write fails. Returns how many there were.
    pub fn sever(&self, node: SocketAddr) -> usize {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut severed = 0;
        for (_, socket) in sockets.values().filter(|(n, _)| *n == node) {
            // An error means that it is closed already, which is what was wanted.
            let _ = socket.shutdown(Shutdown::Both);
            severed += 1;
        }
        severed
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::net::TcpListener;
    use std::pin::pin;

    use super::*;

    #[test]
    fn a_grant_survives_the_word() {
        let lease = Lease::default();
        for reads in [Flow::Flowing, Flow::Held, Flow::Refused] {
            for writes in [Flow::Flowing, Flow::Held, Flow::Refused] {
                let grant = Grant { generation: 77, reads, writes, valid_until: Moment(987_654_321_012) };
                lease.store(grant);
                assert_eq!(lease.load(), grant);
            }
        }
    }

    #[test]
    fn permits_nothing_unless_flowing_current_and_unexpired() {
        let g = Grant { generation: 3, reads: Flow::Flowing, writes: Flow::Held, valid_until: Moment(100) };
        assert!(g.permits_reads(3, Moment(99)));
        assert!(!g.permits_reads(3, Moment(100)));
        assert!(!g.permits_reads(4, Moment(99)));
        assert!(!g.permits_writes(3, Moment(99)));
        assert!(!Lease::default().load().permits_reads(0, Moment(1)));
    }

    #[test]
    fn generations_wrap_in_the_word_alike_on_both_sides() {
        let lease = Lease::default();
        let generation = (1u64 << GENERATION_BITS) + 5;
        lease.store(Grant {
            generation: generation as u32,
            reads: Flow::Flowing,
            writes: Flow::Flowing,
            valid_until: Moment(10),
        });
        assert!(lease.load().permits_writes(generation, Moment(9)));
        assert!(!lease.load().permits_writes(generation + 1, Moment(9)));
    }

    #[test]
    fn what_a_worker_says_wakes_control() {
        type Say = fn(&Link, u64);
        type Said = fn(&Link) -> u64;
        let link = Link::default();
        let says: [(Say, Said); 3] = [
            (Link::acknowledge, Link::acknowledged),
            (Link::report_prepared, Link::prepared),
            (Link::note_quiet, Link::quiet),
        ];
        for (i, (say, said)) in (7..).zip(says) {
            assert_eq!(said(&link), 0);
            assert!(!pin!(link.progress.notified()).enable(), "nothing was said yet");
            say(&link, i);
            assert!(pin!(link.progress.notified()).enable());
            assert_eq!(said(&link), i);
        }
        assert_eq!((link.acknowledged(), link.prepared(), link.quiet()), (7, 8, 9));
    }

    #[test]
    fn the_sockets_to_one_node_are_shut_down_and_no_others() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Link::default();
        let (old, new) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let mut peers: Vec<TcpStream> = [old, new, old, old]
            .iter()
            .zip(0..)
            .map(|(node, id)| {
                let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                link.register(id, *node, stream);
                listener.accept().unwrap().0
            })
            .collect();
        link.unregister(3);
        assert_eq!(peers[3].read(&mut [0]).unwrap(), 0, "that was the last that held it");
        assert_eq!(link.sever(old), 2);
        for i in [0, 2] {
            assert_eq!(peers[i].read(&mut [0]).unwrap(), 0, "{i} is at its end");
        }
        peers[1].set_nonblocking(true).unwrap();
        assert_eq!(peers[1].read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}
