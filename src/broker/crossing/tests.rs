//! Requests that nobody gets, and the bound on the imports that one passes.

use std::rc::Rc;

use super::*;
use crate::auth::state::AuthState;
use crate::base::ids::ConnectionId;
use crate::base::limits::{CHUNK_BYTES, PENDING_BYTES_MAX};
use crate::base::pool::BufferPool;
use crate::broker::outbox::Outbox;
use crate::config::auth_options::AccountOptions;
use crate::config::import_options::{
    ExportKind, ExportOptions, ImportKind, ImportOptions, LatencyOptions, ServiceExportOptions,
};
use crate::config::options::Options;

fn service(subject: &str) -> ExportOptions {
    let latency = Some(LatencyOptions { subject: "metric".into(), sampling: 100 });
    ExportOptions {
        subject: subject.into(),
        kind: ExportKind::Service(ServiceExportOptions { latency, ..Default::default() }),
        accounts: Vec::new(),
        activation_required: false,
        revocations: Default::default(),
        account_token_position: 0,
    }
}

fn import(account: String, subject: &str) -> ImportOptions {
    let kind = ImportKind::Service { to: None, share: false };
    ImportOptions { account, subject: subject.into(), activation: None, kind }
}

/// A broker with accounts A0 to A`count - 1`, each of which imports `ask` from the next.
fn chain(count: usize) -> (Broker, Vec<AccountId>) {
    let mut options = Options::default();
    for index in 0..count {
        let next = (index + 1 < count).then(|| import(format!("A{}", index + 1), "ask"));
        options.auth.accounts.push(AccountOptions {
            name: format!("A{index}"),
            exports: vec![service("ask")],
            imports: next.into_iter().collect(),
            ..AccountOptions::default()
        });
    }
    let state = AuthState::build(&options, None).expect("no ring");
    let accounts = state.authenticator.accounts();
    let ids =
        (0..count).map(|index| state.id(accounts.get(&format!("A{index}")).expect("it is there")));
    let mut broker = Broker::reproducible(3);
    broker.set_imports(state.imports().clone());
    (broker, ids.collect())
}

fn client(broker: &mut Broker, account: AccountId) -> (ClientKey, Rc<Outbox>) {
    let pool = Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20));
    let outbox = Rc::new(Outbox::new(ConnectionId(7), pool, PENDING_BYTES_MAX));
    let key = broker.attach(AccountId::GLOBAL, outbox.clone());
    broker.set_account(key, account);
    (key, outbox)
}

fn publish(broker: &mut Broker, account: AccountId, client: ClientKey, reply: &[u8]) -> Routed {
    let origin = Origin::client(account, client, None, true);
    let message = Message::without_headers(b"ask", reply, b"x", b"1");
    let (mut cache, mut turn) = (RouteCache::default(), Turn::default());
    broker.publish(&origin, &MessageRun::one(message), &mut cache, &mut turn)
}

#[test]
fn a_request_passes_no_more_imports_than_it_may() {
    let (mut broker, accounts) = chain(SERVICE_HOPS_MAX + 2);
    let last = *accounts.last().expect("some");
    let (far, outbox) = client(&mut broker, last);
    broker.subscribe(far, b"ask", b"", b"1", None);
    for (index, reaches) in [(1, true), (0, false)] {
        let (near, _) = client(&mut broker, accounts[index]);
        let before = outbox.pending_bytes();
        let routed = publish(&mut broker, accounts[index], near, b"");
        assert_eq!(routed == Routed::Delivered, reaches, "from account {index}");
        assert_eq!(outbox.pending_bytes() > before, reaches);
    }
    broker.check_invariants();
}

/// Headers of many lines are looked through at the cost of their bytes, which counts.
#[test]
fn the_headers_of_a_request_that_crosses_count_as_work() {
    let (mut broker, accounts) = chain(2);
    let (far, outbox) = client(&mut broker, accounts[1]);
    broker.subscribe(far, b"ask", b"", b"1", None);
    let (near, _) = client(&mut broker, accounts[0]);
    let mut block = headers::FIRST_LINE.to_vec();
    block.extend(b"nats-request-info: forged\r\n");
    block.extend(b"\n".repeat(500_000));
    block.extend(b"\r\n");
    let size = block.len().to_string();
    let message = Message {
        headers: &block,
        header_size_text: size.as_bytes(),
        ..Message::without_headers(b"ask", b"", &block, size.as_bytes())
    };
    let origin = Origin::client(accounts[0], near, None, true);
    let (mut cache, mut turn) = (RouteCache::default(), Turn::default());
    let routed = broker.publish(&origin, &MessageRun::one(message), &mut cache, &mut turn);
    assert_eq!(routed, Routed::Delivered);
    assert!(turn.work() >= block.len() / HEADER_BYTES_PER_UNIT, "{}", turn.work());
    assert!(outbox.pending_bytes() > 0);
}

/// The reply of the second import is the server's own: nobody subscribes to it.
#[test]
fn a_request_with_a_metric_goes_on_while_its_first_requester_waits() {
    let (mut broker, accounts) = chain(3);
    let (far, _) = client(&mut broker, accounts[2]);
    broker.subscribe(far, b"ask", b"", b"1", None);
    let (near, _) = client(&mut broker, accounts[0]);
    broker.subscribe(near, b"inbox", b"", b"1", None);
    assert_eq!(publish(&mut broker, accounts[0], near, b"inbox"), Routed::Delivered);
    (0..8).for_each(|_| broker.trim());
    assert!(!broker.has_latency_notes());
    broker.unsubscribe(near, b"1", 0);
    (0..8).for_each(|_| broker.trim());
    for _ in &accounts[1..] {
        let note = broker.next_latency_note().expect("each import has one");
        assert!(matches!(note.ending, Ending::InterestLost), "{note:?}");
    }
    for account in &accounts[1..] {
        assert!(broker.ensure_responses(*account).is_empty());
    }
    broker.check_invariants();
}

#[test]
fn a_request_that_nobody_gets_leaves_nothing_behind() {
    let (mut broker, accounts) = chain(3);
    let (near, outbox) = client(&mut broker, accounts[0]);
    broker.subscribe(near, b"inbox", b"", b"1", None);
    assert_eq!(publish(&mut broker, accounts[0], near, b"inbox"), Routed::Nobody);
    assert!(outbox.pending_bytes() > 0, "it is told");
    for account in &accounts[1..] {
        assert!(broker.ensure_responses(*account).is_empty());
    }
    broker.check_invariants();
}
