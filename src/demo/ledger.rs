//! Clients that remember every write that was acknowledged to them, and so notice when one is missing.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::history::Outcome as Write;
use super::tally::{Account, Tally};
use super::wire::{Connection, Reply, elements, text};

/// Longest wait for a reply; longer than pointsman's default `hold_timeout`, whose error reply must still count as one.
const REPLY_LIMIT: Duration = Duration::from_secs(20);
/// Longest wait for a connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Pause after a failed connect or an error reply, so that a dead server is not asked in a tight loop.
const BACKOFF: Duration = Duration::from_millis(5);

/// Who runs against what.
#[derive(Clone, Debug)]
pub struct LedgerSettings {
    /// The address under test.
    pub addr: SocketAddr,
    /// Clients that RPUSH one number after the other to a list of their own and ask how long it is, without pause.
    pub writers: usize,
    /// Clients that only read, each all writers' keys in turn.
    pub readers: usize,
    /// Arguments of the AUTH that every connection begins with; none: no AUTH.
    pub auth: Vec<String>,
    /// Pause of every client between two commands; none: the next one goes out when the last one was answered.
    pub pause: Duration,
}

impl LedgerSettings {
    /// The load of the project's failover measurements.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, writers: 20, readers: 5, auth: Vec::new(), pause: Duration::ZERO }
    }
}

/// Running clients. Dropping it stops them at once.
#[derive(Debug)]
pub struct Ledger {
    shared: Arc<Shared>,
    turn: watch::Sender<Turn>,
    clients: JoinSet<()>,
}

/// What the clients are to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    Run,
    Rest,
}

#[derive(Debug)]
struct Shared {
    settings: LedgerSettings,
    books: Mutex<Books>,
    /// Clients that have finished their command and rest.
    resting: watch::Sender<usize>,
}

#[derive(Debug)]
struct Books {
    tally: Tally,
    /// One per writer.
    accounts: Vec<Account>,
}

impl Ledger {
    /// Starts the clients on the current runtime. Their keys must not exist yet.
    pub fn start(settings: LedgerSettings) -> Self {
        let (turn, watching) = watch::channel(Turn::Run);
        let accounts = vec![Account::default(); settings.writers];
        let shared = Arc::new(Shared {
            settings,
            books: Mutex::new(Books { tally: Tally::default(), accounts }),
            resting: watch::Sender::new(0),
        });
        let mut clients = JoinSet::new();
        for i in 0..shared.settings.writers {
            clients.spawn(Client::new(&shared, &watching).write(i));
        }
        for i in 0..shared.settings.readers {
            clients.spawn(Client::new(&shared, &watching).read(i));
        }
        Self { shared, turn, clients }
    }

    /// What was counted since the start or the last audit.
    pub fn tally(&self) -> Tally {
        self.shared.books().tally.clone()
    }

    /// Lets every client finish its command and rest, compares what each was told with the list that `master` holds, and
    /// returns what was counted since the start or the last audit. The clients rest until [`Ledger::go_on`].
    ///
    /// Fails if a client is still not done when its reply is overdue, or if the master does not answer.
    pub async fn audit(&self, master: &mut Connection) -> io::Result<Tally> {
        self.turn.send_replace(Turn::Rest);
        let all = self.clients.len();
        let mut resting = self.shared.resting.subscribe();
        timeout(REPLY_LIMIT + CONNECT_LIMIT, resting.wait_for(|n| *n == all))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "a ledger client did not come to rest"))?
            .map_err(io::Error::other)?;
        for i in 0..self.shared.settings.writers {
            let list = master.call(&["LRANGE", &key(i), "0", "-1"], REPLY_LIMIT).await?;
            let Reply::Array(_) = list else { return Err(io::Error::other(format!("LRANGE {}: {list:?}", key(i)))) };
            // What is no number was written by nobody of us, as 0 was.
            let found: Vec<u64> = elements(&list).iter().map(|e| text(e).parse().unwrap_or(0)).collect();
            let books = &mut *self.shared.books();
            books.accounts[i].compare(&found, &key(i), &mut books.tally);
        }
        Ok(std::mem::take(&mut self.shared.books().tally))
    }

    /// Lets the clients run again after an audit. The rest counts as no stall.
    pub fn go_on(&self) {
        self.turn.send_replace(Turn::Run);
    }
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("no code panics while it holds this lock")
    }
}

/// One client: the next command goes out when the last one was answered, and after the pause.
struct Client {
    shared: Arc<Shared>,
    turn: watch::Receiver<Turn>,
    connection: Option<Connection>,
    /// When the last command succeeded, for a writer the last INCR; a stall is the time from there to the next success.
    since: Instant,
}

/// How one command went.
enum Outcome {
    /// Its reply.
    Answered(Reply),
    /// An error reply, already counted.
    Refused,
    /// Never sent: no connection could be made.
    NotSent,
    /// Sent, then the connection was lost.
    Dropped,
}

impl Client {
    fn new(shared: &Arc<Shared>, turn: &watch::Receiver<Turn>) -> Self {
        Self { shared: Arc::clone(shared), turn: turn.clone(), connection: None, since: Instant::now() }
    }

    async fn write(mut self, i: usize) {
        let key = key(i);
        if i % 2 == 1 {
            // Otherwise one batch of the proxy after the other would be all writes, then all reads: replies that
            // arrive together let the clients go on together.
            self.read_back(i, &key).await;
        }
        for number in 1u64.. {
            if !self.may_go_on().await {
                return;
            }
            match self.command(&["RPUSH", &key, &number.to_string()]).await {
                Outcome::Answered(reply) => {
                    let stall = self.success();
                    let books = &mut *self.shared.books();
                    books.tally.acknowledged += 1;
                    books.tally.write_stall.extend(stall);
                    books.accounts[i].wrote(number, Write::Acknowledged);
                    match reply {
                        Reply::Integer(n) => books.accounts[i].known = n,
                        reply => books.tally.error(format!("unexpected reply {reply:?}")),
                    }
                }
                Outcome::Dropped => {
                    let books = &mut *self.shared.books();
                    books.tally.dropped_writing += 1;
                    books.accounts[i].wrote(number, Write::Unknown);
                    continue;
                }
                Outcome::Refused => {
                    self.shared.books().accounts[i].wrote(number, Write::Refused);
                    continue;
                }
                Outcome::NotSent => continue,
            }
            self.read_back(i, &key).await;
        }
    }

    /// A writer's LLEN of its own list. Not a success in the sense of [`Stall`](super::tally::Stall): what counts for a
    /// writer is the time between two acknowledged writes.
    async fn read_back(&mut self, i: usize, key: &str) {
        match self.command(&["LLEN", key]).await {
            Outcome::Answered(reply) => {
                let books = &mut *self.shared.books();
                match reply {
                    Reply::Integer(n) => books.accounts[i].read_back(n, &mut books.tally),
                    reply => books.tally.error(format!("unexpected reply {reply:?}")),
                }
            }
            Outcome::Dropped => self.shared.books().tally.dropped_reading += 1,
            Outcome::Refused | Outcome::NotSent => {}
        }
    }

    async fn read(mut self, i: usize) {
        let mut seen = vec![0; self.shared.settings.writers];
        let mut at = i;
        while self.may_go_on().await {
            at = (at + 1) % seen.len();
            match self.command(&["LLEN", &key(at)]).await {
                Outcome::Answered(Reply::Integer(n)) => {
                    let stall = self.success();
                    let tally = &mut self.shared.books().tally;
                    tally.read_stall.extend(stall);
                    tally.went_back += u64::from(n < seen[at]);
                    seen[at] = n;
                }
                // Of the wrong kind: it was meant for somebody else, or made up.
                Outcome::Answered(reply) => self.shared.books().tally.error(format!("unexpected reply {reply:?}")),
                Outcome::Dropped => self.shared.books().tally.dropped_reading += 1,
                Outcome::Refused | Outcome::NotSent => {}
            }
        }
    }

    /// Rests while that is asked; false when the ledger is gone.
    async fn may_go_on(&mut self) -> bool {
        if *self.turn.borrow_and_update() == Turn::Run {
            return true;
        }
        self.shared.resting.send_modify(|n| *n += 1);
        let go_on = self.turn.wait_for(|turn| *turn == Turn::Run).await.is_ok();
        self.shared.resting.send_modify(|n| *n -= 1);
        self.since = Instant::now();
        go_on
    }

    async fn command(&mut self, command: &[&str]) -> Outcome {
        let pause = self.shared.settings.pause;
        if !pause.is_zero() {
            sleep(pause).await;
        }
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match self.connect().await {
                Ok(connection) => connection,
                Err(_) => {
                    self.shared.books().tally.failed_connects += 1;
                    sleep(BACKOFF).await;
                    return Outcome::NotSent;
                }
            },
        };
        match connection.call(command, REPLY_LIMIT).await {
            Ok(Reply::Error(message)) => {
                self.connection = Some(connection);
                self.shared.books().tally.error(message);
                sleep(BACKOFF).await;
                Outcome::Refused
            }
            Ok(reply) => {
                self.connection = Some(connection);
                self.shared.books().tally.commands += 1;
                Outcome::Answered(reply)
            }
            Err(_) => Outcome::Dropped,
        }
    }

    async fn connect(&self) -> io::Result<Connection> {
        let settings = &self.shared.settings;
        let mut connection = Connection::open(settings.addr, CONNECT_LIMIT).await?;
        if !settings.auth.is_empty() {
            let words: Vec<&str> = ["AUTH"].into_iter().chain(settings.auth.iter().map(String::as_str)).collect();
            if let Reply::Error(message) = connection.call(&words, REPLY_LIMIT).await? {
                return Err(io::Error::other(message));
            }
        }
        Ok(connection)
    }

    /// Ends the time without success: its length and its end.
    fn success(&mut self) -> (Duration, Instant) {
        let now = Instant::now();
        let waited = now.duration_since(self.since);
        self.since = now;
        (waited, now)
    }
}

fn key(i: usize) -> String {
    format!("ledger:{i}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::cluster::{Cluster, Member, Settings};

    async fn until(ledger: &Ledger, what: &str, reached: impl Fn(&Tally) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !reached(&ledger.tally()) {
            assert!(Instant::now() < end, "never {what}: {:?}", ledger.tally());
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn notices_lost_doubled_and_dropped() {
        let cluster = Cluster::start(Settings::single()).await.unwrap();
        let master = Member::Node(0);
        let mut direct = cluster.connect(master).await.unwrap();
        let ledger =
            Ledger::start(LedgerSettings { writers: 3, readers: 2, ..LedgerSettings::new(cluster.addr(master)) });

        until(&ledger, "ran", |t| t.acknowledged > 300 && t.commands > 1000).await;
        let calm = ledger.audit(&mut direct).await.unwrap();
        assert!(calm.commands > 1000);
        assert_eq!((calm.errors, calm.dropped(), calm.lost, calm.doubled, calm.went_back), (0, 0, 0, 0, 0), "{calm:?}");

        // Five acknowledged writes vanish while nobody looks.
        direct.call(&["RPOP", "ledger:1", "5"], CONNECT_LIMIT).await.unwrap();
        ledger.go_on();
        until(&ledger, "read the older value", |t| t.went_back > 0).await;
        let robbed = ledger.audit(&mut direct).await.unwrap();
        assert_eq!((robbed.lost, robbed.doubled), (5, 0), "{robbed:?}");

        // A write that ran twice, and two that changed places, found by the audit alone.
        direct.call(&["RPUSH", "ledger:2", "7"], CONNECT_LIMIT).await.unwrap();
        direct.call(&["LSET", "ledger:0", "0", "2"], CONNECT_LIMIT).await.unwrap();
        direct.call(&["LSET", "ledger:0", "1", "1"], CONNECT_LIMIT).await.unwrap();
        let damaged = ledger.audit(&mut direct).await.unwrap();
        assert_eq!((damaged.doubled, damaged.misplaced, damaged.lost), (1, 1, 0), "{damaged:?}");
        assert_eq!(damaged.first_fault.as_deref(), Some("ledger:0: 1 stands behind 2, which was written after it"));

        ledger.go_on();
        until(&ledger, "ran again", |t| t.acknowledged > 30).await;
        direct.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"], CONNECT_LIMIT).await.unwrap();
        until(&ledger, "dropped", |t| t.dropped() >= 5).await;
        direct.call(&["CONFIG", "SET", "min-replicas-to-write", "1"], CONNECT_LIMIT).await.unwrap();
        until(&ledger, "refused", |t| t.errors > 0).await;
        let broken = ledger.audit(&mut direct).await.unwrap();
        assert!(broken.first_error.as_deref().is_some_and(|e| e.starts_with("NOREPLICAS")), "{broken:?}");
        assert_eq!((broken.lost, broken.went_back), (0, 0), "{broken:?}");
    }
}
