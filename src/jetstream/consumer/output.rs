//! All that a consumer has to say besides the messages that it delivers.

/// One thing to be done, in the order in which it was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// An empty message with these headers.
    Status {
        to: Box<[u8]>,
        reply: Box<[u8]>,
        headers: Vec<u8>,
    },
    Advisory(Advisory),
    /// The consumer does not need this message any more.
    Done {
        stream_sequence: u64,
    },
    /// Nor these, of those that it was delivered.
    DoneThrough {
        after: u64,
        through: u64,
    },
    /// A pause is over.
    Resumed,
    /// Nobody used the consumer for so long that it ends.
    Inactive,
}

/// A report for whoever subscribes to reports of this kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Advisory {
    Nak(Delivery),
    Terminated(Delivery, Box<[u8]>),
    MaxDeliveries {
        stream_sequence: u64,
        deliveries: u64,
    },
    /// The time from the last delivery to the acknowledgement.
    Acked(Delivery, i64),
    Pinned {
        group: Box<[u8]>,
        id: Box<str>,
    },
    Unpinned {
        group: Box<[u8]>,
        reason: UnpinReason,
    },
}

/// The delivery that an acknowledgement is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub consumer_sequence: u64,
    pub stream_sequence: u64,
    pub deliveries: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnpinReason {
    Admin,
    Timeout,
}

impl UnpinReason {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Timeout => "timeout",
        }
    }
}
