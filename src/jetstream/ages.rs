//! Messages that end by time: by the limit of a stream, or by their own.
//!
//! Each stream with such messages has one place in a schedule, for the first of them. A stream
//! without any costs nothing.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::engine::Engine;
use super::stream::{NEVER_NS, StreamHandle};
use crate::base::limits::LOOKED_AT_PER_TURN_MAX;
use crate::storage::disk::Disk;

/// The time after its window for which an id of a message may still be kept.
const IDS_KEPT_NS: i64 = 5_000_000_000;

/// The least time between two looks at one stream.
const LOOK_NS_MIN: i64 = 50_000_000;

impl<D: Disk> Engine<D> {
    /// Puts a stream's place in the schedule where it belongs, after a change.
    pub(super) fn schedule(&self, stream: &Rc<StreamHandle>) {
        let known = stream.due_ns.get();
        // Only a message's own time may be over sooner than that of an older one.
        if !stream.ages() || (known != NEVER_NS && !stream.config().allow_ttl) {
            return;
        }
        let due_ns = {
            let store = self.store.borrow();
            let Some(held) = store.streams().get(stream.id) else { return };
            let ends = held.stream.next_end_ns();
            // Each new id lets old ones be forgotten: this is for a stream that gets none.
            let ids = held.stream.next_forgotten_ns();
            ends.into_iter().chain(ids.map(|end_ns| end_ns.saturating_add(IDS_KEPT_NS))).min()
        };
        let due_ns = due_ns.unwrap_or(NEVER_NS);
        if due_ns < known {
            self.put_into_schedule(stream, due_ns);
        }
    }

    fn put_into_schedule(&self, stream: &Rc<StreamHandle>, due_ns: i64) {
        let mut schedule = self.schedule.borrow_mut();
        schedule.remove(&(stream.due_ns.replace(due_ns), stream.id));
        if due_ns != NEVER_NS {
            schedule.insert((due_ns, stream.id), stream.clone());
        }
        drop(schedule);
        self.scheduled.advance_by(1);
    }

    /// Ends messages when their time is over.
    pub(super) async fn keep_time(self: Rc<Self>) {
        loop {
            let seen = self.scheduled.value();
            let first = self.schedule.borrow().first_key_value().map(|(key, _)| key.0);
            let now_ns = self.host.now_ns();
            match first {
                Some(due_ns) if due_ns <= now_ns => {
                    let (_, stream) = self.schedule.borrow_mut().pop_first().expect("it is there");
                    stream.due_ns.set(NEVER_NS);
                    let engine = self.clone();
                    self.host.spawn(Box::pin(async move { engine.end_messages(&stream).await }));
                }
                Some(due_ns) => {
                    let wait = u64::try_from(due_ns - now_ns).unwrap_or(0);
                    let mut sleep = self.host.sleep(Duration::from_nanos(wait));
                    let mut changed = pin!(self.scheduled.reached(seen + 1));
                    poll_fn(|context| {
                        let is_changed = changed.as_mut().poll(context).is_ready();
                        match is_changed || sleep.as_mut().poll(context).is_ready() {
                            true => Poll::Ready(()),
                            false => Poll::Pending,
                        }
                    })
                    .await;
                }
                None => self.scheduled.reached(seen + 1).await,
            }
        }
    }

    /// Ends the messages of a stream whose time is over.
    async fn end_messages(&self, stream: &Rc<StreamHandle>) {
        let now_ns = self.host.now_ns();
        loop {
            let ended = self
                .with_store(stream, |store| {
                    store.expire_some(stream.id, now_ns, LOOKED_AT_PER_TURN_MAX)
                })
                .await;
            match ended {
                Ok(0) => break,
                Ok(_) => self.note_change(stream),
                Err(_) => break,
            }
            self.host.yield_turn().await;
        }
        if stream.is_gone() || stream.due_ns.get() != NEVER_NS {
            return;
        }
        self.schedule(stream);
        // What could not be ended is not tried again at once.
        let soonest = self.host.now_ns() + LOOK_NS_MIN;
        if stream.due_ns.get() < soonest {
            self.put_into_schedule(stream, soonest);
        }
    }
}
