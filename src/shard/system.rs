//! The server's own service on one shard: receives requests to the server.
//!
//! They are passed on to the service's thread, which answers by an order. None of this happens per
//! message.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use super::core::Shard;
use super::speaker::Speaker;
use super::system_request::{Requester, SystemRequest};
use crate::auth::account::Account;
use crate::auth::state::AuthState;
use crate::base::ids::{AccountId, ConnectionId};
use crate::base::limits::{SERVED_ACCOUNTS_PER_TURN_MAX, SYSTEM_REQUESTS_PER_TURN_MAX};
use crate::broker::mailbox::{Letter, Letters};
use crate::protocol::nats::error::CloseReason;

impl Shard {
    /// Subscribes to the requests that the server answers, before anybody is served.
    pub(super) fn subscribe_system(&self) {
        let auth = self.clients.auth.borrow().clone();
        self.serve_accounts(&auth, auth.authenticator.accounts().iter());
    }

    /// Does the same for accounts that a reload has added, some per turn.
    pub(super) async fn subscribe_system_paced(&self) {
        let auth = self.clients.auth.borrow().clone();
        let mut accounts = auth.authenticator.accounts().iter().peekable();
        while accounts.peek().is_some() {
            let some = accounts.by_ref().take(SERVED_ACCOUNTS_PER_TURN_MAX);
            self.serve_accounts(&auth, some);
            self.hook.yield_turn().await;
        }
    }

    fn serve_accounts<'a>(
        &self,
        auth: &AuthState,
        accounts: impl Iterator<Item = &'a Arc<Account>>,
    ) {
        let mut broker = self.broker.borrow_mut();
        let info = self.clients.info.borrow();
        // Those that came by JWT are served where they have clients.
        for account in accounts.filter(|account| account.jwt.is_none() || account.is_system) {
            self.system.serve(&mut broker, auth, account, &info.server_id);
        }
    }

    /// Passes requests on as they come.
    pub(super) async fn hear_requests(self: Rc<Self>) {
        loop {
            poll_fn(|context| self.system.mailbox.poll_ready(context)).await;
            if let Some(mut letters) = self.system.mailbox.take() {
                while self.pass_some_on(&mut letters) {
                    self.hook.yield_turn().await;
                }
            }
            self.hook.yield_turn().await;
        }
    }

    /// Publishes waiting messages, once there is room.
    pub(super) async fn publish_waiting(self: Rc<Self>) {
        loop {
            self.system.publisher.wait_for_room().await;
            self.hook.before_batch();
            self.system.publisher.publish_some(&self.broker);
            self.hook.yield_turn().await;
        }
    }

    /// Passes some requests on. False = those were all.
    fn pass_some_on(&self, letters: &mut Letters) -> bool {
        for _ in 0..SYSTEM_REQUESTS_PER_TURN_MAX {
            let Some(letter) = letters.next_letter() else { return false };
            let request = self.describe_request(&letter);
            self.system.pass_on(Box::new(request));
        }
        true
    }

    fn describe_request(&self, letter: &Letter<'_>) -> SystemRequest {
        let auth = self.clients.auth.borrow().clone();
        let other_account = match auth.account(letter.account) {
            Some(account) if account.is_system => None,
            Some(account) => Some(account.name.clone()),
            // Removed by a reload: nobody reads the answer there.
            None => Some("".into()),
        };
        SystemRequest {
            shard: self.id,
            account: letter.account,
            other_account,
            requester: letter.publisher.and_then(|id| self.requester(id)),
            subject: letter.message.subject.to_vec(),
            reply: letter.message.reply.to_vec(),
            headers: letter.message.headers.to_vec(),
            payload: letter.message.payload().to_vec(),
        }
    }

    fn requester(&self, id: ConnectionId) -> Option<Requester> {
        let Speaker::Client(session) = self.speaker(id)?;
        let session = session.borrow();
        Some(Requester {
            user: session.who().user().to_owned(),
            account: session.who().account().to_owned(),
            account_name: session.who().account_name().to_owned(),
            permissions: session.permission_options(),
        })
    }

    /// Publishes an answer or event of the service's thread. Like a client's bytes it comes after
    /// the interest that other shards announced before.
    pub(crate) fn publish_system(&self, account: AccountId, subject: &str, payload: &[u8]) {
        self.hook.before_batch();
        let broker = &mut self.broker.borrow_mut();
        self.system.publisher.publish(broker, account, subject, payload);
    }

    /// Returns true if somebody on the server wants one of these subjects in the system account.
    pub(crate) fn is_any_wanted(&self, subjects: &[String]) -> bool {
        self.hook.before_batch();
        let auth = self.clients.auth.borrow().clone();
        let mut broker = self.broker.borrow_mut();
        let mut wanted = subjects.iter();
        wanted.any(|subject| self.system.is_wanted(&mut broker, &auth, subject).is_some())
    }

    /// Ends a connection of this shard; false if it has none with this id.
    pub(crate) fn kick(&self, id: ConnectionId) -> bool {
        let queue = self.speaker(id).map(|speaker| speaker.queue());
        if let Some(queue) = &queue {
            queue.close(CloseReason::Kicked);
        }
        self.hook.request();
        queue.is_some()
    }

    /// Tells one client of this shard to look for another server. None = no such client; false = it
    /// would not understand.
    pub(crate) fn announce_to(&self, id: ConnectionId) -> Option<bool> {
        let Speaker::Client(session) = self.speaker(id)?;
        let told = session.borrow().push_lame_duck_info();
        self.hook.request();
        Some(told)
    }

    /// Returns the number of requests and events dropped on this shard for lack of room.
    pub(crate) fn system_dropped(&self) -> u64 {
        let system = &self.system;
        let broker = self.broker.borrow();
        let records = broker.traces_dropped() + broker.latencies_dropped();
        system.mailbox.dropped() + system.dropped.get() + system.publisher.dropped() + records
    }
}
