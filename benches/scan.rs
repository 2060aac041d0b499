//! The work per command and per reply: frame ends, the name, the class of a reply.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pointsman::resp::{ReplyScanner, RequestScanner, Scan, classify, encode_command, lookup};

fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("request");
    let mget: Vec<String> = std::iter::once("MGET".to_owned()).chain((0..20).map(|i| format!("key:{i}"))).collect();
    let value = "v".repeat(100);
    let cases = [
        ("get", encode_command(&["GET", "k"])),
        ("set_100", encode_command(&["SET", "key:1", value.as_str()])),
        ("mget_20", encode_command(&mget)),
        ("pipeline_16_get", encode_command(&["GET", "key:000000000001"]).repeat(16).into()),
    ];
    for (name, input) in cases {
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), &input, |b, input: &Bytes| {
            let mut scanner = RequestScanner::new(512 << 20);
            b.iter(|| {
                let mut rest = &input[..];
                while let Ok(Scan::Command { len, name, .. }) = scanner.scan(black_box(rest)) {
                    black_box(lookup(&rest[name.0..name.1]));
                    rest = &rest[len..];
                }
            });
        });
    }
    group.finish();
}

fn replies(c: &mut Criterion) {
    let mut group = c.benchmark_group("reply");
    let cases: [(&str, Vec<u8>); 4] = [
        ("ok", b"+OK\r\n".to_vec()),
        ("bulk_100", [b"$100\r\n".as_slice(), &[b'v'; 100], b"\r\n"].concat()),
        ("array_20", [b"*20\r\n".as_slice(), &b"$5\r\nhello\r\n".repeat(20)].concat()),
        ("pipeline_16_ints", b":12345\r\n".repeat(16)),
    ];
    for (name, input) in cases {
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), &input, |b, input| {
            let mut scanner = ReplyScanner::new();
            b.iter(|| {
                let mut rest = &input[..];
                while let Ok(progress) = scanner.scan(black_box(rest))
                    && progress.complete
                {
                    black_box(classify(&rest[..progress.consumed]));
                    rest = &rest[progress.consumed..];
                }
            });
        });
    }
    group.finish();
}

fn names(c: &mut Criterion) {
    let mut group = c.benchmark_group("lookup");
    for name in ["GET", "hset", "ZRANGEBYSCORE", "georadiusbymember_ro", "JSON.GET"] {
        group.bench_function(name, |b| b.iter(|| lookup(black_box(name.as_bytes()))));
    }
    group.finish();
}

criterion_group!(benches, requests, replies, names);
criterion_main!(benches);
