//! An account's JWT as the server uses it: who may sign for its users, and the options that its
//! claims stand for.

use std::sync::Arc;
use std::time::Duration;

use super::jwt::claims::{AccountClaims, AccountLimits, Export, ExportType, Import, Scope, Trace};
use super::permissions::Permissions;
use crate::config::auth_options::{
    AccountLimitOptions, AccountOptions, MappingDestinationOptions, MappingOptions, TraceOptions,
};
use crate::config::import_options::{
    ExportKind, ExportOptions, ImportKind, ImportOptions, LatencyOptions, ResponseType,
    ServiceExportOptions,
};
use crate::config::jetstream_options::JetStreamAccountOptions;

/// A verified JWT of an account, and what follows from it.
#[derive(Debug)]
pub(crate) struct AccountJwt {
    pub text: Arc<str>,
    pub claims: Arc<AccountClaims>,
    /// False if users must be signed by a signing key.
    pub own_key_signs: bool,
    /// The rights of users whose JWTs say nothing about them; None = everything.
    pub default_permissions: Option<Arc<Permissions>>,
    /// Deleted: nobody may log in any more.
    pub is_deleted: bool,
    /// False if it imports something that it may not have, or that is not there.
    pub is_complete: bool,
}

impl AccountJwt {
    /// Returns None if `key` does not sign for users of the account; the scope of a key that has
    /// one.
    pub(crate) fn scope_of(&self, key: &str) -> Option<Option<&Scope>> {
        if let Some(scope) = self.claims.account.signing_keys.get(key) {
            return Some(scope.as_ref());
        }
        (self.own_key_signs && key == self.claims.common.subject).then_some(None)
    }

    /// Returns the same JWT; all of its imports are there, or not.
    pub(super) fn completed(&self, is_complete: bool) -> Self {
        Self {
            text: self.text.clone(),
            claims: self.claims.clone(),
            default_permissions: self.default_permissions.clone(),
            is_complete,
            ..*self
        }
    }

    /// Returns the JWT of an account that was deleted.
    pub(crate) fn deleted(&self) -> Self {
        Self { is_deleted: true, ..self.completed(self.is_complete) }
    }

    /// `now` is in seconds since 1970.
    pub(crate) fn is_expired(&self, now: i64) -> bool {
        let expires = self.claims.common.expires;
        self.is_deleted || (expires != 0 && expires <= now)
    }
}

/// Returns a limit as an option: -1 is none.
fn limit(number: i64) -> Option<usize> {
    // As in nats-server, which keeps 32 bits, a larger number is its largest.
    usize::try_from(number.min(i64::from(i32::MAX))).ok()
}

/// Returns what the claims say as options of a file would.
pub(crate) fn options_of(claims: &AccountClaims) -> AccountOptions {
    let body = &claims.account;
    let limits = AccountLimitOptions {
        connections_max: limit(body.limits.conn),
        subscriptions_max: limit(body.limits.subs),
        payload_bytes_max: limit(body.limits.payload),
        leafnodes_max: limit(body.limits.leaf),
    };
    let mappings = body.mappings.iter().map(|(source, destinations)| MappingOptions {
        source: source.clone(),
        destinations: destinations
            .iter()
            .map(|destination| MappingDestinationOptions {
                subject: destination.subject.clone(),
                weight: destination.percent(),
                cluster: Some(destination.cluster.clone()).filter(|name| !name.is_empty()),
            })
            .collect(),
        is_plain: false,
        place: Default::default(),
    });
    AccountOptions {
        name: claims.common.subject.clone(),
        default_permissions: body.default_permissions.to_options(),
        jetstream: jetstream_options(&body.limits),
        mappings: mappings.collect(),
        limits,
        exports: body.exports.iter().filter_map(export_options).collect(),
        imports: body.imports.iter().filter_map(import_options).collect(),
        trace: body.trace.as_ref().and_then(trace_options),
        ..AccountOptions::default()
    }
}

/// Returns None without a destination. A sampling of zero is all.
fn trace_options(trace: &Trace) -> Option<TraceOptions> {
    let destination = Some(trace.destination.clone()).filter(|subject| !subject.is_empty())?;
    let sampling = u8::try_from(trace.sampling).ok().filter(|percent| (1..=100).contains(percent));
    Some(TraceOptions { destination, sampling: sampling.unwrap_or(100) })
}

/// Returns None if the account may not use JetStream.
fn jetstream_options(limits: &AccountLimits) -> Option<JetStreamAccountOptions> {
    // Where limits depend on the number of replicas, those of one apply: there is no cluster.
    let limits = match limits.tiered_limits.is_empty() {
        true => &limits.jetstream,
        false => limits.tiered_limits.get("R1")?,
    };
    if limits.mem_storage == 0 && limits.disk_storage == 0 {
        return None;
    }
    let unlimited_if_zero = |number: i64| if number == 0 { -1 } else { number };
    Some(JetStreamAccountOptions {
        memory_bytes_max: limits.mem_storage,
        store_bytes_max: limits.disk_storage,
        streams_max: unlimited_if_zero(limits.streams),
        consumers_max: unlimited_if_zero(limits.consumer),
        ack_pending_max: unlimited_if_zero(limits.max_ack_pending),
        memory_stream_bytes_max: unlimited_if_zero(limits.mem_max_stream_bytes),
        store_stream_bytes_max: unlimited_if_zero(limits.disk_max_stream_bytes),
        needs_bytes_max: limits.max_bytes_required,
    })
}

fn export_options(export: &Export) -> Option<ExportOptions> {
    let kind = match export.kind? {
        ExportType::Stream => ExportKind::Stream,
        ExportType::Service => ExportKind::Service(ServiceExportOptions {
            response_type: match &*export.response_type {
                "Stream" => ResponseType::Streamed,
                "Chunked" => ResponseType::Chunked,
                _ => ResponseType::Singleton,
            },
            response_threshold: u64::try_from(export.response_threshold)
                .ok()
                .filter(|threshold| *threshold > 0)
                .map(Duration::from_nanos),
            latency: export.service_latency.as_ref().map(|latency| LatencyOptions {
                subject: latency.results.clone(),
                sampling: u8::try_from(latency.sampling).unwrap_or(0),
            }),
            allow_trace: export.allow_trace,
        }),
    };
    Some(ExportOptions {
        subject: export.subject.clone(),
        kind,
        accounts: Vec::new(),
        activation_required: export.token_req,
        revocations: export.revocations.clone(),
        account_token_position: export.account_token_position,
    })
}

fn import_options(import: &Import) -> Option<ImportOptions> {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let kind = match import.kind? {
        // The older `to` of a stream is a prefix.
        ExportType::Stream => ImportKind::Stream {
            prefix: text(&import.to).filter(|_| import.local_subject.is_empty()),
            to: text(&import.local_subject),
            allow_trace: import.allow_trace,
        },
        ExportType::Service => ImportKind::Service {
            to: match (&*import.local_subject, &*import.to) {
                ("", "") => None,
                // The older `to` of a service is the remote subject.
                ("", _) => text(&import.subject),
                (local, _) => text(local),
            },
            share: import.share,
        },
    };
    Some(ImportOptions {
        account: import.account.clone(),
        subject: import.remote().to_owned(),
        activation: Some(&*import.token).filter(|token| !token.is_empty()).map(Arc::from),
        kind,
    })
}
