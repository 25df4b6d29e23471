//! One load thread of a latency run: sends what is due and receives what has come, and blocks on
//! neither.
//!
//! Sending and receiving share the thread on purpose: a spinning sender on the same core as a
//! blocked receiver would keep it from its message and thus measure itself.

use crate::Failure;
use crate::findings::percentiles::new_histogram;
use crate::host::clock::now_ns;
use crate::host::core_time::{ThreadUse, Watch};
use crate::host::interrupt;
use crate::load::run::Times;
use crate::load::schedule::Schedule;
use crate::load::tracker::OrderTracker;
use crate::wire::connection::Connection;
use crate::wire::frames::{STAMP_SIZE, TIMED_STAMP_SIZE, read_intended_time, read_stamp, stamp};
use hdrhistogram::Histogram;
use rustix::event::epoll;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How a thread waits while nothing is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Pacer {
    /// Check the clock and the sockets without pause: exact, and a whole core per load thread
    Spin,
    /// Wait in the kernel: cheap, late by the kernel's timer slack and wake-up time
    Sleep,
}

/// Number of sockets up to which a spinning thread asks each directly; more go through epoll.
const DIRECT_READ_MAX: usize = 4;
/// A sender that expects no replies gets only PINGs: it is read once in this many turns, a receiver
/// in each.
const TURNS_PER_SENDER_LOOK: u32 = 64;
/// Bytes of frames that wait for a server that takes nothing; beyond that the schedule itself
/// waits, and the result says so.
const OUTGOING_BYTES_MAX: usize = 64 << 20;
/// Silence after the last send after which the rest counts as lost.
pub(crate) const QUIET_NS_MAX: u64 = 3_000_000_000;
/// A schedule not completed this long after its end (or after its own length, if that is longer) is
/// given up.
const GIVE_UP_NS: u64 = 1_000_000_000;
/// Messages sent between two checks of the sockets.
const BATCH_MAX: u32 = 1000;
/// Longest sleep, so that an interrupt is noticed.
pub(crate) const SLEEP_NS_MAX: u64 = 50_000_000;

/// The state shared by all load threads of a run.
pub struct Common {
    /// Messages due before the window are warm-up: sent and counted, not in the histograms.
    pub times: Times,
    pub pacer: Pacer,
    /// Per publisher: number of messages sent.
    pub sent: Vec<AtomicU64>,
    /// Load threads that still send.
    pub sending_threads: AtomicUsize,
}

/// A connection that sends on the schedule. In request mode its replies come back on it.
pub struct Sender {
    pub connection: Connection,
    pub index: u16,
    /// One prebuilt frame per subject, with the offset of its payload.
    pub frames: Vec<(Vec<u8>, usize)>,
    pub sequence: u64,
    pub outgoing: Outgoing,
    /// True if the server has not taken what was sent before: what is due now waits for it.
    pub held_back: bool,
    /// Due times of the messages in `outgoing` that nothing held back, until they are handed to the
    /// kernel.
    pub due_ns: Vec<u64>,
    /// Replies, in request mode.
    pub tracker: Option<OrderTracker>,
}

/// A connection that receives: it records the latency, or, as a responder, sends the payload back.
pub struct Receiver {
    pub connection: Connection,
    pub role: ReceiverRole,
}

pub enum ReceiverRole {
    Measure(OrderTracker),
    Respond(Outgoing),
}

/// Bytes that the socket has not taken yet.
#[derive(Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// True if the stream has taken all bytes but TLS still holds some.
    held: bool,
}

impl Outgoing {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn is_empty(&self) -> bool {
        self.sent == self.bytes.len() && !self.held
    }

    /// Writes what the socket takes without waiting.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn flush(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        while !self.is_empty() {
            let taken = connection.stream.try_write(&self.bytes[self.sent..])?;
            self.sent += taken;
            let held = connection.stream.holds_bytes();
            let stuck = taken == 0 && (held || !self.held);
            self.held = held;
            if stuck {
                return Ok(());
            }
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(())
    }
}

/// The measurements of one thread.
pub struct Measured {
    pub latency: Histogram<u64>,
    /// Time from due to handed to the kernel, for all sends of the measured window.
    pub late: Histogram<u64>,
    /// Late sends caused by the server, which had not taken what was sent before.
    pub held_back_count: u64,
    pub sent_count: u64,
    /// When the last message of the window was handed over, in time after it was due.
    pub last_send_ns: u64,
    /// The longest time during which the thread did not check its sockets.
    pub pause_ns_max: u64,
    /// The thread's use of its core.
    pub core_use: Option<ThreadUse>,
    pub receivers: Vec<OrderTracker>,
    /// Reply trackers with the index of their sender.
    pub replies: Vec<(u16, OrderTracker)>,
    /// True if messages were still due long after the end of the schedule.
    pub gave_up: bool,
    pub failure: Option<Failure>,
}

pub struct LoadThread<'a> {
    common: &'a Common,
    schedule: Option<Schedule>,
    senders: Vec<Sender>,
    receivers: Vec<Receiver>,
    next_sender: usize,
    measured: Measured,
    received_count: u64,
    last_received_ns: u64,
}

impl<'a> LoadThread<'a> {
    pub fn new(
        common: &'a Common,
        schedule: Option<Schedule>,
        senders: Vec<Sender>,
        receivers: Vec<Receiver>,
    ) -> LoadThread<'a> {
        let measured = Measured {
            latency: new_histogram(),
            late: new_histogram(),
            held_back_count: 0,
            sent_count: 0,
            last_send_ns: 0,
            pause_ns_max: 0,
            core_use: None,
            receivers: Vec::new(),
            replies: Vec::new(),
            gave_up: false,
            failure: None,
        };
        LoadThread {
            common,
            schedule,
            senders,
            receivers,
            next_sender: 0,
            measured,
            received_count: 0,
            last_received_ns: 0,
        }
    }

    /// Runs until everything is sent and received, or nothing more comes.
    pub fn run(mut self) -> Measured {
        let watch = Watch::start();
        if let Err(failure) = self.turn_until_done() {
            self.measured.failure = Some(failure);
        }
        self.measured.core_use = watch.finish();
        if self.schedule.is_some() {
            self.common.sending_threads.fetch_sub(1, Ordering::AcqRel);
        }
        for sender in &mut self.senders {
            self.measured
                .replies
                .extend(sender.tracker.take().map(|tracker| (sender.index, tracker)));
        }
        for receiver in self.receivers {
            if let ReceiverRole::Measure(tracker) = receiver.role {
                self.measured.receivers.push(tracker);
            }
        }
        self.measured
    }

    fn turn_until_done(&mut self) -> Result<(), Failure> {
        let epoll = self.register_sockets()?;
        let mut ready = Vec::with_capacity(256);
        let mut last_look_ns = now_ns();
        let mut turn = 0u32;
        loop {
            let now = now_ns();
            if now > self.common.times.start_ns {
                let pause_ns = now - last_look_ns;
                self.measured.pause_ns_max = self.measured.pause_ns_max.max(pause_ns);
            }
            last_look_ns = now;
            self.send_due()?;
            if self.is_finished(now) {
                return Ok(());
            }
            let wait_ns = match self.common.pacer {
                Pacer::Spin => 0,
                Pacer::Sleep => self.sleep_ns(),
            };
            match &epoll {
                None => {
                    turn = turn.wrapping_add(1);
                    let first = match self.senders.iter().all(|sender| sender.tracker.is_none())
                        && !turn.is_multiple_of(TURNS_PER_SENDER_LOOK)
                    {
                        true => self.senders.len(),
                        false => 0,
                    };
                    for place in first..self.senders.len() + self.receivers.len() {
                        self.receive(place)?;
                    }
                }
                Some(epoll) => {
                    if wait_ns > 0 {
                        sleep_until_ready(epoll, wait_ns)?;
                    }
                    take_ready(epoll, &mut ready)?;
                    if wait_ns > 0 {
                        last_look_ns = now_ns();
                    }
                    for event in &ready {
                        let event: &epoll::Event = event;
                        self.receive(event.data.u64() as usize)?;
                    }
                }
            }
        }
    }

    fn register_sockets(&self) -> Result<Option<rustix::fd::OwnedFd>, Failure> {
        let senders = self.senders.iter().map(|sender| &sender.connection);
        let receivers = self.receivers.iter().map(|receiver| &receiver.connection);
        register_sockets(self.common.pacer, senders.chain(receivers).collect())
    }

    /// Writes the messages that are due, in one go per connection. On time that is one message;
    /// after a pause of the host the thread catches up with a few writes instead of one for each
    /// message.
    fn send_due(&mut self) -> Result<(), Failure> {
        let Some(schedule) = &mut self.schedule else { return self.flush_responders() };
        let common = self.common;
        let now = now_ns();
        let mut due_ns = schedule.next_ns();
        // However far behind, sockets are checked between two batches.
        for _ in 0..BATCH_MAX {
            if due_ns > now
                || due_ns >= common.times.end_ns
                || self.measured.gave_up
                || interrupt::requested()
            {
                break;
            }
            let sender_count = self.senders.len();
            let sender = &mut self.senders[self.next_sender];
            if sender.held_back && sender.outgoing.bytes.len() > OUTGOING_BYTES_MAX {
                break;
            }
            self.next_sender = (self.next_sender + 1) % sender_count;
            push_frame(sender, due_ns);
            if due_ns >= common.times.measure_from_ns {
                self.measured.sent_count += 1;
                if sender.held_back {
                    self.measured.held_back_count += 1;
                } else {
                    sender.due_ns.push(due_ns);
                }
            }
            schedule.advance();
            due_ns = schedule.next_ns();
        }
        for sender in &mut self.senders {
            if sender.outgoing.is_empty() {
                continue;
            }
            let handed_over_ns = now_ns();
            for due_ns in sender.due_ns.drain(..) {
                self.measured.late.saturating_record((handed_over_ns - due_ns).max(1));
                self.measured.last_send_ns = handed_over_ns;
            }
            sender.outgoing.flush(&mut sender.connection)?;
            if sender.held_back {
                self.measured.last_send_ns = handed_over_ns;
            }
            sender.held_back = !sender.outgoing.is_empty();
            common.sent[usize::from(sender.index)].store(sender.sequence, Ordering::Release);
        }
        let nothing_waits = self.senders.iter().all(|sender| sender.outgoing.is_empty());
        let give_up_ns = common.times.end_ns
            + GIVE_UP_NS.max(common.times.end_ns - common.times.measure_from_ns);
        if now > give_up_ns && due_ns < common.times.end_ns {
            self.measured.gave_up = true;
        }
        if now > give_up_ns + QUIET_NS_MAX && !nothing_waits {
            return Err(Failure::new("the server does not take what was sent long ago"));
        }
        let over = due_ns >= common.times.end_ns || self.measured.gave_up || interrupt::requested();
        if over && nothing_waits {
            self.schedule = None;
            // Release, paired with the acquire in `is_finished`: whoever sees the zero sees all of
            // `sent`.
            common.sending_threads.fetch_sub(1, Ordering::AcqRel);
        }
        self.flush_responders()
    }

    fn flush_responders(&mut self) -> Result<(), Failure> {
        for receiver in &mut self.receivers {
            if let ReceiverRole::Respond(outgoing) = &mut receiver.role {
                outgoing.flush(&mut receiver.connection)?;
            }
        }
        Ok(())
    }

    fn sleep_ns(&self) -> u64 {
        let waiting = self.senders.iter().any(|sender| !sender.outgoing.is_empty());
        if waiting {
            return 100_000;
        }
        let next = self.schedule.as_ref().map_or(u64::MAX, Schedule::next_ns);
        next.saturating_sub(now_ns()).min(SLEEP_NS_MAX)
    }

    /// Reads from one socket; every message gets the time at which the read returned.
    fn receive(&mut self, place: usize) -> Result<(), Failure> {
        let common = self.common;
        let latency = &mut self.measured.latency;
        let mut received_ns = 0;
        let mut count = 0;
        let mut measure = |tracker: &mut OrderTracker, payload: &[u8]| {
            if received_ns == 0 {
                received_ns = now_ns();
            }
            count += 1;
            match (read_stamp(payload), read_intended_time(payload)) {
                (Some((publisher, sequence)), Some(due_ns)) => {
                    tracker.record(publisher, sequence);
                    if common.times.measures(due_ns) {
                        latency.saturating_record(received_ns.saturating_sub(due_ns).max(1));
                    }
                }
                _ => tracker.record_foreign(),
            }
        };
        if let Some(sender) = self.senders.get_mut(place) {
            match &mut sender.tracker {
                Some(tracker) => {
                    sender.connection.try_pump(|_, payload| measure(tracker, payload))?
                }
                None => sender.connection.try_pump(|_, _| {})?,
            };
        } else {
            let receiver = &mut self.receivers[place - self.senders.len()];
            match &mut receiver.role {
                ReceiverRole::Measure(tracker) => {
                    receiver.connection.try_pump(|_, payload| measure(tracker, payload))?;
                }
                ReceiverRole::Respond(outgoing) => {
                    receiver.connection.try_pump(|header, payload| {
                        count += 1;
                        respond(outgoing, header, payload);
                    })?;
                    outgoing.flush(&mut receiver.connection)?;
                }
            }
        }
        if count > 0 {
            self.received_count += count;
            self.last_received_ns = now_ns();
        }
        Ok(())
    }

    fn is_finished(&self, now: u64) -> bool {
        if self.schedule.is_some() || self.common.sending_threads.load(Ordering::Acquire) > 0 {
            return false;
        }
        let since = self.last_received_ns.max(self.common.times.end_ns.min(now));
        if now.saturating_sub(since) > QUIET_NS_MAX {
            return true;
        }
        let sent: Vec<u64> =
            self.common.sent.iter().map(|count| count.load(Ordering::Acquire)).collect();
        let replies_done = self.senders.iter().all(|sender| match &sender.tracker {
            Some(tracker) => tracker.received() >= sender.sequence,
            None => true,
        });
        let messages_done = self.receivers.iter().all(|receiver| match &receiver.role {
            ReceiverRole::Measure(tracker) => tracker.received() >= tracker.expected_count(&sent),
            // A responder stays for requests of other threads until it is quiet.
            ReceiverRole::Respond(_) => {
                self.senders.iter().map(|sender| sender.sequence).sum::<u64>()
                    == sent.iter().sum::<u64>()
            }
        });
        replies_done && messages_done
    }
}

/// Sleeps on the epoll descriptor with `ppoll`, because `epoll_wait` rounds its timeout up to whole
/// milliseconds.
pub(crate) fn sleep_until_ready(epoll: &rustix::fd::OwnedFd, wait_ns: u64) -> Result<(), Failure> {
    let timeout = rustix::event::Timespec::try_from(Duration::from_nanos(wait_ns))
        .map_err(|_| Failure::new("a wait does not fit the kernel's type"))?;
    let mut sockets = [rustix::event::PollFd::new(epoll, rustix::event::PollFlags::IN)];
    match rustix::event::poll(&mut sockets, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(std::io::Error::from(error).into()),
    }
}

/// Replaces `ready` by the sockets that are ready now.
pub(crate) fn take_ready(
    epoll: &rustix::fd::OwnedFd,
    ready: &mut Vec<epoll::Event>,
) -> Result<(), Failure> {
    let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    ready.clear();
    match epoll::wait(epoll, rustix::buffer::spare_capacity(ready), Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(std::io::Error::from(error).into()),
    }
}

/// Appends the next message, on the subject whose turn it is.
pub(super) fn push_frame(sender: &mut Sender, due_ns: u64) {
    let subject_index = (sender.sequence % sender.frames.len() as u64) as usize;
    push_frame_to(sender, subject_index, due_ns);
}

pub(super) fn push_frame_to(sender: &mut Sender, subject_index: usize, due_ns: u64) {
    let (frame, payload_offset) = &sender.frames[subject_index];
    let start = sender.outgoing.bytes.len() + payload_offset;
    let bytes = &mut sender.outgoing.bytes;
    bytes.extend_from_slice(frame);
    let word = stamp(sender.index, sender.sequence);
    bytes[start..start + STAMP_SIZE].copy_from_slice(&word.to_le_bytes());
    bytes[start + STAMP_SIZE..start + TIMED_STAMP_SIZE].copy_from_slice(&due_ns.to_le_bytes());
    sender.sequence += 1;
}

/// Sends the payload back to the reply subject, the fourth word of `MSG subject sid reply size`.
pub(super) fn respond(outgoing: &mut Outgoing, header: &[u8], payload: &[u8]) {
    let mut words = header.split(|&byte| byte == b' ').skip(3);
    if let (Some(reply), Some(size)) = (words.next(), words.next()) {
        outgoing.bytes.extend_from_slice(b"PUB ");
        outgoing.bytes.extend_from_slice(reply);
        outgoing.bytes.push(b' ');
        outgoing.bytes.extend_from_slice(size);
        outgoing.bytes.extend_from_slice(payload);
        outgoing.bytes.extend_from_slice(b"\r\n");
    }
}

/// Returns a thread's epoll set, with each socket under its index in the list. None if a spinning
/// thread has so few sockets that asking each is quickest.
pub(crate) fn register_sockets(
    pacer: Pacer,
    connections: Vec<&Connection>,
) -> Result<Option<rustix::fd::OwnedFd>, Failure> {
    if pacer == Pacer::Spin && connections.len() <= DIRECT_READ_MAX {
        return Ok(None);
    }
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
    for (place, connection) in connections.into_iter().enumerate() {
        let data = epoll::EventData::new_u64(place as u64);
        epoll::add(&epoll, &connection.stream, data, epoll::EventFlags::IN)
            .map_err(std::io::Error::from)?;
    }
    Ok(Some(epoll))
}
