//! Writes the manual pages and the completions of bash, from the flags themselves: `pages MAN_DIRECTORY DIRECTORY`.

use std::io;
use std::path::PathBuf;

use clap_complete::shells::Bash;

fn main() -> io::Result<()> {
    let mut directories = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(man), Some(completions)) = (directories.next(), directories.next()) else {
        return Err(io::Error::other("usage: pages MAN_DIRECTORY DIRECTORY"));
    };
    clap_mangen::generate_to(pointsman::cli::command(), man)?;
    let bash = clap_complete::generate_to(Bash, &mut pointsman::cli::command(), "pointsman", completions)?;
    std::fs::rename(&bash, bash.with_file_name("pointsman"))
}
