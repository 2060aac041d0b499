//! The router against a model of a single connection: whatever a client says, in whatever order, it is answered as on a
//! connection of its own, nothing of it is left on a shared one, and none of it is lost.
//!
//! `fuzz/targets/sessions.rs` puts the same question with sequences that it finds itself.

#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations)]

mod connection;
mod vocabulary;
mod world;

use self::vocabulary::COMMANDS;
use self::world::World;
use proptest::prelude::*;

fn words(command: &str) -> Vec<String> {
    command.split(' ').map(str::to_owned).collect()
}

/// Puts commands to a world; what went wrong, with the commands up to there.
fn play<'a>(commands: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
    let mut world = World::new();
    let mut before = Vec::new();
    for command in commands {
        before.push(command);
        world.put(&words(command)).map_err(|why| format!("{before:?}: {why}"))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

    #[test]
    fn nobody_can_tell_it_from_a_connection_of_its_own(commands in prop::collection::vec(0..COMMANDS.len(), 1..40)) {
        if let Err(why) = play(commands.iter().map(|i| COMMANDS[*i])) {
            return Err(TestCaseError::fail(why));
        }
    }
}

/// Each pair of commands behind each state that a session can be in.
#[test]
fn after_everything_that_lasts() {
    const LASTING: &[&[&str]] = &[
        &[],
        &["SELECT 3"],
        &["HELLO 3 AUTH u1 u1 SETNAME me"],
        &["MULTI"],
        &["WATCH k"],
        &["WATCH k", "MULTI", "SET k v"],
        &["SUBSCRIBE a b"],
        &["HELLO 3", "PSUBSCRIBE p*"],
        &["HELLO 3", "SUBSCRIBE a", "MULTI"],
        &["CLIENT TRACKING ON"],
        &["CLIENT REPLY OFF"],
        &["CLIENT REPLY SKIP"],
        &["CLIENT SETNAME me", "AUTH u2 u2", "SELECT 5"],
    ];
    for state in LASTING {
        for first in COMMANDS {
            for second in COMMANDS {
                let all = state.iter().chain([first, second]).copied();
                play(all).unwrap();
            }
        }
    }
}
