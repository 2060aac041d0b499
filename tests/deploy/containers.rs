//! `deploy/docker`, `deploy/kubernetes`, `deploy/linode` and what Grafana is given, each read by what knows its language
//! (`tests/deploy/install.sh` has it), and the configurations in them by pointsman.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pointsman::demo::process::TempDir;

use crate::{deployed, path, runs};

fn installed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/deploy").join(name)
}

/// Runs it, with what is installed; `tests/deploy/NAME.py` is in the language of whom it reads for.
fn passes(command: &mut Command) {
    let output = command.env("PYTHONPATH", installed("python")).output().expect("tests/deploy/install.sh installs it");
    let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
    assert!(output.status.success(), "{command:?}: {text}");
}

fn script(name: &str) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploy").join(name));
    command
}

#[test]
fn the_dockerfile_is_one_and_follows_good_practice() {
    passes(Command::new(installed("python/bin/hadolint")).arg(path("docker/Dockerfile")));
}

#[test]
fn the_manifests_are_what_kubernetes_knows_and_name_each_other_rightly() {
    let kustomizations = fs::read_dir(path("kubernetes")).unwrap().map(|entry| entry.unwrap().path());
    passes(script("kubernetes.py").args(kustomizations));
}

#[test]
fn grafana_finds_the_dashboard_and_its_data() {
    passes(script("grafana.py").arg(path("monitoring/grafana")));
}

#[test]
fn terraform_files_parse_and_refer_to_what_is_there() {
    passes(script("terraform.py").arg(path("linode")));
}

#[tokio::test]
async fn the_configurations_of_kubernetes_and_of_the_balancers_instances_are_valid() {
    let dir = TempDir::new().unwrap();
    let check = async |name: &str, text: String| {
        let file = dir.path().join("pointsman.toml");
        fs::write(&file, text).unwrap();
        let arguments = ["check", "--config", file.to_str().unwrap()];
        runs(&arguments).await.unwrap_or_else(|why| panic!("deploy/{name}: {why}"));
    };
    for shape in ["base", "nodebalancer", "sidecar"] {
        let name = format!("kubernetes/{shape}/pointsman.toml");
        // Where the socket is in the pod.
        let here = dir.path().display().to_string();
        check(&name, deployed(&name).replace("/run/pointsman", &here)).await;
    }
    // As Terraform would fill it in.
    let template = deployed("linode/pointsman.toml");
    let (before, rest) = template.split_once("%{ if monitoring ~}\n").unwrap();
    let (watched, rest) = rest.split_once("%{ else ~}\n").unwrap();
    let (unwatched, after) = rest.split_once("%{ endif ~}\n").unwrap();
    for admin in [watched, unwatched] {
        let filled = format!("{before}{admin}{after}")
            .replace("${service}", "mymaster")
            .replace("${sentinels}", r#"["192.0.2.1:26379","192.0.2.2:26379"]"#)
            .replace("${port}", "6379")
            .replace("${balancers}", "192.168.255.0/24")
            .replace("${clients}", r#"["198.51.100.0/24"]"#);
        assert!(!filled.contains(['$', '%']), "{filled}");
        check("linode/pointsman.toml", filled).await;
    }
}
