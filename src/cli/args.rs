//! The flags. Passwords have none: a flag shows in `ps`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args, Parser, Subcommand};

use super::admin::Place;
use crate::addr::{Endpoint, ListenAddr};
use crate::admin::ClientState;
use crate::config::{
    self, CLIENT_AUTH, COMMIT, ClientAuth, Commit, Given, GivenCredentials, GivenListener, GivenService, LOG_FORMAT,
    LogFormat, Settings, VERIFY, duration, endpoint, listen_addr, log_level, workers,
};
use crate::demo::DemoArgs;
use crate::insight::MAX_FOR;
use crate::metrics::STAGES;
use crate::tls::Verify;

/// A Redis Sentinel proxy: one fixed address that follows the master.
#[derive(Debug, Parser)]
#[command(name = "pointsman", version, about, after_help = AFTER_HELP, subcommand_required = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

const AFTER_HELP: &str = "\
Exit codes:
  0   clean end
  1   `switchover`, `drill`: the master was changed, and something is left to do or was noticed
  64  wrong usage
  69  `check --online`: a server does not answer as it should; `status` and all that ask or order something of a
      pointsman that runs: it does not; `hook`: the hook could not be told
  71  an address cannot be bound, or the pointsman that runs did not give up its place (`takeover`)
  75  `status`: reads or writes of some service wait or are refused
      `switchover`, `drill`: refused or undone, everything is as before
  78  wrong configuration; `reload`: so nothing has changed

Example:
  pointsman run --sentinel s1:26379,s2:26379,s3:26379 --service mymaster --listen 127.0.0.1:6379";

const SECRETS_HELP: &str = "\
Passwords are never flags, since flags show in `ps`. They come from a password file, else from the \
environment (POINTSMAN_BACKEND_USER, POINTSMAN_BACKEND_PASSWORD, POINTSMAN_SENTINEL_USER, \
POINTSMAN_SENTINEL_PASSWORD, POINTSMAN_ADMIN_TOKEN), else from the configuration file.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve clients.
    #[command(after_help = SECRETS_HELP)]
    Run(Box<ServiceArguments>),
    /// Check a configuration without serving anybody: everything that would keep `run` from starting.
    #[command(after_help = SECRETS_HELP)]
    Check(Box<CheckArguments>),
    /// Show what the pointsman that runs knows: who is master, what flows, what each Sentinel says, the last failovers.
    Status(StatusArguments),
    /// List the clients of the pointsman that runs, and what each is doing.
    Clients(ClientsArguments),
    /// Show the connections to the servers, worker by worker.
    Pools(PoolsArguments),
    /// Show each Sentinel: whether it is heard, when it was last, and what it says.
    Sentinels(SentinelsArguments),
    /// Watch the services: rates, latency, clients and what waits, drawn anew each second.
    Top(TopArguments),
    /// Change the master on purpose, losing nothing: orders it of the pointsman that runs on this machine.
    Switchover(SwitchoverArguments),
    /// Switch over and back on a set-up in use, and tell what its clients noticed.
    Drill(DrillArguments),
    /// Have the pointsman that runs read its configuration again, as SIGHUP does: prints what changed, or why nothing did.
    Reload(ReloadArguments),
    /// Show the commands that took longest, and where they waited: for a master, for their turn, or at the server.
    Slowlog(SlowlogArguments),
    /// Look at the commands of a service for some seconds, and show which keys most of them are about.
    Hotkeys(HotkeysArguments),
    /// Tell a hook of the configuration that it is being tried, and see what comes of it.
    Hook(HookArguments),
    /// Have the commands of a service wait until they are resumed: nothing is refused, and nobody is disconnected.
    Pause(PauseArguments),
    /// Have the commands of a paused service go on.
    Resume(ResumeArguments),
    /// Set what the pointsman that runs logs.
    LogLevel(LogLevelArguments),
    /// See a failover: three Redis servers, three Sentinels and pointsman on free local ports, under load.
    Demo(DemoArguments),
}

#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// Also ask every Sentinel and every master whether they answer as they should.
    #[arg(long)]
    pub(super) online: bool,
    #[command(flatten)]
    pub(super) service: ServiceArguments,
}

/// Which running pointsman is meant.
#[derive(Debug, Args)]
pub(super) struct AdminArguments {
    /// Its admin address: HOST:PORT or unix:/path.
    #[arg(long, value_name = "ADDR", help_heading = "Which pointsman")]
    pub(super) admin: Option<Place>,
    /// The file that it was started with, for its admin address and token.
    #[arg(short, long, value_name = "FILE", help_heading = "Which pointsman")]
    pub(super) config: Option<PathBuf>,
    /// File whose one line is the token of its admin server. [default: that of --config, else POINTSMAN_ADMIN_TOKEN]
    #[arg(long, value_name = "FILE", help_heading = "Which pointsman")]
    pub(super) token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) tls: AdminTls,
}

/// How TLS is spoken with it. Each of these has it spoken.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS to its admin server")]
pub(super) struct AdminTls {
    /// Speak TLS. [default: as --config says]
    #[arg(long)]
    pub(super) tls: bool,
    /// Who signs its certificate. [default: the authorities of the system]
    #[arg(long, value_name = "FILE")]
    pub(super) tls_ca_file: Option<PathBuf>,
    /// The certificate to show it.
    #[arg(long, value_name = "FILE", requires = "tls_key_file")]
    pub(super) tls_cert_file: Option<PathBuf>,
    /// The key of that certificate.
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub(super) tls_key_file: Option<PathBuf>,
    /// The name to expect in its certificate. [default: the host of --admin]
    #[arg(long, value_name = "NAME")]
    pub(super) tls_server_name: Option<String>,
    /// What is looked at of its certificate. [default: full]
    #[arg(long, value_name = "HOW", value_parser = one_of(VERIFY))]
    pub(super) tls_verify: Option<Verify>,
}

#[derive(Debug, Args)]
pub(super) struct ClientsArguments {
    /// Name of the service. [default: all]
    pub(super) service: Option<String>,
    /// Only those who are authenticated as this user.
    #[arg(long, value_name = "NAME")]
    pub(super) user: Option<String>,
    /// Only those who call themselves so (CLIENT SETNAME).
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Only those whose address begins so, such as 10.0.0.7: or 10.0.
    #[arg(long, value_name = "ADDR")]
    pub(super) addr: Option<String>,
    /// Only those in this state.
    #[arg(long, value_name = "STATE", value_parser = one_of(&ClientState::ALL))]
    pub(super) state: Option<ClientState>,
    /// So many of each service at most, the eldest first.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub(super) limit: usize,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) admin: AdminArguments,
}

#[derive(Debug, Args)]
pub(super) struct PoolsArguments {
    /// Name of the service. [default: all]
    pub(super) service: Option<String>,
    /// Print the JSON of `GET /pools`.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) admin: AdminArguments,
}

#[derive(Debug, Args)]
pub(super) struct SentinelsArguments {
    /// Name of the service. [default: all]
    pub(super) service: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) admin: AdminArguments,
}

#[derive(Debug, Args)]
pub(super) struct TopArguments {
    /// Print so many tables and end, rather than draw.
    #[arg(short = 'n', long = "rounds", value_name = "N")]
    pub(super) rounds: Option<u32>,
    /// Print table below table, rather than draw; as where the output is no terminal.
    #[arg(long)]
    pub(super) plain: bool,
    /// Time between two looks, up to 25s.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub(super) interval: Duration,
    #[command(flatten)]
    pub(super) admin: AdminArguments,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    let range = Duration::from_millis(100)..=Duration::from_secs(25);
    if range.contains(&interval) { Ok(interval) } else { Err(format!("expected 100ms to 25s, found {interval:?}")) }
}

#[derive(Debug, Args)]
pub(super) struct PauseArguments {
    /// Name of the service.
    pub(super) service: String,
    /// Resume by itself after this time, such as 30s or 5m.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub(super) lasting: Option<Duration>,
    #[command(flatten)]
    pub(super) admin: AdminArguments,
}

#[derive(Debug, Args)]
pub(super) struct ResumeArguments {
    /// Name of the service.
    pub(super) service: String,
    #[command(flatten)]
    pub(super) admin: AdminArguments,
}

#[derive(Debug, Args)]
pub(super) struct LogLevelArguments {
    /// off, error, warn, info, debug, or by module, such as pointsman::sentinel=debug,info; `default` is what is configured.
    #[arg(value_parser = level_or_default)]
    pub(super) level: String,
    #[command(flatten)]
    pub(super) admin: AdminArguments,
}

/// What sets the level back.
pub(super) const DEFAULT_LEVEL: &str = "default";

fn level_or_default(text: &str) -> Result<String, String> {
    if text == DEFAULT_LEVEL { Ok(text.to_owned()) } else { log_level(text) }
}

#[derive(Debug, Args)]
pub(super) struct ReloadArguments {
    #[command(flatten)]
    pub(super) admin: AdminArguments,
}

#[derive(Debug, Args)]
pub(super) struct HookArguments {
    /// Name of the hook.
    pub(super) name: String,
    /// The file that it is in.
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    /// Name of the service. [default: all]
    pub(super) service: Option<String>,
    /// Show the failover of this number with all its events.
    #[arg(long, value_name = "N", conflicts_with_all = ["failovers", "json"])]
    pub(super) failover: Option<u64>,
    /// Show all failovers on record with all their events.
    #[arg(long, conflicts_with = "json")]
    pub(super) failovers: bool,
    /// Print the JSON of `GET /status`.
    #[arg(long)]
    pub(super) json: bool,
    /// Only ask whether it is worth sending clients to (`GET /readyz`): 0 or 69. For health checks.
    #[arg(long, conflicts_with_all = ["service", "failover", "failovers", "json"])]
    pub(super) ready: bool,
    #[command(flatten)]
    pub(super) admin: AdminArguments,
}

#[derive(Debug, Args)]
pub(super) struct SlowlogArguments {
    /// Name of the service. [default: all]
    pub(super) service: Option<String>,
    /// Only those that spent most of their time there: in a hold, in the queue of a connection, or at the backend.
    #[arg(long, value_name = "STAGE", value_parser = PossibleValuesParser::new(STAGES))]
    pub(super) stage: Option<String>,
    /// How many at most, the newest of each service.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, conflicts_with = "json")]
    pub(super) last: usize,
    /// Print the JSON of `GET /slowlog`.
    #[arg(long, conflicts_with = "stage")]
    pub(super) json: bool,
    /// Forget what is kept instead of showing it.
    #[arg(long, conflicts_with_all = ["json", "stage"])]
    pub(super) reset: bool,
    #[command(flatten)]
    pub(super) admin: AdminArguments,
}

#[derive(Debug, Args)]
pub(super) struct HotkeysArguments {
    /// Name of the service.
    pub(super) service: String,
    /// How long the sample is taken, 30s at most. Ctrl-C ends it, and nothing is shown.
    #[arg(long = "for", value_name = "DURATION", value_parser = sample_duration, default_value = "5s")]
    pub(super) lasting: Duration,
    /// How many keys are shown.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) top: usize,
    /// One of how many commands is looked at, on average.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(super) one_in: u32,
    /// Print the JSON of `POST /hotkeys`.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) admin: AdminArguments,
}

#[derive(Debug, Args)]
pub(super) struct SwitchoverArguments {
    /// Name of the service.
    pub(super) service: String,
    /// The replica that is to be master. [default: whichever Sentinel chooses]
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) to: Option<String>,
    /// Only check whether it can work.
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) admin: AdminArguments,
}

#[derive(Debug, Args)]
pub(super) struct DrillArguments {
    /// Name of the service.
    #[arg(long, value_name = "NAME")]
    pub(super) service: String,
    #[command(flatten)]
    pub(super) admin: AdminArguments,
}

/// One service by flags, or any number by a file. The flags that concern the whole process go with either.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("source").required(true).args(["config", "sentinel", "master"]))]
pub(super) struct ServiceArguments {
    /// TOML file with all that the flags can say and more; goes with none of the flags that describe a service.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = SERVICE_FLAGS)]
    pub(super) config: Option<PathBuf>,

    /// Sentinels to ask for the master; the others are learned from them.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = endpoint, requires_all = ["service", "listen"], help_heading = "Service")]
    sentinel: Vec<Endpoint>,
    /// Fixed master, for where there is no Sentinel (a developer's machine).
    #[arg(long, value_name = "HOST:PORT", value_parser = endpoint, requires = "listen", help_heading = "Service")]
    master: Option<Endpoint>,
    /// Name under which the Sentinels monitor the master.
    #[arg(long, value_name = "NAME", help_heading = "Service")]
    service: Option<String>,
    /// Where clients connect: IP:PORT or unix:/path.
    #[arg(long, value_name = "ADDR", value_delimiter = ',', value_parser = listen_addr, help_heading = "Service")]
    listen: Vec<ListenAddr>,
    /// Whose identity a client has before it says AUTH: none, or that of the backend user. [default: passthrough]
    #[arg(long, value_name = "WHOSE", value_parser = one_of(CLIENT_AUTH), help_heading = "Service")]
    client_auth: Option<ClientAuth>,
    /// When a promotion counts: once two Sentinels confirm it, or at once. [default: confirmed]
    #[arg(long, value_name = "WHEN", value_parser = one_of(COMMIT), help_heading = "Service")]
    commit: Option<Commit>,
    /// How long a command may wait for a master, such as 500ms or 15s; 0s refuses at once. [default: 15s]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Service")]
    hold_timeout: Option<Duration>,

    /// pointsman's own user at the Redis servers. [default: the `default` user]
    #[arg(long, value_name = "NAME", help_heading = "Passwords")]
    backend_user: Option<String>,
    /// File whose one line is that user's password.
    #[arg(long, value_name = "FILE", help_heading = "Passwords")]
    backend_password_file: Option<PathBuf>,
    /// pointsman's own user at the Sentinels. [default: the `default` user]
    #[arg(long, value_name = "NAME", help_heading = "Passwords")]
    sentinel_user: Option<String>,
    /// File whose one line is that user's password.
    #[arg(long, value_name = "FILE", help_heading = "Passwords")]
    sentinel_password_file: Option<PathBuf>,

    /// Where the HTTP server for /metrics, /livez, /readyz and /status is: IP:PORT or unix:/path. [default: none]
    #[arg(long, value_name = "ADDR", value_delimiter = ',', value_parser = listen_addr, help_heading = "Process")]
    admin: Vec<ListenAddr>,
    /// Worker threads. [default: auto, one for each core]
    #[arg(long, value_name = "N|auto", value_parser = |text: &str| workers(text).map(Workers), help_heading = "Process")]
    workers: Option<Workers>,
    /// How long clients may take to finish after SIGTERM. [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Process")]
    drain_timeout: Option<Duration>,
    /// Directory where the confirmed master is remembered for a start without Sentinels. [default: none]
    #[arg(long, value_name = "DIR", help_heading = "Process")]
    state_dir: Option<PathBuf>,
    /// What is logged: off, error, warn, info, debug, or by module, such as pointsman::sentinel=debug,info. [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = log_level, help_heading = "Process")]
    log_level: Option<String>,
    /// Layout of a log line. [default: text]
    #[arg(long, value_name = "FORMAT", value_parser = one_of(LOG_FORMAT), help_heading = "Process")]
    log_format: Option<LogFormat>,
}

/// The flags that a file replaces. (With a file of several services, which one would they mean?)
const SERVICE_FLAGS: [&str; 11] = [
    "sentinel",
    "master",
    "service",
    "listen",
    "client_auth",
    "commit",
    "hold_timeout",
    "backend_user",
    "backend_password_file",
    "sentinel_user",
    "sentinel_password_file",
];

/// A value of `--workers`; a type of its own since clap takes a bare `Option` for "flag not given".
#[derive(Clone, Copy, Debug)]
struct Workers(Option<usize>);

/// How long a sample of keys is taken.
fn sample_duration(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|d| if d > MAX_FOR { Err(format!("expected {MAX_FOR:?} at most")) } else { Ok(d) })
}

fn one_of<T: Copy + Send + Sync + 'static>(words: &'static [(&'static str, T)]) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(words.iter().map(|(word, _)| *word))
        .try_map(|text| words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or("not a known word"))
}

impl ServiceArguments {
    /// Adds what the flags say; over what a file said where both do.
    pub(super) fn add_to(&self, settings: &mut Settings) {
        over(&mut settings.workers, &self.workers.map(|w| w.0), "--workers");
        if !self.admin.is_empty() {
            settings.admin.listen = all(&self.admin, "--admin").into_iter().map(GivenListener::from).collect();
        }
        over(&mut settings.drain_timeout, &self.drain_timeout, "--drain-timeout");
        over(&mut settings.state_dir, &self.state_dir, "--state-dir");
        over(&mut settings.log_level, &self.log_level, "--log-level");
        over(&mut settings.log_format, &self.log_format, "--log-format");
        if self.config.is_none() {
            settings.services.push(self.service());
        }
    }

    fn service(&self) -> GivenService {
        GivenService {
            name: given(&self.service, "--service"),
            listen: all(&self.listen, "--listen").into_iter().map(GivenListener::from).collect(),
            sentinels: all(&self.sentinel, "--sentinel"),
            master: given(&self.master, "--master"),
            backend: GivenCredentials {
                user: given(&self.backend_user, "--backend-user"),
                password: None,
                password_file: given(&self.backend_password_file, "--backend-password-file"),
            },
            sentinel: GivenCredentials {
                user: given(&self.sentinel_user, "--sentinel-user"),
                password: None,
                password_file: given(&self.sentinel_password_file, "--sentinel-password-file"),
            },
            client_auth: given(&self.client_auth, "--client-auth"),
            commit: given(&self.commit, "--commit"),
            hold_timeout: given(&self.hold_timeout, "--hold-timeout"),
            ..GivenService::empty(config::Place::Named("command line"))
        }
    }
}

fn given<T: Clone>(value: &Option<T>, flag: &'static str) -> Option<Given<T>> {
    value.clone().map(|value| Given::new(value, config::Place::Named(flag)))
}

fn over<T: Clone>(setting: &mut Option<Given<T>>, value: &Option<T>, flag: &'static str) {
    if let Some(given) = given(value, flag) {
        *setting = Some(given);
    }
}

fn all<T: Clone>(values: &[T], flag: &'static str) -> Vec<Given<T>> {
    values.iter().map(|value| Given::new(value.clone(), config::Place::Named(flag))).collect()
}

#[derive(Debug, Args)]
pub(super) struct DemoArguments {
    /// Leave everything running afterwards, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// When a promotion counts.
    #[arg(long, value_name = "WHEN", value_parser = one_of(COMMIT), default_value = "confirmed")]
    commit: Commit,
    /// Clients that write and read.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000), default_value_t = 20)]
    clients: u16,
    /// Worker threads of the pointsman that is shown.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64), default_value_t = 2)]
    workers: u16,
}

impl From<DemoArguments> for DemoArgs {
    fn from(a: DemoArguments) -> Self {
        Self { keep: a.keep, commit: a.commit, clients: a.clients.into(), workers: a.workers.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
