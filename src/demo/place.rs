//! Where a server runs.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

/// An address to listen on, and the way to the machine that has it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The address.
    pub ip: IpAddr,
    /// A program and its arguments that execute, there, the command that follows them, such as
    /// `nsenter --net=FILE --`. Empty: here.
    pub enter: Vec<String>,
}

impl Place {
    /// An address of this machine.
    pub fn here(ip: impl Into<IpAddr>) -> Self {
        Self { ip: ip.into(), enter: Vec::new() }
    }

    /// The command that executes `program` there.
    pub(super) fn command(&self, program: &Path, args: Vec<OsString>) -> (PathBuf, Vec<OsString>) {
        match self.enter.split_first() {
            None => (program.to_owned(), args),
            Some((enter, more)) => {
                let there = more.iter().map(OsString::from).chain([program.into()]).chain(args).collect();
                (enter.into(), there)
            }
        }
    }
}

impl Default for Place {
    /// The loopback interface.
    fn default() -> Self {
        Self::here(Ipv4Addr::LOCALHOST)
    }
}
