//! `POST /switchover`: the one thing that can be ordered here. Control does it and tells what happens line by line.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::CONTENT_TYPE as CONTENT_TYPE_HEADER;
use hyper::{Request, StatusCode};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::AdminState;
use super::routes::{self, Answer, TEXT};
use crate::topology::switchover::{Order, REPORTS, Report};

pub(super) const PATH: &str = "/switchover";
pub(super) const ABOUT: &str = "POST orders a switchover and tells each step, as lines of JSON";
/// One JSON document on each line.
pub(super) const CONTENT_TYPE: &str = "application/x-ndjson";
/// Largest order taken.
const ORDER_BYTES: usize = 4096;
/// Longest wait for all of it.
const ORDER_LIMIT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    service: String,
    to: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// Passes an order on to control.
///
/// A browser may not say that it sends JSON without having asked first.
pub(super) async fn order(state: &AdminState, peer: SocketAddr, request: Request<Incoming>) -> Result<Lines, Answer> {
    let headers = request.headers();
    routes::refuse_strangers("a switchover", peer, headers)?;
    let is_json = |value: &str| value.split(';').next().is_some_and(|t| t.trim() == "application/json");
    if !headers.get(CONTENT_TYPE_HEADER).and_then(|value| value.to_str().ok()).is_some_and(is_json) {
        return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json"));
    }
    let bad = |why: &str| refusal(StatusCode::BAD_REQUEST, why);
    let body = timeout(ORDER_LIMIT, Limited::new(request.into_body(), ORDER_BYTES).collect()).await;
    let body = body.map_err(|_| bad("the order did not come"))?.map_err(|e| bad(&e.to_string()))?;
    let wanted: Wanted = serde_json::from_slice(&body.to_bytes()).map_err(|e| bad(&e.to_string()))?;
    let to = wanted.to.map(|to| to.parse().map_err(|e| bad(&format!("`to`: {e}")))).transpose()?;

    let service = state.services().into_iter().find(|s| *s.name == wanted.service);
    let unknown = || refusal(StatusCode::NOT_FOUND, &format!("there is no service `{}`", wanted.service));
    let orders = service.ok_or_else(unknown)?.orders;
    let (reports, lines) = mpsc::channel(REPORTS);
    let busy = |_| refusal(StatusCode::SERVICE_UNAVAILABLE, "control does not take orders now");
    orders.try_send(Order { to, dry_run: wanted.dry_run, reports }).map_err(busy)?;
    Ok(Lines(lines))
}

fn refusal(status: StatusCode, why: &str) -> Answer {
    Answer(status, TEXT, format!("{why}\n"))
}

/// The reports of one switchover, each a line, as they come.
pub(super) struct Lines(mpsc::Receiver<Report>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(report) = ready!(self.0.poll_recv(cx)) else { return Poll::Ready(None) };
        let mut line = serde_json::to_vec(&report).unwrap_or_default();
        line.push(b'\n');
        Poll::Ready(Some(Ok(Frame::data(line.into()))))
    }
}
