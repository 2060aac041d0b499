//! Authorities, certificates and keys, made by the test and gone with its directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pointsman::demo::settings::TlsFiles;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// An authority, and the directory that its files are in.
pub struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub file: PathBuf,
}

/// A certificate and its key.
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// A new one, whose files begin with `name`.
    pub fn new(directory: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let file = directory.join(format!("{name}.crt"));
        fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { directory: directory.to_owned(), issuer: Issuer::new(params, key), file }
    }

    /// A certificate for these names and addresses, valid for some days.
    pub fn issue(&self, common_name: &str, names: &[&str]) -> Pair {
        self.issue_until(common_name, names, SystemTime::now() + 90 * DAY)
    }

    /// The same, valid until then.
    pub fn issue_until(&self, common_name: &str, names: &[&str], end: SystemTime) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.not_before = (end - 365 * DAY).into();
        params.not_after = end.into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let at = |ending: &str| self.directory.join(format!("{common_name}.{ending}"));
        let pair = Pair { cert: at("crt"), key: at("key") };
        fs::write(&pair.cert, certificate.pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }

    /// For a cluster on the loopback interface.
    pub fn servers(&self) -> TlsFiles {
        let Pair { cert, key } = self.issue("servers", &["127.0.0.1", "localhost"]);
        TlsFiles { ca: self.file.clone(), cert, key }
    }
}

/// Keys of the configuration for one leg: authority, and what is shown.
pub fn leg(name: &str, ca: &Path, pair: Option<&Pair>) -> String {
    let mut table = format!("{name} = true\n{name}_ca_file = \"{}\"\n", ca.display());
    if let Some(Pair { cert, key }) = pair {
        table += &format!("{name}_cert_file = \"{}\"\n{name}_key_file = \"{}\"\n", cert.display(), key.display());
    }
    table
}
