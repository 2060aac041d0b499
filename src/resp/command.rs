//! What is known about a command by its name.

use super::command_table::{COMMANDS, TABLE_SIZE};

/// Number of [`CommandId`]s: the commands in the table, and one for all others.
pub const COMMAND_COUNT: usize = TABLE_SIZE + 1;

/// A command of the table, [`CommandId::OTHER`], or one that the server had to be asked about.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct CommandId(u16);

/// Static facts about a command.
#[derive(Debug)]
pub struct CommandInfo {
    /// Its name, in lower case.
    pub name: &'static str,
    /// Whether it certainly changes nothing: it may be read from a master that is being replaced, and be sent again
    /// when its reply was lost. The `readonly` flag of `COMMAND`, with the exceptions named in the table.
    pub readonly: bool,
    /// How it is routed.
    pub kind: Kind,
}

/// How a command is routed.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// Leaves no state on the connection: goes on a shared one.
    Plain,
    /// As `Plain`, and has a cursor, which means something on one server only.
    Scan,
    /// Leaves no state either, but may run for ever, while the server answers everybody else `-BUSY`: goes on a connection
    /// shared with other scripts only.
    Script,
    /// Waits on the server for an element, or until a time-out that is among its arguments.
    Blocking,
    /// `XREAD` and `XREADGROUP`: blocks if `BLOCK` stands before `STREAMS`.
    BlockingIfAsked,
    /// `WAIT` and `WAITAOF`: block, and speak of the last write of their own connection.
    Wait,
    /// Opens a transaction.
    Multi,
    /// Runs the transaction.
    Exec,
    /// Drops the transaction.
    Discard,
    /// Watches keys until the next `EXEC`, `DISCARD` or `UNWATCH`.
    Watch,
    /// Forgets the watched keys.
    Unwatch,
    /// `SUBSCRIBE`, `PSUBSCRIBE`, `SSUBSCRIBE`.
    Subscribe,
    /// `UNSUBSCRIBE`, `PUNSUBSCRIBE`, `SUNSUBSCRIBE`.
    Unsubscribe,
    /// Changes the database of the connection.
    Select,
    /// Changes the user of the connection.
    Auth,
    /// Changes RESP version, user and name of the connection.
    Hello,
    /// Takes the connection back to its first state.
    Reset,
    /// Closes the connection after its reply.
    Quit,
    /// The `CLIENT` container: the subcommand decides.
    Client,
    /// Turns the connection into an endless stream.
    Monitor,
    /// The `SCRIPT` and `FUNCTION` containers: plain, but `KILL` has to overtake what it kills.
    ScriptControl,
    /// Acts on the server as a whole, and may stop or stall it.
    Server,
    /// Makes the connection a replica's.
    Replica,
    /// Not in the table: nothing is known.
    Other,
}

impl CommandId {
    /// Every command that is not in the table.
    pub const OTHER: Self = Self(TABLE_SIZE as u16);
    /// One of them, of which the server says that it only reads data. How long it takes it does not say: it goes where
    /// scripts go.
    pub const LEARNED_READ: Self = Self(TABLE_SIZE as u16 + 1);
    /// The same, of one that writes.
    pub const LEARNED_WRITE: Self = Self(TABLE_SIZE as u16 + 2);

    /// Place of the command in a table of [`COMMAND_COUNT`] entries. All that are not in the table have one.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0).min(TABLE_SIZE)
    }

    /// What is known of it.
    #[inline]
    pub fn info(self) -> &'static CommandInfo {
        let others = usize::from(self.0).saturating_sub(TABLE_SIZE);
        COMMANDS.get(usize::from(self.0)).unwrap_or(&OTHER_INFOS[others])
    }

    /// All commands of the table, then [`OTHER`](Self::OTHER).
    pub fn all() -> impl Iterator<Item = Self> {
        (0..COMMAND_COUNT).map(|i| Self(i as u16))
    }
}

/// [`CommandId::OTHER`] and the two behind it.
static OTHER_INFOS: [CommandInfo; 3] = [
    CommandInfo { name: "other", readonly: false, kind: Kind::Other },
    CommandInfo { name: "other", readonly: true, kind: Kind::Script },
    CommandInfo { name: "other", readonly: false, kind: Kind::Script },
];

/// Finds a command by its name, in any case.
#[inline]
pub fn lookup(name: &[u8]) -> CommandId {
    let mut slot = hash(name) % SLOTS;
    loop {
        let index = INDEX[slot];
        match COMMANDS.get(usize::from(index)) {
            None => return CommandId::OTHER,
            Some(info) if info.name.as_bytes().eq_ignore_ascii_case(name) => return CommandId(index),
            Some(_) => slot = (slot + 1) % SLOTS,
        }
    }
}

/// A power of two, about four times the commands: nearly every look-up, hit or miss, ends at the first slot.
const SLOTS: usize = 1024;
const _: () = assert!(TABLE_SIZE * 3 < SLOTS, "the index is too full");

/// Open addressing; a free slot holds [`TABLE_SIZE`].
static INDEX: [u16; SLOTS] = build_index();

const fn build_index() -> [u16; SLOTS] {
    let mut index = [TABLE_SIZE as u16; SLOTS];
    let mut i = 0;
    while i < TABLE_SIZE {
        let mut slot = hash(COMMANDS[i].name.as_bytes()) % SLOTS;
        while (index[slot] as usize) < TABLE_SIZE {
            slot = (slot + 1) % SLOTS;
        }
        index[slot] = i as u16;
        i += 1;
    }
    index
}

/// Of the first and the last eight bytes and the length, without regard to case. Equal hashes are told apart by name.
#[inline]
const fn hash(name: &[u8]) -> usize {
    // Sets the bit in which upper and lower case differ; what else falls together does no harm.
    const CASE: u64 = 0x2020_2020_2020_2020;
    let (head, tail) = match (name.first_chunk::<8>(), name.last_chunk::<8>()) {
        (Some(head), Some(tail)) => (u64::from_le_bytes(*head), u64::from_le_bytes(*tail)),
        _ => match (name.first_chunk::<4>(), name.last_chunk::<4>()) {
            (Some(head), Some(tail)) => (u32::from_le_bytes(*head) as u64, u32::from_le_bytes(*tail) as u64),
            _ => match name {
                [a, b, c] => (u32::from_le_bytes([*a, *b, *c, 0]) as u64, 0),
                [a, b] => (u16::from_le_bytes([*a, *b]) as u64, 0),
                _ => (0, 0),
            },
        },
    };
    let mixed = (head | CASE).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (tail | CASE).wrapping_add(name.len() as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    (mixed >> 48) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_in_any_case() {
        for id in CommandId::all().filter(|id| *id != CommandId::OTHER) {
            let name = id.info().name;
            assert_eq!(lookup(name.as_bytes()), id, "{name}");
            assert_eq!(lookup(name.to_uppercase().as_bytes()), id, "{name}");
            assert_eq!(name, name.to_lowercase());
        }
    }

    #[test]
    fn near_misses_are_other() {
        for name in [
            "",
            "g",
            "ge",
            "gett",
            "get ",
            "\x07et",
            "GE\x14",
            "nosuchcommand",
            "zzzzzzzzzzzzzzzzzzzzzzzzzzzz",
            "other",
        ] {
            assert_eq!(lookup(name.as_bytes()), CommandId::OTHER, "{name:?}");
        }
        assert_eq!(CommandId::OTHER.info().kind, Kind::Other);
        assert_eq!(CommandId::OTHER.index(), COMMAND_COUNT - 1);
        let learned = [CommandId::LEARNED_READ, CommandId::LEARNED_WRITE];
        assert_eq!(
            learned.map(|id| (id.info().kind, id.info().readonly)),
            [(Kind::Script, true), (Kind::Script, false)]
        );
        assert_eq!(learned.map(CommandId::index), [COMMAND_COUNT - 1; 2]);
    }

    #[test]
    fn look_ups_end_soon() {
        let longest = (0..SLOTS)
            .map(|start| (0..SLOTS).take_while(|i| usize::from(INDEX[(start + i) % SLOTS]) < TABLE_SIZE).count())
            .max();
        assert!(longest.unwrap() <= 8, "clusters of {longest:?} in the index");
    }
}
