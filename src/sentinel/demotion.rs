//! Makes an old master a replica of its successor (`fence_old_master`), if it is still what it was.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::event::SentinelEvent;
use super::probe::{Connection, Failure};
use super::role;
use super::tasks::Common;
use crate::clock::Moment;
use crate::topology::failover::Demotion;
use crate::topology::{Event, RoleAnswer};

/// For how long it is tried while the old master does not answer. Sentinel demotes it after 10 s and more.
const TRY_FOR: Duration = Duration::from_secs(15);
/// Pause between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// Longest wait for the answers of one try. It rewrites its file and disconnects its clients.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How a try ended.
enum End {
    /// It follows, or is left alone for this reason.
    Settled(String),
    /// It did not answer.
    Silent,
}

/// Tries until it is done, need not be done, or has taken too long; tells the record how it ended.
pub(super) async fn run(common: Common, demotion: Demotion) {
    let end = Instant::now() + TRY_FOR;
    let text = loop {
        match timeout(common.nodes.connect_timeout() + ANSWER_LIMIT, attempt(&common, &demotion)).await {
            Ok(End::Settled(text)) => break text,
            Ok(End::Silent) | Err(_) if Instant::now() >= end => {
                break "does not answer: that it follows is left to Sentinel".to_owned();
            }
            Ok(End::Silent) | Err(_) => sleep(TRY_AGAIN).await,
        }
    };
    let note = SentinelEvent::Note { source: demotion.old.to_string(), text };
    // The watcher is gone only when everything ends.
    let _ = common.events.send(note).await;
}

async fn attempt(common: &Common, demotion: &Demotion) -> End {
    let Ok(client) = common.nodes.connect(demotion.old).await else { return End::Silent };
    let mut connection = Connection::new(client, common.backend.as_ref());
    let asked = Moment::now();
    let reply = match connection.ask().await {
        Ok(reply) => reply,
        Err(Failure::Closed) => return End::Silent,
        Err(Failure::Denied(why)) => return End::Settled(format!("is not made a replica: {why}")),
    };
    let Connection { run_id, history, client, .. } = &mut connection;
    let known = |endpoint: &_| common.resolver.known(endpoint);
    let answer = role::parse(&reply, run_id.as_deref(), history.as_ref(), known);
    let is_master = matches!(answer, RoleAnswer::Master { .. });
    let is_same = run_id.as_ref() == Some(&demotion.run_id)
        && history.as_ref().is_some_and(|history| history.id == demotion.stream);
    // How far it got, before it forgets.
    let event = Event::Role { node: demotion.old, asked, answer };
    let _ = common.events.send(SentinelEvent::Machine(event)).await;
    if !is_master {
        return End::Settled("says that it is a replica already".to_owned());
    }
    if !is_same {
        return End::Settled("is another process, or has another history: it is left to Sentinel".to_owned());
    }
    let (ip, port) = (demotion.new.ip().to_string(), demotion.new.port().to_string());
    let follow = match client.call(&["REPLICAOF", &ip, &port]).await {
        Ok(reply) => reply.as_error().map(str::to_owned),
        // It may have been carried out; the next try finds out.
        Err(_) => return End::Silent,
    };
    if let Some(why) = follow {
        return End::Settled(format!("is not made a replica: {why}"));
    }
    let mut text = format!("was made a replica of {}", demotion.new);
    // Sentinel has its way already, so that it would not write it to the file; a restart would bring up a master.
    let rest: [&[&str]; 3] = [
        &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"],
        &["CLIENT", "KILL", "TYPE", "pubsub"],
        &["CONFIG", "REWRITE"],
    ];
    for command in rest {
        let failure = match client.call(command).await {
            Ok(reply) => reply.as_error().map(str::to_owned),
            Err(e) => Some(e.to_string()),
        };
        if let Some(why) = failure {
            text += &format!("; {}: {why}", command.join(" "));
        }
    }
    End::Settled(text)
}
