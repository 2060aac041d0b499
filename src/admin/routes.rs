//! What the admin server answers: one table of paths to read, and one of what can be ordered.

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;

use super::guard::{self, Caller, Refusal};
use super::switchover::{self, Lines};
use super::{AdminState, clients, health, hotkeys, log_level, page, pause, pools, reload, scrape, slowlog, status};
use crate::topology::status::WallTime;

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

const ROOT: &str = "/";

/// What health checks ask.
const HEALTH: [&str; 2] = ["/livez", "/readyz"];

/// Status, content type and body of an answer.
pub(super) struct Answer(pub(super) StatusCode, pub(super) &'static str, pub(super) String);

/// What is sent: a text, or lines as they come.
type Body = Either<Full<Bytes>, Lines>;

struct Route {
    path: &'static str,
    about: &'static str,
    /// From the state and the query.
    answer: fn(&AdminState, Option<&str>) -> Answer,
}

const ROUTES: [Route; 8] = [
    Route {
        path: ROOT,
        about: "this list; for a browser, a page that shows all",
        answer: |_, _| Answer(StatusCode::OK, TEXT, index()),
    },
    Route {
        path: "/metrics",
        about: "metrics for Prometheus",
        answer: |state, _| match scrape::scrape(state) {
            Ok(text) => Answer(StatusCode::OK, scrape::CONTENT_TYPE, text),
            Err(e) => Answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{e}\n")),
        },
    },
    Route {
        path: "/livez",
        about: "200 while every thread does its rounds",
        answer: |state, _| verdict(health::live(state)),
    },
    Route {
        path: "/readyz",
        about: "200 while this instance takes clients; who is master, and what each Sentinel says",
        answer: |state, _| verdict(health::ready(state)),
    },
    Route {
        path: "/status",
        about: "everything about every service, as JSON",
        answer: |state, _| match status::json(state) {
            Ok(text) => Answer(StatusCode::OK, JSON, text),
            Err(e) => Answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{e}\n")),
        },
    },
    Route { path: slowlog::PATH, about: slowlog::ABOUT, answer: |state, _| slowlog::answer(state) },
    Route {
        path: clients::PATH,
        about: clients::ABOUT,
        answer: |state, query| clients::page(state, query).map_or_else(|refusal| refusal, |page| json(&page)),
    },
    Route { path: pools::PATH, about: pools::ABOUT, answer: |state, _| json(&pools::document(state)) },
];

/// What is ordered by POST: its path, and what it is for.
const ORDERS: [(&str, &str); 7] = [
    (switchover::PATH, switchover::ABOUT),
    (pause::PAUSE, pause::PAUSE_ABOUT),
    (pause::RESUME, pause::RESUME_ABOUT),
    (reload::PATH, reload::ABOUT),
    (log_level::PATH, log_level::ABOUT),
    (slowlog::RESET, slowlog::RESET_ABOUT),
    (hotkeys::PATH, hotkeys::ABOUT),
];

/// What is read with the caution of an order, since it is about single clients and keys.
const GUARDED: [&str; 2] = [clients::PATH, slowlog::PATH];

/// Answers one request, and counts what was refused. The server cuts the body off for HEAD.
pub(super) async fn respond(state: &AdminState, caller: &Caller, request: Request<Incoming>) -> Response<Body> {
    let response = answer(state, caller, request).await;
    if let Some(why) = Refusal::of(response.status()) {
        state.refused.count(why);
    }
    response
}

async fn answer(state: &AdminState, caller: &Caller, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let order = ORDERS.iter().any(|(order, _)| *order == path);
    let allowed = if order { "POST" } else { "GET, HEAD" };
    let route = ROUTES.iter().find(|r| r.path == path);
    if route.is_none() && !order {
        // The list is a page like others.
        let list = format!("no such page; there are:\n{}", index());
        let admitted = guard::admit(&state.config(), &state.refused, caller, request.headers(), &path, false);
        return response(admitted.err().unwrap_or(Answer(StatusCode::NOT_FOUND, TEXT, list)));
    }
    if !allowed.split(", ").any(|method| method == request.method()) {
        return not_allowed(&path, allowed);
    }
    let config = state.config();
    if let Some(route) = route.filter(|r| HEALTH.contains(&r.path))
        && guard::lacks_token(&config, caller, request.headers())
    {
        // Whoever only checks has none; whether all is well is no secret, and nothing else is said.
        let Answer(status, content_type, body) = (route.answer)(state, request.uri().query());
        let first = body.lines().next().unwrap_or_default().to_owned() + "\n";
        return response(Answer(status, content_type, first));
    }
    let cautious = order || GUARDED.contains(&&*path);
    let admitted = guard::admit(&config, &state.refused, caller, request.headers(), &path, cautious);
    match (route, admitted) {
        (_, Err(refusal)) => response(refusal),
        (Some(_), Ok(())) if path == ROOT && wants_html(&request) => {
            let page = page::page(&status::document(state), WallTime::now());
            let mut page = response(Answer(StatusCode::OK, HTML, page));
            page.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY));
            page
        }
        (Some(route), Ok(())) => response((route.answer)(state, request.uri().query())),
        (None, Ok(())) => obey(state, &path, request).await,
    }
}

/// Does what is ordered.
async fn obey(state: &AdminState, path: &str, request: Request<Incoming>) -> Response<Body> {
    let answer = match path {
        switchover::PATH => match switchover::order(state, request).await {
            Ok(lines) => return with_headers(StatusCode::OK, switchover::CONTENT_TYPE, Either::Right(lines)),
            Err(answer) => Err(answer),
        },
        pause::PAUSE => pause::begin(state, request).await,
        pause::RESUME => pause::end(state, request).await,
        log_level::PATH => log_level::order(state, request).await,
        slowlog::RESET => slowlog::reset(state, request).await,
        hotkeys::PATH => hotkeys::order(state, request).await,
        _ => Ok(reload::order(state).await),
    };
    response(answer.unwrap_or_else(|refusal| refusal))
}

/// Whether it is a browser that asks: others take whatever comes.
fn wants_html(request: &Request<Incoming>) -> bool {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

fn not_allowed(path: &str, methods: &'static str) -> Response<Body> {
    let body = format!("{path} answers {}\n", methods.replace(", ", " and "));
    let mut refusal = response(Answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, body));
    refusal.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    refusal
}

fn verdict(verdict: health::Verdict) -> Answer {
    let status = if verdict.well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Answer(status, TEXT, verdict.body)
}

fn json(document: &impl Serialize) -> Answer {
    match serde_json::to_string(document) {
        Ok(text) => Answer(StatusCode::OK, JSON, text + "\n"),
        Err(e) => Answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{e}\n")),
    }
}

fn index() -> String {
    let pages = ROUTES.iter().map(|r| (r.path, r.about)).chain(ORDERS);
    pages.map(|(path, about)| format!("{path:<16}{about}\n")).collect()
}

fn response(Answer(status, content_type, body): Answer) -> Response<Body> {
    with_headers(status, content_type, Either::Left(Full::from(body)))
}

fn with_headers(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // An answer is true for the moment; a cache between must not repeat it.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"pointsman\""));
    }
    response
}
