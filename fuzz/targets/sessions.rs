//! The router against a model of a single connection, with sequences of commands that the fuzzer finds; see
//! `tests/pure/router_model/mod.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/pure/router_model/connection.rs"]
mod connection;
#[path = "../../tests/pure/router_model/vocabulary.rs"]
mod vocabulary;
#[path = "../../tests/pure/router_model/world.rs"]
mod world;

use vocabulary::COMMANDS;
use world::World;

/// So many last words are told when something is wrong.
const LONGEST: usize = 200;

// Each byte is a command.
fuzz_target!(|data: &[u8]| {
    let commands: Vec<&str> = data.iter().take(LONGEST).map(|i| COMMANDS[usize::from(*i) % COMMANDS.len()]).collect();
    let mut world = World::new();
    for (i, command) in commands.iter().enumerate() {
        let words = command.split(' ').map(str::to_owned).collect();
        if let Err(why) = world.put(&words) {
            panic!("{:?}: {why}", &commands[..=i]);
        }
    }
});
