//! What is wrong with a configuration, and where: one line each.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a value was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In a file, with line and column counted from 1 (columns in characters).
    Position {
        /// The path as it was given.
        path: Arc<Path>,
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// A file as a whole.
    File(PathBuf),
    /// A command line flag, or an environment variable, by its name.
    Named(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::File(path) => path.display().fmt(f),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong, or (as a warning) suspicious.
///
/// The message never contains a secret, so it must not contain a value that stands where a secret was expected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What, on one line: what was found and what was expected.
    pub message: String,
}

impl Problem {
    /// A problem at a place.
    pub fn new(place: &Place, message: impl Into<String>) -> Self {
        Self { place: place.clone(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A file name or value from outside may hold a line break; the promise is one line each.
        let text = format!("{}: {}", self.place, self.message);
        text.split(char::is_control).filter(|part| !part.is_empty()).enumerate().try_for_each(|(i, part)| {
            f.write_str(if i == 0 { "" } else { " " })?;
            f.write_str(part)
        })
    }
}

/// Everything that is wrong, in the order of the file. Displays one line each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(i, problem)| {
            f.write_str(if i == 0 { "" } else { "\n" })?;
            problem.fmt(f)
        })
    }
}

impl std::error::Error for Problems {}

impl Problems {
    /// Nothing, if there are none; else all in the order of the file, those without a line first.
    pub(super) fn none_of(mut problems: Vec<Problem>) -> Result<(), Self> {
        problems.sort_by_key(|p| match p.place {
            Place::Position { line, column, .. } => (line, column),
            _ => (0, 0),
        });
        if problems.is_empty() { Ok(()) } else { Err(Self(problems)) }
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line() {
        let place = Place::Position { path: Path::new("a\nb.toml").into(), line: 3, column: 9 };
        assert_eq!(Problem::new(&place, "bad `x\r\ny`").to_string(), "a b.toml:3:9: bad `x y`");
    }
}
