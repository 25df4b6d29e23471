//! The sending ends of one peer's lanes: what finds no room is staged here, in order.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use super::frame;
use super::lanes::{Batch, Note, SourceEnd};
use crate::base::gate::Gate;
use crate::base::limits::{BATCH_BYTES, INTEREST_ROOM_MIN, LANE_STAGED_BYTES_MAX};
use crate::base::turn_clock::TurnClock;
use crate::broker::link::{Congestion, Forward, InterestChange, LinkSink, Source};
use crate::protocol::message::{Message, MessageRun};

/// Staged notes whose room is kept once they are sent.
const STAGED_NOTES_KEPT_MAX: usize = 1024;

/// See the module's words.
///
/// Invariants: notes reach the ring in order (staged ones first); so do batches; while notes are staged no
/// batch goes out, because a message may be the consequence of a staged note.
pub struct Outbound {
    end: RefCell<SourceEnd>,
    staged_notes: RefCell<VecDeque<Note>>,
    /// Full batches that found no slot.
    staged: RefCell<VecDeque<Batch>>,
    staged_bytes: Cell<usize>,
    /// The batch that is being filled.
    current: RefCell<Vec<u8>>,
    /// When its first message was read.
    current_read_at: Cell<Instant>,
    clock: Rc<TurnClock>,
    /// What its last message was.
    last: RefCell<frame::Last>,
    /// Set when something was appended that no flush has seen; shared by all links of the shard.
    dirty: Rc<Cell<bool>>,
    /// Set when something waits for room; shared likewise.
    waiting: Rc<Cell<bool>>,
    /// Batches pushed since the last look.
    pushed: Cell<u64>,
    pub counters: Cell<OutboundCounters>,
    /// Counts the times staged batches ran empty.
    all_sent: Rc<Gate>,
    /// Free note slots a session needs before it may subscribe.
    room_min: usize,
    /// Somebody waits for room for notes.
    notes_wanted: Cell<bool>,
    /// Counts the times such a wait ended.
    notes_room: Rc<Gate>,
    /// Counts the times staged batches fell below the limit.
    messages_room: Rc<Gate>,
}

/// What one lane did since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutboundCounters {
    pub batches: u64,
    /// Times the peer had to be woken.
    pub wakes: u64,
    /// Batches that found the lane full.
    pub stalls: u64,
}

impl Outbound {
    pub fn new(
        end: SourceEnd,
        dirty: Rc<Cell<bool>>,
        waiting: Rc<Cell<bool>>,
        clock: Rc<TurnClock>,
    ) -> Self {
        Self {
            room_min: INTEREST_ROOM_MIN.min(end.notes.free_slots() / 4).max(1),
            notes_wanted: Cell::new(false),
            end: RefCell::new(end),
            staged_notes: RefCell::default(),
            staged: RefCell::default(),
            staged_bytes: Cell::new(0),
            current: RefCell::default(),
            current_read_at: Cell::new(Instant::now()),
            clock,
            last: RefCell::default(),
            dirty,
            waiting,
            pushed: Cell::new(0),
            counters: Cell::default(),
            all_sent: Rc::new(Gate::new()),
            notes_room: Rc::new(Gate::new()),
            messages_room: Rc::new(Gate::new()),
        }
    }

    /// Bytes of batches that found no slot.
    pub fn staged_bytes(&self) -> usize {
        self.staged_bytes.get()
    }

    pub fn push_note(&self, note: Note) {
        let mut staged = self.staged_notes.borrow_mut();
        let mut end = self.end.borrow_mut();
        if staged.is_empty() {
            match end.notes.push(note) {
                Ok(()) => {
                    end.target_waiting.raise();
                    // A sleeping peer reads its notes when it next does anything; it is woken for them only
                    // before the lane gets full.
                    if end.notes.free_slots() < self.room_min * 2 {
                        (end.wake_target)();
                    }
                    return;
                }
                Err(note) => staged.push_back(note),
            }
        } else {
            staged.push_back(note);
        }
        self.waiting.set(true);
        end.waiting.announce();
        (end.wake_target)();
    }

    fn append(&self, forward: &Forward<'_>) {
        let size = frame::size(forward);
        let mut current = self.current.borrow_mut();
        if !current.is_empty() && current.len() + size > BATCH_BYTES {
            let full = std::mem::take(&mut *current);
            self.send_or_stage(full);
        }
        if current.capacity() < size.max(1) {
            let recycled = self.end.borrow_mut().returned.pop();
            *current = recycled.unwrap_or_else(|| Vec::with_capacity(BATCH_BYTES));
            current.reserve(size);
        }
        let mut last = self.last.borrow_mut();
        if current.is_empty() {
            last.forget();
            self.current_read_at.set(self.clock.read_at());
        }
        frame::append(&mut current, forward, &mut last);
        self.dirty.set(true);
    }

    /// Appends a message like the last of the batch; false = it is none, or there is no room in the batch.
    #[inline]
    fn append_again(&self, source: &Source, message: &Message<'_>) -> bool {
        let mut current = self.current.borrow_mut();
        if current.len() + frame::size_again(message) > BATCH_BYTES
            || current.is_empty()
            || !frame::is_again(&current, source, message, &self.last.borrow())
        {
            return false;
        }
        frame::append_again(&mut current, message);
        self.dirty.set(true);
        true
    }

    /// Appends the messages at the start of a run that are like the last of the batch and find room in it.
    fn append_run(&self, source: &Source, run: &MessageRun<'_>) -> usize {
        let mut current = self.current.borrow_mut();
        if current.is_empty() || !frame::is_run(&current, source, run, &self.last.borrow()) {
            return 0;
        }
        self.dirty.set(true);
        if current.len() + frame::size_run(run) <= BATCH_BYTES {
            frame::append_run(&mut current, run);
            return run.len();
        }
        let mut appended = 0;
        for message in run.messages() {
            if current.len() + frame::size_again(&message) > BATCH_BYTES {
                break;
            }
            frame::append_again(&mut current, &message);
            appended += 1;
        }
        appended
    }

    fn is_congested(&self) -> bool {
        self.staged_bytes.get() > LANE_STAGED_BYTES_MAX
    }

    fn count(&self, change: impl FnOnce(&mut OutboundCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// Sends what was the current batch.
    fn send_or_stage(&self, bytes: Vec<u8>) {
        let batch = Batch { bytes, read_at: self.current_read_at.get() };
        let mut staged = self.staged.borrow_mut();
        let held = !staged.is_empty() || !self.staged_notes.borrow().is_empty();
        let rejected = if held { Err(batch) } else { self.end.borrow_mut().messages.push(batch) };
        match rejected {
            Ok(()) => self.pushed.set(self.pushed.get() + 1),
            Err(batch) => {
                self.count(|counters| counters.stalls += 1);
                self.staged_bytes.set(self.staged_bytes.get() + batch.bytes.len());
                self.waiting.set(true);
                staged.push_back(batch);
            }
        }
    }

    /// Sends what is staged and the current batch, as far as there is room; wakes the peer if it sleeps.
    /// Returns whether anything was sent.
    pub fn flush(&self) -> bool {
        if self.pushed.get() == 0 && self.current.borrow().is_empty() && !self.waits_for_room() {
            return false;
        }
        self.flush_staged();
        let current = std::mem::take(&mut *self.current.borrow_mut());
        if !current.is_empty() {
            self.send_or_stage(current);
        } else if current.capacity() > 0 {
            *self.current.borrow_mut() = current;
        }
        if self.waits_for_room() {
            // Ask to be woken when there is room, then look once more: the peer may have made room before
            // it could see the request.
            self.end.borrow().waiting.announce();
            self.flush_staged();
            if self.waits_for_room() {
                // Notes alone wake nobody, and what this flush moved may have filled the lane just now.
                (self.end.borrow().wake_target)();
            }
        }
        let pushed = self.pushed.take();
        if pushed == 0 {
            return false;
        }
        let end = self.end.borrow();
        end.target_waiting.raise();
        let woke = (end.wake_target)();
        self.count(|counters| {
            counters.batches += pushed;
            counters.wakes += u64::from(woke);
        });
        true
    }

    fn flush_staged(&self) {
        let mut end = self.end.borrow_mut();
        let mut notes = self.staged_notes.borrow_mut();
        if !notes.is_empty() {
            while let Some(note) = notes.pop_front() {
                if let Err(note) = end.notes.push(note) {
                    notes.push_front(note);
                    break;
                }
            }
            end.target_waiting.raise();
            if !notes.is_empty() {
                return;
            }
            // A client with very many subscriptions has left: what that needed is not needed again.
            if notes.capacity() > STAGED_NOTES_KEPT_MAX {
                *notes = VecDeque::new();
            }
        }
        if self.notes_wanted.get() && end.notes.free_slots() >= self.room_min {
            self.notes_wanted.set(false);
            self.notes_room.advance_by(1);
        }
        let mut staged = self.staged.borrow_mut();
        if staged.is_empty() {
            return;
        }
        while let Some(batch) = staged.pop_front() {
            let size = batch.bytes.len();
            if let Err(batch) = end.messages.push(batch) {
                staged.push_front(batch);
                break;
            }
            self.pushed.set(self.pushed.get() + 1);
            self.staged_bytes.set(self.staged_bytes.get() - size);
        }
        if self.staged_bytes.get() <= LANE_STAGED_BYTES_MAX {
            self.messages_room.advance_by(1);
        }
        if staged.is_empty() {
            self.all_sent.advance_by(1);
        }
    }

    pub fn waits_for_room(&self) -> bool {
        self.notes_wanted.get()
            || !self.staged.borrow().is_empty()
            || !self.staged_notes.borrow().is_empty()
    }

    /// Whether a flush would move something now.
    pub fn can_flush(&self) -> bool {
        if !self.staged_notes.borrow().is_empty() {
            return self.end.borrow().notes.free_slots() > 0;
        }
        if self.notes_wanted.get() && self.end.borrow().notes.free_slots() >= self.room_min {
            return true;
        }
        let waiting = !self.staged.borrow().is_empty() || !self.current.borrow().is_empty();
        waiting && !self.end.borrow().messages.is_full()
    }

    pub fn wake(&self) {
        (self.end.borrow().wake_target)();
    }
}

/// How the broker sees one peer shard.
pub struct ShardLink(pub Rc<Outbound>);

impl LinkSink for ShardLink {
    fn interest_changed(&self, change: &InterestChange) {
        self.0.push_note(Note::Interest(change.clone()));
    }

    fn interest_congestion(&self) -> Option<Congestion> {
        let outbound = &self.0;
        let has_room = outbound.staged_notes.borrow().is_empty()
            && outbound.end.borrow().notes.free_slots() >= outbound.room_min;
        if has_room {
            return None;
        }
        // The peer is asked to read; the flush that finds room opens the gate.
        outbound.notes_wanted.set(true);
        outbound.waiting.set(true);
        let end = outbound.end.borrow();
        end.waiting.announce();
        (end.wake_target)();
        Some(Congestion {
            gate: outbound.notes_room.clone(),
            until: outbound.notes_room.value() + 1,
        })
    }

    fn forward(&self, forward: &Forward<'_>) -> bool {
        self.0.append(forward);
        self.0.is_congested()
    }

    fn forward_again(&self, source: &Source, message: &Message<'_>) -> Option<bool> {
        self.0.append_again(source, message).then(|| self.0.is_congested())
    }

    fn forward_run(&self, source: &Source, run: &MessageRun<'_>) -> usize {
        self.0.append_run(source, run)
    }

    fn message_congestion(&self) -> Option<Congestion> {
        let outbound = &self.0;
        outbound.is_congested().then(|| Congestion {
            gate: outbound.messages_room.clone(),
            until: outbound.messages_room.value() + 1,
        })
    }

    fn fence(&self) -> Option<Congestion> {
        let outbound = &self.0;
        if !outbound.current.borrow().is_empty() {
            outbound.flush();
        }
        (!outbound.staged.borrow().is_empty()).then(|| Congestion {
            gate: outbound.all_sent.clone(),
            until: outbound.all_sent.value() + 1,
        })
    }
}
