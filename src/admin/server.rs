//! The HTTP server itself: accepting, limits, connections. What it answers is in `routes`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{AdminState, routes};

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

/// Serves the admin endpoints with the default [`Limits`] until `shutdown`.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>, shutdown: CancellationToken) {
    serve_with(listener, state, Limits::default(), shutdown).await;
}

/// As [`serve`], with other limits. Returns once the connections are gone, `limits.grace` after `shutdown` at the latest.
pub async fn serve_with(listener: TcpListener, state: Arc<AdminState>, limits: Limits, shutdown: CancellationToken) {
    let mut tasks = JoinSet::new();
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    // Said once, not ten times a second for as long as descriptors are short.
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => {
                failing = false;
                accepted
            }
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
            oldest.abort();
        }
        open.push_back(tasks.spawn(connection(stream, peer, state.clone(), limits, shutdown.clone())));
    }
    // Every connection has seen `shutdown` as well and ends by itself within the grace.
    while tasks.join_next().await.is_some() {}
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    state: Arc<AdminState>,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(routes::respond(&state, peer, request).await) }
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
        debug!(error = %e, "admin: connection ended");
    }
}
