//! Reviews a session after a reload: who the peer is now, and what it has to lose.
//!
//! Every stage is covered here. A session is reviewed before the first byte that comes after the
//! reload is looked at, or when the shard's walk over all sessions reaches it, whichever is first;
//! never twice for one generation. Source of behaviour: nats-server server/reload.go
//! reloadAuthorization, applied to each client.

use super::session::ClientSession;
use std::sync::Arc;

use crate::auth::authenticator::{Decision, Identity, JwtEnd, JwtUser, Login};
use crate::auth::state::AuthState;
use crate::base::limits::SUBSCRIPTIONS_REVIEWED_MAX;
use crate::peer::login::{Stage, unix_seconds};
use crate::peer::who::log_peer;
use crate::protocol::nats::error::{CloseReason, quoted, text};

impl ClientSession {
    /// Applies the current generation, unless that has been done. Some = the connection was closed
    /// for this reason.
    pub fn catch_up_with_reload(&mut self) -> Option<CloseReason> {
        // A session from another shard may know of a reload before this shard does.
        let ahead = self.context.generation.get().wrapping_sub(self.peer.login.generation);
        if ahead.cast_signed() <= 0 {
            return None;
        }
        self.peer.login.generation = self.context.generation.get();
        // It is ending already; only its last bytes are still being sent.
        if self.is_detached() || self.outbox.is_closing() {
            self.peer.login.leave(&self.context.staying);
            return None;
        }
        self.renew_trace();
        let reason = self.review()?;
        self.close_by_reload(reason);
        Some(reason)
    }

    /// Applies what has changed about its account since it was last reviewed, if anything. Some =
    /// the connection was closed for this reason.
    #[inline]
    pub fn catch_up_with_accounts(&mut self) -> Option<CloseReason> {
        let latest = self.context.account_changes.get();
        if self.peer.login.account_changes == latest {
            return None;
        }
        self.peer.login.account_changes = latest;
        self.review_account()
    }

    #[cold]
    fn review_account(&mut self) -> Option<CloseReason> {
        if self.is_detached() || self.outbox.is_closing() {
            return None;
        }
        let auth = self.context.auth.borrow().clone();
        // All others change by a reload alone.
        let identity = self.peer.login.identity().filter(|identity| identity.jwt.is_some())?;
        let account = &identity.account;
        if auth.account(self.account).is_some_and(|now| Arc::ptr_eq(now, account)) {
            return None;
        }
        let reason = self.review_identity(&auth)?;
        self.close_by_reload(reason);
        Some(reason)
    }

    /// Returns why a client that was let in by a JWT has to go now, if it has: told to it.
    pub(super) fn jwt_is_over(&self) -> Option<CloseReason> {
        let identity = self.peer.login.identity()?;
        let user = identity.jwt.as_ref()?;
        let now = unix_seconds();
        if self.rights.subscriptions_max == 0 {
            // It was told when it logged in.
            return Some(CloseReason::MaximumSubscriptionsExceeded);
        }
        if identity.account.jwt.as_ref().is_some_and(|account| account.is_expired(now)) {
            return Some(self.end_of_jwt(JwtEnd::AccountExpired));
        }
        (now >= user.expires).then(|| self.end_of_jwt(JwtEnd::UserExpired))
    }

    /// Tells a client why its JWT does not count any more.
    fn end_of_jwt(&self, end: JwtEnd) -> CloseReason {
        let (text, reason) = match end {
            JwtEnd::Refused => {
                let handle = self.context.broker.clone();
                return self.authentication_failed(&mut handle.borrow_mut());
            }
            // As in nats-server, it is told nothing.
            JwtEnd::IssuerChanged => return CloseReason::AuthenticationFailure,
            JwtEnd::AccountExpired => {
                (text::ACCOUNT_AUTHENTICATION_EXPIRED, CloseReason::AuthenticationExpired)
            }
            JwtEnd::UserExpired => {
                (text::USER_AUTHENTICATION_EXPIRED, CloseReason::AuthenticationExpired)
            }
            JwtEnd::Revoked => (text::USER_AUTHENTICATION_REVOKED, CloseReason::CredentialsRevoked),
        };
        self.outbox.push_error(text);
        log_peer!(debug, self, "{text}");
        reason
    }

    fn review_jwt(
        &mut self,
        auth: &AuthState,
        identity: &Identity,
        user: &Arc<JwtUser>,
    ) -> Option<CloseReason> {
        match auth.authenticator.renew_jwt(identity, user, unix_seconds()) {
            Ok(renewed) => self.keep_as(renewed),
            Err(end) => Some(self.end_of_jwt(end)),
        }
    }

    fn close_by_reload(&mut self, reason: CloseReason) {
        if reason == CloseReason::ClientClosed {
            // The peer is told nothing; it may simply come again.
            let who = self.who().credentials().unwrap_or_else(|| "its user".into());
            log_peer!(info, self, "Closed by the reload: {who} is gone or has changed");
        }
        // A session that is counted later must not be closed in place of one that goes.
        self.peer.login.leave(&self.context.staying);
        self.outbox.close(reason);
        // Its reader may wait for a password check that is no longer needed.
        self.peer.login.give_up_check(&self.context.checks);
    }

    fn review(&mut self) -> Option<CloseReason> {
        let auth = self.context.auth.borrow().clone();
        match self.peer.login.stage() {
            Stage::Refused => None,
            Stage::Fresh | Stage::Unauthenticated if !self.peer.opening.is_over() => {
                self.review_before_commands(&auth)
            }
            Stage::Unauthenticated => {
                // It keeps its time to log in; nats-server closes it, and it would have to come
                // again.
                self.take_server_limits(&auth);
                None
            }
            Stage::Fresh => self.review_fresh(&auth),
            Stage::CheckingPassword => self.review_login(&auth),
            Stage::Connected => self.review_identity(&auth),
        }
    }

    /// Reviews a peer that could not send anything yet: it now has to log in, or no longer has to.
    fn review_before_commands(&mut self, auth: &AuthState) -> Option<CloseReason> {
        self.take_server_limits(auth);
        if !self.peer.opening.greeting_is_due() {
            // It has been told whether to log in. If it now has to although it was told otherwise,
            // it has the time to; if it was told to, it still may.
            if auth.authenticator.is_required(self.peer.way()) {
                self.peer.login.require();
            }
            return None;
        }
        self.peer.login.begin(auth, self.peer.way());
        None
    }

    /// Reviews a peer that speaks without CONNECT on a server where nobody had to log in until now.
    fn review_fresh(&mut self, auth: &AuthState) -> Option<CloseReason> {
        self.take_server_limits(auth);
        if !auth.authenticator.is_required(self.peer.way()) {
            return None;
        }
        let handle = self.context.broker.clone();
        let mut broker = handle.borrow_mut();
        match self.decide(auth) {
            Decision::Accepted(identity) if identity.account.is_global() => {
                self.logged_in(&mut broker, identity).err()
            }
            Decision::Accepted(_) => Some(CloseReason::ClientClosed),
            Decision::NeedsPasswordCheck(..) | Decision::NeedsAccount(_) | Decision::Refused(_) => {
                Some(self.authentication_failed(&mut broker))
            }
        }
    }

    /// Decides a login that waits for its password check again, by the rules in force now. A check
    /// of the same stored secret continues, for the user's present identity.
    fn review_login(&mut self, auth: &AuthState) -> Option<CloseReason> {
        self.take_server_limits(auth);
        if !self.peer.login.is_checking() {
            return None;
        }
        let account_before = self.peer.login.checked_account(&self.context.checks);
        let handle = self.context.broker.clone();
        let mut broker = handle.borrow_mut();
        match self.decide(auth) {
            Decision::Accepted(identity) => {
                self.peer.login.give_up_check(&self.context.checks);
                let refused = self.logged_in(&mut broker, identity).err();
                if refused.is_none() {
                    self.ok();
                }
                return refused;
            }
            // A user who did not exist before still waits for the check, so that its time reveals
            // nothing.
            Decision::NeedsPasswordCheck(job, pending)
                if pending.account_name().is_some() || account_before.is_none() =>
            {
                self.peer.login.check_again(&self.context.checks, job, pending);
                return None;
            }
            // It waits for that already.
            Decision::NeedsAccount(_) => return None,
            Decision::NeedsPasswordCheck(..) | Decision::Refused(_) => {}
        }
        let has_moved = account_before.is_some_and(|name| self.has_moved(auth, &name));
        Some(match has_moved {
            true => CloseReason::ClientClosed,
            false => self.authentication_failed(&mut broker),
        })
    }

    /// Reviews a client that was let in: refused ones are told and closed, others lose exactly the
    /// subscriptions that they may no longer have.
    fn review_identity(&mut self, auth: &AuthState) -> Option<CloseReason> {
        let identity = self.peer.login.identity().cloned()?;
        if let Some(user) = identity.jwt.clone() {
            return self.review_jwt(auth, &identity, &user);
        }
        let renewed = match auth.authenticator.renew(&identity, self.peer.way()) {
            Some(renewed) => Some(renewed),
            None => match self.decide(auth) {
                Decision::Accepted(renewed) => Some(renewed),
                // A different hash, perhaps of the same password: the client has to come again and
                // be checked.
                Decision::NeedsPasswordCheck(..) => return Some(CloseReason::ClientClosed),
                Decision::NeedsAccount(_) | Decision::Refused(_) => None,
            },
        };
        let Some(renewed) = renewed.filter(|renewed| renewed.account.name == identity.account.name)
        else {
            // A client whose user is gone or has moved may simply come again, as in nats-server;
            // one whose user is still there gave a secret that is no longer right, and is told.
            let stood_in_for = identity.login == Login::NoAuthUser;
            if stood_in_for || self.has_moved(auth, &identity.account.name) {
                return Some(CloseReason::ClientClosed);
            }
            let handle = self.context.broker.clone();
            return Some(self.authentication_failed(&mut handle.borrow_mut()));
        };
        self.keep_as(renewed)
    }

    /// Keeps the client, with the rights it has now.
    fn keep_as(&mut self, identity: Identity) -> Option<CloseReason> {
        let subscriptions_max = self.rights.subscriptions_max;
        let is_open = identity.login == Login::Open;
        self.take_identity(identity);
        let handle = self.context.broker.clone();
        self.tell_facts(&mut handle.borrow_mut());
        // A lowered limit of the account closes clients that have reached it, as in nats-server; a
        // limit that did not change closes nobody for having used it up.
        let count = handle.borrow().subscription_count(self.key);
        let is_lowered = self.rights.subscriptions_max < subscriptions_max && !is_open;
        if is_lowered && count >= self.rights.subscriptions_max {
            self.refuse_for_the_limit();
            return Some(CloseReason::MaximumSubscriptionsExceeded);
        }
        drop(handle);
        self.review_subscriptions(true);
        None
    }

    /// Returns true if some of its subscriptions have yet to be checked against its new rights.
    pub fn is_under_review(&self) -> bool {
        !self.is_detached() && self.context.broker.borrow().is_under_review(self.key)
    }

    /// Continues the review of its subscriptions, if that is not finished. True if there are more:
    /// until then it is not read.
    pub fn go_on_with_review(&mut self) -> bool {
        if !self.is_under_review() {
            return false;
        }
        let broker = self.context.broker.borrow();
        // Other shards are told about dropped subscriptions.
        let has_room = broker.has_interest_reserve();
        drop(broker);
        !has_room || self.review_subscriptions(false)
    }

    /// Drops some of the subscriptions that it may no longer have, and tells it. True if there are
    /// more to review.
    fn review_subscriptions(&self, restarts: bool) -> bool {
        let review = self.context.broker.borrow_mut().review_subscriptions(
            self.key,
            &self.rights.permissions,
            restarts,
            SUBSCRIPTIONS_REVIEWED_MAX,
        );
        for subscription in review.removed {
            let queue = match subscription.queue() {
                [] => String::new(),
                queue => format!(" using queue {}", quoted(queue)),
            };
            let (filter, sid) = (quoted(subscription.filter()), quoted(subscription.sid()));
            self.outbox.push_error(&format!(
                "Permissions Violation for Subscription to {filter}{queue} (sid {sid})"
            ));
            log_peer!(
                info,
                self,
                "Removed sub {filter}{queue} (sid {sid}) for {} - not authorized",
                self.who().credentials().unwrap_or_else(|| "User \"N/A\"".into())
            );
        }
        !review.is_done
    }

    /// Closes this client if its account has more connections than a reload allows. To be called
    /// once all sessions of all shards have been reviewed, so that clients which go anyway are not
    /// counted.
    pub fn close_if_account_is_full(&mut self) -> Option<CloseReason> {
        if self.is_detached() || self.outbox.is_closing() {
            return None;
        }
        if !self.peer.login.leave_full_account() {
            return None;
        }
        self.outbox.push_error(text::MAXIMUM_ACCOUNT_CONNECTIONS);
        self.log_rarely(text::MAXIMUM_ACCOUNT_CONNECTIONS);
        let reason = CloseReason::MaximumAccountConnectionsExceeded;
        self.peer.login.leave(&self.context.staying);
        self.outbox.close(reason);
        Some(reason)
    }

    /// Closes this client if the server has more connections than `max`, which a reload allows.
    /// True if it did. Of all shards together exactly the surplus goes, also while clients move.
    pub fn close_as_surplus(&mut self, max: usize) -> bool {
        if !self.is_staying() || !self.peer.login.leave_full_server(&self.context.staying, max) {
            return false;
        }
        // Before an upgrade it would be no HTTP.
        if !self.peer.opening.is_not_upgraded() {
            self.outbox.push_error(text::MAXIMUM_CONNECTIONS);
        }
        self.log_rarely(text::MAXIMUM_CONNECTIONS);
        self.outbox.close(CloseReason::MaximumConnectionsExceeded);
        true
    }

    fn has_moved(&self, auth: &AuthState, account_name: &str) -> bool {
        let (user, nkey) = (&*self.peer.connect.user, &*self.peer.connect.nkey);
        auth.authenticator.has_moved(user, nkey, account_name)
    }

    /// Adopts what applies to a peer that has not logged in: the server's limits, the global
    /// account's mappings.
    fn take_server_limits(&mut self, auth: &AuthState) {
        let options = self.context.options.borrow().clone();
        let global = auth.authenticator.accounts().global();
        self.take_limits(&options.limits, global);
        self.rights.take_server_limits(&options.limits, global);
        self.forget_answers();
    }
}
