//! monoio's run loop and its end of turn.
//!
//! A shard's main future is polled after the tasks that were ready have run: that is the end of a
//! turn. There the shard drains and flushes its lanes and announces that it will sleep. Tasks ask
//! for it by `TurnHook`. This relies on the run loop of monoio 0.2.4: `block_on` polls the main
//! future after the task queue whenever its waker was used, and a woken task goes to the back of
//! the queue.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::base::limits::{ENDED_PER_TURN_MAX, HEAVY_STEPS_PER_TURN_MAX};
use crate::base::ring::{ParkFlag, Signal};
use crate::base::turn_clock::TurnClock;
use crate::net::busy_poll::BusyPoll;
use crate::net::doorbell::DoorbellHandle;
use crate::net::quota::Quota;

/// Entries of a shard's submission queue; the completion queue has four times as many.
pub(crate) const RING_ENTRIES: u32 = 1024;

/// The monoio driver that runs a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    IoUring,
    Epoll,
}

/// Builds a runtime on this thread and runs `main` on it.
///
/// # Errors
/// If the driver could not be set up.
pub(crate) fn run<F: Future>(driver: Driver, main: F) -> io::Result<F::Output> {
    match driver {
        Driver::IoUring => {
            let runtime = build_uring(ring_builder()).or_else(|_| {
                // Kernels before 6.0 lack SINGLE_ISSUER; the plain ring works everywhere.
                build_uring(io_uring::IoUring::builder())
            });
            Ok(runtime?.block_on(main))
        }
        Driver::Epoll => {
            let mut runtime =
                monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().enable_timer().build()?;
            Ok(runtime.block_on(main))
        }
    }
}

/// Returns the settings of a shard's ring. One thread submits, and completions are reaped when it
/// enters the kernel anyway, so task work need not interrupt the thread.
pub(crate) fn ring_builder() -> io_uring::Builder {
    let mut builder = io_uring::IoUring::builder();
    builder.setup_single_issuer().setup_coop_taskrun().setup_cqsize(RING_ENTRIES * 4);
    builder
}

type UringRuntime = monoio::Runtime<monoio::time::TimeDriver<monoio::IoUringDriver>>;

fn build_uring(builder: io_uring::Builder) -> io::Result<UringRuntime> {
    monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .uring_builder(builder)
        .with_entries(RING_ENTRIES)
        .enable_timer()
        .build()
}

/// Starts a task on this shard.
pub(crate) fn spawn<F: Future<Output = ()> + 'static>(future: F) {
    drop(monoio::spawn(future));
}

pub(crate) async fn sleep(duration: Duration) {
    monoio::time::sleep(duration).await;
}

/// Waits for a future that may be dropped, or polled again; None = it did not finish in time.
pub(crate) async fn finished_within<F: Future>(duration: Duration, future: F) -> Option<F::Output> {
    monoio::time::timeout(duration, future).await.ok()
}

/// Waits for a future that may be dropped at any time; false = it did not finish in time.
pub(crate) async fn within<F: Future>(duration: Duration, future: F) -> bool {
    monoio::time::timeout(duration, future).await.is_ok()
}

/// The two things that are asked of a shard's lanes.
pub(crate) struct Lanes {
    /// Applies and delivers everything that waits.
    pub catch_up: Box<dyn Fn()>,
    /// Pushes everything that was produced.
    pub flush: Box<dyn Fn()>,
}

/// Tasks' access to the end of the turn. One per shard, shared by its tasks.
pub(crate) struct TurnHook {
    /// The main future's waker.
    main: RefCell<Option<Waker>>,
    /// Wakes the kicker task, which asks for another turn without sleeping in between.
    kicker: RefCell<Option<Waker>>,
    yielded: RefCell<Vec<Waker>>,
    /// Steps that each take as long as a turn should.
    heavy_steps: Quota,
    /// Tear-downs of connections.
    end_steps: Quota,
    park: ParkFlag,
    /// Raised by other shards that pushed something.
    inbound_waiting: Signal,
    /// Set while something for other shards has not been pushed.
    lanes_dirty: Rc<Cell<bool>>,
    lanes: RefCell<Option<Lanes>>,
    /// True if this turn did something.
    worked: Cell<bool>,
    /// The last time that the run loop went through the kernel's wait, where timers fire.
    last_wait: Cell<Instant>,
    /// True if tasks that yielded were held back so that the run loop waits.
    held: Cell<bool>,
    bell: DoorbellHandle,
    busy_poll: BusyPoll,
    clock: Rc<TurnClock>,
}

/// Longest delay of timers while a shard has no time to wait.
const TIMER_SLACK: Duration = Duration::from_millis(1);

impl TurnHook {
    pub(crate) fn new(
        park: ParkFlag,
        inbound_waiting: Signal,
        bell: DoorbellHandle,
        busy_poll: Option<Duration>,
        clock: Rc<TurnClock>,
    ) -> Rc<Self> {
        Rc::new(Self {
            main: RefCell::new(None),
            kicker: RefCell::new(None),
            yielded: RefCell::default(),
            heavy_steps: Quota::new(HEAVY_STEPS_PER_TURN_MAX),
            end_steps: Quota::new(ENDED_PER_TURN_MAX),
            park,
            inbound_waiting,
            lanes_dirty: Rc::default(),
            lanes: RefCell::new(None),
            worked: Cell::new(false),
            last_wait: Cell::new(Instant::now()),
            held: Cell::new(false),
            bell,
            busy_poll: BusyPoll::new(busy_poll),
            clock,
        })
    }

    pub(crate) fn set_lanes(&self, lanes: Lanes) {
        *self.lanes.borrow_mut() = Some(lanes);
    }

    /// Returns the flag for whoever appends to a lane.
    pub(crate) fn lanes_dirty(&self) -> Rc<Cell<bool>> {
        self.lanes_dirty.clone()
    }

    /// Called before a batch of a peer's commands: takes what other shards sent. Whatever this peer
    /// does now thus comes after everything that was in the lanes when its bytes arrived: interest
    /// that others were told is in force, and messages whose publisher got its PONG. Asks for the
    /// end of the turn.
    #[inline]
    pub(crate) fn before_batch(&self) {
        self.clock.began();
        if self.inbound_waiting.is_raised()
            && let Some(lanes) = self.lanes.borrow().as_ref()
        {
            (lanes.catch_up)();
        }
        self.note_activity();
        self.request();
    }

    /// Called before bytes go to a peer: whatever this shard sent to others must be in their lanes
    /// before any peer can know of it.
    #[inline]
    pub(crate) fn before_send(&self) {
        if self.lanes_dirty.get()
            && let Some(lanes) = self.lanes.borrow().as_ref()
        {
            (lanes.flush)();
        }
    }

    /// Asks for the end of the turn.
    #[inline]
    pub(crate) fn request(&self) {
        self.park.retract();
        if let Some(waker) = self.main.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Lets every other ready task and completion go first.
    pub(crate) async fn yield_turn(&self) {
        let mut first = true;
        poll_fn(|context| {
            if !std::mem::take(&mut first) {
                return Poll::Ready(());
            }
            self.yielded.borrow_mut().push(context.waker().clone());
            self.request();
            Poll::Pending
        })
        .await;
    }

    /// Waits until this turn has room for a step that takes as long as a turn should: one of a TLS
    /// handshake. Everything else goes in between.
    pub(crate) async fn heavy_step(&self) {
        self.heavy_steps.take(|| self.request()).await;
    }

    /// Waits until this turn has room to tear down a connection: a failing network ends thousands
    /// at once.
    pub(crate) async fn end_step(&self) {
        self.end_steps.take(|| self.request()).await;
    }

    /// This turn does something: busy polling begins anew at its end.
    #[inline]
    pub(crate) fn note_activity(&self) {
        self.worked.set(true);
    }

    /// Time that this shard spent spinning so far.
    pub(crate) fn spun(&self) -> Duration {
        self.busy_poll.spun()
    }

    /// To be called by the main future, before anything else.
    pub(crate) fn begin_end_of_turn(&self, context: &Context<'_>) {
        let mut main = self.main.borrow_mut();
        if main.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            *main = Some(context.waker().clone());
        }
    }

    /// To be called by the main future, after everything else: wakes tasks that yielded, and
    /// decides whether the shard sleeps. `has_work` must return true if sleeping would miss
    /// something.
    pub(crate) fn finish_end_of_turn(&self, has_work: impl Fn() -> bool) {
        // No short circuit: both must be granted.
        let steps_wait = self.heavy_steps.grant() | self.end_steps.grant();
        let now = Instant::now();
        let began = self.clock.end(now);
        if self.worked.take() {
            self.busy_poll.turn_ended(began.unwrap_or(now), now);
        }
        if !self.yielded.borrow().is_empty() {
            self.resume_yielded(now);
            return;
        }
        if self.busy_poll.spins(now) || steps_wait || has_work() {
            self.go_on(now);
            return;
        }
        self.last_wait.set(now);
        self.park.announce();
        if has_work() {
            self.park.retract();
            self.go_on(now);
        }
    }

    /// Lets tasks that yielded go on. They keep the run loop from waiting, so when a wait is due
    /// they are held back for one turn that consists of nothing else.
    fn resume_yielded(&self, now: Instant) {
        let held = self.held.take();
        if !held && now.duration_since(self.last_wait.get()) > TIMER_SLACK {
            self.held.set(true);
            self.bell.ring();
            return;
        }
        if held {
            self.last_wait.set(now);
        }
        let yielded = std::mem::take(&mut *self.yielded.borrow_mut());
        yielded.into_iter().for_each(Waker::wake);
        self.kick();
    }

    /// Makes another turn follow without sleeping. Timers fire only when the run loop waits, so
    /// from time to time it is made to wait with the bell already rung.
    fn go_on(&self, now: Instant) {
        if now.duration_since(self.last_wait.get()) > TIMER_SLACK {
            self.last_wait.set(now);
            self.bell.ring();
        } else {
            self.kick();
        }
    }

    fn kick(&self) {
        if let Some(waker) = self.kicker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// The kicker task: each time it is woken it asks for the end of a turn. Between the wake-up
    /// and its run the runtime reaps completions.
    pub(crate) async fn run_kicker(self: Rc<Self>) {
        poll_fn::<(), _>(|context| {
            let mut kicker = self.kicker.borrow_mut();
            if kicker.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
                *kicker = Some(context.waker().clone());
            }
            drop(kicker);
            self.request();
            Poll::Pending
        })
        .await;
    }
}
