//! Subjects: tokens split on `.`, wildcards `*` (one token) and `>` (one or more trailing tokens).
//!
//! Subjects are byte strings, compared bytewise. A published subject is always literal, even if it
//! contains `*` or `>`; only a subscription's filter has wildcards, and only where `*` or `>`
//! stands alone in a token. Source: nats-server server/sublist.go (IsValidSubject, matchLiteral,
//! subjectIsSubsetMatch).

/// The tokens of a subject, empty ones included.
pub(crate) fn tokens(subject: &[u8]) -> impl Iterator<Item = &[u8]> {
    subject.split(|&byte| byte == b'.')
}

/// The number of tokens of a subject; an empty subject has one empty token.
pub(crate) fn token_count(subject: &[u8]) -> usize {
    1 + memchr::memchr_iter(b'.', subject).count()
}

/// True if `filter` may be subscribed to: no empty token, nothing after `>`, no blank or line byte.
pub(crate) fn is_valid_filter(filter: &[u8]) -> bool {
    let mut after_tail = false;
    for token in tokens(filter) {
        if token.is_empty() || after_tail {
            return false;
        }
        if token == b">" {
            after_tail = true;
        } else if token.iter().any(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0c)) {
            return false;
        }
    }
    true
}

/// True if a filter has a token `*` or `>`.
pub(crate) fn has_wildcard(filter: &[u8]) -> bool {
    memchr::memchr2(b'*', b'>', filter).is_some()
        && tokens(filter).any(|token| token == b"*" || token == b">")
}

/// The pedantic test of a published subject: no empty token and no token that is a wildcard.
pub(crate) fn is_valid_literal(subject: &[u8]) -> bool {
    tokens(subject).all(|token| !token.is_empty() && token != b"*" && token != b">")
}

/// A text of ours may stand in a line of the protocol: it is not empty, and no blank or line end in
/// it ends the subject early. The parser sees to the same in what peers send.
pub(crate) fn is_sendable(subject: &[u8]) -> bool {
    !subject.is_empty() && !subject.iter().any(|byte| byte.is_ascii_whitespace() || *byte == 0)
}

/// True if the literal `subject` is matched by `filter`. Both are taken as valid; an empty token of
/// the subject matches nothing but is never produced by a valid filter's literal tokens.
pub fn matches(filter: &[u8], subject: &[u8]) -> bool {
    let mut subject_tokens = tokens(subject);
    for token in tokens(filter) {
        if token == b">" {
            // At least one token must remain, and none of them may be empty.
            let mut remaining = 0;
            for rest in subject_tokens {
                if rest.is_empty() {
                    return false;
                }
                remaining += 1;
            }
            return remaining > 0;
        }
        match subject_tokens.next() {
            Some(found) if !found.is_empty() && (token == b"*" || token == found) => {}
            _ => return false,
        }
    }
    subject_tokens.next().is_none()
}

/// True if everything `filter` can match is matched by `wider` too.
pub(crate) fn is_subset(filter: &[u8], wider: &[u8]) -> bool {
    let mut filter_tokens = tokens(filter);
    for token in tokens(wider) {
        if token == b">" {
            return filter_tokens.next().is_some();
        }
        match filter_tokens.next() {
            Some(b">") | None => return false,
            Some(b"*") if token != b"*" => return false,
            Some(found) if token == b"*" || token == found => {}
            Some(_) => return false,
        }
    }
    filter_tokens.next().is_none()
}

/// True if some literal subject is matched by both filters.
pub(crate) fn overlap(left: &[u8], right: &[u8]) -> bool {
    let mut left_tokens = tokens(left);
    let mut right_tokens = tokens(right);
    loop {
        match (left_tokens.next(), right_tokens.next()) {
            (None, None) => return true,
            (Some(b">"), Some(_)) | (Some(_), Some(b">")) => return true,
            (Some(a), Some(b)) if a == b || a == b"*" || b == b"*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_subject_early_may_not_be_sent() {
        assert!(is_sendable(b"$SYS.ACCOUNT.A.CONNECT"));
        assert!(is_sendable("$SYS.ACCOUNT.\u{e9}*.CONNECT".as_bytes()));
        for bad in ["", "A B", "A\tB", "A\r\nMSG evil 1 2\r\nhi", "A\nB", "A\rB", "A\0B", "A\x0cB"]
        {
            assert!(!is_sendable(bad.as_bytes()), "{bad:?}");
        }
    }

    #[test]
    fn filters_are_valid_or_refused() {
        for good in
            ["foo", "foo.bar", "*", ">", "foo.*", "foo.>", "*.*.>", "foo*", "*a", "a>b", "$SYS.x"]
        {
            assert!(is_valid_filter(good.as_bytes()), "{good}");
        }
        for bad in ["", ".", "foo.", ".foo", "foo..bar", "foo.>.bar", ">.a", ">.>"] {
            assert!(!is_valid_filter(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn filters_match_as_documented() {
        for (filter, subject, expected) in [
            ("foo", "foo", true),
            ("foo.*", "foo.bar", true),
            ("foo.*", "foo.bar.baz", false),
            ("foo.>", "foo", false),
            ("foo.>", "foo.bar", true),
            (">", "a.b.c", true),
            ("*", "a", true),
            ("*", "a.b", false),
            ("foo.*", "foo.*", true),
            ("foo.*", "foo.", false),
            ("foo.>", "foo.", false),
            (">", "foo..bar", false),
        ] {
            assert_eq!(
                matches(filter.as_bytes(), subject.as_bytes()),
                expected,
                "{filter} {subject}"
            );
        }
    }

    #[test]
    fn subset_and_overlap_agree_with_the_words() {
        for (filter, wider, expected) in [
            ("foo.*", "foo.>", true),
            (">", "foo.>", false),
            ("foo.>", "foo.>", true),
            ("foo.bar", "foo.*", true),
            ("foo.*", "foo.bar", false),
            ("foo.>", "foo.*", false),
            ("foo", "foo.>", false),
        ] {
            assert_eq!(
                is_subset(filter.as_bytes(), wider.as_bytes()),
                expected,
                "{filter} {wider}"
            );
        }
        assert!(overlap(b"foo.*", b"*.bar"));
        assert!(overlap(b"foo.>", b"*.bar.baz"));
        assert!(!overlap(b"foo.*", b"bar.*"));
        assert!(!overlap(b"foo", b"foo.>"));
    }
}
