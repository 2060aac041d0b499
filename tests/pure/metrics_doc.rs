//! `docs/metrics.md` says of every metric what the code says, and of no other.

use std::collections::BTreeMap;

use pointsman::metrics::names::{ALL, Kind, Metric};
use pointsman::metrics::{BOUNDS, CLOSE_REASONS, LATENCY_CLASSES};
use pointsman::topology::record::{FAILOVER_KINDS, FailoverKind};

const DOC: &str = include_str!("../../docs/metrics.md");

/// The entry of each metric: what stands between its heading and the next.
fn entries() -> BTreeMap<&'static str, &'static str> {
    let mut entries = BTreeMap::new();
    for section in DOC.split("\n### ").skip(1) {
        let (heading, rest) = section.split_once('\n').expect("a heading ends with its line");
        let name = heading.trim().trim_matches('`');
        let body = rest.split("\n## ").next().expect("split yields at least one part");
        assert!(entries.insert(name, body).is_none(), "{name} has two entries");
    }
    entries
}

fn labels(metric: &Metric) -> String {
    if metric.labels.is_empty() {
        return "none".into();
    }
    metric.labels.iter().map(|l| format!("`{l}`")).collect::<Vec<_>>().join(", ")
}

#[test]
fn every_metric_has_its_entry_and_every_entry_its_metric() {
    let entries = entries();
    let documented: Vec<&str> = entries.keys().copied().collect();
    let mut declared: Vec<&str> = ALL.iter().map(|m| m.name).collect();
    declared.sort_unstable();
    assert_eq!(documented, declared);
}

#[test]
fn an_entry_says_type_labels_unit_help_and_what_to_look_for() {
    let entries = entries();
    for metric in ALL {
        let body = entries.get(metric.name).unwrap_or_else(|| panic!("{} has no entry", metric.name));
        let mut paragraphs = body.trim().split("\n\n");
        let facts = paragraphs.next().unwrap_or_default();
        let start = format!("{} · labels: {} · unit: ", metric.kind.as_str(), labels(metric));
        let unit = facts.strip_prefix(&start).unwrap_or_else(|| panic!("{}: `{facts}` is not `{start}…`", metric.name));
        for suffix in ["seconds", "bytes"] {
            let in_name = metric.name.trim_end_matches("_total").ends_with(suffix);
            assert_eq!(in_name, unit == suffix, "{}: unit `{unit}`", metric.name);
        }
        assert_eq!(paragraphs.next(), Some(metric.help), "help of {}", metric.name);
        if metric.kind == Kind::Histogram {
            let bounds = BOUNDS.map(|b| b.to_string()).join(", ");
            assert_eq!(paragraphs.next(), Some(format!("Upper bounds of the buckets: {bounds}, +Inf.").as_str()));
        }
        let advice = paragraphs.next().unwrap_or_default();
        assert!(advice.starts_with("Look for: "), "{}: `{advice}`", metric.name);
    }
}

#[test]
fn label_values_are_listed() {
    let kinds = FAILOVER_KINDS.map(FailoverKind::label);
    for (label, values) in
        [("reason", CLOSE_REASONS.as_slice()), ("class", LATENCY_CLASSES.as_slice()), ("kind", kinds.as_slice())]
    {
        let row = DOC.lines().find(|l| l.starts_with(&format!("| `{label}` |"))).expect("a row for the label");
        for value in values {
            assert!(row.contains(&format!("`{value}`:")), "label {label} lacks {value}");
        }
    }
}
