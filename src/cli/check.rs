//! `pointsman check`: what would keep `run` from starting, found without serving anybody.

use std::io::{self, ErrorKind, Write};
use std::net::TcpListener;

use std::process::ExitCode;

use super::args::CheckArguments;
use super::{exit, online};
use crate::addr::ListenAddr;
use crate::config::{Config, Resolved, Source};
use crate::net;
use crate::net::Inherited;

/// Checks what can only be seen on this machine, and with `--online` on the others; the configuration itself is right.
pub(super) fn run(arguments: &CheckArguments, resolved: &Resolved, inherited: &Inherited) -> ExitCode {
    for warning in &resolved.warnings {
        eprintln!("warning: {warning}");
    }
    for fault in &resolved.faults {
        eprintln!("{fault}");
    }
    if !resolved.faults.is_empty() {
        return ExitCode::from(exit::CONFIG);
    }
    let config = &resolved.config;
    let mut unusable = false;
    for address in addresses(config).into_iter().filter(|address| !inherited.listens(address)) {
        match try_listen(&address) {
            Ok(()) => {}
            // Most likely by the pointsman that runs here with the configuration before this one.
            Err(e) if e.kind() == ErrorKind::AddrInUse => eprintln!("warning: {address} is in use at present"),
            Err(e) => {
                eprintln!("cannot listen on {address}: {e}");
                unusable = true;
            }
        }
    }
    if unusable {
        return ExitCode::from(exit::OS);
    }
    let origin = arguments.service.config.as_ref().map_or("flags".to_owned(), |path| path.display().to_string());
    if arguments.online {
        let failed = match ask_servers(config) {
            Ok(failed) => failed,
            Err(e) => {
                eprintln!("cannot start the runtime: {e}");
                return ExitCode::from(exit::OS);
            }
        };
        if failed > 0 {
            eprintln!("{origin}: {failed} FAILED: expected every server to answer as pointsman needs it");
            return ExitCode::from(exit::UNAVAILABLE);
        }
    }
    say(&format!("{origin}: OK: {}", summary(config)));
    ExitCode::SUCCESS
}

fn ask_servers(config: &Config) -> io::Result<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let failed = runtime.block_on(online::ask_all(config));
    // A name server that does not answer must not be waited for any longer.
    runtime.shutdown_background();
    Ok(failed)
}

fn addresses(config: &Config) -> Vec<ListenAddr> {
    let services = config.services.iter().flat_map(|s| s.listen.iter().map(|l| l.address.clone()));
    services.chain(config.admin.listen.iter().map(|l| l.address.clone())).collect()
}

/// Listens for a moment. A Unix socket is not made, since one that a running pointsman serves may be in its place: only
/// its directory is looked at.
fn try_listen(address: &ListenAddr) -> io::Result<()> {
    match address {
        ListenAddr::Tcp(address) => TcpListener::bind(address).map(drop),
        ListenAddr::Unix(path) => {
            let directory = net::directory(path);
            match directory.metadata() {
                Ok(it) if it.is_dir() => Ok(()),
                Ok(_) => Err(ErrorKind::NotADirectory.into()),
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    Err(io::Error::new(e.kind(), format!("there is no directory {}", directory.display())))
                }
                Err(e) => Err(e),
            }
        }
    }
}

/// One line: what this configuration is.
fn summary(config: &Config) -> String {
    let services: Vec<String> = config
        .services
        .iter()
        .map(|s| {
            let listen: Vec<String> = s.listen.iter().map(|l| l.address.to_string()).collect();
            let source = match &s.source {
                Source::Sentinels { endpoints, .. } => format!("{} Sentinels", endpoints.len()),
                Source::Static(master) => format!("the fixed master {master}"),
            };
            format!("{} on {} by {source}", s.name, listen.join(" and "))
        })
        .collect();
    let admin: Vec<String> = config.admin.listen.iter().map(|l| l.address.to_string()).collect();
    let admin =
        if admin.is_empty() { "no admin address".to_owned() } else { format!("admin on {}", admin.join(" and ")) };
    let hooks: Vec<&str> = config.hooks.iter().map(|hook| hook.name.as_str()).collect();
    let hooks = if hooks.is_empty() { String::new() } else { format!("; hooks {}", hooks.join(", ")) };
    format!("{}; {admin}; {} workers{hooks}", services.join(", "), config.workers)
}

/// Prints a line of the result. A reader that has gone away is not a failure of the check.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
