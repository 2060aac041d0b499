//! What the admin server answers: one table of paths to read, and two to order a switchover or a reload.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue, ORIGIN,
};
use hyper::{Method, Request, Response, StatusCode};

use super::switchover::{self, Lines};
use super::{AdminState, health, hotkeys, page, reload, scrape, slowlog, status};
use crate::topology::status::WallTime;

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

const ROOT: &str = "/";

/// Status, content type and body of an answer.
pub(super) struct Answer(pub(super) StatusCode, pub(super) &'static str, pub(super) String);

/// What is sent: a text, or lines as they come.
type Body = Either<Full<Bytes>, Lines>;

struct Route {
    path: &'static str,
    about: &'static str,
    answer: fn(&AdminState) -> Answer,
}

const ROUTES: [Route; 6] = [
    Route {
        path: ROOT,
        about: "this list; for a browser, a page that shows all",
        answer: |_| Answer(StatusCode::OK, TEXT, index()),
    },
    Route {
        path: "/metrics",
        about: "metrics for Prometheus",
        answer: |state| match scrape::scrape(state) {
            Ok(text) => Answer(StatusCode::OK, scrape::CONTENT_TYPE, text),
            Err(e) => Answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{e}\n")),
        },
    },
    Route {
        path: "/livez",
        about: "200 while every thread does its rounds",
        answer: |state| verdict(health::live(state)),
    },
    Route {
        path: "/readyz",
        about: "200 while this instance takes clients; who is master, and what each Sentinel says",
        answer: |state| verdict(health::ready(state)),
    },
    Route {
        path: "/status",
        about: "everything about every service, as JSON",
        answer: |state| match status::json(state) {
            Ok(text) => Answer(StatusCode::OK, JSON, text),
            Err(e) => Answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{e}\n")),
        },
    },
    Route { path: slowlog::PATH, about: slowlog::ABOUT, answer: slowlog::answer },
];

/// Answers one request of `peer`. The server cuts the body off for HEAD.
pub(super) async fn respond(state: &AdminState, peer: SocketAddr, request: Request<Incoming>) -> Response<Body> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if (path == switchover::PATH || path == reload::PATH) && method != Method::POST {
        return not_allowed(&path, "POST");
    }
    if [hotkeys::PATH, slowlog::RESET].contains(&&*path) && method != Method::POST {
        return not_allowed(&path, "POST");
    }
    if [hotkeys::PATH, slowlog::RESET, slowlog::PATH].contains(&&*path)
        && let Err(refusal) = refuse_strangers("a look at single commands", peer, request.headers())
    {
        return response(refusal);
    }
    if path == hotkeys::PATH {
        return response(hotkeys::order(state, request).await.unwrap_or_else(|refusal| refusal));
    }
    if path == slowlog::RESET {
        return response(slowlog::reset(state, request).await.unwrap_or_else(|refusal| refusal));
    }
    if path == reload::PATH {
        return response(reload::order(state, peer, request.headers()).await);
    }
    if path == switchover::PATH {
        return match switchover::order(state, peer, request).await {
            Ok(lines) => with_headers(StatusCode::OK, switchover::CONTENT_TYPE, Either::Right(lines)),
            Err(answer) => response(answer),
        };
    }
    let Some(route) = ROUTES.iter().find(|r| r.path == path) else {
        return response(Answer(StatusCode::NOT_FOUND, TEXT, format!("no such page; there are:\n{}", index())));
    };
    if method != Method::GET && method != Method::HEAD {
        return not_allowed(&path, "GET, HEAD");
    }
    if path == ROOT && wants_html(&request) {
        let page = page::page(&status::document(state), WallTime::now());
        let mut page = response(Answer(StatusCode::OK, HTML, page));
        page.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY));
        return page;
    }
    response((route.answer)(state))
}

/// Whether it is a browser that asks: others take whatever comes.
fn wants_html(request: &Request<Incoming>) -> bool {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// Refuses what changes something to whoever may not order it. There are no credentials here yet, so it is taken from
/// this host alone; and not from a browser, which any page may make send requests: those carry `Origin`.
pub(super) fn refuse_strangers(what: &str, peer: SocketAddr, headers: &HeaderMap) -> Result<(), Answer> {
    let refusal = |why: &str| Err(Answer(StatusCode::FORBIDDEN, TEXT, format!("{what} is {why}\n")));
    if !peer.ip().to_canonical().is_loopback() {
        return refusal("ordered from this host only, by a loopback address");
    }
    if headers.contains_key(ORIGIN) {
        return refusal("not ordered by a browser");
    }
    Ok(())
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

fn index() -> String {
    let pages = ROUTES
        .iter()
        .map(|r| (r.path, r.about))
        .chain([(switchover::PATH, switchover::ABOUT), (reload::PATH, reload::ABOUT)])
        .chain([(slowlog::RESET, slowlog::RESET_ABOUT), (hotkeys::PATH, hotkeys::ABOUT)]);
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
    response
}
