//! TLS towards servers: whom to trust, who we are, and which name is expected.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::files::{Fault, Part, Validity, certificates, identity, validities};
use super::provider;

/// What is looked at of a server's certificate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Verify {
    /// That a known authority signed it, and that it is for the expected name or address.
    #[default]
    Full,
    /// That a known authority signed it: what Redis itself looks at. With an authority that signs nothing but the
    /// servers of this service it is as good.
    Ca,
    /// Nothing: whoever sits between us and the server reads and changes everything.
    None,
}

/// What is said of TLS on one leg.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OutgoingSettings {
    /// Certificates of authorities; none: those of the system.
    pub ca_file: Option<PathBuf>,
    /// Our certificate, and those between it and its root, with the key; none: none is shown.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name to expect and to ask for; none: the one that is dialled.
    pub server_name: Option<String>,
    /// What is looked at.
    pub verify: Verify,
}

/// Whether a text is a host name or an IP address that a certificate can be for.
pub fn is_server_name(text: &str) -> bool {
    ServerName::try_from(text).is_ok()
}

/// TLS on one leg, read from its files; every handshake takes what was read last.
pub struct Outgoing(RwLock<Arc<Ready>>);

struct Ready {
    settings: OutgoingSettings,
    config: Arc<ClientConfig>,
    /// What was read: the authorities, then our chain.
    certificates: Vec<CertificateDer<'static>>,
    validities: Vec<Validity>,
}

impl Outgoing {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Fault`]; that a certificate has expired is none.
    pub fn load(settings: OutgoingSettings) -> Result<Self, Fault> {
        Ok(Self(RwLock::new(Arc::new(Ready::load(settings)?))))
    }

    /// What goes on in place of this one: this one with all that is read anew, if the same was read; so that whoever dials
    /// by it need not be told.
    pub fn renewed(self: &Arc<Self>, by: &Arc<Self>) -> Arc<Self> {
        if self.settings() != by.settings() {
            return Arc::clone(by);
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = by.ready();
        Arc::clone(self)
    }

    /// For a handshake.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.ready().config)
    }

    /// The name to ask for and to expect of a server that is dialled by this name or address.
    ///
    /// # Errors
    /// What is wrong with a name that cannot be one of a server.
    pub fn expected(&self, dialled: &str) -> Result<ServerName<'static>, String> {
        let ready = self.ready();
        let name = ready.settings.server_name.as_deref().unwrap_or(dialled);
        ServerName::try_from(name.to_owned()).map_err(|_| format!("`{name}` is no name of a server"))
    }

    /// When the certificates in use are valid: ours, and those of `ca_file`.
    pub fn validities(&self) -> Vec<Validity> {
        self.ready().validities.clone()
    }

    /// What is configured.
    pub fn settings(&self) -> OutgoingSettings {
        self.ready().settings.clone()
    }

    fn ready(&self) -> Arc<Ready> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The same settings, and the same certificates.
impl PartialEq for Outgoing {
    fn eq(&self, other: &Self) -> bool {
        self.ready() == other.ready()
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outgoing").field(&self.ready().settings).finish()
    }
}

impl PartialEq for Ready {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings && self.certificates == other.certificates
    }
}

impl Ready {
    fn load(settings: OutgoingSettings) -> Result<Self, Fault> {
        let provider = provider();
        let (mut found, mut valid) = (Vec::new(), Vec::new());
        let mut roots = RootCertStore::empty();
        if settings.verify == Verify::None {
            // Nobody is asked.
        } else if let Some(path) = &settings.ca_file {
            found = certificates(Part::Authorities, path)?;
            valid = validities(Part::Authorities, path, &found)?;
            for certificate in &found {
                let refused = |e| Fault::new(Part::Authorities, path, format!("a certificate is of no use: {e}"));
                roots.add(certificate.clone()).map_err(refused)?;
            }
        } else {
            // Kept for the comparison: an authority that the system has been given since is a change.
            found = rustls_native_certs::load_native_certs().certs;
            roots.add_parsable_certificates(found.iter().cloned());
            if roots.is_empty() {
                let message = "no CA file is given, and the system knows no authorities (package ca-certificates)";
                return Err(Fault { part: Part::Authorities, message: message.to_owned() });
            }
        }
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().expect("ring has ciphers for all of them");
        let builder = match settings.verify {
            Verify::Full => builder.with_root_certificates(roots),
            Verify::Ca => {
                let verifier = Arc::new(Lenient { roots: Some(roots), provider });
                builder.dangerous().with_custom_certificate_verifier(verifier)
            }
            Verify::None => {
                let verifier = Arc::new(Lenient { roots: None, provider });
                builder.dangerous().with_custom_certificate_verifier(verifier)
            }
        };
        let config = match &settings.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let (certified, validity) = identity(certificate, key)?;
                found.extend(certified.cert.iter().cloned());
                valid.push(validity);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        };
        Ok(Self { settings, config: Arc::new(config), certificates: found, validities: valid })
    }
}

/// Looks at less than rustls does by itself: never at the name, and without `roots` at nothing but that the other side
/// has the key of its certificate.
#[derive(Debug)]
struct Lenient {
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
