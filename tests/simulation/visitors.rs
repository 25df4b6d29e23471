//! Services that subscribe and let go again at random. Nobody publishes what they want: their
//! interest alone travels.

use std::cell::Cell;
use std::rc::Rc;

use midge::testing::base::ids::AccountId;
use midge::testing::broker::Broker;
use midge::testing::broker::mailbox::Mailbox;
use midge::testing::broker::service::{Reach, ServiceInterest, ServiceSubscription};

use crate::world::Service;

const FILTERS: [&str; 3] = ["visit.a", "visit.*", "visit.>"];
const QUEUES: [&str; 3] = ["", "", "crew"];

/// So many that numbers of subscriptions of one filter pass some powers of two, up and down.
const SUBSCRIPTIONS_PER_STEP: usize = 20;

/// The wish of the run for one visitor.
#[derive(Default)]
pub struct Asked {
    /// Number of times that it is to begin or to end a subscription.
    pub steps: Cell<usize>,
    /// True if it is to end all of them.
    pub leaves: Cell<bool>,
}

pub struct Visitor {
    random: fastrand::Rng,
    mailbox: Rc<Mailbox>,
    subscriptions: Vec<ServiceSubscription>,
    asked: Rc<Asked>,
}

impl Visitor {
    pub fn new(seed: u64, asked: Rc<Asked>) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            mailbox: Rc::default(),
            subscriptions: Vec::new(),
            asked,
        }
    }
}

impl Service for Visitor {
    fn is_ready(&self) -> bool {
        self.asked.steps.get() > 0 || (self.asked.leaves.get() && !self.subscriptions.is_empty())
    }

    fn step(&mut self, broker: &mut Broker) {
        if self.asked.leaves.get() {
            self.asked.steps.set(0);
            self.subscriptions.clear();
            return;
        }
        self.asked.steps.set(self.asked.steps.get() - 1);
        for _ in 0..self.random.usize(1..=SUBSCRIPTIONS_PER_STEP) {
            if !self.subscriptions.is_empty() && self.random.u32(..5) < 2 {
                let place = self.random.usize(..self.subscriptions.len());
                drop(self.subscriptions.swap_remove(place));
                continue;
            }
            let interest = ServiceInterest {
                queue: QUEUES[self.random.usize(..QUEUES.len())].as_bytes(),
                ..ServiceInterest::all(
                    AccountId::GLOBAL,
                    FILTERS[self.random.usize(..FILTERS.len())].as_bytes(),
                    if self.random.u32(..4) > 0 { Reach::Server } else { Reach::OwnShard },
                )
            };
            self.subscriptions.push(broker.subscribe_service(interest, &self.mailbox));
        }
    }
}
