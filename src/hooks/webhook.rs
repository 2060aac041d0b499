//! A POST of JSON: one connection for each, HTTP/1.1, by TLS or without. No redirection is followed, and no proxy used.

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::delivery::Failure;
use crate::config::{Secret, Webhook};
use crate::net::Resolver;
use crate::tls::{Peer, explained};

/// Of an answer's body, which nobody looks at, this is read, so that the other side need not see a reset.
const BODY_BYTES: usize = 64 * 1024;
/// How long the rest of an answer may take once its status has come, which is all that counts.
const REST: Duration = Duration::from_millis(100);

/// Sends it. Whoever waits bounds the time.
pub(super) async fn post(webhook: &Webhook, json: Bytes, names: &Resolver) -> Result<(), Failure> {
    let request = request(webhook, json).map_err(|error| Failure::passing(error.to_string()))?;
    let stream = connect(webhook, names).await?;
    let Some(tls) = &webhook.tls else { return exchange(stream, request).await };
    let name = tls.expected(&webhook.url.endpoint.host).map_err(Failure::passing)?;
    let handshake = TlsConnector::from(tls.config()).connect(name, stream).await;
    let stream = handshake.map_err(|error| Failure::passing(explained(error, Peer::Server).to_string()))?;
    exchange(stream, request).await
}

fn request(webhook: &Webhook, json: Bytes) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let value = |secret: &[u8]| {
        let mut value = HeaderValue::from_bytes(secret)?;
        value.set_sensitive(true);
        Ok::<_, hyper::http::Error>(value)
    };
    let mut request = Request::post(webhook.url.path.expose())
        .header(HOST, &webhook.url.authority)
        .header(USER_AGENT, concat!("pointsman/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json")
        .header(CONNECTION, "close")
        .body(Full::new(json))?;
    for (name, secret) in &webhook.headers {
        request.headers_mut().insert(name, value(secret.expose())?);
    }
    if let Some(token) = webhook.token.as_ref().map(Secret::expose) {
        request.headers_mut().insert(AUTHORIZATION, value(&[b"Bearer ", token].concat())?);
    }
    Ok(request)
}

/// To the first of its addresses that accepts.
async fn connect(webhook: &Webhook, names: &Resolver) -> Result<TcpStream, Failure> {
    let endpoint = &webhook.url.endpoint;
    let addresses = names.resolve(endpoint).await.map_err(|error| Failure::passing(error.to_string()))?;
    let mut refused = Failure::passing(format!("{endpoint} has no address"));
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => refused = Failure::passing(format!("cannot connect to {address}: {error}")),
        }
    }
    Err(refused)
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| Failure::passing(format!("no answer: {}", explain(&error)));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = sender.send_request(request).await.map_err(broken)?;
    let judgement = judge(&response);
    // Read so that the receiver sees no broken connection. What is wrong with it is no matter, nor whether it ends.
    let rest = Limited::new(response.into_body(), BODY_BYTES).collect();
    let _ = tokio::time::timeout(REST, rest).await;
    judgement
}

/// The status alone counts. What else is answered might repeat a secret.
fn judge<B>(response: &Response<B>) -> Result<(), Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let again =
        status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let not_before = seconds.map_or(Duration::ZERO, Duration::from_secs);
    Err(Failure { why: format!("it answered {status}"), again, not_before })
}

/// The last of an error's reasons, which says most.
fn explain(error: &hyper::Error) -> String {
    let mut reason: &dyn Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    match reason.downcast_ref::<io::Error>() {
        Some(error) if error.kind() == io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
        _ => reason.to_string(),
    }
}
