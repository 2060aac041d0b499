//! Invalidations that are redirected to another client (`CLIENT TRACKING … REDIRECT`) wait for that one, and not without end.

use pointsman::demo::settings::Settings;
use tokio::time::{Duration, Instant, sleep};

use crate::MEASURING;
use crate::memory::MIB;
use crate::support::{Front, PATIENCE, Raw, text};
use crate::threads::stop;

const BROKEN: &[u8] = b"tracking-redir-broken\r\n";

impl Front {
    /// A client that speaks RESP3, and its id.
    async fn told(&self) -> (Raw, String) {
        let mut target = Raw::connect(self.proxy).await;
        target.ask(&["HELLO", "3"]).await;
        let id = target.ask(&["CLIENT", "ID"]).await.trim_start_matches(':').trim_end().to_owned();
        (target, id)
    }

    /// A client that has that one told of every key.
    async fn teller(&self, of_target: &str) -> Raw {
        let mut asker = Raw::connect(self.proxy).await;
        asker.ask(&["HELLO", "3"]).await;
        let on = ["CLIENT", "TRACKING", "ON", "BCAST", "REDIRECT", of_target];
        assert_eq!(asker.ask(&on).await, "+OK\r\n");
        asker
    }

    async fn until_flooded(&self) {
        let end = Instant::now() + PATIENCE;
        while self.metric("pointsman_clients_closed_total", "output_limit").await < 1.0 {
            assert!(Instant::now() < end, "it was not closed: {}", self.log());
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A key whose name has so many bytes, and some.
fn key(i: usize, len: usize) -> String {
    format!("{i}{}", "x".repeat(len))
}

#[tokio::test]
async fn one_who_does_not_take_what_is_redirected_is_closed() {
    let _alone = MEASURING.lock().await;
    let front = Front::configured("limits.output_bytes = \"1MiB\"").await;
    let (_deaf, of_deaf) = front.told().await;
    let mut asker = front.teller(&of_deaf).await;
    let mut writer = Raw::connect(front.redis).await;
    // The kernel takes some MiB for a client that does not read.
    let end = Instant::now() + PATIENCE;
    for i in 0.. {
        writer.ask(&["SET", &key(i, 256 << 10), ""]).await;
        if front.metric("pointsman_clients_closed_total", "output_limit").await > 0.0 {
            break;
        }
        assert!(Instant::now() < end, "{i} keys, and it is not closed");
    }
    assert!(front.reached("output_bytes").await >= 1.0);
    writer.ask(&["SET", "k", ""]).await;
    assert!(text(&asker.until(BROKEN).await).ends_with(&text(BROKEN)), "who had it told is told that it has gone");
    front.assert_peak(2 * MIB);
}

#[tokio::test]
async fn what_the_server_tells_at_one_go_has_an_end() {
    let front = Front::configured("limits.output_bytes = \"1MiB\"").await;
    let (mut target, of_target) = front.told().await;
    let mut asker = front.teller(&of_target).await;
    let mut writer = Raw::connect(front.redis).await;
    writer.ask(&["SET", &key(0, 3 << 20), ""]).await;
    const ALL: &str = ">2\r\n$10\r\ninvalidate\r\n_\r\n";
    assert_eq!(text(&target.until(b"_\r\n").await), ALL, "what was not read may be anything");
    assert!(front.reached("output_bytes").await >= 1.0);
    // And then it goes on.
    assert_eq!(asker.ask(&["GET", "k"]).await, "_\r\n");
    writer.ask(&["SET", "k", ""]).await;
    assert_eq!(text(&target.until(b"\r\nk\r\n").await), ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n");
}

/// A worker that gets no turn is not told more and more.
#[tokio::test]
async fn what_waits_for_a_worker_has_an_end() {
    const WAITING: usize = 17 << 20;
    const KEY: usize = 1 << 20;
    let _alone = MEASURING.lock().await;
    let front = Front::start(Settings::single(), &["--workers", "2"]).await;
    // Clients are dealt out evenly: of each pair one is on the worker that stops, and each is told from both.
    let (first, second) = (front.told().await, front.told().await);
    let mut tellers = Vec::new();
    for (_, id) in [&first, &first, &second, &second] {
        tellers.push(front.teller(id).await);
    }
    let stopped = stop(front.process.id(), "worker-1").await;
    let mut writer = Raw::connect(front.redis).await;
    for i in 0..=WAITING / KEY {
        writer.ask(&["SET", &key(i, KEY), ""]).await;
    }
    let end = Instant::now() + PATIENCE;
    while front.reached("output_bytes").await < 1.0 {
        assert!(Instant::now() < end, "it waits, and waits");
        sleep(Duration::from_millis(10)).await;
    }
    drop(stopped);
    front.until_flooded().await;
    for _ in 0..2 {
        assert_eq!(Raw::connect(front.proxy).await.ask(&["PING"]).await, "+PONG\r\n", "{}", front.log());
    }
}
