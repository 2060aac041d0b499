//! What a hold takes back from a connection, and to whom it goes.

use std::sync::Arc;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;
use crate::clock::Moment;
use crate::config::{ServiceConfig, Source};
use crate::metrics::{LatencyClass, WorkerStats};
use crate::net::{Outbox, Stream};
use crate::resp::encode_command;
use crate::topology::{Access, Flow, Grant, Link, Permission, Topology};

/// A connection to somebody who never answers, on which all traffic may flow.
struct Scene {
    context: Rc<Context>,
    conn: Connection,
    link: Arc<Link>,
    _peers: Vec<TcpStream>,
}

impl Scene {
    async fn new(used: Use) -> Self {
        let (ours, theirs) = pair().await;
        let node = ours.peer_addr().unwrap();
        let link = Arc::new(Link::default());
        let access = Access::new(Arc::clone(&link));
        let flowing = Permission { node: Some(node), flow: Flow::Flowing };
        access.update(Arc::new(Topology { generation: 1, reads: flowing, writes: flowing, ..Topology::unknown() }));
        let config = ServiceConfig::new("test", Vec::new(), Source::Static(node.into()));
        let stats = Stats::new(Arc::new(WorkerStats::new(1)), 0);
        let context = Rc::new(Context::new(Arc::new(config), access, stats, mpsc::channel(8).0, Arc::default()));
        let (_, write) = Stream::Tcp(ours).into_split();
        let conn = Connection::new(Rc::clone(&context), node, used, Hello::default(), write);
        let scene = Self { context, conn, link, _peers: vec![theirs] };
        scene.permit(Flow::Flowing, Flow::Flowing);
        scene
    }

    fn permit(&self, reads: Flow, writes: Flow) {
        self.link.lease.store(Grant { generation: 1, reads, writes, valid_until: Moment(u64::MAX >> 24) });
    }

    fn queue(&self, to: &Rc<Downstream>, command: &[&str], effect: Effect, audience: Audience) {
        self.conn.queue(Entry {
            to: Rc::clone(to),
            bytes: encode_command(command),
            commands: 1,
            answered: 0,
            effect,
            answer: Answer::Replies,
            audience,
            retry: false,
            partial: false,
            scripts: false,
            class: LatencyClass::Write,
            queued_at: Instant::now(),
        });
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (ours, listener.accept().await.unwrap().0)
}

async fn session() -> Rc<Downstream> {
    let (_, write) = Stream::Tcp(pair().await.0).into_split();
    Rc::new(Downstream::new(Outbox::new(write)))
}

fn came_back(session: &Downstream) -> Vec<(Bytes, bool)> {
    session.take_again().into_iter().map(|a| (a.bytes, a.silent)).collect()
}

#[tokio::test]
async fn what_a_client_wants_no_reply_to_comes_back_as_such() {
    let scene = Scene::new(Use::Shared).await;
    let session = session().await;
    scene.queue(&session, &["SET", "a", "1"], Effect::Write, Audience::Nobody);
    scene.queue(&session, &["SET", "a", "2"], Effect::Write, Audience::Client);
    scene.permit(Flow::Flowing, Flow::Held);
    scene.conn.flush();
    assert_eq!(
        came_back(&session),
        [(encode_command(&["SET", "a", "1"]), true), (encode_command(&["SET", "a", "2"]), false)]
    );
    assert!(scene.conn.is_usable() && session.owed() == 0);
}

#[tokio::test]
async fn what_is_not_the_clients_own_never_comes_back_to_it() {
    let scene = Scene::new(Use::Pinned).await;
    let session = session().await;
    scene.conn.assign(&session);
    scene.queue(&session, &["GET", "k"], Effect::Read, Audience::Client);
    scene.conn.flush();
    scene.queue(&session, &["PING"], Effect::Deferred, Audience::Ours);
    scene.queue(&session, &["WAIT", "1", "0"], Effect::Write, Audience::Client);
    scene.permit(Flow::Held, Flow::Held);
    scene.conn.flush();
    // The connection is not in the state that it was to be brought into: it goes, and the read that was written too.
    assert_eq!(scene.conn.lost(), Some(Lost::Dropped));
    assert_eq!(
        came_back(&session),
        [(encode_command(&["GET", "k"]), false), (encode_command(&["WAIT", "1", "0"]), false)]
    );
    assert_eq!((session.owed(), session.fault()), (0, None));
}

#[tokio::test]
async fn a_read_behind_a_write_that_is_stuck_goes_elsewhere() {
    let scene = Scene::new(Use::Shared).await;
    let (writer, reader) = (session().await, session().await);
    // More than the buffers of both sockets hold.
    scene.queue(&writer, &["SET", "large", &"x".repeat(64 << 20)], Effect::Write, Audience::Client);
    scene.queue(&reader, &["GET", "k"], Effect::Read, Audience::Client);
    scene.conn.flush();
    assert!(scene.conn.is_blocked());
    scene.permit(Flow::Flowing, Flow::Held);
    scene.conn.take_back();
    assert_eq!(came_back(&reader), [(encode_command(&["GET", "k"]), false)]);
    assert_eq!(came_back(&writer).len(), 1);
    assert!(scene.conn.is_retired(), "nothing is owed and nothing will be written");
    assert_eq!(scene.context.stats.commands_unknown.value(), 0);
}

#[tokio::test]
async fn whoever_is_in_turn_at_every_loss_is_let_go() {
    let session = session().await;
    for loss in 1..=4 {
        let scene = Scene::new(Use::Shared).await;
        scene.queue(&session, &["GET", "poison"], Effect::Read, Audience::Client);
        scene.conn.flush();
        scene.conn.close(Lost::Closed);
        assert_eq!(session.fault().is_some(), loss == 4, "loss {loss}");
        assert_eq!(came_back(&session).len(), usize::from(loss < 4));
    }
}
