//! A set of subject patterns, compiled to a token trie, that answers three questions without
//! allocating: whether some pattern matches a literal subject, whether some pattern covers a whole
//! filter, and whether some pattern may overlap a filter.
//!
//! A walk meets each trie node at most once, because a node stands for one path of tokens. Its cost
//! is thus bounded by the patterns that an operator wrote, not by what a peer sends.

use crate::base::limits::OVERLAP_NODES_MAX;
use crate::protocol::subject;

/// Patterns such as `foo`, `foo.*`, `foo.>`.
#[derive(Clone, Debug)]
pub(crate) struct SubjectSet {
    /// The root is node 0.
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// Sorted by token.
    literals: Vec<(Box<[u8]>, usize)>,
    /// The node after a `*`.
    star: Option<usize>,
    /// True if a pattern ends here.
    ends: bool,
    /// True if a pattern continues with `>` here.
    tail: bool,
}

impl Default for SubjectSet {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

impl SubjectSet {
    pub(crate) fn is_empty(&self) -> bool {
        let root = &self.nodes[0];
        root.literals.is_empty() && root.star.is_none() && !root.tail
    }

    /// Adds a pattern that `subject::is_valid_filter` accepts.
    pub(crate) fn insert(&mut self, pattern: &[u8]) {
        debug_assert!(subject::is_valid_filter(pattern));
        let mut node_index = 0;
        for token in subject::tokens(pattern) {
            if token == b">" {
                self.nodes[node_index].tail = true;
                return;
            }
            node_index = self.child_or_insert(node_index, token);
        }
        self.nodes[node_index].ends = true;
    }

    fn child_or_insert(&mut self, parent_index: usize, token: &[u8]) -> usize {
        let fresh_index = self.nodes.len();
        let parent = &mut self.nodes[parent_index];
        if token == b"*" {
            if let Some(found) = parent.star {
                return found;
            }
            parent.star = Some(fresh_index);
        } else {
            match parent.literals.binary_search_by(|(known, _)| known.as_ref().cmp(token)) {
                Ok(position) => return parent.literals[position].1,
                Err(position) => parent.literals.insert(position, (token.into(), fresh_index)),
            }
        }
        self.nodes.push(Node::default());
        fresh_index
    }

    /// Returns true if some pattern matches the literal `subject`. A subject with an empty token
    /// matches nothing; the tokens `*` and `>` of a literal subject are tokens like any other.
    pub(crate) fn matches(&self, subject: &[u8]) -> bool {
        !has_empty_token(subject) && self.walk::<false>(0, subject)
    }

    /// Returns true if a single pattern matches everything that `filter` can match.
    pub(crate) fn covers(&self, filter: &[u8]) -> bool {
        !has_empty_token(filter) && self.walk::<true>(0, filter)
    }

    /// Returns false only if no pattern matches any subject that `filter` matches. Beyond
    /// `OVERLAP_NODES_MAX` nodes it stops looking and returns true.
    pub(crate) fn may_overlap(&self, filter: &[u8]) -> bool {
        let mut nodes_left = OVERLAP_NODES_MAX;
        self.walk_overlap(0, Some(filter), &mut nodes_left)
    }

    fn walk_overlap(&self, node_index: usize, rest: Option<&[u8]>, nodes_left: &mut usize) -> bool {
        if *nodes_left == 0 {
            return true;
        }
        *nodes_left -= 1;
        let node = &self.nodes[node_index];
        let Some(rest) = rest else { return node.ends };
        if node.tail {
            return true;
        }
        let (token, after) = match memchr::memchr(b'.', rest) {
            Some(dot) => (&rest[..dot], Some(&rest[dot + 1..])),
            None => (rest, None),
        };
        let mut goes_on = |next_index: usize| self.walk_overlap(next_index, after, nodes_left);
        match token {
            b">" => !node.literals.is_empty() || node.star.is_some(),
            b"*" => {
                node.literals.iter().any(|(_, next)| goes_on(*next))
                    || node.star.is_some_and(goes_on)
            }
            _ => {
                let found = node.literals.binary_search_by(|(known, _)| known.as_ref().cmp(token));
                found.is_ok_and(|position| goes_on(node.literals[position].1))
                    || node.star.is_some_and(goes_on)
            }
        }
    }

    /// With `FILTER`, wildcards in `rest` have the meaning they have in a subscription, so that
    /// only a wildcard at least as wide covers them.
    fn walk<const FILTER: bool>(&self, node_index: usize, rest: &[u8]) -> bool {
        let node = &self.nodes[node_index];
        if node.tail {
            return true;
        }
        let (token, after) = match memchr::memchr(b'.', rest) {
            Some(dot) => (&rest[..dot], Some(&rest[dot + 1..])),
            None => (rest, None),
        };
        if FILTER && token == b">" {
            return false;
        }
        let goes_on = |next_index: usize| match after {
            Some(after) => self.walk::<FILTER>(next_index, after),
            None => self.nodes[next_index].ends,
        };
        if !(FILTER && token == b"*")
            && let Ok(position) =
                node.literals.binary_search_by(|(known, _)| known.as_ref().cmp(token))
            && goes_on(node.literals[position].1)
        {
            return true;
        }
        node.star.is_some_and(goes_on)
    }
}

/// Returns true if a subject has an empty token: such a subject is accepted on the wire but matches
/// nothing.
pub(crate) fn has_empty_token(subject: &[u8]) -> bool {
    // Where the current token begins. The end of the subject ends a token too.
    let mut token_start = 0;
    for dot in memchr::memchr_iter(b'.', subject) {
        if dot == token_start {
            return true;
        }
        token_start = dot + 1;
    }
    token_start == subject.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(patterns: &[&str]) -> SubjectSet {
        let mut set = SubjectSet::default();
        for pattern in patterns {
            set.insert(pattern.as_bytes());
        }
        set
    }

    #[test]
    fn empty_set_matches_and_covers_nothing() {
        let empty = SubjectSet::default();
        assert!(empty.is_empty());
        assert!(!empty.matches(b"foo"));
        assert!(!empty.covers(b">"));
        assert!(!set(&[">"]).is_empty());
        assert!(!set(&["*"]).is_empty());
        assert!(!set(&["foo"]).is_empty());
    }

    #[test]
    fn literal_subjects_with_wildcard_tokens_are_matched_as_tokens() {
        assert!(set(&["foo.*"]).matches(b"foo.*"));
        assert!(set(&["foo.*"]).matches(b"foo.>"));
        assert!(!set(&["foo.bar"]).matches(b"foo.*"));
    }

    #[test]
    fn a_wider_filter_is_not_covered_by_a_narrower_pattern() {
        assert!(!set(&["foo.*"]).covers(b"foo.>"), "foo.> also matches foo.a.b");
        assert!(!set(&["foo.bar"]).covers(b"foo.*"));
        assert!(set(&["foo.>"]).covers(b"foo.*"));
        assert!(set(&["foo.>"]).covers(b"foo.>"));
        assert!(!set(&["foo.>"]).covers(b"foo"));
    }

    #[test]
    fn empty_tokens_match_nothing() {
        for odd in ["", ".", "foo.", ".foo", "foo..bar"] {
            assert!(has_empty_token(odd.as_bytes()), "{odd}");
            assert!(!set(&[">", "*", "foo.*"]).matches(odd.as_bytes()), "{odd}");
            assert!(!set(&[">", "*", "foo.*"]).covers(odd.as_bytes()), "{odd}");
        }
        assert!(!has_empty_token(b"foo.bar"));
    }

    #[test]
    fn overlap_is_assumed_once_too_many_nodes_were_looked_at() {
        let patterns = |count: usize| {
            let mut set = SubjectSet::default();
            (0..count).for_each(|number| set.insert(format!("s{number}.a").as_bytes()));
            set
        };
        // The root, and a node for each pattern's first token.
        assert!(!patterns(OVERLAP_NODES_MAX - 1).may_overlap(b"*.b"));
        assert!(patterns(OVERLAP_NODES_MAX).may_overlap(b"*.b"));
    }

    fn token() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "ab", "*"])
    }

    fn filter() -> impl Strategy<Value = String> {
        (prop::collection::vec(token(), 1..4), any::<bool>()).prop_map(|(mut tokens, tail)| {
            if tail {
                tokens.push(">");
            }
            tokens.join(".")
        })
    }

    proptest! {
        #[test]
        fn trie_agrees_with_a_list_of_patterns(
            patterns in prop::collection::vec(filter(), 0..8),
            asked in filter(),
        ) {
            let mut set = SubjectSet::default();
            for pattern in &patterns {
                set.insert(pattern.as_bytes());
            }
            let asked = asked.as_bytes();
            let matched = patterns.iter().any(|p| subject::matches(p.as_bytes(), asked));
            prop_assert_eq!(set.matches(asked), matched);
            let covered = patterns.iter().any(|p| subject::is_subset(asked, p.as_bytes()));
            prop_assert_eq!(set.covers(asked), covered);
            let overlapped = patterns.iter().any(|p| subject::overlap(asked, p.as_bytes()));
            prop_assert_eq!(set.may_overlap(asked), overlapped);
        }
    }
}
