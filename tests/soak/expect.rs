//! What a reply may be, and what a client learns from it.

use pointsman::resp::Value;

use super::book::Book;

/// What a command may be answered.
#[derive(Clone, Debug)]
pub enum Expect {
    /// Exactly this string.
    Exactly(String),
    /// A string of the client's own, that begins so, or a null.
    Own(String),
    /// Several of them.
    AllOwn(String),
    /// An `INCR` of the client's own counter.
    Incr,
    /// An integer that cannot be told from another's; what stands around it can.
    Int,
    /// `+OK`.
    Ok,
    /// `+QUEUED`.
    Queued,
    /// A transaction that ran, with the replies to its commands.
    Exec(Vec<Expect>),
    /// A transaction that makes the counter that all share this number: it ran, or a null says that it did not.
    SharedExec(u64),
    /// A list's name and an element put there for this client, or a null.
    Popped(String, String),
    /// A greeting.
    Map,
    /// Not answered at all.
    Nothing,
}

/// A command as words, and what it may be answered.
pub type Command = (Vec<String>, Expect);

impl Expect {
    /// Holds a reply against it and writes down what was learnt; the reason if it is wrong.
    pub fn check(&self, reply: &Value, book: &mut Book) -> Result<(), String> {
        book.replies += 1;
        // pointsman's own errors say that the command did not run; nothing else may go wrong here.
        if let Value::Error(e) = reply {
            if !["MASTERDOWN ", "TRYAGAIN ", "EXECABORT "].iter().any(|p| e.starts_with(p)) {
                return Err("an error that is not pointsman's".into());
            }
            book.refused += 1;
            return Ok(());
        }
        self.learn(reply, book)
    }

    fn learn(&self, reply: &Value, book: &mut Book) -> Result<(), String> {
        let right = match (self, reply) {
            (Self::Exactly(s), v) => text(v) == Some(s.as_bytes()),
            (Self::Own(tag), v) => is_own(v, tag),
            (Self::AllOwn(tag), Value::Array(items)) => items.iter().all(|i| is_own(i, tag)),
            (Self::Incr, Value::Int(n)) => return book.counted(*n),
            (Self::Int, Value::Int(_)) | (Self::Map, Value::Map(_) | Value::Array(_)) => true,
            (Self::Ok, Value::Simple(s)) => s == "OK",
            (Self::Queued, Value::Simple(s)) => s == "QUEUED",
            (Self::SharedExec(_) | Self::Popped(..), Value::Null) => true,
            (Self::Exec(parts), Value::Array(items)) => {
                if parts.len() != items.len() {
                    return Err(format!("{} replies of {}", items.len(), parts.len()));
                }
                return parts.iter().zip(items).try_for_each(|(part, item)| part.learn(item, book));
            }
            (Self::SharedExec(n), Value::Array(_)) => return book.raised(*n),
            (Self::Popped(key, tag), Value::Array(items)) => {
                let [list, element] = items.as_slice() else { return Err("not a pair".into()) };
                if text(list) != Some(key.as_bytes()) || !is_own(element, tag) {
                    return Err("not from this list".into());
                }
                return book.popped(element);
            }
            _ => false,
        };
        if right { Ok(()) } else { Err("not this client's".into()) }
    }

    /// The command was not answered, or its answer not looked at: whether it ran is not known.
    pub fn lost(&self, book: &mut Book) {
        match self {
            Self::Incr => book.unknown += 1,
            Self::Exec(parts) => parts.iter().for_each(|part| part.lost(book)),
            Self::SharedExec(_) => book.shared_unknown += 1,
            _ => {}
        }
    }
}

fn text(v: &Value) -> Option<&[u8]> {
    match v {
        Value::Bulk(b) => Some(b),
        Value::Simple(s) => Some(s.as_bytes()),
        _ => None,
    }
}

fn is_own(v: &Value, tag: &str) -> bool {
    *v == Value::Null || text(v).is_some_and(|t| t.starts_with(tag.as_bytes()))
}
