//! Libraries by TLS, as applications set them up: they know the authority, and show a certificate of their own.

use std::time::Duration;

use pointsman::demo::process::TempDir;

use crate::certificates::{Authority, Pair};
use crate::program::{Program, Spec};
use crate::support::Front;

const PROGRAMS: &[Spec] = &[Spec::php("tls", ""), Spec::python("tls", ""), Spec::node("tls", "")];

#[tokio::test]
async fn libraries_speak_tls_with_certificates_of_their_own() {
    let files = TempDir::new().unwrap();
    let authority = Authority::new(files.path(), "authority");
    let [Pair { cert, key }, app] = ["front", "app"].map(|name| authority.issue(name, &["localhost", "127.0.0.1"]));
    let keys = [("tls_cert_file", &cert), ("tls_key_file", &key), ("tls_client_ca_file", &authority.file)];
    let keys = keys.map(|(key, file)| format!("{key} = \"{}\"", file.display())).join(", ");
    let front = Front::listening(&keys, "").await;
    let files = [("TLS_CA", &authority.file), ("TLS_CERT", &app.cert), ("TLS_KEY", &app.key)];
    let files = files.map(|(name, file)| format!("{name}={}", file.display()));
    let start = |spec| Program::start_with(spec, &front.cluster, front.proxy, &files);
    let programs: Vec<Program> = PROGRAMS.iter().map(start).collect();
    for mut program in programs {
        program.wait_end(Duration::from_secs(60)).await;
    }
    assert!(front.metric("pointsman_tls_handshakes_total", "outcome=\"done\"").await >= 9.0);
}
