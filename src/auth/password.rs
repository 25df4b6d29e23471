//! Stored secrets, and their comparison with what a client gave.
//!
//! A plain secret is compared here, in a time that depends only on the length of what the client
//! gave. A bcrypt hash is slow on purpose: `PasswordJob` takes it to the offload thread.

use std::sync::{Arc, Weak};

use crate::base::constant_time;
use crate::base::limits::BCRYPT_BYTES_MAX;
use crate::config::auth_options::Secret;

/// Returns true if a stored secret is a bcrypt hash: `$2`, one of `abxy`, `$`, two digits, `$`.
pub(crate) fn is_bcrypt(stored: &str) -> bool {
    matches!(
        stored.as_bytes(),
        [b'$', b'2', b'a' | b'b' | b'x' | b'y', b'$', tens, ones, b'$', ..]
            if tens.is_ascii_digit() && ones.is_ascii_digit()
    )
}

/// Returns the cost of a hash that `is_bcrypt` accepts: two digits.
pub(super) fn cost_of(hash: &str) -> &str {
    &hash[4..6]
}

/// Returns true if two plain secrets are equal. The time taken depends on the length of `given`
/// alone.
pub(crate) fn secrets_equal(stored: &str, given: &str) -> bool {
    constant_time::equal(stored.as_bytes(), given.as_bytes())
}

/// One bcrypt comparison, to be run on a thread that may be slow.
#[derive(Clone, Debug)]
pub struct PasswordJob {
    hash: Secret,
    given: Secret,
    /// The other end is held by whoever waits for the outcome; None = somebody always does.
    waiter: Option<Weak<()>>,
}

/// The result of a `PasswordJob`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordOutcome {
    pub matches: bool,
}

impl PasswordJob {
    pub fn new(hash: Secret, given: &str) -> Self {
        Self { hash, given: Secret::new(significant_part(given)), waiter: None }
    }

    /// Makes the job wanted only as long as `waiter` exists.
    pub fn for_waiter(mut self, waiter: &Arc<()>) -> Self {
        self.waiter = Some(Arc::downgrade(waiter));
        self
    }

    /// Returns true while somebody waits for the outcome.
    pub fn is_wanted(&self) -> bool {
        self.waiter.as_ref().is_none_or(|waiter| waiter.strong_count() > 0)
    }

    /// Runs the comparison: milliseconds to seconds of CPU time. A malformed hash matches nothing.
    pub fn run(&self) -> PasswordOutcome {
        let matches = bcrypt::verify(self.given.expose(), self.hash.expose()).unwrap_or(false);
        PasswordOutcome { matches }
    }
}

/// Returns the part of a password that bcrypt looks at, up to the end of its last character. Jobs of
/// many logins may wait, each for as long as its client stays.
fn significant_part(given: &str) -> &str {
    let mut end = given.len().min(BCRYPT_BYTES_MAX);
    while !given.is_char_boundary(end) {
        end += 1;
    }
    &given[..end]
}

/// Returns a hash of the same cost as `hash` that belongs to nobody, so that refusing a name that
/// does not exist takes as long as refusing one that does. None if `hash` cannot be verified
/// anyway.
pub(crate) fn decoy_of(hash: &str) -> Option<Secret> {
    let cost = is_bcrypt(hash).then(|| &hash[4..6])?;
    // The salt and digest are arbitrary, but well formed: a malformed hash would be refused at
    // once.
    let decoy = format!("$2b${cost}$MidgeDecoySaltWithoutuMidgeDecoyDigestWithoutOwner...");
    decoy.parse::<bcrypt::HashParts>().ok().map(|_| Secret::new(decoy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_of_a_password_is_kept_than_bcrypt_looks_at() {
        let hash = bcrypt::hash("x".repeat(BCRYPT_BYTES_MAX), 4).unwrap();
        let check = |given: &str| {
            let job = PasswordJob::new(Secret::new(hash.as_str()), given);
            (job.run().matches, job.given.expose().len())
        };
        assert_eq!(check(&"x".repeat(4_000)), (true, BCRYPT_BYTES_MAX));
        assert_eq!(check(&"x".repeat(BCRYPT_BYTES_MAX - 1)), (false, BCRYPT_BYTES_MAX - 1));
        let odd = "x".repeat(BCRYPT_BYTES_MAX - 1) + "\u{20ac}\u{20ac}";
        assert_eq!(check(&odd), (false, BCRYPT_BYTES_MAX + 2));
    }

    #[test]
    fn bcrypt_hashes_are_told_from_plain_secrets() {
        for hash in ["$2a$11$x", "$2b$04$", "$2x$99$", "$2y$10$abc"] {
            assert!(is_bcrypt(hash), "{hash}");
        }
        for plain in ["", "$", "$2a$", "$2a$1$xx", "$2c$11$x", "$2a$1a$x", "x$2a$11$", "$2a$11"] {
            assert!(!is_bcrypt(plain), "{plain}");
        }
    }

    #[test]
    fn plain_secrets_are_equal_only_if_every_byte_is() {
        for (stored, given, expected) in [
            ("", "", true),
            ("a", "", false),
            ("", "a", false),
            ("", "\0", false),
            ("abc", "abc", true),
            ("abc", "abd", false),
            ("abc", "ab", false),
            ("ab", "abab", false),
            ("abab", "ab", false),
            ("a", "aa", false),
        ] {
            assert_eq!(secrets_equal(stored, given), expected, "{stored:?} {given:?}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let job = PasswordJob::new(Secret::new("$2a$04$hash"), "given-secret");
        let shown = format!("{:?} {job:?}", Secret::new("stored-secret"));
        assert!(!shown.contains("secret") && !shown.contains("hash$"), "{shown}");
        assert!(!shown.contains("$2a"), "{shown}");
    }

    #[test]
    fn a_job_finds_the_right_password_and_no_other() {
        let hash = bcrypt::hash("right", 4).expect("cost 4 is allowed");
        let outcome = |hash: &str, given| PasswordJob::new(Secret::new(hash), given).run().matches;
        assert!(outcome(&hash, "right"));
        assert!(!outcome(&hash, "wrong"));
        assert!(!outcome(&hash, ""));
        // The hash is not its own password.
        assert!(!outcome(&hash, &hash));
        // Prefixes that other programs write.
        for letter in ["2a", "2x", "2y"] {
            assert!(outcome(&hash.replacen("2b", letter, 1), "right"));
        }
        for broken in ["$2a$04$", "$2a$99$", "$2a$04$short", &hash[..59], &format!("{hash}x")] {
            assert!(!outcome(broken, "right"), "{broken}");
            assert!(!outcome(broken, ""), "{broken}");
        }
    }

    #[test]
    fn a_job_is_wanted_as_long_as_somebody_waits() {
        let waiter = Arc::new(());
        let job = PasswordJob::new(Secret::new("$2a$04$x"), "given").for_waiter(&waiter);
        assert!(job.is_wanted());
        drop(waiter);
        assert!(!job.is_wanted());
    }

    #[test]
    fn a_decoy_costs_the_same_and_matches_nothing() {
        let hash = bcrypt::hash("right", 5).expect("cost 5 is allowed");
        let decoy = decoy_of(&hash).expect("the hash is good");
        let parts: bcrypt::HashParts = decoy.expose().parse().expect("the decoy is well formed");
        assert_eq!(parts.get_cost(), 5);
        for given in ["", "right", decoy.expose()] {
            assert!(!PasswordJob::new(decoy.clone(), given).run().matches);
        }
        assert_eq!(decoy_of("plain"), None);
    }
}
