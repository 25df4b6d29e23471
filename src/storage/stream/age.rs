//! Which messages of a stream are too old, by the limit of age and by what they say themselves.
//!
//! Time is given by whoever asks, and what is found is removed by a call of its own: a replay makes that call alone.

use super::Stream;

impl Stream {
    /// The sequence below which messages are older than the limit at `now_ns`, but for those that no age ends, and how
    /// many are; after a look at `messages_max`.
    pub fn aged_before(&self, now_ns: i64, messages_max: usize) -> (u64, u64) {
        let (mut before, mut count) = (self.aged_from, 0);
        if self.limits.age_ns_max == 0 {
            return (before, count);
        }
        let oldest_ns = now_ns.saturating_sub(self.limits.age_ns_max);
        for message in self.messages_from(before).take(messages_max) {
            let stays = self.expiries.is_never(message.sequence);
            if !stays && message.time_ns > oldest_ns {
                break;
            }
            count += u64::from(!stays);
            before = message.sequence + 1;
        }
        (before, count)
    }

    /// The first message from a sequence on that an age ends.
    pub fn next_that_ages(&self, from: u64) -> Option<u64> {
        let mut sequences =
            self.messages_from(from.max(self.aged_from)).map(|found| found.sequence);
        sequences.find(|sequence| !self.expiries.is_never(*sequence))
    }

    /// Removes all messages below a sequence, but for those that no age ends; returns how many there were.
    pub fn drop_aged(&mut self, before: u64) -> u64 {
        let mut count = 0;
        while let Some(sequence) = self.next_that_ages(0).filter(|sequence| *sequence < before) {
            // What is before it stays for good.
            self.aged_from = sequence + 1;
            self.remove(sequence);
            count += 1;
        }
        self.aged_from = self.aged_from.max(before);
        count
    }

    /// The message whose own time to live ended first.
    pub fn ended(&self, now_ns: i64) -> Option<u64> {
        let of_its_own = self.expiries.first().filter(|(end_ns, _)| *end_ns <= now_ns);
        of_its_own.map(|(_, sequence)| sequence)
    }

    /// True if a marker has to stand for this message once it ends: it is the last of its subject, and no marker.
    pub fn needs_marker(&self, sequence: u64) -> bool {
        self.limits.has_markers()
            && self.get(sequence).is_some_and(|message| {
                let totals = self.subjects.get(message.subject);
                totals.is_some_and(|totals| totals.count == 1)
                    && !self.limits.marks(message.headers).is_marker
            })
    }

    /// When [`Stream::aged_before`] or [`Stream::ended`] will find the next message; none if never.
    pub fn next_end_ns(&self) -> Option<i64> {
        let aged = (self.limits.age_ns_max > 0)
            .then(|| self.get(self.next_that_ages(0)?))
            .flatten()
            .map(|message| message.time_ns.saturating_add(self.limits.age_ns_max));
        let ended = self.expiries.first().map(|(end_ns, _)| end_ns);
        aged.into_iter().chain(ended).min()
    }

    /// Forgets ids that are out of the window; true if there may be more of them than it looked at.
    pub fn forget_ids(&mut self, now_ns: i64, ids_max: usize) -> bool {
        self.duplicates.forget(now_ns, ids_max)
    }

    /// Reads all messages again: which of them end on their own depends on the limits.
    pub(super) fn note_ends(&mut self) {
        self.expiries.clear();
        self.aged_from = 0;
        let limits = self.limits;
        for message in self.blocks.iter().flat_map(super::Block::messages) {
            if let Some(time_to_live) = limits.marks(message.headers).time_to_live {
                self.expiries.insert(message.sequence, message.time_ns, time_to_live);
            }
        }
    }

    pub(super) fn check_age(&self) {
        let mut count = 0;
        for message in self.messages_from(0) {
            let has_end = self.limits.marks(message.headers).time_to_live.is_some();
            count += usize::from(has_end);
            let is_below = message.sequence < self.aged_from && self.limits.age_ns_max > 0;
            assert!(!is_below || self.expiries.is_never(message.sequence), "an old message stays");
        }
        assert!(count == self.expiries.len(), "ends are miscounted");
    }
}
