//! What a reply says about the fate of its command.

/// An error reply that proves that its command did not run.
///
/// It proves it only for the whole frame, never for an element of an `EXEC` reply: there the block has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A write sent to a replica.
    ReadOnly,
    /// The server is still reading its data set.
    Loading,
    /// A replica without a master, that does not serve stale data.
    MasterDown,
    /// Fewer replicas than `min-replicas-to-write`.
    NoReplicas,
    /// A blocked command was sent away with nothing popped. No proof for `WAIT`.
    Unblocked,
    /// The server does not know the script.
    NoScript,
}

/// The exact texts, old ones included. A script can answer with any text after it has written something, so that a
/// mere prefix proves nothing.
const REFUSALS: &[(&[u8], Refusal)] = &[
    (b"READONLY You can't write against a read only replica.", Refusal::ReadOnly),
    (b"READONLY You can't write against a read only slave.", Refusal::ReadOnly),
    (b"LOADING Redis is loading the dataset in memory", Refusal::Loading),
    (b"LOADING Valkey is loading the dataset in memory", Refusal::Loading),
    (b"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", Refusal::MasterDown),
    (b"MASTERDOWN Link with MASTER is down and slave-serve-stale-data is set to 'no'.", Refusal::MasterDown),
    (b"NOREPLICAS Not enough good replicas to write.", Refusal::NoReplicas),
    (b"NOREPLICAS Not enough good slaves to write.", Refusal::NoReplicas),
    (
        b"UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        Refusal::Unblocked,
    ),
    (b"UNBLOCKED client unblocked via CLIENT UNBLOCK", Refusal::Unblocked),
    (b"NOSCRIPT No matching script. Please use EVAL.", Refusal::NoScript),
    (b"NOSCRIPT No matching script.", Refusal::NoScript),
];

/// How an `EXEC` is refused, in front of the reason: nothing of the block ran.
const EXECABORT: &[u8] = b"EXECABORT Transaction discarded because of: ";

/// Which refusal `reply` is, if it is one. `reply` is a whole frame.
#[inline]
pub fn classify(reply: &[u8]) -> Option<Refusal> {
    if *reply.first()? != b'-' { None } else { classify_error(reply) }
}

#[cold]
fn classify_error(reply: &[u8]) -> Option<Refusal> {
    let line = reply.strip_prefix(b"-")?.strip_suffix(b"\r\n")?;
    let line = line.strip_prefix(EXECABORT).unwrap_or(line);
    let (text, refusal) = REFUSALS.iter().find(|(text, _)| line.starts_with(text))?;
    match &line[text.len()..] {
        [] => Some(*refusal),
        // A write refused inside a script. The script has not written before either: a replica refuses every write.
        // The other refusals can come after a write of the same script.
        rest if *refusal == Refusal::ReadOnly && rest.starts_with(b" script: ") => Some(*refusal),
        _ => None,
    }
}

/// An error text as far as it may be shown. A server that does not know a command (it may be old, or the command
/// renamed) repeats its arguments, and those of `AUTH` and `HELLO` hold a password; perhaps only the beginning of one,
/// since Redis cuts long ones.
pub fn without_arguments(error: &str) -> &str {
    error.split_once(", with args beginning with").map_or(error, |(told, _)| told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_not_repeated() {
        for (error, shown) in [
            (
                "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'me' 'sesame' ",
                "ERR unknown command 'HELLO'",
            ),
            ("ERR unknown command `AUTH`, with args beginning with: `sesame`, ", "ERR unknown command `AUTH`"),
            ("WRONGPASS invalid username-password pair", "WRONGPASS invalid username-password pair"),
        ] {
            assert_eq!(without_arguments(error), shown);
        }
    }

    #[test]
    fn refusals_are_recognised() {
        for (reply, expected) in [
            ("-READONLY You can't write against a read only replica.\r\n", Refusal::ReadOnly),
            (
                "-READONLY You can't write against a read only replica. script: 8f3, on @user_script:1.\r\n",
                Refusal::ReadOnly,
            ),
            (
                "-EXECABORT Transaction discarded because of: READONLY You can't write against a read only replica.\r\n",
                Refusal::ReadOnly,
            ),
            ("-LOADING Redis is loading the dataset in memory\r\n", Refusal::Loading),
            (
                "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
                Refusal::MasterDown,
            ),
            ("-NOREPLICAS Not enough good replicas to write.\r\n", Refusal::NoReplicas),
            ("-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n", Refusal::Unblocked),
            ("-NOSCRIPT No matching script. Please use EVAL.\r\n", Refusal::NoScript),
            ("-NOSCRIPT No matching script.\r\n", Refusal::NoScript),
        ] {
            assert_eq!(classify(reply.as_bytes()), Some(expected), "{reply}");
        }
    }

    #[test]
    fn what_a_script_can_say_proves_nothing() {
        for reply in [
            "-READONLY x\r\n",
            "-READONLY You can't write against a read only replica. Or can you?\r\n",
            "-LOADING Redis is loading the dataset in memory script: 8f3, on @user_script:1.\r\n",
            "-NOREPLICAS Not enough good replicas to write. script: 8f3, on @user_script:1.\r\n",
            "-EXECABORT Transaction discarded because of previous errors.\r\n",
            "-ERR unknown command 'x'\r\n",
            "+READONLY You can't write against a read only replica.\r\n",
            "$3\r\n-RE\r\n",
            "*1\r\n-READONLY You can't write against a read only replica.\r\n",
            "-READONLY You can't write against a read only replica.",
            "",
        ] {
            assert_eq!(classify(reply.as_bytes()), None, "{reply}");
        }
    }
}
