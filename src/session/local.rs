//! What pointsman answers itself, and what it has a backend judge: the commands that change what a session is.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::clients::Translate;
use super::tracking::Tracking;
use super::transaction::Transaction;
use super::{Command, Session, Step, Wait};
use crate::backend::{DialError, Effect, Key, Use, Verdict};
use crate::config::{Credentials, Secret};
use crate::metrics::CloseReason;
use crate::pool::Checkout;
use crate::resp::{Kind, args, encode_command};
use crate::router::{Local, Replies, State};
use crate::topology::Pass;

/// Pause before a backend that could not be asked is asked again.
const JUDGE_AGAIN: Duration = Duration::from_millis(50);

/// A command that a backend is judging.
#[derive(Debug)]
pub(super) struct Judgement {
    command: Command,
    verdict: Rc<RefCell<Option<Result<Verdict, DialError>>>>,
    since: Instant,
    translate: Translate,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.id.info().name)
    }
}

impl Session {
    /// Answers the command at the front. Nothing is owed.
    pub(super) fn answer(&mut self, command: Command, local: Local) -> Step {
        const OK: &[u8] = b"+OK\r\n";
        let line = match local {
            Local::Quit => {
                self.quitting = true;
                Bytes::from_static(OK)
            }
            Local::Reset => {
                self.reset();
                Bytes::from_static(b"+RESET\r\n")
            }
            Local::Reply(_) if !self.may_turn_replies => return self.ask_for_replies(command),
            Local::Reply(replies) => {
                // While nothing is answered there is nothing to skip.
                if (self.state.replies, replies) != (Replies::Off, Replies::Skip) {
                    self.state.replies = replies;
                }
                if replies != Replies::On {
                    self.take(command);
                    self.take_waited();
                    return Step::Done;
                }
                Bytes::from_static(OK)
            }
        };
        self.say(command, line)
    }

    fn reset(&mut self) {
        if let Some((conn, key)) = self.disown() {
            self.pool.release(conn, &key, false);
        }
        let user = self.terms.first_user();
        // The one behind a SKIP is not answered, RESET or not.
        let replies = if self.state.replies == Replies::Skip { Replies::Skip } else { Replies::On };
        self.state = State { replies, ..State::new(Key { database: 0, resp3: false, user }) };
        self.transaction = Transaction::default();
        self.executed = None;
        self.tracking = Tracking::default();
        self.relays.clear();
        self.presence.client.set_name(b"");
        self.presence.client.redirect_to(0);
        self.presence.client.set_deaf(false);
        self.renewal = None;
        self.down.has_subscriptions_again();
        self.route = None;
        self.may_turn_replies = false;
        self.describe();
    }

    /// Replies are turned off and on by pointsman, but whether the client may do so the server says, once for each user:
    /// it always answers.
    fn ask_for_replies(&mut self, command: Command) -> Step {
        let node = match self.pass(Effect::Read) {
            Pass::To(node) => node,
            pass => return self.hold(command, pass),
        };
        self.ask(command, node, vec![encode_command(&["CLIENT", "REPLY", "ON"])], Translate::MayTurnReplies);
        Step::Done
    }

    /// Moves the session to another database, once a backend has accepted it.
    pub(super) fn select(&mut self, command: Command, database: u32) -> Step {
        let node = match self.pass(Effect::Read) {
            Pass::To(node) => node,
            pass => return self.hold(command, pass),
        };
        let key = Key { database, ..self.state.key.clone() };
        match self.pool.shared(node, &key, Use::Shared, &self.down.wake) {
            Checkout::Ready(conn) => {
                // A connection that is not authenticated was not asked: the backend refuses this as it does the rest.
                if conn.hello.unauthenticated {
                    self.route = Some(conn);
                    return self.share(command);
                }
                if let Some(refusal) = conn.hello.select_refusal.clone() {
                    return self.say(command, refusal);
                }
                self.state.key = key;
                self.presence.client.select(database);
                self.presence.client.share(conn.hello.id);
                self.route = Some(conn);
                self.say(command, Bytes::from_static(b"+OK\r\n"))
            }
            Checkout::Pending | Checkout::Full => self.await_connection(command),
            Checkout::Failed(DialError::Select(line), _) => self.say(command, line),
            Checkout::Failed(error, retry_at) => self.no_connection(command, &error, retry_at),
        }
    }

    /// Asks the master on a connection kept for this: `AUTH` and `HELLO`, since pointsman accepts no password on its own
    /// memory, and what must not wait behind the commands of others.
    pub(super) fn judge(&mut self, command: Command) -> Step {
        let node = match self.pass(Effect::Read) {
            Pass::To(node) => node,
            pass => return self.hold(command, pass),
        };
        let frame = Bytes::copy_from_slice(&self.buf[..command.len]);
        self.ask(command, node, vec![frame], Translate::No);
        Step::Done
    }

    /// Asks the master at `node` these commands in place of the one at the front.
    pub(super) fn ask(&mut self, command: Command, node: SocketAddr, commands: Vec<Bytes>, translate: Translate) {
        self.ask_as(command, node, self.state.key.clone(), commands, translate);
    }

    /// The same, as another user perhaps.
    pub(super) fn ask_as(
        &mut self,
        command: Command,
        node: SocketAddr,
        key: Key,
        commands: Vec<Bytes>,
        translate: Translate,
    ) {
        let verdict = Rc::new(RefCell::new(None));
        let (pool, wake) = (Rc::clone(&self.pool), Rc::clone(&self.down.wake));
        let slot = Rc::clone(&verdict);
        tokio::task::spawn_local(async move {
            let tell = |verdict| {
                *slot.borrow_mut() = Some(verdict);
                wake.raise();
            };
            pool.judge(node, &key, &commands, tell).await;
        });
        self.judgement = Some(Box::new(Judgement { command, verdict, since: Instant::now(), translate }));
    }

    pub(super) fn finish_judgement(&mut self) -> Step {
        let Some(judgement) = self.judgement.take() else { return Step::Done };
        let Some(result) = judgement.verdict.take() else {
            self.judgement = Some(judgement);
            return Step::Wait(Wait::SIGNAL);
        };
        let Judgement { command, translate, since, .. } = *judgement;
        if result.is_ok() {
            self.note_judgement(since);
        }
        match result {
            Ok(Verdict { reply, .. }) if matches!(command.id.info().kind, Kind::Auth | Kind::Hello) => {
                let accepted = reply.first() != Some(&b'-');
                let frame = Bytes::copy_from_slice(&self.buf[..command.len]);
                let mut reply = Some(self.teller().told(&frame, &reply));
                if accepted {
                    self.adopt(&frame);
                    reply = reply.and_then(|reply| self.become_alike(command, reply));
                }
                reply.map_or(Step::Done, |reply| self.say(command, reply))
            }
            Ok(verdict) => self.translated(command, &verdict, translate),
            // Who would ask may not even come: that says nothing about the client.
            Err(DialError::Auth(_)) if let Translate::Learn { name, generation } = &translate => {
                self.taught(name, *generation, None)
            }
            Err(DialError::Unanswered) => {
                self.pool.context.stats.commands_unknown.add(1);
                Step::Close(CloseReason::UnknownOutcome)
            }
            Err(error) => {
                self.begin_wait(since);
                self.no_connection(command, &error, Instant::now() + JUDGE_AGAIN)
            }
        }
    }

    /// A backend has accepted this `AUTH` or `HELLO`: the session is what it asked to be, but for the name.
    pub(super) fn adopt(&mut self, frame: &[u8]) {
        let words: Vec<&[u8]> = args(frame).collect();
        let credentials = |user: Option<&[u8]>, password: &[u8]| {
            Some(Rc::new(Credentials { user: user.map(<[u8]>::to_vec), password: Secret::new(password) }))
        };
        if words[0].eq_ignore_ascii_case(b"AUTH") {
            self.state.key.user = match words[1..] {
                [password] => credentials(None, password),
                [user, password] => credentials(Some(user), password),
                _ => return,
            };
        } else {
            if let Some(version) = words.get(1) {
                self.state.key.resp3 = *version == b"3";
            }
            let mut rest = words.get(2..).unwrap_or_default();
            while let [option, tail @ ..] = rest {
                rest = match tail {
                    [user, password, more @ ..] if option.eq_ignore_ascii_case(b"AUTH") => {
                        self.state.key.user = credentials(Some(user), password);
                        more
                    }
                    [_, more @ ..] if option.eq_ignore_ascii_case(b"SETNAME") => more,
                    _ => tail,
                };
            }
        }
        self.route = None;
        self.may_turn_replies = false;
        self.describe();
    }
}
