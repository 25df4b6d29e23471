//! What accounts import, by the ids that shards know accounts by.

use std::sync::Arc;

use hashbrown::HashMap;

use super::imports::{Imports, StreamImport};
use crate::base::ids::AccountId;
use crate::protocol::subject;

/// What all accounts of one configuration import: immutable, shared by all shards. Accounts that import nothing are
/// not in it.
#[derive(Debug, Default)]
pub struct AccountImports {
    streams: HashMap<AccountId, StreamImports>,
}

/// The streams that one account imports.
#[derive(Debug, Default)]
pub struct StreamImports {
    /// Those whose local subjects begin with a wildcard stand first.
    all: Vec<(AccountId, Arc<StreamImport>)>,
    /// Places in `all` of those whose local subjects begin with this token.
    by_first_token: HashMap<Box<[u8]>, Vec<usize>>,
    /// How many begin with a wildcard.
    wild_count: usize,
}

/// A stream of which a subscription wants something.
pub struct WantedStream<'a> {
    pub exporter: AccountId,
    pub import: &'a Arc<StreamImport>,
    /// What it wants, in the exporting account.
    pub filter: Vec<u8>,
}

impl AccountImports {
    /// `id` gives an account's number.
    pub(super) fn new(imports: &Imports, id: impl Fn(&str) -> AccountId) -> Self {
        let streams = imports.streams.iter().map(|(importer, streams)| {
            let streams = streams.iter().map(|stream| (id(&stream.exporter), stream.clone()));
            (id(importer), StreamImports::new(streams.collect()))
        });
        Self { streams: streams.collect() }
    }

    /// None = it imports none.
    #[inline]
    pub fn streams_of(&self, account: AccountId) -> Option<&StreamImports> {
        if self.streams.is_empty() { None } else { self.streams.get(&account) }
    }
}

fn first_token(filter: &[u8]) -> Option<&[u8]> {
    subject::tokens(filter).next().filter(|token| *token != b"*" && *token != b">")
}

impl StreamImports {
    fn new(mut all: Vec<(AccountId, Arc<StreamImport>)>) -> Self {
        let first = |entry: &(AccountId, Arc<StreamImport>)| {
            first_token(entry.1.subject.local()).map(<[u8]>::to_vec)
        };
        all.sort_by_key(|entry| first(entry).is_some());
        let wild_count = all.iter().take_while(|entry| first(entry).is_none()).count();
        let mut by_first_token: HashMap<Box<[u8]>, Vec<usize>> = HashMap::new();
        for (place, entry) in all.iter().enumerate() {
            if let Some(token) = first(entry) {
                by_first_token.entry(token.into()).or_default().push(place);
            }
        }
        Self { all, by_first_token, wild_count }
    }

    /// How many there are: one at least.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The next stream of which a subscription to `filter` wants something, and where to go on behind it. Begins at 0.
    pub fn next_wanted(&self, filter: &[u8], from: usize) -> Option<(WantedStream<'_>, usize)> {
        let own = first_token(filter)
            .map(|token| self.by_first_token.get(token).map_or(&[][..], Vec::as_slice));
        let count = own.map_or(self.all.len(), |own| self.wild_count + own.len());
        (from..count).find_map(|index| {
            let place = match own {
                Some(own) if index >= self.wild_count => own[index - self.wild_count],
                _ => index,
            };
            let (exporter, import) = &self.all[place];
            let filter = import.subject.narrow(filter)?;
            Some((WantedStream { exporter: *exporter, import, filter }, index + 1))
        })
    }
}
