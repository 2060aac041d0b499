//! Servers that are announced by other addresses than those at which they are reached from here.

use pointsman::demo::cluster::{Member, Settings};
use pointsman::demo::wire::text;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::network::in_network;
use crate::outcome::{PLANNED, waiting};
use crate::rig::{PATIENCE, Rig, last_record};

/// Replicas and Sentinels call each other 127.0.0.2. pointsman goes by these names and never dials one of them, through a
/// planned failover, which nobody notices.
#[tokio::test]
async fn announced_addresses_are_compared_and_mapped_ones_are_dialled() {
    let both = "bind 127.0.0.1 127.0.0.2".to_owned();
    let settings = Settings {
        redis_lines: vec![both.clone(), "replica-announce-ip 127.0.0.2".into()],
        sentinel_lines: vec![both, "sentinel announce-ip 127.0.0.2".into()],
        ..Settings::default()
    };
    let rig = Rig::start_configured(settings, "address_map = { \"127.0.0.2\" = \"127.0.0.1\" }").await;
    let announced = |node| format!("127.0.0.2:{}", rig.cluster.addr(Member::Node(node)).port());
    let service = rig
        .until("heard", |s| s["replicas"].as_array().is_some_and(|r| r.iter().all(|r| r["link"] == "connected")))
        .await;
    let mut replicas: Vec<&str> =
        service["replicas"].as_array().unwrap().iter().map(|r| r["node"].as_str().unwrap()).collect();
    replicas.sort_unstable();
    let mut expected = [announced(1), announced(2)];
    expected.sort_unstable();
    assert_eq!(replicas, expected, "{service:#}");

    let ledger = rig.ledger().await;
    rig.cluster.failover(0).await.unwrap();
    let service = rig.until("flowing", |s| s["generation"] == 2 && s["writes"]["flow"] == "flowing").await;
    let new = (1..3).find(|node| service["master"] == announced(*node)).unwrap_or_else(|| panic!("{service:#}"));
    rig.settle(("A", "planned failover, mapped addresses"), &ledger, new, waiting(PLANNED)).await;
    assert_eq!(last_record(&rig.service().await)["kind"], "planned");

    // Judged and asked on connections that are kept for that.
    let mut client = rig.client().await;
    let refused = client.call(&["AUTH", "nobody", "x"], PATIENCE).await.unwrap();
    assert!(text(&refused).starts_with("WRONGPASS"), "{refused:?}");
    assert!(text(&client.call(&["CLIENT", "LIST"], PATIENCE).await.unwrap()).contains("cmd=client"));

    let mut seen = 0;
    for node in 0..3 {
        let clients = text(&rig.cluster.ask(Member::Node(node), &["CLIENT", "LIST"]).await.unwrap());
        for client in clients.lines() {
            let of_ours =
                !client.contains("name=sentinel-") && !client.contains("flags=S") && !client.contains("flags=M");
            assert!(!of_ours || client.contains(" laddr=127.0.0.1:"), "dialled as announced: {client}");
            seen += usize::from(client.contains(" laddr=127.0.0.2:"));
        }
    }
    assert!(seen > 0, "Sentinels do dial what is announced");
}

/// The admin address knows no passwords: what changes the master is taken from pointsman's own host alone.
#[test]
fn a_switchover_is_not_ordered_from_another_host() {
    in_network(async |network| {
        let rig = Rig::start_in(network, &[]).await;
        let order = r#"{"service": "mymaster"}"#;
        let mut stream = TcpStream::connect(rig.proxy.admin()).await.unwrap();
        assert!(!stream.local_addr().unwrap().ip().is_loopback());
        let request = format!(
            "POST /switchover HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{order}",
            order.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("from this host only"), "{answer}");
        let service = rig.service().await;
        assert_eq!((&service["generation"], &service["phase"]), (&1.into(), &"stable".into()), "{service:#}");
    });
}
