//! The parts of the procedure by themselves: each check at its limit, the pause of writes slice by slice, and what is to be
//! done before the end.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::{SENTINEL, healthy, node};
use crate::clock::Moment;
use crate::topology::switchover::checks::{self, CHOSEN, Plan};
use crate::topology::switchover::duties::{Duties, Progress};
use crate::topology::switchover::fence::{self, Fence};
use crate::topology::switchover::{Action, Answer, Request, Right, SentinelSurvey, Server, Survey};
use crate::topology::{ReplicaView, SentinelId, View};

const BEGAN: Moment = Moment(5);
const MASTER: Server = Server::Node(SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 7001)));

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn done() -> Answer {
    Answer::Done("OK".to_owned())
}

fn refused() -> Answer {
    Answer::Refused("NOPERM".to_owned())
}

fn lost() -> Answer {
    Answer::Lost("reset".to_owned())
}

fn view(survey: &mut Survey) -> &mut View {
    survey.sentinels[0].view.as_mut().unwrap()
}

fn replica(survey: &mut Survey, n: u16) -> &mut ReplicaView {
    view(survey).replicas.iter_mut().find(|r| r.node == node(n)).unwrap()
}

/// The verdict on a healthy service with this change: the plan, or the first thing that speaks against it.
fn judged(
    to: Option<u16>,
    answers: &[(Server, Request, Answer)],
    change: impl FnOnce(&mut Survey),
) -> Result<Plan, String> {
    let mut survey = healthy();
    survey.nodes.values_mut().for_each(|n| n.asked = Moment(10));
    change(&mut survey);
    let verdict = checks::judge(&survey, to.map(node), answers, BEGAN);
    let fault = verdict.first_fault().map(str::to_owned);
    verdict.plan.ok_or_else(|| fault.expect("there is no plan, and a reason for it"))
}

/// To node 2, whose priority is said to be this.
fn to_second(priority: &str, change: impl FnOnce(&mut Survey)) -> Result<Plan, String> {
    let found = (Server::Node(node(2)), Request::Priority, Answer::Done(priority.to_owned()));
    judged(Some(2), &[found], change)
}

#[test]
fn a_candidate_may_lag_by_a_mebibyte_and_no_more() {
    let lagging = |by: u64| judged(None, &[], |s| s.nodes.get_mut(&node(1)).unwrap().offset = Some(by));
    assert!(lagging(1 << 20).is_ok());
    assert!(lagging((1 << 20) + 1).unwrap_err().contains("bytes behind"));
}

#[test]
fn a_promotion_must_fit_into_the_time_that_writes_may_wait() {
    let down_after = |time: u64| judged(None, &[], |s| view(s).down_after = ms(time));
    assert_eq!(down_after(667).unwrap().down_after, ms(667));
    assert!(down_after(666).unwrap_err().contains("could wait 499 ms at most"));
    let hold_timeout = |time: u64| judged(None, &[], |s| s.hold_timeout = ms(time));
    assert!(hold_timeout(500).is_ok());
    assert!(hold_timeout(499).unwrap_err().contains("too short"));
    // The shortest of all Sentinels counts: whichever takes the master for dead first.
    let another = |time: u64| {
        judged(None, &[], |s| {
            let mut other = SentinelSurvey { id: SentinelId(1), ..s.sentinels[0].clone() };
            other.view.as_mut().unwrap().down_after = ms(time);
            s.sentinels.push(other);
        })
    };
    assert_eq!(another(800).unwrap().down_after, ms(800));
    assert_eq!(another(30_000).unwrap().down_after, ms(1000));
    assert!(another(600).unwrap_err().contains("too short"));
}

#[test]
fn whatever_is_needed_must_be_permitted() {
    let sentinel = Server::Sentinel(SENTINEL);
    for (server, request, named) in [
        (MASTER, Request::May(Right::Pause), "127.0.0.1:7001 does not permit CLIENT PAUSE … WRITE"),
        (MASTER, Request::May(Right::Follow), "127.0.0.1:7001 does not permit REPLICAOF"),
        (sentinel, Request::May(Right::FailOver), "Sentinel 0 does not permit SENTINEL FAILOVER"),
        (sentinel, Request::Quorum, "Sentinel 0: "),
    ] {
        assert!(judged(None, &[(server, request, done())], |_| ()).is_ok(), "{request:?}");
        for answer in [refused(), lost()] {
            let why = answer.fault().unwrap().to_owned();
            let fault = judged(None, &[(server, request, answer)], |_| ()).unwrap_err();
            assert!(fault.starts_with(named) && fault.ends_with(&why), "{request:?}: {fault}");
        }
    }
    // The right to change a priority is needed where one has to be changed.
    let second = Server::Node(node(2));
    let answers = [
        (second, Request::Priority, Answer::Done("50".to_owned())),
        (second, Request::May(Right::SetPriority), refused()),
    ];
    let first_at = |priority: u32| {
        judged(Some(2), &answers, |s| {
            replica(s, 2).priority = 50;
            replica(s, 3).priority = priority;
        })
    };
    assert!(first_at(100).unwrap().arrange.is_none());
    assert!(first_at(50).unwrap_err().contains("does not permit CONFIG SET replica-priority"));
}

#[test]
fn what_passed_is_said_too() {
    let mut survey = healthy();
    survey.nodes.values_mut().for_each(|n| n.asked = Moment(10));
    let asked = checks::questions(&survey, None).into_iter().map(|(server, request)| (server, request, done()));
    let verdict = checks::judge(&survey, None, &asked.collect::<Vec<_>>(), BEGAN);
    let said: Vec<&str> = verdict.checks.iter().filter(|(ok, _)| *ok).map(|(_, text)| text.as_str()).collect();
    let expected = [
        "127.0.0.1:7001 is master, everybody follows it and every Sentinel has noticed",
        "all 1 Sentinels are in hearing",
        "127.0.0.1:7002 follows 127.0.0.1:7001, 0 bytes behind",
        "127.0.0.1:7003 follows 127.0.0.1:7001, 0 bytes behind",
        "127.0.0.1:7001 permits CLIENT PAUSE … WRITE",
        "127.0.0.1:7001 permits REPLICAOF",
        "Sentinel 0 has a quorum",
        "Sentinel 0 permits SENTINEL FAILOVER",
    ];
    assert_eq!(said, expected);
    assert_eq!(said.len(), verdict.checks.len());
}

#[test]
fn a_priority_is_changed_where_sentinel_may_choose_another() {
    let arranged = |before: &str, shown: u32, other: u32| {
        let plan = to_second(before, |s| {
            replica(s, 2).priority = shown;
            replica(s, 3).priority = other;
        });
        plan.map(|plan| (plan.arrange, plan.candidates))
    };
    let second = BTreeSet::from([node(2)]);
    let change = |before: u32| Ok((Some((node(2), before)), second.clone()));
    assert_eq!(arranged("100", 100, 100), change(100));
    assert_eq!(arranged("50", 50, 100), Ok((None, second.clone())), "it is the one anyway");
    assert_eq!(arranged("100", 50, 100), change(100), "Sentinel has yet to notice what it is");
    assert_eq!(arranged("50", 100, 100), change(50), "the same, the other way round");
    assert_eq!(arranged("3", 3, 2), change(3));
    for other in [1, CHOSEN] {
        let fault = arranged("100", 100, other).unwrap_err();
        assert!(fault.contains("another replica has replica-priority 1"), "{fault}");
    }
    // Who cannot be chosen is no other.
    type Change = fn(&mut ReplicaView);
    let unfit: [Change; 3] = [|r| r.reachable = false, |r| r.link_up = false, |r| r.priority = 0];
    for change in unfit {
        assert!(to_second("100", |s| change(replica(s, 3))).unwrap().arrange.is_none());
    }
    for answer in [refused(), lost(), Answer::Done("low".to_owned())] {
        let found = (Server::Node(node(2)), Request::Priority, answer);
        assert!(judged(Some(2), &[found], |_| ()).unwrap_err().contains("cannot be read"));
    }
}

#[test]
fn sentinel_chooses_among_the_fit_of_the_lowest_priority() {
    let candidates = |change: fn(&mut Survey)| judged(None, &[], change).unwrap().candidates;
    let nodes = |n: &[u16]| n.iter().map(|n| node(*n)).collect::<BTreeSet<_>>();
    assert_eq!(candidates(|_| ()), nodes(&[2, 3]));
    assert_eq!(candidates(|s| replica(s, 3).priority = 101), nodes(&[2]));
    assert_eq!(candidates(|s| replica(s, 2).priority = 0), nodes(&[3]));
    assert_eq!(candidates(|s| replica(s, 2).reachable = false), nodes(&[3]));
    assert_eq!(candidates(|s| replica(s, 2).link_up = false), nodes(&[3]));
    // Who follows is not enough: of each that may be chosen it must be known how far it is.
    let unheard = judged(None, &[], |s| s.nodes.get_mut(&node(2)).unwrap().asked = BEGAN);
    assert!(unheard.unwrap_err().contains("Sentinel may choose 127.0.0.1:7002, which cannot be promoted"));
    assert!(judged(None, &[], |s| drop(s.nodes.remove(&node(2)))).unwrap_err().ends_with("it is not known"));
    assert_eq!(judged(None, &[], |s| s.master = None).unwrap_err(), "no master is confirmed");
}

#[test]
fn the_first_sentinel_that_is_free_is_told() {
    type Change = fn(&mut SentinelSurvey);
    let busy: [Change; 4] = [
        |s| s.tilt = true,
        |s| s.view = None,
        |s| s.view.as_mut().unwrap().master = node(2),
        |s| s.view.as_mut().unwrap().failover_in_progress = true,
    ];
    for change in busy {
        let mut survey = healthy();
        let other = SentinelSurvey { id: SentinelId(1), ..survey.sentinels[0].clone() };
        survey.sentinels.push(other);
        assert_eq!(checks::leader(&survey), Some(SENTINEL));
        change(&mut survey.sentinels[0]);
        assert_eq!(checks::leader(&survey), Some(SentinelId(1)));
        change(&mut survey.sentinels[1]);
        assert_eq!(checks::leader(&survey), None);
    }
}

#[test]
fn nobody_is_asked_for_what_is_not_needed() {
    let survey = healthy();
    let [sentinel, second] = [Server::Sentinel(SENTINEL), Server::Node(node(2))];
    let always = [
        (MASTER, Request::May(Right::Pause)),
        (MASTER, Request::May(Right::Follow)),
        (sentinel, Request::Quorum),
        (sentinel, Request::May(Right::FailOver)),
    ];
    assert_eq!(checks::questions(&survey, None), always);
    assert_eq!(checks::questions(&survey, Some(node(9))), always, "there is no such node");
    let chosen = [(second, Request::Priority), (second, Request::May(Right::SetPriority))];
    assert_eq!(checks::questions(&survey, Some(node(2))), [&always[..], &chosen[..]].concat());
    assert_eq!(checks::name(&survey, Server::Sentinel(SentinelId(7))), "a Sentinel");
}

/// Slices of two fifths of down-after, each begun when a third of the one before has passed.
#[test]
fn the_pause_of_writes_is_renewed_until_its_limit() {
    let new = || Fence::new(Moment(1000), ms(1000), ms(15_000));
    let mut fence = new();
    assert_eq!((fence.slice, fence.limit(), fence.due()), (ms(400), Moment(1750), Some(Moment(1000))));
    assert!(fence.is_due(Moment(1000)) && !fence.is_due(Moment(999)));
    fence.answered(Moment(1000));
    assert!(!fence.is_up(), "nothing was sent");
    fence.sent(Moment(1000));
    assert!(!fence.is_due(Moment(1300)) && fence.due().is_none(), "one at a time");
    assert!(!fence.is_up() && !fence.holds(Moment(1001)), "not before the answer");
    fence.answered(Moment(1010));
    assert!(fence.is_up() && fence.holds(Moment(1399)) && !fence.holds(Moment(1400)), "counted from the sending");
    assert_eq!(fence.due(), Some(Moment(1133)));
    assert!(!fence.is_due(Moment(1132)) && fence.is_due(Moment(1133)));
    assert!(fence.is_due(Moment(1350)) && !fence.is_due(Moment(1351)), "never beyond the limit");
    fence.sent(Moment(1133));
    fence.failed();
    assert!(fence.is_due(Moment(1266)) && fence.holds(Moment(1399)), "tried again, and the one before is in force");

    // The last answer before the end of a slice, and the first after it.
    for (answered, holds) in [(1399, true), (1400, false)] {
        let mut fence = new();
        fence.sent(Moment(1000));
        fence.answered(Moment(1001));
        fence.sent(Moment(1300));
        fence.answered(Moment(answered));
        assert_eq!(fence.holds(Moment(1401)), holds, "answered at {answered}");
        assert!(fence.is_up());
    }
    for (sent, due) in [(1217, Some(Moment(1350))), (1218, None)] {
        let mut fence = new();
        fence.sent(Moment(sent));
        fence.answered(Moment(sent));
        assert_eq!(fence.due(), due);
    }
    assert_eq!(Fence::new(Moment(0), ms(30_000), ms(15_000)).slice, ms(1000));
    let limits = [(2000, 15_000, 1500), (2000, 1000, 1000), (30_000, 15_000, 5000)];
    for (down_after, hold_timeout, limit) in limits {
        assert_eq!(fence::limit(ms(down_after), ms(hold_timeout)), ms(limit));
    }
}

#[test]
fn duties_are_done_one_after_the_other_at_each_server_until_they_work() {
    let (old, other) = (Server::Node(node(1)), Server::Node(node(2)));
    let mut duties = Duties::default();
    assert!(duties.is_empty() && !duties.has_follow());
    let wanted = [
        (old, Request::Follow(node(2))),
        (old, Request::Unpause),
        (other, Request::SetPriority(100)),
        (other, Request::Persist),
    ];
    for (server, request) in wanted {
        duties.add(Moment(10), server, request);
    }
    assert!(duties.has_follow() && !duties.is_empty());
    let mut next_id = 7;
    let mut ask = |duties: &mut Duties, now: u64| {
        let mut out = Vec::new();
        duties.ask(Moment(now), &mut next_id, &mut out);
        let asked =
            |action| if let Action::Ask(id, server, request) = action { (id, server, request) } else { panic!() };
        out.into_iter().map(asked).collect::<Vec<_>>()
    };
    assert_eq!(ask(&mut duties, 9), [], "not due");
    assert_eq!(ask(&mut duties, 10), [(7, old, wanted[0].1), (8, other, wanted[2].1)]);
    assert_eq!(ask(&mut duties, 11), [], "they are out");
    assert_eq!(duties.due().collect::<Vec<_>>(), [Moment(10); 2], "those behind them");
    assert_eq!(duties.answered(Moment(20), 99, &done()), Progress::NotOurs);
    assert_eq!(duties.answered(Moment(20), 7, &lost()), Progress::Again);
    assert_eq!(duties.answered(Moment(20), 7, &done()), Progress::NotOurs, "it was answered");
    assert_eq!(ask(&mut duties, 119), []);
    assert_eq!(ask(&mut duties, 120), [(9, old, wanted[0].1)], "again, and still before what is behind it");
    assert_eq!(duties.answered(Moment(121), 9, &done()), Progress::Done(wanted[0].1));
    assert!(!duties.has_follow());
    assert_eq!(duties.answered(Moment(121), 8, &done()), Progress::Done(wanted[2].1));
    assert_eq!(ask(&mut duties, 121), [(10, old, wanted[1].1), (11, other, wanted[3].1)]);
    // Without a file there is nothing to rewrite; without an answer nobody knows.
    assert_eq!(duties.answered(Moment(130), 11, &lost()), Progress::Again);
    assert_eq!(ask(&mut duties, 230), [(12, other, wanted[3].1)]);
    assert_eq!(duties.answered(Moment(231), 12, &refused()), Progress::Done(Request::Persist));
    assert_eq!(duties.answered(Moment(231), 10, &refused()), Progress::Again);
    let left = duties.give_up();
    assert!(left.len() == 1 && left[0].contains("127.0.0.1:7001") && left[0].ends_with("(NOPERM)"), "{left:?}");
    assert!(duties.is_empty());

    for (request, words) in [
        (Request::Follow(node(2)), Some("could not be made a replica")),
        (Request::SetPriority(42), Some("must be set back to 42")),
        (Request::Unpause, Some("ends by itself")),
        (Request::Persist, None),
    ] {
        let mut duties = Duties::default();
        duties.add(Moment(0), old, request);
        let left = duties.give_up();
        assert_eq!(left.len(), usize::from(words.is_some()), "{left:?}");
        assert!(left.iter().all(|said| said.contains(words.unwrap()) && said.ends_with("(no answer)")), "{left:?}");
    }
}
