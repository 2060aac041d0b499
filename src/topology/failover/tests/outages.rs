//! Long waits, and no Sentinel in hearing (rules 8 and 9). Every test fails if its rule is taken out.

use super::*;

fn confirmed() -> Scene {
    Scene::stable(Commit::Confirmed)
}

// === Waiting has an end (rule 8) ===

#[test]
fn waiting_turns_into_refusal_until_a_master_is_confirmed() {
    let mut scene = confirmed();
    scene.hint(A, HintKind::Refused);
    scene.pass(14_999);
    assert_eq!((scene.reads().1, scene.writes().1), (Flow::Held, Flow::Held));
    scene.pass(1);
    assert_eq!((scene.reads().1, scene.writes().1), (Flow::Refused, Flow::Refused));
    assert!(scene.topology().why.contains("refuses connections"), "{}", scene.topology().why);
    scene.pass(100_000);
    scene.all_is_well();
    scene.assert_flows_to(A, "it is back");
    assert!(scene.topology().why.is_empty());
}

#[test]
fn a_hold_timeout_of_zero_refuses_at_once() {
    let settings = Settings { hold_timeout: Duration::ZERO, ..settings(Commit::Confirmed) };
    let mut scene = Scene::stable_with(settings, 3);
    scene.say(0, Message::TryFailover);
    assert_eq!((scene.reads().1, scene.writes().1), (Flow::Flowing, Flow::Refused));
}

// === Without Sentinels (rule 9) ===

#[test]
fn without_sentinels_traffic_goes_on() {
    let mut scene = confirmed();
    for id in 0..3 {
        scene.event(Event::SentinelDown(SentinelId(id)));
    }
    scene.pass(60_000);
    scene.role(A, master(100));
    scene.assert_flows_to(A, "the last confirmed master");
}

/// No timer is about this: for an hour nothing is published, and then a failover is followed as ever. Control forgets
/// Sentinels that it only learned of meanwhile.
#[test]
fn without_sentinels_an_hour_is_like_a_minute() {
    let mut scene = confirmed();
    for id in 0..3 {
        scene.event(Event::SentinelDown(SentinelId(id)));
    }
    let published = scene.topology().clone();
    scene.actions.clear();
    for second in 0..3600 {
        scene.pass(1000);
        scene.role(A, master(100 + second));
        for n in [B, C] {
            scene.role(n, replica(A, 100 + second));
        }
        if second == 60 {
            (1..3).for_each(|id| scene.event(Event::SentinelForgotten(SentinelId(id))));
        }
    }
    assert_eq!(scene.topology(), &published);
    let paced = |a: &Action| matches!(a, Action::Probe { .. } | Action::Poll(_));
    assert!(scene.actions.iter().all(paced), "{:?}", scene.actions);
    for id in 0..3 {
        scene.event(Event::SentinelKnown(SentinelId(id), node(100 + id).into()));
        scene.event(Event::SentinelUp(SentinelId(id)));
        scene.view(id, A, 1);
    }
    scene.assert_flows_to(A, "they are back");
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.assert_held("as ever");
    scene.pass(5);
    scene.role(B, master(4000));
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    scene.assert_flows_to(B, "as ever");
}

#[test]
fn without_sentinels_a_master_that_came_back_needs_a_witness() {
    let back = |run_id: &str, b: RoleAnswer| {
        let mut scene = confirmed();
        for id in 0..3 {
            scene.event(Event::SentinelDown(SentinelId(id)));
        }
        scene.role(A, RoleAnswer::Refused);
        scene.pass(3000);
        scene.role(A, master_as(100, run_id));
        scene.role(B, b);
        scene.role(C, RoleAnswer::Refused);
        scene.pass(3000);
        scene.writes().1
    };
    let mut scene = confirmed();
    for id in 0..3 {
        scene.event(Event::SentinelDown(SentinelId(id)));
    }
    scene.role(A, RoleAnswer::Refused);
    scene.all_is_well();
    scene.assert_held("what cut the master off cut the Sentinels off too; they are given the time to reconnect");

    assert_eq!(back("run-1", RoleAnswer::Refused), Flow::Flowing, "it never ended");
    assert_eq!(back("run-2", replica(A, 100)), Flow::Flowing, "a replica follows it");
    assert_eq!(back("run-2", RoleAnswer::Refused), Flow::Held, "somebody else may be master by now");
    assert_eq!(back("run-2", master(100)), Flow::Held, "and is");
}

/// While pointsman was suspended somebody may have been promoted: Sentinels are given the time to say so, where there is no
/// gap they are not.
#[test]
fn without_sentinels_a_gap_is_waited_out_and_a_hiccup_is_not() {
    let alone = || {
        let mut scene = confirmed();
        (0..3).for_each(|id| scene.event(Event::SentinelDown(SentinelId(id))));
        scene
    };
    let mut scene = alone();
    scene.event(Event::Gap);
    scene.all_but_views();
    scene.assert_held("they may reconnect");
    scene.pass(2000);
    scene.assert_flows_to(A, "they did not, and it is the same process");

    let mut scene = alone();
    scene.hint(A, HintKind::ReadOnly);
    scene.all_but_views();
    scene.assert_flows_to(A, "it never went away");
}

#[test]
fn a_restart_in_place_is_counted_and_said() {
    let mut scene = confirmed();
    scene.role(A, master_as(5, "run-2"));
    scene.role(A, master_as(6, "run-2"));
    assert_eq!(scene.machine.run_id_changes, 1);
    let warned =
        |a: &Action| matches!(a, Action::Say(super::super::Level::Warn, t) if t.contains("restarted in place"));
    assert_eq!(scene.actions.iter().filter(|a| warned(a)).count(), 1);
}
