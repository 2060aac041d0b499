//! The task towards one Sentinel for one service: listens to what it publishes and polls it.
//!
//! Two connections, since in RESP2 (which every Sentinel speaks) a subscribed one cannot ask. Both go to the same
//! address of the same process, and live and die together. What is published is passed on the moment it arrives: between
//! `+selected-slave` and the promotion lie some 70 ms, in which control has to hold all writes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::event::{Peer, SentinelEvent, Trouble};
use super::{auth, message, view};
use crate::addr::Endpoint;
use crate::config::Credentials;
use crate::net::client::{Client, ClientError};
use crate::net::{Backoff, Dialer, Resolver};
use crate::resp::{Value, encode_command};
use crate::topology::{Event, SentinelId};

/// A subscription says nothing for days, and a dead one says nothing either: it is asked PING this often, and is dead if
/// nothing has come by the time of the next one. So a silent Sentinel is noticed within two intervals.
pub const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for the replies to one poll. A Sentinel answers within a millisecond; one that runs a script or resolves
/// a name may take some hundred.
const POLL_TIMEOUT: Duration = Duration::from_secs(1);
/// The other Sentinels are asked for no more often than this, however fast the polls are.
const PEERS_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time that a message or a poll waits for the addresses of names in it, and with it what follows. Names that
/// were seen before have their last address in any case.
const NAME_TIMEOUT: Duration = Duration::from_millis(100);
/// Delays between attempts to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Not `*`: these two are what a minimal Sentinel ACL (`&+* &-*`) permits.
const SUBSCRIBE: [&str; 3] = ["PSUBSCRIBE", "+*", "-*"];

/// What a Sentinel task needs.
#[derive(Debug)]
pub struct SentinelTask {
    /// The number by which its events name it.
    pub id: SentinelId,
    /// Where it is.
    pub endpoint: Endpoint,
    /// The master name to ask for.
    pub service: String,
    /// User and password at this Sentinel (never those of Redis); none: it is not asked for.
    pub credentials: Option<Credentials>,
    /// Resolves its name, and those in its answers and messages.
    pub resolver: Resolver,
    /// How it is dialled.
    pub dialer: Dialer,
    /// How often to poll. Whatever is sent here, the same again included, also means "poll now", or, when it is out of
    /// hearing, "try to connect now".
    pub pace: watch::Receiver<Duration>,
    /// Where it reports.
    pub events: mpsc::Sender<SentinelEvent>,
}

impl SentinelTask {
    /// Connects, listens, polls and reports, over and over, until cancelled or until nobody receives the events.
    pub async fn run(self, cancel: CancellationToken) {
        let events = self.events.clone();
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, fastrand::u64(..));
        let Self { id, endpoint, service, credentials, resolver, dialer, mut pace, events: sender } = self;
        let link = Link { id, endpoint, service, credentials, resolver, dialer, events: sender };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = events.closed() => {}
            () = link.serve(&mut pace, &mut backoff) => {}
        }
    }
}

/// What both connections of the task share.
struct Link {
    id: SentinelId,
    endpoint: Endpoint,
    service: String,
    credentials: Option<Credentials>,
    resolver: Resolver,
    dialer: Dialer,
    events: mpsc::Sender<SentinelEvent>,
}

/// What was last reported, so that only changes are.
#[derive(Default)]
struct Reported {
    up: bool,
    trouble: Option<Trouble>,
    peers: Option<Vec<Peer>>,
}

impl Link {
    async fn serve(&self, pace: &mut watch::Receiver<Duration>, backoff: &mut Backoff) {
        let mut reported = Reported::default();
        loop {
            let Err(trouble) = self.connection(pace, &mut reported).await;
            if reported.up {
                reported.up = false;
                backoff.reset();
                self.emit(SentinelEvent::Machine(Event::SentinelDown(self.id))).await;
            }
            reported.peers = None;
            self.report(&mut reported, Some(trouble)).await;
            // The first part is slept in any case: a watcher in a hurry must not make this a busy loop.
            sleep(RETRY.0 / 2).await;
            tokio::select! {
                () = sleep(backoff.next_delay()) => {}
                _ = pace.changed() => {}
            }
        }
    }

    /// One life of the two connections.
    async fn connection(
        &self,
        pace: &mut watch::Receiver<Duration>,
        reported: &mut Reported,
    ) -> Result<Infallible, Trouble> {
        let (mut subscription, mut questions) = self.open().await?;
        let poke = Notify::new();
        // Both halves only ever end with an error, and the connections fall with whichever fails first.
        tokio::select! {
            end = self.listen(&mut subscription, &poke) => end,
            end = self.poll(&mut questions, pace, &poke, reported) => end,
        }
    }

    /// Opens both connections, to the first address at which that works.
    async fn open(&self) -> Result<(Client, Client), Trouble> {
        let mut trouble = Trouble::Silent;
        for address in self.resolver.resolve(&self.endpoint).await? {
            match self.open_at(address).await {
                Ok(clients) => return Ok(clients),
                Err(t) => trouble = t,
            }
        }
        Err(trouble)
    }

    async fn open_at(&self, address: SocketAddr) -> Result<(Client, Client), Trouble> {
        let subscription = timeout(self.dialer.connect_timeout(), async {
            let mut client = self.connect(address).await?;
            client.send(&encode_command(&SUBSCRIBE)).await?;
            for _ in &SUBSCRIBE[1..] {
                let reply = client.receive().await?;
                match reply.as_array().and_then(|a| a.first()).and_then(Value::as_str) {
                    Some("psubscribe") => {}
                    _ => return Err(refusal(&reply)),
                }
            }
            Ok(client)
        });
        let subscription = subscription.await.map_err(|_| Trouble::Silent)??;
        let questions =
            timeout(self.dialer.connect_timeout(), self.connect(address)).await.map_err(|_| Trouble::Silent)??;
        Ok((subscription, questions))
    }

    async fn connect(&self, address: SocketAddr) -> Result<Client, Trouble> {
        let mut client = self.dialer.connect_as(Some(&self.endpoint.host), address).await?;
        if let Some(credentials) = &self.credentials {
            client.send(&auth::command(credentials)).await?;
            let reply = client.receive().await?;
            if !auth::is_accepted(&reply) {
                return Err(refusal(&reply));
            }
        }
        Ok(client)
    }

    /// Passes on what is published, until the connection fails.
    async fn listen(&self, subscription: &mut Client, poke: &Notify) -> Result<Infallible, Trouble> {
        let mut ping = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        // After a pause of the whole process, one PING, not one for each that was missed.
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = true;
        loop {
            tokio::select! {
                // First, so that what has arrived counts as heard before silence is judged.
                biased;
                frame = subscription.receive() => {
                    heard = true;
                    self.hear(&frame?, poke).await?;
                }
                _ = ping.tick() => {
                    if !heard {
                        return Err(Trouble::Silent);
                    }
                    heard = false;
                    subscription.send(&encode_command(&["PING"])).await?;
                }
            }
        }
    }

    async fn hear(&self, frame: &Value, poke: &Notify) -> Result<(), Trouble> {
        let parts = frame.as_array().ok_or_else(|| refusal(frame))?;
        let mut texts = parts.iter().map(Value::as_str);
        let (Some(Some("pmessage")), Some(_), Some(Some(channel)), Some(Some(payload))) =
            (texts.next(), texts.next(), texts.next(), texts.next())
        else {
            return Ok(()); // the answer to PING, or a message that is not text
        };
        let Some(parsed) = message::parse(channel, payload, &self.service) else { return Ok(()) };
        // Polls keep the names of all nodes located, so that this waits only for one that is new.
        let new = parsed.endpoints().filter(|endpoint| self.resolver.known(endpoint).is_none()).cloned();
        self.resolver.locate_all(new, NAME_TIMEOUT).await;
        let message = parsed.resolved(|endpoint| self.resolver.known(endpoint));
        self.emit(SentinelEvent::Machine(Event::Published(self.id, message))).await;
        // Something has changed: its view is asked for at once rather than at the next turn.
        poke.notify_one();
        Ok(())
    }

    /// Polls, first at once and then at the pace that the watcher sets, until the connection fails.
    async fn poll(
        &self,
        questions: &mut Client,
        pace: &mut watch::Receiver<Duration>,
        poke: &Notify,
        reported: &mut Reported,
    ) -> Result<Infallible, Trouble> {
        let service = self.service.as_str();
        let question: Vec<u8> = [
            encode_command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", service]),
            encode_command(&["SENTINEL", "MASTER", service]),
            encode_command(&["SENTINEL", "REPLICAS", service]),
        ]
        .concat();
        self.identify(questions).await?;
        let mut peers_asked: Option<Instant> = None;
        loop {
            let asked = Instant::now();
            pace.mark_unchanged();
            let replies = timeout(POLL_TIMEOUT, async {
                // One write, so that Sentinel answers all three from one state.
                questions.send(&question).await?;
                let address = questions.receive().await?;
                let master = questions.receive().await?;
                let replicas = questions.receive().await?;
                Ok::<_, Trouble>(view::Poll { address, master, replicas })
            });
            let replies = replies.await.map_err(|_| Trouble::Silent)??;
            self.answer(replies, reported).await?;
            if peers_asked.is_none_or(|at| at.elapsed() >= PEERS_INTERVAL) {
                peers_asked = Some(asked);
                let reply = timeout(POLL_TIMEOUT, questions.call(&["SENTINEL", "SENTINELS", service])).await;
                self.learn(&reply.map_err(|_| Trouble::Silent)??, reported).await;
            }
            let interval = *pace.borrow();
            tokio::select! {
                () = sleep_until(asked + interval) => {}
                _ = pace.changed() => {}
                () = poke.notified() => {}
            }
        }
    }

    async fn identify(&self, questions: &mut Client) -> Result<(), Trouble> {
        let reply = timeout(POLL_TIMEOUT, questions.call(&["SENTINEL", "MYID"])).await;
        if let Some(run_id) = reply.map_err(|_| Trouble::Silent)??.as_str() {
            self.emit(SentinelEvent::Identity { id: self.id, run_id: run_id.to_owned() }).await;
        }
        Ok(())
    }

    async fn answer(&self, replies: view::Poll, reported: &mut Reported) -> Result<(), Trouble> {
        self.resolver.locate_all(replies.endpoints(), NAME_TIMEOUT).await;
        let answer = replies.answer(|endpoint| self.resolver.known(endpoint))?;
        if !reported.up {
            reported.up = true;
            self.emit(SentinelEvent::Machine(Event::SentinelUp(self.id))).await;
        }
        let (event, trouble) = match answer {
            view::Answer::View(view) => (Some(Event::View(self.id, view)), None),
            view::Answer::UnknownName => {
                (Some(Event::UnknownName(self.id)), Some(Trouble::UnknownName(self.service.clone())))
            }
            view::Answer::Unresolved(master) => {
                (None, self.resolver.locate(&master).await.err().map(Trouble::Unresolved))
            }
        };
        if let Some(event) = event {
            self.emit(SentinelEvent::Machine(event)).await;
        }
        self.report(reported, trouble).await;
        Ok(())
    }

    async fn learn(&self, reply: &Value, reported: &mut Reported) {
        let peers = view::peers(reply);
        if let Some(peers) = peers.filter(|new| reported.peers.as_ref() != Some(new)) {
            reported.peers = Some(peers.clone());
            self.emit(SentinelEvent::Peers { id: self.id, peers }).await;
        }
    }

    async fn report(&self, reported: &mut Reported, trouble: Option<Trouble>) {
        if reported.trouble != trouble {
            reported.trouble.clone_from(&trouble);
            self.emit(SentinelEvent::Trouble { id: self.id, trouble }).await;
        }
    }

    async fn emit(&self, event: SentinelEvent) {
        // When nobody receives any more, `run` ends.
        let _ = self.events.send(event).await;
    }
}

/// The trouble that a reply means where another was expected.
fn refusal(reply: &Value) -> Trouble {
    match reply {
        Value::Error(error) => Trouble::from_reply(error),
        other => Trouble::Unexpected(format!("{other:?}").chars().take(100).collect()),
    }
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Io(error) => error.into(),
            ClientError::Closed => Self::Closed,
            ClientError::ClosedAtOnce | ClientError::SpeaksTls => Self::Network(error.to_string()),
            other => Self::Unexpected(other.to_string()),
        }
    }
}
