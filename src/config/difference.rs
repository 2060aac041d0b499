//! What differs between two configurations, by the names of the keys.

use super::{AdminConfig, Config, Limits, LogConfig, ServiceConfig, SlowLogConfig};

/// Names of the fields that differ. Every field has to be named, so that none is forgotten.
macro_rules! differing {
    ($one:expr, $other:expr, $type:ident { $($field:ident => $key:expr),* $(,)? }) => {{
        let ($type { $($field,)* }, other) = ($one, $other);
        let mut keys: Vec<&'static str> = Vec::new();
        $(if *$field != other.$field { keys.extend::<&[&str]>(&$key); })*
        keys
    }};
}

impl Config {
    /// Keys of the whole process that differ from `other`'s.
    pub fn difference(&self, other: &Self) -> Vec<&'static str> {
        let mut keys = differing!(self, other, Config {
            workers => ["workers"],
            admin => [],
            log => [],
            drain_timeout => ["drain_timeout"],
            drain_grace => ["drain_grace"],
            takeover => ["takeover"],
            user => ["user"],
            resolvers => ["resolvers"],
            services => [],
            hooks => [],
        });
        keys.extend(differing!(&self.admin, &other.admin, AdminConfig {
            listen => [],
            token => ["admin_token"],
            token_for_reads => ["admin_token_for_reads"],
        }));
        if !self.admin.is_opened_like(&other.admin) {
            keys.push("admin");
        } else if self.admin.listen != other.admin.listen {
            keys.push("networks or TLS of admin");
        }
        keys.extend(differing!(&self.log, &other.log, LogConfig {
            level => ["log.level"],
            format => ["log.format"],
        }));
        keys
    }
}

impl ServiceConfig {
    /// Keys of a service that differ from `other`'s. That one password is another is told of no more exactly than as
    /// the user's or its.
    pub fn difference(&self, other: &Self) -> Vec<&'static str> {
        let mut keys = differing!(self, other, ServiceConfig {
            name => ["name"],
            listen => ["listen"],
            shape => ["shape"],
            source => ["sentinels, sentinel user or master"],
            backend => ["backend user or password"],
            client_auth => ["client_auth"],
            commit => ["commit"],
            hold_timeout => ["hold_timeout"],
            confirm_timeout => ["confirm_timeout"],
            silence_threshold => ["silence_threshold"],
            connect_timeout => ["connect_timeout"],
            client_idle_timeout => ["client_idle_timeout"],
            address_map => ["address_map"],
            backend_tls => ["backend_tls or its files"],
            sentinel_tls => ["sentinel_tls or its files"],
            reissue_pops => ["reissue_pops"],
            fence_without_quorum => ["fence_without_quorum"],
            fence_old_master => ["fence_old_master"],
            state_file => ["state_dir"],
            slowlog => [],
            refuse => ["refuse"],
            limits => [],
        });
        keys.extend(differing!(&self.slowlog, &other.slowlog, SlowLogConfig {
            slower_than => ["slowlog_slower_than"],
            max_len => ["slowlog_max_len"],
            key_bytes => ["slowlog_key_bytes"],
        }));
        keys.extend(differing!(&self.limits, &other.limits, Limits {
            max_clients => ["limits.max_clients"],
            max_clients_per_address => ["limits.max_clients_per_address"],
            accept_rate => ["limits.accept_rate"],
            handshake_timeout => ["limits.handshake_timeout"],
            outstanding_bytes => ["limits.outstanding_bytes"],
            output_bytes => ["limits.output_bytes"],
            pinned => ["limits.pinned"],
            pin_timeout => ["limits.pin_timeout"],
            bulk_bytes => ["limits.bulk_bytes"],
            command_bytes => ["limits.command_bytes"],
        }));
        keys
    }
}
