//! `POST /switchover`: control does it and tells what happens line by line.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::{Request, StatusCode};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::routes::Answer;
use super::{AdminState, body};
use crate::topology::switchover::{Order, REPORTS, Report};

pub(super) const PATH: &str = "/switchover";
pub(super) const ABOUT: &str = "POST orders a switchover and tells each step, as lines of JSON";
/// One JSON document on each line.
pub(super) const CONTENT_TYPE: &str = "application/x-ndjson";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    service: String,
    to: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// Passes an order on to control.
pub(super) async fn order(state: &AdminState, request: Request<Incoming>) -> Result<Lines, Answer> {
    let wanted: Wanted = body::read(request).await?;
    let bad = |e| body::refusal(StatusCode::BAD_REQUEST, &format!("`to`: {e}"));
    let to = wanted.to.map(|to| to.parse().map_err(bad)).transpose()?;
    let orders = state.service(&wanted.service)?.orders;
    let (reports, lines) = mpsc::channel(REPORTS);
    state.note_switchover(&reports);
    let busy = |_| body::refusal(StatusCode::SERVICE_UNAVAILABLE, "control does not take orders now");
    orders.try_send(Order { to, dry_run: wanted.dry_run, reports }).map_err(busy)?;
    Ok(Lines(lines))
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
