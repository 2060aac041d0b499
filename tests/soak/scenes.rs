//! What the clients of the soak do.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use pointsman::resp::Value;
use tokio::time::{Instant, sleep};

use super::book::{Book, Raised};
use super::client::{Client, End, lost};
use super::expect::{Command, Expect};

/// Larger than what one read or write of pointsman or the kernel takes.
const LARGE: usize = 300_000;
/// Counter that all clients raise by optimistic locking.
pub const SHARED: &str = "soak:shared";
/// Users beside the default one, `u1` to here, whose password is their name.
pub const USERS: usize = 3;
/// Scenes that are told when something was wrong.
const REMEMBERED: usize = 30;

/// One client and all it is told, over many connections.
pub struct Actor {
    pub id: usize,
    pub book: Book,
    rng: Rng,
    step: u64,
    clients: usize,
    began: Instant,
    played: VecDeque<String>,
}

pub fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

/// What a client was playing when it panicked.
impl Drop for Actor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("client {} at {:?}; before: {:?}", self.id, self.began.elapsed(), self.played);
        }
    }
}

impl Actor {
    pub fn new(id: usize, clients: usize, seed: u64, raised: Raised) -> Self {
        let rng = Rng::with_seed(seed.wrapping_add(id as u64));
        let (book, began) = (Book::new(id, raised), Instant::now());
        Self { id, book, rng, step: 0, clients, began, played: VecDeque::new() }
    }

    fn key_of(id: usize, name: &str) -> String {
        format!("soak:{id}:{name}")
    }

    /// A client's own counter.
    pub fn counter(id: usize) -> String {
        Self::key_of(id, "count")
    }

    fn key(&self, name: &str) -> String {
        Self::key_of(self.id, name)
    }

    fn tag(&self) -> String {
        format!("<{}>", self.id)
    }

    fn value(&mut self) -> String {
        self.step += 1;
        format!("<{}>{}", self.id, self.step)
    }

    fn echo(&mut self) -> Command {
        let value = self.value();
        (words(&["ECHO", &value]), Expect::Exactly(value))
    }

    fn incr(&self) -> Command {
        (words(&["INCR", &Self::counter(self.id)]), Expect::Incr)
    }

    async fn connect(&self, proxy: SocketAddr) -> Option<Client> {
        match Client::connect(proxy, &self.key("")).await {
            Ok(client) => Some(client),
            Err(_) => {
                // A full backlog, on a busy machine.
                sleep(Duration::from_millis(50)).await;
                None
            }
        }
    }

    /// Connects, plays scenes until the connection ends or it has had enough of it.
    pub async fn visit(&mut self, proxy: SocketAddr) {
        let Some(mut client) = self.connect(proxy).await else { return };
        let resp3 = self.rng.u8(..4) == 0;
        if resp3 && !self.play(&mut client, vec![(words(&["HELLO", "3"]), Expect::Map)]).await {
            return;
        }
        for _ in 0..self.rng.usize(1..40) {
            let scene = self.rng.u8(..100);
            self.remember(scene);
            let going_on = match scene {
                0..25 => self.pipeline(&mut client).await,
                25..38 => self.transaction(&mut client).await,
                38..48 => self.compare_and_set(&mut client).await,
                48..58 => self.pop(&mut client).await,
                58..64 => self.large(&mut client).await,
                64..70 => self.database(&mut client).await,
                70..75 => self.unanswered(&mut client).await,
                75..80 => self.broken_transaction(&mut client).await,
                80..84 => self.user(&mut client).await,
                84..87 => self.name(&mut client).await,
                87..89 if resp3 => self.track(&mut client).await,
                87..89 => self.script(&mut client).await,
                89..92 => return self.leave_half_read(client).await,
                92..94 => return self.leave_without_reading(client).await,
                94..96 => return self.leave_in_the_middle(client).await,
                _ => self.listen(&mut client).await,
            };
            if !going_on {
                return;
            }
            if self.rng.u8(..3) == 0 {
                sleep(Duration::from_millis(self.rng.u64(..30))).await;
            }
        }
    }

    fn remember(&mut self, scene: u8) {
        self.played.truncate(REMEMBERED - 1);
        self.played.push_front(format!("{scene} at {:.3}", self.began.elapsed().as_secs_f64()));
    }

    /// False if the client has to leave: the connection has ended, or a command was refused on which others relied.
    async fn play(&mut self, client: &mut Client, batch: Vec<Command>) -> bool {
        let refused = self.book.refused;
        matches!(client.run(&batch, &mut self.book).await, End::Answered(_)) && self.book.refused == refused
    }

    fn mixed(&mut self, n: usize) -> Vec<Command> {
        let (name, other, tag) = (self.key("value"), self.key("large"), self.tag());
        (0..n)
            .map(|_| match self.rng.u8(..6) {
                0 => self.incr(),
                1 => (words(&["SET", &name, &self.value()]), Expect::Ok),
                2 => (words(&["SET", &name, &self.value(), "GET"]), Expect::Own(tag.clone())),
                3 => (words(&["GET", &name]), Expect::Own(tag.clone())),
                4 if n < 40 => (words(&["MGET", &name, &other]), Expect::AllOwn(tag.clone())),
                _ => self.echo(),
            })
            .collect()
    }

    async fn pipeline(&mut self, client: &mut Client) -> bool {
        let n = if self.rng.u8(..20) == 0 { 1500 } else { self.rng.usize(1..40) };
        let batch = self.mixed(n);
        self.play(client, batch).await
    }

    async fn transaction(&mut self, client: &mut Client) -> bool {
        let n = self.rng.usize(0..5);
        let mut inside: Vec<Command> = (0..n).map(|_| self.incr()).collect();
        inside.push(self.echo());
        let mut batch = vec![(words(&["MULTI"]), Expect::Ok)];
        batch.extend(inside.iter().map(|(command, _)| (command.clone(), Expect::Queued)));
        let replies = inside.into_iter().map(|(_, expect)| expect).collect();
        let end = vec![(words(&["EXEC"]), Expect::Exec(replies)), self.echo()];
        if self.rng.bool() {
            batch.extend(end);
            return self.play(client, batch).await;
        }
        for command in batch {
            if !self.play(client, vec![command]).await {
                return false;
            }
        }
        self.play(client, end).await
    }

    /// A transaction that is dropped, and a watch that is.
    async fn broken_transaction(&mut self, client: &mut Client) -> bool {
        let batch = vec![
            (words(&["MULTI"]), Expect::Ok),
            (words(&["INCR", "soak:never"]), Expect::Queued),
            (words(&["DISCARD"]), Expect::Ok),
            self.echo(),
            (words(&["WATCH", &self.key("value")]), Expect::Ok),
            (words(&["GET", &self.key("value")]), Expect::Own(self.tag())),
            (words(&["UNWATCH"]), Expect::Ok),
            self.echo(),
        ];
        self.play(client, batch).await
    }

    /// All clients raise one counter: whoever lost its watch and ran all the same would overwrite somebody.
    async fn compare_and_set(&mut self, client: &mut Client) -> bool {
        let look = vec![(words(&["WATCH", SHARED]), Expect::Ok), (words(&["GET", SHARED]), Expect::Own(String::new()))];
        let seen = match client.run(&look, &mut self.book).await {
            End::Answered(replies) if replies[0] == Value::Simple("OK".into()) => replies[1].clone(),
            _ => return false,
        };
        let seen: u64 = match &seen {
            Value::Bulk(b) => std::str::from_utf8(b).unwrap().parse().unwrap(),
            Value::Null => 0,
            _ => return false,
        };
        let batch = vec![
            (words(&["MULTI"]), Expect::Ok),
            (words(&["SET", SHARED, &(seen + 1).to_string()]), Expect::Queued),
            (words(&["EXEC"]), Expect::SharedExec(seen + 1)),
            self.echo(),
        ];
        // One by one, as client libraries do that look at the answer to MULTI.
        for command in batch {
            if !self.play(client, vec![command]).await {
                return false;
            }
        }
        true
    }

    /// Pushes an element to its own list or to another client's, and waits for one in its own.
    async fn pop(&mut self, client: &mut Client) -> bool {
        let (list, tag) = (self.key("list"), self.tag());
        let mut batch = Vec::new();
        if self.rng.bool() {
            let to = if self.rng.bool() { self.id } else { self.rng.usize(..self.clients) };
            let element = format!("<{to}> from {}", self.value());
            batch.push((words(&["RPUSH", &Self::key_of(to, "list"), &element]), Expect::Int));
        }
        batch.push((words(&["BLPOP", &list, "0.2"]), Expect::Popped(list.clone(), tag)));
        batch.push(self.echo());
        self.play(client, batch).await
    }

    async fn large(&mut self, client: &mut Client) -> bool {
        let name = self.key("large");
        let value = format!("{}{}", self.value(), "x".repeat(LARGE));
        let set = (words(&["SET", &name, &value]), Expect::Ok);
        let get = (words(&["GET", &name]), Expect::Own(self.tag()));
        let batch = match self.rng.u8(..3) {
            0 => vec![set, self.echo(), get],
            1 => vec![get.clone(), self.echo(), get.clone(), self.incr(), get],
            _ => vec![
                (words(&["MULTI"]), Expect::Ok),
                (set.0, Expect::Queued),
                (get.0, Expect::Queued),
                (words(&["DISCARD"]), Expect::Ok),
                self.echo(),
            ],
        };
        self.play(client, batch).await
    }

    async fn database(&mut self, client: &mut Client) -> bool {
        let (name, tag, n) = (self.key("db"), self.tag(), self.rng.u8(1..4).to_string());
        let batch = vec![
            (words(&["SELECT", &n]), Expect::Ok),
            (words(&["SET", &name, &format!("{tag}db{n}")]), Expect::Ok),
            (words(&["GET", &name]), Expect::Own(format!("{tag}db{n}"))),
            self.echo(),
            (words(&["SELECT", "0"]), Expect::Ok),
        ];
        self.play(client, batch).await
    }

    async fn unanswered(&mut self, client: &mut Client) -> bool {
        let (name, value) = (self.key("quiet"), self.value());
        let set = (words(&["SET", &name, &value]), Expect::Nothing);
        let get = (words(&["GET", &name]), Expect::Own(self.tag()));
        let reply = |mode: &str, expect| (words(&["CLIENT", "REPLY", mode]), expect);
        let batch = if self.rng.bool() {
            vec![reply("SKIP", Expect::Nothing), set, self.echo(), get]
        } else {
            vec![reply("OFF", Expect::Nothing), set.clone(), set, reply("ON", Expect::Ok), self.echo(), get]
        };
        self.play(client, batch).await
    }

    /// Is somebody else for a while.
    async fn user(&mut self, client: &mut Client) -> bool {
        let user = format!("u{}", self.rng.usize(1..=USERS));
        let who = |name: &str| (words(&["ACL", "WHOAMI"]), Expect::Exactly(name.to_owned()));
        let batch = vec![
            (words(&["AUTH", &user, &user]), Expect::Ok),
            who(&user),
            self.incr(),
            who(&user),
            (words(&["AUTH", "default", "any"]), Expect::Ok),
            who("default"),
        ];
        self.play(client, batch).await
    }

    async fn name(&mut self, client: &mut Client) -> bool {
        let name = self.value();
        let get = (words(&["CLIENT", "GETNAME"]), Expect::Exactly(name.clone()));
        let id = || (words(&["CLIENT", "ID"]), Expect::Int);
        let batch = vec![
            (words(&["CLIENT", "SETNAME", &name]), Expect::Ok),
            get.clone(),
            id(),
            self.echo(),
            self.incr(),
            id(),
            get,
        ];
        match client.run(&batch, &mut self.book).await {
            End::Answered(replies) => {
                assert_eq!(replies[2], replies[5], "the id of client {} changed", self.id);
                true
            }
            End::Closed => false,
        }
    }

    async fn script(&mut self, client: &mut Client) -> bool {
        let value = self.value();
        let script = (words(&["EVAL", "return ARGV[1]", "1", &self.key("value"), &value]), Expect::Exactly(value));
        let batch = vec![self.echo(), script, self.incr()];
        self.play(client, batch).await
    }

    /// Is told when what it read changes. What is pushed is looked at wherever it comes.
    async fn track(&mut self, client: &mut Client) -> bool {
        let (name, tag) = (self.key("tracked"), self.tag());
        let batch = vec![
            (words(&["CLIENT", "TRACKING", "ON"]), Expect::Ok),
            (words(&["GET", &name]), Expect::Own(tag)),
            (words(&["SET", &name, &self.value()]), Expect::Ok),
            self.echo(),
            (words(&["CLIENT", "TRACKING", "OFF"]), Expect::Ok),
            self.echo(),
        ];
        self.play(client, batch).await
    }

    /// Leaves in the middle of its replies.
    async fn leave_half_read(&mut self, mut client: Client) {
        let n = self.rng.usize(1..200);
        let batch = self.mixed(n);
        match client.send(&batch).await {
            Ok(()) => drop(client.read(&batch, self.rng.usize(..n), &mut self.book).await),
            Err(_) => lost(&batch, &mut self.book),
        }
    }

    /// Asks for much, reads nothing and leaves.
    async fn leave_without_reading(&mut self, mut client: Client) {
        let get = (words(&["GET", &self.key("large")]), Expect::Own(self.tag()));
        let mut batch = vec![get; 30];
        batch.push(self.incr());
        // What was sent may run, whether all of it was or not.
        let _ = client.send(&batch).await;
        sleep(Duration::from_millis(self.rng.u64(..300))).await;
        lost(&batch, &mut self.book);
    }

    /// Leaves in the middle of a command, a transaction or a wait.
    async fn leave_in_the_middle(&mut self, client: Client) {
        let blocked = (words(&["BLPOP", &self.key("nothing"), "0"]), Expect::Nothing);
        let open = (words(&["MULTI"]), Expect::Ok);
        let watch = (words(&["WATCH", &self.key("value")]), Expect::Ok);
        let mut batch = self.mixed(8);
        batch.push(match self.rng.u8(..3) {
            0 => blocked,
            1 => open,
            _ => watch,
        });
        // The last command makes unknown what stands before it, if the connection is reset.
        let (part, reset) = (self.rng.f64(), self.rng.bool());
        client.break_off(&batch, if self.rng.bool() { 1.0 } else { part }, reset).await;
        lost(&batch, &mut self.book);
    }

    /// Subscribes to its own channel, hears nothing but what was published there, and may go on with other things.
    async fn listen(&mut self, client: &mut Client) -> bool {
        let channel = self.key("channel");
        if !self.confirmed(client, "SUBSCRIBE", &channel).await {
            return false;
        }
        for _ in 0..self.rng.usize(1..6) {
            sleep(Duration::from_millis(self.rng.u64(..100))).await;
            if client.send(&[(words(&["PING", "alive"]), Expect::Nothing)]).await.is_err() {
                return false;
            }
            loop {
                let Ok(frame) = client.next().await else { return false };
                match &frame {
                    Value::Array(items) if part(items, 0) == "pong" => break,
                    Value::Array(items) | Value::Push(items) => heard(items, &channel),
                    Value::Bulk(b) if &b[..] == b"alive" => break,
                    Value::Error(e) if e.starts_with("MASTERDOWN") => break,
                    other => panic!("{other:?} on {channel}"),
                }
            }
        }
        if !self.confirmed(client, "UNSUBSCRIBE", &channel).await {
            return false;
        }
        let batch = vec![self.echo(), self.incr()];
        self.play(client, batch).await
    }

    /// Sends a (un)subscribe command and waits for its confirmation.
    async fn confirmed(&mut self, client: &mut Client, command: &str, channel: &str) -> bool {
        if client.send(&[(words(&[command, channel]), Expect::Nothing)]).await.is_err() {
            return false;
        }
        loop {
            match client.next().await {
                Ok(Value::Array(items) | Value::Push(items)) if part(&items, 0) == command.to_lowercase() => {
                    assert_eq!(part(&items, 1), channel, "{items:?}");
                    return true;
                }
                Ok(Value::Array(items) | Value::Push(items)) => heard(&items, channel),
                Ok(other) => {
                    assert!(matches!(&other, Value::Error(e) if e.starts_with("MASTERDOWN")), "{other:?} on {channel}");
                    return false;
                }
                Err(_) => return false,
            }
        }
    }

    /// Publishes to somebody.
    pub async fn publish(&mut self, proxy: SocketAddr) {
        let channel = Self::key_of(self.rng.usize(..self.clients), "channel");
        let message = format!("from {} to {channel}", self.id);
        if let Some(mut client) = self.connect(proxy).await {
            self.play(&mut client, vec![(words(&["PUBLISH", &channel, &message]), Expect::Int)]).await;
        }
    }
}

fn part(items: &[Value], i: usize) -> String {
    match items.get(i) {
        Some(Value::Bulk(b)) => String::from_utf8_lossy(b).into_owned(),
        _ => String::new(),
    }
}

fn heard(items: &[Value], channel: &str) {
    assert_eq!((part(items, 0).as_str(), part(items, 1).as_str()), ("message", channel), "{items:?}");
    assert!(part(items, 2).ends_with(channel), "{items:?} on {channel}");
}
