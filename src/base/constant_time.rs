//! Constant-time comparison of secrets, so that timing does not tell how much of a guess was right.

use std::hint::black_box;

/// Returns true if both are the same. The time taken depends on the length of `given` alone.
pub(crate) fn equal(stored: &[u8], given: &[u8]) -> bool {
    let mut difference = u8::from(stored.len() != given.len());
    for (index, byte) in given.iter().enumerate() {
        // An empty secret takes the same loop, against zeros.
        let expected = match stored.len() {
            0 => 0,
            length => stored[index % length],
        };
        difference = black_box(difference | (byte ^ expected));
    }
    black_box(difference) == 0
}
