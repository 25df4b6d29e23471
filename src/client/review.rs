//! A session after a reload: who this peer is now, and what of it has to go.
//!
//! Every stage has its answer here. A session is reviewed before the first byte it brings after the reload is
//! looked at, or when the shard's pass over all sessions comes to it, whatever is first; never twice for one
//! generation. Source of behaviour: nats-server server/reload.go reloadAuthorization, applied to each client.

use super::session::ClientSession;
use crate::auth::authenticator::{ConnectionType, Decision, Identity, Login};
use crate::auth::state::AuthState;
use crate::base::limits::SUBSCRIPTIONS_REVIEWED_MAX;
use crate::peer::login::Stage;
use crate::peer::who::log_peer;
use crate::protocol::nats::error::{CloseReason, quoted, text};

impl ClientSession {
    /// Applies the generation in force unless that was done. Some = the connection was closed for this reason.
    pub fn catch_up_with_reload(&mut self) -> Option<CloseReason> {
        // One that came from another shard may know of a reload before this shard does.
        let ahead = self.context.generation.get().wrapping_sub(self.peer.login.generation);
        if ahead.cast_signed() <= 0 {
            return None;
        }
        self.peer.login.generation = self.context.generation.get();
        // It ends already; only its last bytes are still leaving.
        if self.is_detached() || self.outbox.is_closing() {
            self.peer.login.leave_account();
            return None;
        }
        self.renew_trace();
        let reason = self.review()?;
        self.close_by_reload(reason);
        Some(reason)
    }

    fn close_by_reload(&mut self, reason: CloseReason) {
        if reason == CloseReason::ClientClosed {
            // Nothing is told to the peer, which may simply come again.
            let who = self.who().credentials().unwrap_or_else(|| "its user".into());
            log_peer!(info, self, "Closed by the reload: {who} is gone or has changed");
        }
        // Whoever is counted later is not to be closed for one that goes.
        self.peer.login.leave_account();
        self.outbox.close(reason);
        // Its reader may wait for a password check that nobody needs any more.
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
                // It keeps its time to log in; nats-server ends it, and it would have to come again.
                self.take_server_limits(&auth);
                None
            }
            Stage::Fresh => self.review_fresh(&auth),
            Stage::CheckingPassword => self.review_login(&auth),
            Stage::Connected => self.review_identity(&auth),
        }
    }

    /// A peer that could not say anything yet is asked to log in, or no longer.
    fn review_before_commands(&mut self, auth: &AuthState) -> Option<CloseReason> {
        self.take_server_limits(auth);
        if !self.peer.opening.greeting_is_due() {
            // It was told whether to log in: asked for what it was not told of, it has the time to; what it was
            // told to do it may still do.
            if auth.authenticator.is_required() {
                self.peer.login.require();
            }
            return None;
        }
        self.peer.login.begin(auth);
        None
    }

    /// A peer that speaks without CONNECT, where nobody had to log in until now.
    fn review_fresh(&mut self, auth: &AuthState) -> Option<CloseReason> {
        self.take_server_limits(auth);
        if !auth.authenticator.is_required() {
            return None;
        }
        let handle = self.context.broker.clone();
        let mut broker = handle.borrow_mut();
        match self.decide(auth) {
            Decision::Accepted(identity) if identity.account.is_global() => {
                self.logged_in(&mut broker, identity).err()
            }
            Decision::Accepted(_) => Some(CloseReason::ClientClosed),
            Decision::NeedsPasswordCheck(..) | Decision::Refused(_) => {
                Some(self.authentication_failed(&mut broker))
            }
        }
    }

    /// A login that waits for its password check is decided again, by what is asked now. A check of the same
    /// stored secret goes on and counts for who the user is now.
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
            // Somebody who was nobody before stays a matter of the check: its time tells nothing.
            Decision::NeedsPasswordCheck(job, pending)
                if pending.account_name().is_some() || account_before.is_none() =>
            {
                self.peer.login.check_again(&self.context.checks, job, pending);
                return None;
            }
            Decision::NeedsPasswordCheck(..) | Decision::Refused(_) => {}
        }
        let has_moved = account_before.is_some_and(|name| self.has_moved(auth, &name));
        Some(match has_moved {
            true => CloseReason::ClientClosed,
            false => self.authentication_failed(&mut broker),
        })
    }

    /// A client that was let in: refused ones are told and closed, others lose exactly the subscriptions they may
    /// no longer have.
    fn review_identity(&mut self, auth: &AuthState) -> Option<CloseReason> {
        let identity = self.peer.login.identity().cloned()?;
        let renewed = match auth.authenticator.renew(&identity, ConnectionType::Standard) {
            Some(renewed) => Some(renewed),
            None => match self.decide(auth) {
                Decision::Accepted(renewed) => Some(renewed),
                // Another hash, perhaps of the same password: the client is to come again and be checked.
                Decision::NeedsPasswordCheck(..) => return Some(CloseReason::ClientClosed),
                Decision::Refused(_) => None,
            },
        };
        let Some(renewed) = renewed.filter(|renewed| renewed.account.name == identity.account.name)
        else {
            // Whoever is gone or has moved may simply come again, as in nats-server; who is still there
            // gave a secret that is no longer the right one, and is told.
            let stood_in_for = identity.login == Login::NoAuthUser;
            if stood_in_for || self.has_moved(auth, &identity.account.name) {
                return Some(CloseReason::ClientClosed);
            }
            let handle = self.context.broker.clone();
            return Some(self.authentication_failed(&mut handle.borrow_mut()));
        };
        self.keep_as(renewed)
    }

    /// The client stays, with the rights it has now.
    fn keep_as(&mut self, identity: Identity) -> Option<CloseReason> {
        let subscriptions_max = self.rights.subscriptions_max;
        let is_open = identity.login == Login::Open;
        self.take_identity(identity);
        let handle = self.context.broker.clone();
        // A lowered limit of the account closes who has as many as it allows, as in nats-server; where it did
        // not change nobody goes for having used it up.
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

    /// Whether some of its subscriptions wait to be held against its new rights.
    pub fn is_under_review(&self) -> bool {
        !self.is_detached() && self.context.broker.borrow().is_under_review(self.key)
    }

    /// Goes on with the review of its subscriptions, if that is not done. True if there are more: until then it is not
    /// read.
    pub fn go_on_with_review(&mut self) -> bool {
        if !self.is_under_review() {
            return false;
        }
        let broker = self.context.broker.borrow();
        // Other shards are told of what goes.
        let has_room = broker.has_interest_reserve();
        drop(broker);
        !has_room || self.review_subscriptions(false)
    }

    /// Drops what it may no longer have of some of its subscriptions, and tells it. True if there are more.
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

    /// Closes this client if its account has more connections than it may since a reload. Asked only once all
    /// sessions of all shards are reviewed: who is gone anyway is not counted.
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
        self.outbox.close(reason);
        Some(reason)
    }

    /// Closes this client because the server has more than it may since a reload.
    pub fn close_as_surplus(&mut self) {
        self.outbox.push_error(text::MAXIMUM_CONNECTIONS);
        self.log_rarely(text::MAXIMUM_CONNECTIONS);
        self.peer.login.leave_account();
        self.outbox.close(CloseReason::MaximumConnectionsExceeded);
    }

    fn has_moved(&self, auth: &AuthState, account_name: &str) -> bool {
        let (user, nkey) = (&*self.peer.connect.user, &*self.peer.connect.nkey);
        auth.authenticator.has_moved(user, nkey, account_name)
    }

    /// What holds for a peer that nobody was found to be yet: the server's limits, the global account's mappings.
    fn take_server_limits(&mut self, auth: &AuthState) {
        let options = self.context.options.borrow().clone();
        let global = auth.authenticator.accounts().global();
        self.take_limits(&options.limits, global);
        self.rights.take_server_limits(&options.limits, global);
        self.forget_answers();
    }
}
