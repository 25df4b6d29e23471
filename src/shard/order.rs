//! Everything that another thread may ask of a shard, in one closed list, and the way back of its answers.
//!
//! A shard never waits for whoever asks, and shares no lock with it: an answer goes into a ring of one slot,
//! and the asking thread is unparked. What a shard is asked takes it at most one slice of work; the rest of a
//! long order is done on later turns: `carry_out` and `walk`.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::pages::{AccountPlace, ListPlace, Page, SubscriptionFilter, SubscriptionPlace};
use crate::auth::password::PasswordOutcome;
use crate::auth::state::AuthState;
use crate::base::ids::{AccountId, ConnectionId, LoginId, ShardId};
use crate::base::ring::{RingSource, RingTarget, ring};
use crate::client::moving::MovingClient;
use crate::config::options::Options;
use crate::monitor::closed::PackedConnection;
use crate::monitor::snapshot::{
    AccountTotals, ConnectionDetails, ConnectionFilter, ConnectionRow, ShardSummary,
    SubscriptionDetails, TableSummary,
};
use crate::net::connection::MovedConnection;
use crate::net::doorbell::DoorbellHandle;
use crate::net::listener::Accepted;
use crate::net::tls_config::TlsServer;
use crate::protocol::nats::handshake::Info;

/// All that can happen to a shard from outside its own thread, lanes between shards aside.
pub(crate) enum ShardOrder {
    /// Serves a socket that another shard accepted; it counts here already.
    Serve(Accepted),
    /// Goes on serving a client that another shard served until now; it counts here already.
    Move(Box<Moving>),
    /// A client that went from this shard to another one is served there now.
    Arrived(ConnectionId),
    /// Goes on with a login whose password was checked; None = nobody waited for it any more.
    PasswordChecked(LoginId, Option<PasswordOutcome>),
    /// Applies a reload and reviews all sessions; the answer counts the clients that stay.
    Reload(Arc<Generation>, Reply<usize>),
    /// After a reload that every shard has taken: closes clients that their accounts have no room for. The answer
    /// counts those that stay.
    CloseSurplusOfAccounts(Reply<usize>),
    /// Closes `count` clients of the `staying`; the answer counts the closed ones.
    CloseSurplus {
        count: usize,
        staying: usize,
        done: Reply<usize>,
    },
    /// Refuses connections from now on.
    StopListening(Reply<()>),
    /// Tells all clients that something about the server changed.
    Announce(Arc<Info>, Reply<()>),
    /// Closes all clients one by one over a time.
    CloseAllOver(Duration),
    /// Refuses connections from now on and closes all there are.
    CloseAll,
    /// Ends the shard's thread.
    Stop,
    /// Publishes an answer or event of the server itself.
    Publish {
        account: AccountId,
        subject: String,
        payload: Vec<u8>,
        done: Reply<()>,
    },
    /// Sends what waits for other shards, and takes what they sent.
    HandOver(Reply<()>),
    /// Tells whether somebody wants one of these subjects in the system account.
    IsAnyWanted(Vec<String>, Reply<bool>),
    /// Ends one connection; the answer tells whether it was here.
    Kick(ConnectionId, Reply<bool>),
    /// Tells one client to look for another server. None = it is not here; false = it would not understand.
    AnnounceTo(ConnectionId, Reply<Option<bool>>),
    /// Shows that the shard answers.
    Alive(Reply<()>),
    Summary(Reply<ShardSummary>),
    /// Tells of the tables of accounts, in the order of their ids.
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
    /// Describes connections, named by place and number; `from` is an index into `wanted`.
    Details {
        wanted: Arc<[(usize, u64)]>,
        from: usize,
        answer: Reply<Page<ConnectionDetails>>,
    },
    /// Lists the subscriptions of such connections.
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
    Closed {
        from: usize,
        answer: Reply<Page<PackedConnection>>,
    },
    Accounts {
        from: AccountPlace,
        answer: Reply<Page<(String, AccountTotals), AccountPlace>>,
    },
}

/// A client on its way from one shard to another.
pub(crate) struct Moving {
    pub client: MovingClient,
    pub connection: MovedConnection,
    pub from: ShardId,
}

/// What a reload brings, prepared once for all shards.
pub(crate) struct Generation {
    pub options: Arc<Options>,
    pub auth: Arc<AuthState>,
    pub info: Arc<Info>,
    /// Of connections accepted from now on; None = plain. Those that are up keep what they have.
    pub tls: Option<Arc<TlsServer>>,
}

/// How other threads reach a shard: cold messages only.
#[derive(Clone)]
pub(crate) struct ShardHandle {
    orders: Sender<ShardOrder>,
    doorbell: DoorbellHandle,
}

impl ShardHandle {
    pub(crate) fn new(orders: Sender<ShardOrder>, doorbell: DoorbellHandle) -> Self {
        Self { orders, doorbell }
    }

    /// Has the shard carry out an order, soon and in the order given. A shard that is gone does nothing.
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

/// Where a shard puts an answer. Dropped without one, the asking thread learns that there will be none.
pub(crate) struct Reply<T> {
    /// Taken when the answer is given.
    answer: Option<RingSource<T>>,
    asker: Thread,
}

/// An answer that is awaited by the thread that asked.
pub(crate) struct Pending<T> {
    answer: RingTarget<T>,
}

/// A way for one answer, from a shard to the calling thread.
pub(crate) fn reply<T>() -> (Reply<T>, Pending<T>) {
    let (source, target) = ring(1);
    let reply = Reply { answer: Some(source), asker: std::thread::current() };
    (reply, Pending { answer: target })
}

impl<T> Reply<T> {
    pub(crate) fn give(mut self, answer: T) {
        if let Some(source) = &mut self.answer {
            // There is room: one answer is given once. Nobody may wait for it any more.
            let _ = source.push(answer);
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        // First the end of the ring, then the wake: whoever wakes finds the answer, or that none will come.
        self.answer = None;
        self.asker.unpark();
    }
}

impl<T> Pending<T> {
    /// The answer, if it is there. Only the thread that asked is woken by it.
    pub(crate) fn take(&mut self) -> Option<T> {
        self.answer.pop()
    }

    /// True once the answer is there, or will never be.
    pub(crate) fn is_over(&self) -> bool {
        !self.answer.is_empty() || self.answer.is_abandoned()
    }

    /// Waits for the answer; None = it was not there in time, or never will be.
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
    fn a_question_that_is_dropped_ends_the_wait() {
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
