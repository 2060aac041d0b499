//! The layers of `src/`: who imports whom, held against one table, and the table against `docs/architecture.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every module at the root, in layer order, with all that it imports. Whatever a module needs stands above it, so that
/// a change can only be felt further down, and everything can be understood from the top.
const LAYERS: &[(&str, &[&str])] = &[
    ("addr", &[]),
    ("clock", &[]),
    ("complaints", &[]),
    ("resp", &[]),
    ("shutdown", &[]),
    ("tls", &[]),
    ("clients", &["addr", "clock"]),
    ("config", &["addr", "tls"]),
    ("metrics", &["resp"]),
    ("net", &["addr", "config", "resp", "tls"]),
    ("topology", &["addr", "clock", "config"]),
    ("insight", &["metrics", "resp", "topology"]),
    ("backend", &["clients", "clock", "complaints", "config", "insight", "metrics", "net", "resp", "topology"]),
    ("hooks", &["clock", "config", "metrics", "net", "tls", "topology"]),
    ("pool", &["backend", "clock", "net", "topology"]),
    ("sentinel", &["addr", "clock", "config", "net", "resp", "tls", "topology"]),
    ("router", &["backend", "resp"]),
    (
        "session",
        &[
            "addr", "backend", "clients", "clock", "config", "insight", "metrics", "net", "pool", "resp", "router",
            "topology",
        ],
    ),
    ("greeting", &["addr", "complaints", "config", "metrics", "net", "resp", "tls"]),
    (
        "worker",
        &[
            "backend",
            "clients",
            "clock",
            "complaints",
            "config",
            "greeting",
            "insight",
            "metrics",
            "net",
            "pool",
            "resp",
            "session",
            "topology",
        ],
    ),
    ("admin", &["addr", "clients", "clock", "complaints", "config", "insight", "metrics", "net", "resp", "topology"]),
    ("listener", &["complaints", "config", "metrics", "net", "resp", "worker"]),
    ("systemd", &["admin"]),
    (
        "app",
        &[
            "addr", "admin", "backend", "clients", "clock", "config", "hooks", "insight", "listener", "metrics", "net",
            "sentinel", "shutdown", "systemd", "topology", "worker",
        ],
    ),
    ("demo", &["config"]),
    (
        "cli",
        &["addr", "admin", "app", "config", "demo", "hooks", "insight", "metrics", "net", "resp", "tls", "topology"],
    ),
    ("main", &["cli"]),
];

/// Beyond this a file holds more than one idea. The aim is 400.
const MAX_LINES: usize = 600;

/// A source file, comments cut off.
struct Source {
    path: PathBuf,
    code: String,
}

impl Source {
    /// The module at the root that it belongs to.
    fn module(&self) -> String {
        let first = self.path.components().nth(1).expect("it lies in src/").as_os_str().to_string_lossy();
        first.trim_end_matches(".rs").to_owned()
    }

    fn line(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }

    fn place(&self, at: usize) -> String {
        format!("{}:{}", self.path.display(), self.line(at))
    }

    /// The modules at the root that it names, and where.
    fn imports(&self) -> Vec<(usize, String)> {
        // The program sees the library from outside, by its name.
        let root = if self.module() == "main" { "pointsman::" } else { "crate::" };
        let mut found = Vec::new();
        for (at, _) in self.code.match_indices(root) {
            let rest = &self.code[at + root.len()..];
            if let Some(group) = rest.strip_prefix('{') {
                found.extend(heads(group).into_iter().map(|(i, name)| (at + root.len() + 1 + i, name)));
            } else {
                found.push((at, word(rest)));
            }
        }
        found
    }
}

/// The first segment of each path in a `{…}` group, from behind its brace, and where it begins.
fn heads(group: &str) -> Vec<(usize, String)> {
    let (mut depth, mut expected, mut found) = (0, true, Vec::new());
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expected = true,
            c if expected && !c.is_whitespace() => {
                found.push((i, word(&group[i..])));
                expected = false;
            }
            _ => {}
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    fn walk(dir: &Path, found: &mut Vec<Source>) {
        for entry in fs::read_dir(root().join(dir)).expect("src/ can be read") {
            let path = dir.join(entry.expect("src/ can be read").file_name());
            if root().join(&path).is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(root().join(&path)).expect("a source is text");
                let code = text.lines().map(|l| l.split("//").next().unwrap_or_default());
                found.push(Source { path, code: code.collect::<Vec<_>>().join("\n") });
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("src"), &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found.retain(|s| s.path != Path::new("src/lib.rs"));
    assert!(found.len() > 50, "src/ was not found");
    found
}

fn row(module: &str) -> &'static [&'static str] {
    LAYERS.iter().find(|(m, _)| *m == module).unwrap_or_else(|| panic!("{module} is not in the table")).1
}

#[test]
fn modules_import_what_the_table_says() {
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for source in sources() {
        let module = source.module();
        for (at, import) in source.imports() {
            if import != module && !row(&module).contains(&import.as_str()) {
                wrong.push(format!("{}: {module} may not import {import}", source.place(at)));
            }
            used.insert((module.clone(), import));
        }
    }
    for (module, imports) in LAYERS {
        let unused = imports.iter().filter(|i| !used.contains(&((*module).to_owned(), (**i).to_owned())));
        wrong.extend(unused.map(|i| format!("the table lets {module} import {i}, which it does not any more")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `super::super::…` could reach the root too, past the table.
#[test]
fn the_root_is_reached_by_its_name_only() {
    let mut wrong = Vec::new();
    for source in sources() {
        let names = source.path.components().count() - 1;
        let depth = if source.path.ends_with("mod.rs") { names - 1 } else { names };
        for (i, line) in source.code.lines().enumerate() {
            // What is indented may stand in a module within the file.
            let deepest = if line.starts_with(' ') { depth + 1 } else { depth };
            if line.contains(&"super::".repeat(deepest)) {
                wrong.push(format!("{}:{}: write crate::", source.path.display(), i + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_has_no_circle() {
    for (i, (module, imports)) in LAYERS.iter().enumerate() {
        for import in *imports {
            assert!(LAYERS[..i].iter().any(|(m, _)| m == import), "{module} imports {import}, which is not above it");
        }
        assert!(imports.is_sorted(), "{module}: in alphabetical order, please");
    }
}

#[test]
fn lib_rs_declares_in_the_order_of_the_table() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let declared: Vec<&str> =
        lib.lines().filter_map(|l| l.strip_prefix("pub mod ")).map(|l| l.trim_end_matches(';')).collect();
    let expected: Vec<&str> = LAYERS.iter().map(|(m, _)| *m).filter(|m| *m != "main").collect();
    assert_eq!(declared, expected);
}

#[test]
fn the_documentation_shows_the_table() {
    let doc = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let section = doc.split("\n## ").find(|s| s.starts_with("Layers\n")).expect("a section `Layers`");
    let shown: Vec<&str> = section.lines().filter(|l| l.starts_with("| `")).collect();
    let expected = LAYERS.iter().map(|(module, imports)| {
        let imports = imports.iter().map(|i| format!("`{i}`")).collect::<Vec<_>>().join(" ");
        format!("| `{module}` | {imports} |").replace("|  |", "| |")
    });
    let expected: Vec<String> = expected.collect();
    let agree = shown.len() == expected.len() && shown.iter().zip(&expected).all(|(s, e)| s.starts_with(e));
    assert!(agree, "the rows in docs/architecture.md must begin with:\n{}", expected.join("\n"));
}

#[test]
fn no_file_has_more_than_one_sitting_can_read() {
    for source in sources() {
        let lines = source.code.lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines, more than {MAX_LINES}", source.path.display());
    }
}

#[test]
fn imports_are_found_however_they_are_written() {
    let code = "use crate::{\n    app, config::{self, error::{A, B}},\n    demo};\nlet x = crate::net::bind();";
    let source = Source { path: "src/cli/mod.rs".into(), code: code.to_owned() };
    let found: Vec<(usize, String)> = source.imports().into_iter().map(|(at, name)| (source.line(at), name)).collect();
    let expected = [(2, "app"), (2, "config"), (3, "demo"), (4, "net")].map(|(l, n)| (l, n.to_owned()));
    assert_eq!(found, expected);
}
