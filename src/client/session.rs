//! One NATS client: commands in, broker verbs out.
//!
//! Source of behaviour: nats-server server/client.go, checked against recorded transcripts. What an error
//! closes and what it leaves open is decided here, the texts are in `protocol::nats::error`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::complaints::trace_in;
use super::connect::{LoginWait, unlimited_if_zero};
use super::context::{ClientContext, Report};
use super::opening::Opening;
use super::publish::Publishing;
use super::who::log_client;
use crate::auth::authenticator::Identity;
use crate::auth::certificate::CertificateNames;
use crate::auth::permissions::{Permissions, SubscribeRight};
use crate::auth::state::AuthState;
use crate::base::counters::Gauge;
use crate::base::ids::{AccountId, ClientKey, ConnectionId};
use crate::base::limits::{PACE_MS_MAX, SUBSCRIPTION_WORK};
use crate::broker::Broker;
use crate::broker::backlog::Dropped;
use crate::broker::byte_queue::QueueHandle;
use crate::broker::outbox::{Outbox, ReplyTracker};
use crate::broker::router::pace_target;
use crate::broker::trace::Trace;
use crate::net::listener::Peer;
use crate::net::read_buffer::ReadBuffer;
use crate::net::session::{Session, Step, Wait};
use crate::net::tls::{TlsFacts, TlsFailure};
use crate::net::tls_config::TlsServer;
use crate::protocol::nats::command::Command;
use crate::protocol::nats::encode;
use crate::protocol::nats::error::{CloseReason, ProtocolError, quoted, text};
use crate::protocol::nats::handshake::{ConnectOptions, Info, Text};
use crate::protocol::nats::parser::{Parsed, Parser, ParserLimits, parse_unsubscribe_max};
use crate::protocol::nats::plain::{PLAIN_LINE_BYTES_MAX, plain_publish, repeated_publish};
use crate::protocol::subject;

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
    pub(super) publishing: Option<Box<Publishing>>,
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
    /// The reload whose rules hold for it, as `ClientContext::generation` counts them.
    pub(super) generation: u32,
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

const _: () = assert!(
    size_of::<RefCell<ClientSession>>() + 2 * size_of::<usize>() <= 512,
    "with the counts of its Rc it fills one of the allocator's sizes: every connection has one"
);

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
        let tls_server = context.tls.borrow().clone();
        let (opening, tls_first) = Opening::of(tls_server.as_deref(), &peer);
        let mut session = Self {
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
            nonce: Text::default(),
            login_wait: None,
            outbox,
            connect: ConnectOptions::default(),
            stage: Stage::Refused,
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
            generation: context.generation.get(),
            context,
        };
        if !refused {
            session.begin_login(&auth);
        }
        session
    }

    /// What INFO will ask of this peer, and how far it may go without an answer.
    pub(super) fn begin_login(&mut self, auth: &AuthState) {
        self.stage = match auth.authenticator.is_required() {
            true => Stage::Unauthenticated,
            false => Stage::Fresh,
        };
        self.nonce = match auth.authenticator.needs_nonce() {
            true => new_nonce().into(),
            false => Text::default(),
        };
    }

    pub fn outbox(&self) -> &Rc<Outbox> {
        &self.outbox
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

    /// What was decided or matched for the last subject held for another account or other rights.
    pub(super) fn forget_answers(&mut self) {
        if let Some(publishing) = &mut self.publishing {
            publishing.forget_answers();
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

    /// Whether CONNECT ends what there was before: it was said already, or it is about to say in which account.
    fn begins_anew(&self) -> bool {
        self.stage == Stage::Connected || self.context.auth.borrow().authenticator.is_required()
    }

    /// What comes before a command, if anything: interest must be on its way to every shard before anything this
    /// client does next, and so must its messages before it is told PONG, or anybody hears them. Counts the command's
    /// work. `consumed`: bytes of this turn's commands before it.
    fn before_command(
        &self,
        broker: &mut Broker,
        publishing: &mut Publishing,
        command: Command,
        input: &[u8],
        consumed: usize,
    ) -> Option<Step> {
        let wait = match command {
            Command::Subscribe { .. } | Command::Unsubscribe { .. } => {
                publishing.turn.spend(SUBSCRIPTION_WORK);
                let wait = broker.interest_congestion().map(Wait::for_room);
                return wait.map(|wait| for_room(wait, consumed));
            }
            Command::Ping => broker.fence().map(Wait::for_room),
            Command::Publish(publish) => match publishing.held.take() {
                Some(arrivals) => {
                    publishing.has_waited = true;
                    Some(Wait::for_room(arrivals))
                }
                None => match self.lanes_full(broker, &publish.message(input)) {
                    Some(wait) => return Some(for_room(wait, consumed)),
                    None => None,
                },
            },
            Command::Connect { .. } if self.begins_anew() => {
                match broker.unsubscribe_all(self.key, &mut publishing.turn) {
                    Dropped::All => None,
                    Dropped::Some => return Some(Step::Again),
                    Dropped::NoRoom(congestion) => Some(Wait::for_room(congestion)),
                }
            }
            _ => None,
        };
        publishing.turn.spend(1);
        wait.map(Step::WaitFor)
    }

    /// What the reader does after the commands of this batch.
    fn end_of_batch(&mut self) -> Option<Wait> {
        let at_most = Duration::from_millis(PACE_MS_MAX);
        let turn = &mut self.publishing.as_mut()?.turn;
        if let Some(congestion) = turn.congestion.take() {
            return Some(Wait::for_room(congestion));
        }
        if let Some((queue, until)) = pace_target(turn, Instant::now) {
            return Some(Wait::Sent { queue, until, at_most });
        }
        None
    }
}

/// The wait for room in a lane, after commands of `consumed` bytes. Whoever did something in this turn looks again in the
/// next one, so that those who did not get as far stand before it when there is room.
fn for_room(wait: Wait, consumed: usize) -> Step {
    match consumed {
        0 => Step::WaitFor(wait),
        _ => Step::Again,
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
        self.catch_up_with_reload();
        // Whoever closed it, a reload or an operator: no further command of this peer is carried out.
        if let Some(reason) = self.outbox.close_reason() {
            return Step::Close(reason);
        }
        if self.go_on_with_review() {
            return Step::Again;
        }
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
        let goes_on = publishing.begin_turn(&mut broker, self.id);
        let mut quick = publishing.held.is_none() && self.is_quick();
        let step = loop {
            if !goes_on {
                break Step::Again;
            }
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
                if let Some(wait) = self.lanes_full(&mut broker, &message) {
                    break for_room(wait, consumed_total);
                }
                consumed_total +=
                    self.publish_onwards(&mut broker, &mut publishing, bytes, &message, consumed);
                if publishing.turn.is_over() {
                    break Step::Again;
                }
                continue;
            }
            if quick && let Some((message, consumed)) = plain_publish(bytes, &self.limits) {
                if let Some(wait) = self.lanes_full(&mut broker, &message) {
                    break for_room(wait, consumed_total);
                }
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
                    if let Some(step) = self.before_command(
                        &mut broker,
                        &mut publishing,
                        command,
                        bytes,
                        consumed_total,
                    ) {
                        // The command is parsed again after it.
                        self.parser = parser_before;
                        break step;
                    }
                    consumed_total += consumed;
                    if let Err(reason) = self.execute(&mut broker, &mut publishing, command, bytes)
                    {
                        break Step::Close(reason);
                    }
                    quick = publishing.held.is_none() && self.is_quick();
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
        publishing.end_turn(&mut broker);
        if matches!(step, Step::ReadMore) {
            publishing.has_waited = false;
        }
        if self.in_messages > 0 || publishing.has_waited {
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
        let unfinished = self.publishing.as_mut().and_then(|mine| mine.turn.unfinished.take());
        let handle = self.context.broker.clone();
        let mut broker = handle.borrow_mut();
        if let Some(fan_out) = unfinished {
            broker.adopt(fan_out);
        }
        broker.detach(self.key);
        drop(broker);
        self.give_up_login();
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

    fn queue(&self) -> QueueHandle {
        self.outbox.clone()
    }
}
