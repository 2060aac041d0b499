//! The tasks that one service needs: one for each Sentinel, one for each node whose role is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::client::SentinelTask;
use super::event::{Peer, SentinelEvent};
use super::preferred;
use super::probe::ProbeTask;
use crate::addr::Endpoint;
use crate::clock::Moment;
use crate::config::{Credentials, ServiceConfig, Source};
use crate::net::{Dialer, Resolver};
use crate::topology::failover::{Pace, SentinelFacts};
use crate::topology::{Event, SentinelId};

/// Sentinels of one service at most. Sentinel never forgets a peer, and a Kubernetes that gives each restarted one a
/// new address would make the list grow for ever.
const SENTINELS_MAX: usize = 16;
/// A learned Sentinel that is out of hearing for so long, and that no other one lists as reachable, is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// What the tasks of one service have in common.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) service: String,
    pub(super) resolver: Resolver,
    /// How Redis servers are dialled.
    pub(super) nodes: Dialer,
    /// How Sentinels are.
    pub(super) sentinels: Dialer,
    pub(super) backend: Option<Credentials>,
    pub(super) sentinel: Option<Credentials>,
    /// Where the priority is remembered that a switchover changes for the while.
    pub(super) preferred: Option<PathBuf>,
    pub(super) events: mpsc::Sender<SentinelEvent>,
}

impl Common {
    pub(super) fn new(config: &ServiceConfig, resolver: Resolver, events: mpsc::Sender<SentinelEvent>) -> Self {
        let sentinel = match &config.source {
            Source::Sentinels { credentials, .. } => credentials.clone(),
            Source::Static(_) => None,
        };
        Self {
            service: config.name.clone(),
            nodes: Dialer::of_nodes(config, resolver.clone()),
            sentinels: Dialer::of_sentinels(config, resolver.clone()),
            resolver,
            backend: config.backend.clone(),
            sentinel,
            preferred: config.state_file.as_deref().map(preferred::beside),
            events,
        }
    }

    /// Whether servers are dialled alike, and what is remembered of them is kept in the same place.
    pub(super) fn dials_like(&self, other: &Self) -> bool {
        self.nodes.dials_like(&other.nodes)
            && self.sentinels.dials_like(&other.sentinels)
            && self.backend == other.backend
            && self.sentinel == other.sentinel
            && self.preferred == other.preferred
    }
}

/// One known Sentinel.
#[derive(Debug)]
struct Known {
    endpoint: Endpoint,
    learned: bool,
    run_id: Option<String>,
    /// Another endpoint of the same process is listened to instead.
    duplicate: bool,
    /// Since when it has been out of hearing; none while it is up.
    down_since: Option<Moment>,
    trouble: Option<String>,
    /// Those it lists.
    peers: Vec<Peer>,
    /// Ended when dropped.
    task: DropGuard,
}

/// The Sentinels of one service.
#[derive(Debug)]
pub(super) struct Sentinels {
    common: Common,
    known: BTreeMap<SentinelId, Known>,
    next: u16,
    pace: watch::Sender<Duration>,
}

impl Sentinels {
    pub(super) fn new(common: Common) -> Self {
        Self { common, known: BTreeMap::new(), next: 0, pace: watch::Sender::new(poll_interval(Pace::Fast)) }
    }

    /// Listens to these, and to others only as far as they are learned of: when one is taken out of the configuration, it
    /// and all that were learned of stay only if one that stays lists them. Others may be of another deployment.
    pub(super) fn set_configured(&mut self, endpoints: &[Endpoint], now: Moment) -> Vec<Event> {
        let stays = |k: &Known| endpoints.contains(&k.endpoint);
        let mut events = Vec::new();
        let mut gone = Vec::new();
        if self.known.values().any(|k| !k.learned && !stays(k)) {
            let listed: Vec<Peer> = self.known.values().filter(|k| stays(k)).flat_map(|k| k.peers.clone()).collect();
            for (id, known) in self.known.iter_mut().filter(|(_, k)| !stays(k)) {
                let is_it = |p: &Peer| p.endpoint == known.endpoint || p.run_id.is_some() && p.run_id == known.run_id;
                known.learned = listed.iter().any(is_it);
                gone.extend((!known.learned).then_some(*id));
            }
        }
        for id in gone {
            self.known.remove(&id);
            events.push(Event::SentinelForgotten(id));
        }
        for endpoint in endpoints {
            match self.known.values_mut().find(|k| k.endpoint == *endpoint) {
                Some(known) => known.learned = false,
                None => events.push(self.add(endpoint.clone(), None, false, now)),
            }
        }
        events.extend(self.resume_orphans(now));
        events
    }

    /// Listens to all of them in another way. None is in hearing until it has been reached in that way.
    pub(super) fn renew(&mut self, common: Common, now: Moment) -> Vec<Event> {
        self.common = common;
        let ids: Vec<SentinelId> = self.known.keys().copied().collect();
        let mut events = Vec::new();
        for id in ids {
            let Some(endpoint) = self.known.get(&id).map(|k| k.endpoint.clone()) else { continue };
            let task = self.listen(id, endpoint);
            if let Some(known) = self.known.get_mut(&id) {
                known.task = task;
                known.down_since = known.down_since.or(Some(now));
            }
            events.push(Event::SentinelDown(id));
        }
        events
    }

    fn listen(&self, id: SentinelId, endpoint: Endpoint) -> DropGuard {
        let cancel = CancellationToken::new();
        let task = SentinelTask {
            id,
            endpoint,
            service: self.common.service.clone(),
            credentials: self.common.sentinel.clone(),
            resolver: self.common.resolver.clone(),
            dialer: self.common.sentinels.clone(),
            pace: self.pace.subscribe(),
            events: self.common.events.clone(),
        };
        tokio::spawn(task.run(cancel.clone()));
        cancel.drop_guard()
    }

    /// Begins to listen to a Sentinel.
    pub(super) fn add(&mut self, endpoint: Endpoint, run_id: Option<String>, learned: bool, now: Moment) -> Event {
        let id = SentinelId(self.next);
        self.next = self.next.wrapping_add(1);
        let task = self.listen(id, endpoint.clone());
        let event = Event::SentinelKnown(id, endpoint.clone());
        let known = Known {
            endpoint,
            learned,
            run_id,
            duplicate: false,
            down_since: Some(now),
            trouble: None,
            peers: Vec::new(),
            task,
        };
        self.known.insert(id, known);
        event
    }

    /// Polls all of them at this pace from now on, beginning at once.
    pub(super) fn set_pace(&self, pace: Pace) {
        self.pace.send_replace(poll_interval(pace));
    }

    /// Whether what this one says is to be heard: it is known, and no other endpoint of the same process is heard.
    pub(super) fn is_heard(&self, id: SentinelId) -> bool {
        self.known.get(&id).is_some_and(|k| !k.duplicate)
    }

    /// Notes that one came into hearing or went out of it.
    pub(super) fn note_up(&mut self, id: SentinelId, up: bool, now: Moment) {
        if let Some(known) = self.known.get_mut(&id) {
            known.down_since = (!up).then_some(now);
        }
    }

    /// Notes what is wrong with one, and says so once.
    pub(super) fn note_trouble(&mut self, id: SentinelId, trouble: Option<String>) {
        let service = &self.common.service;
        let Some(known) = self.known.get_mut(&id) else { return };
        match &trouble {
            Some(why) => tracing::warn!(service, sentinel = %known.endpoint, "Sentinel is of no use: {why}"),
            None => tracing::info!(service, sentinel = %known.endpoint, "Sentinel is well again"),
        }
        known.trouble = trouble;
    }

    /// Notes which process is behind an endpoint. Two endpoints of one process are one Sentinel and must not count as
    /// two: the learned one goes, of two configured ones the later is not listened to for as long as that is so.
    pub(super) fn note_identity(&mut self, id: SentinelId, run_id: String, now: Moment) -> Vec<Event> {
        let Some(known) = self.known.get_mut(&id) else { return Vec::new() };
        let learned = known.learned;
        let was_duplicate = std::mem::replace(&mut known.duplicate, false);
        known.run_id = Some(run_id.clone());
        let endpoint = known.endpoint.clone();
        let mut events = if was_duplicate { vec![Event::SentinelKnown(id, endpoint)] } else { Vec::new() };
        let twin = |(other, k): (&SentinelId, &Known)| {
            (*other != id && !k.duplicate && k.run_id.as_ref() == Some(&run_id)).then_some((*other, k.learned))
        };
        if let Some((other, other_learned)) = self.known.iter().find_map(twin) {
            if other_learned && !learned {
                self.known.remove(&other);
                events.push(Event::SentinelForgotten(other));
            } else if learned {
                self.known.remove(&id);
                events.push(Event::SentinelForgotten(id));
            } else {
                if let Some(known) = self.known.get_mut(&id) {
                    known.duplicate = true;
                }
                events.push(Event::SentinelForgotten(id));
            }
        }
        events.extend(self.resume_orphans(now));
        events
    }

    /// What was left to another endpoint of the same process is listened to again where that is no more, or leads to
    /// another process now.
    fn resume_orphans(&mut self, now: Moment) -> Vec<Event> {
        let heard: BTreeSet<String> =
            self.known.values().filter(|k| !k.duplicate).filter_map(|k| k.run_id.clone()).collect();
        let orphan = |k: &Known| k.duplicate && k.run_id.as_ref().is_none_or(|run_id| !heard.contains(run_id));
        let orphans: Vec<_> =
            self.known.iter().filter(|(_, k)| orphan(k)).map(|(id, k)| (*id, k.endpoint.clone())).collect();
        let mut events = Vec::new();
        for (id, endpoint) in orphans {
            // It may have connected long ago, and says so anew.
            let task = self.listen(id, endpoint.clone());
            if let Some(known) = self.known.get_mut(&id) {
                (known.duplicate, known.run_id, known.down_since, known.task) = (false, None, Some(now), task);
            }
            events.push(Event::SentinelKnown(id, endpoint));
        }
        events
    }

    /// Learns of others. The configured ones are never replaced by what a Sentinel says.
    pub(super) fn note_peers(&mut self, id: SentinelId, peers: Vec<Peer>, now: Moment) -> Vec<Event> {
        let mut events = Vec::new();
        for peer in peers.iter().filter(|p| p.reachable) {
            let is_known = self
                .known
                .values()
                .any(|k| k.endpoint == peer.endpoint || (k.run_id.is_some() && k.run_id == peer.run_id));
            if !is_known && self.known.len() < SENTINELS_MAX {
                tracing::info!(service = self.common.service, sentinel = %peer.endpoint, "learned of another Sentinel");
                events.push(self.add(peer.endpoint.clone(), peer.run_id.clone(), true, now));
            }
        }
        if let Some(known) = self.known.get_mut(&id) {
            known.peers = peers;
        }
        events
    }

    /// Forgets learned ones that are gone for good.
    pub(super) fn forget_gone(&mut self, now: Moment) -> Vec<Event> {
        let listed: Vec<(&Endpoint, Option<&String>)> = self
            .known
            .values()
            .filter(|k| k.down_since.is_none())
            .flat_map(|k| k.peers.iter().filter(|p| p.reachable).map(|p| (&p.endpoint, p.run_id.as_ref())))
            .collect();
        let gone = |k: &Known| {
            let is_listed = listed.iter().any(|(e, r)| **e == k.endpoint || (r.is_some() && *r == k.run_id.as_ref()));
            k.learned && k.down_since.is_some_and(|d| now.since(d) >= FORGET_AFTER) && !is_listed
        };
        let gone: Vec<SentinelId> = self.known.iter().filter(|(_, k)| gone(k)).map(|(id, _)| *id).collect();
        for id in &gone {
            self.known.remove(id);
        }
        let resumed = self.resume_orphans(now);
        gone.into_iter().map(Event::SentinelForgotten).chain(resumed).collect()
    }

    pub(super) fn facts(&self, id: SentinelId) -> Option<SentinelFacts> {
        let known = self.known.get(&id)?;
        Some(SentinelFacts { endpoint: known.endpoint.clone(), learned: known.learned, error: known.trouble.clone() })
    }
}

/// The role probes of one service.
#[derive(Debug)]
pub(super) struct Probes {
    common: Common,
    tasks: BTreeMap<SocketAddr, DropGuard>,
    pace: watch::Sender<Option<Duration>>,
}

impl Probes {
    pub(super) fn new(common: Common) -> Self {
        Self { common, tasks: BTreeMap::new(), pace: watch::Sender::new(None) }
    }

    /// Asks the same nodes in another way.
    pub(super) fn renew(&mut self, common: Common) {
        self.common = common;
        let nodes: Vec<SocketAddr> = self.tasks.keys().copied().collect();
        self.tasks = nodes.into_iter().map(|node| (node, self.start(node))).collect();
    }

    /// Asks these nodes, and no others, at this pace from now on, beginning at once.
    pub(super) fn set(&mut self, nodes: &BTreeSet<SocketAddr>, pace: Pace) {
        self.tasks.retain(|node, _| nodes.contains(node));
        self.pace.send_replace(Some(probe_interval(pace)));
        for node in nodes {
            if !self.tasks.contains_key(node) {
                self.tasks.insert(*node, self.start(*node));
            }
        }
    }

    fn start(&self, node: SocketAddr) -> DropGuard {
        let cancel = CancellationToken::new();
        let task = ProbeTask {
            node,
            credentials: self.common.backend.clone(),
            resolver: self.common.resolver.clone(),
            dialer: self.common.nodes.clone(),
            pace: self.pace.subscribe(),
            events: self.common.events.clone(),
        };
        tokio::spawn(task.run(cancel.clone()));
        cancel.drop_guard()
    }
}

/// A Sentinel answers a poll within a millisecond; ten milliseconds are a tenth of the time by which the Sentinels
/// themselves differ.
fn poll_interval(pace: Pace) -> Duration {
    Duration::from_millis(match pace {
        Pace::Slow => 1000,
        Pace::Watch => 100,
        Pace::Fast => 10,
    })
}

/// ROLE is answered within a fraction of a millisecond; five milliseconds are what a commit waits for it at most.
fn probe_interval(pace: Pace) -> Duration {
    Duration::from_millis(match pace {
        Pace::Slow => 1000,
        Pace::Watch => 100,
        Pace::Fast => 5,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServiceConfig;

    fn endpoint(text: &str) -> Endpoint {
        text.parse().expect("an address")
    }

    fn peer(text: &str) -> Peer {
        Peer { endpoint: endpoint(text), run_id: None, reachable: true }
    }

    fn known(sentinels: &Sentinels) -> Vec<(String, bool)> {
        sentinels.known.values().map(|k| (k.endpoint.to_string(), k.learned)).collect()
    }

    /// Nobody listens where these point to: only what is known counts here.
    const A: &str = "127.0.0.1:1";
    const B: &str = "127.0.0.1:2";
    const C: &str = "127.0.0.1:3";
    const D: &str = "127.0.0.1:4";

    fn watching(configured: &[&str]) -> Sentinels {
        let config = ServiceConfig::new("test", Vec::new(), Source::Static(endpoint(A)));
        let mut sentinels = Sentinels::new(Common::new(&config, Resolver::default(), mpsc::channel(64).0));
        set(&mut sentinels, configured);
        sentinels
    }

    fn set(sentinels: &mut Sentinels, configured: &[&str]) -> Vec<Event> {
        let endpoints: Vec<Endpoint> = configured.iter().map(|text| endpoint(text)).collect();
        sentinels.set_configured(&endpoints, Moment(0))
    }

    #[tokio::test]
    async fn one_that_is_not_configured_any_more_is_listened_to_while_another_lists_it() {
        let mut sentinels = watching(&[A, B, C]);
        sentinels.note_peers(SentinelId(0), vec![peer(B)], Moment(0));
        assert_eq!(set(&mut sentinels, &[A]), [Event::SentinelForgotten(SentinelId(2))]);
        assert_eq!(known(&sentinels), [(A.to_owned(), false), (B.to_owned(), true)]);
        assert_eq!(set(&mut sentinels, &[A, B]), []);
        assert_eq!(known(&sentinels), [(A.to_owned(), false), (B.to_owned(), false)]);
    }

    /// Two endpoints of one process, of which the one that is heard goes, or comes to lead elsewhere.
    #[tokio::test]
    async fn one_that_was_left_to_its_twin_is_heard_again_when_that_is_gone() {
        let mut sentinels = watching(&[A, B, C]);
        let one = |sentinels: &mut Sentinels, id, run_id: &str| {
            sentinels.note_identity(SentinelId(id), run_id.to_owned(), Moment(0))
        };
        let heard = |sentinels: &Sentinels| [0, 1, 2].map(|id| sentinels.is_heard(SentinelId(id)));
        assert_eq!(one(&mut sentinels, 0, "x"), []);
        assert_eq!(one(&mut sentinels, 1, "x"), [Event::SentinelForgotten(SentinelId(1))]);
        assert_eq!(one(&mut sentinels, 2, "y"), []);
        assert_eq!(heard(&sentinels), [true, false, true]);
        // A balancer's address leads to another one of them now.
        let resumed = [Event::SentinelForgotten(SentinelId(0)), Event::SentinelKnown(SentinelId(1), endpoint(B))];
        assert_eq!(one(&mut sentinels, 0, "y"), resumed);
        assert_eq!(heard(&sentinels), [false, true, true]);
        assert_eq!(one(&mut sentinels, 1, "x"), []);
        let events = set(&mut sentinels, &[A, B]);
        assert_eq!(events, [Event::SentinelForgotten(SentinelId(2)), Event::SentinelKnown(SentinelId(0), endpoint(A))]);
        assert_eq!(heard(&sentinels), [true, true, false]);
    }

    #[tokio::test]
    async fn what_was_learned_of_another_deployment_goes_with_it() {
        let mut sentinels = watching(&[A]);
        sentinels.note_peers(SentinelId(0), vec![peer(B), peer(C)], Moment(0));
        set(&mut sentinels, &[D]);
        assert_eq!(known(&sentinels), [(D.to_owned(), false)]);
    }
}
