//! Compiled exports and imports: which account may have what from which, and under which subjects.
//!
//! An import needs an export of the other account that covers it and admits the importing account, and must not close a
//! cycle of imports. If several exports cover an import, one that admits the account is enough. Source of the
//! behaviour: nats-server server/opts.go parseAccounts, server/accounts.go.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;

use super::account_functions;
use super::import_subject::ImportSubject;
use super::transform::TransformError;
use crate::config::auth_options::{AccountOptions, Place};
use crate::config::import_options::{
    ExportKind, ExportOptions, ImportKind, ImportOptions, ResponseType,
};
use crate::protocol::subject;

/// The most accounts that one search for a cycle visits. Source: nats-server MaxAccountCycleSearchDepth.
const RING_SEARCH_MAX: usize = 1024;

/// A stream that an account imports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamImport {
    pub exporter: Arc<str>,
    pub subject: ImportSubject,
}

/// A service that an account imports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceImport {
    pub importer: Arc<str>,
    pub exporter: Arc<str>,
    pub subject: ImportSubject,
    /// The exporting account learns who asks.
    pub share: bool,
    pub export: Arc<ServiceExport>,
}

/// A service that an account exports.
#[derive(Debug, PartialEq, Eq)]
pub struct ServiceExport {
    /// Tells the exports of one configuration apart.
    pub id: u32,
    pub response_type: ResponseType,
    /// The time that an answer may take.
    pub threshold: Duration,
}

/// An export for monitoring.
#[derive(Clone, Debug)]
pub(crate) struct ToldExport {
    pub subject: String,
    /// None = it is a stream.
    pub response_type: Option<ResponseType>,
    /// Names of those that may import it, in order; empty = all.
    pub approved: Vec<String>,
}

/// Source: nats-server DEFAULT_SERVICE_EXPORT_RESPONSE_THRESHOLD.
const THRESHOLD_DEFAULT: Duration = Duration::from_secs(120);

/// Imports of all accounts by name; accounts without any are left out.
#[derive(Debug, Default)]
pub(super) struct Imports {
    pub streams: HashMap<Arc<str>, Vec<Arc<StreamImport>>>,
    pub services: HashMap<Arc<str>, Vec<Arc<ServiceImport>>>,
    pub exports: HashMap<Arc<str>, Vec<ToldExport>>,
}

/// All errors in the exports and imports of a file.
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

/// The reason for refusing an export or an import; displayed in nats-server's words.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Problem {
    Subject(TransformError),
    /// The export has no `*` at the account's token position.
    TokenPosition,
    StreamNotAuthorized,
    ServiceNotAuthorized,
    /// A service import's remote or local subject is not valid.
    InvalidSubject,
    PrefixHasWildcard,
    StreamExists,
    Ring,
    RingTooLong,
    ServiceMapping {
        remote: String,
        local: String,
        error: TransformError,
    },
    ServiceExists {
        local: String,
        exporter: String,
        remote: String,
    },
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
            Self::InvalidSubject | Self::TokenPosition => "sublist: invalid subject",
            Self::ServiceNotAuthorized => "service import not authorized",
            Self::StreamNotAuthorized => "stream import not authorized",
            Self::PrefixHasWildcard => "stream import prefix can not contain wildcard tokens",
            Self::StreamExists => "stream import already exists",
            Self::Ring => "import forms a cycle",
            Self::RingTooLong => "search cycle depth exhausted",
            Self::ServiceMapping { remote, local, error } => {
                return write!(
                    formatter,
                    "failed to create mapping transform for service import subject from {local:?} \
                     to {remote:?}: {error}"
                );
            }
            Self::ServiceExists { local, exporter, remote } => {
                return write!(
                    formatter,
                    "duplicate service import subject {local:?}, previously used in import for \
                     account {exporter:?}, subject {remote:?}"
                );
            }
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
    /// None = it is a stream.
    service: Option<Arc<ServiceExport>>,
}

impl Export {
    fn told(&self) -> ToldExport {
        let mut approved: Vec<String> = self.access.approved.iter().flatten().cloned().collect();
        approved.sort();
        ToldExport {
            subject: self.subject.clone(),
            response_type: self.service.as_ref().map(|service| service.response_type),
            approved,
        }
    }
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
    /// `tokens` are those of the import; None if its subject equals the export's.
    fn lets_in(&self, account: &str, tokens: Option<&[&str]>) -> bool {
        if self.token_position > 0 {
            let token = tokens.and_then(|tokens| tokens.get(self.token_position - 1));
            return token.is_some_and(|token| *token == account);
        }
        self.approved.as_ref().is_none_or(|approved| approved.contains(account))
    }
}

/// Adds an account's export; a repeated subject extends the first one. Returns its index.
fn add_export(
    exports: &mut Vec<Export>,
    options: &ExportOptions,
    account: &str,
) -> Result<usize, Problem> {
    let subject = account_functions::expand(&options.subject, account)?;
    let position = options.account_token_position as usize;
    if position > 0 && subject.split('.').nth(position - 1) != Some("*") {
        return Err(Problem::TokenPosition);
    }
    let index = match exports.iter().position(|export| export.subject == subject) {
        Some(index) => index,
        None => {
            let access = Access::default();
            exports.push(Export { subject: subject.into_owned(), access, service: None });
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
    Ok(index)
}

/// Puts the names of both accounts in an import's subject, where it asks for them.
fn expand_import(text: &str, account: &str, exporter: &str) -> Result<String, Problem> {
    Ok(account_functions::expand_import(text, account, exporter)?.into_owned())
}

/// Returns the export that admits an account's import of a subject.
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
    service_exports: Vec<Export>,
    streams: Vec<Arc<StreamImport>>,
    services: Vec<Arc<ServiceImport>>,
}

struct Builder<'a> {
    accounts: HashMap<&'a str, Built>,
    next_export_id: u32,
    problems: Vec<String>,
}

/// Compiles what all accounts export and import.
///
/// # Errors
/// All that an operator has to change.
pub(super) fn compile(accounts: &[AccountOptions], place: &Place) -> Result<Imports, ImportErrors> {
    let names = accounts.iter().map(|account| (&*account.name, Built::default()));
    let mut builder =
        Builder { accounts: names.collect(), next_export_id: 0, problems: Vec::new() };
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
    for (account, export) in exports(|kind| matches!(kind, ExportKind::Service(_))) {
        builder.export_service(account, export);
    }
    for (account, import) in imports(|kind| matches!(kind, ImportKind::Stream { .. })) {
        builder.import_stream(account, import);
    }
    for (account, import) in imports(|kind| matches!(kind, ImportKind::Service { .. })) {
        builder.import_service(account, import);
    }
    if !builder.problems.is_empty() {
        return Err(ImportErrors { place: place.clone(), problems: builder.problems });
    }
    let mut imports = Imports::default();
    for (name, built) in builder.accounts {
        let exports = built.service_exports.iter().chain(&built.stream_exports);
        let told: Vec<ToldExport> = exports.map(Export::told).collect();
        if !told.is_empty() {
            imports.exports.insert(name.into(), told);
        }
        if !built.streams.is_empty() {
            imports.streams.insert(name.into(), built.streams);
        }
        if !built.services.is_empty() {
            imports.services.insert(name.into(), built.services);
        }
    }
    Ok(imports)
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

    /// True if the account that an import names is there.
    fn knows_exporter(&mut self, import: &ImportOptions, what: &str) -> bool {
        let exporter = &import.account;
        let knows = self.accounts.contains_key(exporter.as_str());
        if !knows {
            self.problems.push(format!("{exporter:?} account not defined for {what} import"));
        }
        knows
    }

    fn built(&mut self, account: &str) -> &mut Built {
        self.accounts.get_mut(account).expect("all accounts are there")
    }

    fn export_stream(&mut self, account: &str, options: &ExportOptions) {
        if !self.knows_all_of(options, "stream") {
            return;
        }
        let exports = &mut self.built(account).stream_exports;
        if let Err(problem) = add_export(exports, options, account) {
            let subject = &options.subject;
            self.problems.push(format!("Error adding stream export {subject:?}: {problem}"));
        }
    }

    fn export_service(&mut self, account: &str, options: &ExportOptions) {
        let ExportKind::Service(service) = &options.kind else { return };
        if !self.knows_all_of(options, "service") {
            return;
        }
        let export = ServiceExport {
            id: self.next_export_id,
            response_type: service.response_type,
            threshold: service.response_threshold.unwrap_or(THRESHOLD_DEFAULT),
        };
        self.next_export_id += 1;
        let exports = &mut self.built(account).service_exports;
        match add_export(exports, options, account) {
            Ok(index) => exports[index].service = Some(Arc::new(export)),
            Err(problem) => {
                let subject = &options.subject;
                self.problems.push(format!("Error adding service export {subject:?}: {problem}"));
            }
        }
    }

    fn import_service(&mut self, account: &str, options: &ImportOptions) {
        let ImportKind::Service { to, share } = &options.kind else { return };
        let ImportOptions { account: exporter, subject, .. } = options;
        if !self.knows_exporter(options, "service") {
            return;
        }
        let expand = |text: &str| expand_import(text, account, exporter);
        let to = to.as_deref().map(&expand);
        let mut shown = subject.clone();
        let built = expand(subject).and_then(|remote| {
            shown.clone_from(&remote);
            let local = to.transpose()?.unwrap_or_else(|| remote.clone());
            self.build_service(account, exporter, &remote, &local, *share)
        });
        match built {
            Ok(import) => self.built(account).services.push(Arc::new(import)),
            Err(problem) => {
                self.problems.push(format!("Error adding service import {shown:?}: {problem}"));
            }
        }
    }

    fn build_service(
        &self,
        account: &str,
        exporter: &str,
        remote: &str,
        local: &str,
        share: bool,
    ) -> Result<ServiceImport, Problem> {
        let is_valid = |subject: &str| subject::is_valid_filter(subject.as_bytes());
        if !is_valid(remote) || !is_valid(local) {
            return Err(Problem::InvalidSubject);
        }
        let exports = &self.accounts[exporter].service_exports;
        let export = export_for(exports, account, remote).and_then(|export| export.service.clone());
        let Some(export) = export else { return Err(Problem::ServiceNotAuthorized) };
        let mapping =
            |error| Problem::ServiceMapping { remote: remote.into(), local: local.into(), error };
        let subject = ImportSubject::service(remote, local);
        // As in nats-server, cycles are reported before a bad mapping.
        let from = match &subject {
            Ok(subject) => subject.local(),
            Err(_) => local.as_bytes(),
        };
        let mut visited: HashSet<&str> = HashSet::from([account]);
        self.follow_services(exporter, from, &mut visited)?;
        let subject = subject.map_err(mapping)?;
        let is_known = |other: &&Arc<ServiceImport>| {
            *other.exporter == *exporter && other.subject.local() == subject.local()
        };
        if let Some(known) = self.accounts[account].services.iter().find(is_known) {
            return Err(Problem::ServiceExists {
                local: local.into(),
                exporter: exporter.into(),
                remote: String::from_utf8_lossy(known.subject.remote()).into_owned(),
            });
        }
        let (importer, exporter) = (account.into(), exporter.into());
        Ok(ServiceImport { importer, exporter, subject, share, export })
    }

    /// Follows a request from an account to the accounts that it is passed on to.
    fn follow_services<'s>(
        &'s self,
        account: &'s str,
        subject: &[u8],
        visited: &mut HashSet<&'s str>,
    ) -> Result<(), Problem> {
        if visited.len() >= RING_SEARCH_MAX {
            return Err(Problem::RingTooLong);
        }
        for import in &self.accounts[account].services {
            if !subject::overlap(subject, import.subject.remote()) {
                continue;
            }
            if visited.contains(&*import.exporter) {
                return Err(Problem::Ring);
            }
            visited.insert(account);
            let local = import.subject.local();
            let narrower = if subject::is_subset(local, subject) { local } else { subject };
            self.follow_services(&import.exporter, narrower, visited)?;
        }
        Ok(())
    }

    fn import_stream(&mut self, account: &str, options: &ImportOptions) {
        let ImportKind::Stream { prefix, to } = &options.kind else { return };
        let ImportOptions { account: exporter, subject, .. } = options;
        if !self.knows_exporter(options, "stream") {
            return;
        }
        let expand = |text: &str| expand_import(text, account, exporter);
        let (prefix, to) = (prefix.as_deref().map(&expand), to.as_deref().map(&expand));
        let mut shown = subject.clone();
        let built = expand(subject).and_then(|subject| {
            shown.clone_from(&subject);
            let (prefix, to) = (prefix.transpose()?, to.transpose()?);
            self.build_stream(account, exporter, &subject, prefix.as_deref(), to.as_deref())
        });
        match built {
            Ok(import) => self.built(account).streams.push(Arc::new(import)),
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

    /// Follows a subject from an account to the accounts that it is imported from. Each account is expanded once; a way
    /// back to an expanded account is a cycle.
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
