//! Names of streams and consumers, and subjects that belong to JetStream.

use crate::base::limits::ASSET_NAME_BYTES_MAX;
use crate::protocol::subject;

/// True if a stream or consumer may have this name. Its length is checked elsewhere, by
/// [`is_too_long`].
pub(crate) fn is_valid(name: &str) -> bool {
    let is_bad = |character| {
        matches!(character, ' ' | '\t' | '\r' | '\n' | '\x0c' | '.' | '*' | '>' | '\\' | '/')
    };
    !name.is_empty() && !name.contains(is_bad)
}

pub(crate) fn is_too_long(name: &str) -> bool {
    name.len() > ASSET_NAME_BYTES_MAX
}

/// True if a name looks like a path.
pub(crate) fn has_separators(name: &str) -> bool {
    name.contains(['\\', '/'])
}

/// True if the server itself listens on the subject and acts: nothing may be delivered there.
pub(crate) fn is_reserved_destination(destination: &str) -> bool {
    let is_longer =
        |prefix: &str| destination.starts_with(prefix) && destination.len() > prefix.len();
    if destination.starts_with("_R_.") || is_longer("_GR_.") || is_longer("$GR.") {
        return true;
    }
    let Some(rest) = destination.strip_prefix("$JS.") else { return false };
    let mut tokens = rest.split('.');
    let first = tokens.next().unwrap_or("");
    matches!(first, "API" | "ACK" | "FC" | "SNAPSHOT" | "EVENT") || tokens.next() == Some("API")
}

/// True if any of `subjects` matches a subject that one of `others` matches too.
pub(crate) fn subjects_overlap(subjects: &[String], others: &[String]) -> bool {
    subjects.iter().any(|own| others.iter().any(|other| overlap(own, other)))
}

/// True if some subject is matched by both.
pub(crate) fn overlap(left: &str, right: &str) -> bool {
    subject::overlap(left.as_bytes(), right.as_bytes())
}

/// True if all that `filter` matches is matched by `wider` too.
pub(crate) fn is_subset(filter: &str, wider: &str) -> bool {
    subject::is_subset(filter.as_bytes(), wider.as_bytes())
}

/// True if a subject can be subscribed to.
pub(crate) fn is_valid_subject(text: &str) -> bool {
    subject::is_valid_filter(text.as_bytes())
}
