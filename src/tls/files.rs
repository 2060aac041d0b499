//! Certificates and keys in PEM files.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_cert::Certificate;
use x509_cert::der::{DateTime, Decode};

use super::provider;

/// Largest file that is read. The authorities of the whole web have some 200 KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What expires within this time is worth a warning: whoever renews certificates by a machine does so a month ahead, and
/// by hand needs some days.
pub const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// Which of the files something is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The certificates of authorities.
    Authorities,
    /// The certificate that is shown.
    Certificate,
    /// Its private key.
    Key,
}

/// Why files cannot be used. The message names the file, and nothing of what is in a key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// Which of them.
    pub part: Part,
    /// What is wrong.
    pub message: String,
}

impl Fault {
    pub(super) fn new(part: Part, path: &Path, what: impl fmt::Display) -> Self {
        let file = match part {
            Part::Authorities => "CA file",
            Part::Certificate => "certificate file",
            Part::Key => "key file",
        };
        Self { part, message: format!("{file} {}: {what}", path.display()) }
    }
}

/// When a certificate is valid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Validity {
    /// What it is used for.
    pub part: Part,
    /// Where it was read.
    pub path: PathBuf,
    /// Whose it is, as in RFC 4514: `CN=redis,O=Example`.
    pub subject: String,
    /// From then on.
    pub not_before: SystemTime,
    /// Until then.
    pub not_after: SystemTime,
}

impl Validity {
    fn of(part: Part, path: &Path, der: &CertificateDer<'_>) -> Result<Self, Fault> {
        let certificate = Certificate::from_der(der).map_err(|e| Fault::new(part, path, format!("no X.509: {e}")))?;
        let tbs = certificate.tbs_certificate();
        Ok(Self {
            part,
            path: path.to_owned(),
            subject: tbs.subject().to_string(),
            not_before: tbs.validity().not_before.to_system_time(),
            not_after: tbs.validity().not_after.to_system_time(),
        })
    }

    /// Whether the other side refuses it at this time.
    pub fn has_ended(&self, now: SystemTime) -> bool {
        self.not_after < now
    }

    /// Whether others refuse to talk to us because of it at this time. Of an authority that has expired there may be a
    /// successor in the same file.
    pub fn is_fault(&self, now: SystemTime) -> bool {
        self.part != Part::Authorities && (self.not_before > now || self.has_ended(now))
    }

    /// What there is to say of it at this time: that it is not valid, or not for much longer.
    pub fn complaint(&self, now: SystemTime) -> Option<String> {
        let what = if self.has_ended(now) {
            format!("expired on {}", date(self.not_after))
        } else if self.not_before > now {
            format!("is not valid before {}", date(self.not_before))
        } else if self.not_after < now + EXPIRES_SOON {
            format!("expires on {}", date(self.not_after))
        } else {
            return None;
        };
        let file = Fault::new(self.part, &self.path, format_args!("the certificate of {} {what}", self.subject));
        Some(file.message)
    }
}

/// `2026-08-21T10:00:00Z`.
pub(super) fn date(time: SystemTime) -> String {
    DateTime::from_system_time(time).map_or_else(|_| "a date out of range".to_owned(), |date| date.to_string())
}

/// All certificates of a file, at least one.
pub(super) fn certificates(part: Part, path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let bytes = read(part, path)?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|e| Fault::new(part, path, format!("expected certificates in PEM: {e}")))?;
    if found.is_empty() {
        return Err(Fault::new(part, path, "expected a certificate in PEM, found none"));
    }
    Ok(found)
}

/// When the certificates are valid, in their order.
pub(super) fn validities(part: Part, path: &Path, found: &[CertificateDer<'_>]) -> Result<Vec<Validity>, Fault> {
    found.iter().map(|der| Validity::of(part, path, der)).collect()
}

/// A certificate, those of the authorities between it and the root, and its key.
pub(super) fn identity(certificate: &Path, key: &Path) -> Result<(CertifiedKey, Validity), Fault> {
    let chain = certificates(Part::Certificate, certificate)?;
    let validity = Validity::of(Part::Certificate, certificate, &chain[0])?;
    let bytes = read(Part::Key, key)?;
    let private = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        let encrypted = memchr::memmem::find(&bytes, b"ENCRYPTED").is_some();
        let found =
            if encrypted { "an encrypted one: openssl pkey -in … -out … takes the password off" } else { "none" };
        Fault::new(Part::Key, key, format!("expected a private key in PEM, found {found}"))
    })?;
    let certified = CertifiedKey::from_der(chain, private, &provider()).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => {
            Fault::new(Part::Key, key, format!("is not the key of the certificate in {}", certificate.display()))
        }
        e => Fault::new(Part::Key, key, format!("of no use: {e}")),
    })?;
    Ok((certified, validity))
}

fn read(part: Part, path: &Path) -> Result<Vec<u8>, Fault> {
    let unreadable = |e: std::io::Error| Fault::new(part, path, format!("cannot be read: {e}"));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Fault::new(part, path, "expected PEM, found more than 1 MiB"));
    }
    Ok(bytes)
}
