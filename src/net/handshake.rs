//! The thread on which clients shake hands by TLS: the arithmetic of one takes from 0.1 ms (with an EC key) to some
//! milliseconds (RSA), which a worker's other clients would wait for.

use std::io;
use std::net;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

use super::Stream;
use super::tls::TlsTcp;
use crate::tls::{Cause, Peer, explained};

/// Handshakes on their way to the thread; who brings another one waits.
const WAITING: usize = 1024;

/// The way to the thread, which the first client starts and the last of these ends. Clones lead to the same.
#[derive(Clone, Debug, Default)]
pub struct Handshakes(Arc<Mutex<Option<mpsc::Sender<Job>>>>);

#[derive(Debug)]
struct Job {
    socket: net::TcpStream,
    config: Arc<ServerConfig>,
    done: oneshot::Sender<Result<Shaken, HandshakeError>>,
}

/// A stream on its way back.
type Shaken = (net::TcpStream, Box<rustls::ServerConnection>);

/// Why a client could not shake hands.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct HandshakeError {
    /// What of TLS it failed at; none: the connection.
    pub cause: Option<Cause>,
    /// In words.
    pub error: io::Error,
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self { cause: Cause::of(&error), error: explained(error, Peer::Client) }
    }
}

impl Handshakes {
    /// Shakes hands with a client. Cancel safe, in that the connection is closed.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub async fn accept(&self, socket: TcpStream, config: Arc<ServerConfig>) -> Result<Stream, HandshakeError> {
        let (done, outcome) = oneshot::channel();
        let gone = || io::Error::other("the thread for handshakes is gone");
        let job = Job { socket: socket.into_std()?, config, done };
        self.way()?.send(job).await.map_err(|_| gone())?;
        let (socket, tls) = outcome.await.map_err(|_| gone())??;
        Ok(Stream::Tls(Box::new(TlsTcp::new(TcpStream::from_std(socket)?, (*tls).into(), Peer::Client))))
    }

    fn way(&self) -> io::Result<mpsc::Sender<Job>> {
        let mut way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // It ends by a panic alone while somebody has the way to it.
        if let Some(sender) = way.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let (sender, jobs) = mpsc::channel(WAITING);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("handshakes".to_owned()).spawn(move || runtime.block_on(shake_all(jobs)))?;
        Ok(way.insert(sender).clone())
    }
}

async fn shake_all(mut jobs: mpsc::Receiver<Job>) {
    while let Some(Job { socket, config, mut done }) = jobs.recv().await {
        tokio::spawn(async move {
            let shaken = tokio::select! {
                // It has taken too long, or the client's worker is gone.
                () = done.closed() => return,
                shaken = shake(socket, config) => shaken,
            };
            let _ = done.send(shaken);
        });
    }
}

async fn shake(socket: net::TcpStream, config: Arc<ServerConfig>) -> Result<Shaken, HandshakeError> {
    let stream = TlsAcceptor::from(config).accept(TcpStream::from_std(socket)?).await?;
    let (socket, tls) = stream.into_inner();
    Ok((socket.into_std()?, Box::new(tls)))
}
