//! TLS as given becomes TLS as used: the files are read, and complaints name the key that they are about.

use std::sync::Arc;
use std::time::SystemTime;

use super::error::Problem;
use super::settings::{GivenListener, GivenTls};
use super::{AdminConfig, Config, ServiceConfig};
use crate::tls::{ClientCert, Fault, Incoming, IncomingSettings, Outgoing, OutgoingSettings, Part, Validity, Verify};

/// What there is to say of TLS, by weight.
pub(super) struct Said<'a> {
    /// What keeps pointsman from running.
    pub(super) problems: &'a mut Vec<Problem>,
    /// What does not, but will keep others from talking to it: certificates that are not valid.
    pub(super) faults: &'a mut Vec<Problem>,
    /// What is suspicious.
    pub(super) warnings: &'a mut Vec<Problem>,
}

impl Config {
    /// The certificates that are used, each with the service and the leg that it is for. Those of the admin server are for
    /// none.
    pub fn certificates(&self) -> Vec<(&str, &'static str, Validity)> {
        let named = self.services.iter().map(|service| (service.name.as_str(), service.certificates()));
        let named = named.chain([("", self.admin.certificates())]);
        named.flat_map(|(name, all)| all.into_iter().map(move |(leg, validity)| (name, leg, validity))).collect()
    }
}

impl AdminConfig {
    /// The certificates that are used, each with the leg that it is for.
    pub fn certificates(&self) -> Vec<(&'static str, Validity)> {
        let all = self.listen.iter().filter_map(|l| l.tls.as_ref()).flat_map(|tls| tls.validities().to_vec());
        all.map(|validity| ("admin", validity)).collect()
    }
}

impl ServiceConfig {
    /// The certificates that are used, each with the leg that it is for.
    pub fn certificates(&self) -> Vec<(&'static str, Validity)> {
        let outgoing = [("backend", &self.backend_tls), ("sentinel", &self.sentinel_tls)];
        let outgoing = outgoing.into_iter().flat_map(|(leg, tls)| tls.iter().map(move |tls| (leg, tls.validities())));
        let incoming = self.listen.iter().filter_map(|l| Some(("client", l.tls.as_ref()?.validities().to_vec())));
        outgoing.chain(incoming).flat_map(|(leg, all)| all.into_iter().map(move |validity| (leg, validity))).collect()
    }

    /// Takes the place of another configuration of the service: what was read anew goes to where it is used already.
    pub fn succeed(&mut self, before: &Self) {
        let legs = [(&mut self.backend_tls, &before.backend_tls), (&mut self.sentinel_tls, &before.sentinel_tls)];
        for (tls, before) in legs {
            if let (Some(tls), Some(before)) = (tls, before) {
                *tls = before.renewed(tls);
            }
        }
    }
}

/// TLS on one leg, if it is on. `name` is the one to expect where none is given; none: the one that is dialled.
pub(super) fn outgoing(
    leg: &str,
    given: &GivenTls,
    name: Option<String>,
    said: &mut Said<'_>,
) -> Option<Arc<Outgoing>> {
    let GivenTls { on, ca_file, cert_file, key_file, server_name, verify } = given;
    let files = [("ca_file", ca_file), ("cert_file", cert_file), ("key_file", key_file)];
    let files = files.into_iter().filter_map(|(end, file)| Some((end, &file.as_ref()?.place)));
    let Some(on) = on.as_ref().filter(|on| on.value) else {
        let name = server_name.as_ref().map(|name| ("server_name", &name.place));
        let unused = files
            .chain(name)
            .map(|(end, place)| Problem::new(place, format!("`{leg}_{end}` is of no use without `{leg} = true`")));
        said.problems.extend(unused);
        return None;
    };
    let identity = match (cert_file, key_file) {
        (Some(certificate), Some(key)) => Some((certificate.value.clone(), key.value.clone())),
        (None, None) => None,
        (alone, other) => {
            let (is, lacks) = if alone.is_some() { ("cert", "key") } else { ("key", "cert") };
            let message = format!("`{leg}_{is}_file` without `{leg}_{lacks}_file`");
            said.problems.extend(alone.as_ref().or(other.as_ref()).map(|file| Problem::new(&file.place, message)));
            return None;
        }
    };
    if let Some(verify) = verify.as_ref().filter(|v| v.value == Verify::None) {
        let message = format!(
            "`{leg}_verify`: \"none\" takes any certificate: whoever gets between pointsman and the server can read and \
             change everything, passwords included"
        );
        said.warnings.push(Problem::new(&verify.place, message));
    }
    let settings = OutgoingSettings {
        ca_file: ca_file.as_ref().map(|file| file.value.clone()),
        identity,
        server_name: server_name.as_ref().map(|name| name.value.clone()).or(name),
        verify: verify.as_ref().map_or(Verify::default(), |verify| verify.value),
    };
    let problem = |part, message: &str| {
        let (end, file) = match part {
            Part::Authorities => ("_ca_file", ca_file),
            Part::Certificate => ("_cert_file", cert_file),
            Part::Key => ("_key_file", key_file),
        };
        // Without a file it is about the authorities of the system.
        match file {
            Some(file) => Problem::new(&file.place, format!("`{leg}{end}`: {message}")),
            None => Problem::new(&on.place, format!("`{leg}`: {message}")),
        }
    };
    match Outgoing::load(settings) {
        Ok(loaded) => {
            judge(&loaded.validities(), problem, said);
            Some(Arc::new(loaded))
        }
        Err(Fault { part, message }) => {
            said.problems.push(problem(part, &message));
            None
        }
    }
}

/// TLS at a listener, if it has a certificate.
pub(super) fn incoming(given: &GivenListener, said: &mut Said<'_>) -> Option<Arc<Incoming>> {
    let GivenListener { tls_cert_file, tls_key_file, tls_client_ca_file, .. } = given;
    let (Some(certificate), Some(key)) = (tls_cert_file, tls_key_file) else {
        let cert = tls_cert_file.as_ref().map(|file| ("tls_cert_file", "tls_key_file", &file.place));
        let key = tls_key_file.as_ref().map(|file| ("tls_key_file", "tls_cert_file", &file.place));
        let ca = tls_client_ca_file.as_ref().map(|file| ("tls_client_ca_file", "tls_cert_file", &file.place));
        let alone = cert.or(key).or(ca);
        said.problems.extend(alone.map(|(is, lacks, place)| Problem::new(place, format!("`{is}` without `{lacks}`"))));
        return None;
    };
    let settings = IncomingSettings {
        cert_file: certificate.value.clone(),
        key_file: key.value.clone(),
        client_ca_file: tls_client_ca_file.as_ref().map(|file| file.value.clone()),
        client_cert: given.tls_client_cert.as_ref().map_or(ClientCert::default(), |cert| cert.value),
    };
    let problem = |part, message: &str| {
        let (name, file) = match part {
            Part::Certificate => ("tls_cert_file", certificate),
            Part::Key => ("tls_key_file", key),
            Part::Authorities => ("tls_client_ca_file", tls_client_ca_file.as_ref().unwrap_or(certificate)),
        };
        Problem::new(&file.place, format!("`{name}`: {message}"))
    };
    match Incoming::load(settings) {
        Ok(loaded) => {
            judge(loaded.validities(), problem, said);
            Some(Arc::new(loaded))
        }
        Err(Fault { part, message }) => {
            said.problems.push(problem(part, &message));
            None
        }
    }
}

/// Says which certificates are not valid, or not for much longer.
fn judge(validities: &[Validity], problem: impl Fn(Part, &str) -> Problem, said: &mut Said<'_>) {
    let now = SystemTime::now();
    for validity in validities {
        let Some(complaint) = validity.complaint(now) else { continue };
        let list = if validity.is_fault(now) { &mut *said.faults } else { &mut *said.warnings };
        list.push(problem(validity.part, &complaint));
    }
}
