//! Names to addresses: literals, the hosts file, DNS.

mod system;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use self::system::{HOSTS, RESOLV_CONF, System};
use crate::addr::Endpoint;

/// How long [`Resolver::locate`] takes its last answer, or failure, for good.
const FRESH: Duration = Duration::from_secs(1);
/// Longest wait of [`Resolver::locate`] for a look-up when it has an older answer to fall back on.
const REFRESH_TIMEOUT: Duration = Duration::from_millis(100);
/// Names that [`Resolver::locate`] remembers; beyond it forgets the one asked for longest ago. Far more than the nodes
/// of any service; it bounds what a Sentinel that announces ever new names can make us keep.
const KNOWN_MAX: usize = 1024;

/// Why an endpoint has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// Neither the hosts file nor DNS knows it, or DNS failed.
    #[error("cannot resolve `{name}`: {reason}")]
    Failed {
        /// The host name.
        name: String,
        /// What the resolver said.
        reason: String,
    },
    /// No answer in time.
    #[error("cannot resolve `{name}`: no answer from the name servers")]
    Timeout {
        /// The host name.
        name: String,
    },
    /// Not in the hosts file, and there is no name server to ask.
    #[error("cannot resolve `{name}`: not in {HOSTS}, and neither `resolvers` nor {RESOLV_CONF} names a server")]
    NoServers {
        /// The host name.
        name: String,
    },
}

/// Resolves endpoints. Clones share what they have learned.
///
/// Its background tasks run on the runtime of whoever asks first: a thread that must not depend on another one's
/// runtime makes a resolver of its own.
#[derive(Clone)]
pub struct Resolver(Arc<Shared>);

struct Shared {
    system: Mutex<System>,
    known: Mutex<HashMap<Endpoint, Known>>,
    /// What each name was last found to be: a name server that dies takes nobody's addresses with it.
    answers: Mutex<HashMap<String, Vec<IpAddr>>>,
}

type Located = Result<SocketAddr, DnsError>;

/// What [`Resolver::locate`] knows of one endpoint.
#[derive(Clone)]
struct Known {
    /// What the look-up before the latest one found.
    last: Option<SocketAddr>,
    /// Outcome of the latest look-up and when it came, once it is there.
    latest: watch::Receiver<Option<(Located, Instant)>>,
    /// When that look-up began.
    asked: Instant,
}

impl Known {
    fn address(&self) -> Option<SocketAddr> {
        let latest = self.latest.borrow();
        latest.as_ref().and_then(|(outcome, _)| outcome.as_ref().ok().copied()).or(self.last)
    }

    /// Whether it is too soon to ask again: just answered, or still waiting (unless the task that asked died with its
    /// runtime).
    fn is_fresh(&self) -> bool {
        match &*self.latest.borrow() {
            Some((_, at)) => at.elapsed() < FRESH,
            None => self.latest.has_changed().is_ok(),
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Default for Resolver {
    /// A resolver that follows the system's configuration.
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Resolver {
    /// A resolver that asks these name servers, or without any those that the system's configuration names. The hosts
    /// file comes first in either case.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self::with_system(System::asking(servers))
    }

    fn with_system(system: System) -> Self {
        Self(Arc::new(Shared { system: Mutex::new(system), known: Mutex::default(), answers: Mutex::default() }))
    }

    /// All addresses of an endpoint, IPv4 first, at least one. An IP literal never touches DNS. Waits three seconds at most,
    /// and then, or if the look-up fails, falls back on what it found last.
    pub async fn resolve(&self, endpoint: &Endpoint) -> Result<Vec<SocketAddr>, DnsError> {
        if let Some(address) = endpoint.literal() {
            return Ok(vec![address]);
        }
        let found = System::look_up(&self.0.system, &endpoint.host).await;
        let ips = self.or_last(&endpoint.host, found)?;
        Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, endpoint.port)).collect())
    }

    /// What was found, or else what was found before.
    fn or_last(&self, host: &str, found: Result<Vec<IpAddr>, DnsError>) -> Result<Vec<IpAddr>, DnsError> {
        let mut answers = self.0.answers.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(ips) => {
                // Which one goes does not matter: nobody has that many names but by mistake.
                if answers.len() >= KNOWN_MAX && !answers.contains_key(host) {
                    let any = answers.keys().next().cloned();
                    any.and_then(|name| answers.remove(&name));
                }
                answers.insert(host.to_owned(), ips.clone());
                Ok(ips)
            }
            Err(error) => answers.get(host).cloned().ok_or(error),
        }
    }

    /// The one address by which a node is known, for names that a Sentinel or a backend uses for a node.
    ///
    /// Stays with the address it gave last while that is still among the answers (a name with several addresses must
    /// not look like a node that moves), and also when no answer comes: an address that was right a moment ago is
    /// better than none in a failover. Asks at most once a second for each name, and where it has an older answer
    /// waits only a tenth of a second for a newer one.
    ///
    /// Cancel safe: the look-up goes on, and its outcome is kept. Must be called within a tokio runtime.
    pub async fn locate(&self, endpoint: &Endpoint) -> Result<SocketAddr, DnsError> {
        if let Some(address) = endpoint.literal() {
            return Ok(address);
        }
        let Known { last, mut latest, .. } = self.renewed(endpoint);
        let outcome = latest.wait_for(Option::is_some);
        let outcome = match last {
            None => outcome.await.ok(),
            // An answer that comes later is there for the next one who asks.
            Some(_) => timeout(REFRESH_TIMEOUT, outcome).await.ok().and_then(Result::ok),
        };
        match (outcome.and_then(|outcome| outcome.clone()), last) {
            (Some((outcome, _)), _) => outcome,
            (None, Some(last)) => Ok(last),
            (None, None) => Err(DnsError::Timeout { name: endpoint.host.clone() }),
        }
    }

    /// Locates all these at the same time, as far as it can be done within `limit`; [`known`](Self::known) has the
    /// outcomes.
    pub async fn locate_all(&self, endpoints: impl IntoIterator<Item = Endpoint>, limit: Duration) {
        // Beginning is what takes effect: the look-ups run in tasks of their own.
        let names: Vec<_> = endpoints.into_iter().filter(|e| e.literal().is_none()).collect();
        for name in &names {
            self.renewed(name);
        }
        let _ = timeout(limit, async {
            for name in &names {
                let _ = self.locate(name).await;
            }
        })
        .await;
    }

    /// What [`locate`](Self::locate) would say without waiting, however old; none for a name not yet located.
    pub fn known(&self, endpoint: &Endpoint) -> Option<SocketAddr> {
        match endpoint.literal() {
            Some(address) => Some(address),
            None => self.0.known.lock().unwrap_or_else(PoisonError::into_inner).get(endpoint)?.address(),
        }
    }

    /// The name by which the node at an address was last asked for, if it was by one.
    pub fn name_of(&self, address: SocketAddr) -> Option<String> {
        let all = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let its = all.iter().filter(|(_, known)| known.address() == Some(address));
        its.max_by_key(|(_, known)| known.asked).map(|(endpoint, _)| endpoint.host.clone())
    }

    /// What is known of a name, with a look-up begun if the latest one is not fresh.
    fn renewed(&self, endpoint: &Endpoint) -> Known {
        let mut all = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.get(endpoint);
        if let Some(known) = before.filter(|known| known.is_fresh()) {
            return known.clone();
        }
        let last = before.and_then(Known::address);
        if before.is_none()
            && all.len() >= KNOWN_MAX
            && let Some(oldest) = all.iter().min_by_key(|(_, k)| k.asked).map(|(e, _)| e.clone())
        {
            all.remove(&oldest);
        }
        let (sender, latest) = watch::channel(None);
        let known = Known { last, latest, asked: Instant::now() };
        all.insert(endpoint.clone(), known.clone());
        let (resolver, endpoint) = (self.clone(), endpoint.clone());
        tokio::spawn(async move {
            let outcome = match (resolver.resolve(&endpoint).await, last) {
                (Ok(addresses), Some(last)) if addresses.contains(&last) => Ok(last),
                (Ok(addresses), _) => Ok(addresses[0]),
                (Err(_), Some(last)) => Ok(last),
                (Err(error), None) => Err(error),
            };
            sender.send_replace(Some((outcome, Instant::now())));
        });
        known
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::system::tests::{asking, hosts_only, name_server};
    use super::system::{LOOKUP_TIMEOUT, QUERY_TIMEOUT};
    use super::*;

    fn endpoint(host: &str) -> Endpoint {
        Endpoint { host: host.to_owned(), port: 6379 }
    }

    fn resolver(system: System) -> Resolver {
        Resolver::with_system(system)
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn literals_never_touch_dns() {
        let resolver = resolver(hosts_only());
        assert_eq!(resolver.resolve(&endpoint("10.0.0.1")).await, Ok(vec![address("10.0.0.1:6379")]));
        assert_eq!(resolver.locate(&endpoint("10.0.0.1")).await, Ok(address("10.0.0.1:6379")));
        assert_eq!(resolver.known(&endpoint("::1")), Some(address("[::1]:6379")));
    }

    #[tokio::test]
    async fn a_located_node_keeps_its_address_until_the_name_loses_it() {
        let last = Arc::new(AtomicU8::new(1));
        let resolver = resolver(asking(name_server(last.clone()).await));
        let name = endpoint("redis.example.");
        set(&resolver, &name, "10.0.0.99:6379", Duration::ZERO);
        assert_eq!(resolver.locate(&name).await, Ok(address("10.0.0.99:6379")), "fresh");

        set(&resolver, &name, "10.0.0.99:6379", FRESH);
        assert_eq!(resolver.locate(&name).await, Ok(address("10.0.0.99:6379")), "still among the answers");

        set(&resolver, &name, "10.0.0.50:6379", FRESH);
        let moved = resolver.locate(&name).await.unwrap();
        assert!([address("10.0.0.1:6379"), address("10.0.0.99:6379")].contains(&moved), "{moved}");

        last.store(0, Ordering::Relaxed);
        set(&resolver, &name, "10.0.0.50:6379", FRESH);
        let asked = Instant::now();
        let kept = resolver.locate(&name).await;
        assert_eq!(kept, Ok(address("10.0.0.50:6379")), "a silent name server does not lose it");
        assert!(asked.elapsed() < QUERY_TIMEOUT, "nor hold it up: {:?}", asked.elapsed());
        assert_eq!(resolver.known(&name), Some(address("10.0.0.50:6379")));
    }

    #[tokio::test]
    async fn a_name_server_that_dies_takes_no_address_with_it() {
        let last = Arc::new(AtomicU8::new(7));
        let resolver = resolver(asking(name_server(last.clone()).await));
        let name = endpoint("redis.example.");
        let mut found = resolver.resolve(&name).await.unwrap();
        found.sort_unstable();
        assert_eq!(found, [address("10.0.0.7:6379"), address("10.0.0.99:6379")]);
        last.store(0, Ordering::Relaxed);
        let mut kept = resolver.resolve(&name).await.unwrap();
        kept.sort_unstable();
        assert_eq!(kept, found, "TTL 0: it was asked, and did not answer");
        assert!(resolver.resolve(&endpoint("other.example.")).await.is_err());
        last.store(8, Ordering::Relaxed);
        assert!(resolver.resolve(&name).await.unwrap().contains(&address("10.0.0.8:6379")), "it is back");
    }

    #[tokio::test]
    async fn a_silent_name_server_is_given_up() {
        let resolver = resolver(asking(name_server(Arc::new(AtomicU8::new(0))).await));
        let asked = Instant::now();
        assert!(resolver.locate(&endpoint("redis.example.")).await.is_err());
        assert!(asked.elapsed() <= LOOKUP_TIMEOUT + QUERY_TIMEOUT, "{:?}", asked.elapsed());
        let again = Instant::now();
        assert!(resolver.locate(&endpoint("redis.example.")).await.is_err());
        assert!(again.elapsed() < QUERY_TIMEOUT, "a failure is remembered: {:?}", again.elapsed());
    }

    #[tokio::test]
    async fn what_is_known_is_bounded() {
        let resolver = resolver(hosts_only());
        for n in 0..KNOWN_MAX + 10 {
            resolver.renewed(&endpoint(&format!("n{n}")));
        }
        let known = resolver.0.known.lock().unwrap();
        assert_eq!(known.len(), KNOWN_MAX);
        assert!(!known.contains_key(&endpoint("n0")));
        assert!(known.contains_key(&endpoint(&format!("n{}", KNOWN_MAX + 9))));
    }

    #[tokio::test]
    async fn names_are_located_together_and_within_the_limit() {
        let resolver = resolver(asking(name_server(Arc::new(AtomicU8::new(0))).await));
        let names = (0..20).map(|n| endpoint(&format!("n{n}.example.")));
        let asked = Instant::now();
        resolver.locate_all(names.chain([endpoint("10.0.0.1")]), Duration::from_millis(100)).await;
        assert!(asked.elapsed() < QUERY_TIMEOUT, "{:?}", asked.elapsed());
        let known = resolver.0.known.lock().unwrap();
        assert_eq!(known.len(), 20, "literals are not looked up");
        assert!(known.values().all(|k| k.is_fresh()), "and nobody asks twice while they are under way");
    }

    /// Makes `resolver` believe that it found `name` there, `age` ago.
    fn set(resolver: &Resolver, name: &Endpoint, at: &str, age: Duration) {
        let then = Instant::now() - age;
        let latest = watch::channel(Some((Ok(address(at)), then))).1;
        let known = Known { last: None, latest, asked: then };
        resolver.0.known.lock().unwrap().insert(name.clone(), known);
    }
}
