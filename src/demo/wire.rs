//! A plain RESP2 client: one connection, one command at a time, every outcome told apart.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use redis_protocol::resp2::decode::decode;
pub use redis_protocol::resp2::types::OwnedFrame as Reply;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A connection to a Redis, a Sentinel or pointsman.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    /// Connects; `patience` bounds the connect.
    pub async fn open(addr: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = timeout(patience, TcpStream::connect(addr)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::with_capacity(512) })
    }

    /// Connects and authenticates, where there is a password; `patience` bounds each step. A refused password is an
    /// error.
    pub async fn open_with(addr: SocketAddr, password: Option<&str>, patience: Duration) -> io::Result<Self> {
        let mut connection = Self::open(addr, patience).await?;
        if let Some(password) = password
            && let Reply::Error(message) = connection.call(&["AUTH", password], patience).await?
        {
            return Err(io::Error::other(message));
        }
        Ok(connection)
    }

    /// Sends one command and waits for its reply, which may be an error reply. An `io::Error` means that the connection
    /// is of no more use: lost, or silent for longer than `patience`.
    pub async fn call(&mut self, command: &[&str], patience: Duration) -> io::Result<Reply> {
        timeout(patience, async {
            self.send(command).await?;
            self.receive().await
        })
        .await
        .map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Sends one command.
    pub async fn send(&mut self, command: &[&str]) -> io::Result<()> {
        self.stream.write_all(&encode(command)).await
    }

    /// Waits for one reply. Cancel safe: what was received stays for the next call.
    pub async fn receive(&mut self) -> io::Result<Reply> {
        loop {
            if !self.received.is_empty() {
                let decoded = decode(&self.received).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                if let Some((reply, length)) = decoded {
                    self.received.drain(..length);
                    return Ok(reply);
                }
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// A command as the array of bulk strings that Redis expects.
pub fn encode(command: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for word in command {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

/// A reply's text, whatever kind of string it is; empty for others.
pub fn text(reply: &Reply) -> String {
    match reply {
        Reply::SimpleString(bytes) | Reply::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Reply::Error(message) => message.clone(),
        Reply::Integer(n) => n.to_string(),
        Reply::Array(_) | Reply::Null => String::new(),
    }
}

/// The elements of an array; none for others.
pub fn elements(reply: &Reply) -> &[Reply] {
    match reply {
        Reply::Array(elements) => elements,
        _ => &[],
    }
}

/// The field-value pairs of a flat array, as `SENTINEL MASTER` answers.
pub fn fields(reply: &Reply) -> HashMap<String, String> {
    elements(reply).chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

/// The value of one `key:value` line of an `INFO` reply.
pub fn info_field(reply: &Reply, key: &str) -> Option<String> {
    text(reply).lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(|v| v.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        assert_eq!(encode(&["GET", "kéy"]), "*2\r\n$3\r\nGET\r\n$4\r\nkéy\r\n".as_bytes());
    }

    #[test]
    fn fields_and_info_lines_are_found() {
        let (reply, _) = decode(b"*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n:2\r\n").unwrap().unwrap();
        assert_eq!(fields(&reply)["b"], "2");
        let (info, _) = decode(b"$24\r\n# Server\r\nprocess_id:42\r\n\r\n").unwrap().unwrap();
        assert_eq!(info_field(&info, "process_id").as_deref(), Some("42"));
        assert_eq!(info_field(&info, "process"), None);
    }
}
