//! Placeholder functions for the account in which a subject is configured, such as
//! `{{account-hash()}}`.
//!
//! They are whole tokens without arguments, and are replaced by literal text once, when the subject
//! is configured. Source: nats-server server/subject_transform.go expandSubjectPlaceholders.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::transform::{TransformError, function_body, is_named};

/// Number of characters of a hash. Source: nats-server sysHashLen.
const HASH_SIZE: usize = 8;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The blanks that may surround a function's name and its parentheses.
const BLANKS: [char; 5] = [' ', '\t', '\n', '\x0c', '\r'];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Function {
    /// The account the subject is configured in.
    Own,
    /// Of an import.
    Exporting,
    LeafRemote,
}

/// Returns `subject`, configured in the account `account_name`, with its account functions
/// replaced.
///
/// # Errors
/// If a function has arguments, or stands for an account that mappings do not have.
pub(super) fn expand<'a>(
    subject: &'a str,
    account_name: &str,
) -> Result<Cow<'a, str>, TransformError> {
    expand_all(subject, account_name, None)
}

/// The same for an import, which may name the exporting account too.
///
/// # Errors
/// As `expand`.
pub(super) fn expand_import<'a>(
    subject: &'a str,
    account_name: &str,
    exporter_name: &str,
) -> Result<Cow<'a, str>, TransformError> {
    expand_all(subject, account_name, Some(exporter_name))
}

fn expand_all<'a>(
    subject: &'a str,
    account_name: &str,
    exporter_name: Option<&str>,
) -> Result<Cow<'a, str>, TransformError> {
    if !subject.contains("{{") {
        return Ok(subject.into());
    }
    let mut tokens: Vec<Cow<'a, str>> = Vec::new();
    for token in subject.split('.') {
        let Some((function, arguments)) = parse(token) else {
            tokens.push(token.into());
            continue;
        };
        if arguments.contains(',') || !arguments.trim_matches(BLANKS).is_empty() {
            return Err(TransformError::TooManyArguments(token.to_owned()));
        }
        let name = match function {
            Function::Own => Some(account_name),
            Function::Exporting => exporter_name,
            Function::LeafRemote => None,
        };
        match name {
            Some(name) => tokens.push(hash(name).into()),
            None => return Err(TransformError::NotAvailable(token.to_owned())),
        }
    }
    Ok(tokens.join(".").into())
}

/// Returns the function and the text of its arguments; None if `token` is something else.
fn parse(token: &str) -> Option<(Function, &str)> {
    let (name, rest) = function_body(token)?.trim_matches(BLANKS).split_once('(')?;
    let arguments = rest.strip_suffix(')')?;
    let name = name.trim_end_matches(BLANKS);
    let function = match () {
        () if is_named(name, "account-Hash") => Function::Own,
        () if is_named(name, "account-Hash-Import") => Function::Exporting,
        () if is_named(name, "account-Hash-Leaf-Remote") => Function::LeafRemote,
        () => return None,
    };
    Some((function, arguments))
}

/// Returns the short name that nats-server derives from an account's name.
fn hash(name: &str) -> String {
    let digest = Sha256::digest(name);
    let bytes = digest.iter().take(HASH_SIZE);
    bytes.map(|byte| char::from(DIGITS[usize::from(*byte) % DIGITS.len()])).collect()
}
