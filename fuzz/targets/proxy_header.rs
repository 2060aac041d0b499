//! What a balancer sends: a header is the same however it arrives, not a byte behind it is taken, and addresses come out as
//! they would be written.
#![no_main]

use std::cell::OnceCell;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream as StdTcpStream};

use libfuzzer_sys::fuzz_target;
use pointsman::net::{HeaderError, Proxied, receive_proxy_header};
use proxy_header::{ProxiedAddress, ProxyHeader};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

thread_local! {
    static NET: OnceCell<(Runtime, TcpListener)> = const { OnceCell::new() };
}

/// The first two bytes say in what pieces the rest arrives.
fn pieces(data: &[u8]) -> Option<(usize, &[u8])> {
    let [a, b, input @ ..] = data else { return None };
    Some((usize::from(u16::from_le_bytes([*a, *b])) % 600 + 1, input))
}

/// What is made of the input, and what is left behind it. A real socket, for what is looked at stays in it.
fn received(input: &[u8], piece: usize) -> (Result<Option<Proxied>, HeaderError>, Vec<u8>) {
    NET.with(|net| {
        let (runtime, listener) = net.get_or_init(|| {
            let runtime = Builder::new_current_thread().enable_io().build().expect("a runtime");
            (runtime, TcpListener::bind("127.0.0.1:0").expect("a port"))
        });
        let mut writer = StdTcpStream::connect(listener.local_addr().expect("its port")).expect("a connection");
        let (reader, _) = listener.accept().expect("a connection");
        reader.set_nonblocking(true).expect("a socket");
        runtime.block_on(async {
            let mut reader = TcpStream::from_std(reader).expect("a socket");
            let write = async {
                for piece in input.chunks(piece) {
                    writer.write_all(piece).expect("room for it");
                    tokio::task::yield_now().await;
                }
                writer.shutdown(std::net::Shutdown::Write).expect("an end");
            };
            let (header, ()) = tokio::join!(receive_proxy_header(&reader), write);
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).await.expect("the rest");
            // No TIME_WAIT, or the ports run out.
            socket2::SockRef::from(&writer).set_linger(Some(std::time::Duration::ZERO)).expect("a socket");
            (header, rest)
        })
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((piece, input)) = pieces(data) else { return };
    let (header, rest) = received(input, piece);
    assert!(input.ends_with(&rest), "what is behind it is as it was");
    let (whole, rest_of_whole) = received(input, input.len().max(1));
    assert_eq!(format!("{header:?}"), format!("{whole:?}"), "in pieces of {piece}");
    let Ok(proxied) = header else { return };
    assert_eq!(rest, rest_of_whole, "in pieces of {piece}");
    let Some(Proxied { source, destination }) = proxied else { return };
    let written = |version| {
        let (header, mut bytes) = (ProxyHeader::with_address(ProxiedAddress::stream(source, destination)), [0; 256]);
        let len = match version {
            1 => header.encode_to_slice_v1(&mut bytes),
            _ => header.encode_to_slice_v2(&mut bytes),
        };
        bytes[..len.expect("it fits")].to_vec()
    };
    let same_family = |a: &SocketAddr, b: &SocketAddr| a.is_ipv4() == b.is_ipv4();
    if same_family(&source, &destination) {
        for version in [1, 2] {
            let (again, rest) = received(&written(version), 7);
            assert!(rest.is_empty());
            let again = again.expect("it is one").expect("of somebody");
            assert_eq!((again.source, again.destination), (source, destination));
        }
    }
});
