//! Limits: each is reached, in memory that stays bounded, while the others go on.

#![allow(clippy::unwrap_used)] // what a test needs and does not get fails the test

#[path = "../support/mod.rs"]
mod support;
#[path = "../support/threads.rs"]
mod threads;

mod abuse;
mod leaving;
mod malformed;
mod memory;
mod named;
mod neighbours;
mod noise;
mod redirected;

use std::time::Duration;

use pointsman::demo::cluster::Member;
use support::{Front, PATIENCE, Raw, command};
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// Held by the tests that measure: on a small machine they would measure each other.
static MEASURING: Mutex<()> = Mutex::const_new(());

impl Front {
    /// Largest resident memory of pointsman since [`Front::forget_peak`], in bytes.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
        line.parse::<u64>().unwrap() * 1024
    }

    /// From now on the peak is what is resident now, or later.
    fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5").unwrap();
    }

    /// Somebody asks for `much` and then takes fifty bytes a second, while somebody else waits behind it on the shared
    /// connection: not for long.
    async fn overtake(&self, much: &[u8]) {
        for _ in 0..20 {
            let mut slow = Raw::connect(self.proxy).await;
            let mut other = Raw::connect(self.proxy).await;
            // While the server is busy both are queued on the same connection, if this machine is not too busy itself.
            let mut server = self.cluster.connect(Member::Node(0)).await.unwrap();
            server.send(&["DEBUG", "SLEEP", "0.1"]).await.unwrap();
            slow.send(much).await;
            other.send(&command(&["PING", "behind"])).await;
            let begun = Instant::now();
            let sips = async {
                while slow.stream.read(&mut [0]).await.is_ok_and(|n| n > 0) {
                    sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::select! {
                _ = other.until(b"behind\r\n") => {}
                () = async { sips.await; std::future::pending().await } => {}
            }
            let waited = begun.elapsed();
            assert!(waited < Duration::from_secs(6), "it waited for {waited:?}");
            if self.reached("output_bytes").await > 0.0 {
                while self.metric("pointsman_clients_closed_total", "output_limit").await < 1.0 {
                    assert!(begun.elapsed() < PATIENCE, "it was not closed");
                    sleep(Duration::from_millis(10)).await;
                }
                return;
            }
        }
        panic!("nobody ever waited behind it");
    }

    /// Times that a limit was reached.
    async fn reached(&self, limit: &str) -> f64 {
        self.metric("pointsman_limit_reached_total", &format!("limit=\"{limit}\"")).await
    }
}
