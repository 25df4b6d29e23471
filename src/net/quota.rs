//! Limits the number of steps of one kind per turn of a shard; further ones wait for the next turn,
//! first come, first served.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// The quota of one kind of step. One per shard and kind.
pub(super) struct Quota {
    per_turn: usize,
    /// Steps that this turn may still take.
    left: Cell<usize>,
    /// Waiting tasks, oldest first; the cell tells a task that it may go on.
    waiting: RefCell<VecDeque<(Rc<Cell<bool>>, Waker)>>,
}

impl Quota {
    pub(super) fn new(per_turn: usize) -> Self {
        Self { per_turn, left: Cell::new(per_turn), waiting: RefCell::default() }
    }

    /// Waits until this turn has room for a step. `request` must ask for the end of the turn, which
    /// grants new steps.
    pub(super) async fn take(&self, request: impl Fn()) {
        let left = self.left.get();
        if left > 0 && self.waiting.borrow().is_empty() {
            self.left.set(left - 1);
            request();
            return;
        }
        let granted = Rc::new(Cell::new(false));
        let mut queued = false;
        poll_fn(|context| {
            if granted.get() {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut queued, true) {
                let entry = (granted.clone(), context.waker().clone());
                self.waiting.borrow_mut().push_back(entry);
                request();
            }
            Poll::Pending
        })
        .await;
    }

    /// Begins a new turn: those that waited longest go first. True if others still wait.
    pub(super) fn grant(&self) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let mut left = self.per_turn;
        while left > 0
            && let Some((granted, waker)) = waiting.pop_front()
        {
            // If nobody holds the other end, the wait was given up, which costs nothing.
            if Rc::strong_count(&granted) > 1 {
                granted.set(true);
                waker.wake();
                left -= 1;
            }
        }
        self.left.set(left);
        if waiting.is_empty() && waiting.capacity() > self.per_turn {
            // Frees the memory that a burst left behind.
            *waiting = VecDeque::new();
        }
        !waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::Context;

    use super::*;

    type Step<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

    fn poll(step: &mut Step<'_>) -> bool {
        step.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_turn_takes_its_number_of_steps_and_the_oldest_go_first() {
        let quota = Quota::new(3);
        let mut steps: Vec<Step<'_>> = (0..10).map(|_| Box::pin(quota.take(|| {})) as _).collect();
        let mut done: Vec<usize> = Vec::new();
        for turn in 0..4 {
            let before = done.len();
            for (index, step) in steps.iter_mut().enumerate() {
                if !done.contains(&index) && poll(step) {
                    done.push(index);
                }
            }
            assert!(done.len() - before <= 3, "turn {turn}");
            assert_eq!(quota.grant(), turn < 2, "turn {turn}");
        }
        assert_eq!(done, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_step_that_was_given_up_costs_nobody_a_turn() {
        let quota = Quota::new(1);
        let mut first: Step<'_> = Box::pin(quota.take(|| {}));
        assert!(poll(&mut first));
        let mut gone: Step<'_> = Box::pin(quota.take(|| {}));
        let mut last: Step<'_> = Box::pin(quota.take(|| {}));
        assert!(!poll(&mut gone) && !poll(&mut last));
        drop(gone);
        assert!(!quota.grant());
        assert!(poll(&mut last));
    }
}
