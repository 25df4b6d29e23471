//! Delivery to shadow subscriptions: to clients of another account, on the subject that its import gives a message.

use super::Broker;
use super::outbox::Framing;
use super::passage::Origin;
use super::subscription::{ImportSink, Subscription};
use super::turn::Turn;
use crate::protocol::message::MessageRun;
use crate::protocol::nats::encode;

impl Broker {
    /// Delivers to a client of an account that imports the messages: by the rules of its own subscription, its maximum
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
        if shadow.is_removed() {
            return false;
        }
        // What shows another subject than it is routed by keeps it.
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
