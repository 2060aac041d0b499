//! What begins a hold (rules 1 and 2), and what flows meanwhile (rule 4). Every test fails if its rule is taken out.

use super::*;

fn confirmed() -> Scene {
    Scene::stable(Commit::Confirmed)
}

#[test]
fn an_announcement_holds_writes_at_once_and_reads_flow() {
    for message in [Message::TryFailover, Message::SelectedSlave(node(B)), Message::WaitPromotion(node(B))] {
        let mut scene = confirmed();
        scene.say(1, message.clone());
        assert_eq!(scene.writes(), (Some(node(A)), Flow::Held), "{message:?}");
        assert_eq!(scene.reads(), (Some(node(A)), Flow::Flowing), "{message:?}");
        assert_eq!(scene.probing().unwrap().1, Pace::Fast);
        assert!(scene.actions.contains(&Action::Poll(Pace::Fast)));
    }
}

#[test]
fn an_answer_from_before_the_hold_says_nothing_in_it() {
    let mut scene = confirmed();
    let before = scene.now;
    scene.pass(5);
    scene.say(0, Message::TryFailover);
    scene.role_asked(A, before, RoleAnswer::Refused);
    assert_eq!(scene.reads(), (Some(node(A)), Flow::Flowing));
    scene.pass(1);
    scene.role(A, RoleAnswer::Refused);
    assert_eq!(scene.reads().1, Flow::Held, "asked since");
}

#[test]
fn words_about_no_failover_of_this_service_hold_nothing() {
    let mut scene = confirmed();
    for message in [
        Message::NewEpoch(7),
        Message::MasterDown,
        Message::MasterUp,
        Message::MasterObjectivelyDown,
        Message::MasterRebooted,
        Message::RoleChange(node(B)),
        Message::ConvertToSlave(node(B)),
        Message::ConfigChanged,
        Message::Tilt(true),
        Message::FailoverEnd,
        Message::FailoverAborted,
        Message::FailoverAbortedSlaveTimeout,
        Message::SwitchMaster { old: node(B), new: node(A) },
        Message::PromotedSlave(node(A)),
    ] {
        scene.say(1, message.clone());
        scene.assert_flows_to(A, &format!("{message:?}"));
    }
}

#[test]
fn what_the_master_says_of_itself_holds() {
    for (answer, reads) in [
        (RoleAnswer::Refused, Flow::Held),
        (RoleAnswer::Error("LOADING".into()), Flow::Held),
        (RoleAnswer::Error("MASTERDOWN".into()), Flow::Held),
        (replica(B, 1), Flow::Flowing),
    ] {
        let mut scene = confirmed();
        scene.role(A, answer.clone());
        assert_eq!((scene.reads().1, scene.writes().1), (reads, Flow::Held), "{answer:?}");
    }
    for answer in [RoleAnswer::Error("NOAUTH".into()), RoleAnswer::Error("BUSY".into()), SILENT, CLOSED] {
        let mut scene = confirmed();
        scene.role(A, answer.clone());
        scene.assert_flows_to(A, &format!("{answer:?} proves nothing yet"));
    }
}

#[test]
fn hints_of_a_master_that_is_none_hold_at_once() {
    for (hint, reads) in [
        (HintKind::Refused, Flow::Held),
        (HintKind::Loading, Flow::Held),
        (HintKind::MasterDown, Flow::Held),
        (HintKind::ReadOnly, Flow::Flowing),
        (HintKind::NotMaster, Flow::Flowing),
    ] {
        let mut scene = confirmed();
        scene.hint(B, hint);
        scene.assert_flows_to(A, "a hint about another node");
        scene.hint(A, hint);
        assert_eq!((scene.reads().1, scene.writes().1), (reads, Flow::Held), "{hint:?}");
    }
}

#[test]
fn a_reset_or_a_silence_is_probed_first() {
    for hint in [HintKind::Reset, HintKind::Silent, HintKind::Unreachable] {
        let mut scene = confirmed();
        scene.hint(A, hint);
        scene.assert_flows_to(A, "one client's trouble holds nobody");
        assert_eq!(scene.probing().unwrap().1, Pace::Fast, "but the master is asked at once");
        scene.pass(5);
        scene.role(A, CLOSED);
        scene.assert_flows_to(A, "the probe was killed with all others");
        scene.pass(5);
        scene.role(A, master(100));
        scene.pass(5000);
        scene.assert_flows_to(A, "it answers");

        for failure in [RoleAnswer::Refused, SILENT] {
            let mut scene = confirmed();
            scene.hint(A, hint);
            scene.role_asked(A, scene.now, master(100));
            scene.pass(5);
            scene.role(A, failure);
            scene.assert_held("the probe failed");
            assert_eq!(scene.reads().1, Flow::Held);
        }
        let mut scene = confirmed();
        scene.hint(A, hint);
        scene.pass(1000);
        scene.assert_held("no answer of any kind");
    }
    let mut scene = confirmed();
    scene.role(A, CLOSED);
    scene.pass(5);
    scene.role(A, CLOSED);
    scene.assert_held("accepted and closed again");
}

#[test]
fn an_answer_to_an_earlier_question_does_not_clear_a_suspicion() {
    let mut scene = confirmed();
    let before = scene.now;
    scene.pass(5);
    scene.hint(A, HintKind::Silent);
    scene.role_asked(A, before, master(100));
    scene.pass(1000);
    scene.assert_held("what was asked before the hint says nothing about it");
}

#[test]
fn two_slow_probes_without_an_answer_are_silence() {
    let mut scene = confirmed();
    scene.role(A, SILENT);
    scene.assert_flows_to(A, "one may be a pause");
    scene.pass(299);
    scene.role(A, SILENT);
    scene.assert_flows_to(A, "two, but in less than silence_threshold");
    scene.pass(1);
    scene.role(A, SILENT);
    scene.assert_held("in a row");

    let mut scene = confirmed();
    scene.role(A, SILENT);
    scene.pass(500);
    scene.role(A, master(100));
    scene.pass(500);
    scene.role(A, SILENT);
    scene.assert_flows_to(A, "an answer in between");
}

#[test]
fn in_a_hold_reads_flow_to_a_replica_that_has_something_to_say() {
    for (hint, after, reads) in [
        (HintKind::ReadOnly, 1, Flow::Flowing),
        (HintKind::Loading, 1, Flow::Held),
        (HintKind::Loading, 60, Flow::Flowing),
        (HintKind::MasterDown, 1, Flow::Held),
        (HintKind::MasterDown, 60, Flow::Held),
    ] {
        let mut scene = confirmed();
        scene.hint(A, hint);
        scene.pass(after);
        scene.role(A, replica(B, 100));
        assert_eq!((scene.reads().1, scene.writes().1), (reads, Flow::Held), "{hint:?} and after {after} ms a replica");
    }
    let mut scene = confirmed();
    scene.hint(A, HintKind::ReadOnly);
    scene.pass(1);
    scene.role(A, master_as(0, "run-2"));
    assert_eq!(scene.reads().1, Flow::Held, "what it has to say may be nothing");
}

#[test]
fn a_promotion_is_noticed_without_its_leader() {
    let mut scene = confirmed();
    assert_eq!(scene.machine.planned.as_ref().unwrap().1, Pace::Slow);
    scene.role(B, master(100));
    scene.assert_flows_to(A, "all Sentinels are heard and none leads a failover: somebody else's doing");

    let mut scene = confirmed();
    scene.event(Event::SentinelDown(SentinelId(2)));
    assert_eq!(scene.probing().unwrap().1, Pace::Watch, "the replicas are watched");
    scene.role(C, RoleAnswer::Refused);
    scene.assert_flows_to(A, "a replica that dies is none");
    scene.role(B, master(100));
    scene.assert_held("the Sentinel out of hearing may have promoted it");
    assert_eq!(scene.reads(), (Some(node(A)), Flow::Flowing));
    scene.pass(5);
    scene.role(B, master(100));
    scene.role(A, RoleAnswer::Refused);
    assert_eq!(scene.reads(), (Some(node(B)), Flow::Flowing), "the old one is gone, and it followed it");
}

#[test]
fn a_replica_that_loses_its_link_is_noticed_while_a_sentinel_is_out_of_hearing() {
    let replicas = vec![(node(C), 100)];
    let without_b = RoleAnswer::Master { offset: 100, replicas, run_id: Some("run-1".into()), history: None };
    let mut scene = confirmed();
    scene.role(A, without_b.clone());
    scene.pass(5);
    scene.role(B, cut_off(A, 100));
    scene.assert_flows_to(A, "all Sentinels are heard");

    let mut scene = confirmed();
    scene.event(Event::SentinelDown(SentinelId(2)));
    scene.role(A, without_b.clone());
    assert_eq!(scene.probing().unwrap().1, Pace::Fast, "who left the list is asked at once");
    scene.assert_flows_to(A, "it may just have died");
    scene.pass(5);
    scene.role(B, cut_off(A, 100));
    scene.assert_held("it lives, without its link");
    scene.all_is_well();
    scene.assert_flows_to(A, "it came back");
    scene.pass(5);
    scene.role(A, without_b);
    scene.pass(5);
    scene.role(B, cut_off(A, 100));
    scene.assert_flows_to(A, "a link that flaps does not hold writes again and again");
}

#[test]
fn a_view_that_names_another_master_with_a_higher_epoch_holds() {
    let mut scene = confirmed();
    scene.view(1, B, 1);
    scene.assert_flows_to(A, "an epoch that is not higher");
    scene.view(1, B, 2);
    scene.assert_held("a higher one");

    let mut scene = confirmed();
    scene.view(0, A, 5);
    scene.view(1, B, 4);
    scene.assert_flows_to(A, "higher than at the start, but A's has risen since");

    let mut scene = confirmed();
    scene.say(1, Message::SwitchMaster { old: node(A), new: node(B) });
    scene.assert_held("and so does +switch-master, before the view");
}

#[test]
fn a_view_that_shows_a_failover_beginning_holds() {
    let mut scene = confirmed();
    scene.view_in_progress(1, A, 1);
    scene.assert_held("the announcement itself was missed");
}

#[test]
fn a_sentinel_that_comes_into_hearing_in_the_middle_of_a_failover_has_the_replicas_watched() {
    let mut scene = confirmed();
    scene.event(Event::SentinelDown(SentinelId(0)));
    scene.event(Event::SentinelUp(SentinelId(0)));
    scene.view_in_progress(0, A, 1);
    assert_eq!(scene.probing().unwrap().1, Pace::Fast, "its announcement was missed");
    scene.pass(2500);
    assert_eq!(scene.probing().unwrap().1, Pace::Watch, "and it still leads");
    scene.assert_flows_to(A, "nobody was promoted yet");
    scene.role(B, master(100));
    scene.assert_held("now somebody was");
}

#[test]
fn a_gap_holds_everything_until_all_were_asked_afresh() {
    let mut scene = confirmed();
    scene.event(Event::Gap);
    assert_eq!((scene.reads().1, scene.writes().1), (Flow::Held, Flow::Held));
    scene.pass(5);
    scene.role(A, master(100));
    scene.assert_held("what the Sentinels said is old");
    assert_eq!(scene.reads().1, Flow::Held, "it may have been replaced: an old master says so for ten seconds");
    scene.all_is_well();
    scene.assert_flows_to(A, "asked afresh");

    // A failover happened meanwhile: not even a read goes to the old master, whatever it says.
    let mut scene = confirmed();
    scene.event(Event::Gap);
    for (id, named) in [(0, B), (1, B), (2, A)] {
        scene.pass(2);
        scene.role(A, master(100));
        scene.view(id, named, u64::from(named));
        scene.view(id, named, u64::from(named));
        assert_eq!(scene.reads().1, Flow::Held, "{named} is named");
    }
    scene.role(B, master(120));
    scene.assert_flows_to(B, "confirmed");

    // In the middle of a planned failover reads flow; after a gap, not before the Sentinels were asked.
    let mut scene = confirmed();
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.role(A, master(100));
    assert_eq!(scene.reads(), (Some(node(A)), Flow::Flowing));
    scene.event(Event::Gap);
    scene.pass(2);
    scene.role(A, master(100));
    assert_eq!(scene.reads().1, Flow::Held);
    for id in 0..3 {
        scene.view_in_progress(id, A, 1);
        scene.view_in_progress(id, A, 1);
    }
    assert_eq!(scene.reads(), (Some(node(A)), Flow::Flowing), "it is master still, and the failover goes on");

    // In the middle of a round: the selection and the views of before the gap commit nothing.
    let mut scene = Scene::stable(Commit::Eager);
    scene.say(0, Message::SelectedSlave(node(B)));
    scene.view(0, B, 2);
    scene.view(1, B, 2);
    scene.pass(5);
    let before = scene.now;
    scene.pass(5);
    scene.event(Event::Gap);
    scene.pass(5);
    scene.role(B, master(100));
    assert_eq!(scene.topology().generation, 1);
    scene.view(0, C, 2);
    scene.view(1, C, 2);
    scene.role_asked(C, before, master(100));
    assert_eq!(scene.topology().generation, 1, "asked before the gap");
    scene.role(C, master(100));
    assert_eq!(scene.topology().generation, 2);
}
