//! Everything that another thread may ask of a shard, in one closed list, and the way back of its answers.
//!
//! A shard never waits for whoever asks, and shares no lock with it: an answer goes into a ring of one slot,
//! and the asking thread is unparked. What a shard is asked takes it at most one slice of work; the rest of a
//! long order is done on later turns, by `walk`.

use std::rc::Rc;
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::Shard;
use super::snapshot::{AccountPlace, ListPlace, Page, SubscriptionFilter, SubscriptionPlace};
use crate::auth::password::PasswordOutcome;
use crate::auth::state::AuthState;
use crate::base::ids::{AccountId, ConnectionId, LoginId};
use crate::base::ring::{RingSource, RingTarget, ring};
use crate::config::options::Options;
use crate::monitor::closed::PackedConnection;
use crate::monitor::snapshot::{
    AccountTotals, ConnectionDetails, ConnectionFilter, ConnectionRow, ShardSummary,
    SubscriptionDetails, TableSummary,
};
use crate::net::listener::Accepted;
use crate::net::tls_config::TlsServer;
use crate::protocol::nats::handshake::Info;

/// All that can happen to a shard from outside its own thread, lanes between shards aside.
pub(crate) enum ShardOrder {
    /// Serves a socket that another shard accepted; it counts here already.
    Serve(Accepted),
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

/// What a reload brings, prepared once for all shards.
pub(crate) struct Generation {
    pub options: Arc<Options>,
    pub auth: Arc<AuthState>,
    pub info: Arc<Info>,
    /// Of connections accepted from now on; None = plain. Those that are up keep what they have.
    pub tls: Option<Arc<TlsServer>>,
}

impl ShardOrder {
    pub(super) fn carry_out(self, shard: &Rc<Shard>) {
        match self {
            Self::Serve(accepted) => shard.serve_accepted(accepted),
            Self::PasswordChecked(login, outcome) => {
                if let Some(outcome) = outcome {
                    shard.clients.checks.checked(login, outcome);
                }
                shard.offload.borrow_mut().hand_on();
            }
            Self::Reload(generation, done) => shard.take_generation(&generation, done),
            Self::CloseSurplusOfAccounts(done) => shard.close_surplus_of_accounts(done),
            Self::CloseSurplus { count, staying, done } => {
                shard.close_surplus(count, staying, done)
            }
            Self::StopListening(done) => {
                shard.stop_listening();
                done.give(());
            }
            Self::Announce(info, done) => shard.announce(info, done),
            Self::CloseAllOver(window) => shard.close_all_over(window),
            Self::CloseAll => {
                shard.stop_listening();
                shard.close_all();
            }
            Self::Stop => shard.stop(),
            Self::Publish { account, subject, payload, done } => {
                shard.publish_system(account, &subject, &payload);
                done.give(());
            }
            Self::HandOver(done) => {
                shard.hand_over();
                done.give(());
            }
            Self::IsAnyWanted(subjects, answer) => answer.give(shard.is_any_wanted(&subjects)),
            Self::Kick(connection, answer) => answer.give(shard.kick(connection)),
            Self::AnnounceTo(connection, answer) => answer.give(shard.announce_to(connection)),
            Self::Alive(answer) => answer.give(()),
            Self::Summary(answer) => answer.give(shard.summary()),
            Self::Tables { with_fanout, from, answer } => {
                answer.give(shard.table_page(with_fanout, from));
            }
            Self::Connections { filter, from, answer } => {
                answer.give(shard.connection_page(&filter, from));
            }
            Self::Details { wanted, from, answer } => {
                answer.give(shard.details_page(&wanted, from));
            }
            Self::Lists { wanted, from, answer } => answer.give(shard.list_page(&wanted, from)),
            Self::Subscriptions { filter, from, answer } => {
                answer.give(shard.subscription_page(&filter, from));
            }
            Self::Closed { from, answer } => answer.give(shard.closed_page(from)),
            Self::Accounts { from, answer } => answer.give(shard.account_page(from)),
        }
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
