//! `pointsman demo`: a real cluster, pointsman before it, clients that keep a ledger, and two failovers.

pub mod cluster;
pub mod history;
pub mod ledger;
pub mod observer;
pub mod place;
pub mod process;
mod promises;
pub mod proxy;
mod server;
pub mod settings;
mod show;
mod stage;
pub mod tally;
pub mod wire;

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::Commit;
use cluster::ClusterError;
use show::Screen;

pub use promises::{KILLED, PLANNED, Promise};

/// What the demo is told.
#[derive(Clone, Debug)]
pub struct DemoArgs {
    /// Leave everything running at the end, until Ctrl-C.
    pub keep: bool,
    /// Commit mode of the pointsman under test.
    pub commit: Commit,
    /// Writing clients; a quarter as many only read.
    pub clients: usize,
    /// Its worker threads.
    pub workers: usize,
}

/// EX_UNAVAILABLE of `sysexits.h`: something that the demo needs is not there.
const UNAVAILABLE: u8 = 69;
/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Runs the demo. 0 if every promise was kept, 1 if one was broken, 69 if it could not be carried out, 130 if it was
/// interrupted. Whatever happens, no process and no file is left.
pub fn run(args: &DemoArgs) -> ExitCode {
    let screen = Screen::new();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            screen.plain(&format!("cannot start: {e}"));
            return ExitCode::from(UNAVAILABLE);
        }
    };
    runtime.block_on(async {
        // Everything that runs belongs to the future; dropping it ends and removes everything.
        tokio::select! {
            // First the play: it ends by Ctrl-C too, and then knows its result.
            biased;
            done = Box::pin(play(args, &screen)) => match done {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::FAILURE,
                Err(e) => {
                    explain(&screen, &e);
                    ExitCode::from(UNAVAILABLE)
                }
            },
            () = interrupted() => {
                screen.plain("interrupted");
                ExitCode::from(INTERRUPTED)
            }
        }
    })
}

/// The whole play; true if every promise was kept.
async fn play(args: &DemoArgs, screen: &Screen) -> Result<bool, ClusterError> {
    let mut stage = stage::Stage::set(args, screen).await?;
    let phases = stage.play().await?;
    let kept = screen.summary(&phases);
    if !kept {
        stage.say_log();
    }
    if args.keep {
        let _running = stage.keep().await?;
        interrupted().await;
    }
    Ok(kept)
}

fn explain(screen: &Screen, e: &ClusterError) {
    screen.plain(&e.to_string());
    if matches!(e, ClusterError::NotInstalled(_)) {
        screen.plain("On Debian or Ubuntu: apt-get install redis-server redis-sentinel redis-tools");
    }
}

/// Resolves when the user or the system asks us to end.
async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // No handler could be set: the signal ends this process by itself, and the kernel the children.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
