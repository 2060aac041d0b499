//! Replies that may not be told yet, that nobody takes, or that nobody wants.

use super::*;

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

/// One of the two tasks is of no use without the other.
#[tokio::test]
async fn both_tasks_end_with_either_of_them() {
    for reads in [true, false] {
        let Scene { conn, read, peer, .. } = Scene::new(Use::Shared).await;
        let client = session().await;
        let scene = async {
            let reader = tokio::task::spawn_local(read_replies(Rc::clone(&conn), read, BytesMut::new()));
            let writer = tokio::task::spawn_local(write_commands(Rc::clone(&conn)));
            tokio::task::yield_now().await;
            conn.queue(entry(&client, encode_command(&["GET", "k"]), Effect::Read, Audience::Client));
            let (ends, other) = if reads { (reader, writer) } else { (writer, reader) };
            // As a panic would.
            ends.abort();
            other.await.unwrap();
        };
        timeout(Duration::from_secs(10), tokio::task::LocalSet::new().run_until(scene)).await.expect("both end");
        assert_eq!((conn.lost(), came_back(&client).len()), (Some(Lost::Dropped), 1));
        drop(peer);
    }
}
