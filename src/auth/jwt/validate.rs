//! Faults in the claims of one JWT by themselves.
//!
//! Displayed in the words of nats-server's tools; `github.com/nats-io/jwt/v2` is the source.

use super::cidr::Cidr;
use super::claims::{
    AccountClaims, ActivationClaims, CommonClaims, Export, ExportType, Import, Permissions,
    SubjectLists, UserClaims, UserRights,
};
use super::times;
use crate::auth::nkey::{KeyKind, is_public_curve_key, is_public_key};

/// The most issues that are told.
const ISSUES_MAX: usize = 32;

/// Everything that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Issues {
    errors: Vec<String>,
    /// What is wrong only now: it is expired, or not yet valid.
    of_time: Vec<String>,
}

impl Issues {
    fn add(&mut self, text: impl Into<String>) {
        if self.errors.len() < ISSUES_MAX {
            self.errors.push(text.into());
        }
    }

    /// Returns true if the claims cannot be used, now or ever.
    pub(crate) fn is_blocking(&self) -> bool {
        self.is_wrong() || !self.of_time.is_empty()
    }

    /// Returns true if they cannot be used at any time.
    pub(crate) fn is_wrong(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Returns all texts, separated by blanks, as Go prints a list.
    pub(crate) fn listed(&self) -> String {
        let all: Vec<&str> = self.all().map(String::as_str).collect();
        all.join(" ")
    }

    /// Returns all texts.
    pub(crate) fn all(&self) -> impl Iterator<Item = &String> {
        self.of_time.iter().chain(&self.errors)
    }
}

fn check_time(common: &CommonClaims, now: i64, issues: &mut Issues) {
    if common.expires > 0 && now > common.expires {
        issues.of_time.push("claim is expired".into());
    }
    if common.not_before > now {
        issues.of_time.push("claim is not yet valid".into());
    }
}

/// Checks a user's claims. `now` is in seconds since 1970.
pub(crate) fn user(claims: &UserClaims, now: i64) -> Issues {
    let mut issues = Issues::default();
    check_time(&claims.common, now, &mut issues);
    check_permissions(&claims.user.rights.permissions, &mut issues);
    check_user_limits(&claims.user.rights, &mut issues);
    check_issuer_account(&claims.user.issuer_account, &mut issues);
    issues
}

fn check_issuer_account(key: &str, issues: &mut Issues) {
    if !key.is_empty() && !is_public_key(key, KeyKind::Account) {
        issues.add("account_id is not an account public key");
    }
}

fn check_user_limits(rights: &UserRights, issues: &mut Issues) {
    for source in &rights.src {
        if Cidr::parse(source).is_none() {
            issues.add(format!("invalid cidr {source:?} in user src limits"));
        }
    }
    for range in &rights.times {
        for (name, text) in [("start", &range.start), ("end", &range.end)] {
            if text.is_empty() {
                issues.add(format!("time ranges {name} must contain a {name}"));
            } else if times::parse_time(text).is_none() {
                issues.add(format!("{name} in time range is invalid {text:?}"));
            }
        }
    }
    let zone = &rights.times_location;
    if !zone.is_empty() && !times::is_zone(zone) {
        issues.add(format!("could not parse iana time zone by name: unknown time zone {zone}"));
    }
}

fn check_permissions(permissions: &Permissions, issues: &mut Issues) {
    check_lists(&permissions.subscribe, true, issues);
    check_lists(&permissions.publish, false, issues);
}

fn check_lists(lists: &SubjectLists, may_have_queue: bool, issues: &mut Issues) {
    for entry in lists.allow.iter().chain(&lists.deny) {
        let parts: Vec<&str> = entry.split(' ').collect();
        match parts[..] {
            [subject] => check_subject(subject, issues),
            [subject, queue] => {
                check_subject(subject, issues);
                check_subject(queue, issues);
                if !may_have_queue {
                    issues.add(format!(
                        "Permission Subject \"{entry}\" is not allowed to contain queue"
                    ));
                }
            }
            _ => issues.add(format!("Permission Subject \"{entry}\" contains too many spaces")),
        }
    }
}

fn check_subject(subject: &str, issues: &mut Issues) {
    if subject.is_empty() {
        return issues.add("subject cannot be empty");
    }
    if subject.contains(' ') {
        issues.add(format!("subject {subject:?} cannot have spaces"));
    }
    if subject.starts_with('.') || subject.ends_with('.') {
        issues.add(format!("subject {subject:?} cannot start or end with a `.`"));
    }
    if subject.contains("..") {
        issues.add(format!("subject {subject:?} cannot contain consecutive `.`"));
    }
}

fn has_wildcards(subject: &str) -> bool {
    let mut tokens = subject.split('.').rev();
    subject == ">"
        || (subject.contains('.') && tokens.clone().next() == Some(">"))
        || tokens.any(|token| token == "*")
}

/// Token by token, as the tools compare.
fn is_contained_in(subject: &str, other: &str) -> bool {
    let tokens: Vec<&str> = subject.split('.').collect();
    let others: Vec<&str> = other.split('.').collect();
    if tokens.len() < others.len() || (tokens.len() > others.len() && others.last() != Some(&">")) {
        return false;
    }
    for (index, other) in others.iter().enumerate() {
        if index == others.len() - 1 && *other == ">" {
            return true;
        }
        if *other != tokens[index] && *other != "*" {
            return false;
        }
    }
    true
}

/// Checks an account's claims. `now` is in seconds since 1970.
pub(crate) fn account(claims: &AccountClaims, now: i64) -> Issues {
    let mut issues = Issues::default();
    check_time(&claims.common, now, &mut issues);
    let body = &claims.account;
    check_imports(&body.imports, &claims.common.subject, &mut issues);
    check_exports(&body.exports, &mut issues);
    check_permissions(&body.default_permissions, &mut issues);
    check_mappings(claims, &mut issues);
    check_authorization(claims, &mut issues);
    check_trace(claims, &mut issues);
    check_limits(claims, &mut issues);
    for (key, scope) in &body.signing_keys {
        if is_public_key(key, KeyKind::Account) {
            continue;
        }
        issues.add(match scope {
            Some(_) => format!("{key} is not an account public key"),
            None => format!("{key:?} is not a valid account signing key"),
        });
    }
    if !["", "system", "owner"].contains(&&*body.cluster_traffic) {
        issues.add(format!("unknown cluster traffic option: {:?}", body.cluster_traffic));
    }
    issues
}

fn check_limits(claims: &AccountClaims, issues: &mut Issues) {
    let body = &claims.account;
    let limits = &body.limits;
    if !limits.tiered_limits.is_empty() && limits.tiered_limits.contains_key("") {
        issues.add("Tiered JetStream Limits can not contain a blank \"\" tier name");
    }
    let exceeds =
        |count: usize, max: i64| max != -1 && i64::try_from(count).is_ok_and(|count| count > max);
    if exceeds(body.imports.len(), limits.imports) {
        issues.add("the account contains more imports than allowed by the operator");
    }
    if exceeds(body.exports.len(), limits.exports) {
        issues.add("the account contains more exports than allowed by the operator");
    }
    if limits.exports != -1
        && !limits.wildcards
        && body.exports.iter().any(|export| has_wildcards(&export.subject))
    {
        issues.add("the account contains wildcard exports that are not allowed by the operator");
    }
}

fn check_mappings(claims: &AccountClaims, issues: &mut Issues) {
    for (source, destinations) in &claims.account.mappings {
        check_subject(source, issues);
        let mut totals: std::collections::HashMap<&str, u32> = std::collections::HashMap::new();
        for destination in destinations {
            check_subject(&destination.subject, issues);
            let weight = u32::from(destination.percent());
            if weight > 100 {
                issues.add(format!("Mapping {source:?} has a weight {weight} that exceeds 100"));
            }
            *totals.entry(&destination.cluster).or_default() += weight;
        }
        if totals.values().any(|total| *total > 100) {
            issues.add(format!(
                "Mapping {source:?} exceeds 100% among all of it's weighted to mappings"
            ));
        }
    }
}

fn check_authorization(claims: &AccountClaims, issues: &mut Issues) {
    let authorization = &claims.account.authorization;
    let (users, accounts) = (&authorization.auth_users, &authorization.allowed_accounts);
    if !accounts.is_empty() && users.is_empty() {
        issues.add("External authorization cannot have accounts without users specified");
    }
    for user in users {
        if !is_public_key(user, KeyKind::User) {
            issues.add(format!("AuthUser {user:?} is not a valid user public key"));
        }
    }
    for account in accounts {
        if account == "*" {
            if accounts.len() > 1 {
                issues.add("AllowedAccounts can only be a list of accounts or \"*\"");
            }
        } else if !is_public_key(account, KeyKind::Account) {
            issues.add(format!("Account {account:?} is not a valid account public key"));
        }
    }
    let xkey = &authorization.xkey;
    if !xkey.is_empty() && !is_public_curve_key(xkey) {
        issues.add(format!("XKey {xkey:?} is not a valid public xkey"));
    }
}

fn check_trace(claims: &AccountClaims, issues: &mut Issues) {
    let Some(trace) = &claims.account.trace else { return };
    let mut of_subject = Issues::default();
    check_subject(&trace.destination, &mut of_subject);
    if let Some(issue) = of_subject.errors.first() {
        issues.add(format!("the account Trace.Destination {issue}"));
    }
    let subject = &trace.destination;
    if has_wildcards(subject) {
        issues.add(format!(
            "the account Trace.Destination subject {subject:?} is not a valid publish subject"
        ));
    }
    let sampling = trace.sampling;
    if !(0..=100).contains(&sampling) {
        issues.add(format!(
            "the account Trace.Sampling value '{sampling}' is not valid, should be in the range \
             [1..100]"
        ));
    }
}

fn check_exports(exports: &[Export], issues: &mut Issues) {
    for export in exports {
        check_export(export, issues);
    }
    for kind in [ExportType::Service, ExportType::Stream] {
        let is_service = kind == ExportType::Service;
        let same = |export: &&Export| (export.kind == Some(ExportType::Service)) == is_service;
        check_contained(kind, exports.iter().filter(same).map(|export| &*export.subject), issues);
    }
}

/// Looks for subjects that are contained in others. Literal ones are looked up: an account may have
/// many.
fn check_contained<'a>(
    kind: ExportType,
    subjects: impl Iterator<Item = &'a str>,
    issues: &mut Issues,
) {
    let mut literal = std::collections::HashSet::new();
    let (mut all, mut wild) = (Vec::new(), Vec::new());
    let kind = kind.text();
    let mut found = |outer: &str, inner: &str| {
        issues.add(format!("{kind} export subject {outer:?} already exports {inner:?}"));
    };
    for subject in subjects {
        let is_wild = subject.contains(['*', '>']);
        if is_wild {
            wild.push((all.len(), subject));
        } else if !literal.insert(subject) {
            found(subject, subject);
        }
        all.push(subject);
    }
    for (place, outer) in wild {
        let mut inner = all.iter().enumerate().filter(|(other, _)| *other != place);
        if let Some((_, inner)) = inner.find(|(_, inner)| is_contained_in(inner, outer)) {
            found(outer, inner);
        }
    }
}

fn check_export(export: &Export, issues: &mut Issues) {
    let is_service = export.kind == Some(ExportType::Service);
    let response = &*export.response_type;
    if export.kind.is_none() {
        issues.add("invalid export type: \"unknown\"");
    }
    if is_service && !["", "Singleton", "Stream", "Chunked"].contains(&response) {
        issues.add(format!("invalid response type for service: {response:?}"));
    }
    if export.kind == Some(ExportType::Stream) {
        if !response.is_empty() {
            issues.add(format!("invalid response type for stream: {response:?}"));
        }
        if export.allow_trace {
            issues.add("AllowTrace only valid for service export");
        }
    }
    if let Some(latency) = &export.service_latency {
        if !is_service {
            issues.add("latency tracking only permitted for services");
        }
        if !(0..=100).contains(&latency.sampling) {
            issues.add("sampling percentage needs to be between 1-100");
        }
        check_subject(&latency.results, issues);
        if has_wildcards(&latency.results) {
            issues.add("results subject can not contain wildcards");
        }
    }
    if export.response_threshold < 0 {
        issues.add("negative response threshold is invalid");
    }
    if export.response_threshold > 0 && !is_service {
        issues.add("response threshold only valid for services");
    }
    let subject = &export.subject;
    check_subject(subject, issues);
    let position = export.account_token_position as usize;
    if position > 0 {
        if !has_wildcards(subject) {
            issues.add(format!(
                "Account Token Position can only be used with wildcard subjects: {subject}"
            ));
        } else {
            match subject.split('.').nth(position - 1) {
                Some("*") => {}
                Some(token) => issues.add(format!(
                    "Account Token Position {position} matches '{token}' but must match a * in: \
                     {subject}"
                )),
                None => issues.add(format!(
                    "Account Token Position {position} exceeds length of subject '{subject}'"
                )),
            }
        }
    }
}

fn check_imports(imports: &[Import], account: &str, issues: &mut Issues) {
    let mut locals: std::collections::HashMap<&str, Vec<String>> = Default::default();
    for import in imports {
        if import.kind == Some(ExportType::Service) {
            let local = match (&*import.to, &*import.local_subject) {
                ("", "") => import.subject.clone(),
                ("", local) => stars_for_references(local),
                (to, _) => to.to_owned(),
            };
            let known = locals.entry(&import.account).or_default();
            for other in known.iter() {
                if is_contained_in(&local, other) || is_contained_in(other, &local) {
                    issues.add(format!(
                        "overlapping subject namespace for {local:?} and {other:?} in same account \
                         {:?}",
                        import.account
                    ));
                }
            }
            known.push(local);
        }
        check_import(import, account, issues);
    }
}

/// Returns the subject with `*` in place of each `$1`.
fn stars_for_references(subject: &str) -> String {
    let star = |token: &str| match token.strip_prefix('$') {
        Some(digits) if digits.parse::<i64>().is_ok() => "*".to_owned(),
        _ => token.to_owned(),
    };
    subject.split('.').map(star).collect::<Vec<String>>().join(".")
}

fn check_import(import: &Import, account: &str, issues: &mut Issues) {
    let (kind, subject) = (import.kind, &import.subject);
    if kind.is_none() {
        issues.add("invalid import type: \"unknown\"");
    }
    if kind == Some(ExportType::Service) && import.allow_trace {
        issues.add("AllowTrace only valid for stream import");
    }
    if import.account.is_empty() {
        issues.add("account to import from is not specified");
    }
    check_subject(subject, issues);
    if !import.local_subject.is_empty() {
        check_renaming(&import.local_subject, subject, issues);
        if !import.to.is_empty() {
            issues.add("Local Subject replaces To");
        }
    }
    if import.share && kind != Some(ExportType::Service) {
        issues.add(format!(
            "sharing information (for latency tracking) is only valid for services: {subject:?}"
        ));
    }
    if import.token.is_empty() {
        return;
    }
    match ActivationClaims::decode(&import.token) {
        Err(_) => {
            issues.add(format!("import {subject:?} contains an invalid activation token"));
        }
        Ok(activation) => check_activation(import, &activation, account, issues),
    }
}

fn check_activation(
    import: &Import,
    activation: &ActivationClaims,
    account: &str,
    issues: &mut Issues,
) {
    let subject = &import.subject;
    let is_issuer = |key: &String| *key == import.account;
    if !is_issuer(&activation.common.issuer) && !is_issuer(&activation.issuer_account) {
        issues.add(format!("activation token doesn't match account for import {subject:?}"));
    }
    if activation.common.subject != account {
        issues.add(format!(
            "activation token doesn't match account it is being included in, {subject:?}"
        ));
    }
    if activation.kind != import.kind {
        let text = |kind: Option<ExportType>| kind.map_or("unknown", ExportType::text);
        issues.add(format!(
            "mismatch between token import type {} and type of import {}",
            text(activation.kind),
            text(import.kind)
        ));
    }
    check_subject(&activation.subject, issues);
    check_issuer_account(&activation.issuer_account, issues);
    if !is_contained_in(import.remote(), &activation.subject) {
        issues.add(format!(
            "activation token import subject {:?} doesn't match import {subject:?}",
            activation.subject
        ));
    }
}

fn check_renaming(local: &str, subject: &str, issues: &mut Issues) {
    check_subject(local, issues);
    let is_open = |subject: &str| subject == ">" || subject.ends_with(".>");
    if is_open(local) != is_open(subject) {
        issues.add("both, renaming subject and subject, need to end or not end in >");
    }
    let stars = subject.split('.').filter(|token| *token == "*").count();
    let mut references = 0;
    for token in local.split('.') {
        if token == "*" {
            references += 1;
        } else if let Some(Ok(index)) = token.strip_prefix('$').map(str::parse::<usize>) {
            if index > stars {
                issues.add(format!(
                    "Reference ${index} in {local:?} reference * in {subject:?} that do not exist"
                ));
            } else {
                references += 1;
            }
        }
    }
    if references != stars {
        issues.add("subject does not contain enough * or reference wildcards $[0-9]");
    }
}

/// Checks an activation by itself, its time included. `now` is in seconds since 1970.
pub(crate) fn activation(claims: &ActivationClaims, now: i64) -> Issues {
    let mut issues = Issues::default();
    check_time(&claims.common, now, &mut issues);
    if claims.kind.is_none() {
        issues.add("invalid import type: \"unknown\"");
    }
    check_subject(&claims.subject, &mut issues);
    check_issuer_account(&claims.issuer_account, &mut issues);
    issues
}
