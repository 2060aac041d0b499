//! What `check` says of certificates and keys, before anybody is asked.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use pointsman::demo::process::TempDir;

use super::certificates::{Authority, Pair, leg};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The exit code of `pointsman check` and what it says, of a service with these keys and a fixed master.
pub fn check(directory: &Path, master: &str, keys: &str, online: bool) -> (Option<i32>, String) {
    let path = directory.join("pointsman.toml");
    let service = format!("[[service]]\nmaster = \"{master}\"\nlisten = [\"127.0.0.1:0\"]\n{keys}");
    fs::write(&path, service).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args(["check", "--config", path.to_str().unwrap()]).args(online.then_some("--online"));
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

fn check_offline(directory: &Path, keys: &str) -> (Option<i32>, String) {
    check(directory, "127.0.0.1:1", keys, false)
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_the_place_of_its_key() {
    let files = TempDir::new().unwrap();
    let authority = Authority::new(files.path(), "authority");
    let now = SystemTime::now();
    let good = authority.issue("good", &[]);
    let old = authority.issue_until("old", &[], now - DAY);
    let soon = authority.issue_until("soon", &[], now + 13 * DAY);
    let (empty, nowhere) = (files.path().join("empty"), files.path().join("nowhere"));
    fs::write(&empty, "").unwrap();
    let locked = files.path().join("locked.key");
    fs::write(&locked, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n").unwrap();
    let with = |cert: &Path, key: &Path| {
        let pair = Pair { cert: cert.to_owned(), key: key.to_owned() };
        leg("backend_tls", &authority.file, Some(&pair))
    };
    // The first key stands in line 4: what is on and the authority come before the certificate (6) and its key (7).
    let cases: [(String, i32, &str, &str); 11] = [
        (with(&good.cert, &good.key), 0, "", ": OK: "),
        (with(&soon.cert, &soon.key), 0, ":6:25: ", "the certificate of CN=soon expires on "),
        (with(&old.cert, &old.key), 78, ":6:25: ", "the certificate of CN=old expired on "),
        (with(&good.cert, &old.key), 78, ":7:24: ", "is not the key of the certificate in "),
        (with(&nowhere, &good.key), 78, ":6:25: ", "cannot be read: No such file"),
        (with(&good.key, &good.key), 78, ":6:25: ", "expected a certificate in PEM, found none"),
        (with(&good.cert, &locked), 78, ":7:24: ", "found an encrypted one"),
        (leg("backend_tls", &empty, None), 78, ":5:23: ", "expected a certificate in PEM, found none"),
        ("backend_tls_server_name = \"a b\"\n".to_owned(), 78, ":4:27: ", "expected a host name or an IP address"),
        ("backend_tls_ca_file = \"ca.crt\"\n".to_owned(), 78, ":4:23: ", "of no use without `backend_tls = true`"),
        ("sentinel_tls = true\n".to_owned(), 78, ":4:16: ", "a fixed `master` asks no Sentinel"),
    ];
    for (keys, code, place, says) in cases {
        let (exit, said) = check_offline(files.path(), &keys);
        assert!(exit == Some(code) && said.contains(place) && said.contains(says), "{keys}\n{exit:?} {said}");
        assert!(!said.contains("AAAA"), "{said}");
    }
    let half = format!("backend_tls = true\nbackend_tls_cert_file = \"{}\"\n", good.cert.display());
    let (exit, said) = check_offline(files.path(), &half);
    assert!(exit == Some(78) && said.contains("without `backend_tls_key_file`"), "{said}");
    let (exit, said) = check_offline(files.path(), "backend_tls = true\nbackend_tls_verify = \"none\"\n");
    assert!(exit == Some(0) && said.contains("read and change everything"), "{said}");
}
