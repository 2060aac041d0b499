//! The code in `docs/clients.md` is code of the programs in `tests/e2e/`, which `make test` runs.

use std::fs;
use std::path::Path;

/// Without indentation and empty lines.
fn lines(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_piece_of_code_is_in_a_program() {
    let directory_of = |language| match language {
        "c" => "c",
        "js" => "node",
        "perl" => "perl",
        "php" => "php",
        "python" => "python",
        other => panic!("no programs in {other:?}"),
    };
    let doc = include_str!("../../docs/clients.md");
    let pieces: Vec<&str> = doc.split("```").skip(1).step_by(2).collect();
    assert!(pieces.len() > 10, "{}", pieces.len());
    for piece in pieces {
        let (language, code) = piece.split_once('\n').unwrap();
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e").join(directory_of(language));
        let programs =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        let found =
            programs.map(|path| fs::read_to_string(path).unwrap()).any(|text| lines(&text).contains(&lines(code)));
        assert!(found, "in no program in {}:\n{code}", directory.display());
    }
}
