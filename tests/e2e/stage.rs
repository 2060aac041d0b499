//! What the programs run against: three Redis and three Sentinels with passwords, and pointsman.

use std::fs;
use std::path::PathBuf;

use pointsman::config::Commit;
use pointsman::demo::cluster::{Cluster, Member};
use pointsman::demo::proxy::{Proxy, ProxySettings};
use pointsman::demo::settings::Settings;
use pointsman::demo::wire::{elements, text};

use crate::program::{Program, Spec};

pub(crate) const PASSWORD: &str = "e2e-secret";

/// Whose transactions no other node than the first master would queue.
pub(crate) const USER: &str = "changing";

pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) proxy: Proxy,
}

impl Stage {
    pub(crate) async fn set() -> Self {
        let user = format!("user {USER} on >{PASSWORD} ~* &* +@all");
        let settings = Settings { password: Some(PASSWORD.into()), redis_lines: vec![user], ..Settings::default() };
        let cluster = Cluster::start(settings).await.unwrap();
        for replica in [1, 2] {
            cluster.ask(Member::Node(replica), &["ACL", "SETUSER", USER, "-set"]).await.unwrap();
        }
        let secret = cluster.dir().join("backend.pw");
        fs::write(&secret, PASSWORD).unwrap();
        // On a busy machine Sentinel may need long; what is waited for is not what is tested here.
        let extra = ["--backend-password-file", secret.to_str().unwrap(), "--hold-timeout", "45s"];
        let settings = ProxySettings {
            binary: PathBuf::from(env!("CARGO_BIN_EXE_pointsman")),
            commit: Commit::Confirmed,
            workers: 2,
            extra: extra.map(str::to_owned).to_vec(),
        };
        let proxy = Proxy::start(&cluster, &settings).await.unwrap();
        Self { cluster, proxy }
    }

    pub(crate) fn start(&self, spec: &Spec) -> Program {
        Program::start(spec, &self.cluster, self.proxy.listen())
    }

    /// A list as a node has it, from whatever database its program used: one, however often it had to connect.
    pub(crate) async fn list(&self, node: usize, key: &str) -> Vec<String> {
        let mut direct = self.cluster.connect(Member::Node(node)).await.unwrap();
        let mut found = Vec::new();
        for database in ["0", "1", "2"] {
            direct.call(&["SELECT", database], crate::PATIENCE).await.unwrap();
            let list = direct.call(&["LRANGE", key, "0", "-1"], crate::PATIENCE).await.unwrap();
            if !elements(&list).is_empty() {
                found.push((database, elements(&list).iter().map(text).collect()));
            }
        }
        let databases: Vec<_> = found.iter().map(|(database, _)| *database).collect();
        assert_eq!(databases.len(), 1, "{key} is in the databases {databases:?}");
        found.remove(0).1
    }
}
