//! Delivery to shadow subscriptions: to clients of an importing account, under the import's local
//! subject.

use super::Broker;
use super::outbox::Framing;
use super::passage::Origin;
use super::responses;
use super::subscription::{ImportSink, Subscription};
use super::turn::Turn;
use crate::protocol::message::MessageRun;
use crate::protocol::nats::encode;

impl ImportSink {
    /// Messages from another account are not passed on, and only its requester may hear an answer.
    pub(super) fn passes(&self, subject: &[u8], passed: &[u32]) -> bool {
        passed.is_empty() && !subject.starts_with(responses::PREFIX)
    }
}

impl Broker {
    /// Delivers to the client behind a shadow, by the rules of its own subscription, the maximum
    /// included.
    #[inline(never)]
    pub(super) fn deliver_import(
        &mut self,
        shadow: &Subscription,
        sink: &ImportSink,
        run: &MessageRun<'_>,
        origin: &Origin<'_>,
        turn: &mut Turn,
        framing: Framing<'_>,
    ) -> bool {
        if shadow.is_removed() || !sink.passes(run.subject(), origin.target.passed) {
            return false;
        }
        // A message that is routed by another subject than it shows keeps the one that it shows.
        let is_same = sink.import.subject.is_same() || !origin.target.route.is_empty();
        let mut local = std::mem::take(&mut self.mapped);
        if !is_same {
            sink.import.subject.to_local(run.subject(), &mut local);
        }
        let run = if is_same { *run } else { run.on_subject(&local) };
        let mut own_head = Vec::new();
        let framing = match framing {
            Framing::Head(head) => Framing::Head(head),
            Framing::Own | Framing::Shared(_) if run.len() == 1 => Framing::Own,
            Framing::Own | Framing::Shared(_) => {
                encode::message_head(&mut own_head, run.subject(), sink.owner.sid());
                Framing::Head(&own_head)
            }
        };
        let count = run.len() as u64;
        let delivered = self.deliver_to(&sink.owner, &run, origin, turn, framing);
        if delivered {
            shadow.delivered.set(shadow.delivered.get() + count);
        }
        self.mapped = local;
        delivered
    }
}
