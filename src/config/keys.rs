//! The table of all keys: what a file may contain, and what `docs/configuration.md` must.

/// The table of the file that a key stands in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Table {
    /// Before any header.
    Root,
    /// `[log]`
    Log,
    /// `[[service]]`
    Service,
    /// An entry of `listen` of a `[[service]]`
    Listen,
    /// `limits` of a `[[service]]`
    Limits,
    /// `[[hook]]`
    Hook,
}

impl Table {
    /// Its name for messages.
    pub fn title(self) -> &'static str {
        match self {
            Self::Root => "the top of the file",
            Self::Log => "[log]",
            Self::Service => "[[service]]",
            Self::Listen => "a table in `listen` or `admin`",
            Self::Limits => "`limits` of a [[service]]",
            Self::Hook => "[[hook]]",
        }
    }
}

/// One key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// Where it stands.
    pub table: Table,
    /// Its name there.
    pub name: &'static str,
    /// Its default as written in TOML; none: nothing is assumed.
    pub default: Option<&'static str>,
}

impl Key {
    /// The name with its table: `workers`, `log.level`, `hold_timeout`, `listen.mode`, `limits.pinned`,
    /// `hook.url`.
    pub fn path(&self) -> String {
        match self.table {
            Table::Root | Table::Service => self.name.to_owned(),
            Table::Log => format!("log.{}", self.name),
            Table::Listen => format!("listen.{}", self.name),
            Table::Limits => format!("limits.{}", self.name),
            Table::Hook => format!("hook.{}", self.name),
        }
    }
}

const fn key(table: Table, name: &'static str, default: Option<&'static str>) -> Key {
    Key { table, name, default }
}

/// Every key, in the order in which the documentation explains them. (Tests hold the defaults here against those in the
/// code: the file that spells all of them out must give the same configuration as the file that gives none.)
pub const KEYS: &[Key] = &[
    key(Table::Root, "workers", Some("\"auto\"")),
    key(Table::Root, "admin", None),
    key(Table::Root, "admin_token", None),
    key(Table::Root, "admin_token_file", None),
    key(Table::Root, "admin_token_for_reads", Some("false")),
    key(Table::Root, "drain_timeout", Some("\"30s\"")),
    key(Table::Root, "drain_grace", Some("\"0s\"")),
    key(Table::Root, "state_dir", None),
    key(Table::Root, "takeover", None),
    key(Table::Root, "user", None),
    key(Table::Root, "resolvers", None),
    key(Table::Log, "level", Some("\"info\"")),
    key(Table::Log, "format", Some("\"text\"")),
    key(Table::Service, "name", None),
    key(Table::Service, "listen", None),
    key(Table::Listen, "address", None),
    key(Table::Listen, "backlog", Some("4096")),
    key(Table::Listen, "mode", None),
    key(Table::Listen, "owner", None),
    key(Table::Listen, "group", None),
    key(Table::Listen, "proxy_protocol", None),
    key(Table::Listen, "allow", None),
    key(Table::Listen, "tls_cert_file", None),
    key(Table::Listen, "tls_key_file", None),
    key(Table::Listen, "tls_client_ca_file", None),
    key(Table::Listen, "tls_client_cert", Some("\"required\"")),
    key(Table::Service, "shape", Some("\"sidecar\"")),
    key(Table::Service, "sentinels", None),
    key(Table::Service, "master", None),
    key(Table::Service, "backend_user", None),
    key(Table::Service, "backend_password", None),
    key(Table::Service, "backend_password_file", None),
    key(Table::Service, "sentinel_user", None),
    key(Table::Service, "sentinel_password", None),
    key(Table::Service, "sentinel_password_file", None),
    key(Table::Service, "backend_tls", Some("false")),
    key(Table::Service, "backend_tls_ca_file", None),
    key(Table::Service, "backend_tls_cert_file", None),
    key(Table::Service, "backend_tls_key_file", None),
    key(Table::Service, "backend_tls_server_name", None),
    key(Table::Service, "backend_tls_verify", Some("\"full\"")),
    key(Table::Service, "sentinel_tls", Some("false")),
    key(Table::Service, "sentinel_tls_ca_file", None),
    key(Table::Service, "sentinel_tls_cert_file", None),
    key(Table::Service, "sentinel_tls_key_file", None),
    key(Table::Service, "sentinel_tls_server_name", None),
    key(Table::Service, "sentinel_tls_verify", Some("\"full\"")),
    key(Table::Service, "client_auth", Some("\"passthrough\"")),
    key(Table::Service, "commit", Some("\"confirmed\"")),
    key(Table::Service, "hold_timeout", Some("\"15s\"")),
    key(Table::Service, "confirm_timeout", Some("\"5s\"")),
    key(Table::Service, "silence_threshold", Some("\"300ms\"")),
    key(Table::Service, "connect_timeout", Some("\"2s\"")),
    key(Table::Service, "client_idle_timeout", Some("\"0s\"")),
    key(Table::Service, "address_map", Some("{}")),
    key(Table::Service, "reissue_pops", Some("true")),
    key(Table::Service, "fence_without_quorum", Some("false")),
    key(Table::Service, "fence_old_master", Some("false")),
    key(Table::Service, "slowlog_slower_than", Some("\"100ms\"")),
    key(Table::Service, "slowlog_max_len", Some("128")),
    key(Table::Service, "slowlog_key_bytes", Some("32")),
    key(
        Table::Service,
        "refuse",
        Some(
            "[\"CLIENT PAUSE\", \"CLIENT UNPAUSE\", \"DEBUG\", \"FAILOVER\", \"MODULE\", \"PSYNC\", \"REPLCONF\", \
             \"REPLICAOF\", \"SCRIPT DEBUG\", \"SHUTDOWN\", \"SLAVEOF\", \"SYNC\"]",
        ),
    ),
    key(Table::Limits, "max_clients", Some("10000")),
    key(Table::Limits, "max_clients_per_address", None),
    key(Table::Limits, "accept_rate", None),
    key(Table::Limits, "handshake_timeout", Some("\"3s\"")),
    key(Table::Limits, "outstanding_bytes", Some("\"1MiB\"")),
    key(Table::Limits, "output_bytes", Some("\"64MiB\"")),
    key(Table::Limits, "pinned", Some("2000")),
    key(Table::Limits, "pin_timeout", Some("\"5s\"")),
    key(Table::Limits, "bulk_bytes", Some("\"512MiB\"")),
    key(Table::Limits, "command_bytes", Some("\"16MiB\"")),
    key(Table::Hook, "name", None),
    key(Table::Hook, "url", None),
    key(Table::Hook, "token", None),
    key(Table::Hook, "token_file", None),
    key(Table::Hook, "headers", Some("{}")),
    key(Table::Hook, "ca_file", None),
    key(Table::Hook, "exec", None),
    key(Table::Hook, "events", None),
    key(Table::Hook, "services", None),
    key(Table::Hook, "timeout", Some("\"5s\"")),
    key(Table::Hook, "retries", Some("4")),
];

/// What to say of a key that `table` does not have: the nearest that exists, or where it belongs.
pub(super) fn unknown(table: Table, name: &str) -> String {
    // Tables are keys of their parents too.
    let subtables: &[&str] = match table {
        Table::Root => &["log", "service", "hook"],
        Table::Service => &["limits"],
        Table::Log | Table::Listen | Table::Limits | Table::Hook => &[],
    };
    let here: Vec<&str> =
        KEYS.iter().filter(|k| k.table == table).map(|k| k.name).chain(subtables.iter().copied()).collect();
    let elsewhere = KEYS.iter().find(|k| k.name == name).map(|k| k.table);
    let hint = if let Some(other) = elsewhere {
        format!("it belongs to {}", other.title())
    } else if let Some(near) = nearest(name, &here) {
        format!("did you mean `{near}`?")
    } else if let Some(near) = nearest(name, &KEYS.iter().map(|k| k.name).collect::<Vec<_>>()) {
        let other = KEYS.iter().find(|k| k.name == near).map_or(table, |k| k.table);
        format!("did you mean `{near}` of {}?", other.title())
    } else {
        format!("{} has: {}", table.title(), here.join(", "))
    };
    format!("unknown key `{name}`, {hint}")
}

/// The candidate with the fewest typing errors from `word`, if that is few enough to be one.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let near_enough = (word.chars().count() / 3).max(1);
    candidates
        .iter()
        .map(|c| (distance(word, c), *c))
        .min_by_key(|(d, _)| *d)
        .filter(|(d, _)| *d <= near_enough)
        .map(|(_, c)| c)
}

/// Insertions, deletions, replacements and swaps of neighbours that make `b` of `a` (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                if swapped { best.min(rows[i - 2][j - 2] + 1) } else { best }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_told_its_nearest_or_its_table() {
        let said = |table, name| unknown(table, name);
        assert_eq!(said(Table::Service, "hold_timout"), "unknown key `hold_timout`, did you mean `hold_timeout`?");
        assert_eq!(said(Table::Service, "lsiten"), "unknown key `lsiten`, did you mean `listen`?");
        assert_eq!(said(Table::Root, "commit"), "unknown key `commit`, it belongs to [[service]]");
        assert_eq!(said(Table::Root, "servise"), "unknown key `servise`, did you mean `service`?");
        assert_eq!(
            said(Table::Service, "maxclients"),
            "unknown key `maxclients`, did you mean `max_clients` of `limits` of a [[service]]?"
        );
        assert_eq!(said(Table::Log, "colour"), "unknown key `colour`, [log] has: level, format");
    }

    #[test]
    fn distances() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "acb"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
