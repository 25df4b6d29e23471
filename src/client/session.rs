//! One NATS client: commands in, broker verbs out.
//!
//! Source of behaviour: nats-server server/client.go, checked against PROTOCOL transcripts. What an error
//! closes and what it leaves open is decided here, the texts are in `protocol::nats::error`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::connect::{LoginWait, unlimited_if_zero};
use super::opening::Opening;
use super::rare_lines::{RareLines, SAME_LINE_INTERVAL, SUBSCRIPTION_LIMIT_INTERVAL};
use crate::auth::authenticator::Identity;
use crate::auth::certificate::CertificateNames;
use crate::auth::mapping::Mapped;
use crate::auth::password::{PasswordJob, PasswordOutcome};
use crate::auth::permissions::{Permissions, PublishRight, SubscribeRight, is_reserved_reply};
use crate::auth::state::AuthState;
use crate::base::counters::Gauge;
use crate::base::ids::{AccountId, ClientKey, ConnectionId};
use crate::base::limits::{CHUNK_BYTES, PACE_MS_MAX, POOLED_BYTES_MAX, STALL_MS_LOGGED_MIN};
use crate::base::pool::BufferPool;
use crate::broker::outbox::{Outbox, ReplyTracker};
use crate::broker::router::{Publisher, RouteCache, Turn, pace_target};
use crate::broker::trace::{Trace, Way};
use crate::broker::{Broker, BrokerHandle};
use crate::client::who::log_client;
use crate::config::go_text::{SignedDuration, format_duration};
use crate::config::options::Options;
use crate::net::listener::Peer;
use crate::net::read_buffer::ReadBuffer;
use crate::net::session::{Session, Step, Wait};
use crate::net::tls::{TlsFacts, TlsFailure};
use crate::net::tls_config::TlsServer;
use crate::protocol::message::{Message, MessageRun, Tail};
use crate::protocol::nats::command::{Command, Publish};
use crate::protocol::nats::complaint;
use crate::protocol::nats::encode;
use crate::protocol::nats::error::{CloseReason, ProtocolError, quoted, text};
use crate::protocol::nats::handshake::{ConnectOptions, Info, Text};
use crate::protocol::nats::parser::{Parsed, Parser, ParserLimits, parse_unsubscribe_max};
use crate::protocol::nats::plain::{
    PLAIN_LINE_BYTES_MAX, extend_run, known_part, plain_publish, repeated_publish,
};
use crate::protocol::subject;

/// What the sessions of one shard share.
pub struct ClientContext {
    pub broker: BrokerHandle,
    pub options: RefCell<Arc<Options>>,
    /// INFO without what is one connection's own.
    pub info: RefCell<Arc<Info>>,
    pub chunk_pool: Rc<BufferPool>,
    /// What connections accepted from now on speak; None = plain. A reload puts another one here.
    pub tls: RefCell<Option<Arc<TlsServer>>>,
    pub counters: ShardCounters,
    pub auth: RefCell<Arc<AuthState>>,
    /// What everybody may do before a login says otherwise.
    pub open_permissions: Arc<Permissions>,
    /// Has a password checked off the shard; the outcome comes back by `password_checked`.
    pub check_password: Box<dyn Fn(ConnectionId, PasswordJob)>,
    /// Logins whose password is being checked.
    pub logins: RefCell<HashMap<ConnectionId, Rc<LoginWait>>>,
    pub random: RefCell<fastrand::Rng>,
    /// Scratch space for a mapped subject.
    pub mapped: RefCell<Vec<u8>>,
    /// Scratch space for a run of messages.
    pub tails: RefCell<Vec<Tail>>,
    pub rare_lines: RareLines,
    /// Told of logins, in the middle of a turn: it may publish, and must not wait or touch the session.
    pub report: Box<Reporter>,
}

/// Who is told of logins.
pub type Reporter = dyn Fn(&mut Broker, &ClientSession, Report);

/// What becomes of somebody who wants to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// With the account it was in before, if it was another one.
    LoggedIn {
        left: Option<Arc<str>>,
    },
    Refused,
}

impl ClientContext {
    /// Of clients that speak plain, whose hashed passwords nobody checks and whose logins nobody is told of.
    pub fn plain(
        broker: BrokerHandle,
        options: Arc<Options>,
        auth: Arc<AuthState>,
        random_seed: u64,
    ) -> Self {
        Self {
            broker,
            options: RefCell::new(options),
            info: RefCell::default(),
            chunk_pool: Rc::new(BufferPool::new(&CHUNK_BYTES, POOLED_BYTES_MAX)),
            tls: RefCell::new(None),
            counters: ShardCounters::default(),
            auth: RefCell::new(auth),
            open_permissions: Arc::new(Permissions::unrestricted(false)),
            check_password: Box::new(|_, _| {}),
            logins: RefCell::default(),
            random: RefCell::new(fastrand::Rng::with_seed(random_seed)),
            mapped: RefCell::default(),
            tails: RefCell::default(),
            rare_lines: RareLines::default(),
            report: Box::new(|_, _, _| {}),
        }
    }

    /// The outcome of a password check. A client that went away meanwhile no longer waits for it.
    pub fn password_checked(&self, id: ConnectionId, outcome: PasswordOutcome) {
        if let Some(wait) = self.logins.borrow_mut().remove(&id) {
            wait.outcome.set(Some(outcome));
            wait.gate.advance_to(1);
        }
    }
}

/// What this shard's clients did, closed ones included.
#[derive(Default)]
pub struct ShardCounters {
    pub in_messages: Cell<u64>,
    pub in_bytes: Cell<u64>,
    pub slow_consumers: Cell<u64>,
    pub stale_connections: Cell<u64>,
}

/// How far the login got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing seen yet; any verb works.
    Fresh,
    /// Nothing but CONNECT is accepted before the deadline.
    Unauthenticated,
    /// Waits for the offload thread.
    CheckingPassword,
    Connected,
    /// Refused at accept: told so and closed.
    Refused,
}

/// See the module's words.
pub struct ClientSession {
    pub id: ConnectionId,
    pub(super) context: Rc<ClientContext>,
    pub peer: Peer,
    pub(super) key: ClientKey,
    pub(super) account: AccountId,
    /// Boxed, as what follows of its kind: without logins or TLS nobody has it.
    pub(super) identity: Option<Box<Identity>>,
    pub(super) permissions: Arc<Permissions>,
    pub(super) replies: Option<Rc<ReplyTracker>>,
    pub(super) account_gauge: Option<Gauge>,
    pub(super) has_mappings: bool,
    /// Present from the first message on.
    publishing: Option<Box<Publishing>>,
    /// What INFO asked this client to sign; empty = nothing.
    pub(super) nonce: Text,
    pub(super) login_wait: Option<Rc<LoginWait>>,
    pub(super) outbox: Rc<Outbox>,
    pub(super) connect: ConnectOptions,
    pub(super) stage: Stage,
    /// The listener's TLS when this connection was accepted.
    pub(super) tls_server: Option<Arc<TlsServer>>,
    pub(super) opening: Opening,
    /// INFO comes after the handshake.
    pub tls_first: bool,
    /// Once the connection speaks TLS.
    pub tls: Option<Box<TlsFacts>>,
    /// What the peer's own certificate calls it.
    pub(super) certificate: Option<Box<CertificateNames>>,
    /// When commands could come first: the time to log in counts from here.
    pub(super) opened_at: Instant,
    pub(super) limits: ParserLimits,
    parser: Parser,
    pub(super) subscriptions_max: usize,
    pub(super) subject_tokens_max: usize,
    pub(super) trace: Option<Rc<Trace>>,
    first_pong_sent: bool,
    pub(super) detached: bool,
    pub(super) ping_at: Instant,
    pub(super) pings_outstanding: u32,
    /// None = no PING yet; what there is of a round-trip time is then an estimate.
    ping_sent: Option<Instant>,
    pub(super) rtt: Option<Duration>,
    /// When it began to wait for consumers that are slower, if it does.
    stalled_since: Option<Instant>,
    /// Set by any batch, looked at and cleared by a tick.
    active_at: Instant,
    active: bool,
    /// The same of batches that had something to do with messages: what monitoring calls activity.
    pub(super) moved_at: Instant,
    pub(super) moved: bool,
    /// Kept for monitoring when the connection ends.
    pub(super) last_subscriptions: Option<Box<super::facts::LastSubscriptions>>,
    pub started: Instant,
    pub in_messages: u64,
    pub in_bytes: u64,
}

/// What a client has that publishes. Taken out of the session for a batch: others do without the memory.
#[derive(Default)]
struct Publishing {
    /// How a plain PUB on the last subject begins, if nothing but that subject decides what becomes of it:
    /// no mapping, no pedantry, no `+OK`, and it may be published to whatever was answered before. Empty = none.
    known_line: Vec<u8>,
    route_cache: RouteCache,
    /// Whether the subject of `route_cache` may be published to whatever was answered before.
    route_allowed: bool,
    turn: Turn,
}

const _: () = assert!(
    size_of::<RefCell<ClientSession>>() + 2 * size_of::<usize>() <= 512,
    "with the counts of its Rc it fills one of the allocator's sizes: every connection has one"
);

impl Publishing {
    /// What was decided or matched for the last subject held for another account or other rights.
    fn forget_answers(&mut self) {
        self.route_allowed = false;
        self.known_line.clear();
        self.route_cache = RouteCache::default();
    }
}

/// How old a round-trip time may be before a busy connection is pinged for a fresh one.
const RTT_AGE_MAX: Duration = Duration::from_secs(3600);

impl ClientSession {
    /// A session for a connection just accepted. `refused`: the server has as many clients as it may.
    pub fn new(
        id: ConnectionId,
        peer: Peer,
        context: Rc<ClientContext>,
        refused: bool,
        now: Instant,
    ) -> Self {
        let options = context.options.borrow().clone();
        let outbox =
            Rc::new(Outbox::new(id, context.chunk_pool.clone(), options.limits.pending_bytes_max));
        let key = context.broker.borrow_mut().attach(AccountId::GLOBAL, outbox.clone());
        let auth = context.auth.borrow().clone();
        let stage = match (refused, auth.authenticator.is_required()) {
            (true, _) => Stage::Refused,
            (false, true) => Stage::Unauthenticated,
            (false, false) => Stage::Fresh,
        };
        let nonce = match auth.authenticator.needs_nonce() {
            true => new_nonce().into(),
            false => Text::default(),
        };
        let tls_server = context.tls.borrow().clone();
        let (opening, tls_first) = Opening::of(tls_server.as_deref(), &peer);
        Self {
            id,
            peer,
            key,
            account: AccountId::GLOBAL,
            identity: None,
            permissions: context.open_permissions.clone(),
            replies: None,
            account_gauge: None,
            has_mappings: !auth.authenticator.accounts().global().mappings.is_empty(),
            publishing: None,
            nonce,
            login_wait: None,
            outbox,
            connect: ConnectOptions::default(),
            stage,
            tls_server,
            opening,
            tls_first,
            tls: None,
            certificate: None,
            opened_at: now,
            limits: ParserLimits {
                control_line_bytes_max: options.limits.control_line_bytes_max,
                payload_bytes_max: options.limits.payload_bytes_max,
                headers: false,
            },
            parser: Parser::default(),
            subscriptions_max: unlimited_if_zero(options.limits.subscriptions_max),
            subject_tokens_max: options.limits.subject_tokens_max,
            trace: None,
            first_pong_sent: false,
            detached: false,
            ping_at: now + options.keep_alive.ping_interval,
            pings_outstanding: 0,
            ping_sent: None,
            rtt: None,
            stalled_since: None,
            active_at: now,
            active: false,
            moved_at: now,
            moved: false,
            last_subscriptions: None,
            started: now,
            in_messages: 0,
            in_bytes: 0,
            context,
        }
    }

    /// The line about one client too many.
    pub fn say_refused(&self) {
        self.log_rarely(text::MAXIMUM_CONNECTIONS);
    }

    /// INFO as this connection sees it.
    pub(super) fn own_info(&self) -> Info {
        let shared = self.context.info.borrow().clone();
        let auth = self.context.auth.borrow().clone();
        self.tls_info(Info {
            client_id: Some(self.id.0),
            client_ip: Some(self.peer.host()),
            nonce: (!self.nonce.is_empty()).then(|| self.nonce.to_string()),
            auth_required: auth.authenticator.is_announced(),
            ..Info::clone(&shared)
        })
    }

    pub(super) fn push_info(&self) {
        self.outbox.push_bytes(&self.own_info().line());
    }

    /// Tells a client that keeps up with INFO that something changed.
    pub fn push_async_info(&self) {
        if self.reads_async_info() {
            self.outbox.push_bytes(&self.own_info().line());
        }
    }

    /// Tells this client alone to look for another server; false if it would not understand.
    pub fn push_lame_duck_info(&self) -> bool {
        if self.reads_async_info() {
            self.outbox.push_bytes(&Info { lame_duck: true, ..self.own_info() }.line());
        }
        self.reads_async_info()
    }

    fn reads_async_info(&self) -> bool {
        self.connect.protocol >= 1 && self.first_pong_sent
    }

    pub(super) fn report(&self, broker: &mut Broker, report: Report) {
        (self.context.report)(broker, self, report);
    }

    fn execute(
        &mut self,
        broker: &mut Broker,
        publishing: &mut Publishing,
        command: Command,
        input: &[u8],
    ) -> Result<(), CloseReason> {
        if let Some(trace) = &self.trace {
            trace_in(trace, &command, input);
        }
        match command {
            Command::Publish(publish) => {
                self.publish_parsed(broker, publishing, publish, input);
            }
            Command::Subscribe { subject, queue, sid, .. } => {
                self.moved = true;
                self.subscribe(broker, subject.of(input), queue.of(input), sid.of(input));
            }
            Command::Unsubscribe { sid, max, .. } => {
                self.moved = true;
                broker.unsubscribe(self.key, sid.of(input), parse_unsubscribe_max(max.of(input)));
                self.ok();
            }
            Command::Ping => self.pong(),
            Command::Pong => {
                self.pings_outstanding = 0;
                if let Some(sent) = self.ping_sent {
                    self.rtt = Some(sent.elapsed());
                }
            }
            Command::Connect { json } => {
                publishing.forget_answers();
                return self.connected(broker, json.of(input));
            }
            Command::Info { json } => {
                if serde_json::from_slice::<serde_json::Value>(json.of(input)).is_err() {
                    return Err(CloseReason::ProtocolViolation);
                }
            }
            Command::Ok => {}
            Command::Error { text } => {
                self.log_error(&format!(
                    "Client Error {}",
                    String::from_utf8_lossy(text.of(input))
                ));
                return Err(ProtocolError::PeerError.close_reason());
            }
        }
        Ok(())
    }

    fn publish_parsed(
        &mut self,
        broker: &mut Broker,
        publishing: &mut Publishing,
        publish: Publish,
        input: &[u8],
    ) {
        let body = publish.body.of(input);
        let message = Message {
            subject: publish.subject.of(input),
            reply: publish.reply.of(input),
            headers: &body[..publish.header_size as usize],
            body,
            header_size_text: publish.header_size_text.of(input),
            size_text: publish.size_text.of(input),
            tail: b"",
        };
        self.publish(broker, publishing, &message);
    }

    fn publish(&mut self, broker: &mut Broker, publishing: &mut Publishing, message: &Message<'_>) {
        // The route cache is about to hold this subject.
        publishing.known_line.clear();
        self.in_messages += 1;
        self.in_bytes += message.body.len() as u64;
        if self.connect.pedantic && !subject::is_valid_literal(message.subject) {
            self.outbox.push_error(text::INVALID_PUBLISH_SUBJECT);
        }
        if self.has_mappings {
            let mut mapped = self.context.mapped.take();
            if self.map_subject(message.subject, &mut mapped) {
                let message = Message { subject: &mapped, ..*message };
                self.publish_mapped(broker, publishing, &message);
            } else {
                self.ok();
            }
            self.context.mapped.replace(mapped);
        } else {
            self.publish_mapped(broker, publishing, message);
        }
    }

    /// Publishes a message whose line began with `known_line`.
    #[inline]
    fn publish_again(
        &mut self,
        broker: &mut Broker,
        publishing: &mut Publishing,
        message: &Message<'_>,
    ) {
        if !message.reply.is_empty() && is_reserved_reply(message.reply) {
            return self.publish(broker, publishing, message);
        }
        self.in_messages += 1;
        self.in_bytes += message.body.len() as u64;
        self.hand_over(broker, publishing, message, Broker::publish_again);
    }

    /// Publishes a message whose line began with `known_line`, and what follows it on the same subject. Returns the
    /// bytes they took.
    #[inline]
    fn publish_onwards(
        &mut self,
        broker: &mut Broker,
        publishing: &mut Publishing,
        input: &[u8],
        first: &Message<'_>,
        consumed: usize,
    ) -> usize {
        if !first.reply.is_empty() {
            self.publish_again(broker, publishing, first);
            return consumed;
        }
        let Publishing { route_cache, turn, known_line, .. } = publishing;
        let messages_max = broker.run_max(self.account, route_cache, turn);
        if messages_max < 2 {
            self.publish_again(broker, publishing, first);
            return consumed;
        }
        let mut tails = self.context.tails.take();
        let limits = &self.limits;
        let consumed =
            extend_run(input, known_line, first, consumed, messages_max, limits, &mut tails);
        let run = MessageRun::new(first.subject, input, &tails);
        self.in_messages += run.len() as u64;
        self.in_bytes += run.body_bytes() as u64;
        broker.publish_run(&self.publisher(), &run, route_cache, turn);
        self.context.tails.replace(tails);
        consumed
    }

    /// Who this session publishes as.
    #[inline]
    fn publisher(&self) -> Publisher {
        Publisher { client: self.key, account: self.account, echo: self.connect.echo }
    }

    /// Remembers how the line of a message just published began, if the next one like it needs no second
    /// look.
    fn learn_line(&self, publishing: &mut Publishing, input: &[u8], message: &Message<'_>) {
        let is_answered = self.connect.pedantic || self.connect.verbose;
        if publishing.route_allowed && !self.has_mappings && !is_answered {
            debug_assert!(publishing.route_cache.subject() == message.subject);
            publishing.known_line.extend_from_slice(known_part(input, message));
        }
    }

    /// Applies the account's subject mappings; false = the message is dropped by its weights.
    fn map_subject(&self, subject: &[u8], mapped: &mut Vec<u8>) -> bool {
        let auth = self.context.auth.borrow();
        let account = match &self.identity {
            Some(identity) => &identity.account,
            None => auth.authenticator.accounts().global(),
        };
        match account.mappings.map(subject, &mut self.context.random.borrow_mut(), mapped) {
            Mapped::Changed => true,
            Mapped::Lost => false,
            Mapped::Unchanged => {
                mapped.clear();
                mapped.extend_from_slice(subject);
                true
            }
        }
    }

    /// Whether this client may publish the message; tells it if not.
    #[inline]
    fn may_publish(&self, publishing: &mut Publishing, message: &Message<'_>) -> bool {
        if !publishing.route_allowed || publishing.route_cache.subject() != message.subject {
            // Of an open list only the reserved prefixes are left to check, and they begin with these. What is
            // decided here holds once the route cache has this subject, which it has after the publish.
            publishing.route_allowed = self.permissions.is_publish_open()
                && !matches!(message.subject.first(), Some(b'_' | b'$'));
            if !publishing.route_allowed {
                match self.permissions.may_publish(message.subject) {
                    PublishRight::Allowed => publishing.route_allowed = true,
                    PublishRight::OnlyAsReply if self.answers(message.subject) => {}
                    PublishRight::OnlyAsReply | PublishRight::Denied => {
                        let subject = quoted(message.subject);
                        self.violation(
                            &format!("Permissions Violation for Publish to {subject}"),
                            &format!("Publish Violation - Subject {subject}"),
                        );
                        return false;
                    }
                }
            }
        }
        if !message.reply.is_empty() && is_reserved_reply(message.reply) {
            let reply = quoted(message.reply);
            self.violation(
                &format!("Permissions Violation for Publish with Reply of {reply}"),
                &format!("Publish Violation - Reply {reply}"),
            );
            // The route cache still holds another subject: a line like this one is not to be learnt.
            publishing.route_allowed = false;
            return false;
        }
        true
    }

    /// What was decided or matched for the last subject held for another account or other rights.
    pub(super) fn forget_answers(&mut self) {
        if let Some(publishing) = &mut self.publishing {
            publishing.forget_answers();
        }
    }

    /// Whether the subject is a reply this client was given and may still answer.
    #[cold]
    fn answers(&self, subject: &[u8]) -> bool {
        let (Some(tracker), Some(rule)) = (&self.replies, self.permissions.responses()) else {
            return false;
        };
        tracker.table.borrow_mut().use_up(subject, rule, Instant::now())
    }

    #[inline]
    fn publish_mapped(
        &mut self,
        broker: &mut Broker,
        publishing: &mut Publishing,
        message: &Message<'_>,
    ) {
        if self.may_publish(publishing, message) {
            self.hand_over(broker, publishing, message, Broker::publish);
        }
    }

    /// Gives the broker a message that may be published, by one of its two ways to take one.
    #[inline(always)]
    fn hand_over(
        &mut self,
        broker: &mut Broker,
        publishing: &mut Publishing,
        message: &Message<'_>,
        publish: impl Fn(&mut Broker, &Publisher, &Message<'_>, &mut RouteCache, &mut Turn) -> bool,
    ) {
        self.ok();
        let publisher = self.publisher();
        let Publishing { route_cache, turn, .. } = publishing;
        let delivered = publish(broker, &publisher, message, route_cache, turn);
        if !delivered && self.connect.no_responders && !message.reply.is_empty() {
            broker.send_no_responders(&publisher, message.subject, message.reply);
        }
    }

    fn subscribe(&mut self, broker: &mut Broker, filter: &[u8], queue: &[u8], sid: &[u8]) {
        let named_queue = (!queue.is_empty()).then_some(queue);
        let deny = match self.permissions.may_subscribe(filter, named_queue) {
            SubscribeRight::Allowed => None,
            SubscribeRight::AllowedWithDeliveryFilter(deny) => Some(deny),
            SubscribeRight::Denied(_) => {
                self.refuse_subscription(filter, queue, sid);
                return;
            }
        };
        if self.subject_tokens_max > 0 && subject::token_count(filter) > self.subject_tokens_max {
            let subject = quoted(filter);
            self.violation(
                &format!("Permissions Violation for Subscription to {subject}, too many tokens"),
                &format!("Subscription Violation - Subject {subject}, too many tokens"),
            );
            return;
        }
        if broker.subscription_count(self.key) >= self.subscriptions_max {
            self.refuse_for_the_limit();
            return;
        }
        if !subject::is_valid_filter(filter) {
            self.outbox.push_error(text::INVALID_SUBJECT);
            return;
        }
        broker.subscribe(self.key, filter, queue, sid, deny);
        self.ok();
    }

    fn pong(&mut self) {
        self.outbox.push_bytes(encode::PONG);
        if self.first_pong_sent || self.stage != Stage::Connected {
            return;
        }
        self.first_pong_sent = true;
        if self.connect.protocol >= 1 {
            let info = Info {
                connect_info: true,
                remote_account: Some(match &self.identity {
                    Some(identity) => identity.account.name.to_string(),
                    None => "$G".into(),
                }),
                acc_is_sys: self
                    .identity
                    .as_ref()
                    .is_some_and(|identity| identity.account.is_system),
                max_payload: self.limits.payload_bytes_max,
                ..self.own_info()
            };
            self.outbox.push_bytes(&info.line());
        }
    }

    #[inline]
    pub(super) fn ok(&self) {
        if self.connect.verbose {
            self.outbox.push_bytes(encode::OK);
        }
    }

    #[cold]
    fn refuse_subscription(&self, filter: &[u8], queue: &[u8], sid: &[u8]) {
        let (filter, sid) = (quoted(filter), String::from_utf8_lossy(sid));
        if queue.is_empty() {
            self.violation(
                &format!("Permissions Violation for Subscription to {filter}"),
                &format!("Subscription Violation - Subject {filter}, SID {sid}"),
            );
        } else {
            let queue = quoted(queue);
            self.violation(
                &format!("Permissions Violation for Subscription to {filter} using queue {queue}"),
                &format!("Subscription Violation - Subject {filter}, Queue: {queue}, SID {sid}"),
            );
        }
    }

    #[cold]
    fn refuse_for_the_limit(&self) {
        let text = text::MAXIMUM_SUBSCRIPTIONS;
        self.outbox.push_error(text);
        let (lines, interval) = (&self.context.rare_lines, SUBSCRIPTION_LIMIT_INTERVAL);
        if lines.may_log(text, self.account, Instant::now(), interval) {
            self.log_error(text);
        }
    }

    /// A line in the way of nats-server's RateLimitErrorf, unless another client just had the same.
    #[cold]
    pub(super) fn log_rarely(&self, text: &'static str) {
        let (lines, now) = (&self.context.rare_lines, Instant::now());
        if lines.may_log(text, self.account, now, SAME_LINE_INTERVAL) {
            log_client!(error, self, "{text}{}", self.label_end());
        }
    }

    /// An error that leaves the connection open.
    #[cold]
    fn violation(&self, wire_text: &str, log_text: &str) {
        self.outbox.push_error(wire_text);
        self.log_error(log_text);
    }

    /// Tells what is wrong with the command that begins at `start`.
    #[cold]
    fn protocol_error(&mut self, error: ProtocolError, input: &[u8], start: usize) -> CloseReason {
        if let Some(text) = error.wire_text() {
            self.outbox.push_error(text);
        }
        self.log_error(&match error {
            ProtocolError::UnknownOperation => complaint::unknown_operation(input, start),
            ProtocolError::BadArguments(what, None) => what.to_owned(),
            ProtocolError::BadArguments(what, Some(arguments)) => {
                let arguments = arguments.of(&input[start..]);
                format!("{what}: {}", complaint::arguments(arguments))
            }
            ProtocolError::MaximumControlLine => text::MAXIMUM_CONTROL_LINE.to_owned(),
            ProtocolError::MaximumPayload { size } => {
                let max = self.limits.payload_bytes_max;
                format!("maximum payload exceeded: {size} vs {max}")
            }
            ProtocolError::PeerError => "Client Error".to_owned(),
        });
        error.close_reason()
    }

    /// What comes before a client's commands: a password check that ended, and the rule that a client who
    /// must log in begins with CONNECT, unless somebody stands in for those without credentials.
    fn before_first_command(
        &mut self,
        broker: &mut Broker,
        input: &ReadBuffer,
    ) -> Result<(), CloseReason> {
        match self.stage {
            Stage::CheckingPassword => self.password_checked(broker),
            Stage::Unauthenticated => {
                let speaks = input.bytes().first();
                if speaks.is_none_or(|byte| byte.eq_ignore_ascii_case(&b'c')) {
                    return Ok(());
                }
                if self.context.auth.borrow().authenticator.has_no_auth_user() {
                    return self.log_in(broker);
                }
                Err(self.authentication_failed(broker))
            }
            _ => Ok(()),
        }
    }

    /// Whether a PUB in its plain spelling may be taken without the parser: it is at the start of a line, and
    /// nothing but the message itself is of interest.
    fn is_quick(&self) -> bool {
        !self.parser.is_skipping()
            && self.trace.is_none()
            && self.limits.control_line_bytes_max >= PLAIN_LINE_BYTES_MAX
            && matches!(self.stage, Stage::Fresh | Stage::Connected)
    }

    /// What the reader does after the commands of this batch.
    fn end_of_batch(&mut self) -> Option<Wait> {
        let at_most = Duration::from_millis(PACE_MS_MAX);
        let turn = &mut self.publishing.as_mut()?.turn;
        if let Some(congestion) = turn.congestion.take() {
            return Some(Wait::Gate {
                gate: congestion.gate,
                until: congestion.until,
                at_most: None,
            });
        }
        if let Some((outbox, until)) = pace_target(turn, Instant::now) {
            return Some(Wait::Sent { outbox, until, at_most });
        }
        None
    }

    /// `ip:port - cid:N`; once somebody is let in also what CONNECT told of the client library, and who it is.
    pub fn label(&self) -> String {
        let mut label = format!("{}:{} - cid:{}", self.peer.host(), self.peer.port(), self.id);
        let Some(identity) = &self.identity else { return label };
        let connect = &self.connect;
        if !(connect.lang.is_empty() && connect.version.is_empty() && connect.name.is_empty()) {
            let mut parts = Vec::new();
            if !connect.version.is_empty() {
                parts.push(format!("v{}", connect.version));
            }
            for part in [&connect.lang, &connect.name] {
                if !part.is_empty() {
                    parts.push(part.to_string());
                }
            }
            label.push_str(&format!(" - {}", quoted(parts.join(":").as_bytes())));
        }
        if let Some(user) = self.user_label() {
            let who = format!("{}/{user}", identity.account.name);
            label.push_str(&format!(" - {}", quoted(who.as_bytes())));
        }
        label
    }

    fn log_error(&self, text: &str) {
        log_client!(error, self, "{text}");
    }

    /// Traces from now on, or no longer, as the options and what is known of the client say.
    pub(super) fn renew_trace(&mut self) {
        let options = self.context.options.borrow().clone();
        self.trace = options.log.trace.then(|| {
            Rc::new(Trace {
                label: self.label(),
                headers_only: options.log.trace_headers,
                shown_bytes_max: options.log.traced_message_bytes_max,
            })
        });
        self.outbox.set_trace(self.trace.clone());
    }

    /// The line nats-server writes about a publisher that slow consumers held up. Source: resetReadLoopStallTime.
    #[cold]
    fn say_stalled(&self, stalled: Duration) {
        const KIND: &str = "Producer was stalled for a total of";
        let (lines, now) = (&self.context.rare_lines, Instant::now());
        if stalled < Duration::from_millis(STALL_MS_LOGGED_MIN)
            || !lines.may_log(KIND, self.account, now, SAME_LINE_INTERVAL)
        {
            return;
        }
        let rounded = i64::try_from((stalled.as_micros() + 500) / 1000).unwrap_or(i64::MAX);
        let total = format_duration(SignedDuration(rounded.saturating_mul(1_000_000)));
        log_client!(warn, self, "{KIND} {total}{}", self.label_end());
    }

    /// The line nats-server writes about a consumer that was too slow.
    #[cold]
    fn log_slow_consumer(&self, reason: CloseReason) {
        let (chunks, bytes) = self.outbox.written_off();
        if reason == CloseReason::SlowConsumerPendingBytes {
            let max = self.outbox.pending_bytes_max();
            log_client!(info, self, "Slow Consumer Detected: MaxPending of {max} Exceeded");
            return;
        }
        let deadline = self.context.options.borrow().limits.write_deadline;
        let deadline = i64::try_from(deadline.as_nanos()).unwrap_or(i64::MAX);
        let deadline = format_duration(SignedDuration(deadline));
        log_client!(
            info,
            self,
            "Slow Consumer Detected: WriteDeadline of {deadline} exceeded with {chunks} chunks of {bytes} total bytes."
        );
    }
}

/// The lines of one command as it came.
#[cold]
fn trace_in(trace: &Trace, command: &Command, input: &[u8]) {
    let show = |verb: &str, arguments: &[u8]| trace.operation(Way::In, verb, arguments);
    match command {
        Command::Publish(publish) => {
            let verb = if publish.header_size > 0 { "HPUB" } else { "PUB" };
            show(verb, publish.arguments.of(input));
            trace.body(Way::In, publish.body.of(input), publish.header_size as usize);
        }
        Command::Subscribe { arguments, .. } => show("SUB", arguments.of(input)),
        Command::Unsubscribe { arguments, .. } => show("UNSUB", arguments.of(input)),
        Command::Connect { json } => {
            let shown = super::connect::without_secrets(json.of(input));
            show("CONNECT", shown.as_bytes());
        }
        Command::Ping => show("PING", b""),
        Command::Pong => show("PONG", b""),
        Command::Info { .. } | Command::Error { .. } | Command::Ok => {}
    }
}

/// 11 random bytes in base64url, as nats-server's nonce.
fn new_nonce() -> String {
    let mut bytes = [0u8; 11];
    // Not to be guessed: a signature over it is a login.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        panic!("the kernel has no random bytes");
    }
    data_encoding::BASE64URL_NOPAD.encode(&bytes)
}

impl Session for ClientSession {
    fn start(&mut self) {
        self.renew_trace();
        if !self.tls_first {
            self.push_info();
        }
        log_client!(debug, self, "Client connection created");
    }

    fn receive(&mut self, input: &mut ReadBuffer) -> Step {
        if self.stage == Stage::Refused {
            self.outbox.push_error(text::MAXIMUM_CONNECTIONS);
            return Step::Close(CloseReason::MaximumConnectionsExceeded);
        }
        if self.opening != Opening::Done
            && let Some(step) = self.open(input.bytes())
        {
            return step;
        }
        self.active = true;
        if let Some(since) = self.stalled_since.take() {
            self.say_stalled(since.elapsed());
        }
        let handle = self.context.broker.clone();
        let mut broker = handle.borrow_mut();
        let messages_before = (self.in_messages, self.in_bytes);
        let mut consumed_total = 0;
        if let Err(reason) = self.before_first_command(&mut broker, input) {
            return Step::Close(reason);
        }
        let mut publishing = self.publishing.take().unwrap_or_default();
        publishing.turn.publisher = Some(self.id);
        publishing.turn.deliveries = 0;
        let mut quick = self.is_quick();
        let step = loop {
            if self.stage == Stage::CheckingPassword {
                let Some(wait) = &self.login_wait else { break Step::ReadMore };
                let gate = wait.gate.clone();
                break Step::WaitFor(Wait::Login { gate });
            }
            let bytes = &input.bytes()[consumed_total..];
            if quick
                && let Some((message, consumed)) =
                    repeated_publish(bytes, &publishing.known_line, &self.limits)
            {
                consumed_total +=
                    self.publish_onwards(&mut broker, &mut publishing, bytes, &message, consumed);
                if publishing.turn.is_over() {
                    break Step::Again;
                }
                continue;
            }
            if quick && let Some((message, consumed)) = plain_publish(bytes, &self.limits) {
                consumed_total += consumed;
                self.publish(&mut broker, &mut publishing, &message);
                self.learn_line(&mut publishing, bytes, &message);
                if publishing.turn.is_over() {
                    break Step::Again;
                }
                continue;
            }
            let parser_before = self.parser;
            match self.parser.next(bytes, &self.limits) {
                Ok(Parsed::Command { command, consumed }) => {
                    // Interest must be on its way to every shard before anything this client does next, and
                    // so must its messages before it is told PONG.
                    let congestion = match command {
                        Command::Subscribe { .. } | Command::Unsubscribe { .. } => {
                            broker.interest_congestion()
                        }
                        Command::Ping => broker.fence(),
                        _ => None,
                    };
                    if let Some(congestion) = congestion {
                        // The command is parsed again when there is room.
                        self.parser = parser_before;
                        let (gate, until) = (congestion.gate, congestion.until);
                        break Step::WaitFor(Wait::Gate { gate, until, at_most: None });
                    }
                    consumed_total += consumed;
                    if let Err(reason) = self.execute(&mut broker, &mut publishing, command, bytes)
                    {
                        break Step::Close(reason);
                    }
                    quick = self.is_quick();
                    if publishing.turn.is_over() {
                        break Step::Again;
                    }
                }
                Ok(Parsed::Skip { consumed }) => {
                    consumed_total += consumed;
                    quick = false;
                }
                Ok(Parsed::Incomplete { needed }) => {
                    input.expect(needed);
                    break Step::ReadMore;
                }
                Err(error) => {
                    let reason = self.protocol_error(error, input.bytes(), consumed_total);
                    break Step::Close(reason);
                }
            }
        };
        if self.in_messages > 0 {
            self.publishing = Some(publishing);
        }
        let remote_pace = broker.remote_pace(self.key).cloned();
        drop(broker);
        input.consume(consumed_total);
        let counters = &self.context.counters;
        self.moved |= self.in_messages != messages_before.0;
        counters.in_messages.set(counters.in_messages.get() + self.in_messages - messages_before.0);
        counters.in_bytes.set(counters.in_bytes.get() + self.in_bytes - messages_before.1);
        if let Some(reason) = self.outbox.close_reason() {
            return Step::Close(reason);
        }
        if matches!(step, Step::ReadMore | Step::Again) {
            if let Some(wait) = self.end_of_batch() {
                self.stalled_since = matches!(wait, Wait::Sent { .. }).then(Instant::now);
                return Step::WaitFor(wait);
            }
            if let Some(gate) = remote_pace
                && self.in_messages > messages_before.0
            {
                let until = gate.value() + 1;
                let at_most = Some(Duration::from_millis(PACE_MS_MAX));
                self.stalled_since = Some(Instant::now());
                return Step::WaitFor(Wait::Gate { gate, until, at_most });
            }
        }
        step
    }

    fn tls_ended(&mut self, outcome: Result<TlsFacts, TlsFailure>) {
        self.handshake_ended(outcome);
    }

    fn tick(&mut self, now: Instant) -> Option<CloseReason> {
        if std::mem::take(&mut self.active) {
            self.active_at = now;
        }
        if std::mem::take(&mut self.moved) | self.outbox.delivered.take() {
            self.moved_at = now;
        }
        if self.opening != Opening::Done && !self.opening_is_over(now) {
            return None;
        }
        if matches!(self.stage, Stage::Unauthenticated | Stage::CheckingPassword) {
            let timeout = self.context.options.borrow().auth_timeout();
            let mut deadline = self.opened_at + timeout;
            if self.stage == Stage::CheckingPassword {
                deadline =
                    self.login_wait.as_ref().map_or(deadline, |wait| deadline.max(wait.deadline));
            }
            if now > deadline {
                log_client!(debug, self, "Authentication Timeout");
                self.outbox.push_error(text::AUTHENTICATION_TIMEOUT);
                return Some(CloseReason::AuthenticationTimeout);
            }
        }
        if now < self.ping_at || self.stage == Stage::Refused {
            return None;
        }
        let options = self.context.options.borrow().clone();
        let (ping_interval, ping_max) =
            (options.keep_alive.ping_interval, options.keep_alive.ping_max);
        self.ping_at = now + ping_interval;
        let quiet = now.saturating_duration_since(self.active_at) >= ping_interval;
        let age = |sent| now.saturating_duration_since(sent);
        let rtt_known = self.ping_sent.is_some_and(|sent| age(sent) < RTT_AGE_MAX);
        if !quiet && rtt_known {
            return None;
        }
        if self.pings_outstanding + 1 > ping_max {
            log_client!(debug, self, "Stale Client Connection - Closing");
            self.outbox.push_error(text::STALE_CONNECTION);
            let stale = &self.context.counters.stale_connections;
            stale.set(stale.get() + 1);
            return Some(CloseReason::StaleConnection);
        }
        self.pings_outstanding += 1;
        self.ping_sent = Some(now);
        self.outbox.push_bytes(encode::PING);
        None
    }

    fn close(&mut self, reason: CloseReason) {
        if std::mem::replace(&mut self.detached, true) {
            return;
        }
        self.keep_last_subscriptions();
        self.context.broker.borrow_mut().detach(self.key);
        self.context.logins.borrow_mut().remove(&self.id);
        self.leave_account();
        if matches!(
            reason,
            CloseReason::SlowConsumerPendingBytes | CloseReason::SlowConsumerWriteDeadline
        ) {
            let slow = &self.context.counters.slow_consumers;
            slow.set(slow.get() + 1);
            self.log_slow_consumer(reason);
        }
        log_client!(debug, self, "Client connection closed: {reason}");
    }

    fn outbox(&self) -> &Rc<Outbox> {
        &self.outbox
    }
}
