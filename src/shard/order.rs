//! Everything that other threads may ask of a shard, as one closed list, and the way back for its
//! answers.
//!
//! A shard never waits for the asking thread and shares no lock with it: an answer goes into a ring
//! of one slot, and the asking thread is unparked. An order takes at most one slice of a shard's
//! work at a time; the rest of a long one is done on later turns (`carry_out`, `walk`).

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::pages::{AccountPlace, ListPlace, Page, SubscriptionFilter, SubscriptionPlace};
use super::records::Described;
use crate::auth::password::PasswordOutcome;
use crate::auth::state::AuthState;
use crate::base::ids::{AccountId, ClientKey, ConnectionId, LoginId, ShardId};
use crate::base::ring::{RingSource, RingTarget, ring};
use crate::client::guest::Guest;
use crate::client::moving::MovingClient;
use crate::config::options::Options;
use crate::monitor::closed::PackedConnection;
use crate::monitor::jetstream::JetStreamReport;
use crate::monitor::jsz::JszOptions;
use crate::monitor::snapshot::{
    AccountTotals, ConnectionDetails, ConnectionFilter, ConnectionRow, ShardSummary,
    SubscriptionDetails, TableSummary,
};
use crate::net::connection::MovedConnection;
use crate::net::doorbell::DoorbellHandle;
use crate::net::listener::{Accepted, Purpose};
use crate::net::tls_config::TlsServer;
use crate::peer::upgrade::WebSocketServer;
use crate::protocol::nats::handshake::Info;

/// Everything that can happen to a shard from outside its own thread, apart from the lanes between
/// shards.
pub(crate) enum ShardOrder {
    /// Serve a socket that another shard accepted; it is already counted here.
    Serve(Accepted, Purpose),
    /// Continue to serve a client that another shard served until now; it is already counted here.
    Move(Box<Moving>),
    /// Receive messages for a client that is to come from that shard.
    Host(ShardId, Box<Guest>),
    /// A client that was to come will not.
    Withdraw(ConnectionId),
    /// A client that went from this shard to another has arrived there.
    Arrived(ConnectionId),
    /// Continue a login whose account was looked up; the text says why that found none.
    AccountLookedUp(LoginId, Arc<str>),
    /// Accounts have appeared in operator mode; with `review` some have changed as well, and their
    /// clients are to be reviewed.
    ApplyAccounts {
        auth: Arc<AuthState>,
        review: Option<Reply<usize>>,
    },
    /// Continue a login whose password has been checked; None = the check was not wanted any more.
    PasswordChecked(LoginId, Option<PasswordOutcome>),
    /// Apply a reload and review all sessions; the answer is the number of clients that stay.
    Reload(Arc<Generation>, Reply<usize>),
    /// After a reload that every shard has taken: close clients for which their accounts have no
    /// room. The answer is the number of clients that stay.
    CloseSurplusOfAccounts(Reply<usize>),
    /// List the clients of an account.
    ClientsOf {
        account: AccountId,
        answer: Reply<Vec<ConnectionId>>,
    },
    /// Close an account's clients from this one on, as long as it has more than it may.
    CloseClientsOf {
        account: AccountId,
        from: ConnectionId,
        done: Reply<()>,
    },
    /// Close up to `count` of the `staying` clients, as long as the server has more than `max`; the
    /// answer is the number closed.
    CloseSurplus {
        count: usize,
        staying: usize,
        max: usize,
        done: Reply<usize>,
    },
    /// Refuse connections from now on.
    StopListening(Reply<()>),
    /// Tell all clients that something about the server has changed.
    Announce(Arc<Info>, Reply<()>),
    /// Close all clients one by one over a period.
    CloseAllOver(Duration),
    /// Refuse connections from now on, and close all clients.
    CloseAll,
    /// End the shard's thread.
    Stop,
    /// Publish an answer or event of the server itself.
    Publish {
        account: AccountId,
        subject: String,
        payload: Vec<u8>,
        done: Reply<()>,
    },
    /// Describe a client by its key in the broker; None = it has left.
    Describe(ClientKey, Reply<Option<Described>>),
    /// Push what waits for other shards, and take what they have sent.
    HandOver(Reply<()>),
    /// Answer whether somebody wants one of these subjects in the system account.
    IsAnyWanted(Vec<String>, Reply<bool>),
    /// End one connection; the answer is true if it was on this shard.
    Kick(ConnectionId, Reply<bool>),
    /// Tell one client to look for another server. None = it is not here; false = it would not
    /// understand.
    AnnounceTo(ConnectionId, Reply<Option<bool>>),
    /// Show that the shard responds.
    Alive(Reply<()>),
    Summary(Reply<ShardSummary>),
    /// Report accounts' tables, in the order of account ids.
    Tables {
        with_fanout: bool,
        from: usize,
        answer: Reply<Page<TableSummary>>,
    },
    Connections {
        filter: Arc<ConnectionFilter>,
        from: usize,
        answer: Reply<Page<ConnectionRow>>,
    },
    /// Describe connections, given by place and id; `from` is an index into `wanted`.
    Details {
        wanted: Arc<[(usize, u64)]>,
        from: usize,
        answer: Reply<Page<ConnectionDetails>>,
    },
    /// List the subscriptions of such connections.
    Lists {
        wanted: Arc<[(usize, u64)]>,
        from: ListPlace,
        answer: Reply<Page<SubscriptionDetails, ListPlace>>,
    },
    Subscriptions {
        filter: Arc<SubscriptionFilter>,
        from: SubscriptionPlace,
        answer: Reply<Page<(String, SubscriptionDetails), SubscriptionPlace>>,
    },
    /// Describe JetStream; none = this shard has none.
    JetStream(JszOptions, Reply<Option<Box<JetStreamReport>>>),
    Closed {
        from: usize,
        answer: Reply<Page<PackedConnection>>,
    },
    Accounts {
        from: AccountPlace,
        answer: Reply<Page<(String, AccountTotals), AccountPlace>>,
    },
}

/// A login that waits until an account was looked up.
pub(crate) struct AccountRequest {
    pub account: Arc<str>,
    pub login: LoginId,
    /// The shard that waits.
    pub shard: ShardId,
}

/// Passes requests to the thread that knows accounts.
pub(crate) type AskForAccount = Arc<dyn Fn(AccountRequest) + Send + Sync>;

/// A client on its way from one shard to another, with the state of the last reload that the shard
/// it comes from has taken: it continues nowhere by older rules.
pub(crate) struct Moving {
    pub generation: Option<Arc<Generation>>,
    pub client: MovingClient,
    pub connection: MovedConnection,
    pub from: ShardId,
}

/// A reload's new state, prepared once for all shards.
pub(crate) struct Generation {
    /// Counts reloads, from 1 on.
    pub number: u32,
    pub options: Arc<Options>,
    pub auth: Arc<AuthState>,
    pub info: Arc<Info>,
    /// TLS of connections accepted from now on; None = plain. Present connections keep theirs.
    pub tls: Option<Arc<TlsServer>>,
    /// The listener for WebSocket clients; None = there is none.
    pub websocket: Option<Arc<WebSocketServer>>,
}

/// Other threads' access to a shard, for infrequent messages only.
#[derive(Clone)]
pub(crate) struct ShardHandle {
    orders: Sender<ShardOrder>,
    doorbell: DoorbellHandle,
}

impl ShardHandle {
    pub(crate) fn new(orders: Sender<ShardOrder>, doorbell: DoorbellHandle) -> Self {
        Self { orders, doorbell }
    }

    /// Gives the shard an order, to be carried out soon and in the order given. A shard that is
    /// gone does nothing.
    pub(crate) fn give(&self, order: ShardOrder) {
        if self.orders.send(order).is_ok() {
            self.doorbell.ring();
        }
    }

    /// Gives an order that has an answer.
    pub(crate) fn ask<T>(&self, order: impl FnOnce(Reply<T>) -> ShardOrder) -> Pending<T> {
        let (reply, pending) = reply();
        self.give(order(reply));
        pending
    }
}

/// Where a shard puts an answer. If it is dropped without one, the asking thread learns that none
/// will come.
pub(crate) struct Reply<T> {
    /// Taken when the answer is given.
    answer: Option<RingSource<T>>,
    asker: Thread,
}

/// An answer awaited by the thread that asked.
pub(crate) struct Pending<T> {
    answer: RingTarget<T>,
}

/// Returns both ends for one answer from a shard to the calling thread.
pub(crate) fn reply<T>() -> (Reply<T>, Pending<T>) {
    let (source, target) = ring(1);
    let reply = Reply { answer: Some(source), asker: std::thread::current() };
    (reply, Pending { answer: target })
}

impl<T> Reply<T> {
    pub(crate) fn give(mut self, answer: T) {
        if let Some(source) = &mut self.answer {
            // There is room: an answer is given only once. The other end may be gone.
            let _ = source.push(answer);
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        // The ring's end first, then the wake-up: a woken thread finds the answer, or that none
        // will come.
        self.answer = None;
        self.asker.unpark();
    }
}

impl<T> Pending<T> {
    /// Returns the answer if it is there.
    pub(crate) fn take(&mut self) -> Option<T> {
        self.answer.pop()
    }

    /// Returns true once the answer is there, or will never be.
    pub(crate) fn is_over(&self) -> bool {
        !self.answer.is_empty() || self.answer.is_abandoned()
    }

    /// Waits for the answer; None = it did not come in time, or never will.
    pub(crate) fn wait(mut self, deadline: Instant) -> Option<T> {
        while !self.is_over() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::park_timeout(left);
        }
        self.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn an_answer_wakes_the_thread_that_asked() {
        let (reply, pending) = reply();
        let shard = std::thread::spawn(move || reply.give(7));
        assert_eq!(pending.wait(soon()), Some(7));
        shard.join().expect("it only answers");
    }

    #[test]
    fn dropping_a_reply_ends_the_wait() {
        let (reply, pending) = reply::<()>();
        let shard = std::thread::spawn(move || drop(reply));
        assert_eq!(pending.wait(soon()), None);
        shard.join().expect("it only drops");
    }

    #[test]
    fn a_wait_ends_at_its_deadline_and_the_answer_may_come_later() {
        let (reply, pending) = reply();
        assert_eq!(pending.wait(Instant::now()), None);
        reply.give(7);
    }
}
