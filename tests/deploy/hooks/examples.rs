//! `deploy/hooks`, run by pointsman and by hand, against a local chat and a local API.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::SECRET;
use super::receiver::{self, Answer, Call, Receiver};

/// One of the examples in the documentation.
fn documented(event: &str) -> String {
    let text = include_str!("../../../docs/hooks.md");
    let section = text.split("\n### ").find(|section| section.starts_with(&format!("`{event}`"))).unwrap();
    section.split("```json\n").nth(1).unwrap().split("```").next().unwrap().to_owned()
}

/// A directory of one test, which its files go with.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("hooks-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs an example as pointsman does: exit code and what it said. No secret may be in that.
async fn run(name: &str, arguments: &[&str], event: &str, master: &str) -> (i32, String) {
    let mut command = Command::new(crate::path("hooks").join(name));
    command.args(arguments).current_dir("/").env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.env("POINTSMAN_EVENT", event).env("POINTSMAN_MASTER", master);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let told = documented(event);
    let ended = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        // Who does not read it may have ended.
        let _ = child.stdin.take().unwrap().write_all(told.as_bytes());
        child.wait_with_output().unwrap()
    });
    let output = ended.await.unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!said.contains(SECRET), "a secret is shown: {said}");
    (output.status.code().unwrap(), said)
}

/// An API with one record, as Linode's: `PUT /v4/domains/{id}/records/{id}`.
fn api(call: &Call) -> Answer {
    let refused = |status, reason: &str| Answer {
        body: json!({ "errors": [{ "reason": reason }] }).to_string(),
        ..Answer::status(status)
    };
    if !call.headers.lines().any(|line| line == format!("authorization: bearer {SECRET}-token")) {
        return refused("401 Unauthorized", "Invalid Token");
    }
    match (call.method.as_str(), call.path.as_str()) {
        ("GET" | "PUT" | "POST", "/v4/domains/12/records/34") => {
            Answer { body: json!({ "id": 34, "type": "A", "ttl_sec": 30 }).to_string(), ..Answer::status("200 OK") }
        }
        ("PUT", "/v4/domains/12/records/500") => refused("503 Service Unavailable", "later"),
        ("PUT", "/v4/domains/12/records/600") => Answer::status("200 OK").after(Duration::from_secs(600)),
        _ => refused("404 Not Found", "Not found"),
    }
}

#[tokio::test]
async fn the_dns_record_points_at_the_master() {
    let receiver = Receiver::start(|call, _| api(call)).await;
    let dir = Dir::new("dns");
    let (token, wrong) = (dir.file("token", &format!("{SECRET}-token\n")), dir.file("wrong", &format!("{SECRET}\n")));
    let base = format!("http://{}", receiver.address);
    let set = async |record: &str, token: &str, event: &str, master: &str| {
        run("dns.sh", &["12", record, token, &base], event, master).await
    };
    let record = "/v4/domains/12/records/34";
    assert_eq!(
        set("34", &token, "failover_committed", "10.0.0.2:6379").await,
        (0, "the record points at 10.0.0.2\n".into())
    );
    assert_eq!(set("34", &token, "master_found", "[2001:db8::2]:6379").await.0, 0);
    let calls = receiver.calls(record);
    assert!(calls.iter().all(|call| call.method == "PUT" && call.headers.contains("content-type: application/json")));
    assert_eq!(
        calls.iter().map(receiver::json).collect::<Vec<_>>(),
        [json!({ "target": "10.0.0.2" }), json!({ "target": "2001:db8::2" })]
    );
    // What is no change of master changes nothing.
    assert_eq!(set("34", &token, "failover_begun", "10.0.0.1:6379").await, (0, String::new()));
    assert_eq!(receiver.calls(record).len(), 2);
    assert_eq!(set("34", &token, "trial", "").await.0, 0);
    assert_eq!(receiver.calls(record)[2].method, "GET");

    for (ended, code, said) in [
        (
            set("34", &wrong, "failover_committed", "10.0.0.2:6379").await,
            1,
            "401: {\"errors\":[{\"reason\":\"Invalid Token\"}]}",
        ),
        (set("35", &token, "failover_committed", "10.0.0.2:6379").await, 1, "404: "),
        (set("500", &token, "failover_committed", "10.0.0.2:6379").await, 1, "503: "),
        (set("34", &token, "failover_committed", "").await, 2, "expected the address of a master"),
        (set("34/../..", &token, "failover_committed", "10.0.0.2:6379").await, 2, "expected the number"),
        (set("34", "/nowhere", "failover_committed", "10.0.0.2:6379").await, 2, "the token cannot be read"),
        (run("dns.sh", &["12"], "failover_committed", "10.0.0.2:6379").await, 2, "usage: "),
        (
            run("dns.sh", &["12", "34", &token, "http://127.0.0.1:1"], "failover_committed", "10.0.0.2:6379").await,
            1,
            "connect",
        ),
    ] {
        assert!(ended.0 == code && ended.1.contains(said), "{ended:?} is not {code} {said}");
    }
    let token = dir.file("injection", "x\"\nurl = \"http://127.0.0.1:1/\n");
    let ended = set("34", &token, "failover_committed", "10.0.0.2:6379").await;
    assert!(ended.0 == 2 && ended.1.contains("expected one line with a token"), "{ended:?}");
}

#[tokio::test]
async fn the_chat_gets_a_line() {
    let receiver = Receiver::start(|call, _| match call.path.rsplit('/').next() {
        Some("broken") => Answer::status("500 Internal Server Error"),
        Some("moved") => Answer { headers: "Location: http://127.0.0.1:1/\r\n", ..Answer::status("302 Found") },
        _ => Answer { body: "ok".into(), ..Answer::status("200 OK") },
    })
    .await;
    let dir = Dir::new("chat");
    let url = |path: &str| dir.file(path, &format!("http://{}/{SECRET}/{path}\n", receiver.address));
    for event in ["failover_committed", "failover_finished", "hold_too_long", "trial"] {
        assert_eq!(run("chat.py", &[&url("ok")], event, "").await, (0, String::new()), "{event}");
    }
    let texts: Vec<String> = receiver
        .calls(&format!("/{SECRET}/ok"))
        .iter()
        .map(|call| receiver::json(call)["text"].as_str().unwrap().into())
        .collect();
    let expected = [
        ":white_check_mark: mymaster: 10.0.0.2:6379 is master in place of 10.0.0.1:6379 (planned); writes waited 1123 ms (app-1)",
        ":white_check_mark: mymaster: every node follows 10.0.0.2:6379; 20 commands waited, 0 were refused, 0 are of unknown \
         outcome (app-1)\nfailover 1: writes waited 1126 ms, 0 commands refused, 0 of unknown outcome; 0 to 0 bytes lost",
        ":rotating_light: mymaster: commands are refused: no Sentinel names another master (app-1)",
        ":information_source: mymaster: a trial of the hook `chat` (app-1)",
    ];
    assert_eq!(texts, expected);
    for (ended, code, said) in [
        (run("chat.py", &[&url("broken")], "loss_known", "").await, 1, "the chat answered 500"),
        (run("chat.py", &[&url("moved")], "loss_known", "").await, 1, "the chat answered 302"),
        (
            run("chat.py", &[&dir.file("nobody", "http://127.0.0.1:1/\n")], "loss_known", "").await,
            1,
            "Connection refused",
        ),
        (run("chat.py", &[&dir.file("no-url", SECRET)], "loss_known", "").await, 2, "expected one line with a URL"),
        (run("chat.py", &["/nowhere"], "loss_known", "").await, 2, "FileNotFoundError"),
        (
            run("chat.py", &[&dir.file("two", &format!("http://chat/{SECRET}\nhttp://chat/2\n"))], "loss_known", "")
                .await,
            2,
            "expected one line with a URL",
        ),
        (
            run("chat.py", &[&dir.file("user", &format!("http://me:{SECRET}@chat/\n"))], "loss_known", "").await,
            1,
            "chat",
        ),
        (run("chat.py", &[], "loss_known", "").await, 2, "usage: "),
    ] {
        assert!(!ended.1.contains(SECRET), "{}", ended.1);
        assert!(ended.0 == code && ended.1.contains(said), "{ended:?} is not {code} {said}");
    }
}

/// `pointsman hook`, as in the README of the examples.
#[tokio::test]
async fn a_hook_can_be_tried() {
    let receiver =
        Receiver::start(|call, _| if call.path == "/gone" { Answer::status("410 Gone") } else { api(call) }).await;
    let dir = Dir::new("trial");
    let token = dir.file("token", &format!("{SECRET}-token"));
    let base = format!("http://{}", receiver.address);
    let dns = format!("[{:?}, \"12\", \"34\", {token:?}, {base:?}]", crate::path("hooks/dns.sh"));
    let file = dir.file(
        "pointsman.toml",
        &format!(
            "[[service]]\nname = \"main\"\nlisten = [\"127.0.0.1:1\"]\nmaster = \"127.0.0.1:2\"\n\
             [[hook]]\nname = \"dns\"\nexec = {dns}\nevents = [\"failover_committed\"]\n\
             [[hook]]\nname = \"gone\"\nurl = \"{base}/gone\"\ntoken = \"{SECRET}\"\n\
             [[hook]]\nname = \"chat\"\nurl = \"{base}/v4/domains/12/records/34\"\n"
        ),
    );
    let tried = async |name: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
        command.args(["hook", name, "--config", &file]).env("POINTSMAN_HOOK_CHAT_TOKEN", format!("{SECRET}-token"));
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!said.contains(SECRET), "a secret is shown: {said}");
        (output.status.code().unwrap(), said)
    };
    let dns = format!("{} was told that `dns` is being tried\n", crate::path("hooks/dns.sh").display());
    assert_eq!(tried("dns").await, (0, dns));
    assert_eq!(receiver.calls("/v4/domains/12/records/34")[0].method, "GET");
    assert_eq!(tried("gone").await, (69, format!("{base}/… could not be told: it answered 410 Gone\n")));
    // Its token is from the environment.
    assert_eq!(tried("chat").await, (0, format!("{base}/… was told that `chat` is being tried\n")));
    // Relative to the configuration, wherever that is called from.
    let own = dir.file("own.sh", "#!/bin/sh\necho I am run; exit 1\n");
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    dir.file("own.toml", &format!("{text}[[hook]]\nname = \"own\"\nexec = [\"./own.sh\"]\n"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    let output = command.args(["hook", "own", "--config", "own.toml"]).current_dir(&dir.0).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.ends_with("own.sh could not be told: the program: exit status: 1; it said: I am run\n"), "{said}");
    let unknown = tried("cat").await;
    assert_eq!(unknown, (64, format!("there is no hook `cat` in {file}, which has: dns, gone, chat\n")));
}
