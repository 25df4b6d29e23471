//! Clients for which lowered limits leave no room are closed.

use std::sync::Arc;

use crate::auth::account::Account;
use crate::auth::state::AuthState;
use crate::base::ids::ConnectionId;
use crate::server::run::all_shards::{order_all, wait_for_all};
use crate::server::run::running::Server;
use crate::shard::ShardOrder;

impl Server<'_> {
    /// Closes clients for which a reload's limits leave no room, once every shard has applied it;
    /// `staying` is each shard's number of clients. An account loses the clients that are met
    /// first, the server loses random ones, as in nats-server.
    pub(super) fn close_surplus(
        &self,
        mut staying: Vec<Option<usize>>,
        auth: &AuthState,
        connections_max: Option<usize>,
    ) {
        let mut accounts = auth.authenticator.accounts().iter();
        if auth.authenticator.trust().is_some() {
            self.close_newest_of(auth, accounts);
        } else if accounts.any(|account| account.limits.connections_max.is_some()) {
            staying = order_all(&self.shards, ShardOrder::CloseSurplusOfAccounts);
        }
        let Some(max) = connections_max else { return };
        let surplus = || self.shards.counters.staying().value().saturating_sub(max);
        if surplus() == 0 {
            return;
        }
        // A shard in trouble has not reported a number: nobody is closed there. Clients that moved
        // meanwhile may have been counted twice, or not at all.
        let counts: Vec<usize> = staying.into_iter().map(Option::unwrap_or_default).collect();
        let mut closed = self.close_shares(&counts, &random_shares(&counts, surplus()), max);
        if surplus() > 0 {
            closed += self.close_shares(&counts, &vec![usize::MAX; counts.len()], max);
        }
        tracing::info!("Closed {closed} connections to fall within max_connections");
    }

    /// Closes the newest clients of accounts that have more than they may, once every shard knows
    /// that: in operator mode, as in nats-server.
    pub(super) fn close_newest_of<'a>(
        &self,
        auth: &AuthState,
        accounts: impl Iterator<Item = &'a Arc<Account>>,
    ) {
        for account in accounts {
            let Some(max) = account.limits.connections_max else { continue };
            if auth.connections(account).value() <= max {
                continue;
            }
            let account = auth.id(account);
            let ids = order_all(&self.shards, |answer| ShardOrder::ClientsOf { account, answer });
            let mut ids: Vec<ConnectionId> = ids.into_iter().flatten().flatten().collect();
            ids.sort_unstable();
            // Those that come meanwhile are newer.
            let Some(from) = ids.get(max).copied() else { continue };
            order_all(&self.shards, |done| ShardOrder::CloseClientsOf { account, from, done });
        }
    }

    /// Closes on each shard a share of its clients, given by their counts, down to `max` in all.
    /// Returns the number closed.
    fn close_shares(&self, counts: &[usize], shares: &[usize], max: usize) -> usize {
        let each = self.shards.handles.iter().zip(counts).zip(shares);
        let asked = each.map(|((shard, staying), count)| {
            let (staying, count) = (*staying, *count);
            shard.ask(|done| ShardOrder::CloseSurplus { count, staying, max, done })
        });
        wait_for_all(asked.collect()).into_iter().flatten().sum()
    }
}

/// Returns how many of `wanted` fall on each shard if they are drawn from the clients of all, each
/// with the same probability.
fn random_shares(counts: &[usize], wanted: usize) -> Vec<usize> {
    let mut left: Vec<usize> = counts.to_vec();
    let mut total: usize = counts.iter().sum();
    for _ in 0..wanted.min(total) {
        let mut drawn = fastrand::usize(..total);
        for count in &mut left {
            if drawn < *count {
                *count -= 1;
                break;
            }
            drawn -= *count;
        }
        total -= 1;
    }
    counts.iter().zip(left).map(|(count, left)| count - left).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_draw_add_up_and_take_no_more_than_there_are() {
        for (counts, wanted) in
            [(&[3, 0, 5][..], 4), (&[3, 0, 5], 8), (&[3, 0, 5], 20), (&[], 3), (&[7], 0)]
        {
            let shares = random_shares(counts, wanted);
            let total: usize = counts.iter().sum();
            assert_eq!(shares.iter().sum::<usize>(), wanted.min(total));
            assert!(shares.iter().zip(counts).all(|(share, count)| share <= count));
        }
        // Each client has the same probability, wherever it is.
        let mut sums = [0, 0];
        for _ in 0..200 {
            let shares = random_shares(&[90, 10], 10);
            sums[0] += shares[0];
            sums[1] += shares[1];
        }
        assert!(sums[0] > 5 * sums[1] && sums[1] > 0, "{sums:?}");
    }
}
