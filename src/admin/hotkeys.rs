//! `POST /hotkeys`: the commands of a service are looked at for some seconds, and which keys most are about is told. It ends
//! when whoever asked leaves: then nobody drives this any more, and what stands in for the sample is dropped.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use super::routes::{Answer, JSON};
use super::{AdminState, body};
use crate::insight::{MAX_FOR, MAX_TOP, Wanted};

pub(super) const PATH: &str = "/hotkeys";
pub(super) const ABOUT: &str =
    "POST looks at commands for some seconds and tells the keys that most are about, as JSON";

/// Shorter than this there is hardly a turn of a worker in it.
const MIN_FOR: Duration = Duration::from_millis(10);
/// Past that, one more command is looked at or less: it is a mistyped number.
const MAX_ONE_IN: u32 = 1_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sampled {
    service: String,
    #[serde(default = "usual_time")]
    for_ms: u64,
    #[serde(default = "usual_top")]
    top: usize,
    #[serde(default = "usual_one_in")]
    one_in: u32,
}

fn usual_time() -> u64 {
    5000
}

fn usual_top() -> usize {
    20
}

fn usual_one_in() -> u32 {
    10
}

pub(super) async fn order(state: &AdminState, request: Request<Incoming>) -> Result<Answer, Answer> {
    let Sampled { service, for_ms, top, one_in } = body::read(request).await?;
    let within = |is: bool, what: &str| if is { Ok(()) } else { Err(body::refusal(StatusCode::BAD_REQUEST, what)) };
    let (lasting, least, most) = (Duration::from_millis(for_ms), MIN_FOR.as_millis(), MAX_FOR.as_millis());
    within((MIN_FOR..=MAX_FOR).contains(&lasting), &format!("`for_ms`: expected {least} to {most}, found {for_ms}"))?;
    within((1..=MAX_TOP).contains(&top), &format!("`top`: expected 1 to {MAX_TOP}, found {top}"))?;
    within((1..=MAX_ONE_IN).contains(&one_in), &format!("`one_in`: expected 1 to {MAX_ONE_IN}, found {one_in}"))?;
    let watched = state.service(&service)?;
    let wanted = Wanted { one_in, seed: fastrand::u64(..) };
    let Some(sampling) = watched.insight.begin_sampling(wanted) else {
        let words = format!("a sample of `{service}` is being taken for somebody else; it ends within {MAX_FOR:?}");
        return Err(body::refusal(StatusCode::CONFLICT, &words));
    };
    let began = Instant::now();
    tokio::time::sleep(lasting).await;
    let hot = sampling.end(top, began.elapsed());
    Ok(Answer(StatusCode::OK, JSON, serde_json::to_string_pretty(&hot).unwrap_or_default() + "\n"))
}
