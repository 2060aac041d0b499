//! What to do with a session's commands once one of them was refused (`-READONLY` and the like) with proof that it did
//! not run. Pure.
//!
//! The refused command may be sent again, but only if no later write of the session ran: otherwise the session's order
//! would be turned round. So from the first refusal on, what comes for the session is collected until nothing is owed.

use bytes::Bytes;

/// What came of one command behind (and including) the first refusal, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// Refused: the command, and the refusal.
    Refused(Bytes, Bytes),
    /// A read was answered: the command, and its reply.
    Read(Bytes, Bytes),
    /// A write ran: its reply.
    Ran(Bytes),
    /// It certainly did not run, and there is no reply: never written, or a read whose connection was lost.
    NotRun(Bytes),
    /// A write was written and not answered.
    Unknown,
}

impl Outcome {
    /// The reply that is kept.
    pub(super) fn reply(&self) -> Option<&Bytes> {
        match self {
            Self::Refused(_, reply) | Self::Read(_, reply) | Self::Ran(reply) => Some(reply),
            Self::NotRun(_) | Self::Unknown => None,
        }
    }
}

/// The decision: replies to deliver, in order, then commands to send again, in order.
#[derive(Default, PartialEq, Eq, Debug)]
pub(super) struct Settled {
    /// Delivered to the client.
    pub(super) deliver: Vec<Bytes>,
    /// Read again by the session, before what it reads from the client.
    pub(super) again: Vec<Bytes>,
    /// A write's outcome is unknown: the client is closed after `deliver`.
    pub(super) close: bool,
}

/// Decides, once all outcomes are known.
pub(super) fn settle(outcomes: Vec<Outcome>) -> Settled {
    let last_ran = outcomes.iter().rposition(|o| matches!(o, Outcome::Ran(_) | Outcome::Unknown));
    let mut settled = Settled::default();
    for (i, outcome) in outcomes.into_iter().enumerate() {
        // Behind the last write that ran (or may have), everything can run again; before it, nothing can.
        let again = last_ran.is_none_or(|last| i > last);
        match outcome {
            Outcome::Unknown => {
                settled.close = true;
                settled.again.clear();
                return settled;
            }
            Outcome::Refused(command, _) | Outcome::Read(command, _) | Outcome::NotRun(command) if again => {
                settled.again.push(command);
            }
            Outcome::Refused(_, reply) | Outcome::Read(_, reply) | Outcome::Ran(reply) => settled.deliver.push(reply),
            // Replies behind this one cannot be told to the client without its own: as if the connection had died.
            Outcome::NotRun(_) => {
                settled.close = true;
                return settled;
            }
        }
    }
    settled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn b(s: &'static str) -> Bytes {
        Bytes::from_static(s.as_bytes())
    }

    #[test]
    fn refused_commands_and_the_reads_behind_them_are_sent_again_in_order() {
        let settled = settle(vec![
            Outcome::Refused(b("set1"), b("-READONLY")),
            Outcome::Read(b("get"), b("$1")),
            Outcome::Refused(b("set2"), b("-READONLY")),
            Outcome::NotRun(b("set3")),
        ]);
        assert_eq!(settled.again, [b("set1"), b("get"), b("set2"), b("set3")]);
        assert!(settled.deliver.is_empty() && !settled.close);
    }

    #[test]
    fn behind_a_later_write_that_ran_the_refusal_is_delivered() {
        let settled = settle(vec![
            Outcome::Refused(b("set1"), b("-READONLY")),
            Outcome::Read(b("get"), b("$1")),
            Outcome::Ran(b("+OK")),
            Outcome::Refused(b("set3"), b("-READONLY")),
        ]);
        assert_eq!(settled.deliver, [b("-READONLY"), b("$1"), b("+OK")]);
        assert_eq!(settled.again, [b("set3")]);
        assert!(!settled.close);
    }

    #[test]
    fn behind_a_later_write_of_unknown_outcome_the_refusal_is_delivered_and_the_client_closed() {
        let settled =
            settle(vec![Outcome::Refused(b("set1"), b("-READONLY")), Outcome::Unknown, Outcome::NotRun(b("x"))]);
        assert_eq!(settled.deliver, [b("-READONLY")]);
        assert!(settled.again.is_empty() && settled.close);
    }
}
