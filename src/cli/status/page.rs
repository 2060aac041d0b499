//! The page that `pointsman status` shows.

use crate::admin::words::{Mood, agrees, count, duration, flow, master, node, said, second, since, verdict, why};
use crate::admin::{Service, Status};
use crate::cli::table::{Cell, Look, Table, Tone};
use crate::topology::record::FailoverRecord;
use crate::topology::status::{Phase, ReplicaStatus, ServiceStatus, WallTime};

/// How much of the failovers is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Detail {
    /// The state, and one line for each failover.
    Summary,
    /// Nothing but the failovers, each with all its events.
    Failovers,
    /// One of them.
    Failover(u64),
}

/// The whole page; none if the failover asked for is not on record.
pub(super) fn page(status: &Status, address: &str, detail: Detail, now: WallTime, look: Look) -> Option<String> {
    let mut lines = Vec::new();
    if detail == Detail::Summary {
        let uptime = duration((status.uptime_seconds * 1000.0) as u64);
        let draining = if status.draining { ", DRAINING: it takes no new clients" } else { "" };
        let (version, workers) = (&status.version, count(status.workers as u64, "worker"));
        lines.push(format!("pointsman {version} at {address}, up {uptime}, {workers}{draining}"));
        if let Some(level) = &status.log_level {
            lines.push(look.paint(
                &format!("log level {level}, set while it runs (`log-level default` sets it back)"),
                Tone::Warn,
            ));
        }
        for service in &status.services {
            lines.push(String::new());
            lines.extend(state(service, now, look));
        }
    } else {
        for service in &status.services {
            let wanted = |r: &FailoverRecord| detail == Detail::Failovers || detail == Detail::Failover(r.number);
            for record in service.status.records.iter().filter(|r| wanted(r)) {
                if !lines.is_empty() {
                    lines.push(String::new());
                }
                lines.extend(story(&service.status.service, record, look));
            }
        }
        if lines.is_empty() {
            return (detail == Detail::Failovers).then(|| "no failover since the start\n".to_owned());
        }
    }
    lines.push(String::new());
    Some(lines.join("\n"))
}

/// One service.
fn state(service: &Service, now: WallTime, look: Look) -> Vec<String> {
    let status = &service.status;
    let (word, mood) = verdict(status);
    let tone = match mood {
        Mood::Good => Tone::Good,
        Mood::Warn => Tone::Warn,
        Mood::Bad => Tone::Bad,
    };
    let since = since(status);
    let (since, ago) = (second(since), duration(now.0.saturating_sub(since.0)));
    let name = look.paint(&status.service, Tone::Title);
    let mut lines = vec![format!("{name}: {} since {since} UTC, {ago} ago", look.paint(word, tone))];

    let mut facts = Table::default();
    if let Some(why) = why(status) {
        facts.row(["why".into(), Cell::from(why).toned(tone)]);
    }
    let none = || Cell::from("none was confirmed since the start").toned(Tone::Bad);
    facts.row(["master".into(), master(status).map_or_else(none, Cell::from)]);
    if let Some(why) = status.unsettled.as_ref().filter(|_| status.phase == Phase::Stable) {
        facts.row(["not settled".into(), Cell::from(why).toned(Tone::Warn)]);
    }
    facts.row(["traffic".into(), format!("{}, {}", flow("reads", status.reads), flow("writes", status.writes)).into()]);
    let waiting = count(service.commands_waiting, "command");
    facts.row(["clients".into(), format!("{} connected, {waiting} waiting", service.clients).into()]);
    let c = service.counts;
    let since_start = format!(
        "{} held, {} sent again, {} refused, {} of unknown outcome",
        count(c.held, "command"),
        c.resent,
        c.refused,
        c.unknown
    );
    facts.row(["since start".into(), since_start.into()]);
    let pools = service.backend_connections;
    let shared = count(pools.master + pools.replica, "shared connection");
    facts.row(["pools".into(), format!("{shared}, {} pinned", pools.pinned).into()]);
    lines.extend(facts.lines(2, look));

    if !status.replicas.is_empty() {
        lines.extend(replicas(&status.replicas).lines(2, look));
    }
    if !status.sentinels.is_empty() {
        lines.extend(sentinels(status).lines(2, look));
    }
    if !status.records.is_empty() {
        lines.extend(failovers(status).lines(2, look));
    }
    lines
}

fn replicas(replicas: &[ReplicaStatus]) -> Table {
    let mut table = Table::titled(["REPLICA", "OFFSET", "BEHIND", "SAYS"]);
    for replica in replicas {
        let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let well = replica.link == "connected";
        let says = if well { "connected replica" } else { &replica.link };
        table.row([
            replica.node.to_string().into(),
            number(replica.offset).into(),
            number(replica.behind).into(),
            Cell::from(says).toned(if well { Tone::Plain } else { Tone::Warn }),
        ]);
    }
    table
}

fn sentinels(status: &ServiceStatus) -> Table {
    let mut table = Table::titled(["SENTINEL", "HEARD", "SAYS"]);
    for sentinel in &status.sentinels {
        let tone = if agrees(sentinel, status) { Tone::Plain } else { Tone::Warn };
        table.row([
            sentinel.endpoint.to_string().into(),
            Cell::from(if sentinel.up { "yes" } else { "NO" }).toned(if sentinel.up { Tone::Plain } else { Tone::Bad }),
            Cell::from(said(sentinel)).toned(tone),
        ]);
    }
    table
}

/// One line for each, the last first.
fn failovers(status: &ServiceStatus) -> Table {
    let mut table = Table::titled(["#", "BEGAN (UTC)", "KIND", "WAITED", "MASTER, LOSS"]);
    for record in status.records.iter().rev() {
        let unknown = record.counts.unknown;
        let lost = record.offset_lost.is_certain();
        let mut text = match record.lasted_ms {
            None => record.cause.clone(),
            Some(_) => format!("{}, {}", node(record.to), record.offset_lost),
        };
        if unknown > 0 {
            text += &format!(", {unknown} of unknown outcome");
        }
        table.row([
            record.number.to_string().into(),
            second(record.began).into(),
            if record.lasted_ms.is_some() { record.kind.label() } else { "IT LASTS" }.into(),
            format!("{} ms", record.writes_held_ms).into(),
            Cell::from(text).toned(if lost || unknown > 0 { Tone::Warn } else { Tone::Plain }),
        ]);
    }
    table
}

/// One failover with all its events.
fn story(service: &str, record: &FailoverRecord, look: Look) -> Vec<String> {
    let c = record.counts;
    let what = match record.lasted_ms {
        Some(_) => record.kind.label(),
        None => "it lasts",
    };
    let title = format!("failover {} of {service}", record.number);
    let mut lines = vec![format!("{} ({what})", look.paint(&title, Tone::Title))];
    let mut facts = Table::default();
    let lasted = record.lasted_ms.map_or_else(String::new, |ms| format!(", lasted {ms} ms"));
    facts.row(["began".into(), format!("{}{lasted}", record.began).into()]);
    facts.row(["because".into(), Cell::from(&record.cause)]);
    if record.lasted_ms.is_some() {
        facts.row(["outcome".into(), Cell::from(&record.outcome)]);
        let changed = format!("{} -> {}, generation {}", node(record.from), node(record.to), record.generation);
        facts.row(["master".into(), changed.into()]);
    } else {
        facts.row(["master".into(), node(record.from).into()]);
    }
    facts.row([
        "waited".into(),
        format!("writes {} ms, reads {} ms", record.writes_held_ms, record.reads_held_ms).into(),
    ]);
    let counts = format!(
        "{} held, {} parked, {} sent again, {} refused, {} of unknown outcome",
        c.held, c.parked, c.resent, c.refused, c.unknown
    );
    facts.row(["commands".into(), counts.into()]);
    if record.lasted_ms.is_some() {
        facts.row(["data".into(), record.offset_lost.to_string().into()]);
    }
    lines.extend(facts.lines(2, look));
    let mut events = Table::titled(["MS", "WHO", "WHAT"]);
    for event in &record.events {
        events.row([event.ms.to_string().into(), Cell::from(&event.source), Cell::from(&event.text)]);
    }
    lines.extend(events.lines(2, look));
    if record.events_dropped > 0 {
        lines.push(format!("  ({} events in the middle were not kept)", record.events_dropped));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const PLAIN: Look = Look { width: None, colour: false };

    /// Two minutes after a failover of a service that has a replica in trouble and a Sentinel out of hearing.
    const DOCUMENT: &str = r#"{
    "version": "1.2.3", "uptime_seconds": 90061.5, "workers": 2, "draining": false,
    "services": [{
        "service": "orders", "clients": 20, "commands_waiting": 1,
        "counts": {"held": 31, "parked": 6, "resent": 2, "refused": 0, "unknown": 1},
        "backend_connections": {"master": 2, "replica": 0, "pinned": 4},
        "phase": "stable", "master": "10.0.0.2:6379", "run_id": "8f", "offset": 84009, "generation": 2,
        "config_epoch": 1, "provisional": false,
        "reads": {"node": "10.0.0.2:6379", "flow": "flowing"},
        "writes": {"node": "10.0.0.2:6379", "flow": "flowing"},
        "why": "", "since": "2026-11-21T03:00:29.243Z", "settled": false,
        "unsettled": "10.0.0.1:6379 says master",
        "replicas": [
            {"node": "10.0.0.1:6379", "offset": 83000, "link": "says master"},
            {"node": "10.0.0.3:6379", "offset": 83925, "behind": 84, "link": "connected"}
        ],
        "sentinels": [
            {"endpoint": "s1:26379", "learned": false, "up": true, "master": "10.0.0.2:6379", "epoch": 1,
             "failing_over": true, "error": null},
            {"endpoint": "10.0.0.9:26379", "learned": true, "up": false, "master": null, "epoch": null,
             "error": "connect refused"}
        ],
        "failovers_total": [["planned", 1]],
        "writes_held_ms_total": 1123, "reads_held_ms_total": 0, "run_id_changes_total": 0,
        "records": [{
            "number": 1, "began": "2026-11-21T03:00:28.121Z", "lasted_ms": 1122, "kind": "planned",
            "from": "10.0.0.1:6379", "to": "10.0.0.2:6379", "generation": 2,
            "cause": "Sentinel s1:26379 announced a failover",
            "outcome": "10.0.0.2:6379 is master, confirmed by 2 of 3 Sentinels",
            "writes_held_ms": 1123, "reads_held_ms": 0,
            "counts": {"held": 20, "parked": 6, "resent": 0, "refused": 0, "unknown": 1},
            "offset_lost": {"known": "exact", "bytes": 0},
            "events": [
                {"ms": 0, "source": "Sentinel s1:26379", "text": "writes held: Sentinel s1:26379 announced a failover"},
                {"ms": 1123, "source": "pointsman", "text": "writes flow to 10.0.0.2:6379"}
            ],
            "events_dropped": 3
        }]
    }]
}"#;

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).expect("JSON")
    }

    fn show(document: &Value, detail: Detail, look: Look) -> Option<String> {
        let status = serde_json::from_value(document.clone()).expect("a document of /status");
        let now = "2026-11-21T03:02:30.243Z".parse().expect("a time");
        page(&status, "127.0.0.1:9600", detail, now, look)
    }

    #[test]
    fn the_state_at_a_glance() {
        let expected = "\
pointsman 1.2.3 at 127.0.0.1:9600, up 1 d 1 h, 2 workers

orders: flowing since 2026-11-21 03:00:29 UTC, 2 min 1 s ago
  master       10.0.0.2:6379, generation 2, config epoch 1, offset 84009
  not settled  10.0.0.1:6379 says master
  traffic      reads flow to 10.0.0.2:6379, writes flow to 10.0.0.2:6379
  clients      20 connected, 1 command waiting
  since start  31 commands held, 2 sent again, 0 refused, 1 of unknown outcome
  pools        2 shared connections, 4 pinned
  REPLICA        OFFSET  BEHIND  SAYS
  10.0.0.1:6379  83000   -       says master
  10.0.0.3:6379  83925   84      connected replica
  SENTINEL        HEARD  SAYS
  s1:26379        yes    master 10.0.0.2:6379, config epoch 1, is failing over
  10.0.0.9:26379  NO     connect refused (learned)
  #  BEGAN (UTC)          KIND     WAITED   MASTER, LOSS
  1  2026-11-21 03:00:28  planned  1123 ms  10.0.0.2:6379, nothing lost, 1 of unknown outcome
";
        assert_eq!(show(&document(), Detail::Summary, PLAIN).as_deref(), Some(expected));
        let narrow = show(&document(), Detail::Summary, Look { width: Some(80), ..PLAIN }).expect("a page");
        assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
    }

    #[test]
    fn each_event_of_a_failover() {
        let expected = "\
failover 1 of orders (planned)
  began     2026-11-21T03:00:28.121Z, lasted 1122 ms
  because   Sentinel s1:26379 announced a failover
  outcome   10.0.0.2:6379 is master, confirmed by 2 of 3 Sentinels
  master    10.0.0.1:6379 -> 10.0.0.2:6379, generation 2
  waited    writes 1123 ms, reads 0 ms
  commands  20 held, 6 parked, 0 sent again, 0 refused, 1 of unknown outcome
  data      nothing lost
  MS    WHO                WHAT
  0     Sentinel s1:26379  writes held: Sentinel s1:26379 announced a failover
  1123  pointsman          writes flow to 10.0.0.2:6379
  (3 events in the middle were not kept)
";
        assert_eq!(show(&document(), Detail::Failover(1), PLAIN).as_deref(), Some(expected));
        assert_eq!(show(&document(), Detail::Failovers, PLAIN).as_deref(), Some(expected));
        assert_eq!(show(&document(), Detail::Failover(2), PLAIN), None);
    }

    #[test]
    fn what_is_wrong_comes_first() {
        let first = |change: &dyn Fn(&mut Value)| {
            let mut document = document();
            change(&mut document["services"][0]);
            let page = show(&document, Detail::Summary, PLAIN).expect("a page");
            page.lines().skip(2).take(2).map(str::to_owned).collect::<Vec<_>>()
        };
        let held = first(&|s| {
            s["writes"]["flow"] = "held".into();
            s["phase"] = "held".into();
            s["why"] = "Sentinel s1:26379 announced a failover".into();
        });
        assert_eq!(held[0], "orders: WRITES HELD since 2026-11-21 03:00:29 UTC, 2 min 1 s ago");
        assert_eq!(held[1], "  why          Sentinel s1:26379 announced a failover");
        let refused = first(&|s| {
            s["reads"]["flow"] = "refused".into();
            s["writes"]["flow"] = "refused".into();
        });
        assert!(refused[0].starts_with("orders: REFUSED since"), "{refused:?}");
        let starting = first(&|s| {
            s["phase"] = "starting".into();
            s["master"] = Value::Null;
            s["reads"] = json!({"node": null, "flow": "held"});
            s["writes"] = json!({"node": null, "flow": "held"});
        });
        assert!(starting[0].starts_with("orders: NO MASTER YET since"), "{starting:?}");
        assert!(starting[1].ends_with("none was confirmed since the start"), "{starting:?}");
    }

    #[test]
    fn colour_marks_the_state_only_where_it_is_wanted() {
        let look = Look { colour: true, ..PLAIN };
        let page = show(&document(), Detail::Summary, look).expect("a page");
        assert!(page.contains("\x1b[32mflowing\x1b[0m since"), "{page}");
    }
}
