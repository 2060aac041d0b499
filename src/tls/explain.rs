//! What rustls says of a handshake that fails, for whoever reads a log at night.

use std::fmt;
use std::io;
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::files::date;

/// Who is at the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// A Redis server or a Sentinel: our words are those of a client.
    Server,
    /// A client.
    Client,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Client => "client",
        })
    }
}

/// What kind of fault an error of TLS is, to be counted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The other side does not speak TLS.
    Plain,
    /// It shows no certificate where one is demanded.
    NoCertificate,
    /// Its certificate is not good, or it says that ours is not.
    Certificate,
    /// Nothing in common, or something else.
    Other,
}

impl Cause {
    /// That of an error of a TLS stream; none if it is not one of TLS.
    pub fn of(error: &io::Error) -> Option<Self> {
        use AlertDescription as Alert;
        let cause = match error.get_ref()?.downcast_ref::<Error>()? {
            Error::InvalidMessage(_) => Self::Plain,
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(_) => Self::Certificate,
            Error::AlertReceived(
                Alert::BadCertificate
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked,
            ) => Self::Certificate,
            _ => Self::Other,
        };
        Some(cause)
    }
}

/// The error of a TLS stream in our words; any other as it is. The kind stays: `InvalidData` for what TLS says.
pub fn explained(error: io::Error, peer: Peer) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(tls) => io::Error::new(error.kind(), explain(tls, peer)),
        None => error,
    }
}

/// Whether an error is one of TLS, rather than of the connection below it.
pub fn is_fault(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

/// An error of TLS in words.
pub fn explain(error: &Error, peer: Peer) -> String {
    let said = match error {
        Error::InvalidCertificate(what) => certificate(what, peer),
        Error::NoCertificatesPresented => format!("the {peer} shows no certificate, and one is demanded"),
        Error::AlertReceived(alert) => self::alert(*alert, peer),
        Error::InvalidMessage(_) => format!("the {peer} does not speak TLS on this port"),
        Error::PeerIncompatible(PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon) => {
            format!("the {peer} takes no signature that our key can give")
        }
        Error::PeerIncompatible(what) => {
            format!("no version or cipher in common with the {peer} (TLS 1.2 is the least): {what:?}")
        }
        other => other.to_string(),
    };
    format!("TLS: {said}")
}

fn certificate(what: &CertificateError, peer: Peer) -> String {
    let its = format!("the {peer}'s certificate");
    match what {
        CertificateError::Expired => format!("{its} has expired"),
        CertificateError::ExpiredContext { not_after, .. } => format!("{its} expired on {}", day(*not_after)),
        CertificateError::NotValidYet => format!("{its} is not valid yet"),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("{its} is not valid before {}", day(*not_before))
        }
        CertificateError::UnknownIssuer => format!("{its} is not signed by an authority of the CA file"),
        CertificateError::BadSignature => format!("{its} was not signed by the authority that it names"),
        CertificateError::NotValidForName => format!("{its} is for another name"),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = if presented.is_empty() { "no name".to_owned() } else { presented.join(", ") };
            format!("{its} is for {names} (subjectAltName), not for {}", expected.to_str())
        }
        // rustls tells this case in text alone.
        CertificateError::Other(e) if e.to_string().contains("CaUsedAsEndEntity") => {
            format!("{its} is that of an authority (CA:TRUE): a server needs one of its own, signed by that")
        }
        other => format!("{its} is refused: {other}"),
    }
}

/// What the other side says of us.
fn alert(alert: AlertDescription, peer: Peer) -> String {
    match alert {
        AlertDescription::CertificateRequired => {
            format!("the {peer} demands a certificate, and was shown none")
        }
        AlertDescription::UnknownCA => format!("the {peer} does not know the authority that signed our certificate"),
        AlertDescription::CertificateExpired => format!("the {peer} says that our certificate has expired"),
        AlertDescription::CertificateRevoked => format!("the {peer} says that our certificate is revoked"),
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate => format!("the {peer} refuses our certificate ({alert:?})"),
        AlertDescription::ProtocolVersion => format!("no version in common with the {peer} (TLS 1.2 is the least)"),
        AlertDescription::HandshakeFailure => {
            format!("the {peer} ends the handshake: it demands a certificate, or there is no cipher in common")
        }
        AlertDescription::UnrecognisedName => format!("the {peer} does not know the name that it was asked for"),
        other => format!("the {peer} ends the handshake ({other:?})"),
    }
}

fn day(time: UnixTime) -> String {
    date(SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}
