//! The client that a priority group of a consumer is pinned to: it alone is served, until it was
//! silent for too long or an administrator takes the pin away.

use std::collections::VecDeque;

use super::output::{Advisory, Output, UnpinReason};

/// A pin.
#[derive(Clone, Debug)]
pub(crate) struct Pin {
    pub group: Box<[u8]>,
    pub id: Box<str>,
    pub since_ns: i64,
    ends_ns: i64,
}

impl Pin {
    /// Pins a client, which is reported.
    pub(crate) fn new(
        group: &[u8],
        id: Box<str>,
        now_ns: i64,
        pin_ns: i64,
        out: &mut VecDeque<Output>,
    ) -> Self {
        out.push_back(Output::Advisory(Advisory::Pinned { group: group.into(), id: id.clone() }));
        Self { group: group.into(), id, since_ns: now_ns, ends_ns: now_ns.saturating_add(pin_ns) }
    }

    /// The time at which it ends if its client stays silent.
    pub(crate) fn ends_ns(&self) -> i64 {
        self.ends_ns
    }

    /// Its client showed itself.
    pub(crate) fn renew(&mut self, now_ns: i64, pin_ns: i64) {
        self.ends_ns = now_ns.saturating_add(pin_ns);
    }

    /// The report of its end.
    pub(crate) fn ended(self, reason: UnpinReason) -> Output {
        Output::Advisory(Advisory::Unpinned { group: self.group, reason })
    }
}
