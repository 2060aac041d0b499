//! The TOML file. Read by walking the parsed document rather than through serde, for three reasons: all mistakes are
//! reported at once, each with its place; unknown keys get a hint; and no message quotes the file, whose lines hold
//! passwords (serde's and toml's own messages repeat the offending value and its line).

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::credentials::is_world_readable;
use super::error::{Place, Problem, Problems};
use super::keys::{self, KEYS, Table};
use super::settings::{
    Given, GivenAdmin, GivenCredentials, GivenHook, GivenLimits, GivenListener, GivenService, GivenTls, Settings,
};
use super::{HOOK_EVENTS, Secret, WebhookUrl, hook, values};
use crate::addr::AddressMap;

/// Largest file that is read: a mistaken path (a device, a dump) must not fill the memory.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Reads the file and checks its shape. The second part are warnings.
pub fn load(path: &Path) -> Result<(Settings, Vec<Problem>), Problems> {
    let whole = Place::File(path.to_owned());
    let unreadable = |e: std::io::Error| Problem::new(&whole, format!("cannot be read: {e}; expected a TOML file"));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    (&file).take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Problem::new(&whole, "expected a TOML file, found more than 1 MiB").into());
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let valid = String::from_utf8_lossy(&e.as_bytes()[..e.utf8_error().valid_up_to()]).into_owned();
        Problem::new(&position(path.into(), &valid, valid.len()), "expected UTF-8 text, found something else")
    })?;
    let settings = parse(path, &text)?;
    let mut warnings = Vec::new();
    if is_world_readable(&file) {
        let passwords = settings.services.iter().flat_map(|s| [&s.backend.password, &s.sentinel.password]);
        let passwords = passwords.flatten().map(|password| ("password", &password.place));
        let hooks = settings.hooks.iter().filter_map(|h| Some(("token", &h.token.as_ref()?.place)));
        let admin = settings.admin.token.iter().map(|token| ("token", &token.place));
        for (what, place) in passwords.chain(hooks).chain(admin) {
            let advice = format!("chmod 640, or move the {what} to a file of its own");
            let message = format!("a {what} in a file that every user of this machine can read: {advice}");
            warnings.push(Problem::new(place, message));
        }
    }
    Ok((settings, warnings))
}

/// Checks the shape of a text; `path` is for messages, and relative paths within are relative to its directory.
pub(super) fn parse(path: &Path, text: &str) -> Result<Settings, Problems> {
    let mut reader = Reader { path: path.into(), text, problems: Vec::new() };
    let document = DeTable::parse(text).map_err(|e| {
        // `message` alone: the whole error would print the source line.
        let at = e.span().map_or(text.len(), |span| span.start);
        Problem::new(&reader.place(at), format!("not TOML: {}", e.message()))
    })?;
    let settings = reader.root(document.get_ref());
    Problems::none_of(reader.problems)?;
    Ok(settings)
}

fn position(path: Arc<Path>, text: &str, offset: usize) -> Place {
    let before = &text[..offset.min(text.len())];
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    Place::Position { path, line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
}

type Value<'a> = Spanned<DeValue<'a>>;

struct Reader<'a> {
    path: Arc<Path>,
    text: &'a str,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn place(&self, offset: usize) -> Place {
        position(self.path.clone(), self.text, offset)
    }

    fn complain(&mut self, offset: usize, message: String) {
        let place = self.place(offset);
        self.problems.push(Problem { place, message });
    }

    fn root(&mut self, root: &DeTable<'_>) -> Settings {
        self.refuse_unknown(root, Table::Root, &["log", "service", "hook"]);
        let mut settings = Settings {
            workers: self.take(root, "workers", |v| match v {
                DeValue::Integer(_) => count(v).map(Some),
                _ => values::workers(string(v)?),
            }),
            admin: GivenAdmin {
                listen: self.admin(root),
                token: self.take(root, "admin_token", |v| string(v).map(Secret::new)),
                token_file: self.path(root, "admin_token_file"),
                token_for_reads: self.take(root, "admin_token_for_reads", boolean),
            },
            drain_timeout: self.take(root, "drain_timeout", duration),
            drain_grace: self.take(root, "drain_grace", duration),
            user: self.take(root, "user", |v| string(v).map(str::to_owned)),
            resolvers: self.list(root, "resolvers", values::name_server),
            takeover: self.take(root, "takeover", |v| values::socket_path(string(v)?)),
            state_dir: self.take(root, "state_dir", |v| match string(v)? {
                "" => Err("expected the path of a directory".to_owned()),
                path => Ok(PathBuf::from(path)),
            }),
            ..Settings::default()
        };
        if let Some(log) = self.table(root, "log") {
            self.refuse_unknown(log, Table::Log, &[]);
            settings.log_level = self.take(log, "level", |v| values::log_level(string(v)?));
            settings.log_format = self.take(log, "format", |v| values::choice(string(v)?, values::LOG_FORMAT));
        }
        let services = self.blocks(root, "service");
        if root.get("service").is_none_or(|v| v.get_ref().as_array().is_some_and(|blocks| blocks.is_empty())) {
            let at = root.get("service").map_or(0, |v| v.span().start);
            self.complain(at, "no service: expected at least one [[service]] block".into());
        }
        settings.services = services.into_iter().map(|(at, table)| self.service(self.place(at), table)).collect();
        let hooks = self.blocks(root, "hook");
        settings.hooks = hooks.into_iter().map(|(at, table)| self.hook(self.place(at), table)).collect();
        settings
    }

    /// The `[[…]]` blocks of a name, and where each begins.
    fn blocks<'t, 'i>(&mut self, root: &'t DeTable<'i>, name: &str) -> Vec<(usize, &'t DeTable<'i>)> {
        let Some(value) = root.get(name) else { return Vec::new() };
        let complaint = match value.get_ref() {
            DeValue::Array(blocks) => {
                let table = |b: &'t Value<'i>| Some((b.span().start, b.get_ref().as_table()?));
                match blocks.iter().map(table).collect() {
                    Some(tables) => return tables,
                    None => format!("`{name}`: expected [[{name}]] blocks, found an array"),
                }
            }
            DeValue::Table(_) => format!("expected [[{name}]], in double brackets since there may be several"),
            other => format!("`{name}`: expected [[{name}]] blocks, found {}", kind(other)),
        };
        self.complain(value.span().start, complaint);
        Vec::new()
    }

    fn hook(&mut self, place: Place, t: &DeTable<'_>) -> GivenHook {
        self.refuse_unknown(t, Table::Hook, &[]);
        let directory = self.path.parent().map(Path::to_owned).unwrap_or_default();
        GivenHook {
            place,
            name: self.take(t, "name", |v| hook::name(string(v)?)),
            url: self.take(t, "url", |v| WebhookUrl::parse(string(v)?)),
            token: self.take(t, "token", |v| string(v).map(Secret::new)),
            token_file: self.path(t, "token_file"),
            headers: self.take(t, "headers", |v| {
                let expected = || format!("expected a table of headers, found {}", kind(v));
                let headers = v.as_table().ok_or_else(expected)?.iter();
                headers.map(|(name, value)| hook::header(name.get_ref(), string(value.get_ref())?)).collect()
            }),
            ca_file: self.path(t, "ca_file"),
            exec: self.take(t, "exec", |v| {
                let expected = || format!("expected [\"/path/of/program\", \"argument\", …], found {}", kind(v));
                let words = v.as_array().ok_or_else(expected)?.iter();
                let words: Vec<String> =
                    words.map(|word| string(word.get_ref()).map(str::to_owned)).collect::<Result<_, _>>()?;
                match words.split_first() {
                    // A name alone would be looked for in a PATH that nobody sees.
                    Some((program, arguments)) if program.contains('/') => {
                        // It is run in another directory than this process.
                        let path = std::path::absolute(directory.join(program)).map_err(|e| e.to_string())?;
                        Ok((path, arguments.to_vec()))
                    }
                    _ => Err("expected the path of a program first, with a \"/\"".to_owned()),
                }
            }),
            events: self.list(t, "events", |word| values::choice(word, HOOK_EVENTS)),
            services: self.list(t, "services", |name| Ok(name.to_owned())),
            timeout: self.take(t, "timeout", duration),
            retries: self.take(t, "retries", count),
        }
    }

    fn service(&mut self, place: Place, t: &DeTable<'_>) -> GivenService {
        self.refuse_unknown(t, Table::Service, &["limits"]);
        GivenService {
            place,
            name: self.take(t, "name", |v| string(v).map(str::to_owned)),
            listen: self.listeners(t),
            shape: self.take(t, "shape", |v| values::choice(string(v)?, values::SHAPE)),
            sentinels: self.list(t, "sentinels", values::endpoint),
            master: self.take(t, "master", |v| values::endpoint(string(v)?)),
            backend: self.credentials(t, ["backend_user", "backend_password", "backend_password_file"]),
            sentinel: self.credentials(t, ["sentinel_user", "sentinel_password", "sentinel_password_file"]),
            client_auth: self.take(t, "client_auth", |v| values::choice(string(v)?, values::CLIENT_AUTH)),
            commit: self.take(t, "commit", |v| values::choice(string(v)?, values::COMMIT)),
            hold_timeout: self.take(t, "hold_timeout", duration),
            confirm_timeout: self.take(t, "confirm_timeout", duration),
            silence_threshold: self.take(t, "silence_threshold", duration),
            connect_timeout: self.take(t, "connect_timeout", duration),
            client_idle_timeout: self.take(t, "client_idle_timeout", duration),
            address_map: self.take(t, "address_map", |v| {
                let expected = || format!("expected a table of addresses, found {}", kind(v));
                let pairs = v.as_table().ok_or_else(expected)?.iter();
                let pairs = pairs.map(|(announced, to)| Ok((announced.get_ref().as_ref(), string(to.get_ref())?)));
                AddressMap::new(pairs.collect::<Result<Vec<_>, String>>()?)
            }),
            reissue_pops: self.take(t, "reissue_pops", boolean),
            fence_without_quorum: self.take(t, "fence_without_quorum", boolean),
            fence_old_master: self.take(t, "fence_old_master", boolean),
            slowlog_slower_than: self.take(t, "slowlog_slower_than", |v| match v {
                DeValue::Integer(_) => duration(v).map(Some),
                _ => values::duration_or_off(string(v)?),
            }),
            slowlog_max_len: self.take(t, "slowlog_max_len", count),
            slowlog_key_bytes: self.take(t, "slowlog_key_bytes", count),
            refuse: self.take(t, "refuse", |v| {
                let DeValue::Array(items) = v else {
                    return Err(format!("expected an array of commands, [\"…\", \"…\"], found {}", kind(v)));
                };
                items.iter().map(|item| values::command(string(item.get_ref())?)).collect()
            }),
            backend_tls: self.tls(t, "backend_tls"),
            sentinel_tls: self.tls(t, "sentinel_tls"),
            limits: self.limits(t),
        }
    }

    /// `listen`: an array of addresses, and of tables where there is more to say than that.
    fn listeners(&mut self, service: &DeTable<'_>) -> Vec<GivenListener> {
        let items = self.array(service, "listen", "addresses");
        items.into_iter().filter_map(|item| self.listener("listen", item)).collect()
    }

    /// `admin`: one of what `listen` has, or an array of them.
    fn admin(&mut self, root: &DeTable<'_>) -> Vec<GivenListener> {
        match root.get("admin") {
            None => Vec::new(),
            Some(value) if matches!(value.get_ref(), DeValue::Array(_)) => {
                let items = self.array(root, "admin", "addresses");
                items.into_iter().filter_map(|item| self.listener("admin", item)).collect()
            }
            Some(value) => self.listener("admin", value).into_iter().collect(),
        }
    }

    fn listener(&mut self, key: &str, item: &Value<'_>) -> Option<GivenListener> {
        let at = item.span().start;
        let DeValue::Table(t) = item.get_ref() else {
            let address = self.read(key, item, |v| values::listen_addr(string(v)?));
            return address.map(GivenListener::from);
        };
        self.refuse_unknown(t, Table::Listen, &[]);
        if !t.contains_key("address") {
            self.complain(at, "incomplete listener: expected `address`, an IP:PORT or unix:/path".into());
        }
        let address = self.take(t, "address", |v| values::listen_addr(string(v)?));
        let given = GivenListener {
            backlog: self.take(t, "backlog", |v| {
                let within = |n: usize| u16::try_from(n).ok().filter(|n| *n > 0);
                count(v).and_then(|n| within(n).ok_or_else(|| format!("expected 1 to {}, found {n}", u16::MAX)))
            }),
            mode: self.take(t, "mode", |v| values::mode(string(v)?)),
            owner: self.take(t, "owner", |v| string(v).map(str::to_owned)),
            group: self.take(t, "group", |v| string(v).map(str::to_owned)),
            proxy_protocol: self.list(t, "proxy_protocol", values::network),
            allow: self.list(t, "allow", values::network),
            tls_cert_file: self.path(t, "tls_cert_file"),
            tls_key_file: self.path(t, "tls_key_file"),
            tls_client_ca_file: self.path(t, "tls_client_ca_file"),
            tls_client_cert: self.take(t, "tls_client_cert", |v| values::choice(string(v)?, values::CLIENT_CERT)),
            // One that is wrong has been complained of, so that no configuration comes of it.
            address: address?,
        };
        Some(given)
    }

    fn tls(&mut self, t: &DeTable<'_>, leg: &str) -> GivenTls {
        let key = |end: &str| format!("{leg}_{end}");
        GivenTls {
            on: self.take(t, leg, boolean),
            ca_file: self.path(t, &key("ca_file")),
            cert_file: self.path(t, &key("cert_file")),
            key_file: self.path(t, &key("key_file")),
            server_name: self.take(t, &key("server_name"), |v| values::server_name(string(v)?)),
            verify: self.take(t, &key("verify"), |v| values::choice(string(v)?, values::VERIFY)),
        }
    }

    fn limits(&mut self, service: &DeTable<'_>) -> GivenLimits {
        let Some(t) = self.table(service, "limits") else { return GivenLimits::default() };
        self.refuse_unknown(t, Table::Limits, &[]);
        GivenLimits {
            max_clients: self.take(t, "max_clients", count),
            max_clients_per_address: self.take(t, "max_clients_per_address", count),
            accept_rate: self.take(t, "accept_rate", count),
            handshake_timeout: self.take(t, "handshake_timeout", duration),
            outstanding_bytes: self.take(t, "outstanding_bytes", size),
            output_bytes: self.take(t, "output_bytes", size),
            pinned: self.take(t, "pinned", count),
            pin_timeout: self.take(t, "pin_timeout", duration),
            bulk_bytes: self.take(t, "bulk_bytes", size),
            command_bytes: self.take(t, "command_bytes", size),
        }
    }

    fn credentials(&mut self, t: &DeTable<'_>, [user, password, file]: [&str; 3]) -> GivenCredentials {
        GivenCredentials {
            user: self.take(t, user, |v| string(v).map(str::to_owned)),
            // `string` names the kind of value it found, never the value.
            password: self.take(t, password, |v| string(v).map(Secret::new)),
            password_file: self.path(t, file),
        }
    }

    /// A path, relative to the directory of the file.
    fn path(&mut self, t: &DeTable<'_>, name: &str) -> Option<Given<PathBuf>> {
        let directory = self.path.parent().map(Path::to_owned).unwrap_or_default();
        self.take(t, name, |v| string(v).map(|path| directory.join(PathBuf::from(path))))
    }

    /// The value of a key, if it is there and right. The place is that of the value.
    fn take<T>(
        &mut self,
        table: &DeTable<'_>,
        name: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<Given<T>> {
        self.read(name, table.get(name)?, read)
    }

    fn read<T>(
        &mut self,
        name: &str,
        value: &Value<'_>,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<Given<T>> {
        let at = value.span().start;
        match read(value.get_ref()) {
            Ok(value) => Some(Given::new(value, self.place(at))),
            Err(message) => {
                self.complain(at, format!("`{name}`: {message}"));
                None
            }
        }
    }

    /// The strings of an array, each with its place.
    fn list<T>(&mut self, table: &DeTable<'_>, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Vec<Given<T>> {
        let items = self.array(table, name, "strings");
        items.into_iter().filter_map(|item| self.read(name, item, |v| string(v).and_then(&read))).collect()
    }

    /// The items of an array, which has some if it is there; `what` they are is for a message.
    fn array<'t, 'i>(&mut self, table: &'t DeTable<'i>, name: &str, what: &str) -> Vec<&'t Value<'i>> {
        let Some(value) = table.get(name) else { return Vec::new() };
        let at = value.span().start;
        let DeValue::Array(items) = value.get_ref() else {
            let found = kind(value.get_ref());
            self.complain(at, format!("`{name}`: expected an array of {what}, [\"…\", \"…\"], found {found}"));
            return Vec::new();
        };
        if items.is_empty() {
            self.complain(at, format!("`{name}`: expected at least one, found none"));
        }
        items.iter().collect()
    }

    fn table<'t, 'i>(&mut self, parent: &'t DeTable<'i>, name: &str) -> Option<&'t DeTable<'i>> {
        let value = parent.get(name)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(table),
            other => {
                self.complain(value.span().start, format!("`{name}`: expected a table, found {}", kind(other)));
                None
            }
        }
    }

    fn refuse_unknown(&mut self, table: &DeTable<'_>, here: Table, subtables: &[&str]) {
        for (name, _) in table.iter() {
            let known = KEYS.iter().any(|k| k.table == here && k.name == name.get_ref())
                || subtables.contains(&name.get_ref().as_ref());
            if !known {
                self.complain(name.span().start, keys::unknown(here, name.get_ref()));
            }
        }
    }
}

/// The kind of a value, for messages; never the value itself.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

fn string<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("expected a string in quotes, found {}", kind(value)))
}

fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("expected true or false, found {}", kind(value)))
}

fn count(value: &DeValue<'_>) -> Result<usize, String> {
    let wrong = |found: &str| format!("expected a whole number, found {found}");
    let number = value.as_integer().ok_or_else(|| wrong(kind(value)))?;
    usize::from_str_radix(number.as_str(), number.radix()).map_err(|_| wrong(&number.to_string()))
}

fn size(value: &DeValue<'_>) -> Result<usize, String> {
    match value {
        DeValue::Integer(_) => count(value),
        _ => values::size(string(value)?),
    }
}

fn duration(value: &DeValue<'_>) -> Result<std::time::Duration, String> {
    match value {
        // Worded as for "15": the unit is what is missing, not the quotes.
        DeValue::Integer(number) => values::duration(number.as_str()),
        _ => values::duration(string(value)?),
    }
}
