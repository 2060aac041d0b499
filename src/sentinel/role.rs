//! The reply to ROLE, parsed. Pure; addresses may still be names.

use std::net::SocketAddr;
use std::sync::Arc;

use super::message::endpoint;
use crate::addr::Endpoint;
use crate::resp::{Value, without_arguments};
use crate::topology::{History, RoleAnswer};

/// The endpoints that a reply to ROLE names, to be resolved before [`parse`].
pub fn endpoints(reply: &Value) -> Vec<Endpoint> {
    match reply.as_array() {
        Some([_, _, replicas]) => replicas.as_array().unwrap_or_default().iter().filter_map(node).collect(),
        Some([_, host, port, ..]) => pair(host, port).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// What a reply to ROLE says, with the addresses that `resolve` gives.
///
/// A replica without an address is left out of its master's list. A master without one makes the answer an error: a
/// replica of somebody unknown must not pass for a replica of the current master.
pub fn parse(
    reply: &Value,
    run_id: Option<&str>,
    history: Option<&Arc<History>>,
    mut resolve: impl FnMut(&Endpoint) -> Option<SocketAddr>,
) -> RoleAnswer {
    if let Some(error) = reply.as_error() {
        return RoleAnswer::Error(code(error));
    }
    let unexpected = || RoleAnswer::Error("unexpected reply to ROLE".to_owned());
    let Some(fields) = reply.as_array() else { return unexpected() };
    match (fields.first().and_then(Value::as_str), &fields[1.min(fields.len())..]) {
        (Some("master"), [offset, replicas]) => {
            let mut acknowledged = |replica: &Value| {
                let offset = replica.as_array()?.get(2)?;
                Some((resolve(&node(replica)?)?, offset_of(offset)))
            };
            RoleAnswer::Master {
                offset: offset_of(offset),
                replicas: replicas.as_array().unwrap_or_default().iter().filter_map(&mut acknowledged).collect(),
                run_id: run_id.map(str::to_owned),
                history: history.cloned(),
            }
        }
        (Some("slave"), [host, port, link, offset]) => match pair(host, port) {
            Some(master) => match resolve(&master) {
                Some(of) => {
                    RoleAnswer::Replica { of, connected: link.as_str() == Some("connected"), offset: offset_of(offset) }
                }
                None => RoleAnswer::Error(format!("its master's name `{}` has no address", master.host)),
            },
            None => unexpected(),
        },
        (Some("sentinel"), _) => RoleAnswer::Error("it is a Sentinel".to_owned()),
        _ => unexpected(),
    }
}

/// The first word of an error, which is its code; all of it where the code says nothing.
pub(super) fn code(error: &str) -> String {
    match error.split(' ').next() {
        Some(word) if word != "ERR" => word.to_owned(),
        _ => without_arguments(error).to_owned(),
    }
}

/// Whether a reply to ROLE says master.
pub(super) fn is_master(reply: &Value) -> bool {
    reply.as_array().and_then(|fields| fields.first()).and_then(Value::as_str) == Some("master")
}

/// The `run_id` in the reply to `INFO server`; none if it is an error.
pub(super) fn run_id(info: &Value) -> Option<String> {
    field(info, "run_id").map(str::to_owned)
}

/// The history in a master's reply to `INFO replication`; none if it is an error or a replica's, whose history is its
/// master's.
pub(super) fn history(info: &Value) -> Option<History> {
    if field(info, "role")? != "master" {
        return None;
    }
    // -1 where it never followed anybody; the second id is then all zeros.
    let end = field(info, "second_repl_offset").and_then(|n| n.parse::<u64>().ok()?.checked_sub(1));
    let followed = field(info, "master_replid2").map(str::to_owned).zip(end);
    Some(History { id: field(info, "master_replid")?.to_owned(), followed })
}

/// One field of a reply to `INFO`.
fn field<'a>(info: &'a Value, name: &str) -> Option<&'a str> {
    info.as_str()?.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// An offset is -1 while there is no link.
fn offset_of(value: &Value) -> u64 {
    value.as_i64().and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

fn node(replica: &Value) -> Option<Endpoint> {
    match replica.as_array()? {
        [host, port, ..] => pair(host, port),
        _ => None,
    }
}

/// In a replica's answer the port is an integer, in a master's list a string.
fn pair(host: &Value, port: &Value) -> Option<Endpoint> {
    endpoint(host.as_str()?, &port.as_i64()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::decode;

    fn answer(wire: &str) -> RoleAnswer {
        parse(&decode(wire.as_bytes()).unwrap(), Some("abc"), None, Endpoint::literal)
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_recorded_master() {
        let wire = "*3\r\n$6\r\nmaster\r\n:3678\r\n*2\r\n*3\r\n$9\r\n127.0.0.1\r\n$5\r\n52749\r\n$4\r\n3276\r\n\
                    *3\r\n$3\r\n::1\r\n$5\r\n52750\r\n$1\r\n0\r\n";
        assert_eq!(
            answer(wire),
            RoleAnswer::Master {
                offset: 3678,
                replicas: vec![(address("127.0.0.1:52749"), 3276), (address("[::1]:52750"), 0)],
                run_id: Some("abc".to_owned()),
                history: None,
            }
        );
        assert_eq!(endpoints(&decode(wire.as_bytes()).unwrap()).len(), 2);
    }

    #[test]
    fn a_recorded_replica() {
        let wire = "*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:56615\r\n$9\r\nconnected\r\n:3692\r\n";
        let of = address("127.0.0.1:56615");
        assert_eq!(answer(wire), RoleAnswer::Replica { of, connected: true, offset: 3692 });
        assert_eq!(endpoints(&decode(wire.as_bytes()).unwrap()), [Endpoint::from(of)]);
        for state in ["connect", "connecting", "sync", "handshake", "none"] {
            let wire =
                format!("*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:56615\r\n${}\r\n{state}\r\n:-1\r\n", state.len());
            assert_eq!(answer(&wire), RoleAnswer::Replica { of, connected: false, offset: 0 }, "{state}");
        }
    }

    #[test]
    fn names_without_an_address() {
        let master = "*3\r\n$6\r\nmaster\r\n:1\r\n*1\r\n*3\r\n$6\r\nr2.lab\r\n$4\r\n6379\r\n$1\r\n1\r\n";
        assert!(matches!(answer(master), RoleAnswer::Master { replicas, .. } if replicas.is_empty()));
        let replica = "*5\r\n$5\r\nslave\r\n$6\r\nr1.lab\r\n:6379\r\n$9\r\nconnected\r\n:1\r\n";
        assert!(matches!(answer(replica), RoleAnswer::Error(text) if text.contains("r1.lab")));
    }

    #[test]
    fn errors_and_garbage() {
        for (wire, text) in [
            ("-NOAUTH Authentication required.\r\n", "NOAUTH"),
            ("-LOADING Redis is loading the dataset in memory\r\n", "LOADING"),
            ("-ERR max number of clients reached\r\n", "ERR max number of clients reached"),
        ] {
            assert_eq!(answer(wire), RoleAnswer::Error(text.to_owned()));
        }
        for wire in [
            "*0\r\n",
            "*1\r\n$6\r\nmaster\r\n",
            "*2\r\n$6\r\nmaster\r\n:1\r\n",
            "*2\r\n$5\r\nslave\r\n:1\r\n",
            "*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:0\r\n$9\r\nconnected\r\n:1\r\n",
            "*2\r\n$8\r\nsentinel\r\n*0\r\n",
            "*3\r\n:1\r\n:1\r\n*0\r\n",
            "+OK\r\n",
            "$-1\r\n",
        ] {
            endpoints(&decode(wire.as_bytes()).unwrap());
            assert!(matches!(answer(wire), RoleAnswer::Error(_)), "{wire}");
        }
    }

    #[test]
    fn the_run_id_of_info() {
        let info = "# Server\r\nredis_version:7.0.15\r\nrun_id:3185617e8f\r\ntcp_port:56615\r\n";
        assert_eq!(run_id(&Value::Bulk(info.into())), Some("3185617e8f".to_owned()));
        assert_eq!(run_id(&Value::Bulk("# Server\r\n".into())), None);
        assert_eq!(run_id(&Value::Error("NOPERM".to_owned())), None);
    }

    #[test]
    fn the_history_of_info() {
        let info = |role: &str, id2: &str, end: &str| {
            Value::Bulk(
                format!(
                    "# Replication\r\nrole:{role}\r\nconnected_slaves:0\r\nmaster_replid:aaa\r\nmaster_replid2:{id2}\r\n\
                     master_repl_offset:900\r\nsecond_repl_offset:{end}\r\n"
                )
                .into(),
            )
        };
        let parts = |info: &Value| history(info).map(|h| (h.id, h.followed));
        let promoted = parts(&info("master", "bbb", "501"));
        assert_eq!(promoted, Some(("aaa".to_owned(), Some(("bbb".to_owned(), 500)))));
        let never_followed = parts(&info("master", "0000", "-1"));
        assert_eq!(never_followed, Some(("aaa".to_owned(), None)));
        assert_eq!(history(&info("slave", "bbb", "501")), None);
        assert_eq!(history(&Value::Error("NOPERM".to_owned())), None);
    }
}
