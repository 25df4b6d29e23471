//! Lets other tasks of the thread run between two slices of long work.

use std::future::poll_fn;
use std::task::Poll;

/// Ends a slice: the task is polled again after other tasks had their turn.
pub async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
