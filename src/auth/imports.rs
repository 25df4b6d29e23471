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
use rpds::HashTrieMapSync;

use super::account::AccountSet;
use super::account_functions;
use super::import_subject::ImportSubject;
use super::jwt::claims::{ActivationClaims, Revocations, is_revoked};
use super::jwt::validate;
use super::transform::TransformError;
use crate::config::auth_options::{AccountOptions, Place};
use crate::config::import_options::{
    ExportKind, ExportOptions, ImportKind, ImportOptions, LatencyOptions, ResponseType,
};
use crate::protocol::subject;

/// The most accounts that one search for a cycle visits. Source: nats-server MaxAccountCycleSearchDepth.
const RING_SEARCH_MAX: usize = 1024;

/// A stream that an account imports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamImport {
    pub exporter: Arc<str>,
    pub subject: ImportSubject,
    /// Traces of the exporting account's messages go on in the importing account.
    pub allow_trace: bool,
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
    /// None = durations are not published.
    pub latency: Option<LatencyOptions>,
    /// Traces of requests go on in the exporting account.
    pub allow_trace: bool,
}

/// An export for monitoring.
#[derive(Clone, Debug)]
pub(crate) struct ToldExport {
    pub subject: String,
    /// None = it is a stream.
    pub response_type: Option<ResponseType>,
    /// Names of those that may import it, in order; empty = all.
    pub approved: Vec<String>,
    pub latency: Option<LatencyOptions>,
}

/// Source: nats-server DEFAULT_SERVICE_EXPORT_RESPONSE_THRESHOLD.
const THRESHOLD_DEFAULT: Duration = Duration::from_secs(120);

/// The exports and imports of all accounts, by name; accounts without any are left out. Cheap to
/// clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Imports {
    built: HashTrieMapSync<Arc<str>, Arc<Built>>,
    /// For the next export: ids tell exports of one server apart.
    next_export_id: u32,
}

impl Imports {
    /// Returns what an account exports, for monitoring.
    pub(super) fn exports_of(&self, account: &str) -> Vec<ToldExport> {
        let Some(built) = self.built.get(account) else { return Vec::new() };
        let exports = built.service_exports.iter().chain(&built.stream_exports);
        exports.map(Export::told).collect()
    }

    pub(super) fn streams_of(&self, account: &str) -> &[Arc<StreamImport>] {
        self.built.get(account).map_or(&[], |built| &built.streams)
    }

    pub(super) fn services_of(&self, account: &str) -> &[Arc<ServiceImport>] {
        self.built.get(account).map_or(&[], |built| &built.services)
    }

    /// Returns the names of all accounts that import anything.
    pub(super) fn importers(&self) -> impl Iterator<Item = &Arc<str>> {
        let imports = |built: &Built| !built.streams.is_empty() || !built.services.is_empty();
        self.built.iter().filter(move |(_, built)| imports(built)).map(|(name, _)| name)
    }

    /// Forgets an account that is gone.
    pub(super) fn forget(&mut self, account: &str) {
        self.built.remove_mut(account);
    }

    /// Builds what one account exports and imports anew; a part of it that cannot be is left out.
    pub(super) fn renew_account(
        &mut self,
        options: &AccountOptions,
        known: &KnownAccounts<'_>,
    ) -> Renewed {
        let name = &*options.name;
        let before = self.built.get(name).cloned();
        let (mut built, problems, recheck_at, next_export_id) = {
            let mut builder = Builder {
                accounts: HashMap::from([(name, Built::default())]),
                others: Some((&*self, known)),
                has_system_account: true,
                next_export_id: self.next_export_id,
                problems: Vec::new(),
                recheck_at: None,
            };
            builder.build_all(std::slice::from_ref(options));
            let built = builder.accounts.remove(name).expect("it was built");
            (built, builder.problems, builder.recheck_at, builder.next_export_id)
        };
        if let Some(before) = &before {
            built.keep_exports_of(before);
        }
        let nothing = Arc::default();
        let before = before.as_ref().unwrap_or(&nothing);
        let exports_changed = built.stream_exports != before.stream_exports
            || built.service_exports != before.service_exports;
        let imports_changed = built.streams != before.streams || built.services != before.services;
        self.next_export_id = next_export_id;
        if built.is_empty() {
            self.built.remove_mut(name);
        } else if exports_changed || imports_changed {
            self.built.insert_mut(name.into(), Arc::new(built));
        }
        Renewed { exports_changed, imports_changed, problems, recheck_at }
    }
}

/// The other accounts, in operator mode.
pub(super) struct KnownAccounts<'a> {
    pub accounts: &'a AccountSet,
    /// Seconds since 1970.
    pub now: i64,
}

impl KnownAccounts<'_> {
    fn label(&self, account: &str) -> String {
        self.accounts.get(account).map_or_else(|| account.to_owned(), |account| account.label())
    }
}

/// The outcome of building one account's exports and imports anew.
#[derive(Debug, Default)]
pub(super) struct Renewed {
    pub exports_changed: bool,
    pub imports_changed: bool,
    /// Log lines about what is left out.
    pub problems: Vec<String>,
    /// When an activation ends: seconds since 1970.
    pub recheck_at: Option<i64>,
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
    LatencySubject,
    LatencyResponseType,
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
            Self::LatencySubject => "invalid publish subject",
            Self::LatencyResponseType => "bad service response type",
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
#[derive(Debug, PartialEq)]
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
            latency: self.service.as_ref().and_then(|service| service.latency.clone()),
        }
    }
}

/// Who may import.
#[derive(Debug, Default, PartialEq)]
struct Access {
    /// None = all.
    approved: Option<HashSet<String>>,
    /// An import needs an activation of the exporting account's.
    needs_activation: bool,
    /// Activations that are revoked.
    revocations: Revocations,
    /// Counted from 1; 0 = none.
    token_position: usize,
}

impl Access {
    /// `tokens` are those of the import; None if its subject equals the export's.
    fn lets_in(
        &self,
        account: &str,
        tokens: Option<&[&str]>,
        activation: Option<&Activation>,
    ) -> bool {
        if self.needs_activation {
            return activation.is_some_and(|activation| {
                !is_revoked(&self.revocations, &activation.subject, activation.issued_at)
            });
        }
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
    access.needs_activation = options.activation_required;
    access.revocations.clone_from(&options.revocations);
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
fn export_for<'a>(
    exports: &'a [Export],
    account: &str,
    subject: &str,
    activation: Option<&Activation>,
) -> Option<&'a Export> {
    if !subject::is_valid_filter(subject.as_bytes()) {
        return None;
    }
    if let Some(own) = exports.iter().find(|export| export.subject == subject) {
        return Some(own).filter(|own| own.access.lets_in(account, None, activation));
    }
    let tokens: Vec<&str> = subject.split('.').collect();
    exports.iter().find(|export| {
        subject::is_subset(subject.as_bytes(), export.subject.as_bytes())
            && export.access.lets_in(account, Some(&tokens), activation)
    })
}

/// An activation that is good now.
struct Activation {
    /// The importing account.
    subject: String,
    issued_at: i64,
}

/// The exports and imports of one account, as far as they are built.
#[derive(Debug, Default)]
struct Built {
    stream_exports: Vec<Export>,
    service_exports: Vec<Export>,
    streams: Vec<Arc<StreamImport>>,
    services: Vec<Arc<ServiceImport>>,
}

impl Built {
    fn is_empty(&self) -> bool {
        self.stream_exports.is_empty()
            && self.service_exports.is_empty()
            && self.streams.is_empty()
            && self.services.is_empty()
    }

    /// Takes over the ids of exports that are the same as before: requests under way refer to them.
    fn keep_exports_of(&mut self, before: &Self) {
        for export in &mut self.service_exports {
            let old = before.service_exports.iter().find(|old| old.subject == export.subject);
            if let (Some(service), Some(old)) =
                (&mut export.service, old.and_then(|old| old.service.as_ref()))
                && service.is_like(old)
            {
                *service = old.clone();
            }
        }
    }
}

impl ServiceExport {
    fn is_like(&self, other: &Self) -> bool {
        let Self { id: _, response_type, threshold, latency, allow_trace } = self;
        *response_type == other.response_type
            && *threshold == other.threshold
            && *latency == other.latency
            && *allow_trace == other.allow_trace
    }
}

struct Builder<'a> {
    accounts: HashMap<&'a str, Built>,
    /// In operator mode: all other accounts, which are built already.
    others: Option<(&'a Imports, &'a KnownAccounts<'a>)>,
    has_system_account: bool,
    next_export_id: u32,
    problems: Vec<String>,
    /// When the first activation ends.
    recheck_at: Option<i64>,
}

/// Compiles what all accounts export and import.
///
/// # Errors
/// All that an operator has to change.
pub(super) fn compile(
    accounts: &[AccountOptions],
    place: &Place,
    has_system_account: bool,
) -> Result<Imports, ImportErrors> {
    let names = accounts.iter().map(|account| (&*account.name, Built::default()));
    let mut builder = Builder {
        accounts: names.collect(),
        others: None,
        has_system_account,
        next_export_id: 0,
        problems: Vec::new(),
        recheck_at: None,
    };
    builder.build_all(accounts);
    if !builder.problems.is_empty() {
        return Err(ImportErrors { place: place.clone(), problems: builder.problems });
    }
    let mut imports = Imports { next_export_id: builder.next_export_id, ..Imports::default() };
    for (name, built) in builder.accounts {
        if !built.is_empty() {
            imports.built.insert_mut(name.into(), Arc::new(built));
        }
    }
    Ok(imports)
}

impl<'a> Builder<'a> {
    fn build_all(&mut self, accounts: &'a [AccountOptions]) {
        let builder = self;
        let exports = |kind: fn(&ExportKind) -> bool| {
            let all = accounts.iter().flat_map(|account| {
                account.exports.iter().map(move |export| (&*account.name, export))
            });
            all.filter(move |(_, export)| kind(&export.kind))
        };
        let imports = |kind: fn(&ImportKind) -> bool| {
            let all = accounts.iter().flat_map(|account| {
                account.imports.iter().map(move |import| (&*account.name, import))
            });
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
    }

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
        let is_other =
            |(_, known): &(_, &KnownAccounts<'_>)| known.accounts.get(exporter).is_some();
        if self.accounts.contains_key(exporter.as_str())
            || self.others.as_ref().is_some_and(is_other)
        {
            return true;
        }
        self.problems.push(match self.others {
            None => format!("{exporter:?} account not defined for {what} import"),
            Some(_) => format!(
                "Can't locate account [{exporter}] for import of [{}] {what}",
                import.subject
            ),
        });
        false
    }

    /// Returns what is built of an account.
    fn of(&self, account: &str) -> &Built {
        static NOTHING: Built = Built {
            stream_exports: Vec::new(),
            service_exports: Vec::new(),
            streams: Vec::new(),
            services: Vec::new(),
        };
        let of_other = || Some(&**self.others.as_ref()?.0.built.get(account)?);
        self.accounts.get(account).or_else(of_other).unwrap_or(&NOTHING)
    }

    /// Notes an import that cannot be.
    fn refuse_import(&mut self, what: &str, subject: &str, from: &str, to: &str, why: &Problem) {
        let accounts = match &self.others {
            None => String::new(),
            Some((_, known)) => {
                format!(" from account {} to account {}", known.label(from), known.label(to))
            }
        };
        self.problems.push(format!("Error adding {what} import {subject:?}{accounts}: {why}"));
    }

    /// Returns the activation that an import brings, if it is good now: signed by the exporting
    /// account, and for this importing account and subject.
    fn activation(&mut self, account: &str, import: &ImportOptions) -> Option<Activation> {
        let (_, known) = self.others.as_ref()?;
        let activation = ActivationClaims::decode(import.activation.as_deref()?).ok()?;
        let exporter = known.accounts.get(&import.account)?;
        let (common, issuer_account) = (&activation.common, &activation.issuer_account);
        let is_signed = match issuer_account.is_empty() {
            true => *common.issuer == *import.account,
            false => *issuer_account == import.account && exporter.has_issuer(&common.issuer),
        };
        let is_over = common.expires != 0 && common.expires <= known.now;
        if !is_signed
            || is_over
            || common.subject != account
            || validate::activation(&activation, known.now).is_blocking()
        {
            return None;
        }
        if common.expires != 0 {
            let ends = common.expires;
            self.recheck_at = Some(self.recheck_at.map_or(ends, |others| others.min(ends)));
        }
        Some(Activation { subject: common.subject.clone(), issued_at: common.issued_at })
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
        let mut export = ServiceExport {
            id: self.next_export_id,
            response_type: service.response_type,
            threshold: service.response_threshold.unwrap_or(THRESHOLD_DEFAULT),
            latency: service.latency.clone(),
            allow_trace: service.allow_trace,
        };
        self.next_export_id += 1;
        let exports = &mut self.built(account).service_exports;
        let index = match add_export(exports, options, account) {
            Ok(index) => index,
            Err(problem) => {
                let subject = &options.subject;
                self.problems.push(format!("Error adding service export {subject:?}: {problem}"));
                return;
            }
        };
        let latency = service.latency.as_ref();
        let refused = latency.and_then(|latency| {
            self.refuse_latency(account, options, latency, service.response_type)
        });
        if let Some(problem) = refused {
            export.latency = None;
            // An account's JWT with such an export holds, without the durations.
            if self.others.is_none() {
                self.problems.push(problem);
            }
        }
        self.built(account).service_exports[index].service = Some(Arc::new(export));
    }

    /// Returns the reason if durations cannot be published: their subject must not be that of a
    /// service exported so far.
    fn refuse_latency(
        &mut self,
        account: &str,
        options: &ExportOptions,
        latency: &LatencyOptions,
        response_type: ResponseType,
    ) -> Option<String> {
        let (service, subject) = (&options.subject, &latency.subject);
        let adding = format!("Error adding service latency sampling for {service:?}");
        if !self.has_system_account {
            return Some(format!("{adding}: system account not setup"));
        }
        let is_exported =
            |export: &Export| subject::is_subset(subject.as_bytes(), export.subject.as_bytes());
        let is_literal = subject::is_valid_literal(subject.as_bytes());
        let problem = if !is_literal || self.built(account).service_exports.iter().any(is_exported)
        {
            Problem::LatencySubject
        } else if response_type != ResponseType::Singleton {
            Problem::LatencyResponseType
        } else {
            return None;
        };
        Some(format!("{adding} on subject {subject:?}: {problem}"))
    }

    fn import_service(&mut self, account: &str, options: &ImportOptions) {
        let ImportKind::Service { to, share } = &options.kind else { return };
        let ImportOptions { account: exporter, subject, .. } = options;
        if !self.knows_exporter(options, "service") {
            return;
        }
        let expand = |text: &str| expand_import(text, account, exporter);
        let to = to.as_deref().map(&expand);
        let activation = self.activation(account, options);
        let mut shown = subject.clone();
        let built = expand(subject).and_then(|remote| {
            shown.clone_from(&remote);
            let local = to.transpose()?.unwrap_or_else(|| remote.clone());
            self.build_service(account, exporter, (&remote, &local), *share, activation.as_ref())
        });
        match built {
            Ok(import) => self.built(account).services.push(Arc::new(import)),
            Err(why) => self.refuse_import("service", &shown, exporter, account, &why),
        }
    }

    fn build_service(
        &self,
        account: &str,
        exporter: &str,
        (remote, local): (&str, &str),
        share: bool,
        activation: Option<&Activation>,
    ) -> Result<ServiceImport, Problem> {
        let is_valid = |subject: &str| subject::is_valid_filter(subject.as_bytes());
        if !is_valid(remote) || !is_valid(local) {
            return Err(Problem::InvalidSubject);
        }
        let exports = &self.of(exporter).service_exports;
        let export = export_for(exports, account, remote, activation);
        let export = export.and_then(|export| export.service.clone());
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
        if let Some(known) = self.of(account).services.iter().find(is_known) {
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
        for import in &self.of(account).services {
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
        let ImportKind::Stream { prefix, to, allow_trace } = &options.kind else { return };
        let ImportOptions { account: exporter, subject, .. } = options;
        if !self.knows_exporter(options, "stream") {
            return;
        }
        let expand = |text: &str| expand_import(text, account, exporter);
        let (prefix, to) = (prefix.as_deref().map(&expand), to.as_deref().map(&expand));
        let activation = self.activation(account, options);
        let mut shown = subject.clone();
        let built = expand(subject).and_then(|subject| {
            shown.clone_from(&subject);
            let (prefix, to) = (prefix.transpose()?, to.transpose()?);
            let local = (prefix.as_deref(), to.as_deref());
            self.build_stream(account, exporter, &subject, local, activation.as_ref())
        });
        match built {
            Ok(subject) => {
                let import = StreamImport {
                    exporter: exporter.as_str().into(),
                    subject,
                    allow_trace: *allow_trace,
                };
                self.built(account).streams.push(Arc::new(import));
            }
            Err(why) => self.refuse_import("stream", &shown, exporter, account, &why),
        }
    }

    fn build_stream(
        &self,
        account: &str,
        exporter: &str,
        remote: &str,
        (prefix, to): (Option<&str>, Option<&str>),
        activation: Option<&Activation>,
    ) -> Result<ImportSubject, Problem> {
        let exports = &self.of(exporter).stream_exports;
        if export_for(exports, account, remote, activation).is_none() {
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
        let known = &self.of(account).streams;
        let is_known = |other: &Arc<StreamImport>| {
            *other.exporter == *exporter && other.subject.remote() == remote.as_bytes()
        };
        if known.iter().any(is_known) {
            return Err(Problem::StreamExists);
        }
        Ok(subject)
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
        let built = self.of(account);
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
