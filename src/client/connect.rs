//! CONNECT: from its JSON to a client that is logged in.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::context::Report;
use super::session::ClientSession;
use crate::auth::account::Account;
use crate::auth::authenticator::{
    CertificateLookup, ConnectionType, Decision, Identity, JwtUser, Refusal,
};
use crate::auth::replies::ReplyTable;
use crate::auth::state::AuthState;
use crate::broker::Broker;
use crate::broker::backlog::Dropped;
use crate::broker::outbox::ReplyTracker;
use crate::broker::turn::Turn;
use crate::config::options::{LimitOptions, Options};
use crate::peer::checks::Checked;
use crate::peer::login::{LoginSource, Stage};
use crate::peer::state::PeerState;
use crate::peer::who::log_peer;
use crate::protocol::nats::error::{CloseReason, quoted, text};

impl ClientSession {
    /// Handles CONNECT. A second one is merged over the first; all subscriptions have been dropped
    /// by then.
    pub(super) fn connected(
        &mut self,
        broker: &mut Broker,
        json: &[u8],
    ) -> Result<(), CloseReason> {
        let read_at = self.read_at();
        self.peer.traffic.note_activity(read_at);
        // An estimate until the first PONG. Source: nats-server server/client.go processConnect.
        self.peer.keep_alive.estimate_rtt(self.peer.traffic.started.elapsed());
        if let Err(error) = self.peer.connect.merge(json) {
            log_peer!(error, self, "CONNECT: {}", error.0);
            return Err(CloseReason::ProtocolViolation);
        }
        self.add_cookies();
        self.log_in(broker)?;
        if self.peer.login.stage() == Stage::Connected {
            self.ok();
        }
        Ok(())
    }

    /// Decides who this is, by what CONNECT has said so far. Sends nothing on success: the client
    /// may not have sent CONNECT at all.
    pub(super) fn log_in(&mut self, broker: &mut Broker) -> Result<(), CloseReason> {
        let auth = self.context.auth.borrow().clone();
        let mut lookup = CertificateLookup::default();
        let decision = self.decide_noting(&auth, None, &mut lookup);
        if !lookup.lines.is_empty() {
            self.note_certificate(lookup);
        }
        match decision {
            Decision::Accepted(identity) => self.logged_in(broker, identity),
            Decision::NeedsPasswordCheck(job, pending) => {
                self.peer.login.begin_check(&self.context.checks, job, pending);
                Ok(())
            }
            Decision::NeedsAccount(name) => {
                self.peer.login.begin_lookup(&self.context.checks, name);
                Ok(())
            }
            Decision::Refused(refusal) => Err(self.refuse(broker, refusal)),
        }
    }

    /// Continues a login once another thread has done its part.
    pub(super) fn login_checked(&mut self, broker: &mut Broker) -> Result<(), CloseReason> {
        let result = match self.peer.login.take_checked(&self.context.checks) {
            None => return Ok(()),
            Some(Checked::Decided(result)) => result,
            Some(Checked::LookedUp(why)) => {
                let auth = self.context.auth.borrow().clone();
                let lookup = &mut CertificateLookup::default();
                match self.decide_noting(&auth, Some(&why), lookup) {
                    Decision::Accepted(identity) => Ok(identity),
                    Decision::Refused(refusal) => Err(refusal),
                    Decision::NeedsAccount(_) | Decision::NeedsPasswordCheck(..) => {
                        Err(Refusal::NoCredentials)
                    }
                }
            }
        };
        match result {
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
        if let Refusal::Jwt { text, is_error } = &refusal {
            match is_error {
                true => log_peer!(error, self, "{text}"),
                false => log_peer!(debug, self, "{text}"),
            }
            return self.authentication_failed(broker);
        }
        let reason = self.authentication_failed(broker);
        log_peer!(debug, self, "Login refused: {refusal}");
        reason
    }

    /// Reports a failed login everywhere. Tools read the log line: it is nats-server's to the byte,
    /// from authViolation.
    #[cold]
    pub(super) fn authentication_failed(&self, broker: &mut Broker) -> CloseReason {
        // In operator mode the line names nobody.
        let in_operator_mode = self.context.auth.borrow().authenticator.trust().is_some();
        let who = self.who().credentials().filter(|_| !in_operator_mode);
        let who = who.map(|who| format!(" - {who}")).unwrap_or_default();
        log_peer!(error, self, "authentication error{who}");
        self.report(broker, Report::Refused);
        self.outbox.push_error(text::AUTHORIZATION_VIOLATION);
        CloseReason::AuthenticationFailure
    }

    pub(super) fn logged_in(
        &mut self,
        broker: &mut Broker,
        identity: Identity,
    ) -> Result<(), CloseReason> {
        let before = self.peer.login.identity().map(|identity| identity.account.name.clone());
        let left = before.filter(|name| *name != identity.account.name);
        let auth = self.context.auth.borrow().clone();
        if !self.peer.login.join(&auth, &identity.account) {
            self.outbox.push_error(text::MAXIMUM_ACCOUNT_CONNECTIONS);
            log_peer!(error, self, "{}", text::MAXIMUM_ACCOUNT_CONNECTIONS);
            return Err(CloseReason::MaximumAccountConnectionsExceeded);
        }
        let account = auth.id(&identity.account);
        if account != self.account {
            // Subscriptions made before a login belong to the account in which they were made.
            let turn = &mut Turn::new(broker.turn_work_max());
            if !matches!(broker.unsubscribe_all(self.key, turn), Dropped::All) {
                // A reload logs it in, and it has more subscriptions than one turn can drop: it may
                // come again.
                return Err(CloseReason::ClientClosed);
            }
            broker.set_account(self.key, account);
            self.account = account;
        }
        self.take_identity(identity);
        let is_by_jwt = self.peer.login.identity().is_some_and(|identity| identity.jwt.is_some());
        if is_by_jwt && self.rights.subscriptions_max == 0 {
            // As in nats-server, which closes it a moment later.
            self.refuse_for_the_limit();
        }
        self.tell_facts(broker);
        self.peer.login.connected();
        self.report(broker, Report::LoggedIn { left });
        if !(0..=1).contains(&self.peer.connect.protocol) {
            self.outbox.push_error(text::INVALID_CLIENT_PROTOCOL);
            log_peer!(error, self, "{}", text::INVALID_CLIENT_PROTOCOL);
            return Err(CloseReason::BadClientProtocolVersion);
        }
        let options = self.context.options.borrow().clone();
        let headers = self.peer.connect.headers && !options.limits.no_header_support;
        self.limits.headers = headers;
        self.outbox.headers.set(headers);
        if self.peer.connect.no_responders && !headers {
            self.outbox.push_error(text::NO_RESPONDERS_REQUIRES_HEADERS);
            log_peer!(error, self, "{}", text::NO_RESPONDERS_REQUIRES_HEADERS);
            return Err(CloseReason::NoRespondersRequiresHeaders);
        }
        self.peer.keep_alive.begin(Instant::now(), self.ping_interval(&options));
        Ok(())
    }

    /// Lets the cookies of its upgrade stand in for what CONNECT left out, one by one.
    fn add_cookies(&mut self) {
        let PeerState { opening, connect, .. } = &mut self.peer;
        let Some(introduction) = opening.introduction() else { return };
        let cookies = &introduction.cookies;
        for (own, cookie) in [
            (&mut connect.jwt, &cookies.jwt),
            (&mut connect.user, &cookies.user),
            (&mut connect.pass, &cookies.pass),
            (&mut connect.auth_token, &cookies.token),
        ] {
            if own.is_empty() && !cookie.is_empty() {
                *own = cookie.as_str().into();
            }
        }
    }

    /// Returns the time that it has to log in.
    pub(super) fn auth_timeout(&self, options: &Options) -> Duration {
        match self.peer.way() {
            ConnectionType::Websocket => options.websocket.auth_timeout,
            _ => None,
        }
        .unwrap_or_else(|| options.auth_timeout())
    }

    /// Returns the time between two PINGs to it.
    pub(super) fn ping_interval(&self, options: &Options) -> Duration {
        match self.peer.way() {
            ConnectionType::Websocket => options.websocket.ping_interval,
            _ => None,
        }
        .unwrap_or(options.keep_alive.ping_interval)
    }

    /// Adopts the rights of an identity; also after a reload.
    pub(super) fn take_identity(&mut self, identity: Identity) {
        self.rights.permissions = identity.permissions.clone();
        self.track_replies();
        let options = self.context.options.borrow().clone();
        self.take_limits(&options.limits, &identity.account);
        if let Some(user) = &identity.jwt {
            self.take_user_limits(user);
        }
        self.forget_answers();
        self.peer.login.set_identity(identity);
        self.renew_trace();
    }

    /// Starts to track to whom it may respond, if it may at all.
    pub(super) fn track_replies(&mut self) {
        let permissions = &self.rights.permissions;
        let tracker = permissions.responses().map(|_| {
            let table = ReplyTable::default();
            Rc::new(ReplyTracker { permissions: permissions.clone(), table: table.into() })
        });
        self.outbox.set_reply_tracker(tracker.clone());
        self.rights.replies = tracker;
    }

    /// Adopts the limits of the server and of an account.
    pub(super) fn take_limits(&mut self, limits: &LimitOptions, account: &Account) {
        let payload = account.limits.payload_bytes_max.unwrap_or(usize::MAX);
        self.limits.payload_bytes_max = limits.payload_bytes_max.min(payload);
        self.limits.control_line_bytes_max = limits.control_line_bytes_max;
        self.rights.take_limits(limits, account);
    }

    /// Adopts the limits that its JWT has.
    fn take_user_limits(&mut self, user: &JwtUser) {
        let payload_bytes_max = user.payload_bytes_max.unwrap_or(usize::MAX);
        self.limits.payload_bytes_max = self.limits.payload_bytes_max.min(payload_bytes_max);
        let subscriptions_max = user.subscriptions_max.unwrap_or(usize::MAX);
        self.rights.subscriptions_max = self.rights.subscriptions_max.min(subscriptions_max);
    }

    pub(super) fn decide(&self, auth: &AuthState) -> Decision {
        self.decide_noting(auth, None, &mut CertificateLookup::default())
    }

    /// `account_lookup` is present once its account was looked up: why that found none.
    fn decide_noting(
        &self,
        auth: &AuthState,
        account_lookup: Option<&str>,
        lookup: &mut CertificateLookup,
    ) -> Decision {
        let PeerState { login, connect, opening, address, .. } = &self.peer;
        let from = LoginSource {
            certificate: opening.certificate(),
            connection_type: self.peer.way(),
            peer: address,
            account_lookup,
        };
        login.decide(auth, connect, from, lookup)
    }

    /// Logs how the user of the client's certificate was found. From now on the client is called by
    /// that user, whatever CONNECT named, also where it is refused. Source: nats-server
    /// server/auth.go processClientOrLeafAuthentication.
    #[cold]
    fn note_certificate(&mut self, lookup: CertificateLookup) {
        let presented = self.peer.opening.tls().map_or(0, |tls| tls.peer_certificates.len());
        if presented > 1 {
            log_peer!(debug, self, "Multiple peer certificates found, selecting first");
        }
        for line in lookup.lines {
            log_peer!(debug, self, "{line}");
        }
        let Some(user) = lookup.user else { return };
        if !self.peer.connect.user.is_empty() {
            let named = quoted(self.peer.connect.user.as_bytes());
            tracing::warn!("User {named} found in connect proto, but user required from cert");
        }
        self.peer.connect.user = String::from(&*user).into();
    }
}
