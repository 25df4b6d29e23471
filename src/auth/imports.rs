//! What accounts export and import, compiled: who may have what of whom, and by which subjects.
//!
//! An import is built only if an export of the other account covers it and lets this account in, and if no ring of
//! imports comes about. Where several exports cover an import, one that lets the account in is enough. Source of the
//! behaviour: nats-server server/opts.go parseAccounts, server/accounts.go.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;

use super::account_functions;
use super::import_subject::ImportSubject;
use super::transform::TransformError;
use crate::config::auth_options::{AccountOptions, Place};
use crate::config::import_options::{ExportKind, ExportOptions, ImportKind, ImportOptions};
use crate::protocol::subject;

/// Accounts that one search for a ring passes. Source: nats-server MaxAccountCycleSearchDepth.
const RING_SEARCH_MAX: usize = 1024;

/// A stream that an account imports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamImport {
    pub exporter: Arc<str>,
    pub subject: ImportSubject,
}

/// Imports of all accounts by name; accounts without any are left out.
#[derive(Debug, Default)]
pub(super) struct Imports {
    pub streams: HashMap<Arc<str>, Vec<Arc<StreamImport>>>,
}

/// All that is wrong with the exports and imports of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportErrors {
    place: Place,
    problems: Vec<String>,
}

impl fmt::Display for ImportErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            if !self.place.0.is_empty() {
                write!(formatter, "{}: ", self.place.0)?;
            }
            writeln!(formatter, "{problem}")?;
        }
        Ok(())
    }
}

/// Why an export or an import was refused, in nats-server's words.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Problem {
    Subject(TransformError),
    /// The token of the account is no star.
    TokenPosition,
    StreamNotAuthorized,
    PrefixHasWildcard,
    StreamExists,
    Ring,
    RingTooLong,
    StreamMapping {
        remote: String,
        local: String,
        error: TransformError,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Subject(error) => return write!(formatter, "{error}"),
            Self::TokenPosition => "sublist: invalid subject",
            Self::StreamNotAuthorized => "stream import not authorized",
            Self::PrefixHasWildcard => "stream import prefix can not contain wildcard tokens",
            Self::StreamExists => "stream import already exists",
            Self::Ring => "import forms a cycle",
            Self::RingTooLong => "search cycle depth exhausted",
            Self::StreamMapping { remote, local, error } => {
                return write!(
                    formatter,
                    "failed to create mapping transform for stream import subject from {remote:?} \
                     to {local:?}: {error}"
                );
            }
        })
    }
}

impl From<TransformError> for Problem {
    fn from(error: TransformError) -> Self {
        Self::Subject(error)
    }
}

/// One exported subject.
#[derive(Debug)]
struct Export {
    subject: String,
    access: Access,
}

/// Who may import.
#[derive(Debug, Default)]
struct Access {
    /// None = all.
    approved: Option<HashSet<String>>,
    /// Counted from 1; 0 = none.
    token_position: usize,
}

impl Access {
    /// `tokens` of the import; None = it is the export's own subject.
    fn lets_in(&self, account: &str, tokens: Option<&[&str]>) -> bool {
        if self.token_position > 0 {
            let token = tokens.and_then(|tokens| tokens.get(self.token_position - 1));
            return token.is_some_and(|token| *token == account);
        }
        self.approved.as_ref().is_none_or(|approved| approved.contains(account))
    }
}

/// Adds to what an account exports; the same subject again adds to it.
fn add_export(
    exports: &mut Vec<Export>,
    options: &ExportOptions,
    subject: &str,
) -> Result<(), Problem> {
    let position = options.account_token_position as usize;
    if position > 0 && subject.split('.').nth(position - 1) != Some("*") {
        return Err(Problem::TokenPosition);
    }
    let index = match exports.iter().position(|export| export.subject == subject) {
        Some(index) => index,
        None => {
            exports.push(Export { subject: subject.to_owned(), access: Access::default() });
            exports.len() - 1
        }
    };
    let access = &mut exports[index].access;
    if !options.accounts.is_empty() || position > 0 {
        access.token_position = position;
    }
    if !options.accounts.is_empty() {
        access.approved.get_or_insert_default().extend(options.accounts.iter().cloned());
    }
    Ok(())
}

/// The export that lets an account import a subject.
fn export_for<'a>(exports: &'a [Export], account: &str, subject: &str) -> Option<&'a Export> {
    if !subject::is_valid_filter(subject.as_bytes()) {
        return None;
    }
    if let Some(own) = exports.iter().find(|export| export.subject == subject) {
        return Some(own).filter(|own| own.access.lets_in(account, None));
    }
    let tokens: Vec<&str> = subject.split('.').collect();
    exports.iter().find(|export| {
        subject::is_subset(subject.as_bytes(), export.subject.as_bytes())
            && export.access.lets_in(account, Some(&tokens))
    })
}

/// The exports and imports of one account, as far as they are built.
#[derive(Debug, Default)]
struct Built {
    stream_exports: Vec<Export>,
    streams: Vec<Arc<StreamImport>>,
}

struct Builder<'a> {
    accounts: HashMap<&'a str, Built>,
    problems: Vec<String>,
}

/// Compiles what all accounts export and import.
///
/// # Errors
/// All that an operator has to change.
pub(super) fn compile(accounts: &[AccountOptions], place: &Place) -> Result<Imports, ImportErrors> {
    let names = accounts.iter().map(|account| (&*account.name, Built::default()));
    let mut builder = Builder { accounts: names.collect(), problems: Vec::new() };
    let exports = |kind: fn(&ExportKind) -> bool| {
        let all = accounts
            .iter()
            .flat_map(|account| account.exports.iter().map(move |export| (&*account.name, export)));
        all.filter(move |(_, export)| kind(&export.kind))
    };
    let imports = |kind: fn(&ImportKind) -> bool| {
        let all = accounts
            .iter()
            .flat_map(|account| account.imports.iter().map(move |import| (&*account.name, import)));
        all.filter(move |(_, import)| kind(&import.kind))
    };
    for (account, export) in exports(|kind| matches!(kind, ExportKind::Stream)) {
        builder.export_stream(account, export);
    }
    for (account, import) in imports(|kind| matches!(kind, ImportKind::Stream { .. })) {
        builder.import(account, import);
    }
    if !builder.problems.is_empty() {
        return Err(ImportErrors { place: place.clone(), problems: builder.problems });
    }
    let built = builder.accounts.into_iter().filter(|(_, built)| !built.streams.is_empty());
    Ok(Imports { streams: built.map(|(name, built)| (name.into(), built.streams)).collect() })
}

impl Builder<'_> {
    /// True if all accounts that an export names are there.
    fn knows_all_of(&mut self, export: &ExportOptions, what: &str) -> bool {
        let unknown: Vec<String> = export
            .accounts
            .iter()
            .filter(|name| !self.accounts.contains_key(name.as_str()))
            .map(|name| format!("{name:?} account not defined for {what} export"))
            .collect();
        let knows_all = unknown.is_empty();
        self.problems.extend(unknown);
        knows_all
    }

    fn export_stream(&mut self, account: &str, options: &ExportOptions) {
        if !self.knows_all_of(options, "stream") {
            return;
        }
        let built = self.accounts.get_mut(account).expect("all accounts are there");
        let added = account_functions::expand(&options.subject, account)
            .map_err(Problem::from)
            .and_then(|subject| add_export(&mut built.stream_exports, options, &subject));
        if let Err(problem) = added {
            let subject = &options.subject;
            self.problems.push(format!("Error adding stream export {subject:?}: {problem}"));
        }
    }

    fn import(&mut self, account: &str, options: &ImportOptions) {
        let ImportKind::Stream { prefix, to } = &options.kind else { return };
        let ImportOptions { account: exporter, subject, .. } = options;
        if !self.accounts.contains_key(exporter.as_str()) {
            let problem = format!("{exporter:?} account not defined for stream import");
            return self.problems.push(problem);
        }
        let expand = |text: &str| {
            account_functions::expand_import(text, account, exporter)
                .map(|text| text.into_owned())
                .map_err(Problem::from)
        };
        let (prefix, to) = (prefix.as_deref().map(&expand), to.as_deref().map(&expand));
        let mut shown = subject.clone();
        let built = expand(subject).and_then(|subject| {
            shown.clone_from(&subject);
            let (prefix, to) = (prefix.transpose()?, to.transpose()?);
            self.build_stream(account, exporter, &subject, prefix.as_deref(), to.as_deref())
        });
        match built {
            Ok(import) => {
                let built = self.accounts.get_mut(account).expect("all accounts are there");
                built.streams.push(Arc::new(import));
            }
            Err(problem) => {
                self.problems.push(format!("Error adding stream import {shown:?}: {problem}"));
            }
        }
    }

    fn build_stream(
        &self,
        account: &str,
        exporter: &str,
        remote: &str,
        prefix: Option<&str>,
        to: Option<&str>,
    ) -> Result<StreamImport, Problem> {
        let exports = &self.accounts[exporter].stream_exports;
        if export_for(exports, account, remote).is_none() {
            return Err(Problem::StreamNotAuthorized);
        }
        let local = match prefix {
            Some(prefix) => {
                let is_literal = !subject::has_wildcard(prefix.as_bytes());
                if !is_literal {
                    return Err(Problem::PrefixHasWildcard);
                }
                let dot = if prefix.ends_with('.') { "" } else { "." };
                format!("{prefix}{dot}{remote}")
            }
            None => to.unwrap_or(remote).to_owned(),
        };
        self.look_for_ring_of_streams(account, exporter, &local)?;
        self.look_for_ring_of_streams(account, exporter, remote)?;
        let mapping = |error| Problem::StreamMapping {
            remote: remote.to_owned(),
            local: local.clone(),
            error,
        };
        let subject = ImportSubject::stream(remote, &local).map_err(mapping)?;
        let known = &self.accounts[account].streams;
        let is_known = |other: &Arc<StreamImport>| {
            *other.exporter == *exporter && other.subject.remote() == remote.as_bytes()
        };
        if known.iter().any(is_known) {
            return Err(Problem::StreamExists);
        }
        Ok(StreamImport { exporter: exporter.into(), subject })
    }

    fn look_for_ring_of_streams(
        &self,
        account: &str,
        exporter: &str,
        subject: &str,
    ) -> Result<(), Problem> {
        let mut visited: HashSet<&str> = HashSet::from([account]);
        self.follow_streams(exporter, subject.as_bytes(), &mut visited)
    }

    /// Follows a subject from one account to those it imports it from. An account is gone on from once: then every
    /// way that leads back to it is a ring.
    fn follow_streams<'s>(
        &'s self,
        account: &'s str,
        subject: &[u8],
        visited: &mut HashSet<&'s str>,
    ) -> Result<(), Problem> {
        if visited.len() >= RING_SEARCH_MAX {
            return Err(Problem::RingTooLong);
        }
        let built = &self.accounts[account];
        let exports_it = |export: &Export| subject::is_subset(subject, export.subject.as_bytes());
        if !built.stream_exports.iter().any(exports_it) {
            return Ok(());
        }
        for import in &built.streams {
            let local = import.subject.local();
            if !subject::overlap(subject, local) {
                continue;
            }
            if visited.contains(&*import.exporter) {
                return Err(Problem::Ring);
            }
            visited.insert(account);
            let narrower = if subject::is_subset(local, subject) { local } else { subject };
            self.follow_streams(&import.exporter, narrower, visited)?;
        }
        Ok(())
    }
}
