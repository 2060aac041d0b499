//! What was given, by flags or a file, and where: before the environment and the defaults.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hyper::header::HeaderName;
use ipnet::IpNet;

use super::error::Place;
use super::{ClientAuth, Commit, HookEvent, LogFormat, Secret, Shape, WebhookUrl};
use crate::addr::{AddressMap, Endpoint, ListenAddr};
use crate::tls::{ClientCert, Verify};

/// A value and the place that a complaint about it names.
#[derive(Clone, Debug)]
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

impl<T> Given<T> {
    /// A value given at a place.
    pub fn new(value: T, place: Place) -> Self {
        Self { value, place }
    }
}

/// All that was given; the shape of the file. What was not given is `None` or empty.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `workers`; the inner `None` is `"auto"`.
    pub workers: Option<Given<Option<usize>>>,
    /// `admin` and what begins so.
    pub admin: GivenAdmin,
    /// `drain_timeout`
    pub drain_timeout: Option<Given<Duration>>,
    /// `drain_grace`
    pub drain_grace: Option<Given<Duration>>,
    /// `state_dir`
    pub state_dir: Option<Given<PathBuf>>,
    /// `takeover`
    pub takeover: Option<Given<PathBuf>>,
    /// `user`
    pub user: Option<Given<String>>,
    /// `resolvers`
    pub resolvers: Vec<Given<SocketAddr>>,
    /// `log.level`
    pub log_level: Option<Given<String>>,
    /// `log.format`
    pub log_format: Option<Given<LogFormat>>,
    /// The `[[service]]` blocks in order.
    pub services: Vec<GivenService>,
    /// The `[[hook]]` blocks in order.
    pub hooks: Vec<GivenHook>,
}

/// What is said of the admin server.
#[derive(Clone, Debug, Default)]
pub struct GivenAdmin {
    /// `admin`: an address, a table as in `listen`, or several of them.
    pub listen: Vec<GivenListener>,
    /// `admin_token`
    pub token: Option<Given<Secret>>,
    /// `admin_token_file`
    pub token_file: Option<Given<PathBuf>>,
    /// `admin_token_for_reads`
    pub token_for_reads: Option<Given<bool>>,
}

impl GivenAdmin {
    /// Whether a token was given, be it right or wrong.
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some() || self.token_file.is_some()
    }
}

/// One `[[service]]` block.
#[derive(Clone, Debug)]
pub struct GivenService {
    /// Its header, named where a key is missing.
    pub place: Place,
    /// `name`
    pub name: Option<Given<String>>,
    /// `listen`
    pub listen: Vec<GivenListener>,
    /// `sentinels`
    pub sentinels: Vec<Given<Endpoint>>,
    /// `master`
    pub master: Option<Given<Endpoint>>,
    /// `backend_user`, `backend_password`, `backend_password_file`
    pub backend: GivenCredentials,
    /// `sentinel_user`, `sentinel_password`, `sentinel_password_file`
    pub sentinel: GivenCredentials,
    /// `shape`
    pub shape: Option<Given<Shape>>,
    /// `client_auth`
    pub client_auth: Option<Given<ClientAuth>>,
    /// `commit`
    pub commit: Option<Given<Commit>>,
    /// `hold_timeout`
    pub hold_timeout: Option<Given<Duration>>,
    /// `confirm_timeout`
    pub confirm_timeout: Option<Given<Duration>>,
    /// `silence_threshold`
    pub silence_threshold: Option<Given<Duration>>,
    /// `connect_timeout`
    pub connect_timeout: Option<Given<Duration>>,
    /// `client_idle_timeout`
    pub client_idle_timeout: Option<Given<Duration>>,
    /// `address_map`
    pub address_map: Option<Given<AddressMap>>,
    /// `reissue_pops`
    pub reissue_pops: Option<Given<bool>>,
    /// `fence_without_quorum`
    pub fence_without_quorum: Option<Given<bool>>,
    /// `fence_old_master`
    pub fence_old_master: Option<Given<bool>>,
    /// `slowlog_slower_than`; the inner `None` is `"off"`.
    pub slowlog_slower_than: Option<Given<Option<Duration>>>,
    /// `slowlog_max_len`
    pub slowlog_max_len: Option<Given<usize>>,
    /// `slowlog_key_bytes`
    pub slowlog_key_bytes: Option<Given<usize>>,
    /// `refuse`
    pub refuse: Option<Given<Vec<String>>>,
    /// `backend_tls` and what begins so.
    pub backend_tls: GivenTls,
    /// `sentinel_tls` and what begins so.
    pub sentinel_tls: GivenTls,
    /// `limits.…`
    pub limits: GivenLimits,
}

impl GivenService {
    /// A block in which nothing was given.
    pub fn empty(place: Place) -> Self {
        Self {
            place,
            name: None,
            listen: Vec::new(),
            sentinels: Vec::new(),
            master: None,
            backend: GivenCredentials::default(),
            sentinel: GivenCredentials::default(),
            shape: None,
            client_auth: None,
            commit: None,
            hold_timeout: None,
            confirm_timeout: None,
            silence_threshold: None,
            connect_timeout: None,
            client_idle_timeout: None,
            address_map: None,
            reissue_pops: None,
            fence_without_quorum: None,
            fence_old_master: None,
            slowlog_slower_than: None,
            slowlog_max_len: None,
            slowlog_key_bytes: None,
            refuse: None,
            backend_tls: GivenTls::default(),
            sentinel_tls: GivenTls::default(),
            limits: GivenLimits::default(),
        }
    }
}

/// One entry of `listen`, which is a table or its address alone.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields of ListenerConfig and FileAccess, documented there")]
pub struct GivenListener {
    pub address: Given<ListenAddr>,
    pub backlog: Option<Given<u16>>,
    pub mode: Option<Given<u32>>,
    pub owner: Option<Given<String>>,
    pub group: Option<Given<String>>,
    pub proxy_protocol: Vec<Given<IpNet>>,
    pub allow: Vec<Given<IpNet>>,
    pub tls_cert_file: Option<Given<PathBuf>>,
    pub tls_key_file: Option<Given<PathBuf>>,
    pub tls_client_ca_file: Option<Given<PathBuf>>,
    pub tls_client_cert: Option<Given<ClientCert>>,
}

impl From<Given<ListenAddr>> for GivenListener {
    fn from(address: Given<ListenAddr>) -> Self {
        Self {
            address,
            backlog: None,
            mode: None,
            owner: None,
            group: None,
            proxy_protocol: Vec::new(),
            allow: Vec::new(),
            tls_cert_file: None,
            tls_key_file: None,
            tls_client_ca_file: None,
            tls_client_cert: None,
        }
    }
}

/// A user and its password as given.
#[derive(Clone, Debug, Default)]
pub struct GivenCredentials {
    /// The user.
    pub user: Option<Given<String>>,
    /// The password itself.
    pub password: Option<Given<Secret>>,
    /// The file that holds it, relative to the working directory (a file's own paths are already joined to its directory).
    pub password_file: Option<Given<PathBuf>>,
}

/// What is said of TLS on one leg.
#[derive(Clone, Debug, Default)]
pub struct GivenTls {
    /// Whether there is any.
    pub on: Option<Given<bool>>,
    /// `ca_file`; paths as those of passwords.
    pub ca_file: Option<Given<PathBuf>>,
    /// `cert_file`
    pub cert_file: Option<Given<PathBuf>>,
    /// `key_file`
    pub key_file: Option<Given<PathBuf>>,
    /// `server_name`
    pub server_name: Option<Given<String>>,
    /// `verify`
    pub verify: Option<Given<Verify>>,
}

/// One `[[hook]]` block.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the keys of the block; HookConfig, Webhook and Program say what they are for")]
pub struct GivenHook {
    /// Its header, named where a key is missing.
    pub place: Place,
    pub name: Option<Given<String>>,
    pub url: Option<Given<WebhookUrl>>,
    pub token: Option<Given<Secret>>,
    pub token_file: Option<Given<PathBuf>>,
    pub headers: Option<Given<Vec<(HeaderName, Secret)>>>,
    pub ca_file: Option<Given<PathBuf>>,
    pub exec: Option<Given<(PathBuf, Vec<String>)>>,
    pub events: Vec<Given<HookEvent>>,
    pub services: Vec<Given<String>>,
    pub timeout: Option<Given<Duration>>,
    pub retries: Option<Given<usize>>,
}

/// The keys of `limits`, as in [`super::Limits`].
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the fields of Limits, documented there")]
pub struct GivenLimits {
    pub max_clients: Option<Given<usize>>,
    pub max_clients_per_address: Option<Given<usize>>,
    pub accept_rate: Option<Given<usize>>,
    pub handshake_timeout: Option<Given<Duration>>,
    pub outstanding_bytes: Option<Given<usize>>,
    pub output_bytes: Option<Given<usize>>,
    pub pinned: Option<Given<usize>>,
    pub pin_timeout: Option<Given<Duration>>,
    pub bulk_bytes: Option<Given<usize>>,
    pub command_bytes: Option<Given<usize>>,
}
