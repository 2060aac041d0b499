//! Users and passwords: from the file, a file of their own, or the environment; never from a flag, which `ps` shows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::error::{Place, Problem, Problems};
use super::settings::{Given, GivenCredentials};
use super::{Credentials, Secret};

/// Largest password file. A file that is longer is not a password but a mistaken path.
const MAX_SECRET_BYTES: u64 = 4096;

/// Users and passwords that the environment gives. They hold for every service.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `POINTSMAN_BACKEND_USER`, `POINTSMAN_BACKEND_PASSWORD`
    pub backend: GivenCredentials,
    /// `POINTSMAN_SENTINEL_USER`, `POINTSMAN_SENTINEL_PASSWORD`
    pub sentinel: GivenCredentials,
    /// `POINTSMAN_HOOK_NAME_TOKEN`, each by its name: the tokens of hooks.
    pub hook_tokens: BTreeMap<String, Secret>,
    /// `POINTSMAN_ADMIN_TOKEN`
    pub admin_token: Option<Given<Secret>>,
}

impl Environment {
    /// What this process was given. An empty variable counts as none: container tools set it for "not given".
    pub fn of_process() -> Result<Self, Problems> {
        let backend = of_process("POINTSMAN_BACKEND_USER", "POINTSMAN_BACKEND_PASSWORD")?;
        let sentinel = of_process("POINTSMAN_SENTINEL_USER", "POINTSMAN_SENTINEL_PASSWORD")?;
        let admin_token = variable("POINTSMAN_ADMIN_TOKEN")?.map(secret);
        Ok(Self { backend, sentinel, hook_tokens: hook_tokens()?, admin_token })
    }
}

fn hook_tokens() -> Result<BTreeMap<String, Secret>, Problem> {
    let mut tokens = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|n| n.starts_with("POINTSMAN_HOOK_") && n.ends_with("_TOKEN")) else {
            continue;
        };
        let unreadable = || Problem::new(&Place::Named("POINTSMAN_HOOK_…_TOKEN"), "expected UTF-8 text");
        let value = value.into_string().map_err(|_| unreadable())?;
        if !value.is_empty() {
            tokens.insert(name.to_owned(), Secret::new(value));
        }
    }
    Ok(tokens)
}

fn variable(name: &'static str) -> Result<Option<Given<String>>, Problem> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(Some(Given::new(value, Place::Named(name)))),
        Ok(_) | Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Problem::new(&Place::Named(name), "expected UTF-8 text, found something else"))
        }
    }
}

fn secret(given: Given<String>) -> Given<Secret> {
    Given::new(Secret::new(given.value), given.place)
}

fn of_process(user: &'static str, password: &'static str) -> Result<GivenCredentials, Problem> {
    Ok(GivenCredentials { user: variable(user)?, password: variable(password)?.map(secret), password_file: None })
}

/// Puts the given and the environment's together; user and password each take the first of: flag, environment, file.
///
/// `kind` is `backend` or `sentinel`, for messages. Complaints and warnings are added to the lists.
pub(super) fn resolve(
    kind: &str,
    given: &GivenCredentials,
    environment: &GivenCredentials,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) -> Option<Credentials> {
    if let (Some(_), Some(file)) = (&given.password, &given.password_file) {
        problems
            .push(Problem::new(&file.place, format!("expected {kind}_password or {kind}_password_file, found both")));
        return None;
    }
    let by_flag = |place: &Place| matches!(place, Place::Named(_));
    let user = match (&given.user, &environment.user) {
        (Some(user), _) if by_flag(&user.place) => Some(user),
        (given, environment) => environment.as_ref().or(given.as_ref()),
    };
    if let Some(user) = user
        && (user.value.is_empty() || user.value.contains(char::is_whitespace))
    {
        problems.push(Problem::new(&user.place, "expected the name of a user, found an empty one or one with blanks"));
    }
    let password = match (&given.password_file, &environment.password) {
        (Some(file), environment) if environment.is_none() || by_flag(&file.place) => {
            match read_secret("password", &file.value, &file.place, warnings) {
                Ok(secret) => Some(secret),
                Err(problem) => {
                    problems.push(problem);
                    return None;
                }
            }
        }
        (_, Some(secret)) => Some(secret.value.clone()),
        (_, None) => given.password.as_ref().map(|secret| secret.value.clone()),
    };
    let overridden = given.password.as_ref().map(|p| &p.place).or(given.password_file.as_ref().map(|f| &f.place));
    if let (Some(secret), Some(place)) = (&environment.password, overridden)
        && !by_flag(place)
    {
        warnings
            .push(Problem::new(place, format!("not used: {} is set, and the environment goes first", secret.place)));
    }
    match (user, password) {
        (_, Some(password)) if password.expose().is_empty() => {
            // Only a file's own key can be empty: of the others, empty ones were refused or do not count.
            if let Some(Given { place, .. }) = &given.password {
                let message = format!("`{kind}_password`: expected a password, found an empty string");
                problems.push(Problem::new(place, message));
            }
            None
        }
        (user, Some(password)) => Some(Credentials { user: user.map(|u| u.value.clone().into_bytes()), password }),
        (Some(user), None) => {
            let expected =
                format!("{kind}_password, {kind}_password_file or POINTSMAN_{}_PASSWORD", kind.to_uppercase());
            problems.push(Problem::new(&user.place, format!("a user without a password: expected {expected}")));
            None
        }
        (None, None) => None,
    }
}

/// The one line of a file that holds a secret, `what` it is. The message names the file and never what is in it.
pub(super) fn read_secret(
    what: &str,
    path: &Path,
    place: &Place,
    warnings: &mut Vec<Problem>,
) -> Result<Secret, Problem> {
    let problem = |message: String| Problem::new(place, format!("{what} file {}: {message}", path.display()));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| problem(format!("cannot be read: {e}")))?;
    (&file).take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes).map_err(|e| problem(format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(problem(format!("expected one line with the {what}, found more than 4 KiB")));
    }
    let text = String::from_utf8(bytes).map_err(|_| problem("expected UTF-8 text, found something else".into()))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(problem(format!("expected one line with the {what}, found none")));
    }
    if line.contains('\n') {
        return Err(problem(format!("expected one line with the {what}, found several")));
    }
    if is_world_readable(&file) {
        warnings.push(problem("every user of this machine can read it: chmod 640".into()));
    }
    Ok(Secret::new(line))
}

/// Whether users who are neither owner nor in the group may read an open file.
pub(super) fn is_world_readable(file: &File) -> bool {
    file.metadata().is_ok_and(|m| m.permissions().mode() & 0o004 != 0)
}
