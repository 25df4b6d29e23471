//! The imports of all accounts, by the ids under which shards know accounts.

use std::sync::Arc;

use hashbrown::HashMap;
use rpds::HashTrieMapSync;

use super::account::{Account, AccountSet};
use super::imports::{Imports, ServiceImport, StreamImport};
use crate::base::ids::AccountId;
use crate::protocol::subject;

/// The imports of all accounts: immutable, shared by all shards, cheap to clone. Accounts without
/// imports are left out.
#[derive(Clone, Debug, Default)]
pub struct AccountImports {
    streams: HashTrieMapSync<AccountId, Arc<StreamImports>>,
    services: HashTrieMapSync<AccountId, Arc<[ServiceRoute]>>,
}

/// A service that an account imports, and where its requests go.
#[derive(Clone, Debug)]
pub struct ServiceRoute {
    pub exporter: AccountId,
    /// The exporting account: its mappings apply.
    pub account: Arc<Account>,
    pub import: Arc<ServiceImport>,
}

/// The streams that one account imports.
#[derive(Debug, Default)]
pub struct StreamImports {
    /// Imports whose local subjects begin with a wildcard come first.
    all: Vec<(AccountId, Arc<StreamImport>)>,
    /// Indexes into `all` of the imports whose local subjects begin with this token.
    by_first_token: HashMap<Box<[u8]>, Vec<usize>>,
    /// Number of imports whose local subjects begin with a wildcard.
    wild_count: usize,
}

/// An imported stream that overlaps a subscription.
pub struct WantedStream<'a> {
    pub exporter: AccountId,
    pub import: &'a Arc<StreamImport>,
    /// The filter of the overlap in the exporting account.
    pub filter: Vec<u8>,
}

/// The result of examining some imports.
pub enum Look<'a> {
    Wanted(WantedStream<'a>),
    /// None of these; there are more to examine.
    Nothing,
    End,
}

/// The most imports that one call of `look` examines.
const IMPORTS_PER_LOOK: usize = 32;

impl AccountImports {
    /// `id` maps an account's name to its id.
    pub(super) fn new(
        imports: &Imports,
        accounts: &AccountSet,
        id: impl Fn(&str) -> AccountId,
    ) -> Self {
        let mut all = Self::default();
        for importer in imports.importers() {
            all.renew(importer, imports, accounts, &id);
        }
        all
    }

    /// Takes over what one account imports now.
    pub(super) fn renew(
        &mut self,
        importer: &str,
        imports: &Imports,
        accounts: &AccountSet,
        id: impl Fn(&str) -> AccountId,
    ) {
        let own = id(importer);
        let streams = imports.streams_of(importer).iter();
        let streams: Vec<_> =
            streams.map(|stream| (id(&stream.exporter), stream.clone())).collect();
        match streams.is_empty() {
            true => self.streams.remove_mut(&own),
            false => {
                self.streams.insert_mut(own, Arc::new(StreamImports::new(streams)));
                true
            }
        };
        let route = |import: &Arc<ServiceImport>| ServiceRoute {
            exporter: id(&import.exporter),
            account: accounts.get(&import.exporter).expect("it exports something").clone(),
            import: import.clone(),
        };
        let services: Arc<[ServiceRoute]> =
            imports.services_of(importer).iter().map(route).collect();
        match services.is_empty() {
            true => self.services.remove_mut(&own),
            false => {
                self.services.insert_mut(own, services);
                true
            }
        };
    }

    /// Returns the services that an account imports.
    #[inline]
    pub fn services_of(&self, account: AccountId) -> &[ServiceRoute] {
        if self.services.is_empty() {
            return &[];
        }
        self.services.get(&account).map_or(&[], |services| services)
    }

    /// Returns true if an account imports the same services, from the same build of them, as
    /// another version of the imports says.
    pub(crate) fn has_services_of(&self, other: &Self, account: AccountId) -> bool {
        match (self.services.get(&account), other.services.get(&account)) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (None, None) => true,
            _ => false,
        }
    }

    /// Returns None for an account that imports no streams.
    #[inline]
    pub fn streams_of(&self, account: AccountId) -> Option<&StreamImports> {
        if self.streams.is_empty() { None } else { self.streams.get(&account).map(|all| &**all) }
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

    /// Returns the number of imports: at least one.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Examines some imports from `place` on, up to the first that overlaps `filter`, and advances `place`, which starts
    /// at 0.
    pub fn look(&self, filter: &[u8], place: &mut usize) -> Look<'_> {
        let own = first_token(filter)
            .map(|token| self.by_first_token.get(token).map_or(&[][..], Vec::as_slice));
        let count = own.map_or(self.all.len(), |own| self.wild_count + own.len());
        let end = count.min(*place + IMPORTS_PER_LOOK);
        while *place < end {
            let index = match own {
                Some(own) if *place >= self.wild_count => own[*place - self.wild_count],
                _ => *place,
            };
            *place += 1;
            let (exporter, import) = &self.all[index];
            if let Some(filter) = import.subject.narrow(filter) {
                return Look::Wanted(WantedStream { exporter: *exporter, import, filter });
            }
        }
        if end < count { Look::Nothing } else { Look::End }
    }
}
