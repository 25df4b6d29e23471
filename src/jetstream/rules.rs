//! The rewriting of subjects that a stream's configuration asks for.

use super::names::is_reserved_destination;
use super::stream_checks::compile_transform;
use super::stream_config::StreamConfig;
use crate::auth::transform::Transform;
use crate::protocol::subject::{is_sendable, matches, tokens};

/// Subjects of a filter become others.
#[derive(Debug)]
pub(super) struct Rewriting {
    source: Box<[u8]>,
    transform: Transform,
}

impl Rewriting {
    /// None = nothing is rewritten. Checks have found that what is there can be compiled.
    fn new(source: &str, destination: &str) -> Option<Self> {
        let transform = compile_transform(source, destination).ok().flatten()?;
        let source = if source.is_empty() { ">" } else { source };
        Some(Self { source: source.as_bytes().into(), transform })
    }

    /// The subject in place of this one; None if it is not of the source.
    pub(super) fn apply(&self, subject: &[u8], random: &mut fastrand::Rng) -> Option<Vec<u8>> {
        if !matches(&self.source, subject) {
            return None;
        }
        let tokens: Vec<&[u8]> = tokens(subject).collect();
        let mut rewritten = Vec::new();
        self.transform.apply(subject, &tokens, random, &mut rewritten);
        Some(rewritten)
    }
}

/// The rules of a stream.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Applied to the subject of a message before anything else.
    pub transform: Option<Rewriting>,
    republish: Option<Rewriting>,
    pub republishes_headers_only: bool,
}

impl Rules {
    pub(super) fn new(config: &StreamConfig) -> Self {
        let transform = config.subject_transform.as_ref();
        let transform = transform.and_then(|one| Rewriting::new(&one.source, &one.destination));
        let republish = config.republish.as_ref();
        Self {
            transform,
            republishes_headers_only: republish.is_some_and(|one| one.headers_only),
            republish: republish.and_then(|one| Rewriting::new(&one.source, &one.destination)),
        }
    }

    /// The subject under which a stored message is published anew; None if it is not.
    pub(super) fn republished(
        &self,
        subject: &[u8],
        random: &mut fastrand::Rng,
    ) -> Option<Vec<u8>> {
        let rewritten = self.republish.as_ref()?.apply(subject, random)?;
        let text = std::str::from_utf8(&rewritten).ok()?;
        (is_sendable(&rewritten) && !is_reserved_destination(text)).then_some(rewritten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jetstream::stream_config::{Republish, SubjectTransform};

    #[test]
    fn subjects_of_the_source_are_rewritten_and_reserved_ones_not_published() {
        let transform = SubjectTransform {
            source: "t.*".into(),
            destination: "tt.{{wildcard(1)}}.{{partition(3,1)}}".into(),
        };
        let mut config = StreamConfig { subject_transform: Some(transform), ..Default::default() };
        let republish = |destination: &str| {
            Some(Republish {
                source: ">".into(),
                destination: destination.into(),
                headers_only: true,
            })
        };
        config.republish = republish("r.>");
        let mut random = fastrand::Rng::with_seed(1);
        let rules = Rules::new(&config);
        let transform = rules.transform.as_ref().expect("there is one");
        assert_eq!(transform.apply(b"t.foo", &mut random).as_deref(), Some(&b"tt.foo.0"[..]));
        assert_eq!(transform.apply(b"u.foo", &mut random), None);
        assert_eq!(rules.republished(b"a.b", &mut random).as_deref(), Some(&b"r.a.b"[..]));
        assert!(rules.republishes_headers_only);
        config.republish = republish("$JS.API.>");
        assert_eq!(Rules::new(&config).republished(b"a", &mut random), None);
    }
}
