//! Orders that concern all sessions of a shard: done some sessions per turn, with everybody else in
//! between.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::{Shard, Surplus};
use super::order::{Generation, Reply};
use super::pass::Pass;
use super::speaker::{Entry, Speaker};
use crate::auth::state::AuthState;
use crate::base::ids::{AccountId, ConnectionId};
use crate::base::limits::{CLOSED_PER_TURN_MAX, REVIEWED_PER_TURN_MAX};
use crate::client::session::ClientSession;
use crate::net::runtime::{sleep, spawn};
use crate::protocol::nats::error::CloseReason;
use crate::protocol::nats::handshake::Info;

/// Interval at which lame duck mode checks how many clients must be closed by now.
const CLOSING_INTERVAL: Duration = Duration::from_millis(10);

/// Draws `wanted` of `left` items that come one after the other, each with the same probability.
#[derive(Debug)]
struct Draw {
    wanted: usize,
    left: usize,
}

impl Draw {
    /// Returns true if the next item is drawn. Source: Knuth, The Art of Computer Programming 2,
    /// 3.4.2, algorithm S.
    fn takes(&mut self, random: &mut fastrand::Rng) -> bool {
        let takes = self.wanted > 0 && random.usize(..self.left.max(1)) < self.wanted;
        self.wanted -= usize::from(takes);
        self.left = self.left.saturating_sub(1);
        takes
    }
}

impl Shard {
    /// Visits every session, `per_turn` places per turn.
    async fn walk(&self, per_turn: usize, mut visit: impl FnMut(&Entry)) {
        let mut pass = Pass::default();
        while pass.step(&self.registry.borrow(), per_turn, |_, entry| visit(entry)) {
            self.hook.yield_turn().await;
            self.hook.before_batch();
        }
        self.hook.request();
    }

    /// Applies a reload: from this turn on the new generation applies to whatever a peer sends, and
    /// all sessions are reviewed on this turn and the next ones. The answer is the number of
    /// clients that stay.
    pub(super) fn take_generation(
        self: &Rc<Self>,
        generation: &Arc<Generation>,
        done: Reply<usize>,
    ) {
        self.adopt_generation(generation);
        self.review_all(done);
    }

    /// Makes a reload's state that of this shard, unless it has this one or a later one already: a
    /// client may have brought it from another shard, before the order came. Sessions are reviewed
    /// before their next bytes.
    pub(super) fn adopt_generation(&self, generation: &Arc<Generation>) {
        let clients = &self.clients;
        if generation.number <= clients.generation.get() {
            return;
        }
        clients.generation.set(generation.number);
        self.mesh.set_pending_bytes_max(generation.options.limits.pending_bytes_max);
        *clients.options.borrow_mut() = generation.options.clone();
        let drops = generation.options.limits.no_fast_producer_stall;
        self.recorded.outboxes.drops_for_slow.set(drops);
        if generation.auth.version >= clients.auth.borrow().version {
            *clients.auth.borrow_mut() = generation.auth.clone();
            self.broker.borrow_mut().set_imports(generation.auth.imports().clone());
        }
        *clients.info.borrow_mut() = generation.info.clone();
        *clients.tls.borrow_mut() = generation.tls.clone();
        *clients.websocket.borrow_mut() = generation.websocket.clone();
        self.surplus.take();
        *self.generation.borrow_mut() = Some(generation.clone());
        self.take_jetstream_accounts(&generation.auth);
    }

    /// Takes over the accounts of operator mode; with `review` the clients of those that have changed
    /// are reviewed on this turn and the next ones. The answer is the number of clients that stay.
    pub(super) fn take_accounts(
        self: &Rc<Self>,
        auth: Arc<AuthState>,
        review: Option<Reply<usize>>,
    ) {
        let clients = &self.clients;
        if auth.version > clients.auth.borrow().version {
            self.broker.borrow_mut().set_imports(auth.imports().clone());
            self.take_jetstream_accounts(&auth);
            *clients.auth.borrow_mut() = auth;
        }
        let Some(done) = review else { return };
        clients.account_changes.set(clients.account_changes.get().wrapping_add(1));
        self.surplus.take();
        let shard = self.clone();
        spawn(async move {
            done.give(shard.review_sessions(ClientSession::catch_up_with_accounts).await);
        });
    }

    /// Lets all sessions `catch_up`, and finishes the reviews of those that have many
    /// subscriptions. Returns the number of clients that stay.
    async fn review_sessions(
        &self,
        catch_up: impl Fn(&mut ClientSession) -> Option<CloseReason>,
    ) -> usize {
        let mut staying = 0;
        let mut unfinished = Vec::new();
        let review = |entry: &Entry| {
            let Speaker::Client(session) = &entry.speaker;
            let mut under_review = session.borrow_mut();
            catch_up(&mut under_review);
            staying += usize::from(under_review.is_staying());
            if under_review.is_under_review() {
                unfinished.push(session.clone());
            }
        };
        self.walk(REVIEWED_PER_TURN_MAX, review).await;
        for session in unfinished {
            while session.borrow_mut().go_on_with_review() {
                self.hook.yield_turn().await;
            }
        }
        staying
    }

    /// Reviews all sessions after a reload. The answer is the number of clients that stay.
    fn review_all(self: &Rc<Self>, done: Reply<usize>) {
        let shard = self.clone();
        spawn(async move {
            shard.subscribe_system_paced().await;
            done.give(shard.review_sessions(ClientSession::catch_up_with_reload).await);
        });
    }

    /// Closes, after a reload, clients for which their accounts have no room. The answer is the
    /// number of clients that stay.
    pub(super) fn close_surplus_of_accounts(self: &Rc<Self>, done: Reply<usize>) {
        self.surplus.set(Surplus { of_accounts: true, ..self.surplus.get() });
        let shard = self.clone();
        spawn(async move {
            let mut staying = 0;
            let visit = |entry: &Entry| {
                let Speaker::Client(session) = &entry.speaker;
                let mut session = session.borrow_mut();
                session.close_if_account_is_full();
                staying += usize::from(session.is_staying());
            };
            shard.walk(REVIEWED_PER_TURN_MAX, visit).await;
            done.give(staying);
        });
    }

    /// Lists the clients of an account.
    pub(super) fn list_clients_of(
        self: &Rc<Self>,
        account: AccountId,
        answer: Reply<Vec<ConnectionId>>,
    ) {
        let shard = self.clone();
        spawn(async move {
            let mut ids = Vec::new();
            let visit = |entry: &Entry| {
                let Speaker::Client(session) = &entry.speaker;
                let session = session.borrow();
                if session.account() == account && session.is_staying() {
                    ids.push(session.id());
                }
            };
            shard.walk(REVIEWED_PER_TURN_MAX, visit).await;
            answer.give(ids);
        });
    }

    /// Closes an account's clients from one on, as long as it has more than it may.
    pub(super) fn close_clients_of(
        self: &Rc<Self>,
        account: AccountId,
        from: ConnectionId,
        done: Reply<()>,
    ) {
        self.surplus.set(Surplus { of_accounts: true, ..self.surplus.get() });
        let shard = self.clone();
        spawn(async move {
            let visit = |entry: &Entry| {
                let Speaker::Client(session) = &entry.speaker;
                let mut session = session.borrow_mut();
                if session.account() == account && session.id() >= from {
                    session.close_if_account_is_full();
                }
            };
            shard.walk(REVIEWED_PER_TURN_MAX, visit).await;
            done.give(());
        });
    }

    /// Closes `count` of this shard's `staying` clients, drawn at random, as long as the server has
    /// more than `max`. The answer is the number closed.
    pub(super) fn close_surplus(
        self: &Rc<Self>,
        count: usize,
        staying: usize,
        max: usize,
        done: Reply<usize>,
    ) {
        self.surplus.set(Surplus { max: Some(max), ..self.surplus.get() });
        let shard = self.clone();
        spawn(async move {
            let mut draw = Draw { wanted: count, left: staying };
            let mut random = fastrand::Rng::new();
            let mut closed = 0;
            let visit = |entry: &Entry| {
                let Speaker::Client(session) = &entry.speaker;
                let mut session = session.borrow_mut();
                if session.is_staying() && draw.takes(&mut random) {
                    closed += usize::from(session.close_as_surplus(max));
                }
            };
            shard.walk(CLOSED_PER_TURN_MAX, visit).await;
            done.give(closed);
        });
    }

    /// Announces lame duck mode to clients, which then look for another server.
    pub(super) fn announce(self: &Rc<Self>, info: Arc<Info>, done: Reply<()>) {
        *self.clients.info.borrow_mut() = info;
        let shard = self.clone();
        spawn(async move {
            let tell = |entry: &Entry| {
                let Speaker::Client(session) = &entry.speaker;
                session.borrow_mut().tell_of_lame_duck();
            };
            shard.walk(REVIEWED_PER_TURN_MAX, tell).await;
            done.give(());
        });
    }

    /// Closes all clients one after the other over `window`, at most a second apart.
    pub(super) fn close_all_over(self: &Rc<Self>, window: Duration) {
        self.closing.set(true);
        let shard = self.clone();
        spawn(async move {
            let keys: Vec<usize> = shard.registry.borrow().iter().map(|(key, _)| key).collect();
            let start = Instant::now();
            let mut closed = 0;
            while closed < keys.len() {
                let due = closed_by(start.elapsed(), window, keys.len());
                let end = due.min(closed + CLOSED_PER_TURN_MAX);
                keys[closed..end].iter().for_each(|key| shard.close_one(*key));
                shard.hook.request();
                let is_behind = end < due;
                closed = end;
                match is_behind {
                    true => shard.hook.yield_turn().await,
                    false => sleep(CLOSING_INTERVAL).await,
                }
            }
        });
    }

    /// Closes all clients, some per turn.
    pub(super) fn close_all(self: &Rc<Self>) {
        self.closing.set(true);
        let shard = self.clone();
        spawn(async move {
            let close = |entry: &Entry| entry.speaker.queue().close(CloseReason::ServerShutdown);
            shard.walk(CLOSED_PER_TURN_MAX, close).await;
        });
    }

    fn close_one(&self, key: usize) {
        let queue = self.registry.borrow().get(key).map(|entry| entry.speaker.queue());
        if let Some(queue) = queue {
            queue.close(CloseReason::ServerShutdown);
        }
    }
}

/// Returns how many of `count` must be closed once `elapsed` of `window` is over; the first one at
/// once.
fn closed_by(elapsed: Duration, window: Duration, count: usize) -> usize {
    /// Longest time between two that are closed.
    const APART_MAX: Duration = Duration::from_secs(1);
    let apart = window.div_f64(count.max(1) as f64).min(APART_MAX);
    if apart.is_zero() {
        return count;
    }
    ((elapsed.as_secs_f64() / apart.as_secs_f64()) as usize).saturating_add(1).min(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_takes_exactly_the_wanted_number_and_anybody_may_be_drawn() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut taken = [0; 10];
        for wanted in 0..=10 {
            for _ in 0..200 {
                let mut draw = Draw { wanted, left: 10 };
                let picks: Vec<bool> = (0..10).map(|_| draw.takes(&mut random)).collect();
                assert_eq!(picks.iter().filter(|taken| **taken).count(), wanted);
                if wanted == 3 {
                    picks.iter().zip(&mut taken).for_each(|(one, sum)| *sum += usize::from(*one));
                }
            }
        }
        assert!(taken.iter().all(|sum| (20..=120).contains(sum)), "{taken:?}");
    }

    #[test]
    fn a_draw_of_fewer_than_expected_takes_no_more_than_there_are() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut draw = Draw { wanted: 5, left: 2 };
        let taken = (0..4).filter(|_| draw.takes(&mut random)).count();
        assert_eq!(taken, 4);
    }

    #[test]
    fn lame_duck_closes_evenly_and_at_least_one_a_second() {
        let seconds = Duration::from_secs;
        assert_eq!(closed_by(seconds(0), seconds(10), 100), 1);
        assert_eq!(closed_by(seconds(5), seconds(10), 100), 51);
        assert_eq!(closed_by(seconds(10), seconds(10), 100), 100);
        assert_eq!(closed_by(seconds(3), seconds(100), 5), 4);
        assert_eq!(closed_by(seconds(0), seconds(0), 5), 5);
        assert_eq!(closed_by(seconds(1), seconds(1), 1_000_000), 1_000_000);
        assert_eq!(closed_by(seconds(1), seconds(1), 0), 0);
    }
}
