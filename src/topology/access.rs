//! One worker's view of what traffic of one service may do: its topology, checked against the lease.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Flow, Link, Topology};
use crate::clock::Moment;

/// What a command of one kind may do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pass {
    /// Go to this node.
    To(SocketAddr),
    /// Wait.
    Wait,
    /// Be refused.
    Refuse,
}

/// The topology a worker has carried out last, and the lease that must agree with it.
///
/// The topology names the nodes, the lease says whether the permission still stands. Control changes the lease first:
/// from then on nothing of the older generation goes out, also before the worker has seen the new topology.
#[derive(Debug)]
pub struct Access {
    link: Arc<Link>,
    topology: RefCell<Arc<Topology>>,
    /// When the last pause ended.
    resumed: Cell<Option<Instant>>,
}

impl Access {
    /// A view that permits nothing yet.
    pub fn new(link: Arc<Link>) -> Self {
        Self { link, topology: RefCell::new(Arc::new(Topology::unknown())), resumed: Cell::new(None) }
    }

    /// What control and this worker share.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The topology as last carried out.
    pub fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.borrow())
    }

    /// Replaces the topology; returns the one before.
    pub fn update(&self, topology: Arc<Topology>) -> Arc<Topology> {
        let paused = topology.paused;
        let before = self.topology.replace(topology);
        if before.paused && !paused {
            self.resumed.set(Some(Instant::now()));
        }
        before
    }

    /// Whether an operator has paused the service.
    pub fn is_paused(&self) -> bool {
        self.topology.borrow().paused
    }

    /// When a wait that began at `since` begins to count against `hold_timeout`: the time of a pause does not.
    pub fn counts_from(&self, since: Instant) -> Instant {
        self.resumed.get().map_or(since, |resumed| since.max(resumed))
    }

    /// What a session may do with its next command at `now`: as [`Self::reads`] or [`Self::writes`] have it, but that in a
    /// pause it waits, even where it would be refused.
    pub fn admits(&self, a_read: bool, now: Moment) -> Pass {
        match (self.is_paused(), a_read) {
            (true, _) => Pass::Wait,
            (false, true) => self.reads(now),
            (false, false) => self.writes(now),
        }
    }

    /// What a read may do at `now`.
    pub fn reads(&self, now: Moment) -> Pass {
        let t = self.topology.borrow();
        pass(t.reads, self.link.lease.load().permits_reads(t.generation, now))
    }

    /// What a write may do at `now`.
    pub fn writes(&self, now: Moment) -> Pass {
        let t = self.topology.borrow();
        pass(t.writes, self.link.lease.load().permits_writes(t.generation, now))
    }

    /// Whether writes may be handed to the kernel for `node` at `now`.
    pub fn may_write(&self, node: SocketAddr, now: Moment) -> bool {
        self.writes(now) == Pass::To(node)
    }

    /// Whether reads may be handed to the kernel for `node` at `now`.
    pub fn may_read(&self, node: SocketAddr, now: Moment) -> bool {
        self.reads(now) == Pass::To(node)
    }
}

fn pass(permission: super::Permission, lease_permits: bool) -> Pass {
    match (permission.flow, permission.node) {
        (Flow::Refused, _) => Pass::Refuse,
        (Flow::Flowing, Some(node)) if lease_permits => Pass::To(node),
        _ => Pass::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Grant, Permission};

    #[test]
    fn flows_only_while_topology_and_lease_agree() {
        let node: SocketAddr = "127.0.0.1:6379".parse().unwrap();
        let access = Access::new(Arc::new(Link::default()));
        assert_eq!(access.writes(Moment(1)), Pass::Wait);
        let flowing = Permission { node: Some(node), flow: Flow::Flowing };
        let t = Topology { seq: 1, generation: 1, reads: flowing, writes: flowing, ..Topology::unknown() };
        access.update(Arc::new(t.clone()));
        assert_eq!(access.writes(Moment(1)), Pass::Wait, "no lease yet");
        let grant = Grant { generation: 1, reads: Flow::Flowing, writes: Flow::Held, valid_until: Moment(10) };
        access.link().lease.store(grant);
        assert_eq!(access.writes(Moment(1)), Pass::Wait, "control held writes; the topology is still on its way");
        assert!(access.may_read(node, Moment(9)));
        let other: SocketAddr = "127.0.0.1:6380".parse().unwrap();
        assert!(!access.may_read(other, Moment(9)) && !access.may_write(node, Moment(9)));
        assert_eq!(access.reads(Moment(10)), Pass::Wait, "expired");
        access.link().lease.store(Grant { generation: 2, writes: Flow::Flowing, ..grant });
        assert_eq!(access.writes(Moment(1)), Pass::Wait, "the lease is for a generation not seen yet");
        access.link().lease.store(Grant { writes: Flow::Flowing, ..grant });
        assert!(access.may_write(node, Moment(9)) && !access.may_write(other, Moment(9)));
        let refused = Permission { flow: Flow::Refused, ..flowing };
        access.update(Arc::new(Topology { writes: refused, ..t }));
        assert_eq!((access.writes(Moment(1)), access.admits(false, Moment(1))), (Pass::Refuse, Pass::Refuse));
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_pause_sessions_wait_and_connections_go_on() {
        let node: SocketAddr = "127.0.0.1:6379".parse().unwrap();
        let access = Access::new(Arc::new(Link::default()));
        let flowing = Permission { node: Some(node), flow: Flow::Flowing };
        let grant = Grant { generation: 1, reads: Flow::Flowing, writes: Flow::Flowing, valid_until: Moment(10) };
        access.link().lease.store(grant);
        let t = Topology { generation: 1, reads: flowing, writes: flowing, paused: true, ..Topology::unknown() };
        access.update(Arc::new(t.clone()));
        assert_eq!([true, false].map(|a_read| access.admits(a_read, Moment(1))), [Pass::Wait; 2]);
        assert!(access.may_read(node, Moment(1)) && access.may_write(node, Moment(1)), "what was handed on goes out");
        let refused = Permission { flow: Flow::Refused, ..flowing };
        access.update(Arc::new(Topology { writes: refused, ..t.clone() }));
        assert_eq!(access.admits(false, Moment(1)), Pass::Wait, "nothing is refused");

        let began = Instant::now();
        tokio::time::advance(std::time::Duration::from_secs(60)).await;
        access.update(Arc::new(Topology { paused: false, ..t.clone() }));
        let end = Instant::now();
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        access.update(Arc::new(Topology { paused: false, ..t }));
        assert_eq!((access.admits(false, Moment(1)), access.counts_from(began)), (Pass::To(node), end));
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        assert_eq!(access.counts_from(Instant::now()), Instant::now(), "a wait that began behind it counts as ever");
    }
}
