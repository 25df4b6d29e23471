//! Recovery's verdict on one place of a journal: a table of all cases, each with one answer.
//!
//! One write is in flight at a time, so only the last frame can be torn. Everything before a frame
//! that was written later was durable, and perhaps acknowledged: it is never cut away. A last frame
//! that rotted cannot be told from a torn one, and is cut.

/// The facts that recovery finds where it expects a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The disk gave the bytes of the header and, if the header is whole, those of the body.
    pub is_readable: bool,
    /// The header's checksum fits.
    pub has_header: bool,
    /// Its number is the next one and it names the header before it.
    pub is_next: bool,
    /// The body's checksum fits.
    pub has_body: bool,
    /// Something that is written only once this place's frame is durable is there: a later frame or
    /// a later file.
    pub was_durable: bool,
}

/// The verdict on one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The frame is whole: its records count.
    Take,
    /// The journal ends here, and new frames go here. At most an unacknowledged write was on its
    /// way.
    Cut,
    /// Durable data is lost here. Nothing is overwritten, and reading goes on behind it.
    Damaged,
}

/// A case: facts that must hold, must not, or do not matter.
struct Case {
    name: &'static str,
    is_readable: Option<bool>,
    has_header: Option<bool>,
    is_next: Option<bool>,
    has_body: Option<bool>,
    was_durable: Option<bool>,
    verdict: Verdict,
}

const ANY: Option<bool> = None;
const YES: Option<bool> = Some(true);
const NO: Option<bool> = Some(false);

const fn case(name: &'static str, facts: [Option<bool>; 5], verdict: Verdict) -> Case {
    let [is_readable, has_header, is_next, has_body, was_durable] = facts;
    Case { name, is_readable, has_header, is_next, has_body, was_durable, verdict }
}

/// Readable, header, next, body, durable.
const CASES: [Case; 7] = [
    case("frame", [YES, YES, YES, YES, ANY], Verdict::Take),
    // The header's sector was written, and others of the frame were not.
    case("torn body", [YES, YES, YES, NO, NO], Verdict::Cut),
    case("damaged body", [YES, YES, YES, NO, YES], Verdict::Damaged),
    // Never written, of an earlier use of the file, or torn at its first sector.
    case("end", [YES, NO, ANY, ANY, NO], Verdict::Cut),
    case("damaged header", [YES, NO, ANY, ANY, YES], Verdict::Damaged),
    // A frame with a wrong number or after another history: the frames between went elsewhere.
    case("out of order", [YES, YES, NO, ANY, ANY], Verdict::Damaged),
    // A torn write leaves sectors readable. Bytes that cannot be read may have been acknowledged.
    case("unreadable", [NO, ANY, ANY, ANY, ANY], Verdict::Damaged),
];

impl Case {
    fn matches(&self, facts: Facts) -> bool {
        let holds = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
        holds(self.is_readable, facts.is_readable)
            && holds(self.has_header, facts.has_header)
            && holds(self.is_next, facts.is_next)
            && holds(self.has_body, facts.has_body)
            && holds(self.was_durable, facts.was_durable)
    }
}

/// The verdict, and the name of the case for the log.
pub(crate) fn judge(facts: Facts) -> (Verdict, &'static str) {
    let case = CASES.iter().find(|case| case.matches(facts)).expect("the table is total");
    (case.verdict, case.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_combination_is_one_case() {
        let mut used = [0; CASES.len()];
        for bits in 0..32 {
            let fact = |bit: u32| bits & (1 << bit) != 0;
            let facts = Facts {
                is_readable: fact(0),
                has_header: fact(1),
                is_next: fact(2),
                has_body: fact(3),
                was_durable: fact(4),
            };
            let matching: Vec<usize> =
                (0..CASES.len()).filter(|index| CASES[*index].matches(facts)).collect();
            assert_eq!(matching.len(), 1, "{facts:?} is {matching:?}");
            used[matching[0]] += 1;
            let (verdict, _) = judge(facts);
            assert!(
                verdict != Verdict::Cut || !facts.was_durable,
                "durable data is cut: {facts:?}"
            );
            assert!(verdict != Verdict::Take || (facts.has_header && facts.has_body));
        }
        assert!(used.iter().all(|count| *count > 0), "{used:?}");
    }
}
