//! One load thread: its askers and readers take turns, and none of them blocks.

use crate::Failure;
use crate::findings::counts::Counts;
use crate::findings::percentiles::new_histogram;
use crate::host::clock::now_ns;
use crate::host::core_time::{ThreadUse, Watch};
use crate::host::interrupt;
use crate::jetstream::asker::Asker;
use crate::jetstream::reader::{Check, Reader};
use crate::load::event_loop::{
    Outgoing, Pacer, QUIET_NS_MAX, SLEEP_NS_MAX, register_sockets, sleep_until_ready, take_ready,
};
use crate::load::run::Times;
use crate::load::schedule::Schedule;
use crate::load::shared::{Counter, total};
use crate::wire::connection::Connection;
use hdrhistogram::Histogram;
use rustix::event::epoll;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Longest sleep while a socket has not taken everything, or nothing is left but to wait for other
/// threads.
const SHORT_SLEEP_NS: u64 = 100_000;
/// Requests of the schedule sent between two looks at the sockets.
const BATCH_MAX: u32 = 1000;
/// Requests without an answer at which the schedule itself waits: the server is far behind.
const UNANSWERED_MAX: usize = 1_000_000;
/// Silence of a server, after which what is missing counts as lost; a write to a disk may stall for
/// seconds.
const SILENCE_NS_MAX: u64 = 5 * QUIET_NS_MAX;

/// The state shared by all threads.
pub struct Common {
    pub times: Times,
    pub pacer: Pacer,
    /// Per thread: good answers, and messages consumed.
    pub answered: Vec<Counter>,
    pub consumed: Vec<Counter>,
    /// Threads with an asker that is not done.
    pub asking_threads: AtomicUsize,
    /// Messages that readers wait for; `None` = all that are acknowledged.
    pub target: Option<u64>,
}

impl Common {
    /// Returns the number of messages that readers wait for, once it is known.
    fn known_target(&self) -> Option<u64> {
        self.target.or_else(|| {
            (self.asking_threads.load(Ordering::Acquire) == 0).then(|| total(&self.answered))
        })
    }

    pub fn all_consumed(&self) -> bool {
        self.known_target().is_some_and(|target| total(&self.consumed) >= target)
    }
}

/// The measurements of one thread.
pub struct Measured {
    /// From when a request was due to its answer.
    pub answer_time: Histogram<u64>,
    /// From when a message was due to be published to when it was consumed.
    pub delivery_time: Histogram<u64>,
    /// From when a request was due to when the kernel had it, in the open loop.
    pub late: Histogram<u64>,
    pub due_count: u64,
    pub held_back_count: u64,
    pub counts: Counts,
    /// Per asker: its index and how many requests it sent.
    pub sent: Vec<(u16, u64)>,
    pub checks: Vec<Check>,
    pub refused: u64,
    pub redelivered: u64,
    pub refusals: Vec<String>,
    /// True if the schedule could not be kept because the server was too far behind.
    pub gave_up: bool,
    /// Time spent in turns that brought or sent something, within the measured time.
    pub busy_ns: u64,
    pub core_use: Option<ThreadUse>,
    pub failure: Option<Failure>,
}

pub struct LoadThread<'a> {
    common: &'a Common,
    index: usize,
    askers: Vec<Asker>,
    readers: Vec<Reader>,
    /// True if requests are due at times of their own, and not when there is room for them.
    open_loop: bool,
    schedule: Option<Schedule>,
    next_asker: usize,
    measured: Measured,
    answered: u64,
    consumed: u64,
    /// When the total of all threads last grew.
    last_progress: (u64, u64),
    asking: bool,
}

impl<'a> LoadThread<'a> {
    /// `schedule` makes an open loop; without it each asker keeps its window full.
    pub fn new(
        common: &'a Common,
        index: usize,
        (askers, readers): (Vec<Asker>, Vec<Reader>),
        schedule: Option<Schedule>,
    ) -> LoadThread<'a> {
        let measured = Measured {
            answer_time: new_histogram(),
            delivery_time: new_histogram(),
            late: new_histogram(),
            due_count: 0,
            held_back_count: 0,
            counts: Counts::default(),
            sent: Vec::new(),
            checks: Vec::new(),
            refused: 0,
            redelivered: 0,
            refusals: Vec::new(),
            gave_up: false,
            busy_ns: 0,
            core_use: None,
            failure: None,
        };
        let asking = !askers.is_empty();
        LoadThread {
            common,
            index,
            askers,
            readers,
            open_loop: schedule.is_some(),
            schedule,
            next_asker: 0,
            measured,
            answered: 0,
            consumed: 0,
            last_progress: (0, 0),
            asking,
        }
    }

    /// Runs until everything is answered and consumed, or nothing more comes.
    pub fn run(mut self) -> Measured {
        let watch = Watch::start();
        let mut failure = self.turn_until_done().err();
        if self.asking {
            self.common.asking_threads.fetch_sub(1, Ordering::AcqRel);
        }
        if failure.is_none() {
            failure = self.readers.iter_mut().find_map(|reader| reader.fence().err());
        }
        let mut measured = self.measured;
        measured.failure = failure;
        for asker in &mut self.askers {
            asker.count(&mut measured.counts);
            measured.sent.push((asker.index, asker.sent()));
            measured.refused += asker.tally.refused;
            measured.refusals.extend(asker.tally.refusal.take());
        }
        for mut reader in self.readers {
            measured.redelivered += reader.redelivered;
            measured.refusals.extend(reader.refusal.take());
            measured.checks.push(reader.into_check());
        }
        measured.core_use = watch.finish();
        measured
    }

    fn turn_until_done(&mut self) -> Result<(), Failure> {
        let epoll = self.register_sockets()?;
        while now_ns() < self.common.times.start_ns {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut ready: Vec<epoll::Event> = Vec::with_capacity(256);
        loop {
            let mut now = now_ns();
            let before = self.moved();
            self.ask(now)?;
            if self.is_done(now) {
                return Ok(());
            }
            match &epoll {
                None => {
                    for place in 0..self.askers.len() + self.readers.len() {
                        self.receive(place)?;
                    }
                }
                Some(epoll) => {
                    if self.common.pacer == Pacer::Sleep {
                        sleep_until_ready(epoll, self.sleep_ns(now))?;
                        now = now_ns();
                    }
                    take_ready(epoll, &mut ready)?;
                    for event in &ready {
                        let event: &epoll::Event = event;
                        self.receive(event.data.u64() as usize)?;
                    }
                }
            }
            if self.moved() != before && self.common.times.measures(now) {
                self.measured.busy_ns += now_ns() - now;
            }
        }
    }

    /// Returns a number that changes when something was sent or received.
    fn moved(&self) -> u64 {
        self.askers.iter().map(Asker::sent).sum::<u64>() + self.answered + self.consumed
    }

    fn register_sockets(&self) -> Result<Option<rustix::fd::OwnedFd>, Failure> {
        let askers = self.askers.iter().map(|asker| &asker.connection);
        let readers = self.readers.iter().map(|reader| &reader.connection);
        register_sockets(self.common.pacer, askers.chain(readers).collect())
    }

    fn is_over(&self, now: u64) -> bool {
        now >= self.common.times.end_ns || interrupt::requested()
    }

    /// Sends what is due or what fits the windows, and asks for messages.
    fn ask(&mut self, now: u64) -> Result<(), Failure> {
        let over = self.is_over(now);
        if self.open_loop {
            self.ask_due(now);
        } else if !over {
            for asker in &mut self.askers {
                while asker.may_ask() {
                    asker.ask(now);
                }
            }
        }
        for asker in &mut self.askers {
            if asker.outgoing.is_empty() {
                continue;
            }
            let handed_over_ns = now_ns();
            for due_ns in asker.due_ns.drain(..) {
                self.measured.late.saturating_record((handed_over_ns - due_ns).max(1));
            }
            asker.outgoing.flush(&mut asker.connection)?;
            asker.held_back = !asker.outgoing.is_empty();
        }
        for reader in &mut self.readers {
            reader.ask();
            flush(&mut reader.outgoing, &mut reader.connection)?;
        }
        Ok(())
    }

    fn ask_due(&mut self, now: u64) {
        let Some(schedule) = &mut self.schedule else { return };
        let times = &self.common.times;
        for _ in 0..BATCH_MAX {
            let due_ns = schedule.next_ns();
            if due_ns >= times.end_ns || interrupt::requested() {
                self.schedule = None;
                return;
            }
            if due_ns > now {
                return;
            }
            let asker_count = self.askers.len();
            let asker = &mut self.askers[self.next_asker];
            if asker.unanswered() >= UNANSWERED_MAX {
                // What is due now can never be sent on time: the run means nothing any more.
                self.measured.gave_up = true;
                self.schedule = None;
                return;
            }
            self.next_asker = (self.next_asker + 1) % asker_count;
            asker.ask(due_ns);
            if times.measures(due_ns) {
                self.measured.due_count += 1;
                match asker.held_back {
                    true => self.measured.held_back_count += 1,
                    false => asker.due_ns.push(due_ns),
                }
            }
            schedule.advance();
        }
    }

    /// Reads from one socket.
    fn receive(&mut self, place: usize) -> Result<(), Failure> {
        let times = &self.common.times;
        let received_ns = now_ns();
        let record = |histogram: &mut Histogram<u64>, due_ns: u64| {
            if times.measures(due_ns) {
                histogram.saturating_record(received_ns.saturating_sub(due_ns).max(1));
            }
        };
        if let Some(asker) = self.askers.get_mut(place) {
            let before = asker.tally.answered;
            let histogram = &mut self.measured.answer_time;
            asker.receive(|due_ns| record(histogram, due_ns))?;
            self.answered += asker.tally.answered - before;
            // Relaxed: a statistic, until `asking_threads` is zero.
            self.common.answered[self.index].0.store(self.answered, Ordering::Relaxed);
        } else {
            let reader = &mut self.readers[place - self.askers.len()];
            let histogram = &mut self.measured.delivery_time;
            let count = reader.receive(|due_ns| record(histogram, due_ns))?;
            self.consumed += u64::from(count);
            // Relaxed: a statistic; what was consumed is counted by the checks.
            self.common.consumed[self.index].0.store(self.consumed, Ordering::Relaxed);
        }
        Ok(())
    }

    fn is_done(&mut self, now: u64) -> bool {
        let progress = total(&self.common.answered) + total(&self.common.consumed);
        if progress != self.last_progress.0 {
            self.last_progress = (progress, now);
        }
        let begun_ns = self.common.times.start_ns.max(self.last_progress.1);
        let silent = now.saturating_sub(begun_ns) > SILENCE_NS_MAX;
        if self.asking {
            let asked = self.is_over(now) || self.askers.iter().all(Asker::has_asked_all);
            if !silent && (!asked || !self.askers.iter().all(Asker::has_all_answers)) {
                return false;
            }
            self.asking = false;
            // Release, paired with the acquire in `known_target`: whoever sees zero sees the last
            // counts of all askers.
            self.common.asking_threads.fetch_sub(1, Ordering::AcqRel);
        }
        let refused = self.readers.iter().any(|reader| reader.refusal.is_some());
        self.readers.is_empty()
            || self.common.all_consumed()
            || silent
            || refused
            || interrupt::requested()
    }

    fn sleep_ns(&self, now: u64) -> u64 {
        let askers = self.askers.iter().all(|asker| asker.outgoing.is_empty());
        let readers = self.readers.iter().all(|reader| reader.outgoing.is_empty());
        if !askers || !readers || !self.asking {
            return SHORT_SLEEP_NS;
        }
        let due_ns = self.schedule.as_ref().map_or(self.common.times.end_ns, Schedule::next_ns);
        due_ns.saturating_sub(now).clamp(1, SLEEP_NS_MAX)
    }
}

fn flush(outgoing: &mut Outgoing, connection: &mut Connection) -> Result<(), Failure> {
    match outgoing.is_empty() {
        true => Ok(()),
        false => outgoing.flush(connection),
    }
}
