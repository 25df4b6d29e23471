//! The effect of a reload on a session at each stage of its life: stage by kind of change, observed
//! on the session itself. The effect over sockets is in `transcripts/reload.txt`, which nats-server
//! is tested with too.

mod support;

use std::cell::RefCell;
use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use midge::testing::auth::password::{PasswordJob, PasswordOutcome};
use midge::testing::auth::state::AuthState;
use midge::testing::base::ids::{ConnectionId, LoginId};
use midge::testing::base::limits::READ_BUFFER_BYTES;
use midge::testing::base::pool::BufferPool;
use midge::testing::broker::Broker;
use midge::testing::client::context::ClientContext;
use midge::testing::client::session::ClientSession;
use midge::testing::config::load::load_file;
use midge::testing::config::options::Options;
use midge::testing::config::surroundings::Surroundings;
use midge::testing::config::tls_options::HandshakeFirst;
use midge::testing::net::listener::Peer;
use midge::testing::net::read_buffer::ReadBuffer;
use midge::testing::net::session::{Session, Step};
use midge::testing::net::tls::TlsFacts;
use midge::testing::net::tls_config::TlsServer;
use midge::testing::peer::checks::{LoginJob, LoginOutcome, PasswordChecks};
use midge::testing::protocol::nats::error::CloseReason;
use midge::testing::protocol::nats::handshake::Info;
use support::certificates::{Authority, Wanted};

/// bcrypt of `test`.
const HASH: &str = "$2a$04$BXMgFc0qRqlxDmpEcYaUH.Wog3Xk6.KWBTNoLasUJMvHl23HO.0HS";
/// bcrypt of something else.
const OTHER_HASH: &str = "$2a$04$BuzNOviu4vtjUv8N38Thnu.EcTz32qTVcZ5zHLLOlS9PCnV/qfWbK";

struct Text(String);

impl Surroundings for Text {
    fn read_file(&self, _path: &Path) -> io::Result<Vec<u8>> {
        Ok(self.0.clone().into_bytes())
    }

    fn variable(&self, _name: &str) -> Option<OsString> {
        None
    }
}

fn options(text: &str) -> Arc<Options> {
    let loaded = load_file(Path::new("f"), &Text(text.into()), false);
    Arc::new(loaded.unwrap_or_else(|errors| panic!("{errors}")).options)
}

/// One shard's clients under a configuration that changes.
struct House {
    context: Rc<ClientContext>,
    checks: Rc<RefCell<Vec<(LoginId, PasswordJob)>>>,
    pool: Rc<BufferPool>,
}

impl House {
    fn new(text: &str, tls: Option<Arc<TlsServer>>) -> Self {
        let options = options(text);
        let auth = Arc::new(AuthState::build(&options, None).expect("valid"));
        let checks: Rc<RefCell<Vec<_>>> = Rc::default();
        let asked = checks.clone();
        let context = ClientContext {
            tls: RefCell::new(tls),
            checks: PasswordChecks::new(move |id, job| match job {
                LoginJob::Password(job) => asked.borrow_mut().push((id, job)),
                LoginJob::Account(_) => panic!("nobody logs in by JWT here"),
            }),
            ..ClientContext::plain(Rc::new(RefCell::new(Broker::reproducible(1))), options, auth, 1)
        };
        let pool = Rc::new(BufferPool::new(&READ_BUFFER_BYTES, 1 << 20));
        Self { context: Rc::new(context), checks, pool }
    }

    fn reload(&self, text: &str) {
        let options = options(text);
        let before = self.context.auth.borrow().clone();
        let auth = AuthState::build(&options, Some(&before)).expect("valid");
        *self.context.options.borrow_mut() = options;
        *self.context.auth.borrow_mut() = Arc::new(auth);
        self.context.generation.set(self.context.generation.get() + 1);
    }

    fn enter(&self) -> Peered {
        let id = ConnectionId(7);
        let mut session =
            ClientSession::new(id, Peer::Unix, self.context.clone(), false, Instant::now());
        session.start();
        Peered { session, input: ReadBuffer::new(self.pool.clone()) }
    }

    /// Takes over a client that another shard had.
    fn take_over(&self, peer: Peered) -> Peered {
        let session =
            ClientSession::put_together(peer.session.take_apart(), None, self.context.clone());
        Peered { session, input: ReadBuffer::new(self.pool.clone()) }
    }

    /// Puts the server in lame duck mode before this shard's walk over its sessions begins.
    fn enter_lame_duck_mode(&self) {
        let info = self.context.info.borrow().clone();
        *self.context.info.borrow_mut() = Arc::new(Info { lame_duck: true, ..Info::clone(&info) });
    }

    /// Carries out the password checks that were requested.
    fn check_passwords(&self) {
        for (id, job) in self.checks.take() {
            let outcome: PasswordOutcome = job.run();
            self.context.checks.checked(id, LoginOutcome::Password(outcome));
        }
    }
}

/// A session with what its peer has sent.
struct Peered {
    session: ClientSession,
    input: ReadBuffer,
}

impl Peered {
    /// Gives it bytes and returns the reader's next step; closes as a connection does.
    fn say(&mut self, bytes: &[u8]) -> Step {
        self.input.extend(bytes);
        loop {
            match self.session.receive(&mut self.input) {
                Step::Again => {}
                Step::Close(reason) => {
                    self.session.outbox().close(reason);
                    return Step::Close(reason);
                }
                step => return step,
            }
        }
    }

    fn heard(&self) -> String {
        // INFO does not matter to most tests.
        let text = self.heard_with_info();
        let lines = text.split_inclusive("\r\n").filter(|line| !line.starts_with("INFO "));
        lines.map(str::trim_end).collect::<Vec<_>>().join(" ")
    }

    fn heard_with_info(&self) -> String {
        let outbox = self.session.outbox();
        let mut all = Vec::new();
        loop {
            let next = std::pin::pin!(outbox.next_chunk());
            match next.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(chunk)) => {
                    all.extend_from_slice(&chunk);
                    outbox.send_ends(chunk);
                }
                _ => break,
            }
        }
        String::from_utf8(all).expect("only text is sent here")
    }

    /// Returns everything that the peer is sent, or why it was closed without a word.
    fn told(&self) -> String {
        let heard = self.heard();
        match self.session.outbox().close_reason() {
            Some(reason) if heard.is_empty() => format!("closed: {reason}"),
            Some(reason) => format!("{heard} closed: {reason}"),
            None => heard,
        }
    }
}

/// How far a session has got before the reload.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// TLS comes before INFO, and has not begun.
    TlsFirst,
    /// INFO was sent, the handshake is in progress.
    Handshake,
    /// Speaks without CONNECT, has a subscription.
    Fresh,
    /// Has to log in and has not.
    Unauthenticated,
    /// Gave a password that is being checked.
    Checking,
    /// The check is done, but the session has not continued yet.
    Checked,
    Connected,
    /// Connected, in the middle of a message.
    Publishing,
}

use Stage::*;

const USERS: &str =
    "authorization { users: [ {user: a, password: test}, {user: b, password: b} ] }";
const CONNECT: &str = "CONNECT {\"verbose\":false,\"user\":\"a\",\"pass\":\"test\"}\r\n";

fn hashed() -> String {
    USERS.replace("password: test", &format!("password: \"{HASH}\""))
}

/// Returns the configuration that a stage needs; `open` means that no login is required.
fn before(stage: Stage, open: bool) -> String {
    match stage {
        _ if open => String::new(),
        Checking | Checked => hashed(),
        _ => USERS.into(),
    }
}

fn bring_to(stage: Stage, house: &House) -> Peered {
    let mut peer = house.enter();
    match stage {
        TlsFirst => {
            let step = peer.say(b"");
            assert!(matches!(step, Step::ReadMoreWithin(_)), "it waits for the first byte");
        }
        Handshake => {
            let step = peer.say(b"\x16");
            assert!(matches!(step, Step::StartTls(_)));
        }
        Fresh => drop(peer.say(b"SUB x 1\r\nPING\r\n")),
        Unauthenticated => drop(peer.say(b"")),
        Checking => drop(peer.say(CONNECT.as_bytes())),
        Checked => {
            peer.say(CONNECT.as_bytes());
            house.check_passwords();
        }
        Connected => drop(peer.say(format!("{CONNECT}SUB x 1\r\nPING\r\n").as_bytes())),
        Publishing => {
            let text = format!("{CONNECT}SUB x 1\r\nPING\r\nPUB x 6\r\nabc");
            peer.say(text.as_bytes());
        }
    }
    peer.heard();
    peer
}

/// A server certificate on disk, as long as this exists.
struct Certificate(PathBuf);

impl Certificate {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("midge-reload-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let authority = Authority::new("test");
        let pair = authority.issue(Wanted { names: &["localhost"], ..Wanted::default() });
        std::fs::write(folder.join("certificate.pem"), &pair.certificate_pem).expect("a file");
        std::fs::write(folder.join("key.pem"), &pair.key_pem).expect("a file");
        Self(folder)
    }

    fn server(&self, first: HandshakeFirst) -> Arc<TlsServer> {
        let path = self.0.display();
        let text = format!(
            "tls {{ cert_file: \"{path}/certificate.pem\", key_file: \"{path}/key.pem\" }}"
        );
        let mut tls = from_disk(&text).tls.clone().expect("the block is there");
        tls.handshake_first = first;
        Arc::new(TlsServer::build(&tls, false).expect("a certificate with its key"))
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        // Files left in the temporary folder do no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns what the peer is sent after the reload, and then after `probe`.
fn outcome(stage: Stage, before: &str, after: &str, probe: &str) -> [String; 2] {
    let tls = match stage {
        TlsFirst => Some(Certificate::new().server(HandshakeFirst::Always)),
        Handshake => Some(Certificate::new().server(HandshakeFirst::Never)),
        _ => None,
    };
    let house = House::new(before, tls);
    let mut peer = bring_to(stage, &house);
    house.reload(after);
    peer.session.catch_up_with_reload();
    let first = peer.told();
    let is_closed = peer.session.outbox().is_closing();
    if matches!(stage, TlsFirst | Handshake) && !is_closed {
        if stage == TlsFirst {
            assert!(matches!(peer.say(b"\x16"), Step::StartTls(_)));
        }
        // The handshake's bytes are handled by the connection.
        peer.input.consume(peer.input.bytes().len());
        peer.session.tls_ended(Ok(TlsFacts {
            version: "1.3",
            cipher_suite: "TLS13_AES_128_GCM_SHA256".into(),
            peer_certificates: Vec::new().into(),
        }));
    }
    if !is_closed {
        peer.say(probe.as_bytes());
        house.check_passwords();
        peer.say(b"");
    }
    let second = if is_closed { String::new() } else { peer.told() };
    // A closed session does nothing any more.
    if peer.session.outbox().is_closing() {
        let unread = peer.input.bytes().len();
        assert!(matches!(peer.say(b"SUB late 9\r\n"), Step::Close(_)));
        assert_eq!(peer.input.bytes().len(), unread + 12, "nothing was carried out");
    }
    [first, second]
}

fn from_disk(text: &str) -> Arc<Options> {
    struct Disk<'a>(&'a str);
    impl Surroundings for Disk<'_> {
        fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
            match path == Path::new("f") {
                true => Ok(self.0.as_bytes().to_vec()),
                false => std::fs::read(path),
            }
        }
        fn variable(&self, _name: &str) -> Option<OsString> {
            None
        }
    }
    let loaded = load_file(Path::new("f"), &Disk(text), false);
    Arc::new(loaded.unwrap_or_else(|errors| panic!("{errors}")).options)
}

const VIOLATION: &str = "-ERR 'Authorization Violation' closed: Authentication Failure";
const GONE: &str = "closed: Client Closed";
/// A server that starts to require logins does not say so before.
const SILENT: &str = "";

/// Checks rows of one kind of change: the stage, what is sent after the reload, and what after the
/// probe.
fn check(kind: &str, after: &str, open: bool, probe: &str, rows: &[(Stage, &str, &str)]) {
    for (stage, first, second) in rows {
        let got = outcome(*stage, &before(*stage, open), after, probe);
        assert_eq!(got, [*first, *second], "{kind}: {stage:?}");
    }
}

const PROBE: &str = "PING\r\n";
/// Returns what a client sends that was not let in yet.
fn connect_probe() -> String {
    format!("{CONNECT}PING\r\n")
}

#[test]
fn logins_that_become_required_are_required_of_everybody() {
    // A peer that could not say anything yet is asked to log in; one that has spoken is closed, as
    // in nats-server.
    check(
        "logins on",
        USERS,
        true,
        PROBE,
        &[(TlsFirst, SILENT, VIOLATION), (Handshake, SILENT, VIOLATION), (Fresh, VIOLATION, "")],
    );
    check(
        "logins on, then CONNECT",
        USERS,
        true,
        &connect_probe(),
        &[(TlsFirst, SILENT, "PONG"), (Handshake, SILENT, "PONG")],
    );
    // A client that gave the right name and password before they were required stays.
    check("logins on", USERS, true, PROBE, &[(Connected, "", "PONG")]);
    let others = USERS.replace("password: test", "password: x");
    check("logins on for others", &others, true, PROBE, &[(Connected, VIOLATION, "")]);
}

#[test]
fn logins_that_are_no_longer_required_leave_everybody_in() {
    check(
        "logins off",
        "",
        false,
        &connect_probe(),
        &[
            (TlsFirst, SILENT, "PONG"),
            (Handshake, SILENT, "PONG"),
            (Unauthenticated, SILENT, "PONG"),
        ],
    );
    // INFO has not been sent, so nothing was asked. Where it was, the answer is still awaited.
    check(
        "logins off, no CONNECT",
        "",
        false,
        PROBE,
        &[
            (TlsFirst, SILENT, "PONG"),
            (Handshake, SILENT, VIOLATION),
            (Unauthenticated, SILENT, VIOLATION),
            (Checking, SILENT, "PONG"),
            (Checked, SILENT, "PONG"),
            (Connected, SILENT, "PONG"),
        ],
    );
}

#[test]
fn a_removed_user_is_nobody_at_every_stage() {
    let after = "authorization { users: [ {user: b, password: b} ] }";
    check(
        "user removed",
        after,
        false,
        &connect_probe(),
        &[
            (TlsFirst, SILENT, VIOLATION),
            (Handshake, SILENT, VIOLATION),
            (Unauthenticated, SILENT, VIOLATION),
            (Checking, GONE, ""),
            (Checked, GONE, ""),
            (Connected, GONE, ""),
            (Publishing, GONE, ""),
        ],
    );
    // The same where an unknown name costs a comparison.
    let decoy = format!("authorization {{ users: [ {{user: b, password: \"{HASH}\"}} ] }}");
    check(
        "user removed, decoy",
        &decoy,
        false,
        PROBE,
        &[(Checking, GONE, ""), (Checked, GONE, ""), (Connected, GONE, "")],
    );
}

#[test]
fn a_changed_password_is_required_at_every_stage() {
    let plain = USERS.replace("password: test", "password: x");
    check(
        "password changed",
        &plain,
        false,
        &connect_probe(),
        &[
            (TlsFirst, SILENT, VIOLATION),
            (Handshake, SILENT, VIOLATION),
            (Unauthenticated, SILENT, VIOLATION),
            (Checking, VIOLATION, ""),
            (Checked, VIOLATION, ""),
            (Connected, VIOLATION, ""),
            (Publishing, VIOLATION, ""),
        ],
    );
    // A hash of another password: a check in progress is repeated, and fails.
    let hash = USERS.replace("password: test", &format!("password: \"{OTHER_HASH}\""));
    check(
        "hash changed",
        &hash,
        false,
        "",
        &[(Checking, SILENT, VIOLATION), (Checked, SILENT, VIOLATION), (Connected, GONE, "")],
    );
    check(
        "plain now",
        USERS,
        false,
        PROBE,
        &[(Checking, SILENT, "PONG"), (Checked, SILENT, "PONG")],
    );
    check(
        "the same",
        &hashed(),
        false,
        PROBE,
        &[(Checking, SILENT, "PONG"), (Checked, SILENT, "PONG")],
    );
}

#[test]
fn removed_rights_are_gone_at_every_stage() {
    let limited =
        |text: &str| text.replace("user: a,", "user: a, permissions: {publish: y, subscribe: y},");
    let denied = "-ERR 'Permissions Violation for Publish to \"x\"' \
                  -ERR 'Permissions Violation for Subscription to \"x\"' PONG";
    let probe = "PUB x 1\r\nm\r\nSUB x 2\r\nPING\r\n";
    let with_connect = format!("{CONNECT}{probe}");
    check(
        "rights taken",
        &limited(USERS),
        false,
        &with_connect,
        &[
            (TlsFirst, SILENT, denied),
            (Handshake, SILENT, denied),
            (Unauthenticated, SILENT, denied),
        ],
    );
    let removed = "-ERR 'Permissions Violation for Subscription to \"x\" (sid \"1\")'";
    check("rights taken", &limited(USERS), false, probe, &[(Connected, removed, denied)]);
    check(
        "rights taken",
        &limited(&hashed()),
        false,
        probe,
        &[(Checking, SILENT, denied), (Checked, SILENT, denied)],
    );
    let rest = "def\r\nPING\r\n";
    // The message began when it was allowed, and is judged when it is complete.
    let refused = "-ERR 'Permissions Violation for Publish to \"x\"' PONG";
    check("rights taken", &limited(USERS), false, rest, &[(Publishing, removed, refused)]);
}

#[test]
fn another_account_is_another_life() {
    let moved = "accounts { A { users: [ {user: a, password: test} ] }, \
                 B { users: [ {user: b, password: b} ] } }";
    check(
        "moved",
        moved,
        false,
        &connect_probe(),
        &[
            (TlsFirst, SILENT, "PONG"),
            (Handshake, SILENT, "PONG"),
            (Unauthenticated, SILENT, "PONG"),
            (Checking, SILENT, "PONG PONG"),
            (Checked, SILENT, "PONG PONG"),
            (Connected, GONE, ""),
            (Publishing, GONE, ""),
        ]
        .map(|(stage, first, second)| match stage {
            // A second CONNECT of a client that is already let in, and its PING.
            Checking | Checked => (stage, first, "PONG"),
            _ => (stage, first, second),
        }),
    );
}

#[test]
fn the_servers_limits_apply_at_every_stage() {
    let large = "-ERR 'Maximum Payload Violation' closed: Maximum Message Payload Exceeded";
    let long = "-ERR 'maximum control line exceeded' closed: Maximum Control Line Exceeded";
    let line = format!("SUB {} 2\r\nPING\r\n", "y".repeat(300));
    for (limit, probe, expected) in [
        ("max_payload: 3\n", "PUB x 4\r\nmmmm\r\n", large),
        ("max_control_line: 200\n", line.as_str(), long),
    ] {
        let after = format!("{limit}{USERS}");
        let with_connect = format!("{CONNECT}{probe}");
        check(
            limit,
            &after,
            false,
            &with_connect,
            &[
                (TlsFirst, SILENT, expected),
                (Handshake, SILENT, expected),
                (Unauthenticated, SILENT, expected),
            ],
        );
        check(limit, &after, false, probe, &[(Connected, SILENT, expected)]);
        check(
            limit,
            &format!("{limit}{}", hashed()),
            false,
            probe,
            &[(Checking, SILENT, expected), (Checked, SILENT, expected)],
        );
        check(
            limit,
            limit,
            true,
            probe,
            &[
                (TlsFirst, SILENT, expected),
                (Handshake, SILENT, expected),
                (Fresh, SILENT, expected),
            ],
        );
    }
    // An incomplete message is judged by the limits in force once it is complete.
    let after = format!("max_payload: 3\n{USERS}");
    let rest = "def\r\nPING\r\n";
    check("in a message", &after, false, rest, &[(Publishing, SILENT, large)]);
}

#[test]
fn mappings_apply_at_every_stage() {
    let mapped = "MSG x 1 1 m PONG";
    let probe = "PUB z 1\r\nm\r\nPING\r\n";
    let subscribing = format!("SUB x 1\r\n{probe}");
    let global = "mappings { z: x }\n";
    check("mappings", global, true, probe, &[(Fresh, SILENT, &format!("+OK {mapped}"))]);
    check("mappings", global, true, probe, &[(Connected, SILENT, mapped)]);
    let acknowledged = format!("+OK +OK {mapped}");
    check(
        "mappings",
        global,
        true,
        &subscribing,
        &[(TlsFirst, SILENT, &acknowledged), (Handshake, SILENT, &acknowledged)],
    );
    let with_connect = format!("{CONNECT}{subscribing}");
    let after = format!("{global}{USERS}");
    check("mappings", &after, false, &with_connect, &[(Unauthenticated, SILENT, mapped)]);
    check("mappings", &after, false, probe, &[(Connected, SILENT, mapped)]);
    let after = format!("{global}{}", hashed());
    check(
        "mappings",
        &after,
        false,
        &subscribing,
        &[(Checking, SILENT, mapped), (Checked, SILENT, mapped)],
    );
}

/// A client that came in the clear stays so: the requirement is for those who come later, as in
/// nats-server.
#[test]
fn tls_that_becomes_required_is_required_of_newcomers_only() {
    for (stage, open) in [(Fresh, true), (Unauthenticated, false), (Connected, false)] {
        let text = before(stage, open);
        let house = House::new(&text, None);
        let mut peer = bring_to(stage, &house);
        let server = Certificate::new().server(HandshakeFirst::Never);
        *house.context.tls.borrow_mut() = Some(server);
        house.reload(&text);
        peer.session.catch_up_with_reload();
        assert_eq!(peer.told(), "", "{stage:?}");
        peer.say(connect_probe().as_bytes());
        assert!(peer.told().ends_with("PONG"), "{stage:?}");
        let mut newcomer = house.enter();
        assert!(matches!(newcomer.say(b"\x16"), Step::StartTls(_)));
    }
}

/// A peer's own bytes come before the shard's walk over all sessions: no command passes by the old
/// rules.
#[test]
fn a_session_is_reviewed_before_its_next_command() {
    let house = House::new("", None);
    let mut peer = bring_to(Fresh, &house);
    house.reload(USERS);
    assert!(matches!(peer.say(b"PUB x 1\r\nm\r\n"), Step::Close(_)));
    assert_eq!(peer.told(), VIOLATION);
}

#[test]
fn a_reload_is_applied_once() {
    let house = House::new(USERS, None);
    let mut peer = bring_to(Connected, &house);
    house.reload(&USERS.replace("user: a,", "user: a, permissions: {subscribe: y},"));
    peer.session.catch_up_with_reload();
    assert!(peer.told().contains("(sid \"1\")"));
    peer.session.catch_up_with_reload();
    peer.say(b"PING\r\n");
    assert_eq!(peer.told(), "PONG");
}

/// A client that moves from one shard to another when only one of the two has applied the reload.
#[test]
fn a_client_that_changes_shards_obeys_the_newer_of_two_configurations() {
    let config = |users: &str| format!("authorization {{ users: [{users}] }}");
    let (old, new) = (config("{user: a, password: a}"), config("{user: b, password: b}"));
    let connect =
        |user| format!("CONNECT {{\"verbose\":false,\"user\":\"{user}\",\"pass\":\"{user}\"}}\r\n");
    for from_is_ahead in [true, false] {
        let (from, to) = (House::new(&old, None), House::new(&old, None));
        if from_is_ahead {
            from.reload(&new);
        } else {
            to.reload(&new);
        }
        let mut peer = from.enter();
        peer.say(connect(if from_is_ahead { "b" } else { "a" }).as_bytes());
        peer.say(b"PING\r\n");
        assert_eq!(peer.told(), "PONG");
        let mut peer = to.take_over(peer);
        let step = peer.say(b"SUB x 1\r\nPING\r\n");
        if from_is_ahead {
            assert_eq!(peer.told(), "PONG", "it is let in by what this shard does not know yet");
            to.reload(&new);
            peer.say(b"PING\r\n");
            assert_eq!(peer.told(), "PONG", "and stays when it does");
            assert_eq!(to.context.broker.borrow().subscription_total(), 1);
        } else {
            assert!(matches!(step, Step::Close(CloseReason::ClientClosed)), "its user is gone");
            assert_eq!(to.context.broker.borrow().subscription_total(), 0);
        }
        assert_eq!(from.context.broker.borrow().subscription_total(), 0);
    }
}

/// The walks of two shards over their sessions, and a client that moves from one to the other
/// before, between or after them.
#[test]
fn a_client_that_changes_shards_is_told_of_lame_duck_mode_once() {
    let announcements = |peer: &Peered| peer.heard_with_info().matches("\"ldm\":true").count();
    for (told_before, to_knows) in [(true, true), (true, false), (false, true), (false, false)] {
        let (from, to) = (House::new("", None), House::new("", None));
        let mut peer = from.enter();
        peer.say(b"CONNECT {\"verbose\":false,\"protocol\":1}\r\nPING\r\n");
        from.enter_lame_duck_mode();
        if told_before {
            peer.session.tell_of_lame_duck();
        }
        if to_knows {
            to.enter_lame_duck_mode();
        }
        let mut heard = announcements(&peer);
        let mut peer = to.take_over(peer);
        heard += announcements(&peer);
        assert_eq!(heard, usize::from(told_before || to_knows));
        if !to_knows {
            to.enter_lame_duck_mode();
        }
        peer.session.tell_of_lame_duck();
        assert_eq!(heard + announcements(&peer), 1, "told before: {told_before}, {to_knows}");
    }
}
