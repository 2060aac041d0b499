//! What stands between pointsman and a server that it cannot talk to, in the words of `check --online` and of the log.

use std::time::{Duration, SystemTime};

use pointsman::demo::cluster::{Cluster, Member, Settings};
use pointsman::demo::process::TempDir;
use pointsman::demo::settings::TlsFiles;

use super::certificates::{Authority, leg};
use super::files::check;

const NODE: Member = Member::Node(0);

async fn one(tls: TlsFiles) -> Cluster {
    Cluster::start(Settings { tls: Some(tls), ..Settings::single() }).await.unwrap()
}

#[tokio::test]
async fn each_obstacle_has_its_sentence() {
    let files = TempDir::new().unwrap();
    let (authority, stranger) = (Authority::new(files.path(), "authority"), Authority::new(files.path(), "stranger"));
    let us = authority.issue("pointsman", &[]);
    let unknown = stranger.issue("impostor", &[]);
    let past = SystemTime::now() - Duration::from_secs(60);
    let old = authority.issue_until("old", &["127.0.0.1"], past);
    let good = one(authority.servers()).await;
    let expired = one(TlsFiles { ca: authority.file.clone(), cert: old.cert, key: old.key }).await;
    let (tls, plain) = (good.addr(NODE).to_string(), good.plain_addr(NODE).to_string());
    let expired = expired.addr(NODE).to_string();

    let ours = leg("backend_tls", &authority.file, Some(&us));
    let name = |name: &str| format!("{ours}backend_tls_server_name = \"{name}\"\n");
    let by_name = tls.replace("127.0.0.1", "localhost");
    let cases = [
        (&tls, ours.clone(), "role master"),
        (&by_name, ours.clone(), "role master"),
        (&tls, name("localhost"), "role master"),
        (&tls, name("redis.example.com") + "backend_tls_verify = \"ca\"\n", "role master"),
        (&tls, name("redis.example.com"), "TLS: the server's certificate is for"),
        (&tls, leg("backend_tls", &stranger.file, Some(&us)), "is not signed by an authority of the CA file"),
        (&tls, leg("backend_tls", &authority.file, None), "the server demands a certificate, and was shown none"),
        (
            &tls,
            leg("backend_tls", &authority.file, Some(&unknown)),
            "does not know the authority that signed our certificate",
        ),
        (&expired, ours.clone(), "TLS: the server's certificate expired on "),
        (&tls, String::new(), "speaks TLS on this port"),
        (&plain, ours.clone(), "perhaps it does not speak TLS on this port"),
    ];
    for (master, keys, says) in cases {
        let (_, said) = check(files.path(), master, &(keys.clone() + "connect_timeout = \"500ms\"\n"), true);
        assert!(said.contains(says), "{master}\n{keys}\nexpected: {says}\n{said}");
    }
}
