//! Wakes within a future that is run by hand: after one it is polled again at once.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Wake, Waker};

/// Notes the wakes of a waker until they are taken.
pub(super) struct Wakes {
    received: Receiver<()>,
}

struct Source(Sender<()>);

impl Wake for Source {
    fn wake(self: Arc<Self>) {
        // Once the future is done nobody listens.
        let _ = self.0.send(());
    }
}

impl Wakes {
    pub(super) fn new() -> (Self, Waker) {
        let (source, received) = channel();
        (Self { received }, Waker::from(Arc::new(Source(source))))
    }

    /// True if there was a wake since the last call.
    pub(super) fn take(&self) -> bool {
        self.received.try_iter().count() > 0
    }
}
