//! From text to value, alike for flags and files. Errors say what was expected; the caller adds where.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::keys::nearest;
use super::{ClientAuth, Commit, LogFormat, Shape};
use crate::addr::{AddrError, Endpoint, ListenAddr};
use crate::tls::{ClientCert, Verify, is_server_name};

/// Longest path of a Unix socket for which a temporary name with a process id beside it still fits into the kernel's
/// `sockaddr_un`.
const MAX_SOCKET_PATH: usize = 96;

/// What `workers` may say instead of a number: one per core this process may use.
pub const AUTO_WORKERS: &str = "auto";

/// The words of [`Shape`].
pub(super) const SHAPE: &[(&str, Shape)] = &[("sidecar", Shape::Sidecar), ("central", Shape::Central)];

/// The words of [`Commit`].
pub const COMMIT: &[(&str, Commit)] = &[("confirmed", Commit::Confirmed), ("eager", Commit::Eager)];

/// The words of [`ClientAuth`].
pub const CLIENT_AUTH: &[(&str, ClientAuth)] =
    &[("passthrough", ClientAuth::Passthrough), ("inject", ClientAuth::Inject)];

/// The words of [`LogFormat`].
pub const LOG_FORMAT: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];

/// The words of [`Verify`].
pub const VERIFY: &[(&str, Verify)] = &[("full", Verify::Full), ("ca", Verify::Ca), ("none", Verify::None)];

/// The words of [`ClientCert`].
pub const CLIENT_CERT: &[(&str, ClientCert)] =
    &[("required", ClientCert::Required), ("optional", ClientCert::Optional)];

/// One of a few words.
pub(super) fn choice<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = nearest(text, &names).map_or(String::new(), |near| format!(", did you mean \"{near}\"?"));
        format!("expected {}, found \"{text}\"{hint}", known.join(" or "))
    })
}

/// A name server: an IP address, with a port unless that is 53.
pub(super) fn name_server(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53)));
    let address = address.ok().filter(|address| address.port() != 0);
    address.ok_or_else(|| format!("expected IP or IP:PORT, found `{text}`"))
}

/// A duration: a whole number with its unit, `ms`, `s`, `m` or `h`.
///
/// A bare number is refused: half of all programs mean milliseconds by it, the others seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let expected = || format!("expected a duration such as \"250ms\", \"5s\" or \"1m\", found \"{text}\"");
    if digits > 0 && unit.is_empty() {
        return Err(format!("{}, which lacks its unit: did you mean \"{text}s\" or \"{text}ms\"?", expected()));
    }
    let number: u64 = number.parse().map_err(|_| expected())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(expected)
}

/// A duration, or `None` for `off`.
pub(super) fn duration_or_off(text: &str) -> Result<Option<Duration>, String> {
    if text == "off" {
        return Ok(None);
    }
    duration(text).map(Some).map_err(|e| e.replacen("expected ", "expected \"off\" or ", 1))
}

/// A number of bytes: `KiB`, `MiB` or `GiB` after a whole number, or none for bytes.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let expected = || format!("expected bytes, such as 65536, \"64KiB\" or \"1MiB\", found \"{text}\"");
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => {
            // `64kb` is 65536 to redis.conf and 64000 to others: it is not guessed at.
            let hint = match unit.to_ascii_lowercase().as_str() {
                "k" | "kb" | "kib" => ": write KiB for 1024",
                "m" | "mb" | "mib" => ": write MiB for 1024 KiB",
                "g" | "gb" | "gib" => ": write GiB for 1024 MiB",
                _ => "",
            };
            return Err(expected() + hint);
        }
    };
    let number: usize = number.parse().map_err(|_| expected())?;
    number.checked_mul(1 << shift).ok_or_else(expected)
}

/// A number of worker threads, or `None` for [`AUTO_WORKERS`].
pub fn workers(text: &str) -> Result<Option<usize>, String> {
    if text == AUTO_WORKERS {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| format!("expected a number of threads or \"{AUTO_WORKERS}\", found \"{text}\""))
}

/// A name or an IP address that a certificate can be for.
pub(super) fn server_name(text: &str) -> Result<String, String> {
    if is_server_name(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("expected a host name or an IP address, without a port, found `{text}`"))
    }
}

/// A command, with or without a subcommand, in upper case.
pub(super) fn command(text: &str) -> Result<String, String> {
    let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_graphic());
    if text.split(' ').all(word) && text.split(' ').count() <= 2 {
        Ok(text.to_ascii_uppercase())
    } else {
        Err(format!("expected a command such as \"DEBUG\" or \"CLIENT PAUSE\", found \"{text}\""))
    }
}

/// A network, or the address of one machine.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| IpNet::from(ip.to_canonical())));
    let network: IpNet =
        network.map_err(|_| format!("expected a network such as \"192.168.255.0/24\", found \"{text}\""))?;
    if network.trunc() != network {
        return Err(format!("expected a network, found an address in one: did you mean \"{}\"?", network.trunc()));
    }
    Ok(network)
}

/// Permission bits of a file: octal digits, as `chmod` takes them.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let digits = (3..=4).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    let bits = u32::from_str_radix(text, 8).ok().filter(|bits| digits && *bits <= 0o777);
    bits.ok_or_else(|| format!("expected three octal digits such as \"0660\", found \"{text}\""))
}

/// `HOST:PORT`.
pub fn endpoint(text: &str) -> Result<Endpoint, String> {
    text.parse().map_err(|e| address_error(&e))
}

/// `IP:PORT` or `unix:/path`.
pub fn listen_addr(text: &str) -> Result<ListenAddr, String> {
    text.parse().map_err(|e| address_error(&e))
}

/// The message of an [`AddrError`], without what was found if that may hold a password (as in `redis://:pw@host`).
fn address_error(e: &AddrError) -> String {
    if e.found.contains('@') || e.found.contains("://") {
        let keys = "backend_user and backend_password_file, or sentinel_user and sentinel_password_file";
        format!("expected {}, found a URL; user and password have places of their own: {keys}", e.expected)
    } else {
        e.to_string()
    }
}

/// A log filter: `LEVEL`, or several `MODULE=LEVEL` and at most one `LEVEL` with commas between.
///
/// Stricter than the library that carries it out, for which the misspelt `inof` is a module of that name: everything
/// else would fall silent.
pub fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];
    let mut bare = 0;
    for part in text.split(',') {
        let level = match part.split_once('=') {
            Some(("", _)) => return Err(format!("expected MODULE=LEVEL, found \"{part}\"")),
            Some((_, level)) => level,
            None => {
                bare += 1;
                part
            }
        };
        if !LEVELS.contains(&level) {
            let hint = nearest(level, LEVELS).map_or(String::new(), |near| format!(", did you mean \"{near}\"?"));
            return Err(format!("expected one of {}, found \"{level}\"{hint}", LEVELS.join(", ")));
        }
    }
    if bare > 1 {
        return Err(format!("expected at most one level without a module, found {bare}"));
    }
    Ok(text.to_owned())
}

/// The path of a Unix socket.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, String> {
    match text.len() {
        0 => Err("expected the path of a socket".to_owned()),
        1..=MAX_SOCKET_PATH => Ok(PathBuf::from(text)),
        _ => Err(format!("expected the path of a socket of at most {MAX_SOCKET_PATH} bytes, found a longer one")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for bad in ["", "s", "-1s", "1.5s", "5 s", "5S", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(bad).unwrap_err().starts_with("expected a duration such as"), "{bad}");
        }
        assert!(duration("15").unwrap_err().ends_with("did you mean \"15s\" or \"15ms\"?"));
    }

    #[test]
    fn sizes() {
        assert_eq!(size("65536"), Ok(65536));
        assert_eq!(size("64KiB"), Ok(65536));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert!(size("64KB").unwrap_err().ends_with(": write KiB for 1024"));
        for bad in ["", "KiB", "-1", "1.5MiB", "99999999999999999999", "99999999999GiB"] {
            assert!(size(bad).unwrap_err().starts_with("expected bytes"), "{bad}");
        }
    }

    #[test]
    fn networks() {
        assert_eq!(network("10.0.0.0/8").map(|n| n.to_string()).as_deref(), Ok("10.0.0.0/8"));
        assert_eq!(network("10.1.2.3").map(|n| n.to_string()).as_deref(), Ok("10.1.2.3/32"));
        assert_eq!(network("::1").map(|n| n.to_string()).as_deref(), Ok("::1/128"));
        assert!(network("10.1.2.3/8").unwrap_err().ends_with("did you mean \"10.0.0.0/8\"?"));
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "host", "10.0.0.0:1"] {
            assert!(network(bad).unwrap_err().starts_with("expected a network such as"), "{bad}");
        }
    }

    #[test]
    fn modes() {
        assert_eq!((mode("0660"), mode("600"), mode("0777")), (Ok(0o660), Ok(0o600), Ok(0o777)));
        for bad in ["", "0", "66", "1660", "00660", "0689", "+660", "rw-"] {
            assert!(mode(bad).unwrap_err().starts_with("expected three octal digits"), "{bad}");
        }
    }

    #[test]
    fn commands() {
        assert_eq!(command("debug").as_deref(), Ok("DEBUG"));
        assert_eq!(command("Client Pause").as_deref(), Ok("CLIENT PAUSE"));
        for bad in ["", " ", "A  B", "A B C", " DEBUG", "DEBUG\n"] {
            assert!(command(bad).unwrap_err().starts_with("expected a command such as"), "{bad:?}");
        }
    }

    #[test]
    fn log_levels() {
        for good in ["info", "off", "pointsman::sentinel=debug,info", "hyper=warn"] {
            assert_eq!(log_level(good).as_deref(), Ok(good));
        }
        assert!(log_level("inof").unwrap_err().ends_with("did you mean \"info\"?"));
        for bad in ["", "info,debug", "=info", "pointsman::sentinel", "a=loud"] {
            assert!(log_level(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_that_may_hold_a_password_is_not_repeated() {
        let e = endpoint("redis://:hunter2@db1:6379").unwrap_err();
        assert!(!e.contains("hunter2") && e.contains("HOST:PORT"), "{e}");
        assert_eq!(endpoint("db1").unwrap_err(), "expected HOST:PORT, found `db1`");
    }

    #[test]
    fn choices() {
        assert_eq!(choice("eager", COMMIT), Ok(Commit::Eager));
        let e = choice("eagre", COMMIT).unwrap_err();
        assert_eq!(e, "expected \"confirmed\" or \"eager\", found \"eagre\", did you mean \"eager\"?");
    }
}
