//! The sockets of a switchover: carries out what the procedure in `topology::switchover` asks of servers, and tells
//! whoever ordered it what happens.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::tasks::{Common, Sentinels};
use super::{auth, preferred};
use crate::addr::Endpoint;
use crate::clock::Moment;
use crate::config::Credentials;
use crate::net::client::{Client, ClientError};
use crate::net::{Dialer, Resolver};
use crate::resp::Value;
use crate::topology::SwitchoverEvent;
use crate::topology::switchover::{Action, Answer, Ask, CHOSEN, Event, Order, Outcome, Report, Request, Right, Server};
use crate::topology::switchover::{Survey, Switchover};

/// Longest wait for an answer. Sentinel writes its file to the disk before it answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Requests to one server that wait for the one before them; the procedure has two out at most.
const REQUESTS: usize = 16;

/// The switchovers of one service, one at a time.
#[derive(Debug)]
pub(super) struct Switchovers {
    common: Common,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    procedure: Switchover,
    /// One task for each server that was asked, so that what is asked of one stays in order.
    servers: HashMap<Server, mpsc::Sender<(u32, Request)>>,
    answers: mpsc::Receiver<(u32, Answer)>,
    answered: mpsc::Sender<(u32, Answer)>,
    reports: mpsc::Sender<Report>,
    /// Nobody reads the reports any more.
    abandoned: bool,
}

impl Switchovers {
    pub(super) fn new(common: Common) -> Self {
        Self { common, running: None }
    }

    /// From now on servers are asked in this way; one that is on goes on in the old one.
    pub(super) fn renew(&mut self, common: Common) {
        self.common = common;
    }

    /// Begins one, if none is on. Returns what the failover machine is to be told.
    pub(super) fn begin(
        &mut self,
        order: Order,
        now: Moment,
        survey: &Survey,
        sentinels: &Sentinels,
    ) -> Vec<SwitchoverEvent> {
        let refuse = |why: String| {
            let end = Report::End { ms: 0, outcome: Outcome::Refused, why, stall_ms: 0 };
            // Nobody may be there to be told.
            let _ = order.reports.try_send(end);
            Vec::new()
        };
        if self.running.is_some() {
            return refuse("a switchover of this service is on already".to_owned());
        }
        // The names that Sentinels give were looked up when they gave them.
        let known = |endpoint: &Endpoint| endpoint.literal().or_else(|| self.common.resolver.known(endpoint));
        let to = match order.to.as_ref().map(|endpoint| (endpoint, known(endpoint))) {
            Some((endpoint, None)) => return refuse(format!("no replica is known as {endpoint}")),
            Some((_, to)) => to,
            None => None,
        };
        tracing::info!(service = self.common.service, dry_run = order.dry_run, "a switchover begins");
        let mut actions = Vec::new();
        let procedure = Switchover::new(Ask { to, dry_run: order.dry_run }, now, survey, &mut actions);
        let (answered, answers) = mpsc::channel(REQUESTS);
        let reports = order.reports;
        self.running =
            Some(Running { procedure, servers: HashMap::new(), answers, answered, reports, abandoned: false });
        self.carry_out(actions, sentinels)
    }

    pub(super) fn is_on(&self) -> bool {
        self.running.is_some()
    }

    /// When the procedure must look again at the latest.
    pub(super) fn deadline(&self, now: Moment) -> Option<Moment> {
        self.running.as_ref()?.procedure.deadline(now)
    }

    /// The next thing that happens to it; never, while none is on. Cancel safe.
    pub(super) async fn happened(&mut self) -> Event {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        tokio::select! {
            Some((id, answer)) = running.answers.recv() => Event::Answered(id, answer),
            () = running.reports.closed(), if !running.abandoned => {
                running.abandoned = true;
                Event::Abandoned
            }
        }
    }

    /// Shows it an event and the state of the service. Returns what the failover machine is to be told.
    pub(super) fn show(
        &mut self,
        now: Moment,
        event: Event,
        survey: &Survey,
        sentinels: &Sentinels,
    ) -> Vec<SwitchoverEvent> {
        let Some(running) = &mut self.running else { return Vec::new() };
        let mut actions = Vec::new();
        running.procedure.handle(now, event, survey, &mut actions);
        let ended = running.procedure.has_ended();
        let told = self.carry_out(actions, sentinels);
        if ended {
            self.running = None;
        }
        told
    }

    fn carry_out(&mut self, actions: Vec<Action>, sentinels: &Sentinels) -> Vec<SwitchoverEvent> {
        let Some(running) = &mut self.running else { return Vec::new() };
        let mut told = Vec::new();
        for action in actions {
            match action {
                Action::Tell(event) => told.push(event),
                Action::Report(report) => {
                    log(&self.common.service, &report);
                    // Who does not read is not waited for.
                    let _ = running.reports.try_send(report);
                }
                Action::Ask(id, server, request) => {
                    let answered = running.answered.clone();
                    let task = running
                        .servers
                        .entry(server)
                        .or_insert_with(|| ServerTask::start(&self.common, sentinels, server, answered));
                    // Full: it has not answered for long, and what it does not get is as good as unanswered.
                    let _ = task.try_send((id, request));
                }
            }
        }
        told
    }
}

fn log(service: &str, report: &Report) {
    match report {
        Report::Step { ms, ok: true, text } => tracing::info!(service, ms, "switchover: {text}"),
        Report::Step { ms, ok: false, text } => tracing::warn!(service, ms, "switchover: {text}"),
        Report::End { ms, outcome, why, stall_ms } => {
            tracing::info!(service, ms, stall_ms, ?outcome, "switchover ended {why}");
        }
    }
}

/// Asks one server one thing after the other, on one connection that is replaced when it is lost.
pub(super) struct ServerTask {
    place: Place,
    service: String,
    credentials: Option<Credentials>,
    resolver: Resolver,
    dialer: Dialer,
    preferred: Option<PathBuf>,
    client: Option<Client>,
}

enum Place {
    Node(SocketAddr),
    Sentinel(Option<Endpoint>),
}

impl ServerTask {
    fn new(common: &Common, place: Place, credentials: Option<Credentials>, dialer: Dialer) -> Self {
        Self {
            place,
            service: common.service.clone(),
            credentials,
            resolver: common.resolver.clone(),
            dialer,
            preferred: common.preferred.clone(),
            client: None,
        }
    }

    /// For a node, as pointsman's own user.
    pub(super) fn of_node(common: &Common, node: SocketAddr) -> Self {
        Self::new(common, Place::Node(node), common.backend.clone(), common.nodes.clone())
    }

    fn start(
        common: &Common,
        sentinels: &Sentinels,
        server: Server,
        answered: mpsc::Sender<(u32, Answer)>,
    ) -> mpsc::Sender<(u32, Request)> {
        let mut task = match server {
            Server::Node(node) => Self::of_node(common, node),
            Server::Sentinel(id) => {
                let endpoint = sentinels.facts(id).map(|f| f.endpoint);
                Self::new(common, Place::Sentinel(endpoint), common.sentinel.clone(), common.sentinels.clone())
            }
        };
        let (sender, mut requests) = mpsc::channel(REQUESTS);
        tokio::spawn(async move {
            while let Some((id, request)) = requests.recv().await {
                let answer = task.answer(request).await;
                if answered.send((id, answer)).await.is_err() {
                    return;
                }
            }
        });
        sender
    }

    /// Asks it once, and what may be asked twice on a new connection if that was lost.
    pub(super) async fn answer(&mut self, request: Request) -> Answer {
        let (preferred, place) = (self.preferred.clone(), &self.place);
        if let (Request::Prefer(before), Some(path), Place::Node(node)) = (request, &preferred, place) {
            preferred::note(&self.service, path, *node, before).await;
        }
        let answer = self.answer_of(request).await;
        if let (Request::SetPriority(_), Some(path), Place::Node(node), Answer::Done(_)) =
            (request, &preferred, &self.place, &answer)
        {
            preferred::forget(path, *node).await;
        }
        answer
    }

    async fn answer_of(&mut self, request: Request) -> Answer {
        // A promotion closes the connections to a node. What may be said twice is said again on a new one.
        let may_repeat = self.client.is_some() && request != Request::FailOver;
        match self.ask(request).await {
            Err(Failure::Lost(_)) if may_repeat => self.ask(request).await,
            outcome => outcome,
        }
        .unwrap_or_else(|failure| match failure {
            Failure::Lost(why) => Answer::Lost(why),
            Failure::Denied(why) => Answer::Refused(why),
        })
    }

    async fn ask(&mut self, request: Request) -> Result<Answer, Failure> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => timeout(self.dialer.connect_timeout(), self.connect()).await.map_err(|_| silent())??,
        };
        let command = command(request, &self.service);
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let reply = timeout(ANSWER_LIMIT, client.call(&words)).await.map_err(|_| silent())??;
        self.client = Some(client);
        Ok(understand(request, &reply))
    }

    async fn connect(&self) -> Result<Client, Failure> {
        let endpoint = match &self.place {
            Place::Node(node) => {
                let client = self.dialer.connect(*node).await.map_err(ClientError::from)?;
                return self.authenticate(client).await;
            }
            Place::Sentinel(Some(endpoint)) => endpoint,
            Place::Sentinel(None) => return Err(Failure::Lost("it is not known any more".to_owned())),
        };
        let mut failure = silent();
        for address in self.resolver.resolve(endpoint).await.map_err(|e| Failure::Lost(e.to_string()))? {
            match self.dialer.connect_as(Some(&endpoint.host), address).await {
                Ok(client) => return self.authenticate(client).await,
                Err(e) => failure = Failure::Lost(e.to_string()),
            }
        }
        Err(failure)
    }

    async fn authenticate(&self, mut client: Client) -> Result<Client, Failure> {
        if let Some(credentials) = &self.credentials {
            client.send(&auth::command(credentials)).await.map_err(ClientError::from)?;
            let reply = client.receive().await?;
            if let Some(error) = reply.as_error().filter(|_| !auth::is_accepted(&reply)) {
                return Err(Failure::Denied(error.to_owned()));
            }
        }
        Ok(client)
    }
}

enum Failure {
    /// It may have been carried out.
    Lost(String),
    /// It was not.
    Denied(String),
}

fn silent() -> Failure {
    Failure::Lost("no answer in time".to_owned())
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Lost(error.to_string())
    }
}

/// A request in the words of Redis.
fn command(request: Request, service: &str) -> Vec<String> {
    let (words, last): (&[&str], Option<String>) = match request {
        // Permissions are looked at before arguments: these can only fail, and how they do tells.
        Request::May(Right::Pause) => (&["CLIENT", "PAUSE", "check", "WRITE"], None),
        Request::May(Right::Follow) => (&["REPLICAOF", "pointsman", "check"], None),
        Request::May(Right::SetPriority) => (&["CONFIG", "SET", "replica-priority", "check"], None),
        // No configuration can give a master a name with a blank.
        Request::May(Right::FailOver) => (&["SENTINEL", "FAILOVER"], Some(format!("{service} check"))),
        Request::Quorum => (&["SENTINEL", "CKQUORUM"], Some(service.to_owned())),
        Request::Priority => (&["CONFIG", "GET", "replica-priority"], None),
        Request::Prefer(_) => (&["CONFIG", "SET", "replica-priority"], Some(CHOSEN.to_string())),
        Request::SetPriority(priority) => (&["CONFIG", "SET", "replica-priority"], Some(priority.to_string())),
        Request::Persist => (&["CONFIG", "REWRITE"], None),
        Request::Pause(time) => {
            return ["CLIENT", "PAUSE", &time.as_millis().to_string(), "WRITE"].map(str::to_owned).to_vec();
        }
        Request::Unpause => (&["CLIENT", "UNPAUSE"], None),
        Request::FailOver => (&["SENTINEL", "FAILOVER"], Some(service.to_owned())),
        Request::Follow(node) => {
            return ["REPLICAOF", &node.ip().to_string(), &node.port().to_string()].map(str::to_owned).to_vec();
        }
    };
    words.iter().map(|w| (*w).to_owned()).chain(last).collect()
}

/// What a reply means.
fn understand(request: Request, reply: &Value) -> Answer {
    match (request, reply.as_error()) {
        (Request::May(_), Some(error)) if !is_denial(error) => Answer::Done(error.to_owned()),
        (_, Some(error)) => Answer::Refused(error.to_owned()),
        (Request::Priority, None) => match reply.map_get("replica-priority").and_then(Value::as_str) {
            Some(priority) => Answer::Done(priority.to_owned()),
            None => Answer::Refused("there is no such setting".to_owned()),
        },
        (_, None) => Answer::Done(reply.as_str().unwrap_or_default().to_owned()),
    }
}

/// Whether a server refused a command as such (by its ACL, since it was renamed, or as too old to know it), rather than
/// the arguments.
fn is_denial(error: &str) -> bool {
    let code = error.split(' ').next().unwrap_or_default();
    let lower = error.to_ascii_lowercase();
    matches!(code, "NOPERM" | "NOAUTH" | "WRONGPASS")
        || ["unknown command", "unknown subcommand", "wrong number of arguments", "syntax error"]
            .iter()
            .any(|words| lower.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_found_out_with_arguments_that_fail() {
        let may = |error: &str| understand(Request::May(Right::Pause), &Value::Error(error.to_owned()));
        let refused = |error: &str| assert_eq!(may(error), Answer::Refused(error.to_owned()));
        assert!(matches!(may("ERR timeout is not an integer or out of range"), Answer::Done(_)));
        assert!(matches!(may("ERR No such master with that name"), Answer::Done(_)));
        refused("NOPERM this user has no permissions to run the 'client|pause' command");
        refused("ERR unknown command 'CLIENT', with args beginning with: 'PAUSE' ");
        refused("ERR Unknown subcommand or wrong number of arguments for 'PAUSE'. Try CLIENT HELP.");
        refused("ERR syntax error");
    }

    #[test]
    fn commands_in_the_words_of_redis() {
        let words = |request| command(request, "main").join(" ");
        assert_eq!(words(Request::Pause(Duration::from_millis(400))), "CLIENT PAUSE 400 WRITE");
        assert_eq!(words(Request::Follow("[::1]:6379".parse().unwrap())), "REPLICAOF ::1 6379");
        assert_eq!(words(Request::SetPriority(7)), "CONFIG SET replica-priority 7");
        assert_eq!(words(Request::FailOver), "SENTINEL FAILOVER main");
    }

    #[test]
    fn the_priority_is_read_from_both_forms_of_the_reply() {
        let bulk = |text: &str| Value::Bulk(text.to_owned().into());
        let flat = Value::Array(vec![bulk("replica-priority"), bulk("100")]);
        let map = Value::Map(vec![(bulk("replica-priority"), bulk("100"))]);
        for reply in [flat, map] {
            assert_eq!(understand(Request::Priority, &reply), Answer::Done("100".to_owned()));
        }
        assert!(matches!(understand(Request::Priority, &Value::Array(Vec::new())), Answer::Refused(_)));
    }
}
