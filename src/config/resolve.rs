//! From what was given to the typed configuration: environment, defaults, ranges, and what is only wrong in combination.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use nix::unistd::User;

use super::credentials::{self, Environment};
use super::error::{Place, Problem, Problems};
use super::settings::{Given, GivenAdmin, GivenLimits, GivenService, GivenTls, Settings};
use super::{
    Account, AdminConfig, ClientAuth, Config, Limits, LogConfig, ServiceConfig, SlowLogConfig, Source, admin, listener,
    tls,
};
use crate::addr::ListenAddr;
use crate::tls::Outgoing;

/// More worker threads than this are a mistyped number, not a machine.
const MAX_WORKERS: usize = 1024;

/// Longest duration that is accepted, so that a mistyped unit is noticed.
const MAX_DURATION: Duration = Duration::from_secs(3600);

/// What a failover takes after the master was found dead (election, promotion, its spread to the other Sentinels).
pub(crate) const FAILOVER_AFTER_DETECTION: Duration = Duration::from_secs(5);

/// Name of a static service that was given none.
const STATIC_NAME: &str = "redis";

/// A configuration and what is suspicious about it.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The configuration.
    pub config: Config,
    /// For the log; none keeps pointsman from running.
    pub warnings: Vec<Problem>,
    /// The same, of what will keep others from talking to it: certificates that are not valid. `check` fails of them;
    /// `run` does not, since there is more to serve than what they are for.
    pub faults: Vec<Problem>,
}

impl Settings {
    /// Adds the environment and the defaults and checks the whole. All problems are reported at once.
    pub fn resolve(&self, environment: &Environment) -> Result<Resolved, Problems> {
        let mut r = Resolver { environment, problems: Vec::new(), warnings: Vec::new(), faults: Vec::new() };
        let auto = || available_parallelism().map_or(1, usize::from);
        let workers = self.workers.as_ref().and_then(|w| {
            let number = Given::new(w.value?, w.place.clone());
            Some(r.within("workers", Some(&number), 1..=MAX_WORKERS, 1))
        });
        let log = LogConfig::default();
        let config = Config {
            workers: workers.unwrap_or_else(auto),
            admin: r.admin(&self.admin),
            log: LogConfig {
                level: value_or(self.log_level.as_ref(), log.level),
                format: value_or(self.log_format.as_ref(), log.format),
            },
            takeover: self.takeover.as_ref().map(|t| t.value.clone()),
            user: self.user.as_ref().and_then(|user| r.account(user)),
            resolvers: self.resolvers.iter().map(|r| r.value).collect(),
            drain_timeout: r.duration("drain_timeout", self.drain_timeout.as_ref(), 0, Duration::from_secs(30)),
            drain_grace: r.duration("drain_grace", self.drain_grace.as_ref(), 0, Duration::ZERO),
            services: self
                .services
                .iter()
                .map(|s| r.service(s))
                .map(|s| with_state(s, self.state_dir.as_ref()))
                .collect(),
            hooks: self.hooks.iter().filter_map(|h| r.hook(h, &self.services)).collect(),
        };
        if let Some(given) = self.drain_grace.as_ref().filter(|grace| !grace.value.is_zero())
            && given.value >= config.drain_timeout
        {
            let message = format!(
                "`drain_grace`: expected less than drain_timeout ({:?}), of which it is a part, found {:?}",
                config.drain_timeout, given.value
            );
            r.problems.push(Problem::new(&given.place, message));
        }
        r.refuse_equal_names("service", self.services.iter().filter_map(|s| s.name.as_ref()));
        r.refuse_equal_names("hook", self.hooks.iter().filter_map(|h| h.name.as_ref()));
        r.refuse_equal_addresses(self);
        r.warn_of_unused_tokens(self);
        Problems::none_of(r.problems)?;
        Ok(Resolved { config, warnings: r.warnings, faults: r.faults })
    }
}

/// One file for each service. A name may hold what a file name may not: all but letters, digits, `-` and `_` is spelt
/// out in hexadecimal.
fn with_state(service: ServiceConfig, dir: Option<&Given<PathBuf>>) -> ServiceConfig {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let name: String =
        service.name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect();
    let state_file = dir.map(|d| d.value.join(name + ".json"));
    ServiceConfig { state_file, ..service }
}

fn value_or<T: Clone>(given: Option<&Given<T>>, default: T) -> T {
    given.map_or(default, |g| g.value.clone())
}

/// What there is to say, while it is put together.
pub(super) struct Resolver<'a> {
    pub(super) environment: &'a Environment,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    pub(super) faults: Vec<Problem>,
}

impl Resolver<'_> {
    fn admin(&mut self, given: &GivenAdmin) -> AdminConfig {
        let Self { environment, problems, faults, warnings } = self;
        admin::resolve(given, environment, &mut tls::Said { problems, faults, warnings })
    }

    fn account(&mut self, given: &Given<String>) -> Option<Account> {
        let name = &given.value;
        let why = match User::from_name(name) {
            Ok(Some(user)) if user.uid.is_root() => "expected somebody without privileges, found root".to_owned(),
            Ok(Some(user)) => {
                let (name, user, group) = (name.clone(), user.uid.as_raw(), user.gid.as_raw());
                return Some(Account { name, user, group });
            }
            Ok(None) => format!("this machine knows no such name as `{name}`"),
            Err(error) => format!("`{name}` cannot be looked up: {error}"),
        };
        self.problems.push(Problem::new(&given.place, format!("`user`: {why}")));
        None
    }

    fn service(&mut self, s: &GivenService) -> ServiceConfig {
        let before = self.problems.len();
        let Self { environment, problems, warnings, .. } = self;
        let backend = credentials::resolve("backend", &s.backend, &environment.backend, problems, warnings);
        let backend_is_wrong = self.problems.len() > before;
        let source = self.source(s);
        let name = s.name.as_ref().map(|n| n.value.clone()).or_else(|| s.master.as_ref().map(|_| STATIC_NAME.into()));
        match (&name, &s.name) {
            (None, _) => self.missing(s, "`name`, the master name that the Sentinels know"),
            (Some(n), Some(given)) if n.is_empty() || n.contains(|c: char| c.is_whitespace() || c.is_control()) => {
                let found = "found an empty one or one with blanks";
                self.problems.push(Problem::new(&given.place, format!("expected the name of a service, {found}")));
            }
            _ => {}
        }
        if s.listen.is_empty() {
            self.missing(s, "`listen`, at least one IP:PORT or unix:/path");
        }
        if let (Some(given), None) = (&s.client_auth, &backend)
            && given.value == ClientAuth::Inject
            && !backend_is_wrong
        {
            let message = "client_auth \"inject\" gives clients the identity of the backend user: expected \
                           backend_password, backend_password_file or POINTSMAN_BACKEND_PASSWORD";
            self.problems.push(Problem::new(&given.place, message));
        }
        // What is missing has been complained of, so that no configuration comes of it: the rest is checked all the same.
        let source = source.unwrap_or(Source::Sentinels { endpoints: Vec::new(), credentials: None });
        let Self { problems, faults, warnings, .. } = self;
        let mut said = tls::Said { problems, faults, warnings };
        let listen = s.listen.iter().map(|l| listener::resolve(l, &mut said)).collect();
        let usual = ServiceConfig::new(name.unwrap_or_default(), listen, source);
        let service = ServiceConfig {
            backend,
            shape: value_or(s.shape.as_ref(), usual.shape),
            client_auth: value_or(s.client_auth.as_ref(), usual.client_auth),
            commit: value_or(s.commit.as_ref(), usual.commit),
            hold_timeout: self.duration("hold_timeout", s.hold_timeout.as_ref(), 0, usual.hold_timeout),
            confirm_timeout: self.duration("confirm_timeout", s.confirm_timeout.as_ref(), 100, usual.confirm_timeout),
            silence_threshold: self.duration(
                "silence_threshold",
                s.silence_threshold.as_ref(),
                10,
                usual.silence_threshold,
            ),
            connect_timeout: self.duration("connect_timeout", s.connect_timeout.as_ref(), 10, usual.connect_timeout),
            client_idle_timeout: self.duration(
                "client_idle_timeout",
                s.client_idle_timeout.as_ref(),
                0,
                usual.client_idle_timeout,
            ),
            address_map: s.address_map.as_ref().map(|given| given.value.clone()).unwrap_or_default(),
            reissue_pops: value_or(s.reissue_pops.as_ref(), usual.reissue_pops),
            fence_without_quorum: value_or(s.fence_without_quorum.as_ref(), usual.fence_without_quorum),
            fence_old_master: value_or(s.fence_old_master.as_ref(), usual.fence_old_master),
            slowlog: self.slowlog(s, usual.slowlog),
            refuse: value_or(s.refuse.as_ref(), usual.refuse.clone()),
            backend_tls: self.tls("backend_tls", &s.backend_tls, s.master.as_ref().map(|m| m.value.host.clone())),
            sentinel_tls: self.tls("sentinel_tls", &s.sentinel_tls, None),
            limits: self.limits(&s.limits, &usual.limits),
            ..usual
        };
        self.warn_of_short_hold(s, &service);
        service
    }

    fn tls(&mut self, leg: &str, given: &GivenTls, name: Option<String>) -> Option<Arc<Outgoing>> {
        let Self { problems, faults, warnings, .. } = self;
        tls::outgoing(leg, given, name, &mut tls::Said { problems, faults, warnings })
    }

    fn source(&mut self, s: &GivenService) -> Option<Source> {
        for (i, sentinel) in s.sentinels.iter().enumerate() {
            if s.sentinels[..i].iter().any(|other| other.value == sentinel.value) {
                let message = format!("Sentinel {} is given twice", sentinel.value);
                self.problems.push(Problem::new(&sentinel.place, message));
            }
        }
        let fences = [("fence_without_quorum", &s.fence_without_quorum), ("fence_old_master", &s.fence_old_master)];
        for (name, fence) in fences {
            if let (Some(_), Some(fence)) = (&s.master, fence.as_ref().filter(|fence| fence.value)) {
                let message = format!("`{name}` is about failovers, and a service with a fixed `master` has none");
                self.problems.push(Problem::new(&fence.place, message));
            }
        }
        let static_with = |given: &str| format!("a service with a fixed `master` asks no Sentinel: unexpected {given}");
        match (&s.master, s.sentinels.first()) {
            (Some(_), Some(sentinel)) => {
                let message = "expected `sentinels` or a fixed `master`, found both";
                self.problems.push(Problem::new(&sentinel.place, message));
                None
            }
            (Some(master), None) => {
                let user = s.sentinel.user.as_ref().map(|g| &g.place);
                let password = s.sentinel.password.as_ref().map(|g| &g.place);
                let file = s.sentinel.password_file.as_ref().map(|g| &g.place);
                if let Some(place) = user.or(password).or(file) {
                    self.problems.push(Problem::new(place, static_with("sentinel user or password")));
                }
                if let Some(tls) = s.sentinel_tls.on.as_ref().filter(|on| on.value) {
                    self.problems.push(Problem::new(&tls.place, static_with("sentinel_tls")));
                }
                Some(Source::Static(master.value.clone()))
            }
            (None, Some(_)) => {
                let Self { environment, problems, warnings, .. } = self;
                Some(Source::Sentinels {
                    endpoints: s.sentinels.iter().map(|e| e.value.clone()).collect(),
                    credentials: credentials::resolve(
                        "sentinel",
                        &s.sentinel,
                        &environment.sentinel,
                        problems,
                        warnings,
                    ),
                })
            }
            (None, None) => {
                self.missing(s, "`sentinels` (at least one HOST:PORT) or a fixed `master`");
                None
            }
        }
    }

    fn slowlog(&mut self, s: &GivenService, usual: SlowLogConfig) -> SlowLogConfig {
        let slower_than = match s.slowlog_slower_than.as_ref() {
            None => usual.slower_than,
            Some(Given { value: None, .. }) => None,
            Some(Given { value: Some(than), place }) => {
                let given = Given::new(*than, place.clone());
                Some(self.duration("slowlog_slower_than", Some(&given), 0, *than))
            }
        };
        SlowLogConfig {
            slower_than,
            max_len: self.within("slowlog_max_len", s.slowlog_max_len.as_ref(), 0..=10_000, usual.max_len),
            key_bytes: self.within("slowlog_key_bytes", s.slowlog_key_bytes.as_ref(), 0..=1024, usual.key_bytes),
        }
    }

    fn limits(&mut self, given: &GivenLimits, usual: &Limits) -> Limits {
        let any = usize::MAX;
        Limits {
            max_clients: self.within("max_clients", given.max_clients.as_ref(), 1..=any, usual.max_clients),
            max_clients_per_address: given
                .max_clients_per_address
                .as_ref()
                .map(|n| self.within("max_clients_per_address", Some(n), 1..=any, 1)),
            accept_rate: given.accept_rate.as_ref().map(|n| {
                let rate = self.within("accept_rate", Some(n), 1..=1_000_000, 1);
                u32::try_from(rate).unwrap_or(u32::MAX)
            }),
            handshake_timeout: self.duration(
                "handshake_timeout",
                given.handshake_timeout.as_ref(),
                10,
                usual.handshake_timeout,
            ),
            outstanding_bytes: self.within(
                "outstanding_bytes",
                given.outstanding_bytes.as_ref(),
                4096..=any,
                usual.outstanding_bytes,
            ),
            output_bytes: self.within("output_bytes", given.output_bytes.as_ref(), 4096..=any, usual.output_bytes),
            pinned: self.within("pinned", given.pinned.as_ref(), 1..=any, usual.pinned),
            pin_timeout: self.duration("pin_timeout", given.pin_timeout.as_ref(), 0, usual.pin_timeout),
            bulk_bytes: self.within("bulk_bytes", given.bulk_bytes.as_ref(), 1 << 20..=any, usual.bulk_bytes),
            command_bytes: self.within(
                "command_bytes",
                given.command_bytes.as_ref(),
                1 << 20..=any,
                usual.command_bytes,
            ),
        }
    }

    fn missing(&mut self, s: &GivenService, what: &str) {
        self.problems.push(Problem::new(&s.place, format!("incomplete service: expected {what}")));
    }

    fn duration(&mut self, key: &str, given: Option<&Given<Duration>>, min_ms: u64, default: Duration) -> Duration {
        self.within(key, given, Duration::from_millis(min_ms)..=MAX_DURATION, default)
    }

    /// The given value or the default; a complaint if it is out of range.
    pub(super) fn within<T: PartialOrd + Copy + Debug>(
        &mut self,
        key: &str,
        given: Option<&Given<T>>,
        range: std::ops::RangeInclusive<T>,
        default: T,
    ) -> T {
        let Some(given) = given else { return default };
        if !range.contains(&given.value) {
            let (bound, limit) =
                if given.value < *range.start() { ("at least", range.start()) } else { ("at most", range.end()) };
            let message = format!("`{key}`: expected {bound} {limit:?}, found {:?}", given.value);
            self.problems.push(Problem::new(&given.place, message));
        }
        given.value
    }

    fn warn_of_short_hold(&mut self, s: &GivenService, service: &ServiceConfig) {
        let Some(given) = &s.hold_timeout else { return };
        let hold = service.hold_timeout;
        if matches!(service.source, Source::Static(_)) || hold.is_zero() {
            return;
        }
        if hold < FAILOVER_AFTER_DETECTION {
            let message = format!(
                "`hold_timeout`: {hold:?} is shorter than a failover, which takes the Sentinels' \
                 down-after-milliseconds and up to {FAILOVER_AFTER_DETECTION:?} more; clients will see errors"
            );
            self.warnings.push(Problem::new(&given.place, message));
        } else if service.confirm_timeout > hold {
            let message = format!(
                "`hold_timeout`: {hold:?} is shorter than confirm_timeout ({:?}): with a single Sentinel in reach \
                 clients will see errors before its word suffices",
                service.confirm_timeout
            );
            self.warnings.push(Problem::new(&given.place, message));
        }
    }

    fn refuse_equal_names<'n>(&mut self, what: &str, names: impl Iterator<Item = &'n Given<String>>) {
        let names: Vec<_> = names.collect();
        for (i, name) in names.iter().enumerate() {
            if let Some(first) = names[..i].iter().find(|other| other.value == name.value) {
                let message =
                    format!("{what} name `{}` is taken: expected another than at {}", name.value, first.place);
                self.problems.push(Problem::new(&name.place, message));
            }
        }
    }

    fn refuse_equal_addresses(&mut self, settings: &Settings) {
        let listeners = settings.services.iter().flat_map(|s| &s.listen).map(|l| l.address.clone());
        let admin = settings.admin.listen.iter().map(|l| l.address.clone());
        // The admin address last: it is the one to move if a service wants it.
        let all: Vec<Given<ListenAddr>> = listeners.chain(admin).collect();
        for (i, second) in all.iter().enumerate() {
            if let Some(first) = all[..i].iter().find(|first| overlap(&first.value, &second.value)) {
                let message = listens_twice(&first.value, &second.value, &first.place);
                self.problems.push(Problem::new(&second.place, message));
            }
        }
    }
}

fn listens_twice(first: &ListenAddr, second: &ListenAddr, place: &Place) -> String {
    if first == second {
        format!("duplicate listener {second}: expected an address of its own, this one was given at {place}")
    } else {
        format!("listener {second} overlaps with {first} given at {place}: expected an address apart from it")
    }
}

/// Whether the kernel would refuse the second of two listeners.
pub fn overlap(a: &ListenAddr, b: &ListenAddr) -> bool {
    match (a, b) {
        (ListenAddr::Unix(a), ListenAddr::Unix(b)) => a == b,
        (ListenAddr::Tcp(a), ListenAddr::Tcp(b)) => a.port() == b.port() && a.port() != 0 && covers_same(a, b),
        _ => false,
    }
}

fn covers_same(a: &SocketAddr, b: &SocketAddr) -> bool {
    let (a, b) = (a.ip(), b.ip());
    // `[::]` takes IPv4 connections too, unless the system says otherwise.
    let everything = |ip: IpAddr| ip == IpAddr::from([0u16; 8]);
    let all_v4 = |ip: IpAddr| ip == IpAddr::from([0u8; 4]);
    a.to_canonical() == b.to_canonical()
        || everything(a)
        || everything(b)
        || (all_v4(a) && b.to_canonical().is_ipv4())
        || (all_v4(b) && a.to_canonical().is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_overlap_as_the_kernel_sees_it() {
        let overlaps = |a: &str, b: &str| overlap(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(overlaps("127.0.0.1:6379", "127.0.0.1:6379"));
        assert!(overlaps("0.0.0.0:6379", "127.0.0.1:6379"));
        assert!(overlaps("127.0.0.1:6379", "[::]:6379"));
        assert!(overlaps("[::ffff:127.0.0.1]:6379", "127.0.0.1:6379"));
        assert!(overlaps("unix:/run/a", "unix:/run/a"));
        assert!(!overlaps("127.0.0.1:0", "127.0.0.1:0"), "the kernel chooses different ports");
        assert!(!overlaps("127.0.0.1:6379", "127.0.0.2:6379"));
        assert!(!overlaps("127.0.0.1:6379", "127.0.0.1:6380"));
        assert!(!overlaps("0.0.0.0:6379", "[::1]:6379"));
        assert!(!overlaps("unix:/run/a", "unix:/run/b"));
    }
}
