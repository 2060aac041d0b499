//! What Sentinels publish, parsed. Pure; addresses may still be names.
//!
//! The format is that of `sentinelEvent` in Redis' `sentinel.c`: the channel is the name of the event, the payload
//! `<type> <name> <host> <port>` for a master and `<type> <name> <host> <port> @ <master> <host> <port>` for others,
//! followed by words that depend on the event. Fields are taken by position and never split at a `:`, since hosts may be
//! IPv6 addresses without brackets.

use std::net::SocketAddr;

use crate::addr::Endpoint;
use crate::topology::Message;

/// A [`Message`] whose addresses are not resolved yet.
#[derive(Clone, Debug)]
pub enum ParsedMessage {
    /// It names no node.
    Plain(Message),
    /// It names one node.
    Node {
        /// As announced.
        endpoint: Endpoint,
        /// Makes the message.
        message: fn(SocketAddr) -> Message,
    },
    /// `+switch-master`.
    Switch {
        /// The address before.
        old: Endpoint,
        /// The address from now on.
        new: Endpoint,
    },
}

/// Parses what was published on `channel`, if it concerns `service` or no service in particular.
///
/// None for messages about other services and for malformed ones. What the machine has no use for, but shows that the
/// Sentinel's view changed, is [`Message::ConfigChanged`].
pub fn parse(channel: &str, payload: &str, service: &str) -> Option<ParsedMessage> {
    use ParsedMessage::{Node, Plain};

    let fields: Vec<&str> = payload.split(' ').collect();
    match channel {
        // These three carry no service name.
        "+new-epoch" => return Some(Plain(Message::NewEpoch(fields.first()?.parse().ok()?))),
        "+vote-for-leader" => return Some(Plain(Message::NewEpoch(fields.get(1)?.parse().ok()?))),
        "+tilt" => return Some(Plain(Message::Tilt(true))),
        "-tilt" => return Some(Plain(Message::Tilt(false))),
        "+switch-master" => {
            let &[name, old_host, old_port, new_host, new_port] = fields.as_slice() else { return None };
            let switch =
                ParsedMessage::Switch { old: endpoint(old_host, old_port)?, new: endpoint(new_host, new_port)? };
            return (name == service).then_some(switch);
        }
        _ => {}
    }
    let subject = Subject::parse(&fields)?;
    if subject.service != service {
        return None;
    }
    let node = |message| Some(Node { endpoint: subject.endpoint.clone()?, message });
    let master = |message| Some(Plain(if subject.is_master { message } else { Message::ConfigChanged }));
    match channel {
        "+try-failover" => Some(Plain(Message::TryFailover)),
        "+elected-leader" => Some(Plain(Message::ElectedLeader)),
        "+selected-slave" => node(Message::SelectedSlave),
        "+failover-state-wait-promotion" => node(Message::WaitPromotion),
        "+promoted-slave" => node(Message::PromotedSlave),
        "-failover-abort-not-elected" => Some(Plain(Message::FailoverAborted)),
        "-failover-abort-no-good-slave" => Some(Plain(Message::NoGoodReplica)),
        "-failover-abort-slave-timeout" => Some(Plain(Message::FailoverAbortedSlaveTimeout)),
        "+failover-end" | "+failover-end-for-timeout" => Some(Plain(Message::FailoverEnd)),
        "+sdown" => master(Message::MasterDown),
        "-sdown" => master(Message::MasterUp),
        "+odown" => master(Message::MasterObjectivelyDown),
        "+reboot" => master(Message::MasterRebooted),
        "+role-change" | "-role-change" => node(Message::RoleChange),
        "+convert-to-slave" | "+fix-slave-config" => node(Message::ConvertToSlave),
        _ => Some(Plain(Message::ConfigChanged)),
    }
}

impl ParsedMessage {
    /// The endpoints that it names.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        let (first, second) = match self {
            Self::Plain(_) => (None, None),
            Self::Node { endpoint, .. } => (Some(endpoint), None),
            Self::Switch { old, new } => (Some(old), Some(new)),
        };
        first.into_iter().chain(second)
    }

    /// The message, with the address that `resolve` gives for each endpoint. If it has none,
    /// [`Message::ConfigChanged`]: the next poll of this Sentinel tells what happened.
    pub fn resolved(self, mut resolve: impl FnMut(&Endpoint) -> Option<SocketAddr>) -> Message {
        let message = match self {
            Self::Plain(message) => Some(message),
            Self::Node { endpoint, message } => resolve(&endpoint).map(message),
            Self::Switch { old, new } => match (resolve(&old), resolve(&new)) {
                (Some(old), Some(new)) => Some(Message::SwitchMaster { old, new }),
                _ => None,
            },
        };
        message.unwrap_or(Message::ConfigChanged)
    }
}

/// Who a message is about.
struct Subject<'a> {
    is_master: bool,
    service: &'a str,
    /// None if its address is invalid (Sentinel prints port 0 for one it could not resolve).
    endpoint: Option<Endpoint>,
}

impl<'a> Subject<'a> {
    fn parse(fields: &[&'a str]) -> Option<Self> {
        let (&kind, &name, &host, &port) = (fields.first()?, fields.get(1)?, fields.get(2)?, fields.get(3)?);
        let is_master = kind == "master";
        let service = if is_master {
            name
        } else {
            // The extra words of an event may contain anything, but the `@` has its fixed place before them.
            if !matches!(kind, "slave" | "sentinel") || *fields.get(4)? != "@" {
                return None;
            }
            fields.get(5)?
        };
        Some(Self { is_master, service, endpoint: endpoint(host, port) })
    }
}

/// An endpoint from the two fields in which Sentinel and ROLE give it; none if it is not one (port 0, no host).
pub(super) fn endpoint(host: &str, port: &str) -> Option<Endpoint> {
    let port: u16 = port.parse().ok()?;
    (port != 0 && !host.is_empty()).then(|| Endpoint { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLAVE: &str = "slave 127.0.1.2:30002 127.0.1.2 30002 @ mymaster 127.0.1.1 30001";
    const MASTER: &str = "master mymaster 127.0.1.1 30001";

    fn message(channel: &str, payload: &str) -> Option<Message> {
        Some(parse(channel, payload, "mymaster")?.resolved(Endpoint::literal))
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn every_event_of_a_failover() {
        let r1 = address("127.0.1.1:30001");
        let r2 = address("127.0.1.2:30002");
        let role = format!("{SLAVE} new reported role is master");
        let odown = format!("{MASTER} #quorum 2/2");
        let cases = [
            ("+try-failover", MASTER, Message::TryFailover),
            ("+elected-leader", MASTER, Message::ElectedLeader),
            ("+selected-slave", SLAVE, Message::SelectedSlave(r2)),
            ("+failover-state-wait-promotion", SLAVE, Message::WaitPromotion(r2)),
            ("+promoted-slave", SLAVE, Message::PromotedSlave(r2)),
            ("-failover-abort-not-elected", MASTER, Message::FailoverAborted),
            ("-failover-abort-no-good-slave", MASTER, Message::NoGoodReplica),
            ("-failover-abort-slave-timeout", MASTER, Message::FailoverAbortedSlaveTimeout),
            ("+failover-end", MASTER, Message::FailoverEnd),
            ("+failover-end-for-timeout", MASTER, Message::FailoverEnd),
            ("+sdown", MASTER, Message::MasterDown),
            ("-sdown", MASTER, Message::MasterUp),
            ("+odown", &odown, Message::MasterObjectivelyDown),
            ("+reboot", MASTER, Message::MasterRebooted),
            ("-role-change", &role, Message::RoleChange(r2)),
            ("+role-change", "master mymaster 127.0.1.1 30001 new reported role is slave", Message::RoleChange(r1)),
            ("+convert-to-slave", SLAVE, Message::ConvertToSlave(r2)),
            ("+fix-slave-config", SLAVE, Message::ConvertToSlave(r2)),
            ("+new-epoch", "1", Message::NewEpoch(1)),
            ("+vote-for-leader", "fc9a959179d0381b9201c30caf7c08894c5aecad 7", Message::NewEpoch(7)),
            ("+tilt", "#tilt mode entered", Message::Tilt(true)),
            ("-tilt", "#tilt mode exited", Message::Tilt(false)),
            ("+switch-master", "mymaster 127.0.1.1 30001 127.0.1.2 30002", Message::SwitchMaster { old: r1, new: r2 }),
        ];
        for (channel, payload, expected) in cases {
            assert_eq!(message(channel, payload), Some(expected), "{channel} {payload}");
        }
    }

    #[test]
    fn the_rest_says_ask_again() {
        let runid = "fc9a959179d0381b9201c30caf7c08894c5aecad";
        let sentinel = format!("sentinel {runid} 127.0.0.1 26379 @ mymaster 127.0.1.1 30001");
        let set = format!("{MASTER} down-after-milliseconds 5000");
        let monitor = format!("{MASTER} quorum 2");
        for (channel, payload) in [
            ("+slave", SLAVE),
            ("+sdown", SLAVE),
            ("+sentinel", &sentinel),
            ("+config-update-from", &sentinel),
            ("+set", &set),
            ("+monitor", &monitor),
            ("-monitor", MASTER),
            ("+reset-master", MASTER),
            ("-odown", MASTER),
            ("+failover-state-select-slave", MASTER),
            ("+slave-reconf-done", SLAVE),
            ("+something-of-a-later-version", MASTER),
        ] {
            assert_eq!(message(channel, payload), Some(Message::ConfigChanged), "{channel} {payload}");
        }
    }

    #[test]
    fn other_services_are_filtered_by_the_exact_name() {
        for service in ["mymaste", "mymaster2", "127.0.1.1", "master", "slave", "@", ""] {
            assert!(parse("+try-failover", MASTER, service).is_none(), "{service}");
            assert!(parse("+selected-slave", SLAVE, service).is_none(), "{service}");
            assert!(parse("+switch-master", "mymaster 127.0.1.1 1 127.0.1.2 2", service).is_none(), "{service}");
        }
        assert!(parse("+try-failover", "master slave 127.0.1.1 30001", "slave").is_some());
        assert!(parse("+new-epoch", "1", "whatever").is_some());
    }

    #[test]
    fn ipv6_and_names_are_taken_by_position() {
        let slave = "slave [::1]:30002 ::1 30002 @ mymaster 2001:db8::1 30001";
        assert_eq!(message("+selected-slave", slave), Some(Message::SelectedSlave(address("[::1]:30002"))));
        assert_eq!(
            message("+switch-master", "mymaster ::1 30001 ::1 30002"),
            Some(Message::SwitchMaster { old: address("[::1]:30001"), new: address("[::1]:30002") })
        );
        let mixed = parse("+switch-master", "mymaster 127.0.1.1 30001 r2.lab 30002", "mymaster").unwrap();
        let hosts: Vec<_> = mixed.endpoints().map(ToString::to_string).collect();
        assert_eq!(hosts, ["127.0.1.1:30001", "r2.lab:30002"]);
        let known = mixed.clone().resolved(|e| e.literal().or(Some(address("127.0.1.2:30002"))));
        assert_eq!(known, Message::SwitchMaster { old: address("127.0.1.1:30001"), new: address("127.0.1.2:30002") });
        assert_eq!(mixed.resolved(Endpoint::literal), Message::ConfigChanged);
    }

    #[test]
    fn malformed_payloads_are_nothing() {
        for (channel, payload) in [
            ("+switch-master", "mymaster 127.0.1.1 30001 127.0.1.2"),
            ("+switch-master", "mymaster 127.0.1.1 30001 127.0.1.2 0"),
            ("+switch-master", "mymaster 127.0.1.1 30001 127.0.1.2 30002 more"),
            ("+switch-master", ""),
            ("+new-epoch", ""),
            ("+new-epoch", "x"),
            ("+vote-for-leader", "fc9a"),
            ("+try-failover", ""),
            ("+try-failover", "master mymaster"),
            ("+try-failover", "node mymaster 127.0.1.1 30001"),
            ("+selected-slave", "slave 127.0.1.2:30002 127.0.1.2 30002"),
            ("+selected-slave", "slave 127.0.1.2:30002 127.0.1.2 30002 # mymaster 127.0.1.1 30001"),
            ("+selected-slave", "slave n 127.0.1.2 0 @ mymaster 127.0.1.1 30001"),
            ("+selected-slave", "slave n 127.0.1.2 99999 @ mymaster 127.0.1.1 30001"),
            ("+selected-slave", "slave n  30002 @ mymaster 127.0.1.1 30001"),
        ] {
            assert!(message(channel, payload).is_none(), "{channel} {payload}");
        }
    }
}
