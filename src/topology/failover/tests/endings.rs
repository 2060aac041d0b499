//! What ends a hold without another master (rule 2). Every test fails if its rule is taken out.

use super::*;
use crate::topology::record::OffsetLost;

fn confirmed() -> Scene {
    Scene::stable(Commit::Confirmed)
}

#[test]
fn an_announcement_that_nothing_follows_expires() {
    let mut scene = confirmed();
    scene.say(0, Message::TryFailover);
    scene.view_in_progress(0, A, 1);
    for _ in 0..49 {
        scene.pass(10);
        scene.role(A, master(100));
        scene.view_in_progress(0, A, 1);
        scene.assert_held("half a second is waited");
    }
    scene.pass(10);
    scene.role(A, master(100));
    scene.assert_held("the last word of the Sentinel is older");
    scene.view_in_progress(0, A, 1);
    scene.assert_flows_to(A, "the Sentinel cannot win its election");
    assert_eq!(scene.last_record().kind.label(), "aborted");
    for _ in 0..100 {
        scene.pass(100);
        scene.role(A, master(100));
        scene.view_in_progress(0, A, 1);
        scene.assert_flows_to(A, "its state, unchanged for 10 s, holds nothing");
    }
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.assert_held("a selection does");
}

#[test]
fn an_announcement_does_not_expire_by_the_silence_of_its_sentinel() {
    // It hangs; or it is given up, and what it publishes then goes unheard.
    let silences: [fn(&mut Scene); 2] = [|_| {}, |scene| scene.event(Event::SentinelDown(SentinelId(0)))];
    for fall_silent in silences {
        let mut scene = confirmed();
        scene.say(0, Message::TryFailover);
        scene.view_in_progress(0, A, 1);
        fall_silent(&mut scene);
        for _ in 0..299 {
            scene.pass(10);
            scene.role(A, master(100));
            scene.assert_held("whom it selected may be on its way to be promoted");
        }
        scene.pass(20);
        scene.role(A, master(100));
        scene.assert_flows_to(A, "after three seconds it would have been");
    }
    // Back after a silence, it is given its time anew: what it says next is late.
    let returns: [fn(&mut Scene); 2] = [
        |scene| scene.view_in_progress(0, A, 1),
        |scene| {
            scene.event(Event::SentinelDown(SentinelId(0)));
            scene.event(Event::SentinelUp(SentinelId(0)));
        },
    ];
    for come_back in returns {
        let mut scene = confirmed();
        scene.say(0, Message::TryFailover);
        scene.view_in_progress(0, A, 1);
        scene.pass(900);
        scene.role(A, master(100));
        come_back(&mut scene);
        for _ in 0..49 {
            scene.pass(10);
            scene.role(A, master(100));
            scene.view_in_progress(0, A, 1);
            scene.assert_held("it has been back for less than half a second");
        }
        scene.pass(10);
        scene.view_in_progress(0, A, 1);
        scene.assert_flows_to(A, "nothing followed");
    }
}

#[test]
fn an_announcement_does_not_expire_once_something_followed() {
    let follow_ups: [fn(&mut Scene); 4] = [
        |scene| scene.say(0, Message::SelectedSlave(node(B))),
        |scene| scene.role(A, RoleAnswer::Refused),
        |scene| scene.role(A, replica(B, 100)),
        |scene| scene.role(B, master(100)),
    ];
    for follow_up in follow_ups {
        let mut scene = confirmed();
        scene.say(0, Message::TryFailover);
        scene.view_in_progress(0, A, 1);
        scene.pass(5);
        follow_up(&mut scene);
        for _ in 0..200 {
            scene.pass(10);
            scene.role(A, master(100));
            scene.view_in_progress(0, A, 1);
            scene.assert_held("a failover is under way");
        }
    }
}

#[test]
fn a_hold_ends_when_everybody_says_that_nothing_happened() {
    let everybody: [fn(&mut Scene); 6] = [
        |scene| scene.role(A, master(100)),
        |scene| scene.role(B, replica(A, 100)),
        |scene| scene.role(C, replica(A, 100)),
        |scene| (0..2).for_each(|_| scene.view(0, A, 1)),
        |scene| (0..2).for_each(|_| scene.view(1, A, 1)),
        |scene| (0..2).for_each(|_| scene.view(2, A, 1)),
    ];
    for missing in 0..everybody.len() {
        let mut scene = confirmed();
        scene.hint(A, HintKind::ReadOnly);
        scene.pass(5);
        for (i, say) in everybody.iter().enumerate() {
            if i != missing {
                say(&mut scene);
            }
        }
        scene.assert_held(&format!("number {missing} was not heard"));
        everybody[missing](&mut scene);
        scene.assert_flows_to(A, "all were heard");
        assert_eq!(scene.topology().generation, 1);
        assert_eq!(scene.last_record().kind.label(), "interruption");
    }
}

#[test]
fn one_view_after_the_hold_is_not_enough() {
    // It may be the answer to a question that was asked before.
    let mut scene = confirmed();
    scene.say(0, Message::TryFailover);
    scene.pass(5);
    for n in [A, B, C] {
        scene.role(n, if n == A { master(100) } else { replica(A, 100) });
    }
    for id in 0..3 {
        scene.view(id, A, 1);
    }
    scene.assert_held("these views may be older than the announcement");
}

#[test]
fn a_hold_does_not_end_while_anything_speaks_against_it() {
    type Objection = fn(&mut Scene);
    let objections: [(&str, Objection); 5] = [
        ("a replica says master", |s| s.role(B, master(100))),
        ("a replica follows another", |s| s.role(B, replica(C, 100))),
        ("a replica has no link", |s| s.role(B, cut_off(A, 100))),
        ("a Sentinel is failing over", |s| s.view_in_progress(1, A, 1)),
        ("a Sentinel names another master", |s| s.view(1, B, 2)),
    ];
    for (what, objection) in objections {
        let mut scene = confirmed();
        scene.hint(A, HintKind::Refused);
        objection(&mut scene);
        scene.pass(5);
        objection(&mut scene);
        scene.role(A, master(100));
        scene.role(C, replica(A, 100));
        for id in [0, 2] {
            scene.view(id, A, 1);
            scene.view(id, A, 1);
        }
        if !what.contains("Sentinel") {
            scene.view(1, A, 1);
            scene.view(1, A, 1);
        } else {
            scene.role(B, replica(A, 100));
        }
        scene.assert_held(what);
    }
}

#[test]
fn nodes_that_never_followed_or_cannot_be_reached_keep_no_hold_alive() {
    let mut scene = confirmed();
    // B was cut off long before; C dies with the hold.
    scene.machine.known.nodes.get_mut(&node(B)).unwrap().following = None;
    scene.hint(A, HintKind::ReadOnly);
    scene.pass(5);
    scene.role(B, cut_off(A, 100));
    scene.role(C, RoleAnswer::Refused);
    scene.role(A, master(100));
    for id in 0..3 {
        scene.view(id, A, 1);
        scene.view(id, A, 1);
    }
    scene.assert_flows_to(A, "nothing can be expected of them");
}

#[test]
fn a_resync_after_a_restart_in_place_does_not_keep_writes_waiting() {
    let mut scene = confirmed();
    scene.role(A, RoleAnswer::Refused);
    for ms in 0..300 {
        scene.pass(10);
        scene.role(A, master_as(0, "run-2"));
        scene.role(B, cut_off(A, 100));
        scene.role(C, cut_off(A, 100));
        for id in 0..3 {
            scene.view(id, A, 1);
        }
        if scene.writes().1 == Flow::Flowing {
            assert_eq!(ms, 200, "two seconds are waited for the links");
            assert_eq!(scene.machine.run_id_changes, 1);
            return;
        }
        assert_eq!(scene.reads().1, Flow::Held, "what it has to say may be nothing");
    }
    panic!("held for a resync that may take minutes: {:?}", scene.obstacle());
}

#[test]
fn a_resync_keeps_writes_waiting_while_no_sentinel_vouches_for_the_master() {
    let mut scene = confirmed();
    scene.role(A, RoleAnswer::Refused);
    for _ in 0..100 {
        scene.pass(100);
        scene.role(A, master(100));
        scene.role(B, cut_off(A, 100));
        scene.role(C, cut_off(A, 100));
        scene.view(0, A, 1);
        for id in 1..3 {
            // It cannot reach the master, and may be about to replace it.
            scene.event(Event::View(SentinelId(id), View { master_down: true, ..view(A, 1, false) }));
        }
    }
    scene.assert_held("one of three vouches");
}

#[test]
fn an_abort_releases_after_the_master_said_master() {
    let mut scene = confirmed();
    scene.say(0, Message::TryFailover);
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(50);
    scene.all_is_well();
    scene.view_in_progress(0, A, 1);
    scene.assert_held("selected");
    scene.say(0, Message::FailoverAborted);
    scene.assert_held("the Sentinel's state was read before");
    scene.all_is_well();
    scene.assert_flows_to(A, "aborted");
    assert_eq!(scene.last_record().kind.label(), "aborted");
}

#[test]
fn that_no_replica_can_be_promoted_is_said() {
    let mut scene = confirmed();
    scene.role(A, RoleAnswer::Refused);
    scene.say(0, Message::TryFailover);
    scene.say(0, Message::NoGoodReplica);
    assert_eq!(
        scene.topology().why.as_ref(),
        "the master refuses connections; Sentinel 127.0.0.1:7100 finds no replica that it could promote"
    );
    scene.pass(16_000);
    assert_eq!(scene.writes().1, Flow::Refused);
    assert!(scene.topology().why.contains("finds no replica"), "{}", scene.topology().why);
    assert!(scene.last_record().events.iter().any(|e| e.text == "-failover-abort-no-good-slave"));
    scene.say(0, Message::SelectedSlave(node(B)));
    assert!(!scene.topology().why.contains("finds no replica"), "the next attempt found one");
}

#[test]
fn after_a_slave_timeout_the_candidate_must_say_replica_first() {
    for (selected, must) in [(true, B), (false, C)] {
        let mut scene = confirmed();
        scene.say(0, Message::TryFailover);
        if selected {
            scene.say(0, Message::SelectedSlave(node(B)));
        }
        scene.pass(50);
        scene.say(0, Message::FailoverAbortedSlaveTimeout);
        scene.pass(5);
        for n in [B, C] {
            scene.role(n, if n == must { RoleAnswer::Refused } else { replica(A, 100) });
        }
        scene.role(A, master(100));
        for id in 0..3 {
            scene.view(id, A, 1);
            scene.view(id, A, 1);
        }
        scene.pass(5000);
        scene.role(A, master(100));
        scene.assert_held("out of reach, it may be promoted");
        scene.role(must, replica(A, 100));
        scene.assert_flows_to(A, "it says replica");
    }
}

#[test]
fn a_leader_whose_candidate_was_demoted_again_is_not_waited_for() {
    // Another Sentinel had B down as a master gone astray, and demoted it a second after the promotion. The leader waits
    // for `failover-timeout`, by default three minutes.
    let mut scene = selected(Commit::Confirmed);
    let tell = |scene: &mut Scene, b: RoleAnswer| {
        scene.pass(10);
        scene.role(A, master(100));
        scene.role(B, b);
        scene.role(C, replica(A, 100));
        scene.view_in_progress(0, A, 1);
        scene.view(1, A, 1);
        scene.view(2, A, 1);
    };
    for _ in 0..300 {
        tell(&mut scene, replica(A, 100));
    }
    scene.assert_held("selected, and not promoted yet");
    for _ in 0..80 {
        tell(&mut scene, master(100));
    }
    for _ in 0..200 {
        tell(&mut scene, replica(A, 100));
        scene.assert_held("demoted a moment ago");
    }
    tell(&mut scene, replica(A, 100));
    scene.assert_flows_to(A, "nothing can come of it any more");
    scene.say(0, Message::FailoverAbortedSlaveTimeout);
    scene.assert_flows_to(A, "nor of its end");

    let mut scene = selected(Commit::Confirmed);
    for ms in 0..500 {
        scene.pass(10);
        scene.role(A, master(100));
        scene.role(B, if ms < 80 { master(100) } else { replica(A, 100) });
        scene.role(C, replica(A, 100));
        scene.view_in_progress(0, A, 1);
        for id in 1..3 {
            scene.event(Event::View(SentinelId(id), View { master_down: true, ..view(A, 1, false) }));
        }
    }
    scene.assert_held("the others may be about to replace the master");
}

#[test]
fn a_leader_that_went_out_of_hearing_is_waited_for() {
    let mut scene = confirmed();
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.event(Event::SentinelDown(SentinelId(0)));
    scene.all_is_well();
    scene.pass(2900);
    scene.all_is_well();
    scene.assert_held("it may be promoting");
    scene.pass(200);
    scene.all_is_well();
    scene.assert_flows_to(A, "it would have");
}

#[test]
fn a_leader_that_comes_back_into_hearing_is_asked_before_a_hold_ends() {
    let mut scene = confirmed();
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.event(Event::SentinelDown(SentinelId(0)));
    scene.all_is_well();
    scene.pass(1600);
    scene.all_is_well();
    scene.assert_held("it may be promoting");
    scene.event(Event::SentinelUp(SentinelId(0)));
    scene.assert_held("it is back, and has not said yet whether it goes on");
    scene.view_in_progress(0, A, 1);
    scene.view_in_progress(0, A, 1);
    scene.all_but_views();
    scene.assert_held("it goes on");
    for id in 0..3 {
        scene.view(id, A, 1);
        scene.view(id, A, 1);
    }
    scene.assert_flows_to(A, "it gave up");

    // One that comes back and cannot say anything is not waited for longer than any other.
    let mut scene = confirmed();
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.event(Event::SentinelDown(SentinelId(0)));
    scene.pass(3500);
    scene.event(Event::SentinelUp(SentinelId(0)));
    for id in [1, 2] {
        scene.view(id, A, 1);
        scene.view(id, A, 1);
    }
    scene.all_but_views();
    scene.assert_held("it may answer");
    scene.pass(1000);
    scene.assert_flows_to(A, "it had a second");
}

#[test]
fn after_a_gap_in_an_old_hold_everybody_is_waited_for_anew() {
    let mut scene = confirmed();
    scene.hint(A, HintKind::Refused);
    scene.pass(3000);
    scene.event(Event::Gap);
    scene.pass(5);
    scene.role(A, master(100));
    scene.assert_held("neither replicas nor Sentinels were heard since the gap");
    scene.role(B, replica(A, 100));
    scene.role(C, replica(A, 100));
    scene.assert_held("nor the Sentinels");
    for id in 0..3 {
        scene.view(id, A, 1);
        scene.view(id, A, 1);
    }
    scene.assert_flows_to(A, "all were");
}

#[test]
fn hearsay_that_most_sentinels_contradict_is_put_aside() {
    let mut scene = confirmed();
    scene.role(B, replica(A, 100));
    let mut lasted = None;
    for ms in 0..1000 {
        scene.view(0, B, 9);
        scene.role(A, master(100));
        scene.role(B, replica(A, 100));
        scene.role(C, replica(A, 100));
        scene.view(1, A, 1);
        scene.view(2, A, 1);
        if lasted.is_none() && ms > 0 && scene.writes().1 == Flow::Flowing {
            lasted = Some(ms * 10);
        }
        assert!(lasted.is_none() || scene.writes().1 == Flow::Flowing, "and holds nothing again");
        scene.pass(10);
    }
    assert_eq!(lasted, Some(5000), "confirm_timeout");
    scene.view(0, B, 10);
    scene.assert_held("a still higher epoch is news");
    scene.view(0, C, 3);
    scene.view(1, C, 3);
    scene.pass(5);
    scene.role(C, master(100));
    scene.assert_flows_to(C, "another failover");
    scene.view(1, B, 4);
    scene.assert_held("what was put aside before it is forgotten");
}

#[test]
fn an_answer_from_before_the_end_of_a_hold_begins_no_other() {
    let mut scene = confirmed();
    scene.role(A, RoleAnswer::Refused);
    scene.pass(5);
    let before = scene.now;
    scene.all_is_well();
    scene.assert_flows_to(A, "released");
    scene.role_asked(A, before, RoleAnswer::Refused);
    scene.assert_flows_to(A, "an old answer");
}

#[test]
fn hearsay_that_a_minority_contradicts_is_not() {
    let mut scene = confirmed();
    scene.event(Event::SentinelDown(SentinelId(2)));
    for _ in 0..100 {
        scene.view(0, B, 9);
        scene.view(1, A, 1);
        scene.role(A, master(100));
        scene.role(B, replica(A, 100));
        scene.role(C, replica(A, 100));
        scene.pass(100);
    }
    scene.assert_held("one of three says otherwise");
}

#[test]
fn after_a_hold_about_nothing_hints_are_checked_first() {
    let mut scene = confirmed();
    scene.hint(A, HintKind::ReadOnly);
    scene.all_is_well();
    scene.assert_flows_to(A, "a script said READONLY");
    scene.hint(A, HintKind::ReadOnly);
    scene.assert_flows_to(A, "and goes on saying it");
    assert_eq!(scene.probing().unwrap().1, Pace::Fast);
    scene.pass(5);
    scene.role(A, replica(B, 100));
    scene.assert_held("now it is true");

    let mut scene = confirmed();
    scene.hint(A, HintKind::ReadOnly);
    scene.all_is_well();
    scene.pass(1000);
    scene.role(A, master(100));
    scene.hint(A, HintKind::ReadOnly);
    scene.assert_held("a second later hints are believed again");
}

#[test]
fn holds_for_loading_grow_longer() {
    let mut scene = confirmed();
    let mut lasted = Vec::new();
    for _ in 0..6 {
        scene.hint(A, HintKind::Loading);
        scene.hint(A, HintKind::Loading);
        let began = scene.now;
        while scene.writes().1 != Flow::Flowing {
            assert_eq!(scene.reads().1, Flow::Held);
            scene.all_is_well();
        }
        lasted.push(scene.now.since(began).as_millis());
    }
    assert_eq!(lasted, [50, 100, 200, 400, 800, 1000]);
}

#[test]
fn whether_anything_was_lost_is_unknown_where_a_restart_cannot_be_seen() {
    let lost = |run_id: Option<&str>| {
        let answer = || match master(100) {
            RoleAnswer::Master { offset, replicas, history, .. } => {
                RoleAnswer::Master { offset, replicas, run_id: run_id.map(str::to_owned), history }
            }
            other => other,
        };
        let mut scene = Scene::new(settings(Commit::Confirmed), 1);
        scene.event(Event::SentinelUp(SentinelId(0)));
        scene.view(0, A, 1);
        scene.pass(1000);
        scene.role(A, answer());
        scene.pass(5);
        scene.role(A, RoleAnswer::Refused);
        scene.assert_held("it went away");
        for _ in 0..2 {
            scene.pass(1000);
            scene.view(0, A, 1);
            scene.role(A, answer());
        }
        scene.assert_flows_to(A, "it came back");
        scene.last_record().offset_lost
    };
    assert_eq!(lost(Some("run-1")), OffsetLost::Exact(0), "the same process");
    assert_eq!(lost(None), OffsetLost::Unknown, "perhaps another one");
}

/// Found by the model: all three switched within one poll, the leader died behind it, and what was known of the others
/// and of B was from before the promotion.
#[test]
fn what_was_said_before_the_last_sign_of_a_failover_ends_no_hold() {
    let ended = [Message::FailoverEnd, Message::SwitchMaster { old: node(A), new: node(B) }];
    let answers = [(A, master(100)), (B, replica(A, 100)), (C, replica(A, 100))];
    for (last, missing) in ended.iter().flat_map(|last| ["A", "B", "views"].map(|missing| (last, missing))) {
        let mut scene = confirmed();
        scene.say(0, Message::TryFailover);
        scene.say(0, Message::SelectedSlave(node(B)));
        scene.all_but_views();
        for _ in 0..2 {
            scene.view_in_progress(0, A, 1);
            scene.view(1, A, 1);
            scene.view(2, A, 1);
        }
        scene.pass(5);
        for message in [Message::WaitPromotion(node(B)), Message::PromotedSlave(node(B)), Message::FailoverEnd] {
            scene.say(0, message);
        }
        // Answers that were asked for before the promotion, and come behind it.
        answers.iter().for_each(|(n, answer)| scene.role(*n, answer.clone()));
        scene.pass(1);
        scene.say(1, last.clone());
        scene.event(Event::SentinelDown(SentinelId(0)));
        scene.assert_held(&format!("nobody was asked since {last:?}"));
        let views = |scene: &mut Scene| {
            (0..2).for_each(|_| scene.view(1, A, 1));
            (0..2).for_each(|_| scene.view(2, A, 1));
        };
        scene.pass(5);
        let others = [("A", 0), ("B", 1), ("C", 2)].into_iter().filter(|(name, _)| *name != missing);
        others.for_each(|(_, i)| scene.role(answers[i].0, answers[i].1.clone()));
        if missing != "views" {
            views(&mut scene);
        }
        scene.assert_held(&format!("no {missing} since {last:?}"));
        match missing {
            "A" => scene.role(A, master(100)),
            "B" => scene.role(B, replica(A, 100)),
            _ => views(&mut scene),
        }
        scene.assert_flows_to(A, "B was not promoted, or is a replica again");
    }
}
