//! Events as nats-server published them.

use super::*;
use crate::config::options::Options;
use crate::protocol::nats::handshake::Info;

fn client() -> ClientFacts<'static> {
    ClientFacts {
        client_type: "nats",
        id: 102,
        started: SystemTime::UNIX_EPOCH,
        host: "127.0.0.1".into(),
        account: "A",
        user: "a",
        name: "",
        lang: "go",
        version: "1.55.0",
        rtt: Some(Duration::from_micros(413)),
        received: Volume { msgs: 1, bytes: 2 },
        sent: Volume { msgs: 3, bytes: 4 },
    }
}

/// Returns the event without its id and the server's description, which have tests of their own.
fn shown(event: &[u8]) -> String {
    let mut value: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(event).unwrap();
    let id = value.remove("id").unwrap();
    assert_eq!(id.as_str().map(str::len), Some(22));
    assert_eq!(value.remove("server").unwrap()["id"], "NABC");
    let text = String::from_utf8(event.to_vec()).unwrap();
    assert!(text.starts_with(r#"{"type":"io.nats.server.advisory.v1."#), "{text}");
    let (start, end) = (text.find(r#","server""#).unwrap(), text.find(r#""time":"#).unwrap());
    let end = end + text[end..].find('}').unwrap() + 1;
    let id = format!(r#""id":{id},"#);
    format!("{}{}", &text[..start], &text[end..]).replace(&id, "")
}

fn server() -> ServerInfo {
    let info = Info { server_id: "NABC".into(), ..Info::default() };
    ServerInfo::new(&info, &Options::default(), 1, SystemTime::UNIX_EPOCH)
}

#[test]
fn a_client_that_connects_is_described() {
    let event = connected(&server(), &client(), SystemTime::UNIX_EPOCH);
    let expected = r#"{"type":"io.nats.server.advisory.v1.client_connect","timestamp":"1970-01-01T00:00:00Z","client":{"start":"1970-01-01T00:00:00Z","host":"127.0.0.1","id":102,"acc":"A","user":"a","lang":"go","ver":"1.55.0","name_tag":"A","kind":"Client","client_type":"nats"}}"#;
    assert_eq!(shown(&event), expected);
}

#[test]
fn a_client_that_leaves_is_described_with_what_it_sent_and_received() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let event = disconnected(&server(), &client(), "Client Closed", now);
    let expected = r#"{"type":"io.nats.server.advisory.v1.client_disconnect","timestamp":"1970-01-01T00:00:01Z","client":{"start":"1970-01-01T00:00:00Z","host":"127.0.0.1","id":102,"acc":"A","user":"a","lang":"go","ver":"1.55.0","rtt":413000,"stop":"1970-01-01T00:00:01Z","name_tag":"A","kind":"Client","client_type":"nats"},"sent":{"msgs":1,"bytes":2},"received":{"msgs":3,"bytes":4},"reason":"Client Closed"}"#;
    assert_eq!(shown(&event), expected);
}

#[test]
fn an_accounts_numbers_stand_beside_the_server() {
    #[derive(Serialize)]
    struct Account {
        acc: &'static str,
        conns: u32,
    }
    let account = Account { acc: "A", conns: 1 };
    let event = account_connections(&server(), &account, SystemTime::UNIX_EPOCH);
    let expected = r#"{"type":"io.nats.server.advisory.v1.account_connections","timestamp":"1970-01-01T00:00:00Z","acc":"A","conns":1}"#;
    assert_eq!(shown(&event), expected);
    let expected = ["$SYS.SERVER.ACCOUNT.A.CONNS", "$SYS.ACCOUNT.A.SERVER.CONNS"];
    assert_eq!(account_connections_subjects("A"), expected);
}
