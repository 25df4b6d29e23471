//! Hashes of filters, made so that a subject gives the hash of every filter that can match it.
//!
//! A filter's hash is the sum of one hash per token, each mixed with the token's position; `*` and
//! a final `>` have constants in place of a token's hash. So from the sums over a subject's tokens,
//! the hash of the filter that has `*` at given positions is a few additions away.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::SeedableRandomState;

use super::shape::Shape;

/// Stand for `*` and a final `>` where a literal token has its hash.
const STAR: u64 = 0xa076_1d64_78bd_642f;
const TAIL: u64 = 0xe703_7ed1_a0b4_28db;

pub(super) struct FilterHasher {
    state: SeedableRandomState,
    /// All ones but in tests that want collisions.
    pub hash_mask: u32,
}

impl FilterHasher {
    pub(super) fn new(state: SeedableRandomState) -> FilterHasher {
        FilterHasher { state, hash_mask: !0 }
    }

    /// The hash and the shape of a filter.
    pub(super) fn filter(&self, filter: &[u8]) -> (u32, Shape) {
        let mut sum = 0_u64;
        let mut shape = Shape::default();
        let mut rest = Some(filter);
        while let Some(text) = rest {
            let (token, after) = split_token(text);
            rest = after;
            let position = shape.token_count;
            let hash = match token {
                b">" if rest.is_none() => {
                    shape.has_tail = true;
                    place(TAIL, position as usize)
                }
                b"*" => {
                    shape.stars.push(position);
                    place(STAR, position as usize)
                }
                _ => self.token(token, position as usize),
            };
            sum = sum.wrapping_add(hash);
            shape.token_count += u32::from(!shape.has_tail);
        }
        (self.finish(sum), shape)
    }

    /// Fills in the sums over the first 0, 1, 2... tokens of a published subject, all of them
    /// literal. False if one is empty.
    #[inline]
    pub(super) fn sums(&self, literal: &[u8], sums: &mut Vec<u64>) -> bool {
        sums.clear();
        sums.push(0);
        let mut sum = 0_u64;
        let mut rest = Some(literal);
        while let Some(text) = rest {
            let (token, after) = split_token(text);
            rest = after;
            if token.is_empty() {
                return false;
            }
            sum = sum.wrapping_add(self.token(token, sums.len() - 1));
            sums.push(sum);
        }
        true
    }

    /// The hash of the filter without wildcards that matches the subject with these sums.
    #[inline]
    pub(super) fn literal(&self, sums: &[u64]) -> u32 {
        self.finish(sums[sums.len() - 1])
    }

    /// The hash of the filter of this shape that matches the subject with these sums.
    /// `wildcards_sum` is what the shape's wildcards add to any hash.
    #[inline]
    pub(super) fn shaped(&self, shape: &Shape, wildcards_sum: u64, sums: &[u64]) -> u32 {
        let mut sum = sums[shape.token_count as usize].wrapping_add(wildcards_sum);
        for &star in shape.stars.iter() {
            let token = sums[star as usize + 1].wrapping_sub(sums[star as usize]);
            sum = sum.wrapping_sub(token);
        }
        self.finish(sum)
    }

    #[inline]
    fn token(&self, token: &[u8], position: usize) -> u64 {
        let mut hasher = self.state.build_hasher();
        hasher.write(token);
        place(hasher.finish(), position)
    }

    #[inline]
    fn finish(&self, sum: u64) -> u32 {
        (sum >> 32) as u32 & self.hash_mask
    }
}

/// The part that the wildcards of a shape add to the hash of each filter that has it.
pub(super) fn wildcards_sum(shape: &Shape) -> u64 {
    let stars = shape.stars.iter().map(|&star| place(STAR, star as usize));
    let tail = shape.has_tail.then(|| place(TAIL, shape.token_count as usize));
    stars.chain(tail).fold(0, u64::wrapping_add)
}

/// Mixes a token's hash with its position: tokens that change places change the sum.
#[inline]
fn place(hash: u64, position: usize) -> u64 {
    let odd = (position as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x8ebc_6af0_9c88_c6e3;
    let product = u128::from(hash) * u128::from(odd | 1);
    product as u64 ^ (product >> 64) as u64
}

/// The first token and what follows its dot.
#[inline]
pub(super) fn split_token(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    // Tokens are short: a plain loop beats a call.
    match text.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&text[..dot], Some(&text[dot + 1..])),
        None => (text, None),
    }
}
