//! The connections that a query asks for: those that it leaves, in its order, and no more of them than an
//! answer has room for.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::super::snapshot::{
    ClosedConnection, ConnectionDetails, ConnectionNumbers, SubscriptionDetails,
};
use super::options::{ConnzOptions, SortBy};

/// A connection in the list, before it is described.
#[derive(Clone, Debug)]
pub(crate) enum Listed {
    Open { shard: usize, place: usize, numbers: ConnectionNumbers },
    Closed(Box<ClosedConnection>),
}

impl Listed {
    pub(crate) fn id(&self) -> u64 {
        match self {
            Self::Open { numbers, .. } => numbers.id,
            Self::Closed(closed) => closed.details.numbers.id,
        }
    }

    fn reason_ranked(&self, sort: SortBy) -> &'static str {
        match self {
            Self::Closed(closed) if sort == SortBy::Reason => closed.reason.text(),
            _ => "",
        }
    }

    fn rank(&self, sort: SortBy, now: Instant) -> u64 {
        match self {
            Self::Open { numbers, .. } => rank(sort, numbers, now, None),
            Self::Closed(closed) => rank(sort, &closed.details.numbers, now, Some(closed.stopped)),
        }
    }
}

/// Keeps only the closed connections that pass the filter.
pub(crate) fn filter_closed(
    closed: &mut Vec<ClosedConnection>,
    options: &ConnzOptions,
    open_found: bool,
) {
    let filter = &options.filter;
    closed.retain(|closed| {
        let details = &closed.details;
        let of_account = filter.account.as_ref().is_none_or(|name| *name == details.account);
        let of_id = filter.id.is_none_or(|id| id == details.numbers.id && !open_found);
        let of_user = filter.user.as_ref().is_none_or(|user| *user == details.user);
        of_account && of_id && of_user && !options.mqtt_client
    });
}

/// Sorts the connections and keeps those selected by offset and limit. Ties are ordered by id, in
/// the direction of the sort. Source: nats-server server/monitor_sort_opts.go.
pub(crate) fn select(mut all: Vec<Listed>, options: &ConnzOptions, now: Instant) -> Vec<Listed> {
    let sort = options.sort;
    let key = |listed: &Listed| (listed.rank(sort, now), listed.reason_ranked(sort), listed.id());
    if sort.is_ascending() {
        all.sort_by_cached_key(key);
    } else {
        all.sort_by_cached_key(|listed| Reverse(key(listed)));
    }
    all.into_iter().skip(options.offset).take(options.limit).collect()
}

/// Returns the number to sort by. `stopped` is set for a closed connection.
fn rank(sort: SortBy, numbers: &ConnectionNumbers, now: Instant, stopped: Option<Instant>) -> u64 {
    let nanoseconds = |duration: Duration| duration.as_nanos() as u64;
    let until = stopped.unwrap_or(now);
    match sort {
        SortBy::Id => numbers.id,
        SortBy::Subscriptions => numbers.subscriptions as u64,
        SortBy::Pending => numbers.pending_bytes as u64,
        SortBy::OutMessages => numbers.out_messages,
        SortBy::InMessages => numbers.in_messages,
        SortBy::OutBytes => numbers.out_bytes,
        SortBy::InBytes => numbers.in_bytes,
        SortBy::LastActivity => {
            u64::MAX - nanoseconds(now.saturating_duration_since(numbers.last_activity))
        }
        SortBy::Idle => nanoseconds(now.saturating_duration_since(numbers.last_activity)),
        SortBy::Uptime => nanoseconds(until.saturating_duration_since(numbers.started)),
        SortBy::Stop => u64::MAX - nanoseconds(now.saturating_duration_since(until)),
        // Sorted by text, in `Listed::reason_ranked`.
        SortBy::Reason => 0,
        SortBy::RoundTrip => numbers.rtt.map_or(0, nanoseconds),
    }
}

/// One entry of the answer, described.
pub(crate) enum Described {
    Open(Box<ConnectionDetails>),
    Closed(Box<ClosedConnection>),
}

impl Described {
    fn details(&self) -> &ConnectionDetails {
        match self {
            Self::Open(details) => details,
            Self::Closed(closed) => &closed.details,
        }
    }

    fn list(&mut self) -> &mut Vec<SubscriptionDetails> {
        match self {
            Self::Open(details) => &mut details.subscription_list,
            Self::Closed(closed) => &mut closed.details.subscription_list,
        }
    }
}

/// Drops what would make the answer too long, from the end of the list: first connections, then
/// subscriptions of the remaining ones. True if anything was dropped.
pub(crate) fn fit(described: &mut Vec<Described>, entries_max: usize, bytes_max: usize) -> bool {
    let mut bytes_left = bytes_max;
    let mut take = |bytes: usize| {
        let left = bytes_left.checked_sub(bytes);
        bytes_left = left.unwrap_or(bytes_left);
        left.is_some()
    };
    let connections = described.len();
    let fitting = described.iter().take_while(|one| take(one.details().answer_bytes())).count();
    described.truncate(fitting);
    let mut entries_left = entries_max;
    let mut cut = fitting < connections;
    for one in described {
        let list = one.list();
        let fitting = list.iter().take(entries_left).take_while(|one| take(one.answer_bytes()));
        let fitting = fitting.count();
        cut |= fitting < list.len();
        list.truncate(fitting);
        entries_left -= fitting;
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::authenticator::ConnectionType;
    use crate::monitor::query::Query;

    fn options(text: &str) -> ConnzOptions {
        ConnzOptions::parse(&Query::parse(text)).unwrap()
    }

    fn rows(count: u64) -> Vec<Listed> {
        let now = Instant::now();
        let numbers = |id| ConnectionNumbers {
            id,
            started: now,
            last_activity: now,
            rtt: None,
            subscriptions: (id % 3) as usize,
            pending_bytes: 0,
            in_messages: 0,
            in_bytes: 0,
            out_messages: id * 10,
            out_bytes: 0,
            stalls: 0,
        };
        let row = |id| Listed::Open { shard: 0, place: id as usize, numbers: numbers(id) };
        (1..=count).map(row).collect()
    }

    #[test]
    fn an_answer_that_grows_too_long_is_cut_from_its_end() {
        let described = |subscriptions: usize| {
            let Listed::Open { numbers, .. } = rows(1)[0] else { panic!("an open one") };
            let one = SubscriptionDetails {
                connection: 1,
                subject: "a\n\"".into(),
                queue: String::new(),
                sid: "1".into(),
                delivered: 0,
                max: 0,
            };
            Described::Open(Box::new(ConnectionDetails {
                way: ConnectionType::Standard,
                numbers,
                address: None,
                name: "x".repeat(100),
                lang: String::new(),
                version: String::new(),
                account: "A".into(),
                user: String::new(),
                tls: None,
                subscription_list: vec![one; subscriptions],
            }))
        };
        let lengths = |entries_max: usize, bytes_max: usize| {
            let mut all = vec![described(3), described(3)];
            let cut = fit(&mut all, entries_max, bytes_max);
            let lists = all.iter().map(|one| one.details().subscription_list.len());
            (lists.collect::<Vec<_>>(), cut)
        };
        let connection = described(0).details().answer_bytes();
        let subscription = described(1).details().subscription_list[0].answer_bytes();
        let whole = 2 * connection + 6 * subscription;
        assert_eq!(lengths(6, whole), (vec![3, 3], false));
        assert_eq!(lengths(6, whole - 1), (vec![3, 2], true));
        assert_eq!(lengths(4, whole), (vec![3, 1], true));
        assert_eq!(lengths(6, 2 * connection), (vec![0, 0], true));
        assert_eq!(lengths(6, 2 * connection - 1).0.len(), 1);
    }

    #[test]
    fn only_ids_are_ascending_and_ties_are_by_id_in_the_direction_of_the_sort() {
        let ids = |query: &str| -> Vec<u64> {
            let selected = select(rows(5), &options(query), Instant::now());
            selected.iter().map(Listed::id).collect()
        };
        assert_eq!(ids(""), [1, 2, 3, 4, 5]);
        assert_eq!(ids("sort=msgs_to&limit=2"), [5, 4]);
        assert_eq!(ids("sort=subs"), [5, 2, 4, 1, 3]);
        assert_eq!(ids("sort=pending"), [5, 4, 3, 2, 1]);
        assert_eq!(ids("sort=uptime"), [1, 2, 3, 4, 5]);
        assert_eq!(ids("sort=cid&offset=3"), [4, 5]);
        assert_eq!(ids("offset=9"), [0u64; 0]);
        assert_eq!(ids("offset=9223372036854775807"), [0u64; 0]);
    }
}
