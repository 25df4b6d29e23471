//! The parts of `base::ring` for these models: loom's atomics, and rtrb's ring on top of them.

pub use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// The part of rtrb that `base::ring` uses, with rtrb's loads, stores and caches of the other
/// side's index (0.4, `src/lib.rs`). The slots are behind a lock that loom does not see: only head
/// and tail order anything, as in the original.
pub mod rtrb {
    use std::cell::Cell;
    use std::sync::{Arc, Mutex};

    use loom::sync::atomic::{AtomicUsize, Ordering};

    struct Shared<T> {
        head: AtomicUsize,
        tail: AtomicUsize,
        slots: Vec<Mutex<Option<T>>>,
    }

    pub struct Producer<T> {
        shared: Arc<Shared<T>>,
        tail: usize,
        cached_head: Cell<usize>,
    }

    pub struct Consumer<T> {
        shared: Arc<Shared<T>>,
        head: usize,
        cached_tail: Cell<usize>,
    }

    pub enum PushError<T> {
        Full(T),
    }

    #[derive(Debug)]
    pub struct PopError;

    pub struct RingBuffer;

    impl RingBuffer {
        #[expect(clippy::new_ret_no_self, reason = "as in rtrb")]
        pub fn new<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
            let shared = Arc::new(Shared {
                head: AtomicUsize::new(0),
                tail: AtomicUsize::new(0),
                slots: (0..capacity).map(|_| Mutex::new(None)).collect(),
            });
            let producer = Producer { shared: shared.clone(), tail: 0, cached_head: Cell::new(0) };
            (producer, Consumer { shared, head: 0, cached_tail: Cell::new(0) })
        }
    }

    impl<T> Producer<T> {
        pub fn push(&mut self, item: T) -> Result<(), PushError<T>> {
            if self.is_full() {
                return Err(PushError::Full(item));
            }
            let capacity = self.shared.slots.len();
            let slot = &self.shared.slots[self.tail % capacity];
            *slot.lock().expect("never poisoned") = Some(item);
            self.tail += 1;
            self.shared.tail.store(self.tail, Ordering::Release);
            Ok(())
        }

        pub fn slots(&self) -> usize {
            let head = self.shared.head.load(Ordering::Acquire);
            self.cached_head.set(head);
            self.shared.slots.len() - (self.tail - head)
        }

        pub fn is_full(&self) -> bool {
            self.tail - self.cached_head.get() == self.shared.slots.len() && self.slots() == 0
        }
    }

    impl<T> Consumer<T> {
        pub fn pop(&mut self) -> Result<T, PopError> {
            if self.is_empty() {
                return Err(PopError);
            }
            let capacity = self.shared.slots.len();
            let slot = &self.shared.slots[self.head % capacity];
            let item = slot.lock().expect("never poisoned").take();
            self.head += 1;
            self.shared.head.store(self.head, Ordering::Release);
            Ok(item.expect("the tail says it is there"))
        }

        pub fn slots(&self) -> usize {
            let tail = self.shared.tail.load(Ordering::Acquire);
            self.cached_tail.set(tail);
            tail - self.head
        }

        pub fn is_empty(&self) -> bool {
            self.cached_tail.get() == self.head && self.slots() == 0
        }

        pub fn is_abandoned(&self) -> bool {
            Arc::strong_count(&self.shared) < 2
        }
    }
}
