//! The state as people are told it. Nothing is decided by it; but at 3 a.m. everything is.

use super::*;
use crate::topology::failover::FENCE_PATIENCE;
use crate::topology::status::{Phase, ServiceStatus, WallTime};

/// The time of day when the boot clock showed 0.
const BOOT: u64 = 1_700_000_000_000;

fn status(scene: &mut Scene) -> ServiceStatus {
    scene.machine.set_wall_clock(WallTime(BOOT));
    scene.machine.status(scene.now, "main", |_| None)
}

/// Phase, and for how many milliseconds it has been that.
fn phase(scene: &mut Scene) -> (Phase, u64) {
    let status = status(scene);
    (status.phase, BOOT + scene.now.0 - status.since.0)
}

#[test]
fn each_phase_is_told_with_its_beginning() {
    let mut fresh = Scene::new(settings(Commit::Confirmed), 3);
    fresh.pass(70);
    assert_eq!(phase(&mut fresh), (Phase::Starting, 70));
    fresh.pass(15_000);
    assert_eq!(phase(&mut fresh), (Phase::Unavailable, 70), "refused since");

    let mut scene = Scene::stable(Commit::Confirmed);
    scene.pass(500);
    let (stable, since) = phase(&mut scene);
    assert_eq!(stable, Phase::Stable);
    assert!(since > 500, "{since}");
    scene.hint(A, HintKind::Refused);
    scene.pass(40);
    assert_eq!(phase(&mut scene), (Phase::Held, 40));
    scene.pass(14_959);
    assert_eq!(phase(&mut scene), (Phase::Held, 14_999));
    scene.pass(31);
    assert_eq!(phase(&mut scene), (Phase::Unavailable, 30));
    assert_eq!(status(&mut scene).records[0].began.0 + 15_030, BOOT + scene.now.0);

    let mut preparing = selected(Commit::Eager);
    preparing.preparing = false;
    preparing.role(B, master(100));
    preparing.pass(60);
    assert_eq!(phase(&mut preparing), (Phase::Held, 60), "the new master is prepared");

    let fence = Settings { fence_without_quorum: true, ..settings(Commit::Confirmed) };
    let mut fenced = Scene::stable_with(fence, 3);
    fenced.pass(5000);
    (0..2).for_each(|id| fenced.event(Event::SentinelDown(SentinelId(id))));
    fenced.pass(100);
    let (stable, since) = phase(&mut fenced);
    assert!(stable == Phase::Stable && since > 5000, "{stable:?} since {since}");
    fenced.pass(FENCE_PATIENCE.as_millis() as u64 - 80);
    assert_eq!(phase(&mut fenced), (Phase::Fenced, 20));
}

#[test]
fn what_keeps_a_service_from_being_settled_is_told() {
    let mut scene = Scene::stable(Commit::Confirmed);
    let why = |scene: &mut Scene| status(scene).unsettled.unwrap_or_default();
    assert_eq!((why(&mut scene).as_str(), status(&mut scene).settled), ("", true));
    let cases = [
        (replica(C, 100), "127.0.0.1:7002 says connected replica of 127.0.0.1:7003"),
        (master(100), "127.0.0.1:7002 says master"),
        (RoleAnswer::Error("NOAUTH".into()), "127.0.0.1:7002 answers NOAUTH"),
        (RoleAnswer::Refused, ""),
        (SILENT, ""),
        (CLOSED, ""),
        (cut_off(A, 100), ""),
    ];
    for (answer, told) in cases {
        scene.pass(5);
        scene.role(B, answer);
        assert_eq!((why(&mut scene).as_str(), status(&mut scene).settled), (told, told.is_empty()));
    }
    scene.role(A, SILENT);
    assert_eq!(why(&mut scene), "127.0.0.1:7001 does not answer", "of the master more is expected");
    scene.hint(A, HintKind::Refused);
    assert_eq!(why(&mut scene), "the master refuses connections");
}

#[test]
fn each_replica_is_told_with_its_link_and_its_lag() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.pass(5);
    scene.role(A, master(500));
    let told = |scene: &mut Scene, answer: RoleAnswer| {
        scene.pass(5);
        scene.role(B, answer);
        let status = status(scene);
        assert_eq!((status.offset, status.replicas.len()), (Some(500), 2));
        let b = &status.replicas[0];
        (b.node == node(B)).then(|| (b.link.clone(), b.offset, b.behind)).expect("B comes first")
    };
    let says = |link: &str, offset, behind| (link.to_owned(), offset, behind);
    assert_eq!(told(&mut scene, replica(A, 480)), says("connected", Some(480), Some(20)));
    assert_eq!(told(&mut scene, cut_off(A, 480)), says("not connected", Some(480), None));
    let other = "says connected replica of 127.0.0.1:7003";
    assert_eq!(told(&mut scene, replica(C, 480)), says(other, Some(480), None));
    assert_eq!(told(&mut scene, master(7)), says("says master", Some(7), None));
    assert_eq!(told(&mut scene, RoleAnswer::Refused), says("refuses connections", None, None));
    scene.role(A, RoleAnswer::Error("NOAUTH".into()));
    assert_eq!(status(&mut scene).offset, None);

    let mut fresh = Scene::new(settings(Commit::Confirmed), 1);
    fresh.event(Event::SentinelUp(SentinelId(0)));
    fresh.view(0, A, 1);
    let status = status(&mut fresh);
    assert_eq!((status.master, status.config_epoch, status.provisional), (None, None, false));
    let links: Vec<&str> = status.replicas.iter().map(|r| &*r.link).collect();
    assert_eq!(links, ["not asked yet"; 3]);
}

#[test]
fn a_commit_that_may_be_undone_is_told_as_one() {
    let mut scene = selected(Commit::Eager);
    scene.role(B, master_as(100, "run-b"));
    let told = status(&mut scene);
    assert!(told.provisional && !told.settled);
    assert_eq!(told.unsettled.as_deref(), Some("no Sentinel has confirmed 127.0.0.1:7002 yet"));
    assert_eq!((told.master, told.run_id.as_deref(), told.config_epoch), (Some(node(B)), Some("run-b"), Some(2)));
    scene.view(0, B, 3);
    scene.view(1, B, 3);
    let told = status(&mut scene);
    assert_eq!((told.provisional, told.config_epoch), (false, Some(3)));
    assert_eq!((told.failovers_total[0].1, told.last_loss), (1, Some(crate::topology::record::OffsetLost::Unknown)));
}

#[test]
fn that_reads_wait_is_on_record() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.say(0, Message::TryFailover);
    scene.pass(5);
    scene.role(A, RoleAnswer::Refused);
    scene.pass(5);
    scene.role(A, RoleAnswer::Refused);
    let held = scene.last_record().events.iter().filter(|e| e.text == "reads held").count();
    assert_eq!(held, 1);
}
