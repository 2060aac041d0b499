//! `CLIENT TRACKING` of a session: what it takes to bring it over to another connection. Pure.
//!
//! What the lost connection would have invalidated is not known, so whoever is told invalidations is told that everything
//! is.

use bytes::Bytes;

use crate::resp::args;

/// Bytes of the commands that turned it on and are kept. A client with prefixes beyond that is not brought over.
const MAX_BYTES: usize = 64 << 10;

/// `CLIENT CACHING`, which is about the command behind it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Caching {
    #[default]
    No,
    /// It was sent, and nothing behind it.
    Said,
    /// What it is about was sent.
    Used,
}

/// See the module.
#[derive(Default, Debug)]
pub(super) struct Tracking {
    /// None: it is off, and nothing is asked.
    commands: Option<Box<Commands>>,
    caching: Caching,
}

#[derive(Default, Debug)]
struct Commands {
    /// Those that turned it on: each `BCAST` adds prefixes.
    on: Vec<Bytes>,
    /// The one that was sent last and is not answered.
    asked: Option<Bytes>,
}

impl Tracking {
    /// Whether invalidations come.
    pub(super) fn is_on(&self) -> bool {
        !self.renewal().is_empty()
    }

    /// What has to be sent to a new connection.
    pub(super) fn renewal(&self) -> &[Bytes] {
        self.commands.as_ref().map_or(&[], |commands| &commands.on)
    }

    /// `CLIENT TRACKING` is sent.
    pub(super) fn ask(&mut self, command: Bytes) {
        self.commands.get_or_insert_default().asked = Some(command);
    }

    /// What was sent last and is not known to have been answered.
    pub(super) fn asked(&self) -> Option<&Bytes> {
        self.commands.as_ref()?.asked.as_ref()
    }

    /// Nothing is owed any more. `accepted`: what was asked was answered, and not by an error. Returns whether it can
    /// still be brought over.
    pub(super) fn conclude(&mut self, accepted: bool) -> bool {
        let Some(Commands { on, asked }) = self.commands.as_deref_mut() else { return true };
        let Some(command) = asked.take().filter(|_| accepted) else { return true };
        if !args(&command).nth(2).is_some_and(|mode| mode.eq_ignore_ascii_case(b"ON")) {
            on.clear();
        } else if !on.contains(&command) {
            on.push(command);
        }
        on.iter().map(Bytes::len).sum::<usize>() <= MAX_BYTES
    }

    /// A command is sent on the connection; `says`: it is `CLIENT CACHING`.
    pub(super) fn send(&mut self, says: bool) {
        self.caching = match (says, self.caching) {
            (true, _) => Caching::Said,
            (false, Caching::No) => Caching::No,
            (false, _) => Caching::Used,
        };
    }

    /// All that was sent is answered. In a transaction `CLIENT CACHING` is about all of it.
    pub(super) fn answered(&mut self, in_transaction: bool) {
        if self.caching == Caching::Used && !in_transaction {
            self.caching = Caching::No;
        }
    }

    /// Whether `CLIENT CACHING` still waits for what it is about: without it the client would keep what it is never told
    /// to drop.
    pub(super) fn is_caching(&self) -> bool {
        self.caching != Caching::No
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::encode_command;

    fn ask(tracking: &mut Tracking, words: &str, accepted: bool) -> bool {
        tracking.ask(encode_command(&words.split(' ').collect::<Vec<_>>()));
        tracking.conclude(accepted)
    }

    #[test]
    fn what_turned_it_on_is_renewed_until_it_is_turned_off() {
        let mut t = Tracking::default();
        assert!(ask(&mut t, "CLIENT TRACKING ON BCAST PREFIX a", true));
        assert!(ask(&mut t, "CLIENT TRACKING ON BCAST PREFIX b", true));
        assert!(ask(&mut t, "CLIENT TRACKING ON BCAST PREFIX b", true));
        assert!(ask(&mut t, "CLIENT TRACKING ON OPTIN", false));
        assert!(ask(&mut t, "CLIENT TRACKING off", false));
        assert_eq!(t.renewal().len(), 2);
        assert!(ask(&mut t, "CLIENT TRACKING off", true));
        assert!(!t.is_on());
        assert!(!ask(&mut t, &format!("CLIENT TRACKING ON BCAST PREFIX {}", "p".repeat(MAX_BYTES)), true));
    }

    #[test]
    fn caching_is_about_the_next_command_or_transaction() {
        let mut t = Tracking::default();
        t.send(true);
        t.answered(false);
        assert!(t.is_caching(), "what it is about has not come");
        t.send(false);
        assert!(t.is_caching(), "nor been answered");
        t.answered(true);
        assert!(t.is_caching(), "the transaction goes on");
        t.answered(false);
        assert!(!t.is_caching());
        t.send(false);
        assert!(!t.is_caching());
    }
}
