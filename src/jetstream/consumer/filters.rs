//! The filters of a consumer, and the search for the next message that matches one of them.

use crate::protocol::subject::matches;
use crate::storage::block::{Message, NotLoaded};
use crate::storage::stream::{Search, Stream};

/// Messages that one lookup looks at.
const MESSAGES_LOOKED_AT_MAX: usize = 512;

const ALL: &[u8] = b">";

/// The result of a lookup.
#[derive(Debug)]
pub(crate) enum Lookup<'stream> {
    Found(Message<'stream>),
    /// There is nothing before this sequence; with the flag, nothing at all that may be seen.
    Passed(u64, bool),
}

/// The filters of a consumer. None of them overlap.
#[derive(Clone, Debug)]
pub(crate) struct Filters {
    /// Empty: everything matches.
    filters: Vec<Box<[u8]>>,
    /// For each of several filters: no match lies between the consumer's position and here.
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    sequence: u64,
    /// The message there matches.
    is_found: bool,
}

impl Filters {
    pub(crate) fn new(filters: Vec<Box<[u8]>>) -> Self {
        let filters = if filters.iter().any(|filter| **filter == *ALL) { vec![] } else { filters };
        Self { filters, places: Vec::new() }
    }

    /// True if every message matches.
    pub(crate) fn is_all(&self) -> bool {
        self.filters.is_empty()
    }

    pub(crate) fn matches(&self, subject: &[u8]) -> bool {
        self.is_all() || self.filters.iter().any(|filter| matches(filter, subject))
    }

    /// The filters; `>` where everything matches.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let all = self.filters.is_empty().then_some(ALL);
        all.into_iter().chain(self.filters.iter().map(|filter| &**filter))
    }

    /// The first message from `from` on that matches, up to `through`.
    ///
    /// # Errors
    /// The next block is not in memory.
    pub(crate) fn find<'stream>(
        &mut self,
        stream: &'stream Stream,
        from: u64,
        through: u64,
    ) -> Result<Lookup<'stream>, NotLoaded> {
        if from > through {
            return Ok(Lookup::Passed(from, true));
        }
        let found = match &*self.filters {
            [] => stream.next(ALL, from, MESSAGES_LOOKED_AT_MAX)?,
            [filter] => stream.next(filter, from, MESSAGES_LOOKED_AT_MAX)?,
            _ => self.find_of_many(stream, from)?,
        };
        Ok(match found {
            Search::Found(message) if message.sequence <= through => Lookup::Found(message),
            Search::GoOn(sequence) if sequence <= through => Lookup::Passed(sequence, false),
            _ => Lookup::Passed(through + 1, true),
        })
    }

    /// The nearest message among those of several filters, each of which is searched for only once.
    fn find_of_many<'stream>(
        &mut self,
        stream: &'stream Stream,
        from: u64,
    ) -> Result<Search<'stream>, NotLoaded> {
        let last = stream.totals().last_sequence;
        // A position further back begins anew.
        let is_behind = self.places.first().is_none_or(|_| self.lowest_place() > from);
        if is_behind {
            let place = Place { sequence: from, is_found: false };
            self.places = vec![place; self.filters.len()];
        }
        for place in &mut self.places {
            if place.sequence < from {
                *place = Place { sequence: from, is_found: false };
            }
        }
        for _ in 0..=self.filters.len() {
            let places = self.places.iter().enumerate();
            let (index, place) = places
                .min_by_key(|(_, place)| place.sequence)
                .map(|(index, place)| (index, *place))
                .expect("there are several filters");
            if place.is_found {
                if let Some(message) = stream.get(place.sequence)? {
                    return Ok(Search::Found(message));
                }
                self.places[index] = Place { sequence: place.sequence + 1, is_found: false };
                continue;
            }
            if place.sequence > last {
                return Ok(Search::Nothing);
            }
            let search =
                stream.next(&self.filters[index], place.sequence, MESSAGES_LOOKED_AT_MAX)?;
            self.places[index] = match search {
                Search::Found(message) => Place { sequence: message.sequence, is_found: true },
                Search::GoOn(sequence) => Place { sequence, is_found: false },
                Search::Nothing => Place { sequence: last + 1, is_found: false },
            };
        }
        Ok(Search::GoOn(self.lowest_place()))
    }

    /// The lowest place.
    fn lowest_place(&self) -> u64 {
        self.places.iter().map(|place| place.sequence).min().unwrap_or(0)
    }

    /// Forgets what was searched: the consumer's position may go back.
    pub(crate) fn forget(&mut self) {
        self.places.clear();
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::storage::stream::{NewMessage, StreamLimits};

    fn append(stream: &mut Stream, subject: &str) {
        let new =
            NewMessage { time_ns: 1, subject: subject.as_bytes(), headers: b"", payload: b"x" };
        stream.take(new);
    }

    fn filters(list: &[&str]) -> Filters {
        Filters::new(list.iter().map(|filter| filter.as_bytes().into()).collect())
    }

    #[test]
    fn every_match_is_found_once_and_in_order() {
        let lists: [&[&str]; 5] =
            [&[], &["a.1"], &["a.*"], &["a.1", "b.>", "c.2"], &["a.*", "c.1", "c.3", "d"]];
        for seed in 0..20 {
            let mut random = Rng::with_seed(seed);
            let mut stream = Stream::new(StreamLimits::default(), 1, 7);
            for list in lists {
                let (mut found, mut from) = (Vec::new(), 1);
                let mut filters = filters(list);
                let mut alive = Vec::new();
                for _ in 0..200 {
                    let subject =
                        format!("{}.{}", random.choice(['a', 'b', 'c']).unwrap(), random.u8(1..4));
                    append(&mut stream, &subject);
                    let last = stream.totals().last_sequence;
                    if random.u8(0..4) == 0 {
                        // A message ahead goes before it is found.
                        let sequence = random.u64(from..=last);
                        stream.delete(sequence).unwrap();
                    }
                    let through = last.saturating_sub(random.u64(0..3));
                    loop {
                        match filters.find(&stream, from, through).unwrap() {
                            Lookup::Found(message) => {
                                assert!(message.sequence >= from && message.sequence <= through);
                                assert!(filters.matches(message.subject));
                                found.push(message.sequence);
                                from = message.sequence + 1;
                            }
                            Lookup::Passed(sequence, is_end) => {
                                assert!(sequence >= from);
                                from = sequence;
                                if is_end {
                                    break;
                                }
                            }
                        }
                    }
                    for sequence in 1..from {
                        let message = stream.get(sequence).unwrap();
                        if message.is_some_and(|message| filters.matches(message.subject)) {
                            alive.push(sequence);
                        }
                    }
                }
                alive.sort_unstable();
                alive.dedup();
                assert!(found.is_sorted(), "seed {seed}");
                let missed = alive.iter().find(|sequence| found.binary_search(sequence).is_err());
                assert_eq!(missed, None, "seed {seed}, {list:?}");
            }
        }
    }
}
