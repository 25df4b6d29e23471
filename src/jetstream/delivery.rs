//! Deliveries: the task that serves the consumers of a stream.
//!
//! A turn of it takes some letters, wakes the consumers that new messages are for, does what is due
//! and lets ready consumers deliver a share each. A message is published at once, or, where that
//! finds no room, not at all: its consumer then waits for the room, and nobody else does.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::consumer::filters::Lookup;
use super::consumer::machine::{Envelope, MESSAGE_SIZE, PIN_ID, Want};
use super::consumer::output::Output;
use super::consumer_ledger::{StateOf, state_of};
use super::consumers::{Consumer, Part};
use super::engine::Engine;
use super::host::Task;
use super::leaving::Outgoing;
use super::stream::StreamHandle;
use crate::base::limits::{
    CONSUMER_LETTERS_PER_TURN_MAX, DELIVERED_AT_ONCE_MAX, DELIVERED_PER_TURN_MAX,
    LOOKED_AT_PER_TURN_MAX,
};
use crate::broker::link::Congestion;
use crate::broker::mailbox::Letters;
use crate::broker::service::Published;
use crate::protocol::headers::append;
use crate::protocol::message::Message as WireMessage;
use crate::protocol::nats::encode::decimal;
use crate::protocol::subject;
use crate::storage::block::{Message, NotLoaded};
use crate::storage::disk::Disk;
use crate::storage::stream::Search;

/// The wait of a consumer while the store takes no changes.
const STORE_PAUSE: Duration = Duration::from_millis(250);

/// The reason for which a consumer stops for now.
pub(super) enum Stop {
    /// It did its share, or has nothing to do.
    Done,
    Congested(Congestion),
    NotLoaded(NotLoaded),
    StoreIsShort,
}

/// The result of one step of a consumer.
enum Step {
    Delivered,
    /// Something else happened; it goes on.
    Moved,
    /// It has nothing to do until something happens.
    Rests,
    /// It waits for messages that are not there yet.
    Waits,
}

impl<D: Disk> Engine<D> {
    /// Serves the consumers of a stream until it is gone.
    pub(super) async fn serve_consumers(self: Rc<Self>, stream: Rc<StreamHandle>) {
        let mut letters: Option<Letters> = None;
        let mut sleep: Option<(i64, Task)> = None;
        while !stream.is_gone() {
            self.host.before_batch();
            let now_ns = self.host.now_ns();
            if let Err(needed) = self.serve_some(&stream, &mut letters, now_ns) {
                self.load(stream.id, needed).await;
            }
            let is_idle = letters.is_none() && !self.rests(&stream, &mut sleep).await;
            if !is_idle {
                self.host.yield_turn().await;
            }
        }
    }

    /// Waits until there is something to do; false once it waited.
    async fn rests(&self, stream: &StreamHandle, sleep: &mut Option<(i64, Task)>) -> bool {
        let consumers = &stream.consumers;
        let now_ns = self.host.now_ns();
        let next_ns = consumers.next_timer_ns();
        if sleep.as_ref().is_none_or(|(at_ns, _)| *at_ns > next_ns || *at_ns <= now_ns) {
            let nanoseconds = u64::try_from(next_ns.saturating_sub(now_ns)).unwrap_or(0);
            let timer = || self.host.sleep(Duration::from_nanos(nanoseconds));
            *sleep = (next_ns != i64::MAX).then(|| (next_ns, timer()));
        }
        let mut gone = pin!(stream.gone.reached(1));
        // Whoever waits for no message need not hear of new ones.
        let is_waited_for = !consumers.wakes.borrow().is_empty();
        let seen = if is_waited_for { consumers.looked_through.get() } else { u64::MAX - 1 };
        let mut durable = pin!(stream.durable.reached(seen + 1));
        poll_fn(|context| {
            let is_ready = gone.as_mut().poll(context).is_ready()
                || consumers.inlet.poll_ready(context).is_ready()
                || consumers.watcher.poll_ready(context).is_ready()
                || consumers.poll_ready(context).is_ready()
                || durable.as_mut().poll(context).is_ready()
                || sleep.as_mut().is_some_and(|(_, timer)| timer.as_mut().poll(context).is_ready());
            if is_ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        if sleep.as_ref().is_some_and(|(at_ns, _)| *at_ns <= self.host.now_ns()) {
            *sleep = None;
        }
        false
    }

    /// One turn.
    ///
    /// # Errors
    /// A block has to be loaded before it goes on.
    fn serve_some(
        self: &Rc<Self>,
        stream: &Rc<StreamHandle>,
        letters: &mut Option<Letters>,
        now_ns: i64,
    ) -> Result<(), NotLoaded> {
        let consumers = &stream.consumers;
        self.read_letters(stream, letters, now_ns)?;
        for _ in 0..LOOKED_AT_PER_TURN_MAX {
            let Some((key, is_wanted)) = consumers.watcher.take() else { break };
            if let Some(consumer) = consumers.by_key(key as u32) {
                consumer.part.borrow_mut().machine.bind(is_wanted, now_ns);
                consumers.make_ready(&consumer);
            }
        }
        self.wake_for_new(stream)?;
        for _ in 0..LOOKED_AT_PER_TURN_MAX {
            let Some(consumer) = consumers.take_due(now_ns) else { break };
            self.tick(stream, &consumer, now_ns);
            consumers.make_ready(&consumer);
        }
        let mut left = DELIVERED_PER_TURN_MAX;
        while left > 0
            && let Some(consumer) = consumers.next_ready()
        {
            // Looking in vain costs a share, too.
            left -= self.serve(stream, &consumer, now_ns, left.min(DELIVERED_AT_ONCE_MAX)).max(1);
        }
        Ok(())
    }

    fn read_letters(
        self: &Rc<Self>,
        stream: &Rc<StreamHandle>,
        letters: &mut Option<Letters>,
        now_ns: i64,
    ) -> Result<(), NotLoaded> {
        if letters.is_none() {
            *letters = stream.consumers.inlet.take();
        }
        let Some(current) = letters else { return Ok(()) };
        for _ in 0..CONSUMER_LETTERS_PER_TURN_MAX {
            if self.leaving.is_full() {
                return Ok(());
            }
            let Some(letter) = current.next_letter() else {
                *letters = None;
                break;
            };
            if let Err(needed) = self.take_letter(stream, &letter, now_ns) {
                current.again();
                return Err(needed);
            }
        }
        Ok(())
    }

    /// Wakes the consumers that wait for messages that may be delivered now.
    fn wake_for_new(&self, stream: &StreamHandle) -> Result<(), NotLoaded> {
        let consumers = &stream.consumers;
        let (seen, durable) = (consumers.looked_through.get(), stream.durable.value());
        if seen >= durable {
            return Ok(());
        }
        let mut woken = Vec::new();
        let mut wakes = consumers.wakes.borrow_mut();
        wakes.wake_unfiltered(usize::MAX, &mut woken);
        let (mut through, mut needed) = (durable, None);
        if wakes.has_filtered() {
            let store = self.store.borrow();
            let Some(held) = store.streams().get(stream.id) else { return Ok(()) };
            let mut from = seen + 1;
            for _ in 0..LOOKED_AT_PER_TURN_MAX {
                // From message to message: a purge may leave a gap of any length.
                match held.stream.next(b">", from, LOOKED_AT_PER_TURN_MAX) {
                    Ok(Search::Found(message)) if message.sequence <= durable => {
                        wakes.wake(message.subject, &mut woken);
                        from = message.sequence + 1;
                    }
                    Ok(Search::GoOn(sequence)) if sequence <= durable => from = sequence,
                    Ok(_) => {
                        from = durable + 1;
                        break;
                    }
                    Err(error) => {
                        needed = Some(error);
                        break;
                    }
                }
            }
            through = (from - 1).min(durable);
        }
        consumers.looked_through.set(through);
        drop(wakes);
        // Those that were taken off the list are told even if the rest has to wait for the disk.
        for key in woken {
            if let Some(consumer) = consumers.by_key(key) {
                consumers.make_ready(&consumer);
            }
        }
        needed.map_or(Ok(()), Err)
    }

    /// Does what is due at a consumer's time.
    fn tick(&self, stream: &StreamHandle, consumer: &Rc<Consumer>, now_ns: i64) {
        let mut part = consumer.part.borrow_mut();
        let Part { machine, memory, .. } = &mut *part;
        let mut store = self.store.borrow_mut();
        let mut state = StateOf::new(&mut store, stream.id, consumer.id, memory);
        let is_wanted = |subject: &[u8]| self.has_interest(stream, subject);
        machine.tick(now_ns, &mut state, is_wanted);
    }

    /// True if a client listens at a subject of the stream's account.
    pub(super) fn has_interest(&self, stream: &StreamHandle, subject: &[u8]) -> bool {
        self.broker.borrow_mut().is_wanted(stream.account.id, subject)
    }

    /// Lets a consumer deliver, at most so many messages. Returns how many it did.
    fn serve(
        self: &Rc<Self>,
        stream: &Rc<StreamHandle>,
        consumer: &Rc<Consumer>,
        now_ns: i64,
        count_max: usize,
    ) -> usize {
        let consumers = &stream.consumers;
        let (mut count, mut steps) = (0, 0);
        let stop = loop {
            match self.step(stream, consumer, now_ns) {
                Ok(Step::Delivered) => count += 1,
                Ok(Step::Moved) => {}
                Ok(Step::Rests) => break Stop::Done,
                Ok(Step::Waits) => {
                    let part = consumer.part.borrow();
                    consumers.wakes.borrow_mut().wait(consumer.key.get(), &part.filters);
                    break Stop::Done;
                }
                Err(stop) => break stop,
            }
            steps += 1;
            if steps >= count_max {
                consumers.make_ready(consumer);
                break Stop::Done;
            }
        };
        self.stop(stream, consumer, stop);
        if !consumer.is_gone.get() {
            let deadline_ns = consumer.part.borrow().machine.deadline_ns(now_ns);
            consumers.set_timer(consumer, deadline_ns);
        }
        count
    }

    /// Parks a consumer that has to wait.
    fn stop(self: &Rc<Self>, stream: &Rc<StreamHandle>, consumer: &Rc<Consumer>, stop: Stop) {
        if matches!(stop, Stop::Done) {
            return;
        }
        stream.consumers.park(consumer);
        let (engine, stream, consumer) = (self.clone(), stream.clone(), consumer.clone());
        self.host.spawn(Box::pin(async move {
            match stop {
                Stop::Done => {}
                Stop::Congested(congestion) => congestion.gate.reached(congestion.until).await,
                Stop::NotLoaded(needed) => engine.load(stream.id, needed).await,
                Stop::StoreIsShort => engine.host.sleep(STORE_PAUSE).await,
            }
            stream.consumers.unpark(&consumer);
        }));
    }

    /// One step of a consumer: says what it has to say, or delivers a message.
    fn step(
        self: &Rc<Self>,
        stream: &Rc<StreamHandle>,
        consumer: &Rc<Consumer>,
        now_ns: i64,
    ) -> Result<Step, Stop> {
        if !self.say_all(stream, consumer)? {
            return Ok(Step::Rests);
        }
        let mut part = consumer.part.borrow_mut();
        let part = &mut *part;
        let Part { machine, filters, count, memory, .. } = part;
        let want = {
            let mut store = self.store.borrow_mut();
            let held = store.streams().get(stream.id).ok_or(Stop::Done)?;
            if machine.is_ready(now_ns) {
                if store.check_consumer_changes().is_err() {
                    return Err(Stop::StoreIsShort);
                }
                if !count.catch_up(machine, filters, &held.stream).map_err(Stop::NotLoaded)? {
                    return Ok(Step::Moved);
                }
            }
            let first = held.stream.totals().first_sequence;
            let mut state = StateOf::new(&mut store, stream.id, consumer.id, memory);
            if !machine.purged(first, DELIVERED_AT_ONCE_MAX, &mut state) {
                return Ok(Step::Moved);
            }
            machine.want(now_ns, &mut state)
        };
        let durable = stream.durable.value();
        let step = {
            let store = self.store.borrow();
            let held = store.streams().get(stream.id).ok_or(Stop::Done)?;
            let found = match want {
                Want::Nothing => {
                    drop(store);
                    return Ok(self.after_nothing(machine.outputs().is_empty()));
                }
                Want::Listed(sequence) if sequence > durable => return Ok(Step::Waits),
                Want::Again(sequence) | Want::Listed(sequence) => {
                    held.stream.get(sequence).map_err(Stop::NotLoaded)?
                }
                Want::Next(from) => {
                    let found = filters.find(&held.stream, from, durable);
                    match found.map_err(Stop::NotLoaded)? {
                        Lookup::Found(message) => Some(message),
                        Lookup::Passed(sequence, is_end) => {
                            let state = state_of(&store, stream.id, consumer.id, memory);
                            machine.passed(sequence, is_end, now_ns, state);
                            count.moved(machine);
                            let is_silent = machine.outputs().is_empty();
                            return Ok(match is_end && is_silent {
                                true => Step::Waits,
                                false => Step::Moved,
                            });
                        }
                    }
                }
            };
            match found {
                None => None,
                Some(message) => {
                    let state = state_of(&store, stream.id, consumer.id, memory);
                    let Some(envelope) = machine.offer(&message, now_ns, state) else {
                        let is_silent = machine.outputs().is_empty();
                        return Ok(self.after_nothing(is_silent));
                    };
                    let (publisher, body) = (&mut part.publisher, &mut part.body);
                    let wire = |message: &WireMessage<'_>, to: &[u8]| {
                        let mut broker = self.broker.borrow_mut();
                        broker.publish_service_as(publisher, stream.account.id, to, message)
                    };
                    Some(publish(&message, &envelope, body, wire))
                }
            }
        };
        let mut store = self.store.borrow_mut();
        let mut state = StateOf::new(&mut store, stream.id, consumer.id, memory);
        match step {
            None => {
                machine.gone(want, now_ns, &mut state);
                count.moved(machine);
                Ok(Step::Moved)
            }
            Some(Published::Delivered) => {
                machine.delivered(now_ns, &mut state);
                count.moved(machine);
                self.counters.delivered.add(1);
                self.counters.redelivered.add(u64::from(matches!(want, Want::Again(_))));
                Ok(Step::Delivered)
            }
            Some(Published::NoInterest) => {
                machine.nobody(now_ns);
                Ok(Step::Moved)
            }
            Some(Published::Congested(congestion)) => Err(Stop::Congested(congestion)),
            Some(Published::ReadFirst) => unreachable!("a consumer has no mailbox"),
        }
    }

    /// What follows when nothing is delivered: what the machine says about it.
    fn after_nothing(&self, is_silent: bool) -> Step {
        if is_silent { Step::Rests } else { Step::Moved }
    }

    /// Says and does all that a machine has to say; false if the consumer is gone then.
    fn say_all(
        self: &Rc<Self>,
        stream: &Rc<StreamHandle>,
        consumer: &Rc<Consumer>,
    ) -> Result<bool, Stop> {
        for _ in 0..DELIVERED_PER_TURN_MAX {
            let Some(output) = consumer.part.borrow_mut().machine.outputs().pop_front() else {
                return Ok(!consumer.is_gone.get());
            };
            match &output {
                Output::Status { to, reply, headers } => {
                    let outgoing = Outgoing { subject: to, reply, headers, ..Outgoing::default() };
                    if let Some(congestion) = self.say(stream, consumer, &outgoing) {
                        consumer.part.borrow_mut().machine.outputs().push_front(output);
                        return Err(Stop::Congested(congestion));
                    }
                }
                Output::Advisory(advisory) => self.advise(stream, consumer, advisory),
                Output::Done { stream_sequence } => {
                    if let Err(needed) = self.forget_done(stream, consumer, *stream_sequence) {
                        consumer.part.borrow_mut().machine.outputs().push_front(output);
                        return Err(Stop::NotLoaded(needed));
                    }
                }
                Output::DoneThrough { after, through } => {
                    let (after, through) = (*after, *through);
                    if after < through {
                        let result = self.forget_done(stream, consumer, after + 1);
                        let after = after + u64::from(result.is_ok());
                        let rest = Output::DoneThrough { after, through };
                        consumer.part.borrow_mut().machine.outputs().push_front(rest);
                        result.map_err(Stop::NotLoaded)?;
                    }
                }
                Output::Resumed => self.advise_pause(stream, consumer, None),
                Output::Inactive => {
                    self.remove_consumer(stream, consumer);
                    return Ok(false);
                }
            }
        }
        stream.consumers.make_ready(consumer);
        Err(Stop::Done)
    }

    /// Publishes a message of a consumer that is none of the stream's.
    fn say(
        &self,
        stream: &StreamHandle,
        consumer: &Consumer,
        outgoing: &Outgoing<'_>,
    ) -> Option<Congestion> {
        if !subject::is_sendable(outgoing.subject) {
            return None;
        }
        let (mut header_digits, mut digits) = (Vec::new(), Vec::new());
        decimal(&mut header_digits, outgoing.headers.len());
        decimal(&mut digits, outgoing.headers.len());
        let message = WireMessage {
            subject: outgoing.subject,
            reply: outgoing.reply,
            headers: outgoing.headers,
            body: outgoing.headers,
            header_size_text: &header_digits,
            size_text: &digits,
            tail: &[],
        };
        let publisher = &mut consumer.part.borrow_mut().publisher;
        let mut broker = self.broker.borrow_mut();
        match broker.publish_service(publisher, stream.account.id, &message) {
            Published::Congested(congestion) => Some(congestion),
            _ => None,
        }
    }

    /// A consumer does not need a message any more: the stream forgets it, unless another one does.
    fn forget_done(
        &self,
        stream: &Rc<StreamHandle>,
        consumer: &Consumer,
        sequence: u64,
    ) -> Result<(), NotLoaded> {
        let mut store = self.store.borrow_mut();
        let Some(held) = store.streams().get(stream.id) else { return Ok(()) };
        let Some(message) = held.stream.get(sequence)? else { return Ok(()) };
        let is_its = consumer.part.borrow().filters.matches(message.subject);
        if !is_its || self.is_needed(&store, stream, message.subject, sequence) {
            return Ok(());
        }
        match store.delete_done(stream.id, sequence) {
            Ok(_) => {}
            Err(crate::storage::store::StoreError::NotLoaded(needed)) => return Err(needed),
            // The stream is being purged, or the store stopped.
            Err(_) => {}
        }
        drop(store);
        self.note_change(stream);
        Ok(())
    }
}

/// Publishes a stream's message to the receiver that the envelope names.
fn publish(
    message: &Message<'_>,
    envelope: &Envelope<'_>,
    body: &mut Vec<u8>,
    wire: impl FnOnce(&WireMessage<'_>, &[u8]) -> Published,
) -> Published {
    let is_plain = message.headers.is_empty() && !envelope.headers_only && envelope.pin.is_empty();
    let header_size = match is_plain {
        true => 0,
        false => {
            body.clear();
            body.extend_from_slice(message.headers);
            if envelope.headers_only {
                append(body, MESSAGE_SIZE, message.payload.len().to_string().as_bytes());
            }
            if !envelope.pin.is_empty() {
                append(body, PIN_ID, envelope.pin);
            }
            let header_size = body.len();
            if !envelope.headers_only {
                body.extend_from_slice(message.payload);
            }
            header_size
        }
    };
    let body = if is_plain { message.payload } else { body };
    let (mut header_digits, mut digits) = ([0; 20], [0; 20]);
    let outgoing = WireMessage {
        subject: message.subject,
        reply: envelope.reply,
        headers: &body[..header_size],
        body,
        header_size_text: if is_plain { b"" } else { digits_of(header_size, &mut header_digits) },
        size_text: digits_of(body.len(), &mut digits),
        tail: &[],
    };
    wire(&outgoing, envelope.to)
}

/// The digits of a number, without an allocation.
fn digits_of(mut number: usize, room: &mut [u8; 20]) -> &[u8] {
    let mut at = room.len();
    loop {
        at -= 1;
        room[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &room[at..];
        }
    }
}
