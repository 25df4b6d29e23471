//! Orders to all shards, and their answers within a deadline.

use std::time::{Duration, Instant};

use crate::server::run::bootstrap::Shards;
use crate::shard::ShardOrder;
use crate::shard::order::{Pending, Reply};

/// Time for all shards to carry out an order. Past it a shard is in trouble, and signals must still
/// be handled.
pub(super) const ORDER_DEADLINE: Duration = Duration::from_secs(10);

/// Gives every shard an order and waits until all have carried it out.
pub(super) fn order_all<T>(
    shards: &Shards,
    order: impl Fn(Reply<T>) -> ShardOrder,
) -> Vec<Option<T>> {
    wait_for_all(shards.handles.iter().map(|shard| shard.ask(&order)).collect())
}

/// Waits for the answers of all shards, in order. A shard that does not answer in time is named in
/// the log; it carries out the order when it is back, as orders keep their sequence.
pub(super) fn wait_for_all<T>(asked: Vec<Pending<T>>) -> Vec<Option<T>> {
    let deadline = Instant::now() + ORDER_DEADLINE;
    let answers: Vec<Option<T>> = asked.into_iter().map(|pending| pending.wait(deadline)).collect();
    let late = answers.iter().enumerate().filter(|(_, answer)| answer.is_none());
    let late: Vec<usize> = late.map(|(shard, _)| shard).collect();
    if !late.is_empty() {
        tracing::error!("shards do not answer: {late:?}");
    }
    answers
}
