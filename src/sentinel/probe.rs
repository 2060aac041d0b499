//! The role probe of one node: what does it say that it is?
//!
//! Each node has one connection, kept open so that a question costs one round trip, and so that the end of the process
//! is heard at once as the end of the connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::event::SentinelEvent;
use super::{auth, role};
use crate::clock::Moment;
use crate::config::Credentials;
use crate::net::client::{Client, ClientError};
use crate::net::{Backoff, Dialer, Resolver};
use crate::resp::{Value, encode_command};
use crate::tls::is_fault;
use crate::topology::{Event, FAST_PATIENCE, History, RoleAnswer};

/// A pace of this or faster means that somebody is waiting: silence is reported soon, connections are tried again at
/// the pace of the questions.
pub const FAST_PACE: Duration = Duration::from_millis(100);
/// As [`FAST_PATIENCE`] at a slow pace, when a command that takes half a second is nobody's concern.
pub const SLOW_PATIENCE: Duration = Duration::from_secs(1);
/// A connection that has been silent for so long is replaced, since its packets may be in a long retransmission pause
/// when the node is back. Not sooner: a hung process accepts nothing, and connections would pile up in its backlog.
const GIVE_UP: Duration = Duration::from_secs(3);
/// A connection that lasted so long is replaced at once when it ends; one that did not has failed.
const MIN_LIFE: Duration = Duration::from_millis(500);
/// Longest time that an answer waits for the addresses of names in it that were never seen before.
const NAME_TIMEOUT: Duration = Duration::from_millis(100);
/// Shortest pause between two attempts to connect at a slow pace, however often "now" is said.
const HURRY: Duration = Duration::from_millis(5);
/// Delays between attempts to connect at a slow pace, and whenever the node refuses our credentials.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What a role probe needs.
#[derive(Debug)]
pub struct ProbeTask {
    /// The node to ask.
    pub node: SocketAddr,
    /// pointsman's own user at the backends; none: no AUTH.
    pub credentials: Option<Credentials>,
    /// Resolves the names in its answers.
    pub resolver: Resolver,
    /// How the node is dialled.
    pub dialer: Dialer,
    /// How often to ask; none: not at all. Whatever is sent here, the same again included, also means "ask now" (when
    /// the question that is out has been answered).
    pub pace: watch::Receiver<Option<Duration>>,
    /// Where the answers go.
    pub events: mpsc::Sender<SentinelEvent>,
}

/// When to try again.
enum Retry {
    /// At once.
    Now,
    /// At a fast pace, at that pace; else with backoff.
    Soon,
    /// With backoff in any case: the node let us know that it does not want us.
    Later,
}

impl ProbeTask {
    /// Asks and reports until cancelled, until nobody receives the events or nobody can set the pace any more.
    pub async fn run(self, cancel: CancellationToken) {
        let events = self.events.clone();
        let mut probe = Probe { task: self, silent_since: None };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = events.closed() => {}
            () = probe.serve() => {}
        }
    }
}

struct Probe {
    task: ProbeTask,
    /// While the node is silent: since when, of that which was not yet reported. Outlives its connections.
    silent_since: Option<(Moment, Instant)>,
}

impl Probe {
    async fn serve(&mut self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, fastrand::u64(..));
        while self.task.pace.wait_for(Option::is_some).await.is_ok() {
            let retry = self.connection().await;
            let fast = self.task.pace.borrow().filter(|pace| *pace <= FAST_PACE);
            match (retry, fast) {
                (Retry::Now, _) => backoff.reset(),
                (Retry::Soon, Some(pace)) => sleep(pace).await,
                (Retry::Soon, None) => {
                    let delay = backoff.next_delay();
                    // A floor, so that a watcher in a hurry does not make this a busy loop.
                    sleep(HURRY).await;
                    let _ = timeout(delay, self.task.pace.changed()).await;
                }
                (Retry::Later, _) => sleep(backoff.next_delay()).await,
            }
        }
    }

    /// One connection, from the attempt to its end, which it reports.
    async fn connection(&mut self) -> Retry {
        let asked = Moment::now();
        let (dialer, node) = (self.task.dialer.clone(), self.task.node);
        let connect = dialer.connect(node);
        let client = match self.patiently(asked, connect).await {
            Ok(client) => client,
            Err(error) => {
                let answer = match error.kind() {
                    io::ErrorKind::ConnectionRefused => RoleAnswer::Refused,
                    // The latter in a handshake.
                    io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
                        RoleAnswer::Silent { closed: true }
                    }
                    _ if is_fault(&error) => RoleAnswer::Error(error.to_string()),
                    _ => RoleAnswer::Silent { closed: false },
                };
                let retry = if matches!(answer, RoleAnswer::Error(_)) { Retry::Later } else { Retry::Soon };
                self.emit(asked, answer).await;
                return retry;
            }
        };
        let opened = Instant::now();
        let retry_if_closed = || if opened.elapsed() >= MIN_LIFE { Retry::Now } else { Retry::Soon };
        let mut connection = Connection::new(client, self.task.credentials.as_ref());
        loop {
            // What is sent to `pace` from here on means another question.
            self.task.pace.mark_unchanged();
            let began = Instant::now();
            let asked = Moment::now();
            let question = timeout(GIVE_UP, connection.ask());
            match self.patiently(asked, question).await {
                Ok(Ok(reply)) => {
                    self.task.resolver.locate_all(role::endpoints(&reply), NAME_TIMEOUT).await;
                    let Connection { run_id, history, .. } = &connection;
                    let known = |endpoint: &_| self.task.resolver.known(endpoint);
                    let answer = role::parse(&reply, run_id.as_deref(), history.as_ref(), known);
                    self.emit(asked, answer).await;
                }
                Ok(Err(Failure::Closed)) => {
                    self.emit(asked, RoleAnswer::Silent { closed: true }).await;
                    return retry_if_closed();
                }
                Ok(Err(Failure::Denied(error))) => {
                    self.emit(asked, RoleAnswer::Error(error)).await;
                    return Retry::Later;
                }
                // Its silence was reported while it lasted.
                Err(_) => return Retry::Now,
            }
            tokio::select! {
                wanted = self.next_question(began) => if !wanted {
                    return Retry::Later;
                },
                // Nothing is owed: this is the end of the connection, and most likely of the process. At a pause nobody
                // wants to know.
                _ = connection.client.receive() => {
                    if self.task.pace.borrow().is_some() {
                        self.emit(Moment::now(), RoleAnswer::Silent { closed: true }).await;
                    }
                    return retry_if_closed();
                }
            }
        }
    }

    /// Waits for `future`, begun at `asked`; reports the node as silent each time its patience ends, since a hang may last
    /// for hours.
    async fn patiently<T>(&mut self, asked: Moment, future: impl Future<Output = T>) -> T {
        let mut pace = self.task.pace.clone();
        let (mut asked, mut since) = self.silent_since.unwrap_or((asked, Instant::now()));
        tokio::pin!(future);
        loop {
            let patience = match *pace.borrow_and_update() {
                Some(fast) if fast <= FAST_PACE => FAST_PATIENCE,
                _ => SLOW_PATIENCE,
            };
            tokio::select! {
                biased;
                outcome = &mut future => return outcome,
                () = sleep_until(since + patience) => {
                    self.emit(asked, RoleAnswer::Silent { closed: false }).await;
                    // The next report is about the time from here on.
                    (asked, since) = (Moment::now(), Instant::now());
                    self.silent_since = Some((asked, since));
                }
                // A faster pace is a shorter patience, for this question too.
                Ok(()) = pace.changed() => {}
            }
        }
    }

    /// Waits until the next question is due, `pace` after the last one `began`, or asked for. False if the pace can
    /// change no more.
    async fn next_question(&mut self, began: Instant) -> bool {
        loop {
            let pace = *self.task.pace.borrow_and_update();
            tokio::select! {
                () = sleep_until(began + pace.unwrap_or_default()), if pace.is_some() => return true,
                changed = self.task.pace.changed() => match changed {
                    Ok(()) if self.task.pace.borrow().is_some() => return true,
                    Ok(()) => {}
                    Err(_) => return false,
                }
            }
        }
    }

    async fn emit(&mut self, asked: Moment, answer: RoleAnswer) {
        self.silent_since = None;
        let event = Event::Role { node: self.task.node, asked, answer };
        // When nobody receives any more, `run` ends.
        let _ = self.task.events.send(SentinelEvent::Machine(event)).await;
    }
}

/// Why a question got no answer.
pub(super) enum Failure {
    /// The connection ended.
    Closed,
    /// The node refuses us, or what it says makes no sense.
    Denied(String),
}

pub(super) struct Connection {
    pub(super) client: Client,
    /// What comes before the first question: AUTH, where there are credentials, and `INFO`. In the same write, since after
    /// a promotion the new connection is all that stands between us and the answer.
    greeting: Option<Greeting>,
    pub(super) run_id: Option<String>,
    /// As a master told it, unless it may not be asked.
    pub(super) history: Option<Arc<History>>,
    /// Whether the last answer was that of a master, who was asked for its history.
    led: bool,
}

struct Greeting {
    auth: Option<Bytes>,
}

impl Connection {
    pub(super) fn new(client: Client, credentials: Option<&Credentials>) -> Self {
        Self {
            client,
            greeting: Some(Greeting { auth: credentials.map(auth::command) }),
            run_id: None,
            history: None,
            led: false,
        }
    }

    /// Asks for the role, and whoever has become master for its history.
    pub(super) async fn ask(&mut self) -> Result<Value, Failure> {
        let reply = match self.greeting.take() {
            Some(greeting) => self.greet(greeting).await?,
            None => {
                self.client.send(&encode_command(&["ROLE"])).await.map_err(ClientError::from)?;
                self.client.receive().await?
            }
        };
        let leads = role::is_master(&reply);
        // Usually the promotion ended the connection, and the greeting of the next one has brought it.
        if leads && !self.led && self.history.is_none() {
            self.client.send(&encode_command(&["INFO", "replication"])).await.map_err(ClientError::from)?;
            self.history = role::history(&self.client.receive().await?).map(Arc::new);
        } else if !leads {
            self.history = None;
        }
        self.led = leads;
        Ok(reply)
    }

    /// The first question on a connection, and what comes before it.
    async fn greet(&mut self, Greeting { auth }: Greeting) -> Result<Value, Failure> {
        let has_auth = auth.is_some();
        // Two commands: before Redis 7.0 `INFO` takes one section at most.
        let info = [encode_command(&["INFO", "server"]), encode_command(&["INFO", "replication"])].concat();
        let commands = [auth.as_deref().unwrap_or_default(), &info, &encode_command(&["ROLE"])].concat();
        self.client.send(&commands).await.map_err(ClientError::from)?;
        if has_auth {
            let reply = self.client.receive().await?;
            if let Some(error) = reply.as_error().filter(|_| !auth::is_accepted(&reply)) {
                return Err(Failure::Denied(role::code(error)));
            }
        }
        let server = self.client.receive().await?;
        self.run_id = role::run_id(&server);
        let rest = async {
            self.history = role::history(&self.client.receive().await?).map(Arc::new);
            self.client.receive().await
        };
        match (rest.await, server.as_error()) {
            // Said before it closed, to whatever came first: too many clients, for one.
            (Err(_), Some(error)) => Err(Failure::Denied(role::code(error))),
            (reply, _) => Ok(reply?),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Io(error) if is_fault(&error) => Self::Denied(error.to_string()),
            ClientError::Io(_) | ClientError::Closed | ClientError::ClosedAtOnce => Self::Closed,
            other => Self::Denied(other.to_string()),
        }
    }
}
