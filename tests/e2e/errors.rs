//! Every error that pointsman makes (`docs/errors.md`), as phpredis, redis-py and ioredis hand it to the application.

use std::net::SocketAddr;

use pointsman::demo::cluster::{Cluster, Member};
use pointsman::resp::OwnError;

use crate::PATIENCE;
use crate::program::{Program, Spec};
use crate::support::{Front, Raw, command};

/// One program of each client, about to provoke an error.
pub(crate) struct Provokers {
    error: OwnError,
    programs: Vec<Program>,
}

impl Provokers {
    /// Starts them; each has done what comes before the error.
    pub(crate) async fn start(error: OwnError, cluster: &Cluster, redis: SocketAddr) -> Self {
        let argument = match error {
            OwnError::NoMaster => "NoMaster",
            OwnError::PinLimit => "PinLimit",
            OwnError::TooManyClients => "TooManyClients",
            OwnError::Denied => "Denied",
            OwnError::Refused => "Refused",
            OwnError::TransactionLost => "TransactionLost",
            OwnError::StaleCursor => "StaleCursor",
            OwnError::WaitUnknown => "WaitUnknown",
        };
        let specs = [Spec::php("errors", argument), Spec::python("errors", argument), Spec::node("errors", argument)];
        let mut programs: Vec<Program> = specs.iter().map(|spec| Program::start(spec, cluster, redis)).collect();
        for program in &mut programs {
            program.wait_said("ready", PATIENCE).await;
        }
        Self { error, programs }
    }

    /// Lets them go on into the error, which each must take for one.
    pub(crate) async fn go(self) {
        for program in &self.programs {
            program.stop();
        }
        for mut program in self.programs {
            program.wait_end(PATIENCE).await;
            let said = program.last_lines();
            let threw = said.lines().find(|line| line.starts_with("threw ")).unwrap_or_default();
            let any = match self.error {
                // The connection is closed behind it; some clients then try again, or see no more than that.
                OwnError::TooManyClients | OwnError::Denied => true,
                // phpredis loses the text, also of an error of Redis' own.
                OwnError::TransactionLost | OwnError::StaleCursor => program.name().starts_with("php"),
                OwnError::NoMaster | OwnError::PinLimit | OwnError::Refused | OwnError::WaitUnknown => false,
            };
            assert!(threw.contains("pointsman: ") || any && !threw.is_empty(), "{}: {said}", program.name());
        }
    }
}

#[tokio::test]
async fn are_exceptions_and_never_values() {
    let limits = "hold_timeout = \"200ms\"\nlimits = { pinned = 1, pin_timeout = \"100ms\" }";
    let mut front = Front::configured(limits).await;
    let proxy = front.proxy;
    let start = |error| Provokers::start(error, &front.cluster, proxy);
    let (pin_limit, refused) = (start(OwnError::PinLimit).await, start(OwnError::Refused).await);
    let no_master = start(OwnError::NoMaster).await;

    let mut holder = Raw::connect(proxy).await;
    holder.send(&command(&["MULTI"])).await;
    holder.until(b"+OK\r\n").await;
    pin_limit.go().await;
    refused.go().await;
    front.cluster.kill(Member::Node(0)).unwrap();
    no_master.go().await;
}

#[tokio::test]
async fn one_client_too_many_is_an_exception() {
    let front = Front::configured("limits = { max_clients = 1 }").await;
    let mut holder = Raw::connect(front.proxy).await;
    holder.ask(&["PING"]).await;
    Provokers::start(OwnError::TooManyClients, &front.cluster, front.proxy).await.go().await;
}

#[tokio::test]
async fn a_client_that_may_not_connect_is_told_by_an_exception() {
    let front = Front::listening("proxy_protocol = [\"127.0.0.0/8\"]", "").await;
    Provokers::start(OwnError::Denied, &front.cluster, front.proxy).await.go().await;
}
