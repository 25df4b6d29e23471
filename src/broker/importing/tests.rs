//! The shadows of one subscription over many turns, and over a reload.

use super::*;
use crate::auth::state::AuthState;
use crate::base::ids::ConnectionId;
use crate::base::limits::{CHUNK_BYTES, PENDING_BYTES_MAX};
use crate::base::pool::BufferPool;
use crate::broker::outbox::Outbox;
use crate::config::auth_options::AccountOptions;
use crate::config::import_options::{ExportKind, ExportOptions, ImportKind, ImportOptions};
use crate::config::options::Options;

const IMPORT_COUNT: usize = 1_000;

/// Account C imports so many streams of P.
fn state(count: usize, previous: Option<&AuthState>) -> AuthState {
    let export = ExportOptions {
        subject: ">".into(),
        kind: ExportKind::Stream,
        accounts: Vec::new(),
        activation_required: false,
        revocations: Default::default(),
        account_token_position: 0,
    };
    let imports = (0..count).map(|index| ImportOptions {
        account: "P".into(),
        subject: format!("s.{index}.*"),
        activation: None,
        kind: ImportKind::Stream { prefix: None, to: None, allow_trace: false },
    });
    let mut options = Options::default();
    options.auth.accounts = vec![
        AccountOptions { name: "P".into(), exports: vec![export], ..AccountOptions::default() },
        AccountOptions {
            name: "C".into(),
            imports: imports.collect(),
            ..AccountOptions::default()
        },
    ];
    AuthState::build(&options, previous).expect("all is exported")
}

fn id(state: &AuthState, name: &str) -> AccountId {
    state.id(state.authenticator.accounts().get(name).expect("it is there"))
}

/// A broker with a client of C that has subscribed to everything; not one shadow is there yet.
fn subscribed(state: &AuthState) -> (Broker, ClientKey) {
    let mut broker = Broker::reproducible(5);
    broker.set_imports(state.imports().clone());
    let pool = Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20));
    let outbox = Rc::new(Outbox::new(ConnectionId(7), pool, PENDING_BYTES_MAX));
    let client = broker.attach(AccountId::GLOBAL, outbox);
    broker.set_account(client, id(state, "C"));
    broker.subscribe(client, b">", b"", b"1", None);
    (broker, client)
}

#[test]
fn shadows_of_one_subscription_are_added_over_as_many_turns_as_they_take() {
    const WORK_MAX: usize = 160;
    let state = state(IMPORT_COUNT, None);
    let (mut broker, client) = subscribed(&state);
    let mut turns = 0;
    loop {
        let mut turn = Turn::new(WORK_MAX);
        let imported = broker.go_on_importing(client, &mut turn);
        turns += 1;
        assert!(turn.work() < WORK_MAX + SUBSCRIPTION_WORK + LOOK_WORK, "{}", turn.work());
        if matches!(imported, Imported::All) {
            break;
        }
    }
    assert!(turns >= IMPORT_COUNT * SUBSCRIPTION_WORK / WORK_MAX, "{turns} turns");
    broker.check_invariants();
    assert_eq!(broker.table_total(), IMPORT_COUNT + 1);
    broker.unsubscribe(client, b"1", 0);
    assert_eq!(broker.table_total(), 0);
    broker.check_invariants();
}

#[test]
fn a_reload_while_shadows_are_added_leaves_those_of_the_new_imports_alone() {
    let before = state(IMPORT_COUNT, None);
    let (mut broker, client) = subscribed(&before);
    assert!(matches!(broker.go_on_importing(client, &mut Turn::new(160)), Imported::Some));
    let after = state(3, Some(&before));
    broker.set_imports(after.imports().clone());
    while !matches!(broker.go_on_importing(client, &mut Turn::new(160)), Imported::All) {}
    assert_eq!(broker.table_total(), 3 + 1);
    broker.check_invariants();
}
