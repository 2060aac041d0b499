//! The world of the model: two Redis nodes, three Sentinels, one pointsman, its clients' writes, and what may still
//! happen to them.

use std::fmt;

use crate::proxy::Proxy;
use crate::sentinels::Sentinel;

pub(crate) const NODES: usize = 2;
pub(crate) const SENTINELS: usize = 3;

/// A node by its place; A is the first master.
pub(crate) type Node = usize;

/// Milliseconds of the model's clock.
pub(crate) type Time = u64;

/// Everything. Worlds that hash alike have the same future.
#[derive(Clone, Hash)]
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) nodes: [Redis; NODES],
    pub(crate) sentinels: [Sentinel; SENTINELS],
    pub(crate) proxy: Proxy,
    pub(crate) writes: Vec<Write>,
    pub(crate) left: Budget,
    /// Something of that has happened.
    pub(crate) begun: bool,
    /// Something kept pointsman from hearing: a fault on the way, or its own restart.
    pub(crate) deaf: bool,
}

/// What may still happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Budget {
    /// Processes that crash.
    pub(crate) crashes: u8,
    /// Faults on the way between pointsman and others: cut, late, or a worker that does not run.
    pub(crate) faults: u8,
    /// Failovers that somebody orders (`SENTINEL FAILOVER`).
    pub(crate) orders: u8,
    /// Failovers that Sentinels begin because the master is down.
    pub(crate) elections: u8,
    /// Steps of time: of 50 ms, 1 s and 4 s.
    pub(crate) time: [u8; 3],
}

/// What the steps of time are, in milliseconds.
pub(crate) const STEPS_OF_TIME: [Time; 3] = [50, 1000, 4000];

/// A redis-server. Its data is the list of the writes that it has carried out, which survives a restart.
#[derive(Clone, Hash)]
pub(crate) struct Redis {
    pub(crate) alive: bool,
    pub(crate) role: Role,
    pub(crate) log: Vec<u8>,
    /// As replica: connected to its master, whose log it has a prefix of.
    pub(crate) linked: bool,
    /// Since when it is in this role, or dead.
    pub(crate) since: Time,
    /// How often it was started.
    pub(crate) run: u8,
    /// A Sentinel made it master, and none made it a replica since.
    pub(crate) promoted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Role {
    Master,
    ReplicaOf(Node),
}

/// One write of a client, and its way.
#[derive(Clone, Hash)]
pub(crate) struct Write {
    pub(crate) state: State,
    /// Who carried it out.
    pub(crate) ran_at: Option<Node>,
    /// When another node was promoted it had run and not been replicated.
    pub(crate) behind: bool,
    /// It ran when another node had been promoted already, of which pointsman could not know.
    pub(crate) unheard: bool,
    /// The node where it ran has crashed since.
    pub(crate) crashed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum State {
    /// With the client, or waiting in pointsman.
    Waiting,
    /// Handed to the kernel on a connection to this node.
    Sent(Node),
    /// Carried out; its reply is on its way.
    Replied(Node),
    /// Its reply arrived, and is kept back since then.
    Parked(Node, Time),
    /// The client has its reply. `held`: it was delivered while writes were held.
    Acknowledged { held: bool },
    /// The client was disconnected. The node may still carry it out.
    Unknown(Option<Node>),
}

/// Why a write that was acknowledged is not there, where that is not pointsman's doing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Excuse {
    /// Replication is asynchronous: it was acknowledged before writes were held, and the node that was promoted, then
    /// or after a crash, had not received it.
    Replication,
    /// It was acknowledged before writes were held, and they were not held because the leading Sentinel's warning did
    /// not arrive.
    Unheard,
}

/// What became of one acknowledged write that is gone.
pub(crate) struct Loss {
    pub(crate) write: usize,
    pub(crate) excuse: Option<Excuse>,
}

impl World {
    /// A is master and B its connected replica, all Sentinels and pointsman know it, and as many writes wait.
    pub(crate) fn new(writes: usize, left: Budget) -> Self {
        let redis =
            |role, linked| Redis { alive: true, role, log: Vec::new(), linked, since: 0, run: 0, promoted: false };
        let write = Write { state: State::Waiting, ran_at: None, behind: false, unheard: false, crashed: false };
        let nodes = [redis(Role::Master, false), redis(Role::ReplicaOf(0), true)];
        let sentinels = [Sentinel::new(), Sentinel::new(), Sentinel::new()];
        let now = 100_000;
        let mut world = Self {
            now,
            proxy: Proxy::new(now),
            nodes,
            sentinels,
            writes: vec![write; writes],
            left,
            begun: false,
            deaf: false,
        };
        world.warm_up();
        world
    }

    /// The other node: there are two.
    pub(crate) fn other(node: Node) -> Node {
        1 - node
    }

    /// The one node that all Sentinels that run name, if none of them is failing over and it is master indeed.
    pub(crate) fn agreed(&self) -> Option<Node> {
        let mut running = self.sentinels.iter().filter(|s| s.alive);
        let node = running.next()?.named();
        let all = self.sentinels.iter().filter(|s| s.alive).all(|s| s.named() == node && s.attempt.is_none());
        (all && self.nodes[node].alive && self.nodes[node].role == Role::Master).then_some(node)
    }

    /// Writes that were acknowledged and are not on the node agreed on.
    pub(crate) fn losses(&self) -> Vec<Loss> {
        let Some(master) = self.agreed() else { return Vec::new() };
        let log = &self.nodes[master].log;
        let writes = self.writes.iter().enumerate();
        writes
            .filter_map(|(i, w)| match w.state {
                State::Acknowledged { held } if !log.contains(&(i as u8)) => {
                    let excuse = match (held, w) {
                        (true, _) => None,
                        (false, Write { behind, crashed, .. }) if *behind || *crashed => Some(Excuse::Replication),
                        (false, Write { unheard: true, .. }) => Some(Excuse::Unheard),
                        _ => None,
                    };
                    Some(Loss { write: i, excuse })
                }
                _ => None,
            })
            .collect()
    }

    /// A Sentinel's SLAVEOF NO ONE.
    pub(crate) fn promote(&mut self, node: Node) {
        for (i, write) in self.writes.iter_mut().enumerate() {
            let elsewhere = write.ran_at.is_some_and(|at| at != node);
            write.behind |= elsewhere && !self.nodes[node].log.contains(&(i as u8));
        }
        let now = self.now;
        let redis = &mut self.nodes[node];
        if redis.role != Role::Master {
            (redis.role, redis.linked, redis.since) = (Role::Master, false, now);
        }
        redis.promoted = true;
        self.proxy.surprised = self.proxy.is_flowing();
        let other = Self::other(node);
        self.nodes[other].promoted = false;
    }

    /// A Sentinel's SLAVEOF.
    pub(crate) fn demote(&mut self, node: Node, master: Node) {
        let now = self.now;
        let redis = &mut self.nodes[node];
        (redis.role, redis.linked, redis.since, redis.promoted) = (Role::ReplicaOf(master), false, now, false);
        let other = &mut self.nodes[Self::other(node)];
        other.linked = false;
    }

    /// The first write on its way to a node, or whose client has gone, may be carried out there.
    pub(crate) fn runnable(&self, node: Node) -> Option<usize> {
        if !self.nodes[node].alive {
            return None;
        }
        self.writes.iter().position(|w| w.state == State::Sent(node) || w.state == State::Unknown(Some(node)))
    }

    /// A node carries out a write, or refuses it as replica.
    pub(crate) fn carry_out(&mut self, i: usize, node: Node) {
        let is_master = self.nodes[node].role == Role::Master;
        let unheard = self.deaf && self.proxy.surprised && self.nodes[Self::other(node)].promoted;
        let write = &mut self.writes[i];
        let gone = matches!(write.state, State::Unknown(_));
        if is_master {
            self.nodes[node].log.push(i as u8);
            write.ran_at = Some(node);
            write.unheard = unheard;
        }
        write.state = match (gone, is_master) {
            (true, _) => State::Unknown(None),
            (false, true) => State::Replied(node),
            // Proof that it did not run: it is sent again.
            (false, false) => State::Waiting,
        };
        if !gone && !is_master {
            self.hint_read_only(node);
        }
    }

    /// Whether replication has something to do at a node.
    pub(crate) fn can_replicate(&self, node: Node) -> bool {
        let redis = &self.nodes[node];
        let Role::ReplicaOf(master) = redis.role else { return false };
        let master = &self.nodes[master];
        redis.alive
            && master.alive
            && master.role == Role::Master
            && (!redis.linked || redis.log.len() < master.log.len())
    }

    /// One write more of the master's, or all its data at the beginning.
    pub(crate) fn replicate(&mut self, node: Node) {
        let Role::ReplicaOf(master) = self.nodes[node].role else { return };
        let log = self.nodes[master].log.clone();
        let redis = &mut self.nodes[node];
        if redis.linked {
            redis.log.push(log[redis.log.len()]);
        } else {
            (redis.log, redis.linked) = (log, true);
        }
    }

    /// `kill -9`.
    pub(crate) fn crash_node(&mut self, node: Node) {
        let now = self.now;
        (self.nodes[node].alive, self.nodes[node].since, self.nodes[node].linked) = (false, now, false);
        self.nodes[Self::other(node)].linked = false;
        for write in &mut self.writes {
            write.crashed |= write.ran_at == Some(node);
            match write.state {
                State::Sent(at) if at == node => write.state = State::Unknown(None),
                State::Unknown(Some(at)) if at == node => write.state = State::Unknown(None),
                _ => {}
            }
        }
    }

    /// With its data, and the role that its configuration file says.
    pub(crate) fn restart_node(&mut self, node: Node) {
        let now = self.now;
        let redis = &mut self.nodes[node];
        (redis.alive, redis.since) = (true, now);
        redis.run += 1;
    }
}

impl fmt::Display for World {
    /// One line: what each node has, whom each Sentinel names, what pointsman lets flow, how the writes are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, node) in self.nodes.iter().enumerate() {
            let role = match (node.alive, node.role, node.linked) {
                (false, ..) => "dead",
                (_, Role::Master, _) => "master",
                (_, Role::ReplicaOf(_), true) => "replica",
                (_, Role::ReplicaOf(_), false) => "replica, no link",
            };
            write!(f, "{} {role} {:?}  ", name(i), node.log)?;
        }
        for (i, sentinel) in self.sentinels.iter().enumerate() {
            match sentinel.alive {
                true => write!(f, "S{i}:{}@{} ", name(sentinel.named()), sentinel.config_epoch)?,
                false => write!(f, "S{i}:dead ")?,
            }
        }
        let topology = self.proxy.machine.topology();
        let master = topology.writes.node.map_or("none", |n| name(crate::proxy::place(n)));
        write!(f, " writes {:?} to {master} ", topology.writes.flow)?;
        for (i, write) in self.writes.iter().enumerate() {
            write!(f, " w{i} {:?}", write.state)?;
        }
        Ok(())
    }
}

pub(crate) fn name(node: Node) -> &'static str {
    ["A", "B"][node]
}
