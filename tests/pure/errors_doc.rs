//! `docs/errors.md` and the table in the code say the same.

use pointsman::resp::OwnError;

#[test]
fn the_table_for_users_is_the_table_in_the_code() {
    let doc = include_str!("../../docs/errors.md");
    let documented: Vec<&str> = doc.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> = OwnError::TABLE
        .iter()
        .map(|row| {
            format!("| `{:?}` | `-{} pointsman: ` | never | {} | {} |", row.error, row.prefix, row.when, row.advice)
        })
        .collect();
    assert_eq!(documented, expected, "write these rows into docs/errors.md:\n{}", expected.join("\n"));
}
