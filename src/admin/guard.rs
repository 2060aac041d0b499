//! Who may ask for what. Changing something, or seeing what single clients do, takes the token, or, where none is
//! configured, a connection from this machine; and never a browser, which any page may make send requests. Reading is open,
//! unless it is configured to take the token too.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::http::uri::Authority;
use subtle::ConstantTimeEq;

use super::routes::{Answer, TEXT};
use crate::addr::ClientAddr;
use crate::complaints::Complaints;
use crate::config::{AdminConfig, ListenerConfig, Secret};

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// From where.
    pub(super) peer: ClientAddr,
    /// Which of the listening sockets it came to.
    pub(super) listener: usize,
}

/// Why a request, or a connection for one, was turned away; label `reason`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Refusal {
    /// It had no token, or another one.
    Token,
    /// A browser sent it.
    Origin,
    /// It came from where it may not come from.
    Address,
    /// It asked for what there is not, or in a way that there is not.
    Unknown,
    /// Its head or its body was too large.
    Large,
    /// It did not come in time.
    Slow,
    /// Its connection was the oldest of too many.
    Crowded,
}

impl Refusal {
    /// What an answer with this status has refused, other than by the guard.
    pub(super) fn of(status: StatusCode) -> Option<Self> {
        match status {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Some(Self::Unknown),
            StatusCode::PAYLOAD_TOO_LARGE => Some(Self::Large),
            StatusCode::REQUEST_TIMEOUT => Some(Self::Slow),
            _ => None,
        }
    }
}

/// Label values of [`Refusal`], in its order.
pub const REFUSALS: [&str; 7] = ["token", "origin", "address", "unknown", "large", "slow", "crowded"];

/// The requests that were turned away.
#[derive(Debug, Default)]
pub(super) struct Refused {
    counts: [AtomicU64; REFUSALS.len()],
    log: Complaints,
}

impl Refused {
    /// How many, with the labels.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REFUSALS.into_iter().zip(self.counts.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Counts one.
    pub(super) fn count(&self, why: Refusal) {
        self.counts[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one and says so in the log, if nothing was said of another lately.
    fn note(&self, why: Refusal, what: &str, caller: &Caller) {
        self.count(why);
        if let Some(unsaid) = self.log.due() {
            tracing::warn!(from = %caller.peer, unsaid, "admin: {what} was refused: {}", REFUSALS[why as usize]);
        }
    }
}

/// Turns away who may not ask for `what`; `cautious`: it changes something, or tells of single clients.
pub(super) fn admit(
    config: &AdminConfig,
    refused: &Refused,
    caller: &Caller,
    headers: &HeaderMap,
    what: &str,
    cautious: bool,
) -> Result<(), Answer> {
    let (why, status, words) = match judge(config, caller, headers, cautious) {
        Ok(()) => return Ok(()),
        Err(refusal) => refusal,
    };
    refused.note(why, what, caller);
    Err(Answer(status, TEXT, format!("{what} {words}\n")))
}

/// Whether all that this request lacks is the token.
pub(super) fn lacks_token(config: &AdminConfig, caller: &Caller, headers: &HeaderMap) -> bool {
    matches!(judge(config, caller, headers, false), Err((Refusal::Token, ..)))
}

fn judge(
    config: &AdminConfig,
    caller: &Caller,
    headers: &HeaderMap,
    cautious: bool,
) -> Result<(), (Refusal, StatusCode, &'static str)> {
    if let (Some(ip), Some(listener)) = (caller.peer.ip(), config.listen.get(caller.listener)) {
        let ListenerConfig { allow, .. } = listener;
        if !allow.is_empty() && !allow.contains(ip) {
            return Err((
                Refusal::Address,
                StatusCode::FORBIDDEN,
                "is for other networks than yours (`allow` of `admin`)",
            ));
        }
    }
    if cautious && headers.contains_key(ORIGIN) {
        return Err((Refusal::Origin, StatusCode::FORBIDDEN, "is not ordered by a browser"));
    }
    match &config.token {
        Some(token) if cautious || config.token_for_reads => match shown(headers) {
            Some(shown) if is_same(shown, token) => Ok(()),
            Some(_) => Err((Refusal::Token, StatusCode::UNAUTHORIZED, "takes another token than this one")),
            None => {
                let words = "takes the token of `admin_token`, as `Authorization: Bearer TOKEN`";
                Err((Refusal::Token, StatusCode::UNAUTHORIZED, words))
            }
        },
        // A browser says nothing of its origin to the name that the page came from, and any name may lead here.
        None if cautious && headers.get(HOST).is_some_and(|host| !is_address(host)) => {
            let words = "is asked for by an address or `localhost`, not by a name, since there is no `admin_token`";
            Err((Refusal::Origin, StatusCode::FORBIDDEN, words))
        }
        None if cautious && caller.peer.ip().is_some_and(|ip| !ip.is_loopback()) => {
            let words = "is ordered from this host only, by a loopback address or a Unix socket, since there is no `admin_token`";
            Err((Refusal::Address, StatusCode::FORBIDDEN, words))
        }
        _ => Ok(()),
    }
}

/// Whether a `Host` is one that no name server is asked for (RFC 9110, 7.2).
fn is_address(host: &HeaderValue) -> bool {
    let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    host.is_some_and(|host| {
        let host = host.host();
        host.eq_ignore_ascii_case("localhost") || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
    })
}

/// The token that a request shows (RFC 6750, 2.1; the scheme in any case, as RFC 9110 has it).
fn shown(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Compares in a time that tells nothing of where they differ.
fn is_same(shown: &[u8], token: &Secret) -> bool {
    shown.ct_eq(token.expose()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::ListenAddr;

    fn verdict(config: &AdminConfig, peer: &str, headers: &[(&'static str, &str)], cautious: bool) -> Option<Refusal> {
        let peer = peer.parse().map_or_else(|_| ClientAddr::Unix(peer.into()), ClientAddr::Tcp);
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        judge(config, &Caller { peer, listener: 0 }, &headers, cautious).err().map(|(why, ..)| why)
    }

    #[test]
    fn without_a_token_orders_come_from_this_machine() {
        let config = AdminConfig::default();
        let order = |peer| verdict(&config, peer, &[], true);
        assert_eq!(["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "/run/admin.sock"].map(order), [None; 4]);
        assert_eq!(["10.0.0.1:1", "[2001:db8::1]:1"].map(order), [Some(Refusal::Address); 2]);
        assert_eq!(verdict(&config, "10.0.0.1:1", &[], false), None, "whoever reaches it may read");
        assert_eq!(verdict(&config, "127.0.0.1:1", &[("origin", "null")], true), Some(Refusal::Origin));
    }

    #[test]
    fn without_a_token_nothing_is_ordered_by_a_name_that_may_be_anybodys() {
        let config = AdminConfig::default();
        let order = |host| verdict(&config, "127.0.0.1:1", &[("host", host)], true);
        assert_eq!(["127.0.0.1:9600", "localhost:9600", "LOCALHOST", "[::1]:9600", "10.0.0.1"].map(order), [None; 5]);
        assert_eq!(["evil.example:9600", "127.0.0.1.evil.example", ""].map(order), [Some(Refusal::Origin); 3]);
        assert_eq!(verdict(&config, "127.0.0.1:1", &[("host", "evil.example")], false), None);
    }

    #[test]
    fn with_a_token_orders_take_it_wherever_they_come_from() {
        let token = Some(Secret::new("0123456789abcdef"));
        let mut config = AdminConfig { token, ..AdminConfig::default() };
        let right = ("authorization", "bearer 0123456789abcdef");
        for peer in ["127.0.0.1:1", "10.0.0.1:1", "/run/admin.sock"] {
            assert_eq!(verdict(&config, peer, &[right], true), None);
            for wrong in
                ["Bearer 0123456789abcdeg", "Bearer 0123456789abcde", "Bearer", "Bearer ", "Basic 0123456789abcdef", ""]
            {
                let verdict = verdict(&config, peer, &[("authorization", wrong)], true);
                assert_eq!(verdict, Some(Refusal::Token), "{wrong} from {peer}");
            }
            assert_eq!(verdict(&config, peer, &[], true), Some(Refusal::Token));
            assert_eq!(verdict(&config, peer, &[], false), None);
            assert_eq!(verdict(&config, peer, &[right, ("origin", "http://x")], true), Some(Refusal::Origin));
        }
        config.token_for_reads = true;
        assert_eq!(verdict(&config, "127.0.0.1:1", &[], false), Some(Refusal::Token));
        assert_eq!(verdict(&config, "127.0.0.1:1", &[right], false), None);
    }

    #[test]
    fn from_other_networks_nothing_is_asked() {
        let allow = ["10.0.0.0/8".parse().unwrap()].into_iter().collect();
        let listener = ListenerConfig { allow, ..ListenerConfig::new(ListenAddr::Tcp(([0, 0, 0, 0], 1).into())) };
        let config = AdminConfig { listen: vec![listener], ..AdminConfig::default() };
        assert_eq!(verdict(&config, "10.1.1.1:1", &[], false), None);
        assert_eq!(verdict(&config, "11.1.1.1:1", &[], false), Some(Refusal::Address));
    }
}
