//! What one connection to a Redis 7 keeps of what its client says: the model that routes are judged by.
//!
//! Data is left out; a reply to a command that runs says instead what the connection was when it ran. Two connections
//! answer alike if their clients cannot tell them apart.

use std::collections::BTreeSet;

use pointsman::resp::{Kind, lookup};
use pointsman::router::Replies;

/// Databases that there are (`databases 16`).
const DATABASES: u32 = 16;

/// A command.
pub type Words = Vec<String>;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connection {
    pub database: u32,
    pub user: String,
    pub resp3: bool,
    pub name: String,
    /// Commands since `MULTI`.
    pub queued: Option<Vec<Words>>,
    /// One of them was refused.
    pub spoiled: bool,
    pub watching: bool,
    /// Kind (`""`, `"p"`, `"s"`) and name.
    pub subscribed: BTreeSet<(String, String)>,
    /// Tracking, monitoring, debugging and the like.
    pub other: BTreeSet<&'static str>,
    /// Whether anything was run here that may stop the commands behind it.
    pub blocked: bool,
    /// Whether its client hears what is answered (`CLIENT REPLY`).
    pub replies: Replies,
}

impl Connection {
    /// As a client finds it, or as pointsman dials it for a key.
    pub fn new(database: u32, user: &str, resp3: bool) -> Self {
        Self {
            database,
            user: user.to_owned(),
            resp3,
            name: String::new(),
            queued: None,
            spoiled: false,
            watching: false,
            subscribed: BTreeSet::new(),
            other: BTreeSet::new(),
            blocked: false,
            replies: Replies::On,
        }
    }

    /// Whether nothing is left of what a client has done, but for the name.
    pub fn is_clean(&self) -> bool {
        let clean =
            Self { name: self.name.clone(), replies: self.replies, ..Self::new(self.database, &self.user, self.resp3) };
        *self == clean
    }

    /// Takes a command and answers it.
    pub fn run(&mut self, words: &Words) -> String {
        let info = lookup(words[0].as_bytes()).info();
        if !self.subscribed.is_empty() && !self.resp3 && self.queued.is_none() {
            let allowed = matches!(info.kind, Kind::Subscribe | Kind::Unsubscribe | Kind::Reset | Kind::Quit);
            if !allowed && info.name != "ping" {
                return "-not as a subscriber".into();
            }
        }
        if self.queued.is_some() {
            let sub = words.get(1).map(|s| s.to_uppercase()).unwrap_or_default();
            match (info.kind, words.len()) {
                (Kind::Exec | Kind::Discard | Kind::Quit | Kind::Reset, 1) => {}
                (Kind::Exec, _) => {
                    (self.queued, self.spoiled, self.watching) = (None, false, false);
                    return "-aborted".into();
                }
                (Kind::Multi, 1) => return "-nested".into(),
                (Kind::Watch | Kind::Multi | Kind::Replica, _) => return self.spoil(),
                _ if !arity_fits(info.kind, words, &sub) => return self.spoil(),
                _ => {
                    self.queued.get_or_insert_default().push(words.clone());
                    return "+QUEUED".into();
                }
            }
        }
        self.execute(words, info.kind)
    }

    fn spoil(&mut self) -> String {
        self.spoiled = true;
        "-not queued".into()
    }

    fn execute(&mut self, words: &Words, kind: Kind) -> String {
        let sub = words.get(1).map(|s| s.to_uppercase()).unwrap_or_default();
        if !arity_fits(kind, words, &sub) {
            return "-arity".into();
        }
        match kind {
            Kind::Select => match words[1].parse::<u32>() {
                Ok(n) if n < DATABASES && n.to_string() == words[1] => {
                    self.database = n;
                    "+OK".into()
                }
                _ => "-no such database".into(),
            },
            Kind::Auth => self.auth(&words[1..]),
            Kind::Hello => self.hello(&words[1..]),
            Kind::Reset => {
                *self = Self { replies: self.replies, ..Self::new(0, "default", false) };
                "+RESET".into()
            }
            Kind::Multi => {
                self.queued = Some(Vec::new());
                "+OK".into()
            }
            Kind::Exec if self.queued.is_none() => "-no transaction".into(),
            Kind::Exec => self.exec(),
            Kind::Discard if self.queued.is_none() => "-no transaction".into(),
            Kind::Discard => {
                (self.queued, self.spoiled, self.watching) = (None, false, false);
                "+OK".into()
            }
            Kind::Watch => {
                self.watching = true;
                "+OK".into()
            }
            Kind::Unwatch => {
                self.watching = false;
                "+OK".into()
            }
            Kind::Subscribe | Kind::Unsubscribe => self.subscribe(words, kind == Kind::Subscribe),
            Kind::Client => self.client(words, &sub),
            Kind::Monitor => self.note("monitor"),
            Kind::Replica => self.note("replica"),
            Kind::ScriptControl if sub == "DEBUG" => self.note("debugger"),
            Kind::Blocking | Kind::Wait => {
                self.blocked = true;
                self.ran(words)
            }
            Kind::BlockingIfAsked => {
                let before_streams = words.iter().take_while(|w| !w.eq_ignore_ascii_case("streams"));
                self.blocked |= before_streams.skip(1).any(|w| w.eq_ignore_ascii_case("block"));
                self.ran(words)
            }
            // Of what is not known it has to be thought that it may wait.
            Kind::Other => {
                self.blocked = true;
                self.ran(words)
            }
            _ => self.ran(words),
        }
    }

    fn note(&mut self, what: &'static str) -> String {
        self.other.insert(what);
        "+OK".into()
    }

    fn ran(&self, words: &Words) -> String {
        format!("{words:?} in {} as {} in RESP{}", self.database, self.user, if self.resp3 { 3 } else { 2 })
    }

    /// Every user's password is its name; the default user takes any.
    fn auth(&mut self, args: &[String]) -> String {
        match args {
            [user, password] if user == "default" || user == password && user.starts_with('u') => {
                self.user.clone_from(user);
                "+OK".into()
            }
            _ => "-wrong password".into(),
        }
    }

    fn hello(&mut self, args: &[String]) -> String {
        let mut after = self.clone();
        if let Some(version) = args.first() {
            match version.as_str() {
                "2" => after.resp3 = false,
                "3" => after.resp3 = true,
                _ => return "-no such version".into(),
            }
        }
        let mut rest = args.get(1..).unwrap_or_default();
        while let [option, tail @ ..] = rest {
            rest = match (option.to_uppercase().as_str(), tail) {
                ("AUTH", [user, password, more @ ..]) => {
                    let answer = after.auth(&[user.clone(), password.clone()]);
                    if answer != "+OK" {
                        return answer;
                    }
                    more
                }
                ("SETNAME", [name, more @ ..]) => {
                    after.name.clone_from(name);
                    more
                }
                _ => return "-syntax".into(),
            };
        }
        *self = after;
        self.ran(&vec!["HELLO".into()])
    }

    /// Runs the transaction; what its client hears of that, empty for nothing. An array that is cut short is one whose client has
    /// turned replies off.
    fn exec(&mut self) -> String {
        let (mut off, mut skipped, mut skips_next) =
            (self.replies == Replies::Off, self.replies == Replies::Skip, false);
        let mut heard = Vec::new();
        let queued = self.queued.take().unwrap_or_default();
        let commands = if std::mem::take(&mut self.spoiled) { Err("-aborted") } else { Ok(queued) };
        self.watching = false;
        let hear = |heard: &mut Vec<String>, off: bool, what: &str| {
            if !off {
                heard.push(what.to_owned());
            }
        };
        match commands {
            Err(why) => hear(&mut heard, off || skipped, why),
            Ok(commands) => {
                hear(&mut heard, off || skipped, &format!("*{}", commands.len()));
                for words in &commands {
                    let before = (self.blocked, self.other.contains("debugger"));
                    let mode = reply_mode(words);
                    match mode {
                        Some(Replies::On) => (off, skipped) = (false, false),
                        Some(Replies::Off) => off = true,
                        Some(Replies::Skip) => skips_next |= !off,
                        None => {}
                    }
                    let answer = match mode {
                        Some(_) => "+OK".to_owned(),
                        None => self.execute(words, lookup(words[0].as_bytes()).info().kind),
                    };
                    if matches!(mode, None | Some(Replies::On)) {
                        hear(&mut heard, off || skipped, &answer);
                    }
                    // Nothing blocks in a transaction, and nobody is debugged.
                    self.blocked = before.0;
                    if !before.1 {
                        self.other.remove("debugger");
                    }
                }
            }
        }
        self.replies = if off {
            Replies::Off
        } else if skips_next {
            Replies::Skip
        } else {
            Replies::On
        };
        heard.join("; ")
    }

    fn subscribe(&mut self, words: &Words, on: bool) -> String {
        let command = words[0].to_lowercase();
        let kind = command.strip_suffix(if on { "subscribe" } else { "unsubscribe" }).unwrap_or_default().to_owned();
        for name in &words[1..] {
            let one = (kind.clone(), name.clone());
            if on {
                self.subscribed.insert(one)
            } else {
                self.subscribed.remove(&one)
            };
        }
        if words.len() == 1 {
            self.subscribed.retain(|(k, _)| *k != kind);
        }
        format!("{command} {}", self.subscribed.len())
    }

    fn client(&mut self, words: &Words, sub: &str) -> String {
        match sub {
            "SETNAME" if words[2].contains(' ') => "-bad name".into(),
            "SETNAME" => {
                self.name.clone_from(&words[2]);
                "+OK".into()
            }
            "GETNAME" => format!("name {}", self.name),
            "TRACKING" if words[2].eq_ignore_ascii_case("on") => self.note("tracking"),
            "TRACKING" => {
                self.other.remove("tracking");
                "+OK".into()
            }
            "NO-EVICT" => self.note("no-evict"),
            "CACHING" => "-not opted in".into(),
            "GETREDIR" | "TRACKINGINFO" => format!("tracking: {}", self.other.contains("tracking")),
            // Every client has an id of its own.
            "ID" => "id".into(),
            "LIST" | "INFO" | "KILL" | "UNBLOCK" => "about clients".into(),
            _ => self.ran(words),
        }
    }
}

/// Whether a command that would change something has as many arguments as it takes.
fn arity_fits(kind: Kind, words: &Words, sub: &str) -> bool {
    let n = words.len();
    match kind {
        Kind::Multi | Kind::Exec | Kind::Discard | Kind::Unwatch | Kind::Reset | Kind::Quit | Kind::Monitor => n == 1,
        Kind::Select => n == 2,
        Kind::Auth => n == 2 || n == 3,
        Kind::Watch | Kind::Subscribe => n > 1,
        Kind::Client => match sub {
            "ID" | "GETNAME" | "INFO" | "GETREDIR" | "TRACKINGINFO" => n == 2,
            "SETNAME" | "REPLY" | "NO-EVICT" | "CACHING" => n == 3,
            "TRACKING" | "KILL" | "UNBLOCK" => n > 2,
            _ => n > 1,
        },
        _ => true,
    }
}

/// What a `CLIENT REPLY` asks for.
pub fn reply_mode(words: &Words) -> Option<Replies> {
    let [command, sub, mode] = words.as_slice() else { return None };
    if !command.eq_ignore_ascii_case("client") || !sub.eq_ignore_ascii_case("reply") {
        return None;
    }
    match mode.to_lowercase().as_str() {
        "on" => Some(Replies::On),
        "off" => Some(Replies::Off),
        "skip" => Some(Replies::Skip),
        _ => None,
    }
}
