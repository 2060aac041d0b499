//! What the admin server answers: one table of paths.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};

use super::{AdminState, health, scrape, status};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Status, content type and body of an answer.
struct Answer(StatusCode, &'static str, String);

struct Route {
    path: &'static str,
    about: &'static str,
    answer: fn(&AdminState) -> Answer,
}

const ROUTES: [Route; 5] = [
    Route { path: "/", about: "this list", answer: |_| Answer(StatusCode::OK, TEXT, index()) },
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
];

/// Answers one request. The server cuts the body off for HEAD.
pub(super) fn respond(state: &AdminState, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let Some(route) = ROUTES.iter().find(|r| r.path == path) else {
        return response(Answer(StatusCode::NOT_FOUND, TEXT, format!("no such page; there are:\n{}", index())));
    };
    if method != Method::GET && method != Method::HEAD {
        let body = format!("{path} answers GET and HEAD\n");
        let mut refusal = response(Answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, body));
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    response((route.answer)(state))
}

fn verdict(verdict: health::Verdict) -> Answer {
    let status = if verdict.well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Answer(status, TEXT, verdict.body)
}

fn index() -> String {
    ROUTES.iter().map(|r| format!("{:<10}{}\n", r.path, r.about)).collect()
}

fn response(Answer(status, content_type, body): Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // An answer is true for the moment; a cache between must not repeat it.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
