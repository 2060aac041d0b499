//! Cursors of `SCAN`, `SSCAN`, `HSCAN` and `ZSCAN`. A cursor is a place in the hash tables of one server process. On
//! another it means another place, and what the client was never shown it would never miss: it has to begin anew.
//!
//! A session remembers which cursors its replies have brought, and where from. What another session was given, on the
//! new master perhaps, cannot be told from a good one and is taken for it: clients have pools of connections.

use std::collections::HashMap;
use std::net::SocketAddr;

/// Scans begun and not ended that a session remembers, at most. Beyond, any one is forgotten.
const MAX_SCANS: usize = 256;

/// Who gave a cursor: a generation, and its master.
pub type Server = (u64, SocketAddr);

/// See the module. What is scanned is told apart by a hash.
#[derive(Debug, Default)]
pub(super) struct Cursors(HashMap<u64, (u64, Server)>);

impl Cursors {
    /// A reply, or its beginning, has come.
    pub(super) fn note(&mut self, what: u64, reply: &[u8], from: Server) {
        match cursor(reply) {
            None => {}
            Some(0) => {
                self.0.remove(&what);
            }
            Some(cursor) => {
                if self.0.len() >= MAX_SCANS
                    && !self.0.contains_key(&what)
                    && let Some(any) = self.0.keys().next().copied()
                {
                    self.0.remove(&any);
                }
                self.0.insert(what, (cursor, from));
            }
        }
    }

    /// Whether another server than `now` gave this cursor.
    pub(super) fn is_foreign(&self, what: u64, cursor: u64, now: Server) -> bool {
        self.0.get(&what).is_some_and(|(given, by)| *given == cursor && *by != now)
    }
}

/// The cursor that a reply of the `SCAN` family begins with.
fn cursor(reply: &[u8]) -> Option<u64> {
    let rest = reply.strip_prefix(b"*2\r\n$")?;
    let text = &rest[memchr::memchr(b'\n', rest)? + 1..];
    std::str::from_utf8(&text[..memchr::memchr(b'\r', text)?]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u64 = 1;
    const HASH: u64 = 2;

    fn server(generation: u64) -> Server {
        (generation, SocketAddr::from(([127, 0, 0, 1], 7000 + generation as u16)))
    }

    fn reply(cursor: u64) -> Vec<u8> {
        format!("*2\r\n${}\r\n{cursor}\r\n*0\r\n", cursor.to_string().len()).into_bytes()
    }

    #[test]
    fn a_cursor_is_good_on_its_own_server_only() {
        let mut cursors = Cursors::default();
        assert!(!cursors.is_foreign(KEYS, 5, server(1)), "from another connection, perhaps");
        cursors.note(KEYS, &reply(5), server(1));
        assert!(!cursors.is_foreign(KEYS, 5, server(1)));
        assert!(cursors.is_foreign(KEYS, 5, server(2)) && cursors.is_foreign(KEYS, 5, server(3)));
        assert!(!cursors.is_foreign(KEYS, 6, server(2)) && !cursors.is_foreign(HASH, 5, server(2)));
        cursors.note(KEYS, b"-NOPERM\r\n", server(2));
        assert!(cursors.is_foreign(KEYS, 5, server(2)), "however often it asks");
        cursors.note(KEYS, &reply(5), server(2));
        assert!(!cursors.is_foreign(KEYS, 5, server(2)), "begun anew");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut cursors = Cursors::default();
        for what in 0..MAX_SCANS as u64 + 9 {
            cursors.note(what, &reply(1), server(1));
        }
        assert_eq!(cursors.0.len(), MAX_SCANS);
        for what in 0..MAX_SCANS as u64 + 9 {
            cursors.note(what, &reply(0), server(1));
        }
        assert!(cursors.0.is_empty());
    }
}
