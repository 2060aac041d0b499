//! Who is told of failovers, and how: by an HTTP request, or by a program that is run.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::Secret;
use super::credentials;
use super::error::{Place, Problem};
use super::resolve::Resolver;
use super::settings::{Given, GivenHook, GivenService, Settings};
use crate::addr::Endpoint;
use crate::tls::{Outgoing, OutgoingSettings};

/// Longest time that a hook may be given: it is one at a time, and what happens meanwhile has to wait.
const MAX_TIMEOUT: Duration = Duration::from_secs(300);

/// More attempts than these are a mistyped number.
const MAX_RETRIES: usize = 100;

/// Headers that are not for whoever configures: pointsman says them itself.
const OWN_HEADERS: [&str; 5] = ["host", "content-type", "content-length", "transfer-encoding", "connection"];

/// What can be told of. The words are part of what is promised to whoever is told: `docs/hooks.md` has an example of each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookEvent {
    /// The first master is confirmed since pointsman, or the service, began.
    MasterFound,
    /// Writes are held, since the master may change.
    FailoverBegun,
    /// Another master is confirmed.
    FailoverCommitted,
    /// The master stayed.
    FailoverAborted,
    /// A provisional commit was undone: an earlier master is master again.
    FailoverRolledBack,
    /// Every node within reach follows the new master; or another failover began before that.
    FailoverFinished,
    /// Acknowledged writes are lost for certain, or more of them than was known.
    LossKnown,
    /// Commands have waited for `hold_timeout`, and are refused from now on.
    HoldTooLong,
    /// They are not any more.
    HoldEnded,
    /// The master is another process under the same address: its data may be gone.
    MasterRestarted,
    /// No majority of the Sentinels is in hearing.
    SentinelQuorumLost,
    /// One is again.
    SentinelQuorumRegained,
    /// Somebody wants to see that the hook works (`pointsman hook`); nothing has happened.
    Trial,
}

/// The words of [`HookEvent`] that can be asked for.
pub const HOOK_EVENTS: &[(&str, HookEvent)] = &[
    ("master_found", HookEvent::MasterFound),
    ("failover_begun", HookEvent::FailoverBegun),
    ("failover_committed", HookEvent::FailoverCommitted),
    ("failover_aborted", HookEvent::FailoverAborted),
    ("failover_rolled_back", HookEvent::FailoverRolledBack),
    ("failover_finished", HookEvent::FailoverFinished),
    ("loss_known", HookEvent::LossKnown),
    ("hold_too_long", HookEvent::HoldTooLong),
    ("hold_ended", HookEvent::HoldEnded),
    ("master_restarted", HookEvent::MasterRestarted),
    ("sentinel_quorum_lost", HookEvent::SentinelQuorumLost),
    ("sentinel_quorum_regained", HookEvent::SentinelQuorumRegained),
];

impl HookEvent {
    /// Its word.
    pub fn word(self) -> &'static str {
        HOOK_EVENTS.iter().find(|(_, event)| *event == self).map_or("trial", |(word, _)| word)
    }
}

/// Somebody who is told.
#[derive(Clone, PartialEq, Debug)]
pub struct HookConfig {
    /// What it is called in the log and the metrics.
    pub name: String,
    /// How it is told.
    pub action: HookAction,
    /// What of; none: everything.
    pub events: Vec<HookEvent>,
    /// Of which services; none: of all.
    pub services: Vec<String>,
    /// Longest time of one attempt.
    pub timeout: Duration,
    /// Attempts after the first.
    pub retries: u32,
}

impl HookConfig {
    /// Whether this is for it.
    pub fn wants(&self, event: HookEvent, service: &str) -> bool {
        (self.events.is_empty() || self.events.contains(&event))
            && (self.services.is_empty() || self.services.iter().any(|s| s == service))
    }
}

/// How somebody is told.
#[derive(Clone, PartialEq, Debug)]
pub enum HookAction {
    /// By a POST of JSON.
    Post(Webhook),
    /// By a program that has the JSON on its standard input.
    Run(Program),
}

/// Where a POST goes, and what it carries beside the JSON.
#[derive(Clone, PartialEq, Debug)]
pub struct Webhook {
    /// Where.
    pub url: WebhookUrl,
    /// More headers. Their values may be secrets.
    pub headers: Vec<(HeaderName, Secret)>,
    /// For `Authorization: Bearer`.
    pub token: Option<Secret>,
    /// With `https`: whom to trust.
    pub tls: Option<Arc<Outgoing>>,
}

/// An `http` or `https` URL. Its path is never printed: that of a chat's incoming webhook is its password.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl {
    /// Whether it is `https`.
    pub https: bool,
    /// Host and port.
    pub endpoint: Endpoint,
    /// Path and query.
    pub path: Secret,
    /// Host, and port where it was given, as for the header `Host`.
    pub authority: String,
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/…", if self.https { "https" } else { "http" }, self.authority)
    }
}

impl WebhookUrl {
    /// # Errors
    /// What is expected. What was found may be a secret, and is not repeated.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let expected = || "expected a URL such as \"https://host/path\", found something else".to_owned();
        let uri: Uri = text.parse().map_err(|_| expected())?;
        let (Some(scheme), Some(authority), Some(path)) = (uri.scheme_str(), uri.authority(), uri.path_and_query())
        else {
            return Err(expected());
        };
        let https = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err("expected a URL that begins with http:// or https://".to_owned()),
        };
        if authority.as_str().contains('@') {
            return Err("user and password in a URL: expected them in `headers`, or a `token`".to_owned());
        }
        let port = match (authority.port_u16(), authority.as_str().ends_with(authority.host())) {
            (Some(0), _) | (None, false) => return Err(expected()),
            (Some(port), _) => port,
            (None, true) => {
                if https {
                    443
                } else {
                    80
                }
            }
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self {
            https,
            endpoint: Endpoint { host, port },
            path: Secret::new(path.as_str()),
            authority: authority.as_str().to_owned(),
        })
    }

    /// Whether what is sent there stays on this machine.
    fn is_local(&self) -> bool {
        let host = &self.endpoint.host;
        self.endpoint.literal().map_or(host == "localhost", |address| address.ip().is_loopback())
    }
}

/// A program and its arguments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// The file.
    pub path: PathBuf,
    /// What it is given.
    pub arguments: Vec<String>,
}

/// A name that can stand in a log, a label and the name of an environment variable.
pub(super) fn name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if text.is_empty() || !text.bytes().all(plain) {
        return Err(format!("expected letters, digits, \"-\" and \"_\", found \"{text}\""));
    }
    Ok(text.to_owned())
}

/// A header. Neither the name nor the value is repeated: who mistakes one for the other has a secret there.
pub(super) fn header(name: &str, value: &str) -> Result<(HeaderName, Secret), String> {
    let expected = || "expected names and values of HTTP headers, { X-Name = \"value\" }".to_owned();
    let name: HeaderName = name.parse().map_err(|_| expected())?;
    if OWN_HEADERS.contains(&name.as_str()) {
        return Err(format!("`{name}` is said by pointsman itself"));
    }
    HeaderValue::from_str(value).map_err(|_| expected())?;
    Ok((name, Secret::new(value)))
}

/// The environment variable that a hook's token may come from.
pub(super) fn token_variable(name: &str) -> String {
    format!("POINTSMAN_HOOK_{}_TOKEN", name.to_ascii_uppercase().replace('-', "_"))
}

impl Resolver<'_> {
    /// The hook, if it is complete; what is wrong with it has been said otherwise.
    pub(super) fn hook(&mut self, h: &GivenHook, services: &[GivenService]) -> Option<HookConfig> {
        let usual = (Duration::from_secs(5), 4);
        let timeout = self.within("timeout", h.timeout.as_ref(), Duration::from_millis(100)..=MAX_TIMEOUT, usual.0);
        let retries = self.within("retries", h.retries.as_ref(), 0..=MAX_RETRIES, usual.1);
        for service in &h.services {
            if !services.iter().any(|s| s.name.as_ref().is_some_and(|name| name.value == service.value)) {
                let message = format!("`services`: there is no service \"{}\"", service.value);
                self.problems.push(Problem::new(&service.place, message));
            }
        }
        if h.name.is_none() {
            self.problems.push(Problem::new(&h.place, "incomplete hook: expected `name`"));
        }
        let action = match (&h.url, &h.exec) {
            (Some(url), None) => self.webhook(h, url).map(HookAction::Post),
            (None, Some(exec)) => self.program(h, exec).map(HookAction::Run),
            (Some(_), Some(exec)) => {
                self.problems.push(Problem::new(&exec.place, "expected `url` or `exec`, found both"));
                None
            }
            (None, None) => {
                let message = "incomplete hook: expected `url`, or `exec` with the path of a program";
                self.problems.push(Problem::new(&h.place, message));
                None
            }
        };
        Some(HookConfig {
            name: h.name.as_ref()?.value.clone(),
            action: action?,
            events: h.events.iter().map(|event| event.value).collect(),
            services: h.services.iter().map(|service| service.value.clone()).collect(),
            timeout,
            retries: u32::try_from(retries).unwrap_or(u32::MAX),
        })
    }

    fn webhook(&mut self, h: &GivenHook, url: &Given<WebhookUrl>) -> Option<Webhook> {
        let headers = h.headers.as_ref().map(|headers| headers.value.clone()).unwrap_or_default();
        let token = self.token(h);
        if let (Some(_), Some(given)) = (&token, &h.headers)
            && headers.iter().any(|(name, _)| name == "authorization")
        {
            self.problems
                .push(Problem::new(&given.place, "`headers`: expected a `token` or Authorization, found both"));
        }
        let mut tls = None;
        if url.value.https {
            let ca_file = h.ca_file.as_ref().map(|file| file.value.clone());
            match Outgoing::load(OutgoingSettings { ca_file, ..OutgoingSettings::default() }) {
                Ok(loaded) => tls = Some(Arc::new(loaded)),
                Err(fault) => {
                    let (key, place) = match &h.ca_file {
                        Some(file) => ("ca_file", &file.place),
                        None => ("url", &url.place),
                    };
                    self.problems.push(Problem::new(place, format!("`{key}`: {}", fault.message)));
                }
            }
        } else if let Some(file) = &h.ca_file {
            self.problems.push(Problem::new(&file.place, "`ca_file` is of no use without https in `url`"));
        }
        if !url.value.https && !url.value.is_local() && (token.is_some() || !headers.is_empty()) {
            let message = "`url`: without https everybody on the way can read the token and the headers";
            self.warnings.push(Problem::new(&url.place, message));
        }
        Some(Webhook { url: url.value.clone(), headers, token, tls })
    }

    /// From the environment, a file of its own, or the configuration.
    fn token(&mut self, h: &GivenHook) -> Option<Secret> {
        if let (Some(_), Some(file)) = (&h.token, &h.token_file) {
            self.problems.push(Problem::new(&file.place, "expected `token` or `token_file`, found both"));
            return None;
        }
        let variable = h.name.as_ref().map(|name| token_variable(&name.value));
        let given = variable.and_then(|name| self.environment.hook_tokens.get(&name).cloned());
        let token = match (given, &h.token_file) {
            (Some(token), _) => Some(token),
            (None, Some(file)) => {
                let read = credentials::read_secret("token", &file.value, &file.place, &mut self.warnings);
                read.map_err(|problem| self.problems.push(problem)).ok()
            }
            (None, None) => h.token.as_ref().map(|token| token.value.clone()),
        };
        let is_bearer = |token: &Secret| token.expose().iter().all(u8::is_ascii_graphic) && !token.expose().is_empty();
        if token.as_ref().is_some_and(|token| !is_bearer(token)) {
            let place = h.token.as_ref().map(|t| &t.place).or(h.token_file.as_ref().map(|f| &f.place));
            let message = "token: expected visible ASCII characters without blanks";
            self.problems.push(Problem::new(place.unwrap_or(&h.place), message));
        }
        token
    }

    /// A variable whose name is misspelt would silently be without effect.
    pub(super) fn warn_of_unused_tokens(&mut self, settings: &Settings) {
        let names = settings.hooks.iter().filter_map(|hook| hook.name.as_ref());
        let variables: Vec<String> = names.map(|name| token_variable(&name.value)).collect();
        for variable in self.environment.hook_tokens.keys().filter(|variable| !variables.contains(variable)) {
            let place = Place::Named("environment");
            self.warnings.push(Problem::new(&place, format!("{variable} is set, and there is no hook of that name")));
        }
    }

    fn program(&mut self, h: &GivenHook, exec: &Given<(PathBuf, Vec<String>)>) -> Option<Program> {
        let headers = h.headers.as_ref().map(|headers| ("headers", &headers.place));
        let token = h.token.as_ref().map(|token| ("token", &token.place));
        let token_file = h.token_file.as_ref().map(|file| ("token_file", &file.place));
        let ca_file = h.ca_file.as_ref().map(|file| ("ca_file", &file.place));
        for (key, place) in [headers, token, token_file, ca_file].into_iter().flatten() {
            self.problems.push(Problem::new(place, format!("`{key}` is of no use without `url`")));
        }
        let (path, arguments) = exec.value.clone();
        if let Some(complaint) = not_executable(&path) {
            self.faults.push(Problem::new(&exec.place, format!("`exec`: {} {complaint}", path.display())));
        }
        Some(Program { path, arguments })
    }
}

fn not_executable(path: &Path) -> Option<String> {
    match path.metadata() {
        Err(error) => Some(format!("cannot be run: {error}")),
        Ok(file) if !file.is_file() => Some("is no file".to_owned()),
        Ok(file) if file.permissions().mode() & 0o111 == 0 => Some("is not executable (chmod +x)".to_owned()),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let parsed = |text: &str| WebhookUrl::parse(text).map(|url| (url.endpoint.to_string(), url.path));
        let found = |endpoint: &str, path: &str| Ok((endpoint.to_owned(), Secret::new(path)));
        assert_eq!(parsed("https://chat.example/hooks/s3cret?x=1"), found("chat.example:443", "/hooks/s3cret?x=1"));
        assert_eq!(parsed("http://127.0.0.1:9094"), found("127.0.0.1:9094", "/"));
        assert_eq!(parsed("http://[::1]:80/a"), found("[::1]:80", "/a"));
        assert_eq!(parsed("http://[::1]/a"), found("[::1]:80", "/a"));
        let shown = format!("{0} {0:?}", WebhookUrl::parse("https://chat.example/hooks/s3cret").expect("a URL"));
        assert_eq!(shown, "https://chat.example/… https://chat.example/…");
        for bad in ["", "chat.example/x", "ftp://s3cret/", "http://u:s3cret@h/", "http://h:s3cret/", "http://h:0/"] {
            let error = WebhookUrl::parse(bad).expect_err(bad);
            assert!(error.contains("URL") && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn every_event_has_its_word() {
        for (word, event) in HOOK_EVENTS {
            assert_eq!(event.word(), *word);
            assert_eq!(serde_json::to_value(event).ok(), Some((*word).into()));
        }
        assert_eq!(HookEvent::Trial.word(), "trial");
    }

    #[test]
    fn a_header_that_is_wrong_is_not_repeated() {
        assert!(header("X-Scope", "a b").is_ok());
        for (name, value) in [("s3cret value", "x"), ("X", "s3cret\n"), ("Content-Length", "3")] {
            let error = header(name, value).expect_err(name);
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
