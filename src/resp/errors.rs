//! Every error reply that pointsman writes in its own name.
//!
//! Such a reply is a promise: the command did not run. Where that is not certain, the connection is closed instead.
//! None begins with `ERR `, which phpredis turns into a silent `false`; nor with the other prefixes that it does so
//! with (`NOSCRIPT`, `WRONGTYPE`, `BUSYGROUP`, `NOGROUP`, `NOQUORUM`, `NOGOODSLAVE`). `docs/errors.md` is this table for
//! users; a test compares the two.

use bytes::{BufMut, Bytes, BytesMut};

/// An error reply of pointsman's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OwnError {
    /// There is no master that the command may be written to, and waiting any longer is not allowed.
    NoMaster,
    /// The command needs a connection of its own, and none became free in time.
    PinLimit,
    /// More clients than allowed; the connection is closed after it.
    TooManyClients,
    /// The client is not one that may connect; the connection is closed after it.
    Denied,
    /// A command that pointsman does not forward.
    Refused,
    /// The transaction could not be carried over to the new master.
    TransactionLost,
    /// A cursor that another master has given out.
    StaleCursor,
    /// What replicas have of a client's writes cannot be told.
    WaitUnknown,
}

/// One row of the table.
#[derive(Debug)]
pub struct ErrorInfo {
    /// Which error.
    pub error: OwnError,
    /// First word of the reply, by which client libraries choose the exception.
    pub prefix: &'static str,
    /// When it is sent.
    pub when: &'static str,
    /// What to do about it.
    pub advice: &'static str,
}

impl OwnError {
    /// The whole table, in the order of the variants.
    pub const TABLE: &[ErrorInfo] = &[
        ErrorInfo {
            error: Self::NoMaster,
            prefix: "MASTERDOWN",
            when: "The master was being replaced, or could not be reached, for longer than `hold_timeout`; \
                   or, with `fence_without_quorum`, no majority of the Sentinels is in hearing (writes only). The text says what pointsman is waiting for.",
            advice: "Try again later. `/status` shows what each Sentinel says.",
        },
        ErrorInfo {
            error: Self::PinLimit,
            prefix: "TRYAGAIN",
            when: "The command needs a backend connection of its own (a transaction, a blocking command, a \
                   subscription), and all that are allowed were in use for `pin_timeout`.",
            advice: "Try again, or raise the limit that the text names.",
        },
        ErrorInfo {
            error: Self::TooManyClients,
            prefix: "TRYAGAIN",
            when: "More clients than allowed are connected, in all or from this address. The connection is closed behind the reply.",
            advice: "Connect again later, or raise the limit that the text names.",
        },
        ErrorInfo {
            error: Self::Denied,
            prefix: "DENIED",
            when: "The client's address is in none of the networks of `listen.allow`; or a PROXY header came from where \
                   none is believed, or none from where one is expected. The connection is closed behind the reply.",
            advice: "Add the address to `listen.allow`. Name in `listen.proxy_protocol` the balancers that send PROXY headers, and no others.",
        },
        ErrorInfo {
            error: Self::Refused,
            prefix: "NOPERM",
            when: "The command is in the list `refuse` of the configuration, cannot be carried out over connections that \
                   clients share, or is larger than `limits.command_bytes`.",
            advice: "Send it to the server itself, take it off the list, or raise the limit that the text names.",
        },
        ErrorInfo {
            error: Self::TransactionLost,
            prefix: "EXECABORT",
            when: "`EXEC` after the master changed, when the queued commands could not be queued alike on the new one.",
            advice: "Run the transaction again from `MULTI`.",
        },
        ErrorInfo {
            error: Self::StaleCursor,
            prefix: "STALECURSOR",
            when: "`SCAN`, `HSCAN`, `SSCAN` or `ZSCAN` with a cursor that this connection was given before the master \
                   changed. On the new one it would skip elements.",
            advice: "Begin again with cursor 0.",
        },
        ErrorInfo {
            error: Self::WaitUnknown,
            prefix: "WAITUNKNOWN",
            when: "`WAIT` or `WAITAOF` after the master changed, when this connection has written nothing since; or where \
                   the server refuses the `PING` (with Valkey 8 the `SWAPDB`) that it takes to answer.",
            advice: "Look whether the write is there, or write again and then wait.",
        },
    ];

    /// Its row of the table.
    pub fn info(self) -> &'static ErrorInfo {
        &Self::TABLE[self as usize]
    }

    /// The reply: prefix, whose error it is, and `detail`, in one line.
    pub fn line(self, detail: &str) -> Bytes {
        const WHOSE: &[u8] = b" pointsman: ";
        let prefix = self.info().prefix.as_bytes();
        let mut line = BytesMut::with_capacity(1 + prefix.len() + WHOSE.len() + detail.len() + 2);
        line.put_u8(b'-');
        line.put_slice(prefix);
        line.put_slice(WHOSE);
        // A line end in the detail, which may quote a server or a client, would begin another reply.
        line.extend(detail.bytes().map(|b| if matches!(b, b'\r' | b'\n') { b' ' } else { b }));
        line.put_slice(b"\r\n");
        line.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Progress, ReplyScanner, classify};

    #[test]
    fn every_row_is_that_of_its_error() {
        for row in OwnError::TABLE {
            assert_eq!(row.error.info().error, row.error);
        }
    }

    #[test]
    fn a_line_is_one_reply_whatever_the_detail() {
        for row in OwnError::TABLE {
            let line = row.error.line("no master\r\n+OK\r\n since\n3 s");
            let whole = Progress { consumed: line.len(), complete: true };
            assert_eq!(ReplyScanner::new().scan(&line), Ok(whole));
            assert!(line.starts_with(format!("-{} pointsman: no master  +OK", row.prefix).as_bytes()));
            assert_eq!(classify(&line), None, "another pointsman must not take it for Redis' own");
        }
    }

    #[test]
    fn no_prefix_is_swallowed_by_a_client() {
        const FALSE_IN_PHPREDIS: [&str; 7] =
            ["ERR", "NOSCRIPT", "WRONGTYPE", "BUSYGROUP", "NOGROUP", "NOQUORUM", "NOGOODSLAVE"];
        for row in OwnError::TABLE {
            assert!(!FALSE_IN_PHPREDIS.iter().any(|prefix| row.prefix.starts_with(prefix)), "{}", row.prefix);
        }
    }
}
