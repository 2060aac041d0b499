//! Names to addresses as the system has them configured: the hosts file, else DNS.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use tokio::time::timeout;

use super::DnsError;

/// Longest wait for one answer of one name server. hickory's own 5 s would outlast a failover.
pub(super) const QUERY_TIMEOUT: Duration = Duration::from_secs(1);
/// Tries per look-up, so that one lost datagram is no failure.
const ATTEMPTS: usize = 2;
/// Longest wait for a look-up, search domains and all.
pub(super) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
/// Answers are kept for their TTL, but no longer than this: a pod that is created anew under its name is found soon.
const MAX_TTL: Duration = Duration::from_secs(5);
/// "No such name" is believed for so long at most: names appear while services start.
const NEGATIVE_TTL: Duration = Duration::from_secs(1);
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";
pub(super) const HOSTS: &str = "/etc/hosts";

/// The system's configuration as last read.
#[derive(Default)]
pub(super) struct System {
    /// Modification times of the two files; a change means reading them again.
    stamps: Option<[Option<SystemTime>; 2]>,
    hosts: Arc<Hosts>,
    /// The name servers to ask; none: those of resolv.conf.
    servers: Vec<SocketAddr>,
    /// None without a usable resolv.conf, in which case names come from the hosts file alone.
    dns: Option<TokioResolver>,
}

impl System {
    /// One that asks these name servers rather than those of resolv.conf, unless there are none.
    pub(super) fn asking(servers: Vec<SocketAddr>) -> Self {
        Self { servers, ..Self::default() }
    }

    /// All addresses of a name, IPv4 first, at least one.
    pub(super) async fn look_up(this: &Mutex<Self>, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        let name = Name::from_utf8(host).map_err(|e| failed(host, &e.to_string()))?;
        let (hosts, dns) = {
            let mut system = this.lock().unwrap_or_else(PoisonError::into_inner);
            system.refresh();
            (system.hosts.clone(), system.dns.clone())
        };
        // A name in the hosts file is not looked for in DNS at all: hickory alone would still ask there for the
        // address family that the file lacks, and wait for the answer.
        let mut ips = Vec::new();
        for family in [RecordType::A, RecordType::AAAA] {
            if let Some(lookup) = hosts.lookup_static_host(&Query::query(name.clone(), family)) {
                ips.extend(lookup.answers().iter().filter_map(|record| record.data.ip_addr()));
            }
        }
        if !ips.is_empty() {
            return Ok(ips);
        }
        let Some(dns) = dns else {
            return Err(DnsError::NoServers { name: host.to_owned() });
        };
        let answer = timeout(LOOKUP_TIMEOUT, dns.lookup_ip(name)).await;
        let answer = answer.map_err(|_| DnsError::Timeout { name: host.to_owned() })?;
        ips.extend(answer.map_err(|e| failed(host, &e.to_string()))?.iter());
        if ips.is_empty() { Err(failed(host, "no address records")) } else { Ok(ips) }
    }

    /// Reads the files again if they changed. hickory reads them once, when it is built. Two `stat` calls for each
    /// look-up of a name; the files are small and local.
    fn refresh(&mut self) {
        let stamps = [RESOLV_CONF, HOSTS].map(modified);
        if self.stamps == Some(stamps) {
            return;
        }
        self.stamps = Some(stamps);
        self.hosts = Arc::new(Hosts::from_system().unwrap_or_default());
        // Fails without resolv.conf or without a server in it; pointsman must start all the same.
        let builder = match self.servers.as_slice() {
            [] => TokioResolver::builder_tokio(),
            servers => Ok(TokioResolver::builder_with_config(config(servers), TokioRuntimeProvider::default())),
        };
        self.dns = builder
            .and_then(|mut builder| {
                tune(builder.options_mut());
                builder.build()
            })
            .inspect_err(|error| tracing::warn!(%error, "no DNS: names are resolved through {HOSTS} only"))
            .ok();
    }
}

/// The servers are asked in this order, first by UDP; no domain is searched.
fn config(servers: &[SocketAddr]) -> ResolverConfig {
    let server = |address: &SocketAddr| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        server.connections.iter_mut().for_each(|connection| connection.port = address.port());
        server
    };
    ResolverConfig::from_name_servers(servers.iter().map(server).collect())
}

fn modified(path: &str) -> Option<SystemTime> {
    Path::new(path).metadata().and_then(|m| m.modified()).ok()
}

fn tune(options: &mut ResolverOpts) {
    options.timeout = QUERY_TIMEOUT;
    options.attempts = ATTEMPTS;
    // Both families, since all addresses are tried; IPv4 first, which is what Redis and Sentinel bind by default.
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.positive_max_ttl = Some(MAX_TTL);
    options.negative_max_ttl = Some(NEGATIVE_TTL);
}

fn failed(name: &str, reason: &str) -> DnsError {
    DnsError::Failed { name: name.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicU8, Ordering};

    use tokio::net::UdpSocket;

    use super::*;

    /// A system without name servers, and with an empty hosts file.
    pub(in crate::net::dns) fn hosts_only() -> System {
        System { stamps: Some([RESOLV_CONF, HOSTS].map(modified)), ..System::default() }
    }

    /// A system whose only name server is `server`, with no hosts file.
    pub(in crate::net::dns) fn asking(server: SocketAddr) -> System {
        let mut system = System::asking(vec![server]);
        system.refresh();
        System { hosts: Arc::default(), ..system }
    }

    /// A name server that answers each A query with 10.0.0.`last` and 10.0.0.99 (TTL 0), and any other with nothing;
    /// while `last` is 0 it is silent.
    pub(in crate::net::dns) async fn name_server(last: Arc<AtomicU8>) -> SocketAddr {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let local = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let (_, from) = socket.recv_from(&mut query).await.unwrap();
                let last = last.load(Ordering::Relaxed);
                if last == 0 {
                    continue;
                }
                // RFC 1035: the question ends two 16-bit fields behind the root label that ends the name.
                let end = 12 + query[12..].iter().position(|b| *b == 0).unwrap() + 5;
                let is_a = query[end - 4..end - 2] == [0, 1];
                let answers: &[u8] = if is_a { &[last, 99] } else { &[] };
                let mut reply = query[..end].to_vec();
                reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, answers.len() as u8, 0, 0, 0, 0]);
                for host in answers {
                    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 10, 0, 0, *host]);
                }
                socket.send_to(&reply, from).await.unwrap();
            }
        });
        local
    }

    async fn look_up(system: System, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        System::look_up(&Mutex::new(system), host).await
    }

    #[tokio::test]
    async fn the_hosts_file_answers_without_dns() {
        let ips = look_up(System::default(), "localhost").await.unwrap();
        assert!(ips.iter().all(IpAddr::is_loopback), "{ips:?}");
        assert!(ips.contains(&Ipv4Addr::LOCALHOST.into()), "{ips:?}");
    }

    #[tokio::test]
    async fn without_resolv_conf_unknown_names_fail_at_once() {
        let system = || System { hosts: Arc::new(Hosts::from_system().unwrap()), ..hosts_only() };
        let error = look_up(system(), "redis.invalid").await.unwrap_err();
        assert_eq!(error, DnsError::NoServers { name: "redis.invalid".to_owned() });
        assert!(look_up(system(), "localhost").await.is_ok());
        assert!(look_up(system(), "a..b").await.is_err());
    }

    #[tokio::test]
    async fn all_addresses_are_given() {
        let system = asking(name_server(Arc::new(AtomicU8::new(1))).await);
        let mut ips = look_up(system, "redis.example.").await.unwrap();
        ips.sort_unstable();
        assert_eq!(ips, [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 99])]);
    }
}
