//! One failover, drawn: for how long writes waited, and when what happened.

use maud::{Markup, html};

use crate::topology::record::FailoverRecord;

/// Width and height in the units of the drawing; the browser stretches it.
const WIDTH: u64 = 1000;
const HEIGHT: u64 = 24;

/// A bar from the hold to the last event, red as long as writes waited, with a stroke for each event.
pub(super) fn draw(record: &FailoverRecord) -> Markup {
    let last = record.events.iter().map(|event| event.ms).max().unwrap_or(0);
    let span = last.max(record.writes_held_ms).max(record.lasted_ms.unwrap_or(0)).max(1);
    let x = |ms: u64| ms.min(span) * WIDTH / span;
    html! {
        svg class="timeline" viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img"
            aria-label={ "writes waited " (record.writes_held_ms) " of " (span) " ms" } {
            rect class="span" x="0" y="8" width=(WIDTH) height="8" {}
            rect class="held" x="0" y="8" width=(x(record.writes_held_ms)) height="8" {}
            @for event in &record.events {
                line x1=(x(event.ms)) x2=(x(event.ms)) y1="3" y2="21" {
                    title { (event.ms) " ms, " (event.source) ": " (event.text) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_drawn_outside_of_the_picture() {
        let document = r#"{"number": 1, "began": "2026-11-21T03:00:28.121Z", "lasted_ms": 100, "kind": "crash",
            "from": null, "to": null, "generation": 1, "cause": "", "outcome": "", "writes_held_ms": 50,
            "reads_held_ms": 0, "counts": {"held": 0, "parked": 0, "resent": 0, "refused": 0, "unknown": 0},
            "offset_lost": {"known": "exact", "bytes": 0},
            "events": [{"ms": 0, "source": "a", "text": "b"}, {"ms": 200, "source": "c", "text": "d"}],
            "events_dropped": 0}"#;
        let mut record: FailoverRecord = serde_json::from_str(document).unwrap();
        let drawn = draw(&record).into_string();
        assert!(drawn.contains("class=\"held\" x=\"0\" y=\"8\" width=\"250\""), "{drawn}");
        assert!(drawn.contains("x1=\"1000\""), "{drawn}");
        (record.lasted_ms, record.writes_held_ms) = (None, 0);
        record.events.clear();
        assert!(draw(&record).into_string().contains("width=\"0\""), "one that has just begun");
    }
}
