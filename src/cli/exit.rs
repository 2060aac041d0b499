//! Exit codes, those of `sysexits.h`. What keeps the program from running in the first place (71 for an address that
//! cannot be bound) comes from the application's own error.

/// The command line cannot be understood.
pub(super) const USAGE: u8 = 64;

/// `check --online`: a Sentinel or a master does not answer as it should.
pub(super) const UNAVAILABLE: u8 = 69;

/// An address cannot be bound.
pub(super) const OS: u8 = 71;

/// The configuration is wrong, or a file that it consists of cannot be read.
pub(super) const CONFIG: u8 = 78;
