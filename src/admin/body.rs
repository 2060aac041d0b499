//! The body of an order: a small JSON document.

use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::routes::{Answer, TEXT};

/// Largest order taken.
const ORDER_BYTES: usize = 4096;
/// Longest wait for all of it.
const ORDER_LIMIT: Duration = Duration::from_secs(10);

/// Reads the order of a request.
///
/// A browser may not say that it sends JSON without having asked first.
pub(super) async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Answer> {
    let is_json = |value: &str| value.split(';').next().is_some_and(|t| t.trim() == "application/json");
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !content_type.is_some_and(is_json) {
        return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json"));
    }
    let bad = |why: &str| refusal(StatusCode::BAD_REQUEST, why);
    let body = timeout(ORDER_LIMIT, Limited::new(request.into_body(), ORDER_BYTES).collect()).await;
    let late = |_| refusal(StatusCode::REQUEST_TIMEOUT, "the order did not come in time");
    let body = body.map_err(late)?.map_err(|error| match error.downcast::<LengthLimitError>() {
        Ok(_) => refusal(StatusCode::PAYLOAD_TOO_LARGE, &format!("an order has {ORDER_BYTES} bytes at most")),
        Err(error) => bad(&error.to_string()),
    })?;
    serde_json::from_slice(&body.to_bytes()).map_err(|e| bad(&e.to_string()))
}

pub(super) fn refusal(status: StatusCode, why: &str) -> Answer {
    Answer(status, TEXT, format!("{why}\n"))
}
