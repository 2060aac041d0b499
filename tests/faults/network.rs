//! A network of machines whose cables can be cut.
//!
//! Each server, pointsman, and the clients (the test itself) have a network namespace of their own. They are linked by
//! one more that routes between them and, for a cut, throws away what one sends to another: no reset, no ICMP, nothing
//! that a closed port would say. A direction at a time, since cables fail so too.
//!
//! The namespaces have no names: processes that do nothing hold them, and the kernel ends those with this one, however
//! it ends.

use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pointsman::demo::cluster::{Place, Settings};
use pointsman::demo::process::{Process, Supervisor};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::time::Instant;

/// A machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Site {
    Node(u8),
    Sentinel(u8),
    Pointsman,
    /// Where the test runs.
    Clients,
}

use Site::{Clients, Node, Pointsman, Sentinel};

const SITES: [Site; 8] = [Node(0), Node(1), Node(2), Sentinel(0), Sentinel(1), Sentinel(2), Pointsman, Clients];

impl Site {
    /// Its network.
    fn number(self) -> u8 {
        SITES.iter().position(|s| *s == self).unwrap() as u8 + 1
    }

    pub(crate) fn ip(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number(), 2)
    }
}

/// The running network. The last thing to go is the thread that holds it all.
pub(crate) struct Network {
    router: Process,
    machines: Vec<Process>,
    /// Packets from the first to the second are thrown away.
    cuts: Vec<(Site, Site)>,
    _supervisor: Supervisor,
}

/// Runs a test among the clients of a network. Without the right to make namespaces nothing can be tested: that is said
/// past the harness, which keeps what a test prints to itself.
pub(crate) fn in_network<F: Future<Output = ()>>(test: impl FnOnce(Network) -> F + Send) {
    std::thread::scope(|scope| {
        let name = std::thread::current().name().unwrap_or("test").to_owned();
        let run = move || {
            let Some(network) = Network::start() else {
                let _ = writeln!(std::io::stderr(), "NOT TESTED, it needs root for network namespaces: {name}");
                return;
            };
            network.enter(Clients);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test(network));
        };
        // A thread of its own, since it will be elsewhere from then on.
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Network {
    fn start() -> Option<Self> {
        let probe = Command::new("unshare").args(["--net", "--", "true"]).stderr(Stdio::null()).status();
        probe.ok().filter(|status| status.success())?;
        let supervisor = Supervisor::new().unwrap();
        let (router, machines) = (hold(&supervisor), SITES.map(|_| hold(&supervisor)).into());
        let network = Self { router, machines, cuts: Vec::new(), _supervisor: supervisor };
        let mut links = String::from("link set lo up\n");
        for (site, machine) in SITES.iter().zip(&network.machines) {
            let n = site.number();
            links += &format!(
                "link add to{n} type veth peer name eth0 netns {}\naddr add 10.77.{n}.1/24 dev to{n}\nlink set to{n} up\n",
                machine.id()
            );
        }
        ip(&network.router, &links);
        let on = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        let status = Command::new("nsenter").args([&net_of(&network.router), "--", "sh", "-c", on]).status().unwrap();
        assert!(status.success(), "no routing");
        for (site, machine) in SITES.iter().zip(&network.machines) {
            let n = site.number();
            let own = "link set lo up\nlink set eth0 up\n";
            ip(machine, &format!("{own}addr add {}/24 dev eth0\nroute add default via 10.77.{n}.1\n", site.ip()));
        }
        Some(network)
    }

    /// Puts the calling thread, and all that it starts, there.
    fn enter(&self, site: Site) {
        let there = File::open(format!("/proc/{}/ns/net", self.machine(site).id())).unwrap();
        move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// How programs get there.
    pub(crate) fn place(&self, site: Site) -> Place {
        let enter = ["nsenter", &net_of(self.machine(site)), "--"].map(str::to_owned).to_vec();
        Place { ip: site.ip().into(), enter }
    }

    /// Three nodes and three Sentinels, each on its machine.
    pub(crate) fn settings(&self) -> Settings {
        let at = |sites: [Site; 3]| sites.map(|s| self.place(s)).to_vec();
        Settings {
            nodes_at: at([Node(0), Node(1), Node(2)]),
            sentinels_at: at([Sentinel(0), Sentinel(1), Sentinel(2)]),
            ..Settings::default()
        }
    }

    /// From here on nothing that some send reaches the others.
    pub(crate) fn cut_one_way(&mut self, from: &[Site], to: &[Site]) {
        let new: Vec<(Site, Site)> = from.iter().flat_map(|f| to.iter().map(|t| (*f, *t))).collect();
        self.rules("add", &new);
        self.cuts.extend(new);
    }

    /// Nor the other way.
    pub(crate) fn cut(&mut self, some: &[Site], others: &[Site]) {
        self.cut_one_way(some, others);
        self.cut_one_way(others, some);
    }

    /// All cables are whole again.
    pub(crate) fn heal(&mut self) {
        let cuts = std::mem::take(&mut self.cuts);
        self.rules("del", &cuts);
    }

    fn rules(&self, verb: &str, cuts: &[(Site, Site)]) {
        let rule = |(from, to): &(Site, Site)| format!("rule {verb} from {} to {} blackhole\n", from.ip(), to.ip());
        ip(&self.router, &cuts.iter().map(rule).collect::<String>());
    }

    fn machine(&self, site: Site) -> &Process {
        &self.machines[usize::from(site.number()) - 1]
    }
}

/// A process in a network namespace of its own, which does nothing.
fn hold(supervisor: &Supervisor) -> Process {
    let process = supervisor.spawn(Path::new("unshare"), ["--net", "--", "sleep", "infinity"], None).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    // It begins in ours, as another program.
    while fs::read_to_string(format!("/proc/{}/comm", process.id())).unwrap().trim() != "sleep" {
        assert!(Instant::now() < end, "no namespace");
        std::thread::sleep(Duration::from_millis(1));
    }
    process
}

fn net_of(process: &Process) -> String {
    format!("--net=/proc/{}/ns/net", process.id())
}

/// Carries out commands of `ip` there.
fn ip(process: &Process, commands: &str) {
    let mut command = Command::new("nsenter");
    command.args([&net_of(process), "--", "ip", "-batch", "-"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{commands}{}", String::from_utf8_lossy(&done.stderr));
}
