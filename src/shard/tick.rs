//! Everything that is due by time instead of by bytes: pings, deadlines, idle buffers, freed
//! memory.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::core::Shard;
use super::pass::Pass;
use super::speaker::{Entry, Speaker};
use super::spread::{self, Candidate, Heaviest};
use crate::base::huge_pages;
use crate::base::ids::ShardId;
use crate::base::limits::{
    HUGE_PAGES_SUBSCRIPTIONS_MIN, SHRINKS_PER_TICK_MAX, TICKED_PER_TURN_MAX,
};
use crate::base::shrink;
use crate::broker::late_send::SendCheck;
use crate::config::options::{Balance, WriteTimeoutPolicy};
use crate::net::connection::ConnectionContext;
use crate::net::runtime::{sleep, within};
use crate::net::session::Session;
use crate::protocol::nats::error::CloseReason;

/// Bytes of an allocation that the allocator gives a mapping of its own.
const NUDGE_BYTES: usize = 2 << 20;

/// Makes the allocator return freed pages to the system. It does so when a page is freed some time
/// after others were, and an idle shard frees nothing: the memory of a burst would stay. Nothing is
/// written here, so no memory is used.
fn nudge_allocator() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(NUDGE_BYTES)));
}

/// What a shard without connections waits before the interval of a tick: a shard that nobody needs is to wake rarely.
const EMPTY_TICK_INTERVAL: Duration = Duration::from_secs(4);

/// Ticks in a row at which the allocator looks for freed memory.
const COLLECTIONS: u32 = 3;

/// One tick: a pass over all connections, some per turn.
#[derive(Default)]
struct Tick {
    pass: Pass,
    /// Idle buffers given back so far.
    shrinks: usize,
    pending_sum: u64,
    pending_max: u64,
    /// For tests: every connection is asked to move.
    wanders: bool,
    /// Present where connections may be moved.
    heaviest: Option<Heaviest>,
}

impl Shard {
    /// Does everything that is due by time: pings, deadlines, idle buffers. Some connections per
    /// turn: the shard serves its peers in between.
    async fn tick(&self) {
        self.loads.set_busy(self.id, self.busy.look(self.hook.spun()));
        let balance = self.clients.options.borrow().shards.balance;
        let moves = self.peers.len() > 1 && !self.closing.get() && !self.refusing.get();
        let mut tick = Tick {
            heaviest: (moves && balance == Balance::Auto).then(Heaviest::default),
            wanders: moves && balance == Balance::Wander,
            ..Tick::default()
        };
        while self.tick_some(&mut tick, Instant::now()) {
            self.hook.yield_turn().await;
            self.hook.before_batch();
        }
        self.recorded.pending_bytes.set((tick.pending_sum, tick.pending_max));
        self.spread(tick.heaviest.take());
        self.system.tick();
        self.pass_records_on();
        self.choose_page_size();
        self.trim();
        self.give_back(tick.shrinks);
    }

    /// Asks some connections to move to shards that have less to do.
    fn spread(&self, heaviest: Option<Heaviest>) {
        let Some(heaviest) = heaviest else { return };
        let shards = (0..self.loads.count()).map(ShardId::of_index);
        let busy: Vec<usize> = shards.map(|shard| self.loads.busy(shard)).collect();
        for spread::Move { key, target, share } in spread::plan(self.id, &busy, &heaviest) {
            let registry = self.registry.borrow();
            // It may have gone since it was looked at, and another come in its place.
            let Some(Entry { speaker: Speaker::Client(session), .. }) = registry.get(key) else {
                continue;
            };
            let mut session = session.borrow_mut();
            session.ask_to_move(target);
            session.rouse();
            self.loads.shift_busy(self.id, target, share);
        }
    }

    /// Has freed memory given back. If something went since the last tick, the allocator looks for
    /// everything freed, including by other threads, and again at the next ticks, because it delays
    /// giving back.
    fn give_back(&self, shrinks: usize) {
        let held = self.registry.borrow().len() + self.broker.borrow().interest_total();
        if self.held.replace(held) > held || shrinks > 0 {
            self.collections.set(COLLECTIONS);
        }
        match self.collections.get().checked_sub(1) {
            Some(left) => {
                self.collections.set(left);
                (self.collect)();
            }
            None => nudge_allocator(),
        }
    }

    /// Asks for huge pages at each tick while the table is large. A shard that is no longer large
    /// turns them off once. Both apply to the whole process.
    fn choose_page_size(&self) {
        let table_total = self.broker.borrow().table_total();
        if table_total >= HUGE_PAGES_SUBSCRIPTIONS_MIN {
            self.huge_pages.set(true);
            huge_pages::allow();
        } else if table_total < HUGE_PAGES_SUBSCRIPTIONS_MIN / 4 && self.huge_pages.take() {
            huge_pages::avoid();
        }
    }

    /// Frees the memory that a burst left behind.
    fn trim(&self) {
        self.broker.borrow_mut().trim();
        shrink::slab(&mut self.registry.borrow_mut());
        let ConnectionContext { read_pool, opened_pool, sealed_pool, .. } = &*self.connections;
        for pool in [read_pool, opened_pool, sealed_pool, &self.clients.chunk_pool] {
            pool.trim();
        }
    }

    /// Visits some connections. True if there are more.
    fn tick_some(&self, tick: &mut Tick, now: Instant) -> bool {
        let limits = &self.clients.options.borrow().clone().limits;
        let retries = limits.write_timeout == WriteTimeoutPolicy::Retry;
        let Tick { pass, shrinks, pending_sum, pending_max, heaviest, wanders } = tick;
        let next = ShardId::of_index((self.id.index() + 1) % self.peers.len());
        pass.step(&self.registry.borrow(), TICKED_PER_TURN_MAX, |key, entry| {
            let Speaker::Client(session) = &entry.speaker;
            let mut session = session.borrow_mut();
            let outbox = session.outbox().clone();
            let check = outbox.check_send(now, limits.write_deadline, retries);
            if check == SendCheck::Failed {
                outbox.close(CloseReason::SlowConsumerWriteDeadline);
                outbox.abort_socket();
            } else if !outbox.is_closing() {
                match check {
                    SendCheck::InTime => {}
                    SendCheck::Expired => entry.control.retry_write(),
                    late => self.note_send(&session, late),
                }
                if let Some(reason) = session.tick(now) {
                    outbox.close(reason);
                }
            }
            if *wanders {
                session.ask_to_move(next);
                session.rouse();
            }
            if let Some(heaviest) = heaviest {
                session.forget_move();
                let (activity, rests) = (entry.control.activity(), entry.control.rests());
                if heaviest.look(activity) && !rests && session.may_move() {
                    heaviest.keep(Candidate { key, activity });
                }
            }
            let may_shrink = *shrinks < SHRINKS_PER_TICK_MAX;
            *shrinks += usize::from(entry.control.shrink_if_idle(may_shrink));
            let pending = outbox.pending_bytes() as u64;
            *pending_sum += pending;
            *pending_max = (*pending_max).max(pending);
        })
    }

    /// Returns the interval at which `tick` must run so that deadlines are kept within a quarter of
    /// their length.
    fn tick_interval(&self) -> Duration {
        let options = self.clients.options.borrow();
        let mut shortest = options.limits.write_deadline.min(options.keep_alive.ping_interval);
        let web = &options.websocket;
        for own in [web.ping_interval, web.handshake_timeout].into_iter().flatten() {
            shortest = shortest.min(own);
        }
        if self.clients.auth.borrow().authenticator.is_required_somewhere() {
            shortest = shortest.min(options.auth_timeout());
            shortest = shortest.min(options.websocket.auth_timeout.unwrap_or(shortest));
        }
        (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }

    /// Nobody is connected, and all that was freed is given back: the next tick may come late, unless somebody comes.
    fn has_nothing_due(&self) -> bool {
        let is_quiet = self.collections.get() == 0 && self.loads.busy(self.id) == 0;
        is_quiet && self.registry.borrow().is_empty()
    }

    pub(super) async fn run_ticker(self: Rc<Self>) {
        loop {
            if self.has_nothing_due() {
                let arrivals = &self.arrivals;
                within(EMPTY_TICK_INTERVAL, arrivals.reached(arrivals.value() + 1)).await;
            }
            sleep(self.tick_interval()).await;
            // A shard that nobody talks to still takes the interest that others announced.
            self.hook.before_batch();
            self.tick().await;
        }
    }
}
