//! TLS towards clients: what we show, and what they have to.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{RootCertStore, ServerConfig};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::files::{Fault, Part, Validity, certificates, identity, validities};
use super::provider;

/// Sessions that clients may resume rather than shake hands anew, of those that connect for each request above all.
const RESUMABLE: usize = 4096;

/// What is said of TLS at a listener.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IncomingSettings {
    /// Our certificate, and those between it and its root.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// Certificates of the authorities that sign clients'; none: clients are not asked for any.
    pub client_ca_file: Option<PathBuf>,
    /// Whether a client has to show one, if it is asked.
    pub client_cert: ClientCert,
}

/// Whether a client that is asked for a certificate has to have one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ClientCert {
    /// Without one it is turned away.
    #[default]
    Required,
    /// Without one it is a client like others; one that is not good is refused in any case.
    Optional,
}

/// TLS at a listener, read from its files.
pub struct Incoming {
    settings: IncomingSettings,
    config: Arc<ServerConfig>,
    /// What was read: our chain, then the authorities.
    certificates: Vec<CertificateDer<'static>>,
    validities: Vec<Validity>,
}

impl Incoming {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Fault`]; that a certificate has expired is none.
    pub fn load(settings: IncomingSettings) -> Result<Self, Fault> {
        let provider = provider();
        let (certified, validity) = identity(&settings.cert_file, &settings.key_file)?;
        let (mut found, mut valid) = (certified.cert.clone(), vec![validity]);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().expect("ring has ciphers for all of them");
        let builder = match &settings.client_ca_file {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let refused = |e: &dyn fmt::Display| Fault::new(Part::Authorities, path, format!("of no use: {e}"));
                let authorities = certificates(Part::Authorities, path)?;
                valid.extend(validities(Part::Authorities, path, &authorities)?);
                let mut roots = RootCertStore::empty();
                for certificate in &authorities {
                    roots.add(certificate.clone()).map_err(|e| refused(&e))?;
                }
                found.extend(authorities);
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = match settings.client_cert {
                    ClientCert::Required => verifier,
                    ClientCert::Optional => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(verifier.build().map_err(|e| refused(&e))?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.session_storage = ServerSessionMemoryCache::new(RESUMABLE);
        Ok(Self { settings, config: Arc::new(config), certificates: found, validities: valid })
    }

    /// For a handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// When the certificates in use are valid: ours, and those of the authorities.
    pub fn validities(&self) -> &[Validity] {
        &self.validities
    }
}

/// Whose certificate this is, as in RFC 4514: `CN=app,O=Example`.
pub fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    Some(Certificate::from_der(certificate).ok()?.tbs_certificate().subject().to_string())
}

/// The same settings, and the same certificates.
impl PartialEq for Incoming {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings && self.certificates == other.certificates
    }
}

impl Eq for Incoming {}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Incoming").field(&self.settings).finish()
    }
}
