//! Tells whoever runs a future by hand that some part of it woke another: it is to be polled again at once.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Wake, Waker};

/// The wakes of a waker since they were taken.
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

    /// True if there were any.
    pub(super) fn take(&self) -> bool {
        self.received.try_iter().count() > 0
    }
}
