//! What a hold, a pause or a loss takes back from a connection, and to whom it goes.

use super::*;

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
        conn.queue(entry(to, encode_command(&["SET", "k", value]), Effect::Write, Audience::Client));
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
