//! Connections on which a backend judges what clients ask to be: `AUTH`, `HELLO`, and questions that must not wait behind
//! the commands of others. One judgement at a time, never pipelined behind anything: a failed `AUTH` in a pipeline can lose
//! its reply (redis#15640).
//!
//! Between two judgements such a connection is as new (`RESET`), so that it shows no client what another one is. What a
//! backend says on it is what it would say to a client that had just connected.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use tokio::time::Instant;

use super::context::Context;
use super::handshake::{DialError, Key, greet, open};
use crate::net::client::{Client, ClientError};
use crate::resp::{args, encode_command};

/// What a backend has answered.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Byte for byte.
    pub reply: Bytes,
    /// The backend's id of the connection that it was asked on; 0 if it was not told.
    pub asked_on: i64,
}

/// See the module.
#[derive(Debug)]
pub struct Judge {
    /// The node at the other end.
    pub node: SocketAddr,
    /// Since when nobody has been judged on it.
    pub idle_since: Instant,
    client: Client,
    id: i64,
    context: Rc<Context>,
}

impl Judge {
    /// Connects, and makes sure that the node is a master, so far as it says.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial(context: &Rc<Context>, node: SocketAddr) -> Result<Self, DialError> {
        let mut client = open(&context.terms().dialer, node).await?;
        let nobody = Key { database: 0, resp3: false, user: None };
        let hello = greet(&mut client, &nobody).await?;
        context.stats.backend_connects.add(1);
        context.stats.backend_judges.add(1);
        Ok(Self { node, idle_since: Instant::now(), client, id: hello.id, context: Rc::clone(context) })
    }

    /// Puts commands to the backend, one after the other, and returns the last reply before an error, or the error if it
    /// is the first. `key` is the state they run in, but for the database: while a script runs for too long, none can be
    /// selected. `asked` is set once the backend may have got the first of them.
    ///
    /// # Errors
    /// [`DialError`] when the backend cannot be asked; its own refusal is a reply. After [`DialError::Auth`] the
    /// connection is still good.
    pub async fn ask(&mut self, key: &Key, commands: &[Bytes], asked: &Cell<bool>) -> Result<Verdict, DialError> {
        if key.user.is_some() || key.resp3 {
            self.id = greet(&mut self.client, key).await?.id;
        }
        let mut reply = Bytes::new();
        asked.set(true);
        for command in commands {
            let next = self.client.exchange(command).await?;
            let is_error = next.starts_with(b"-");
            if !is_error || reply.is_empty() {
                reply = next;
            }
            if is_error {
                break;
            }
        }
        Ok(Verdict { reply, asked_on: self.id })
    }

    /// Whether one of the commands does something each time that it is asked. (`CLIENT KILL` is asked about nobody.)
    pub fn acts(commands: &[Bytes]) -> bool {
        const ACTS: [[&[u8]; 2]; 3] = [[b"SCRIPT", b"KILL"], [b"FUNCTION", b"KILL"], [b"CLIENT", b"UNBLOCK"]];
        commands.iter().any(|command| {
            let words: Vec<&[u8]> = args(command).take(2).collect();
            ACTS.iter().any(|acts| {
                words.len() == acts.len() && words.iter().zip(acts).all(|(word, act)| word.eq_ignore_ascii_case(act))
            })
        })
    }

    /// Makes it as new again; none if it cannot be (Redis before 6.2), or is lost.
    pub async fn clean(mut self) -> Option<Self> {
        let reset: Result<Bytes, ClientError> = self.client.exchange(&encode_command(&["RESET"])).await;
        self.idle_since = Instant::now();
        reset.is_ok_and(|reply| reply == "+RESET\r\n").then_some(self)
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.context.stats.backend_judges.sub(1);
        self.context.stats.backend_disconnects.add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_something_each_time_is_known() {
        let acts = |words: &[&str]| Judge::acts(&[encode_command(&["AUTH", "secret"]), encode_command(words)]);
        for words in [&["SCRIPT", "KILL"][..], &["function", "kill"], &["CLIENT", "UNBLOCK", "7", "ERROR"]] {
            assert!(acts(words), "{words:?}");
        }
        for words in [&["SCRIPT", "EXISTS", "KILL"][..], &["FUNCTION", "STATS"], &["FUNCTION"], &["CLIENT", "KILL"]] {
            assert!(!acts(words), "{words:?}");
        }
    }
}
