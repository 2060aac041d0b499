//! RESP as a forwarder needs it: where frames end, which command it is, what kind of reply it is.
//!
//! The hot half ([`RequestScanner`], [`ReplyScanner`], [`lookup`], [`classify`]) looks at headers only and allocates
//! nothing. The cold half ([`decode`], [`inline_to_command`], [`args`]) takes whole frames apart, and is given only
//! frames that the hot half has accepted.

mod command;
mod command_set;
mod command_table;
mod errors;
mod frame;
mod inline;
mod keys;
mod learned;
mod number;
mod protocol_error;
mod reply;
mod reply_scan;
mod scan;
mod tracking;
mod value;

pub use command::{COMMAND_COUNT, CommandId, CommandInfo, Kind, lookup};
pub use command_set::CommandSet;
pub use errors::{ErrorInfo, OwnError};
pub use frame::{Args, args, encode_command, lengths, split};
pub use inline::inline_to_command;
pub use keys::{keys, printable, title};
pub use learned::Learned;
pub use protocol_error::ProtocolError;
pub use reply::{Refusal, classify, without_arguments};
pub use reply_scan::{Progress, ReplyScanner};
pub use scan::{Pending, RequestScanner, Scan};
pub use tracking::{
    EVERYTHING_INVALID, invalidated, invalidation, redirection_broken, says_redirection_broken, with_redirection,
};
pub use value::{DecodeError, Value, decode};
