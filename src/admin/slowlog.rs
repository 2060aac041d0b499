//! `/slowlog`: the commands that took long, and where they waited. What they are about is told with the caution of an order:
//! keys may be secrets.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::{Deserialize, Serialize};

use super::routes::{Answer, JSON, TEXT};
use super::{AdminState, Watched, body};
use crate::insight::SlowCommand;

pub(super) const PATH: &str = "/slowlog";
pub(super) const ABOUT: &str = "the commands that took longest, as JSON";
pub(super) const RESET: &str = "/slowlog/reset";
pub(super) const RESET_ABOUT: &str = "POST forgets them";

/// The document.
#[derive(Debug, Serialize, Deserialize)]
pub struct SlowLogs {
    /// In the order of the configuration.
    pub services: Vec<ServiceSlowLog>,
}

/// The slow commands of one service.
#[derive(Debug, Serialize, Deserialize)]
pub struct ServiceSlowLog {
    /// Its name.
    pub service: String,
    /// From which time on a command is noted (`slowlog_slower_than`), in milliseconds; none: nothing is.
    pub slower_than_ms: Option<u64>,
    /// The newest first.
    pub commands: Vec<Arc<SlowCommand>>,
}

/// What a reset did.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Forgotten {
    /// How many slow commands were kept until then.
    pub forgotten: usize,
}

pub(super) fn answer(state: &AdminState) -> Answer {
    let services = state.services().into_iter().map(|Watched { name, config, insight, .. }| {
        let slowlog = config.borrow().slowlog;
        ServiceSlowLog {
            service: name.to_string(),
            slower_than_ms: slowlog.slower_than.map(|than| u64::try_from(than.as_millis()).unwrap_or(u64::MAX)),
            commands: insight.slow(slowlog.max_len),
        }
    });
    match serde_json::to_string_pretty(&SlowLogs { services: services.collect() }) {
        Ok(text) => Answer(StatusCode::OK, JSON, text + "\n"),
        Err(e) => Answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{e}\n")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    /// None: all services.
    service: Option<String>,
}

pub(super) async fn reset(state: &AdminState, request: Request<Incoming>) -> Result<Answer, Answer> {
    let Of { service } = body::read(request).await?;
    let services = match service {
        Some(name) => vec![state.service(&name)?],
        None => state.services(),
    };
    let forgotten = services.iter().map(|service| service.insight.forget_slow()).sum();
    let text = serde_json::to_string(&Forgotten { forgotten }).unwrap_or_default() + "\n";
    Ok(Answer(StatusCode::OK, JSON, text))
}
