//! Makes an old master a replica of its successor (`fence_old_master`), if it is still what it was.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::event::SentinelEvent;
use super::probe::{Connection, Failure};
use super::role;
use super::tasks::Common;
use crate::clock::Moment;
use crate::topology::failover::Demotion;
use crate::topology::{Event, RoleAnswer};

/// For how long it is tried while the old master does not answer, or refuses. Sentinel demotes it after 10 s and more.
const TRY_FOR: Duration = Duration::from_secs(15);
/// Pause between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// Longest wait for the answers of one try. It rewrites its file and disconnects its clients.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How a try ended.
enum End {
    /// It follows, or is left alone for this reason.
    Settled(String),
    /// Not as it should; the next may.
    Failed(String),
}

impl End {
    fn silent() -> Self {
        Self::Failed("does not answer".to_owned())
    }

    fn refused(why: &str) -> Self {
        Self::Failed(format!("is not made a replica ({why})"))
    }
}

/// An old master that is being made a replica, or was; ended when dropped.
#[derive(Debug)]
pub(super) struct Demoting {
    old: SocketAddr,
    new: SocketAddr,
    held: watch::Sender<bool>,
    task: AbortOnDropHandle<()>,
}

impl Demoting {
    pub(super) fn start(common: Common, demotion: Demotion) -> Self {
        let (old, new, held) = (demotion.old, demotion.new, watch::Sender::new(false));
        let task = AbortOnDropHandle::new(tokio::spawn(run(common, demotion, held.subscribe())));
        Self { old, new, held, task }
    }

    /// The old master, while it is neither a replica nor left to Sentinel.
    pub(super) fn unfinished(&self) -> Option<SocketAddr> {
        (!self.task.is_finished()).then_some(self.old)
    }

    /// A hold has begun: behind it the old master may be the master again, and must not be made a replica then.
    pub(super) fn suspend(&self) {
        self.held.send_replace(true);
    }

    /// It ended, and this is the master: whether that is the successor still, so that it goes on.
    pub(super) fn go_on(&self, master: Option<SocketAddr>) -> bool {
        let goes_on = master == Some(self.new);
        if goes_on {
            self.held.send_replace(false);
        }
        goes_on
    }
}

/// Tries until it is done, need not be done, or has taken too long; tells the record how it ended.
async fn run(common: Common, demotion: Demotion, mut held: watch::Receiver<bool>) {
    let end = Instant::now() + TRY_FOR;
    let limit = common.nodes.connect_timeout() + ANSWER_LIMIT;
    let mut told = false;
    let text = loop {
        if held.wait_for(|held| !held).await.is_err() {
            return;
        }
        let tried = tokio::select! {
            biased;
            _ = held.wait_for(|held| *held) => continue,
            tried = timeout(limit, attempt(&common, &demotion, &mut told)) => tried,
        };
        match tried.unwrap_or_else(|_| End::silent()) {
            End::Settled(text) => break text,
            End::Failed(why) if Instant::now() >= end => break format!("{why}: that it follows is left to Sentinel"),
            End::Failed(_) => sleep(TRY_AGAIN).await,
        }
    };
    let note = SentinelEvent::Note { source: demotion.old.to_string(), text };
    // The watcher is gone only when everything ends.
    let _ = common.events.send(note).await;
}

/// `told`: it has been sent `REPLICAOF` and has not refused, in this try or in one before, which did not see its end.
async fn attempt(common: &Common, demotion: &Demotion, told: &mut bool) -> End {
    let Ok(client) = common.nodes.connect(demotion.old).await else { return End::silent() };
    let mut connection = Connection::new(client, common.backend.as_ref());
    let asked = Moment::now();
    let reply = match connection.ask().await {
        Ok(reply) => reply,
        Err(Failure::Closed) => return End::silent(),
        Err(Failure::Denied(why)) => return End::refused(&why),
    };
    let Connection { run_id, history, client, .. } = &mut connection;
    let known = |endpoint: &_| common.resolver.known(endpoint);
    let answer = role::parse(&reply, run_id.as_deref(), history.as_ref(), known);
    let is_same_process = run_id.as_ref() == Some(&demotion.run_id);
    let is_same = is_same_process && history.as_ref().is_some_and(|history| history.id == demotion.stream);
    // How far it got, before it forgets.
    let event = Event::Role { node: demotion.old, asked, answer: answer.clone() };
    let _ = common.events.send(SentinelEvent::Machine(event)).await;
    match answer {
        RoleAnswer::Master { .. } if is_same => {
            let (ip, port) = (demotion.new.ip().to_string(), demotion.new.port().to_string());
            *told = true;
            match client.call(&["REPLICAOF", &ip, &port]).await {
                Ok(reply) => {
                    if let Some(why) = reply.as_error() {
                        *told = false;
                        return End::refused(why);
                    }
                }
                // It may have been carried out; the next try finds out.
                Err(_) => return End::silent(),
            }
        }
        // It refuses that, while a script runs for too long perhaps.
        RoleAnswer::Master { .. } if run_id.is_none() || history.is_none() => {
            return End::refused("INFO does not tell who it is");
        }
        RoleAnswer::Master { .. } => {
            return End::Settled("is another process, or has another history: it is left to Sentinel".to_owned());
        }
        // That was the try before.
        RoleAnswer::Replica { of, .. } if *told && is_same_process && of == demotion.new => {}
        RoleAnswer::Replica { .. } => return End::Settled("says that it is a replica already".to_owned()),
        RoleAnswer::Error(why) => return End::refused(&why),
        RoleAnswer::Refused | RoleAnswer::Silent { .. } => return End::silent(),
    }
    let mut text = format!("was made a replica of {}", demotion.new);
    // Sentinel has its way already, so that it would not write it to the file; a restart would bring up a master.
    let rest: [&[&str]; 3] = [
        &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"],
        &["CLIENT", "KILL", "TYPE", "pubsub"],
        &["CONFIG", "REWRITE"],
    ];
    for command in rest {
        // The next try finishes it.
        let Ok(reply) = client.call(command).await else { return End::silent() };
        if let Some(why) = reply.as_error() {
            text += &format!("; {}: {why}", command.join(" "));
        }
    }
    End::Settled(text)
}
