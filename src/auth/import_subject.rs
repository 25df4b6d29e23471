//! The subject of an import in the exporting account (remote) and in the importing account (local).
//!
//! Both may have wildcards, in a different order on either side. Each `*` of the remote subject stands for one or more
//! of the local one, so that every matching subject can be translated in both directions. Source of the behaviour:
//! nats-server server/accounts.go addMappedStreamImportWithClaim, addServiceImport, and server/client.go
//! addShadowSubscriptions.

use smallvec::SmallVec;

use super::transform::{ReversibleToken, TransformError, reversible};
use crate::protocol::subject;

/// Tokens of a subject.
type Tokens<'a> = SmallVec<[&'a [u8]; 32]>;

/// A remote subject and the local one that stands for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportSubject {
    /// The filter in the exporting account.
    remote: Box<[u8]>,
    /// The filter in the importing account.
    local: Box<[u8]>,
    /// None = a subject is the same on both sides.
    ways: Option<Ways>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ways {
    to_local: Way,
    to_remote: Way,
}

/// The translation of subjects from one side to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way {
    pieces: Vec<Piece>,
    /// Tokens of the subject before the `>` of its filter; what follows is appended. None = no `>`.
    tail_from: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Box<[u8]>),
    /// The token of the subject at this position.
    Copy(usize),
}

impl Way {
    fn apply(&self, subject: &[u8], out: &mut Vec<u8>) {
        out.clear();
        let tokens: Tokens<'_> = subject::tokens(subject).collect();
        for (index, piece) in self.pieces.iter().enumerate() {
            if index > 0 {
                out.push(b'.');
            }
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text),
                Piece::Copy(position) => out.extend_from_slice(tokens[*position]),
            }
        }
        if let Some(from) = self.tail_from {
            for (index, token) in tokens[from..].iter().enumerate() {
                if index > 0 || !self.pieces.is_empty() {
                    out.push(b'.');
                }
                out.extend_from_slice(token);
            }
        }
    }
}

impl ImportSubject {
    /// Builds the subject of a stream import. `local` refers to the stars of `remote` by `$1` or `*`.
    ///
    /// # Errors
    /// The two subjects do not fit each other.
    pub(super) fn stream(remote: &str, local: &str) -> Result<Self, TransformError> {
        if remote == local {
            return Ok(Self::same(remote));
        }
        if !subject::has_wildcard(remote.as_bytes()) {
            // Messages are delivered under this subject.
            let is_literal = subject::is_valid_filter(local.as_bytes())
                && !subject::has_wildcard(local.as_bytes());
            return if is_literal {
                Self::mapped(remote, local)
            } else {
                Err(TransformError::BadSubject)
            };
        }
        Self::mapped(remote, &numbered(local))
    }

    /// Builds the subject of a service import, as for a stream; if `remote` is literal, `local` may have any wildcards.
    ///
    /// # Errors
    /// The two subjects do not fit each other.
    pub(super) fn service(remote: &str, local: &str) -> Result<Self, TransformError> {
        if remote == local {
            return Ok(Self::same(remote));
        }
        if subject::has_wildcard(remote.as_bytes()) {
            return Self::mapped(remote, &numbered(local));
        }
        let (remote_bytes, local) = (remote.as_bytes(), local.as_bytes());
        let all = Way { pieces: vec![Piece::Literal(remote_bytes.into())], tail_from: None };
        // Only answers go the other way, under subjects of their own.
        let ways = Some(Ways { to_local: all.clone(), to_remote: all });
        Ok(Self { remote: remote_bytes.into(), local: local.into(), ways })
    }

    fn same(subject: &str) -> Self {
        Self { remote: subject.as_bytes().into(), local: subject.as_bytes().into(), ways: None }
    }

    fn mapped(remote: &str, local: &str) -> Result<Self, TransformError> {
        let tokens = reversible(remote, local)?;
        let (mut filter, mut to_local) = (Vec::new(), Vec::new());
        // Where each token of the remote subject comes from.
        let mut sources: Vec<Option<usize>> = vec![None; subject::token_count(remote.as_bytes())];
        let (mut local_tail, mut remote_tail) = (None, None);
        for (index, token) in tokens.iter().enumerate() {
            match token {
                ReversibleToken::Literal(">") => {
                    filter.push(">");
                    local_tail = Some(index);
                }
                ReversibleToken::Literal(text) => {
                    filter.push(text);
                    to_local.push(Piece::Literal(text.as_bytes().into()));
                }
                ReversibleToken::Copy(position) => {
                    filter.push("*");
                    to_local.push(Piece::Copy(*position));
                    sources[*position].get_or_insert(index);
                }
            }
        }
        let mut to_remote = Vec::new();
        for (index, token) in remote.split('.').enumerate() {
            match (token, sources[index]) {
                (">", _) => remote_tail = Some(index),
                (_, Some(source)) => to_remote.push(Piece::Copy(source)),
                (literal, None) => to_remote.push(Piece::Literal(literal.as_bytes().into())),
            }
        }
        let ways = Ways {
            to_local: Way { pieces: to_local, tail_from: remote_tail },
            to_remote: Way { pieces: to_remote, tail_from: local_tail },
        };
        let local = filter.join(".");
        Ok(Self {
            remote: remote.as_bytes().into(),
            local: local.as_bytes().into(),
            ways: Some(ways),
        })
    }

    /// The filter in the exporting account.
    pub fn remote(&self) -> &[u8] {
        &self.remote
    }

    /// The filter in the importing account.
    pub fn local(&self) -> &[u8] {
        &self.local
    }

    /// True if a subject is the same on both sides.
    #[inline]
    pub fn is_same(&self) -> bool {
        self.ways.is_none()
    }

    /// Sets `out` to the local subject for a remote one, which the remote filter must match.
    pub fn to_local(&self, remote: &[u8], out: &mut Vec<u8>) {
        match &self.ways {
            Some(ways) => ways.to_local.apply(remote, out),
            None => copy(remote, out),
        }
    }

    /// Sets `out` to the remote subject for a local one, which the local filter must match.
    pub fn to_remote(&self, local: &[u8], out: &mut Vec<u8>) {
        match &self.ways {
            Some(ways) => ways.to_remote.apply(local, out),
            None => copy(local, out),
        }
    }

    /// Returns the remote filter for the local subjects that both `filter` and this import match; None if there are none.
    pub fn narrow(&self, filter: &[u8]) -> Option<Vec<u8>> {
        let shared = intersection(filter, &self.local)?;
        let Some(ways) = &self.ways else { return Some(shared) };
        // A star that is copied to several places of the local subject has one value.
        let tokens: Tokens<'_> = subject::tokens(&shared).collect();
        let mut values: SmallVec<[(usize, &[u8]); 8]> = SmallVec::new();
        for (piece, token) in ways.to_local.pieces.iter().zip(&tokens) {
            let Piece::Copy(position) = piece else { continue };
            match values.iter_mut().find(|value| value.0 == *position) {
                None => values.push((*position, token)),
                Some(value) if value.1 == b"*" => value.1 = token,
                Some(value) if *token == b"*" || value.1 == *token => {}
                Some(_) => return None,
            }
        }
        let mut narrowed: Tokens<'_> = SmallVec::new();
        for (index, token) in subject::tokens(&self.remote).enumerate() {
            if token == b">" {
                break;
            }
            let value = values.iter().find(|value| value.0 == index);
            narrowed.push(value.map_or(token, |value| value.1));
        }
        if let Some(from) = ways.to_remote.tail_from {
            narrowed.extend_from_slice(&tokens[from..]);
        }
        Some(narrowed.join(&b'.'))
    }
}

fn copy(subject: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(subject);
}

/// Returns the filter that matches what both filters match; None if nothing can.
fn intersection(left: &[u8], right: &[u8]) -> Option<Vec<u8>> {
    let (mut left, mut right) = (subject::tokens(left), subject::tokens(right));
    let mut shared: Tokens<'_> = SmallVec::new();
    loop {
        match (left.next(), right.next()) {
            (None, None) => break,
            (Some(b">"), Some(token)) => {
                shared.push(token);
                shared.extend(right);
                break;
            }
            (Some(token), Some(b">")) => {
                shared.push(token);
                shared.extend(left);
                break;
            }
            (Some(token), Some(other)) if token == other || other == b"*" => shared.push(token),
            (Some(b"*"), Some(token)) => shared.push(token),
            _ => return None,
        }
    }
    Some(shared.join(&b'.'))
}

/// Replaces the stars of a local subject by placeholders, from `$1` on.
fn numbered(local: &str) -> String {
    let mut star_count = 0;
    let tokens: Vec<String> = local
        .split('.')
        .map(|token| match token {
            "*" => {
                star_count += 1;
                format!("${star_count}")
            }
            _ => token.to_owned(),
        })
        .collect();
    tokens.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(remote: &str, local: &str) -> ImportSubject {
        ImportSubject::stream(remote, local).expect("they fit")
    }

    #[test]
    fn a_subject_goes_over_and_comes_back() {
        for (remote, local, there, here) in [
            ("st.>", "imp.st.>", "st.a.b", "imp.st.a.b"),
            ("a.*.*", "l.$2.x.$1", "a.1.2", "l.2.x.1"),
            ("a.*.*", "l.*.*", "a.1.2", "l.1.2"),
            ("a.*.>", "{{wildcard(1)}}.>", "a.1.2.3", "1.2.3"),
            ("x", "y", "x", "y"),
            ("a.*", "a.*", "a.b", "a.b"),
            (">", "p.>", "a", "p.a"),
        ] {
            let subject = stream(remote, local);
            let mut out = Vec::new();
            subject.to_local(there.as_bytes(), &mut out);
            assert_eq!(out, here.as_bytes(), "{remote} {local}");
            subject.to_remote(here.as_bytes(), &mut out);
            assert_eq!(out, there.as_bytes(), "{remote} {local}");
            assert!(subject::matches(subject.local(), here.as_bytes()));
        }
    }

    #[test]
    fn a_filter_is_narrowed_to_what_the_import_brings() {
        for (remote, local, filter, narrowed) in [
            ("st.>", "imp.st.>", "imp.st.*", Some("st.*")),
            ("st.>", "imp.st.>", ">", Some("st.>")),
            ("st.>", "imp.st.>", "imp.*.x", Some("st.x")),
            ("st.>", "imp.st.>", "imp.other.x", None),
            ("st.>", "imp.st.>", "imp.st", None),
            ("a.*.*", "l.$2.$1", "l.x.*", Some("a.*.x")),
            ("a.*", "l.$1.$1", "l.x.*", Some("a.x")),
            ("a.*", "l.$1.$1", "l.x.y", None),
            ("a.*", "l.$1.$1", "l.*.y", Some("a.y")),
            ("x", "y", "*", Some("x")),
            ("a.*.>", "$1.>", "k.>", Some("a.k.>")),
            ("a.*.>", "$1.>", "k.m.*", Some("a.k.m.*")),
            ("a.*", "a.*", ">", Some("a.*")),
        ] {
            let found = stream(remote, local).narrow(filter.as_bytes());
            let found = found.map(|filter| String::from_utf8(filter).expect("text"));
            assert_eq!(found.as_deref(), narrowed, "{remote} {local} {filter}");
        }
    }

    /// Against all subjects of few tokens, one by one.
    #[test]
    fn a_narrowed_filter_matches_exactly_what_comes_over_and_is_wanted() {
        let mut random = fastrand::Rng::with_seed(11);
        let words = ["a", "b", "c"];
        let mut subjects: Vec<String> = words.map(String::from).into();
        for _ in 0..3 {
            let longer: Vec<String> = subjects
                .iter()
                .flat_map(|subject| words.map(|word| format!("{subject}.{word}")))
                .collect();
            subjects.extend(longer);
        }
        subjects.sort();
        subjects.dedup();
        let filter = |random: &mut fastrand::Rng, stars: bool| {
            let mut tokens: Vec<String> = Vec::new();
            for _ in 0..random.usize(1..=3) {
                let star = stars && random.u32(..3) == 0;
                tokens.push(if star { "*".into() } else { words[random.usize(..3)].into() });
            }
            if random.u32(..4) == 0 {
                tokens.push(">".into());
            }
            tokens
        };
        let mut compared = 0;
        for _ in 0..3_000 {
            let remote = filter(&mut random, true);
            let stars = remote.iter().filter(|token| *token == "*").count();
            let has_tail = remote.last().is_some_and(|token| token == ">");
            let mut order: Vec<usize> = (1..=stars).collect();
            random.shuffle(&mut order);
            let mut local: Vec<String> = order.iter().map(|star| format!("${star}")).collect();
            for _ in 0..random.usize(..2) {
                local.insert(random.usize(..=local.len()), words[random.usize(..3)].into());
            }
            if local.is_empty() && !has_tail {
                local.push("a".into());
            }
            if has_tail {
                local.push(">".into());
            }
            let Ok(import) = ImportSubject::stream(&remote.join("."), &local.join(".")) else {
                continue;
            };
            let wanted = filter(&mut random, true).join(".");
            let narrowed = import.narrow(wanted.as_bytes());
            let mut here = Vec::new();
            for there in subjects.iter().map(String::as_bytes) {
                let comes = subject::matches(import.remote(), there);
                let is_wanted = comes && {
                    import.to_local(there, &mut here);
                    subject::matches(wanted.as_bytes(), &here)
                };
                let found =
                    narrowed.as_ref().is_some_and(|narrowed| subject::matches(narrowed, there));
                assert_eq!(found, is_wanted, "{remote:?} {local:?} {wanted} {there:?}");
                compared += usize::from(found);
            }
        }
        assert!(compared > 1_000);
    }

    #[test]
    fn a_service_with_a_literal_subject_may_have_any_wildcard_here() {
        let service = ImportSubject::service("w.b", "w.*").expect("they fit");
        let mut out = Vec::new();
        service.to_remote(b"w.x", &mut out);
        assert_eq!((&out[..], service.local()), (&b"w.b"[..], &b"w.*"[..]));
        assert_eq!(ImportSubject::stream("w.b", "w.*"), Err(TransformError::BadSubject));
    }

    #[test]
    fn what_cannot_be_undone_is_refused_in_nats_servers_words() {
        let text = |remote, local| match ImportSubject::stream(remote, local) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        let begins = "invalid mapping destination: ";
        assert_eq!(
            text("a.*.*", "x.$2"),
            format!("{begins}not using all of the token wildcard(s) in x.$2")
        );
        assert_eq!(
            text("a.*.*", "x.$3.$1"),
            format!("{begins}wildcard index out of range in $3: [3]")
        );
        assert_eq!(
            text("a.*", "x.{{partition(3,1)}}"),
            format!(
                "{begins}the only mapping function allowed for import transforms is {{{{Wildcard()}}}} in {{{{partition(3,1)}}}}"
            )
        );
        assert_eq!(text("a.>", "x"), "invalid subject");
    }
}
