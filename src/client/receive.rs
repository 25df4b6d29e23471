//! Handles one batch of a client's bytes: parses commands and calls the broker's verbs.
//!
//! Source of behaviour: nats-server server/client.go, checked against recorded transcripts. Which
//! errors close the connection is decided here; the texts are in `protocol::nats::error`.

use std::time::{Duration, Instant};

use super::context::FirstVerb;
use super::guest::HandoverOrder;
use super::publishing::{AskedMove, Publishing};
use super::session::ClientSession;
use super::traced::trace_in;
use crate::base::limits::{
    CONNECT_WORK, JSON_BYTES_PER_UNIT, PACE_MS_MAX, PLACING_COMMANDS_MAX, REFUSAL_WORK,
    SUBSCRIPTION_WORK,
};
use crate::broker::Broker;
use crate::broker::backlog::Dropped;
use crate::broker::byte_queue::QueueHandle;
use crate::broker::importing::Imported;
use crate::broker::turn::{Turn, pace_target};
use crate::config::options::KeepAliveOptions;
use crate::net::frames::{FrameFailure, FrameLimits};
use crate::net::read_buffer::ReadBuffer;
use crate::net::session::{Session, Step, Wait};
use crate::net::tls::{TlsFacts, TlsFailure};
use crate::peer::facts::{LastSubscriptions, Traffic};
use crate::peer::keep_alive::Due;
use crate::peer::login::Stage;
use crate::peer::state::PeerState;
use crate::peer::who::log_peer;
use crate::protocol::nats::command::Command;
use crate::protocol::nats::encode;
use crate::protocol::nats::error::{CloseReason, ProtocolError, text};
use crate::protocol::nats::parser::{Parsed, Parser, parse_unsubscribe_max};
use crate::protocol::nats::plain::{PLAIN_LINE_BYTES_MAX, plain_publish, repeated_publish};

impl ClientSession {
    /// Executes one command.
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
                let read_at = self.read_at();
                self.peer.traffic.note_activity(read_at);
                let (subject, queue) = (subject.of(input), queue.of(input));
                if !self.subscribe(broker, subject, queue, sid.of(input)) {
                    publishing.turn.spend(REFUSAL_WORK);
                }
                publishing.turn.spend(broker.take_change_work());
            }
            Command::Unsubscribe { sid, max, .. } => {
                let read_at = self.read_at();
                self.peer.traffic.note_activity(read_at);
                let traced = self.trace.as_ref().map(|_| broker.subscription_count(self.key));
                broker.unsubscribe(self.key, sid.of(input), parse_unsubscribe_max(max.of(input)));
                publishing.turn.spend(broker.take_change_work());
                if let (Some(trace), Some(before)) = (&self.trace, traced)
                    && broker.subscription_count(self.key) < before
                {
                    trace.deleted(sid.of(input));
                }
                self.ok();
            }
            Command::Ping => self.pong(),
            Command::Pong => {
                self.peer.keep_alive.pong();
                broker.note_rtt(self.key, self.rtt_ns());
            }
            Command::Connect { json } => {
                publishing.turn.spend(json.of(input).len() / JSON_BYTES_PER_UNIT);
                // A connection's first one is paid for by its accept.
                if self.peer.login.stage() == Stage::Connected {
                    publishing.turn.spend(CONNECT_WORK);
                }
                publishing.forget_answers();
                return self.connected(broker, json.of(input));
            }
            Command::Info { json } => {
                publishing.turn.spend(json.of(input).len() / JSON_BYTES_PER_UNIT);
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

    /// Handles what comes before a client's commands: the end of a password check, and the rule
    /// that a client who must log in begins with CONNECT, unless `no_auth_user` stands in for
    /// clients without credentials.
    fn before_first_command(
        &mut self,
        broker: &mut Broker,
        input: &ReadBuffer,
    ) -> Result<(), CloseReason> {
        match self.peer.login.stage() {
            Stage::CheckingPassword => self.login_checked(broker),
            Stage::Unauthenticated => {
                let speaks = input.bytes().first();
                if speaks.is_none_or(|byte| byte.eq_ignore_ascii_case(&b'c')) {
                    return Ok(());
                }
                if self.context.auth.borrow().authenticator.has_no_auth_user(self.peer.way()) {
                    return self.log_in(broker);
                }
                Err(self.authentication_failed(broker))
            }
            _ => Ok(()),
        }
    }

    /// Returns true if a PUB in its plain spelling may be taken without the parser: it is at the
    /// start of a line, and only the message itself matters.
    fn is_quick(&self) -> bool {
        self.is_settled
            && !self.parser.is_skipping()
            && self.trace.is_none()
            && self.limits.control_line_bytes_max >= PLAIN_LINE_BYTES_MAX
            && matches!(self.peer.login.stage(), Stage::Fresh | Stage::Connected)
    }

    /// Lets the first subscription or message decide where the client is served from now on.
    #[cold]
    fn settle(&mut self, broker: &Broker, command: Command, input: &[u8]) -> Option<Step> {
        if !matches!(command, Command::Subscribe { .. } | Command::Publish(_)) {
            return None;
        }
        self.is_settled = true;
        let published = match self.rights.has_mappings {
            true => None,
            false => self.first_published(input),
        };
        let first = FirstVerb { account: self.account, published, broker };
        self.context.place.as_ref().and_then(|place| place(&first)).map(Step::Move)
    }

    /// Returns the subject of the first message in what was read, skipping the commands before it.
    fn first_published<'a>(&self, input: &'a [u8]) -> Option<&'a [u8]> {
        let mut parser = Parser::default();
        let mut rest = input;
        for _ in 0..PLACING_COMMANDS_MAX {
            match parser.next(rest, &self.limits) {
                Ok(Parsed::Command { command: Command::Publish(publish), .. }) => {
                    return Some(publish.subject.of(rest));
                }
                Ok(Parsed::Command { consumed, .. } | Parsed::Skip { consumed }) => {
                    rest = &rest[consumed..];
                }
                Ok(Parsed::Incomplete { .. }) | Err(_) => return None,
            }
        }
        None
    }

    /// Returns true if CONNECT ends what was before: it came already, or it is about to determine
    /// the account.
    fn begins_anew(&self) -> bool {
        self.peer.login.stage() == Stage::Connected
            || self.context.auth.borrow().authenticator.is_required(self.peer.way())
    }

    /// Returns what must happen before a command, if anything: interest must be on its way to every
    /// shard before this client does anything else, and its messages must be before it gets PONG,
    /// or anybody hears them. Counts the command's work. `consumed` is the number of bytes of this
    /// turn's earlier commands.
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
                None => {
                    match self.lanes_full(broker, &publish.message(input), &mut publishing.turn) {
                        Some(wait) => return Some(for_room(wait, consumed)),
                        None => None,
                    }
                }
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

    /// Goes on with what the last subscription stands for in other accounts. Some = that is to be done before anything
    /// else.
    #[inline]
    fn go_on_importing(&self, broker: &mut Broker, turn: &mut Turn) -> Option<Step> {
        match broker.go_on_importing(self.key, turn) {
            Imported::All => None,
            Imported::Some => Some(Step::Again),
            Imported::NoRoom(congestion) => Some(Step::WaitFor(Wait::for_room(congestion))),
        }
    }

    /// Records since when the client has waited for slower consumers, if it does.
    fn note_stall(&mut self, waits: bool) {
        if let Some(publishing) = &mut self.publishing {
            publishing.stalled_since = waits.then(Instant::now);
        }
    }

    /// Returns what the reader is to wait for after this batch.
    fn end_of_batch(&mut self) -> Option<Wait> {
        let at_most = Duration::from_millis(PACE_MS_MAX);
        let turn = &mut self.publishing.as_mut()?.turn;
        if let Some(congestion) = turn.congestion.take() {
            return Some(Wait::for_room(congestion));
        }
        if let Some(congestion) = turn.take_full().and_then(|mailbox| mailbox.congestion()) {
            return Some(Wait::for_room(congestion));
        }
        if let Some((queue, until)) = pace_target(turn, Instant::now) {
            return Some(Wait::Sent { queue, until, at_most });
        }
        None
    }
}

/// Returns the step that waits for room in a lane, after commands of `consumed` bytes. A client
/// that has done something in this turn tries again in the next one, so that those who have not
/// come first when there is room.
fn for_room(wait: Wait, consumed: usize) -> Step {
    match consumed {
        0 => Step::WaitFor(wait),
        _ => Step::Again,
    }
}

impl Session for ClientSession {
    fn start(&mut self) {
        self.renew_trace();
        if self.peer.opening.greets_at_once() {
            self.push_info();
        }
        if !self.peer.opening.is_not_upgraded() {
            log_peer!(debug, self, "Client connection created");
        }
    }

    fn receive(&mut self, input: &mut ReadBuffer) -> Step {
        self.catch_up_with_reload();
        self.catch_up_with_accounts();
        // Whoever closed it, a reload or an operator: no further command of this peer is executed.
        if let Some(reason) = self.outbox.close_reason() {
            return Step::Close(reason);
        }
        if self.go_on_with_review() {
            return Step::Again;
        }
        let is_refused = self.peer.login.stage() == Stage::Refused;
        // A WebSocket client can be told only once it is one.
        if !self.peer.opening.is_over()
            && (!is_refused || self.peer.opening.is_not_upgraded())
            && let Some(step) = self.open(input)
        {
            return step;
        }
        if is_refused {
            self.outbox.push_error(text::MAXIMUM_CONNECTIONS);
            return Step::Close(CloseReason::MaximumConnectionsExceeded);
        }
        self.peer.keep_alive.active = true;
        if self.asked_move().is_some()
            && let Some(step) = self.move_as_asked()
        {
            return step;
        }
        let stalled =
            self.publishing.as_mut().and_then(|publishing| publishing.stalled_since.take());
        if let Some(since) = stalled {
            self.say_stalled(since.elapsed());
        }
        let handle = self.context.broker.clone();
        let mut broker = handle.borrow_mut();
        let Traffic { in_messages, in_bytes, .. } = self.peer.traffic;
        let mut consumed_total = 0;
        if let Err(reason) = self.before_first_command(&mut broker, input) {
            return Step::Close(reason);
        }
        let mut publishing = self.publishing.take().unwrap_or_default();
        let goes_on = publishing.begin_turn(&mut broker, self.peer.id);
        let mut quick = publishing.held.is_none() && self.is_quick();
        let first = match goes_on {
            true => self.go_on_importing(&mut broker, &mut publishing.turn),
            false => Some(Step::Again),
        };
        let step = match first {
            Some(step) => step,
            None => loop {
                if self.peer.login.stage() == Stage::CheckingPassword {
                    let Some(gate) = self.peer.login.check_gate(&self.context.checks) else {
                        break Step::ReadMore;
                    };
                    break Step::WaitFor(Wait::Login { gate });
                }
                let bytes = &input.bytes()[consumed_total..];
                if quick
                    && let Some((message, consumed)) =
                        repeated_publish(bytes, &publishing.known_line, &self.limits)
                {
                    if let Some(wait) = self.lanes_full(&mut broker, &message, &mut publishing.turn)
                    {
                        break for_room(wait, consumed_total);
                    }
                    consumed_total += self.publish_onwards(
                        &mut broker,
                        &mut publishing,
                        bytes,
                        &message,
                        consumed,
                    );
                    if publishing.turn.is_over() {
                        break Step::Again;
                    }
                    continue;
                }
                if quick && let Some((message, consumed)) = plain_publish(bytes, &self.limits) {
                    if let Some(wait) = self.lanes_full(&mut broker, &message, &mut publishing.turn)
                    {
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
                        if !self.is_settled
                            && let Some(step) = self.settle(&broker, command, bytes)
                        {
                            self.parser = parser_before;
                            break step;
                        }
                        if let Some(step) = self.before_command(
                            &mut broker,
                            &mut publishing,
                            command,
                            bytes,
                            consumed_total,
                        ) {
                            // The command is parsed again after that step.
                            self.parser = parser_before;
                            break step;
                        }
                        consumed_total += consumed;
                        if let Err(reason) =
                            self.execute(&mut broker, &mut publishing, command, bytes)
                        {
                            break Step::Close(reason);
                        }
                        if matches!(command, Command::Subscribe { .. })
                            && let Some(step) =
                                self.go_on_importing(&mut broker, &mut publishing.turn)
                        {
                            break step;
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
                        if matches!(error, ProtocolError::MaximumPayload { .. }) {
                            self.trace_too_large(&mut broker, &mut publishing, bytes);
                        }
                        let reason = self.protocol_error(error, input.bytes(), consumed_total);
                        break Step::Close(reason);
                    }
                }
            },
        };
        publishing.end_turn(&mut broker);
        if matches!(step, Step::ReadMore) {
            publishing.has_waited = false;
        }
        if self.peer.traffic.in_messages > 0 || publishing.has_waited || publishing.asked.is_some()
        {
            self.publishing = Some(publishing);
        }
        let remote_pace = broker.remote_pace(self.key).cloned();
        drop(broker);
        input.consume(consumed_total);
        let published = self.peer.traffic.in_messages - in_messages;
        if published > 0 {
            let read_at = self.read_at();
            self.peer.traffic.note_activity(read_at);
        }
        let (counters, traffic) = (&self.context.counters, &self.peer.traffic);
        counters.in_messages.set(counters.in_messages.get() + published);
        counters.in_bytes.set(counters.in_bytes.get() + traffic.in_bytes - in_bytes);
        if let Some(reason) = self.outbox.close_reason() {
            return Step::Close(reason);
        }
        if matches!(step, Step::ReadMore | Step::Again) {
            if let Some(wait) = self.end_of_batch() {
                self.note_stall(matches!(wait, Wait::Sent { .. }));
                return Step::WaitFor(wait);
            }
            if let Some(gate) = remote_pace
                && published > 0
            {
                let until = gate.value() + 1;
                let at_most = Some(Duration::from_millis(PACE_MS_MAX));
                self.note_stall(true);
                return Step::WaitFor(Wait::Gate { gate, until, at_most });
            }
        }
        step
    }

    fn tls_ended(&mut self, outcome: Result<TlsFacts, TlsFailure>) {
        self.handshake_ended(outcome);
    }

    fn tick(&mut self, now: Instant) -> Option<CloseReason> {
        self.peer.note_tick(now, self.outbox.take_delivered_at());
        if !self.peer.opening.is_over_by(now) {
            return self.late_opening(now);
        }
        let options = self.context.options.borrow().clone();
        let auth_timeout = self.auth_timeout(&options);
        let ping_interval = self.ping_interval(&options);
        let PeerState { opening, login, .. } = &mut self.peer;
        if login.is_late(now, opening.opened_at(), auth_timeout, &self.context.checks) {
            log_peer!(debug, self, "Authentication Timeout");
            self.outbox.push_error(text::AUTHENTICATION_TIMEOUT);
            return Some(CloseReason::AuthenticationTimeout);
        }
        if login.stage() == Stage::Refused {
            return None;
        }
        if let Some(reason) = self.jwt_is_over() {
            return Some(reason);
        }
        let PeerState { keep_alive, .. } = &mut self.peer;
        if keep_alive.fires(now) {
            log_peer!(debug, self, "Client Ping Timer");
        }
        let rules = KeepAliveOptions { ping_interval, ..options.keep_alive.clone() };
        match self.peer.keep_alive.due(now, &rules) {
            Due::Nothing => None,
            Due::Ping => {
                self.outbox.push_bytes(encode::PING);
                None
            }
            Due::Close => {
                log_peer!(debug, self, "Stale Client Connection - Closing");
                // nats-server does not trace this one.
                self.outbox.set_trace(None);
                self.outbox.push_error(text::STALE_CONNECTION);
                let stale = &self.context.counters.stale_connections;
                stale.set(stale.get() + 1);
                Some(CloseReason::StaleConnection)
            }
        }
    }

    fn frame_limits(&self) -> FrameLimits {
        let stage = self.peer.login.stage();
        FrameLimits {
            inflated_bytes_max: self.limits.payload_bytes_max,
            is_let_in: matches!(stage, Stage::Fresh | Stage::Connected),
        }
    }

    #[cold]
    fn framing_failed(&mut self, failure: FrameFailure) {
        self.log_error(&format!("read error: {failure}"));
    }

    fn close(&mut self, reason: CloseReason) {
        if self.is_detached() {
            return;
        }
        let unfinished = self.publishing.as_mut().and_then(|mine| mine.turn.unfinished.take());
        let handle = self.context.broker.clone();
        let mut broker = handle.borrow_mut();
        self.last_subscriptions = Some(Box::new(LastSubscriptions::of(&broker, self.key)));
        if let Some(fan_out) = unfinished {
            broker.adopt(fan_out);
        }
        broker.detach(self.key);
        drop(broker);
        self.peer.login.give_up_check(&self.context.checks);
        self.peer.login.leave(&self.context.staying);
        if let Some(AskedMove { target, handover: Some(_), .. }) = self.asked_move() {
            (self.context.give)(*target, HandoverOrder::Withdraw(self.id()));
        }
        if matches!(
            reason,
            CloseReason::SlowConsumerPendingBytes | CloseReason::SlowConsumerWriteDeadline
        ) {
            let slow = &self.context.counters.slow_consumers;
            slow.set(slow.get() + 1);
            self.log_slow_consumer(reason);
        }
        if !self.peer.opening.is_not_upgraded() {
            log_peer!(debug, self, "Client connection closed: {reason}");
        }
        if let (Some(trace), Some(last)) = (&self.trace, &self.last_subscriptions) {
            last.kept.iter().for_each(|subscription| trace.deleted(&subscription.sid));
        }
    }

    fn queue(&self) -> QueueHandle {
        self.outbox.clone()
    }
}
