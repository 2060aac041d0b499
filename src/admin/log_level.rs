//! `POST /log-level`: what is logged, until it is set back or the configured level changes.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::routes::{Answer, JSON};
use super::{AdminState, Instruction, body};
use crate::config;

pub(super) const PATH: &str = "/log-level";
pub(super) const ABOUT: &str = "POST sets what is logged, or sets it back";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// As `log.level` has it; none: that of the configuration.
    level: Option<String>,
}

pub(super) async fn order(state: &AdminState, request: Request<Incoming>) -> Result<Answer, Answer> {
    let Wanted { level } = body::read(request).await?;
    let wrong = |why: String| body::refusal(StatusCode::UNPROCESSABLE_ENTITY, &format!("`level`: {why}"));
    let level = level.map(|level| config::log_level(&level)).transpose().map_err(wrong)?;
    let (done, set) = oneshot::channel();
    let gone = |why| body::refusal(StatusCode::SERVICE_UNAVAILABLE, why);
    let instruction = Instruction::SetLogLevel { level, done };
    state.instructions.try_send(instruction).map_err(|_| gone("a reload is under way, or the end"))?;
    let now = set.await.map_err(|_| gone("pointsman ends"))?;
    Ok(Answer(StatusCode::OK, JSON, serde_json::json!({ "level": now }).to_string() + "\n"))
}
