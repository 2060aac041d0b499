//! What goes out, and when.

use super::*;

/// It is a write by its end at the latest: a pause must not be told to be on before that, a switchover not begun.
#[tokio::test]
async fn half_a_large_command_is_owed() {
    let scene = Scene::new(Use::Pinned).await;
    assert!(!scene.conn.owes_write());
    scene.conn.stream(Bytes::from_static(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$9\r\n"));
    scene.conn.flush();
    assert!(scene.conn.owes_write() && !scene.conn.is_congested(), "it is with the kernel, and its end is to come");
}

/// Each write wakes the backend, and whoever waits for the turn's end waits the longer the more is queued before.
#[tokio::test]
async fn large_values_of_many_leave_together_and_a_long_pipeline_at_once() {
    let (one, other) = (session().await, session().await);
    let value = Bytes::from(vec![b'x'; 16 * 1024]);
    let scene = Scene::new(Use::Shared).await;
    let queue = |to| scene.queue_bytes(to, value.clone(), Effect::Write, Audience::Client);
    let sent = || scene.context.stats.backend_sent_bytes.value();
    for _ in 0..10 {
        queue(&one);
        queue(&other);
    }
    assert_eq!(sent(), 0, "320 KiB of two by turns");
    for _ in 0..7 {
        queue(&one);
    }
    assert_eq!(sent(), 0, "112 KiB in a row");
    queue(&one);
    assert!(sent() > 0, "128 KiB in a row");

    let scene = Scene::new(Use::Shared).await;
    let before = scene.context.stats.backend_sent_bytes.value();
    let mut queued = 0;
    while scene.context.stats.backend_sent_bytes.value() == before {
        assert!(queued < 1 << 20, "1 MiB is enough");
        scene.queue_bytes([&one, &other][queued / value.len() % 2], value.clone(), Effect::Write, Audience::Client);
        queued += value.len();
    }
    assert_eq!(queued, 1 << 20);
}
