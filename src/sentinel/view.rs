//! What a Sentinel answers when polled, parsed. Pure; works on RESP2 and RESP3 replies.

use std::net::SocketAddr;
use std::time::Duration;

use super::event::{Peer, Trouble};
use super::message::endpoint;
use crate::addr::Endpoint;
use crate::resp::Value;
use crate::topology::{ReplicaView, View};

/// The replies to one poll of one service, asked in one pipeline.
#[derive(Debug)]
pub struct Poll {
    /// To `SENTINEL GET-MASTER-ADDR-BY-NAME`.
    pub address: Value,
    /// To `SENTINEL MASTER`.
    pub master: Value,
    /// To `SENTINEL REPLICAS`.
    pub replicas: Value,
}

/// What they mean.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// The Sentinel's view of the service.
    View(View),
    /// It monitors no master of this name.
    UnknownName,
    /// It names a master that has no address.
    Unresolved(Endpoint),
}

impl Poll {
    /// The endpoints it names, master first, to be resolved before [`answer`](Self::answer).
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        let replicas = self.replicas.as_array().unwrap_or_default();
        master_endpoint(&self.address).into_iter().chain(replicas.iter().filter_map(entry_endpoint))
    }

    /// The view, with the addresses that `resolve` gives. A replica that has none is left out.
    pub fn answer(&self, mut resolve: impl FnMut(&Endpoint) -> Option<SocketAddr>) -> Result<Answer, Trouble> {
        for reply in [&self.address, &self.master, &self.replicas] {
            if let Value::Error(error) = reply {
                // The name was removed between two commands of the pipeline, or the first one said so already.
                if error.contains("No such master") {
                    return Ok(Answer::UnknownName);
                }
                return Err(Trouble::from_reply(error));
            }
        }
        if matches!(self.address, Value::Null) {
            return Ok(Answer::UnknownName);
        }
        let master = master_endpoint(&self.address).ok_or_else(|| unexpected("GET-MASTER-ADDR-BY-NAME"))?;
        let Some(master) = resolve(&master) else {
            return Ok(Answer::Unresolved(master));
        };
        let flags = Flags::of(&self.master).ok_or_else(|| unexpected("MASTER"))?;
        let number = |field| number(&self.master, field).ok_or_else(|| unexpected("MASTER"));
        let replicas = self.replicas.as_array().ok_or_else(|| unexpected("REPLICAS"))?;
        Ok(Answer::View(View {
            master,
            epoch: number("config-epoch")?,
            failover_in_progress: flags.has("failover_in_progress"),
            master_down: flags.has("s_down") || flags.has("o_down"),
            reported_master: text(&self.master, "role-reported") == Some("master"),
            replicas: replicas.iter().filter_map(|entry| replica(entry, &mut resolve)).collect(),
            quorum: number("quorum")?.try_into().unwrap_or(u32::MAX),
            down_after: Duration::from_millis(number("down-after-milliseconds")?),
        }))
    }
}

fn unexpected(command: &str) -> Trouble {
    Trouble::Unexpected(format!("SENTINEL {command} gave a reply of another form"))
}

fn master_endpoint(reply: &Value) -> Option<Endpoint> {
    let [host, port] = reply.as_array()? else { return None };
    endpoint(host.as_str()?, port.as_str()?)
}

fn entry_endpoint(entry: &Value) -> Option<Endpoint> {
    endpoint(text(entry, "ip")?, text(entry, "port")?)
}

fn replica(entry: &Value, resolve: &mut impl FnMut(&Endpoint) -> Option<SocketAddr>) -> Option<ReplicaView> {
    let flags = Flags::of(entry)?;
    Some(ReplicaView {
        node: resolve(&entry_endpoint(entry)?)?,
        reachable: flags.reachable(),
        link_up: text(entry, "master-link-status") == Some("ok"),
        // Missing means that the Sentinel has not yet seen the replica's INFO; Sentinel's own default.
        priority: number(entry, "slave-priority").map_or(100, |n| n.try_into().unwrap_or(u32::MAX)),
        offset: number(entry, "slave-repl-offset").unwrap_or(0),
        reported_replica: text(entry, "role-reported") == Some("slave"),
    })
}

/// The reply to `SENTINEL SENTINELS`; none if it is an error (the ACL may forbid it). An entry without a valid address
/// is left out: Sentinel prints port 0 for one it could not resolve.
pub fn peers(reply: &Value) -> Option<Vec<Peer>> {
    let entries = reply.as_array()?;
    let peer = |entry: &Value| {
        let run_id = text(entry, "runid").filter(|id| !id.is_empty()).map(str::to_owned);
        Some(Peer { endpoint: entry_endpoint(entry)?, run_id, reachable: Flags::of(entry)?.reachable() })
    };
    Some(entries.iter().filter_map(peer).collect())
}

/// The comma-separated words of a `flags` field.
struct Flags<'a>(&'a str);

impl<'a> Flags<'a> {
    fn of(entry: &'a Value) -> Option<Self> {
        text(entry, "flags").map(Self)
    }

    fn has(&self, flag: &str) -> bool {
        self.0.split(',').any(|f| f == flag)
    }

    fn reachable(&self) -> bool {
        !self.has("s_down") && !self.has("disconnected")
    }
}

fn text<'a>(entry: &'a Value, field: &str) -> Option<&'a str> {
    entry.map_get(field)?.as_str()
}

/// A field's number. Sentinel sends all of them as bulk strings.
fn number(entry: &Value, field: &str) -> Option<u64> {
    text(entry, field)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::decode;

    /// Replies of Redis Sentinel 7.0.15, as they came over the wire.
    const ADDRESS: &str = "*2\r\n$9\r\n127.0.0.1\r\n$5\r\n56615\r\n";
    const MASTER: [(&str, &str); 20] = [
        ("name", "mymaster"),
        ("ip", "127.0.0.1"),
        ("port", "56615"),
        ("runid", "3185617e8f895622e4e986b1ab3912db0668ecad"),
        ("flags", "master"),
        ("link-pending-commands", "0"),
        ("link-refcount", "1"),
        ("last-ping-sent", "0"),
        ("last-ok-ping-reply", "592"),
        ("last-ping-reply", "592"),
        ("down-after-milliseconds", "1000"),
        ("info-refresh", "3982"),
        ("role-reported", "master"),
        ("role-reported-time", "14007"),
        ("config-epoch", "3"),
        ("num-slaves", "1"),
        ("num-other-sentinels", "2"),
        ("quorum", "2"),
        ("failover-timeout", "180000"),
        ("parallel-syncs", "1"),
    ];
    const REPLICA: [(&str, &str); 21] = [
        ("name", "127.0.0.1:52749"),
        ("ip", "127.0.0.1"),
        ("port", "52749"),
        ("runid", "ac42f9f0b010fa418370a22289c2d17f581c78c0"),
        ("flags", "slave"),
        ("link-pending-commands", "0"),
        ("link-refcount", "1"),
        ("last-ping-sent", "0"),
        ("last-ok-ping-reply", "403"),
        ("last-ping-reply", "403"),
        ("down-after-milliseconds", "1000"),
        ("info-refresh", "733"),
        ("role-reported", "slave"),
        ("role-reported-time", "15005"),
        ("master-link-down-time", "0"),
        ("master-link-status", "ok"),
        ("master-host", "127.0.0.1"),
        ("master-port", "56615"),
        ("slave-priority", "100"),
        ("slave-repl-offset", "2606"),
        ("replica-announced", "1"),
    ];
    const PEER: [(&str, &str); 14] = [
        ("name", "02c2de49872d344aabc82d59716982dc120d5cd4"),
        ("ip", "127.0.0.1"),
        ("port", "52063"),
        ("runid", "02c2de49872d344aabc82d59716982dc120d5cd4"),
        ("flags", "sentinel"),
        ("link-pending-commands", "0"),
        ("link-refcount", "1"),
        ("last-ping-sent", "0"),
        ("last-ok-ping-reply", "347"),
        ("last-ping-reply", "347"),
        ("down-after-milliseconds", "1000"),
        ("last-hello-message", "1733"),
        ("voted-leader", "?"),
        ("voted-leader-epoch", "0"),
    ];

    #[derive(Clone, Copy, Debug)]
    enum Protocol {
        Resp2,
        Resp3,
    }
    const BOTH: [Protocol; 2] = [Protocol::Resp2, Protocol::Resp3];

    /// An entry on the wire: a flat array in RESP2, a map in RESP3.
    fn entry(protocol: Protocol, fields: &[(&str, &str)]) -> String {
        let header = match protocol {
            Protocol::Resp2 => format!("*{}\r\n", fields.len() * 2),
            Protocol::Resp3 => format!("%{}\r\n", fields.len()),
        };
        let bulk = |s: &str| format!("${}\r\n{s}\r\n", s.len());
        fields.iter().fold(header, |wire, (k, v)| wire + &bulk(k) + &bulk(v))
    }

    /// `fields` with some replaced.
    fn with<'a>(fields: &[(&'a str, &'a str)], changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let changed = |k: &str| changes.iter().find(|(c, _)| *c == k).map(|(_, v)| *v);
        fields.iter().map(|(k, v)| (*k, changed(k).unwrap_or(v))).collect()
    }

    fn without<'a>(fields: &[(&'a str, &'a str)], name: &str) -> Vec<(&'a str, &'a str)> {
        fields.iter().filter(|(k, _)| *k != name).copied().collect()
    }

    fn poll(address: &str, master: &str, replicas: &str) -> Result<Answer, Trouble> {
        let [address, master, replicas] = [address, master, replicas].map(|w| decode(w.as_bytes()).unwrap());
        Poll { address, master, replicas }.answer(Endpoint::literal)
    }

    fn view(master: &[(&str, &str)], replica: &[(&str, &str)]) -> View {
        let replicas = format!("*1\r\n{}", entry(Protocol::Resp2, replica));
        match poll(ADDRESS, &entry(Protocol::Resp2, master), &replicas) {
            Ok(Answer::View(view)) => view,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_recorded_view_in_both_protocols() {
        for protocol in BOTH {
            let replicas = format!("*1\r\n{}", entry(protocol, &REPLICA));
            let expected = View {
                master: "127.0.0.1:56615".parse().unwrap(),
                epoch: 3,
                failover_in_progress: false,
                master_down: false,
                reported_master: true,
                replicas: vec![ReplicaView {
                    node: "127.0.0.1:52749".parse().unwrap(),
                    reachable: true,
                    link_up: true,
                    priority: 100,
                    offset: 2606,
                    reported_replica: true,
                }],
                quorum: 2,
                down_after: Duration::from_secs(1),
            };
            assert_eq!(poll(ADDRESS, &entry(protocol, &MASTER), &replicas), Ok(Answer::View(expected)), "{protocol:?}");
        }
    }

    #[test]
    fn flags_are_whole_words() {
        let flags = |master: &'static str| view(&with(&MASTER, &[("flags", master)]), &REPLICA);
        assert!(flags("master,failover_in_progress,force_failover").failover_in_progress);
        assert!(!flags("master,failover_in_progress_not").failover_in_progress);
        assert!(flags("s_down,master").master_down);
        assert!(flags("master,o_down,disconnected").master_down);
        assert!(!flags("master,xs_down").master_down);
        for (word, reachable) in [("slave", true), ("s_down,slave", false), ("slave,disconnected", false)] {
            assert_eq!(view(&MASTER, &with(&REPLICA, &[("flags", word)])).replicas[0].reachable, reachable, "{word}");
        }
        assert!(!view(&MASTER, &with(&REPLICA, &[("master-link-status", "err")])).replicas[0].link_up);
    }

    #[test]
    fn the_master_is_the_one_of_the_address_reply() {
        let view = view(&with(&MASTER, &[("ip", "10.0.0.1"), ("port", "1")]), &REPLICA);
        assert_eq!(view.master, "127.0.0.1:56615".parse().unwrap());
    }

    #[test]
    fn an_unknown_name() {
        let error = "-ERR No such master with that name\r\n";
        for null in ["*-1\r\n", "_\r\n"] {
            assert_eq!(poll(null, error, error), Ok(Answer::UnknownName));
        }
        assert_eq!(poll(ADDRESS, error, error), Ok(Answer::UnknownName), "removed in between");
    }

    #[test]
    fn refusals_say_who_refused() {
        let noauth = "-NOAUTH Authentication required.\r\n";
        assert_eq!(
            poll(noauth, noauth, noauth),
            Err(Trouble::Authentication("NOAUTH Authentication required.".to_owned()))
        );
        let unknown = "-ERR unknown command 'SENTINEL', with args beginning with: \r\n";
        assert!(matches!(poll(unknown, unknown, unknown), Err(Trouble::Answered(_))));
    }

    #[test]
    fn replicas_without_an_address_are_left_out() {
        for broken in [
            with(&REPLICA, &[("port", "0")]),
            with(&REPLICA, &[("port", "x")]),
            with(&REPLICA, &[("ip", "")]),
            with(&REPLICA, &[("ip", "not-resolved.lab")]),
            without(&REPLICA, "ip"),
            without(&REPLICA, "port"),
            without(&REPLICA, "flags"),
        ] {
            assert_eq!(view(&MASTER, &broken).replicas, [], "{broken:?}");
        }
        let young = without(&without(&REPLICA, "slave-priority"), "slave-repl-offset");
        assert_eq!((view(&MASTER, &young).replicas[0].priority, view(&MASTER, &young).replicas[0].offset), (100, 0));
    }

    #[test]
    fn garbage_is_unexpected() {
        let master = entry(Protocol::Resp2, &MASTER);
        let port_zero = "*2\r\n$9\r\n127.0.0.1\r\n$1\r\n0\r\n";
        let broken: Vec<(&str, String, &str)> = vec![
            (port_zero, master.clone(), "*0\r\n"),
            ("*1\r\n$9\r\n127.0.0.1\r\n", master.clone(), "*0\r\n"),
            ("+OK\r\n", master.clone(), "*0\r\n"),
            ("*2\r\n*0\r\n*0\r\n", master.clone(), "*0\r\n"),
            (ADDRESS, "$-1\r\n".to_owned(), "*0\r\n"),
            (ADDRESS, "*0\r\n".to_owned(), "*0\r\n"),
            (ADDRESS, entry(Protocol::Resp2, &without(&MASTER, "config-epoch")), "*0\r\n"),
            (ADDRESS, entry(Protocol::Resp2, &with(&MASTER, &[("config-epoch", "-1")])), "*0\r\n"),
            (ADDRESS, entry(Protocol::Resp2, &without(&MASTER, "flags")), "*0\r\n"),
            (ADDRESS, master.clone(), "$-1\r\n"),
            (ADDRESS, master.clone(), ":5\r\n"),
        ];
        for (address, master, replicas) in broken {
            let answer = poll(address, &master, replicas);
            assert!(matches!(answer, Err(Trouble::Unexpected(_))), "{address} {master} {replicas}: {answer:?}");
        }
        assert!(
            matches!(poll(ADDRESS, &master, "*3\r\n:1\r\n*0\r\n$-1\r\n"), Ok(Answer::View(v)) if v.replicas.is_empty())
        );
    }

    #[test]
    fn a_master_that_cannot_be_resolved_makes_no_view() {
        let address = "*2\r\n$6\r\nr1.lab\r\n$4\r\n6379\r\n";
        let answer = poll(address, &entry(Protocol::Resp2, &MASTER), "*0\r\n");
        assert_eq!(answer, Ok(Answer::Unresolved(Endpoint { host: "r1.lab".to_owned(), port: 6379 })));
    }

    #[test]
    fn recorded_peers_in_both_protocols() {
        for protocol in BOTH {
            let dead = entry(protocol, &with(&PEER, &[("flags", "s_down,sentinel,disconnected"), ("runid", "")]));
            let invalid = entry(protocol, &with(&PEER, &[("port", "0")]));
            let wire = format!("*3\r\n{}{dead}{invalid}", entry(protocol, &PEER));
            let peers = peers(&decode(wire.as_bytes()).unwrap()).unwrap();
            let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port: 52063 };
            let run_id = Some("02c2de49872d344aabc82d59716982dc120d5cd4".to_owned());
            assert_eq!(
                peers,
                [
                    Peer { endpoint: endpoint.clone(), run_id, reachable: true },
                    Peer { endpoint, run_id: None, reachable: false },
                ]
            );
        }
        assert_eq!(peers(&decode(b"-NOPERM no\r\n").unwrap()), None);
    }
}
