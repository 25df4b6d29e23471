//! One shard's part in the handover of a client (`handover`): which messages of which sources it
//! withholds from the client.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::link::Mark;
use crate::base::counters::HandoverTicket;
use crate::base::gate::Gate;
use crate::base::ids::{ClientKey, ConnectionId, LinkId};

/// The part of a shard in a handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The client leaves it.
    Leaving,
    /// The client comes to it.
    Coming,
}

/// The point that one source's messages have reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Before,
    Cut,
    Ended,
}

/// A handover on one of the two shards between which the client moves.
pub struct Handover {
    pub(super) connection: ConnectionId,
    pub(super) client: ClientKey,
    pub(super) side: Side,
    /// This shard, then those behind its links.
    pub(super) sources: Vec<Cell<Stage>>,
    /// Reaches 1 when all sources have ended.
    pub ended: Rc<Gate>,
    /// The client on the shard that it goes to.
    pub(super) successor: Cell<Option<(LinkId, ClientKey)>>,
    /// Held by the shard that the client leaves, until all sources have ended.
    pub(super) ticket: Cell<Option<HandoverTicket>>,
}

impl Handover {
    /// True if a client must not get a message of that source on this shard.
    pub(super) fn withholds(&self, from: Option<LinkId>, mark: Mark) -> bool {
        let is_late = mark == Mark::Late;
        match (self.side, self.sources[place(from)].get()) {
            (Side::Leaving, Stage::Before) | (Side::Coming, Stage::Ended) => false,
            (Side::Leaving, Stage::Cut) => !is_late,
            (Side::Coming, Stage::Cut) => is_late,
            (Side::Leaving, Stage::Ended) | (Side::Coming, Stage::Before) => true,
        }
    }

    /// True if all sources have ended.
    pub fn has_ended(&self) -> bool {
        self.ended.value() > 0
    }

    /// A source has reached that point; true if it was the last to end.
    pub(super) fn reached(&self, from: Option<LinkId>, stage: Stage) -> bool {
        let source = &self.sources[place(from)];
        assert!(source.get() < stage, "a source cuts once, then ends once");
        source.set(stage);
        self.sources.iter().all(|source| source.get() == Stage::Ended)
    }
}

fn place(from: Option<LinkId>) -> usize {
    from.map_or(0, |link| link.index() + 1)
}

/// The place in a subscription for its handover.
pub(super) type HandoverPlace = RefCell<Option<Rc<Handover>>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn handover(side: Side) -> Handover {
        Handover {
            connection: ConnectionId(7),
            client: ClientKey(0),
            side,
            sources: vec![Cell::new(Stage::Before); 3],
            ended: Rc::default(),
            successor: Cell::default(),
            ticket: Cell::default(),
        }
    }

    #[test]
    fn each_message_is_withheld_on_exactly_one_of_the_two_shards() {
        let (leaving, coming) = (handover(Side::Leaving), handover(Side::Coming));
        for from in [None, Some(LinkId(0)), Some(LinkId(1))] {
            // No message is late before the cut, or after the end.
            for (stage, marks) in [
                (None, &[Mark::None][..]),
                (Some(Stage::Cut), &[Mark::None, Mark::Late]),
                (Some(Stage::Ended), &[Mark::None]),
            ] {
                if let Some(stage) = stage {
                    let ends = from == Some(LinkId(1)) && stage == Stage::Ended;
                    assert_eq!(leaving.reached(from, stage), ends);
                    assert_eq!(coming.reached(from, stage), ends);
                }
                for mark in marks {
                    let by_the_first = !leaving.withholds(from, *mark);
                    assert_ne!(by_the_first, !coming.withholds(from, *mark), "{stage:?} {mark:?}");
                    assert_eq!(by_the_first, stage.is_none() || *mark == Mark::Late);
                }
            }
        }
    }
}
