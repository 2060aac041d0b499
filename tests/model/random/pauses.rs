//! A pause lies beside everything: a machine that is paused now and then decides all else as one that never is.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use pointsman::clock::Moment;
use pointsman::topology::failover::{Action, Demotion, Failover, Pace};
use pointsman::topology::pause::Pause;
use pointsman::topology::{Event, SentinelId, Topology};

use super::settings;
use super::steps::{Happening, SENTINELS, Step, known, sequence};

/// Sequences; each is gone through twice.
const SEQUENCES: u64 = 2_500;

/// One machine, and what it asked for but for what a pause is told by.
struct Twin {
    machine: Failover,
    now: Moment,
    asked: Vec<Asked>,
}

#[derive(PartialEq, Debug)]
enum Asked {
    Probe(BTreeSet<SocketAddr>, Pace),
    Poll(Pace),
    Sever(SocketAddr),
    Opened(u64),
    Closed(u64),
    Demote(Demotion),
}

impl Twin {
    fn new(rng: &mut Rng) -> Self {
        let now = Moment(1_000_000);
        let mut twin = Self { machine: Failover::new(settings(rng), now), now, asked: Vec::new() };
        for id in 0..SENTINELS {
            twin.event(known(id));
            twin.event(Event::SentinelUp(SentinelId(id)));
        }
        twin
    }

    fn event(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.machine.handle(self.now, event, &mut actions);
        self.note(actions);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.machine.deadline(self.now).filter(|at| *at <= end) {
            self.now = at;
            self.tick();
        }
        self.now = end;
        self.tick();
    }

    fn tick(&mut self) {
        let mut actions = Vec::new();
        self.machine.tick(self.now, &mut actions);
        self.note(actions);
    }

    fn note(&mut self, actions: Vec<Action>) {
        self.asked.extend(actions.into_iter().filter_map(|action| match action {
            Action::Publish(_) | Action::Say(..) => None,
            Action::Probe { nodes, pace } => Some(Asked::Probe(nodes, pace)),
            Action::Poll(pace) => Some(Asked::Poll(pace)),
            Action::Sever { node, .. } => Some(Asked::Sever(node)),
            Action::RecordOpened(number) => Some(Asked::Opened(number)),
            Action::RecordClosed(number) => Some(Asked::Closed(number)),
            Action::Demote(demotion) => Some(Asked::Demote(demotion)),
        }));
    }

    fn step(&mut self, step: &Step) {
        self.pass(Duration::from_millis(step.pause));
        let topology = self.machine.topology();
        let event = match step.event.clone() {
            // Of another publication in each.
            None | Some(Happening::AcknowledgeOld) => return,
            Some(Happening::Plain(event)) => event,
            Some(Happening::Acknowledge) => Event::Acknowledged(topology.seq),
            Some(Happening::Prepare) => Event::Prepared(topology.generation),
            Some(Happening::Role { node, age, answer }) => {
                Event::Role { node, asked: Moment(self.now.0.saturating_sub(age)), answer }
            }
        };
        self.event(event);
    }

    /// What flows where, but for the pause.
    fn decided(&self) -> Topology {
        Topology { seq: 0, paused: false, ..self.machine.topology().clone() }
    }
}

#[test]
fn what_else_is_decided_does_not_know_of_a_pause() {
    let (mut paused, mut switched_while_paused) = (0, 0);
    for seed in 0..SEQUENCES {
        let mut rng = Rng::with_seed(seed);
        let mut plain = Twin::new(&mut rng.clone());
        let mut other = Twin::new(&mut rng);
        for step in sequence(&mut rng) {
            match rng.u8(0..8) {
                0 => other.event(Event::Paused(Pause::Begin(None))),
                1 => other.event(Event::Paused(Pause::Begin(Some(Duration::from_millis(rng.u64(0..2000)))))),
                2 => other.event(Event::Paused(Pause::End)),
                _ => {}
            }
            let before = plain.machine.topology().generation;
            plain.step(&step);
            other.step(&step);
            assert_eq!(plain.decided(), other.decided(), "seed {seed}, at {step:?}");
            assert_eq!(plain.asked, other.asked, "seed {seed}, at {step:?}");
            if other.machine.topology().paused {
                paused += 1;
                switched_while_paused += u32::from(plain.machine.topology().generation > before);
            }
        }
    }
    assert!(paused > 1000 && switched_while_paused > 50, "{paused} {switched_while_paused}: too few to tell");
}
