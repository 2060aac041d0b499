//! `check --online`: what the Sentinels and the masters say when asked as pointsman would ask them.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::timeout;

use super::check::say;
use crate::addr::Endpoint;
use crate::config::{Config, Credentials, FAILOVER_AFTER_DETECTION, ServiceConfig, Source};
use crate::net::client::{Client, ClientError};
use crate::net::{Dialer, Resolver};
use crate::resp::{Value, without_arguments};

/// Longest wait for all answers of one server, once connected. Each is asked less than ten short questions.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// What a server is that is no node.
const SENTINEL: &str = "Sentinel";

/// Asks all servers of all services and prints what each said. Returns how many do not answer as they should.
pub(super) async fn ask_all(config: &Config) -> usize {
    let resolver = Resolver::new(config.resolvers.clone());
    let mut failed = 0;
    for service in &config.services {
        let masters = match &service.source {
            Source::Sentinels { endpoints, credentials } => {
                let (masters, silent) = ask_sentinels(&resolver, service, endpoints, credentials.as_ref()).await;
                failed += silent;
                masters
            }
            Source::Static(master) => vec![master.clone()],
        };
        for master in masters {
            let answer = ask_master(&resolver, service, &master).await;
            failed += usize::from(answer.is_err());
            report(service, "master", &master, &answer);
        }
    }
    failed
}

/// What one Sentinel says.
struct SentinelAnswer {
    master: Endpoint,
    down_after: Duration,
    /// Replicas and other Sentinels that it reaches, as they are announced.
    reaches: Vec<(&'static str, Endpoint)>,
    text: String,
}

/// Every master that a Sentinel names, each once, and how many Sentinels failed.
async fn ask_sentinels(
    resolver: &Resolver,
    service: &ServiceConfig,
    endpoints: &[Endpoint],
    credentials: Option<&Credentials>,
) -> (Vec<Endpoint>, usize) {
    let mut masters: Vec<Endpoint> = Vec::new();
    let mut failed = 0;
    let mut down_after = Duration::ZERO;
    let mut reached: Vec<(&str, Endpoint)> = Vec::new();
    let sentinels = Dialer::of_sentinels(service, resolver.clone());
    let nodes = Dialer::of_nodes(service, resolver.clone());
    for sentinel in endpoints {
        let answer = match connect(resolver, &sentinels, sentinel, credentials).await {
            Ok(mut client) => within_limit(ask_sentinel(&mut client, &service.name)).await,
            Err(why) => Err(why),
        };
        report(service, SENTINEL, sentinel, &answer.as_ref().map(|a| &a.text).map_err(Clone::clone));
        match answer {
            Ok(answer) => {
                down_after = down_after.max(answer.down_after);
                if !masters.contains(&answer.master) {
                    masters.push(answer.master);
                }
                reached.extend(answer.reaches);
            }
            Err(_) => failed += 1,
        }
    }
    reached.sort();
    reached.dedup();
    for (what, server) in reached.iter().filter(|(_, server)| !endpoints.contains(server)) {
        let dialer = if *what == SENTINEL { &sentinels } else { &nodes };
        if let Err(why) = reach(resolver, dialer, server).await {
            eprintln!(
                "warning: {}: {what} {server} is reached by a Sentinel, and not from here: {why}; if it is reached by \
                 another address, see `address_map`",
                service.name
            );
        }
    }
    if masters.len() > 1 {
        failed += 1;
        let named: Vec<String> = masters.iter().map(ToString::to_string).collect();
        say(&format!("{}: FAILED: the Sentinels name different masters: {}", service.name, named.join(" and ")));
    }
    let failover = down_after + FAILOVER_AFTER_DETECTION;
    if !service.hold_timeout.is_zero() && failover > service.hold_timeout {
        eprintln!(
            "warning: {}: a failover may take {failover:?} (down-after-milliseconds of {down_after:?}, and 5 s), but \
             hold_timeout is {:?}: clients would see errors",
            service.name, service.hold_timeout
        );
    }
    (masters, failed)
}

async fn ask_sentinel(client: &mut Client, name: &str) -> Result<SentinelAnswer, String> {
    let address = call(client, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name]).await?;
    if address.is_null() {
        return Err(format!("knows no master named `{name}`{}", known_names(client).await));
    }
    let master = named_master(&address).ok_or("does not name a master in a way that is understood")?;
    let view = call(client, &["SENTINEL", "MASTER", name]).await?;
    let field = |field: &str| view.map_get(field).and_then(Value::as_str).unwrap_or("?").to_owned();
    if field("flags").split(',').any(|flag| flag == "s_down") {
        return Err(format!("names master {master} and cannot reach it (flags {})", field("flags")));
    }
    let quorum = call(client, &["SENTINEL", "CKQUORUM", name]).await?;
    let down_after = field("down-after-milliseconds").parse().unwrap_or(0);
    let text = format!(
        "master {master}, config epoch {}, {} replicas, {} other Sentinels, quorum {}, down-after {down_after} ms; {}",
        field("config-epoch"),
        field("num-slaves"),
        field("num-other-sentinels"),
        field("quorum"),
        quorum.as_str().unwrap_or_default()
    );
    let mut reaches = Vec::new();
    for (what, question) in [("replica", "REPLICAS"), (SENTINEL, "SENTINELS")] {
        let answer = call(client, &["SENTINEL", question, name]).await?;
        reaches.extend(answer.as_array().unwrap_or_default().iter().filter_map(reachable).map(|server| (what, server)));
    }
    Ok(SentinelAnswer { master, down_after: Duration::from_millis(down_after), reaches, text })
}

/// The announced address of an entry of `SENTINEL REPLICAS` or `SENTINELS` that the Sentinel reaches.
fn reachable(entry: &Value) -> Option<Endpoint> {
    let field = |field: &str| entry.map_get(field).and_then(Value::as_str);
    let down = field("flags")?.split(',').any(|flag| matches!(flag, "s_down" | "disconnected"));
    let endpoint = Endpoint { host: field("ip")?.to_owned(), port: field("port")?.parse().ok()? };
    (!down && endpoint.port != 0).then_some(endpoint)
}

/// The two strings of `GET-MASTER-ADDR-BY-NAME`.
fn named_master(address: &Value) -> Option<Endpoint> {
    let [host, port] = address.as_array()? else { return None };
    Some(Endpoint { host: host.as_str()?.to_owned(), port: port.as_str()?.parse().ok()? })
}

/// The end of the message that a name is not known: those that are, if the Sentinel will say.
async fn known_names(client: &mut Client) -> String {
    let Ok(masters) = call(client, &["SENTINEL", "MASTERS"]).await else { return String::new() };
    let names: Vec<&str> =
        masters.as_array().unwrap_or_default().iter().filter_map(|m| m.map_get("name")?.as_str()).collect();
    if names.is_empty() { ", nor any other".to_owned() } else { format!(", but {}", names.join(", ")) }
}

async fn ask_master(resolver: &Resolver, service: &ServiceConfig, master: &Endpoint) -> Result<String, String> {
    let dialer = Dialer::of_nodes(service, resolver.clone());
    let mut client = connect(resolver, &dialer, master, service.backend.as_ref()).await?;
    let role = within_limit(call(&mut client, &["ROLE"])).await;
    let role = role.map_err(|why| match &service.backend {
        None if why.starts_with("NOAUTH") => format!("{why} (backend_password is not configured)"),
        _ => why,
    })?;
    let answer = role.as_array().unwrap_or_default();
    match (answer.first().and_then(Value::as_str), answer.get(2).and_then(Value::as_array)) {
        (Some("master"), Some(replicas)) => Ok(format!("role master, {} replicas connected", replicas.len())),
        (Some(role), _) => Err(format!("expected role master, found {role}")),
        (None, _) => Err("ROLE is not answered as Redis does".to_owned()),
    }
}

/// A connection that has said AUTH, if there is something to say.
async fn connect(
    resolver: &Resolver,
    dialer: &Dialer,
    server: &Endpoint,
    credentials: Option<&Credentials>,
) -> Result<Client, String> {
    let mut client = reach(resolver, dialer, server).await?;
    if let Some(credentials) = credentials {
        within_limit(authenticate(&mut client, credentials)).await?;
    }
    Ok(client)
}

/// A connection to the first address of a server that takes one.
async fn reach(resolver: &Resolver, dialer: &Dialer, server: &Endpoint) -> Result<Client, String> {
    let mut why = "the name has no address".to_owned();
    for address in resolver.resolve(server).await.map_err(|e| e.to_string())? {
        let dialled = dialer.dialled(address);
        let mapped = if dialled == address { String::new() } else { format!(" to {dialled}") };
        match dialer.connect_as(Some(&server.host), address).await {
            Ok(client) => return Ok(client),
            // What TLS has to say is not about an address.
            Err(e) if e.get_ref().is_some() => return Err(e.to_string()),
            Err(e) => why = format!("cannot connect{mapped}: {e}"),
        }
    }
    Err(why)
}

async fn authenticate(client: &mut Client, credentials: &Credentials) -> Result<(), String> {
    // From the configuration, which is text.
    let password = String::from_utf8_lossy(credentials.password.expose());
    let answer = match credentials.user.as_deref().map(String::from_utf8_lossy) {
        Some(user) => call(client, &["AUTH", &user, &password]).await,
        None => call(client, &["AUTH", &password]).await,
    };
    answer.map(drop).map_err(|why| format!("AUTH: {}", without_arguments(&why)))
}

/// One question; an error reply is an `Err` like a lost connection.
async fn call(client: &mut Client, args: &[&str]) -> Result<Value, String> {
    let answer = client.call(args).await.map_err(|e: ClientError| e.to_string())?;
    match answer.as_error() {
        Some(text) => Err(text.to_owned()),
        None => Ok(answer),
    }
}

async fn within_limit<T>(answer: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timeout(ANSWER_LIMIT, answer).await.unwrap_or_else(|_| Err(format!("no answer within {ANSWER_LIMIT:?}")))
}

fn report(service: &ServiceConfig, what: &str, server: &Endpoint, answer: &Result<impl Display, String>) {
    match answer {
        Ok(text) => say(&format!("{}: {what} {server}: {text}", service.name)),
        Err(why) => say(&format!("{}: {what} {server}: FAILED: {}", service.name, why.replace(char::is_control, " "))),
    }
}
