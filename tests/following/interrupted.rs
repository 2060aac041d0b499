//! What comes between a session's command and its end, at the moment that the test chooses: the parts of a worker run on
//! the test's own thread, before a real Redis, and the test is control.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use pointsman::addr::ClientAddr;
use pointsman::backend::{Context, DialError, Downstream, Key};
use pointsman::clients::Clients;
use pointsman::clock::Moment;
use pointsman::config::{ServiceConfig, Source};
use pointsman::demo::cluster::{Cluster, Member};
use pointsman::demo::settings::Settings;
use pointsman::demo::wire::text as reply_text;
use pointsman::net::{Resolver, Stream};
use pointsman::pool::Pool;
use pointsman::resp::encode_command;
use pointsman::session::Session;
use pointsman::topology::{Access, Flow, Grant, Link, Permission, Topology};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::support::{PATIENCE, Raw, command, text};

/// Two masters that know nothing of each other, one worker's parts, one client.
struct Scene {
    cluster: Cluster,
    nodes: Vec<SocketAddr>,
    link: Arc<Link>,
    pool: Rc<Pool>,
    down: Rc<Downstream>,
    client: Raw,
}

impl Scene {
    async fn start() -> Self {
        Self::start_before(|nodes| nodes).await
    }

    /// `reached`: where the nodes are reached.
    async fn start_before(reached: impl FnOnce(Vec<SocketAddr>) -> Vec<SocketAddr>) -> Self {
        let settings = Settings { replicas: 1, sentinels: 0, ..Settings::default() };
        let cluster = Cluster::start(settings).await.unwrap();
        cluster.ask(Member::Node(1), &["REPLICAOF", "NO", "ONE"]).await.unwrap();
        let nodes = reached(cluster.nodes());
        let link = Arc::new(Link::default());
        let config = ServiceConfig::new("test", Vec::new(), Source::Static(nodes[0].into()));
        let access = Access::new(Arc::clone(&link));
        let context = Context::new(
            Arc::new(config),
            Resolver::default(),
            access,
            Arc::default(),
            Arc::default(),
            mpsc::channel(8).0,
            Arc::default(),
        );
        let pool = Rc::new(Pool::new(Rc::new(context)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = listener.local_addr().unwrap();
        let client = Raw::connect(front).await;
        let (socket, from) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        let clients = Arc::new(Clients::new(1));
        let presence = clients.join(1, 0, [from, front].map(ClientAddr::Tcp), None).unwrap();
        let mut session = Session::new(Rc::clone(&pool), Stream::Tcp(socket), presence, Rc::default());
        let down = session.downstream();
        tokio::task::spawn_local(async move { session.run().await });
        let scene = Self { cluster, nodes, link, pool, down, client };
        switch_to(&scene.link, &scene.pool, 1, scene.nodes[0]);
        scene
    }

    /// Does it when so many commands of the client are owed, one number after the other: in the same turn as the task that
    /// made it the last of them, behind that, and before all that this one wakes.
    fn once_owed(&self, numbers: &'static [u32], act: impl FnOnce() + 'static) -> JoinHandle<()> {
        let down = Rc::clone(&self.down);
        tokio::task::spawn_local(async move {
            for n in numbers {
                while down.owed() != *n {
                    tokio::task::yield_now().await;
                }
            }
            act();
        })
    }

    /// The command is answered, and the points are turned before the session has seen that.
    async fn answered_and_lost(&mut self, words: &[&str]) {
        // It has a connection of its own.
        assert_eq!(self.client.ask(&["WATCH", "w"]).await, "+OK\r\n");
        let (link, pool, node) = (Arc::clone(&self.link), Rc::clone(&self.pool), self.nodes[1]);
        let lost = self.once_owed(&[1, 0], move || switch_to(&link, &pool, 2, node));
        self.client.send(&command(words)).await;
        within(lost).await;
    }

    async fn ask_node(&self, node: usize, words: &[&str]) -> String {
        reply_text(&self.cluster.ask(Member::Node(node), words).await.unwrap())
    }
}

fn lease(link: &Link, generation: u32, writes: Flow) {
    link.lease.store(Grant { generation, reads: Flow::Flowing, writes, valid_until: Moment(u64::MAX >> 24) });
}

fn switch_to(link: &Link, pool: &Pool, generation: u32, node: SocketAddr) {
    publish(link, pool, generation, node, Flow::Flowing);
}

fn publish(link: &Link, pool: &Pool, generation: u32, node: SocketAddr, writes: Flow) {
    let permission = |flow| Permission { node: Some(node), flow };
    lease(link, generation, writes);
    pool.apply(Arc::new(Topology {
        seq: generation.into(),
        generation: generation.into(),
        reads: permission(Flow::Flowing),
        writes: permission(writes),
        ..Topology::unknown()
    }));
}

async fn within<T>(task: JoinHandle<T>) -> T {
    timeout(PATIENCE, task).await.expect("never").unwrap()
}

#[tokio::test(flavor = "local")]
async fn a_database_counts_from_when_its_select_is_answered() {
    let mut scene = Scene::start().await;
    assert_eq!(scene.client.ask(&["WATCH", "w"]).await, "+OK\r\n");
    // Both are queued, and not written yet.
    let link = Arc::clone(&scene.link);
    let held = scene.once_owed(&[2], move || lease(&link, 1, Flow::Held));
    let both = [command(&["SET", "k", "first"]), command(&["SELECT", "5"]), command(&["SET", "k", "second"])];
    scene.client.send(&both.concat()).await;
    within(held).await;
    scene.ask_node(0, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    lease(&scene.link, 1, Flow::Flowing);
    scene.pool.tick();
    assert_eq!(text(&scene.client.until(b"+OK\r\n+OK\r\n+OK\r\n").await), "+OK\r\n+OK\r\n+OK\r\n");
    assert_eq!(scene.ask_node(0, &["GET", "k"]).await, "first", "sent in the database that the client was in");
    assert_eq!(scene.client.ask(&["GET", "k"]).await, "$6\r\nsecond\r\n");
}

#[tokio::test(flavor = "local")]
async fn a_database_that_was_confirmed_is_carried_over_though_its_connection_is_gone() {
    let mut scene = Scene::start().await;
    scene.answered_and_lost(&["SELECT", "5"]).await;
    scene.client.until(b"+OK\r\n").await;
    assert_eq!(scene.client.ask(&["SET", "k", "v"]).await, "+OK\r\n");
    assert_eq!(scene.ask_node(1, &["EXISTS", "k"]).await, "0", "database 0");
    assert_eq!(scene.client.ask(&["GET", "k"]).await, "$1\r\nv\r\n");
}

#[tokio::test(flavor = "local")]
async fn a_watch_that_was_lost_stays_lost_behind_what_takes_another_connection() {
    let mut scene = Scene::start().await;
    scene.answered_and_lost(&["GET", "w"]).await;
    scene.client.until(b"$-1\r\n").await;
    assert_eq!(scene.client.ask(&["BLPOP", "nothing", "0.01"]).await, "*-1\r\n");
    // With that it has ended.
    for reply in ["*-1\r\n", "*1\r\n+OK\r\n"] {
        scene.client.send(&[command(&["MULTI"]), command(&["SET", "w", "1"]), command(&["EXEC"])].concat()).await;
        let all = format!("+OK\r\n+QUEUED\r\n{reply}");
        assert_eq!(text(&scene.client.until(reply.as_bytes()).await), all);
    }
}

#[tokio::test(flavor = "local")]
async fn a_subscription_that_an_exec_has_made_is_carried_over_though_its_connection_is_gone() {
    let mut scene = Scene::start().await;
    scene.client.send(&[command(&["MULTI"]), command(&["SUBSCRIBE", "news"])].concat()).await;
    scene.client.until(b"+QUEUED\r\n").await;
    let (link, pool, node) = (Arc::clone(&scene.link), Rc::clone(&scene.pool), scene.nodes[1]);
    let lost = scene.once_owed(&[1, 0], move || switch_to(&link, &pool, 2, node));
    scene.client.send(&command(&["EXEC"])).await;
    within(lost).await;
    scene.client.until(b":1\r\n").await;
    let renewed = async {
        while scene.ask_node(1, &["PUBLISH", "news", "hi"]).await != "1" {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, renewed).await.expect("it is subscribed there");
    assert!(text(&scene.client.until(b"hi\r\n").await).contains("message"));
}

#[tokio::test(flavor = "local")]
async fn tracking_that_was_confirmed_is_carried_over_though_its_connection_is_gone() {
    const ALL: &str = ">2\r\n$10\r\ninvalidate\r\n_\r\n";
    let mut scene = Scene::start().await;
    assert!(scene.client.ask(&["HELLO", "3"]).await.starts_with('%'));
    scene.answered_and_lost(&["CLIENT", "TRACKING", "ON"]).await;
    scene.client.until(format!("+OK\r\n{ALL}").as_bytes()).await;
    assert_eq!(scene.client.ask(&["GET", "k"]).await, "_\r\n");
    scene.ask_node(1, &["SET", "k", "v"]).await;
    scene.client.until(b"*1\r\n$1\r\nk\r\n").await;
}

#[tokio::test(flavor = "local")]
async fn what_was_refused_leaves_nothing_to_be_lost() {
    let mut scene = Scene::start().await;
    scene.answered_and_lost(&["CLIENT", "NOSUCH"]).await;
    scene.client.until(b"-ERR ").await;
    scene.client.until(b"\r\n").await;
    assert_eq!(scene.client.ask(&["GET", "k"]).await, "$-1\r\n");
}

#[tokio::test(flavor = "local")]
async fn a_dead_master_is_not_dialled_for_every_judgement() {
    const JUDGEMENTS: usize = 100;
    let mut scene = Scene::start().await;
    scene.cluster.kill(Member::Node(0)).unwrap();
    let (key, question) = (Key { database: 0, resp3: false, user: None }, [encode_command(&["HELLO"])]);
    let began = Instant::now();
    for _ in 0..JUDGEMENTS {
        let mut told = None;
        scene.pool.judge(scene.nodes[0], &key, &question, |verdict| told = Some(verdict)).await;
        assert!(matches!(told, Some(Err(DialError::Refused))), "{told:?}");
    }
    let (failures, took) = (scene.pool.context.stats.backend_connect_failures.value(), began.elapsed());
    // The pauses are 5 ms and more.
    assert!(u128::from(failures) <= 1 + took.as_millis() / 5, "{failures} in {took:?}");
    assert!(failures < JUDGEMENTS as u64, "{failures} in {took:?}");
    // Elsewhere nothing has failed.
    switch_to(&scene.link, &scene.pool, 2, scene.nodes[1]);
    assert!(scene.client.ask(&["HELLO"]).await.contains("proto"));
}

#[tokio::test(flavor = "local")]
async fn a_large_write_that_was_refused_is_none_that_wait_could_speak_of() {
    let mut scene = Scene::start().await;
    assert_eq!(scene.client.ask(&["SET", "k", "v"]).await, "+OK\r\n");
    publish(&scene.link, &scene.pool, 2, scene.nodes[1], Flow::Refused);
    let large = "x".repeat(1 << 20);
    let refused = scene.client.ask(&["SET", "k", &large]).await;
    assert!(refused.starts_with("-MASTERDOWN "), "{refused}");
    switch_to(&scene.link, &scene.pool, 2, scene.nodes[1]);
    let unknown = scene.client.ask(&["WAIT", "0", "0"]).await;
    assert!(unknown.starts_with("-WAITUNKNOWN "), "{unknown}");
}

/// An address that leads to `node`. Each connection is cut behind the bytes `at`, once they were handed on and answered.
fn relay(node: SocketAddr, at: &'static [u8]) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::task::spawn_local(relay_one(client, node, at));
        }
    });
    addr
}

async fn relay_one(mut client: TcpStream, node: SocketAddr, at: &'static [u8]) -> std::io::Result<()> {
    let mut server = TcpStream::connect(node).await?;
    let (mut there, mut back) = ([0; 4096], [0; 4096]);
    let mut cut = false;
    loop {
        tokio::select! {
            n = client.read(&mut there) => {
                let n = n?;
                cut |= n == 0 || there[..n].windows(at.len()).any(|w| w == at);
                server.write_all(&there[..n]).await?;
            }
            n = server.read(&mut back) => {
                let n = n?;
                if n == 0 || cut {
                    return Ok(());
                }
                client.write_all(&back[..n]).await?;
            }
        }
    }
}

#[tokio::test(flavor = "local")]
async fn what_acts_is_not_asked_twice() {
    let mut scene = Scene::start_before(|nodes| nodes.into_iter().map(|node| relay(node, b"KILL")).collect()).await;
    // A connection is kept from this.
    assert!(scene.client.ask(&["HELLO", "2"]).await.contains("proto"));
    scene.client.send(&command(&["SCRIPT", "KILL"])).await;
    assert_eq!(text(&scene.client.rest().await), "", "whether one was killed is not known");
    let calls = scene.ask_node(0, &["INFO", "commandstats"]).await;
    assert!(calls.contains("cmdstat_script|kill:calls=1,"), "{calls}");
}
