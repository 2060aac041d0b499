//! Whole failovers as they were measured with three Redis and three Sentinels, down-after 1 s: milliseconds from the
//! command or the crash.

use super::*;

/// Lets the nodes answer every 10 ms and the Sentinels be polled every 10 ms until `end`, `world` saying how they see
/// it at that time; `told` are messages with their times.
fn play(
    scene: &mut Scene,
    end: u64,
    told: &[(u64, u16, Message)],
    answer: impl Fn(u64, u16) -> RoleAnswer,
    named: impl Fn(u64, u16) -> (u16, u64, bool),
) -> Vec<(u64, Topology)> {
    let start = scene.now;
    let mut changes = Vec::new();
    let mut told = told.iter().peekable();
    for ms in 0..=end {
        scene.pass(if ms == 0 { 0 } else { 1 });
        while let Some((_, id, message)) = told.next_if(|(at, _, _)| *at == ms) {
            scene.say(*id, message.clone());
        }
        if ms % 10 == 5 {
            for n in [A, B, C] {
                scene.role(n, answer(ms, n));
            }
            for id in 0..3 {
                let (master, epoch, in_progress) = named(ms, id);
                scene.event(Event::View(SentinelId(id), view(master, epoch, in_progress)));
            }
        }
        let topology = scene.topology();
        let same =
            |t: &Topology| (t.generation, t.reads, t.writes) == (topology.generation, topology.reads, topology.writes);
        if !changes.last().is_some_and(|(_, t)| same(t)) {
            changes.push((scene.now.since(start).as_millis() as u64, topology.clone()));
        }
    }
    changes
}

/// The messages of the leader (Sentinel 0) and of the others.
fn planned() -> Vec<(u64, u16, Message)> {
    vec![
        (1, 0, Message::NewEpoch(2)),
        (1, 0, Message::TryFailover),
        (50, 0, Message::ElectedLeader),
        (110, 0, Message::SelectedSlave(node(B))),
        (190, 0, Message::WaitPromotion(node(B))),
        (600, 1, Message::NewEpoch(2)),
        (1033, 0, Message::PromotedSlave(node(B))),
        (1125, 1, Message::SwitchMaster { old: node(A), new: node(B) }),
        (1126, 2, Message::SwitchMaster { old: node(A), new: node(B) }),
        (2100, 0, Message::FailoverEnd),
        (2100, 0, Message::SwitchMaster { old: node(A), new: node(B) }),
    ]
}

/// A stays a writable master for 11 s; B is promoted at 200; C follows B from 1.5 s on.
fn planned_roles(ms: u64, n: u16) -> RoleAnswer {
    match n {
        A if ms < 11_200 => master(if ms < 20 { 500 } else { 520 }),
        A => replica(B, 700),
        B if ms < 30 => replica(A, 510),
        B if ms < 200 => replica(A, 520),
        B => master_as(600, "run-b"),
        _ if ms < 1500 => replica(A, 520),
        _ => replica(B, 600),
    }
}

fn planned_names(ms: u64, id: u16) -> (u16, u64, bool) {
    match id {
        0 if ms < 1033 => (A, 1, true),
        0 => (B, 2, ms < 2100),
        _ if ms < 1125 => (A, 1, false),
        _ => (B, 2, false),
    }
}

#[test]
fn a_planned_failover_confirmed() {
    let mut scene = Scene::stable(Commit::Confirmed);
    let changes = play(&mut scene, 12_000, &planned(), planned_roles, planned_names);
    let seen: Vec<_> =
        changes.iter().map(|(ms, t)| (*ms, t.generation, t.reads.node, t.reads.flow, t.writes.flow)).collect();
    assert_eq!(
        seen,
        [
            (0, 1, Some(node(A)), Flow::Flowing, Flow::Flowing),
            (1, 1, Some(node(A)), Flow::Flowing, Flow::Held),
            (1125, 2, Some(node(B)), Flow::Flowing, Flow::Flowing),
        ],
        "held at the announcement, committed when the second Sentinel says so, reads never held, nothing after"
    );
    assert!(scene.machine.is_settled());
    let record = scene.last_record();
    assert_eq!(
        (record.kind.label(), record.to, record.writes_held_ms, record.reads_held_ms),
        ("planned", Some(node(B)), 1124, 0)
    );
    assert_eq!(record.offset_lost, crate::topology::record::OffsetLost::Exact(0));
}

fn states(changes: &[(u64, Topology)]) -> Vec<(u64, u64, Option<SocketAddr>, Flow, Flow)> {
    changes.iter().map(|(ms, t)| (*ms, t.generation, t.reads.node, t.reads.flow, t.writes.flow)).collect()
}

#[test]
fn a_planned_failover_eager() {
    let mut scene = Scene::stable(Commit::Eager);
    let changes = play(&mut scene, 12_000, &planned(), planned_roles, planned_names);
    assert_eq!(
        states(&changes),
        [
            (0, 1, Some(node(A)), Flow::Flowing, Flow::Flowing),
            (1, 1, Some(node(A)), Flow::Flowing, Flow::Held),
            (205, 2, Some(node(B)), Flow::Flowing, Flow::Flowing),
        ],
        "committed at the candidate's own word, confirmed without a further hold"
    );
    assert_eq!(scene.machine.master.as_ref().unwrap().epoch, 2);
    assert_eq!(scene.machine.master.as_ref().unwrap().provisional, None);
    assert!(scene.machine.is_settled());
}

/// Killed at 0, promoted at 1431, restarted as a writable master at 12 s, demoted at 22.75 s.
fn killed_roles(ms: u64, n: u16) -> RoleAnswer {
    match n {
        A if ms < 12_000 => RoleAnswer::Refused,
        A if ms < 22_750 => master_as(0, "run-a2"),
        A => replica(B, 700),
        B if ms < 1431 => cut_off(A, 100),
        B => master_as(130, "run-b"),
        _ if ms < 3000 => cut_off(A, 100),
        _ => replica(B, 140),
    }
}

fn killed_names(ms: u64, id: u16) -> (u16, u64, bool) {
    match id {
        0 if ms < 1157 => (A, 1, false),
        0 if ms < 2212 => (A, 1, true),
        0 => (B, 2, ms < 3331),
        _ if ms < 2314 => (A, 1, false),
        _ => (B, 2, false),
    }
}

fn killed() -> Vec<(u64, u16, Message)> {
    vec![
        (1043, 0, Message::MasterDown),
        (1157, 0, Message::MasterObjectivelyDown),
        (1157, 0, Message::NewEpoch(2)),
        (1157, 0, Message::TryFailover),
        (1321, 0, Message::SelectedSlave(node(B))),
        (1400, 0, Message::WaitPromotion(node(B))),
        (2212, 0, Message::PromotedSlave(node(B))),
        (2314, 1, Message::SwitchMaster { old: node(A), new: node(B) }),
        (2320, 2, Message::SwitchMaster { old: node(A), new: node(B) }),
        (3331, 0, Message::FailoverEnd),
        (3331, 0, Message::SwitchMaster { old: node(A), new: node(B) }),
        (22_750, 1, Message::ConvertToSlave(node(A))),
    ]
}

#[test]
fn a_killed_master_confirmed() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.hint(A, HintKind::Refused);
    let changes = play(&mut scene, 25_000, &killed(), killed_roles, killed_names);
    assert_eq!(
        states(&changes),
        [
            (0, 1, Some(node(A)), Flow::Held, Flow::Held),
            (1435, 1, Some(node(B)), Flow::Flowing, Flow::Held),
            (2315, 2, Some(node(B)), Flow::Flowing, Flow::Flowing),
        ],
        "reads go on at the promotion, writes at the second Sentinel's word; the returning old master changes nothing"
    );
    let record = scene.last_record();
    assert_eq!((record.kind.label(), record.reads_held_ms, record.writes_held_ms), ("crash", 1435, 2315));
    assert_eq!(record.offset_lost, crate::topology::record::OffsetLost::Unknown);
}

#[test]
fn a_killed_master_eager() {
    let mut scene = Scene::stable(Commit::Eager);
    scene.hint(A, HintKind::Refused);
    let changes = play(&mut scene, 25_000, &killed(), killed_roles, killed_names);
    assert_eq!(
        states(&changes),
        [(0, 1, Some(node(A)), Flow::Held, Flow::Held), (1435, 2, Some(node(B)), Flow::Flowing, Flow::Flowing),]
    );
}

#[test]
fn a_leader_that_dies_after_the_promotion_is_not_followed() {
    // Confirmed mode: no write goes to the node that nobody advertises; the other Sentinels demote it after 13.8 s.
    let mut scene = Scene::stable(Commit::Confirmed);
    let told = &planned()[..5];
    let roles = |ms, n| match n {
        A => master(520),
        B if (200..13_800).contains(&ms) => master_as(600, "run-b"),
        _ => replica(A, 520),
    };
    play(&mut scene, 250, told, roles, |ms, id| (A, 1, id == 0 && ms > 0));
    scene.event(Event::SentinelDown(SentinelId(0)));
    let rest = play(&mut scene, 14_000, &[], |ms, n| roles(ms + 250, n), |_, _| (A, 1, false));
    let back = rest.last().unwrap();
    assert_eq!((back.1.generation, back.1.writes.node, back.1.writes.flow), (1, Some(node(A)), Flow::Flowing));
    assert!((13_550..13_600).contains(&back.0), "{} ms after the promotion", back.0);
    assert_eq!(scene.last_record().kind.label(), "aborted");
}
