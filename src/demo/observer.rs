//! What can be seen from outside while a failover happens, with times: the Sentinels' messages, the nodes' roles, and
//! pointsman's own view.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::cluster::{Cluster, Member};
use super::proxy::fetch_status;
use super::wire::{Connection, elements, text};

/// How often a node is asked for its role: a few milliseconds, since promotions are timed by it.
const ROLE_EVERY: Duration = Duration::from_millis(5);
/// How often pointsman is asked for its status.
const STATUS_EVERY: Duration = Duration::from_millis(50);
/// Pause before a lost connection is opened again.
const AGAIN: Duration = Duration::from_millis(20);
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Sightings kept; the oldest go first.
const KEPT: usize = 10_000;

/// One thing seen.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// When.
    pub at: Instant,
    /// What.
    pub what: Sight,
}

/// What can be seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sight {
    /// A Sentinel published something: index, channel, message.
    Published(usize, String, String),
    /// A node says another role than before: index, `master`, `slave`, or nothing when it does not answer.
    Role(usize, Option<String>),
    /// pointsman's view of the service changed.
    Proxy(String),
}

/// Watches a cluster until it is dropped.
#[derive(Debug)]
pub struct Observer {
    seen: Seen,
    _tasks: JoinSet<()>,
}

#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    sightings: VecDeque<Sighting>,
    /// Sightings that [`Observer::news`] has not returned yet.
    unread: usize,
    /// The longest time by which an answer to a role question came late.
    slowest: Duration,
}

impl Observer {
    /// Watches all members, and pointsman if the address of its admin server is given.
    pub fn start(cluster: &Cluster, admin: Option<SocketAddr>) -> Self {
        let seen = Seen::default();
        let mut tasks = JoinSet::new();
        let password = |member| cluster.password(member).map(str::to_owned);
        for (i, addr) in cluster.sentinels().into_iter().enumerate() {
            tasks.spawn(listen(i, addr, password(Member::Sentinel(i)), seen.clone()));
        }
        for (i, addr) in cluster.nodes().into_iter().enumerate() {
            tasks.spawn(poll_role(i, addr, password(Member::Node(i)), seen.clone()));
        }
        if let Some(admin) = admin {
            tasks.spawn(poll_status(admin, seen.clone()));
        }
        Self { seen, _tasks: tasks }
    }

    /// What was seen since the last call.
    pub fn news(&self) -> Vec<Sighting> {
        let book = &mut *self.seen.book();
        let read = book.sightings.len() - book.unread;
        book.unread = 0;
        book.sightings.range(read..).cloned().collect()
    }

    /// All that was seen at `since` or later, one line each with the milliseconds since then.
    pub fn story(&self, since: Instant) -> String {
        let book = self.seen.book();
        let told = book.sightings.iter().filter(|s| s.at >= since);
        told.map(|s| format!("{:>8} {:?}\n", (s.at - since).as_millis(), s.what)).collect()
    }

    /// By how much the slowest answer of a node came late since the last call, each asked directly every few
    /// milliseconds: what the machine itself added to any wait in that time.
    pub fn noise(&self) -> Duration {
        std::mem::take(&mut self.seen.book().slowest)
    }

    /// When the first thing that fits was seen, at `since` or later.
    pub fn first(&self, since: Instant, fits: impl Fn(&Sight) -> bool) -> Option<Instant> {
        self.seen.book().sightings.iter().find(|s| s.at >= since && fits(&s.what)).map(|s| s.at)
    }

    /// When each Sentinel began to name a new master, at `since` or later; earliest first.
    ///
    /// Redis' `sentinel.c`: the leader answers GET-MASTER-ADDR-BY-NAME with the promoted node from `+promoted-slave`
    /// on, all others from `+switch-master` on.
    pub fn named_new_master(&self, since: Instant) -> Vec<Instant> {
        let mut named: Vec<(usize, Instant)> = Vec::new();
        for sighting in self.seen.book().sightings.iter().filter(|s| s.at >= since) {
            if let Sight::Published(i, channel, _) = &sighting.what
                && matches!(channel.as_str(), "+promoted-slave" | "+switch-master")
                && !named.iter().any(|(known, _)| known == i)
            {
                named.push((*i, sighting.at));
            }
        }
        named.into_iter().map(|(_, at)| at).collect()
    }
}

impl Seen {
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.0.lock().expect("no code panics while it holds this lock")
    }

    fn answered_after(&self, late: Duration) {
        let book = &mut *self.book();
        book.slowest = book.slowest.max(late);
    }

    fn add(&self, what: Sight) {
        let book = &mut *self.book();
        book.sightings.push_back(Sighting { at: Instant::now(), what });
        if book.sightings.len() > KEPT {
            book.sightings.pop_front();
        }
        book.unread = (book.unread + 1).min(book.sightings.len());
    }
}

async fn listen(i: usize, addr: SocketAddr, password: Option<String>, seen: Seen) {
    loop {
        if let Ok(mut connection) = Connection::open_with(addr, password.as_deref(), ANSWER_LIMIT).await
            && connection.send(&["PSUBSCRIBE", "*"]).await.is_ok()
        {
            while let Ok(message) = connection.receive().await {
                if let [kind, _, channel, payload] = elements(&message)
                    && text(kind) == "pmessage"
                {
                    seen.add(Sight::Published(i, text(channel), text(payload)));
                }
            }
        }
        sleep(AGAIN).await;
    }
}

async fn poll_role(i: usize, addr: SocketAddr, password: Option<String>, seen: Seen) {
    let mut last = None;
    let mut say = |role: Option<String>| {
        if last.as_ref() != Some(&role) {
            // The first answer is no change.
            if last.is_some() {
                seen.add(Sight::Role(i, role.clone()));
            }
            last = Some(role);
        }
    };
    loop {
        match Connection::open_with(addr, password.as_deref(), ANSWER_LIMIT).await {
            Ok(mut connection) => {
                // A lost connection alone says nothing: Sentinel kills all clients of a node that it reconfigures.
                let mut due = Instant::now();
                while let Ok(role) = connection.call(&["ROLE"], ANSWER_LIMIT).await {
                    seen.answered_after(due.elapsed());
                    say(elements(&role).first().map(text));
                    due = Instant::now() + ROLE_EVERY;
                    sleep_until(due).await;
                }
            }
            Err(_) => {
                say(None);
                sleep(AGAIN).await;
            }
        }
    }
}

async fn poll_status(admin: SocketAddr, seen: Seen) {
    let mut last = String::new();
    loop {
        if let Ok(status) = fetch_status(admin).await {
            let service = &status["services"][0];
            let word = |key: &str| service[key].as_str().unwrap_or("-");
            let flow = |key: &str| service[key]["flow"].as_str().unwrap_or("-");
            let mut view = format!(
                "{}: master {}, generation {}, reads {}, writes {}",
                word("phase"),
                word("master"),
                service["generation"],
                flow("reads"),
                flow("writes")
            );
            if !word("why").is_empty() {
                view = format!("{view} ({})", word("why"));
            }
            if view != last {
                if !last.is_empty() {
                    seen.add(Sight::Proxy(view.clone()));
                }
                last = view;
            }
        }
        sleep(STATUS_EVERY).await;
    }
}
