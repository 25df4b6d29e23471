//! The one way in: messages from a client, a link or the server itself to everybody who wants them.
//!
//! The messages of a run are routed in one go: nobody else is served meanwhile, so decisions about
//! the first message hold for all. Each receiver gets what it would have got one by one, in the
//! same order.

use std::rc::Rc;

use super::Broker;
use super::fan_out::{FanOut, Stage};
use super::match_list::MatchList;
use super::passage::{Origin, Passage, Progress, Routed, delivery_work};
use super::route_cache::RouteCache;
use super::turn::Turn;
use crate::base::ids::AccountId;
use crate::protocol::message::MessageRun;

impl Broker {
    /// Messages of a run on the subject of before that may be routed in one go: 1 = each alone.
    #[inline]
    pub fn run_max(&self, account: AccountId, cache: &RouteCache, turn: &Turn) -> usize {
        let account = self.accounts.get(account.index());
        match account.and_then(|account| cache.current(account)) {
            Some(list) if !list.is_in_parts() && list.takes_runs() && !self.tight.get() => {
                turn.run_max(list)
            }
            _ => 1,
        }
    }

    /// Routes messages: to plain subscriptions here, one member of each queue group and once over
    /// each link that wants them; what came over a link, to whom it is for here. More than one at a
    /// time are no more than `run_max` allows, which was asked just before. A requester is told if
    /// nobody listens and its origin says so.
    #[inline]
    pub fn publish(
        &mut self,
        origin: &Origin<'_>,
        run: &MessageRun<'_>,
        cache: &mut RouteCache,
        turn: &mut Turn,
    ) -> Routed {
        let id = origin.source.account;
        let Some(account) = self.accounts.get_mut(id.index()) else { return Routed::Nobody };
        if let Err(builder) = cache.renew(id, account, origin, run, turn) {
            let stage = Stage::Matching(Some(builder));
            return Self::put_off(origin, run, stage, self.cuts.token(), turn);
        }
        let Some(list) = &cache.list else { return Routed::Nobody };
        turn.spend(run.len());
        let is_local = origin.from.is_none();
        let in_parts = match is_local {
            true => list.is_in_parts(),
            false => {
                let target = &origin.target;
                !target.plain
                    || list.has_answers
                    || !target.queues.is_empty()
                    || target.trace.is_some()
            }
        };
        if in_parts || !takes_whole(list, run, turn) {
            return self.route_in_parts(origin, run, list, turn);
        }
        let mut delivered = origin.target.plain
            && !list.plain.is_empty()
            && self.deliver(run, cache, list, origin, turn);
        if is_local && !list.links.is_empty() {
            let source = origin.asking(run.first(), delivered);
            self.forward_plain(&source, &origin.target, run, list);
            delivered = true;
        }
        self.remove_expired(turn);
        if delivered || run.first().reply.is_empty() {
            return Routed::new(delivered);
        }
        self.nobody_got(&Passage::new(run.first(), origin, turn.publisher), turn)
    }

    /// Leaves a message to the next turn.
    #[cold]
    fn put_off(
        origin: &Origin<'_>,
        run: &MessageRun<'_>,
        stage: Stage,
        began: Rc<()>,
        turn: &mut Turn,
    ) -> Routed {
        debug_assert!(run.len() == 1);
        let passage = Passage::new(run.first(), origin, turn.publisher);
        turn.unfinished = Some(FanOut::new(&passage, stage, began));
        Routed::Unfinished
    }

    /// Routes a message to a list as far as this turn may, and the rest in the next.
    pub(super) fn route_in_parts(
        &mut self,
        origin: &Origin<'_>,
        run: &MessageRun<'_>,
        list: &Rc<MatchList>,
        turn: &mut Turn,
    ) -> Routed {
        debug_assert!(run.len() == 1);
        let passage = Passage::new(run.first(), origin, turn.publisher);
        let mut progress = Progress::default();
        if self.walk(&passage, list, &mut progress, turn) {
            return self.end_of_passage(&passage, &progress, turn);
        }
        let stage = Stage::Delivering(list.clone(), Box::new(progress));
        let mut left = FanOut::new(&passage, stage, self.cuts.token());
        left.crossing = turn.crossing.take();
        turn.unfinished = Some(left);
        Routed::Unfinished
    }
}

/// True if messages to a list are routed in one piece.
#[inline]
fn takes_whole(list: &MatchList, run: &MessageRun<'_>, turn: &Turn) -> bool {
    run.len() > 1 || list.size() * delivery_work(run) <= turn.whole_max()
}

#[cfg(test)]
#[path = "publish/tests.rs"]
mod tests;
