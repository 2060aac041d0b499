//! Failovers, planned and by `kill -9`, by turns.

use std::time::Duration;

use pointsman::demo::cluster::{Cluster, ClusterError, Member};
use tokio::time::{Instant, sleep, sleep_until};

use super::book::Setback;

/// Before the first failover, so that it meets clients in the middle of everything.
const FIRST: Duration = Duration::from_secs(3);
/// From the beginning of one to the beginning of the next, if it is settled by then.
const EVERY: Duration = Duration::from_secs(20);
/// From the last one to the end, so that the clients see what it led to.
const LAST: Duration = Duration::from_secs(5);
/// A planned one takes 11 to 22 s to settle (see `Cluster::wait_settled`), a killed node that comes back as long.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// How often the scheduler's own lateness is measured.
const TICK: Duration = Duration::from_millis(10);

/// What was done to the cluster.
#[derive(Debug, Default)]
pub struct Turns {
    pub planned: usize,
    /// When masters were killed.
    pub kills: Vec<Instant>,
}

impl Turns {
    /// Fails the cluster over, again and again until `end`. The node that was killed comes back empty as soon as another
    /// one is master.
    pub async fn run(cluster: &mut Cluster, end: Instant) -> Result<Self, ClusterError> {
        let mut turns = Self::default();
        let mut next = Instant::now() + FIRST;
        while next + LAST < end {
            sleep_until(next).await;
            let began = Instant::now();
            if turns.kills.len() > turns.planned {
                cluster.failover(turns.planned % 3).await?;
                turns.planned += 1;
            } else {
                let old = cluster.master().await?;
                cluster.kill(Member::Node(old))?;
                turns.kills.push(began);
                cluster.wait_master_other_than(old, SETTLE_LIMIT).await?;
                cluster.restart(Member::Node(old)).await?;
            }
            cluster.wait_settled(SETTLE_LIMIT).await?;
            next = (began + EVERY).max(Instant::now());
        }
        Ok(turns)
    }

    /// Whether a `kill -9` may have taken an acknowledged write. `late`: how much later than it came a reply may have
    /// been read.
    ///
    /// What a client is told more than `down-after` after the kill was released by pointsman because the new master has
    /// it, or comes from that one: until then no Sentinel can have had an opinion.
    pub fn excuse(&self, setback: &Setback, down_after: Duration, late: Duration) -> bool {
        let taken = |kill: &Instant| setback.acknowledged_at < *kill + down_after + late && *kill < setback.seen_at;
        self.kills.iter().any(taken)
    }
}

/// The longest that a task of this runtime had to wait for its turn.
pub async fn lateness(end: Instant) -> Duration {
    let mut longest = Duration::ZERO;
    while Instant::now() < end {
        let before = Instant::now();
        sleep(TICK).await;
        longest = longest.max(before.elapsed().saturating_sub(TICK));
    }
    longest
}
