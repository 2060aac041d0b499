//! What a hold takes back from a connection, and to whom it goes; and what becomes of replies that nobody takes.

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

/// What may block, or pop at once, is a write here, and nobody would withdraw it: neither where writes are held nor in a
/// pause does one go out that had not.
#[tokio::test]
async fn a_pop_that_has_not_gone_out_is_taken_back_when_writes_or_all_stop() {
    for paused in [false, true] {
        let scene = Scene::new(Use::Pinned).await;
        let client = session().await;
        let pop = entry(&client, encode_command(&["BLPOP", "q", "0"]), Effect::Deferred, Audience::Client);
        scene.conn.queue(Entry { retry: true, ..pop });
        if paused {
            let topology = scene.context.access.topology().clone();
            scene.context.access.update(Arc::new(Topology { paused, ..(*topology).clone() }));
        } else {
            scene.permit(Flow::Flowing, Flow::Held);
        }
        scene.conn.flush();
        assert_eq!((client.owed(), client.fault(), client.is_in_doubt()), (0, None, false));
        assert_eq!(came_back(&client), [(encode_command(&["BLPOP", "q", "0"]), false)]);
        assert!(!scene.conn.owes_write() && scene.conn.lost().is_none());
    }
}

/// Where it was written it may have popped, though it comes back.
#[tokio::test]
async fn a_pop_that_comes_back_from_a_lost_connection_is_in_doubt() {
    for (retry, in_doubt) in [(true, true), (false, false)] {
        let scene = Scene::new(Use::Pinned).await;
        let client = session().await;
        let pop = entry(&client, encode_command(&["BLPOP", "q", "0"]), Effect::Deferred, Audience::Client);
        scene.conn.queue(Entry { retry, ..pop });
        scene.conn.flush();
        scene.conn.sever();
        assert_eq!((came_back(&client).len(), client.is_in_doubt()), (1, in_doubt));
        client.settle_doubt();
        assert!(!client.is_in_doubt());
    }
}

/// Commands of a session that a connection gives back in parts, and its last ones first: in the order that they were sent.
#[tokio::test]
async fn what_comes_back_in_parts_is_sent_again_in_order() {
    let give_back_the_rest: [fn(&Connection); 2] = [Connection::sever, Connection::forget_reads];
    for give_back in give_back_the_rest {
        let scene = Scene::new(Use::Shared).await;
        let (stuck, reader) = (session().await, session().await);
        scene.queue(&reader, &["GET", "a"], Effect::Read, Audience::Client);
        scene.conn.flush();
        // More than the buffers of both sockets hold.
        scene.queue(&stuck, &["GET", &"x".repeat(64 << 20)], Effect::Read, Audience::Client);
        scene.conn.flush();
        assert!(scene.conn.is_blocked());
        scene.queue(&reader, &["GET", "b"], Effect::Read, Audience::Client);
        scene.queue(&reader, &["GET", "c"], Effect::Read, Audience::Client);
        scene.permit(Flow::Held, Flow::Held);
        scene.conn.take_back();
        assert_eq!((reader.owed(), came_back(&reader)), (1, Vec::new()), "the first may still be answered");
        give_back(&scene.conn);
        let again = ["a", "b", "c"].map(|key| (encode_command(&["GET", key]), false));
        assert_eq!(came_back(&reader), again);
        assert_eq!((reader.owed(), reader.fault()), (0, None));
    }
}

/// The same where one of them was refused with proof that it did not run.
#[tokio::test]
async fn what_comes_back_in_parts_stands_behind_what_was_refused_before() {
    let scene = Scene::new(Use::Shared).await;
    let (stuck, client) = (session().await, session().await);
    let write = entry(&client, encode_command(&["SET", "a", "1"]), Effect::Write, Audience::Client);
    scene.conn.queue(Entry { retry: true, ..write });
    scene.queue(&client, &["GET", "a"], Effect::Read, Audience::Client);
    scene.conn.flush();
    scene.queue(&stuck, &["GET", &"x".repeat(64 << 20)], Effect::Read, Audience::Client);
    scene.conn.flush();
    scene.queue(&client, &["GET", "b"], Effect::Read, Audience::Client);
    let driver = tokio::task::LocalSet::new();
    let Scene { context, conn, link, read, mut peer } = scene;
    driver
        .run_until(async {
            tokio::task::spawn_local(drive(Rc::clone(&conn), read, BytesMut::new()));
            peer.write_all(b"-READONLY You can't write against a read only replica.\r\n").await.unwrap();
            let refused = async {
                while !client.is_salvaging() {
                    tokio::task::yield_now().await;
                }
            };
            timeout(Duration::from_secs(10), refused).await.unwrap();
        })
        .await;
    link.lease.store(Grant {
        generation: 1,
        reads: Flow::Held,
        writes: Flow::Held,
        valid_until: Moment(u64::MAX >> 24),
    });
    conn.take_back();
    conn.sever();
    let again = [&["SET", "a", "1"][..], &["GET", "a"], &["GET", "b"]].map(|c| (encode_command(c), false));
    assert_eq!(came_back(&client), again);
    assert_eq!((client.owed(), client.fault(), context.stats.commands_unknown.value()), (0, None, 0));
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

/// By TLS no command need be cut for a record to be. The commands of this one have not been handed to the kernel, come
/// back, and must not be carried out too.
#[tokio::test]
async fn a_record_that_is_cut_never_leaves_after_a_hold() {
    const RECORD: usize = 16 * 1024;
    let (ours, theirs) = tls_connected().await;
    let mut scene = Scene::on(Use::Shared, ours, theirs);
    let (writer, reader) = (session().await, session().await);
    let command = |n: usize| {
        let fixed = encode_command(&["SET", "k", &"x".repeat(10_000)]).len() - 10_000;
        encode_command(&["SET", "k", &format!("{n:0>width$}", width = RECORD - fixed)])
    };
    assert_eq!(command(7).len(), RECORD, "each fills a record");
    // More than the buffers of both sockets hold.
    const COMMANDS: usize = 4096;
    for n in 0..COMMANDS {
        scene.queue_bytes(&writer, command(n), Effect::Write, Audience::Client);
    }
    scene.queue(&reader, &["GET", "k"], Effect::Read, Audience::Client);
    scene.conn.flush();
    assert!(scene.conn.is_blocked());
    scene.permit(Flow::Flowing, Flow::Held);
    scene.conn.take_back();
    let written = writer.owed() as usize;
    assert!(written > 0 && written < COMMANDS && writer.has_again(), "the rest came back: {written}");
    assert_eq!(came_back(&reader), [(encode_command(&["GET", "k"]), false)], "it goes elsewhere");
    // Whatever comes, nothing is written: neither when the socket takes bytes again, nor when writes may flow again.
    scene.permit(Flow::Flowing, Flow::Flowing);
    let mut got = vec![0; written * RECORD];
    scene.peer.read_exact(&mut got).await.unwrap();
    scene.conn.unblock();
    scene.queue(&reader, &["GET", "k"], Effect::Read, Audience::Client);
    scene.conn.flush();
    scene.conn.close(Lost::Dropped);
    got.clear();
    let end = scene.peer.read_to_end(&mut got).await;
    assert!(end.is_err() && got.is_empty(), "{} bytes came after the hold", got.len());
    assert_eq!(writer.fault(), Some(CloseReason::UnknownOutcome), "what was written may have run");
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

/// The backend answers, and is gone before the next command: what it answered is told, what it did not have goes elsewhere.
#[tokio::test]
async fn what_was_answered_before_the_end_is_told_though_writing_fails() {
    let Scene { conn, read, mut peer, context, .. } = Scene::new(Use::Shared).await;
    let (answered, (late, _theirs)) = (client().await, client().await);
    let queue = |to: &Rc<Downstream>, value: &str| {
        conn.queue(Entry {
            to: Rc::clone(to),
            bytes: encode_command(&["SET", "k", value]),
            said: None,
            commands: 1,
            answered: 0,
            effect: Effect::Write,
            answer: Answer::Replies,
            audience: Audience::Client,
            retry: false,
            partial: false,
            heed: Heed::Nothing,
            class: LatencyClass::Write,
            queued_at: Instant::now(),
            waited: None,
        });
    };
    queue(&answered.0, "1");
    conn.flush();
    peer.write_all(b"+OK\r\n").await.unwrap();
    socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    read.ended().await.unwrap();
    queue(&late, "2");
    drive(Rc::clone(&conn), read, BytesMut::new()).await;
    assert_eq!(conn.lost(), Some(Lost::Closed));
    assert_eq!((answered.0.fault(), answered.0.owed()), (None, 0));
    answered.0.leave(false);
    assert_eq!(received(answered.1).await, "+OK\r\n");
    assert_eq!(came_back(&late), [(encode_command(&["SET", "k", "2"]), false)]);
    assert_eq!(context.stats.commands_unknown.value(), 0);
}

/// Runs a connection whose backend says `replies` and then closes, with writes held or not.
async fn answer(scene: Scene, writes: Flow, replies: Vec<u8>) -> Rc<Context> {
    let Scene { conn, read, mut peer, context, link } = scene;
    conn.flush();
    link.lease.store(Grant { generation: 1, reads: Flow::Flowing, writes, valid_until: Moment(u64::MAX >> 24) });
    let say = async {
        peer.write_all(&replies).await.unwrap();
        peer.shutdown().await.unwrap();
    };
    tokio::join!(say, drive(conn, read, BytesMut::new()));
    context
}

fn bulk(len: usize) -> Vec<u8> {
    [format!("${len}\r\n").as_bytes(), &vec![b'x'; len], b"\r\n"].concat()
}

/// A reply that may not be told yet is kept up to the limit, however large it says that it is; those behind it get theirs.
#[tokio::test]
async fn what_is_kept_back_for_a_client_has_a_limit() {
    for (len, fault) in [(OUTPUT_BYTES / 2, None), (100 * OUTPUT_BYTES, Some(CloseReason::OutputLimit))] {
        let scene = Scene::new(Use::Shared).await;
        let (writer, _) = client().await;
        let (reader, theirs) = client().await;
        scene.queue(&writer, &["EVAL", "…", "0"], Effect::Write, Audience::Client);
        scene.queue(&reader, &["GET", "k"], Effect::Read, Audience::Client);
        let context = answer(scene, Flow::Held, [bulk(len), b"$1\r\nv\r\n".to_vec()].concat()).await;
        assert_eq!(writer.fault(), fault, "{len} bytes");
        // And what is noted of it, should it turn out to have been slow.
        let kept = bulk(len).len() + size_of::<SlowCommand>();
        assert_eq!(writer.withheld(), if fault.is_none() { kept } else { 0 });
        assert_eq!(context.stats.limits_reached[Limit::OutputBytes as usize].value(), u64::from(fault.is_some()));
        reader.leave(false);
        assert_eq!(received(theirs).await, "$1\r\nv\r\n");
    }
}

#[tokio::test]
async fn many_small_replies_kept_back_reach_the_limit_too() {
    let scene = Scene::new(Use::Shared).await;
    let (writer, _) = client().await;
    let replies = 2 * OUTPUT_BYTES / bulk(1000).len();
    for _ in 0..replies {
        scene.queue(&writer, &["EVAL", "…", "0"], Effect::Write, Audience::Client);
    }
    answer(scene, Flow::Held, bulk(1000).repeat(replies)).await;
    assert_eq!((writer.fault(), writer.withheld()), (Some(CloseReason::OutputLimit), 0));
}

/// Held reads too: of a master that went away, what it says when it is back may be gone a moment later.
#[tokio::test]
async fn reads_that_were_answered_too_late_are_sent_again_and_writes_are_not() {
    for (is_held, delivered) in [(true, false), (false, true)] {
        let scene = Scene::new(Use::Shared).await;
        let node = scene.conn.node;
        let (reader, theirs) = client().await;
        let (writer, _) = client().await;
        scene.queue(&reader, &["GET", "k"], Effect::Read, Audience::Client);
        scene.queue(&writer, &["INCR", "k"], Effect::Write, Audience::Client);
        scene.queue(&reader, &["GET", "l"], Effect::Read, Audience::Client);
        scene.conn.flush();
        scene.permit(Flow::Held, Flow::Held);
        let Scene { conn, read, mut peer, context, link } = scene;
        let say = async {
            peer.write_all(b"$1\r\n0\r\n:1\r\n").await.unwrap();
            peer.shutdown().await.unwrap();
        };
        tokio::join!(say, drive(Rc::clone(&conn), read, BytesMut::new()));
        assert_eq!((reader.owed(), writer.owed()), (1, 1), "parked; the last read came back when the connection ended");
        if is_held {
            context.unpark(Moment(0));
            context.give_up_parked(true);
        } else {
            link.lease.store(Grant { reads: Flow::Flowing, ..link.lease.load() });
            assert!(context.access.may_read(node, Moment::now()));
            context.unpark(Moment(0));
        }
        assert_eq!(writer.fault(), is_held.then_some(CloseReason::UnknownOutcome));
        let again: Vec<Bytes> = came_back(&reader).into_iter().map(|(command, _)| command).collect();
        let (k, l) = (encode_command(&["GET", "k"]), encode_command(&["GET", "l"]));
        assert_eq!(again, if delivered { vec![l] } else { vec![k, l] });
        assert_eq!((reader.owed(), reader.withheld(), reader.fault()), (0, 0, None));
        reader.leave(false);
        assert_eq!(received(theirs).await, if delivered { "$1\r\n0\r\n" } else { "" });
    }
}

/// Behind a refusal everything is collected, until it is known what ran.
#[tokio::test]
async fn what_is_collected_behind_a_refusal_has_a_limit() {
    for (len, fault) in [(1000, None), (OUTPUT_BYTES, Some(CloseReason::OutputLimit))] {
        let scene = Scene::new(Use::Shared).await;
        let (session, theirs) = client().await;
        let entry = |command: &[&str], effect| Entry {
            to: Rc::clone(&session),
            bytes: encode_command(command),
            said: None,
            commands: 1,
            answered: 0,
            effect,
            answer: Answer::Replies,
            audience: Audience::Client,
            retry: true,
            partial: false,
            heed: Heed::Nothing,
            class: LatencyClass::Write,
            queued_at: Instant::now(),
            waited: None,
        };
        scene.conn.queue(entry(&["SET", "k", "1"], Effect::Write));
        scene.conn.queue(entry(&["GET", "large"], Effect::Read));
        scene.conn.queue(entry(&["SET", "k", "2"], Effect::Write));
        const REFUSAL: &[u8] = b"-READONLY You can't write against a read only replica.\r\n";
        answer(scene, Flow::Flowing, [REFUSAL, &bulk(len), b"+OK\r\n"].concat()).await;
        assert_eq!(session.fault(), fault, "{len} bytes");
        assert_eq!(session.withheld(), 0);
        session.leave(false);
        let told = received(theirs).await;
        assert_eq!(told.len(), if fault.is_none() { REFUSAL.len() + bulk(len).len() + 5 } else { 0 });
    }
}

/// Nobody is told, so nothing is kept.
#[tokio::test]
async fn a_large_reply_that_nobody_wants_is_dropped_as_it_comes() {
    let scene = Scene::new(Use::Shared).await;
    let (silent, nothing) = client().await;
    let (reader, theirs) = client().await;
    scene.queue(&silent, &["GET", "large"], Effect::Read, Audience::Nobody);
    scene.queue(&reader, &["GET", "k"], Effect::Read, Audience::Client);
    answer(scene, Flow::Flowing, [bulk(10 << 20), b"$1\r\nv\r\n".to_vec()].concat()).await;
    assert_eq!((silent.owed(), silent.fault(), silent.withheld()), (0, None, 0));
    reader.leave(false);
    silent.leave(false);
    assert_eq!(received(theirs).await, "$1\r\nv\r\n");
    assert_eq!(received(nothing).await, "");
}

/// The rest of a large reply to a client that has left is read only if others wait behind it.
#[tokio::test]
async fn a_large_reply_to_a_client_that_has_left_is_not_read_for_nobody() {
    for waits in [false, true] {
        let scene = Scene::new(Use::Shared).await;
        let (left, _) = client().await;
        let (reader, theirs) = client().await;
        scene.queue(&left, &["GET", "large"], Effect::Read, Audience::Client);
        if waits {
            scene.queue(&reader, &["GET", "k"], Effect::Read, Audience::Client);
        }
        left.leave(false);
        let Scene { conn, read, mut peer, context, .. } = scene;
        conn.flush();
        const LARGE: usize = 64 << 20;
        let say = async {
            // Ends with an error where it is not read.
            let _ = peer.write_all(&[bulk(LARGE), b"$1\r\nv\r\n".to_vec()].concat()).await;
            let _ = peer.shutdown().await;
        };
        let ((), ()) = tokio::join!(say, drive(conn, read, BytesMut::new()));
        let read = context.stats.backend_received_bytes.value() as usize;
        assert_eq!(read >= LARGE, waits, "{read} bytes were read");
        reader.leave(false);
        assert_eq!(received(theirs).await, if waits { "$1\r\nv\r\n" } else { "" });
    }
}

/// It was read no further until the client that had it would take its last reply. Whoever has it then must not wait for that.
#[tokio::test]
async fn a_connection_that_is_given_back_is_read_for_whoever_has_it_next() {
    let Scene { conn, read, mut peer, .. } = Scene::new(Use::Pinned).await;
    let ((deaf, _takes_nothing), (next, theirs)) = (client().await, client().await);
    let ask = |client: &Rc<Downstream>| {
        conn.assign(client);
        conn.queue(entry(client, encode_command(&["GET", "k"]), Effect::Read, Audience::Client));
    };
    let answered = async |client: &Rc<Downstream>| {
        while client.owed() > 0 {
            tokio::task::yield_now().await;
        }
        // And whatever the tasks do then.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    };
    let scene = async {
        tokio::task::spawn_local(drive(Rc::clone(&conn), read, BytesMut::new()));
        ask(&deaf);
        peer.read_exact(&mut [0; 20]).await.unwrap();
        // More than the socket takes.
        deaf.push(vec![b'x'; 64 << 20].into());
        peer.write_all(b"$1\r\nv\r\n").await.unwrap();
        answered(&deaf).await;
        conn.release();
        ask(&next);
        peer.read_exact(&mut [0; 20]).await.unwrap();
        peer.write_all(b"$1\r\nw\r\n").await.unwrap();
        answered(&next).await;
    };
    timeout(Duration::from_secs(10), tokio::task::LocalSet::new().run_until(scene)).await.expect("both are answered");
    next.leave(false);
    assert_eq!(received(theirs).await, "$1\r\nw\r\n");
}
