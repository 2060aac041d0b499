//! `POST /reload`: the configuration is read again. What is told is what changed, or why nothing did.

use hyper::StatusCode;
use tokio::sync::oneshot;

use super::routes::{Answer, TEXT};
use super::{AdminState, Instruction};

pub(super) const PATH: &str = "/reload";
pub(super) const ABOUT: &str = "POST reads the configuration again and tells what changed";

/// What a reload changed, a line for each thing; or why nothing was changed, which is every problem of the configuration
/// on a line of its own.
pub type Reloaded = Result<Vec<String>, String>;

/// Has the configuration read again.
pub(super) async fn order(state: &AdminState) -> Answer {
    let (order, outcome) = oneshot::channel();
    if state.instructions.try_send(Instruction::Reload(order)).is_err() {
        return Answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "a reload is under way, or the end\n".to_owned());
    }
    match outcome.await {
        Ok(Ok(lines)) => Answer(StatusCode::OK, TEXT, lines.join("\n") + "\n"),
        Ok(Err(why)) => Answer(StatusCode::UNPROCESSABLE_ENTITY, TEXT, why + "\n"),
        Err(_) => Answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "pointsman ends\n".to_owned()),
    }
}
