//! Closed-loop requests: every requester has one request in flight and sends the next when the
//! reply is there. This is the experience of a client that waits for its answer, and its cost to
//! the server.
//!
//! It does not measure latency under load: a stalled server is asked nothing meanwhile, so its
//! stall shows in one round trip per requester, and not in those that would have been due. The
//! figures are called round trips, and the result says what they are; `latency` has the open loop.

use crate::Failure;
use crate::findings::counts::Counts;
use crate::findings::kinds;
use crate::findings::percentiles::{Curve, PERCENTILES, new_histogram};
use crate::findings::result::{Better, RunResult};
use crate::host::clock::now_ns;
use crate::host::core_time::{ThreadUse, Watch};
use crate::host::{interrupt, pin};
use crate::load::cores;
use crate::load::endpoints::{Mode, open_receivers, open_senders};
use crate::load::event_loop::{
    Pacer, QUIET_NS_MAX, Receiver, ReceiverRole, SLEEP_NS_MAX, Sender, push_frame, push_frame_to,
    register_sockets, respond, sleep_until_ready, take_ready,
};
use crate::load::layout::Layout;
use crate::load::run::{Run, Times, Window};
use crate::load::shared::{Counter, total};
use crate::progress::Progress;
use crate::units::CoreList;
use crate::wire::connection::Dialer;
use crate::wire::frames::{TIMED_STAMP_SIZE, read_intended_time, read_stamp};
use hdrhistogram::Histogram;
use rustix::event::epoll;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Time from the start of the threads to the first requests.
const START_DELAY_NS: u64 = 20_000_000;
/// Wait of a sleeping thread while a socket has not taken all bytes of a request.
const UNFLUSHED_WAIT_NS: u64 = 100_000;
/// Share of busy time above which a load thread may be what limits the rate.
const BUSY_SHARE_MAX: f64 = 0.9;

/// Name of these runs' histogram.
pub const CURVE: &str = "round trip, closed loop";

#[derive(Clone, Debug)]
pub struct ClosedLoopPlan {
    /// Its publishers are the requesters, its subscribers the responders.
    pub layout: Layout,
    /// Each requester asks a single responder, and changes to the next one at this interval.
    pub shift: Option<Duration>,
    pub pacer: Pacer,
    pub warmup: Duration,
    pub duration: Duration,
    pub pin_load: CoreList,
    pub load_threads: usize,
    pub seed: u64,
}

/// The state shared by all threads of a run.
struct Common {
    times: Times,
    shift_ns: Option<u64>,
    pacer: Pacer,
    /// Per thread: number of replies so far.
    replied: Vec<Counter>,
    /// Threads that still wait for a reply or will send.
    requesting_threads: AtomicUsize,
}

struct Requester {
    sender: Sender,
    /// Sequence of the request that has no reply yet.
    awaited: Option<u64>,
}

#[derive(Default)]
struct Measured {
    round_trip: Option<Histogram<u64>>,
    counts: Counts,
    /// Time that the thread spent on sockets that had something, within the measured time.
    busy_ns: u64,
    core_use: Option<ThreadUse>,
    failure: Option<Failure>,
}

/// Makes one run against the server behind `dialer`.
///
/// # Errors
/// If the plan makes no sense or the connections cannot be made.
pub fn run(
    dialer: &Dialer,
    plan: &ClosedLoopPlan,
    server: Result<u32, String>,
    progress: &Progress,
) -> Result<RunResult, Failure> {
    let layout = &plan.layout;
    if layout.payload_size < TIMED_STAMP_SIZE {
        return Err(Failure::new(format!(
            "requests need payloads of {TIMED_STAMP_SIZE} bytes or more"
        )));
    }
    if layout.publisher_count == 0 || layout.subscriber_count == 0 {
        return Err(Failure::new("requests need a requester and a responder at least"));
    }
    let mut label = format!("request {}", layout.label());
    if let Some(shift) = plan.shift {
        if !layout.paired || layout.subscriber_count != layout.publisher_count {
            return Err(Failure::new("partners change only where each requester has one"));
        }
        label.push_str(&format!(", partners change every {} s", shift.as_secs_f64()));
    }
    let mut run = Run::begin(kinds::CLOSED_LOOP, &label, server, progress).with_generator();
    run.result.warn(format!(
        "closed loop: each of {} requesters waits for its reply before it asks again, so a stall of the \
         server shows in few round trips; `latency` without --closed-loop shows it in all that were due",
        layout.publisher_count
    ));
    let thread_count =
        plan.load_threads.clamp(1, layout.publisher_count.max(layout.subscriber_count));
    let mode = Mode::Request;
    let receivers = open_receivers(dialer, layout, mode, thread_count)?;
    let senders = open_senders(dialer, layout, mode, plan.seed, thread_count, &mut run.result)?;
    let times = Times::from_now(START_DELAY_NS, plan.warmup, plan.duration);
    let common = Common {
        times,
        shift_ns: plan.shift.map(|time| time.as_nanos() as u64),
        pacer: plan.pacer,
        replied: (0..thread_count).map(|_| Counter::default()).collect(),
        requesting_threads: AtomicUsize::new(thread_count),
    };
    let (window, measured) = std::thread::scope(|scope| {
        let common = &common;
        let threads: Vec<_> = senders
            .into_iter()
            .zip(receivers)
            .enumerate()
            .map(|(index, (senders, receivers))| {
                scope.spawn(move || {
                    pin::pin_load_thread(&plan.pin_load, index);
                    LoadThread::new(common, index, senders, receivers).run()
                })
            })
            .collect();
        let ended = || threads.iter().any(|thread| thread.is_finished());
        let window = run.measure(&times, || total(&common.replied), ended);
        let measured: Vec<Measured> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| panicked()))
            .collect();
        (window, measured)
    });
    let load: Vec<ThreadUse> =
        measured.iter().filter_map(|thread| thread.core_use.clone()).collect();
    let (of_generator, of_server) = run.cores_taken(&window, load.clone(), load);
    cores::report(&mut run.result, of_generator, of_server);
    report(&mut run.result, plan, &window, measured);
    Ok(run.finish())
}

/// Returns the responder, of `count`, that a requester asks at time `now`.
fn partner_of(requester: u16, now: u64, start_ns: u64, shift_ns: u64, count: usize) -> usize {
    let shifts = now.saturating_sub(start_ns) / shift_ns;
    ((u64::from(requester) + shifts) % count as u64) as usize
}

fn panicked() -> Measured {
    Measured { failure: Some(Failure::new("the load thread panicked")), ..Measured::default() }
}

struct LoadThread<'a> {
    common: &'a Common,
    index: usize,
    requesters: Vec<Requester>,
    receivers: Vec<Receiver>,
    round_trip: Histogram<u64>,
    /// Requesters whose socket has not taken the whole request.
    unflushed: Vec<usize>,
    replied: u64,
    last_received_ns: u64,
    busy_ns: u64,
}

impl<'a> LoadThread<'a> {
    fn new(
        common: &'a Common,
        index: usize,
        senders: Vec<Sender>,
        receivers: Vec<Receiver>,
    ) -> LoadThread<'a> {
        let requesters =
            senders.into_iter().map(|sender| Requester { sender, awaited: None }).collect();
        LoadThread {
            common,
            index,
            requesters,
            receivers,
            round_trip: new_histogram(),
            unflushed: Vec::new(),
            replied: 0,
            last_received_ns: 0,
            busy_ns: 0,
        }
    }

    fn run(mut self) -> Measured {
        let watch = Watch::start();
        let mut requesting = true;
        let failure = self.turn_until_done(&mut requesting).err();
        if requesting {
            self.common.requesting_threads.fetch_sub(1, Ordering::AcqRel);
        }
        let mut counts = Counts::default();
        for requester in &mut self.requesters {
            if let Some(tracker) = requester.sender.tracker.take() {
                // A requester receives only its own replies: it expects none of the others.
                let index = usize::from(requester.sender.index);
                let mut own = vec![0; index + 1];
                own[index] = requester.sender.sequence;
                counts.add(&tracker.finish(&own));
            }
        }
        Measured {
            round_trip: Some(self.round_trip),
            counts,
            busy_ns: self.busy_ns,
            core_use: watch.finish(),
            failure,
        }
    }

    fn turn_until_done(&mut self, requesting: &mut bool) -> Result<(), Failure> {
        let epoll = self.register_sockets()?;
        while now_ns() < self.common.times.start_ns {
            std::thread::sleep(Duration::from_nanos(START_DELAY_NS / 20));
        }
        for place in 0..self.requesters.len() {
            self.request(place)?;
        }
        let mut ready: Vec<epoll::Event> = Vec::with_capacity(256);
        loop {
            let mut began_ns = now_ns();
            let over = self.is_over(began_ns);
            if over && *requesting && self.nothing_awaited(began_ns) {
                *requesting = false;
                self.common.requesting_threads.fetch_sub(1, Ordering::AcqRel);
            }
            // A responder stays for requests of other threads.
            if !*requesting && self.common.requesting_threads.load(Ordering::Acquire) == 0 {
                return Ok(());
            }
            self.flush()?;
            let mut handled = 0;
            match &epoll {
                None => {
                    for place in 0..self.requesters.len() + self.receivers.len() {
                        handled += self.receive(place)?;
                    }
                }
                Some(epoll) => {
                    if self.common.pacer == Pacer::Sleep {
                        sleep_until_ready(epoll, self.sleep_ns(began_ns))?;
                        began_ns = now_ns();
                    }
                    take_ready(epoll, &mut ready)?;
                    for event in &ready {
                        let event: &epoll::Event = event;
                        handled += self.receive(event.data.u64() as usize)?;
                    }
                }
            }
            if handled > 0 && self.common.times.measures(began_ns) {
                self.busy_ns += now_ns() - began_ns;
            }
        }
    }

    fn register_sockets(&self) -> Result<Option<rustix::fd::OwnedFd>, Failure> {
        let requesters = self.requesters.iter().map(|requester| &requester.sender.connection);
        let receivers = self.receivers.iter().map(|receiver| &receiver.connection);
        register_sockets(self.common.pacer, requesters.chain(receivers).collect())
    }

    fn is_over(&self, now: u64) -> bool {
        now >= self.common.times.end_ns || interrupt::requested()
    }

    /// Returns true if every reply is there, or if nothing has come for so long that the rest is
    /// lost.
    fn nothing_awaited(&self, now: u64) -> bool {
        let since = self.last_received_ns.max(self.common.times.end_ns.min(now));
        now.saturating_sub(since) > QUIET_NS_MAX
            || self.requesters.iter().all(|requester| requester.awaited.is_none())
    }

    fn sleep_ns(&self, now: u64) -> u64 {
        if !self.unflushed.is_empty() {
            return UNFLUSHED_WAIT_NS;
        }
        // After the end, threads wait for each other, not only for their sockets.
        let until_end_ns = self.common.times.end_ns.saturating_sub(now).max(UNFLUSHED_WAIT_NS);
        until_end_ns.min(SLEEP_NS_MAX)
    }

    fn request(&mut self, place: usize) -> Result<(), Failure> {
        let requester = &mut self.requesters[place];
        let sender = &mut requester.sender;
        requester.awaited = Some(sender.sequence);
        let now = now_ns();
        match self.common.shift_ns {
            Some(shift_ns) => {
                let start_ns = self.common.times.start_ns;
                let partner =
                    partner_of(sender.index, now, start_ns, shift_ns, sender.frames.len());
                push_frame_to(sender, partner, now);
            }
            None => push_frame(sender, now),
        }
        sender.outgoing.flush(&mut sender.connection)?;
        if !sender.outgoing.is_empty() {
            self.unflushed.push(place);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        for index in (0..self.unflushed.len()).rev() {
            let sender = &mut self.requesters[self.unflushed[index]].sender;
            sender.outgoing.flush(&mut sender.connection)?;
            if sender.outgoing.is_empty() {
                self.unflushed.swap_remove(index);
            }
        }
        for receiver in &mut self.receivers {
            if let ReceiverRole::Respond(outgoing) = &mut receiver.role {
                outgoing.flush(&mut receiver.connection)?;
            }
        }
        Ok(())
    }

    /// Reads from one socket and does what follows: sends the next request, or the replies. Returns
    /// the number of messages.
    fn receive(&mut self, place: usize) -> Result<u32, Failure> {
        let mut count = 0;
        if place >= self.requesters.len() {
            let receiver = &mut self.receivers[place - self.requesters.len()];
            let ReceiverRole::Respond(outgoing) = &mut receiver.role else { return Ok(0) };
            receiver.connection.try_pump(|header, payload| {
                count += 1;
                respond(outgoing, header, payload);
            })?;
            outgoing.flush(&mut receiver.connection)?;
            return Ok(count);
        }
        let common = self.common;
        let round_trip = &mut self.round_trip;
        let requester = &mut self.requesters[place];
        let (sender, awaited) = (&mut requester.sender, &mut requester.awaited);
        let Some(tracker) = &mut sender.tracker else { return Ok(0) };
        let mut received_ns = 0;
        let mut answered = false;
        sender.connection.try_pump(|_, payload| {
            if received_ns == 0 {
                received_ns = now_ns();
            }
            count += 1;
            let (Some((publisher, sequence)), Some(sent_ns)) =
                (read_stamp(payload), read_intended_time(payload))
            else {
                tracker.record_foreign();
                return;
            };
            tracker.record(publisher, sequence);
            // A reply that comes twice counts as doubled; it starts no second request.
            if *awaited == Some(sequence) {
                *awaited = None;
                answered = true;
                if common.times.measures(sent_ns) {
                    round_trip.saturating_record(received_ns.saturating_sub(sent_ns).max(1));
                }
            }
        })?;
        if answered {
            self.last_received_ns = received_ns;
            self.replied += 1;
            // Relaxed: a statistic for the measuring thread.
            common.replied[self.index].0.store(self.replied, Ordering::Relaxed);
            if !self.is_over(received_ns) {
                self.request(place)?;
            }
        }
        Ok(count)
    }
}

fn report(
    result: &mut RunResult,
    plan: &ClosedLoopPlan,
    window: &Window<u64>,
    measured: Vec<Measured>,
) {
    let mut round_trip = new_histogram();
    let mut counts = Counts::default();
    let mut busy_ns_max = 0;
    for thread in measured {
        if let Some(histogram) = thread.round_trip {
            round_trip += histogram;
        }
        counts.add(&thread.counts);
        busy_ns_max = busy_ns_max.max(thread.busy_ns);
        if let Some(failure) = thread.failure {
            result.invalidate(failure.to_string());
        }
    }
    let window_ns = window.length_ns() as f64;
    let replied = (window.until.counts - window.from.counts) as f64;
    result.seconds = window_ns / 1e9;
    result.figure("requests_per_second", replied / window_ns * 1e9, "1/s", Better::Higher);
    let requesters = plan.layout.publisher_count as f64;
    result.figure("requests_in_flight", requesters, "requests", Better::Neither);
    if !counts.all_good() {
        result.invalidate(format!(
            "{} replies were lost, {} doubled, {} out of order, {} foreign: who waits for a lost reply asks \
             no more, so these figures mean nothing",
            counts.lost, counts.doubled, counts.out_of_order, counts.foreign
        ));
    }
    result.counts = Some(counts);
    result.curves.insert(CURVE.to_string(), Curve::of(&round_trip));
    if replied == 0.0 || round_trip.is_empty() {
        result.invalidate(interrupt::reason_or("not a single reply in the measured time"));
        return;
    }
    for (name, percentile) in PERCENTILES {
        let value = round_trip.value_at_quantile(percentile / 100.0) as f64;
        result.figure(&format!("round_trip_{name}_ns"), value, "ns", Better::Lower);
    }
    let server = window.server_cpu();
    if let Some(cpu) = server {
        let per_request = cpu.ns / 1e3 / replied;
        result.figure("server_cpu_us_per_request", per_request, "us", Better::Lower);
        result.figure("server_cores_busy", cpu.cores, "cores", Better::Neither);
    }
    if let Some(cpu) = window.generator_cpu() {
        result.figure("generator_cores_busy", cpu.cores, "cores", Better::Neither);
    }
    let busy = busy_ns_max as f64 / window_ns;
    result.figure("generator_busy_share", busy, "", Better::Neither);
    if busy > BUSY_SHARE_MAX && server.is_some_and(|cpu| cpu.cores < 0.9) {
        result.warn(format!(
            "a load thread was at work {:.0} % of the time and the server less: the rate is the generator's \
             limit, read the CPU time per request, or add --load-threads",
            100.0 * busy
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partners_change_together_and_nobody_is_asked_by_two() {
        for time in [0, 99, 100, 250, 1_000] {
            let asked: Vec<usize> =
                (0..4).map(|index| partner_of(index, 5_000 + time, 5_000, 100, 4)).collect();
            let shifts = time as usize / 100;
            assert_eq!(asked, (0..4).map(|index| (index + shifts) % 4).collect::<Vec<_>>());
        }
        assert_eq!(partner_of(3, 0, 5_000, 100, 4), 3, "before the start");
    }
}
