//! Who cannot turn the points back (rule 5), and what becomes of parked replies. Every test fails if its rule is taken
//! out.

use super::*;
use crate::topology::record::OffsetLost;

#[test]
fn a_stale_sentinel_never_turns_the_points_back() {
    let mut scene = selected(Commit::Confirmed);
    scene.role(B, master(100));
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    scene.assert_flows_to(B, "committed");
    // A is a writable master still, and Sentinel 2 has not heard, or was stopped, or has lost its state.
    for epoch in [1, 0, 2] {
        scene.view(2, A, epoch);
        scene.role(A, master(100));
        scene.pass(20_000);
        scene.role(B, master(100));
        scene.assert_flows_to(B, "one Sentinel with an epoch that is not higher");
    }
}

#[test]
fn an_equal_epoch_never_undoes_a_commit_as_long_as_the_master_stands_by_it() {
    let double = || {
        let mut scene = selected(Commit::Confirmed);
        scene.role(B, master(100));
        scene.view(0, B, 2);
        scene.view(1, B, 2);
        scene.assert_flows_to(B, "committed");
        // Another Sentinel was told to fail over at the same time, and chose C with the same epoch.
        scene.view(1, C, 2);
        scene.view(2, C, 2);
        scene.pass(5);
        scene.role(C, master(100));
        scene
    };
    let mut scene = double();
    scene.pass(5000);
    scene.role(B, master(100));
    scene.assert_flows_to(B, "it is master");
    scene.hint(B, HintKind::ReadOnly);
    scene.assert_held("a hiccup");
    scene.pass(5);
    for _ in 0..2 {
        scene.role(C, master(100));
        scene.view(1, C, 2);
        scene.view(2, C, 2);
        scene.view(0, B, 2);
    }
    scene.role(B, master(100));
    scene.assert_flows_to(B, "it is master still");

    let mut scene = double();
    scene.role(B, replica(C, 100));
    scene.assert_held("it says replica");
    scene.pass(5);
    scene.role(B, replica(C, 100));
    scene.role(C, master(100));
    scene.assert_flows_to(C, "two Sentinels with the same epoch, and B itself is no master");

    let mut scene = double();
    scene.view(1, B, 2);
    scene.role(B, replica(C, 100));
    scene.pass(10_000);
    scene.role(B, replica(C, 100));
    scene.role(C, master(100));
    scene.assert_held("one Sentinel with the same epoch is not enough");
}

#[test]
fn of_two_nodes_with_one_epoch_two_sentinels_decide() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.say(1, Message::SelectedSlave(node(C)));
    scene.pass(5);
    scene.role(B, master(100));
    scene.role(C, master(100));
    scene.role(A, RoleAnswer::Refused);
    scene.view(0, B, 2);
    scene.view(1, C, 2);
    scene.event(Event::SentinelDown(SentinelId(2)));
    scene.pass(10_000);
    scene.assert_held("one each");
    scene.event(Event::SentinelUp(SentinelId(2)));
    scene.view(2, C, 2);
    scene.assert_flows_to(C, "two for C");
}

#[test]
fn a_lower_epoch_is_accepted_when_all_have_agreed_for_long() {
    // All Sentinels were told to monitor B (SENTINEL REMOVE, then MONITOR): no epoch, no message.
    let agreed = |views: &[(u16, u16)], b: RoleAnswer| {
        let mut scene = Scene::stable(Commit::Confirmed);
        for _ in 0..99 {
            for (id, master) in views {
                scene.view(*id, *master, 0);
            }
            scene.role(A, master(100));
            scene.role(B, b.clone());
            scene.pass(100);
        }
        scene.assert_flows_to(A, "ten seconds are not over");
        scene.pass(100);
        for _ in 0..3 {
            for (id, master) in views {
                scene.view(*id, *master, 0);
            }
            scene.pass(5);
            scene.role(A, master(100));
            scene.role(B, b.clone());
        }
        (scene.writes(), scene.topology().generation)
    };
    let flows = |n| (Some(node(n)), Flow::Flowing);
    assert_eq!(agreed(&[(0, B), (1, B), (2, B)], master(100)), (flows(B), 2));
    assert_eq!(agreed(&[(0, B), (1, B), (2, A)], master(100)), (flows(A), 1), "one names the present master");
    assert_eq!(agreed(&[(0, B), (1, B), (2, C)], master(100)), (flows(A), 1), "one names a third");
    assert_eq!(agreed(&[(0, B), (1, B), (2, B)], replica(A, 100)), (flows(A), 1), "it says replica");
}

#[test]
fn an_agreement_on_another_node_begins_anew() {
    // One that is alone agrees with itself at any moment.
    for sentinels in [3, 1] {
        let mut scene = Scene::stable_with(settings(Commit::Confirmed), sentinels);
        for second in 0..20 {
            let named = if second < 9 { B } else { C };
            (0..sentinels).for_each(|id| scene.view(id, named, 0));
            scene.pass(1000);
            scene.role(A, master(100));
            [B, C].iter().for_each(|n| scene.role(*n, master(100)));
            if second < 18 {
                scene.assert_flows_to(A, "nine seconds for B, and less than ten for C");
            }
        }
        assert_eq!((scene.topology().generation, scene.topology().writes.node), (2, Some(node(C))));
    }
}

#[test]
fn a_lower_epoch_needs_a_majority_in_hearing() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.event(Event::SentinelDown(SentinelId(0)));
    scene.event(Event::SentinelDown(SentinelId(1)));
    scene.view(2, B, 0);
    for _ in 0..20 {
        scene.pass(1000);
        scene.role(A, master(100));
        scene.role(C, replica(A, 100));
        // It does not follow A, so that its claim by itself is no reason to hold.
        scene.machine.known.nodes.get_mut(&node(B)).unwrap().following = None;
        scene.role(B, master(100));
    }
    scene.assert_flows_to(A, "one of three");
}

#[test]
fn the_old_master_that_returns_gets_nothing() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.role(A, RoleAnswer::Refused);
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(5);
    scene.role(B, master(100));
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    scene.assert_flows_to(B, "committed");
    scene.event(Event::SentinelDown(SentinelId(2)));
    for _ in 0..10 {
        scene.pass(1000);
        scene.role(A, master_as(0, "run-2"));
        scene.role(B, master(100));
        scene.role(C, replica(B, 100));
        scene.assert_flows_to(B, "A says master, and nobody asks it for anything");
    }
    assert!(!scene.machine.is_settled(), "it does not follow yet");
    scene.role(A, replica(B, 100));
    assert!(scene.machine.is_settled());
}

#[test]
fn the_late_words_of_a_failover_move_nothing_again() {
    let mut scene = selected(Commit::Confirmed);
    scene.role(B, master(100));
    scene.view_in_progress(0, B, 2);
    scene.view(1, B, 2);
    let seq = scene.topology().seq;
    scene.say(0, Message::PromotedSlave(node(B)));
    scene.say(1, Message::SwitchMaster { old: node(A), new: node(B) });
    scene.say(0, Message::FailoverEnd);
    scene.say(0, Message::SwitchMaster { old: node(A), new: node(B) });
    scene.view(2, B, 2);
    assert_eq!(scene.topology().seq, seq);

    a_hiccup_ends_while_the_leader_reconfigures(&mut scene);
}

#[test]
fn a_leader_that_advertises_later_than_the_commit_is_known_to_be_done() {
    let mut scene = selected(Commit::Eager);
    scene.view_in_progress(0, A, 1);
    scene.role(B, master(100));
    scene.assert_flows_to(B, "committed before the leader names it");
    scene.pass(800);
    scene.view_in_progress(0, B, 2);
    scene.view(1, B, 2);
    a_hiccup_ends_while_the_leader_reconfigures(&mut scene);
}

/// One replica cannot resync: the leader reports "in progress" for another three minutes. A hiccup of the new master ends
/// all the same.
fn a_hiccup_ends_while_the_leader_reconfigures(scene: &mut Scene) {
    scene.pass(1000);
    scene.role(B, master(100));
    scene.role(C, replica(B, 100));
    scene.hint(B, HintKind::ReadOnly);
    scene.assert_held("a hiccup");
    scene.pass(5);
    scene.role(B, master(100));
    scene.role(C, replica(B, 100));
    for _ in 0..2 {
        scene.view_in_progress(0, B, 2);
        scene.view(1, B, 2);
        scene.view(2, B, 2);
    }
    scene.assert_flows_to(B, "its failover is done but for that");
}

// === Parked replies ===

#[test]
fn parked_replies_are_safe_once_the_candidate_has_what_the_master_had() {
    let mut scene = Scene::stable(Commit::Confirmed);
    let before = scene.topology().parked_safe_before;
    scene.say(0, Message::TryFailover);
    scene.pass(5);
    let asked = scene.now;
    scene.role(A, master(200));
    scene.pass(2);
    scene.role(B, replica(A, 190));
    scene.role(C, replica(A, 999));
    scene.say(0, Message::SelectedSlave(node(B)));
    assert_eq!(scene.topology().parked_safe_before, before, "the candidate lacks ten bytes");
    scene.pass(2);
    scene.role(B, replica(A, 200));
    assert_eq!(scene.topology().parked_safe_before, asked, "what was parked before the master was asked");
    scene.pass(2);
    scene.role(A, master(250));
    scene.pass(50);
    scene.role(B, master(300));
    assert_eq!(scene.topology().parked_safe_before, asked, "as master its offset counts other writes");
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    scene.assert_flows_to(B, "committed");
    assert_eq!(scene.topology().parked_safe_before, asked);
    assert_eq!(scene.last_record().offset_lost, OffsetLost::Exact(0), "what came later was not ours");
}

#[test]
fn nothing_parked_is_safe_without_a_candidate_or_after_a_restart() {
    let mut scene = Scene::stable(Commit::Confirmed);
    let before = scene.topology().parked_safe_before;
    scene.say(0, Message::TryFailover);
    scene.pass(5);
    scene.role(A, master(200));
    scene.role(B, replica(A, 200));
    assert_eq!(scene.topology().parked_safe_before, before, "who will be promoted is not known");
    scene.role(A, master_as(0, "run-2"));
    scene.say(0, Message::SelectedSlave(node(B)));
    assert_eq!(scene.topology().parked_safe_before, before, "offsets of two runs do not compare");
}

/// Offsets of two runs cannot be compared.
#[test]
fn what_a_candidate_had_of_the_run_before_makes_nothing_safe() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.role(B, replica(A, 500));
    scene.pass(5);
    scene.role(A, master_as(5, "run-2"));
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(5);
    let before = scene.topology().parked_safe_before;
    scene.role(A, master_as(50, "run-2"));
    assert_eq!(scene.topology().parked_safe_before, before, "B has not said how much it has of this run");
    scene.pass(5);
    scene.role(B, replica(A, 50));
    assert!(scene.topology().parked_safe_before > before);
}

#[test]
fn what_the_promoted_node_lacks_is_on_record() {
    // A tells its last offset once writes are held; B was last seen at `received`, and then tells its history.
    let planned = |last: u64, received: u64, followed: Option<(&str, u64)>| {
        let mut scene = Scene::stable(Commit::Confirmed);
        scene.say(0, Message::SelectedSlave(node(B)));
        scene.pass(5);
        scene.role(A, master_with(last, "a", None));
        scene.role(B, replica(A, received));
        scene.pass(5);
        scene.role(B, master_with(last + 9, "b", followed));
        scene.view(0, B, 2);
        scene.view(1, B, 2);
        scene.last_record().offset_lost
    };
    assert_eq!(planned(200, 200, None), OffsetLost::Exact(0), "seen to have all of it");
    assert_eq!(planned(200, 150, None), OffsetLost::AtMost(50), "it may have received more");
    assert_eq!(planned(200, 150, Some(("a", 180))), OffsetLost::Exact(20), "by its own account");
    assert_eq!(planned(200, 150, Some(("a", 230))), OffsetLost::Exact(0), "what came later was not ours");
    assert_eq!(planned(200, 150, Some(("z", 180))), OffsetLost::AtMost(50), "an account of another stream");
}

#[test]
fn what_a_crash_lost_is_a_true_bound_or_unknown() {
    let crashed = |run_id_after: Option<&str>, promoted: RoleAnswer| {
        let mut scene = Scene::stable(Commit::Confirmed);
        scene.role(A, master_with(14_000_000, "a", None));
        scene.role(A, RoleAnswer::Refused);
        scene.pass(5);
        if let Some(run_id) = run_id_after {
            scene.role(A, master_as(0, run_id));
            scene.role(A, RoleAnswer::Refused);
        }
        scene.say(0, Message::SelectedSlave(node(B)));
        scene.pass(5);
        scene.role(B, promoted);
        scene.view(0, B, 2);
        scene.view(1, B, 2);
        let record = scene.last_record();
        let words = record.events.iter().any(|e| e.text.contains("up to offset"));
        (record.offset_lost, words)
    };
    let behind = |followed| master_with(5000, "b", followed);
    assert_eq!(
        crashed(None, behind(Some(("a", 13_999_990)))),
        (OffsetLost::AtLeast(10), true),
        "A had told of ten bytes more"
    );
    let unknown = [
        ("A may have executed more after its last word", None, behind(Some(("a", 14_000_000)))),
        ("B was ahead of A's last word", None, behind(Some(("a", 14_000_100)))),
    ];
    for (why, run, promoted) in unknown {
        assert_eq!(crashed(run, promoted), (OffsetLost::Unknown, true), "{why}");
    }
    let incomparable = [
        ("a lower number alone proves nothing", None, behind(None)),
        ("another stream", None, behind(Some(("z", 10)))),
        ("B may not be asked", None, master(5000)),
        ("A was restarted in between: its offsets began anew", Some("run-2"), behind(Some(("a2", 50)))),
        ("and what the first run had is gone too", Some("run-2"), behind(Some(("a", 10)))),
    ];
    for (why, run, promoted) in incomparable {
        assert_eq!(crashed(run, promoted).0, OffsetLost::Unknown, "{why}");
    }
}

/// A crashed at 14,000,000 as far as it told; B took over with all up to 13,999,990.
fn lost_ten() -> Scene {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.role(A, master_with(14_000_000, "a", None));
    scene.role(A, SILENT);
    scene.pass(400);
    scene.role(A, SILENT);
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(5);
    scene.role(B, master_with(13_999_995, "b", Some(("a", 13_999_990))));
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    scene.assert_flows_to(B, "committed");
    assert_eq!(scene.last_record().offset_lost, OffsetLost::AtLeast(10));
    assert_eq!(scene.machine.recorder().lost_bytes(), 10);
    scene.pass(60_000);
    scene.role(A, SILENT);
    scene.actions.clear();
    scene
}

#[test]
fn an_old_master_that_comes_back_tells_what_was_lost() {
    let back_with = |answer: RoleAnswer| {
        let mut scene = lost_ten();
        let before = scene.last_record();
        scene.role_asked(A, Moment(scene.now.0 - 61_000), master_with(14_000_000, "a", None));
        assert_eq!(scene.last_record(), before, "asked before the switch: that was known");
        scene.role(A, answer);
        let said = scene.actions.iter().any(|a| matches!(a, Action::Say(..)));
        assert_eq!(said, scene.last_record() != before, "what is amended is logged");
        let known = scene.last_record().offset_lost;
        assert_eq!(scene.machine.recorder().last_loss(), Some(known));
        scene.pass(1000);
        scene.role(A, master_with(15_000_000, "a", None));
        (scene.last_record().offset_lost, known, scene.machine.recorder().lost_bytes())
    };
    let nothing_yet = [SILENT, RoleAnswer::Refused, master(99), RoleAnswer::Error("NOAUTH".into())];
    for answer in nothing_yet {
        let (later, known, _) = back_with(answer);
        assert_eq!(known, OffsetLost::AtLeast(10), "it has said nothing on that");
        assert_eq!(later, OffsetLost::Between { at_least: 10, at_most: 1_000_010 }, "then it does");
    }
    let settled = [
        (master_with(14_000_000, "a", None), OffsetLost::Exact(10), 10, "no more than it had told"),
        (master_with(14_000_040, "a", None), OffsetLost::Between { at_least: 10, at_most: 50 }, 10, "it had gone on"),
        (master_with(7, "z", Some(("a", 14_000_020))), OffsetLost::AtLeast(30), 30, "a part of it was on its disk"),
        (master_with(7, "z", Some(("a", 13_000_000))), OffsetLost::AtLeast(10), 10, "an older part"),
        (master_with(15_000_000, "z", None), OffsetLost::AtLeast(10), 10, "another process, another stream"),
        (replica(B, 15_000_000), OffsetLost::AtLeast(10), 10, "it follows and has forgotten"),
    ];
    for (answer, loss, bytes, why) in settled {
        let (later, known, total) = back_with(answer);
        assert_eq!((known, total), (loss, bytes), "{why}");
        assert_eq!(later, known, "{why}: what it says after its first word is about later times");
    }
}

/// Two crashes behind each other: each old master tells of its own.
#[test]
fn two_losses_wait_for_the_word_of_two_masters() {
    let mut scene = lost_ten();
    scene.role(B, master_with(300, "b", Some(("a", 13_999_990))));
    scene.role(C, replica(B, 300));
    scene.pass(5);
    scene.role(B, RoleAnswer::Refused);
    scene.say(0, Message::SelectedSlave(node(C)));
    scene.pass(5);
    scene.role(C, master_with(299, "c", Some(("b", 299))));
    scene.view(0, C, 3);
    scene.view(1, C, 3);
    scene.assert_flows_to(C, "committed");
    assert_eq!(scene.machine.open_losses.len(), 2);
    scene.pass(5);
    scene.role(B, master_with(300, "b", Some(("a", 13_999_990))));
    scene.role(A, master_with(14_000_000, "a", None));
    let lost: Vec<OffsetLost> =
        scene.machine.recorder().records(scene.now).iter().map(|record| record.offset_lost).collect();
    assert_eq!(lost, [OffsetLost::Exact(10), OffsetLost::Exact(1)]);
    assert_eq!(scene.machine.open_losses.len(), 0);
}

/// A, whose stream B lacks the end of, is master again before any Sentinel has confirmed B: what B lacked is there, and gone
/// is what B was told since. In confirmed mode, or once B is confirmed, it is the other way round.
#[test]
fn what_a_commit_that_is_undone_lacked_is_not_lost() {
    let promoted = || {
        let mut scene = selected(Commit::Eager);
        scene.role(A, master_with(200, "a", None));
        scene.role(B, replica(A, 190));
        scene.pass(5);
        scene.role(B, master_with(195, "b", Some(("a", 190))));
        scene.assert_flows_to(B, "committed eagerly");
        assert_eq!(scene.last_record().offset_lost, OffsetLost::Exact(10));
        assert_eq!(scene.machine.recorder().lost_bytes(), 0, "it may be undone yet");
        scene.pass(5);
        scene
    };
    let mut undone = promoted();
    undone.say(0, Message::FailoverAborted);
    undone.pass(5);
    undone.role(B, master_with(220, "b", Some(("a", 190))));
    undone.role(A, master_with(200, "a", None));
    for id in 0..3 {
        undone.view(id, A, 1);
        undone.view(id, A, 1);
    }
    undone.role(B, replica(A, 200));
    undone.assert_flows_to(A, "undone");
    assert_eq!(undone.last_record().offset_lost, OffsetLost::Exact(30), "what B had of its own");
    assert_eq!(undone.machine.recorder().lost_bytes(), 30);

    let mut confirmed = promoted();
    confirmed.view(0, B, 2);
    confirmed.view(1, B, 2);
    assert_eq!(confirmed.machine.recorder().lost_bytes(), 10);
}

/// Where the old master told all when writes were held, its later words are about other people's writes.
#[test]
fn what_is_known_exactly_is_not_amended() {
    let mut scene = Scene::stable(Commit::Confirmed);
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.pass(5);
    scene.role(A, master_with(200, "a", None));
    scene.pass(5);
    scene.role(B, master_with(209, "b", Some(("a", 200))));
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    scene.pass(1000);
    scene.role(A, master_with(9000, "a", None));
    assert_eq!(scene.last_record().offset_lost, OffsetLost::Exact(0));
}

#[test]
fn an_unknown_loss_gets_an_upper_bound() {
    let unknown = OffsetLost::Unknown;
    assert_eq!(unknown.at_most(120, 100), OffsetLost::AtMost(20));
    assert_eq!(unknown.at_most(100, 100), OffsetLost::Exact(0));
    assert_eq!(unknown.or_more(90, 100), OffsetLost::Unknown);
    assert_eq!(unknown.or_more(110, 100), OffsetLost::AtLeast(10));
    assert_eq!(OffsetLost::AtMost(5).bounds(), (0, Some(5)));
}

/// Other Sentinels, or the same without what they knew: by the epoch of before nobody could confirm a master any more.
#[test]
fn where_all_sentinels_have_begun_anew_it_is_their_epoch_that_counts() {
    for (waited, commit) in [(9_900, Commit::Confirmed), (10_000, Commit::Confirmed), (10_000, Commit::Eager)] {
        let mut scene = Scene::stable(commit);
        (0..3).for_each(|id| scene.view(id, A, 5));
        (0..2).for_each(|id| scene.view(id, A, 0));
        scene.pass(20_000);
        // Of the third it is another matter until then: it may be they who are behind.
        scene.view(2, A, 0);
        scene.pass(waited);
        scene.all_but_views();
        scene.assert_flows_to(A, "nothing has changed");
        scene.elect_b();
        (0..2).for_each(|id| scene.view(id, B, 1));
        scene.pass(5);
        if waited < 10_000 {
            scene.assert_held("they may all be behind");
        } else {
            scene.assert_flows_to(B, "two of three say so");
            scene.view(2, B, 1);
            scene.pass(20_000);
            scene.assert_flows_to(B, "it is confirmed");
            assert!(!scene.said("no Sentinel confirmed"));
        }
    }
}
