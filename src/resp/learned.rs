//! Commands that are not in the table (of modules, of newer servers), as the server's own `COMMAND INFO` describes them.
//! Pure.

use std::collections::HashMap;

use super::command::CommandId;
use super::value::{Value, decode};

/// Names remembered. Clients may ask for any; past it all are forgotten.
const MAX_NAMES: usize = 512;
/// Longest name that is asked about.
const MAX_NAME: usize = 128;

/// Flags of a command that waits, that changes its connection, or that acts on the server as a whole.
const NOT_PLAIN: [&str; 8] = ["admin", "blocking", "noscript", "no_auth", "no-auth", "no_multi", "no-multi", "pubsub"];

/// What the servers of one generation have said. See the module.
#[derive(Debug, Default)]
pub struct Learned {
    generation: u64,
    known: HashMap<Vec<u8>, Known>,
}

#[derive(Debug)]
enum Known {
    Command(CommandId),
    /// By subcommand.
    Container(HashMap<Vec<u8>, CommandId>),
}

impl Learned {
    /// What is known of a command, in any case: [`CommandId::LEARNED_READ`], [`CommandId::LEARNED_WRITE`], or
    /// [`CommandId::OTHER`] if it is none that can share a connection, as far as can be told. None: ask.
    pub fn find(&self, generation: u64, name: &[u8], subcommand: Option<&[u8]>) -> Option<CommandId> {
        if name.len() > MAX_NAME {
            return Some(CommandId::OTHER);
        }
        let known = self.known.get(&name.to_ascii_lowercase()).filter(|_| self.generation == generation)?;
        Some(match known {
            Known::Command(id) => *id,
            Known::Container(all) => {
                let its = subcommand.and_then(|word| all.get(&word.to_ascii_lowercase()));
                // The server has words for one that it does not have.
                its.copied().unwrap_or(CommandId::OTHER)
            }
        })
    }

    /// Remembers the reply to `COMMAND INFO name`. Returns whether it says anything: who may not ask gets an error.
    pub fn learn(&mut self, generation: u64, name: &[u8], reply: &[u8]) -> bool {
        let Ok(Value::Array(infos)) = decode(reply) else { return false };
        let known = match infos.first() {
            Some(Value::Array(info)) => known(info),
            Some(Value::Null) => Known::Command(CommandId::OTHER),
            _ => return false,
        };
        if self.generation != generation || self.known.len() >= MAX_NAMES {
            self.generation = generation;
            self.known.clear();
        }
        self.known.insert(name.to_ascii_lowercase(), known);
        true
    }
}

/// Name, arity, flags, first key, last key, step, categories, tips, key specifications, subcommands (Redis 7; before, the
/// first six or seven of them).
fn known(info: &[Value]) -> Known {
    match info.get(9).and_then(Value::as_array) {
        Some(subcommands) if !subcommands.is_empty() => Known::Container(
            subcommands
                .iter()
                .filter_map(Value::as_array)
                .filter_map(|sub| {
                    let name = sub.first()?.as_str()?;
                    let word = name.split_once('|').map_or(name, |(_, word)| word);
                    Some((word.to_ascii_lowercase().into_bytes(), classify(sub)))
                })
                .collect(),
        ),
        _ => Known::Command(classify(info)),
    }
}

fn classify(info: &[Value]) -> CommandId {
    let flags: Vec<&str> =
        info.get(2).and_then(Value::as_array).unwrap_or_default().iter().filter_map(Value::as_str).collect();
    let has = |flag: &str| flags.contains(&flag);
    if NOT_PLAIN.iter().any(|flag| has(flag)) {
        CommandId::OTHER
    } else if has("write") {
        CommandId::LEARNED_WRITE
    } else if has("readonly") {
        // One that may replicate has an effect, as PFCOUNT has.
        if has("may_replicate") { CommandId::LEARNED_WRITE } else { CommandId::LEARNED_READ }
    } else {
        // It is not about data. What else it is about is not said: its connection, perhaps.
        CommandId::OTHER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reply as Redis 7 gives it, with these flags, and subcommands with theirs.
    fn reply(name: &str, flags: &[&str], subcommands: &[(&str, &[&str])]) -> Vec<u8> {
        let subcommands: String = subcommands.iter().map(|(name, flags)| info(name, flags, "*0\r\n")).collect();
        let count = subcommands.matches("*10\r\n").count();
        format!("*1\r\n{}", info(name, flags, &format!("*{count}\r\n{subcommands}"))).into()
    }

    fn info(name: &str, flags: &[&str], subcommands: &str) -> String {
        let listed: String = flags.iter().map(|flag| format!("+{flag}\r\n")).collect();
        let (n, count) = (name.len(), flags.len());
        let keys = ":1\r\n:1\r\n:1\r\n*1\r\n+@read\r\n*0\r\n*0\r\n";
        format!("*10\r\n${n}\r\n{name}\r\n:-2\r\n*{count}\r\n{listed}{keys}{subcommands}")
    }

    fn learned(flags: &[&str]) -> CommandId {
        let mut learned = Learned::default();
        assert!(learned.learn(1, b"MOD.IT", &reply("mod.it", flags, &[])));
        learned.find(1, b"mod.IT", None).unwrap()
    }

    #[test]
    fn flags_decide() {
        for (flags, expected) in [
            (&["readonly", "fast", "movablekeys"][..], CommandId::LEARNED_READ),
            (&["write", "denyoom", "module"], CommandId::LEARNED_WRITE),
            (&["readonly", "may_replicate"], CommandId::LEARNED_WRITE),
            (&["readonly", "blocking"], CommandId::OTHER),
            (&["write", "noscript"], CommandId::OTHER),
            (&["readonly", "admin"], CommandId::OTHER),
            (&["fast", "loading", "stale"], CommandId::OTHER),
            (&[], CommandId::OTHER),
        ] {
            assert_eq!(learned(flags), expected, "{flags:?}");
        }
    }

    #[test]
    fn a_container_is_as_its_subcommand_is() {
        let mut learned = Learned::default();
        let all: [(&str, &[&str]); 2] = [("mod|get", &["readonly"]), ("mod|wait", &["blocking"])];
        assert!(learned.learn(1, b"mod", &reply("mod", &[], &all)));
        assert_eq!(learned.find(1, b"MOD", Some(b"GET")), Some(CommandId::LEARNED_READ));
        for sub in [Some(&b"wait"[..]), Some(b"other"), None] {
            assert_eq!(learned.find(1, b"mod", sub), Some(CommandId::OTHER), "{sub:?}");
        }
    }

    #[test]
    fn another_master_is_asked_again_and_what_is_no_answer_teaches_nothing() {
        let mut learned = Learned::default();
        assert!(learned.learn(1, b"a", b"*1\r\n*-1\r\n"), "the server does not know it either");
        assert_eq!(learned.find(1, b"a", None), Some(CommandId::OTHER));
        assert_eq!(learned.find(2, b"a", None), None);
        assert!(!learned.learn(2, b"a", b"-NOPERM this user has no permissions\r\n"));
        assert!(!learned.learn(2, b"a", b"*0\r\n"));
        assert_eq!(learned.find(2, b"a", None), None);
        assert_eq!(learned.find(2, &[b'x'; 500], None), Some(CommandId::OTHER), "nobody is asked about that");
    }

    #[test]
    fn names_do_not_pile_up() {
        let mut learned = Learned::default();
        for i in 0..3 * MAX_NAMES {
            assert!(learned.learn(1, i.to_string().as_bytes(), b"*1\r\n*-1\r\n"));
            assert!(learned.known.len() <= MAX_NAMES);
        }
    }
}
