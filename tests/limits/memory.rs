//! What is large or slow passes in little memory. The named limits that each scene can reach are small against its
//! data; the process must stay within them and [`SLACK`].

use std::time::Duration;

use pointsman::demo::cluster::Member;
use pointsman::demo::wire::text as reply_text;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::MEASURING;
use crate::support::{Front, PATIENCE, Raw, command, text};

pub(crate) const MIB: u64 = 1 << 20;
/// What pointsman may use beyond the sum of the limits.
const SLACK: u64 = 32 * MIB;

/// The size of the large values here, and where `make limits` makes it as large as Redis allows.
const LARGE: usize = 96 << 20;
const LARGEST: usize = 512 << 20;

impl Front {
    pub(crate) fn assert_peak(&self, limits: u64) {
        let peak = self.peak();
        eprintln!("peak {} MiB, limits of {} MiB", peak / MIB, limits / MIB);
        assert!(peak < limits + SLACK, "{peak} bytes were resident, and the limits are {limits} bytes");
    }
}

/// A value in the pieces of a network, each of which has another beginning.
async fn write_value(to: &mut TcpStream, key: &str, len: usize) {
    let head = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${len}\r\n", key.len());
    to.write_all(head.as_bytes()).await.unwrap();
    for start in (0..len).step_by(PIECE) {
        to.write_all(&piece(start)[..PIECE.min(len - start)]).await.unwrap();
    }
    to.write_all(b"\r\n").await.unwrap();
}

const PIECE: usize = 64 * 1024;

fn piece(start: usize) -> Vec<u8> {
    let mut piece = vec![b'.'; PIECE];
    let number = format!("{start:020}");
    piece[..20].copy_from_slice(number.as_bytes());
    piece
}

async fn read_value(from: &mut TcpStream, len: usize) {
    let mut head = vec![0; format!("${len}\r\n").len()];
    from.read_exact(&mut head).await.unwrap();
    assert_eq!(text(&head), format!("${len}\r\n"));
    let mut got = vec![0; PIECE];
    for start in (0..len).step_by(PIECE) {
        let n = PIECE.min(len - start);
        from.read_exact(&mut got[..n]).await.unwrap();
        assert!(got[..n] == piece(start)[..n], "the value differs from {start} on");
    }
    from.read_exact(&mut got[..2]).await.unwrap();
    assert_eq!(&got[..2], b"\r\n");
}

async fn there_and_back(len: usize) {
    let front = Front::configured("").await;
    let mut client = Raw::connect(front.proxy).await;
    for _ in 0..2 {
        write_value(&mut client.stream, "large", len).await;
        client.until(b"+OK\r\n").await;
        client.send(&command(&["GET", "large"])).await;
        read_value(&mut client.stream, len).await;
    }
    front.assert_peak(0);
}

#[tokio::test]
async fn a_large_value_streams_both_ways() {
    let _alone = MEASURING.lock().await;
    there_and_back(LARGE).await;
}

#[tokio::test]
#[ignore = "two gigabytes; `make limits` runs it"]
async fn the_largest_value_streams_both_ways() {
    let _alone = MEASURING.lock().await;
    there_and_back(LARGEST).await;
}

/// What each of them had sent is gone, though its connection stays: at rest, and when it goes on with small commands.
#[tokio::test]
async fn a_client_keeps_no_room_for_the_large_commands_that_it_has_sent() {
    let _alone = MEASURING.lock().await;
    let front = Front::configured("").await;
    let mut clients = Vec::new();
    for n in 0..100 {
        let mut client = Raw::connect(front.proxy).await;
        // Kept whole before it is sent, and streamed.
        for len in [200_000, 1 << 20] {
            write_value(&mut client.stream, "large", len).await;
            client.until(b"+OK\r\n").await;
        }
        if n % 2 == 0 {
            assert_eq!(client.ask(&["PING"]).await, "+PONG\r\n");
        }
        clients.push(client);
    }
    front.assert_peak(0);
}

/// Replies nobody takes, and messages. What is not taken stays with the server, as if the client were connected to it.
async fn deaf(len: usize) {
    let front = Front::configured("").await;
    let mut setter = Raw::connect(front.proxy).await;
    write_value(&mut setter.stream, "large", len).await;
    setter.until(b"+OK\r\n").await;
    let mut deaf = Vec::new();
    for _ in 0..4 {
        let mut client = Raw::connect(front.proxy).await;
        client.send(&command(&["GET", "large"])).await;
        // From here on nobody stands behind it.
        client.stream.peek(&mut [0]).await.unwrap();
        deaf.push(client);
    }
    let mut subscriber = Raw::connect(front.proxy).await;
    subscriber.send(&command(&["SUBSCRIBE", "c"])).await;
    subscriber.until(b":1\r\n").await;
    let message = "x".repeat(10_000);
    for _ in 0..1000 {
        assert_eq!(setter.ask(&["PUBLISH", "c", &message]).await, ":1\r\n");
    }
    front.assert_peak(5 * MIB);
    // Those who read after all get all of it.
    for client in deaf.iter_mut().take(2) {
        timeout(6 * PATIENCE, read_value(&mut client.stream, len)).await.unwrap();
    }
    for _ in 0..1000 {
        subscriber.until(format!("{message}\r\n").as_bytes()).await;
    }
    front.assert_peak(5 * MIB);
}

#[tokio::test]
async fn replies_that_nobody_takes_cost_little() {
    let _alone = MEASURING.lock().await;
    deaf(LARGE).await;
}

#[tokio::test]
#[ignore = "several gigabytes; `make limits` runs it"]
async fn the_largest_replies_that_nobody_takes_cost_little() {
    let _alone = MEASURING.lock().await;
    deaf(LARGEST).await;
}

/// Where others wait behind it, what a client does not take is read up to the limit, and then it is closed.
#[tokio::test]
async fn a_deaf_client_before_others_costs_its_limit_and_is_closed() {
    const LIMIT: u64 = 16 * MIB;
    let _alone = MEASURING.lock().await;
    let front = Front::configured("limits.output_bytes = \"16MiB\"").await;
    let mut setter = Raw::connect(front.proxy).await;
    write_value(&mut setter.stream, "large", LARGE).await;
    setter.until(b"+OK\r\n").await;
    front.overtake(&command(&["GET", "large"])).await;
    assert_eq!(setter.ask(&["GET", "k"]).await, "$-1\r\n");
    front.assert_peak(LIMIT);
}

/// Small replies are parts of large buffers: those that wait must not keep the buffers.
#[tokio::test]
async fn small_replies_that_wait_do_not_keep_large_buffers() {
    let _alone = MEASURING.lock().await;
    let front = Front::configured("").await;
    let mut deaf = Raw::connect(front.proxy).await;
    let mut busy = Raw::connect(front.proxy).await;
    assert_eq!(busy.ask(&["SET", "middle", &"m".repeat(6_000)]).await, "+OK\r\n");
    let one = command(&["GET", "middle"]);
    let reply = [format!("$6000\r\n{}\r\n", "m".repeat(6_000))].concat();
    let mut got = vec![0; 40 * reply.len()];
    for _ in 0..900 {
        deaf.send(&one).await;
        busy.send(&one.repeat(40)).await;
        timeout(PATIENCE, busy.stream.read_exact(&mut got)).await.unwrap().unwrap();
        assert!(got.starts_with(reply.as_bytes()));
    }
    // Some 5 MB that wait, and 230 MB that passed.
    front.assert_peak(6 * MIB);
    for _ in 0..900 {
        assert!(deaf.until(b"m\r\n").await.ends_with(b"m\r\n"));
    }
}

/// A million commands in one piece, whose replies are read only when all have been sent, as far as the kernel lets it.
async fn pipeline(commands: usize) {
    let front = Front::configured("").await;
    let client = Raw::connect(front.proxy).await;
    let (mut read, mut write) = client.stream.into_split();
    let sender = tokio::spawn(async move {
        let chunk = command(&["INCR", "n"]).repeat(1000);
        for _ in 0..commands / 1000 {
            write.write_all(&chunk).await.unwrap();
        }
        write
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    front.assert_peak(2 * MIB);
    let receive = async {
        let (mut buf, mut next) = (Vec::new(), 1);
        while next <= commands {
            assert!(read.read_buf(&mut buf).await.unwrap() > 0);
            let mut start = 0;
            while let Some(end) = buf[start..].windows(2).position(|w| w == b"\r\n").map(|i| start + i) {
                assert_eq!(text(&buf[start..end]), format!(":{next}"));
                (next, start) = (next + 1, end + 2);
            }
            buf.drain(..start);
        }
    };
    timeout(12 * PATIENCE, receive).await.expect("all are answered");
    drop(sender.await.unwrap());
    front.assert_peak(2 * MIB);
}

#[tokio::test]
async fn a_deep_pipeline_costs_little() {
    let _alone = MEASURING.lock().await;
    pipeline(100_000).await;
}

#[tokio::test]
#[ignore = "a million commands; `make limits` runs it"]
async fn a_pipeline_a_million_deep_costs_little() {
    let _alone = MEASURING.lock().await;
    pipeline(1_000_000).await;
}

/// The largest count that Redis accepts: nothing is set aside for what was only announced.
#[tokio::test]
async fn announcements_cost_nothing() {
    let _alone = MEASURING.lock().await;
    let front = Front::configured("").await;
    let mut clients = Vec::new();
    for head in ["*2147483647\r\n", "*2147483647\r\n$4\r\nMGET\r\n", "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\n"] {
        for _ in 0..50 {
            let mut client = Raw::connect(front.proxy).await;
            client.send(head.as_bytes()).await;
            clients.push(client);
        }
    }
    // Arguments without end, as far as this test goes.
    let mut client = Raw::connect(front.proxy).await;
    client.send(b"*2147483647\r\n$4\r\nMGET\r\n").await;
    let arguments = b"$1\r\na\r\n".repeat(10_000);
    for _ in 0..100 {
        client.send(&arguments).await;
    }
    let mut other = Raw::connect(front.proxy).await;
    assert_eq!(other.ask(&["PING"]).await, "+PONG\r\n");
    front.assert_peak(0);
}

/// A reply of lists in lists passes as it is. (Redis' own scripts nest less deep than that.)
#[tokio::test]
async fn replies_nested_ten_thousand_deep_pass() {
    const DEPTH: usize = 10_000;
    let nested = [b"*1\r\n".repeat(DEPTH), b":7\r\n".to_vec()].concat();
    let reply = nested.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(nest(stream, reply.clone()));
        }
    });
    let settings = pointsman::demo::settings::Settings::single();
    let front = Front::before(settings, addr, &["--workers", "1"]).await;
    for pinned in [false, true] {
        let mut client = Raw::connect(front.proxy).await;
        if pinned {
            client.send(&command(&["MULTI"])).await;
            client.until(b"+OK\r\n").await;
        }
        for _ in 0..3 {
            client.send(&command(&["GET", "nested"])).await;
            let answer = client.until(b":7\r\n").await;
            assert!(answer == nested, "{} bytes of {}", answer.len(), nested.len());
        }
    }
    front.assert_peak(0);
}

/// A "master" whose values are nested, and that nests its role too when asked in RESP3.
async fn nest(mut stream: TcpStream, nested: Vec<u8>) -> std::io::Result<()> {
    use pointsman::resp::{RequestScanner, Scan, args};
    let (mut buf, mut scanner) = (bytes::BytesMut::new(), RequestScanner::new(1 << 20));
    loop {
        while let Ok(Scan::Command { len, .. }) = scanner.scan(&buf) {
            let frame = buf.split_to(len);
            let answer: &[u8] = match args(&frame).next().unwrap() {
                b"HELLO" => b"*4\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$2\r\nid\r\n:5\r\n",
                b"ROLE" => b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n",
                b"INFO" => b"$17\r\nrun_id:0123456789\r\n",
                b"GET" => &nested,
                _ => b"+OK\r\n",
            };
            stream.write_all(answer).await?;
        }
        if stream.read_buf(&mut buf).await? == 0 {
            return Ok(());
        }
    }
}

/// What the client wants no reply to is not kept for it either.
#[tokio::test]
async fn large_values_of_a_client_that_wants_no_replies_stream_too() {
    let _alone = MEASURING.lock().await;
    let front = Front::configured("").await;
    let mut client = Raw::connect(front.proxy).await;
    client.send(&command(&["CLIENT", "REPLY", "OFF"])).await;
    write_value(&mut client.stream, "large", LARGE).await;
    client.send(&command(&["GET", "large"])).await;
    client.send(&command(&["CLIENT", "REPLY", "ON"])).await;
    assert_eq!(text(&client.until(b"+OK\r\n").await), "+OK\r\n");
    client.send(&command(&["CLIENT", "REPLY", "SKIP"])).await;
    write_value(&mut client.stream, "skipped", LARGE).await;
    assert_eq!(client.ask(&["STRLEN", "skipped"]).await, format!(":{LARGE}\r\n"));
    front.assert_peak(0);
}

/// Commands of modules may carry anything: they stream, on a connection that stays the client's.
#[tokio::test]
async fn large_commands_that_are_not_known_stream() {
    let _alone = MEASURING.lock().await;
    let front = Front::configured("").await;
    let mut client = Raw::connect(front.proxy).await;
    let head = format!("*3\r\n$8\r\nJSON.SET\r\n$1\r\nk\r\n${LARGE}\r\n");
    client.send(head.as_bytes()).await;
    for start in (0..LARGE).step_by(PIECE) {
        client.send(&piece(start)[..PIECE.min(LARGE - start)]).await;
    }
    client.send(b"\r\n").await;
    let answer = text(&client.until(b"\r\n").await);
    assert!(answer.starts_with("-ERR unknown command 'JSON.SET'"), "{answer:.200}");
    assert_eq!(client.ask(&["GET", "k"]).await, "$-1\r\n");
    front.assert_peak(0);
    let direct = front.cluster.ask(Member::Node(0), &["DBSIZE"]).await.unwrap();
    assert_eq!(reply_text(&direct), "0");
}

/// A message can be told from a reply at its end only. One that is larger than what may wait is not kept; a subscriber's
/// large replies in RESP3, which are told at once, pass. (Redis itself keeps up to 32 MB for subscribers.)
#[tokio::test]
async fn subscribers_get_large_replies_but_no_message_beyond_their_limit() {
    const LIMIT: u64 = 4 * MIB;
    const MORE: usize = 20 << 20;
    let _alone = MEASURING.lock().await;
    let front = Front::configured("limits.output_bytes = \"4MiB\"").await;
    let mut subscriber = Raw::connect(front.proxy).await;
    subscriber.send(&[command(&["HELLO", "3"]), command(&["SUBSCRIBE", "c"])].concat()).await;
    subscriber.until(b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n").await;
    write_value(&mut subscriber.stream, "large", MORE).await;
    subscriber.until(b"+OK\r\n").await;
    subscriber.send(&command(&["GET", "large"])).await;
    read_value(&mut subscriber.stream, MORE).await;
    let mut setter = Raw::connect(front.proxy).await;
    assert_eq!(setter.ask(&["PUBLISH", "c", &"m".repeat(3 << 20)]).await, ":1\r\n");
    subscriber.until(b"m\r\n").await;
    assert_eq!(front.reached("output_bytes").await, 0.0);
    assert_eq!(setter.ask(&["PUBLISH", "c", &"m".repeat(MORE)]).await, ":1\r\n");
    assert_eq!(text(&subscriber.rest().await), "");
    assert_eq!(front.reached("output_bytes").await, 1.0);
    front.assert_peak(LIMIT);
}
