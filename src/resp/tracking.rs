//! What servers say of client-side caching (`CLIENT TRACKING`), as pointsman passes it on from one client's connection to
//! another client. Pure.

use bytes::Bytes;

/// What Redis sends when all keys are flushed.
pub const EVERYTHING_INVALID: &[u8] = b">2\r\n$10\r\ninvalidate\r\n_\r\n";

/// What stands before the keys of an invalidation: as a push, and as a message to a subscriber (Redis
/// `sendTrackingMessage`).
const PUSH: &[u8] = b">2\r\n$10\r\ninvalidate\r\n";
const MESSAGE: &[u8] = b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n";
/// What stands before the id of a client that cannot be told invalidations any more.
const BROKEN: &[u8] = b">2\r\n$21\r\ntracking-redir-broken\r\n";

/// The keys of an invalidation, if the frame is one: an array, or a null for all keys.
pub fn invalidated(frame: &[u8]) -> Option<&[u8]> {
    frame.strip_prefix(PUSH)
}

/// The invalidation of these keys, as a push or else as a message to a subscriber.
pub fn invalidation(keys: &[u8], push: bool) -> Bytes {
    [if push { PUSH } else { MESSAGE }, keys].concat().into()
}

/// The push that says that the client `id` cannot be told any more.
pub fn redirection_broken(id: u64) -> Bytes {
    [BROKEN, format!(":{id}\r\n").as_bytes()].concat().into()
}

/// Whether a frame is that.
pub fn says_redirection_broken(frame: &[u8]) -> bool {
    frame.starts_with(BROKEN)
}

/// The reply to `CLIENT GETREDIR` or `CLIENT TRACKINGINFO` with the client's id in place of its connection's. `client_of` a
/// connection: that, and whether it cannot be told any more, though the connection is there.
pub fn with_redirection(reply: &[u8], client_of: impl Fn(i64) -> Option<(u64, bool)>) -> Bytes {
    const FIELD: &[u8] = b"$8\r\nredirect\r\n";
    const FLAG: &[u8] = b"$15\r\nbroken_redirect\r\n";
    let as_it_is = || Bytes::copy_from_slice(reply);
    let field = memchr::memmem::find(reply, FIELD);
    let (before, behind) = reply.split_at(field.map_or(0, |at| at + FIELD.len()));
    let Some(end) = memchr::memchr(b'\r', behind) else { return as_it_is() };
    // 0 and -1 say that there is none.
    let named = behind[..end].strip_prefix(b":").and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
    let Some((id, broken)) = named.and_then(client_of) else { return as_it_is() };
    let number = format!(":{id}");
    if broken
        && let Some(at) = field
        && memchr::memmem::find(&before[..at], FLAG).is_none()
        && let Some((from, to, flags)) = count_of_flags(&before[..at])
    {
        let count = (flags + 1).to_string();
        let flagged = [&before[..from], count.as_bytes(), &before[to..at], FLAG, &before[at..]];
        return [&flagged.concat(), number.as_bytes(), &behind[end..]].concat().into();
    }
    [before, number.as_bytes(), &behind[end..]].concat().into()
}

/// Where the number of flags stands, and what it is.
fn count_of_flags(reply: &[u8]) -> Option<(usize, usize, usize)> {
    const FIELD: &[u8] = b"$5\r\nflags\r\n";
    let from = memchr::memmem::find(reply, FIELD)? + FIELD.len() + 1;
    let to = from + memchr::memchr(b'\r', reply.get(from..)?)?;
    Some((from, to, std::str::from_utf8(&reply[from..to]).ok()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(reply: &str, broken: bool) -> String {
        let client_of = |id| (id == 123).then_some((7, broken));
        String::from_utf8(with_redirection(reply.as_bytes(), client_of).to_vec()).unwrap()
    }

    #[test]
    fn who_is_told_invalidations_is_named_by_its_own_id() {
        assert_eq!(told(":123\r\n", false), ":7\r\n");
        for as_it_is in [":-1\r\n", ":0\r\n", "+OK\r\n", "-ERR it\r\n", "*2\r\n$5\r\nflags\r\n*0\r\n"] {
            assert_eq!(told(as_it_is, true), as_it_is);
        }
        let info = |id| format!("*6\r\n$5\r\nflags\r\n*0\r\n$8\r\nredirect\r\n:{id}\r\n$8\r\nprefixes\r\n*0\r\n");
        assert_eq!(told(&info(123), false), info(7));
        assert_eq!(told(&info(0), false), info(0));
    }

    #[test]
    fn one_who_cannot_be_told_any_more_is_flagged_once() {
        let info =
            |flags, id| format!("%3\r\n$5\r\nflags\r\n{flags}$8\r\nredirect\r\n:{id}\r\n$8\r\nprefixes\r\n~0\r\n");
        let broken = "~2\r\n$2\r\non\r\n$15\r\nbroken_redirect\r\n";
        assert_eq!(told(&info("~1\r\n$2\r\non\r\n", 123), true), info(broken, 7));
        assert_eq!(told(&info(broken, 123), true), info(broken, 7));
    }

    #[test]
    fn an_invalidation_is_passed_on_as_it_is() {
        let keys = invalidated(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n").unwrap();
        assert_eq!(
            invalidation(keys, false),
            "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$1\r\nk\r\n"
        );
        assert_eq!(invalidation(b"_\r\n", true), EVERYTHING_INVALID);
        assert!(says_redirection_broken(&redirection_broken(7)) && invalidated(b"*0\r\n").is_none());
    }
}
