//! The places of one subject's subscribers, by which a shard is chosen for a client.

use super::Broker;
use super::subject_table::MatchPlace;
use super::subscription::Sink;
use crate::base::ids::{AccountId, LinkId};
use crate::base::limits::PLACING_LOOKS_MAX;

/// The places that have interest in a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantedBy {
    Nobody,
    /// Clients or services of this shard alone.
    Here,
    /// Somebody behind one link alone.
    Behind(LinkId),
    /// More than one place, or more subscriptions than are looked at.
    Several,
}

impl Broker {
    /// Tells where an account's subscribers of a literal subject are. Looks at no more than
    /// `PLACING_LOOKS_MAX` of them.
    pub fn wanted_by(&self, account: AccountId, subject: &[u8]) -> WantedBy {
        let Some(state) = self.accounts.get(account.index()) else { return WantedBy::Nobody };
        let mut wanted = WantedBy::Nobody;
        let mut looks_left = PLACING_LOOKS_MAX;
        let is_done = state.table.match_some(
            subject,
            &mut MatchPlace::default(),
            &mut looks_left,
            |subscription| {
                let place = match &subscription.sink {
                    Sink::Link(link) => WantedBy::Behind(*link),
                    _ => WantedBy::Here,
                };
                if !subscription.is_removed() {
                    wanted = match wanted {
                        WantedBy::Nobody => place,
                        same if same == place => same,
                        _ => WantedBy::Several,
                    };
                }
            },
        );
        if is_done { wanted } else { WantedBy::Several }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::base::ids::ConnectionId;
    use crate::base::limits::{CHUNK_BYTES, PENDING_BYTES_MAX};
    use crate::base::pool::BufferPool;
    use crate::broker::link::InterestChange;
    use crate::broker::link::tests::Ear;
    use crate::broker::outbox::Outbox;

    #[test]
    fn one_place_alone_is_told_from_nobody_and_from_several() {
        let mut broker = Broker::reproducible(1);
        let links = [0, 1].map(|_| broker.link_open(Box::new(Ear::default())));
        let pool = Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20));
        let outbox = Rc::new(Outbox::new(ConnectionId(1), pool, PENDING_BYTES_MAX));
        let client = broker.attach(AccountId::GLOBAL, outbox);
        let wanted = |broker: &Broker, subject: &[u8]| broker.wanted_by(AccountId::GLOBAL, subject);
        assert_eq!(wanted(&broker, b"a"), WantedBy::Nobody);
        broker.subscribe(client, b"here.*", b"", b"1", None);
        broker.subscribe(client, b"here.>", b"", b"2", None);
        assert_eq!(wanted(&broker, b"here.x"), WantedBy::Here);
        let far = |filter: &[u8]| InterestChange::new(AccountId::GLOBAL, filter, b"", 1);
        broker.link_interest(links[1], &far(b"far"));
        assert_eq!(wanted(&broker, b"far"), WantedBy::Behind(links[1]));
        broker.link_interest(links[1], &far(b"here.x"));
        assert_eq!(wanted(&broker, b"here.x"), WantedBy::Several);
        assert_eq!(wanted(&broker, b"here.y"), WantedBy::Here);
        broker.link_interest(links[0], &far(b"*"));
        assert_eq!(wanted(&broker, b"far"), WantedBy::Several);
        assert_eq!(broker.wanted_by(AccountId(9), b"far"), WantedBy::Nobody);
    }
}
