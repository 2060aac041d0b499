//! The procedure against servers that do what they are asked, or do not: whatever fails at whatever place, it ends, and
//! either everything is as before or the master was changed and nothing was lost by it.

mod corners;
mod steps;

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::checks::CHOSEN;
use super::*;
use crate::topology::{ReplicaView, SentinelId, View};

const SENTINEL: SentinelId = SentinelId(0);

fn node(n: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + n))
}

/// What goes wrong with one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// It is refused.
    Refused,
    /// It is lost on the way there.
    Lost,
    /// It is carried out, and the answer is lost.
    Unheard,
    /// It is carried out, and answered this much later.
    Late(u64),
}

/// What goes wrong with the service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trouble {
    MasterFails,
    AnotherMaster,
    SentinelGone,
    ReplicaStops,
    NeverQuiet,
    Abandoned,
    /// Sentinel gives up, or promotes nobody for other reasons.
    NoPromotion,
    /// Sentinels do not confirm what they promoted.
    NoConfirmation,
}

/// One master (1), two replicas (2, 3), one Sentinel, and a failover machine that does as it is told.
struct World {
    now: Moment,
    procedure: Switchover,
    survey: Survey,
    priorities: BTreeMap<SocketAddr, u32>,
    paused_until: Moment,
    follows: Option<SocketAddr>,
    failing_over: Option<Moment>,
    promoted_at: Option<Moment>,
    noticed_at: Moment,
    held_at: Option<Moment>,
    ordered: bool,
    /// By the place of the request among all.
    faults: BTreeMap<usize, Fault>,
    troubles: Vec<(u64, Trouble)>,
    /// What the old master is told to follow is lost before this.
    deaf_until: Moment,
    broken: Vec<Trouble>,
    asked: Vec<Request>,
    answers: VecDeque<(Moment, u32, Answer)>,
    reports: Vec<Report>,
}

impl World {
    fn new(to: Option<u16>, dry_run: bool, faults: &[(usize, Fault)], troubles: &[(u64, Trouble)]) -> Self {
        let now = Moment(1_000_000);
        let survey = healthy();
        let mut actions = Vec::new();
        let procedure = Switchover::new(Ask { to: to.map(node), dry_run }, now, &survey, &mut actions);
        let mut world = Self {
            now,
            procedure,
            survey,
            priorities: [1, 2, 3].map(|n| (node(n), 100)).into(),
            paused_until: Moment(0),
            follows: None,
            failing_over: None,
            promoted_at: None,
            noticed_at: now,
            held_at: None,
            ordered: false,
            faults: faults.iter().copied().collect(),
            troubles: troubles.to_vec(),
            deaf_until: now,
            broken: Vec::new(),
            asked: Vec::new(),
            answers: VecDeque::new(),
            reports: Vec::new(),
        };
        world.carry_out(actions);
        world
    }

    fn has(&self, trouble: Trouble) -> bool {
        self.broken.contains(&trouble)
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Report(report) => self.reports.push(report),
                Action::Tell(SwitchoverEvent::Begin) => {}
                Action::Tell(SwitchoverEvent::Hold(_)) => {
                    assert!(!self.survey.held, "held twice");
                    if self.survey.flowing {
                        (self.survey.flowing, self.survey.held) = (false, true);
                        self.held_at = Some(self.now);
                    }
                }
                Action::Tell(SwitchoverEvent::Ordered) => self.ordered = true,
                Action::Tell(SwitchoverEvent::Released) => {
                    (self.survey.held, self.survey.flowing) = (false, !self.has(Trouble::MasterFails));
                    self.held_at = None;
                    self.ordered = false;
                }
                Action::Ask(id, server, request) => self.ask(id, server, request),
            }
        }
    }

    fn ask(&mut self, id: u32, server: Server, request: Request) {
        let is_deaf = matches!(request, Request::Follow(_)) && self.now < self.deaf_until;
        let fault = self.faults.get(&self.asked.len()).copied().or(is_deaf.then_some(Fault::Lost));
        self.asked.push(request);
        assert!(self.answers.iter().all(|(_, other, _)| *other != id), "two answers could not be told apart");
        if request == Request::FailOver {
            assert!(self.survey.held && self.survey.quiet, "ordered while writes are on their way");
            assert!(self.now < self.paused_until, "ordered while others may write");
            let behind = self.survey.nodes.values().any(|n| n.offset != self.survey.nodes[&node(1)].offset);
            assert!(!behind, "ordered while a replica lags");
        }
        let answer = match fault {
            Some(Fault::Refused) => Answer::Refused("NOPERM".to_owned()),
            Some(Fault::Lost) => Answer::Lost("reset".to_owned()),
            Some(Fault::Unheard) => {
                self.execute(server, request);
                Answer::Lost("reset".to_owned())
            }
            _ => self.execute(server, request),
        };
        let delay = if let Some(Fault::Late(ms)) = fault { ms } else { 1 };
        self.answers.push_back((self.now + Duration::from_millis(delay), id, answer));
    }

    fn execute(&mut self, server: Server, request: Request) -> Answer {
        let at = match server {
            Server::Node(node) => node,
            Server::Sentinel(_) => node(0),
        };
        match request {
            Request::May(_) | Request::Quorum | Request::Persist => {}
            Request::Priority => return Answer::Done(self.priorities[&at].to_string()),
            Request::Prefer(_) | Request::SetPriority(_) => {
                self.priorities.insert(at, if let Request::SetPriority(n) = request { n } else { CHOSEN });
                self.noticed_at = self.now + Duration::from_secs(8);
            }
            Request::Pause(time) => self.paused_until = self.paused_until.max(self.now + time),
            Request::Unpause => self.paused_until = Moment(0),
            Request::FailOver => self.failing_over = Some(self.now),
            Request::Follow(new) => {
                assert_eq!(self.survey.master, Some(new), "only of a committed master");
                self.follows = Some(new);
            }
        }
        Answer::Done("OK".to_owned())
    }

    /// A millisecond passes.
    fn pass(&mut self) {
        self.now = self.now + Duration::from_millis(1);
        let elapsed = ms(self.now.since(self.procedure.began));
        let due: Vec<Trouble> = self.troubles.iter().filter(|(at, _)| *at == elapsed).map(|(_, t)| *t).collect();
        self.broken.extend(&due);
        for (address, n) in &mut self.survey.nodes {
            if !(self.broken.contains(&Trouble::ReplicaStops) && *address == node(2)) {
                n.asked = self.now;
                // Writers write until they are stopped.
                if self.survey.flowing || self.now >= self.paused_until {
                    n.offset = Some(elapsed);
                } else if let Some(held) = self.held_at {
                    n.offset = n.offset.max(Some(ms(held.since(self.procedure.began)) + 1));
                }
            }
        }
        let lead = self.survey.nodes[&node(1)].offset;
        if !self.has(Trouble::ReplicaStops) {
            self.survey.nodes.values_mut().for_each(|n| n.offset = lead);
        }
        let quiet = self.held_at.is_some_and(|h| self.now.since(h) >= Duration::from_millis(3));
        // What was answered once stays so.
        self.survey.quiet = self.survey.held && (self.survey.quiet || quiet && !self.has(Trouble::NeverQuiet));
        if self.has(Trouble::MasterFails) && self.survey.generation == 1 {
            self.survey.flowing = false;
            self.survey.trouble = Some("the master failed".to_owned());
        }
        if due.contains(&Trouble::AnotherMaster) && self.survey.generation == 1 {
            self.switch(node(3));
        }
        if self.now >= self.noticed_at
            && let Some(view) = &mut self.survey.sentinels[0].view
        {
            view.replicas.iter_mut().for_each(|r| r.priority = self.priorities[&r.node]);
        }
        if self.has(Trouble::SentinelGone) {
            self.survey.sentinels[0].view = None;
        }
        let promoted = self.failing_over.is_some_and(|f| self.now.since(f) >= Duration::from_millis(200));
        if promoted && self.survey.generation == 1 && self.ordered && !self.has(Trouble::NoPromotion) {
            self.switch(node(2));
            self.promoted_at = Some(self.now);
        }
        if self.promoted_at.is_some_and(|p| self.now.since(p) >= Duration::from_secs(1)) {
            self.survey.confirmed = !self.has(Trouble::NoConfirmation);
        }
        if due.contains(&Trouble::Abandoned) {
            self.handle(Event::Abandoned);
        }
        while let Some(at) = self.answers.iter().position(|(at, ..)| *at <= self.now) {
            let (_, id, answer) = self.answers.remove(at).unwrap();
            self.handle(Event::Answered(id, answer));
        }
        self.handle(Event::Look);
    }

    fn switch(&mut self, to: SocketAddr) {
        let survey = &mut self.survey;
        (survey.generation, survey.master, survey.held, survey.flowing) = (2, Some(to), false, true);
        (survey.confirmed, survey.trouble) = (self.promoted_at.is_some(), None);
    }

    fn handle(&mut self, event: Event) {
        let mut event = Some(event);
        while let Some(shown) = event.take() {
            let mut actions = Vec::new();
            if self.procedure.has_ended() {
                return;
            }
            self.procedure.handle(self.now, shown, &self.survey, &mut actions);
            if actions.iter().any(|a| matches!(a, Action::Tell(_))) {
                event = Some(Event::Look);
            }
            self.carry_out(actions);
        }
    }

    /// Lets it come to its end.
    fn finish(mut self) -> (Outcome, String, Self) {
        for _ in 0..60_000 {
            if let Some(Report::End { outcome, why, .. }) = self.reports.last() {
                return (*outcome, why.clone(), self);
            }
            if let Some(deadline) = self.procedure.deadline(self.now) {
                assert!(deadline > self.now, "a deadline that does not lie ahead would spin");
            }
            self.pass();
        }
        panic!("no end: {:#?}", self.reports);
    }

    /// Nothing of it is left.
    #[track_caller]
    fn assert_as_before(&self, why: &str) {
        assert_eq!(self.priorities.values().copied().collect::<Vec<_>>(), [100; 3], "{why}");
        assert!(self.now >= self.paused_until, "paused still: {why}");
        assert!(!self.survey.held, "held still: {why}");
        assert_eq!(self.follows, None, "{why}");
    }
}

fn healthy() -> Survey {
    let view = View {
        master: node(1),
        epoch: 1,
        failover_in_progress: false,
        master_down: false,
        reported_master: true,
        replicas: [2, 3].map(|n| ReplicaView::healthy(node(n))).into(),
        quorum: 1,
        down_after: Duration::from_secs(1),
    };
    let answer = NodeSurvey { asked: Moment(0), offset: Some(0), says: "says something".to_owned() };
    Survey {
        generation: 1,
        master: Some(node(1)),
        confirmed: true,
        flowing: true,
        held: false,
        quiet: false,
        trouble: None,
        unsettled: None,
        hold_timeout: Duration::from_secs(15),
        nodes: [1, 2, 3].map(|n| (node(n), answer.clone())).into(),
        sentinels: vec![SentinelSurvey { id: SENTINEL, name: "Sentinel 0".to_owned(), tilt: false, view: Some(view) }],
    }
}

#[test]
fn it_switches_over() {
    let (outcome, why, world) = World::new(None, false, &[], &[]).finish();
    assert_eq!((outcome, why.as_str()), (Outcome::Done, ""));
    assert_eq!(world.follows, Some(node(2)), "the old master follows");
    assert!(world.paused_until == Moment(0), "the pause was lifted");
    assert!(
        !world.asked.iter().any(|r| matches!(r, Request::Prefer(_) | Request::SetPriority(_))),
        "no priority needed a change"
    );
    let Some(Report::End { stall_ms, .. }) = world.reports.last() else { panic!() };
    assert!((200..260).contains(stall_ms), "{stall_ms}");
}

#[test]
fn the_priority_is_changed_for_the_while() {
    let (outcome, why, world) = World::new(Some(2), false, &[], &[]).finish();
    assert_eq!((outcome, why.as_str()), (Outcome::Done, ""));
    assert!(world.asked.contains(&Request::Prefer(100)), "Sentinel was told whom to choose");
    assert_eq!(world.priorities[&node(2)], 100);
    let last = |request| world.asked.iter().rposition(|r| *r == request);
    assert!(last(Request::Persist) > last(Request::SetPriority(100)), "the promotion wrote the other to the file");
}

#[test]
fn a_dry_run_touches_nothing() {
    let (outcome, _, world) = World::new(Some(2), true, &[], &[]).finish();
    assert_eq!(outcome, Outcome::Possible);
    let harmless = |r: &Request| matches!(r, Request::May(_) | Request::Quorum | Request::Priority);
    assert!(world.asked.iter().all(harmless), "{:?}", world.asked);
    assert_eq!(world.held_at, None);
}

/// Each request of the whole procedure fails in each way.
#[test]
fn every_fault_at_every_place() {
    for to in [None, Some(2)] {
        let (_, _, whole) = World::new(to, false, &[], &[]).finish();
        for (place, request) in whole.asked.iter().enumerate() {
            for fault in [Fault::Refused, Fault::Lost, Fault::Unheard, Fault::Late(5000)] {
                let (outcome, why, world) = World::new(to, false, &[(place, fault)], &[]).finish();
                let what = format!("{request:?} {fault:?} → {outcome:?} {why}; {:#?}", world.reports);
                match outcome {
                    Outcome::Refused | Outcome::Undone => world.assert_as_before(&what),
                    Outcome::Done | Outcome::Unfinished => {
                        assert_eq!(world.survey.master, Some(node(2)), "{what}");
                        assert_eq!(world.follows, Some(node(2)), "{what}");
                        assert_eq!(world.priorities[&node(2)], 100, "{what}");
                    }
                    Outcome::Possible => panic!("{what}"),
                }
                let must_fail = match request {
                    Request::May(_) | Request::Quorum | Request::Priority => !matches!(fault, Fault::Late(_)),
                    Request::Prefer(_) | Request::FailOver => fault == Fault::Refused,
                    _ => false,
                };
                assert!(!must_fail || matches!(outcome, Outcome::Refused | Outcome::Undone), "{what}");
            }
        }
    }
}

#[test]
fn whatever_happens_before_the_order_undoes_everything() {
    // 8 s for the priority to be noticed; then the hold.
    for at in [2, 100, 8_003, 8_005, 8_007, 8_010, 8_012] {
        for trouble in [Trouble::MasterFails, Trouble::AnotherMaster, Trouble::SentinelGone, Trouble::Abandoned] {
            let (outcome, why, mut world) = World::new(Some(2), false, &[], &[(at, trouble)]).finish();
            let what = format!("{trouble:?} at {at} → {outcome:?} {why}");
            if world.asked.contains(&Request::FailOver) {
                continue;
            }
            assert!(matches!(outcome, Outcome::Undone | Outcome::Refused), "{what}");
            world.survey.held = false;
            world.assert_as_before(&what);
        }
    }
}

#[test]
fn steps_that_are_late_undo_everything() {
    for (trouble, reason) in [
        (Trouble::NeverQuiet, "takes long"),
        (Trouble::ReplicaStops, "lags"),
        (Trouble::NoPromotion, "no replica was promoted"),
    ] {
        let at = if trouble == Trouble::ReplicaStops { 3 } else { 1 };
        let (outcome, why, world) = World::new(None, false, &[], &[(at, trouble)]).finish();
        assert_eq!(outcome, Outcome::Undone, "{trouble:?}: {why}");
        assert!(why.contains(reason), "{trouble:?}: {why}");
        world.assert_as_before(&why);
    }
}

#[test]
fn what_cannot_be_finished_is_said() {
    let (outcome, why, _) = World::new(None, false, &[], &[(1, Trouble::NoConfirmation)]).finish();
    assert_eq!(outcome, Outcome::Unfinished);
    assert!(why.contains("no Sentinel has confirmed"), "{why}");
    let (_, _, whole) = World::new(None, false, &[], &[]).finish();
    let follow = whole.asked.iter().position(|r| matches!(r, Request::Follow(_))).unwrap();
    let deaf: Vec<_> = (follow..follow + 500).map(|place| (place, Fault::Lost)).collect();
    let (outcome, why, _) = World::new(None, false, &deaf, &[]).finish();
    assert_eq!(outcome, Outcome::Unfinished);
    assert!(why.contains("could not be made a replica"), "{why}");
}

#[test]
fn somebody_elses_failover_keeps_its_pause() {
    let mut world = World::new(None, false, &[], &[]);
    while world.procedure.state != State::Ordered {
        assert!(!world.procedure.has_ended(), "{:#?}", world.reports);
        world.pass();
    }
    let (id, ..) = *world.procedure.waiting.iter().find(|(_, _, r)| *r == Request::FailOver).unwrap();
    world.failing_over = None;
    world.handle(Event::Answered(id, Answer::Refused("INPROG Failover already in progress".to_owned())));
    let (outcome, _, world) = world.finish();
    assert_eq!(outcome, Outcome::Undone);
    assert!(!world.asked.contains(&Request::Unpause), "it ends by itself");
}

/// What a check finds must be said, and nothing be touched.
#[test]
fn checks() {
    type Change = fn(&mut Survey);
    let cases: [(&str, Change); 9] = [
        ("not settled", |s| s.unsettled = Some("node 3 says master".to_owned())),
        ("out of hearing", |s| {
            let deaf = SentinelSurvey { id: SentinelId(1), view: None, ..s.sentinels[0].clone() };
            s.sentinels.push(deaf);
        }),
        ("TILT", |s| {
            let tilted = SentinelSurvey { id: SentinelId(1), tilt: true, ..s.sentinels[0].clone() };
            s.sentinels.push(tilted);
        }),
        ("is free to fail over", |s| s.sentinels[0].view.as_mut().unwrap().failover_in_progress = true),
        ("no replica that Sentinel could promote", |s| {
            s.sentinels[0].view.as_mut().unwrap().replicas.iter_mut().for_each(|r| r.priority = 0);
        }),
        ("too short", |s| s.sentinels[0].view.as_mut().unwrap().down_after = Duration::from_millis(500)),
        ("too short", |s| s.hold_timeout = Duration::ZERO),
        ("bytes behind", |s| s.nodes.get_mut(&node(1)).unwrap().offset = Some(3 << 20)),
        ("cannot be promoted", |s| s.nodes.get_mut(&node(3)).unwrap().offset = None),
    ];
    for (says, change) in cases {
        let mut survey = healthy();
        survey.nodes.values_mut().for_each(|n| n.asked = Moment(10));
        change(&mut survey);
        let verdict = checks::judge(&survey, None, &[], Moment(5));
        let fault = verdict.first_fault().unwrap_or_else(|| panic!("{says}: passed"));
        assert!(fault.contains(says), "{says}: {fault}");
        assert!(verdict.plan.is_none());
    }
    let mut survey = healthy();
    survey.nodes.values_mut().for_each(|n| n.asked = Moment(10));
    let to = |n: u16, priority: &str| {
        let found = vec![(Server::Node(node(n)), Request::Priority, Answer::Done(priority.to_owned()))];
        let verdict = checks::judge(&survey, Some(node(n)), &found, Moment(5));
        (verdict.first_fault().map(str::to_owned), verdict.plan)
    };
    assert!(to(1, "100").0.unwrap().contains("master already"));
    assert!(to(4, "100").0.unwrap().contains("no replica that Sentinel knows"));
    assert!(to(2, "0").0.unwrap().contains("never"));
    assert_eq!(to(2, "100").1.unwrap().arrange, Some((node(2), 100)));
    // Also where no other could be promoted either: Sentinel has only just heard of them.
    let changes: [fn(&mut ReplicaView); 2] = [|r| r.link_up = false, |r| r.reachable = false];
    for change in changes {
        let mut survey = survey.clone();
        survey.sentinels[0].view.as_mut().unwrap().replicas.iter_mut().for_each(change);
        let found = vec![(Server::Node(node(2)), Request::Priority, Answer::Done("100".to_owned()))];
        let verdict = checks::judge(&survey, Some(node(2)), &found, Moment(5));
        assert!(verdict.first_fault().unwrap().contains("would not promote"));
    }
    let late = checks::judge(&survey, None, &[], Moment(10));
    assert!(late.first_fault().unwrap().contains("not heard since"), "answers from before do not count");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any number of faults and troubles: it ends; what was undone is undone, as far as servers let it.
    #[test]
    fn it_always_ends(
        to in any::<bool>(),
        faults in proptest::collection::btree_map(0usize..24, prop_oneof![
            Just(Fault::Refused), Just(Fault::Lost), Just(Fault::Unheard), (1u64..2000).prop_map(Fault::Late),
        ], 0..4),
        troubles in proptest::collection::vec((prop_oneof![0u64..30, 7_990u64..8_300], prop_oneof![
            Just(Trouble::MasterFails), Just(Trouble::AnotherMaster), Just(Trouble::SentinelGone),
            Just(Trouble::ReplicaStops), Just(Trouble::NeverQuiet), Just(Trouble::Abandoned),
            Just(Trouble::NoPromotion), Just(Trouble::NoConfirmation),
        ]), 0..3),
    ) {
        let faults: Vec<_> = faults.into_iter().collect();
        let (outcome, why, world) = World::new(to.then_some(2), false, &faults, &troubles).finish();
        prop_assert!(!world.survey.held, "held still after {:?} {}", outcome, why);
        prop_assert_eq!(world.priorities[&node(2)], 100, "{:?} {}", outcome, why);
        if !matches!(outcome, Outcome::Done | Outcome::Unfinished) {
            prop_assert_eq!(world.follows, None);
        }
        if matches!(outcome, Outcome::Done) {
            prop_assert_eq!(world.follows, world.survey.master);
        }
    }
}
