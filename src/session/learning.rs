//! Commands that are not in the table: the server is asked once what they are, and they go the way of what it says.

use bytes::Bytes;

use super::clients::Translate;
use super::{Command, Session, Step, Wait};
use crate::backend::{Effect, Key, Verdict};
use crate::resp::{CommandId, Kind, args, encode_command, lookup};
use crate::topology::Pass;

impl Session {
    /// Which command this is: its name, and the frame that it stands in, as far as that has come.
    #[inline]
    pub(super) fn identify(&self, name: &[u8], frame: &[u8]) -> CommandId {
        match lookup(name) {
            CommandId::OTHER => self.learned(name, args(frame).nth(1)).unwrap_or(CommandId::OTHER),
            id => id,
        }
    }

    fn learned(&self, name: &[u8], subcommand: Option<&[u8]>) -> Option<CommandId> {
        let context = &self.pool.context;
        context.learned.borrow().find(context.access.topology().generation, name, subcommand)
    }

    /// Asks what the command at the front is, if that is not known and decides its way.
    pub(super) fn learn(&mut self, command: Command) -> Option<Step> {
        if command.id.info().kind != Kind::Other || self.in_doubt || self.state.kept || self.state.only_listens() {
            return None;
        }
        let frame = &self.buf[..command.len];
        let mut words = args(frame);
        let name = Bytes::copy_from_slice(words.next()?);
        if self.learned(&name, words.next()).is_some() {
            return None;
        }
        if self.down.owed() > 0 {
            return Some(Step::Wait(Wait::REPLIES));
        }
        let node = match self.pass(Effect::Read) {
            Pass::To(node) => node,
            pass => return Some(self.hold(command, pass)),
        };
        // pointsman's own user, if it has one: the client's may lack the right to ask.
        let own = self.terms.own_user.clone();
        let key = Key { database: 0, resp3: false, user: own.or_else(|| self.state.key.user.clone()) };
        let generation = self.pool.context.access.topology().generation;
        let question = vec![encode_command(&[b"COMMAND".as_slice(), b"INFO", &name])];
        self.ask_as(command, node, key, question, Translate::Learn { name, generation });
        Some(Step::Done)
    }

    /// The server has answered, or would not.
    pub(super) fn taught(&mut self, name: &[u8], generation: u64, verdict: Option<&Verdict>) -> Step {
        let mut learned = self.pool.context.learned.borrow_mut();
        // In doubt a command has a connection of its own.
        self.in_doubt = !verdict.is_some_and(|verdict| learned.learn(generation, name, &verdict.reply));
        Step::Done
    }
}
