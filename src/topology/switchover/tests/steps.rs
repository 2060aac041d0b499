//! The procedure at each of its steps: when it must look again, how long it waits, what it heeds there and what not.

use std::time::Duration;

use super::{Fault, Trouble, World, node};
use crate::clock::Moment;
use crate::topology::switchover::checks::CHOSEN;
use crate::topology::switchover::{
    ARRANGE_PATIENCE, CATCH_UP_PATIENCE, CHECK_PATIENCE, DUTY_PATIENCE, Event, Outcome, QUIET_PATIENCE, Report,
    Request, State,
};

const MS: Duration = Duration::from_millis(1);

/// Since when it is at a step, if it is.
type Step = fn(&State) -> Option<Moment>;

/// Passes until it is at this step; since when it is.
fn reach(world: &mut World, step: impl Fn(&State) -> Option<Moment>) -> Moment {
    loop {
        if let Some(since) = step(&world.procedure.state) {
            return since;
        }
        assert!(!world.procedure.has_ended(), "{:#?}", world.reports);
        world.pass();
    }
}

fn arranging(state: &State) -> Option<Moment> {
    if let State::Arranging { since } = state { Some(*since) } else { None }
}

fn holding(state: &State) -> Option<Moment> {
    if let State::Holding { since } = state { Some(*since) } else { None }
}

fn catching_up(state: &State) -> Option<Moment> {
    if let State::CatchingUp { since, .. } = state { Some(*since) } else { None }
}

fn finishing(state: &State) -> Option<Moment> {
    if let State::Finishing { since, .. } = state { Some(*since) } else { None }
}

fn undoing(state: &State) -> Option<Moment> {
    if let State::Undoing { since, .. } = state { Some(*since) } else { None }
}

/// Nothing happens until then but that time passes.
fn wait(world: &mut World, until: Moment) {
    while world.now < until {
        world.pass();
    }
}

/// When it ended, in milliseconds from its beginning.
fn ended(world: &World) -> u64 {
    let Some(Report::End { ms, .. }) = world.reports.last() else { panic!("{:#?}", world.reports) };
    *ms
}

/// The place of the first such request in a procedure where nothing fails.
fn place(to: Option<u16>, request: impl Fn(&Request) -> bool) -> usize {
    let (_, _, whole) = World::new(to, false, &[], &[]).finish();
    whole.asked.iter().position(request).unwrap()
}

#[test]
fn it_looks_again_when_its_patience_ends() {
    let mut checking = World::new(None, false, &[(0, Fault::Late(5000))], &[]);
    let end = checking.now + CHECK_PATIENCE;
    assert_eq!(checking.procedure.deadline(checking.now), Some(end));
    assert_eq!(checking.procedure.deadline(Moment(end.0 - 1)), Some(end));
    assert_eq!(checking.procedure.deadline(end), None, "it has looked then");
    wait(&mut checking, end);
    assert_eq!((checking.procedure.has_ended(), ended(&checking)), (true, 3000));

    let steps: [(Step, Duration, u64, Trouble); 4] = [
        (holding, QUIET_PATIENCE, 1, Trouble::NeverQuiet),
        (catching_up, CATCH_UP_PATIENCE, 3, Trouble::ReplicaStops),
        (finishing, DUTY_PATIENCE, 1, Trouble::NoConfirmation),
        (undoing, DUTY_PATIENCE, 5, Trouble::MasterFails),
    ];
    for (step, patience, at, trouble) in steps {
        let mut world = World::new(None, false, &[], &[(at, trouble)]);
        let end = reach(&mut world, step) + patience;
        while world.now < Moment(end.0 - 1) {
            let deadline = world.procedure.deadline(world.now);
            assert!(
                deadline.is_some_and(|at| at <= end),
                "{trouble:?}: {deadline:?}, and its patience ends at {end:?}"
            );
            world.pass();
            assert!(step(&world.procedure.state).is_some(), "{trouble:?}: not before {end:?}: {:#?}", world.reports);
        }
        assert_eq!(world.procedure.deadline(world.now), Some(end), "{trouble:?}");
        world.pass();
        assert!(step(&world.procedure.state).is_none(), "{trouble:?}: given up");
    }

    // Nobody shows the priority.
    let mut world = World::new(Some(2), false, &[], &[]);
    let end = reach(&mut world, arranging) + ARRANGE_PATIENCE;
    world.noticed_at = Moment(u64::MAX);
    world.pass();
    world.noticed_at = Moment(u64::MAX);
    assert_eq!(world.procedure.deadline(world.now), Some(end));
    wait(&mut world, Moment(end.0 - 1));
    assert!(arranging(&world.procedure.state).is_some());
    world.pass();
    assert!(undoing(&world.procedure.state).is_some());

    // While Sentinel is waited for, what is due is a slice of the pause, and at last its limit.
    let mut ordered = World::new(None, false, &[], &[(1, Trouble::NoPromotion)]);
    reach(&mut ordered, |s| (*s == State::Ordered).then_some(Moment(0)));
    let limit = ordered.procedure.fence.as_ref().unwrap().limit();
    while ordered.procedure.state == State::Ordered {
        let deadline = ordered.procedure.deadline(ordered.now).unwrap();
        assert!(deadline <= limit, "{deadline:?} and {limit:?}");
        ordered.pass();
    }
    assert_eq!(ordered.now, limit);
}

/// The times of these are the world's: an answer takes a millisecond, Sentinel notices a priority within eight seconds and
/// promotes within 200 ms.
#[test]
fn each_step_is_told_with_its_time() {
    let (_, _, world) = World::new(Some(2), false, &[], &[]).finish();
    let told = world.reports.iter().filter_map(|report| match report {
        Report::Step { ms, ok: true, text } => Some((*ms, text.as_str())),
        _ => None,
    });
    let told: Vec<_> = told.skip_while(|(_, text)| !text.starts_with("Sentinel has noticed")).collect();
    let expected = [
        (8001, "Sentinel has noticed that 127.0.0.1:7002 comes first"),
        (8004, "writes are held, and those under way are answered"),
        (8005, "no other client writes to the master"),
        (8006, "the replica has all that the master has (offset 8004)"),
        (8007, "Sentinel fails over"),
        (8206, "127.0.0.1:7002 is master: the point of no return; writes go there"),
        (8207, "127.0.0.1:7001 is its replica"),
        (8207, "replica-priority is 100 again"),
        (9206, "Sentinels have confirmed it"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_late_answer_to_a_check_is_waited_for() {
    let (outcome, _, world) = World::new(None, true, &[(0, Fault::Late(2000))], &[]).finish();
    assert_eq!((outcome, ended(&world)), (Outcome::Possible, 2000));
    // And so is a node that was not heard since the beginning.
    let mut world = World::new(None, true, &[], &[]);
    let began = world.now;
    world.survey.nodes.values_mut().for_each(|n| n.asked = began);
    while let Some((_, id, answer)) = world.answers.pop_front() {
        world.handle(Event::Answered(id, answer));
    }
    assert_eq!(world.procedure.state, State::Checking, "asked at the beginning is not since");
    assert_eq!(world.finish().0, Outcome::Possible);
}

#[test]
fn only_what_the_chosen_one_shows_ends_the_arranging() {
    let mut world = World::new(Some(2), false, &[], &[]);
    reach(&mut world, arranging);
    world.pass();
    let replicas = &mut world.survey.sentinels[0].view.as_mut().unwrap().replicas;
    replicas.iter_mut().find(|r| r.node == node(3)).unwrap().priority = CHOSEN;
    world.handle(Event::Look);
    assert!(arranging(&world.procedure.state).is_some(), "another one shows it");
}

/// Somebody else's hold is as good as a failover.
#[test]
fn a_hold_that_is_not_ours_undoes_it() {
    let cases: [(Step, bool, bool); 3] = [(arranging, false, false), (arranging, true, true), (holding, false, false)];
    for (step, flowing, held) in cases {
        let mut world = World::new(Some(2), false, &[], &[]);
        reach(&mut world, step);
        (world.survey.flowing, world.survey.held) = (flowing, held);
        world.handle(Event::Look);
        let State::Undoing { why, .. } = &world.procedure.state else { panic!("{:?}", world.procedure.state) };
        assert_eq!(why, "a failover has begun meanwhile");
    }
}

#[test]
fn what_does_not_last_undoes_it_before_the_order_only() {
    let first = place(None, |r| matches!(r, Request::Pause(_)));
    for (fault, reason) in [
        (Fault::Late(450), "other writers were not kept away all the time"),
        (Fault::Late(5000), "the master did not stop its writers in time"),
        (Fault::Refused, "the master did not stop its writers: NOPERM"),
        (Fault::Lost, "the master did not stop its writers: reset"),
    ] {
        let (outcome, why, world) = World::new(None, false, &[(first, fault)], &[]).finish();
        assert_eq!((outcome, why.as_str()), (Outcome::Undone, reason));
        world.assert_as_before(reason);
    }
    // Behind the order what is begun is finished.
    let ordered = place(None, |r| *r == Request::FailOver);
    let (outcome, why, world) = World::new(None, false, &[(ordered + 1, Fault::Lost)], &[]).finish();
    assert!(matches!(world.asked[ordered + 1], Request::Pause(_)), "{:?}", world.asked);
    assert!(matches!(outcome, Outcome::Done | Outcome::Unfinished), "{outcome:?} {why}");
    assert_eq!(world.follows, Some(node(2)));
    for step in [arranging as Step, holding, catching_up] {
        let mut abandoned = World::new(Some(2), false, &[], &[]);
        reach(&mut abandoned, step);
        abandoned.handle(Event::Abandoned);
        let (outcome, why, world) = abandoned.finish();
        assert_eq!((outcome, why.as_str()), (Outcome::Undone, "nobody waits for it any more"));
        assert!(!world.asked.contains(&Request::FailOver));
        world.assert_as_before(&why);
    }
    let mut abandoned = World::new(None, false, &[], &[]);
    reach(&mut abandoned, |s| (*s == State::Ordered).then_some(Moment(0)));
    abandoned.handle(Event::Abandoned);
    assert_eq!(abandoned.finish().0, Outcome::Done, "nobody waits for it, and it is finished");
}

/// The old master is paused until it follows, as long as that may be.
#[test]
fn other_writers_are_kept_away_until_the_old_master_follows() {
    let is_follow = |r: &&Request| matches!(r, Request::Follow(_));
    let deaf = |ms: u32| {
        let mut world = World::new(None, false, &[], &[]);
        reach(&mut world, |s| (*s == State::Ordered).then_some(Moment(0)));
        world.deaf_until = world.now + MS * ms;
        world.finish()
    };
    let (outcome, why, world) = deaf(550);
    assert_eq!((outcome, why.as_str()), (Outcome::Done, ""), "{:?}", world.asked);
    assert!(world.asked.iter().filter(is_follow).count() > 2, "{:?}", world.asked);
    // For longer than writers may be kept away: finished all the same, and what that means is said once.
    let (outcome, why, world) = deaf(3000);
    assert_eq!((outcome, world.follows), (Outcome::Unfinished, Some(node(2))), "{why}");
    assert_eq!(why.matches("may have lost writes").count(), 1, "{why}");
    assert!(ended(&world) > 3000 && ended(&world) < 9000, "as soon as it follows");
}

#[test]
fn it_ends_when_the_new_master_is_confirmed_and_serves() {
    let mut world = World::new(None, false, &[], &[(1, Trouble::NoConfirmation)]);
    let since = reach(&mut world, finishing);
    wait(&mut world, since + Duration::from_secs(2));
    assert!(world.procedure.duties.is_empty());
    let promoted = world.survey.master;
    for (master, confirmed, flowing) in
        [(promoted, false, true), (promoted, true, false), (Some(node(3)), true, true), (None, true, true)]
    {
        (world.survey.master, world.survey.confirmed, world.survey.flowing) = (master, confirmed, flowing);
        world.handle(Event::Look);
        assert!(!world.procedure.has_ended(), "{master:?}, confirmed: {confirmed}, flowing: {flowing}");
    }
    (world.survey.master, world.survey.confirmed, world.survey.flowing) = (promoted, true, true);
    world.handle(Event::Look);
    let Some(Report::End { outcome, .. }) = world.reports.last() else { panic!("{:#?}", world.reports) };
    assert_eq!(*outcome, Outcome::Done);
}

#[test]
fn what_was_done_is_undone_before_the_end() {
    // Each of what is to be undone is lost once.
    let trouble = [(1, Trouble::NeverQuiet)];
    let (outcome, _, whole) = World::new(Some(2), false, &[], &trouble).finish();
    assert_eq!(outcome, Outcome::Undone);
    let restored = whole.asked.iter().position(|r| *r == Request::SetPriority(100)).unwrap();
    let (outcome, why, world) = World::new(Some(2), false, &[(restored, Fault::Lost)], &trouble).finish();
    assert_eq!(outcome, Outcome::Undone);
    world.assert_as_before(&why);
    assert_eq!(world.asked.iter().filter(|r| **r == Request::SetPriority(100)).count(), 2);

    // A hold that we did not begin is not waited for, and one that we leave behind is said.
    let (_, why, world) = World::new(Some(2), false, &[], &[(100, Trouble::MasterFails)]).finish();
    assert!(ended(&world) < 200 && !why.contains("held still"), "{why}");
    let (_, why, world) = World::new(None, false, &[], &[(5, Trouble::MasterFails)]).finish();
    assert!(ended(&world) >= 10_000 && why.ends_with("writes are held still, see `why` in /status"), "{why}");
    let (_, why, world) = World::new(None, false, &[], &[(1, Trouble::NeverQuiet)]).finish();
    assert!(ended(&world) < 400 && !why.contains("held still"), "{why}");
}

/// It is Sentinel that was late, not undone: another node is master, and whoever asked must hear that.
#[test]
fn a_promotion_that_comes_late_is_not_told_as_undone() {
    let mut world = World::new(None, false, &[], &[(1, Trouble::NoPromotion)]);
    reach(&mut world, undoing);
    world.switch(node(2));
    let (outcome, why, _) = world.finish();
    assert_eq!(outcome, Outcome::Unfinished, "{why}");
    assert!(why.contains("was promoted all the same") && why.contains("may have lost writes"), "{why}");
}

/// The old master cannot be told to follow, is elected again, and can be told.
#[test]
fn whoever_is_elected_again_is_not_told_to_follow() {
    let mut world = World::new(None, false, &[], &[]);
    world.deaf_until = world.now + Duration::from_secs(60);
    reach(&mut world, finishing);
    (world.survey.generation, world.survey.master) = (3, Some(node(1)));
    world.deaf_until = world.now;
    let (outcome, why, world) = world.finish();
    assert_eq!((outcome, world.follows), (Outcome::Unfinished, None), "{why}");
    assert!(why.contains("the master has changed again"), "{why}");
}
