//! AUTH as Sentinels and backends take it.

use bytes::Bytes;

use crate::config::Credentials;
use crate::resp::{Value, encode_command};

/// `AUTH [user] password`.
pub(super) fn command(credentials: &Credentials) -> Bytes {
    let password = credentials.password.expose();
    match &credentials.user {
        Some(user) => encode_command(&[&b"AUTH"[..], user, password]),
        None => encode_command(&[b"AUTH", password]),
    }
}

/// Whether the reply to [`command`] lets us go on. A server without any password says so with an error and serves all
/// the same; that is how it is while passwords are being introduced, one process after the other.
pub(super) fn is_accepted(reply: &Value) -> bool {
    match reply {
        Value::Error(error) => error.contains("without any password configured"),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn with_and_without_a_user() {
        let mut credentials = Credentials { user: None, password: Secret::new("pw") };
        assert_eq!(command(&credentials), "*2\r\n$4\r\nAUTH\r\n$2\r\npw\r\n");
        credentials.user = Some(b"me".to_vec());
        assert_eq!(command(&credentials), "*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$2\r\npw\r\n");
    }

    #[test]
    fn no_password_needed_is_no_refusal() {
        let error = |text: &str| Value::Error(text.to_owned());
        assert!(is_accepted(&Value::Simple("OK".to_owned())));
        assert!(is_accepted(&error(
            "ERR AUTH <password> called without any password configured for the default user. Are you sure?"
        )));
        assert!(!is_accepted(&error("WRONGPASS invalid username-password pair or user is disabled.")));
        assert!(!is_accepted(&error("NOAUTH Authentication required.")));
    }
}
