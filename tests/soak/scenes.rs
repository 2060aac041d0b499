//! What the clients of the soak do.

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use pointsman::resp::Value;
use tokio::time::sleep;

use super::client::{Client, Counts, End, Expect};

/// Larger than what one read or write of pointsman or the kernel takes.
const LARGE: usize = 300_000;
/// Counter that all clients raise by optimistic locking.
pub const SHARED: &str = "soak:shared";

type Batch = Vec<(Vec<String>, Expect)>;

/// One client and all it is told, over many connections.
pub struct Actor {
    pub id: usize,
    pub counts: Counts,
    rng: Rng,
    step: u64,
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

impl Actor {
    pub fn new(id: usize, seed: u64) -> Self {
        Self { id, counts: Counts::default(), rng: Rng::with_seed(seed.wrapping_add(id as u64)), step: 0 }
    }

    /// The client's own counter.
    pub fn counter(&self) -> String {
        format!("soak:{}:count", self.id)
    }

    fn key(&self, name: &str) -> String {
        format!("soak:{}:{name}", self.id)
    }

    fn tag(&self) -> String {
        format!("<{}>", self.id)
    }

    fn value(&mut self) -> String {
        self.step += 1;
        format!("<{}>{}", self.id, self.step)
    }

    fn echo(&mut self) -> (Vec<String>, Expect) {
        let value = self.value();
        (words(&["ECHO", &value]), Expect::Exactly(value))
    }

    fn incr(&self) -> (Vec<String>, Expect) {
        (words(&["INCR", &self.counter()]), Expect::Incr)
    }

    /// Connects, plays scenes until the connection ends or it has had enough of it.
    pub async fn visit(&mut self, proxy: SocketAddr) {
        let Ok(mut client) = Client::connect(proxy).await else {
            // A full backlog, on a busy machine.
            return sleep(Duration::from_millis(50)).await;
        };
        if self.rng.u8(..4) == 0 {
            let hello = vec![(words(&["HELLO", "3"]), Expect::Map)];
            if matches!(client.run(&hello, &mut self.counts).await, End::Closed) {
                return;
            }
        }
        for _ in 0..self.rng.usize(1..40) {
            let going_on = match self.rng.u8(..100) {
                0..30 => self.pipeline(&mut client).await,
                30..45 => self.transaction(&mut client).await,
                45..55 => self.compare_and_set(&mut client).await,
                55..63 => self.pop(&mut client).await,
                63..71 => self.large(&mut client).await,
                71..79 => self.database(&mut client).await,
                79..85 => self.unanswered(&mut client).await,
                85..91 => self.broken_transaction(&mut client).await,
                91..94 => return self.vanish(client).await,
                94..96 => return self.vanish_without_reading(client).await,
                _ => return self.listen(client).await,
            };
            if !going_on {
                return;
            }
            if self.rng.u8(..3) == 0 {
                sleep(Duration::from_millis(self.rng.u64(..30))).await;
            }
        }
    }

    async fn play(&mut self, client: &mut Client, batch: Batch) -> bool {
        matches!(client.run(&batch, &mut self.counts).await, End::Answered(_))
    }

    fn mixed(&mut self, n: usize) -> Batch {
        let (name, tag) = (self.key("value"), self.tag());
        (0..n)
            .map(|_| match self.rng.u8(..5) {
                0 => self.incr(),
                1 => (words(&["SET", &name, &self.value()]), Expect::Ok),
                2 => (words(&["GET", &name]), Expect::Own(tag.clone())),
                3 => (words(&["EXISTS", &name]), Expect::Int),
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
        let (name, tag) = (self.key("value"), self.tag());
        let mut batch = vec![(words(&["MULTI"]), Expect::Ok)];
        batch.extend((0..n).map(|_| (words(&["INCR", &self.counter()]), Expect::Queued)));
        batch.push((words(&["GET", &name]), Expect::Queued));
        let whole = self.rng.bool();
        let end = vec![(words(&["EXEC"]), Expect::Exec(n, tag)), self.echo()];
        if whole {
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

    /// A `DISCARD` that is refused, one that is not, and a `MULTI` that is refused.
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
        let seen = match client.run(&look, &mut self.counts).await {
            End::Answered(replies) if replies[0] == Value::Simple("OK".into()) => replies[1].clone(),
            End::Answered(_) => return true,
            End::Closed => return false,
        };
        let seen: u64 = match &seen {
            Value::Bulk(b) => std::str::from_utf8(b).unwrap().parse().unwrap(),
            Value::Null => 0,
            _ => return self.play(client, vec![(words(&["UNWATCH"]), Expect::Ok)]).await,
        };
        let next = (seen + 1).to_string();
        let batch = vec![
            (words(&["MULTI"]), Expect::Ok),
            (words(&["SET", SHARED, &next]), Expect::Queued),
            (words(&["EXEC"]), Expect::SharedExec),
            self.echo(),
        ];
        // One by one, as client libraries do that look at the answer to MULTI.
        for command in batch {
            let refused = self.counts.refused;
            if !self.play(client, vec![command]).await {
                return false;
            }
            if self.counts.refused > refused {
                return false;
            }
        }
        true
    }

    async fn pop(&mut self, client: &mut Client) -> bool {
        let (list, tag) = (self.key("list"), self.tag());
        let mut batch = Vec::new();
        if self.rng.bool() {
            batch.push((words(&["RPUSH", &list, &self.value()]), Expect::Int));
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
        let refused = self.counts.refused;
        // A SELECT that was refused leaves the client in the other database: not what the counters are in.
        self.play(client, batch).await && self.counts.refused == refused
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

    /// Leaves in the middle of its replies.
    async fn vanish(&mut self, mut client: Client) {
        let n = self.rng.usize(1..200);
        let batch = self.mixed(n);
        let read = self.rng.usize(..n);
        if client.send(&batch).await.is_ok() {
            for _ in 0..read {
                if client.next().await.is_err() {
                    break;
                }
            }
        }
        self.forget(&batch);
    }

    /// Asks for much, reads nothing and leaves.
    async fn vanish_without_reading(&mut self, mut client: Client) {
        let get = (words(&["GET", &self.key("large")]), Expect::Own(self.tag()));
        let mut batch = vec![get; 30];
        batch.push(self.incr());
        let _ = client.send(&batch).await;
        sleep(Duration::from_millis(self.rng.u64(..300))).await;
        self.forget(&batch);
    }

    /// What was not looked at is not known.
    fn forget(&mut self, batch: &Batch) {
        self.counts.unknown += batch.iter().filter(|(_, e)| matches!(e, Expect::Incr)).count() as u64;
    }

    /// Subscribes to its own channel and hears nothing but what was published there.
    async fn listen(&mut self, mut client: Client) {
        let channel = self.key("channel");
        if client.send(&[(words(&["SUBSCRIBE", &channel]), Expect::Nothing)]).await.is_err() {
            return;
        }
        let rounds = self.rng.usize(1..6);
        let Ok(first) = client.next().await else { return };
        let (Value::Array(_) | Value::Push(_)) = first else {
            assert!(matches!(&first, Value::Error(e) if e.starts_with("MASTERDOWN")), "{first:?}");
            return;
        };
        for _ in 0..rounds {
            sleep(Duration::from_millis(self.rng.u64(..100))).await;
            if client.send(&[(words(&["PING", "alive"]), Expect::Nothing)]).await.is_err() {
                return;
            }
            loop {
                let Ok(frame) = client.next().await else { return };
                match &frame {
                    Value::Array(items) | Value::Push(items) => {
                        let part = |i: usize| match items.get(i) {
                            Some(Value::Bulk(b)) => String::from_utf8_lossy(b).into_owned(),
                            _ => String::new(),
                        };
                        if part(0) == "pong" {
                            break;
                        }
                        assert_eq!((part(0).as_str(), part(1)), ("message", channel.clone()), "{frame:?}");
                        assert!(part(2).ends_with(&channel), "{frame:?} on {channel}");
                    }
                    Value::Bulk(b) if &b[..] == b"alive" => break,
                    Value::Error(e) if e.starts_with("MASTERDOWN") => break,
                    other => panic!("{other:?} on {channel}"),
                }
            }
        }
    }

    /// Publishes to somebody.
    pub async fn publish(&mut self, proxy: SocketAddr, clients: usize) {
        let channel = format!("soak:{}:channel", self.rng.usize(..clients));
        let message = format!("from {} to {channel}", self.id);
        if let Ok(mut client) = Client::connect(proxy).await {
            self.play(&mut client, vec![(words(&["PUBLISH", &channel, &message]), Expect::Int)]).await;
        }
    }
}
