//! Those who are told: an HTTP server on the loopback interface that keeps what came and answers as the test says.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pointsman::config::HookEvent;
use pointsman::hooks::Notification;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) path: String,
    /// All of it, in lower case.
    pub(crate) headers: String,
    pub(crate) body: String,
    pub(crate) at: Instant,
}

/// What it is answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: &'static str,
    pub(crate) headers: &'static str,
    pub(crate) body: String,
    pub(crate) after: Duration,
}

impl Answer {
    pub(crate) fn status(status: &'static str) -> Self {
        Self { status, headers: "", body: String::new(), after: Duration::ZERO }
    }

    pub(crate) fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }
}

/// The server; gone when dropped.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    calls: Arc<Mutex<Vec<Call>>>,
    _task: AbortOnDropHandle<()>,
}

impl Receiver {
    /// Answers by the request and the number of those before it with the same path.
    pub(crate) async fn start(answer: impl Fn(&Call, usize) -> Answer + Send + Sync + 'static) -> Self {
        Self::listen(None, answer).await
    }

    /// The same by TLS, as `localhost`; the certificate is put into a file.
    pub(crate) async fn start_tls(
        certificate: &Path,
        answer: impl Fn(&Call, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let key = KeyPair::generate().unwrap();
        let pem = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        fs::write(certificate, &pem).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
        Self::listen(Some(TlsAcceptor::from(Arc::new(config))), answer).await
    }

    async fn listen(tls: Option<TlsAcceptor>, answer: impl Fn(&Call, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (calls, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let heard = Arc::clone(&calls);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, heard, answer) = (tls.clone(), Arc::clone(&heard), Arc::clone(&answer));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &heard, &*answer).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, &heard, &*answer).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Self { address, calls, _task: AbortOnDropHandle::new(task) }
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap()
    }

    /// What came to a path.
    pub(crate) fn calls(&self, path: &str) -> Vec<Call> {
        self.locked().iter().filter(|call| call.path == path).cloned().collect()
    }

    /// What was told there of a service, whatever was answered.
    pub(crate) fn told(&self, path: &str, service: &str) -> Vec<Notification> {
        let told = self.calls(path).into_iter().map(|call| serde_json::from_str::<Notification>(&call.body).unwrap());
        told.filter(|told| told.service == service).collect()
    }

    /// The same, the events alone.
    pub(crate) fn events(&self, path: &str, service: &str) -> Vec<&'static str> {
        self.told(path, service).iter().map(|told| told.event.word()).collect()
    }

    /// Waits until that was told there.
    pub(crate) async fn until(&self, path: &str, service: &str, event: HookEvent, limit: Duration) -> Notification {
        let end = Instant::now() + limit;
        loop {
            if let Some(told) = self.told(path, service).into_iter().find(|told| told.event == event) {
                return told;
            }
            assert!(Instant::now() < end, "{event:?} was not told at {path}: {:?}", self.events(path, service));
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// One request for each connection. None if it was no whole one, or nobody takes the answer.
async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    calls: &Mutex<Vec<Call>>,
    answer: &(impl Fn(&Call, usize) -> Answer + ?Sized),
) -> Option<()> {
    let mut bytes = Vec::new();
    let call = loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let (line, headers) = head.split_once("\r\n")?;
        let headers = headers.to_ascii_lowercase();
        let length = headers.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        if body.len() >= length {
            let mut words = line.split(' ');
            let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
            break Call { method, path, headers, body: body.to_owned(), at: Instant::now() };
        }
    };
    let answer = {
        let mut calls = calls.lock().unwrap();
        let before = calls.iter().filter(|other| other.path == call.path).count();
        let answer = answer(&call, before);
        calls.push(call);
        answer
    };
    sleep(answer.after).await;
    let Answer { status, headers, body, .. } = answer;
    let response =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}", body.len());
    stream.write_all(response.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

/// JSON of a body.
pub(crate) fn json(call: &Call) -> Value {
    serde_json::from_str(&call.body).unwrap_or_else(|e| panic!("{e}: {call:?}"))
}
