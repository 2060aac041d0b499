//! The HTTP server itself: accepting, limits, connections. What it answers is in `routes`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::guard::{Caller, Refusal};
use super::{AdminState, routes};
use crate::net::{Accepted, Accepting, ClientSocket, Listener};

/// Bounds of the admin server. Its clients are a scraper, a few health checks and a person; the bounds keep anybody
/// else from holding its memory and descriptors.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once. One more closes the oldest: a scrape always gets in, however many idle ones there are.
    pub connections: usize,
    /// Longest wait for a whole request head, idle time on a kept-alive connection included.
    pub header_timeout: Duration,
    /// Longest life of a connection, so that one that does not take its response is not kept for ever.
    pub lifetime: Duration,
    /// Longest time for the response under way when the server stops or the lifetime is over.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            header_timeout: Duration::from_secs(10),
            lifetime: Duration::from_secs(120),
            grace: Duration::from_secs(1),
        }
    }
}

/// Bytes of a request head that are kept; a longer one is answered 431. hyper accepts no less than 8 KiB.
const REQUEST_HEAD_BYTES: usize = 8 * 1024;

/// Pause after a failed accept: descriptors are short, and the next attempt would fail at once as well.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves the admin endpoints with the default [`Limits`] until `shutdown`. The sockets are in the order of
/// [`AdminConfig::listen`](crate::config::AdminConfig), which says who may come to each.
pub async fn serve(listeners: Vec<Listener>, state: Arc<AdminState>, shutdown: CancellationToken) {
    serve_with(listeners, state, Limits::default(), shutdown).await;
}

/// As [`serve`], with other limits, which hold for each socket. Returns once the connections are gone, `limits.grace` after
/// `shutdown` at the latest.
pub async fn serve_with(listeners: Vec<Listener>, state: Arc<AdminState>, limits: Limits, shutdown: CancellationToken) {
    let mut all = JoinSet::new();
    for (number, listener) in listeners.into_iter().enumerate() {
        all.spawn(serve_one(listener, number, Arc::clone(&state), limits, shutdown.clone()));
    }
    while all.join_next().await.is_some() {}
}

async fn serve_one(
    listener: Listener,
    number: usize,
    state: Arc<AdminState>,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let listener = tokio::select! {
        listener = Accepting::begin(Arc::new(listener)) => listener,
        () = shutdown.cancelled() => return,
    };
    let mut tasks = JoinSet::new();
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    // Said once, not ten times a second for as long as descriptors are short.
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let accepted = match accepted {
            Ok(Some(accepted)) => {
                failing = false;
                accepted
            }
            // A successor does not want it, and we are told of that next.
            Ok(None) => break,
            Err(e) => {
                if !failing {
                    warn!(error = %e, "admin: accept failed, and is tried again until it works");
                }
                failing = true;
                tokio::select! {
                    () = sleep(ACCEPT_RETRY) => continue,
                    () = shutdown.cancelled() => break,
                }
            }
        };
        while tasks.try_join_next().is_some() {}
        open.retain(|task| !task.is_finished());
        if open.len() >= limits.connections.max(1)
            && let Some(oldest) = open.pop_front()
        {
            debug!(limit = limits.connections, "admin: too many connections, the oldest is closed");
            state.refused.count(Refusal::Crowded);
            oldest.abort();
        }
        open.push_back(tasks.spawn(connection(accepted, number, state.clone(), limits, shutdown.clone())));
    }
    // Nobody else can connect, while those who are there see `shutdown` as well and end by themselves within the grace.
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

async fn connection(
    accepted: Accepted,
    listener: usize,
    state: Arc<AdminState>,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let caller = Caller { peer: accepted.addr, listener };
    let tls = state.config().listen.get(listener).and_then(|l| l.tls.clone());
    let stream = match accepted.socket {
        ClientSocket::Tcp(socket) => TcpStream::from_std(socket).map(Either::Left),
        ClientSocket::Unix(socket) => UnixStream::from_std(socket).map(Either::Right),
    };
    let stream = match stream {
        Ok(stream) => stream,
        // Gone before it was looked at.
        Err(e) => return debug!(error = %e, "admin: connection ended"),
    };
    let Some(tls) = tls else { return serve_http(stream, caller, state, limits, shutdown).await };
    let handshake = TlsAcceptor::from(tls.config()).accept(stream);
    let shaken = tokio::select! {
        shaken = timeout(limits.header_timeout, handshake) => shaken,
        () = shutdown.cancelled() => return,
    };
    match shaken {
        Ok(Ok(stream)) => serve_http(stream, caller, state, limits, shutdown).await,
        Ok(Err(e)) => debug!(from = %caller.peer, error = %e, "admin: the TLS handshake failed"),
        Err(_) => {
            state.refused.count(Refusal::Slow);
            debug!(from = %caller.peer, "admin: the TLS handshake took too long");
        }
    }
}

async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    caller: Caller,
    state: Arc<AdminState>,
    limits: Limits,
    shutdown: CancellationToken,
) {
    // Whoever has asked once may be silent for as long as the connection is kept.
    let has_asked = AtomicBool::new(false);
    let service = service_fn(|request| {
        has_asked.store(true, Ordering::Relaxed);
        let (state, caller) = (state.clone(), caller.clone());
        async move { Ok::<_, Infallible>(routes::respond(&state, &caller, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(REQUEST_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        result = connection.as_mut() => Some(result),
        () = sleep(limits.lifetime) => None,
        () = shutdown.cancelled() => None,
    };
    let ended = match ended {
        Some(result) => result,
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(limits.grace, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(e) = ended {
        if e.is_parse_too_large() {
            state.refused.count(Refusal::Large);
        } else if e.is_timeout() && !has_asked.load(Ordering::Relaxed) {
            state.refused.count(Refusal::Slow);
        }
        debug!(error = %e, "admin: connection ended");
    }
}
