//! Columns of text, as wide as they must be; the last one is wrapped where the terminal ends.

use std::io::IsTerminal;

/// Narrowest last column that is worth wrapping. Below, the terminal itself breaks the line.
const WRAP_MIN: usize = 20;
/// Between two columns.
const GAP: usize = 2;

/// What the reader's side can show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Columns; none where lines may be of any length.
    pub(super) width: Option<usize>,
    pub(super) colour: bool,
}

impl Look {
    /// Of the terminal, if standard output is one. `NO_COLOR` and `TERM=dumb` are respected.
    pub(super) fn of_stdout() -> Self {
        let stdout = std::io::stdout();
        if !stdout.is_terminal() {
            return Self { width: None, colour: false };
        }
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let given = set("COLUMNS").and_then(|columns| columns.parse().ok());
        let asked = || rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col));
        Self {
            width: given.or_else(asked).filter(|columns| *columns > 0),
            colour: set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb"),
        }
    }

    /// The text in the colour of its tone.
    pub(super) fn paint(self, text: &str, tone: Tone) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            _ if !self.colour => return text.to_owned(),
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "1;31",
            Tone::Title => "1",
            Tone::Dim => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// How something is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
    Title,
    Dim,
}

/// One field. Control characters are shown as spaces: some of the texts are those of servers.
#[derive(Clone, Debug)]
pub(super) struct Cell(String, Tone);

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Cell(text.as_ref().replace(char::is_control, " ").trim().to_owned(), Tone::Plain)
    }
}

impl Cell {
    pub(super) fn toned(self, tone: Tone) -> Self {
        Self(self.0, tone)
    }
}

/// Rows of as many cells each as the first has.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<Vec<Cell>>);

impl Table {
    /// A table whose columns have names.
    pub(super) fn titled<const N: usize>(titles: [&str; N]) -> Self {
        Self(vec![titles.map(|title| Cell::from(title).toned(Tone::Dim)).to_vec()])
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.0.push(cells.to_vec());
    }

    /// The lines, each indented by so many columns.
    pub(super) fn lines(&self, indent: usize, look: Look) -> Vec<String> {
        let columns = self.0.first().map_or(0, Vec::len);
        let widest = |column: usize| self.0.iter().map(|row| row[column].0.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns.saturating_sub(1)).map(widest).collect();
        let before = indent + widths.iter().map(|width| width + GAP).sum::<usize>();
        let room = look.width.and_then(|width| width.checked_sub(before)).filter(|room| *room >= WRAP_MIN);
        let mut lines = Vec::new();
        for row in &self.0 {
            let Some((Cell(last, tone), first)) = row.split_last() else { continue };
            let mut line = " ".repeat(indent);
            for (Cell(text, tone), width) in first.iter().zip(&widths) {
                let padding = width - text.chars().count() + GAP;
                line += &look.paint(text, *tone);
                line += &" ".repeat(padding);
            }
            for part in wrap(last, room) {
                line += &look.paint(&part, *tone);
                lines.push(line.trim_end().to_owned());
                line = " ".repeat(before);
            }
        }
        lines
    }
}

/// Breaks a text between words where it would be longer than `room`. At least one part.
fn wrap(text: &str, room: Option<usize>) -> Vec<String> {
    let Some(room) = room else { return vec![text.to_owned()] };
    let mut parts = vec![String::new()];
    for word in text.split(' ') {
        let part = parts.last_mut().expect("there is one from the start");
        if part.is_empty() {
            *part = word.to_owned();
        } else if part.chars().count() + 1 + word.chars().count() <= room {
            *part += " ";
            *part += word;
        } else {
            parts.push(word.to_owned());
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look { width: None, colour: false };

    fn table() -> Table {
        let mut table = Table::titled(["NODE", "SAYS"]);
        table.row([Cell::from("127.0.0.1:1").toned(Tone::Bad), "it is replica of somebody else altogether".into()]);
        table.row(["é".into(), "\x1b[2Jnothing\n".into()]);
        table
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let expected = [
            "  NODE         SAYS",
            "  127.0.0.1:1  it is replica of somebody else altogether",
            "  é            [2Jnothing",
        ];
        assert_eq!(table().lines(2, PLAIN), expected);
    }

    #[test]
    fn the_last_column_is_wrapped_if_that_leaves_enough() {
        let lines = table().lines(2, Look { width: Some(40), ..PLAIN });
        let expected = [
            "  NODE         SAYS",
            "  127.0.0.1:1  it is replica of somebody",
            "               else altogether",
            "  é            [2Jnothing",
        ];
        assert_eq!(lines, expected);
        assert!(lines.iter().all(|line| line.chars().count() <= 40));
        assert_eq!(table().lines(2, Look { width: Some(30), ..PLAIN }), table().lines(2, PLAIN));
    }

    #[test]
    fn colour_changes_no_column() {
        let lines = table().lines(0, Look { colour: true, ..PLAIN });
        assert_eq!(lines[1], "\x1b[1;31m127.0.0.1:1\x1b[0m  it is replica of somebody else altogether");
        assert_eq!(PLAIN.paint("x", Tone::Bad), "x");
    }
}
