//! Some commands, picked by name, with or without a subcommand.

use super::command::{COMMAND_COUNT, CommandId, lookup};
use super::frame::args;

/// See the module. To ask is one look at a table for all commands that are not in it.
#[derive(Debug)]
pub struct CommandSet {
    /// Whether a command, or a subcommand of it, is in the set.
    named: Box<[bool; COMMAND_COUNT]>,
    words: Vec<Words>,
}

#[derive(Debug)]
struct Words {
    command: String,
    subcommand: Option<String>,
}

impl CommandSet {
    /// Of `COMMAND` and `COMMAND SUBCOMMAND`, in any case, known here or not.
    pub fn new(commands: &[String]) -> Self {
        let mut set = Self { named: Box::new([false; COMMAND_COUNT]), words: Vec::new() };
        for text in commands {
            let (command, subcommand) = match text.split_once(' ') {
                Some((command, subcommand)) => (command, Some(subcommand.to_owned())),
                None => (text.as_str(), None),
            };
            set.named[lookup(command.as_bytes()).index()] = true;
            set.words.push(Words { command: command.to_owned(), subcommand });
        }
        set
    }

    /// Whether the command may be in the set. If not, it is not.
    #[inline]
    pub fn mentions(&self, id: CommandId) -> bool {
        self.named[id.index()]
    }

    /// Whether the command in this frame is in the set.
    pub fn contains(&self, id: CommandId, frame: &[u8]) -> bool {
        self.mentions(id) && {
            let mut args = args(frame);
            let (name, sub) = (args.next().unwrap_or_default(), args.next());
            self.words.iter().any(|w| {
                w.command.as_bytes().eq_ignore_ascii_case(name)
                    && w.subcommand.as_ref().is_none_or(|s| sub.is_some_and(|a| a.eq_ignore_ascii_case(s.as_bytes())))
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::encode_command;

    #[test]
    fn a_command_or_one_of_its_subcommands() {
        let set = CommandSet::new(&["DEBUG".to_owned(), "CLIENT PAUSE".to_owned(), "MYMOD.DANGER".to_owned()]);
        let has = |text: &str| {
            let words: Vec<&str> = text.split(' ').collect();
            set.contains(lookup(words[0].as_bytes()), &encode_command(&words))
        };
        for inside in ["debug sleep 1", "DEBUG", "client pause 10", "CLIENT PAUSE", "mymod.danger x"] {
            assert!(has(inside), "{inside}");
        }
        for outside in ["GET debug", "CLIENT", "CLIENT ID", "mymod.harmless"] {
            assert!(!has(outside), "{outside}");
        }
        assert!(!set.mentions(lookup(b"get")));
    }
}
