//! `POST /pause` and `POST /resume`: the commands of a service wait, and go on.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::routes::{Answer, JSON};
use super::{AdminState, body};
use crate::topology::pause::{Pause, PauseOrder};
use crate::topology::status::WallTime;

pub(super) const PAUSE: &str = "/pause";
pub(super) const PAUSE_ABOUT: &str = "POST has the commands of a service wait until they are resumed";
pub(super) const RESUME: &str = "/resume";
pub(super) const RESUME_ABOUT: &str = "POST has the commands of a paused service go on";

/// How long what is under way may take to be answered before a pause is told to be on all the same.
const QUIET_LIMIT: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Begin {
    service: String,
    /// It ends by itself after so many milliseconds.
    for_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    service: String,
}

/// What became of an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PauseAnswer {
    /// Whether the service is paused now.
    pub paused: bool,
    /// When that ends by itself.
    pub until: Option<WallTime>,
    /// Whether everybody goes by it; of a pause, whether nothing that could write is under way at the master any more.
    pub carried_out: bool,
    /// Commands that wait.
    pub waiting: u64,
}

pub(super) async fn begin(state: &AdminState, request: Request<Incoming>) -> Result<Answer, Answer> {
    let Begin { service, for_ms } = body::read(request).await?;
    order(state, &service, Pause::Begin(for_ms.map(Duration::from_millis))).await
}

pub(super) async fn end(state: &AdminState, request: Request<Incoming>) -> Result<Answer, Answer> {
    let End { service } = body::read(request).await?;
    order(state, &service, Pause::End).await
}

async fn order(state: &AdminState, service: &str, pause: Pause) -> Result<Answer, Answer> {
    let service = state.service(service)?;
    let (done, carried_out) = oneshot::channel();
    let busy = |_| body::refusal(StatusCode::SERVICE_UNAVAILABLE, "control does not take orders now");
    service.pauses.try_send(PauseOrder { pause, done }).map_err(busy)?;
    let carried_out = matches!(timeout(QUIET_LIMIT, carried_out).await, Ok(Ok(())));
    let paused = service.status.borrow().paused;
    let answer = PauseAnswer {
        paused: paused.is_some(),
        until: paused.and_then(|paused| paused.until),
        carried_out,
        waiting: service.stats.sum(|s| &s.commands_waiting),
    };
    let text = serde_json::to_string(&answer).unwrap_or_default() + "\n";
    Ok(Answer(StatusCode::OK, JSON, text))
}
