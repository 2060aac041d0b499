//! The machine in random sequences of events: invariants, and what the sequences reach.

mod coverage;
mod pauses;
mod steps;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use fastrand::Rng;
use pointsman::clock::Moment;
use pointsman::config::Commit;
use pointsman::topology::failover::{Action, Settings};
use pointsman::topology::{Event, Flow, Message, Remembered, SentinelId, SwitchoverEvent, Topology};

use coverage::Coverage;
use steps::{NODES, SENTINELS, Step, known, master, node, replica, sequence, view};
use witness::Witness;

/// Sequences with the invariants. Every other test takes some of the same.
const SEQUENCES: u64 = 100_000;
/// What came about less often is not expected: a change elsewhere may shift it.
const EXPECTED_FROM: u64 = 5;
/// What leads from where to where, as it was found and judged.
const EXPECTED: &str = include_str!("transitions.txt");

/// The configuration of a sequence.
fn settings(rng: &mut Rng) -> Settings {
    Settings {
        commit: if rng.bool() { Commit::Eager } else { Commit::Confirmed },
        hold_timeout: Duration::from_millis([0, 500, 15_000][rng.usize(0..3)]),
        confirm_timeout: Duration::from_secs(5),
        silence_threshold: Duration::from_millis(300),
        fence_without_quorum: false,
        fence_old_master: false,
        managed: rng.u8(0..16) > 0,
    }
}

/// A machine, and what is to happen to it.
fn scene(seed: u64) -> (Witness, Vec<Step>) {
    let mut rng = Rng::with_seed(seed);
    let settings = settings(&mut rng);
    (begun(&mut rng, settings), sequence(&mut rng))
}

/// A machine as it starts.
fn begun(rng: &mut Rng, settings: Settings) -> Witness {
    let mut witness = Witness::new(settings);
    let begun = if !settings.managed {
        witness.event(Event::StaticMaster(node(rng.u16(1..=NODES))))
    } else if rng.u8(0..8) == 0 {
        let run_id = "run-1".to_owned();
        witness.event(Event::Remembered(Remembered { master: node(1), epoch: 1, run_id }))
    } else {
        Ok(())
    };
    begun.expect("a machine that starts");
    witness
}

/// Runs the steps; a failure or a panic in words.
fn run(seed: u64, steps: &[Step]) -> Result<Witness, String> {
    let (mut witness, _) = scene(seed);
    let outcome = catch_unwind(AssertUnwindSafe(|| steps.iter().try_for_each(|step| witness.step(step))));
    match outcome {
        Ok(Ok(())) => Ok(witness),
        Ok(Err(words)) => Err(words),
        Err(panic) => Err(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic".into())),
    }
}

/// The fewest of the steps that fail all the same, one to a line.
fn shortest(seed: u64, words: String) -> String {
    let (mut steps, mut words) = (scene(seed).1, words);
    let mut at = 0;
    while at < steps.len() {
        let mut fewer = steps.clone();
        fewer.remove(at);
        match run(seed, &fewer) {
            Err(same) => (steps, words) = (fewer, same),
            Ok(_) => at += 1,
        }
    }
    let mut text = format!("seed {seed}: {words}, after\n");
    for step in steps {
        let _ = writeln!(text, "  {step:?}");
    }
    text
}

/// Runs every seed on all cores; what came of each, put together.
fn on_all_cores<T: Send>(
    seeds: u64,
    of: impl Fn(u64, &mut T) -> Result<(), String> + Sync,
    empty: impl Fn() -> T,
) -> Vec<T> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get) as u64;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores)
            .map(|core| {
                let (of, mut sum) = (&of, empty());
                scope.spawn(move || {
                    for seed in (core..seeds).step_by(cores as usize) {
                        if let Err(words) = of(seed, &mut sum) {
                            return Err(shortest(seed, words));
                        }
                    }
                    Ok(sum)
                })
            })
            .collect();
        let sums = threads.into_iter().map(|t| t.join().expect("its panics are caught"));
        sums.collect::<Result<_, String>>().unwrap_or_else(|text| panic!("{text}"))
    })
}

#[test]
fn the_invariants_hold_and_every_transition_is_reached() {
    let of = |seed, coverage: &mut Coverage| {
        coverage.add(run(seed, &scene(seed).1)?.coverage);
        Ok(())
    };
    let mut coverage = Coverage::default();
    on_all_cores(SEQUENCES, of, Coverage::default).into_iter().for_each(|c| coverage.add(c));
    eprintln!("{SEQUENCES} sequences, {} events, {} transitions", coverage.times(), coverage.transitions());

    let reached = coverage.table(1);
    let often = coverage.table(EXPECTED_FROM);
    let expected: BTreeMap<String, Vec<String>> = EXPECTED
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(row, kinds)| (row.to_owned(), kinds.split("; ").map(str::to_owned).collect()))
        .collect();
    let pairs = |table: &BTreeMap<String, Vec<String>>| -> BTreeSet<String> {
        table.iter().flat_map(|(row, kinds)| kinds.iter().map(move |kind| format!("{row}: {kind}"))).collect()
    };
    let never: Vec<String> = pairs(&expected).difference(&pairs(&reached)).cloned().collect();
    let new: Vec<String> = pairs(&often).difference(&pairs(&expected)).cloned().collect();
    if !(never.is_empty() && new.is_empty()) {
        let path = format!("{}/transitions.txt", env!("CARGO_TARGET_TMPDIR"));
        let lines: Vec<String> = often.iter().map(|(row, kinds)| format!("{row}: {}", kinds.join("; "))).collect();
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        panic!(
            "never reached: {never:#?}\nreached and not expected: {new:#?}\nWhat is reached now is in {path}: judge the \
             difference, then it may take the place of tests/model/random/transitions.txt."
        );
    }
}

#[test]
fn the_same_events_give_the_same_actions() {
    on_all_cores(
        2000,
        |seed, ()| {
            let log = || {
                let (mut witness, steps) = scene(seed);
                witness.log = Some(Vec::new());
                let _ = steps.iter().try_for_each(|step| witness.step(step));
                witness.log
            };
            if log() == log() { Ok(()) } else { Err("not the same twice".into()) }
        },
        || (),
    );
}

/// A fence refuses writes, or has an old master made a replica. Who is master, what is read and how long a hold lasts it
/// changes nothing about: so the other tests, and the model, are true of machines with fences as well.
#[test]
fn fences_change_nothing_but_what_they_are_for() {
    let of = |seed, counts: &mut (u64, u64)| {
        let (mut plain, steps) = scene(seed);
        let mut rng = Rng::with_seed(seed);
        let settings = Settings { fence_without_quorum: true, fence_old_master: true, ..settings(&mut rng) };
        let mut fenced = begun(&mut rng, settings);
        fenced.log = Some(Vec::new());
        // A fence publishes more: by number, what is old to the one may be news to the other.
        for step in steps.into_iter().filter(|s| !matches!(s.event, Some(steps::Happening::AcknowledgeOld))) {
            let before = fenced.machine.topology().clone();
            plain.step(&step)?;
            fenced.step(&step)?;
            let (with, without) = (fenced.machine.topology(), plain.machine.topology());
            let same = |t: &Topology| (t.generation, t.reads, t.writes.node, t.parked_safe_before);
            if same(with) != same(without) {
                return Err(format!("{with:?}, and without fences {without:?}"));
            }
            if with.writes.flow != without.writes.flow {
                counts.0 += 1;
                if with.writes.flow != Flow::Refused {
                    return Err(format!("{with:?}, and without fences {without:?}"));
                }
            }
            for action in fenced.log.as_mut().expect("asked for").drain(..) {
                let Action::Demote(demotion) = action else { continue };
                counts.1 += 1;
                let nodes = (demotion.old, Some(demotion.new));
                if Some(nodes.0) == with.writes.node || nodes.1 != with.writes.node || before.generation == 0 {
                    return Err(format!("{demotion:?}, and {with:?}"));
                }
            }
        }
        Ok(())
    };
    let counts = on_all_cores(10_000, of, || (0, 0));
    let (refused, demoted) = counts.into_iter().fold((0, 0), |sum, c| (sum.0 + c.0, sum.1 + c.1));
    eprintln!("writes refused by the fence alone {refused} times, {demoted} old masters demoted");
    assert!(refused > 1000 && demoted > 100, "they were hardly ever up: {refused}, {demoted}");
}

/// Answers to questions from before a hold change nothing in it.
#[test]
fn late_answers_change_nothing() {
    for seed in 0..2000 {
        let mut rng = Rng::with_seed(seed);
        let settings = Settings { managed: true, hold_timeout: Duration::from_secs(15), ..settings(&mut rng) };
        let mut witness = Witness::new(settings);
        let tell = |witness: &mut Witness, event| witness.event(event).unwrap();
        let say = |witness: &mut Witness, n: u16, answer| {
            let asked = witness.now;
            witness.event(Event::Role { node: node(n), asked, answer }).unwrap();
        };
        (0..SENTINELS).for_each(|id| tell(&mut witness, Event::View(SentinelId(id), view(1, 1, false, false))));
        witness.now = Moment(witness.now.0 + 1);
        say(&mut witness, 1, master(100, "run-1"));
        assert_eq!(witness.machine.topology().writes.flow, Flow::Flowing);
        witness.now = Moment(witness.now.0 + 5050);
        (2..=NODES).for_each(|n| say(&mut witness, n, replica(1, 100)));
        tell(&mut witness, Event::Published(SentinelId(0), Message::SelectedSlave(node(2))));
        (0..2).for_each(|id| tell(&mut witness, Event::View(SentinelId(id), view(2, 2, false, false))));
        let (began, published) = (witness.now, witness.machine.topology().clone());
        for step in sequence(&mut rng) {
            if let Some(steps::Happening::Role { node, age, answer }) = step.event {
                witness.now = Moment(witness.now.0 + 1);
                tell(&mut witness, Event::Role { node, asked: Moment(began.0 - 1 - age % 5000), answer });
                assert_eq!(witness.machine.topology(), &published, "seed {seed}");
            }
        }
    }
}

/// Whatever happened, once all is well again and stays so, traffic flows.
#[test]
fn it_always_recovers() {
    on_all_cores(
        4000,
        |seed, ()| {
            let mut witness = run(seed, &scene(seed).1)?;
            let n = 1 + (seed % u64::from(NODES)) as u16;
            recover(&mut witness, n)?;
            let writes = witness.machine.topology().writes;
            if (writes.node, writes.flow) != (Some(node(n)), Flow::Flowing) || !witness.machine.is_settled() {
                return Err(format!("does not recover: {:?}", witness.machine.topology()));
            }
            Ok(())
        },
        || (),
    );
}

/// For 20 s everybody says that all is well with this node as master.
fn recover(witness: &mut Witness, n: u16) -> Result<(), String> {
    witness.event(Event::Switchover(SwitchoverEvent::Released))?;
    for id in 0..SENTINELS {
        witness.event(known(id))?;
        witness.event(Event::SentinelUp(SentinelId(id)))?;
        witness.event(Event::Published(SentinelId(id), Message::FailoverEnd))?;
    }
    witness.event(Event::StaticMaster(node(n)))?;
    for _ in 0..200 {
        witness.step(&Step { pause: 100, event: None })?;
        for other in 1..=NODES {
            let answer = if other == n { master(1000, "run-1") } else { replica(n, 1000) };
            witness
                .step(&Step { pause: 0, event: Some(steps::Happening::Role { node: node(other), age: 0, answer }) })?;
        }
        for id in 0..SENTINELS {
            witness.event(Event::View(SentinelId(id), view(n, 9, false, false)))?;
        }
        witness.event(Event::Acknowledged(witness.machine.topology().seq))?;
        witness.event(Event::Prepared(witness.machine.topology().generation))?;
    }
    Ok(())
}
