//! One client's commands, put to one connection of its own and, by way of the router, to shared and pinned ones; and
//! what must not differ.

use std::collections::HashMap;
use std::rc::Rc;

use pointsman::backend::Key;
use pointsman::config::{Credentials, Secret};
use pointsman::resp::{Kind, encode_command, lookup};
use pointsman::router::{Local, Replies, Route, State, Step, route};

use super::connection::{Connection, Words, reply_mode};

/// Database, user, RESP version.
type PoolKey = (u32, String, bool);

/// See the module.
pub struct World {
    /// The connection that the client believes to have.
    one: Connection,
    state: State,
    /// What the client calls itself; no connection is called so.
    name: String,
    shared: HashMap<PoolKey, Connection>,
    pin: Option<Connection>,
    /// The last answer was pointsman's.
    own_words: bool,
    ended: bool,
}

impl World {
    pub fn new() -> Self {
        let key = Key { database: 0, resp3: false, user: None };
        Self {
            one: Connection::new(0, "default", false),
            state: State::new(key),
            name: String::new(),
            shared: HashMap::new(),
            pin: None,
            own_words: false,
            ended: false,
        }
    }

    /// Puts one command to both; what differs, or is left where it must not be.
    pub fn put(&mut self, words: &Words) -> Result<(), String> {
        if self.ended {
            return Ok(());
        }
        let expected = self.expect(words);
        let got = self.answer(words);
        // Whether a connection whose RESP version is not followed is a RESP2 subscriber's, where nothing of this is
        // answered, pointsman does not know. What follows is of no use.
        let unknown = self.state.rephrased && !self.one.subscribed.is_empty();
        if self.state.kept && self.own_words && (got != expected || unknown) {
            self.ended = true;
        }
        if got != expected && !self.ended {
            return Err(format!("answered {got:?}, not {expected:?}"));
        }
        self.check()
    }

    /// What the one connection answers; none if its client has turned replies off.
    fn expect(&mut self, words: &Words) -> Option<String> {
        if let Some(mode) = reply_mode(words)
            && self.one.queued.is_none()
            && (self.one.subscribed.is_empty() || self.one.resp3)
        {
            set(&mut self.one.replies, mode);
            return (mode == Replies::On).then(|| "+OK".into());
        }
        let executes = executes(words, &self.one);
        let answer = self.one.run(words);
        if executes {
            return (!answer.is_empty()).then_some(answer);
        }
        if answer == "+RESET" && self.one.replies == Replies::Off {
            self.one.replies = Replies::On;
        }
        audible(&mut self.one.replies, words, answer)
    }

    fn answer(&mut self, words: &Words) -> Option<String> {
        let info = lookup(words[0].as_bytes()).info();
        let frame = encode_command(words);
        let route = route(info, &frame, words.len() as u32, &self.state);
        self.own_words = matches!(route, Route::Local(_) | Route::About(_));
        match route {
            Route::Shared(_) => {
                let key = self.key();
                let conn = self.shared.entry(key.clone()).or_insert_with(|| Connection::new(key.0, &key.1, key.2));
                let answer = run_as(conn, &mut self.name, words);
                self.say(words, answer)
            }
            Route::Pinned(way) => {
                let (database, user, resp3) = self.key();
                let pin = self.pin.get_or_insert_with(|| Connection::new(database, &user, resp3));
                let executes = executes(words, pin);
                pin.replies = self.state.replies;
                let answer = run_as(pin, &mut self.name, words);
                let replies = std::mem::replace(&mut pin.replies, Replies::On);
                let (refused, kept) = (answer.starts_with('-'), self.state.kept);
                if let (Step::Select(database), false) = (way.step, refused) {
                    self.state.key.database = database;
                }
                let may_be_free = self.state.sent(way.step);
                if refused && way.step == Step::Multi {
                    self.state.multi = false;
                } else if refused && !kept && !self.state.multi && matches!(way.step, Step::Keep | Step::Hello) {
                    self.state.unchanged();
                }
                if may_be_free {
                    self.state.subscribed = !pin.subscribed.is_empty();
                    self.state.tracking = pin.other.contains("tracking");
                }
                // What ran has made the session what its connection is.
                if way.step == Step::Exec && !kept {
                    let now = pin.clone();
                    self.adopt(&now);
                    self.state.key.database = now.database;
                }
                if executes {
                    self.state.replies = replies;
                    return (!answer.is_empty()).then_some(answer);
                }
                self.say(words, answer)
            }
            Route::Judge | Route::About(_) if !matches!(info.kind, Kind::Auth | Kind::Hello) => {
                let (database, user, resp3) = self.key();
                let answer = Connection::new(database, &user, resp3).run(words);
                self.say(words, answer)
            }
            Route::Judge | Route::About(_) => {
                let (database, user, resp3) = self.key();
                let mut judge = Connection::new(database, &user, resp3);
                let answer = run_as(&mut judge, &mut self.name, words);
                self.adopt(&judge);
                // Its own connection becomes alike.
                if !answer.starts_with('-')
                    && let Some(pin) = &mut self.pin
                {
                    run_as(pin, &mut self.name, words);
                }
                self.say(words, answer)
            }
            Route::Select(database) => {
                let (_, user, resp3) = self.key();
                let mut asked = Connection::new(0, &user, resp3);
                let answer = asked.run(&vec!["SELECT".into(), database.to_string()]);
                if answer == "+OK" {
                    self.state.key.database = database;
                }
                self.say(words, answer)
            }
            Route::Local(local) => self.local(words, local),
        }
    }

    fn local(&mut self, words: &Words, local: Local) -> Option<String> {
        match local {
            Local::Quit => {
                self.ended = true;
                None
            }
            Local::Reset => {
                self.pin = None;
                self.name.clear();
                let replies = if self.state.replies == Replies::Skip { Replies::Skip } else { Replies::On };
                self.state = State { replies, ..State::new(Key { database: 0, resp3: false, user: None }) };
                self.say(words, "+RESET".into())
            }
            Local::Reply(mode) => {
                set(&mut self.state.replies, mode);
                (mode == Replies::On).then(|| "+OK".into())
            }
        }
    }

    fn say(&mut self, words: &Words, answer: String) -> Option<String> {
        audible(&mut self.state.replies, words, answer)
    }

    /// What a backend has accepted of `AUTH` or `HELLO`.
    fn adopt(&mut self, judge: &Connection) {
        let credentials = |user: &str| Rc::new(Credentials { user: Some(user.into()), password: Secret::new(user) });
        self.state.key.user = (judge.user != "default").then(|| credentials(&judge.user));
        self.state.key.resp3 = judge.resp3;
    }

    fn key(&self) -> PoolKey {
        let key = &self.state.key;
        let user =
            key.user.as_ref().and_then(|c| c.user.clone()).map_or("default".into(), |u| String::from_utf8(u).unwrap());
        (key.database, user, key.resp3)
    }

    /// What holds after every command.
    fn check(&mut self) -> Result<(), String> {
        for (key, conn) in &self.shared {
            if !conn.is_clean() || (conn.database, &conn.user, conn.resp3) != (key.0, &key.1, key.2) {
                return Err(format!("the shared connection {key:?} is left as {conn:?}"));
            }
        }
        if !self.state.is_pinned()
            && let Some(pin) = self.pin.take()
        {
            let clean = Connection { blocked: false, ..pin.clone() }.is_clean();
            if !clean || (pin.database, &pin.user, pin.resp3) != (self.one.database, &self.one.user, self.one.resp3) {
                return Err(format!("a pinned connection goes back as {pin:?}"));
            }
        }
        let one = &self.one;
        if self.state.kept {
            // What is not followed is the pin's to know.
            return match &self.pin {
                Some(_) => Ok(()),
                None => Err("kept, and there is no connection".into()),
            };
        }
        let state = &self.state;
        let seen = (self.key(), self.name.clone(), state.multi, state.watching, state.subscribed, state.tracking);
        let true_key = (one.database, one.user.clone(), one.resp3);
        let (subscribed, tracking) = (!one.subscribed.is_empty(), one.other.contains("tracking"));
        let truth = (true_key, one.name.clone(), one.queued.is_some(), one.watching, subscribed, tracking);
        if seen != truth {
            return Err(format!("the session is {seen:?}, and should be {truth:?}"));
        }
        if !one.other.is_empty() && self.pin.is_none() {
            return Err(format!("{:?} is not on any connection", one.other));
        }
        Ok(())
    }
}

/// While nothing is answered there is nothing to skip.
fn set(replies: &mut Replies, mode: Replies) {
    if (*replies, mode) != (Replies::Off, Replies::Skip) {
        *replies = mode;
    }
}

/// What a connection answers whose name stays with the client.
fn run_as(conn: &mut Connection, name: &mut String, words: &Words) -> String {
    conn.name = std::mem::take(name);
    let answer = conn.run(words);
    *name = std::mem::take(&mut conn.name);
    answer
}

/// Whether this runs a transaction: what its client hears of that, the transaction itself may decide.
fn executes(words: &Words, conn: &Connection) -> bool {
    words.len() == 1 && words[0].eq_ignore_ascii_case("exec") && conn.queued.is_some()
}

/// What becomes of an answer while replies may be turned off. Confirmations of subscriptions always come.
fn audible(replies: &mut Replies, words: &Words, answer: String) -> Option<String> {
    let confirmation = answer.contains("subscribe ") && words[0].to_lowercase().contains("subscribe");
    let silent = *replies != Replies::On && !confirmation;
    if *replies == Replies::Skip {
        *replies = Replies::On;
    }
    (!silent).then_some(answer)
}
