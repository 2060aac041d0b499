//! `pointsman clients`, `pools` and `sentinels`: lists of one that runs, for people or as JSON.

use std::process::ExitCode;

use serde_json::json;

use super::admin::{self, Admin};
use super::args::{AdminArguments, ClientsArguments, PoolsArguments, SentinelsArguments};
use super::exit;
use super::table::{Cell, Look, Table, Tone};
use crate::admin::words::{agrees, count, duration, said, second};
use crate::admin::{ClientEntry, ClientPage, ClientState, Pools, ServicePools, Status, WorkerPool};
use crate::topology::status::{ServiceStatus, WallTime};

/// Why a list cannot be had, and how the program ends for it.
type Failure = (String, u8);

pub(super) fn clients(arguments: &ClientsArguments) -> ExitCode {
    ended(&arguments.admin, |admin| {
        let mut listed = Vec::new();
        for service in services(admin, arguments.service.as_deref())? {
            listed.extend(clients_of(admin, &service, arguments)?.into_iter().map(|client| (service.clone(), client)));
        }
        if arguments.json {
            let with_service = |(service, client): (String, ClientEntry)| {
                let mut entry = json!(client);
                entry["service"] = json!(service);
                entry
            };
            return Ok(pretty(&json!({ "clients": listed.into_iter().map(with_service).collect::<Vec<_>>() })));
        }
        Ok(client_table(&listed, Look::of_stdout()))
    })
}

/// As many as are wanted, page by page: what comes and goes meanwhile is there or not.
fn clients_of(admin: &Admin, service: &str, arguments: &ClientsArguments) -> Result<Vec<ClientEntry>, Failure> {
    let ClientsArguments { user, name, addr, state, limit, .. } = arguments;
    let mut query = format!("/clients?service={}", encode(service));
    for (key, value) in [("user", user), ("name", name), ("addr", addr)] {
        query += &value.as_ref().map(|value| format!("&{key}={}", encode(value))).unwrap_or_default();
    }
    query += &state.map(|state| format!("&state={}", state.word())).unwrap_or_default();
    let (mut clients, mut next) = (Vec::new(), Some(0));
    while let Some(after) = next.filter(|_| clients.len() < *limit) {
        let page: ClientPage = read(admin, &format!("{query}&after={after}"))?;
        clients.extend(page.clients);
        next = page.next;
    }
    clients.truncate(*limit);
    Ok(clients)
}

fn client_table(clients: &[(String, ClientEntry)], look: Look) -> String {
    let mut table = Table::titled([
        "SERVICE",
        "ID",
        "ADDRESS",
        "WORKER",
        "DB",
        "USER",
        "AGE",
        "IDLE",
        "STATE",
        "COMMAND",
        "NAME, LIBRARY",
    ]);
    for (service, client) in clients {
        let tone = match client.state {
            ClientState::Held => Tone::Warn,
            ClientState::New => Tone::Dim,
            _ => Tone::Plain,
        };
        let said = [client.name.as_str(), &client.library].into_iter().filter(|text| !text.is_empty());
        table.row([
            service.into(),
            client.id.to_string().into(),
            client.addr.as_str().into(),
            client.worker.to_string().into(),
            client.db.to_string().into(),
            client.user.as_str().into(),
            duration(client.age_seconds * 1000).into(),
            duration(client.idle_seconds * 1000).into(),
            Cell::from(client.state.word()).toned(tone),
            client.command.as_deref().unwrap_or("-").into(),
            said.collect::<Vec<_>>().join(", ").into(),
        ]);
    }
    lines(table.lines(0, look)) + &format!("{}\n", count(clients.len() as u64, "client"))
}

pub(super) fn pools(arguments: &PoolsArguments) -> ExitCode {
    ended(&arguments.admin, |admin| {
        let mut pools: Pools = read(admin, "/pools")?;
        let all: Vec<String> = pools.services.iter().map(|s| s.service.clone()).collect();
        if let Some(service) = &arguments.service {
            pools.services.retain(|s| s.service == *service);
            known(admin, service, !pools.services.is_empty(), &all)?;
        }
        if arguments.json {
            return Ok(pretty(&json!(pools)));
        }
        let look = Look::of_stdout();
        Ok(pools.services.iter().map(|service| pool_table(service, look)).collect::<Vec<_>>().join("\n"))
    })
}

fn pool_table(service: &ServicePools, look: Look) -> String {
    let to = |node: Option<std::net::SocketAddr>| node.map_or_else(|| "nobody".to_owned(), |node| node.to_string());
    let head = format!(
        "{}: writes to {}, reads to {}; at most {} clients, and {} own connections of each worker",
        look.paint(&service.service, Tone::Title),
        to(service.writes),
        to(service.reads),
        service.max_clients,
        service.max_pinned
    );
    let mut table = Table::titled([
        "WORKER",
        "CLIENTS",
        "WAITING",
        "SHARED",
        "TO REPLICA",
        "OWN",
        "FREE",
        "FOR AUTH",
        "DIALLED",
        "QUEUED",
    ]);
    let row = |name: String, pool: &WorkerPool| -> [Cell; 10] {
        let number = |n: u64| Cell::from(n.to_string());
        let worth_a_look = |n: u64| number(n).toned(if n > 0 { Tone::Warn } else { Tone::Plain });
        [
            name.into(),
            number(pool.clients),
            worth_a_look(pool.waiting),
            number(pool.master),
            number(pool.replica),
            number(pool.pinned.saturating_sub(pool.free)),
            number(pool.free),
            number(pool.judges),
            number(pool.dialing),
            worth_a_look(pool.queued),
        ]
    };
    for (worker, pool) in service.workers.iter().enumerate() {
        table.row(row(worker.to_string(), pool));
    }
    if service.workers.len() > 1 {
        table.row(row("all".to_owned(), &sum(&service.workers)));
    }
    format!("{head}\n{}", lines(table.lines(2, look)))
}

/// Over all workers.
pub(super) fn sum(workers: &[WorkerPool]) -> WorkerPool {
    workers.iter().fold(WorkerPool::default(), |a, b| WorkerPool {
        clients: a.clients + b.clients,
        waiting: a.waiting + b.waiting,
        master: a.master + b.master,
        replica: a.replica + b.replica,
        pinned: a.pinned + b.pinned,
        judges: a.judges + b.judges,
        free: a.free + b.free,
        dialing: a.dialing + b.dialing,
        queued: a.queued + b.queued,
    })
}

pub(super) fn sentinels(arguments: &SentinelsArguments) -> ExitCode {
    ended(&arguments.admin, |admin| {
        let mut status: Status = read(admin, "/status")?;
        let all: Vec<String> = status.services.iter().map(|s| s.status.service.clone()).collect();
        if let Some(service) = &arguments.service {
            status.services.retain(|s| s.status.service == *service);
            known(admin, service, !status.services.is_empty(), &all)?;
        }
        if arguments.json {
            let of = |s: &ServiceStatus| json!({ "service": s.service, "sentinels": s.sentinels });
            let services: Vec<_> = status.services.iter().map(|s| of(&s.status)).collect();
            return Ok(pretty(&json!({ "services": services })));
        }
        let (now, look) = (WallTime::now(), Look::of_stdout());
        let tables = status.services.iter().map(|service| sentinel_table(&service.status, now, look));
        Ok(tables.collect::<Vec<_>>().join("\n"))
    })
}

fn sentinel_table(status: &ServiceStatus, now: WallTime, look: Look) -> String {
    let name = look.paint(&status.service, Tone::Title);
    if status.sentinels.is_empty() {
        return format!("{name}: its master is fixed, no Sentinel is asked\n");
    }
    let up = status.sentinels.iter().filter(|s| s.up).count();
    let mut table = Table::titled(["SENTINEL", "CONNECTED", "LAST HEARD", "EPOCH", "SAYS"]);
    for sentinel in &status.sentinels {
        let heard = match sentinel.heard {
            // It is asked once a second.
            Some(heard) if now.0.saturating_sub(heard.0) < 3000 => "now".to_owned(),
            Some(heard) => format!("{} UTC, {} ago", second(heard), duration(now.0.saturating_sub(heard.0))),
            None => "never".to_owned(),
        };
        let tone = if agrees(sentinel, status) { Tone::Plain } else { Tone::Warn };
        table.row([
            sentinel.endpoint.to_string().into(),
            Cell::from(if sentinel.up { "yes" } else { "NO" }).toned(if sentinel.up { Tone::Plain } else { Tone::Bad }),
            heard.into(),
            sentinel.epoch.map_or_else(|| "-".to_owned(), |epoch| epoch.to_string()).into(),
            Cell::from(said(sentinel)).toned(tone),
        ]);
    }
    let all = status.sentinels.len();
    format!("{name}: {up} of {all} Sentinels in hearing\n{}", lines(table.lines(2, look)))
}

/// The services that are meant: the named one, or all.
fn services(admin: &Admin, named: Option<&str>) -> Result<Vec<String>, Failure> {
    if let Some(service) = named {
        return Ok(vec![service.to_owned()]);
    }
    let status: Status = read(admin, "/status")?;
    Ok(status.services.into_iter().map(|s| s.status.service).collect())
}

fn known(admin: &Admin, service: &str, found: bool, all: &[String]) -> Result<(), Failure> {
    let unknown = || (format!("{admin} has no service `{service}`, but {}", all.join(", ")), exit::USAGE);
    if found { Ok(()) } else { Err(unknown()) }
}

/// A page of the admin server, understood.
pub(super) fn read<T: serde::de::DeserializeOwned>(admin: &Admin, path: &str) -> Result<T, Failure> {
    let text = admin::get(admin, path).map_err(|why| (why, exit::UNAVAILABLE))?;
    serde_json::from_str(&text).map_err(|e| {
        let why = format!("{admin} is no pointsman, or one of a version that this does not understand: {e}");
        (why, exit::UNAVAILABLE)
    })
}

fn pretty(document: &serde_json::Value) -> String {
    format!("{document:#}\n")
}

fn lines(lines: Vec<String>) -> String {
    lines.into_iter().map(|line| line + "\n").collect()
}

/// A part of a query.
fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn ended(arguments: &AdminArguments, list: impl FnOnce(&Admin) -> Result<String, Failure>) -> ExitCode {
    let admin = admin::address(arguments).map_err(|why| (why, exit::UNAVAILABLE));
    exit::after(admin.and_then(|admin| list(&admin)))
}
