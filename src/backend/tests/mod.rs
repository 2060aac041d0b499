//! A connection without a server: what goes out on it, what comes back from it, and what becomes of replies.

mod replies;
mod returns;
mod transactions;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::driver::{read_replies, write_commands};
use super::*;
use crate::clients::Client;
use crate::clock::Moment;
use crate::config::{ServiceConfig, Source};
use crate::insight::SlowCommand;
use crate::metrics::{CloseReason, LatencyClass, Limit};
use crate::net::{Outbox, ReadHalf, Resolver, Stream, tls_connected};
use crate::resp::encode_command;
use crate::topology::{Access, Flow, Grant, Link, Permission, Topology};

/// A connection to somebody who never answers, on which all traffic may flow.
struct Scene<P = TcpStream> {
    context: Rc<Context>,
    conn: Rc<Connection>,
    link: Arc<Link>,
    read: ReadHalf,
    peer: P,
}

/// Both tasks of a connection, until it is lost.
async fn drive(conn: Rc<Connection>, read: ReadHalf, buf: BytesMut) {
    tokio::join!(write_commands(Rc::clone(&conn)), read_replies(conn, read, buf));
}

/// What may be kept back of a client's replies in these tests.
const OUTPUT_BYTES: usize = 256 * 1024;

impl Scene {
    async fn new(used: Use) -> Self {
        let (ours, theirs) = pair().await;
        Self::on(used, Stream::Tcp(ours), theirs)
    }
}

impl<P> Scene<P> {
    fn on(used: Use, ours: Stream, theirs: P) -> Self {
        let node = socket2::SockRef::from(&ours).peer_addr().unwrap().as_socket().unwrap();
        let link = Arc::new(Link::default());
        let access = Access::new(Arc::clone(&link));
        let flowing = Permission { node: Some(node), flow: Flow::Flowing };
        access.update(Arc::new(Topology { generation: 1, reads: flowing, writes: flowing, ..Topology::unknown() }));
        let mut config = ServiceConfig::new("test", Vec::new(), Source::Static(node.into()));
        config.limits.output_bytes = OUTPUT_BYTES;
        let (stats, hints) = (Arc::default(), mpsc::channel(8).0);
        let context = Rc::new(Context::new(
            Arc::new(config),
            Resolver::default(),
            access,
            stats,
            Arc::default(),
            hints,
            Arc::default(),
        ));
        let (read, write) = ours.into_split();
        let conn = Rc::new(Connection::new(Rc::clone(&context), node, used, Hello::default(), write));
        let scene = Self { context, conn, link, read, peer: theirs };
        scene.permit(Flow::Flowing, Flow::Flowing);
        scene
    }

    fn permit(&self, reads: Flow, writes: Flow) {
        self.link.lease.store(Grant { generation: 1, reads, writes, valid_until: Moment(u64::MAX >> 24) });
    }

    fn queue(&self, to: &Rc<Downstream>, command: &[&str], effect: Effect, audience: Audience) {
        self.queue_bytes(to, encode_command(command), effect, audience);
    }

    fn queue_bytes(&self, to: &Rc<Downstream>, bytes: Bytes, effect: Effect, audience: Audience) {
        self.conn.queue(entry(to, bytes, effect, audience));
    }
}

fn entry(to: &Rc<Downstream>, bytes: Bytes, effect: Effect, audience: Audience) -> Entry<Rc<Downstream>> {
    Entry {
        to: Rc::clone(to),
        bytes,
        said: None,
        commands: 1,
        answered: 0,
        effect,
        answer: Answer::Replies,
        audience,
        retry: false,
        partial: false,
        heed: Heed::Nothing,
        class: LatencyClass::Write,
        queued_at: Instant::now(),
        waited: None,
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (ours, listener.accept().await.unwrap().0)
}

async fn session() -> Rc<Downstream> {
    client().await.0
}

/// A session, and the client's side of it.
async fn client() -> (Rc<Downstream>, TcpStream) {
    let (ours, theirs) = pair().await;
    let (_, write) = Stream::Tcp(ours).into_split();
    (Rc::new(Downstream::new(Client::anybody(), Outbox::new(write))), theirs)
}

/// What a client has received when the other side is done.
async fn received(mut client: TcpStream) -> String {
    let mut all = String::new();
    client.read_to_string(&mut all).await.unwrap();
    all
}

fn came_back(session: &Downstream) -> Vec<(Bytes, bool)> {
    session.take_again().into_iter().map(|a| (a.bytes, a.silent)).collect()
}
