//! CONNECT: from the first byte to a client that is logged in.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::context::Report;
use super::session::{ClientSession, Stage};
use crate::auth::account::Account;
use crate::auth::authenticator::{
    ConnectionFacts, ConnectionType, Credentials, Decision, Given, Identity, PendingLogin, Refusal,
};
use crate::auth::password::{PasswordJob, PasswordOutcome};
use crate::auth::replies::ReplyTable;
use crate::auth::state::AuthState;
use crate::base::gate::Gate;
use crate::base::ids::LoginId;
use crate::base::limits::PASSWORD_CHECK_WAIT_MAX;
use crate::broker::Broker;
use crate::broker::backlog::Dropped;
use crate::broker::outbox::ReplyTracker;
use crate::broker::router::Turn;
use crate::client::who::log_client;
use crate::protocol::nats::error::{CloseReason, quoted, text};

/// A client's first PING comes early, to measure its round-trip time.
const FIRST_PING: Duration = Duration::from_secs(2);

/// A login whose password is being checked off the shard.
pub struct LoginWait {
    pub(super) id: LoginId,
    /// Reaches 1 when the outcome is there.
    pub gate: Rc<Gate>,
    pub outcome: Cell<Option<PasswordOutcome>>,
    pending: RefCell<Option<PendingLogin>>,
    /// The helper thread leaves out the check of a client that is gone.
    waiter: Arc<()>,
    /// When the check has to be done.
    pub(super) deadline: Instant,
}

impl LoginWait {
    /// The account that the login leads to, if the password is right and matters.
    pub(super) fn account_name(&self) -> Option<Arc<str>> {
        self.pending.borrow().as_ref()?.account_name().cloned()
    }

    /// Goes on waiting for the same comparison, on behalf of who the user is now. Gives `pending` back where
    /// another comparison is needed.
    pub(super) fn go_on_for(&self, pending: PendingLogin) -> Option<PendingLogin> {
        let mut waiting = self.pending.borrow_mut();
        if !waiting.as_ref().is_some_and(|waiting| waiting.asks_the_same(&pending)) {
            return Some(pending);
        }
        *waiting = Some(pending);
        None
    }
}

impl ClientSession {
    /// Handles CONNECT. A second one merges over the first; all subscriptions are dropped by then.
    pub(super) fn connected(
        &mut self,
        broker: &mut Broker,
        json: &[u8],
    ) -> Result<(), CloseReason> {
        self.moved = true;
        // An estimate until a PONG tells better. Source: nats-server server/client.go processConnect.
        self.rtt = Some(self.started.elapsed().max(Duration::from_nanos(1)));
        if let Err(error) = self.connect.merge(json) {
            log_client!(error, self, "CONNECT: {}", error.0);
            return Err(CloseReason::ProtocolViolation);
        }
        self.log_in(broker)?;
        if self.stage == Stage::Connected {
            self.ok();
        }
        Ok(())
    }

    /// Asks who this is, by what CONNECT said so far. Says nothing when the answer is yes: the client may
    /// not have sent CONNECT at all.
    pub(super) fn log_in(&mut self, broker: &mut Broker) -> Result<(), CloseReason> {
        let auth = self.context.auth.borrow().clone();
        let decision = self.decide(&auth);
        match decision {
            Decision::Accepted(identity) => self.logged_in(broker, identity),
            Decision::NeedsPasswordCheck(job, pending) => {
                self.begin_password_check(job, pending);
                Ok(())
            }
            Decision::Refused(refusal) => Err(self.refuse(broker, refusal)),
        }
    }

    pub(super) fn begin_password_check(&mut self, job: PasswordJob, pending: PendingLogin) {
        self.give_up_login();
        self.stage = Stage::CheckingPassword;
        let id = self.context.new_login_id();
        let wait = LoginWait {
            id,
            gate: Rc::new(Gate::new()),
            outcome: Cell::new(None),
            pending: RefCell::new(Some(pending)),
            waiter: Arc::new(()),
            deadline: Instant::now() + PASSWORD_CHECK_WAIT_MAX,
        };
        let job = job.for_waiter(&wait.waiter);
        let wait = Rc::new(wait);
        self.login_wait = Some(wait.clone());
        self.context.logins.borrow_mut().insert(id, wait);
        (self.context.check_password)(id, job);
    }

    /// Nobody waits for the outcome of a check under way any more; the reader goes on.
    pub(super) fn give_up_login(&mut self) {
        if let Some(wait) = self.login_wait.take() {
            self.context.logins.borrow_mut().remove(&wait.id);
            wait.gate.open_for_good();
        }
    }

    /// Goes on with a login once its password was checked.
    pub(super) fn password_checked(&mut self, broker: &mut Broker) -> Result<(), CloseReason> {
        let Some(wait) = self.login_wait.take() else { return Ok(()) };
        let Some(outcome) = wait.outcome.get() else {
            self.login_wait = Some(wait);
            return Ok(());
        };
        let Some(pending) = wait.pending.take() else { return Ok(()) };
        match pending.resume(outcome) {
            Ok(identity) => {
                self.logged_in(broker, identity)?;
                self.ok();
                Ok(())
            }
            Err(refusal) => Err(self.refuse(broker, refusal)),
        }
    }

    #[cold]
    fn refuse(&mut self, broker: &mut Broker, refusal: Refusal) -> CloseReason {
        let reason = self.authentication_failed(broker);
        log_client!(debug, self, "Login refused: {refusal}");
        reason
    }

    /// Says so everywhere. Tools read the line of the log: it is nats-server's to the byte, from authViolation.
    #[cold]
    pub(super) fn authentication_failed(&self, broker: &mut Broker) -> CloseReason {
        let who = self.credentials_in_words().map(|who| format!(" - {who}")).unwrap_or_default();
        log_client!(error, self, "authentication error{who}");
        self.report(broker, Report::Refused);
        self.outbox.push_error(text::AUTHORIZATION_VIOLATION);
        CloseReason::AuthenticationFailure
    }

    /// What CONNECT gave to log in with, as nats-server's log says it; None = nothing.
    pub(super) fn credentials_in_words(&self) -> Option<String> {
        let connect = &self.connect;
        if !connect.nkey.is_empty() {
            Some(format!("Nkey {}", quoted(connect.nkey.as_bytes())))
        } else if !connect.user.is_empty() {
            Some(format!("User {}", quoted(connect.user.as_bytes())))
        } else if !connect.auth_token.is_empty() {
            Some("Token \"[REDACTED]\"".into())
        } else {
            None
        }
    }

    pub(super) fn logged_in(
        &mut self,
        broker: &mut Broker,
        identity: Identity,
    ) -> Result<(), CloseReason> {
        let before = self.identity.as_ref().map(|identity| identity.account.name.clone());
        let left = before.filter(|name| *name != identity.account.name);
        self.leave_account();
        let auth = self.context.auth.borrow().clone();
        let connections = auth.connections(&identity.account);
        let count = connections.add();
        self.account_gauge = Some(connections);
        if identity.account.limits.connections_max.is_some_and(|max| count > max) {
            self.outbox.push_error(text::MAXIMUM_ACCOUNT_CONNECTIONS);
            log_client!(error, self, "{}", text::MAXIMUM_ACCOUNT_CONNECTIONS);
            return Err(CloseReason::MaximumAccountConnectionsExceeded);
        }
        let account = auth.id(&identity.account);
        if account != self.account {
            // What was subscribed to before a login belongs to the account it was made in.
            let turn = &mut Turn::new(broker.turn_work_max());
            if !matches!(broker.unsubscribe_all(self.key, turn), Dropped::All) {
                // A reload logs it in, with more than one turn can drop: it may come again.
                return Err(CloseReason::ClientClosed);
            }
            broker.set_account(self.key, account);
            self.account = account;
        }
        self.take_identity(identity);
        self.stage = Stage::Connected;
        self.report(broker, Report::LoggedIn { left });
        if !(0..=1).contains(&self.connect.protocol) {
            self.outbox.push_error(text::INVALID_CLIENT_PROTOCOL);
            log_client!(error, self, "{}", text::INVALID_CLIENT_PROTOCOL);
            return Err(CloseReason::BadClientProtocolVersion);
        }
        let options = self.context.options.borrow().clone();
        let headers = self.connect.headers && !options.limits.no_header_support;
        self.limits.headers = headers;
        self.outbox.headers.set(headers);
        if self.connect.no_responders && !headers {
            self.outbox.push_error(text::NO_RESPONDERS_REQUIRES_HEADERS);
            log_client!(error, self, "{}", text::NO_RESPONDERS_REQUIRES_HEADERS);
            return Err(CloseReason::NoRespondersRequiresHeaders);
        }
        let first = options.keep_alive.ping_interval.min(FIRST_PING);
        self.ping_at = Instant::now() + first + first.mul_f64(fastrand::f64() * 0.2);
        Ok(())
    }

    /// Adopts what an identity allows; also after a reload.
    pub(super) fn take_identity(&mut self, identity: Identity) {
        let permissions = identity.permissions.clone();
        let tracker = permissions.responses().map(|_| {
            let table = ReplyTable::default();
            Rc::new(ReplyTracker { permissions: permissions.clone(), table: table.into() })
        });
        self.outbox.set_reply_tracker(tracker.clone());
        self.replies = tracker;
        self.permissions = permissions;
        let options = self.context.options.borrow().clone();
        self.apply_limits(&options.limits, &identity.account);
        self.has_mappings = !identity.account.mappings.is_empty();
        self.forget_answers();
        self.identity = Some(Box::new(identity));
        self.renew_trace();
    }

    pub(super) fn apply_limits(
        &mut self,
        limits: &crate::config::options::LimitOptions,
        account: &Arc<Account>,
    ) {
        let payload = account.limits.payload_bytes_max.unwrap_or(usize::MAX);
        self.limits.payload_bytes_max = limits.payload_bytes_max.min(payload);
        self.limits.control_line_bytes_max = limits.control_line_bytes_max;
        let of_account = account.limits.subscriptions_max.unwrap_or(usize::MAX);
        self.subscriptions_max = unlimited_if_zero(limits.subscriptions_max).min(of_account);
        self.subject_tokens_max = limits.subject_tokens_max;
    }

    /// The connection no longer counts for the account it was in.
    pub(super) fn leave_account(&mut self) {
        if let Some(connections) = self.account_gauge.take() {
            connections.subtract();
        }
    }

    pub(super) fn decide(&self, auth: &AuthState) -> Decision {
        let connect = &self.connect;
        let credentials = Credentials {
            user: &connect.user,
            password: Given(&connect.pass),
            token: Given(&connect.auth_token),
            nkey: &connect.nkey,
            signature: &connect.sig,
            account: &connect.account,
            new_account: connect.new_account,
        };
        let facts = ConnectionFacts {
            nonce: self.nonce.as_bytes(),
            certificate: self.certificate.as_deref(),
            connection_type: ConnectionType::Standard,
        };
        auth.authenticator.decide(&credentials, &facts)
    }
}

/// The server's own limit of subscriptions; an account's limit of 0 means none at all.
pub(super) fn unlimited_if_zero(max: usize) -> usize {
    if max == 0 { usize::MAX } else { max }
}

/// CONNECT's JSON as the trace may show it: secrets replaced, whatever their spelling.
pub(super) fn without_secrets(json: &[u8]) -> String {
    const SECRETS: [&str; 5] = ["pass", "auth_token", "jwt", "sig", "nkey"];
    let Ok(mut fields) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(json)
    else {
        // Not an object: nothing of it can be told apart from a secret.
        return "[REDACTED]".into();
    };
    for (key, value) in fields.iter_mut() {
        if SECRETS.iter().any(|secret| key.eq_ignore_ascii_case(secret)) {
            *value = "[REDACTED]".into();
        }
    }
    serde_json::Value::Object(fields).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_shows_no_secret() {
        let shown = without_secrets(br#"{"user":"bob","PASS":"s3cret","sig":"s3cret"}"#);
        assert!(shown.contains("bob") && !shown.contains("s3cret"), "{shown}");
        assert!(!without_secrets(b"s3cret").contains("s3cret"));
    }
}
