//! `GET /` for a browser: how every service stands, on one page without anything from elsewhere.
//!
//! All of it is made here, also for those who run no scripts. The script fetches the page again every second, puts what
//! is new in place, and draws the charts from `/metrics`.

mod timeline;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::words::{Mood, agrees, count, duration, flow, master, node, said, second, since, verdict, why};
use super::{Service, Status};
use crate::topology::record::FailoverRecord;
use crate::topology::status::{ServiceStatus, WallTime};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Nothing is loaded from anywhere, nothing is sent to anywhere else, and nobody frames it.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                                 connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The whole page.
pub(super) fn page(status: &Status, now: WallTime) -> String {
    let uptime = duration((status.uptime_seconds * 1000.0) as u64);
    let names: Vec<&str> = status.services.iter().map(|s| s.status.service.as_str()).collect();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "pointsman: " (names.join(", ")) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "pointsman" }
                    p id="process" {
                        (status.version) ", up " (uptime) ", " (count(status.workers as u64, "worker"))
                        @if status.draining { " " strong class="bad" { "drains: it takes no new clients" } }
                    }
                    p id="stale" hidden { "no answer since " time {} }
                }
                main { @for service in &status.services { (section(service, now)) } }
                footer { a href="status" { "JSON" } " · " a href="metrics" { "metrics" } " · " a href="readyz" { "ready?" } }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

fn class(mood: Mood) -> &'static str {
    match mood {
        Mood::Good => "good",
        Mood::Warn => "warn",
        Mood::Bad => "bad",
    }
}

fn section(service: &Service, now: WallTime) -> Markup {
    let status = &service.status;
    let (word, mood) = verdict(status);
    html! {
        section data-service=(status.service) {
            div class="state" {
                h2 { (status.service) " " span class={ "badge " (class(mood)) } { (word) } }
                p class="since" {
                    "since " time datetime=(since(status)) { (second(since(status))) " UTC" } ", "
                    (duration(now.0.saturating_sub(since(status).0))) " ago"
                }
                (facts(service))
                (replicas(status))
                (sentinels(status))
            }
            // Filled by the script, and kept while the rest is replaced.
            div class="charts" {}
            div class="records" { (records(status)) }
        }
    }
}

fn facts(service: &Service) -> Markup {
    let status = &service.status;
    let (c, pools) = (service.counts, service.backend_connections);
    html! {
        dl {
            @if let Some(why) = why(status) { dt { "why" } dd class="warn" { (why) } }
            dt { "master" }
            @match master(status) {
                Some(master) => dd { (master) },
                None => dd class="bad" { "none was confirmed since the start" },
            }
            @if let Some(why) = &status.unsettled { dt { "not settled" } dd class="warn" { (why) } }
            dt { "traffic" } dd { (flow("reads", status.reads)) ", " (flow("writes", status.writes)) }
            dt { "clients" }
            dd { (service.clients) " connected, " (count(service.commands_waiting, "command")) " waiting" }
            dt { "since start" }
            dd {
                (count(c.held, "command")) " held, " (c.resent) " sent again, " (c.refused) " refused, "
                span class=[(c.unknown > 0).then_some("warn")] { (c.unknown) " of unknown outcome" }
            }
            dt { "pools" }
            dd { (count(pools.master + pools.replica, "shared connection")) ", " (pools.pinned) " pinned" }
        }
    }
}

fn replicas(status: &ServiceStatus) -> Markup {
    let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    html! {
        @if !status.replicas.is_empty() {
            table {
                thead { tr { th { "Replica" } th class="number" { "Offset" } th class="number" { "Behind" } th { "Says" } } }
                tbody {
                    @for replica in &status.replicas {
                        @let well = replica.link == "connected";
                        tr {
                            td { (replica.node) }
                            td class="number" { (number(replica.offset)) }
                            td class="number" { (number(replica.behind)) }
                            td class=[(!well).then_some("warn")] { (if well { "connected replica" } else { &replica.link }) }
                        }
                    }
                }
            }
        }
    }
}

fn sentinels(status: &ServiceStatus) -> Markup {
    html! {
        @if !status.sentinels.is_empty() {
            table {
                thead { tr { th { "Sentinel" } th { "Heard" } th { "Says" } } }
                tbody {
                    @for sentinel in &status.sentinels {
                        tr {
                            td { (sentinel.endpoint) }
                            @if sentinel.up { td { "yes" } } @else { td class="bad" { "NO" } }
                            td class=[(!agrees(sentinel, status)).then_some("warn")] { (said(sentinel)) }
                        }
                    }
                }
            }
        }
    }
}

fn records(status: &ServiceStatus) -> Markup {
    html! {
        @if !status.records.is_empty() {
            h3 { "Failovers" }
            @for record in status.records.iter().rev() { (story(record)) }
        }
    }
}

fn story(record: &FailoverRecord) -> Markup {
    let c = record.counts;
    let bad = record.offset_lost.is_certain() || c.unknown > 0;
    html! {
        details data-number=(record.number) {
            summary {
                span class="kind" { (record.number) " " (if record.lasted_ms.is_some() { record.kind.label() } else { "it lasts" }) }
                " " time datetime=(record.began) { (second(record.began)) " UTC" }
                " " span { "writes waited " (record.writes_held_ms) " ms" }
                @if record.lasted_ms.is_some() {
                    " " span class=[bad.then_some("warn")] { (node(record.to)) ", " (record.offset_lost) }
                }
                (timeline::draw(record))
            }
            dl {
                dt { "because" } dd { (record.cause) }
                @if record.lasted_ms.is_some() {
                    dt { "outcome" } dd { (record.outcome) }
                    dt { "master" } dd { (node(record.from)) " → " (node(record.to)) ", generation " (record.generation) }
                }
                dt { "waited" } dd { "writes " (record.writes_held_ms) " ms, reads " (record.reads_held_ms) " ms" }
                dt { "commands" }
                dd {
                    (c.held) " held, " (c.parked) " parked, " (c.resent) " sent again, " (c.refused) " refused, "
                    (c.unknown) " of unknown outcome"
                }
            }
            table {
                thead { tr { th class="number" { "ms" } th { "Who" } th { "What" } } }
                tbody {
                    @for event in &record.events {
                        tr { td class="number" { (event.ms) } td { (event.source) } td { (event.text) } }
                    }
                }
            }
            @if record.events_dropped > 0 { p { (record.events_dropped) " events in the middle were not kept" } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_is_text_and_never_markup() {
        let mut status = ServiceStatus::unknown("<b>\"'&");
        status.why = "<script>alert(1)</script>".to_owned();
        let service = Service {
            clients: 1,
            commands_waiting: 0,
            counts: Default::default(),
            backend_connections: Default::default(),
            status,
        };
        let version = "1".to_owned();
        let document = Status {
            version,
            uptime_seconds: 1.0,
            workers: 1,
            draining: false,
            log_level: None,
            services: vec![service],
        };
        let page = page(&document, WallTime::now());
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && !page.contains("<script>alert"), "{page}");
        assert!(page.contains("data-service=\"&lt;b&gt;&quot;'&amp;\""), "{page}");
        assert!(page.contains(">NO MASTER YET<"), "{page}");
        assert_eq!(page.matches("<script>").count(), 1);
        for elsewhere in ["src=", "href=\"http", "url(", "@import"] {
            assert!(!page.contains(elsewhere), "{elsewhere}");
        }
    }
}
