//! The admin server as given becomes that as used.

use std::net::SocketAddr;
use std::path::Path;

use super::credentials;
use super::error::{Place, Problem};
use super::settings::{Given, GivenAdmin, Settings};
use super::{AdminConfig, Environment, Secret, listener, tls};
use crate::addr::ListenAddr;

/// A shorter token is guessed sooner than it is stolen.
const TOKEN_LONG_ENOUGH: usize = 16;

/// Where a pointsman that runs by these settings has its admin server, and what it wants of whoever comes there; for a
/// program that goes there. Only the first problem is told.
#[derive(Clone, Debug)]
pub struct AdminAccess {
    /// Where, the one that is easiest to use from this machine.
    pub address: ListenAddr,
    /// Whether TLS is spoken there.
    pub tls: bool,
    /// The token, where there is one.
    pub token: Option<Secret>,
}

impl Settings {
    /// See [`AdminAccess`]; none if no address is given.
    ///
    /// # Errors
    /// The token cannot be read.
    pub fn admin_access(&self, environment: &Environment) -> Result<Option<AdminAccess>, Problem> {
        let local = |address: &ListenAddr| match address {
            ListenAddr::Unix(_) => 0,
            ListenAddr::Tcp(a) if a.ip().is_loopback() => 1,
            ListenAddr::Tcp(_) => 2,
        };
        let Some(listener) = self.admin.listen.iter().min_by_key(|l| local(&l.address.value)) else { return Ok(None) };
        let mut problems = Vec::new();
        let token = token(&self.admin, environment, &mut problems, &mut Vec::new());
        if let Some(problem) = problems.into_iter().next() {
            return Err(problem);
        }
        let tls = listener.tls_cert_file.is_some();
        Ok(Some(AdminAccess { address: listener.address.value.clone(), tls, token }))
    }
}

/// The token that a file holds.
///
/// # Errors
/// Why there is none, naming the file.
pub fn token_of(path: &Path) -> Result<Secret, String> {
    let given = GivenAdmin {
        token_file: Some(Given::new(path.to_owned(), Place::Named("--token-file"))),
        ..GivenAdmin::default()
    };
    let mut problems = Vec::new();
    let token = token(&given, &Environment::default(), &mut problems, &mut Vec::new());
    token.ok_or_else(|| problems.iter().map(ToString::to_string).collect())
}

/// Checks what is only wrong in combination, or on this machine.
pub(super) fn resolve(given: &GivenAdmin, environment: &Environment, said: &mut tls::Said<'_>) -> AdminConfig {
    for listener in &given.listen {
        if let Some(network) = listener.proxy_protocol.first() {
            let message = "`proxy_protocol` is of clients, and the admin server has none behind a balancer";
            said.problems.push(Problem::new(&network.place, message));
        }
    }
    let listen = given.listen.iter().map(|l| listener::resolve(l, said)).collect();
    let token = token(given, environment, said.problems, said.warnings);
    for listener in &given.listen {
        warn_of_reach(
            listener.address.value.clone(),
            &listener.address.place,
            token.is_some(),
            said,
            listener.tls_cert_file.is_some(),
        );
    }
    let token_for_reads = given.token_for_reads.as_ref().is_some_and(|on| on.value);
    if let (Some(on), None, true) = (&given.token_for_reads, &token, token_for_reads)
        && !given.has_token()
    {
        let message =
            "`admin_token_for_reads` without a token: expected admin_token, admin_token_file or POINTSMAN_ADMIN_TOKEN";
        said.problems.push(Problem::new(&on.place, message));
    }
    AdminConfig { listen, token, token_for_reads }
}

/// Others than this machine may come to the address.
fn warn_of_reach(address: ListenAddr, place: &Place, has_token: bool, said: &mut tls::Said<'_>, has_tls: bool) {
    let ListenAddr::Tcp(address) = address else { return };
    if is_local(&address) {
        return;
    }
    if !has_token {
        let message = format!(
            "`admin`: whoever reaches {address} can read how everything stands, and without admin_token nobody can give \
             orders there but from this machine"
        );
        said.warnings.push(Problem::new(place, message));
    } else if !has_tls {
        let message = format!(
            "`admin`: without TLS (tls_cert_file) the token goes to {address} as it is, for all on the way to read"
        );
        said.warnings.push(Problem::new(place, message));
    }
}

fn is_local(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// The token, of the first of: environment, file.
fn token(
    given: &GivenAdmin,
    environment: &Environment,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) -> Option<Secret> {
    if let (Some(_), Some(file)) = (&given.token, &given.token_file) {
        problems.push(Problem::new(&file.place, "expected admin_token or admin_token_file, found both"));
        return None;
    }
    let own = given.token.as_ref().map(|t| &t.place).or(given.token_file.as_ref().map(|f| &f.place));
    let found = match (&environment.admin_token, &given.token, &given.token_file) {
        (Some(token), ..) => {
            if let Some(place) = own {
                let message = format!("not used: {} is set, and the environment goes first", token.place);
                warnings.push(Problem::new(place, message));
            }
            token.clone()
        }
        (None, Some(token), _) => token.clone(),
        (None, None, Some(file)) => match credentials::read_secret("token", &file.value, &file.place, warnings) {
            Ok(token) => Given::new(token, file.place.clone()),
            Err(problem) => {
                problems.push(problem);
                return None;
            }
        },
        (None, None, None) => return None,
    };
    let Given { value: token, place } = found;
    // What else could not be in a header of HTTP.
    if token.expose().is_empty() || !token.expose().iter().all(u8::is_ascii_graphic) {
        let message = "expected a token of letters, digits and signs, found an empty one, or one with blanks or others";
        problems.push(Problem::new(&place, message));
        return None;
    }
    if token.expose().len() < TOKEN_LONG_ENOUGH {
        let message = format!(
            "a token of less than {TOKEN_LONG_ENOUGH} characters can be guessed: `openssl rand -hex 32` makes one"
        );
        warnings.push(Problem::new(&place, message));
    }
    Some(token)
}
