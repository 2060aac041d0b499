//! Invariants of every sequence of events, likely or not.

use proptest::prelude::*;

use super::*;
use crate::topology::SwitchoverEvent;

/// A step: time passes, then something happens (or nothing).
#[derive(Clone, Debug)]
struct Step {
    pause: u64,
    event: Option<Happening>,
}

/// An event, with the age of the question it answers.
#[derive(Clone, Debug)]
enum Happening {
    Plain(Event),
    Role {
        node: SocketAddr,
        age: u64,
        answer: RoleAnswer,
    },
    /// The workers acknowledge what was published last.
    Acknowledge,
    AcknowledgeOld,
    /// The workers have prepared the master that was published last.
    Prepare,
}

fn nodes() -> impl Strategy<Value = SocketAddr> {
    (1u16..=3).prop_map(node)
}

fn known(id: SentinelId) -> Event {
    Event::SentinelKnown(id, node(100 + id.0).into())
}

fn sentinels() -> impl Strategy<Value = SentinelId> {
    (0u16..3).prop_map(SentinelId)
}

fn messages() -> impl Strategy<Value = Message> {
    prop_oneof![
        3 => Just(Message::TryFailover),
        1 => Just(Message::ElectedLeader),
        3 => nodes().prop_map(Message::SelectedSlave),
        1 => nodes().prop_map(Message::WaitPromotion),
        1 => nodes().prop_map(Message::PromotedSlave),
        1 => Just(Message::FailoverAborted),
        1 => Just(Message::NoGoodReplica),
        1 => Just(Message::FailoverAbortedSlaveTimeout),
        1 => Just(Message::FailoverEnd),
        1 => (nodes(), nodes()).prop_map(|(old, new)| Message::SwitchMaster { old, new }),
        1 => (0u64..9).prop_map(Message::NewEpoch),
        1 => Just(Message::MasterDown),
        1 => Just(Message::MasterRebooted),
        1 => nodes().prop_map(Message::RoleChange),
        1 => nodes().prop_map(Message::ConvertToSlave),
        1 => Just(Message::ConfigChanged),
        1 => any::<bool>().prop_map(Message::Tilt),
    ]
}

fn answers() -> impl Strategy<Value = RoleAnswer> {
    let run_id = prop_oneof![9 => Just("run-1"), 1 => Just("run-2")];
    prop_oneof![
        8 => (0u64..300, run_id).prop_map(|(offset, run_id)| master_as(offset, run_id)),
        6 => (nodes(), any::<bool>(), 0u64..300)
            .prop_map(|(of, connected, offset)| RoleAnswer::Replica { of, connected, offset }),
        2 => Just(RoleAnswer::Refused),
        2 => any::<bool>().prop_map(|closed| RoleAnswer::Silent { closed }),
        1 => Just(RoleAnswer::Error("LOADING".into())),
        1 => Just(RoleAnswer::Error("NOAUTH".into())),
    ]
}

fn hints() -> impl Strategy<Value = Hint> {
    let kinds = prop_oneof![
        Just(HintKind::ReadOnly),
        Just(HintKind::Loading),
        Just(HintKind::MasterDown),
        Just(HintKind::NotMaster),
        Just(HintKind::Refused),
        Just(HintKind::Unreachable),
        Just(HintKind::Reset),
        Just(HintKind::Silent),
    ];
    (nodes(), kinds).prop_map(|(node, kind)| Hint { node, kind })
}

fn switchovers() -> impl Strategy<Value = SwitchoverEvent> {
    prop_oneof![
        Just(SwitchoverEvent::Begin),
        proptest::collection::btree_set(nodes(), 1..3).prop_map(SwitchoverEvent::Hold),
        Just(SwitchoverEvent::Ordered),
        Just(SwitchoverEvent::Released),
    ]
}

fn happenings() -> impl Strategy<Value = Happening> {
    let views = (1u16..=3, 0u64..4, any::<bool>(), any::<bool>())
        .prop_map(|(m, epoch, in_progress, down)| View { master_down: down, ..view(m, epoch, in_progress) });
    let plain = prop_oneof![
        2 => sentinels().prop_map(Event::SentinelUp),
        1 => sentinels().prop_map(Event::SentinelDown),
        8 => (sentinels(), views).prop_map(|(id, view)| Event::View(id, view)),
        1 => sentinels().prop_map(Event::UnknownName),
        1 => sentinels().prop_map(Event::SentinelForgotten),
        2 => sentinels().prop_map(known),
        6 => (sentinels(), messages()).prop_map(|(id, m)| Event::Published(id, m)),
        3 => hints().prop_map(Event::Hint),
        3 => switchovers().prop_map(Event::Switchover),
        1 => Just(Event::Gap),
    ];
    let ages = prop_oneof![8 => 0u64..5, 2 => 0u64..30_000];
    prop_oneof![
        6 => plain.prop_map(Happening::Plain),
        6 => (nodes(), ages, answers()).prop_map(|(node, age, answer)| Happening::Role { node, age, answer }),
        3 => Just(Happening::Acknowledge),
        1 => Just(Happening::AcknowledgeOld),
        2 => Just(Happening::Prepare),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pauses = prop_oneof![6 => 0u64..30, 3 => 0u64..1000, 1 => 0u64..60_000];
    let step = (pauses, proptest::option::weighted(0.9, happenings())).prop_map(|(pause, event)| Step { pause, event });
    proptest::collection::vec(step, 50..150)
}

/// What must hold, kept beside the machine and derived only from what goes in and out.
struct Witness {
    scene: Scene,
    before: Topology,
    /// When the present state of affairs began: the last time that writes stopped or went on, or a gap.
    turned: Moment,
    /// Each node's latest answer: when it was asked, and whether it was "master".
    said: std::collections::BTreeMap<SocketAddr, (Moment, bool)>,
    held_seq: u64,
    acknowledged: u64,
    prepared: u64,
    /// When the generation last changed.
    committed: Moment,
    /// The moment by which what is held must flow or be refused.
    deadline: Option<Moment>,
    hold_timeout: Duration,
    seen: usize,
}

impl Witness {
    fn new(settings: Settings) -> Self {
        let mut scene = Scene::new(settings, 3);
        (scene.acknowledging, scene.preparing) = (false, false);
        for id in 0..3 {
            scene.event(Event::SentinelUp(SentinelId(id)));
        }
        let now = scene.now;
        Self {
            before: Topology::unknown(),
            turned: now,
            said: std::collections::BTreeMap::new(),
            held_seq: 0,
            acknowledged: 0,
            prepared: 0,
            committed: now,
            deadline: Some(now + settings.hold_timeout),
            hold_timeout: settings.hold_timeout,
            seen: 0,
            scene,
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let end = self.scene.now + Duration::from_millis(step.pause);
        while let Some(at) = self.scene.machine.deadline(self.scene.now).filter(|at| *at <= end) {
            prop_assert!(at > self.scene.now, "a deadline that does not lie ahead would spin");
            self.scene.now = at;
            self.scene.machine.tick(at, &mut self.scene.actions);
            self.check()?;
        }
        self.scene.now = end;
        self.scene.machine.tick(end, &mut self.scene.actions);
        self.check()?;
        let event = match step.event.clone() {
            None => return Ok(()),
            Some(Happening::Plain(event)) => event,
            Some(Happening::Acknowledge) => Event::Acknowledged(self.scene.topology().seq),
            Some(Happening::Prepare) => Event::Prepared(self.scene.topology().generation),
            Some(Happening::AcknowledgeOld) => Event::Acknowledged(self.scene.topology().seq.saturating_sub(2)),
            Some(Happening::Role { node, age, answer }) => {
                let asked = Moment(end.0.saturating_sub(age));
                let is_master = matches!(answer, RoleAnswer::Master { .. });
                if self.said.get(&node).is_none_or(|(last, _)| *last <= asked) {
                    self.said.insert(node, (asked, is_master));
                }
                Event::Role { node, asked, answer }
            }
        };
        if let Event::Acknowledged(seq) = event {
            self.acknowledged = self.acknowledged.max(seq);
        }
        if event == Event::Gap {
            self.turned = end;
        }
        if let Event::Prepared(generation) = event {
            self.prepared = generation;
        }
        self.scene.machine.handle(end, event, &mut self.scene.actions);
        self.check()
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let now = self.scene.now;
        let published: Vec<Topology> = self.scene.actions[self.seen..]
            .iter()
            .filter_map(|a| if let Action::Publish(t) = a { Some(t.clone()) } else { None })
            .collect();
        for action in &self.scene.actions[self.seen..] {
            if let Action::Sever { seq, node } = action {
                // A later one, if trouble came while a new master was being prepared.
                let holds = self.held_seq..=self.before.seq;
                prop_assert!(holds.contains(seq), "only what holds writes is enforced: {seq}, not {holds:?}");
                prop_assert_eq!(Some(*node), self.before.writes.node, "at the old master");
            }
        }
        self.seen = self.scene.actions.len();
        for next in published {
            self.check_publication(now, &next)?;
            self.before = next;
        }
        prop_assert_eq!(&self.before, self.scene.topology(), "what was published is what is");
        if let Some(deadline) = self.deadline.filter(|d| now >= *d) {
            prop_assert!(self.before.writes.flow != Flow::Held, "held beyond {:?}", deadline);
            prop_assert!(self.before.reads.flow != Flow::Held, "reads held beyond {:?}", deadline);
        }
        Ok(())
    }

    fn check_publication(&mut self, now: Moment, next: &Topology) -> Result<(), TestCaseError> {
        let before = &self.before;
        prop_assert_eq!(next.seq, before.seq + 1);
        prop_assert!(next.generation == before.generation || next.generation == before.generation + 1);
        prop_assert!(next.parked_safe_before >= before.parked_safe_before, "what was safe stays safe");
        prop_assert!(next.parked_safe_before <= now);
        let flowing = next.writes.flow == Flow::Flowing;
        let said_master = |node: SocketAddr| {
            self.said.get(&node).is_some_and(|(asked, is_master)| *is_master && *asked > self.turned)
        };
        if next.generation > before.generation {
            prop_assert!(before.writes.flow != Flow::Flowing, "no commit without a hold before it");
            let node = next.writes.node.expect("a commit has a master");
            prop_assert!(said_master(node), "only of one that says master, asked since writes were held");
            prop_assert!(
                before.generation == 0 || self.acknowledged >= self.held_seq,
                "nor without its acknowledgement"
            );
        } else {
            prop_assert_eq!(next.writes.node, before.writes.node, "writes change their node with the generation only");
        }
        if next.generation > before.generation {
            self.committed = now;
        }
        if flowing {
            let node = next.writes.node.expect("writes flow to a node");
            let limit = super::super::PREPARATION_LIMIT.min(self.hold_timeout);
            prop_assert!(
                next.generation == 1 || self.prepared == next.generation || now.since(self.committed) >= limit,
                "not before the new master is prepared, or has had its time"
            );
            prop_assert_eq!(next.reads.node, Some(node), "and reads to the same");
            prop_assert_eq!(next.reads.flow, Flow::Flowing);
            prop_assert!(next.why.is_empty());
        } else {
            prop_assert!(!next.why.is_empty(), "a hold has a reason");
        }
        // A commit may be followed at once by reason for another hold.
        let new_hold = before.writes.flow == Flow::Flowing || next.generation > before.generation;
        match (new_hold, flowing) {
            (true, false) => {
                self.held_seq = next.seq;
                self.turned = now;
                self.deadline = Some(now + self.hold_timeout);
            }
            (_, true) => {
                self.turned = now;
                self.deadline = None;
            }
            (false, false) => {}
        }
        Ok(())
    }
}

fn any_settings() -> impl Strategy<Value = Settings> {
    (any::<bool>(), prop_oneof![Just(0u64), Just(500), Just(15_000)]).prop_map(|(eager, hold)| Settings {
        hold_timeout: Duration::from_millis(hold),
        ..settings(if eager { Commit::Eager } else { Commit::Confirmed })
    })
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn the_invariants_hold_in_every_sequence(settings in any_settings(), steps in steps()) {
        let mut witness = Witness::new(settings);
        for step in &steps {
            witness.step(step)?;
        }
    }

    /// Answers to questions from before a hold change nothing in it.
    #[test]
    fn late_answers_change_nothing(
        commit in any::<bool>(),
        late in proptest::collection::vec((nodes(), answers(), prop_oneof![1u64..50, 1u64..5000]), 1..30),
    ) {
        let mut scene = Scene::stable(if commit { Commit::Eager } else { Commit::Confirmed });
        scene.pass(50);
        scene.say(0, Message::SelectedSlave(node(B)));
        scene.view(0, B, 2);
        scene.view(1, B, 2);
        let (began, published) = (scene.now, scene.topology().clone());
        for (node, answer, age) in late {
            scene.pass(1);
            scene.event(Event::Role { node, asked: Moment(began.0 - age), answer });
            prop_assert_eq!(scene.topology(), &published);
        }
    }
}

proptest! {
    // Each runs its sequence twice, or goes on with it for long.
    #![proptest_config(cases(250))]

    #[test]
    fn the_same_events_give_the_same_actions(settings in any_settings(), steps in steps()) {
        let run = || {
            let mut witness = Witness::new(settings);
            for step in &steps {
                let _ = witness.step(step);
            }
            witness.scene.actions
        };
        prop_assert_eq!(run(), run());
    }

    /// Whatever happened, once all is well again and stays so, traffic flows.
    #[test]
    fn it_always_recovers(settings in any_settings(), steps in steps(), n in 1u16..=3) {
        let mut witness = Witness::new(settings);
        for step in &steps {
            witness.step(step)?;
        }
        let scene = &mut witness.scene;
        (scene.acknowledging, scene.preparing) = (true, true);
        scene.event(Event::Acknowledged(scene.topology().seq));
        scene.event(Event::Switchover(SwitchoverEvent::Released));
        for id in 0..3 {
            scene.event(known(SentinelId(id)));
            scene.event(Event::SentinelUp(SentinelId(id)));
            scene.event(Event::Published(SentinelId(id), Message::FailoverEnd));
        }
        for _ in 0..200 {
            scene.pass(100);
            for other in 1..=3 {
                scene.role(other, if other == n { master(1000) } else { replica(n, 1000) });
            }
            for id in 0..3 {
                scene.view(id, n, 9);
            }
        }
        prop_assert_eq!(scene.writes(), (Some(node(n)), Flow::Flowing), "obstacle: {:?}", scene.obstacle());
        prop_assert!(scene.machine.is_settled());
    }
}
