//! The promises that clients were given, and the comparison of a server's streams with them.

use std::collections::{BTreeMap, BTreeSet};

/// One message, by its publisher and that publisher's sequence.
pub type MessageName = (u16, u64);

/// The promises about one stream.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Messages that were acknowledged, with the stream sequence that the acknowledgement named.
    stored: BTreeMap<MessageName, u64>,
    /// Messages that each publisher sent.
    sent: BTreeMap<u16, u64>,
    /// Stream sequences whose acknowledgement by a consumer was confirmed.
    confirmed: BTreeSet<u64>,
    /// Stream sequences that a consumer acknowledged, whether it heard of it or not.
    acknowledged: BTreeSet<u64>,
}

/// Wrongs of one kind that are listed at most.
const SHOWN_MAX: usize = 3;

impl Ledger {
    pub fn note_sent(&mut self, publisher: u16, count: u64) {
        self.sent.insert(publisher, count);
    }

    pub fn note_stored(&mut self, name: MessageName, sequence: u64) {
        self.stored.insert(name, sequence);
    }

    pub fn note_confirmed(&mut self, sequence: u64) {
        self.confirmed.insert(sequence);
    }

    pub fn note_acknowledged(&mut self, sequence: u64) {
        self.acknowledged.insert(sequence);
    }

    pub fn stored_count(&self) -> usize {
        self.stored.len()
    }

    pub fn confirmed_count(&self) -> usize {
        self.confirmed.len()
    }

    pub fn confirmed(&self) -> &BTreeSet<u64> {
        &self.confirmed
    }

    /// Returns what is wrong with a stream that holds these messages, given in the order of their
    /// sequences.
    pub fn wrongs(&self, held: &[(u64, MessageName)]) -> Vec<String> {
        let mut places: BTreeMap<MessageName, u64> = BTreeMap::new();
        let (mut doubled, mut foreign, mut moved, mut disordered) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut last = 0;
        for &(sequence, name) in held {
            if sequence <= last {
                disordered.push(format!("{sequence} behind {last}"));
            }
            last = sequence;
            if self.sent.get(&name.0).is_none_or(|&sent| name.1 >= sent) {
                foreign.push(format!("{name:?} at {sequence}"));
            } else if let Some(first) = places.insert(name, sequence) {
                doubled.push(format!("{name:?} at {first} and {sequence}"));
            }
        }
        let mut lost = Vec::new();
        for (name, &promised) in &self.stored {
            match places.get(name) {
                None => lost.push(format!("{name:?}, acknowledged at {promised}")),
                Some(&place) if place != promised => {
                    moved.push(format!("{name:?} at {place}, acknowledged at {promised}"));
                }
                Some(_) => {}
            }
        }
        let kinds = [
            ("acknowledged messages are lost", lost),
            ("messages are stored twice", doubled),
            ("messages have another sequence than their acknowledgement", moved),
            ("messages were never sent", foreign),
            ("messages are out of order", disordered),
        ];
        kinds.into_iter().filter_map(|(what, list)| sentence(what, &list)).collect()
    }

    /// Returns what is wrong when everything that the stream holds was consumed to the end.
    pub fn unconsumed(&self, held: &[(u64, MessageName)]) -> Option<String> {
        let missing = held.iter().filter(|(sequence, _)| !self.acknowledged.contains(sequence));
        let missing: Vec<String> = missing.map(|(sequence, _)| sequence.to_string()).collect();
        sentence("messages were never consumed", &missing)
    }
}

/// Returns `3 messages ...: a; b; c`, or nothing without any.
pub fn sentence(what: &str, list: &[String]) -> Option<String> {
    let shown = &list[..list.len().min(SHOWN_MAX)];
    (!list.is_empty()).then(|| format!("{} {what}: {}", list.len(), shown.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_broken_promise_is_named() {
        let mut ledger = Ledger::default();
        ledger.note_sent(1, 10);
        ledger.note_stored((1, 0), 1);
        ledger.note_stored((1, 1), 2);
        let good = [(1, (1, 0)), (2, (1, 1)), (3, (1, 2))];
        assert!(ledger.wrongs(&good).is_empty(), "what was not acknowledged may be there");
        let wrong = |held: &[(u64, MessageName)]| ledger.wrongs(held).join(". ");
        assert!(wrong(&good[..1]).starts_with("1 acknowledged messages are lost: (1, 1)"));
        assert!(wrong(&[(1, (1, 0)), (2, (1, 1)), (3, (1, 1))]).contains("stored twice"));
        assert!(wrong(&[(1, (1, 1)), (2, (1, 0))]).starts_with("2 messages have another sequence"));
        assert!(wrong(&[(1, (1, 0)), (2, (1, 1)), (3, (2, 0))]).contains("never sent"));
        assert!(wrong(&[(1, (1, 0)), (2, (1, 1)), (3, (1, 10))]).contains("never sent"));
        assert!(wrong(&[(2, (1, 1)), (1, (1, 0))]).contains("out of order"));
        ledger.note_confirmed(1);
        ledger.note_acknowledged(1);
        // The server was killed before it could confirm.
        ledger.note_acknowledged(2);
        assert_eq!(ledger.unconsumed(&good), Some("1 messages were never consumed: 3".to_string()));
        assert_eq!(ledger.unconsumed(&good[..2]), None);
    }
}
