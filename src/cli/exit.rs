//! Exit codes, those of `sysexits.h`. What keeps the program from running in the first place (71 for an address that
//! cannot be bound) comes from the application's own error.

/// The command line cannot be understood.
pub(super) const USAGE: u8 = 64;

/// `check --online`: a Sentinel or a master does not answer as it should. `status`, `switchover`, `drill`: the pointsman
/// that runs does not.
pub(super) const UNAVAILABLE: u8 = 69;

/// An address cannot be bound.
pub(super) const OS: u8 = 71;

/// The configuration is wrong, or a file that it consists of cannot be read.
pub(super) const CONFIG: u8 = 78;

/// A switchover was refused or undone: everything is as before, and it can be tried again.
pub(super) const UNDONE: u8 = 75;

/// `status`: the reads or writes of some service wait or are refused; that may pass.
pub(super) const NOT_FLOWING: u8 = 75;
