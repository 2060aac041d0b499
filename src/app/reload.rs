//! Another configuration while running: what it starts, changes and ends, and what has to wait for a restart.

use std::mem::discriminant;

use crate::config::{Config, ServiceConfig};

/// What can only be set at the start.
const AT_START: [&str; 6] = ["workers", "admin", "takeover", "user", "resolvers", "log.format"];

/// What one configuration changes of another.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Services to start, by their place in the new configuration.
    pub(super) start: Vec<usize>,
    /// Services that go on under other terms, by their place in the new configuration.
    pub(super) change: Vec<usize>,
    /// Services to end, by name; one that is replaced is among those to start too.
    pub(super) end: Vec<String>,
    /// The same in words, a line for each.
    pub(super) lines: Vec<String>,
}

impl Plan {
    pub(super) fn new(before: &Config, after: &Config) -> Self {
        let mut plan = Self::default();
        for (place, service) in after.services.iter().enumerate() {
            plan.note(place, service, before.services.iter().find(|s| s.name == service.name));
            // A socket goes on by its address, whichever service it belongs to.
            for listener in &service.listen {
                let mut open = before.services.iter().flat_map(|s| &s.listen);
                if open.any(|o| o.address == listener.address && !o.is_opened_like(listener)) {
                    let what = "needs a restart, unchanged till then: backlog, mode, owner and group";
                    plan.lines.push(format!("service {} {what} of {}", service.name, listener.address));
                }
            }
        }
        for service in before.services.iter().filter(|s| after.services.iter().all(|a| a.name != s.name)) {
            plan.end.push(service.name.clone());
            plan.lines.push(format!("service {} ends: its clients leave", service.name));
        }
        plan.note_hooks(before, after);
        let (later, now): (Vec<_>, Vec<_>) =
            after.difference(before).into_iter().partition(|key| AT_START.contains(key));
        if !now.is_empty() {
            plan.lines.push(format!("changed: {}", now.join(", ")));
        }
        if !later.is_empty() {
            plan.lines.push(format!("needs a restart, unchanged till then: {}", later.join(", ")));
        }
        if plan.lines.is_empty() {
            plan.lines.push("nothing has changed".to_owned());
        }
        plan
    }

    fn note_hooks(&mut self, before: &Config, after: &Config) {
        for hook in &after.hooks {
            match before.hooks.iter().find(|h| h.name == hook.name) {
                None => self.lines.push(format!("hook {} begins", hook.name)),
                Some(before) if before != hook => self.lines.push(format!("hook {} changed", hook.name)),
                Some(_) => {}
            }
        }
        for hook in before.hooks.iter().filter(|h| after.hooks.iter().all(|a| a.name != h.name)) {
            self.lines.push(format!("hook {} ends", hook.name));
        }
    }

    fn note(&mut self, place: usize, service: &ServiceConfig, before: Option<&ServiceConfig>) {
        let name = &service.name;
        let Some(before) = before else {
            self.start.push(place);
            self.lines.push(format!("service {name} begins"));
            return;
        };
        if discriminant(&before.source) != discriminant(&service.source) {
            self.end.push(name.clone());
            self.start.push(place);
            let how = "is found in another way: the service begins anew, and the clients it had leave";
            self.lines.push(format!("the master of service {name} {how}"));
            return;
        }
        let keys = service.difference(before);
        if !keys.is_empty() {
            self.change.push(place);
            self.lines.push(format!("service {name} changed: {}", keys.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ListenerConfig, Source};

    fn service(name: &str, port: u16) -> ServiceConfig {
        let listen = ListenerConfig::new(format!("127.0.0.1:{port}").parse().unwrap());
        let endpoints = vec!["127.0.0.1:26379".parse().unwrap()];
        ServiceConfig::new(name, vec![listen], Source::Sentinels { endpoints, credentials: None })
    }

    fn config(services: Vec<ServiceConfig>) -> Config {
        let log = crate::config::LogConfig::default();
        let (drain_timeout, drain_grace) = (std::time::Duration::from_secs(1), std::time::Duration::ZERO);
        let (resolvers, hooks, admin) = (Vec::new(), Vec::new(), Default::default());
        Config {
            workers: 1,
            admin,
            log,
            drain_timeout,
            drain_grace,
            resolvers,
            services,
            hooks,
            takeover: None,
            user: None,
        }
    }

    #[test]
    fn every_service_goes_on_begins_or_ends() {
        let before = config(vec![service("a", 1), service("b", 2), service("c", 3), service("d", 4)]);
        let mut changed = service("b", 20);
        changed.limits.pinned = 7;
        let mut fixed = service("c", 3);
        fixed.source = Source::Static("127.0.0.1:6379".parse().unwrap());
        let after = config(vec![fixed, changed, service("e", 1), service("d", 4)]);
        let plan = Plan::new(&before, &after);
        assert_eq!((plan.start, plan.change, plan.end), (vec![0, 2], vec![1], vec!["c".to_owned(), "a".to_owned()]));
        let lines = [
            "the master of service c is found in another way: the service begins anew, and the clients it had leave",
            "service b changed: listen, limits.pinned",
            "service e begins",
            "service a ends: its clients leave",
        ];
        assert_eq!(plan.lines, lines);
    }

    #[test]
    fn what_has_to_wait_is_named() {
        let before = config(vec![service("a", 1)]);
        let mut after = before.clone();
        assert_eq!(Plan::new(&before, &after).lines, ["nothing has changed"]);
        (after.workers, after.log.level) = (2, "debug".into());
        after.services[0].listen[0].backlog = 3;
        let lines = [
            "service a changed: listen",
            "service a needs a restart, unchanged till then: backlog, mode, owner and group of 127.0.0.1:1",
            "changed: log.level",
            "needs a restart, unchanged till then: workers",
        ];
        assert_eq!(Plan::new(&before, &after).lines, lines);
    }
}
