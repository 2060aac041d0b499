//! The shipped configurations and the reference of the keys say what the code does.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::configuration::{Dir, SERVICE, resolve};
use pointsman::config::{Environment, KEYS, Key, Resolved, Table, load};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap()
}

/// A file that gives every key that has a default, and the required ones.
fn every_default() -> String {
    let mut text = String::new();
    for table in [Table::Root, Table::Log, Table::Service, Table::Limits, Table::Listen, Table::Hook] {
        match table {
            Table::Root | Table::Limits => {}
            Table::Log => text.push_str("[log]\n"),
            Table::Service => {
                text.extend(SERVICE.lines().filter(|l| !l.starts_with("listen")).map(|l| format!("{l}\n")))
            }
            Table::Listen => text.push_str("[[service.listen]]\naddress = \"127.0.0.1:1\"\n"),
            Table::Hook => text.push_str("[[hook]]\nname = \"h\"\nurl = \"http://h/\"\n"),
        }
        for Key { name, default, .. } in KEYS.iter().filter(|k| k.table == table) {
            let prefix = if table == Table::Limits { "limits." } else { "" };
            if let Some(default) = default {
                writeln!(text, "{prefix}{name} = {default}").unwrap();
            }
        }
    }
    text
}

#[test]
fn the_defaults_of_the_key_table_are_those_of_the_code() {
    let dir = Dir::new("defaults");
    let spelled_out = resolve(&dir.file("all.toml", every_default()), &Environment::default()).unwrap();
    let silent = resolve(
        &dir.file("none.toml", format!("{SERVICE}[[hook]]\nname = \"h\"\nurl = \"http://h/\"\n")),
        &Environment::default(),
    )
    .unwrap();
    assert_eq!(spelled_out.config, silent.config);
}

#[test]
fn the_minimal_example_runs_as_it_is() {
    let Resolved { config, warnings, .. } =
        resolve(&repository("config/minimal.toml"), &Environment::default()).expect("config/minimal.toml is right");
    assert_eq!(warnings, []);
    assert_eq!(config.services.len(), 1);
    assert!(read("config/minimal.toml").lines().count() <= 5);
}

/// A line of the example that is a key in a comment: `#key = value`, no blank after the `#`.
fn commented_key(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_prefix('#').filter(|r| r.starts_with(|c: char| c.is_ascii_lowercase()))?;
    rest.split_once(" = ")
}

/// A line of the tables in `listen`, which are comments as a whole: `    #   key = value,`.
fn listener_key(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix("    #")?.trim_start_matches(['{', ' ']);
    line.strip_suffix(',').filter(|l| l.starts_with(|c: char| c.is_ascii_lowercase()))?.split_once(" = ")
}

/// A line that begins a table, commented or not.
fn header_of(line: &str) -> Option<&str> {
    Some(line.trim_start_matches('#')).filter(|line| line.starts_with('['))
}

/// A line that is a key, commented or not.
fn any_key(line: &str) -> Option<(&str, &str)> {
    commented_key(line)
        .or_else(|| line.split_once(" = ").filter(|_| line.starts_with(|c: char| c.is_ascii_lowercase())))
}

/// The path of a key given the header it stands under.
fn key_of(header: &str, name: &str) -> &'static Key {
    let path = match header {
        "[log]" => format!("log.{name}"),
        "[[hook]]" => format!("hook.{name}"),
        _ => name.to_owned(),
    };
    KEYS.iter().find(|k| k.path() == path).unwrap_or_else(|| panic!("{path} is not a key"))
}

#[test]
fn the_full_example_has_every_key_at_its_default() {
    let text = read("config/pointsman.toml");
    let mut header = "";
    let mut seen = Vec::new();
    for line in text.lines() {
        header = header_of(line).unwrap_or(header);
        let (key, value) = match (any_key(line), listener_key(line)) {
            (Some((name, value)), _) => (key_of(header, name), value),
            (None, Some((name, value))) => (key_of(header, &format!("listen.{name}")), value),
            (None, None) => continue,
        };
        if key.path() == "listen.address" && seen.contains(&key.path()) {
            continue;
        }
        if let Some(default) = key.default {
            assert_eq!(value, default, "default of {}", key.path());
        }
        seen.push(key.path());
    }
    let all: Vec<String> = KEYS.iter().map(Key::path).collect();
    assert_eq!(seen, all, "every key, once, in the order of the documentation");
    assert!(text.contains("    \"127.0.0.1:6379\",\n    #"), "the tables in `listen` are commented");
}

/// The full example with those of its commented keys uncommented that `which` wants.
fn uncommented(which: impl Fn(&Key) -> bool) -> String {
    let mut header = String::new();
    let mut text = String::new();
    for line in read("config/pointsman.toml").lines() {
        header = header_of(line).unwrap_or(&header).to_owned();
        // A block that is a comment as a whole goes with its first key.
        let commented_header = line.starts_with("#[") && which(key_of(&header, "name"));
        let wanted = commented_header || commented_key(line).is_some_and(|(name, _)| which(key_of(&header, name)));
        let in_table = line.starts_with("    #") && which(key_of(&header, "listen.address"));
        let line = if in_table { line.replacen('#', "", 1) } else { line[usize::from(wanted)..].to_owned() };
        writeln!(text, "{line}").unwrap();
    }
    text
}

#[test]
fn the_full_example_is_right_as_it_is_and_uncommented() {
    let dir = Dir::new("example");
    let as_it_is = resolve(&dir.file("as-it-is.toml", uncommented(|_| false)), &Environment::default()).unwrap();
    // Hooks are told of by what they have no defaults for.
    let defaults = uncommented(|k| k.default.is_some() && k.table != Table::Hook);
    assert_ne!(defaults, uncommented(|_| false));
    let spelled_out = resolve(&dir.file("defaults.toml", defaults), &Environment::default()).unwrap();
    assert_eq!(spelled_out.config, as_it_is.config);
    // All of them: a file may not have both of two alternatives, but each line must be right in itself.
    // The user comes with the package.
    let all = dir.file("all.toml", uncommented(|_| true).replace("user = \"pointsman\"", "user = \"nobody\""));
    load(&all).expect("every key of the example has the right shape");
    let refused = resolve(&all, &Environment::default()).unwrap_err();
    for line in refused.lines() {
        assert!(["found both", "of no use without", "cannot be read"].iter().any(|w| line.contains(w)), "{line}");
    }
}

#[test]
fn the_documentation_has_every_key_and_its_default() {
    let text = read("docs/configuration.md");
    let mut documented: Vec<(String, Option<String>)> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("### `").and_then(|l| l.strip_suffix('`')) {
            documented.push((name.to_owned(), None));
        } else if let Some(default) = line.strip_prefix("Default: ") {
            let (name, slot) = documented.last_mut().expect("a default follows a heading");
            assert_eq!(*slot, None, "two defaults for {name}");
            *slot = Some(default.trim_matches('`').to_owned());
        }
    }
    let expected: Vec<(String, Option<String>)> =
        KEYS.iter().map(|k| (k.path(), Some(k.default.unwrap_or("none").to_owned()))).collect();
    assert_eq!(documented, expected);
}
