//! Whole transactions on a connection that others share.

use super::*;

const OK: &str = "+OK\r\n";
const QUEUED: &str = "+QUEUED\r\n";
const RAN: &str = "*1\r\n:1\r\n";
const READONLY: &str = "-READONLY You can't write against a read only replica.\r\n";
const ABORTED: &str = "-EXECABORT Transaction discarded because of previous errors.\r\n";

fn block(command: &[&str]) -> Bytes {
    [encode_command(&["MULTI"]), encode_command(command), encode_command(&["EXEC"])].concat().into()
}

impl<P> Scene<P> {
    fn queue_block(&self, to: &Rc<Downstream>, command: &[&str], effect: Effect) {
        let entry = entry(to, block(command), effect, Audience::Client);
        self.conn.queue(Entry { answer: Answer::Transaction(3), retry: true, ..entry });
    }
}

/// What came of a transaction with another client's command before it and behind it, by what the backend said of it.
struct Outcome {
    before: String,
    transaction: String,
    behind: String,
    again: Vec<Bytes>,
    fault: Option<CloseReason>,
    stays_open: bool,
    /// What was owed to its client between the two parts.
    owed: u32,
    lost: Option<Lost>,
}

/// The backend says it in two parts, and closes then if `ends`.
async fn outcome(effect: Effect, said: &str, cut: usize, ends: bool) -> Outcome {
    let scene = Scene::new(Use::Shared).await;
    let ((a, at_a), (b, at_b), (c, at_c)) = (client().await, client().await, client().await);
    scene.queue(&a, &["GET", "a"], Effect::Read, Audience::Client);
    scene.queue_block(&b, &["INCR", "b"], effect);
    scene.queue(&c, &["GET", "c"], Effect::Read, Audience::Client);
    scene.conn.flush();
    let Scene { conn, read, mut peer, .. } = scene;
    let all = format!("$1\r\na\r\n{said}{}", if ends { "" } else { "$1\r\nc\r\n" });
    let say = async {
        peer.write_all(&all.as_bytes()[..cut]).await.unwrap();
        while conn.context.stats.backend_received_bytes.value() < cut as u64 {
            tokio::task::yield_now().await;
        }
        let owed = b.owed();
        peer.write_all(&all.as_bytes()[cut..]).await.unwrap();
        while conn.lost().is_none() && conn.context.stats.backend_received_bytes.value() < all.len() as u64 {
            tokio::task::yield_now().await;
        }
        let lost = conn.lost();
        drop(peer);
        (lost, owed)
    };
    let ((lost, owed), ()) = tokio::join!(say, drive(Rc::clone(&conn), read, BytesMut::new()));
    [&a, &b, &c].into_iter().for_each(|session| session.leave(false));
    Outcome {
        before: received(at_a).await,
        transaction: received(at_b).await,
        behind: received(at_c).await,
        again: came_back(&b).into_iter().map(|(bytes, _)| bytes).collect(),
        fault: b.fault(),
        stays_open: conn.context.keeps_transactions_open.get(),
        owed,
        lost,
    }
}

#[tokio::test]
async fn it_is_answered_as_one_wherever_its_replies_are_cut() {
    let said = [OK, QUEUED, RAN].concat();
    for cut in 1..said.len() + 14 {
        let outcome = outcome(Effect::Write, &said, cut, false).await;
        assert_eq!(
            [outcome.before, outcome.transaction, outcome.behind],
            ["$1\r\na\r\n", &said, "$1\r\nc\r\n"],
            "{cut}"
        );
        assert_eq!((outcome.fault, outcome.lost, outcome.stays_open), (None, None, false), "{cut}");
    }
}

#[tokio::test]
async fn what_was_not_run_comes_back_as_a_whole_or_is_told_as_a_whole() {
    let multi_denied =
        "-NOPERM this user has no permissions to run the 'multi' command\r\n:1\r\n-ERR EXEC without MULTI\r\n";
    let at_exec =
        "-EXECABORT Transaction discarded because of: READONLY You can't write against a read only replica.\r\n";
    for (said, comes_back) in [
        ([OK, READONLY, ABORTED].concat(), true),
        ([OK, QUEUED, at_exec].concat(), true),
        ([OK, "-ERR unknown command\r\n", ABORTED].concat(), false),
        ([OK, QUEUED, "*1\r\n", READONLY].concat(), false),
        (multi_denied.to_owned(), false),
    ] {
        let outcome = outcome(Effect::Write, &said, 1, false).await;
        assert_eq!(outcome.again, if comes_back { vec![block(&["INCR", "b"])] } else { vec![] }, "{said}");
        assert_eq!(outcome.transaction, if comes_back { "" } else { &said });
        assert_eq!((outcome.behind.as_str(), outcome.fault, outcome.lost), ("$1\r\nc\r\n", None, None), "{said}");
    }
}

/// What follows would be queued in it.
#[tokio::test]
async fn one_that_stays_open_ends_its_connection() {
    let denied = "-NOPERM this user has no permissions to run the 'exec' command\r\n";
    let outcome = outcome(Effect::Write, &[OK, QUEUED, denied, QUEUED].concat(), 1, false).await;
    assert_eq!((outcome.lost, outcome.fault), (Some(Lost::Protocol), Some(CloseReason::UnknownOutcome)));
    assert!(outcome.stays_open, "the next one has a connection of its own");
    assert_eq!([outcome.before.as_str(), &outcome.transaction, &outcome.behind], ["$1\r\na\r\n", "", ""]);
}

#[tokio::test]
async fn of_one_that_was_not_wholly_answered_nothing_is_told() {
    for effect in [Effect::Write, Effect::Read] {
        for said in ["", OK, &[OK, QUEUED].concat(), &[OK, QUEUED, "*1\r\n"].concat()] {
            let outcome = outcome(effect, said, 1, true).await;
            let is_read = effect == Effect::Read;
            assert_eq!(outcome.again, if is_read { vec![block(&["INCR", "b"])] } else { vec![] }, "{said}");
            assert_eq!(outcome.fault, (!is_read).then_some(CloseReason::UnknownOutcome), "{said}");
            assert_eq!([outcome.transaction.as_str(), &outcome.behind], ["", ""], "{said}");
        }
    }
}

/// Then each of its commands is answered, also with much, and nothing is kept for the others' sake.
#[tokio::test]
async fn where_multi_is_refused_its_commands_are_those_of_a_pipeline() {
    let large = format!("${}\r\n{}\r\n", 2 * OUTPUT_BYTES, "x".repeat(2 * OUTPUT_BYTES));
    let said = format!("-NOPERM no\r\n{large}-ERR EXEC without MULTI\r\n");
    let outcome = outcome(Effect::Read, &said, "$1\r\na\r\n-NOPERM no\r\n".len(), false).await;
    assert_eq!(outcome.owed, 2, "its other commands");
    assert!(outcome.transaction == said, "{} bytes", outcome.transaction.len());
    assert_eq!((outcome.behind.as_str(), outcome.fault, outcome.lost), ("$1\r\nc\r\n", None, None));
    let outcome = self::outcome(Effect::Write, "-NOPERM no\r\n", 1, true).await;
    assert_eq!((outcome.transaction.as_str(), outcome.fault), ("-NOPERM no\r\n", Some(CloseReason::UnknownOutcome)));
}

/// No server says so much there. It would be handed on before it is known what it answers.
#[tokio::test]
async fn a_long_frame_that_answers_no_exec_ends_its_connection() {
    for before in ["", OK] {
        let outcome = outcome(Effect::Write, &format!("{before}+{}", "x".repeat(70_000)), 1, true).await;
        assert_eq!((outcome.lost, outcome.fault), (Some(Lost::Protocol), Some(CloseReason::UnknownOutcome)));
        assert_eq!([outcome.transaction.as_str(), &outcome.behind], ["", ""]);
    }
}

#[tokio::test]
async fn what_was_large_is_known_of_a_transaction_with_one_command() {
    let session = session().await;
    let of = |bytes: &[&Bytes], answer| {
        let bytes: Vec<&[u8]> = bytes.iter().map(|bytes| &bytes[..]).collect();
        let entry = entry(&session, bytes.concat().into(), Effect::Read, Audience::Client);
        transaction::suspect(&Entry { answer, ..entry })
    };
    let (multi, get, exec) = (encode_command(&["MULTI"]), encode_command(&["GET", "k"]), encode_command(&["EXEC"]));
    assert_eq!(of(&[&get], Answer::Replies), Some(get.clone()));
    assert_eq!(of(&[&multi, &get, &exec], Answer::Transaction(3)), Some(get.clone()));
    assert_eq!(of(&[&multi, &get, &get, &exec], Answer::Transaction(4)), None);
}

/// The server has its beginning, and answers that.
#[tokio::test]
async fn one_that_was_written_in_part_is_taken_back_and_never_runs() {
    let scene = Scene::new(Use::Shared).await;
    let ((a, at_a), (b, _)) = (client().await, client().await);
    let large = "x".repeat(16 << 20);
    scene.queue(&a, &["GET", "a"], Effect::Read, Audience::Client);
    scene.queue_block(&b, &["SET", "b", &large], Effect::Write);
    scene.conn.flush();
    assert!(scene.conn.is_blocked(), "the kernel has a part of it");
    scene.permit(Flow::Flowing, Flow::Held);
    scene.conn.take_back();
    assert_eq!(came_back(&b), [(block(&["SET", "b", &large]), false)]);
    let Scene { conn, read, mut peer, context, .. } = scene;
    peer.write_all(format!("$1\r\na\r\n{OK}").as_bytes()).await.unwrap();
    timeout(Duration::from_secs(10), drive(Rc::clone(&conn), read, BytesMut::new())).await.unwrap();
    assert_eq!((conn.lost(), context.stats.backend_protocol_errors.value()), (Some(Lost::Dropped), 0));
    assert_eq!((b.owed(), b.fault()), (0, None));
    a.leave(false);
    assert_eq!(received(at_a).await, "$1\r\na\r\n");
}

/// More than is kept for a client, it passes through.
#[tokio::test]
async fn a_large_answer_goes_out_as_it_comes() {
    for is_gone in [false, true] {
        let scene = Scene::new(Use::Shared).await;
        let ((b, at_b), (c, at_c)) = (client().await, client().await);
        scene.queue_block(&b, &["GET", "b"], Effect::Read);
        scene.queue(&c, &["GET", "c"], Effect::Read, Audience::Client);
        scene.conn.flush();
        let Scene { conn, read, mut peer, .. } = scene;
        let large = "x".repeat(8 * OUTPUT_BYTES);
        let said = format!("{OK}{QUEUED}*1\r\n${}\r\n{large}\r\n", large.len());
        if is_gone {
            b.leave(false);
        }
        let say = async {
            peer.write_all(said.as_bytes()).await.unwrap();
            peer.write_all(b"$1\r\nc\r\n").await.unwrap();
            peer.shutdown().await.unwrap();
        };
        // As the session does.
        let drain = async {
            loop {
                if b.outbox.queued() > 0 && !is_gone {
                    b.outbox.writable().await.unwrap();
                    b.outbox.resume();
                    b.resume_reader();
                }
                tokio::task::yield_now().await;
            }
        };
        let passed_on = async {
            tokio::select! {
                () = drive(Rc::clone(&conn), read, BytesMut::new()) => {}
                () = drain => {}
            }
            while b.outbox.queued() > 0 && !is_gone {
                b.outbox.writable().await.unwrap();
                b.outbox.resume();
            }
            b.leave(false);
            c.leave(false);
        };
        let ((), (), at_b, at_c) = tokio::join!(say, passed_on, received(at_b), received(at_c));
        assert_eq!(at_b == said, !is_gone, "{} bytes", at_b.len());
        assert_eq!(at_c, "$1\r\nc\r\n");
    }
}
