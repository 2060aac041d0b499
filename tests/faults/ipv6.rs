//! A service that has nothing but IPv6.

use std::net::Ipv6Addr;

use pointsman::demo::cluster::{Member, Place, Settings};

use crate::outcome::{CRASH, PLANNED, in_flight, waiting};
use crate::rig::Rig;

async fn rig() -> Rig {
    let at = vec![Place::here(Ipv6Addr::LOCALHOST)];
    Rig::start(Settings { nodes_at: at.clone(), sentinels_at: at, ..Settings::default() }, &[]).await
}

#[tokio::test]
async fn a_planned_failover_over_ipv6() {
    let rig = rig().await;
    let ledger = rig.ledger().await;
    rig.cluster.failover(2).await.unwrap();
    let new = rig.until_flowing(2).await;
    rig.settle(("I", "planned failover, IPv6"), &ledger, new, waiting(PLANNED)).await;
}

#[tokio::test]
#[ignore = "all of them take minutes: `make faults` runs it"]
async fn a_killed_master_over_ipv6() {
    let mut rig = rig().await;
    let ledger = rig.ledger().await;
    rig.cluster.kill(Member::Node(0)).unwrap();
    let new = rig.until_flowing(2).await;
    rig.cluster.restart(Member::Node(0)).await.unwrap();
    rig.gets_nothing_until_demoted(0).await;
    rig.settle(("I", "kill -9 and return, IPv6"), &ledger, new, in_flight(CRASH)).await;
}
